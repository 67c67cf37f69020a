//! The five resource types that are served, in the order in which they are sent.

use std::fmt;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use prost::Name as _;
use proxy::xds::name_table::NameTable;

/// A resource type. The order is Istio's order of a push (`PushOrder` in `pilot/pkg/xds/ads.go`): a resource comes
/// after those that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Clusters.
    Cds,
    /// Endpoints.
    Eds,
    /// Listeners.
    Lds,
    /// Routes.
    Rds,
    /// The name table, for agents that answer DNS.
    Nds,
}

impl Kind {
    /// All of them, in the order of a push.
    pub(super) const ALL: [Self; Self::COUNT] = [Self::Cds, Self::Eds, Self::Lds, Self::Rds, Self::Nds];

    /// How many there are.
    pub(super) const COUNT: usize = 5;

    /// The name on the control socket and in messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cds => "cds",
            Self::Eds => "eds",
            Self::Lds => "lds",
            Self::Rds => "rds",
            Self::Nds => "nds",
        }
    }

    /// The type of the discovery protocol.
    pub(super) fn type_url(self) -> String {
        match self {
            Self::Cds => Cluster::type_url(),
            Self::Eds => ClusterLoadAssignment::type_url(),
            Self::Lds => Listener::type_url(),
            Self::Rds => RouteConfiguration::type_url(),
            Self::Nds => NameTable::type_url(),
        }
    }

    /// The type with this name on the control socket.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The type with this URL.
    pub(super) fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// True if a request without names asks for everything.
    pub(super) const fn is_wildcard(self) -> bool {
        match self {
            Self::Cds | Self::Lds | Self::Nds => true,
            Self::Eds | Self::Rds => false,
        }
    }

    /// True if a proxy always asks for it, whatever else it has.
    pub(super) const fn is_asked_by_all(self) -> bool {
        match self {
            Self::Cds | Self::Lds => true,
            Self::Eds | Self::Rds | Self::Nds => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_urls_lead_back_to_the_type() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(Kind::from_type_url(&kind.type_url()), Some(kind));
        }
        assert_eq!(
            Kind::Eds.type_url(),
            "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        );
        assert_eq!(Kind::from_name("sds"), None);
    }
}
