//! Rulesets for `nft`: loaded, found there, removed.

use std::ffi::OsStr;
use std::path::Path;

use super::invoke::{feed, printed, refused_by_nft};
use super::{Error, Installed, Others, Snapshot, Spawn, refuse_group_names, verify};
use crate::render::{Line, nft};
use crate::ruleset::Ruleset;

/// Loads `ruleset` by `nft` as Istio does: its tables are emptied first, so a second time changes nothing.
pub async fn load_nft(nft: &Path, ruleset: &Ruleset, spawn: Spawn<'_>) -> Result<(), Error> {
    refuse_group_names(ruleset)?;
    feed_nft(nft, &nft::lines(ruleset), spawn).await
}

/// Loads `ruleset` by `nft`, or finds it there. What is loaded is compared as `nft` lists it, so the wanted rules are loaded
/// first where `scratch` starts its programs: a namespace without rules.
pub async fn install_nft(
    nft: &Path,
    ruleset: &Ruleset,
    others: Others,
    spawn: Spawn<'_>,
    scratch: Spawn<'_>,
) -> Result<Installed, Error> {
    let difference = difference_nft(nft, ruleset, spawn, scratch).await?;
    if difference.is_empty() {
        return Ok(Installed::AlreadyThere);
    }
    let is_clean = list_nft(nft, spawn).await? == Snapshot(Vec::new());
    if !is_clean && others == Others::Refuse {
        return Err(Error::Different { difference });
    }
    replace_nft(nft, ruleset, spawn).await?;
    Ok(if is_clean {
        Installed::Loaded
    } else {
        Installed::Replaced
    })
}

/// What the tables of Istio's layout have otherwise than `ruleset`, line by line.
pub async fn difference_nft(
    nft: &Path,
    ruleset: &Ruleset,
    spawn: Spawn<'_>,
    scratch: Spawn<'_>,
) -> Result<Vec<String>, Error> {
    refuse_group_names(ruleset)?;
    replace_nft(nft, ruleset, scratch).await?;
    let (want, have) = (list_nft(nft, scratch).await?, list_nft(nft, spawn).await?);
    match verify(&want, &have) {
        Ok(()) => Ok(Vec::new()),
        Err(Error::Different { difference }) => Ok(difference),
        Err(other) => Err(other),
    }
}

/// Deletes the tables of Istio's layout; gives the rules that were there.
pub async fn remove_nft(nft: &Path, spawn: Spawn<'_>) -> Result<Snapshot, Error> {
    let there = list_nft(nft, spawn).await?;
    feed_nft(nft, &without_tables(), spawn).await?;
    Ok(there)
}

/// Loads `ruleset` by `nft` in place of whatever the tables of Istio's layout hold, in one transaction.
pub async fn replace_nft(nft: &Path, ruleset: &Ruleset, spawn: Spawn<'_>) -> Result<(), Error> {
    refuse_group_names(ruleset)?;
    let mut lines = without_tables();
    lines.extend(nft::lines(ruleset));
    feed_nft(nft, &lines, spawn).await
}

/// A table that is not there cannot be deleted, so it is made first.
fn without_tables<'a>() -> Vec<Line<'a>> {
    nft::table_names()
        .flat_map(|name| {
            [
                format!("add table inet {name}"),
                format!("delete table inet {name}"),
            ]
        })
        .map(Line::bare)
        .collect()
}

/// The tables of Istio's layout, each line with its chain.
async fn list_nft(nft: &Path, spawn: Spawn<'_>) -> Result<Snapshot, Error> {
    let arguments = ["--stateless", "--numeric", "list", "ruleset", "inet"].map(OsStr::new);
    let text = printed(nft, &arguments, spawn).await?;
    let (mut lines, mut table, mut chain) = (Vec::new(), None, String::new());
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", "inet", name, "{"] => table = nft::table_names().find(|own| own == name),
            ["chain", name, "{"] => (*name).clone_into(&mut chain),
            ["}"] | [] => {}
            words => {
                if let Some(table) = &table {
                    lines.push(format!("{table} {chain} {}", words.join(" ")));
                }
            }
        }
    }
    Ok(Snapshot(lines))
}

async fn feed_nft(nft: &Path, lines: &[Line<'_>], spawn: Spawn<'_>) -> Result<(), Error> {
    let arguments = [OsStr::new("-f"), OsStr::new("-")];
    feed(nft, &arguments, lines, spawn, refused_by_nft).await
}
