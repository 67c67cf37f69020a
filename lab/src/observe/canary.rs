//! Proof that a pod's events arrive: one connection that is refused, and all that must be seen of it.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::sync::Notify;

use crate::net::netns::NetNs;
use crate::within::within;

use super::connections::{Ended, Seen};
use super::nftrace::{Protocol, Tuple};
use super::{Error, netlink};

/// Connects inside the namespace to a port of each loopback address where nobody listens, and awaits the events.
pub(super) async fn prove(
    seen: &Rc<RefCell<Seen>>,
    news: &Notify,
    pod: &str,
    namespace: &NetNs,
    limit: Duration,
) -> Result<(), Error> {
    let index = seen.borrow().pod(pod)?;
    let addresses = seen.borrow().pods[index].addresses;
    // Every pod has 127.0.0.1, whatever else it has.
    let loopbacks = std::iter::once(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .chain(addresses.v6().map(|_| IpAddr::V6(Ipv6Addr::LOCALHOST)));
    for loopback in loopbacks {
        prove_one(seen, news, (pod, index), namespace, (loopback, limit)).await?;
    }
    Ok(())
}

async fn prove_one(
    seen: &Rc<RefCell<Seen>>,
    news: &Notify,
    (pod, index): (&str, usize),
    namespace: &NetNs,
    (loopback, limit): (IpAddr, Duration),
) -> Result<(), Error> {
    let sent = netlink::visit(pod, namespace, || refused_connection(loopback))?;
    let tuple = sent.map_err(|source| Error::Canary {
        pod: pod.to_owned(),
        source,
    })?;
    let deadline = Instant::now() + limit;
    let what = format!("the canary's trace events in pod `{pod}`");
    loop {
        let came = news.notified();
        if is_seen(seen, index, &tuple) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        within(left, &what, came).await.map_err(|mut source| {
            source.limit = limit;
            Error::Deaf {
                pod: pod.to_owned(),
                source,
            }
        })?;
    }
}

fn is_seen(seen: &RefCell<Seen>, pod: usize, tuple: &Tuple) -> bool {
    let mut seen = seen.borrow_mut();
    seen.drain_all();
    seen.opened(pod, tuple, usize::MAX)
        .is_some_and(|id| seen.connections[id].ended == Some(Ended::Refused(tuple.destination.port())))
}

fn refused_connection(loopback: IpAddr) -> io::Result<Tuple> {
    let loopback = SocketAddr::new(loopback, 0);
    let domain = Domain::for_address(loopback);
    // Bound and never listening: the kernel refuses, and nobody else can have the port meanwhile.
    let target = Socket::new(domain, Type::STREAM, None)?;
    target.bind(&loopback.into())?;
    let destination = end(&target)?;
    let client = Socket::new(domain, Type::STREAM, None)?;
    client.bind(&loopback.into())?;
    let source = end(&client)?;
    match client.connect(&destination.into()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Tuple {
            protocol: Protocol::Tcp,
            source,
            destination,
        }),
        Err(error) => Err(error),
        Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

fn end(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}
