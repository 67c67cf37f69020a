//! `mesh`, and the interception options of mesh and pods.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a YAML value of any other kind is the same mistake"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use iptables::annotations::from_annotations;
use iptables::options::{Interception, Mode};
use iptables::raw::{Mistake, Raw, Start, Text};
use serde_yaml::Value;

use super::custom::{self, CustomRules};
use super::families::{self, IpFamilies, IpFamily};
use super::fields::{At, Reader};
use super::model::{InboundCluster, Mesh, OutboundTrafficPolicy, ProxyKind};

/// Attempts after the first in Istio's default retry policy.
const RETRIES: u32 = 2;

pub(super) struct MeshRead {
    pub(super) mesh: Mesh,
    pub(super) interception: Raw,
    /// Whether rules come from Istio's CNI plugin.
    pub(super) cni: Option<bool>,
}

pub(super) fn read(reader: &Reader<'_>, at: Option<At<'_>>) -> MeshRead {
    let mesh = Mesh {
        outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
        inbound: InboundCluster::PodIp,
        retries: RETRIES,
        protocol_detection_timeout: Duration::ZERO,
        proxy: ProxyKind::Builtin,
        concurrency: NonZeroU16::MIN,
        access_log: true,
        ip_families: IpFamilies::V4,
    };
    let mut read = MeshRead {
        mesh,
        interception: Raw::default(),
        cni: None,
    };
    let known = &[
        "cni",
        "outboundTrafficPolicy",
        "proxy",
        "interception",
        "inbound",
        "retries",
        "protocolDetectionTimeout",
        "concurrency",
        "accessLogFile",
        "ipFamilies",
    ];
    let Some(fields) = at.and_then(|at| reader.map(at, known)) else {
        return read;
    };
    let policies = &[
        ("ALLOW_ANY", OutboundTrafficPolicy::AllowAny),
        ("REGISTRY_ONLY", OutboundTrafficPolicy::RegistryOnly),
    ];
    if let Some(policy) = fields
        .get("outboundTrafficPolicy")
        .and_then(|at| reader.word(at, policies))
    {
        read.mesh.outbound_traffic_policy = policy;
    }
    let inbound = &[
        ("pod-ip", InboundCluster::PodIp),
        ("localhost", InboundCluster::Localhost),
    ];
    if let Some(inbound) = fields.get("inbound").and_then(|at| reader.word(at, inbound)) {
        read.mesh.inbound = inbound;
    }
    if let Some(retries) = fields
        .get("retries")
        .and_then(|at| reader.parsed(at, "write a number from 0"))
    {
        read.mesh.retries = retries;
    }
    if let Some(timeout) = fields
        .get("protocolDetectionTimeout")
        .and_then(|at| reader.limit(at))
    {
        read.mesh.protocol_detection_timeout = timeout;
    }
    read.cni = fields.get("cni").and_then(|at| reader.flag(at));
    if let Some(proxy) = fields.get("proxy").and_then(|at| proxy(reader, at)) {
        read.mesh.proxy = proxy;
    }
    if let Some(concurrency) = fields
        .get("concurrency")
        .and_then(|at| reader.parsed(at, "write a number of worker threads, from 1"))
    {
        read.mesh.concurrency = concurrency;
    }
    let files = &[("/dev/stdout", true), ("", false)];
    if let Some(log) = fields.get("accessLogFile").and_then(|at| reader.word(at, files)) {
        read.mesh.access_log = log;
    }
    if let Some(families) = fields.get("ipFamilies").and_then(|at| families::read(reader, at)) {
        read.mesh.ip_families = families;
    }
    if let Some(at) = fields.get("interception") {
        read.interception = raw(reader, at);
    }
    read
}

pub(super) fn proxy(reader: &Reader<'_>, at: At<'_>) -> Option<ProxyKind> {
    reader.word(at, &ProxyKind::ALL.map(|kind| (kind.name(), kind)))
}

/// The options as they are written.
pub(super) fn raw(reader: &Reader<'_>, at: At<'_>) -> Raw {
    let mut raw = Raw::default();
    let Some(fields) = reader.map(at, Raw::NAMES) else {
        return raw;
    };
    for (name, at) in fields.all() {
        let text = match at.value {
            Value::Null => continue,
            Value::Sequence(_) => reader.strings(at).join(","),
            _ => reader.string(at).unwrap_or_default(),
        };
        if let Some(option) = raw.get_mut(&name) {
            *option = Some(Text(text));
        }
    }
    raw
}

/// The file of `customRules`, where the pod or else the mesh names it.
pub(super) fn custom_rules(
    reader: &Reader<'_>,
    pod_at: &At<'_>,
    interception: &Interception,
) -> Option<CustomRules> {
    let file = interception.custom_rules.as_ref()?.display().to_string();
    let places = [
        &format!("{}.", pod_at.path),
        &format!("{}.spec.", pod_at.path),
        "mesh.",
    ];
    let mut paths = places
        .map(|place| format!("{place}interception.customRules"))
        .into_iter();
    let path = paths
        .find(|path| reader.has(path))
        .unwrap_or_else(|| pod_at.path.clone());
    let at = At {
        value: &Value::Null,
        path,
    };
    custom::read(reader, &at, &file, interception.backend)
}

/// Mesh, pod and annotations in rising priority, checked; the second is false in mode NONE.
pub(super) fn interception(
    reader: &Reader<'_>,
    pod_at: &At<'_>,
    own: Option<(Raw, At<'_>)>,
    mesh: &Raw,
    (annotations, families): (&BTreeMap<String, String>, IpFamilies),
) -> Option<(Interception, bool)> {
    let tell = |mistakes: Vec<Mistake>| {
        for mistake in mistakes {
            let annotation = format!("{}.annotations.{}", pod_at.path, mistake.option);
            let in_pod = format!("{}.interception.{}", pod_at.path, mistake.option);
            let in_mesh = format!("mesh.interception.{}", mistake.option);
            let at = [annotation, in_pod, in_mesh]
                .into_iter()
                .find(|path| reader.has(path));
            let what = format!("{}: `{}`: {}", mistake.option, mistake.value, mistake.reason);
            match at {
                Some(path) => reader.wrong(
                    At {
                        value: &Value::Null,
                        path,
                    },
                    &what,
                    &mistake.instead,
                ),
                None => reader.wrong(pod_at, &what, &mistake.instead),
            }
        }
    };
    let annotated = match from_annotations(annotations) {
        Ok(annotated) => annotated,
        Err(mistakes) => {
            tell(mistakes);
            return None;
        }
    };
    let own = own.map(|(raw, _)| raw).unwrap_or_default();
    let mut written = annotated.or(own).or(mesh.clone());
    // Istio finds it by the pod's addresses (with `ISTIO_DUAL_STACK`: by all of them).
    let has_ipv6 = families.has(IpFamily::V6);
    if has_ipv6 && written.custom_rules.is_none() {
        written.enable_ipv6.get_or_insert_with(|| Text("true".to_owned()));
    }
    if written.dns_servers_v4.is_none() && written.dns_servers_v6.is_none() {
        // As istio-init reads them from the pod's resolv.conf; they count only if DNS is captured by server.
        match crate::plan::resolver(families) {
            IpAddr::V4(ip) => written.dns_servers_v4 = Some(Text(ip.to_string())),
            IpAddr::V6(ip) => written.dns_servers_v6 = Some(Text(ip.to_string())),
        }
    }
    let interception = match written.resolve(Start::Injector) {
        Ok(interception) => interception,
        Err(mistakes) => {
            tell(mistakes);
            return None;
        }
    };
    if interception.has_ipv6 && !has_ipv6 {
        reader.wrong(
            pod_at,
            "enableIPv6, but the pod has no IPv6 address",
            "write `ipFamilies: [IPv4, IPv6]` or `ipFamilies: [IPv6]`, or leave enableIPv6 out: it follows from that",
        );
    }
    let intercept = interception.mode != Mode::None;
    if interception.custom_rules.is_some() && !intercept {
        let what = "both customRules and mode NONE, which installs no rules";
        reader.wrong(pod_at, what, "leave one of them out");
    }
    Some((interception, intercept))
}
