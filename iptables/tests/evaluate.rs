//! Predicted paths against what was measured of Istio's rules: who goes where, by which rule.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;

use iptables::evaluate::{Hop, Outcome, Program, evaluate};
use iptables::explain::reason;
use iptables::generate::generate;
use iptables::options::{Interception, Interface, Raw, Start};
use iptables::packet::{Connection, Nat, Owner, Packet, Route};
use iptables::parse::save;
use iptables::rule::{Protocol, State};
use iptables::ruleset::Family;

fn program(yaml: &str, family: Family) -> Program {
    let raw: Raw = serde_yaml::from_str(yaml).unwrap();
    Program::compile(&generate(&raw.resolve(Start::Injector).unwrap()), family)
}

fn default() -> Program {
    Program::compile(&generate(&Interception::sidecar_default()), Family::V4)
}

fn out(owner: Option<(u32, u32)>, protocol: Protocol, to: &str, by: &str) -> Packet {
    let (address, port) = to.rsplit_once(':').unwrap();
    let destination: IpAddr = address.trim_matches(['[', ']']).parse().unwrap();
    let source = if destination.is_ipv4() {
        "10.244.0.2"
    } else {
        "fd00::2"
    };
    Packet {
        route: Route::FromSocket,
        protocol,
        source: source.parse().unwrap(),
        source_port: 40000,
        destination,
        destination_port: port.parse().unwrap(),
        in_interface: None,
        out_interface: Interface::parse(by),
        owner: owner.map(|(uid, gid)| Owner { uid, gid }),
        mark: 0,
        connection: Connection::NEW,
    }
}

fn arriving(port: u16) -> Packet {
    Packet {
        route: Route::ToSocket,
        source: "10.244.0.3".parse().unwrap(),
        destination: "10.244.0.2".parse().unwrap(),
        destination_port: port,
        in_interface: Interface::parse("eth0"),
        out_interface: None,
        owner: None,
        ..out(None, Protocol::Tcp, "10.244.0.2:1", "lo")
    }
}

fn path(program: &Program, packet: &Packet) -> String {
    let trace = evaluate(program, packet);
    let hop = |hop: Hop<'_>| match hop {
        Hop::Hook(hook) => hook.name().to_owned(),
        Hop::Rule(chain, Some(position)) => format!("{}#{position}", chain.name()),
        Hop::Rule(chain, None) => format!("{}#end", chain.name()),
        Hop::Dropped => "dropped".to_owned(),
    };
    program
        .hops(&trace)
        .into_iter()
        .map(hop)
        .collect::<Vec<_>>()
        .join(" -> ")
}

const APP: Option<(u32, u32)> = Some((1000, 1000));
const PROXY: Option<(u32, u32)> = Some((1337, 1337));
const GROUP: Option<(u32, u32)> = Some((1000, 1337));

#[test]
fn who_hits_which_rule_of_istio_output() {
    let redirected = "ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1";
    let captured = "ISTIO_OUTPUT#2 -> ISTIO_IN_REDIRECT#1";
    let program = default();
    for (who, protocol, to, by, rules) in [
        (APP, Protocol::Tcp, "127.0.0.1:80", "lo", "ISTIO_OUTPUT#3"),
        (APP, Protocol::Tcp, "10.244.0.2:80", "lo", "ISTIO_OUTPUT#3"),
        (APP, Protocol::Udp, "127.0.0.53:53", "lo", "ISTIO_OUTPUT#3"),
        (APP, Protocol::Tcp, "10.96.0.5:9080", "eth0", redirected),
        (
            APP,
            Protocol::Udp,
            "10.96.0.10:53",
            "eth0",
            "ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end",
        ),
        (PROXY, Protocol::Tcp, "10.244.0.3:9080", "eth0", "ISTIO_OUTPUT#4"),
        (PROXY, Protocol::Tcp, "10.244.0.2:80", "lo", captured),
        (PROXY, Protocol::Tcp, "10.244.0.2:15008", "lo", "ISTIO_OUTPUT#4"),
        (PROXY, Protocol::Udp, "10.244.0.2:80", "lo", "ISTIO_OUTPUT#4"),
        (PROXY, Protocol::Tcp, "127.0.0.1:15000", "lo", "ISTIO_OUTPUT#4"),
        (PROXY, Protocol::Tcp, "127.0.0.6:15002", "lo", captured),
        (GROUP, Protocol::Tcp, "10.244.0.3:80", "eth0", "ISTIO_OUTPUT#7"),
        (GROUP, Protocol::Tcp, "10.244.0.2:80", "lo", "ISTIO_OUTPUT#3"),
        (APP, Protocol::Tcp, "127.0.0.1:80", "eth0", "ISTIO_OUTPUT#8"),
        (None, Protocol::Tcp, "10.244.0.2:80", "lo", "ISTIO_OUTPUT#3"),
        (None, Protocol::Tcp, "10.244.0.3:80", "eth0", redirected),
    ] {
        let packet = out(who, protocol, to, by);
        assert_eq!(
            path(&program, &packet),
            format!("OUTPUT -> {rules} -> POSTROUTING"),
            "{who:?} to {to} by {by}"
        );
    }
    let mut passthrough = out(PROXY, Protocol::Tcp, "10.244.0.2:80", "lo");
    passthrough.source = "127.0.0.6".parse().unwrap();
    assert_eq!(
        path(&program, &passthrough),
        "OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING"
    );
}

#[test]
fn inbound_ports() {
    let program = default();
    let captured = "PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT";
    assert_eq!(path(&program, &arriving(9080)), captured);
    assert_eq!(
        path(&program, &arriving(15090)),
        "PREROUTING -> ISTIO_INBOUND#2 -> INPUT"
    );
    let udp = Packet {
        protocol: Protocol::Udp,
        ..arriving(9080)
    };
    assert_eq!(path(&program, &udp), "PREROUTING -> INPUT");
}

#[test]
fn nat_sees_a_first_packet_only() {
    let program = default();
    let mut later = out(APP, Protocol::Tcp, "10.96.0.5:9080", "eth0");
    later.connection.state = State::Established;
    assert_eq!(path(&program, &later), "OUTPUT -> POSTROUTING");
    later.connection = Connection {
        nat: Nat::Settled,
        ..Connection::NEW
    };
    assert_eq!(path(&program, &later), "OUTPUT -> POSTROUTING");
}

#[test]
fn a_redirected_packet_comes_back_over_lo() {
    let program = default();
    let packet = out(APP, Protocol::Tcp, "10.96.0.5:9080", "eth0");
    let back = evaluate(&program, &packet).reentry().unwrap();
    assert_eq!(back.destination, "127.0.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(back.destination_port, 15001);
    assert_eq!(path(&program, &back), "PREROUTING -> INPUT");
    let direct = out(PROXY, Protocol::Tcp, "10.244.0.3:80", "eth0");
    assert_eq!(evaluate(&program, &direct).reentry(), None);
}

#[test]
fn dns_capture() {
    let program = program("{redirectDNS: true, captureAllDNS: true}", Family::V4);
    // The conntrack zones of table raw decide nothing; its chain is left at its end.
    assert_eq!(
        path(&program, &out(APP, Protocol::Udp, "10.96.0.10:53", "eth0")),
        "OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#8 -> ISTIO_OUTPUT_DNS#2 -> POSTROUTING"
    );
    assert_eq!(
        path(&program, &out(PROXY, Protocol::Udp, "10.96.0.10:53", "eth0")),
        "OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#4 -> POSTROUTING"
    );
    assert_eq!(
        path(&program, &out(APP, Protocol::Udp, "127.0.0.1:9999", "lo")),
        "OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#8 -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#9 -> POSTROUTING"
    );
}

#[test]
fn tproxy() {
    let program = program("mode: TPROXY", Family::V4);
    assert_eq!(
        path(&program, &arriving(9080)),
        "PREROUTING -> ISTIO_INBOUND#8 -> ISTIO_TPROXY#1 -> INPUT"
    );
    let mut later = arriving(9080);
    later.connection.state = State::Established;
    assert_eq!(
        path(&program, &later),
        "PREROUTING -> ISTIO_INBOUND#7 -> ISTIO_DIVERT#2 -> INPUT"
    );
    // The sidecar, as Istio runs it there, to its own pod: marked on the way out, taken on the way back in.
    let packet = out(Some((0, 1337)), Protocol::Tcp, "10.244.0.2:9080", "lo");
    assert_eq!(path(&program, &packet), "OUTPUT -> ISTIO_OUTPUT#3 -> POSTROUTING");
    let back = evaluate(&program, &packet).reentry().unwrap();
    assert_eq!(back.mark, 1338);
    assert_eq!(
        path(&program, &back),
        "PREROUTING -> ISTIO_INBOUND#8 -> ISTIO_TPROXY#1 -> INPUT"
    );
    let from_app = out(APP, Protocol::Tcp, "10.244.0.2:9080", "lo");
    let back = evaluate(&program, &from_app).reentry().unwrap();
    assert_eq!(path(&program, &back), "PREROUTING -> ISTIO_INBOUND#3 -> INPUT");
}

#[test]
fn one_inet_table_sees_both_families() {
    let inet = program("backend: nftables", Family::Inet);
    let v6 = out(APP, Protocol::Tcp, "[2001:db8::1]:80", "eth0");
    assert_eq!(
        path(&inet, &v6),
        "OUTPUT -> istio-output#9 -> istio-redirect#1 -> POSTROUTING"
    );
    // `skuid != 1337` is no condition that a packet without a socket can meet.
    let kernels_own = out(None, Protocol::Tcp, "10.244.0.2:80", "lo");
    assert_eq!(
        path(&inet, &kernels_own),
        "OUTPUT -> istio-output#9 -> istio-redirect#1 -> POSTROUTING"
    );
}

#[test]
fn each_passed_over_rule_has_its_reason() {
    let program = default();
    let packet = out(APP, Protocol::Tcp, "10.96.0.5:9080", "eth0");
    let trace = evaluate(&program, &packet);
    let reasons: Vec<String> = trace
        .visits
        .iter()
        .flat_map(|visit| &visit.steps)
        .filter_map(|step| reason(&program, step))
        .collect();
    assert_eq!(
        reasons,
        [
            "`-o lo`: it leaves by eth0",
            "`-o lo`: it leaves by eth0",
            "`-o lo`: it leaves by eth0",
            "`-m owner --uid-owner 1337`: its socket's user is 1000",
            "`-o lo`: it leaves by eth0",
            "`-o lo`: it leaves by eth0",
            "`-m owner --gid-owner 1337`: its socket's group is 1000",
            "`-d 127.0.0.1/32`: it goes to 10.96.0.5",
        ]
    );
}

#[test]
fn reasons_are_in_the_words_of_the_tool() {
    let program = program("backend: nftables", Family::Inet);
    let packet = out(APP, Protocol::Tcp, "10.96.0.5:9080", "eth0");
    let trace = evaluate(&program, &packet);
    let first = trace.visits[0]
        .steps
        .iter()
        .find_map(|step| reason(&program, step));
    assert_eq!(first.unwrap(), "`oifname \"lo\"`: it leaves by eth0");
}

#[test]
fn what_is_not_known_decides_nothing() {
    let text = "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -m set --match-set all dst -j ACCEPT\n-A OUTPUT -j ACCEPT\nCOMMIT\n";
    let parsed = save::parse(text, Family::V4).unwrap();
    let program = Program::compile(&parsed.ruleset, Family::V4);
    let packet = out(APP, Protocol::Tcp, "10.0.0.1:80", "eth0");
    let Outcome::Undecided(at) = evaluate(&program, &packet).outcome else {
        panic!("decided")
    };
    assert_eq!(at.position().get(), 1);
}

#[test]
fn a_policy_drops() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT DROP [0:0]\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n";
    let parsed = save::parse(text, Family::V4).unwrap();
    let program = Program::compile(&parsed.ruleset, Family::V4);
    assert_eq!(
        path(&program, &out(APP, Protocol::Tcp, "10.0.0.1:80", "eth0")),
        "OUTPUT -> dropped"
    );
    assert_eq!(
        path(&program, &out(APP, Protocol::Udp, "10.0.0.1:80", "eth0")),
        "OUTPUT -> OUTPUT#1 -> POSTROUTING"
    );
    // Also that of a chain without rules.
    let bare = save::parse("*filter\n:OUTPUT DROP [0:0]\nCOMMIT\n", Family::V4).unwrap();
    let program = Program::compile(&bare.ruleset, Family::V4);
    assert_eq!(
        path(&program, &out(APP, Protocol::Tcp, "10.0.0.1:80", "eth0")),
        "OUTPUT -> dropped"
    );
}

#[test]
fn an_address_that_a_redirect_gave_on_the_way_in_is_not_known() {
    let text = "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\nCOMMIT\n*filter\n-A INPUT -p tcp -m tcp --dport 15006 -j RETURN\n-A INPUT -d 10.244.0.2/32 -j DROP\nCOMMIT\n";
    let parsed = save::parse(text, Family::V4).unwrap();
    let program = Program::compile(&parsed.ruleset, Family::V4);
    let captured = "PREROUTING -> PREROUTING#1 -> INPUT -> INPUT#1";
    assert_eq!(path(&program, &arriving(9080)), captured);
    let without_first = save::parse(&text.replace("--dport 15006", "--dport 1"), Family::V4).unwrap();
    let program = Program::compile(&without_first.ruleset, Family::V4);
    assert!(matches!(
        evaluate(&program, &arriving(9080)).outcome,
        Outcome::Undecided(_)
    ));
}

/// Found by the kernel, in `lab`'s judge of this evaluator.
#[test]
fn before_conntrack_there_is_no_connection_but_for_a_template() {
    let text = "*raw\n-A OUTPUT -m connmark ! --mark 7 -j DROP\n-A OUTPUT -m conntrack --ctstate INVALID -j CT --zone 2\n\
        -A OUTPUT -m conntrack --ctstate INVALID -j DROP\n-A OUTPUT -m connmark ! --mark 7 -j ACCEPT\nCOMMIT\n";
    let parsed = save::parse(text, Family::V4).unwrap();
    let program = Program::compile(&parsed.ruleset, Family::V4);
    assert_eq!(
        path(&program, &out(APP, Protocol::Tcp, "10.0.0.1:80", "eth0")),
        "OUTPUT -> OUTPUT#4 -> POSTROUTING"
    );
}

#[test]
fn where_nothing_needs_conntrack_nat_chains_see_nothing() {
    let path_under = |rule: &str| {
        let text = format!("*nat\n-A OUTPUT -p udp -j ACCEPT\n-A OUTPUT {rule}\nCOMMIT\n");
        let program = Program::compile(&save::parse(&text, Family::V4).unwrap().ruleset, Family::V4);
        path(&program, &out(APP, Protocol::Udp, "10.0.0.1:80", "eth0"))
    };
    assert_eq!(path_under("-p tcp -j RETURN"), "OUTPUT -> POSTROUTING");
    assert_eq!(
        path_under("-p tcp -j REDIRECT --to-ports 1"),
        "OUTPUT -> OUTPUT#1 -> POSTROUTING"
    );
}
