//! Heads of requests and responses, as the proxy handles them whatever HTTP they came by.

use http::{HeaderMap, Method, StatusCode};

/// The head of a request. `Host` and `:authority` are one thing, and stand beside the headers.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Path and query as they were sent; `*` for `OPTIONS *`, and empty for CONNECT.
    pub path: String,
    /// The host that was asked for.
    pub authority: Option<String>,
    /// All other headers, names in lower case.
    pub headers: HeaderMap,
    /// It came by HTTP/2.
    pub http2: bool,
}

/// The head of a response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// Headers, names in lower case.
    pub headers: HeaderMap,
}
