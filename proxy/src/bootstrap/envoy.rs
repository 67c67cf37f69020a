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
            // Istio's value for "no limit": without one Envoy warns.
            "overload_manager": { "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": 2_147_483_647_u32,
                },
            }] },
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
        let ips: Vec<String> = self.instance_ips.iter().map(ToString::to_string).collect();
        let namespace = self.service().rsplit('.').next().unwrap_or_default();
        let mut node = json!({
            "id": self.node_id,
            "cluster": self.service(),
            "metadata": {
                "NAME": self.pod(),
                "NAMESPACE": namespace,
                "CLUSTER_ID": "Kubernetes",
                "INSTANCE_IPS": ips.join(","),
                "PROXY_CONFIG": { "concurrency": self.concurrency },
            },
        });
        for (name, value) in self.metadata() {
            node["metadata"][name] = value.into();
        }
        node
    }

    fn xds_cluster(&self) -> Value {
        let (host, port) = self.xds.rsplit_once(':').unwrap_or((&self.xds, "15010"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
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
        also,
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
    let additional: Vec<Value> = also
        .map(|address| json!({ "address": socket(address) }))
        .into_iter()
        .collect();
    json!({
        "name": name,
        "address": socket(address),
        "additional_addresses": additional,
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use envoy_types::pb::envoy::config::accesslog::v3::access_log::ConfigType;
    use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
    use envoy_types::pb::google::protobuf::value::Kind;
    use prost::Message as _;

    use super::*;

    fn bootstrap() -> Value {
        Bootstrap::istio("sidecar~10.244.0.7~web-v1.default~default.svc.cluster.local").envoy_json()
    }

    #[test]
    fn it_says_who_it_is_and_where_xds_is() {
        let json = bootstrap();
        assert_eq!(
            json["node"]["id"],
            "sidecar~10.244.0.7~web-v1.default~default.svc.cluster.local"
        );
        assert_eq!(json["node"]["cluster"], "web-v1.default");
        let metadata = &json["node"]["metadata"];
        assert_eq!(
            (&metadata["NAME"], &metadata["NAMESPACE"]),
            (&json!("web-v1"), &json!("default"))
        );
        assert_eq!(metadata["INSTANCE_IPS"], "10.244.0.7");
        assert_eq!(metadata["INTERCEPTION_MODE"], "REDIRECT");
        for kind in ["lds_config", "cds_config"] {
            // As long as it takes: a held gate is no error.
            assert_eq!(json["dynamic_resources"][kind]["initial_fetch_timeout"], "0s");
        }
        let service = &json["dynamic_resources"]["ads_config"]["grpc_services"][0]["envoy_grpc"];
        let xds = &json["static_resources"]["clusters"][2];
        assert_eq!(service["cluster_name"], xds["name"]);
        assert_eq!(
            xds["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"],
            json!({ "address": "127.0.0.1", "port_value": 15010 })
        );
    }

    #[test]
    fn both_kinds_of_data_plane_say_how_connections_get_in() {
        let bootstrap = Bootstrap {
            interception_mode: super::super::InterceptionMode::Tproxy,
            ..Bootstrap::istio("sidecar~10.244.0.7~web-v1.default~default.svc.cluster.local")
        };
        assert_eq!(
            bootstrap.envoy_json()["node"]["metadata"]["INTERCEPTION_MODE"],
            "TPROXY"
        );
        let metadata = bootstrap.node().metadata.unwrap();
        assert_eq!(
            metadata.fields["INTERCEPTION_MODE"].kind,
            Some(Kind::StringValue("TPROXY".to_owned()))
        );
    }

    /// What both kinds of data plane have, by name: where it is and what it leads to.
    #[test]
    fn static_parts_are_those_of_the_built_in_data_plane() {
        let json = bootstrap();
        let names = |kind: &str| -> BTreeSet<String> {
            let all = json["static_resources"][kind].as_array().unwrap();
            all.iter()
                .map(|it| it["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let built_in = Bootstrap::istio("sidecar~10.244.0.7~web-v1.default~default.svc.cluster.local");
        let mut clusters: BTreeSet<String> = built_in.clusters().into_iter().map(|it| it.name).collect();
        clusters.insert(XDS.to_owned());
        assert_eq!(names("clusters"), clusters);
        let listeners: BTreeSet<String> = built_in.listeners().into_iter().map(|it| it.name).collect();
        assert_eq!(names("listeners"), listeners);
    }

    #[test]
    fn the_access_log_has_the_same_keys_and_operators() {
        let Some(ConfigType::TypedConfig(any)) = super::super::json_log("health").config_type else {
            panic!("no typed config");
        };
        let file = FileAccessLog::decode(any.value.as_slice()).unwrap();
        let Some(AccessLogFormat::LogFormat(format)) = file.access_log_format else {
            panic!("no log format");
        };
        let Some(Format::JsonFormat(built_in)) = format.format else {
            panic!("no JSON");
        };
        let built_in: BTreeMap<String, String> = built_in
            .fields
            .into_iter()
            .map(|(key, value)| match value.kind {
                Some(Kind::StringValue(text)) => (key, text),
                other => panic!("{key}: {other:?}"),
            })
            .collect();
        let log = log("health");
        let envoys = &log["typed_config"]["log_format"]["json_format"];
        let envoys: BTreeMap<String, String> = serde_json::from_value(envoys.clone()).unwrap();
        assert_eq!(envoys, built_in);
        assert_eq!(log["typed_config"]["path"], file.path);
    }
}
