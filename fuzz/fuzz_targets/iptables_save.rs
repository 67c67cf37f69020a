//! Rules that a user imports: `iptables-save` output, or a file for `iptables-restore`. What is read and printed again is
//! read as the same rules; a mistake names a line of the text; and a packet can be sent through whatever was read.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use iptables::evaluate::{Program, evaluate};
use iptables::options::Interface;
use iptables::packet::{Connection, Nat, Owner, Packet, Route};
use iptables::parse::save::parse;
use iptables::render::save;
use iptables::rule::{Protocol, State};
use iptables::ruleset::Family;
use libfuzzer_sys::fuzz_target;

/// A chain may branch again and again: the evaluator is linear in the rules that a packet meets, and that may be
/// exponential in a text's length. Longer texts show nothing new.
const LONGEST: usize = 4096;

fuzz_target!(|bytes: &[u8]| {
    let Some((family, text)) = bytes.split_first() else {
        return;
    };
    let family = if family & 1 == 0 { Family::V4 } else { Family::V6 };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    if text.len() > LONGEST {
        return;
    }
    let parsed = match parse(text, family) {
        Ok(parsed) => parsed,
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a word");
            for mistake in mistakes {
                assert!(!mistake.reason.is_empty());
                assert!(mistake.line <= text.lines().count());
                assert!(text.contains(&mistake.text));
            }
            return;
        }
    };
    for unknown in &parsed.unknown {
        assert!((1..=text.lines().count()).contains(&unknown.line));
    }
    let printed = save::render(&parsed.ruleset, family);
    let again = parse(&printed, family).unwrap_or_else(|mistakes| panic!("{printed}\n{mistakes:?}"));
    assert_eq!(printed, save::render(&again.ruleset, family), "from {text:?}");
    let program = Program::compile(&parsed.ruleset, family);
    let packet = packet(family);
    let trace = evaluate(&program, &packet);
    let _hops = program.hops(&trace);
});

fn packet(family: Family) -> Packet {
    let (source, destination): (IpAddr, IpAddr) = match family {
        Family::V6 => (
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5).into(),
        ),
        Family::V4 | Family::Inet => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(10, 96, 0, 5).into()),
    };
    Packet {
        route: Route::FromSocket,
        protocol: Protocol::Tcp,
        source,
        source_port: 40000,
        destination,
        destination_port: 9080,
        out_interface: Interface::parse("eth0"),
        in_interface: None,
        owner: Some(Owner { uid: 1000, gid: 1000 }),
        mark: 0,
        connection: Connection {
            state: State::New,
            mark: 0,
            nat: Nat::Open,
        },
    }
}
