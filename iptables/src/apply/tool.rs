//! The tools on this machine that load rules.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command as Std, Stdio};

use crate::ruleset::Family;

/// The `nf_tables` variant of iptables on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    restore: PathBuf,
    save: PathBuf,
    restore_v6: PathBuf,
    save_v6: PathBuf,
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

    pub(super) fn restore(&self, family: Family) -> &Path {
        match family {
            Family::V4 | Family::Inet => &self.restore,
            Family::V6 => &self.restore_v6,
        }
    }

    pub(super) fn save(&self, family: Family) -> &Path {
        match family {
            Family::V4 | Family::Inet => &self.save,
            Family::V6 => &self.save_v6,
        }
    }
}

/// `nft` on this machine.
pub fn find_nft() -> Result<PathBuf, ToolError> {
    let directories = directories();
    locate(&directories, "nft").ok_or_else(|| ToolError::NoNft {
        searched: joined(&directories),
    })
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
