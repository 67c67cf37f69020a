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

/// The longest duration that the type can hold (`google/protobuf/duration.proto`): ten thousand years.
const LONGEST_DURATION: Duration = Duration::from_hours(87_660_000);

/// A duration; negative ones count as none, and too long ones as the longest: a deadline can be made of that.
pub fn duration(proto: Option<&ProtoDuration>) -> Option<Duration> {
    let proto = proto?;
    let (seconds, nanos) = (
        u64::try_from(proto.seconds).ok()?,
        u32::try_from(proto.nanos).ok()?,
    );
    Some(Duration::new(seconds, nanos).min(LONGEST_DURATION))
}

/// The same, where zero means no limit.
pub fn limit(proto: Option<&ProtoDuration>) -> Option<Duration> {
    duration(proto).filter(|duration| !duration.is_zero())
}

/// One of several names, each with the probability of its weight.
pub fn choose_by_weight(names: &[(String, u32)]) -> &str {
    let total: u64 = names.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut left = if total == 0 { 0 } else { fastrand::u64(0..total) };
    for (name, weight) in names {
        let weight = u64::from(*weight);
        if left < weight {
            return name;
        }
        left -= weight;
    }
    names.first().map(|(name, _)| name.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_may_add_up_to_more_than_one_of_them_can_be() {
        let names = [("a".to_owned(), u32::MAX), ("b".to_owned(), u32::MAX)];
        let chosen: Vec<&str> = std::iter::repeat_with(|| choose_by_weight(&names))
            .take(200)
            .collect();
        assert!(chosen.contains(&"a") && chosen.contains(&"b"));
    }

    #[test]
    fn a_deadline_can_be_made_of_every_duration() {
        let longest = ProtoDuration {
            seconds: i64::MAX,
            nanos: i32::MAX,
        };
        let longest = duration(Some(&longest)).unwrap();
        assert!(std::time::Instant::now().checked_add(longest).is_some());
        let negative = ProtoDuration {
            seconds: -1,
            nanos: 0,
        };
        assert_eq!(duration(Some(&negative)), None);
    }
}
