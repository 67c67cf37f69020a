//! Small protobuf messages that every resource is made of.

use std::net::IpAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress,
};
use envoy_types::pb::google::protobuf::{self, BoolValue, UInt32Value};

/// A duration; longer than protobuf can say is its longest.
pub(super) fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// `0s`, which Envoy reads as "no limit".
pub(super) fn no_limit() -> protobuf::Duration {
    duration(Duration::ZERO)
}

/// A number that may be absent.
pub(super) const fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

/// A truth value that may be absent.
pub(super) const fn truth(value: bool) -> BoolValue {
    BoolValue { value }
}

/// A TCP address.
pub(super) fn socket_address(ip: IpAddr, port: u16) -> SocketAddress {
    SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
        ..SocketAddress::default()
    }
}

/// A TCP address, as most messages want it.
pub(super) fn address(ip: IpAddr, port: u16) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(socket_address(ip, port))),
    }
}

/// From the same stream, waited for without limit, as Istio sets it: a proxy never runs on half a configuration.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        initial_fetch_timeout: Some(no_limit()),
        resource_api_version: ApiVersion::V3.into(),
        ..ConfigSource::default()
    }
}
