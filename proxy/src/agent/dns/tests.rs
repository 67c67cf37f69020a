//! The server on sockets of its own, with a resolver behind it that knows one name.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use hickory_proto::op::{Edns, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::xds::name_table::{KUBERNETES, NameInfo};

const NODE: &str = "sidecar~10.244.0.10~shop.default~default.svc.cluster.local";
const LIMIT: Duration = Duration::from_secs(5);

/// The mesh's `big`, with so many addresses.
fn mesh(addresses: u8) -> NameTable {
    let info = NameInfo {
        ips: (1..=addresses).map(|last| format!("10.96.1.{last}")).collect(),
        registry: KUBERNETES.to_owned(),
        shortname: "big".to_owned(),
        namespace: "default".to_owned(),
        alt_hosts: Vec::new(),
    };
    NameTable {
        table: BTreeMap::from([("big.default.svc.cluster.local".to_owned(), info)]),
    }
}

fn query(name: &str) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    message
}

/// A resolver that gives one name one address, over both transports, and says how often it was asked.
async fn resolver() -> (SocketAddr, watch::Receiver<usize>) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let (asked, count) = watch::channel(0);
    let answer = |question: &[u8]| {
        let question = Message::from_vec(question).unwrap();
        let mut answer = reply(&question, ResponseCode::NXDomain);
        if question.queries[0].name().to_ascii() == "outside.example." {
            answer.metadata.response_code = ResponseCode::NoError;
            let name = question.queries[0].name().clone();
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
        }
        answer.to_vec().unwrap()
    };
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 4096];
        loop {
            tokio::select! {
                datagram = udp.recv_from(&mut buffer) => {
                    let (length, client) = datagram.unwrap();
                    asked.send_modify(|count| *count += 1);
                    udp.send_to(&answer(&buffer[..length]), client).await.unwrap();
                }
                connection = tcp.accept() => {
                    let (mut stream, _) = connection.unwrap();
                    asked.send_modify(|count| *count += 1);
                    let question = receive(&mut stream).await.unwrap();
                    send(&mut stream, &answer(&question)).await.unwrap();
                }
            }
        }
    });
    (address, count)
}

struct Agent {
    udp: SocketAddr,
    tcp: SocketAddr,
    names: Arc<Names>,
}

async fn agent(servers: Vec<SocketAddr>) -> Agent {
    let resolvers = ResolvConf {
        servers,
        search: vec!["default.svc.cluster.local".to_owned()],
    };
    let names = Arc::new(Names::new(NODE, resolvers));
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let agent = Agent {
        udp: udp.local_addr().unwrap(),
        tcp: tcp.local_addr().unwrap(),
        names: Arc::clone(&names),
    };
    let sockets = Sockets(vec![(udp, tcp)]);
    tokio::task::spawn_local(serve(names, Rc::new(Events::open(None)), sockets));
    agent
}

#[test]
fn questions_are_taken_where_those_to_the_resolvers_are_led() {
    let check = |servers: &[&str], expected: &[&str]| {
        let resolvers = ResolvConf {
            servers: servers.iter().map(|it| it.parse().unwrap()).collect(),
            search: Vec::new(),
        };
        let found: Vec<String> = addresses(&resolvers).map(|it| it.to_string()).collect();
        assert_eq!(found, expected, "{servers:?}");
    };
    check(&["10.96.0.10:53"], &["127.0.0.1:15053"]);
    check(&["[fd00::a]:53"], &["[::1]:15053"]);
    check(
        &["[fd00::a]:53", "10.96.0.10:53"],
        &["127.0.0.1:15053", "[::1]:15053"],
    );
    check(&[], &["127.0.0.1:15053"]);
}

impl Agent {
    async fn over_udp(&self, question: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(question, self.udp).await.unwrap();
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let length = within(LIMIT, "an answer", socket.recv(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        buffer.truncate(length);
        buffer
    }

    async fn over_tcp(&self, question: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.tcp).await.unwrap();
        send(&mut stream, question).await.unwrap();
        within(LIMIT, "an answer", receive(&mut stream))
            .await
            .unwrap()
            .unwrap()
    }

    /// The answer over UDP and the one over TCP.
    async fn both(&self, question: &Message) -> [Message; 2] {
        let bytes = question.to_vec().unwrap();
        let answers = [self.over_udp(&bytes).await, self.over_tcp(&bytes).await];
        answers.map(|answer| Message::from_vec(&answer).unwrap())
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[track_caller]
fn check(answer: &Message, code: ResponseCode, addresses: usize) {
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(answer.metadata.id, 4711);
    assert!(answer.metadata.recursion_desired);
    assert_eq!(answer.metadata.response_code, code);
    assert_eq!(answer.answers.len(), addresses);
}

#[test]
fn before_the_first_table_everything_fails_and_nobody_is_asked() {
    run(async {
        let (resolver, asked) = resolver().await;
        let agent = agent(vec![resolver]).await;
        assert!(!agent.names.are_known());
        for name in ["big.default.", "outside.example."] {
            for answer in agent.both(&query(name)).await {
                check(&answer, ResponseCode::ServFail, 0);
            }
        }
        assert_eq!(*asked.borrow(), 0);
        agent.names.learn(&mesh(1));
        for answer in agent.both(&query("big.default.")).await {
            check(&answer, ResponseCode::NoError, 1);
            assert!(answer.metadata.authoritative);
        }
        assert_eq!(*asked.borrow(), 0);
    });
}

#[test]
fn what_the_mesh_does_not_have_is_passed_on_over_the_same_transport() {
    run(async {
        let (resolver, asked) = resolver().await;
        let agent = agent(vec![resolver]).await;
        agent.names.learn(&mesh(1));
        for answer in agent.both(&query("outside.example.")).await {
            check(&answer, ResponseCode::NoError, 1);
            assert!(!answer.metadata.authoritative);
        }
        for answer in agent.both(&query("nobody.example.")).await {
            check(&answer, ResponseCode::NXDomain, 0);
        }
        assert_eq!(*asked.borrow(), 4);
    });
}

#[test]
fn a_resolver_that_refuses_is_followed_by_the_next_one() {
    run(async {
        let (resolver, asked) = resolver().await;
        let nobody = {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.local_addr().unwrap()
        };
        let patient = agent(vec![nobody, resolver]).await;
        patient.names.learn(&mesh(1));
        for answer in patient.both(&query("outside.example.")).await {
            check(&answer, ResponseCode::NoError, 1);
        }
        assert_eq!(*asked.borrow(), 2);
        for servers in [vec![nobody], vec![]] {
            let lost = agent(servers).await;
            lost.names.learn(&mesh(1));
            for answer in lost.both(&query("outside.example.")).await {
                check(&answer, ResponseCode::ServFail, 0);
            }
            lost.both(&query("big.default.")).await;
            for (name, count) in [
                ("requests", 4),
                ("upstream_requests", 2),
                ("upstream_failures", 2),
            ] {
                let line = format!("\nistio_agent_dns_{name}_total {count}\n");
                assert!(lost.names.metrics().contains(&line), "{}", lost.names.metrics());
            }
        }
    });
}

#[test]
fn a_datagram_holds_no_more_than_its_asker_takes() {
    run(async {
        let agent = agent(vec![]).await;
        agent.names.learn(&mesh(100));
        let plain = query("big.default.").to_vec().unwrap();
        let bytes = agent.over_udp(&plain).await;
        assert!(bytes.len() <= usize::from(SHORTEST), "{}", bytes.len());
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(answer.metadata.truncation);
        assert!(!answer.answers.is_empty());
        let whole = Message::from_vec(&agent.over_tcp(&plain).await).unwrap();
        check(&whole, ResponseCode::NoError, 100);
        let mut roomy = query("big.default.");
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        roomy.set_edns(edns);
        let bytes = agent.over_udp(&roomy.to_vec().unwrap()).await;
        check(&Message::from_vec(&bytes).unwrap(), ResponseCode::NoError, 100);
    });
}

#[test]
fn several_questions_may_come_on_one_connection() {
    run(async {
        let agent = agent(vec![]).await;
        agent.names.learn(&mesh(1));
        let mut stream = TcpStream::connect(agent.tcp).await.unwrap();
        for _ in 0..3 {
            let question = query("big.default.").to_vec().unwrap();
            send(&mut stream, &question).await.unwrap();
            let answer = within(LIMIT, "an answer", receive(&mut stream)).await.unwrap();
            check(
                &Message::from_vec(&answer.unwrap()).unwrap(),
                ResponseCode::NoError,
                1,
            );
        }
    });
}

#[test]
fn what_is_no_question_has_no_answer_and_what_is_no_query_is_not_implemented() {
    let told = mesh(1);
    let answered = |message: &Message| answered_here(Some(&told), NODE, "", &message.to_vec().unwrap());
    let answer = Message::response(1, OpCode::Query);
    assert_eq!(answered(&answer), None);
    assert_eq!(answered_here(Some(&told), NODE, "", b"no message"), None);
    let notify = Message::new(4711, MessageType::Query, OpCode::Notify);
    let answer = Message::from_vec(&answered(&notify).unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NotImp);
    let empty = Message::new(4711, MessageType::Query, OpCode::Query);
    let answer = Message::from_vec(&answered(&empty).unwrap()).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(answered(&query("outside.example.")), None);
}
