//! A connection to a host, of which bytes are counted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ClusterStats;
use crate::stats::Stat;

/// A connection, or one direction of it.
#[derive(Debug)]
pub struct Counted<T> {
    inner: T,
    received: Stat,
    sent: Stat,
}

impl<T> Counted<T> {
    /// Counts for this cluster.
    pub fn new(inner: T, stats: &ClusterStats) -> Self {
        Self {
            inner,
            received: stats.cx_rx_bytes.clone(),
            sent: stats.cx_tx_bytes.clone(),
        }
    }

    /// What is counted.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Counts bytes that came from the host by another way.
    pub fn took(&self, length: u64) {
        self.received.add(length);
    }

    /// Counts bytes that went to the host by another way.
    pub fn gave(&self, length: u64) {
        self.sent.add(length);
    }

    fn wrote(&self, written: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(length) = written {
            self.sent.add(u64::try_from(length).unwrap_or(0));
        }
        Poll::Ready(written)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        let length = buffer.filled().len() - before;
        self.received.add(u64::try_from(length).unwrap_or(0));
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices));
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
