//! Istio's name table, as it crosses the wire: host names and their addresses, for the agent's DNS.
//!
//! The fields are those of `pkg/dns/proto/nds.proto` in istio/istio.

use std::collections::BTreeMap;

/// All host names of a mesh. In order of their names, so that the same table is always the same bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NameTable {
    /// By host name, without a dot at its end.
    #[prost(btree_map = "string, message", tag = "1")]
    pub table: BTreeMap<String, NameInfo>,
}

/// What is known of a host name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NameInfo {
    /// Its addresses.
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// Where it was registered: [`KUBERNETES`], or elsewhere.
    #[prost(string, tag = "2")]
    pub registry: String,
    /// The service's name, if Kubernetes has it.
    #[prost(string, tag = "3")]
    pub shortname: String,
    /// The service's namespace, if Kubernetes has it.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// More names; deprecated in Istio, and read there all the same.
    #[prost(string, repeated, tag = "5")]
    pub alt_hosts: Vec<String>,
}

/// The registry of Kubernetes services.
pub const KUBERNETES: &str = "Kubernetes";

/// The type of [`NameTable`] in xDS.
pub const TYPE_URL: &str = "type.googleapis.com/istio.networking.nds.v1.NameTable";

impl prost::Name for NameTable {
    const NAME: &'static str = "NameTable";
    const PACKAGE: &'static str = "istio.networking.nds.v1";

    fn type_url() -> String {
        TYPE_URL.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use prost::{Message as _, Name as _};

    use super::*;

    #[test]
    fn a_table_has_istios_bytes() {
        let info = NameInfo {
            ips: vec!["1.2.3.4".to_owned()],
            registry: KUBERNETES.to_owned(),
            shortname: "a".to_owned(),
            namespace: "b".to_owned(),
            alt_hosts: Vec::new(),
        };
        let table = NameTable {
            table: BTreeMap::from([("a.b".to_owned(), info)]),
        };
        let bytes = table.encode_to_vec();
        assert_eq!(
            bytes,
            b"\x0a\x22\x0a\x03a.b\x12\x1b\x0a\x071.2.3.4\x12\x0aKubernetes\x1a\x01a\x22\x01b"
        );
        assert_eq!(NameTable::decode(bytes.as_slice()).unwrap(), table);
        assert_eq!(NameTable::type_url(), TYPE_URL);
        assert!(TYPE_URL.ends_with(&NameTable::full_name()));
    }
}
