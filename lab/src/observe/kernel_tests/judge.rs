//! The rules' evaluator before its judge: random rules, random packets, really sent; what it says must be what the kernel
//! reports, hop by hop.
//!
//! `LAB_JUDGE_PACKETS` says how many packets, `LAB_JUDGE_SEED` which.

use std::collections::{BTreeSet, HashSet};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use iptables::evaluate::{self, Program, evaluate};
use iptables::generate::generate;
use iptables::options::{Backend, Interception, Interface, Raw, Start};
use iptables::packet::{Connection, Owner, Packet as Predicted, Route};
use iptables::raw::Text;
use iptables::reach::{Dead, Scope, dead};
use iptables::render::{nft, restore};
use iptables::rule::{Protocol, State};
use iptables::ruleset::{Family, Ruleset};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use socket2::{Domain, Socket, Type};

use super::arbitrary;
use crate::net::netns::NetNs;
use crate::observe::netlink::{self, messages};
use crate::observe::nftrace::{Event, Segment, event};
use crate::observe::packet::{Assembly, Packet, Place, Progress};
use crate::observe::rules::Rules;
use crate::path::{End, Hop, Position, leg_text};

const PACKETS: usize = 1000;
const PACKETS_A_RULESET: usize = 20;
/// `NFNLGRP_NFTRACE`.
const TRACES: [u32; 1] = [9];
const LIMIT: Duration = Duration::from_secs(5);

/// What the observer's own table does, for IPv6 datagrams and forwarded packets too.
const TRACE: &str = "table inet lab_trace {
  chain prerouting { type filter hook prerouting priority -301; tcp flags & (syn | rst) == 0 accept; tcp flags & (syn | ack) == syn meta nftrace set 1; meta l4proto udp meta nftrace set 1; }
  chain output { type filter hook output priority -301; tcp flags & (syn | rst) == 0 accept; tcp flags & (syn | ack) == syn meta nftrace set 1; meta l4proto udp meta nftrace set 1; }
  chain input { type filter hook input priority 301; }
  chain forward { type filter hook forward priority 301; }
  chain postrouting { type filter hook postrouting priority 301; }
}
";

/// The pod has two links to its peer. Neighbours are known, since rules may drop what asks for them.
const POD: &str = "link set lo up
link add eth0 address 02:00:00:00:00:02 type veth peer name eth0 address 02:00:00:00:00:01 netns PEER
link add eth1 address 02:00:00:00:01:02 type veth peer name eth1 address 02:00:00:00:01:01 netns PEER
address add 10.244.0.2/24 dev eth0
address add 10.245.0.2/24 dev eth1
address add fd00::2/64 dev eth0 nodad
address add fd01::2/64 dev eth1 nodad
address add ::6/128 dev lo
link set eth0 up
link set eth1 up
route add default via 10.244.0.1
route add default via fd00::1
neighbour add 10.244.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
neighbour add fd00::1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
";
const TPROXY_ROUTES: &str = "rule add fwmark 1337 lookup 133
route add local default dev lo table 133
";
const PEER: &str = "link set lo up
address add 10.244.0.1/24 dev eth0
address add 10.245.0.1/24 dev eth1
address add fd00::1/64 dev eth0 nodad
address add fd01::1/64 dev eth1 nodad
link set eth0 up
link set eth1 up
route add 10.99.0.0/16 via 10.245.0.2
neighbour add 10.244.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent
neighbour add 10.245.0.2 lladdr 02:00:00:00:01:02 dev eth1 nud permanent
neighbour add fd00::2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent
neighbour add fd01::2 lladdr 02:00:00:00:01:02 dev eth1 nud permanent
";

#[expect(clippy::disallowed_methods, reason = "a test sets up its own namespaces")]
fn run(namespace: &NetNs, program: &str, arguments: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped());
    let mut child = namespace.run(|| command.spawn().unwrap()).unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(
        child.wait().unwrap().success(),
        "{program} {arguments:?}:\n{input}"
    );
}

#[expect(clippy::disallowed_methods, reason = "a test makes its own namespaces")]
fn new_namespace(name: &str) -> NetNs {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).expect("root is needed: run the tests with sudo");
    NetNs::own(name).unwrap()
}

/// A packet that is really sent, and what the evaluator takes it for.
#[derive(Debug, Clone)]
struct Sent {
    predicted: Predicted,
    from: SocketAddr,
    to: SocketAddr,
    device: Option<&'static str>,
    /// A segment that conntrack takes for invalid.
    is_raw: bool,
}

struct Court {
    pod: NetNs,
    peer: NetNs,
    random: fastrand::Rng,
    rules: Rules,
    traces: netlink_sys::Socket,
    assembly: Assembly,
    /// The chains in which a packet was decided, and `dropped`.
    seen: BTreeSet<String>,
    used: HashSet<(Protocol, SocketAddr, SocketAddr)>,
    next_port: u16,
    /// The marks that a socket may give its packets. 1337 is a route of its own, so no arbitrary rule may change it.
    marks: &'static [u32],
    /// Whether sockets may be bound to eth0. A redirected packet then leaves by eth0 too, where arbitrary rules would tell.
    may_bind: bool,
    /// TPROXY gives a packet to a socket, and drops it where there is none.
    listeners: [Socket; 2],
}

fn transparent(address: &str) -> Socket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    if address.is_ipv6() {
        socket.set_only_v6(true).unwrap();
        socket.set_ip_transparent_v6(true).unwrap();
    } else {
        socket.set_ip_transparent_v4(true).unwrap();
    }
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

impl Court {
    fn new(seed: u64) -> Self {
        let peer = new_namespace("peer");
        let pod = new_namespace("pod");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        for which in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{which}/rp_filter"), "0").unwrap();
        }
        let peer_file = format!("/proc/{}/fd/{}", std::process::id(), peer.file().as_raw_fd());
        run(&pod, "ip", &["-batch", "-"], &POD.replace("PEER", &peer_file));
        for family in ["-4", "-6"] {
            run(&pod, "ip", &[family, "-batch", "-"], TPROXY_ROUTES);
        }
        run(&peer, "ip", &["-batch", "-"], PEER);
        Self {
            rules: Rules::read("pod", &pod).unwrap(),
            traces: netlink::listen("pod", &pod, &TRACES, 16 << 20).unwrap(),
            random: fastrand::Rng::with_seed(seed),
            assembly: Assembly::default(),
            seen: BTreeSet::new(),
            used: HashSet::new(),
            next_port: 20000,
            marks: &[],
            may_bind: false,
            listeners: [transparent("0.0.0.0:15006"), transparent("[::]:15006")],
            pod,
            peer,
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.usize(..of.len())]
    }

    fn options(&mut self) -> Interception {
        let mut raw = Raw::default();
        for (option, values) in OPTIONS {
            let value = self.pick(values);
            *raw.get_mut(option).unwrap() = Some(Text((*value).to_owned()));
        }
        raw.resolve(Start::Injector).unwrap()
    }

    fn load(&mut self, ruleset: &Ruleset, backend: Backend) -> [Program; 2] {
        // A listener whose queue is full would take no more.
        for listener in &self.listeners {
            while listener.accept().is_ok() {}
        }
        match backend {
            Backend::Nftables => {
                let text = format!("flush ruleset\n{TRACE}{}", nft::render(ruleset));
                run(&self.pod, "nft", &["-f", "-"], &text);
            }
            Backend::Iptables => {
                run(&self.pod, "nft", &["-f", "-"], &format!("flush ruleset\n{TRACE}"));
                for (family, tool) in [
                    (Family::V4, "iptables-nft-restore"),
                    (Family::V6, "ip6tables-nft-restore"),
                ] {
                    run(&self.pod, tool, &["--noflush"], &restore::render(ruleset, family));
                }
            }
        }
        self.rules.reread().unwrap();
        match backend {
            Backend::Nftables => [Family::Inet, Family::Inet],
            Backend::Iptables => [Family::V4, Family::V6],
        }
        .map(|family| Program::compile(ruleset, family))
    }

    fn packet(&mut self) -> Sent {
        loop {
            let sent = match self.random.u8(..10) {
                0..=6 => self.leaving(),
                7 | 8 => self.arriving(),
                _ => self.invalid(),
            };
            if self.used.insert((sent.predicted.protocol, sent.from, sent.to)) {
                return sent;
            }
        }
    }

    fn port(&mut self) -> u16 {
        self.next_port = if self.next_port >= 60000 {
            20000
        } else {
            self.next_port + 1
        };
        self.next_port
    }

    fn leaving(&mut self) -> Sent {
        let protocol = self.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
        let to: IpAddr = self.pick(&DESTINATIONS).parse().unwrap();
        let is_local = LOCAL.contains(&to.to_string().as_str()) || to.is_loopback();
        let mark = if self.random.u8(..6) == 0 {
            self.pick(self.marks)
        } else {
            0
        };
        let device = (to.to_string() == "127.0.0.1" || !is_local && to.is_ipv4())
            && mark == 0
            && self.may_bind
            && self.random.u8(..5) == 0;
        let source = match (to, is_local && !device && self.random.u8(..4) == 0) {
            (IpAddr::V4(_), true) => "127.0.0.6".parse().unwrap(),
            (IpAddr::V6(_), true) => "::6".parse().unwrap(),
            (IpAddr::V4(_), false) if to.is_loopback() && !device => "127.0.0.1".parse().unwrap(),
            (IpAddr::V6(_), false) if to.is_loopback() => to,
            (IpAddr::V4(_), false) => "10.244.0.2".parse().unwrap(),
            (IpAddr::V6(_), false) => "fd00::2".parse().unwrap(),
        };
        let port = if self.random.u8(..12) == 0 {
            15053
        } else {
            self.port()
        };
        let (from, to) = (
            SocketAddr::new(source, port),
            SocketAddr::new(to, self.pick(&PORTS)),
        );
        let by_lo = !device && (is_local || mark == 1337);
        Sent {
            predicted: Predicted {
                route: Route::FromSocket,
                protocol,
                source: from.ip(),
                source_port: from.port(),
                destination: to.ip(),
                destination_port: to.port(),
                in_interface: None,
                out_interface: Interface::parse(if by_lo { "lo" } else { "eth0" }),
                owner: Some(Owner {
                    uid: self.pick(&IDS),
                    gid: self.pick(&IDS),
                }),
                mark,
                connection: Connection::NEW,
            },
            from,
            to,
            device: device.then_some("eth0"),
            is_raw: false,
        }
    }

    /// From the peer, to the pod or through it.
    fn arriving(&mut self) -> Sent {
        let protocol = self.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
        let (from, to, by) = self.pick(&[
            ("10.244.0.1", "10.244.0.2", "eth0"),
            ("10.245.0.1", "10.245.0.2", "eth1"),
            ("fd00::1", "fd00::2", "eth0"),
            ("fd01::1", "fd01::2", "eth1"),
            ("10.245.0.1", "10.99.0.7", "eth1"),
        ]);
        let from = SocketAddr::new(from.parse().unwrap(), self.port());
        let to = SocketAddr::new(to.parse().unwrap(), self.pick(&PORTS));
        let is_through = to.ip().to_string() == "10.99.0.7";
        Sent {
            predicted: Predicted {
                route: if is_through {
                    Route::Through
                } else {
                    Route::ToSocket
                },
                protocol,
                source: from.ip(),
                source_port: from.port(),
                destination: to.ip(),
                destination_port: to.port(),
                in_interface: Interface::parse(by),
                out_interface: is_through.then(|| Interface::parse("eth0")).flatten(),
                owner: None,
                mark: 0,
                connection: Connection::NEW,
            },
            from,
            to,
            device: None,
            is_raw: false,
        }
    }

    fn invalid(&mut self) -> Sent {
        let mut sent = self.arriving();
        while sent.to.is_ipv6() {
            sent = self.arriving();
        }
        sent.is_raw = true;
        sent.predicted.protocol = Protocol::Tcp;
        sent.predicted.connection.state = State::Invalid;
        sent
    }

    fn send(&self, sent: &Sent) -> Socket {
        if sent.is_raw {
            return self.peer.run(|| send_invalid(sent)).unwrap();
        }
        if sent.predicted.route == Route::FromSocket {
            send(sent)
        } else {
            self.peer.run(|| send(sent)).unwrap()
        }
    }

    /// The next packet that the kernel reports to its end; `None` if it reports none.
    fn observe(&mut self, limit: Duration) -> Option<Packet> {
        let deadline = Instant::now() + limit;
        loop {
            while let Ok((datagram, _)) = self.traces.recv_from_full() {
                for message in messages(&datagram) {
                    let Event::Trace(trace) = event(message) else {
                        continue;
                    };
                    match self.assembly.take(trace, self.rules.book()) {
                        // One packet at a time is on its way, and a datagram holds one event.
                        Progress::Ended(packet) => return Some(packet),
                        Progress::Began(Some(cut)) => panic!("saw no end: {cut:?}"),
                        Progress::Began(None) | Progress::Under => {}
                        Progress::Foreign => panic!("an event of no packet"),
                    }
                }
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let mut ready = [PollFd::new(self.traces.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap();
            if poll(&mut ready, timeout).unwrap() == 0 {
                return None;
            }
        }
    }

    fn judge(&mut self, program: &Program, dead: &[Dead], sent: &Sent, context: &str) {
        let trace = evaluate(program, &sent.predicted);
        let socket = self.send(sent);
        let observed = self.observe(LIMIT);
        let observed =
            observed.unwrap_or_else(|| panic!("the kernel reports nothing of {sent:?}\n{context}"));
        let ends = (observed.first.tuple.source, observed.first.tuple.destination);
        assert_eq!(
            ends,
            (sent.from, sent.to),
            "another packet: {observed:?}\n{context}"
        );
        let want = predicted_text(program, &trace);
        if matches!(trace.outcome, evaluate::Outcome::Undecided(_)) {
            // It says nothing of what follows; what it said so far must hold.
            let (seen, said) = (observed_hits(&observed), predicted_hits(program, &trace));
            assert_eq!(seen[..said.len()], said, "{sent:?}\n{context}");
            return;
        }
        assert_eq!(
            observed_text(&observed),
            want,
            "{sent:?}\n{observed:?}\n{context}"
        );
        assert_eq!(
            observed_hits(&observed),
            predicted_hits(program, &trace),
            "{sent:?}\n{context}"
        );
        for step in trace.visits.iter().flat_map(|visit| &visit.steps) {
            let is_dead = dead
                .iter()
                .any(|dead| dead.at == step.at && (dead.scope == Scope::Always || sent.device.is_none()));
            let is_hit = matches!(step.event, evaluate::Event::Hit(_));
            assert!(!(is_dead && is_hit), "a dead rule: {step:?}\n{sent:?}\n{context}");
        }
        let hops = want.split(" -> ").map(|hop| hop.split('#').next().unwrap_or(hop));
        self.seen.extend(hops.map(str::to_owned));
        // A socket that is bound to eth0 takes the way over eth0 even to 127.0.0.1.
        if let (Some(back), None) = (trace.reentry(), sent.device) {
            let again = evaluate(program, &back);
            assert!(!matches!(again.outcome, evaluate::Outcome::Undecided(_)));
            let observed = self.observe(LIMIT);
            let observed =
                observed.unwrap_or_else(|| panic!("nothing comes back over lo: {sent:?}\n{context}"));
            assert_eq!(
                observed.first.tuple.destination,
                SocketAddr::new(back.destination, back.destination_port),
                "{sent:?}\n{context}"
            );
            let want = predicted_text(program, &again);
            assert_eq!(
                observed_text(&observed),
                want,
                "back over lo: {sent:?}\n{context}"
            );
        }
        drop(socket);
        while let Some(more) = self.observe(Duration::ZERO) {
            // On a slow machine a SYN may be sent again before its socket is closed.
            let is_again = more.first.kind == observed.first.kind && more.first.kind != Segment::Datagram;
            assert!(is_again, "more than was predicted: {more:?}\n{sent:?}\n{context}");
        }
    }
}

const OPTIONS: &[(&str, &[&str])] = &[
    ("mode", &["REDIRECT", "TPROXY"]),
    ("backend", &["iptables", "nftables"]),
    ("enableIPv6", &["true", "true", "false"]),
    ("proxyUID", &["1337", "1337", "1337,2000", "0"]),
    ("proxyGID", &["1337", "1337", "2000,1337"]),
    ("includeInboundPorts", &["*", "*", "80,8080", ""]),
    ("excludeInboundPorts", &["15090,15021,15020", "80", ""]),
    (
        "includeOutboundIPRanges",
        &["*", "*", "10.96.0.0/12,2001:db8::/32", "127.0.0.0/8", ""],
    ),
    ("excludeOutboundIPRanges", &["", "10.100.0.0/16,2001:db8:1::/48"]),
    ("includeOutboundPorts", &["", "8080,53"]),
    ("excludeOutboundPorts", &["", "", "80", "8080,53"]),
    ("includeOutboundOwnerGroups", &["*", "*", "1000,2000", ""]),
    ("excludeOutboundOwnerGroups", &["", "2000"]),
    ("excludeInterfaces", &["", "", "eth1", "lo", "eth0"]),
    ("rerouteVirtualInterfaces", &["", "", "eth1", "eth0,eth1"]),
    ("redirectDNS", &["false", "true"]),
    ("captureAllDNS", &["false", "true"]),
    ("dnsServersV4", &["", "10.96.0.10", "10.96.0.10,127.0.0.53"]),
    ("dnsServersV6", &["", "2001:db8::a"]),
    ("dropInvalid", &["false", "true"]),
    (
        "hostIPv4LoopbackCidr",
        &["127.0.0.1/32", "127.0.0.1/32", "127.0.0.0/8"],
    ),
];

const DESTINATIONS: [&str; 13] = [
    "127.0.0.1",
    "127.0.0.1",
    "127.0.0.53",
    "127.0.0.6",
    "10.244.0.2",
    "10.96.0.5",
    "10.96.0.10",
    "10.100.0.1",
    "192.0.2.1",
    "::1",
    "fd00::2",
    "2001:db8::a",
    "2001:db8:1::1",
];
/// Where packets must have been decided for a run to count. (`ISTIO_DIVERT` is for packets after the first.)
const CHAINS: [&str; 16] = [
    "ISTIO_OUTPUT",
    "ISTIO_OUTPUT_DNS",
    "ISTIO_REDIRECT",
    "ISTIO_INBOUND",
    "ISTIO_IN_REDIRECT",
    "ISTIO_TPROXY",
    "ISTIO_DROP",
    "istio-output",
    "istio-output-dns",
    "istio-redirect",
    "istio-inbound",
    "istio-in-redirect",
    "istio-tproxy",
    "istio-drop",
    "FORWARD",
    "dropped",
];
const LOCAL: [&str; 2] = ["10.244.0.2", "fd00::2"];
const PORTS: [u16; 9] = [53, 53, 80, 8080, 15001, 15006, 15008, 15090, 9080];
const IDS: [u32; 4] = [1337, 1000, 0, 2000];

/// As a process of that user would: the kernel asks who made a socket, and that is a thread's fsuid and fsgid.
fn send(sent: &Sent) -> Socket {
    let predicted = &sent.predicted;
    let kind = if predicted.protocol == Protocol::Udp {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let owner = predicted.owner.unwrap_or(Owner { uid: 0, gid: 0 });
    setfsgid(Gid::from_raw(owner.gid));
    setfsuid(Uid::from_raw(owner.uid));
    let socket = Socket::new(Domain::for_address(sent.to), kind, None);
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
    let socket = socket.unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    if predicted.mark != 0 {
        socket.set_mark(predicted.mark).unwrap();
    }
    if let Some(device) = sent.device {
        socket.bind_device(Some(device.as_bytes())).unwrap();
    }
    socket.bind(&sent.from.into()).unwrap();
    let connected = socket.connect(&sent.to.into());
    let result = if kind == Type::DGRAM {
        connected.and_then(|()| socket.send(b"?").map(drop))
    } else {
        connected
    };
    // Whether anybody takes it is not the question.
    match result {
        Ok(()) => {}
        Err(error) => assert!(
            matches!(
                error.raw_os_error(),
                Some(libc::EINPROGRESS | libc::ECONNREFUSED | libc::EPERM)
            ),
            "{error}: {sent:?}"
        ),
    }
    socket
}

/// SYN and RST in one segment, which no TCP sends (`tcp_valid_flags` in `nf_conntrack_proto_tcp.c`).
fn send_invalid(sent: &Sent) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::TCP)).unwrap();
    let mut segment = [0_u8; 20];
    segment[..2].copy_from_slice(&sent.from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&sent.to.port().to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x06;
    socket.bind(&SocketAddr::new(sent.from.ip(), 0).into()).unwrap();
    let to = SocketAddr::new(sent.to.ip(), 0);
    socket.send_to(&segment, &to.into()).unwrap();
    socket
}

fn observed_text(packet: &Packet) -> String {
    assert_eq!(packet.unknown, Vec::<String>::new());
    let mut hops = Vec::new();
    for visit in &packet.visits {
        hops.push(Hop::Hook(visit.hook));
        let shown = visit.hits.iter().filter(|hit| hit.place == Place::Shown);
        hops.extend(shown.map(|hit| Hop::Rule {
            chain: hit.chain.clone(),
            position: hit.position,
        }));
    }
    if packet.dropped {
        hops.push(Hop::End(End::Dropped));
    }
    leg_text(&hops, false)
}

/// Also what is no hop: jumps from base chains, rules that decide nothing, every chain's end.
fn observed_hits(packet: &Packet) -> Vec<String> {
    let hits = packet.visits.iter().flat_map(|visit| &visit.hits);
    hits.map(|hit| {
        let position = match hit.position {
            Position::Rule(position) => position.to_string(),
            Position::End => "end".to_owned(),
        };
        format!("{}#{position} {}", hit.chain, hit.verdict.name())
    })
    .collect()
}

fn predicted_hits(program: &Program, trace: &evaluate::Trace<'_>) -> Vec<String> {
    let steps = trace.visits.iter().flat_map(|visit| &visit.steps);
    steps
        .filter_map(|step| {
            let chain = program.chain(step.at);
            let verdict = match step.event {
                evaluate::Event::PassedOver(_) => return None,
                evaluate::Event::End if chain.is_built_in() => return None,
                evaluate::Event::End => return Some(format!("{}#end continue", chain.name())),
                evaluate::Event::Hit(verdict) => verdict,
            };
            let verdict = match verdict {
                evaluate::Verdict::Accept => "accept",
                evaluate::Verdict::Drop => "drop",
                evaluate::Verdict::Continue => "continue",
                evaluate::Verdict::Jump => "jump",
                evaluate::Verdict::Return => "return",
            };
            Some(format!("{}#{} {verdict}", chain.name(), step.at.position()))
        })
        .collect()
}

fn predicted_text(program: &Program, trace: &evaluate::Trace<'_>) -> String {
    let hops: Vec<Hop> = program.hops(trace).into_iter().map(Hop::from).collect();
    leg_text(&hops, false)
}

#[test]
fn the_evaluator_says_what_the_kernel_does() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let count =
        from_environment("LAB_JUDGE_PACKETS").map_or(PACKETS, |count: u64| usize::try_from(count).unwrap());
    let seed = from_environment("LAB_JUDGE_SEED").unwrap_or(1337);
    // A thread of its own, since it changes its namespace.
    let court = std::thread::spawn(move || {
        let mut court = Court::new(seed);
        let mut judged = 0;
        while judged < count {
            let (ruleset, backend, context) = if court.random.u8(..4) == 0 {
                (court.marks, court.may_bind) = (&[7, 8], false);
                let ruleset = arbitrary::ruleset(&mut court.random);
                let text = restore::render(&ruleset, Family::V4) + &restore::render(&ruleset, Family::V6);
                (ruleset, Backend::Iptables, text)
            } else {
                (court.marks, court.may_bind) = (&[1337, 1338, 7], true);
                let options = court.options();
                (generate(&options), options.backend, format!("{options:#?}"))
            };
            let context = format!("seed {seed}\n{context}");
            let [v4, v6] = court.load(&ruleset, backend);
            let dead = [dead(&v4), dead(&v6)];
            let share = (count / 100).clamp(PACKETS_A_RULESET, 50);
            for _ in 0..share.min(count - judged) {
                let sent = court.packet();
                let (program, dead) = if sent.to.is_ipv4() {
                    (&v4, &dead[0])
                } else {
                    (&v6, &dead[1])
                };
                court.judge(program, dead, &sent, &context);
                judged += 1;
            }
        }
        println!("{judged} packets went as predicted");
        if judged >= PACKETS {
            let missed: Vec<&&str> = CHAINS
                .iter()
                .filter(|chain| !court.seen.contains(**chain))
                .collect();
            assert_eq!(
                missed,
                Vec::<&&str>::new(),
                "no packet was decided there: seed {seed}"
            );
        }
    });
    if let Err(panic) = court.join() {
        std::panic::resume_unwind(panic);
    }
}
