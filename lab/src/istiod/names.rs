//! The names that Istio gives to clusters, listeners and routes; and the table of hosts that agents answer DNS from.

use proxy::xds::name_table::{KUBERNETES, NameInfo, NameTable};

use super::ip_mode::IpMode;
use super::registry::{Port, Protocol, Registry, Service};

/// The namespace of everything in a lab.
const NAMESPACE: &str = "default";

/// Takes a connection to where the client meant to go.
pub(super) const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// Has no endpoint: connections end there.
pub(super) const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
/// Takes an inbound connection to the port that no service of the pod has.
pub(super) const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";
/// The listener that connections of the pod's processes come to.
pub(super) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";
/// The listener that connections to the pod come to; also its catch-all filter chain for TCP.
pub(super) const VIRTUAL_INBOUND: &str = "virtualInbound";
/// Port of [`VIRTUAL_OUTBOUND`].
pub(super) const OUTBOUND_PORT: u16 = 15001;
/// Port of [`VIRTUAL_INBOUND`].
pub(super) const INBOUND_PORT: u16 = 15006;

/// `reviews.default.svc.cluster.local`.
pub(super) fn host(service: &str) -> String {
    format!("{service}.default.svc.cluster.local")
}

/// `outbound|9080|v1|reviews.default.svc.cluster.local`.
pub(super) fn outbound_cluster(port: u16, subset: &str, service: &str) -> String {
    format!("outbound|{port}|{subset}|{}", host(service))
}

/// `inbound|9080||`.
pub(super) fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

/// `0.0.0.0_9080`, `::_9080` where there is IPv6 alone: the outbound listener for all HTTP services of a port, and the
/// inbound filter chain of a port.
pub(super) fn wildcard(mode: IpMode, port: u16) -> String {
    format!("{}_{port}", mode.wildcards().first())
}

/// How the sidecars of clients take connections to a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outbound {
    /// One listener for the port, virtual hosts tell the services apart.
    Http,
    /// A listener for the service's address.
    Tcp,
    /// A listener for the service's address that sniffs for HTTP.
    Sniffed,
}

impl Outbound {
    /// What follows from the port's protocol.
    pub(super) const fn of(port: &Port) -> Self {
        match port.protocol {
            Protocol::Http | Protocol::Http2 => Self::Http,
            Protocol::Tcp => Self::Tcp,
            Protocol::Unknown => Self::Sniffed,
        }
    }
}

/// The route configuration of a service's port: `9080`, or `reviews.default.svc.cluster.local:9080` for a sniffed one,
/// whose listener is the service's own (Istio, `buildSidecarOutboundHTTPListenerOpts`). None for TCP.
pub(super) fn route_configuration(service: &Service, port: &Port) -> Option<String> {
    match Outbound::of(port) {
        Outbound::Http => Some(port.port.to_string()),
        Outbound::Sniffed => Some(format!("{}:{}", host(&service.name), port.port)),
        Outbound::Tcp => None,
    }
}

/// Every service's host and addresses (Istio, `BuildNameTable`). The agent makes all shorter forms of it.
pub(super) fn table(registry: &Registry) -> NameTable {
    let services = registry.services.iter().map(|service| {
        let info = NameInfo {
            ips: service.vip.all().map(|ip| ip.to_string()).collect(),
            registry: KUBERNETES.to_owned(),
            shortname: service.name.clone(),
            namespace: NAMESPACE.to_owned(),
            alt_hosts: Vec::new(),
        };
        (host(&service.name), info)
    });
    NameTable {
        table: services.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::bookinfo;
    use super::*;

    #[test]
    fn the_table_has_every_service_under_its_host() {
        let table = table(&bookinfo()).table;
        assert_eq!(table.len(), bookinfo().services.len());
        let reviews = &table["reviews.default.svc.cluster.local"];
        assert_eq!(reviews.ips.len(), 1);
        assert_eq!(
            (
                reviews.shortname.as_str(),
                reviews.namespace.as_str(),
                reviews.registry.as_str()
            ),
            ("reviews", "default", "Kubernetes")
        );
    }
}
