//! A stub resolver: /etc/hosts, then the first nameserver of /etc/resolv.conf with its search list, over UDP, and over
//! TCP if an answer was cut off. The C library's would look names up on threads, and tell nothing of its sockets.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "records and codes that are not asked for are not told apart"
)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr as _;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::connect::{Attempts, any_towards, bound};
use super::families;
use super::wire::{Connection, Failure, Outcome};
use crate::scenario::families::IpFamily;
use crate::within::within;

/// How long one question may take before it is asked again, as resolv.conf(5) has it; shorter, since it is near.
const TRY: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;
const PORT: u16 = 53;

/// What /etc/resolv.conf says.
#[derive(Debug, PartialEq, Eq)]
struct Config {
    server: IpAddr,
    search: Vec<String>,
    ndots: usize,
}

fn config(text: &str) -> Config {
    let mut config = Config {
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        search: Vec::new(),
        ndots: 1,
    };
    let mut has_server = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") if !has_server => {
                if let Some(ip) = words.next().and_then(|word| word.parse().ok()) {
                    (config.server, has_server) = (ip, true);
                }
            }
            Some("search") => config.search = words.map(str::to_owned).collect(),
            Some("options") => {
                let dots = words
                    .filter_map(|word| word.strip_prefix("ndots:")?.parse().ok())
                    .next_back();
                config.ndots = dots.unwrap_or(config.ndots);
            }
            _ => {}
        }
    }
    config
}

/// The names that are asked for, in order: the search list first if the name has few dots (resolv.conf(5)).
fn candidates(name: &str, config: &Config) -> Vec<String> {
    if name.ends_with('.') {
        return vec![name.to_owned()];
    }
    let absolute = format!("{name}.");
    let searched = config
        .search
        .iter()
        .map(|domain| format!("{name}.{}.", domain.trim_end_matches('.')));
    if name.matches('.').count() >= config.ndots {
        [absolute].into_iter().chain(searched).collect()
    } else {
        searched.chain([absolute]).collect()
    }
}

/// The addresses of a name, for a connection.
pub async fn lookup(name: &str, attempts: &mut Attempts<'_>) -> Result<Vec<IpAddr>, Failure> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let wanted = wanted(attempts);
    let known = in_hosts(&hosts, name);
    let known: Vec<IpAddr> = wanted
        .iter()
        .flat_map(|family| known.iter().copied().filter(|ip| is_of(*ip, *family)))
        .collect();
    if !known.is_empty() {
        return Ok(known);
    }
    query(name, None, false, attempts).await
}

/// The families that are asked for, the preferred one first.
fn wanted(attempts: &Attempts<'_>) -> Vec<IpFamily> {
    attempts
        .ip_family
        .map_or_else(families::of_pod, |family| vec![family])
}

const fn is_of(ip: IpAddr, family: IpFamily) -> bool {
    match family {
        IpFamily::V4 => ip.is_ipv4(),
        IpFamily::V6 => ip.is_ipv6(),
    }
}

fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let found = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
    });
    found.collect()
}

/// The addresses of a name, from the resolver, or from this server.
pub async fn query(
    name: &str,
    server: Option<&str>,
    tcp: bool,
    attempts: &mut Attempts<'_>,
) -> Result<Vec<IpAddr>, Failure> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let config = config(&text);
    let server = match server {
        None => SocketAddr::new(config.server, PORT),
        Some(text) => address(text)?,
    };
    let wanted = wanted(attempts);
    let mut last = String::new();
    for candidate in candidates(name, &config) {
        let mut addresses = Vec::new();
        for family in &wanted {
            let answer = ask(server, &candidate, *family, tcp, attempts).await?;
            addresses.extend(answer.answers.iter().filter_map(|record| match &record.data {
                RData::A(ip) => Some(IpAddr::V4(ip.0)),
                RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
                _ => None,
            }));
            last = format!("{candidate} from {server}: {}", answer.metadata.response_code);
        }
        if !addresses.is_empty() {
            return Ok(addresses);
        }
    }
    Err(Failure {
        outcome: Outcome::NoSuchHost,
        words: format!("looking up {name}: {last}"),
    })
}

/// `ADDRESS` or `ADDRESS:PORT`.
fn address(text: &str) -> Result<SocketAddr, Failure> {
    let alone = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT));
    alone.or_else(|_| text.parse()).map_err(|error| Failure {
        outcome: Outcome::NoSuchHost,
        words: format!("`{text}`: {error}"),
    })
}

async fn ask(
    server: SocketAddr,
    name: &str,
    family: IpFamily,
    tcp: bool,
    attempts: &mut Attempts<'_>,
) -> Result<Message, Failure> {
    let wrong = |words: String| Failure {
        outcome: Outcome::NoSuchHost,
        words,
    };
    let name = Name::from_str(name).map_err(|error| wrong(format!("`{name}`: {error}")))?;
    let id: u16 = fastrand::u16(..);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let record = match family {
        IpFamily::V4 => RecordType::A,
        IpFamily::V6 => RecordType::AAAA,
    };
    message.add_query(Query::query(name, record));
    let question = message.to_vec().map_err(|error| wrong(error.to_string()))?;
    if !tcp {
        let answer = over_udp(server, &question, id, attempts).await?;
        if !answer.metadata.truncation {
            return check(answer);
        }
    }
    let answer = over_tcp(server, &question, attempts)
        .await
        .map_err(|error| Failure::of(&error, "asking the resolver"))?;
    let answer =
        Message::from_vec(&answer).map_err(|error| wrong(format!("the resolver's answer: {error}")))?;
    check(answer)
}

fn check(answer: Message) -> Result<Message, Failure> {
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        other => Err(Failure {
            outcome: Outcome::NoSuchHost,
            words: format!("the resolver said {other}"),
        }),
    }
}

async fn over_udp(
    server: SocketAddr,
    question: &[u8],
    id: u16,
    attempts: &mut Attempts<'_>,
) -> Result<Message, Failure> {
    let failed = |error: io::Error| Failure::of(&error, "asking the resolver");
    let socket = UdpSocket::bind(any_towards(server)).await.map_err(failed)?;
    let index = attempts.lookups.len();
    let local = socket.local_addr().map_err(failed)?;
    attempts.tell("udp", local.port(), server);
    attempts.lookups.push(Connection {
        proto: "udp".to_owned(),
        local,
        remote: server,
        connected: false,
    });
    socket.connect(server).await.map_err(failed)?;
    attempts.lookups[index].local = socket.local_addr().map_err(failed)?;
    let mut buffer = vec![0; 4096];
    for _ in 0..TRIES {
        socket.send(question).await.map_err(failed)?;
        let answered = within(TRY, "the resolver", async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                // An answer to another question is not this one's.
                if let Ok(answer) = Message::from_vec(&buffer[..length])
                    && answer.metadata.id == id
                {
                    return Ok::<_, io::Error>(answer);
                }
            }
        });
        if let Ok(answer) = answered.await {
            attempts.lookups[index].connected = true;
            return answer.map_err(failed);
        }
    }
    Err(Failure {
        outcome: Outcome::Timeout,
        words: format!("no answer from the resolver {server}"),
    })
}

async fn over_tcp(server: SocketAddr, question: &[u8], attempts: &mut Attempts<'_>) -> io::Result<Vec<u8>> {
    let (socket, local) = bound(server)?;
    attempts.tell("tcp", local.port(), server);
    let index = attempts.lookups.len();
    attempts.lookups.push(Connection {
        proto: "tcp".to_owned(),
        local,
        remote: server,
        connected: false,
    });
    let mut stream = socket.connect(server).await?;
    let known = &mut attempts.lookups[index];
    (known.local, known.connected) = (stream.local_addr()?, true);
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), question].concat())
        .await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_searched_as_resolv_conf_says() {
        let config = config("nameserver 10.96.0.10\nsearch a.b c\noptions ndots:2\n");
        assert_eq!(config.server, IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)));
        assert_eq!(candidates("x", &config), ["x.a.b.", "x.c.", "x."]);
        assert_eq!(candidates("x.y.z", &config), ["x.y.z.", "x.y.z.a.b.", "x.y.z.c."]);
        assert_eq!(candidates("x.", &config), ["x."]);
    }

    #[test]
    fn hosts_come_first() {
        let hosts = "127.0.0.1 localhost # x\n10.0.0.1\ta b\n";
        assert_eq!(in_hosts(hosts, "B"), [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))]);
        assert_eq!(in_hosts(hosts, "x"), [] as [IpAddr; 0]);
    }
}
