//! `containers` and `initContainers` of a pod.

use super::apps::app;
use super::fields::{At, Fields, Reader};
use super::lifecycle::{ContainerKind, Handler, INIT, PROXY};
use super::lives;
use super::model::{App, Container, Workload};
use super::names::label;
use super::security::{Security, security};
use crate::path::RESERVED_ROLES;

/// Ports of the sidecar, which its pod's own servers cannot have.
const SIDECAR_PORTS: [u16; 9] = [15000, 15001, 15006, 15008, 15010, 15020, 15021, 15053, 15090];

/// The user that containers run as, unless they say otherwise.
const USER: u32 = 1000;

/// Fields of core/v1 that change nothing here are among them, as among a pod's.
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

/// The containers of a pod as they are read.
#[derive(Debug, Default)]
pub(super) struct Containers {
    pub(super) all: Vec<Container>,
    ports: Vec<u16>,
    has_sidecar: bool,
    /// One of them has probes, hooks or a policy.
    pub(super) lives: bool,
    /// What the container `istio-proxy` does before it is stopped.
    pub(super) proxy_pre_stop: Option<Handler>,
    /// Who it says that it runs as.
    pub(super) proxy_security: Security,
}

pub(super) fn containers(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    defaults: &Security,
    has_sidecar: bool,
) -> Containers {
    let mut found = Containers {
        has_sidecar,
        ..Containers::default()
    };
    let items = |name: &str| fields.get(name).map(|at| reader.list(at)).unwrap_or_default();
    for item in items("containers") {
        container(reader, item, defaults, ContainerKind::Main, &mut found);
    }
    if found.all.is_empty() {
        reader.wrong(
            at,
            "a pod without containers",
            "write `containers: [{name: NAME}]`",
        );
    }
    for item in items("initContainers") {
        container(reader, item, defaults, ContainerKind::Init, &mut found);
    }
    found
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
