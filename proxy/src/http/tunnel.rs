//! After a 101 both sides speak what they agreed on: bytes are passed on until both have ended.

use bytes::BytesMut;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::Connection;
use super::exchange::Unlogged;
use crate::config::listener::HttpConfig;
use crate::pass::{self, Ended};
use crate::upstream::host::Http1;

/// Passes bytes between client and host until both have ended, and logs it.
pub(super) async fn run(
    connection: &Connection,
    config: &HttpConfig,
    client: (OwnedReadHalf, OwnedWriteHalf),
    ahead: BytesMut,
    host: Http1,
    unlogged: Unlogged,
) {
    let Unlogged { mut info, head } = unlogged;
    let Ok(client) = client.0.reunite(client.1) else {
        return;
    };
    let Http1 {
        stream, input, link, ..
    } = host;
    let passed = pass::both_ways(client, ahead, stream, input, &connection.chain.drain, None).await;
    drop(link);
    info.sent += passed.to_client;
    match passed.ended {
        Ended::Both | Ended::Client | Ended::ClientReset | Ended::Cut | Ended::Idle => info.client_gone(),
        Ended::Host | Ended::HostReset => info.broke_off(),
    }
    info.log(connection, config, Some(&head), passed.to_host);
}
