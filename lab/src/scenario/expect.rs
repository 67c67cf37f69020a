//! `expect`.

use super::fields::{At, Fields, Reader};
use super::model::{Action, BodyMatch, Expect, Outcome, PodId, RequestKind};
use super::names::Names;
use super::services::{status, string_match};
use crate::path::{Hop, HopPattern, LegPattern, parse_hops};

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
        outcome: fields.get("outcome").and_then(|at| reader.word(at, &outcomes)),
        status: fields.get("status").and_then(|at| status(reader, at)),
        response_flags: fields.get("responseFlags").and_then(|at| reader.string(at)),
        body: fields.get("body").and_then(|at| body(reader, at)),
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
    }
}

fn body(reader: &Reader<'_>, at: At<'_>) -> Option<BodyMatch> {
    if !matches!(at.value, serde_yaml::Value::Mapping(_)) {
        return reader.string(at).map(BodyMatch::Exact);
    }
    let fields = reader.map(at, &["contains"])?;
    fields
        .get("contains")
        .and_then(|at| reader.string(at))
        .map(BodyMatch::Contains)
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
            Ok(leg) => {
                roles(reader, &item, names, pod, &leg.hops);
                legs.push(leg);
            }
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
        Ok(hops) => {
            roles(reader, at, names, pod, &hops);
            Some(hops)
        }
        Err(error) => {
            reader.wrong(at, &error.to_string(), "");
            None
        }
    }
}

/// A socket's role must be a process of the pod.
fn roles(reader: &Reader<'_>, at: &At<'_>, names: &Names<'_>, pod: PodId, hops: &[HopPattern]) {
    for hop in hops {
        if let HopPattern::Exactly(Hop::Origin { role } | Hop::Socket { role, .. }) = hop {
            let _known = names.process(reader, at, pod, role, "a hop");
        }
    }
}

/// An expectation that a step of this kind can never meet is a mistake.
pub(super) fn fits(reader: &Reader<'_>, at: &At<'_>, expect: &Expect, action: &Action) {
    let is_http =
        matches!(action, Action::Request(request) if matches!(request.kind, RequestKind::Http { .. }));
    let is_request = matches!(action, Action::Request(_));
    let is_exec = matches!(action, Action::Exec { .. });
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
            expect.outcome.is_some() && !is_request,
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
