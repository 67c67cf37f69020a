//! Waiting with a limit and a name, and the pauses that a protocol asks for: the one place where time passes.

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

/// Awaits `future`, at most `limit`; `what` says in the error what was awaited.
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

/// Awaits `future`, at most `limit` if there is one.
pub async fn at_most<F: Future>(
    limit: Option<Duration>,
    what: &str,
    future: F,
) -> Result<F::Output, TooLong> {
    match limit {
        Some(limit) => within(limit, what, future).await,
        None => Ok(future.await),
    }
}

/// Awaits `future` until that moment; none if it has not ended by then.
pub async fn until<F: Future>(deadline: tokio::time::Instant, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(deadline, future).await.ok()
}

/// Ends at that moment.
pub fn sleep_until(moment: tokio::time::Instant) -> tokio::time::Sleep {
    tokio::time::sleep_until(moment)
}

/// Lets a time pass that a back-off asks for.
pub async fn back_off(pause: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a back-off is time, not an event")]
    tokio::time::sleep(pause).await;
}
