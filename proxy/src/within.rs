//! Waiting with a limit and a name: the one place where this crate lets time pass.

use std::time::Duration;

/// A wait that ended in its deadline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {} ms for {what}", limit.as_millis())]
pub struct TooLong {
    /// What was awaited.
    pub what: String,
    /// How long.
    pub limit: Duration,
}

/// Awaits `future`, at most `limit`; `what` says in the error what was awaited ("the canary's trace event").
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> Result<F::Output, TooLong> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the wrapper that the ban points to"
    )]
    let ended = tokio::time::timeout(limit, future).await;
    ended.ok().ok_or_else(|| TooLong {
        what: what.to_owned(),
        limit,
    })
}
