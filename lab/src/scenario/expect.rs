//! `expect`.

use iptables::options::Backend;

use super::fields::{At, Fields, Reader, suggestion};
use super::lifecycle::{EVENTS, INIT, POD_EVENTS, PROXY, Phase};
use super::model::{Action, BodyMatch, Expect, Outcome, PodId, RequestKind, Restarts, Target};
use super::names::Names;
use super::services::{status, string_match};
use crate::path::{Hop, HopPattern, LegPattern, NotationError, RESERVED_ROLES, is_role, parse_hops};

pub(super) const FIELDS: &[&str] = &[
    "outcome",
    "status",
    "responseFlags",
    "body",
    "headers",
    "exitCode",
    "path",
    "contains",
    "never",
    "eventually",
    "phase",
    "ready",
    "restarts",
    "events",
    "neverEvents",
];

pub(super) fn read(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Expect {
    let Some(fields) = reader.map(at, FIELDS) else {
        return Expect::default();
    };
    let outcomes = Outcome::ALL.map(|outcome| (outcome.name(), outcome));
    let headers = fields.get("headers").and_then(|at| reader.any_map(at));
    let eventually = fields
        .get("eventually")
        .and_then(|at| reader.map(at, &["within"]));
    Expect {
        outcome: fields.get("outcome").map_or_else(Vec::new, |at| {
            let items = if matches!(at.value, serde_yaml::Value::Sequence(_)) {
                reader.list(at)
            } else {
                vec![at]
            };
            items
                .into_iter()
                .filter_map(|at| reader.word(at, &outcomes))
                .collect()
        }),
        status: fields.get("status").and_then(|at| status(reader, at)),
        response_flags: fields.get("responseFlags").and_then(|at| reader.string(at)),
        body: fields.get("body").and_then(|at| body(reader, at, names)),
        headers: headers
            .iter()
            .flat_map(Fields::all)
            .filter_map(|(name, at)| Some((name.to_ascii_lowercase(), string_match(reader, at)?)))
            .collect(),
        exit_code: fields
            .get("exitCode")
            .and_then(|at| reader.parsed(at, "write a number")),
        path: by_pod(reader, &fields, names, "path", |at, pod| {
            path(reader, at, names, pod)
        }),
        contains: by_pod(reader, &fields, names, "contains", |at, pod| {
            contains(reader, at, names, pod)
        }),
        never: by_pod(reader, &fields, names, "never", |at, pod| {
            never(reader, at, names, pod)
        }),
        eventually: eventually
            .and_then(|it| it.get("within"))
            .and_then(|at| reader.duration(at)),
        phase: known(by_pod(reader, &fields, names, "phase", |at, _| {
            reader.word(at, &Phase::ALL)
        })),
        ready: known(by_pod(reader, &fields, names, "ready", |at, _| reader.flag(at))),
        restarts: restarts(reader, &fields, names),
        events: by_pod(reader, &fields, names, "events", |at, pod| {
            life_events(reader, at, names, pod)
        }),
        never_events: by_pod(reader, &fields, names, "neverEvents", |at, pod| {
            life_events(reader, at, names, pod)
        }),
    }
}

/// Those that could be read.
fn known<T>(all: Vec<(PodId, Option<T>)>) -> Vec<(PodId, T)> {
    all.into_iter()
        .filter_map(|(pod, value)| Some((pod, value?)))
        .collect()
}

/// `restarts: {POD/CONTAINER: 2}`, or `">=1"`.
fn restarts(reader: &Reader<'_>, fields: &Fields<'_>, names: &Names<'_>) -> Vec<(Target, Restarts)> {
    let Some(map) = fields.get("restarts").and_then(|at| reader.any_map(at)) else {
        return Vec::new();
    };
    let one = |(name, at): (String, At<'_>)| {
        let target = names.target(reader, &at, &name, "`restarts`")?;
        let text = reader.string(at.clone())?;
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let read = match text.strip_prefix(">=") {
            Some(least) => number(least).map(Restarts::AtLeast),
            None => number(&text).map(Restarts::Exactly),
        };
        if read.is_none() {
            reader.wrong(
                &at,
                &format!("`{text}` is no number of restarts"),
                "write `2`, or `\">=1\"` for one or more",
            );
        }
        Some((target, read?))
    };
    map.all().filter_map(one).collect()
}

fn life_events(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>, pod: PodId) -> Vec<String> {
    let items = if matches!(at.value, serde_yaml::Value::Sequence(_)) {
        reader.list(at)
    } else {
        vec![at]
    };
    items
        .into_iter()
        .filter_map(|item| life_event(reader, &item, names, pod))
        .collect()
}

/// `CONTAINER started`, `CONTAINER ended 0`, `rules installed`: something that can happen to this pod.
pub(super) fn life_event(reader: &Reader<'_>, at: &At<'_>, names: &Names<'_>, pod: PodId) -> Option<String> {
    let text = reader.string(at.clone())?;
    if POD_EVENTS.contains(&text.as_str()) {
        return Some(text);
    }
    let known = names.pod_of(pod);
    let mut who: Vec<&str> = known.containers.iter().map(|it| it.name.as_str()).collect();
    if known.sidecar.is_some() {
        who.extend([PROXY, INIT]);
    }
    let (name, what) = text.split_once(' ').unwrap_or((text.as_str(), ""));
    if !who.contains(&name) {
        let help = format!(
            "write a container and what happens to it; containers are: {}; what happens to the pod is: {}",
            who.join(", "),
            POD_EVENTS.join(", ")
        );
        reader.wrong(
            at,
            &format!("`{text}` happens to no container of this pod"),
            &help,
        );
        return None;
    }
    let ended = what
        .strip_prefix("ended ")
        .is_some_and(|code| code.parse::<i32>().is_ok());
    if !ended && !EVENTS.contains(&what) {
        let help = format!("{}, or `ended STATUS`", suggestion(what, "events", &EVENTS));
        reader.wrong(at, &format!("`{what}` does not happen to a container"), &help);
        return None;
    }
    Some(text)
}

fn body(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<BodyMatch> {
    let text = |at: At<'_>| {
        let text = reader.string(at.clone())?;
        addresses(reader, &at, &text, names);
        Some(text)
    };
    if !matches!(at.value, serde_yaml::Value::Mapping(_)) {
        return text(at).map(BodyMatch::Exact);
    }
    let fields = reader.map(at, &["contains"])?;
    fields.get("contains").and_then(text).map(BodyMatch::Contains)
}

/// `${POD.ip}` must name a pod; anything else in braces is the body's own.
fn addresses(reader: &Reader<'_>, at: &At<'_>, text: &str, names: &Names<'_>) {
    let braced = text.split("${").skip(1).filter_map(|part| part.split_once('}'));
    for (name, _) in braced {
        if let Some(pod) = name.strip_suffix(".ip")
            && !["self", "istiod"].contains(&pod)
        {
            let _known = names.pod(reader, at, pod, &format!("`${{{name}}}`"));
        }
    }
}

fn by_pod<T>(
    reader: &Reader<'_>,
    fields: &Fields<'_>,
    names: &Names<'_>,
    what: &str,
    read: impl Fn(At<'_>, PodId) -> T,
) -> Vec<(PodId, T)> {
    let Some(map) = fields.get(what).and_then(|at| reader.any_map(at)) else {
        return Vec::new();
    };
    let one = |(name, at): (String, At<'_>)| {
        let pod = names.pod(reader, &at, &name, &format!("`{what}`"))?;
        Some((pod, read(at, pod)))
    };
    map.all().filter_map(one).collect()
}

fn path(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>, pod: PodId) -> Vec<LegPattern> {
    let mut legs = Vec::new();
    for item in reader.list(at) {
        let Some(text) = reader.string(item.clone()) else {
            continue;
        };
        match text.parse::<LegPattern>() {
            Ok(LegPattern { hops, reused }) => legs.push(LegPattern {
                hops: named(reader, &item, names, pod, hops),
                reused,
            }),
            Err(error) => reader.wrong(&item, &error.to_string(), ""),
        }
    }
    legs
}

/// A text, or a list of texts: each is hops joined by ` -> `, all of which must be in one leg.
fn contains(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>, pod: PodId) -> Vec<Vec<HopPattern>> {
    let items = if matches!(at.value, serde_yaml::Value::Sequence(_)) {
        reader.list(at)
    } else {
        vec![at]
    };
    items
        .into_iter()
        .filter_map(|item| hops(reader, &item, names, pod))
        .collect()
}

fn never(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>, pod: PodId) -> Vec<HopPattern> {
    contains(reader, at, names, pod).into_iter().flatten().collect()
}

fn hops(reader: &Reader<'_>, at: &At<'_>, names: &Names<'_>, pod: PodId) -> Option<Vec<HopPattern>> {
    let text = reader.string(at.clone())?;
    match parse_hops(&text) {
        Ok(hops) => Some(named(reader, at, names, pod, hops)),
        Err(error) => {
            reader.wrong(at, &error.to_string(), "");
            None
        }
    }
}

/// A role must be a process of the pod. A name in small letters without a port that is none is a chain, if the pod can
/// have such chains.
fn named(
    reader: &Reader<'_>,
    at: &At<'_>,
    names: &Names<'_>,
    pod: PodId,
    hops: Vec<HopPattern>,
) -> Vec<HopPattern> {
    let known = names.pod_of(pod);
    let is_process = |name: &str| {
        RESERVED_ROLES.contains(&name) || known.containers.iter().any(|container| container.name == name)
    };
    let has_small_chains = known.custom_rules.is_some() || known.backend() == Some(Backend::Nftables);
    let one = |hop| match hop {
        HopPattern::Exactly(Hop::Origin { role }) if has_small_chains && !is_process(&role) => {
            HopPattern::AnyRuleOf(role)
        }
        HopPattern::AnyRuleOf(name) if is_role(&name) && (is_process(&name) || !has_small_chains) => {
            reader.wrong(at, &NotationError::OriginNotFirst(name.clone()).to_string(), "");
            HopPattern::AnyRuleOf(name)
        }
        hop @ HopPattern::Exactly(Hop::Origin { .. } | Hop::Socket { .. }) => {
            if let HopPattern::Exactly(Hop::Origin { role } | Hop::Socket { role, .. }) = &hop {
                let _known = names.process(reader, at, pod, role, "a hop");
            }
            hop
        }
        other @ (HopPattern::Exactly(Hop::Hook(_) | Hop::Rule { .. } | Hop::End(_))
        | HopPattern::AnyRuleOf(_)) => other,
    };
    hops.into_iter().map(one).collect()
}

/// An expectation that a step of this kind can never meet is a mistake.
pub(super) fn fits(reader: &Reader<'_>, at: &At<'_>, expect: &Expect, action: &Action) {
    let is_probe = matches!(action, Action::Probe { .. });
    let is_http = is_probe
        || matches!(action, Action::Request(request) if matches!(request.kind, RequestKind::Http { .. }));
    let is_request = is_probe || matches!(action, Action::Request(_));
    let is_exec = matches!(action, Action::Exec { .. } | Action::Rules { .. });
    // Only the built-in client and an awaited connection are followed from their first packet.
    let sees_legs = is_request || matches!(action, Action::Wait { .. });
    let has_legs = !expect.path.is_empty() || !expect.contains.is_empty() || !expect.never.is_empty();
    let checks = [
        (
            expect.status.is_some() && !is_http,
            "`status` of a step that is no HTTP request",
        ),
        (
            !expect.headers.is_empty() && !is_http,
            "`headers` of a step that is no HTTP request",
        ),
        (
            expect.response_flags.is_some() && !is_request,
            "`responseFlags` of a step that sends nothing",
        ),
        (
            !expect.outcome.is_empty() && !is_request,
            "`outcome` of a step that is no request",
        ),
        (
            expect.body.is_some() && !(is_request || is_exec),
            "`body` of a step that reads nothing",
        ),
        (
            expect.exit_code.is_some() && !is_exec,
            "`exitCode` of a step that is no `exec`",
        ),
        (!sees_legs && has_legs, "a path of a step that is no request"),
    ];
    for (wrong, what) in checks {
        if wrong {
            reader.wrong(at, what, "take it out: it could never hold");
        }
    }
}
