//! Why a rule did not match, in words.

use std::fmt::Display;

use crate::evaluate::Live;
use crate::render::restore::match_text;
use crate::rule::Match;

/// "`-o lo`: it leaves by eth0".
pub fn reason(failed: &Match, packet: &Live<'_>) -> String {
    format!("`{}`: {}", match_text(failed), fact(failed, packet))
}

fn fact(failed: &Match, live: &Live<'_>) -> String {
    let packet = live.packet;
    match failed {
        Match::InInterface(_) => named(
            packet.in_interface.as_ref(),
            "it arrived by",
            "it was sent here, and arrived by no interface",
        ),
        Match::OutInterface(_) => named(
            live.out_interface(),
            "it leaves by",
            "its way out is not known here",
        ),
        Match::Source(_) => format!("it comes from {}", packet.source),
        Match::Destination(_) => format!("it goes to {}", live.destination),
        Match::Protocol(_) => format!("it is {}", packet.protocol),
        Match::SourcePort(_) => format!("it comes from port {}", packet.source_port),
        Match::DestinationPort(_) | Match::DestinationPorts(_) => {
            format!("it goes to port {}", live.destination_port)
        }
        Match::OwnerUid(_) => named(
            packet.owner.map(|owner| owner.uid),
            "its socket's user is",
            "it has no socket",
        ),
        Match::OwnerGid(_) => named(
            packet.owner.map(|owner| owner.gid),
            "its socket's group is",
            "it has no socket",
        ),
        Match::Mark(_) => format!("its mark is {}", live.mark),
        Match::Connmark(_) => format!("its connection's mark is {}", live.connection_mark),
        Match::State(_) => format!("its connection is {}", packet.connection.state),
        Match::OneIn(_) => "by chance".to_owned(),
        Match::Comment(_) => "a comment".to_owned(),
        Match::Unknown(_) => "not known here".to_owned(),
    }
}

fn named(value: Option<impl Display>, what: &str, none: &str) -> String {
    value.map_or(none.to_owned(), |value| format!("{what} {value}"))
}
