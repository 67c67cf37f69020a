//! Who a pod's processes run as: user, groups, capabilities.

use iptables::options::Mode;

use crate::plan::PROXY_USER;
use crate::scenario::model::{Pod, ProcessName};
use crate::sys::Capabilities;

/// Who a process runs as.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) capabilities: Capabilities,
}

impl Identity {
    /// Who this process of a pod runs as.
    pub(super) fn of(pod: &Pod, process: ProcessName) -> Self {
        match process {
            ProcessName::Container(id) => {
                let container = pod.container(id);
                Self {
                    uid: container.run_as_user,
                    gid: container.run_as_group,
                    groups: container.supplemental_groups.clone(),
                    capabilities: Capabilities::NONE,
                }
            }
            // Agent and data plane are one container: istio-proxy.
            ProcessName::Sidecar | ProcessName::Agent => match &pod.sidecar {
                Some(sidecar) => Self {
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
                None => Self::proxy(),
            },
        }
    }

    /// Istio's `istio-proxy`, without any privilege.
    pub(super) const fn proxy() -> Self {
        Self {
            uid: PROXY_USER,
            gid: PROXY_USER,
            groups: Vec::new(),
            capabilities: Capabilities::NONE,
        }
    }
}
