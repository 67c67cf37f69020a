//! Rulesets for `iptables-restore`: loaded, found there, removed.

use super::invoke::restore;
use super::{Error, Installed, Others, Snapshot, Spawn, Tool, families, read, refuse_group_names, verify};
use crate::diff::diff;
use crate::parse::save;
use crate::reconcile;
use crate::render::restore::lines;
use crate::ruleset::{Family, Owns, Ruleset};

/// What an apply came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The rules were loaded.
    Loaded,
    /// They were there already, in this order.
    AlreadyThere,
}

/// Loads `ruleset` where `spawn` starts its programs; the caller sets the deadline. Each table is one transaction.
///
/// A ruleset with chains of its own ([`Owns::NewChains`]) is loaded into clean tables alone: afterwards the kernel's
/// rules are read back into the returned [`Snapshot`], which [`verify`] compares with a later state, order included.
pub async fn apply(tool: &Tool, ruleset: &Ruleset, spawn: Spawn<'_>) -> Result<Snapshot, Error> {
    refuse_group_names(ruleset)?;
    let families = families(ruleset);
    if ruleset.owns() == Owns::NewChains {
        let present: Vec<String> = read(tool, &families, spawn)
            .await?
            .rules()
            .map(|rule| format!("+ {rule}"))
            .collect();
        if !present.is_empty() {
            return Err(Error::Different { difference: present });
        }
    }
    load(tool, ruleset, spawn).await?;
    read(tool, &families, spawn).await
}

/// Loads `ruleset` where the caller knows that its own tables are clean (a namespace that it has just made), or owns all
/// contents: one program for each family, and nothing is read back.
pub async fn load(tool: &Tool, ruleset: &Ruleset, spawn: Spawn<'_>) -> Result<(), Error> {
    refuse_group_names(ruleset)?;
    for family in families(ruleset) {
        restore(tool.restore(family), &lines(ruleset, family), spawn).await?;
    }
    Ok(())
}

/// Compares the kernel with what `ruleset`'s apply left there, and applies it where there is nothing at all.
pub async fn reapply(
    tool: &Tool,
    ruleset: &Ruleset,
    before: &Snapshot,
    spawn: Spawn<'_>,
) -> Result<Applied, Error> {
    let now = read(tool, &families(ruleset), spawn).await?;
    if now.rules().next().is_none() && before.rules().next().is_some() {
        apply(tool, ruleset, spawn).await?;
        return Ok(Applied::Loaded);
    }
    verify(before, &now).map(|()| Applied::AlreadyThere)
}

/// Loads `ruleset` beside the rules of others, or finds it there. Rules are compared in order; those of others are neither
/// looked at nor touched.
pub async fn install(
    tool: &Tool,
    ruleset: &Ruleset,
    others: Others,
    spawn: Spawn<'_>,
) -> Result<Installed, Error> {
    refuse_group_names(ruleset)?;
    let own = own_part(tool, ruleset, spawn).await?;
    let difference = diff(ruleset, &own);
    if difference.is_empty() {
        return Ok(Installed::AlreadyThere);
    }
    let is_clean = [Family::V4, Family::V6]
        .iter()
        .all(|&family| own.is_empty(family));
    if !is_clean && others == Others::Refuse {
        let difference = difference.iter().map(ToString::to_string).collect();
        return Err(Error::Different { difference });
    }
    for family in [Family::V4, Family::V6] {
        if !(own.is_empty(family) && ruleset.is_empty(family)) {
            let lines = reconcile::replacement(&own, ruleset, family);
            restore(tool.restore(family), &lines, spawn).await?;
        }
    }
    Ok(if is_clean {
        Installed::Loaded
    } else {
        Installed::Replaced
    })
}

/// Removes what [`install`] put there, and nothing else; gives what it removed.
pub async fn remove(tool: &Tool, ruleset: &Ruleset, spawn: Spawn<'_>) -> Result<Ruleset, Error> {
    let own = own_part(tool, ruleset, spawn).await?;
    let nothing = Ruleset::new(Owns::NewChains);
    for family in families(&own) {
        let lines = reconcile::replacement(&own, &nothing, family);
        restore(tool.restore(family), &lines, spawn).await?;
    }
    Ok(own)
}

/// The interception rules that are there: `ruleset`'s, or others with Istio's names.
pub async fn own_part(tool: &Tool, ruleset: &Ruleset, spawn: Spawn<'_>) -> Result<Ruleset, Error> {
    let mut live = Ruleset::new(Owns::NewChains);
    for family in [Family::V4, Family::V6] {
        let text = read(tool, &[family], spawn).await?.text();
        let parsed = save::parse(&text, family).map_err(|mistakes| Error::Unread {
            program: tool.save(family).to_owned(),
            mistakes: mistakes.iter().map(ToString::to_string).collect(),
        })?;
        live.extend(parsed.ruleset);
    }
    Ok(reconcile::own_part(&live, ruleset))
}
