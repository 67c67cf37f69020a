//! The cluster's DNS server, at 10.96.0.10 and `fd00:10:96::a` on UDP and TCP: names of services, and nothing else.
//!
//! It answers from memory and forwards nothing: a lab has no outside. `reviews.default.svc.cluster.local` has an A
//! record, an AAAA record, or both, as the service has addresses; the search list of a pod's resolv.conf makes the short names of it. What is in the cluster's domain and not
//! known is NXDOMAIN, and so is everything else.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::plan::ips::Ips;

/// How long an answer may be kept: as long as `CoreDNS`'s kubernetes plugin says by default, five seconds.
const TTL: u32 = 5;

const DOMAIN: &str = "svc.cluster.local.";

/// The names of services and their addresses.
#[derive(Debug, Clone, Default)]
pub struct Records {
    by_name: HashMap<String, Ips>,
}

/// A running server; it ends when this is dropped or closed.
#[derive(Debug)]
pub struct Server {
    tasks: JoinSet<()>,
}

impl Records {
    /// Of services in the namespace `default`.
    pub fn new(services: &[(String, Ips)]) -> Self {
        let mut by_name = HashMap::new();
        for (name, ips) in services {
            for form in ["", ".default", ".default.svc", ".default.svc.cluster.local"] {
                by_name.insert(format!("{name}{form}."), *ips);
            }
        }
        Self { by_name }
    }

    /// The answer to a message, both as bytes; none to what is no question. An answer is none: two servers that answered
    /// each other's would never end.
    pub fn reply(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let is_query = question.metadata.message_type == MessageType::Query;
        is_query.then(|| self.answer(&question).to_vec().ok()).flatten()
    }

    fn answer(&self, question: &Message) -> Message {
        let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authoritative = true;
        let Some(query) = question
            .queries
            .first()
            .filter(|_| question.metadata.op_code == OpCode::Query)
        else {
            answer.metadata.response_code = ResponseCode::NotImp;
            return answer;
        };
        answer.add_query(query.clone());
        let known = self.by_name.get(&query.name().to_lowercase().to_string());
        if known.is_none() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        match known.and_then(|ips| record(*ips, query.query_type())) {
            Some(record) => {
                answer.add_answer(Record::from_rdata(query.name().clone(), TTL, record));
            }
            // Or the name is there, but has no record of this type.
            None => answer.authorities.extend(authority()),
        }
        answer
    }
}

fn record(ips: Ips, kind: RecordType) -> Option<RData> {
    ips.all().find_map(|ip| match (ip, kind) {
        (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(ip))),
        (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(ip))),
        _ => None,
    })
}

fn authority() -> Option<Record> {
    let zone = Name::from_ascii(DOMAIN).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{DOMAIN}")).ok()?;
    let mail = Name::from_ascii(format!("hostmaster.{DOMAIN}")).ok()?;
    Some(Record::from_rdata(
        zone,
        TTL,
        RData::SOA(SOA::new(server, mail, 1, 7200, 1800, 86400, TTL)),
    ))
}

/// Serves on sockets that are bound already, a pair for each address. Needs a running `LocalSet`.
pub fn serve(
    sockets: Vec<(std::net::UdpSocket, std::net::TcpListener)>,
    records: Records,
) -> io::Result<Server> {
    let records = Rc::new(records);
    let mut tasks = JoinSet::new();
    for (udp, tcp) in sockets {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
        tasks.spawn_local(datagrams(udp, Rc::clone(&records)));
        tasks.spawn_local(connections(tcp, Rc::clone(&records)));
    }
    Ok(Server { tasks })
}

impl Server {
    /// Ends it.
    pub async fn close(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn datagrams(socket: UdpSocket, records: Rc<Records>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        if let Some(answer) = records.reply(&buffer[..length]) {
            // A peer that is gone asks no more.
            drop(socket.send_to(&answer, peer).await);
        }
    }
}

async fn connections(socket: TcpListener, records: Rc<Records>) {
    let mut open = JoinSet::new();
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            continue;
        };
        while open.try_join_next().is_some() {}
        let records = Rc::clone(&records);
        open.spawn_local(async move {
            drop(connection(stream, &records).await);
        });
    }
}

async fn connection(mut stream: TcpStream, records: &Records) -> io::Result<()> {
    loop {
        let mut question = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut question).await?;
        let answer = records
            .reply(&question)
            .ok_or_else(|| io::Error::other("not a question"))?;
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())
            .await?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::str::FromStr as _;

    use hickory_proto::op::Query;

    use super::*;
    use crate::scenario::families::IpFamilies;

    fn ask(name: &str, kind: RecordType) -> Message {
        let both = Ips::new(
            IpFamilies::V4.and(IpFamilies::V6),
            Ipv4Addr::new(10, 96, 1, 2),
            Ipv6Addr::LOCALHOST,
        );
        let records = Records::new(&[
            ("reviews".to_owned(), Ipv4Addr::new(10, 96, 1, 1).into()),
            ("both".to_owned(), both),
        ]);
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        records.answer(&question)
    }

    #[test]
    fn services_have_four_names() {
        for name in [
            "reviews.",
            "Reviews.default.",
            "reviews.default.svc.",
            "reviews.default.svc.cluster.local.",
        ] {
            let answer = ask(name, RecordType::A);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
            assert_eq!(answer.answers.len(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert_eq!(
            ask("ratings.default.svc.cluster.local.", RecordType::A)
                .metadata
                .response_code,
            ResponseCode::NXDomain
        );
        assert_eq!(
            ask("example.com.", RecordType::A).metadata.response_code,
            ResponseCode::NXDomain
        );
        let aaaa = ask("reviews.", RecordType::AAAA);
        assert_eq!(
            (aaaa.metadata.response_code, aaaa.answers.len()),
            (ResponseCode::NoError, 0)
        );
        assert_eq!(aaaa.authorities.len(), 1);
    }

    #[test]
    fn each_family_has_its_record() {
        for kind in [RecordType::A, RecordType::AAAA] {
            let answer = ask("both.default.", kind);
            assert_eq!(answer.answers.len(), 1, "{kind}");
            assert_eq!(answer.answers[0].record_type(), kind);
        }
        assert_eq!(ask("both.default.", RecordType::MX).answers.len(), 0);
    }

    #[test]
    fn an_answer_is_not_answered() {
        let records = Records::default();
        let question = Message::new(7, MessageType::Query, OpCode::Query);
        let answer = records.reply(&question.to_vec().unwrap()).unwrap();
        assert_eq!(records.reply(&answer), None);
        assert_eq!(records.reply(b"no message"), None);
    }
}
