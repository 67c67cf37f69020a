//! `steps`.

use std::num::NonZeroU16;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::expect;
use super::faults;
use super::fields::{At, Fields, Reader, suggestion};
use super::lifecycle::Phase;
use super::model::{Action, Actor, Event, PodId, Step, Target};
use super::names::Names;
use super::objects;
use super::requests::{request, scrape};

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

pub(super) fn from(
    reader: &Reader<'_>,
    at: &At<'_>,
    fields: &Fields<'_>,
    names: &Names<'_>,
) -> Option<Actor> {
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

pub(super) fn timeout(reader: &Reader<'_>, fields: &Fields<'_>, otherwise: Duration) -> Duration {
    fields
        .get("timeout")
        .and_then(|at| reader.duration(at))
        .unwrap_or(otherwise)
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
