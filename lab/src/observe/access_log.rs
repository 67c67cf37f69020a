//! A line of a sidecar's access log, as a value. The keys are those that istiod puts into each listener's `json_format`.

use std::net::SocketAddr;
use std::rc::Rc;

use serde_json::{Map, Value};

/// A line that is no access-log entry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON.
    #[error("reading an access-log line of pod `{pod}`: not a JSON object: {line}")]
    NotJson {
        /// The pod.
        pod: String,
        /// The line.
        line: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON object without what every entry has.
    #[error("reading an access-log line of pod `{pod}`: `{key}` is missing or no address: {line}")]
    Incomplete {
        /// The pod.
        pod: String,
        /// The key.
        key: &'static str,
        /// The line.
        line: String,
    },
}

impl Error {
    /// The line ends before its object does: its writer was killed as it wrote.
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::NotJson { source, .. } if source.is_eof())
    }
}

/// One entry: a request (HTTP) or a connection (TCP) that a listener served.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The pod of the sidecar.
    pub pod: String,
    /// The listener's name.
    pub listener: Option<String>,
    /// The filter chain's name.
    pub filter_chain: Option<String>,
    /// The downstream connection's number in this proxy.
    pub connection_id: Option<u64>,
    /// The upstream connection's number in this proxy.
    pub upstream_connection_id: Option<u64>,
    /// The method; none for TCP.
    pub method: Option<String>,
    /// The path; none for TCP.
    pub path: Option<String>,
    /// The host that was asked for.
    pub authority: Option<String>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// The status; none for TCP and where no answer was sent.
    pub response_code: Option<u16>,
    /// Response flags, such as `UF`.
    pub response_flags: Vec<String>,
    /// Response code details.
    pub response_code_details: Option<String>,
    /// The upstream cluster.
    pub upstream_cluster: Option<String>,
    /// The upstream's address.
    pub upstream_host: Option<SocketAddr>,
    /// The proxy's own end of the upstream connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// Where the client wanted to go.
    pub downstream_local_address: Option<SocketAddr>,
    /// The client's end of the downstream connection.
    pub downstream_remote_address: SocketAddr,
    /// The route.
    pub route_name: Option<String>,
    /// When the request began, as the proxy wrote it.
    pub start_time: Option<String>,
    /// How long it took, in milliseconds.
    pub duration: Option<u64>,
    /// The whole line: as text, because a busy lab has many and shows few.
    line: Rc<str>,
}

impl Entry {
    /// All that the line says.
    pub fn fields(&self) -> Map<String, Value> {
        // It has been read before.
        serde_json::from_str(&self.line).unwrap_or_default()
    }
}

/// Reads a line.
pub fn parse(pod: &str, line: &str) -> Result<Entry, Error> {
    let fields: Map<String, Value> = serde_json::from_str(line).map_err(|source| Error::NotJson {
        pod: pod.to_owned(),
        line: line.to_owned(),
        source,
    })?;
    // `x-forwarded-for` changes the second of these, so that it is no end of a connection any more.
    let downstream_remote_address = ["downstream_direct_remote_address", "downstream_remote_address"]
        .into_iter()
        .find_map(|key| address(&fields, key))
        .ok_or_else(|| Error::Incomplete {
            pod: pod.to_owned(),
            key: "downstream_remote_address",
            line: line.to_owned(),
        })?;
    Ok(Entry {
        pod: pod.to_owned(),
        listener: text(&fields, "listener"),
        filter_chain: text(&fields, "filter_chain"),
        connection_id: number(&fields, "connection_id"),
        upstream_connection_id: number(&fields, "upstream_connection_id"),
        method: text(&fields, "method"),
        path: text(&fields, "path"),
        authority: text(&fields, "authority"),
        request_id: text(&fields, "request_id"),
        response_code: number(&fields, "response_code")
            .and_then(|code| u16::try_from(code).ok())
            .filter(|code| *code != 0),
        response_flags: text(&fields, "response_flags")
            .map(|flags| {
                let flags = flags.split(',').filter(|flag| !matches!(*flag, "" | "-"));
                flags.map(ToOwned::to_owned).collect()
            })
            .unwrap_or_default(),
        response_code_details: text(&fields, "response_code_details"),
        upstream_cluster: text(&fields, "upstream_cluster"),
        upstream_host: address(&fields, "upstream_host"),
        upstream_local_address: address(&fields, "upstream_local_address"),
        downstream_local_address: address(&fields, "downstream_local_address"),
        downstream_remote_address,
        route_name: text(&fields, "route_name"),
        start_time: text(&fields, "start_time"),
        duration: number(&fields, "duration"),
        line: Rc::from(line),
    })
}

/// Envoy writes null or `-` for what is absent.
fn text(fields: &Map<String, Value>, key: &str) -> Option<String> {
    let text = fields.get(key)?.as_str()?;
    (!text.is_empty() && text != "-").then(|| text.to_owned())
}

fn number(fields: &Map<String, Value>, key: &str) -> Option<u64> {
    let value = fields.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn address(fields: &Map<String, Value>, key: &str) -> Option<SocketAddr> {
    text(fields, key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_null_or_a_dash_and_numbers_may_be_text() {
        let line = r#"{"downstream_remote_address":"10.244.0.5:4242","upstream_host":"-","upstream_local_address":null,
            "response_code":"503","response_flags":"URX,UF","connection_id":7,"request_id":"a-b","response_code_details":"-"}"#;
        let entry = parse("a", line).unwrap();
        assert_eq!(
            entry.downstream_remote_address,
            "10.244.0.5:4242".parse().unwrap()
        );
        assert_eq!((entry.upstream_host, entry.upstream_local_address), (None, None));
        assert_eq!((entry.response_code, entry.connection_id), (Some(503), Some(7)));
        assert_eq!(entry.response_flags, ["URX", "UF"]);
        assert_eq!(entry.response_code_details, None);
    }

    #[test]
    fn what_x_forwarded_for_says_is_not_the_client_s_end() {
        let line = r#"{"downstream_remote_address":"1.2.3.4:0","downstream_direct_remote_address":"10.244.0.5:4242"}"#;
        let entry = parse("a", line).unwrap();
        assert_eq!(
            entry.downstream_remote_address,
            "10.244.0.5:4242".parse().unwrap()
        );
    }

    #[test]
    fn flags_of_a_good_request_are_none() {
        let line =
            r#"{"downstream_remote_address":"10.244.0.5:4242","response_flags":"-","response_code":0}"#;
        let entry = parse("a", line).unwrap();
        assert!(entry.response_flags.is_empty());
        assert_eq!(entry.response_code, None);
    }

    #[test]
    fn a_flag_that_says_nothing_is_none() {
        let line = r#"{"downstream_remote_address":"10.244.0.5:4242","response_flags":"UF,,-,URX"}"#;
        assert_eq!(parse("a", line).unwrap().response_flags, ["UF", "URX"]);
    }

    #[test]
    fn a_line_whose_writer_was_killed_is_cut() {
        let line = r#"{"downstream_remote_address":"10.244.0.5:4242","response_code":200,"route_name":null}"#;
        for end in 1..line.len() {
            assert!(parse("a", &line[..end]).unwrap_err().is_cut(), "{}", &line[..end]);
        }
        for other in ["{}", "starting", &format!("{}{line}", &line[..40])] {
            assert!(!parse("a", other).unwrap_err().is_cut(), "{other}");
        }
    }

    #[test]
    fn a_line_without_its_client_is_a_mistake() {
        assert!(matches!(parse("a", "{}"), Err(Error::Incomplete { .. })));
        assert!(matches!(parse("a", "starting"), Err(Error::NotJson { .. })));
    }
}
