//! `services`, `destinationRules`, `virtualServices`.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a YAML value of any other kind is the same mistake"
)]

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use regex::Regex;

use super::families::{self, IpFamilies};
use super::fields::{At, Fields, Reader, suggestion};
use super::model::{
    ConnectionPool, DestinationRule, HttpMatch, HttpRoute, Protocol, Service, ServicePort, StringMatch,
    VirtualService, WeightedDestination,
};
use super::names::label;

const PORT: &str = "write a number from 1 to 65535";

/// Names that the lab itself answers.
const RESERVED: [&str; 2] = ["istiod", "kube-dns"];

/// The object itself, or what a pasted Kubernetes object has in `spec`, under the name in `metadata`.
fn unwrapped<'v>(reader: &Reader<'_>, at: &At<'v>, known: &[&str]) -> Option<(Fields<'v>, Option<At<'v>>)> {
    let fields = reader.any_map(at.clone())?;
    if fields.get("kind").is_none() && fields.get("spec").is_none() {
        return Some((reader.map(at.clone(), known)?, fields.get("name")));
    }
    let outer = reader.map(at.clone(), &["apiVersion", "kind", "metadata", "spec", "status"])?;
    let name = outer
        .get("metadata")
        .and_then(|at| reader.any_map(at))
        .and_then(|it| it.get("name"));
    let spec = outer.get("spec").or_else(|| {
        reader.wrong(at, "no `spec`", "a pasted object has its fields there");
        None
    })?;
    Some((reader.map(spec, known)?, name))
}

/// Labels, or any other map of texts.
pub(super) fn texts(reader: &Reader<'_>, at: At<'_>) -> BTreeMap<String, String> {
    let Some(fields) = reader.any_map(at) else {
        return BTreeMap::new();
    };
    fields
        .all()
        .filter_map(|(name, at)| Some((name, reader.string(at)?)))
        .collect()
}

pub(super) fn services(reader: &Reader<'_>, at: Option<At<'_>>, mesh: IpFamilies) -> Vec<Service> {
    let mut services: Vec<Service> = Vec::new();
    for item in at.map(|at| reader.list(at)).unwrap_or_default() {
        let Some((service, name_at)) = service(reader, &item, mesh) else {
            continue;
        };
        let name = &service.name;
        if RESERVED.contains(&name.as_str()) {
            reader.wrong(
                &name_at,
                &format!("service `{name}` is the lab's own"),
                "choose another name",
            );
        }
        if services.iter().any(|other| other.name == *name) {
            reader.wrong(
                &name_at,
                &format!("service `{name}` is there already"),
                "names are given once",
            );
        }
        services.push(service);
    }
    services
}

/// A service, and where its name stands. What it does not say of its families is as `families` have it.
pub(super) fn service<'v>(
    reader: &Reader<'_>,
    item: &At<'v>,
    families: IpFamilies,
) -> Option<(Service, At<'v>)> {
    let known = &[
        "name",
        "ports",
        "selector",
        "hold",
        "type",
        "clusterIP",
        "sessionAffinity",
        "ipFamilies",
        "ipFamilyPolicy",
    ];
    let (fields, name_at) = unwrapped(reader, item, known)?;
    let name = if let Some(at) = &name_at {
        label(reader, at, "service")
    } else {
        reader.wrong(item, "a service without `name`", "write `name: NAME`");
        None
    };
    let ports = service_ports(reader, item, &fields, name.as_deref());
    let name = name?;
    let selector = fields.get("selector").map(|at| texts(reader, at));
    let selector = selector.unwrap_or_else(|| BTreeMap::from([("app".to_owned(), name.clone())]));
    let service = Service {
        name,
        ports,
        selector,
        held: fields.get("hold").and_then(|at| reader.flag(at)).unwrap_or(false),
        ip_families: families::of_service(reader, &fields, families),
    };
    Some((service, name_at.unwrap_or_else(|| item.clone())))
}

fn service_ports(
    reader: &Reader<'_>,
    item: &At<'_>,
    fields: &Fields<'_>,
    name: Option<&str>,
) -> Vec<ServicePort> {
    let Some(at) = fields.get("ports") else {
        // A misspelt `ports` was told already.
        if fields.all().all(|(name, _)| name != "pots") {
            let name = name.unwrap_or("?");
            reader.wrong(
                item,
                &format!("service `{name}` has no port"),
                "write `ports: [{name: http, port: 80}]`",
            );
        }
        return Vec::new();
    };
    let items = reader.list(at.clone());
    if items.is_empty() {
        let name = name.unwrap_or("?");
        reader.wrong(
            &at,
            &format!("service `{name}` has no port"),
            "write `ports: [{name: http, port: 80}]`",
        );
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    for item in items {
        let known = &[
            "name",
            "port",
            "targetPort",
            "protocol",
            "appProtocol",
            "nodePort",
        ];
        let Some(fields) = reader.map(item.clone(), known) else {
            continue;
        };
        let name = fields
            .get("name")
            .and_then(|at| reader.string(at))
            .unwrap_or_default();
        let app = fields.get("appProtocol").and_then(|at| reader.string(at));
        if let Some(at) = fields.get("protocol") {
            reader.word(at, &[("TCP", ())]);
        }
        let Some(at) = fields.get("port") else {
            reader.wrong(&item, "a port without `port`", PORT);
            continue;
        };
        let Some(port) = reader.parsed::<NonZeroU16>(at.clone(), PORT) else {
            continue;
        };
        let target = fields
            .get("targetPort")
            .and_then(|at| reader.parsed::<NonZeroU16>(at, PORT));
        if ports.iter().any(|other| other.port == port) {
            reader.wrong(
                &at,
                &format!("port {port} is there already"),
                "a service has each port once",
            );
        }
        let protocol = protocol(app.as_deref().unwrap_or(&name));
        ports.push(ServicePort {
            name,
            port,
            target_port: target.unwrap_or(port),
            protocol,
        });
    }
    ports
}

/// By `appProtocol`, or by the part of the port's name before the first `-` (Istio's protocol selection).
fn protocol(name: &str) -> Protocol {
    match name
        .split('-')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        "http" => Protocol::Http,
        "http2" | "grpc" | "kubernetes.io/h2c" => Protocol::Http2,
        "tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" | "postgres" => Protocol::Tcp,
        _ => Protocol::Unknown,
    }
}

/// A service by the host that names it: `reviews`, `reviews.default`, …
fn host(reader: &Reader<'_>, at: At<'_>, services: &[Service]) -> Option<usize> {
    let text = reader.string(at.clone())?;
    let short = ["", ".default", ".default.svc", ".default.svc.cluster.local"]
        .into_iter()
        .find_map(|tail| text.strip_suffix(tail).filter(|name| !name.contains('.')));
    let found = services
        .iter()
        .position(|service| Some(service.name.as_str()) == short);
    if found.is_none() {
        let known: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        reader.wrong(
            &at,
            &format!("host `{text}` is no service of this file"),
            &suggestion(&text, "services", &known),
        );
    }
    found
}

pub(super) fn destination_rules(
    reader: &Reader<'_>,
    at: Option<At<'_>>,
    services: &[Service],
) -> Vec<DestinationRule> {
    let items = at.map(|at| reader.list(at)).unwrap_or_default();
    let rules = items.iter().map(|item| destination_rule(reader, item, services));
    rules.flatten().collect()
}

/// Its name is its host's if it has none.
pub(super) fn destination_rule(
    reader: &Reader<'_>,
    item: &At<'_>,
    services: &[Service],
) -> Option<DestinationRule> {
    let (fields, name_at) = unwrapped(reader, item, &["name", "host", "subsets", "trafficPolicy"])?;
    let Some(at) = fields.get("host") else {
        reader.wrong(item, "a destination rule without `host`", "write `host: SERVICE`");
        return None;
    };
    let service = host(reader, at, services);
    let mut subsets = Vec::new();
    for item in fields
        .get("subsets")
        .map(|at| reader.list(at))
        .unwrap_or_default()
    {
        let Some(fields) = reader.map(item.clone(), &["name", "labels"]) else {
            continue;
        };
        let Some(name) = fields.get("name").and_then(|at| label(reader, &at, "subset")) else {
            reader.wrong(
                &item,
                "a subset without `name`",
                "write `{name: v1, labels: {version: v1}}`",
            );
            continue;
        };
        subsets.push((
            name,
            fields
                .get("labels")
                .map(|at| texts(reader, at))
                .unwrap_or_default(),
        ));
    }
    let service = service?;
    Some(DestinationRule {
        name: name_at
            .and_then(|at| reader.string(at))
            .unwrap_or_else(|| services[service].name.clone()),
        service,
        subsets,
        connection_pool: fields
            .get("trafficPolicy")
            .map(|at| connection_pool(reader, at))
            .unwrap_or_default(),
    })
}

/// `trafficPolicy: {connectionPool: {http: {idleTimeout}, tcp: {idleTimeout}}}`.
fn connection_pool(reader: &Reader<'_>, policy: At<'_>) -> ConnectionPool {
    let pool = reader
        .map(policy, &["connectionPool"])
        .and_then(|fields| reader.map(fields.get("connectionPool")?, &["http", "tcp"]));
    let idle = |protocol: &str| {
        let fields = reader.map(pool.as_ref()?.get(protocol)?, &["idleTimeout"])?;
        reader.limit(fields.get("idleTimeout")?)
    };
    ConnectionPool {
        http_idle: idle("http"),
        tcp_idle: idle("tcp"),
    }
}

pub(super) fn virtual_services(
    reader: &Reader<'_>,
    at: Option<At<'_>>,
    services: &[Service],
    rules: &[DestinationRule],
) -> Vec<VirtualService> {
    let items = at.map(|at| reader.list(at)).unwrap_or_default();
    let found = items
        .iter()
        .map(|item| virtual_service(reader, item, services, rules));
    found.flatten().collect()
}

/// One for each of its hosts. Its name is its first host's if it has none.
pub(super) fn virtual_service(
    reader: &Reader<'_>,
    item: &At<'_>,
    services: &[Service],
    rules: &[DestinationRule],
) -> Vec<VirtualService> {
    let Some((fields, name_at)) = unwrapped(reader, item, &["name", "hosts", "http"]) else {
        return Vec::new();
    };
    let hosts = fields.get("hosts").map(|at| reader.list(at)).unwrap_or_default();
    if hosts.is_empty() {
        reader.wrong(
            item,
            "a virtual service without `hosts`",
            "write `hosts: [SERVICE]`",
        );
    }
    let hosts: Vec<usize> = hosts
        .into_iter()
        .filter_map(|at| host(reader, at, services))
        .collect();
    let routes = fields.get("http").map(|at| reader.list(at)).unwrap_or_default();
    if routes.is_empty() {
        reader.wrong(
            item,
            "a virtual service without `http`",
            "write `http: [{route: [...]}]`",
        );
    }
    let http: Vec<HttpRoute> = routes
        .into_iter()
        .filter_map(|at| http_route(reader, at, services, rules))
        .collect();
    let name = name_at
        .and_then(|at| reader.string(at))
        .or_else(|| hosts.first().map(|first| services[*first].name.clone()))
        .unwrap_or_default();
    let of_host = |service| VirtualService {
        name: name.clone(),
        service,
        http: http.clone(),
    };
    hosts.into_iter().map(of_host).collect()
}

fn http_route(
    reader: &Reader<'_>,
    at: At<'_>,
    services: &[Service],
    rules: &[DestinationRule],
) -> Option<HttpRoute> {
    let fields = reader.map(
        at.clone(),
        &["name", "match", "route", "timeout", "retries", "directResponse"],
    )?;
    let matches = fields.get("match").map(|at| reader.list(at)).unwrap_or_default();
    let destinations = fields.get("route").map(|at| reader.list(at)).unwrap_or_default();
    let direct_response = fields
        .get("directResponse")
        .and_then(|at| direct_response(reader, at));
    if destinations.is_empty() && direct_response.is_none() {
        reader.wrong(
            &at,
            "a route that leads nowhere",
            "write `route: [{destination: {host: SERVICE}}]`",
        );
    }
    let only = destinations.len() == 1;
    let destinations: Vec<WeightedDestination> = destinations
        .into_iter()
        .filter_map(|at| destination(reader, at, services, rules, only))
        .collect();
    if destinations.len() > 1 && destinations.iter().all(|it| it.weight == 0) {
        reader.wrong(
            &at,
            "the weights of this route sum to 0",
            "write `weight: N` at each destination",
        );
    }
    let retries = fields
        .get("retries")
        .and_then(|at| reader.map(at, &["attempts", "perTryTimeout", "retryOn"]));
    Some(HttpRoute {
        matches: matches
            .into_iter()
            .filter_map(|at| http_match(reader, at))
            .collect(),
        destinations,
        timeout: fields.get("timeout").and_then(|at| reader.duration(at)),
        retries: retries
            .and_then(|it| it.get("attempts"))
            .and_then(|at| reader.parsed(at, "write a number from 0")),
        direct_response,
    })
}

fn direct_response(reader: &Reader<'_>, at: At<'_>) -> Option<(u16, String)> {
    let fields = reader.map(at.clone(), &["status", "body"])?;
    let status = fields.get("status").and_then(|at| status(reader, at));
    if status.is_none() {
        reader.wrong(
            &at,
            "a direct response without `status`",
            "write `{status: 503, body: {string: text}}`",
        );
    }
    let body = fields.get("body").and_then(|at| match at.value {
        serde_yaml::Value::Mapping(_) => {
            let inner = reader.map(at, &["string"])?;
            inner.get("string").and_then(|at| reader.string(at))
        }
        _ => reader.string(at),
    });
    Some((status?, body.unwrap_or_default()))
}

/// An HTTP status.
pub(super) fn status(reader: &Reader<'_>, at: At<'_>) -> Option<u16> {
    let status: u16 = reader.parsed(at.clone(), "write a number from 100 to 599")?;
    if !(100..=599).contains(&status) {
        reader.wrong(
            &at,
            &format!("{status} is no HTTP status"),
            "write a number from 100 to 599",
        );
        return None;
    }
    Some(status)
}

fn destination(
    reader: &Reader<'_>,
    at: At<'_>,
    services: &[Service],
    rules: &[DestinationRule],
    only: bool,
) -> Option<WeightedDestination> {
    let fields = reader.map(at.clone(), &["destination", "weight"])?;
    let Some(to) = fields.get("destination") else {
        reader.wrong(
            &at,
            "no `destination`",
            "write `{destination: {host: SERVICE, subset: NAME}, weight: N}`",
        );
        return None;
    };
    let inner = reader.map(to.clone(), &["host", "subset", "port"])?;
    let Some(host_at) = inner.get("host") else {
        reader.wrong(&to, "a destination without `host`", "write `host: SERVICE`");
        return None;
    };
    let service = host(reader, host_at, services)?;
    let subset = inner.get("subset").and_then(|at| {
        let name = reader.string(at.clone())?;
        let of_service = rules.iter().filter(|rule| rule.service == service);
        let known: Vec<&str> = of_service
            .flat_map(|rule| &rule.subsets)
            .map(|(name, _)| name.as_str())
            .collect();
        if !known.contains(&name.as_str()) {
            let what = format!("service `{}` has no subset `{name}`", services[service].name);
            reader.wrong(
                &at,
                &what,
                &suggestion(&name, "its subsets (destinationRules)", &known),
            );
        }
        Some(name)
    });
    let port = inner
        .get("port")
        .and_then(|at| reader.map(at, &["number"]))
        .and_then(|it| it.get("number"));
    let weight = fields
        .get("weight")
        .and_then(|at| reader.parsed(at, "write a number from 0"));
    Some(WeightedDestination {
        service,
        subset,
        port: port.and_then(|at| reader.parsed(at, PORT)),
        weight: weight.unwrap_or(u32::from(only)),
    })
}

fn http_match(reader: &Reader<'_>, at: At<'_>) -> Option<HttpMatch> {
    let fields = reader.map(at, &["name", "uri", "headers", "method"])?;
    let headers = fields.get("headers").and_then(|at| reader.any_map(at));
    let headers = headers.iter().flat_map(Fields::all);
    Some(HttpMatch {
        uri: fields.get("uri").and_then(|at| string_match(reader, at)),
        method: fields.get("method").and_then(|at| string_match(reader, at)),
        headers: headers
            .filter_map(|(name, at)| Some((name.to_ascii_lowercase(), string_match(reader, at)?)))
            .collect(),
    })
}

/// `{exact: …}`, `{prefix: …}`, `{regex: …}`; a text stands for `exact`.
pub(super) fn string_match(reader: &Reader<'_>, at: At<'_>) -> Option<StringMatch> {
    if !matches!(at.value, serde_yaml::Value::Mapping(_)) {
        return reader.string(at).map(StringMatch::Exact);
    }
    let fields = reader.map(at.clone(), &["exact", "prefix", "regex"])?;
    if let Some(at) = fields.get("exact") {
        return reader.string(at).map(StringMatch::Exact);
    }
    if let Some(at) = fields.get("prefix") {
        return reader.string(at).map(StringMatch::Prefix);
    }
    let Some(at) = fields.get("regex") else {
        reader.wrong(
            &at,
            "nothing to match",
            "write `{exact: TEXT}`, `{prefix: TEXT}` or `{regex: RE2}`",
        );
        return None;
    };
    let text = reader.string(at.clone())?;
    if let Err(error) = Regex::new(&text) {
        reader.wrong(
            &at,
            &format!("`{text}` is no regular expression: {error}"),
            "write RE2 syntax",
        );
    }
    Some(StringMatch::Regex(text))
}
