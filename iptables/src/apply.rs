//! Installing a ruleset: the one module with I/O.
//!
//! The tool runs where the caller's `spawn` forks it, so that this crate needs to know nothing of namespaces.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use crate::options::Group;
use crate::render::restore::{line, render, render_replacing};
use crate::rule::{Is, Match};
use crate::ruleset::{Rules, Ruleset};

/// Where programs of the system are, beyond PATH: `sudo` and containers often leave these out.
const SYSTEM_DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// Starts a program with all three streams piped, wherever rules are to be installed.
pub type Spawn<'a> = dyn Fn(&Path, &[&str]) -> io::Result<Child> + 'a;

/// The tools of the `nf_tables` variant of iptables on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    restore_v4: PathBuf,
    restore_v6: Option<PathBuf>,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No iptables at all.
    #[error(
        "no iptables-restore on this machine (looked in PATH, {}): install it, on Debian and Ubuntu by \
         `apt-get install iptables`",
        SYSTEM_DIRS.join(", ")
    )]
    Missing,
    /// Only the legacy variant, whose rules cannot be traced in a namespace.
    #[error(
        "{} is the legacy variant, whose rules the kernel does not trace in a network namespace: install the nf_tables \
         variant, on Debian and Ubuntu by `apt-get install iptables`, or choose it by \
         `update-alternatives --set iptables /usr/sbin/iptables-nft`",
        path.display()
    )]
    Legacy {
        /// Which.
        path: PathBuf,
    },
    /// IPv6 rules without the tool for them.
    #[error("no ip6tables-restore on this machine: install it, or leave enableIPv6 false")]
    MissingV6,
    /// The tool did not start, or its pipes broke.
    #[error("running {}", path.display())]
    Run {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tool refused.
    #[error("{tool} refused the rules ({status}): {said}{}", place(rule.as_ref()))]
    Refused {
        /// Which.
        tool: String,
        /// How it ended.
        status: ExitStatus,
        /// Its words.
        said: String,
        /// The rule that it named by its line, and the option that asked for it.
        rule: Option<(String, &'static str)>,
    },
    /// A group that is not on this machine.
    #[error("group `{name}` is not in /etc/group of this machine: write its number")]
    NoGroup {
        /// Its name.
        name: String,
    },
}

fn place(rule: Option<&(String, &'static str)>) -> String {
    rule.map(|(rule, option)| format!("\n  rule:   {rule}\n  option: {option}"))
        .unwrap_or_default()
}

impl Tool {
    /// Finds the tools. It runs none: the variant is told by the program that the name leads to.
    pub fn find() -> Result<Self, Error> {
        if let Some(restore_v4) = look_up("iptables-nft-restore") {
            return Ok(Self {
                restore_v4,
                restore_v6: look_up("ip6tables-nft-restore"),
            });
        }
        let path = look_up("iptables-restore").ok_or(Error::Missing)?;
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        if real
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains("legacy"))
        {
            return Err(Error::Legacy { path });
        }
        Ok(Self {
            restore_v4: path,
            restore_v6: look_up("ip6tables-restore"),
        })
    }
}

fn look_up(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Installs a pod's ruleset, IPv4 and, if it has any, IPv6.
pub async fn apply(tool: &Tool, ruleset: &Ruleset, spawn: &Spawn<'_>) -> Result<(), Error> {
    check_groups(ruleset)?;
    run(&tool.restore_v4, &ruleset.v4, &render(&ruleset.v4), spawn).await?;
    if ruleset.v6.is_empty() {
        return Ok(());
    }
    let restore = tool.restore_v6.as_ref().ok_or(Error::MissingV6)?;
    run(restore, &ruleset.v6, &render(&ruleset.v6), spawn).await
}

/// Replaces the contents of these rules' own chains, all at once in each table. Rules in built-in chains are not to be
/// among them: they would pile up.
pub async fn replace(tool: &Tool, rules: &Rules, spawn: &Spawn<'_>) -> Result<(), Error> {
    run(&tool.restore_v4, rules, &render_replacing(rules), spawn).await
}

async fn run(restore: &Path, rules: &Rules, text: &str, spawn: &Spawn<'_>) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    let failed = |source| Error::Run {
        path: restore.to_owned(),
        source,
    };
    let mut child = spawn(restore, &["--noflush"]).map_err(failed)?;
    let mut stdin = child
        .stdin
        .take()
        .ok_or_else(|| failed(io::Error::other("no pipe to it")))?;
    // A tool that refuses early closes its end; what it says then is worth more than the broken pipe.
    let written = stdin.write_all(text.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return written.map_err(failed);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let rule = named_line(&said).and_then(|number| rule_at(rules, text, number));
    Err(Error::Refused {
        tool: restore.display().to_string(),
        status: output.status,
        said,
        rule,
    })
}

/// "iptables-restore: line 12 failed", "Error occurred at line: 12".
fn named_line(said: &str) -> Option<usize> {
    let (_, after) = said.rsplit_once("line")?;
    let digits: String = after
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

fn rule_at(rules: &Rules, text: &str, number: usize) -> Option<(String, &'static str)> {
    let wanted = text.lines().nth(number.checked_sub(1)?)?;
    let made = rules
        .made()
        .iter()
        .find(|made| line(&made.chain, made.place, &made.rule) == wanted)?;
    Some((wanted.to_owned(), made.rule.option))
}

/// Groups by name must exist before anything is installed.
fn check_groups(ruleset: &Ruleset) -> Result<(), Error> {
    let known = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let names: Vec<&str> = known.lines().filter_map(|line| line.split(':').next()).collect();
    for made in ruleset.v4.made().iter().chain(ruleset.v6.made()) {
        for wanted in &made.rule.matches {
            if let Match::OwnerGid(Is::Exactly(Group::Name(name)) | Is::Not(Group::Name(name))) = wanted
                && !names.contains(&name.as_str())
            {
                return Err(Error::NoGroup { name: name.clone() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_a_tool_names_is_found() {
        assert_eq!(named_line("iptables-restore: line 12 failed"), Some(12));
        assert_eq!(
            named_line("x\nError occurred at line: 7\nTry `iptables-restore -h'"),
            Some(7)
        );
        assert_eq!(named_line("no number here"), None);
    }
}
