//! What proxies get by the families of their addresses: listeners, sources, endpoints, virtual hosts.

use std::net::{Ipv4Addr, Ipv6Addr};

use envoy_types::pb::envoy::config::core::v3::SocketAddress;
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::{Address, BindConfig};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::listener::v3::Listener;

use super::super::ip_mode::IpMode;
use super::super::metadata::Metadata;
use super::super::{clusters, endpoints, listeners, routes};
use super::{bookinfo, seen};
use crate::istiod::registry::{Proxy, Registry};
use crate::plan::ips::Ips;
use crate::scenario::families::IpFamilies;

/// The same mesh, where all services and endpoints have both families, and the one proxy has these.
fn mesh(families: IpFamilies) -> Registry {
    let mut registry = bookinfo();
    for (number, service) in (1..).zip(&mut registry.services) {
        service.vip = both(10, number);
        for (number, endpoint) in (1..).zip(&mut service.endpoints) {
            endpoint.ips = both(20, number);
        }
    }
    for proxy in &mut registry.proxies {
        proxy.ips = Ips::new(families, v4(20, 1), v6(20, 1));
    }
    registry
}

fn v4(range: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, range, 0, number)
}

fn v6(range: u8, number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, range.into(), 0, 0, 0, 0, 0, number.into())
}

fn both(range: u8, number: u8) -> Ips {
    Ips::new(
        IpFamilies::V4.and(IpFamilies::V6),
        v4(range, number),
        v6(range, number),
    )
}

fn reviews(registry: &Registry) -> &Proxy {
    &registry.proxies[1]
}

fn ip(address: Option<&Address>) -> &str {
    match address.and_then(|address| address.address.as_ref()) {
        Some(AddressKind::SocketAddress(SocketAddress { address, .. })) => address,
        _ => "none",
    }
}

/// Its name, its address, its further addresses.
fn place(listener: &Listener) -> String {
    let more = listener.additional_addresses.iter();
    let more = more.map(|more| ip(more.address.as_ref()));
    let all: Vec<&str> = std::iter::once(ip(listener.address.as_ref()))
        .chain(more)
        .collect();
    format!("{} {}", listener.name, all.join(" "))
}

fn sources(bind: Option<&BindConfig>) -> Vec<String> {
    let bind = bind.unwrap();
    let extra = bind.extra_source_addresses.iter();
    let extra = extra.filter_map(|extra| extra.address.as_ref());
    bind.source_address
        .iter()
        .chain(extra)
        .map(|source| source.address.clone())
        .collect()
}

#[track_caller]
fn check(families: IpFamilies, own: [&str; 2], shared: &[&str], from: &[&str], to: &str) {
    let registry = mesh(families);
    let proxy = reviews(&registry);
    let mode = IpMode::of(proxy);
    let found = listeners::own(&registry, proxy, Metadata::default());
    assert_eq!(found.iter().map(place).collect::<Vec<_>>(), own);
    let found: Vec<String> = listeners::shared(seen(&registry, mode))
        .iter()
        .map(place)
        .collect();
    for wanted in shared {
        assert!(
            found.iter().any(|found| found == wanted),
            "no {wanted} in {found:?}"
        );
    }
    let passthrough = clusters::shared(&registry, mode);
    let passthrough = passthrough
        .iter()
        .find(|cluster| cluster.name == "InboundPassthroughCluster")
        .unwrap();
    assert_eq!(sources(passthrough.upstream_bind_config.as_ref()), from);
    for cluster in clusters::own(&registry, proxy) {
        assert_eq!(
            sources(cluster.upstream_bind_config.as_ref()),
            from,
            "{}",
            cluster.name
        );
    }
    let assignments = endpoints::of(&registry, mode);
    let first = assignments
        .iter()
        .find(|assignment| assignment.cluster_name.starts_with("outbound|9080||reviews"))
        .unwrap();
    let Some(HostIdentifier::Endpoint(first)) = &first.endpoints[0].lb_endpoints[0].host_identifier else {
        panic!("no endpoint");
    };
    let more = first.additional_addresses.iter();
    let more = more.map(|more| ip(more.address.as_ref()));
    let all: Vec<&str> = std::iter::once(ip(first.address.as_ref())).chain(more).collect();
    assert_eq!(all.join(" "), to);
}

#[test]
fn a_proxy_gets_what_its_families_can_use() {
    check(
        IpFamilies::V4,
        ["virtualOutbound 0.0.0.0", "virtualInbound 0.0.0.0"],
        &["0.0.0.0_9080 0.0.0.0"],
        &["127.0.0.6"],
        "10.20.0.1",
    );
    check(
        IpFamilies::V6,
        ["virtualOutbound ::", "virtualInbound ::"],
        &["::_9080 ::"],
        &["::6"],
        "fd00:14::1",
    );
    check(
        IpFamilies::V6.and(IpFamilies::V4),
        ["virtualOutbound 0.0.0.0 ::", "virtualInbound 0.0.0.0 ::"],
        &["0.0.0.0_9080 0.0.0.0 ::"],
        &["127.0.0.6", "::6"],
        "10.20.0.1 fd00:14::1",
    );
}

#[test]
fn a_tcp_service_has_a_listener_for_each_address_that_the_proxy_can_use() {
    let place_of = |families| {
        let registry = mesh(families);
        let mode = IpMode::of(reviews(&registry));
        let all = listeners::shared(seen(&registry, mode));
        let found = all.iter().find(|listener| listener.name.ends_with("_3306"));
        place(found.unwrap())
    };
    let registry = mesh(IpFamilies::V4);
    let mysql = registry.services.iter().find(|service| service.name == "mysql");
    let (v4, v6) = (mysql.unwrap().vip.v4().unwrap(), mysql.unwrap().vip.v6().unwrap());
    assert_eq!(place_of(IpFamilies::V4), format!("{v4}_3306 {v4}"));
    assert_eq!(place_of(IpFamilies::V6), format!("{v6}_3306 {v6}"));
    let both = IpFamilies::V4.and(IpFamilies::V6);
    assert_eq!(place_of(both), format!("{v4}_3306 {v4} {v6}"));
}

#[test]
fn addresses_are_virtual_hosts_names_in_brackets() {
    let registry = mesh(IpFamilies::V6);
    let all = routes::of(&registry);
    let domains = all
        .iter()
        .flat_map(|configuration| &configuration.virtual_hosts)
        .find(|host| host.name.starts_with("reviews."))
        .map(|host| host.domains.clone())
        .unwrap();
    let vip = registry
        .services
        .iter()
        .find(|service| service.name == "reviews")
        .and_then(|service| service.vip.v6())
        .unwrap();
    for wanted in [format!("[{vip}]"), format!("[{vip}]:9080")] {
        assert!(domains.contains(&wanted), "no {wanted} in {domains:?}");
    }
}
