//! `app` of a container: the built-in workload.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::fields::{At, Fields, Reader};
use super::model::{App, AppRoute, Listen};
use super::pieces;
use super::services::status;

pub(super) fn app(reader: &Reader<'_>, at: At<'_>) -> Option<App> {
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
