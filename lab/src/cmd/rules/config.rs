//! The configuration that `lab rules` works on: a file of interception options, or the injector's defaults.

use std::fs;
use std::path::{Path, PathBuf};

use iptables::options::{Interception, Mistake, Raw, Start};
use iptables::parse::save::{self, Parsed};
use iptables::raw::Text;
use iptables::ruleset::Family;

use super::fail;
use crate::exit::Exit;
use crate::report::terminal;

/// Which rules.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// A YAML file of interception options (`excludeInboundPorts: 8080`); without it, the injector's defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// iptables or nftables, whatever the file says
    #[arg(long, value_name = "BACKEND", value_parser = ["iptables", "nftables"])]
    backend: Option<String>,
}

impl ConfigArgs {
    /// The options, checked; group names stay names.
    pub(super) fn load(&self) -> Result<Interception, Exit> {
        let (name, text) = match &self.config {
            Some(file) => (file.display().to_string(), read(file)?),
            None => ("the defaults".to_owned(), String::new()),
        };
        let written: Option<Raw> = serde_yaml::from_str(&text).map_err(|error| {
            fail(
                Exit::Usage,
                &format!("{name}: {error}: options are {}", Raw::NAMES.join(", ")),
            )
        })?;
        let mut raw = written.unwrap_or_default();
        if let Some(backend) = &self.backend {
            raw.backend = Some(Text(backend.clone()));
        }
        let options = raw
            .resolve(Start::Injector)
            .map_err(|mistakes| complain(&name, &text, &mistakes))?;
        match &options.custom_rules {
            Some(file) => Err(fail(
                Exit::Usage,
                &format!(
                    "{name}: customRules: `{}`: those rules are taken as they are: explain them by --imported",
                    file.display()
                ),
            )),
            None => Ok(options),
        }
    }

    /// The options with numbers in place of this machine's group names.
    pub(super) fn load_numeric(&self) -> Result<Interception, Exit> {
        let mut options = self.load()?;
        let lookup = |name: &str| {
            let group = nix::unistd::Group::from_name(name).ok().flatten();
            group.map(|group| group.gid.as_raw())
        };
        let name = self
            .config
            .as_ref()
            .map_or(String::new(), |file| file.display().to_string());
        options
            .resolve_groups(lookup)
            .map_err(|mistakes| complain(&name, "", &mistakes))?;
        Ok(options)
    }
}

fn complain(name: &str, text: &str, mistakes: &[Mistake]) -> Exit {
    for mistake in mistakes {
        let key = format!("{}:", mistake.option);
        let line = text.lines().position(|line| line.trim_start().starts_with(&key));
        let place = line.map_or(name.to_owned(), |line| format!("{name}:{}", line + 1));
        terminal::complain(&format!("error: {place}: {mistake}\n"));
    }
    Exit::Usage
}

fn read(file: &Path) -> Result<String, Exit> {
    fs::read_to_string(file)
        .map_err(|error| fail(Exit::Usage, &format!("reading {}: {error}", file.display())))
}

/// A file that `iptables-save` wrote.
pub(super) fn import(file: &Path, family: Family) -> Result<Parsed, Exit> {
    let text = read(file)?;
    save::parse(&text, family).map_err(|mistakes| {
        for mistake in mistakes {
            terminal::complain(&format!("error: {}: {mistake}\n", file.display()));
        }
        Exit::Usage
    })
}
