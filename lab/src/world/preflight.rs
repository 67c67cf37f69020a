//! Whether this machine can run a lab, found out before anything is made.

use std::path::Path;

use iptables::options::Backend;

use crate::scenario::model::{Pod, Scenario};

/// What this machine lacks.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// Root.
    #[error("not root (user {uid}): a lab makes network namespaces; run it by `sudo lab …`")]
    Root {
        /// Who it is.
        uid: u32,
    },
    /// A capability that root has lost (containers).
    #[error(
        "root without {name}: in a container, give it `--privileged`, or `--cap-add {name}` with seccomp and AppArmor \
         unconfined"
    )]
    Capability {
        /// Which.
        name: &'static str,
    },
    /// Namespaces.
    #[error("this kernel has no {kind} namespaces (/proc/self/ns/{kind} is missing)")]
    Namespaces {
        /// Which kind.
        kind: &'static str,
    },
    /// iptables.
    #[error("{0}")]
    Iptables(String),
    /// nft, which only some scenarios need.
    #[error("pod `{pod}` has `backend: nftables`: {why}")]
    Nft {
        /// A pod that needs it.
        pod: String,
        /// Where it was looked for, and what to install.
        why: String,
    },
}

/// `CAP_NET_ADMIN`, `CAP_SYS_ADMIN` and so on by number (capabilities(7)).
const CAPABILITIES: [(u32, &str); 5] = [
    (21, "SYS_ADMIN"),
    (12, "NET_ADMIN"),
    (7, "SETUID"),
    (6, "SETGID"),
    (13, "NET_RAW"),
];

/// Checks what every lab needs.
pub fn check() -> Result<(), Missing> {
    let uid = nix::unistd::geteuid().as_raw();
    if uid != 0 {
        return Err(Missing::Root { uid });
    }
    let effective = effective_capabilities();
    for (number, name) in CAPABILITIES {
        if effective & (1 << number) == 0 {
            return Err(Missing::Capability { name });
        }
    }
    for kind in ["pid", "mnt", "net", "ipc", "uts"] {
        if !Path::new("/proc/self/ns").join(kind).exists() {
            return Err(Missing::Namespaces { kind });
        }
    }
    iptables::apply::Tool::find().map_err(|error| Missing::Iptables(error.to_string()))?;
    Ok(())
}

/// A pod whose rules nft loads, if there is one.
pub fn needs_nft(scenario: &Scenario) -> Option<&Pod> {
    let mut pods = scenario.pods.iter();
    pods.find(|pod| pod.backend() == Some(Backend::Nftables))
}

/// Looks for nft if this scenario needs it.
pub fn nft(scenario: &Scenario) -> Result<(), Missing> {
    let Some(pod) = needs_nft(scenario) else {
        return Ok(());
    };
    let missing = |error: iptables::apply::ToolError| Missing::Nft {
        pod: pod.name.clone(),
        why: error.to_string(),
    };
    iptables::apply::find_nft().map(drop).map_err(missing)
}

/// `CapEff` of /proc/self/status; what cannot be read is not held against the machine here.
fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}
