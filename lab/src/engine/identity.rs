//! Who a pod's processes run as: user, groups, capabilities.

use iptables::options::Mode;

use crate::plan::PROXY_USER;
use crate::scenario::model::{Actor, Pod, ProcessName, Scenario};
use crate::sys::Capabilities;
use crate::world::process::Identity;

/// Who this process of a pod runs as.
pub(super) fn of(pod: &Pod, process: ProcessName) -> Identity {
    match process {
        ProcessName::Container(id) => {
            let container = pod.container(id);
            Identity {
                uid: container.run_as_user,
                gid: container.run_as_group,
                groups: container.supplemental_groups.clone(),
                capabilities: Capabilities::NONE,
            }
        }
        // Agent and data plane are one container: istio-proxy.
        ProcessName::Sidecar | ProcessName::Agent => match &pod.sidecar {
            Some(sidecar) => Identity {
                uid: sidecar.run_as_user,
                gid: sidecar.run_as_group,
                groups: Vec::new(),
                // What Istio's injector adds in this mode. Kubernetes gives it to root alone; here it is an ambient
                // capability, so that any user has it.
                capabilities: match sidecar.interception.mode {
                    Mode::Tproxy(_) => Capabilities::NET_ADMIN,
                    Mode::Redirect | Mode::None => Capabilities::NONE,
                },
            },
            None => proxy(),
        },
    }
}

/// Who an actor acts as.
pub(super) fn acting(scenario: &Scenario, actor: &Actor) -> Identity {
    let own = of(scenario.pod(actor.target.pod), actor.target.process);
    Identity {
        uid: actor.user.unwrap_or(own.uid),
        gid: actor.group.unwrap_or(own.gid),
        ..own
    }
}

/// Istio's `istio-proxy`, without any privilege.
pub(super) const fn proxy() -> Identity {
    Identity {
        uid: PROXY_USER,
        gid: PROXY_USER,
        groups: Vec::new(),
        capabilities: Capabilities::NONE,
    }
}
