//! Rules and the reasons why they did not match, in words: those of the tool that loads them.

use std::fmt::Display;

use crate::evaluate::{At, Event, Live, Program, Seen, Step};
use crate::render::{nft, restore};
use crate::rule::Match;

/// A rule's text; `None` for a chain's end.
pub fn rule(program: &Program, at: At) -> Option<String> {
    let rule = program.rule(at)?;
    Some(if program.is_nft() {
        nft::rule_text(rule)
    } else {
        restore::rule_text(rule)
    })
}

/// Why a rule was passed over: "`-o lo`: it leaves by eth0". `None` for a step that is no passing over.
pub fn reason(program: &Program, step: &Step<'_>) -> Option<String> {
    let Event::PassedOver(condition) = step.event else {
        return None;
    };
    let rule = program.rule(step.at)?;
    let failed = rule.matches.get(condition)?;
    let text = if program.is_nft() {
        nft::condition_text(failed, rule)
    } else {
        restore::match_text(failed)
    };
    Some(format!("`{text}`: {}", fact(failed, &step.packet)))
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
        Match::Destination(_) if !live.knows_destination => {
            "it was redirected to an address of its interface, which is not known here".to_owned()
        }
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
        Match::Connmark(_) if live.seen == Seen::Nothing => {
            "it has no connection yet, or none at all".to_owned()
        }
        Match::Connmark(_) => format!("its connection's mark is {}", live.connection_mark),
        Match::State(_) => format!("its connection is {}", live.state()),
        Match::OneIn(_) => "by chance".to_owned(),
        Match::Comment(_) => "a comment".to_owned(),
        Match::Unknown(_) => "not known here".to_owned(),
    }
}

fn named(value: Option<impl Display>, what: &str, none: &str) -> String {
    value.map_or(none.to_owned(), |value| format!("{what} {value}"))
}
