//! What one proxy is served, of every type, by name. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use prost::{Message, Name};

use super::registry::{Proxy, Registry, Service};
use super::{clusters, listeners, routes};

/// An xDS resource type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Cds,
    Eds,
    Lds,
    Rds,
}

impl Kind {
    /// In the order in which a push goes: what is referred to comes before what refers to it.
    pub(super) const ALL: [Self; 4] = [Self::Cds, Self::Eds, Self::Lds, Self::Rds];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cds => "cds",
            Self::Eds => "eds",
            Self::Lds => "lds",
            Self::Rds => "rds",
        }
    }

    pub(super) const fn url(self) -> &'static str {
        match self {
            Self::Cds => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Eds => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Lds => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Rds => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub(super) fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

/// What one proxy is served.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    resources: BTreeMap<Kind, BTreeMap<String, Any>>,
}

impl Snapshot {
    /// Of a proxy, in this state of the mesh.
    pub(super) fn of(registry: &Registry, proxy: &Proxy) -> Self {
        let mut snapshot = Self::default();
        for cluster in clusters::all(registry, proxy) {
            snapshot.add(Kind::Cds, cluster.name.clone(), cluster);
        }
        for endpoints in clusters::endpoints(registry) {
            snapshot.add(Kind::Eds, endpoints.cluster_name.clone(), endpoints);
        }
        for listener in listeners::all(registry, proxy) {
            snapshot.add(Kind::Lds, listener.name.clone(), listener);
        }
        for table in routes::outbound(registry) {
            snapshot.add(Kind::Rds, table.name.clone(), table);
        }
        snapshot
    }

    fn add<T: Message + Name>(&mut self, kind: Kind, name: String, resource: T) {
        self.resources
            .entry(kind)
            .or_default()
            .insert(name, pack_any(resource));
    }

    /// The resources of a type that were asked for; all if no names were given.
    pub(super) fn get(&self, kind: Kind, names: &[String]) -> Vec<Any> {
        let Some(all) = self.resources.get(&kind) else {
            return Vec::new();
        };
        if names.is_empty() {
            return all.values().cloned().collect();
        }
        names.iter().filter_map(|name| all.get(name).cloned()).collect()
    }

    /// The names of a type's resources.
    #[cfg(test)]
    pub(super) fn names(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.resources
            .get(&kind)
            .into_iter()
            .flat_map(|all| all.keys().map(String::as_str))
    }
}

/// A version that is the same for the same resources.
pub(super) fn version(resources: &[Any]) -> String {
    let mut hasher = DefaultHasher::new();
    for resource in resources {
        resource.value.hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// `NAME.default.svc.cluster.local`.
pub(super) fn host(service: &str) -> String {
    format!("{service}.default.svc.cluster.local")
}

/// The services that have this proxy's pod behind them, ready or not: what its inbound side is made for.
pub(super) fn own_services<'a>(registry: &'a Registry, proxy: &Proxy) -> Vec<&'a Service> {
    registry
        .services
        .iter()
        .filter(|service| service.selected.contains(&proxy.pod))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::istiod::registry::{Endpoint, Port, Protocol};

    /// Two services of HTTP and one of TCP; the proxy is behind the first.
    pub(in super::super) fn mesh() -> (Registry, Proxy) {
        let service = |name: &str, last: u8, port: u16, protocol, pods: &[(&str, u8, &str)]| Service {
            name: name.to_owned(),
            vip: Ipv4Addr::new(10, 96, 1, last),
            ports: vec![Port {
                name: "p".to_owned(),
                port,
                target_port: port,
                protocol,
            }],
            subsets: Vec::new(),
            routes: Vec::new(),
            endpoints: pods
                .iter()
                .map(|(pod, ip, version)| Endpoint {
                    ip: Ipv4Addr::new(10, 244, 0, *ip),
                    pod: (*pod).to_owned(),
                    labels: BTreeMap::from([("version".to_owned(), (*version).to_owned())]),
                })
                .collect(),
            selected: pods.iter().map(|(pod, _, _)| (*pod).to_owned()).collect(),
        };
        let mut reviews = service(
            "reviews",
            1,
            9080,
            Protocol::Http,
            &[("reviews-v1", 1, "v1"), ("reviews-v2", 2, "v2")],
        );
        reviews.subsets = vec![(
            "v2".to_owned(),
            BTreeMap::from([("version".to_owned(), "v2".to_owned())]),
        )];
        let registry = Registry {
            allow_any: true,
            inbound_to_pod_ip: true,
            retries: 2,
            services: vec![
                reviews,
                service("ratings", 2, 9080, Protocol::Http, &[("ratings-v1", 3, "v1")]),
                service("mysql", 3, 3306, Protocol::Tcp, &[("mysql-v1", 4, "v1")]),
            ],
            proxies: Vec::new(),
        };
        let proxy = Proxy {
            node_id: "sidecar~10.244.0.1~reviews-v1.default~default.svc.cluster.local".to_owned(),
            pod: "reviews-v1".to_owned(),
            ip: Ipv4Addr::new(10, 244, 0, 1),
        };
        (registry, proxy)
    }

    #[test]
    fn names_are_istios() {
        let (registry, proxy) = mesh();
        let snapshot = Snapshot::of(&registry, &proxy);
        let names = |kind| snapshot.names(kind).collect::<Vec<_>>();
        assert_eq!(
            names(Kind::Cds),
            [
                "BlackHoleCluster",
                "InboundPassthroughCluster",
                "PassthroughCluster",
                "inbound|9080||",
                "outbound|3306||mysql.default.svc.cluster.local",
                "outbound|9080|v2|reviews.default.svc.cluster.local",
                "outbound|9080||ratings.default.svc.cluster.local",
                "outbound|9080||reviews.default.svc.cluster.local",
            ]
        );
        assert_eq!(
            names(Kind::Lds),
            [
                "0.0.0.0_9080",
                "10.96.1.3_3306",
                "virtualInbound",
                "virtualOutbound"
            ]
        );
        assert_eq!(names(Kind::Rds), ["9080"]);
        assert_eq!(names(Kind::Eds).len(), 4);
    }

    /// The built-in data plane can use every resource, in each variant of the mesh.
    #[test]
    fn the_data_plane_takes_all_of_it() {
        let (mut registry, proxy) = mesh();
        for (allow_any, pod_ip, retries) in [(true, true, 2), (false, true, 0), (true, false, 2)] {
            (registry.allow_any, registry.inbound_to_pod_ip, registry.retries) = (allow_any, pod_ip, retries);
            for cluster in clusters::all(&registry, &proxy) {
                proxy::config::cluster::ClusterConfig::from_proto(&cluster).unwrap();
            }
            for listener in listeners::all(&registry, &proxy) {
                proxy::config::listener::ListenerConfig::from_proto(&listener).unwrap();
            }
            for table in routes::outbound(&registry) {
                proxy::config::route::RouteTable::from_proto(&table).unwrap();
            }
        }
    }
}
