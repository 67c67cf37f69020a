//! Which pods stand behind which service, given the pods that are ready: what istiod and kube-proxy are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use iptables::kube_proxy;

use super::ips::Ips;
use super::{ISTIOD, ISTIOD_HTTP_PORT, ISTIOD_XDS_PORT, Plan};
use crate::istiod::registry::{
    Destination, Endpoint, Match, Port, Protocol, Proxy, Registry, Route, Service, StringMatch,
};
use crate::scenario::model::{
    self, DestinationRule, HttpMatch, HttpRoute, InboundCluster, OutboundTrafficPolicy, PodId, Scenario,
};
use crate::scenario::objects::Objects;

impl Plan {
    /// The state of the mesh when just these pods are ready, and these objects there.
    pub fn registry(&self, scenario: &Scenario, ready: &BTreeSet<PodId>, objects: &Objects) -> Registry {
        let services = objects.services.iter().zip(&self.vips).enumerate();
        let services = services.filter_map(|(index, (service, vip))| {
            let service = service.as_ref()?;
            Some(self.service(scenario, objects, ready, index, service, *vip))
        });
        Registry {
            allow_any: scenario.mesh.outbound_traffic_policy == OutboundTrafficPolicy::AllowAny,
            inbound_to_pod_ip: scenario.mesh.inbound == InboundCluster::PodIp,
            retries: scenario.mesh.retries,
            protocol_detection_ms: millis(scenario.mesh.protocol_detection_timeout),
            access_log: scenario.mesh.access_log,
            services: services.chain([self.istiod_service()]).collect(),
            proxies: scenario
                .pods_with_ids()
                .filter(|(_, pod)| pod.sidecar.is_some())
                .map(|(id, pod)| Proxy {
                    node_id: self.pod(id).node_id.clone(),
                    pod: pod.name.clone(),
                    ips: self.pod(id).ips,
                })
                .collect(),
        }
    }

    /// What kube-proxy makes of the same state.
    pub fn kube_proxy(&self, registry: &Registry) -> Vec<kube_proxy::Service> {
        let ports = registry
            .services
            .iter()
            .flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let ports = ports.flat_map(|(service, port)| service.vip.all().map(move |vip| (service, port, vip)));
        ports
            .filter_map(|(service, port, vip)| {
                let of_family = |endpoint: &Endpoint| {
                    let ip = endpoint.ips.all().find(|ip| ip.is_ipv4() == vip.is_ipv4())?;
                    Some(SocketAddr::new(ip, port.target_port))
                };
                Some(kube_proxy::Service {
                    name: format!("default/{}:{}", service.name, port.name),
                    vip,
                    port: NonZeroU16::new(port.port)?,
                    protocol: iptables::rule::Protocol::Tcp,
                    endpoints: service.endpoints.iter().filter_map(of_family).collect(),
                })
            })
            .collect()
    }

    fn service(
        &self,
        scenario: &Scenario,
        objects: &Objects,
        ready: &BTreeSet<PodId>,
        index: usize,
        service: &model::Service,
        vip: Ips,
    ) -> Service {
        let rule = objects
            .destination_rules
            .iter()
            .find(|rule| rule.service == index);
        let routes = objects
            .virtual_services
            .iter()
            .filter(|virtual_service| virtual_service.service == index);
        Service {
            name: service.name.clone(),
            vip,
            ports: service.ports.iter().map(port).collect(),
            subsets: rule.map(subsets).unwrap_or_default(),
            routes: routes
                .flat_map(|found| &found.http)
                .map(|http| route(scenario, http))
                .collect(),
            http_idle_ms: rule.and_then(|rule| rule.connection_pool.http_idle).map(millis),
            tcp_idle_ms: rule.and_then(|rule| rule.connection_pool.tcp_idle).map(millis),
            endpoints: self.endpoints(scenario, ready, &service.selector, vip),
            selected: selected(scenario, &service.selector),
        }
    }

    /// The ready pods that have an address of one of the service's families, each with those that it has.
    fn endpoints(
        &self,
        scenario: &Scenario,
        ready: &BTreeSet<PodId>,
        selector: &BTreeMap<String, String>,
        vip: Ips,
    ) -> Vec<Endpoint> {
        scenario
            .pods_with_ids()
            .filter(|(id, pod)| ready.contains(id) && selects(selector, &pod.labels))
            .filter_map(|(id, pod)| {
                Some(Endpoint {
                    ips: self.pod(id).ips.in_common(vip)?,
                    pod: pod.name.clone(),
                    labels: pod.labels.clone(),
                })
            })
            .collect()
    }

    fn istiod_service(&self) -> Service {
        let port = |name: &str, port, protocol| Port {
            name: name.to_owned(),
            port,
            target_port: port,
            protocol,
        };
        Service {
            name: ISTIOD.to_owned(),
            vip: self.istiod_vip,
            ports: vec![
                port("grpc-xds", ISTIOD_XDS_PORT, Protocol::Http2),
                port("http-monitoring", ISTIOD_HTTP_PORT, Protocol::Http),
            ],
            subsets: Vec::new(),
            routes: Vec::new(),
            endpoints: vec![Endpoint {
                ips: self.istiod_ip,
                pod: ISTIOD.to_owned(),
                labels: BTreeMap::from([("app".to_owned(), ISTIOD.to_owned())]),
            }],
            http_idle_ms: None,
            tcp_idle_ms: None,
            selected: vec![ISTIOD.to_owned()],
        }
    }
}

fn selected(scenario: &Scenario, selector: &BTreeMap<String, String>) -> Vec<String> {
    let pods = scenario.pods.iter().filter(|pod| selects(selector, &pod.labels));
    pods.map(|pod| pod.name.clone()).collect()
}

/// True if a pod with these labels is one of the selector's. An empty selector selects nothing (core/v1).
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty()
        && selector
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
}

fn port(port: &model::ServicePort) -> Port {
    Port {
        name: port.name.clone(),
        port: port.port.get(),
        target_port: port.target_port.get(),
        protocol: match port.protocol {
            model::Protocol::Http => Protocol::Http,
            model::Protocol::Http2 => Protocol::Http2,
            model::Protocol::Tcp => Protocol::Tcp,
            model::Protocol::Unknown => Protocol::Unknown,
        },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn subsets(rule: &DestinationRule) -> Vec<(String, BTreeMap<String, String>)> {
    rule.subsets.clone()
}

fn route(scenario: &Scenario, route: &HttpRoute) -> Route {
    Route {
        matches: route.matches.iter().map(http_match).collect(),
        destinations: route
            .destinations
            .iter()
            .map(|destination| Destination {
                service: scenario.services[destination.service].name.clone(),
                subset: destination.subset.clone(),
                port: destination.port.map(NonZeroU16::get),
                weight: destination.weight,
            })
            .collect(),
        timeout_ms: route
            .timeout
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        retries: route.retries,
        direct_response: route.direct_response.clone(),
    }
}

fn http_match(wanted: &HttpMatch) -> Match {
    Match {
        uri: wanted.uri.as_ref().map(string_match),
        method: wanted.method.as_ref().map(string_match),
        headers: wanted
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), string_match(value)))
            .collect(),
    }
}

fn string_match(wanted: &model::StringMatch) -> StringMatch {
    match wanted {
        model::StringMatch::Exact(text) => StringMatch::Exact(text.clone()),
        model::StringMatch::Prefix(text) => StringMatch::Prefix(text.clone()),
        model::StringMatch::Regex(text) => StringMatch::Regex(text.clone()),
    }
}
