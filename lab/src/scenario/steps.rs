//! `steps`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::expect;
use super::families::IpFamily;
use super::faults;
use super::fields::{At, Fields, Reader, suggestion};
use super::lifecycle::Phase;
use super::model::{Action, Actor, Body, Event, PodId, Request, RequestKind, Step, Target};
use super::names::Names;
use super::objects;
use super::pieces;
use super::pods::url;

/// How long a request may take if it does not say.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a program may run if it does not say.
const EXEC: Duration = Duration::from_secs(30);
/// How long an event is waited for if the step does not say.
const WAIT: Duration = Duration::from_secs(10);

pub(super) const ACTIONS: &[&str] = &[
    "request",
    "scrape",
    "probe",
    "exec",
    "hold",
    "release",
    "start",
    "stop",
    "kill",
    "restart",
    "freeze",
    "thaw",
    "delete",
    "apply",
    "istiod",
    "link",
    "netem",
    "rules",
    "invalidSegment",
    "wait",
    "parallel",
    "repeat",
];

/// How deep `parallel` and `repeat` may nest.
const DEEPEST: usize = 4;

pub(super) fn read(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Vec<Step> {
    all(reader, at, names, 0)
}

fn all(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>, depth: usize) -> Vec<Step> {
    let items = reader.list(at.clone());
    if items.is_empty() {
        reader.wrong(&at, "no steps", "write at least one step");
    }
    let one = |(index, item)| step(reader, item, names, index + 1, depth);
    items.into_iter().enumerate().filter_map(one).collect()
}

fn step(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>, number: usize, depth: usize) -> Option<Step> {
    let known: Vec<&str> = ["name", "expect", "article"]
        .iter()
        .chain(ACTIONS)
        .copied()
        .collect();
    let fields = reader.map(at.clone(), &known)?;
    let actions: Vec<&str> = ACTIONS
        .iter()
        .copied()
        .filter(|name| fields.get(name).is_some())
        .collect();
    let name = fields
        .get("name")
        .and_then(|at| reader.string(at))
        .unwrap_or_else(|| format!("step {number}"));
    let expected = fields
        .get("expect")
        .map(|at| (expect::read(reader, at.clone(), names), at));
    let [action] = actions.as_slice() else {
        let what = if actions.is_empty() {
            "a step that does nothing".to_owned()
        } else {
            format!("a step that does several things: {}", actions.join(", "))
        };
        reader.wrong(&at, &what, &format!("write one of: {}", ACTIONS.join(", ")));
        return None;
    };
    let action_at = fields.get(action)?;
    let action = self::action(reader, action, action_at, names, depth)?;
    if let Some((expected, at)) = &expected {
        expect::fits(reader, at, expected, &action);
    }
    Some(Step {
        name,
        location: reader.location(&at),
        action,
        expect: expected.map(|(expected, _)| expected).unwrap_or_default(),
        article: fields.get("article").and_then(|at| reader.string(at)),
    })
}

fn action(reader: &Reader<'_>, name: &str, at: At<'_>, names: &Names<'_>, depth: usize) -> Option<Action> {
    match name {
        "request" => request(reader, at, names).map(Action::Request),
        "scrape" => scrape(reader, at, names).map(Action::Request),
        "exec" => exec(reader, at, names),
        "hold" => gates(reader, at, names).map(|(pod, gates)| Action::Hold(pod, gates)),
        "release" => gates(reader, at, names).map(|(pod, gates)| Action::Release(pod, gates)),
        "start" => target(reader, at, names, &[]).map(|(target, _)| Action::Start(target)),
        "stop" => target(reader, at, names, &[]).map(|(target, _)| Action::Stop(target)),
        "kill" => {
            let (target, fields) = target(reader, at, names, &["signal"])?;
            let signal = fields
                .get("signal")
                .map_or(Some(Signal::SIGKILL), |at| signal(reader, at))?;
            Some(Action::Kill(target, signal as i32))
        }
        "restart" => target(reader, at, names, &[]).map(|(target, _)| Action::Restart(target)),
        "freeze" => target(reader, at, names, &[]).map(|(target, _)| Action::Freeze(target)),
        "thaw" => target(reader, at, names, &[]).map(|(target, _)| Action::Thaw(target)),
        "invalidSegment" => {
            let (from, port) = connection(reader, at, names)?;
            Some(Action::InvalidSegment { from, port })
        }
        "apply" => objects::apply(reader, at, names),
        "delete" => objects::delete(reader, at, names),
        "probe" | "istiod" | "link" | "netem" | "rules" => faults::read(reader, name, at, names),
        "wait" => wait(reader, at, names),
        _ if depth >= DEEPEST => {
            reader.wrong(&at, "steps are nested too deeply", "write them side by side");
            None
        }
        "parallel" => Some(Action::Parallel(all(reader, at, names, depth + 1))),
        _ => {
            let fields = reader.map(at.clone(), &["times", "steps"])?;
            let help = "write `repeat: {times: N, steps: [...]}`";
            let times: Option<u32> = fields.get("times").and_then(|at| reader.parsed(at, help));
            let steps = fields.get("steps").map(|at| all(reader, at, names, depth + 1));
            if times.is_none_or(|times| times == 0) || steps.is_none() {
                reader.wrong(&at, "`repeat` needs `times` (from 1) and `steps`", help);
            }
            Some(Action::Repeat {
                times: times?,
                steps: steps?,
            })
        }
    }
}

fn from(reader: &Reader<'_>, at: &At<'_>, fields: &Fields<'_>, names: &Names<'_>) -> Option<Actor> {
    let Some(from_at) = fields.get("from") else {
        reader.wrong(at, "no `from`", "write `from: POD` or `from: POD/CONTAINER`");
        return None;
    };
    let mut actor = names.actor(reader, &from_at, "`from`")?;
    let number = |name: &str| {
        fields
            .get(name)
            .and_then(|at| reader.parsed(at, "write a number from 0"))
    };
    (actor.user, actor.group) = (number("asUser"), number("asGroup"));
    Some(actor)
}

fn timeout(reader: &Reader<'_>, fields: &Fields<'_>, otherwise: Duration) -> Duration {
    fields
        .get("timeout")
        .and_then(|at| reader.duration(at))
        .unwrap_or(otherwise)
}

/// `${POD.ip}` must name a pod, `${POD.ipv6}` one that has such an address.
fn placeholders(reader: &Reader<'_>, at: &At<'_>, text: &str, own: Option<PodId>, names: &Names<'_>) {
    for part in text.split("${").skip(1) {
        let name = part.split('}').next().unwrap_or_default();
        let (pod, family) = match name.rsplit_once('.') {
            Some((pod, "ip")) => (pod, None),
            Some((pod, "ipv4")) => (pod, Some(IpFamily::V4)),
            Some((pod, "ipv6")) => (pod, Some(IpFamily::V6)),
            Some(_) | None => {
                reader.wrong(
                    at,
                    &format!("`${{{name}}}` is unknown"),
                    "write `${POD.ip}` or `${self.ip}`; of pods with two addresses `${POD.ipv4}`, `${POD.ipv6}`",
                );
                continue;
            }
        };
        let known = match pod {
            "istiod" => None,
            "self" => own,
            pod => names.pod(reader, at, pod, &format!("`${{{name}}}`")),
        };
        if let (Some(known), Some(family)) = (known, family) {
            let families = names.pod_of(known).ip_families;
            if !families.has(family) {
                reader.wrong(
                    at,
                    &format!(
                        "`${{{name}}}`: pod `{}` has addresses of {}",
                        names.pod_of(known).name,
                        families.names()
                    ),
                    &format!("write `${{{pod}.ip}}`, or give the pod `ipFamilies: [IPv4, IPv6]`"),
                );
            }
        }
    }
}

fn request(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Request> {
    let known = &[
        "from",
        "url",
        "tcp",
        "dns",
        "method",
        "headers",
        "body",
        "bodyBytes",
        "chunked",
        "trailers",
        "send",
        "halfClose",
        "read",
        "slowly",
        "http2",
        "over",
        "ipFamily",
        "server",
        "asUser",
        "asGroup",
        "timeout",
    ];
    let fields = reader.map(at.clone(), known)?;
    let from = from(reader, &at, &fields, names);
    let kinds: Vec<&str> = ["url", "tcp", "dns"]
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    let [kind] = kinds.as_slice() else {
        reader.wrong(
            &at,
            "a request has one of `url`, `tcp`, `dns`",
            "write `url: http://HOST:PORT/PATH`, `tcp: HOST:PORT` or `dns: NAME`",
        );
        return None;
    };
    let kind_at = fields.get(kind)?;
    let own = from.as_ref().map(|actor| actor.target.pod);
    let kind = match *kind {
        "url" => http(reader, kind_at, &fields, own, names),
        "tcp" => {
            let address = reader.string(kind_at.clone())?;
            placeholders(reader, &kind_at, &address, own, names);
            let port = address
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<NonZeroU16>().ok());
            if port.is_none() {
                reader.wrong(
                    &kind_at,
                    &format!("`{address}` has no port"),
                    "write `tcp: HOST:PORT`",
                );
            }
            Some(RequestKind::Tcp {
                address,
                exchange: pieces::exchange(reader, &fields),
            })
        }
        _ => {
            let over = fields
                .get("over")
                .and_then(|at| reader.word(at, &[("udp", false), ("tcp", true)]));
            Some(RequestKind::Dns {
                name: reader.string(kind_at)?,
                server: fields.get("server").and_then(|at| server(reader, at, own, names)),
                tcp: over.unwrap_or(false),
            })
        }
    };
    let ip_family = fields
        .get("ipFamily")
        .and_then(|at| reader.word(at, IpFamily::WORDS));
    Some(Request {
        from: from?,
        kind: kind?,
        timeout: timeout(reader, &fields, REQUEST),
        ip_family,
    })
}

/// Who is asked instead of the pod's resolver.
fn server(reader: &Reader<'_>, at: At<'_>, own: Option<PodId>, names: &Names<'_>) -> Option<String> {
    let text = reader.string(at.clone())?;
    placeholders(reader, &at, &text, own, names);
    let is_address = text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok();
    if !is_address && !text.starts_with("${") {
        reader.wrong(
            &at,
            &format!("`{text}` is no address"),
            "write `server: 127.0.0.1:5353` (53 if no port is given); it is asked as it is, so it has no name",
        );
        return None;
    }
    Some(text)
}

fn http(
    reader: &Reader<'_>,
    at: At<'_>,
    fields: &Fields<'_>,
    own: Option<PodId>,
    names: &Names<'_>,
) -> Option<RequestKind> {
    let url = url(reader, at.clone())?;
    placeholders(reader, &at, &url, own, names);
    let headers = |name: &str| fields.get(name).map(|at| headers(reader, at)).unwrap_or_default();
    let method = fields
        .get("method")
        .and_then(|at| reader.parsed::<http::Method>(at, "write GET, POST, …"));
    Some(RequestKind::Http {
        method: method.map_or_else(|| "GET".to_owned(), |method| method.to_string()),
        url,
        headers: headers("headers"),
        body: body(reader, fields),
        chunked: fields
            .get("chunked")
            .and_then(|at| reader.flag(at))
            .unwrap_or(false),
        trailers: headers("trailers"),
        http2: fields
            .get("http2")
            .and_then(|at| reader.flag(at))
            .unwrap_or(false),
        scrape_of: None,
    })
}

fn headers(reader: &Reader<'_>, at: At<'_>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    for (name, at) in reader.any_map(at).iter().flat_map(Fields::all) {
        if name.parse::<http::HeaderName>().is_err() {
            reader.wrong(&at, &format!("`{name}` is not a header's name"), "");
        }
        headers.extend(reader.strings(at).into_iter().map(|value| (name.clone(), value)));
    }
    headers
}

fn body(reader: &Reader<'_>, fields: &Fields<'_>) -> Body {
    let text = fields.get("body").and_then(|at| reader.string(at));
    let Some(at) = fields.get("bodyBytes") else {
        return text.map_or(Body::Empty, Body::Text);
    };
    if text.is_some() {
        reader.wrong(&at, "both `body` and `bodyBytes`", "a request has one of them");
    }
    reader
        .parsed(at, "write a number of bytes")
        .map_or(Body::Empty, Body::Generated)
}

fn scrape(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Request> {
    let fields = reader.map(
        at.clone(),
        &["from", "pod", "port", "path", "ipFamily", "timeout"],
    )?;
    let from = from(reader, &at, &fields, names);
    let pod = pod(reader, &at, &fields, names);
    let port = fields
        .get("port")
        .and_then(|at| reader.parsed::<NonZeroU16>(at, "write a port from 1 to 65535"));
    let path = fields
        .get("path")
        .and_then(|at| reader.string(at))
        .unwrap_or_else(|| "/stats/prometheus".to_owned());
    let pod = pod?;
    let port = port.map_or(15090, NonZeroU16::get);
    let ip_family = fields
        .get("ipFamily")
        .and_then(|at| Some((reader.word(at.clone(), IpFamily::WORDS)?, at)));
    let which = match &ip_family {
        None => "ip",
        Some((IpFamily::V4, _)) => "ipv4",
        Some((IpFamily::V6, _)) => "ipv6",
    };
    let url = format!("http://${{{}.{which}}}:{port}{path}", names.pod_of(pod).name);
    if let Some((_, at)) = &ip_family {
        placeholders(reader, at, &url, None, names);
    }
    let kind = RequestKind::Http {
        method: "GET".to_owned(),
        url,
        headers: Vec::new(),
        body: Body::Empty,
        chunked: false,
        trailers: Vec::new(),
        http2: false,
        scrape_of: Some(pod),
    };
    Some(Request {
        from: from?,
        kind,
        timeout: timeout(reader, &fields, REQUEST),
        ip_family: None,
    })
}

pub(super) fn pod(reader: &Reader<'_>, at: &At<'_>, fields: &Fields<'_>, names: &Names<'_>) -> Option<PodId> {
    let Some(pod_at) = fields.get("pod") else {
        reader.wrong(at, "no `pod`", "write `pod: NAME`");
        return None;
    };
    let name = reader.string(pod_at.clone())?;
    names.pod(reader, &pod_at, &name, "`pod`")
}

fn exec(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Action> {
    let fields = reader.map(at.clone(), &["from", "command", "asUser", "asGroup", "timeout"])?;
    let from = from(reader, &at, &fields, names);
    let command = fields
        .get("command")
        .map(|at| reader.strings(at))
        .unwrap_or_default();
    if command.is_empty() {
        reader.wrong(&at, "no `command`", "write `command: [PROGRAM, ARGUMENT]`");
        return None;
    }
    Some(Action::Exec {
        from: from?,
        command,
        timeout: timeout(reader, &fields, EXEC),
    })
}

fn gates(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<(PodId, Vec<super::model::Gate>)> {
    let fields = reader.map(at.clone(), &["pod", "gates"])?;
    let pod = pod(reader, &at, &fields, names)?;
    let Some(gates_at) = fields.get("gates") else {
        reader.wrong(&at, "no `gates`", "write `gates: [sidecar]`");
        return None;
    };
    Some((pod, names.gates(reader, gates_at, pod)))
}

fn target<'v>(
    reader: &Reader<'_>,
    at: At<'v>,
    names: &Names<'_>,
    more: &[&str],
) -> Option<(Target, Fields<'v>)> {
    let known: Vec<&str> = ["pod", "process"].iter().chain(more).copied().collect();
    let fields = reader.map(at.clone(), &known)?;
    let pod = pod(reader, &at, &fields, names)?;
    let Some(process_at) = fields.get("process") else {
        reader.wrong(
            &at,
            "no `process`",
            "write `process: CONTAINER`, `process: sidecar` or `process: agent`",
        );
        return None;
    };
    let name = reader.string(process_at.clone())?;
    let process = names.process(reader, &process_at, pod, &name, "`process`")?;
    Some((Target { pod, process }, fields))
}

fn signal(reader: &Reader<'_>, at: At<'_>) -> Option<Signal> {
    let text = reader.string(at.clone())?;
    let name = if text.starts_with("SIG") {
        text.clone()
    } else {
        format!("SIG{text}")
    };
    let found = name.parse::<Signal>().ok();
    if found.is_none() {
        let known: Vec<&str> = Signal::iterator().map(Signal::as_str).collect();
        reader.wrong(
            &at,
            &format!("`{text}` is no signal"),
            &suggestion(&name, "signals", &known),
        );
    }
    found
}

fn wait(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Action> {
    const EVENTS: [&str; 8] = [
        "ready",
        "notReady",
        "started",
        "exited",
        "terminated",
        "phase",
        "event",
        "connection",
    ];
    let known: Vec<&str> = EVENTS.iter().copied().chain(["timeout"]).collect();
    let fields = reader.map(at.clone(), &known)?;
    let timeout = timeout(reader, &fields, WAIT);
    let given: Vec<&str> = EVENTS
        .into_iter()
        .filter(|name| fields.get(name).is_some())
        .collect();
    let [name] = given.as_slice() else {
        let what = if given.is_empty() {
            "nothing to wait for".to_owned()
        } else {
            format!("several things to wait for: {}", given.join(", "))
        };
        reader.wrong(
            &at,
            &what,
            "write one of `ready: POD`, `notReady: POD`, `started: POD/PROCESS`, `exited: POD/PROCESS`, \
             `terminated: POD`, `phase: {pod, is}`, `event: {pod, is}`, `connection: {from, port}`",
        );
        return None;
    };
    let event_at = fields.get(name)?;
    let event = event(reader, name, event_at, names)?;
    Some(Action::Wait { event, timeout })
}

fn event(reader: &Reader<'_>, name: &str, at: At<'_>, names: &Names<'_>) -> Option<Event> {
    let what = format!("`{name}`");
    let pod_named = || {
        let text = reader.string(at.clone())?;
        names.pod(reader, &at, &text, &what)
    };
    let process_named = || {
        let text = reader.string(at.clone())?;
        names.target(reader, &at, &text, &what)
    };
    match name {
        "ready" => pod_named().map(Event::Ready),
        "notReady" => pod_named().map(Event::NotReady),
        "terminated" => pod_named().map(Event::Terminated),
        "started" => process_named().map(Event::Started),
        "exited" => process_named().map(Event::Exited),
        "phase" => {
            let inner = reader.map(at.clone(), &["pod", "is"])?;
            let pod = pod(reader, &at, &inner, names)?;
            let phase = is(reader, &at, &inner, "`is: Succeeded`")?;
            Some(Event::Phase(pod, reader.word(phase, &Phase::ALL)?))
        }
        "event" => {
            let inner = reader.map(at.clone(), &["pod", "is"])?;
            let pod = pod(reader, &at, &inner, names)?;
            let event = is(reader, &at, &inner, "`is: CONTAINER started`")?;
            Some(Event::Happened(
                pod,
                expect::life_event(reader, &event, names, pod)?,
            ))
        }
        _ => {
            let (from, port) = connection(reader, at, names)?;
            Some(Event::Connection { from, port })
        }
    }
}

/// `{from: POD/PROCESS, port: PORT}`.
fn connection(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<(Target, NonZeroU16)> {
    let inner = reader.map(at.clone(), &["from", "port"])?;
    let from = from(reader, &at, &inner, names);
    let port = inner
        .get("port")
        .and_then(|at| reader.parsed(at, "write a port from 1 to 65535"));
    if port.is_none() {
        reader.wrong(&at, "no `port`", "write `{from: POD/PROCESS, port: PORT}`");
    }
    Some((from?.target, port?))
}

fn is<'v>(reader: &Reader<'_>, at: &At<'_>, fields: &Fields<'v>, example: &str) -> Option<At<'v>> {
    let found = fields.get("is");
    if found.is_none() {
        reader.wrong(at, "no `is`", &format!("write {example}"));
    }
    found
}
