//! `mesh`, and the interception options of mesh and pods.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a YAML value of any other kind is the same mistake"
)]

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use iptables::annotations::from_annotations;
use iptables::options::{Interception, Mode};
use iptables::raw::{Mistake, Raw, Start, Text};
use serde_yaml::Value;

use super::custom::{self, CustomRules};
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
        proxy: ProxyKind::Builtin,
        concurrency: NonZeroU16::MIN,
        access_log: true,
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
        "concurrency",
        "accessLogFile",
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
    annotations: &BTreeMap<String, String>,
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
    let mut raw = annotated.or(own).or(mesh.clone());
    if raw.dns_servers_v4.is_none() && raw.dns_servers_v6.is_none() {
        // As istio-init reads them from the pod's resolv.conf; they count only if DNS is captured by server.
        raw.dns_servers_v4 = Some(Text(crate::plan::DNS_IP.to_string()));
    }
    let interception = match raw.resolve(Start::Injector) {
        Ok(interception) => interception,
        Err(mistakes) => {
            tell(mistakes);
            return None;
        }
    };
    let not_yet = |what: &str, instead: &str| {
        reader.wrong(
            pod_at,
            &format!("{what} is not supported in a running lab yet"),
            instead,
        );
    };
    if interception.has_ipv6 {
        not_yet("enableIPv6", "leave it out");
    }
    let intercept = interception.mode != Mode::None;
    if interception.custom_rules.is_some() && !intercept {
        let what = "both customRules and mode NONE, which installs no rules";
        reader.wrong(pod_at, what, "leave one of them out");
    }
    Some((interception, intercept))
}
