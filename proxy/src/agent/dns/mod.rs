//! The agent's DNS on port 15053 of 127.0.0.1 and `::1`, for questions that the interception rules lead there (`ISTIO_META_DNS_CAPTURE`).
//!
//! As `pkg/dns/client` in istio/istio: names of the mesh are answered from the name table that istiod sends; every other
//! question goes to the pod's own resolvers as it came, over the same transport. Before the first table nothing is known,
//! not even what the mesh has, so every question is answered with SERVFAIL.

mod forward;
pub mod resolv_conf;
pub mod table;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Error, Events};
use crate::within::within;
use crate::xds::name_table::NameTable;
use resolv_conf::ResolvConf;
use table::{Place, Table};

/// Where the rules lead questions; not an option in Istio.
const PORT: u16 = 15053;

/// How long a connection may ask nothing (as the DNS library of Istio has it).
const IDLE: Duration = Duration::from_secs(8);

/// What a datagram may hold if the asker does not say more (RFC 1035, 4.2.1).
const SHORTEST: u16 = 512;

/// What istiod told last, and what makes answers of it.
#[derive(Debug)]
pub(crate) struct Names {
    place: Place,
    resolvers: ResolvConf,
    table: watch::Sender<Option<Arc<Table>>>,
    counts: Counts,
}

/// What is counted, as Istio's agent counts it.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    upstream_requests: AtomicU64,
    upstream_failures: AtomicU64,
}

impl Names {
    /// None are known yet.
    pub(super) fn new(node_id: &str, resolvers: ResolvConf) -> Self {
        Self {
            place: Place::of_node(node_id),
            resolvers,
            table: watch::Sender::new(None),
            counts: Counts::default(),
        }
    }

    /// The counters as Prometheus text.
    pub(super) fn metrics(&self) -> String {
        let Counts {
            requests,
            upstream_requests,
            upstream_failures,
        } = &self.counts;
        let counters = [
            ("requests", "Questions that came.", requests),
            (
                "upstream_requests",
                "Questions that were passed on.",
                upstream_requests,
            ),
            (
                "upstream_failures",
                "Questions that no resolver answered.",
                upstream_failures,
            ),
        ];
        let lines = counters.map(|(name, help, count)| {
            let (name, count) = (format!("istio_agent_dns_{name}_total"), count.load(Relaxed));
            format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}\n")
        });
        lines.concat()
    }

    /// From now on these are the mesh's names.
    pub(super) fn learn(&self, told: &NameTable) {
        let table = Table::new(told, &self.place, &self.resolvers.search);
        self.table.send_replace(Some(Arc::new(table)));
    }

    /// A name table has come, once at least.
    pub(super) fn are_known(&self) -> bool {
        self.table.borrow().is_some()
    }
}

/// The sockets: both transports, of each family.
#[derive(Debug)]
pub(super) struct Sockets(Vec<(UdpSocket, TcpListener)>);

impl Sockets {
    /// Binds them, of the families of the pod's resolvers as Istio's agent does: nobody is led here who asks others.
    /// Without `SO_REUSEPORT`: a second agent would take half of the questions.
    pub(super) async fn bind(resolvers: &ResolvConf) -> Result<Self, Error> {
        let mut all = Vec::new();
        for address in addresses(resolvers) {
            let failed = |source| Error::Bind { address, source };
            let udp = UdpSocket::bind(address).await.map_err(failed)?;
            all.push((udp, TcpListener::bind(address).await.map_err(failed)?));
        }
        Ok(Self(all))
    }
}

/// Where questions are taken.
fn addresses(resolvers: &ResolvConf) -> impl Iterator<Item = SocketAddr> {
    let has_v6 = resolvers.servers.iter().any(SocketAddr::is_ipv6);
    let has_v4 = resolvers.servers.iter().any(SocketAddr::is_ipv4);
    // `localhost`, if there is none, is 127.0.0.1.
    let v4 = (has_v4 || !has_v6).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let v6 = has_v6.then_some(IpAddr::V6(Ipv6Addr::LOCALHOST));
    v4.into_iter().chain(v6).map(|ip| SocketAddr::new(ip, PORT))
}

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    /// What an answer to this question may hold.
    fn room(self, question: &Message) -> u16 {
        match self {
            Self::Udp => question
                .edns
                .as_ref()
                .map_or(SHORTEST, |edns| edns.max_payload().max(SHORTEST)),
            Self::Tcp => u16::MAX,
        }
    }
}

/// A question, and who asked it.
struct Asked<'a> {
    bytes: &'a [u8],
    question: Message,
    transport: Transport,
    client: SocketAddr,
}

/// Serves all sockets until it is aborted.
pub(super) async fn serve(names: Arc<Names>, events: Rc<Events>, sockets: Sockets) {
    let pairs = sockets.0.into_iter().map(|(udp, tcp)| {
        let (names, events) = (Arc::clone(&names), Rc::clone(&events));
        async {
            tokio::join!(
                datagrams(Rc::new(udp), Arc::clone(&names), Rc::clone(&events)),
                connections(tcp, names, events)
            )
        }
    });
    futures_util::future::join_all(pairs).await;
}

async fn datagrams(socket: Rc<UdpSocket>, names: Arc<Names>, events: Rc<Events>) {
    let mut open = JoinSet::new();
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while open.try_join_next().is_some() {}
        let bytes = buffer[..length].to_vec();
        let (socket, names, events) = (Rc::clone(&socket), Arc::clone(&names), Rc::clone(&events));
        open.spawn_local(async move {
            if let Some(answer) = answer(&names, &events, &bytes, Transport::Udp, client).await {
                // A client that is gone asks no more.
                drop(socket.send_to(&answer, client).await);
            }
        });
    }
}

async fn connections(socket: TcpListener, names: Arc<Names>, events: Rc<Events>) {
    let mut open = JoinSet::new();
    loop {
        let Ok((stream, client)) = socket.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        while open.try_join_next().is_some() {}
        let (names, events) = (Arc::clone(&names), Rc::clone(&events));
        open.spawn_local(async move {
            let mut asked = 0;
            // A client that goes away is no concern of the port.
            drop(connection(&names, &events, stream, client, &mut asked).await);
            if asked == 0 {
                answered(&events, Transport::Tcp, client);
            }
        });
    }
}

async fn connection(
    names: &Names,
    events: &Events,
    mut stream: TcpStream,
    client: SocketAddr,
    asked: &mut usize,
) -> io::Result<()> {
    loop {
        let question = within(IDLE, "a question", receive(&mut stream))
            .await
            .map_err(io::Error::other)??;
        *asked += 1;
        let Some(answer) = answer(names, events, &question, Transport::Tcp, client).await else {
            return Ok(());
        };
        send(&mut stream, &answer).await?;
    }
}

/// A message over TCP has its length in front (RFC 1035, 4.2.2).
async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Nobody else is asked: a question is answered here, or its asker went away without one.
fn answered(events: &Events, transport: Transport, client: SocketAddr) {
    events.tell(&json!({ "event": "dns-answered", "proto": transport.name(), "client": client }));
}

/// The answer to a message; none to what is no question.
async fn answer(
    names: &Names,
    events: &Events,
    bytes: &[u8],
    transport: Transport,
    client: SocketAddr,
) -> Option<Vec<u8>> {
    let question = question(bytes)?;
    let counts = &names.counts;
    counts.requests.fetch_add(1, Relaxed);
    let room = transport.room(&question);
    let known = names.table.borrow().clone();
    if let Some(answer) = own_answer(known.as_deref(), &question) {
        answered(events, transport, client);
        return fitting(&answer, room);
    }
    let asked = Asked {
        bytes,
        question,
        transport,
        client,
    };
    counts.upstream_requests.fetch_add(1, Relaxed);
    let answer = forward::ask(&names.resolvers.servers, events, &asked).await;
    match answer {
        Some(answer) if answer.len() <= usize::from(room) => Some(answer),
        Some(answer) => fitting(&Message::from_vec(&answer).ok()?, room),
        None => {
            counts.upstream_failures.fetch_add(1, Relaxed);
            fitting(&reply(&asked.question, ResponseCode::ServFail), room)
        }
    }
}

/// A message that asks; an answer is never answered, or two servers would go on for ever.
fn question(bytes: &[u8]) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.metadata.message_type == MessageType::Query).then_some(message)
}

/// What is answered here; none if others are to be asked.
fn own_answer(table: Option<&Table>, question: &Message) -> Option<Message> {
    if question.metadata.op_code != OpCode::Query {
        return Some(reply(question, ResponseCode::NotImp));
    }
    let ([query], Some(table)) = (question.queries.as_slice(), table) else {
        return Some(reply(question, ResponseCode::ServFail));
    };
    let answers = table.look_up(query.name(), query.query_type())?;
    let mut answer = reply(question, ResponseCode::NoError);
    answer.metadata.authoritative = true;
    answer.add_answers(answers);
    Some(answer)
}

fn reply(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.checking_disabled = question.metadata.checking_disabled;
    answer.metadata.response_code = code;
    answer.add_queries(question.queries.iter().cloned());
    answer
}

/// Its bytes, with no more records than there is room for.
fn fitting(answer: &Message, room: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(room);
    answer.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// What a question's bytes are answered with, by a proxy that knows this of the mesh: the answer's bytes, or none if it
/// is passed on or no question. For tests of the parser.
#[doc(hidden)]
pub fn answered_here(
    told: Option<&NameTable>,
    node_id: &str,
    resolv_conf: &str,
    bytes: &[u8],
) -> Option<Vec<u8>> {
    let names = Names::new(node_id, ResolvConf::parse(resolv_conf));
    if let Some(told) = told {
        names.learn(told);
    }
    let question = question(bytes)?;
    let room = Transport::Udp.room(&question);
    let known = names.table.borrow().clone();
    fitting(&own_answer(known.as_deref(), &question)?, room)
}

#[cfg(test)]
mod tests;
