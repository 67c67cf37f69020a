//! `pods`.

use std::collections::BTreeMap;

use iptables::options::Mode;
use iptables::raw::Raw;

use super::containers::containers;
use super::custom::CustomRules;
use super::families::{self, IpFamilies};
use super::fields::{At, Fields, Reader};
use super::lifecycle::ProxyLife;
use super::lives;
use super::mesh::{self, MeshRead};
use super::model::{Pod, Sidecar};
use super::names::{gates, label};
use super::security::security;
use super::services::texts;
use crate::plan::PROXY_USER;

/// Fields of core/v1 that change nothing here, so that a pod spec can be pasted in.
const POD: &[&str] = &[
    "name",
    "labels",
    "annotations",
    "sidecar",
    "interception",
    "proxy",
    "hold",
    "ipFamilies",
    "containers",
    "initContainers",
    "restartPolicy",
    "terminationGracePeriodSeconds",
    "cni",
    "securityContext",
    "serviceAccountName",
    "volumes",
    "nodeSelector",
    "tolerations",
    "affinity",
    "imagePullSecrets",
    "dnsPolicy",
    "schedulerName",
    "enableServiceLinks",
    "automountServiceAccountToken",
];

pub(super) fn read(reader: &Reader<'_>, at: At<'_>, mesh: &MeshRead) -> Vec<Pod> {
    let items = reader.list(at.clone());
    if items.is_empty() {
        reader.wrong(&at, "`pods` is empty", "a scenario needs at least one pod");
    }
    let mut pods: Vec<Pod> = Vec::new();
    for item in items {
        let Some((pod, name_at)) = pod(reader, item, mesh) else {
            continue;
        };
        if pods.iter().any(|other| other.name == pod.name) {
            reader.wrong(
                &name_at,
                &format!("pod `{}` is there already", pod.name),
                "names are given once",
            );
        }
        pods.push(pod);
    }
    pods
}

fn pod<'v>(reader: &Reader<'_>, at: At<'v>, mesh: &MeshRead) -> Option<(Pod, At<'v>)> {
    let outer = reader.any_map(at.clone())?;
    let is_pasted = outer.get("kind").is_some() || outer.get("spec").is_some();
    let (fields, meta) = if is_pasted {
        let outer = reader.map(
            at.clone(),
            &[
                "apiVersion",
                "kind",
                "metadata",
                "spec",
                "status",
                "hold",
                "sidecar",
                "ipFamilies",
            ],
        )?;
        let meta_at = outer.get("metadata")?;
        let known = &[
            "name",
            "namespace",
            "labels",
            "annotations",
            "creationTimestamp",
            "uid",
            "resourceVersion",
        ];
        (reader.map(outer.get("spec")?, POD)?, reader.map(meta_at, known)?)
    } else {
        let fields = reader.map(at.clone(), POD)?;
        (fields.clone(), fields)
    };
    let Some(name_at) = meta.get("name") else {
        reader.wrong(&at, "a pod without `name`", "write `name: NAME`");
        return None;
    };
    let name = label(reader, &name_at, "pod")?;
    if name == crate::plan::ISTIOD {
        reader.wrong(&name_at, "pod `istiod` is the lab's own", "choose another name");
    }
    let labels = meta.get("labels").map(|at| texts(reader, at)).unwrap_or_default();
    let annotations = meta
        .get("annotations")
        .map(|at| texts(reader, at))
        .unwrap_or_default();
    let (proxy_life, mut ordered) = lives::proxy(reader, &meta, &annotations);
    let ip_families = outer
        .get("ipFamilies")
        .or_else(|| fields.get("ipFamilies"))
        .and_then(|at| families::read(reader, at))
        .unwrap_or(mesh.mesh.ip_families);
    let annotated = Annotated {
        labels: &labels,
        annotations: &annotations,
        dns_capture: proxy_life.dns_capture,
        ip_families,
    };
    let injected = sidecar(reader, &at, &fields, &annotated, mesh);
    let custom_rules = match &injected {
        Some(sidecar) => mesh::custom_rules(reader, &at, &sidecar.interception),
        None => own_rules(reader, &at, &fields, ip_families),
    };
    let mut sidecar = injected.map(|sidecar| Sidecar {
        life: proxy_life,
        ..sidecar
    });
    let defaults = fields
        .get("securityContext")
        .map(|at| security(reader, at))
        .unwrap_or_default();
    let found = containers(reader, &at, &fields, &defaults, sidecar.is_some());
    ordered |= found.lives;
    if let Some(sidecar) = &mut sidecar {
        sidecar.life.pre_stop = found.proxy_pre_stop.or(sidecar.life.pre_stop.take());
        sidecar.run_as_user = found.proxy_security.user.unwrap_or(sidecar.run_as_user);
        sidecar.run_as_group = found.proxy_security.group.unwrap_or(sidecar.run_as_group);
    }
    let mut pod = Pod {
        name,
        labels,
        annotations,
        sidecar,
        custom_rules,
        containers: found.all,
        hold: Vec::new(),
        sysctls: defaults.sysctls,
        ip_families,
        life: lives::pod(reader, &fields, mesh.cni, ordered),
    };
    if let Some(at) = outer.get("hold").or_else(|| fields.get("hold")) {
        pod.hold = gates(reader, at, &pod);
    }
    Some((pod, name_at))
}

/// What a pod's sidecar follows from, beside the pod's own fields.
struct Annotated<'a> {
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    dns_capture: Option<bool>,
    ip_families: IpFamilies,
}

fn sidecar(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    of: &Annotated<'_>,
    mesh: &MeshRead,
) -> Option<Sidecar> {
    const INJECT: &str = "sidecar.istio.io/inject";
    let injected = of
        .labels
        .get(INJECT)
        .or_else(|| of.annotations.get(INJECT))
        .is_none_or(|value| value != "false");
    let wanted = fields
        .get("sidecar")
        .and_then(|at| reader.flag(at))
        .unwrap_or(injected);
    let proxy = fields
        .get("proxy")
        .and_then(|at| mesh::proxy(reader, at))
        .unwrap_or(mesh.mesh.proxy);
    let own = fields
        .get("interception")
        .map(|at| (mesh::raw(reader, at.clone()), at));
    if !wanted {
        return None;
    }
    let cni = fields.get("cni").and_then(|at| reader.flag(at)).or(mesh.cni);
    let (written, own_at) = own.unwrap_or_else(|| (Raw::default(), at.clone()));
    let own = lives::dns_options(of.dns_capture, cni == Some(true)).or(written);
    let own = Some((own, own_at));
    let (interception, intercept) = mesh::interception(
        reader,
        at,
        own,
        &mesh.interception,
        (of.annotations, of.ip_families),
    )?;
    let run_as_user = match interception.mode {
        Mode::Tproxy(_) => 0,
        Mode::Redirect | Mode::None => PROXY_USER,
    };
    Some(Sidecar {
        proxy,
        interception,
        intercept,
        run_as_user,
        run_as_group: PROXY_USER,
        mutation: None,
        // By annotations: see `pod`.
        life: ProxyLife::default(),
    })
}

/// The rules that a pod without a sidecar asks for itself: another mesh's.
fn own_rules(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    families: IpFamilies,
) -> Option<CustomRules> {
    let own_at = fields.get("interception")?;
    let own = mesh::raw(reader, own_at.clone());
    own.custom_rules.as_ref()?;
    let own = Some((own, own_at));
    let none = (&BTreeMap::new(), families);
    let (interception, _) = mesh::interception(reader, at, own, &Raw::default(), none)?;
    mesh::custom_rules(reader, at, &interception)
}
