//! Listeners: where connections come in, and which chain of filters takes them.

mod filter;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3 as proto;
use envoy_types::pb::envoy::config::listener::v3::listener_filter_chain_match_predicate as predicate;
use envoy_types::pb::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;

pub use filter::{HttpConfig, NetworkFilter, Routes, TcpConfig, TcpStats};

use super::{Refused, limit, socket_address, unpack};
use crate::drain::Drain;

/// The listener filter timeout if a listener does not say (`Listener.listener_filters_timeout`).
const FILTER_TIMEOUT: Duration = Duration::from_secs(15);

/// A listener.
#[derive(Debug)]
pub struct ListenerConfig {
    /// Its name.
    pub name: String,
    /// Its addresses: one at least.
    pub addresses: Vec<SocketAddr>,
    /// What socket it has.
    pub socket: Socket,
    /// Hosts see the client's address, and this mark is on what is sent to them (0 = none).
    pub original_src: Option<u32>,
    /// Connections that were redirected are handed to the listener of their original destination.
    pub hands_off: bool,
    /// TLS is looked for, but on these ports.
    pub tls_inspector: Option<Skip>,
    /// HTTP is looked for, but on these ports.
    pub http_inspector: Option<Skip>,
    /// How long that may take; none = for ever.
    pub filter_timeout: Option<Duration>,
    /// What happens then: on with what is known, or an end.
    pub continue_on_timeout: bool,
    /// It takes what comes to the pod.
    pub inbound: bool,
    /// Filter chains.
    pub chains: Vec<Rc<FilterChain>>,
    /// What takes connections that no chain matches.
    pub default_chain: Option<Rc<FilterChain>>,
    /// The resource that it was made from.
    pub source: proto::Listener,
}

/// What socket a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// None: other listeners hand it their connections.
    Nothing,
    /// One for connections to its address.
    Plain,
    /// One that takes connections to foreign addresses too, as TPROXY hands them over.
    Transparent,
}

/// Destination ports for which a listener filter is off.
#[derive(Debug, Clone, Default)]
pub struct Skip(Vec<std::ops::Range<u32>>);

/// A filter chain.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name.
    pub name: String,
    wanted: Wanted,
    /// Its network filter.
    pub filter: NetworkFilter,
    /// The end of its connections, once it is gone from the configuration.
    pub drain: Drain,
}

#[derive(Debug, Default)]
struct Wanted {
    port: Option<u16>,
    transport: String,
    applications: Vec<String>,
}

impl FilterChain {
    /// The name of the route table that it needs.
    pub fn route_name(&self) -> Option<&str> {
        match &self.filter {
            NetworkFilter::Http(http) => match &http.routes {
                Routes::Rds(name) => Some(name),
                Routes::Inline(_) => None,
            },
            NetworkFilter::Tcp(_) => None,
        }
    }

    /// What connections it takes, as configuration has it.
    pub fn criteria(&self) -> serde_json::Value {
        let Wanted {
            port,
            transport,
            applications,
        } = &self.wanted;
        serde_json::json!({
            "destination_port": port,
            "transport_protocol": (!transport.is_empty()).then_some(transport),
            "application_protocols": applications,
        })
    }
}

impl Skip {
    fn of(range: std::ops::Range<u32>) -> Self {
        Self(std::iter::once(range).collect())
    }

    /// True if the filter is off for this destination port.
    pub fn skips(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&u32::from(port)))
    }
}

impl ListenerConfig {
    /// From configuration.
    pub fn from_proto(source: proto::Listener) -> Result<Self, Refused> {
        let listener = &source;
        let name = &listener.name;
        let mut addresses = vec![socket_address(name, "address", listener.address.as_ref())?];
        for also in &listener.additional_addresses {
            addresses.push(socket_address(
                name,
                "additional_addresses.address",
                also.address.as_ref(),
            )?);
        }
        let mut config = Self {
            name: name.clone(),
            addresses,
            socket: socket(listener),
            original_src: None,
            hands_off: listener
                .use_original_dst
                .as_ref()
                .is_some_and(|hands| hands.value),
            tls_inspector: None,
            http_inspector: None,
            filter_timeout: match &listener.listener_filters_timeout {
                Some(timeout) => limit(Some(timeout)),
                None => Some(FILTER_TIMEOUT),
            },
            continue_on_timeout: listener.continue_on_listener_filters_timeout,
            inbound: listener.traffic_direction() == TrafficDirection::Inbound,
            chains: Vec::new(),
            default_chain: None,
            source: proto::Listener::default(),
        };
        for filter in &listener.listener_filters {
            config.add_listener_filter(filter)?;
        }
        for chain in &listener.filter_chains {
            config.chains.push(Rc::new(self::chain(name, chain)?));
        }
        if let Some(default) = &listener.default_filter_chain {
            config.default_chain = Some(Rc::new(chain(name, default)?));
        }
        if config.chains.is_empty() && config.default_chain.is_none() {
            return Err(Refused::new(name, "filter_chains", "no filter chains specified"));
        }
        config.source = source;
        Ok(config)
    }

    /// True if nothing but the chains differs from this one.
    pub fn has_shell_of(&self, other: &Self) -> bool {
        let shell = |listener: &proto::Listener| proto::Listener {
            filter_chains: Vec::new(),
            default_filter_chain: None,
            ..listener.clone()
        };
        shell(&self.source) == shell(&other.source)
    }

    /// Keeps the chains of its former self that are the same, with their connections. If anything else has changed,
    /// none is (Envoy, `ListenerImpl::supportUpdateFilterChain`).
    pub fn keep_chains_of(&mut self, former: &Self) {
        if !self.has_shell_of(former) {
            return;
        }
        let before = former.source.filter_chains.iter().zip(&former.chains);
        for (chain, source) in self.chains.iter_mut().zip(&self.source.filter_chains) {
            if let Some((_, same)) = before.clone().find(|(before, _)| *before == source) {
                *chain = Rc::clone(same);
            }
        }
        if let (Some(new), Some(old)) = (&mut self.default_chain, &former.default_chain)
            && self.source.default_filter_chain == former.source.default_filter_chain
        {
            *new = Rc::clone(old);
        }
    }

    /// All chains.
    pub fn all_chains(&self) -> impl Iterator<Item = &Rc<FilterChain>> {
        self.chains.iter().chain(&self.default_chain)
    }

    fn add_listener_filter(&mut self, filter: &proto::ListenerFilter) -> Result<(), Refused> {
        let Some(proto::listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            return Err(Refused::new(&self.name, "listener_filters", "no typed_config"));
        };
        let skip = skip(&self.name, filter.filter_disabled.as_ref())?;
        let kind = any.type_url.rsplit('/').next().unwrap_or_default();
        match kind {
            "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
                self.tls_inspector = Some(skip);
            }
            "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
                self.http_inspector = Some(skip);
            }
            // The original destination is always read: a connection that was not redirected has none.
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {}
            "envoy.extensions.filters.listener.original_src.v3.OriginalSrc" => {
                let config: OriginalSrc = unpack(&self.name, "listener_filters", any)?;
                if config.bind_port {
                    let reason = "original_src: bind_port is not supported";
                    return Err(Refused::new(&self.name, "listener_filters", reason));
                }
                self.original_src = Some(config.mark);
            }
            _ => {
                let reason = format!(
                    "didn't find a registered implementation for type {}",
                    any.type_url
                );
                return Err(Refused::new(&self.name, "listener_filters", reason));
            }
        }
        Ok(())
    }

    /// The names of the route tables that it needs.
    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        self.all_chains().filter_map(|chain| chain.route_name())
    }

    /// The chain that takes a connection. As in Envoy, each criterion narrows what is left to the most specific, and
    /// nothing is tried again if a later one then fails.
    pub fn choose(&self, port: u16, transport: &str, application: Option<&str>) -> Option<&Rc<FilterChain>> {
        let mut left: Vec<&Rc<FilterChain>> = self.chains.iter().collect();
        narrow(
            &mut left,
            |wanted| wanted.port == Some(port),
            |wanted| wanted.port.is_none(),
        );
        narrow(
            &mut left,
            |wanted| wanted.transport == transport,
            |wanted| wanted.transport.is_empty(),
        );
        let speaks =
            |wanted: &Wanted| application.is_some_and(|it| wanted.applications.iter().any(|has| has == it));
        narrow(&mut left, speaks, |wanted| wanted.applications.is_empty());
        left.first().copied().or(self.default_chain.as_ref())
    }
}

fn narrow(left: &mut Vec<&Rc<FilterChain>>, exact: impl Fn(&Wanted) -> bool, any: impl Fn(&Wanted) -> bool) {
    if left.iter().any(|chain| exact(&chain.wanted)) {
        left.retain(|chain| exact(&chain.wanted));
    } else {
        left.retain(|chain| any(&chain.wanted));
    }
}

fn socket(listener: &proto::Listener) -> Socket {
    let has_one = listener.bind_to_port.as_ref().is_none_or(|bind| bind.value);
    match &listener.transparent {
        _ if !has_one => Socket::Nothing,
        Some(transparent) if transparent.value => Socket::Transparent,
        _ => Socket::Plain,
    }
}

fn skip(listener: &str, off: Option<&proto::ListenerFilterChainMatchPredicate>) -> Result<Skip, Refused> {
    let Some(off) = off else {
        return Ok(Skip::default());
    };
    let refused = || {
        Refused::new(
            listener,
            "filter_disabled",
            "only destination_port_range and or_match are supported",
        )
    };
    match &off.rule {
        Some(predicate::Rule::DestinationPortRange(range)) => {
            let (start, end) = (u32::try_from(range.start), u32::try_from(range.end));
            match (start, end) {
                (Ok(start), Ok(end)) => Ok(Skip::of(start..end)),
                _ => Err(refused()),
            }
        }
        Some(predicate::Rule::OrMatch(set)) => {
            let mut all = Vec::new();
            for rule in &set.rules {
                all.extend(skip(listener, Some(rule))?.0);
            }
            Ok(Skip(all))
        }
        Some(predicate::Rule::AnyMatch(true)) => Ok(Skip::of(0..65_536)),
        _ => Err(refused()),
    }
}

fn chain(listener: &str, chain: &proto::FilterChain) -> Result<FilterChain, Refused> {
    let field = format!("filter chain {}", chain.name);
    let refused = |reason: String| Refused::new(listener, &field, reason);
    if chain.transport_socket.is_some() {
        return Err(refused("TLS is not supported".to_owned()));
    }
    let wanted = chain
        .filter_chain_match
        .as_ref()
        .map(|it| wanted(listener, &field, it))
        .transpose()?;
    let mut network = None;
    for filter in &chain.filters {
        let Some(proto::filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
            return Err(refused(format!("filter {}: no typed_config", filter.name)));
        };
        network = Some(NetworkFilter::from_proto(listener, &field, any)?);
    }
    let filter = network.ok_or_else(|| refused("no network filter".to_owned()))?;
    Ok(FilterChain {
        name: chain.name.clone(),
        wanted: wanted.unwrap_or_default(),
        filter,
        drain: Drain::default(),
    })
}

fn wanted(listener: &str, field: &str, wanted: &proto::FilterChainMatch) -> Result<Wanted, Refused> {
    let has_more = !wanted.prefix_ranges.is_empty()
        || !wanted.source_prefix_ranges.is_empty()
        || !wanted.source_ports.is_empty()
        || !wanted.server_names.is_empty()
        || wanted.source_type != 0;
    if has_more {
        let reason = "only destination_port, transport_protocol and application_protocols are supported";
        return Err(Refused::new(listener, field, reason));
    }
    let port = wanted
        .destination_port
        .as_ref()
        .map(|port| u16::try_from(port.value))
        .transpose();
    Ok(Wanted {
        port: port.map_err(|_error| Refused::new(listener, field, "destination_port out of range"))?,
        transport: wanted.transport_protocol.clone(),
        applications: wanted.application_protocols.clone(),
    })
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};

    use super::*;

    fn chain(name: &str, port: Option<u16>, transport: &str, applications: &[&str]) -> Rc<FilterChain> {
        Rc::new(FilterChain {
            name: name.to_owned(),
            wanted: Wanted {
                port,
                transport: transport.to_owned(),
                applications: applications.iter().map(|it| (*it).to_owned()).collect(),
            },
            filter: NetworkFilter::Tcp(TcpConfig::default()),
            drain: Drain::default(),
        })
    }

    fn listener(chains: Vec<Rc<FilterChain>>) -> ListenerConfig {
        let source = |chain: &Rc<FilterChain>| proto::FilterChain {
            name: chain.name.clone(),
            ..proto::FilterChain::default()
        };
        ListenerConfig {
            name: "l".to_owned(),
            addresses: vec![([0, 0, 0, 0], 15006).into()],
            socket: Socket::Plain,
            original_src: None,
            hands_off: false,
            tls_inspector: None,
            http_inspector: None,
            filter_timeout: None,
            continue_on_timeout: true,
            inbound: false,
            source: proto::Listener {
                filter_chains: chains.iter().map(source).collect(),
                ..proto::Listener::default()
            },
            chains,
            default_chain: None,
        }
    }

    #[test]
    fn the_most_specific_chain_wins_port_first() {
        let listener = listener(vec![
            chain("blackhole", Some(15006), "", &[]),
            chain("9080", Some(9080), "", &[]),
            chain("http", None, "raw_buffer", &["http/1.1", "h2c"]),
            chain("tcp", None, "raw_buffer", &[]),
        ]);
        let name = |port, application| {
            listener
                .choose(port, "raw_buffer", application)
                .map(|chain| chain.name.as_str())
        };
        assert_eq!(name(15006, Some("http/1.1")), Some("blackhole"));
        assert_eq!(name(9080, None), Some("9080"));
        assert_eq!(name(7777, Some("http/1.1")), Some("http"));
        assert_eq!(name(7777, None), Some("tcp"));
    }

    /// Envoy, measured: a TCP chain without `transport_protocol` is never reached once another chain has matched it.
    #[test]
    fn nothing_is_tried_again() {
        let listener = listener(vec![
            chain("http", None, "raw_buffer", &["http/1.1"]),
            chain("tcp", None, "", &[]),
        ]);
        assert!(listener.choose(7777, "raw_buffer", None).is_none());
        assert!(listener.choose(7777, "tls", None).is_some());
    }

    #[test]
    fn chains_that_are_the_same_stay_unless_anything_else_changed() {
        let chains = |names: [&str; 2]| names.map(|name| chain(name, None, "", &[])).into();
        let former = listener(chains(["a", "b"]));
        let mut next = listener(chains(["b", "c"]));
        next.keep_chains_of(&former);
        assert!(Rc::ptr_eq(&next.chains[0], &former.chains[1]));
        assert!(former.all_chains().all(|old| !Rc::ptr_eq(old, &next.chains[1])));
        let mut other = listener(chains(["a", "b"]));
        other.source.transparent = Some(envoy_types::pb::google::protobuf::BoolValue { value: true });
        other.keep_chains_of(&former);
        assert!(!Rc::ptr_eq(&other.chains[0], &former.chains[0]));
    }

    fn virtual_inbound(filter: OriginalSrc, bound: Option<bool>) -> Result<ListenerConfig, Refused> {
        use envoy_types::pb::google::protobuf::BoolValue;
        let tcp = TcpProxy {
            cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("c".to_owned())),
            ..TcpProxy::default()
        };
        let original_src = proto::ListenerFilter {
            config_type: Some(proto::listener_filter::ConfigType::TypedConfig(
                envoy_types::util::pack_any(filter),
            )),
            ..proto::ListenerFilter::default()
        };
        let bootstrap = crate::bootstrap::Bootstrap::istio("sidecar~10.0.0.1~a.default~x");
        let [prometheus, _] = bootstrap.listeners().try_into().unwrap();
        ListenerConfig::from_proto(proto::Listener {
            listener_filters: vec![original_src],
            transparent: Some(BoolValue { value: true }),
            bind_to_port: bound.map(|value| BoolValue { value }),
            default_filter_chain: Some(proto::FilterChain {
                filters: vec![proto::Filter {
                    config_type: Some(proto::filter::ConfigType::TypedConfig(
                        envoy_types::util::pack_any(tcp),
                    )),
                    ..proto::Filter::default()
                }],
                ..proto::FilterChain::default()
            }),
            ..prometheus
        })
    }

    #[test]
    fn a_transparent_listener_and_its_mark_are_read() {
        let marked = OriginalSrc {
            mark: 1337,
            ..OriginalSrc::default()
        };
        let config = virtual_inbound(marked, None).unwrap();
        assert_eq!(
            (config.socket, config.original_src),
            (Socket::Transparent, Some(1337))
        );
        let config = virtual_inbound(OriginalSrc::default(), Some(true)).unwrap();
        assert_eq!(
            (config.socket, config.original_src),
            (Socket::Transparent, Some(0))
        );
        // Without a socket there is nothing to be transparent.
        assert_eq!(
            virtual_inbound(marked, Some(false)).unwrap().socket,
            Socket::Nothing
        );
    }

    #[test]
    fn the_clients_port_cannot_be_kept() {
        let with_port = OriginalSrc {
            bind_port: true,
            ..OriginalSrc::default()
        };
        let said = virtual_inbound(with_port, None).unwrap_err().to_string();
        assert!(said.contains("bind_port"), "{said}");
    }
}
