//! `request` and `scrape` steps.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use super::apps::url;
use super::families::IpFamily;
use super::fields::{At, Fields, Reader};
use super::model::{Body, PodId, Request, RequestKind};
use super::names::Names;
use super::pieces;
use super::steps::{from, pod, timeout};

/// How long a request may take if it does not say.
const REQUEST: Duration = Duration::from_secs(5);

pub(super) fn request(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Request> {
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

pub(super) fn scrape(reader: &Reader<'_>, at: At<'_>, names: &Names<'_>) -> Option<Request> {
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
