//! A response applied: what can be used is used, what cannot is named, and its last good self stays.

use std::rc::Rc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener as ListenerProto;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;

use super::Kind;
use crate::config::cluster::{self, ClusterConfig};
use crate::config::listener::ListenerConfig;
use crate::config::route::RouteTable;
use crate::config::{Refused, unpack};
use crate::data_plane::Proxy;

/// Applies a response; the error names every resource that could not be used.
pub(crate) fn apply(proxy: &Rc<Proxy>, kind: Kind, response: &DiscoveryResponse) -> Result<(), String> {
    let refused = match kind {
        Kind::Cds => clusters(proxy, response),
        Kind::Eds => endpoints(proxy, response),
        Kind::Lds => listeners(proxy, response),
        Kind::Rds => routes(proxy, response),
    };
    let words: Vec<String> = refused.iter().map(ToString::to_string).collect();
    if words.is_empty() {
        Ok(())
    } else {
        Err(words.join("\n"))
    }
}

fn clusters(proxy: &Rc<Proxy>, response: &DiscoveryResponse) -> Vec<Refused> {
    let (mut named, mut refused) = (Vec::new(), Vec::new());
    for any in &response.resources {
        let proto: Result<ClusterProto, Refused> = unpack("cluster", "resource", any);
        let config = proto.and_then(|proto| {
            named.push(proto.name.clone());
            Ok((ClusterConfig::from_proto(&proto)?, proto))
        });
        match config {
            Ok((config, proto)) => proxy.set_cluster(config, proto),
            Err(error) => refused.push(error),
        }
    }
    proxy.keep_clusters(&named);
    refused
}

fn endpoints(proxy: &Rc<Proxy>, response: &DiscoveryResponse) -> Vec<Refused> {
    let mut refused = Vec::new();
    for any in &response.resources {
        let proto: Result<ClusterLoadAssignment, Refused> = unpack("endpoints", "resource", any);
        let hosts = proto.and_then(|proto| {
            Ok((
                cluster::endpoints(&proto.cluster_name, &proto)?,
                proto.cluster_name,
            ))
        });
        match hosts {
            Ok((hosts, name)) => proxy.set_endpoints(&name, hosts),
            Err(error) => refused.push(error),
        }
    }
    refused
}

fn listeners(proxy: &Rc<Proxy>, response: &DiscoveryResponse) -> Vec<Refused> {
    let (mut named, mut refused) = (Vec::new(), Vec::new());
    for any in &response.resources {
        let proto: Result<ListenerProto, Refused> = unpack("listener", "resource", any);
        let config = proto.and_then(|proto| {
            named.push(proto.name.clone());
            // An unchanged listener keeps its connections and its logs.
            if proxy.has_listener(&proto) {
                return Ok(None);
            }
            ListenerConfig::from_proto(proto).map(Some)
        });
        match config {
            Ok(Some(config)) => proxy.set_listener(config),
            Ok(None) => {}
            Err(error) => refused.push(error),
        }
    }
    proxy.keep_listeners(&named);
    refused
}

fn routes(proxy: &Rc<Proxy>, response: &DiscoveryResponse) -> Vec<Refused> {
    let mut refused = Vec::new();
    for any in &response.resources {
        let proto: Result<RouteConfiguration, Refused> = unpack("routes", "resource", any);
        match proto.and_then(|proto| Ok((RouteTable::from_proto(&proto)?, proto))) {
            Ok((table, proto)) => proxy.set_routes(table, proto),
            Err(error) => refused.push(error),
        }
    }
    refused
}
