//! The path notation: hops and legs as text, parsed and printed in one place.
//!
//! `OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING`: hops joined by ` -> `, one leg a line. No other module builds or
//! takes apart these strings. A [`Hop`] is what the kernel was seen to do; a [`HopPattern`] is what a scenario
//! expects, in which the position of a rule may be left open.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

pub use iptables::ruleset::Hook;

/// Where in a chain a packet was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Position {
    /// At the n-th rule, from 1.
    Rule(NonZeroU16),
    /// At the chain's end, without a verdict.
    End,
}

/// How a leg ended where no socket took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// An RST answered the SYN: nobody listened on this port.
    Refused(u16),
    /// The connection was reset after it was open.
    Reset,
    /// A rule dropped the packet.
    Dropped,
    /// Nothing answered in time.
    Timeout,
}

/// One station of a leg.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hop {
    /// A netfilter hook.
    Hook(Hook),
    /// A rule that decided, or a chain left at its end.
    Rule {
        /// The chain, in its own spelling.
        chain: String,
        /// The rule's position.
        position: Position,
    },
    /// The process that sent the first packet.
    Origin {
        /// A container's name, `sidecar` or `agent`.
        role: String,
    },
    /// The process whose socket took the connection.
    Socket {
        /// A container's name, `sidecar` or `agent`.
        role: String,
        /// The port of that socket.
        port: u16,
    },
    /// An end without a socket.
    End(End),
}

/// A hop that was worked out from rules; only where that is said may it be shown.
impl From<iptables::evaluate::Hop<'_>> for Hop {
    fn from(hop: iptables::evaluate::Hop<'_>) -> Self {
        match hop {
            iptables::evaluate::Hop::Hook(hook) => Self::Hook(hook),
            iptables::evaluate::Hop::Rule(chain, position) => {
                let number = position.map(|position| u16::try_from(position.get()).unwrap_or(u16::MAX));
                Self::Rule {
                    chain: chain.name().to_owned(),
                    position: number
                        .and_then(NonZeroU16::new)
                        .map_or(Position::End, Position::Rule),
                }
            }
            iptables::evaluate::Hop::Dropped => Self::End(End::Dropped),
        }
    }
}

/// A hop as a scenario expects it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HopPattern {
    /// This hop and no other.
    Exactly(Hop),
    /// Any rule of this chain, or its end.
    AnyRuleOf(String),
}

/// A leg as a scenario expects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegPattern {
    /// The hops in order.
    pub hops: Vec<HopPattern>,
    /// True if the leg must have been opened by an earlier request.
    pub reused: bool,
}

/// What is wrong with a piece of notation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotationError {
    /// No hop at all.
    #[error("empty: write hops joined by ` -> `, such as `OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING`")]
    Empty,
    /// Not a hop.
    #[error(
        "`{0}` is not a hop: write a hook (OUTPUT), a rule (ISTIO_OUTPUT#4, ISTIO_OUTPUT#end), a chain \
         (ISTIO_OUTPUT), a socket (sidecar:15006), `refused:PORT`, `reset`, `dropped` or `timeout`"
    )]
    NotAHop(String),
    /// A rule position that is no number from 1.
    #[error("`{text}`: `{position}` is not a rule's position: write a number from 1, or `end`")]
    NotAPosition {
        /// The whole hop.
        text: String,
        /// The part after `#`.
        position: String,
    },
    /// A port out of range.
    #[error("`{text}`: `{port}` is not a port: write a number from 1 to 65535")]
    NotAPort {
        /// The whole hop.
        text: String,
        /// The part after `:`.
        port: String,
    },
    /// A role without port anywhere but at the start.
    #[error("`{0}` without a port can only begin a leg: write `{0}:PORT`")]
    OriginNotFirst(String),
}

/// The words that end a leg and so cannot name a container.
pub const RESERVED_ROLES: [&str; 6] = ["refused", "reset", "dropped", "timeout", "sidecar", "agent"];

const JOINT: &str = " -> ";
const REUSED: &str = " (reused)";

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hook(hook) => write!(f, "{hook}"),
            Self::Rule {
                chain,
                position: Position::Rule(n),
            } => write!(f, "{chain}#{n}"),
            Self::Rule {
                chain,
                position: Position::End,
            } => write!(f, "{chain}#end"),
            Self::Origin { role } => f.write_str(role),
            Self::Socket { role, port } => write!(f, "{role}:{port}"),
            Self::End(End::Refused(port)) => write!(f, "refused:{port}"),
            Self::End(End::Reset) => f.write_str("reset"),
            Self::End(End::Dropped) => f.write_str("dropped"),
            Self::End(End::Timeout) => f.write_str("timeout"),
        }
    }
}

impl fmt::Display for HopPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(hop) => write!(f, "{hop}"),
            Self::AnyRuleOf(chain) => f.write_str(chain),
        }
    }
}

impl fmt::Display for LegPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&leg_text(&self.hops, self.reused))
    }
}

/// A leg as one line of text.
pub fn leg_text<H: fmt::Display>(hops: &[H], reused: bool) -> String {
    let mut text = hops
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(JOINT);
    if reused {
        text.push_str(REUSED);
    }
    text
}

impl HopPattern {
    /// True if this pattern stands for that hop.
    pub fn matches(&self, seen: &Hop) -> bool {
        match self {
            Self::Exactly(hop) => hop == seen,
            Self::AnyRuleOf(expected) => matches!(seen, Hop::Rule { chain, .. } if chain == expected),
        }
    }
}

impl LegPattern {
    /// True if this pattern stands for those hops, all of them and in this order.
    pub fn matches(&self, hops: &[Hop], reused: bool) -> bool {
        self.reused == reused
            && self.hops.len() == hops.len()
            && self
                .hops
                .iter()
                .zip(hops)
                .all(|(pattern, hop)| pattern.matches(hop))
    }
}

/// True if `patterns` occur among `hops` in this order, with anything before, between and after them.
pub fn contains_in_order(hops: &[Hop], patterns: &[HopPattern]) -> bool {
    let mut rest = hops.iter();
    patterns
        .iter()
        .all(|pattern| rest.any(|hop| pattern.matches(hop)))
}

impl FromStr for LegPattern {
    type Err = NotationError;

    fn from_str(text: &str) -> Result<Self, NotationError> {
        let text = text.trim();
        let (text, reused) = match text.strip_suffix(REUSED.trim_start()) {
            Some(rest) => (rest.trim_end(), true),
            None => (text, false),
        };
        if text.is_empty() {
            return Err(NotationError::Empty);
        }
        let hops = parse_hops(text)?;
        Ok(Self { hops, reused })
    }
}

/// Parses hops joined by ` -> `; a role without port may stand first.
pub fn parse_hops(text: &str) -> Result<Vec<HopPattern>, NotationError> {
    if text.trim().is_empty() {
        return Err(NotationError::Empty);
    }
    text.split("->")
        .enumerate()
        .map(|(index, hop)| parse_hop(hop.trim(), index == 0))
        .collect()
}

fn parse_hop(text: &str, first: bool) -> Result<HopPattern, NotationError> {
    if let Some(hook) = Hook::ALL.into_iter().find(|hook| hook.name() == text) {
        return Ok(HopPattern::Exactly(Hop::Hook(hook)));
    }
    let end = match text {
        "reset" => Some(End::Reset),
        "dropped" => Some(End::Dropped),
        "timeout" => Some(End::Timeout),
        _ => None,
    };
    if let Some(end) = end {
        return Ok(HopPattern::Exactly(Hop::End(end)));
    }
    if let Some((chain, position)) = text.split_once('#') {
        return parse_rule(text, chain, position);
    }
    if let Some((role, port)) = text.split_once(':') {
        return parse_socket(text, role, port);
    }
    if is_role(text) {
        if !first && RESERVED_ROLES.contains(&text) {
            return Err(NotationError::OriginNotFirst(text.to_owned()));
        }
        // nftables' chains are in small letters too: whether it is one is known where the pod is.
        if !first {
            return Ok(HopPattern::AnyRuleOf(text.to_owned()));
        }
        return Ok(HopPattern::Exactly(Hop::Origin {
            role: text.to_owned(),
        }));
    }
    if is_chain(text) {
        return Ok(HopPattern::AnyRuleOf(text.to_owned()));
    }
    Err(NotationError::NotAHop(text.to_owned()))
}

fn parse_rule(text: &str, chain: &str, position: &str) -> Result<HopPattern, NotationError> {
    if !is_chain(chain) && !is_role(chain) {
        return Err(NotationError::NotAHop(text.to_owned()));
    }
    let position = if position == "end" {
        Position::End
    } else {
        let not_a_position = || NotationError::NotAPosition {
            text: text.to_owned(),
            position: position.to_owned(),
        };
        Position::Rule(position.parse().ok().ok_or_else(not_a_position)?)
    };
    Ok(HopPattern::Exactly(Hop::Rule {
        chain: chain.to_owned(),
        position,
    }))
}

fn parse_socket(text: &str, role: &str, port: &str) -> Result<HopPattern, NotationError> {
    if !is_role(role) {
        return Err(NotationError::NotAHop(text.to_owned()));
    }
    let not_a_port = || NotationError::NotAPort {
        text: text.to_owned(),
        port: port.to_owned(),
    };
    let port = port.parse::<NonZeroU16>().ok().ok_or_else(not_a_port)?.get();
    Ok(HopPattern::Exactly(if role == "refused" {
        Hop::End(End::Refused(port))
    } else {
        Hop::Socket {
            role: role.to_owned(),
            port,
        }
    }))
}

/// A container's name is a DNS label (Kubernetes core/v1), so a role has no capitals.
pub fn is_role(text: &str) -> bool {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(label) && !text.starts_with('-') && !text.ends_with('-')
}

/// An iptables chain of Istio's, Linkerd's or the user's: anything in capitals with an underscore or digit.
fn is_chain(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round_trip(text: &str) {
        let leg: LegPattern = text.parse().unwrap();
        assert_eq!(leg.to_string(), text);
    }

    #[test]
    fn notation_survives_a_round_trip() {
        round_trip(
            "productpage -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001",
        );
        round_trip("sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING");
        round_trip("PREROUTING -> ISTIO_INBOUND -> ISTIO_IN_REDIRECT -> INPUT -> sidecar:15006 (reused)");
        round_trip(
            "ratings -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end -> POSTROUTING -> refused:15001",
        );
        round_trip("app -> OUTPUT -> PROXY_INIT_OUTPUT#2 -> dropped");
        round_trip("sidecar -> OUTPUT -> istio-output#2 -> istio-in-redirect -> POSTROUTING");
    }

    #[track_caller]
    fn refuse(text: &str, message: &str) {
        let error = text.parse::<LegPattern>().unwrap_err().to_string();
        assert!(error.contains(message), "{text:?}: {error}");
    }

    #[test]
    fn mistakes_say_what_to_write() {
        refuse("", "empty");
        refuse("OUTPUT -> ISTIO_OUTPUT#0", "`0` is not a rule's position");
        refuse("OUTPUT -> ISTIO_OUTPUT#nine", "`nine` is not a rule's position");
        refuse("OUTPUT -> sidecar:99999", "`99999` is not a port");
        refuse("OUTPUT -> sidecar", "can only begin a leg");
        refuse("OUTPUT ->  -> POSTROUTING", "`` is not a hop");
        refuse("OUT PUT", "`OUT PUT` is not a hop");
    }

    #[test]
    fn a_chain_without_position_matches_any_of_its_rules() {
        let rule = |n| Hop::Rule {
            chain: "ISTIO_INBOUND".into(),
            position: Position::Rule(NonZeroU16::new(n).unwrap()),
        };
        let pattern: LegPattern = "PREROUTING -> ISTIO_INBOUND".parse().unwrap();
        assert!(pattern.matches(&[Hop::Hook(Hook::Prerouting), rule(5)], false));
        assert!(!pattern.matches(&[Hop::Hook(Hook::Prerouting), rule(5)], true));
        let exact: LegPattern = "PREROUTING -> ISTIO_INBOUND#4".parse().unwrap();
        assert!(!exact.matches(&[Hop::Hook(Hook::Prerouting), rule(5)], false));
    }

    #[test]
    fn contains_wants_order_but_not_neighbours() {
        let leg: LegPattern = "a -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING"
            .parse()
            .unwrap();
        let hops: Vec<Hop> = leg
            .hops
            .into_iter()
            .map(|pattern| match pattern {
                HopPattern::Exactly(hop) => hop,
                HopPattern::AnyRuleOf(chain) => panic!("{chain}"),
            })
            .collect();
        let holds = |text: &str| contains_in_order(&hops, &parse_hops(text).unwrap());
        assert!(holds("OUTPUT -> ISTIO_REDIRECT"));
        assert!(!holds("ISTIO_REDIRECT -> OUTPUT"));
    }
}
