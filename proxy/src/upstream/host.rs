//! A host of a cluster: the connections to it that no request rides, and what is counted of it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::addr::Source;
use crate::config::cluster::ClusterConfig;
use crate::http::fed::Fed;
use crate::stats::{AtEnd, Held, Stat};
use crate::streams::Streams;

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its address.
    pub address: SocketAddr,
    idle: RefCell<Vec<Http1>>,
    shared: RefCell<Vec<Http2>>,
    /// Requests under way.
    pub rq_active: Cell<u64>,
    /// Requests.
    pub rq_total: Cell<u64>,
    /// Requests that got an answer that is no 5xx.
    pub rq_success: Cell<u64>,
    /// Requests that got a 5xx, or no answer.
    pub rq_error: Cell<u64>,
    /// Requests that took too long.
    pub rq_timeout: Cell<u64>,
    /// Connections made.
    pub cx_total: Cell<u64>,
    /// Connections that failed.
    pub cx_connect_fail: Cell<u64>,
}

/// What is known of a connection to a host.
#[derive(Debug)]
pub struct Link {
    /// Its number, never given twice in a process.
    pub id: u64,
    /// This end of it.
    pub local: SocketAddr,
    /// Whose address it was given for that: it carries what comes from there, and nothing else.
    pub source: Option<Source>,
    /// Counts it as open.
    pub active: Held,
    /// Counts it when it is over.
    pub over: AtEnd,
}

/// A connection that speaks HTTP/1.1: one request after another.
#[derive(Debug)]
pub struct Http1 {
    /// The socket.
    pub stream: TcpStream,
    /// What was read and not yet used.
    pub input: BytesMut,
    /// What is to be written.
    pub output: BytesMut,
    /// What is known of it.
    pub link: Link,
    /// Requests that have ridden it.
    pub requests: u32,
    idle_since: Instant,
}

/// A connection that speaks HTTP/2: many requests at once.
#[derive(Debug, Clone)]
pub struct Http2 {
    /// How requests are sent on it.
    pub sender: hyper::client::conn::http2::SendRequest<Fed>,
    /// Its number.
    pub id: u64,
    /// This end of it.
    pub local: SocketAddr,
    /// Whose address it was given for that.
    pub source: Option<Source>,
    /// The requests that ride it.
    pub streams: Rc<Streams>,
}

/// One more; counters of hosts belong to one worker.
pub fn more(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Host {
    /// A host that nothing was sent to yet.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: RefCell::default(),
            shared: RefCell::default(),
            rq_active: Cell::default(),
            rq_total: Cell::default(),
            rq_success: Cell::default(),
            rq_error: Cell::default(),
            rq_timeout: Cell::default(),
            cx_total: Cell::default(),
            cx_connect_fail: Cell::default(),
        }
    }

    /// An idle connection from `source`, the one that was ridden last first.
    pub fn take(&self, config: &ClusterConfig, source: Option<Source>) -> Option<Http1> {
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.iter().rposition(|it| it.link.source == source) {
            let connection = idle.remove(last);
            if connection.is_fresh(config) && connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection that may be ridden again. `watcher` is woken when the host closes it.
    pub fn put(&self, mut connection: Http1, config: &ClusterConfig, watcher: &Waker) {
        let worn = config
            .max_requests
            .is_some_and(|most| connection.requests >= most);
        let mut context = Context::from_waker(watcher);
        let mut is_watched = || connection.stream.poll_read_ready(&mut context).is_pending();
        // Where the last read had filled its buffer it counts as readable, until the kernel was asked.
        if !worn && (is_watched() || (connection.is_open() && is_watched())) {
            connection.idle_since = Instant::now();
            self.idle.borrow_mut().push(connection);
        }
    }

    /// The connection from `source` that many requests share, if it is open.
    pub fn http2(&self, source: Option<Source>) -> Option<Http2> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|it| !it.sender.is_closed());
        shared.iter().find(|it| it.source == source).cloned()
    }

    /// Many requests share this connection from now on.
    pub fn share(&self, connection: Http2) {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|it| it.source != connection.source);
        shared.push(connection);
    }

    /// Closes what the host has closed, and what idles for too long, which `too_long` counts. Gives the moment at which
    /// the next one will have idled for too long.
    pub fn sweep(&self, config: &ClusterConfig, too_long: &Stat) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut is_fresh = |since: Instant| {
            let Some(limit) = config.idle_timeout else {
                return true;
            };
            let end = since + limit;
            let is_fresh = Instant::now() < end;
            if is_fresh {
                next = Some(next.map_or(end, |next| next.min(end)));
            } else {
                too_long.inc();
            }
            is_fresh
        };
        self.idle
            .borrow_mut()
            .retain(|connection| connection.is_open() && is_fresh(connection.idle_since));
        self.shared.borrow_mut().retain(|connection| {
            !connection.sender.is_closed() && connection.streams.idle_since().is_none_or(&mut is_fresh)
        });
        next
    }

    /// Closes all connections that no request rides.
    pub fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// True if nothing is kept or under way.
    pub fn is_unused(&self) -> bool {
        self.rq_active.get() == 0 && self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    /// Connections that no request rides.
    pub fn idle_count(&self) -> usize {
        self.idle.borrow().len()
    }
}

impl Http1 {
    /// A new connection.
    pub fn new(stream: TcpStream, link: Link) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            link,
            requests: 0,
            idle_since: Instant::now(),
        }
    }

    fn is_fresh(&self, config: &ClusterConfig) -> bool {
        config
            .idle_timeout
            .is_none_or(|limit| self.idle_since.elapsed() < limit)
    }

    /// A host that has closed its end says so before anything else; a connection at rest is silent. What the
    /// runtime has seen of it has made it readable: only then the kernel is asked what it is.
    fn is_open(&self) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        use std::os::fd::AsRawFd as _;
        let seen = self.stream.try_io(Interest::READABLE, || {
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            Ok(recv(self.stream.as_raw_fd(), &mut [0], flags)?)
        });
        matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::upstream::Cluster;
    use crate::within::within;

    fn source(last: u8) -> Source {
        Source {
            ip: [10, 0, 0, last].into(),
            mark: 1337,
        }
    }

    fn cluster() -> Rc<Cluster> {
        let bootstrap = crate::bootstrap::Bootstrap::istio("sidecar~10.0.0.1~a.default~x");
        let config = ClusterConfig::from_proto(&bootstrap.clusters()[0]).unwrap();
        Cluster::new(config, &crate::stats::Stats::default(), &Rc::default())
    }

    fn made(cluster: &Cluster, id: u64, stream: TcpStream, source: Option<Source>) -> Http1 {
        let link = Link {
            id,
            local: stream.local_addr().unwrap(),
            source,
            active: cluster.stats.cx_active.hold(),
            over: cluster.stats.cx_destroy.at_end(),
        };
        Http1::new(stream, link)
    }

    #[derive(Default)]
    struct Told(tokio::sync::Notify);

    impl std::task::Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.notify_one();
        }
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_told_whose_last_read_filled_its_buffer() {
        let (listener, cluster) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), cluster());
        let host = Host::new(listener.local_addr().unwrap());
        let stream = TcpStream::connect(host.address).await.unwrap();
        let (mut there, _) = listener.accept().await.unwrap();
        there.write_all(b"whole").await.unwrap();
        stream.readable().await.unwrap();
        assert_eq!(stream.try_read(&mut [0; 5]).unwrap(), 5);
        let told = Arc::new(Told::default());
        let watcher = Waker::from(Arc::clone(&told));
        host.put(made(&cluster, 1, stream, None), &cluster.config, &watcher);
        drop(there);
        within(
            Duration::from_secs(10),
            "the watcher to be woken",
            told.0.notified(),
        )
        .await
        .unwrap();
        assert!(host.take(&cluster.config, None).is_none(), "it is closed");
    }

    #[tokio::test]
    async fn a_connection_is_ridden_again_by_its_own_client_alone() {
        let (listener, cluster) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), cluster());
        let host = Host::new(listener.local_addr().unwrap());
        let mut open = Vec::new();
        for (id, source) in [
            (1, Some(source(1))),
            (2, None),
            (3, Some(source(2))),
            (4, Some(source(1))),
        ] {
            let stream = TcpStream::connect(host.address).await.unwrap();
            open.push(listener.accept().await.unwrap());
            let connection = made(&cluster, id, stream, source);
            host.put(connection, &cluster.config, Waker::noop());
        }
        let ridden = |source| host.take(&cluster.config, source).map(|it| it.link.id);
        assert_eq!(ridden(Some(source(3))), None);
        assert_eq!(ridden(None), Some(2));
        assert_eq!(ridden(None), None);
        assert_eq!(ridden(Some(source(1))), Some(4));
        assert_eq!(ridden(Some(source(1))), Some(1));
        assert_eq!(ridden(Some(source(2))), Some(3));
        assert_eq!(host.idle_count(), 0);
    }
}
