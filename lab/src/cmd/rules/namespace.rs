//! `lab rules diff`, `apply`, `clean`: the rules in a network namespace that is no lab's.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iptables::apply::{self, Error, Installed, Others, Tool};
use iptables::diff::diff as differences;
use iptables::generate::generate;
use iptables::options::{Backend, Interception};
use iptables::reconcile;
use iptables::ruleset::{Family, Ruleset};
use serde_json::json;

use super::config::{ConfigArgs, import};
use super::{Output, fail};
use crate::causes::causes;
use crate::cmd::labs::runtime;
use crate::exit::Exit;
use crate::net::netns::NetNs;
use crate::net::tproxy::{self, Routes};
use crate::report::terminal;
use crate::within::within;
use crate::world::process::spawn_tool;

/// A tool waits for the kernel's commit, and that for the grace periods of every CPU.
const LIMIT: Duration = Duration::from_secs(30);

/// Compare rules with a configuration
#[derive(Debug, clap::Args)]
pub(in crate::cmd) struct DiffArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The namespace: its name under /run/netns, or a path
    #[arg(long, value_name = "NAME", required_unless_present = "imported")]
    netns: Option<String>,
    /// A file that `iptables-save` wrote, in place of a namespace; needs no root
    #[arg(long, value_name = "FILE", conflicts_with = "netns")]
    imported: Option<PathBuf>,
    /// With --imported: `ip6tables-save` wrote it
    #[arg(long, requires = "imported")]
    v6: bool,
    /// For people, or as one JSON document
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

/// Load rules in a network namespace
#[derive(Debug, clap::Args)]
pub(in crate::cmd) struct ApplyArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The namespace: its name under /run/netns, or a path
    #[arg(long, value_name = "NAME")]
    netns: String,
    /// Replace other interception rules that are there, where it is refused otherwise
    #[arg(long)]
    reconcile: bool,
}

/// Remove rules from a network namespace
#[derive(Debug, clap::Args)]
pub(in crate::cmd) struct CleanArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The namespace: its name under /run/netns, or a path
    #[arg(long, value_name = "NAME")]
    netns: String,
}

pub(super) fn diff(args: &DiffArgs) -> Result<Exit, Exit> {
    let options = args.config.load_numeric()?;
    let wanted = generate(&options);
    let lines = match (&args.imported, &args.netns) {
        (Some(file), _) => imported(args, &wanted, file)?,
        (None, Some(name)) => {
            let namespace = open(name)?;
            block_on(live(&options, &wanted, &namespace))?
        }
        (None, None) => return Err(Exit::Usage),
    };
    let all: String = lines.iter().map(|line| format!("{line}\n")).collect();
    terminal::print(&match args.output {
        Output::Json => format!(
            "{:#}\n",
            json!({ "version": 1, "same": lines.is_empty(), "differences": lines })
        ),
        Output::Human if lines.is_empty() => "the rules are as configured, in this order\n".to_owned(),
        Output::Human => {
            format!("rules that are not as configured (- missing, + there, ~ elsewhere):\n{all}")
        }
    });
    Ok(if lines.is_empty() {
        Exit::Held
    } else {
        Exit::Failed
    })
}

fn imported(args: &DiffArgs, wanted: &Ruleset, file: &Path) -> Result<Vec<String>, Exit> {
    if !wanted.is_empty(Family::Inet) {
        return Err(fail(
            Exit::Usage,
            "--imported: such a file holds iptables' rules, and the configuration asks for nftables: write --backend iptables",
        ));
    }
    let family = if args.v6 { Family::V6 } else { Family::V4 };
    let own = reconcile::own_part(&import(file, family)?.ruleset, wanted);
    let found = differences(wanted, &own).into_iter();
    Ok(found
        .filter(|each| each.family == family)
        .map(|each| each.to_string())
        .collect())
}

async fn live(options: &Interception, wanted: &Ruleset, namespace: &NetNs) -> Result<Vec<String>, Exit> {
    let spawn = |program: &Path, arguments: &[&OsStr]| spawn_tool(namespace, program, arguments);
    match options.backend {
        Backend::Iptables => {
            let own = apply::own_part(&iptables_tool()?, wanted, &spawn)
                .await
                .map_err(|error| failed(&error))?;
            Ok(differences(wanted, &own)
                .iter()
                .map(ToString::to_string)
                .collect())
        }
        Backend::Nftables => {
            let scratch = NetNs::scratch().map_err(|error| fail(Exit::Machine, &causes(&error)))?;
            let scratch = |program: &Path, arguments: &[&OsStr]| spawn_tool(&scratch, program, arguments);
            let lines = apply::difference_nft(&nft()?, wanted, &spawn, &scratch).await;
            lines.map_err(|error| failed(&error))
        }
    }
}

pub(super) fn apply(args: &ApplyArgs) -> Result<Exit, Exit> {
    let options = args.config.load_numeric()?;
    let others = if args.reconcile {
        Others::Replace
    } else {
        Others::Refuse
    };
    let namespace = open(&args.netns)?;
    block_on(async {
        let installed = install(&options, others, &namespace).await?;
        let routed = tproxy::add(&namespace, Routes::of(&options)).await;
        let routed = routed.map_err(|error| fail(Exit::Lab, &causes(&error)))?;
        terminal::print(match (installed, routed) {
            (Installed::AlreadyThere, tproxy::Change::None) => {
                "the rules are there already: nothing was changed\n"
            }
            (Installed::AlreadyThere, tproxy::Change::Done) => {
                "the rules are there already: missing routes were added\n"
            }
            (Installed::Loaded, _) => "loaded\n",
            (Installed::Replaced, _) => "replaced the rules that were there\n",
        });
        Ok(Exit::Held)
    })
}

async fn install(options: &Interception, others: Others, namespace: &NetNs) -> Result<Installed, Exit> {
    let wanted = generate(options);
    let spawn = |program: &Path, arguments: &[&OsStr]| spawn_tool(namespace, program, arguments);
    let installed = match options.backend {
        Backend::Iptables => apply::install(&iptables_tool()?, &wanted, others, &spawn).await,
        Backend::Nftables => {
            let scratch = NetNs::scratch().map_err(|error| fail(Exit::Machine, &causes(&error)))?;
            let scratch = |program: &Path, arguments: &[&OsStr]| spawn_tool(&scratch, program, arguments);
            apply::install_nft(&nft()?, &wanted, others, &spawn, &scratch).await
        }
    };
    installed.map_err(|error| failed(&error))
}

pub(super) fn clean(args: &CleanArgs) -> Result<Exit, Exit> {
    let options = args.config.load_numeric()?;
    let wanted = generate(&options);
    let namespace = open(&args.netns)?;
    let spawn = |program: &Path, arguments: &[&OsStr]| spawn_tool(&namespace, program, arguments);
    block_on(async {
        let rules = match options.backend {
            Backend::Iptables => {
                let removed = apply::remove(&iptables_tool()?, &wanted, &spawn).await;
                let removed = removed.map_err(|error| failed(&error))?;
                [Family::V4, Family::V6]
                    .iter()
                    .map(|&family| removed.recorded(family).len())
                    .sum()
            }
            Backend::Nftables => {
                let removed = apply::remove_nft(&nft()?, &spawn).await;
                removed.map_err(|error| failed(&error))?.text().lines().count()
            }
        };
        let routed = tproxy::remove(&namespace, Routes::of(&options)).await;
        let routed = routed.map_err(|error| fail(Exit::Lab, &causes(&error)))?;
        terminal::print(&match (rules, routed) {
            (0, tproxy::Change::None) => {
                "no rules of interception are there: nothing was changed\n".to_owned()
            }
            (rules, _) => format!("removed {rules} rules\n"),
        });
        Ok(Exit::Held)
    })
}

fn open(name: &str) -> Result<NetNs, Exit> {
    if !nix::unistd::geteuid().is_root() {
        let what = "entering a network namespace needs root: run it by sudo";
        return Err(fail(Exit::Machine, what));
    }
    NetNs::open(name).map_err(|error| {
        let there = "`ip netns` lists the names that are there";
        fail(Exit::Usage, &format!("--netns: {}: {there}", causes(&error)))
    })
}

fn iptables_tool() -> Result<Tool, Exit> {
    Tool::find().map_err(|error| fail(Exit::Machine, &causes(&error)))
}

fn nft() -> Result<PathBuf, Exit> {
    apply::find_nft().map_err(|error| fail(Exit::Machine, &causes(&error)))
}

/// Rules of others' in the way are a refusal (1); everything else is a failure of the tool or the kernel.
fn failed(error: &Error) -> Exit {
    match error {
        Error::Different { .. } => fail(
            Exit::Failed,
            &format!("{error}\nreplace them by --reconcile, or remove them by `lab rules clean`"),
        ),
        Error::GroupName { .. }
        | Error::Run { .. }
        | Error::Refused { .. }
        | Error::Failed { .. }
        | Error::Unread { .. } => fail(Exit::Lab, &causes(error)),
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Exit>>) -> Result<T, Exit> {
    let runtime = runtime()?;
    let local = tokio::task::LocalSet::new();
    let work = local.run_until(within(LIMIT, "the tools that load and list rules", work));
    let done = runtime.block_on(work);
    done.unwrap_or_else(|late| Err(fail(Exit::Lab, &late.to_string())))
}
