//! The kernel's rules, read back and compared.

use super::invoke::printed;
use super::{Error, Spawn, Tool};
use crate::ruleset::Family;

/// The kernel's rules in save form, order kept, without counters and comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(pub(super) Vec<String>);

impl Snapshot {
    /// As text, one line each.
    pub fn text(&self) -> String {
        self.0.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The lines that are rules.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .map(String::as_str)
            .filter(|line| line.starts_with("-A "))
    }

    /// Whether no rule is there.
    pub fn has_no_rule(&self) -> bool {
        let is_rule = |line: &String| line.starts_with("-A ") || line.starts_with("add rule ");
        !self.0.iter().any(is_rule)
    }
}

/// Fails with the difference unless both are the same, order included.
pub fn verify(want: &Snapshot, have: &Snapshot) -> Result<(), Error> {
    if want == have {
        return Ok(());
    }
    let start = want
        .0
        .iter()
        .zip(&have.0)
        .take_while(|(want, have)| want == have)
        .count();
    let (want, have) = (&want.0[start..], &have.0[start..]);
    let same_end = want
        .iter()
        .rev()
        .zip(have.iter().rev())
        .take_while(|(want, have)| want == have)
        .count();
    let lacks = want[..want.len() - same_end]
        .iter()
        .map(|line| format!("- {line}"));
    let has = have[..have.len() - same_end]
        .iter()
        .map(|line| format!("+ {line}"));
    Err(Error::Different {
        difference: lacks.chain(has).collect(),
    })
}

/// Reads the kernel's rules.
pub async fn read(tool: &Tool, families: &[Family], spawn: Spawn<'_>) -> Result<Snapshot, Error> {
    let mut kept = Vec::new();
    for &family in families {
        let text = printed(tool.save(family), &[], spawn).await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // `:PREROUTING ACCEPT [12:720]`: the counters move by themselves.
        kept.extend(lines.map(|line| line.split_once(" [").map_or(line, |(chain, _)| chain).to_owned()));
    }
    Ok(Snapshot(kept))
}
