//! Configuration as it is used: checked, immutable snapshots, each made from one xDS resource or refused with a reason.

pub mod cluster;
pub mod listener;
pub mod route;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Address, address, socket_address};
use envoy_types::pb::google::protobuf::{Any, Duration as ProtoDuration};
use prost::{Message, Name};

/// Why a resource cannot be used: the words of a NACK.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {reason}")]
pub struct Refused {
    /// The resource's name.
    pub resource: String,
    /// Which part of it.
    pub field: String,
    /// Why.
    pub reason: String,
}

impl Refused {
    /// A refusal of a field of a resource.
    pub fn new(resource: &str, field: &str, reason: impl Into<String>) -> Self {
        Self {
            resource: resource.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }
}

/// Decodes an `Any` of a known type.
pub fn unpack<T: Message + Name + Default>(resource: &str, field: &str, any: &Any) -> Result<T, Refused> {
    if any.type_url != T::type_url() {
        return Err(Refused::new(
            resource,
            field,
            format!(
                "didn't find a registered implementation for type {}",
                any.type_url
            ),
        ));
    }
    T::decode(any.value.as_slice())
        .map_err(|error| Refused::new(resource, field, format!("malformed: {error}")))
}

/// A socket address of a resource.
pub fn socket_address(resource: &str, field: &str, proto: Option<&Address>) -> Result<SocketAddr, Refused> {
    let Some(address::Address::SocketAddress(socket)) = proto.and_then(|address| address.address.as_ref())
    else {
        return Err(Refused::new(resource, field, "not a socket address"));
    };
    let ip: IpAddr = socket.address.parse().map_err(|_error| {
        Refused::new(
            resource,
            field,
            format!("malformed IP address: {}", socket.address),
        )
    })?;
    let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err(Refused::new(resource, field, "no port_value"));
    };
    let port = u16::try_from(port).map_err(|_error| Refused::new(resource, field, format!("port {port}")))?;
    Ok(SocketAddr::new(ip, port))
}

/// A duration; negative ones count as none.
pub fn duration(proto: Option<&ProtoDuration>) -> Option<Duration> {
    let proto = proto?;
    let (seconds, nanos) = (
        u64::try_from(proto.seconds).ok()?,
        u32::try_from(proto.nanos).ok()?,
    );
    Some(Duration::new(seconds, nanos))
}

/// The same, where zero means no limit.
pub fn limit(proto: Option<&ProtoDuration>) -> Option<Duration> {
    duration(proto).filter(|duration| !duration.is_zero())
}
