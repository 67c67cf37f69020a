//! The one accept loop: original destination, first bytes, filter chain, and on to HTTP or TCP.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else the first bytes are, it is not what was looked for"
)]

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use crate::addr::{Arrival, Downstream, Source};
use crate::config::listener::{FilterChain, HttpConfig, ListenerConfig, NetworkFilter, Socket};
use crate::data_plane::Proxy;
use crate::detect::{self, Seen};
use crate::http::{self, h1::fill};
use crate::upstream::connect::next_id;
use crate::within::at_most;
use crate::{sys, tcp};

/// Bytes of a connection that were read to look at them, and the rest of it.
#[derive(Debug)]
pub struct Prefixed {
    prefix: BytesMut,
    stream: TcpStream,
}

impl Prefixed {
    /// A connection of which these bytes were read already.
    pub const fn new(prefix: BytesMut, stream: TcpStream) -> Self {
        Self { prefix, stream }
    }

    /// The connection, without the bytes that were read of it.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix[..length]);
        self.prefix.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// What a socket for `::` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv6 alone: a listener that wants both has a socket for each, as Envoy's have.
    One,
    /// IPv4 too.
    Both,
}

/// Opens the socket of a listener.
pub fn bind(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    listen(socket(address, families)?, address)
}

/// Opens the socket of one of a listener's addresses as it is configured. A transparent one needs `CAP_NET_ADMIN`.
pub fn open(listener: &ListenerConfig, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Families::One)?;
    if listener.socket == Socket::Transparent {
        make_transparent(&socket, address.ip())
            .map_err(|error| io::Error::new(error.kind(), format!("IP_TRANSPARENT: {error}")))?;
    }
    listen(socket, address)
}

/// Lets a socket have, or take connections to, addresses that are not this machine's.
pub fn make_transparent(socket: &impl std::os::fd::AsFd, ip: IpAddr) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    match ip {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}

fn socket(address: SocketAddr, families: Families) -> io::Result<socket2::Socket> {
    let domain = if address.is_ipv4() {
        socket2::Domain::IPV4
    } else {
        socket2::Domain::IPV6
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Each worker has a socket of its own, and the kernel spreads connections over them.
    socket.set_reuse_port(true)?;
    // What it accepts has it too.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(families == Families::One)?;
    }
    Ok(socket)
}

fn listen(socket: socket2::Socket, address: SocketAddr) -> io::Result<TcpListener> {
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections of the listener of this name until it is taken away.
pub async fn accept(proxy: Rc<Proxy>, name: String, socket: TcpListener) {
    let address = socket
        .local_addr()
        .map(|address| address.to_string().replace(':', "_"))
        .unwrap_or_default();
    let count = |last: &str| format!("listener.{address}.{last}");
    let total = proxy.stats.counter(&count("downstream_cx_total"));
    let active = proxy.stats.gauge(&count("downstream_cx_active"));
    loop {
        // The client was gone before it was accepted, or descriptors ran out for a moment.
        let Ok((stream, client)) = socket.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        total.inc();
        let Some(listener) = proxy.listener(&name) else {
            return;
        };
        let (task_proxy, active) = (Rc::clone(&proxy), active.hold());
        proxy.spawn(async move {
            // What goes wrong with one connection ends that connection.
            drop(connection(task_proxy, listener, stream, client).await);
            drop(active);
        });
    }
}

async fn connection(
    proxy: Rc<Proxy>,
    listener: Rc<ListenerConfig>,
    stream: TcpStream,
    client: SocketAddr,
) -> io::Result<()> {
    let transparent = (listener.socket == Socket::Transparent)
        .then(|| listener.addresses.first().map_or(0, SocketAddr::port));
    let arrival = sys::arrival(&stream, stream.local_addr()?, transparent)?;
    let listener = match arrival {
        Arrival::Redirected(original) | Arrival::Transparent(original) if listener.hands_off => {
            hand_off(&proxy, original.0).unwrap_or(listener)
        }
        Arrival::Redirected(_) | Arrival::Transparent(_) | Arrival::Direct(_) => listener,
    };
    let downstream = Downstream {
        client,
        arrival,
        source: listener.original_src.map(|mark| Source {
            ip: client.ip(),
            mark,
        }),
    };
    let port = downstream.local().port();
    let mut stream = stream;
    let mut prefix = BytesMut::new();
    let Some(seen) = inspect(&listener, port, &mut stream, &mut prefix).await? else {
        return Ok(());
    };
    let (transport, application) = match seen {
        Seen::Tls => ("tls", None),
        Seen::Http(version) => ("raw_buffer", Some(version)),
        Seen::More | Seen::Other => ("raw_buffer", None),
    };
    let Some(chain) = listener.choose(port, transport, application).map(Rc::clone) else {
        proxy
            .stats
            .counter(&format!("listener.{}.no_filter_chain_match", listener.name))
            .inc();
        return Ok(());
    };
    run(proxy, chain, downstream, stream, prefix).await
}

async fn run(
    proxy: Rc<Proxy>,
    chain: Rc<FilterChain>,
    downstream: Downstream,
    stream: TcpStream,
    prefix: BytesMut,
) -> io::Result<()> {
    // Each a function of its own: they take the same memory of a connection's task, not one after the other.
    match &chain.filter {
        NetworkFilter::Tcp(config) => {
            tcp::serve(&proxy, config, &chain, downstream, next_id(), stream, prefix).await;
            Ok(())
        }
        NetworkFilter::Http(config) => serve_http(proxy, config, &chain, downstream, stream, prefix).await,
    }
}

async fn serve_http(
    proxy: Rc<Proxy>,
    config: &HttpConfig,
    chain: &Rc<FilterChain>,
    downstream: Downstream,
    mut stream: TcpStream,
    mut prefix: BytesMut,
) -> io::Result<()> {
    let id = next_id();
    // Which HTTP it is shows in the first bytes; a client of HTTP always speaks first.
    while could_be_http2(&prefix) {
        let idle = config.idle_timeout.filter(|_| prefix.is_empty());
        let Ok(filled) = at_most(idle, "a client's first bytes", fill(&mut stream, &mut prefix)).await else {
            config.stats(&proxy.stats).cx_idle_timeout.inc();
            return Ok(());
        };
        if filled? == 0 {
            return Ok(());
        }
    }
    let descriptor = stream.as_raw_fd();
    let is_http2 = prefix.starts_with(detect::PREFACE);
    let connection = http::Connection {
        proxy,
        downstream,
        id,
        chain: Rc::clone(chain),
        ended: Cell::default(),
        refused: Rc::default(),
    };
    let mut serving = pin!(http::serve(connection, stream, prefix, is_http2));
    tokio::select! {
        biased;
        () = serving.as_mut() => {}
        () = chain.drain.over() => {
            // Whoever serves it has it still, and sees its end. It may have ended by itself meanwhile.
            shutdown(descriptor, Shutdown::Both).unwrap_or_default();
            serving.await;
        }
    }
    Ok(())
}

/// Nothing yet, or the beginning of the HTTP/2 preface.
fn could_be_http2(prefix: &[u8]) -> bool {
    prefix.len() < detect::PREFACE.len() && detect::PREFACE.starts_with(prefix)
}

/// The listener of an original destination: of that address, or of any address with that port.
fn hand_off(proxy: &Proxy, original: SocketAddr) -> Option<Rc<ListenerConfig>> {
    let any = match original {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    proxy
        .listener_at(original)
        .or_else(|| proxy.listener_at(SocketAddr::new(any, original.port())))
}

/// Runs the listener filters; none means that the connection ends here.
async fn inspect(
    listener: &ListenerConfig,
    port: u16,
    stream: &mut TcpStream,
    prefix: &mut BytesMut,
) -> io::Result<Option<Seen>> {
    let on = |filter: &Option<crate::config::listener::Skip>| {
        filter.as_ref().is_some_and(|skip| !skip.skips(port))
    };
    let (for_tls, for_http) = (on(&listener.tls_inspector), on(&listener.http_inspector));
    if !for_tls && !for_http {
        return Ok(Some(Seen::Other));
    }
    let read = async {
        loop {
            match detect::look(prefix, for_tls, for_http) {
                Seen::More => {
                    if fill(stream, prefix).await? == 0 {
                        return Ok::<_, io::Error>(None);
                    }
                }
                seen => return Ok(Some(seen)),
            }
        }
    };
    match at_most(listener.filter_timeout, "a client's first bytes", read).await {
        Ok(seen) => seen,
        Err(_) if listener.continue_on_timeout => Ok(Some(Seen::Other)),
        Err(_) => Ok(None),
    }
}
