//! `pods`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use iptables::options::Mode;
use iptables::raw::Raw;

use super::custom::CustomRules;
use super::families::{self, IpFamilies};
use super::fields::{At, Fields, Reader};
use super::lifecycle::{ContainerKind, Handler, INIT, PROXY, ProxyLife};
use super::lives;
use super::mesh::{self, MeshRead};
use super::model::{App, AppRoute, Container, Listen, Pod, Sidecar, Workload};
use super::names::{gates, label};
use super::pieces;
use super::services::{status, texts};
use crate::path::RESERVED_ROLES;
use crate::plan::PROXY_USER;

/// Ports of the sidecar, which its pod's own servers cannot have.
const SIDECAR_PORTS: [u16; 9] = [15000, 15001, 15006, 15008, 15010, 15020, 15021, 15053, 15090];

/// The user that containers run as, unless they say otherwise.
const USER: u32 = 1000;

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
const CONTAINER: &[&str] = &[
    "name",
    "app",
    "command",
    "args",
    "env",
    "ports",
    "securityContext",
    "image",
    "imagePullPolicy",
    "resources",
    "volumeMounts",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "stdin",
    "tty",
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "lifecycle",
    "restartPolicy",
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
    let mut found = Containers {
        has_sidecar: sidecar.is_some(),
        ..Containers::default()
    };
    containers(reader, &at, &fields, &defaults, &mut found);
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

/// Who a container runs as.
#[derive(Debug, Clone, Default)]
struct Security {
    user: Option<u32>,
    group: Option<u32>,
    groups: Vec<u32>,
    sysctls: Vec<(String, String)>,
}

fn security(reader: &Reader<'_>, at: At<'_>) -> Security {
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

/// The containers of a pod as they are read.
#[derive(Debug, Default)]
struct Containers {
    all: Vec<Container>,
    ports: Vec<u16>,
    has_sidecar: bool,
    /// One of them has probes, hooks or a policy.
    lives: bool,
    /// What the container `istio-proxy` does before it is stopped.
    proxy_pre_stop: Option<Handler>,
    /// Who it says that it runs as.
    proxy_security: Security,
}

fn containers(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    defaults: &Security,
    found: &mut Containers,
) {
    let items = |name: &str| fields.get(name).map(|at| reader.list(at)).unwrap_or_default();
    for item in items("containers") {
        container(reader, item, defaults, ContainerKind::Main, found);
    }
    if found.all.is_empty() {
        reader.wrong(
            at,
            "a pod without containers",
            "write `containers: [{name: NAME}]`",
        );
    }
    for item in items("initContainers") {
        container(reader, item, defaults, ContainerKind::Init, found);
    }
}

fn container(
    reader: &Reader<'_>,
    item: At<'_>,
    defaults: &Security,
    kind: ContainerKind,
    found: &mut Containers,
) {
    let Some(fields) = reader.map(item.clone(), CONTAINER) else {
        return;
    };
    let Some(name_at) = fields.get("name") else {
        reader.wrong(&item, "a container without `name`", "write `name: NAME`");
        return;
    };
    let Some(name) = label(reader, &name_at, "container") else {
        return;
    };
    found.lives |= lives::CONTAINER.iter().any(|name| fields.get(name).is_some());
    let life = lives::container(reader, &fields);
    // Istio's injector merges a container of this name into its own.
    if name == PROXY {
        if !found.has_sidecar {
            reader.wrong(&name_at, "a pod without a sidecar has no istio-proxy", "");
        }
        found.proxy_pre_stop = life.pre_stop;
        if let Some(at) = fields.get("securityContext") {
            found.proxy_security = security(reader, at);
        }
        return;
    }
    if RESERVED_ROLES.contains(&name.as_str()) || name == INIT {
        let what = format!("a container cannot be called `{name}`: it is a word of the path notation");
        reader.wrong(&name_at, &what, "choose another name");
    }
    if found.all.iter().any(|other| other.name == name) {
        reader.wrong(
            &name_at,
            &format!("container `{name}` is there already"),
            "names are given once in a pod",
        );
    }
    let own = fields
        .get("securityContext")
        .map(|at| security(reader, at))
        .unwrap_or_default();
    let user = own.user.or(defaults.user).unwrap_or(USER);
    let workload = workload(reader, &item, &fields);
    if let (Workload::App(app), Some(app_at)) = (&workload, fields.get("app")) {
        port_of(reader, &app_at, app, &mut found.ports, found.has_sidecar);
    }
    found.all.push(Container {
        name,
        workload,
        run_as_user: user,
        run_as_group: own.group.or(defaults.group).unwrap_or(user),
        supplemental_groups: defaults.groups.clone(),
        env: fields.get("env").map(|at| env(reader, at)).unwrap_or_default(),
        kind: kind_of(reader, &fields, kind),
        life,
    });
}

/// A container's own `restartPolicy` makes an init container a native sidecar; elsewhere it is a mistake.
fn kind_of(reader: &Reader<'_>, fields: &Fields<'_>, kind: ContainerKind) -> ContainerKind {
    let Some(at) = fields.get("restartPolicy") else {
        return kind;
    };
    if kind == ContainerKind::Main {
        reader.wrong(
            &at,
            "`restartPolicy` of an ordinary container",
            "write it at the pod; a container's own is for `initContainers`",
        );
        return kind;
    }
    reader
        .word(at, &[("Always", ContainerKind::NativeSidecar)])
        .unwrap_or(kind)
}

fn port_of(reader: &Reader<'_>, at: &At<'_>, app: &App, ports: &mut Vec<u16>, has_sidecar: bool) {
    let port = app.listen.port().get();
    if ports.contains(&port) {
        reader.wrong(
            at,
            &format!("port {port} is another container's already"),
            "containers of a pod share its ports",
        );
    }
    if has_sidecar && SIDECAR_PORTS.contains(&port) {
        reader.wrong(
            at,
            &format!("port {port} is the sidecar's"),
            "choose another port, or write `sidecar: false`",
        );
    }
    ports.push(port);
}

fn env(reader: &Reader<'_>, at: At<'_>) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for item in reader.list(at) {
        let Some(fields) = reader.map(item.clone(), &["name", "value"]) else {
            continue;
        };
        let Some(name) = fields.get("name").and_then(|at| reader.string(at)) else {
            reader.wrong(
                &item,
                "an environment variable without `name`",
                "write `{name: NAME, value: TEXT}`",
            );
            continue;
        };
        let value = fields
            .get("value")
            .and_then(|at| reader.string(at))
            .unwrap_or_default();
        all.push((name, value));
    }
    all
}

fn workload(reader: &Reader<'_>, at: &At<'_>, fields: &Fields<'_>) -> Workload {
    let command = fields.get("command");
    let args = fields
        .get("args")
        .map(|at| reader.strings(at))
        .unwrap_or_default();
    match (fields.get("app"), command) {
        (Some(_), Some(_)) => {
            reader.wrong(at, "both `app` and `command`", "a container runs one of them");
            Workload::Idle
        }
        (Some(at), None) => app(reader, at).map_or(Workload::Idle, Workload::App),
        (None, Some(command_at)) => {
            let mut argv = reader.strings(command_at.clone());
            if argv.is_empty() {
                reader.wrong(
                    &command_at,
                    "an empty command",
                    "write `command: [PROGRAM, ARGUMENT]`",
                );
            }
            argv.extend(args);
            Workload::Command(argv)
        }
        (None, None) => Workload::Idle,
    }
}

fn app(reader: &Reader<'_>, at: At<'_>) -> Option<App> {
    let fields = reader.map(
        at.clone(),
        &[
            "http",
            "tcp",
            "tcpServerFirst",
            "rawHttp",
            "bind",
            "calls",
            "routes",
            "atStart",
            "atStop",
            "exits",
        ],
    )?;
    let port = |name: &str| {
        let at = fields.get(name)?;
        reader.parsed::<NonZeroU16>(at, "write a port from 1 to 65535")
    };
    let kinds = ["http", "tcp", "tcpServerFirst", "rawHttp"]
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .count();
    if kinds != 1 {
        reader.wrong(
            &at,
            "an app listens for one thing",
            "write one of `http: PORT`, `tcp: PORT`, `tcpServerFirst: PORT`, `rawHttp: PORT`",
        );
        return None;
    }
    let listen = port("http")
        .map(Listen::Http)
        .or_else(|| port("tcp").map(Listen::Tcp))
        .or_else(|| port("tcpServerFirst").map(Listen::TcpServerFirst))
        .or_else(|| port("rawHttp").map(Listen::RawHttp))?;
    let routes = fields.get("routes").and_then(|at| reader.any_map(at));
    let urls = |name: &str| fields.get(name).map(|at| calls(reader, at)).unwrap_or_default();
    Some(App {
        at_start: urls("atStart"),
        at_stop: urls("atStop"),
        exits: fields
            .get("exits")
            .and_then(|at| reader.flag(at))
            .unwrap_or(false),
        listen,
        bind: fields
            .get("bind")
            .and_then(|at| reader.parsed::<IpAddr>(at, "write an address, such as 127.0.0.1 or ::1")),
        calls: fields
            .get("calls")
            .map(|at| calls(reader, at))
            .unwrap_or_default(),
        routes: routes
            .iter()
            .flat_map(Fields::all)
            .filter_map(|(path, at)| Some((path, route(reader, at, listen)?)))
            .collect(),
    })
}

fn route(reader: &Reader<'_>, at: At<'_>, listen: Listen) -> Option<AppRoute> {
    let known: &[&str] = match listen {
        Listen::RawHttp(_) => &["raw", "then", "early"],
        Listen::Http(_) | Listen::Tcp(_) | Listen::TcpServerFirst(_) => &["status", "body", "calls"],
    };
    let fields = reader.map(at.clone(), known)?;
    let raw = pieces::raw(reader, &fields);
    if matches!(listen, Listen::RawHttp(_)) && raw.is_none() {
        reader.wrong(
            &at,
            "a route of `rawHttp` without `raw`",
            "write the answer's bytes; paths without a route are answered with the request as it came",
        );
    }
    Some(AppRoute {
        raw,
        status: fields.get("status").and_then(|at| status(reader, at)),
        body: fields.get("body").and_then(|at| reader.string(at)),
        calls: fields
            .get("calls")
            .map(|at| calls(reader, at))
            .unwrap_or_default(),
    })
}

fn calls(reader: &Reader<'_>, at: At<'_>) -> Vec<String> {
    reader
        .list(at)
        .into_iter()
        .filter_map(|at| url(reader, at))
        .collect()
}

/// `http://HOST[:PORT]/PATH`.
pub(super) fn url(reader: &Reader<'_>, at: At<'_>) -> Option<String> {
    let text = reader.string(at.clone())?;
    // `${POD.ip}` is no host by itself; an address stands for it here.
    let mut plain = text.clone();
    while let (Some(start), Some(end)) = (plain.find("${"), plain.find('}')) {
        if end < start {
            break;
        }
        plain.replace_range(start..=end, "192.0.2.1");
    }
    let parsed: Result<http::Uri, _> = plain.parse();
    let valid = parsed
        .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty()));
    if !valid {
        reader.wrong(
            &at,
            &format!("`{text}` is no URL"),
            "write `http://HOST:PORT/PATH`",
        );
        return None;
    }
    Some(text)
}
