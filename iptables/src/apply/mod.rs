//! Loading a ruleset into the kernel and reading it back: the one module with I/O.

mod error;
mod invoke;
mod tool;

mod iptables;
mod nft;
mod snapshot;

pub mod text;

pub use error::Error;
pub use invoke::Spawn;
pub use iptables::{Applied, apply, install, load, own_part, reapply, remove};
pub use nft::{difference_nft, install_nft, load_nft, remove_nft, replace_nft};
pub use snapshot::{Snapshot, read, verify};
pub use tool::{Tool, ToolError, find_nft};

use crate::options::Group;
use crate::render::restore::rule_text;
use crate::rule::{Is, Match};
use crate::ruleset::{Family, Ruleset};

/// What [`install`] and [`install_nft`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    /// The rules were there already, in this order.
    AlreadyThere,
    /// There were none, and now there are.
    Loaded,
    /// Others were there, and were replaced.
    Replaced,
}

/// What to do about other interception rules that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Refuse, with the difference.
    Refuse,
    /// Replace them.
    Replace,
}

/// The families for which a ruleset has rules.
pub fn families(ruleset: &Ruleset) -> Vec<Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|&family| !ruleset.is_empty(family))
        .collect()
}

fn refuse_group_names(ruleset: &Ruleset) -> Result<(), Error> {
    for each in [Family::V4, Family::V6]
        .iter()
        .flat_map(|&family| ruleset.recorded(family))
    {
        for condition in &each.rule.matches {
            if let Match::OwnerGid(Is::Exactly(Group::Name(group)) | Is::Not(Group::Name(group))) = condition
            {
                let (rule, option) = (rule_text(&each.rule), each.rule.option);
                return Err(Error::GroupName {
                    group: group.clone(),
                    rule,
                    option,
                });
            }
        }
    }
    Ok(())
}
