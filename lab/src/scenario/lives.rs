//! Probes, hooks and what else of core/v1 and Istio says how a pod lives.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use iptables::raw::{Raw, Text};
use serde_yaml::Value;

use super::fields::{At, Fields, Reader};
use super::lifecycle::{Clock, ContainerLife, Handler, PodLife, Probe, ProbeKind, ProxyLife, RestartPolicy};

/// core/v1's `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(30);
/// Istio's `MINIMUM_DRAIN_DURATION`.
const DRAIN: Duration = Duration::from_secs(5);

const PROXY_CONFIG: &str = "proxy.istio.io/config";
const REWRITE: &str = "sidecar.istio.io/rewriteAppHTTPProbers";
const IDLE_TIMEOUT: &str = "ISTIO_META_IDLE_TIMEOUT";
const NATIVE: &str = "sidecar.istio.io/nativeSidecar";

/// Fields of a container that say how it lives.
pub(super) const CONTAINER: [&str; 5] = [
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "lifecycle",
    "restartPolicy",
];

/// Fields of a pod that say how it lives.
pub(super) const POD: [&str; 4] = [
    "initContainers",
    "restartPolicy",
    "terminationGracePeriodSeconds",
    "cni",
];

/// `clock: {scale: 0.01}`.
pub(super) fn clock(reader: &Reader<'_>, at: Option<At<'_>>) -> Clock {
    let whole = Clock { scale: 1.0 };
    let Some(at) = at else { return whole };
    let Some(scale_at) = reader.map(at, &["scale"]).and_then(|fields| fields.get("scale")) else {
        return whole;
    };
    let help = "write a number above 0, at most 1: `clock: {scale: 0.01}` makes a second last 10 ms";
    match reader.parsed::<f64>(scale_at.clone(), help) {
        Some(scale) if scale > 0.0 && scale <= 1.0 => Clock { scale },
        Some(scale) => {
            reader.wrong(&scale_at, &format!("a clock cannot go at {scale}"), help);
            whole
        }
        None => whole,
    }
}

/// `restartPolicy` of a pod; `ordered` is true if any other field of the life cycle was given.
pub(super) fn pod(reader: &Reader<'_>, fields: &Fields<'_>, cni: Option<bool>, ordered: bool) -> PodLife {
    let policies = &[
        ("Always", RestartPolicy::Always),
        ("OnFailure", RestartPolicy::OnFailure),
        ("Never", RestartPolicy::Never),
    ];
    let policy = fields
        .get("restartPolicy")
        .and_then(|at| reader.word(at, policies));
    let grace = fields
        .get("terminationGracePeriodSeconds")
        .and_then(|at| seconds(reader, at, 0));
    let own = fields.get("cni").and_then(|at| reader.flag(at));
    let given = POD.iter().any(|name| fields.get(name).is_some());
    PodLife {
        ordered: ordered || given || cni == Some(true),
        restart_policy: policy.unwrap_or(RestartPolicy::Always),
        grace: grace.unwrap_or(GRACE),
        cni: own.or(cni).unwrap_or(false),
    }
}

/// The sidecar's life, by annotations; the second is true if they ask for kubelet's order.
pub(super) fn proxy(
    reader: &Reader<'_>,
    meta: &Fields<'_>,
    annotations: &BTreeMap<String, String>,
) -> (ProxyLife, bool) {
    let mut life = ProxyLife {
        rewrite_probes: annotations.get(REWRITE).is_none_or(|value| value != "false"),
        ..ProxyLife::default()
    };
    let place = |name: &str| {
        meta.get("annotations")
            .and_then(|at| reader.any_map(at))
            .and_then(|fields| fields.get(name))
    };
    let mut ordered = false;
    if let Some(value) = annotations.get(NATIVE) {
        ordered = true;
        life.native = value == "true";
    }
    if let (Some(text), Some(at)) = (annotations.get(PROXY_CONFIG), place(PROXY_CONFIG)) {
        match proxy_config(text, &mut life) {
            Ok(orders) => ordered |= orders,
            Err(what) => reader.wrong(
                &at,
                &format!("{PROXY_CONFIG}: {what}"),
                "write `holdApplicationUntilProxyStarts: true`, `terminationDrainDuration: 5s`, `drainDuration: 45s`, or \
                 `proxyMetadata: {ISTIO_META_IDLE_TIMEOUT: 10m, ISTIO_META_DNS_CAPTURE: \"true\", EXIT_ON_ZERO_ACTIVE_CONNECTIONS: \"true\", MINIMUM_DRAIN_DURATION: 5s}`",
            ),
        }
    }
    (life, ordered)
}

/// The annotation holds YAML in a text (Istio's `ProxyConfig`); its mistakes have the annotation's place. True if it asks
/// for kubelet's order: a drain duration or an idle timeout alone does not.
fn proxy_config(text: &str, life: &mut ProxyLife) -> Result<bool, String> {
    let value: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let Value::Mapping(fields) = value else {
        return Err("it is no mapping".to_owned());
    };
    let mut orders = false;
    for (name, value) in &fields {
        let name = name.as_str().unwrap_or_default();
        orders |= match name {
            "drainDuration" => false,
            "proxyMetadata" => !is_of_connections_alone(value),
            _ => true,
        };
        match name {
            "holdApplicationUntilProxyStarts" => {
                life.hold_application = value.as_bool().ok_or("it is true or false")?;
            }
            "terminationDrainDuration" => life.drain = duration(value)?,
            "drainDuration" => life.drain_duration = whole_seconds(value)?,
            "proxyMetadata" => metadata(value, life)?,
            _ => return Err(format!("`{name}` is not supported")),
        }
    }
    Ok(orders)
}

/// As Envoy's `--drain-time-s` takes it.
fn whole_seconds(value: &Value) -> Result<Duration, String> {
    let duration = duration(value)?;
    if duration.is_zero() || duration.subsec_nanos() > 0 {
        return Err("drainDuration is a whole number of seconds, from 1s".to_owned());
    }
    Ok(duration)
}

/// How long connections may be idle says nothing of the order in which a pod starts.
fn is_of_connections_alone(metadata: &Value) -> bool {
    let names = metadata.as_mapping().into_iter().flat_map(|fields| fields.keys());
    names.into_iter().all(|name| name.as_str() == Some(IDLE_TIMEOUT))
}

/// Envoy counts in milliseconds: less than one would be none, which is no limit.
fn whole_milliseconds(value: &Value) -> Result<Duration, String> {
    let duration = duration(value)?;
    if !super::fields::is_whole_milliseconds(duration) {
        return Err(format!(
            "{IDLE_TIMEOUT} is a whole number of milliseconds, or 0s for no limit"
        ));
    }
    Ok(duration)
}

fn metadata(value: &Value, life: &mut ProxyLife) -> Result<(), String> {
    let Some(fields) = value.as_mapping() else {
        return Err("proxyMetadata is no mapping".to_owned());
    };
    let mut minimum = DRAIN;
    let mut wanted = false;
    for (name, value) in fields {
        match name.as_str().unwrap_or_default() {
            "EXIT_ON_ZERO_ACTIVE_CONNECTIONS" => {
                wanted = value.as_bool() == Some(true) || value.as_str() == Some("true");
            }
            "ISTIO_META_DNS_CAPTURE" => {
                life.dns_capture = Some(value.as_bool() == Some(true) || value.as_str() == Some("true"));
            }
            IDLE_TIMEOUT => life.idle_timeout = Some(whole_milliseconds(value)?),
            "MINIMUM_DRAIN_DURATION" => minimum = duration(value)?,
            other => return Err(format!("proxyMetadata `{other}` is not supported")),
        }
    }
    life.exit_on_zero = wanted.then_some(minimum);
    Ok(())
}

/// What `ISTIO_META_DNS_CAPTURE` asks of istio-init, or of the CNI plugin, which captures every query.
pub(super) fn dns_options(dns_capture: Option<bool>, cni: bool) -> Raw {
    let text = |flag: bool| Some(Text(flag.to_string()));
    Raw {
        redirect_dns: dns_capture.and_then(text),
        capture_all_dns: dns_capture.filter(|_| cni).and_then(text),
        ..Raw::default()
    }
}

fn duration(value: &Value) -> Result<Duration, String> {
    let text = value.as_str().unwrap_or_default();
    super::fields::duration(text).ok_or_else(|| format!("`{text}` is not a duration, such as 5s"))
}

/// A number of seconds, from `least`.
fn seconds(reader: &Reader<'_>, at: At<'_>, least: u32) -> Option<Duration> {
    number(reader, at, least).map(|number| Duration::from_secs(number.into()))
}

fn number(reader: &Reader<'_>, at: At<'_>, least: u32) -> Option<u32> {
    let help = format!("write a whole number from {least}");
    let number: u32 = reader.parsed(at.clone(), &help)?;
    if number < least {
        reader.wrong(&at, &format!("{number} is too little"), &help);
        return None;
    }
    Some(number)
}

/// Probes and hooks of a container; `ports` are its named ports.
pub(super) fn container(reader: &Reader<'_>, fields: &Fields<'_>) -> ContainerLife {
    let ports = named_ports(reader, fields);
    let probe = |kind: ProbeKind| {
        fields
            .get(kind.name())
            .and_then(|at| probe(reader, at, kind, &ports))
    };
    let hooks = fields
        .get("lifecycle")
        .and_then(|at| reader.map(at, &["postStart", "preStop"]));
    let hook = |name: &str| {
        let at = hooks.as_ref()?.get(name)?;
        let fields = reader.map(at.clone(), &["exec", "httpGet", "tcpSocket", "sleep"])?;
        handler(
            reader,
            &at,
            &fields,
            &["exec", "httpGet", "tcpSocket", "sleep"],
            &ports,
        )
    };
    ContainerLife {
        startup: probe(ProbeKind::Startup),
        readiness: probe(ProbeKind::Readiness),
        liveness: probe(ProbeKind::Liveness),
        post_start: hook("postStart"),
        pre_stop: hook("preStop"),
    }
}

/// The names and numbers of `ports`.
fn named_ports(reader: &Reader<'_>, fields: &Fields<'_>) -> BTreeMap<String, NonZeroU16> {
    let known = &["name", "containerPort", "protocol", "hostPort"];
    let items = fields.get("ports").map(|at| reader.list(at)).unwrap_or_default();
    let one = |at| {
        let fields = reader.map(at, known)?;
        let name = fields.get("name").and_then(|at| reader.string(at))?;
        let number = fields.get("containerPort")?;
        Some((name, reader.parsed(number, "write a port from 1 to 65535")?))
    };
    items.into_iter().filter_map(one).collect()
}

fn probe(
    reader: &Reader<'_>,
    at: At<'_>,
    kind: ProbeKind,
    ports: &BTreeMap<String, NonZeroU16>,
) -> Option<Probe> {
    let known = &[
        "exec",
        "httpGet",
        "tcpSocket",
        "grpc",
        "initialDelaySeconds",
        "periodSeconds",
        "timeoutSeconds",
        "successThreshold",
        "failureThreshold",
        "terminationGracePeriodSeconds",
    ];
    let fields = reader.map(at.clone(), known)?;
    for name in ["grpc", "terminationGracePeriodSeconds"] {
        if let Some(at) = fields.get(name) {
            reader.wrong(
                &at,
                &format!("`{name}` of a probe is not supported yet"),
                "leave it out, or write `httpGet`, `tcpSocket` or `exec`",
            );
        }
    }
    let handler = handler(reader, &at, &fields, &["exec", "httpGet", "tcpSocket"], ports);
    let given = |name: &str, least: u32, otherwise: u32| {
        fields
            .get(name)
            .and_then(|at| number(reader, at, least))
            .unwrap_or(otherwise)
    };
    let time =
        |name: &str, least: u32, otherwise: u32| Duration::from_secs(given(name, least, otherwise).into());
    let success = given("successThreshold", 1, 1);
    if success != 1 && kind != ProbeKind::Readiness {
        let at = fields.get("successThreshold").unwrap_or(at);
        reader.wrong(
            &at,
            &format!("successThreshold of a {} is 1", kind.name()),
            "take it out (core/v1 allows no other value)",
        );
    }
    Some(Probe {
        handler: handler?,
        initial_delay: time("initialDelaySeconds", 0, 0),
        period: time("periodSeconds", 1, 10),
        timeout: time("timeoutSeconds", 1, 1),
        success_threshold: success,
        failure_threshold: given("failureThreshold", 1, 3),
    })
}

fn handler(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    kinds: &[&str],
    ports: &BTreeMap<String, NonZeroU16>,
) -> Option<Handler> {
    let given: Vec<&str> = kinds
        .iter()
        .copied()
        .filter(|name| fields.get(name).is_some())
        .collect();
    let [kind] = given.as_slice() else {
        let what = if given.is_empty() {
            "it does nothing".to_owned()
        } else {
            format!("it does several things: {}", given.join(", "))
        };
        reader.wrong(at, &what, &format!("write one of: {}", kinds.join(", ")));
        return None;
    };
    let at = fields.get(kind)?;
    match *kind {
        "exec" => {
            let inner = reader.map(at.clone(), &["command"])?;
            let command = inner
                .get("command")
                .map(|at| reader.strings(at))
                .unwrap_or_default();
            if command.is_empty() {
                reader.wrong(
                    &at,
                    "an empty command",
                    "write `exec: {command: [PROGRAM, ARGUMENT]}`",
                );
                return None;
            }
            Some(Handler::Exec { command })
        }
        "httpGet" => {
            let inner = reader.map(at.clone(), &["port", "path", "scheme", "httpHeaders"])?;
            if let Some(at) = inner.get("scheme")
                && reader.string(at.clone()).as_deref() != Some("HTTP")
            {
                reader.wrong(&at, "only HTTP is supported", "leave `scheme` out");
            }
            let port = port(reader, &at, &inner, ports)?;
            let path = inner.get("path").and_then(|at| reader.string(at));
            let headers = inner
                .get("httpHeaders")
                .map(|at| reader.list(at))
                .unwrap_or_default();
            let header = |at| {
                let fields = reader.map(at, &["name", "value"])?;
                let text = |name: &str| fields.get(name).and_then(|at| reader.string(at));
                Some((text("name")?, text("value").unwrap_or_default()))
            };
            Some(Handler::HttpGet {
                port,
                path: path.unwrap_or_else(|| "/".to_owned()),
                headers: headers.into_iter().filter_map(header).collect(),
            })
        }
        "tcpSocket" => {
            let inner = reader.map(at.clone(), &["port"])?;
            port(reader, &at, &inner, ports).map(|port| Handler::TcpSocket { port })
        }
        _ => {
            let inner = reader.map(at.clone(), &["seconds"])?;
            let Some(at) = inner.get("seconds") else {
                reader.wrong(&at, "no `seconds`", "write `sleep: {seconds: 5}`");
                return None;
            };
            seconds(reader, at, 0).map(Handler::Pause)
        }
    }
}

/// A number, or the name of one of the container's ports.
fn port(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    ports: &BTreeMap<String, NonZeroU16>,
) -> Option<NonZeroU16> {
    let Some(port_at) = fields.get("port") else {
        reader.wrong(at, "no `port`", "write `port: NUMBER`");
        return None;
    };
    let text = reader.string(port_at.clone())?;
    if let Some(port) = ports.get(&text) {
        return Some(*port);
    }
    reader.parsed(
        port_at,
        "write a port from 1 to 65535, or the name of one of the container's `ports`",
    )
}

#[cfg(test)]
mod tests {
    use crate::scenario::lifecycle::{Handler, InitStep, RestartPolicy, StartOrder};
    use crate::scenario::model::ProcessName;
    use crate::scenario::parse;
    use crate::scenario::tests::refused_in;

    const GOOD: &str = r#"
clock: {scale: 0.01}
pods:
  - name: a
    annotations:
      proxy.istio.io/config: |
        holdApplicationUntilProxyStarts: true
        terminationDrainDuration: 3s
        proxyMetadata: {EXIT_ON_ZERO_ACTIVE_CONNECTIONS: "true"}
    restartPolicy: OnFailure
    terminationGracePeriodSeconds: 7
    initContainers:
      - {name: migrate, command: ["true"]}
      - {name: cache, restartPolicy: Always, app: {tcp: 6379}}
    containers:
      - name: web
        ports: [{name: main, containerPort: 8080}]
        app: {http: 8080}
        readinessProbe: {httpGet: {path: /health, port: main}, periodSeconds: 2, successThreshold: 2}
        livenessProbe: {tcpSocket: {port: 8080}}
        lifecycle: {preStop: {sleep: {seconds: 5}}, postStart: {exec: {command: ["true"]}}}
      - {name: istio-proxy, image: auto, lifecycle: {preStop: {sleep: {seconds: 9}}}}
steps:
  - {wait: {ready: a}}
"#;

    #[test]
    fn a_pod_spec_with_a_life_is_read() {
        let loaded = parse("a.yaml", GOOD).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        let scenario = loaded.scenario;
        let pod = &scenario.pods[0];
        assert!(pod.life.ordered);
        assert_eq!(pod.life.restart_policy, RestartPolicy::OnFailure);
        assert_eq!(scenario.clock.scaled(pod.life.grace).as_millis(), 70);
        let names: Vec<&str> = pod.containers.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(
            names,
            ["web", "migrate", "cache"],
            "istio-proxy is no container of its own"
        );
        let web = &pod.containers[0].life;
        assert!(
            matches!(&web.readiness.as_ref().unwrap().handler, Handler::HttpGet { port, .. } if port.get() == 8080)
        );
        assert_eq!(web.liveness.as_ref().unwrap().failure_threshold, 3);
        let sidecar = pod.sidecar.as_ref().unwrap();
        assert!(sidecar.life.hold_application && sidecar.life.rewrite_probes);
        assert_eq!(sidecar.life.drain.as_secs(), 3);
        assert_eq!(sidecar.life.exit_on_zero.unwrap().as_secs(), 5);
        assert!(matches!(sidecar.life.pre_stop, Some(Handler::Pause(_))));
        let order = StartOrder::of(pod);
        let id = |name: &str| {
            ProcessName::Container(
                pod.containers_with_ids()
                    .find(|(_, it)| it.name == name)
                    .unwrap()
                    .0,
            )
        };
        assert_eq!(
            order.init,
            [
                InitStep::Run(id("migrate")),
                InitStep::Native(id("cache")),
                InitStep::Rules
            ]
        );
        assert_eq!(order.main, [ProcessName::Agent, id("web")]);
    }

    #[test]
    fn istios_containers_stand_where_its_injector_puts_them() {
        let order = |from: &str, to: &str| {
            let text = GOOD.replace(from, to);
            let loaded = parse("a.yaml", &text).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
            StartOrder::of(&loaded.scenario.pods[0])
        };
        let last = order("Starts: true", "Starts: false");
        assert_eq!(last.main.last(), Some(&ProcessName::Agent));
        let native = order(
            "    annotations:\n",
            "    annotations:\n      sidecar.istio.io/nativeSidecar: \"true\"\n",
        );
        assert_eq!(
            native.init[..2],
            [InitStep::Rules, InitStep::Native(ProcessName::Agent)]
        );
        assert!(!native.main.contains(&ProcessName::Agent));
        assert_eq!(native.natives().len(), 2);
        let cni = order("    restartPolicy: OnFailure", "    cni: true");
        assert!(cni.cni && !cni.init.contains(&InitStep::Rules));
    }

    /// A pod with this annotation and nothing else of a life.
    fn with_proxy_config(config: &str) -> String {
        format!(
            "pods: [{{name: a, annotations: {{proxy.istio.io/config: '{config}'}}, containers: [{{name: web}}]}}]\n\
            steps: [{{wait: {{ready: a}}}}]\n"
        )
    }

    #[test]
    fn a_drain_duration_alone_asks_for_no_order() {
        let text = |duration: &str| with_proxy_config(&format!("drainDuration: {duration}"));
        let loaded = parse("a.yaml", &text("7s")).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
        let pod = &loaded.scenario.pods[0];
        assert_eq!(pod.sidecar.as_ref().unwrap().life.drain_duration.as_secs(), 7);
        assert!(!pod.life.ordered);
        for wrong in ["1500ms", "0s"] {
            let mistakes = parse("a.yaml", &text(wrong)).unwrap_err().render();
            assert!(mistakes.contains("a whole number of seconds"), "{mistakes}");
        }
    }

    #[test]
    fn an_idle_timeout_alone_asks_for_no_order() {
        let text = |metadata: &str| with_proxy_config(&format!("proxyMetadata: {{{metadata}}}"));
        let pod = |metadata: &str| {
            let loaded =
                parse("a.yaml", &text(metadata)).unwrap_or_else(|mistakes| panic!("{}", mistakes.render()));
            let pod = &loaded.scenario.pods[0];
            (pod.sidecar.as_ref().unwrap().life.idle_timeout, pod.life.ordered)
        };
        let millis = |number| Some(std::time::Duration::from_millis(number));
        assert_eq!(pod("ISTIO_META_IDLE_TIMEOUT: 1500ms"), (millis(1500), false));
        assert_eq!(pod("ISTIO_META_IDLE_TIMEOUT: 0s"), (millis(0), false));
        let both = "ISTIO_META_IDLE_TIMEOUT: 5s, MINIMUM_DRAIN_DURATION: 5s";
        assert_eq!(pod(both), (millis(5000), true));
        for wrong in ["1us", "soon"] {
            let text = text(&format!("ISTIO_META_IDLE_TIMEOUT: {wrong}"));
            let mistakes = parse("a.yaml", &text).unwrap_err().render();
            assert!(mistakes.contains(super::PROXY_CONFIG), "{mistakes}");
        }
    }

    #[test]
    fn mistakes_are_told_at_their_place() {
        for (from, to, wanted) in [
            ("scale: 0.01", "scale: 0", "cannot go at 0"),
            ("scale: 0.01", "scale: -1", "cannot go at -1"),
            ("OnFailure", "Sometimes", "is none of: Always, OnFailure, Never"),
            ("Seconds: 7", "Seconds: -7", "write a whole number from 0"),
            (
                "port: main}",
                "port: man}",
                "name of one of the container's `ports`",
            ),
            ("periodSeconds: 2,", "periodSeconds: 0,", "is too little"),
            (
                "tcpSocket: {port: 8080}}",
                "tcpSocket: {port: 8080}, successThreshold: 2}",
                "is 1",
            ),
            (
                "tcpSocket: {port: 8080}}",
                "grpc: {port: 8080}}",
                "not supported yet",
            ),
            ("tcpSocket: {port: 8080}}", "periodSeconds: 2}", "it does nothing"),
            ("DrainDuration: 3s", "DrainDuration: 3", "is not a duration"),
            (
                "holdApplicationUntilProxyStarts",
                "holdApplication",
                "is not supported",
            ),
            (
                "restartPolicy: Always,",
                "restartPolicy: Never,",
                "is none of: Always",
            ),
        ] {
            refused_in(GOOD, from, to, wanted);
        }
    }
}
