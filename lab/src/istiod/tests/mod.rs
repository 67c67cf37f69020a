//! A small mesh, and what is served for it: shapes by snapshot, streams by a real client.

mod families;
mod idle;
mod sessions;
mod shapes;
mod streams;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::ip_mode::IpMode;
use super::metadata::View;
use super::registry::{
    Destination, Endpoint, Match, Port, Protocol, Proxy, Registry, Route, Service, StringMatch,
};

/// As proxies see it whose metadata say nothing.
fn seen(registry: &Registry, mode: IpMode) -> View<'_> {
    View {
        registry,
        mode,
        idle_timeout: None,
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    owned.collect()
}

fn port(name: &str, port: u16, target_port: u16, protocol: Protocol) -> Port {
    Port {
        name: name.to_owned(),
        port,
        target_port,
        protocol,
    }
}

fn service(name: &str, vip: u8, ports: Vec<Port>, endpoints: Vec<Endpoint>) -> Service {
    Service {
        name: name.to_owned(),
        vip: Ipv4Addr::new(10, 96, 0, vip).into(),
        ports,
        subsets: Vec::new(),
        routes: Vec::new(),
        http_idle_ms: None,
        tcp_idle_ms: None,
        endpoints,
        selected: Vec::new(),
    }
}

fn endpoint(pod: &str, ip: u8, version: &str) -> Endpoint {
    Endpoint {
        ips: Ipv4Addr::new(10, 244, 0, ip).into(),
        pod: pod.to_owned(),
        labels: labels(&[("version", version)]),
    }
}

fn proxy(pod: &str, ip: u8) -> Proxy {
    Proxy {
        node_id: format!("sidecar~10.244.0.{ip}~{pod}.default~default.svc.cluster.local"),
        pod: pod.to_owned(),
        ips: Ipv4Addr::new(10, 244, 0, ip).into(),
    }
}

fn to_reviews(subset: &str, weight: u32) -> Destination {
    Destination {
        service: "reviews".to_owned(),
        subset: Some(subset.to_owned()),
        port: None,
        weight,
    }
}

/// Jason gets v2 in half a second or not at all; `/teapot` is answered at once; everybody else gets v1 and v3.
fn reviews_routes() -> Vec<Route> {
    let route = Route {
        matches: Vec::new(),
        destinations: Vec::new(),
        timeout_ms: None,
        retries: None,
        direct_response: None,
    };
    let jason = Match {
        uri: Some(StringMatch::Prefix("/reviews".to_owned())),
        method: None,
        headers: BTreeMap::from([("end-user".to_owned(), StringMatch::Exact("jason".to_owned()))]),
    };
    let teapot = Match {
        uri: Some(StringMatch::Exact("/teapot".to_owned())),
        method: Some(StringMatch::Exact("GET".to_owned())),
        headers: BTreeMap::new(),
    };
    vec![
        Route {
            matches: vec![jason],
            destinations: vec![to_reviews("v2", 100)],
            timeout_ms: Some(500),
            retries: Some(0),
            ..route.clone()
        },
        Route {
            matches: vec![teapot],
            direct_response: Some((418, "short and stout".to_owned())),
            ..route.clone()
        },
        Route {
            destinations: vec![to_reviews("v1", 80), to_reviews("v3", 20), to_reviews("v2", 0)],
            ..route
        },
    ]
}

/// Bookinfo in short, with a TCP service, an undeclared one, and the control plane itself.
pub(super) fn bookinfo() -> Registry {
    let mut registry = Registry {
        allow_any: true,
        inbound_to_pod_ip: true,
        retries: 2,
        protocol_detection_ms: 0,
        access_log: true,
        services: services(),
        proxies: vec![proxy("productpage-v1", 10), proxy("reviews-v1", 11)],
    };
    select(&mut registry, "productpage-v1", &["productpage"]);
    select(&mut registry, "reviews-v1", &["reviews", "mysql", "legacy"]);
    registry
}

/// The pod is of these services, ready or not.
fn select(registry: &mut Registry, pod: &str, services: &[&str]) {
    let chosen = registry
        .services
        .iter_mut()
        .filter(|service| services.contains(&service.name.as_str()));
    for service in chosen {
        service.selected.push(pod.to_owned());
    }
}

fn services() -> Vec<Service> {
    let http = |port_number| vec![port("http", port_number, 9080, Protocol::Http)];
    let reviews = Service {
        subsets: ["v1", "v2", "v3"]
            .map(|version| (version.to_owned(), labels(&[("version", version)])))
            .to_vec(),
        routes: reviews_routes(),
        ..service(
            "reviews",
            11,
            http(9080),
            vec![
                endpoint("reviews-v1", 11, "v1"),
                endpoint("reviews-v2", 12, "v2"),
                endpoint("reviews-v3", 13, "v3"),
            ],
        )
    };
    let istiod = vec![
        port("grpc-xds", 15010, 15010, Protocol::Http2),
        port("http-monitoring", 15014, 15014, Protocol::Http),
    ];
    vec![
        service(
            "productpage",
            10,
            http(9080),
            vec![endpoint("productpage-v1", 10, "v1")],
        ),
        reviews,
        service("ratings", 14, http(80), vec![]),
        service(
            "mysql",
            15,
            vec![port("tcp-mysql", 3306, 3306, Protocol::Tcp)],
            vec![endpoint("mysql", 15, "v1")],
        ),
        service(
            "legacy",
            16,
            vec![port("legacy", 7000, 7000, Protocol::Unknown)],
            vec![],
        ),
        service("istiod", 20, istiod, vec![endpoint("istiod", 2, "v1")]),
    ]
}
