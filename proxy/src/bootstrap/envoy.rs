//! The same bootstrap for Envoy, in its JSON.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::{Bootstrap, LOG_FIELDS, StaticRoute};

/// The cluster of the agent's xDS.
const XDS: &str = "xds-grpc";

impl Bootstrap {
    /// What Envoy reads by `--config-path`.
    pub fn envoy_json(&self) -> Value {
        let ads = json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" });
        let mut clusters: Vec<Value> = self
            .static_hosts()
            .map(|(name, host)| cluster(name, &socket(host)))
            .into();
        clusters.push(self.xds_cluster());
        json!({
            "node": self.envoy_node(),
            "admin": { "address": socket(self.admin) },
            "layered_runtime": { "layers": [{ "name": "global config", "static_layer": {
                // Istio's value for "no limit": without one Envoy warns.
                "overload.global_downstream_max_connections": "2147483647",
            } }] },
            "dynamic_resources": {
                "lds_config": ads,
                "cds_config": ads,
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "set_node_on_first_message_only": true,
                    "grpc_services": [{ "envoy_grpc": {
                        "cluster_name": XDS,
                        // Envoy's own goes up to 30 s, at random.
                        "retry_policy": { "retry_back_off": { "base_interval": "0.1s", "max_interval": "0.5s" } },
                    } }],
                },
            },
            "static_resources": { "clusters": clusters, "listeners": self.static_routes().map(listener) },
        })
    }

    fn envoy_node(&self) -> Value {
        let ip = self.node_id.split('~').nth(1).unwrap_or_default();
        let namespace = self.service().rsplit('.').next().unwrap_or_default();
        json!({
            "id": self.node_id,
            "cluster": self.service(),
            "metadata": {
                "NAME": self.pod(),
                "NAMESPACE": namespace,
                "CLUSTER_ID": "Kubernetes",
                "INSTANCE_IPS": ip,
                "PROXY_CONFIG": { "concurrency": self.concurrency },
            },
        })
    }

    fn xds_cluster(&self) -> Value {
        let (host, port) = self.xds.rsplit_once(':').unwrap_or((&self.xds, "15010"));
        let port: Option<u16> = port.parse().ok();
        let address = json!({ "socket_address": { "address": host, "port_value": port } });
        let mut xds = cluster(XDS, &address);
        xds["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
        xds
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn cluster(name: &str, address: &Value) -> Value {
    let endpoint = json!({ "endpoint": { "address": address } });
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
    })
}

fn listener(it: StaticRoute) -> Value {
    let StaticRoute {
        name,
        address,
        path,
        cluster,
    } = it;
    let route = json!({ "name": name, "match": { "prefix": path }, "route": { "cluster": cluster } });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": { "virtual_hosts": [{ "name": "backend", "domains": ["*"], "routes": [route] }] },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
        "access_log": [log(name)],
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager });
    json!({
        "name": name,
        "address": socket(address),
        "filter_chains": [{ "name": name, "filters": [filter] }],
    })
}

/// [`super::json_log`], in JSON.
fn log(listener: &str) -> Value {
    let mut fields: Map<String, Value> = LOG_FIELDS
        .iter()
        .map(|(name, operator)| ((*name).to_owned(), json!(operator)))
        .collect();
    fields.insert("listener".to_owned(), json!(listener));
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "/dev/stdout",
            "log_format": { "json_format": fields },
        },
    })
}
