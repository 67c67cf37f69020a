//! TCP: a connection passed on to a host, byte by byte.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::access_log::{Flags, Record};
use crate::addr::Downstream;
use crate::config::choose_by_weight;
use crate::config::listener::{FilterChain, TcpConfig};
use crate::data_plane::Proxy;
use crate::pass::{self, Ended};
use crate::upstream::connect::{connect, link};

/// What is known of a connection when it ends.
struct Outcome {
    flags: Flags,
    transport_reason: Option<String>,
    cluster: String,
    host: Option<SocketAddr>,
    local: Option<SocketAddr>,
    upstream_id: Option<u64>,
    received: u64,
    sent: u64,
}

/// Passes a connection on until one side ends it.
pub async fn serve(
    proxy: &Rc<Proxy>,
    config: &TcpConfig,
    chain: &FilterChain,
    downstream: Downstream,
    id: u64,
    client: TcpStream,
    prefix: BytesMut,
) {
    let (start, clock) = (SystemTime::now(), Instant::now());
    let stats = config.stats(&proxy.stats);
    stats.cx_total.inc();
    let active = stats.cx_active.hold();
    let outcome = pass(proxy, config, chain, downstream, client, prefix).await;
    drop(active);
    let record = Record {
        start,
        duration: clock.elapsed(),
        method: None,
        path: None,
        protocol: None,
        authority: None,
        request_headers: None,
        response_headers: None,
        response_code: 0,
        flags: &outcome.flags,
        details: None,
        connection_termination_details: None,
        upstream_transport_failure_reason: outcome.transport_reason.as_deref(),
        bytes_received: outcome.received,
        bytes_sent: outcome.sent,
        upstream_cluster: Some(&outcome.cluster),
        upstream_host: outcome.host,
        upstream_local_address: outcome.local,
        upstream_connection_id: outcome.upstream_id,
        attempts: 1,
        downstream_local_address: downstream.local(),
        downstream_remote_address: downstream.client,
        downstream_direct_remote_address: downstream.client,
        connection_id: id,
        route_name: None,
        filter_chain_name: Some(&chain.name),
    };
    for log in &config.logs {
        log.log(&record);
    }
}

async fn pass(
    proxy: &Rc<Proxy>,
    config: &TcpConfig,
    chain: &FilterChain,
    downstream: Downstream,
    client: TcpStream,
    prefix: BytesMut,
) -> Outcome {
    let name = choose_by_weight(&config.clusters);
    let mut outcome = Outcome {
        flags: Flags::default(),
        transport_reason: None,
        cluster: name.to_owned(),
        host: None,
        local: None,
        upstream_id: None,
        received: 0,
        sent: 0,
    };
    let Some(cluster) = proxy.cluster(name) else {
        outcome.flags.set(Flags::NO_CLUSTER_FOUND);
        return outcome;
    };
    let Some(host) = cluster.choose(downstream.local(), &[]) else {
        cluster.stats.cx_none_healthy.inc();
        outcome.flags.set(Flags::NO_HEALTHY_UPSTREAM);
        refuse(&client, &prefix);
        return outcome;
    };
    outcome.host = Some(host.address);
    let opened = connect(&cluster, &host, downstream.source).await;
    let upstream = opened.and_then(|stream| Ok((link(&cluster, &host, downstream.source, &stream)?, stream)));
    let (link, upstream) = match upstream {
        Ok(upstream) => upstream,
        Err(error) => {
            outcome.flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
            outcome.flags.set(Flags::RETRY_LIMIT_EXCEEDED_TCP);
            outcome.transport_reason = error.transport_reason();
            refuse(&client, &prefix);
            return outcome;
        }
    };
    (outcome.local, outcome.upstream_id) = (Some(link.local), Some(link.id));
    let passed = pass::both_ways(
        client,
        prefix,
        upstream,
        BytesMut::new(),
        &chain.drain,
        config.idle_timeout,
    )
    .await;
    (outcome.received, outcome.sent) = (passed.to_host, passed.to_client);
    cluster.stats.cx_tx_bytes.add(passed.to_host);
    cluster.stats.cx_rx_bytes.add(passed.to_client);
    drop(link);
    match passed.ended {
        Ended::Client => outcome.flags.set(Flags::DOWNSTREAM_CONNECTION_TERMINATION),
        Ended::ClientReset => outcome.flags.set(Flags::DOWNSTREAM_REMOTE_RESET),
        Ended::HostReset => outcome.flags.set(Flags::UPSTREAM_REMOTE_RESET),
        Ended::Idle => config.stats(&proxy.stats).idle_timeout.inc(),
        Ended::Both | Ended::Host | Ended::Cut => {}
    }
    outcome
}

/// Ends a client's connection as Envoy does: by a reset if a listener filter looked at its first bytes (it only peeks, so
/// they are unread), else by a FIN, whatever came.
fn refuse(client: &TcpStream, prefix: &[u8]) {
    if !prefix.is_empty() {
        pass::reset(client);
        return;
    }
    let mut waste = [0; 4096];
    while matches!(client.try_read(&mut waste), Ok(1..)) {}
}
