//! HTTP/1.1 on the wire: heads and bodies to and from bytes (RFC 9112), as strictly as Envoy's codec reads them.
//!
//! A codec of its own, because what a client gets for a malformed request, and when its connection is closed, is a part
//! of what the sidecar must have in common with Envoy.

pub mod body;
pub mod encode;
pub mod parse;

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Room for the head of a message.
const HEAD_ROOM: usize = 2 * 1024;
/// Room for a long body that is taken in.
pub const BODY_ROOM: usize = 256 * 1024;
/// The rest of a body that is at least so long goes from socket to socket, lot by lot.
pub const LONG_REST: u64 = 64 * 1024;

/// Reads what is there into `buffer`, waiting if nothing is; 0 at the end of the connection.
pub async fn fill(read: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<usize> {
    if buffer.capacity() - buffer.len() < HEAD_ROOM / 4 {
        buffer.reserve(HEAD_ROOM);
    }
    read.read_buf(buffer).await
}
