//! Loading a ruleset into the kernel and reading it back: the one module with I/O.

pub mod text;

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command as Std, ExitStatus, Output, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::process::Child;

use crate::diff::diff;
use crate::options::Group;
use crate::parse::save;
use crate::reconcile;
use crate::render::restore::{lines, rule_text};
use crate::render::{Line, nft};
use crate::rule::{Is, Match};
use crate::ruleset::{Family, Owns, Ruleset};

/// Starts a program with these arguments in the network namespace that the rules are for; stdin, stdout, stderr piped.
pub type Spawn<'a> = &'a dyn Fn(&Path, &[&OsStr]) -> io::Result<Child>;

/// The `nf_tables` variant of iptables on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    restore: PathBuf,
    save: PathBuf,
    restore_v6: PathBuf,
    save_v6: PathBuf,
}

/// Why no usable iptables was found.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// None at all.
    #[error("looked for {program} in {searched} and found none: apt-get install iptables")]
    Missing {
        /// Which program.
        program: &'static str,
        /// Where.
        searched: String,
    },
    /// No nft.
    #[error("looked for nft in {searched} and found none: apt-get install nftables")]
    NoNft {
        /// Where.
        searched: String,
    },
    /// Only the variant whose rules the kernel does not trace.
    #[error("{} is `{version}`, which is not the nf_tables variant: apt-get install iptables, for iptables-nft-restore", path.display())]
    Legacy {
        /// The program.
        path: PathBuf,
        /// What it says of itself.
        version: String,
    },
    /// It does not run.
    #[error("could not run {} --version: check that it is executable", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a ruleset is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A group is named, and only ids are loaded.
    #[error(
        "rule `{rule}` (option {option}) names the group `{group}`: resolve group names to ids before applying"
    )]
    GroupName {
        /// The group.
        group: String,
        /// The rule.
        rule: String,
        /// Its option.
        option: &'static str,
    },
    /// The tool could not be run.
    #[error("could not {what} {}: check that the pod's namespace is there and the program runs", program.display())]
    Run {
        /// What was tried.
        what: &'static str,
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tool refused a line; the table of that line is unchanged.
    #[error("{} refused line {line} ({status}): {said}\n  rule:   {rule}\n  option: {option}", program.display())]
    Refused {
        /// The program.
        program: PathBuf,
        /// The line, from 1.
        line: usize,
        /// How it ended.
        status: ExitStatus,
        /// Its words.
        said: String,
        /// The line's text.
        rule: String,
        /// The option that asked for it.
        option: &'static str,
    },
    /// The tool failed without naming a line.
    #[error("{} failed ({status}): {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// Its words.
        said: String,
    },
    /// The tool printed what is not its format.
    #[error("{} printed what could not be read:\n{}", program.display(), mistakes.join("\n"))]
    Unread {
        /// The program.
        program: PathBuf,
        /// Each line that is wrong.
        mistakes: Vec<String>,
    },
    /// Other rules are there.
    #[error("other rules are already loaded, remove them first:\n{}", difference.join("\n"))]
    Different {
        /// What the kernel has (`+`), and what it lacks (`-`), in save form.
        difference: Vec<String>,
    },
}

/// What an apply came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The rules were loaded.
    Loaded,
    /// They were there already, in this order.
    AlreadyThere,
}

impl Tool {
    /// Searches `$PATH`, `/usr/sbin` and `/sbin`. Runs `--version` where a name does not tell the variant; call it once.
    pub fn find() -> Result<Self, ToolError> {
        Self::find_in(&directories())
    }

    fn find_in(directories: &[PathBuf]) -> Result<Self, ToolError> {
        let search = |program: &'static str, nft: &'static str| {
            if let Some(path) = locate(directories, nft) {
                return Ok(path);
            }
            let searched = joined(directories);
            let path = locate(directories, program).ok_or(ToolError::Missing { program, searched })?;
            let version = version(&path)?;
            if version.contains("nf_tables") {
                Ok(path)
            } else {
                Err(ToolError::Legacy { path, version })
            }
        };
        Ok(Self {
            restore: search("iptables-restore", "iptables-nft-restore")?,
            save: search("iptables-save", "iptables-nft-save")?,
            restore_v6: search("ip6tables-restore", "ip6tables-nft-restore")?,
            save_v6: search("ip6tables-save", "ip6tables-nft-save")?,
        })
    }

    fn restore(&self, family: Family) -> &Path {
        match family {
            Family::V4 | Family::Inet => &self.restore,
            Family::V6 => &self.restore_v6,
        }
    }

    fn save(&self, family: Family) -> &Path {
        match family {
            Family::V4 | Family::Inet => &self.save,
            Family::V6 => &self.save_v6,
        }
    }
}

fn directories() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).collect()
}

fn joined(directories: &[PathBuf]) -> String {
    let all = directories.iter().map(|each| each.display().to_string());
    all.collect::<Vec<_>>().join(":")
}

fn locate(directories: &[PathBuf], program: &str) -> Option<PathBuf> {
    directories
        .iter()
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn version(path: &Path) -> Result<String, ToolError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "asks a tool its version before any namespace exists"
    )]
    let mut command = Std::new(path);
    let output = command.arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|source| ToolError::Run {
        path: path.to_owned(),
        source,
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
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

/// `nft` on this machine.
pub fn find_nft() -> Result<PathBuf, ToolError> {
    let directories = directories();
    locate(&directories, "nft").ok_or_else(|| ToolError::NoNft {
        searched: joined(&directories),
    })
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
    let output = run(nft, &arguments, String::new(), spawn).await?;
    if !output.status.success() {
        return Err(failed(nft, &output));
    }
    let (mut lines, mut table, mut chain) = (Vec::new(), None, String::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
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

/// The kernel's rules in save form, order kept, without counters and comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(Vec<String>);

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

/// Reads the kernel's rules.
pub async fn read(tool: &Tool, families: &[Family], spawn: Spawn<'_>) -> Result<Snapshot, Error> {
    let mut kept = Vec::new();
    for &family in families {
        let program = tool.save(family);
        let output = run(program, &[], String::new(), spawn).await?;
        if !output.status.success() {
            return Err(failed(program, &output));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        // `:PREROUTING ACCEPT [12:720]`: the counters move by themselves.
        kept.extend(lines.map(|line| line.split_once(" [").map_or(line, |(chain, _)| chain).to_owned()));
    }
    Ok(Snapshot(kept))
}

async fn restore(program: &Path, lines: &[Line<'_>], spawn: Spawn<'_>) -> Result<(), Error> {
    feed(program, &[OsStr::new("--noflush")], lines, spawn, refused_line).await
}

/// Gives a tool its input; `refused` finds the line in what it says of a failure.
async fn feed(
    program: &Path,
    arguments: &[&OsStr],
    lines: &[Line<'_>],
    spawn: Spawn<'_>,
    refused: fn(&str) -> Option<usize>,
) -> Result<(), Error> {
    let text = lines.iter().map(|line| line.text.clone() + "\n").collect();
    let output = run(program, arguments, text, spawn).await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let Some((number, line)) =
        refused(&said).and_then(|number| Some((number, lines.get(number.checked_sub(1)?)?)))
    else {
        return Err(failed(program, &output));
    };
    let option = line
        .rule
        .map_or("none: the line is not a rule", |rule| rule.option);
    let (program, status, rule) = (program.to_owned(), output.status, line.text.clone());
    Err(Error::Refused {
        program,
        line: number,
        status,
        said,
        rule,
        option,
    })
}

/// The line number in `-:7:1-9: Error: …` or `/dev/stdin:7:1-9: Error: …`.
fn refused_by_nft(said: &str) -> Option<usize> {
    let mut parts = said.lines().next()?.split(':').skip(1);
    parts.next()?.parse().ok()
}

/// The line number in "Error occurred at line: 7", "line 7 failed" or "iptables-restore: line 7 failed".
fn refused_line(said: &str) -> Option<usize> {
    let after = said.rfind("line")? + "line".len();
    let digits = said[after..].trim_start_matches([':', ' ']);
    digits
        .split(|each: char| !each.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn failed(program: &Path, output: &Output) -> Error {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Error::Failed {
        program: program.to_owned(),
        status: output.status,
        said,
    }
}

async fn run(program: &Path, arguments: &[&OsStr], input: String, spawn: Spawn<'_>) -> Result<Output, Error> {
    let failed = |what| {
        move |source| Error::Run {
            what,
            program: program.to_owned(),
            source,
        }
    };
    let mut child = spawn(program, arguments).map_err(failed("start"))?;
    let stdin = child.stdin.take();
    let write = async {
        match stdin {
            Some(mut stdin) => stdin.write_all(input.as_bytes()).await,
            None => Ok(()),
        }
    };
    // Both at once: a tool that complains at length while it is being written to would wait for us, and we for it.
    let (written, output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(failed("await"))?;
    match written {
        // It ended before it had read everything; its status and words say why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !output.status.success() => Ok(output),
        written => written.map(|()| output).map_err(failed("write to")),
    }
}
