//! TCP: a connection passed on to a host, byte by byte.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use tokio::io::AsyncWriteExt as _;

use crate::access_log::{Flags, Record};
use crate::addr::Downstream;
use crate::config::listener::{FilterChain, TcpConfig};
use crate::data_plane::Proxy;
use crate::serve::Prefixed;
use crate::upstream::connect::{connect, next_id};

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
    client: Prefixed,
) {
    let (start, clock) = (SystemTime::now(), Instant::now());
    let active = proxy
        .stats
        .gauge(&format!("tcp.{}.downstream_cx_active", config.stat_prefix));
    proxy
        .stats
        .counter(&format!("tcp.{}.downstream_cx_total", config.stat_prefix))
        .inc();
    active.inc();
    let outcome = pass(proxy, config, downstream, client).await;
    active.dec();
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
        connection_id: id,
        route_name: None,
        filter_chain_name: Some(&chain.name),
    };
    for log in &config.logs {
        log.log(&record);
    }
}

fn choose(clusters: &[(String, u32)]) -> &str {
    let total: u32 = clusters.iter().map(|(_, weight)| weight).sum();
    let mut left = if total == 0 { 0 } else { fastrand::u32(0..total) };
    for (name, weight) in clusters {
        if left < *weight {
            return name;
        }
        left -= weight;
    }
    clusters
        .first()
        .map(|(name, _)| name.as_str())
        .unwrap_or_default()
}

async fn pass(
    proxy: &Rc<Proxy>,
    config: &TcpConfig,
    downstream: Downstream,
    mut client: Prefixed,
) -> Outcome {
    let name = choose(&config.clusters);
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
        // Dropping it sends a FIN, or an RST if the client has sent what nobody read: so does Envoy.
        return outcome;
    };
    outcome.host = Some(host);
    let mut upstream = match connect(&cluster, host).await {
        Ok(stream) => stream,
        Err(error) => {
            outcome.flags.set(Flags::UPSTREAM_CONNECTION_FAILURE);
            outcome.flags.set(Flags::RETRY_LIMIT_EXCEEDED_TCP);
            outcome.transport_reason = error.transport_reason();
            return outcome;
        }
    };
    outcome.local = upstream.local_addr().ok();
    outcome.upstream_id = Some(next_id());
    cluster.stats.cx_active.inc();
    // An error is a reset by one side; what had passed by then is not told by it.
    if let Ok((received, sent)) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        (outcome.received, outcome.sent) = (received, sent);
    }
    cluster.stats.cx_active.dec();
    drop(upstream.shutdown().await);
    outcome
}
