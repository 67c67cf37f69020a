//! What a proxy says of itself in the metadata of its xDS node (Istio, `NodeMetadata`), and the mesh as such proxies see it.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::value::Kind as ValueKind;

use super::ip_mode::IpMode;
use super::listeners::Interception;
use super::registry::{Proxy, Registry};
use crate::scenario::fields;

/// The metadata that listeners depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Metadata {
    /// `INTERCEPTION_MODE`.
    pub(super) interception: Interception,
    /// `IDLE_TIMEOUT`: of clients' HTTP connections, and of TCP; zero is no limit.
    pub(super) idle_timeout: Option<Duration>,
}

impl Metadata {
    /// A node's. What is no duration counts as none, as in Istio.
    pub(super) fn of(node: &Node) -> Self {
        let text = |name: &str| {
            let metadata = node.metadata.as_ref()?;
            match metadata.fields.get(name)?.kind.as_ref()? {
                ValueKind::StringValue(text) => Some(text.as_str()),
                ValueKind::NullValue(_)
                | ValueKind::NumberValue(_)
                | ValueKind::BoolValue(_)
                | ValueKind::StructValue(_)
                | ValueKind::ListValue(_) => None,
            }
        };
        Self {
            interception: match text("INTERCEPTION_MODE") {
                Some("TPROXY") => Interception::Tproxy,
                _ => Interception::Redirect,
            },
            idle_timeout: text("IDLE_TIMEOUT").and_then(fields::duration),
        }
    }
}

/// The mesh as proxies of the same families and metadata see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// The mesh.
    pub(super) registry: &'a Registry,
    /// The families.
    pub(super) mode: IpMode,
    /// [`Metadata::idle_timeout`].
    pub(super) idle_timeout: Option<Duration>,
}

impl<'a> View<'a> {
    /// As this proxy sees it.
    pub(super) fn of(registry: &'a Registry, proxy: &Proxy, metadata: Metadata) -> Self {
        Self {
            registry,
            mode: IpMode::of(proxy),
            idle_timeout: metadata.idle_timeout,
        }
    }
}
