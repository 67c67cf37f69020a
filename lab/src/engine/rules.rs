//! A pod's interception rules, whichever tool loads them: generated, or a text of the user's own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use iptables::apply::text::{self, Doing, Listed};
use iptables::apply::{self, Error, Snapshot, Tool, ToolError};
use iptables::options::Backend;
use iptables::ruleset::{Family, Ruleset};

use super::lab::Lab;
use crate::net::netns::NetNs;
use crate::observe;
use crate::report::{PodRules, RuleReport};
use crate::scenario::model::{Pod, Scenario};
use crate::scenario::mutate;
use crate::world::{preflight, process};

/// The tools that load rules.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) iptables: Tool,
    /// Where a pod's rules are nft's.
    nft: Option<PathBuf>,
}

/// The rules of a pod.
#[derive(Debug)]
pub(super) enum Rules {
    /// Istio's, for `iptables-restore`.
    Iptables(Ruleset),
    /// Istio's, for `nft`.
    Nftables(Ruleset),
    /// The user's own text.
    Text { text: String, backend: Backend },
}

impl Rules {
    /// Those that the scenario gives a pod, if it gives it any.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        if let Some(custom) = &pod.custom_rules {
            return Some(Self::Text {
                text: custom.text.clone(),
                backend: custom.backend,
            });
        }
        let ruleset = mutate::changed(pod)?;
        Some(match pod.backend()? {
            Backend::Iptables => Self::Iptables(ruleset),
            Backend::Nftables => Self::Nftables(ruleset),
        })
    }

    fn families(&self) -> Vec<Family> {
        match self {
            Self::Iptables(ruleset) => apply::families(ruleset),
            Self::Nftables(_) | Self::Text { .. } => vec![Family::V4],
        }
    }

    fn backend(&self) -> Backend {
        match self {
            Self::Iptables(_) => Backend::Iptables,
            Self::Nftables(_) => Backend::Nftables,
            Self::Text { backend, .. } => *backend,
        }
    }
}

impl Tools {
    /// Those that this scenario needs.
    pub(super) fn find(scenario: &Scenario) -> Result<Self, ToolError> {
        let needs_nft = preflight::needs_nft(scenario).is_some();
        Ok(Self {
            iptables: Tool::find()?,
            nft: needs_nft.then(apply::find_nft).transpose()?,
        })
    }

    fn nft(&self) -> &Path {
        // One that was not looked for fails to start, by its name.
        self.nft.as_deref().unwrap_or(Path::new("nft"))
    }

    /// Loads rules into a pod's namespace.
    pub(super) async fn load(&self, rules: &Rules, space: &NetNs) -> Result<(), Error> {
        let spawn = |program: &Path, args: &[&OsStr]| process::spawn_tool(space, program, args);
        match rules {
            Rules::Iptables(ruleset) => apply::load(&self.iptables, ruleset, &spawn).await,
            Rules::Nftables(ruleset) => apply::load_nft(self.nft(), ruleset, &spawn).await,
            Rules::Text { .. } => self.give(rules, Doing::Loading, space).await,
        }
    }

    /// Whether the tool would take a user's text in this namespace, in its own words if not.
    pub(super) async fn test(&self, rules: &Rules, space: &NetNs) -> Result<(), Error> {
        self.give(rules, Doing::Testing, space).await
    }

    async fn give(&self, rules: &Rules, doing: Doing, space: &NetNs) -> Result<(), Error> {
        let spawn = |program: &Path, args: &[&OsStr]| process::spawn_tool(space, program, args);
        match rules {
            Rules::Text { text, backend } => match backend {
                Backend::Iptables => text::restore_text(&self.iptables, text, doing, &spawn).await,
                Backend::Nftables => text::nft_text(self.nft(), text, doing, &spawn).await,
            },
            Rules::Iptables(_) | Rules::Nftables(_) => Ok(()),
        }
    }

    /// What is there, to be compared later.
    pub(super) async fn read(&self, rules: &Rules, space: &NetNs) -> Result<Snapshot, Error> {
        let spawn = |program: &Path, args: &[&OsStr]| process::spawn_tool(space, program, args);
        match rules.backend() {
            Backend::Iptables => apply::read(&self.iptables, &rules.families(), &spawn).await,
            Backend::Nftables => text::read_nft(self.nft(), observe::TABLE, &spawn).await,
        }
    }

    /// Each rule that is there.
    async fn list(&self, rules: &Rules, space: &NetNs) -> Result<Vec<Listed>, Error> {
        let spawn = |program: &Path, args: &[&OsStr]| process::spawn_tool(space, program, args);
        match rules.backend() {
            Backend::Iptables => text::list(&self.iptables, &rules.families(), &spawn).await,
            Backend::Nftables => text::list_nft(self.nft(), observe::TABLE, &spawn).await,
        }
    }

    /// Looks first: loads the rules where there are none, and else compares what is there with what was `before`.
    pub(super) async fn reload(
        &self,
        rules: &Rules,
        before: &Snapshot,
        space: &NetNs,
    ) -> Result<&'static str, Error> {
        let now = self.read(rules, space).await?;
        if now.has_no_rule() && !before.has_no_rule() {
            self.load(rules, space).await?;
            return Ok("loaded");
        }
        apply::verify(before, &now).map(|()| "already there")
    }
}

/// What the kernel has of the rules of each pod whose rules are installed.
pub(super) async fn listed(lab: &Lab) -> Result<Vec<PodRules>, String> {
    let mut all = Vec::new();
    for (id, pod) in lab.scenario.pods_with_ids() {
        let is_installed = lab.watched.read(|state| state.pod(id).rules);
        let Some(rules) = Rules::of(pod).filter(|_| is_installed) else {
            continue;
        };
        let listed = lab.tools.list(&rules, &lab.space(id).netns).await;
        let listed = listed.map_err(|error| format!("pod {}: {}", pod.name, super::chain(&error)))?;
        let backend = match rules.backend() {
            Backend::Iptables => "iptables",
            Backend::Nftables => "nftables",
        };
        all.push(PodRules {
            pod: pod.name.clone(),
            backend: backend.to_owned(),
            rules: listed
                .into_iter()
                .map(|rule| RuleReport {
                    family: rule.family,
                    table: rule.table,
                    chain: rule.chain,
                    text: rule.text,
                })
                .collect(),
        });
    }
    Ok(all)
}
