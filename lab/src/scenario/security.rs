//! `securityContext`, of a pod and of a container.

use super::fields::{At, Reader};

/// Who a container runs as.
#[derive(Debug, Clone, Default)]
pub(super) struct Security {
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) groups: Vec<u32>,
    pub(super) sysctls: Vec<(String, String)>,
}

pub(super) fn security(reader: &Reader<'_>, at: At<'_>) -> Security {
    let known = &[
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "sysctls",
        "runAsNonRoot",
        "fsGroup",
        "allowPrivilegeEscalation",
        "readOnlyRootFilesystem",
        "capabilities",
        "privileged",
        "seccompProfile",
    ];
    let Some(fields) = reader.map(at, known) else {
        return Security::default();
    };
    let number = |name: &str| {
        fields
            .get(name)
            .and_then(|at| reader.parsed(at, "write a number from 0"))
    };
    let groups = fields
        .get("supplementalGroups")
        .map(|at| reader.list(at))
        .unwrap_or_default();
    let sysctls = fields
        .get("sysctls")
        .map(|at| reader.list(at))
        .unwrap_or_default();
    Security {
        sysctls: sysctls.into_iter().filter_map(|at| sysctl(reader, at)).collect(),
        user: number("runAsUser"),
        group: number("runAsGroup"),
        groups: groups
            .into_iter()
            .filter_map(|at| reader.parsed(at, "write a number from 0"))
            .collect(),
    }
}

/// A sysctl of the pod's network namespace.
fn sysctl(reader: &Reader<'_>, at: At<'_>) -> Option<(String, String)> {
    let help = "write `{name: net.ipv4.ip_local_port_range, value: \"15006 15007\"}`";
    let fields = reader.map(at.clone(), &["name", "value"])?;
    let (Some(name_at), Some(value_at)) = (fields.get("name"), fields.get("value")) else {
        reader.wrong(&at, "a sysctl has `name` and `value`", help);
        return None;
    };
    let name = reader.string(name_at.clone())?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.starts_with("net.") || !name.chars().all(plain) || name.contains("..") {
        reader.wrong(
            &name_at,
            &format!("`{name}` is no sysctl of a network namespace"),
            help,
        );
        return None;
    }
    Some((name, reader.string(value_at)?))
}
