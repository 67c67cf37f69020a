//! Every option of the interception rules, already valid.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};

pub use crate::raw::{Mistake, Raw, Start};

/// A port; never 0.
pub type Port = NonZeroU16;

/// The options of a pod's interception rules. Lists keep the order they were written in, because Istio emits rules in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interception {
    /// How inbound traffic reaches the sidecar.
    pub mode: Mode,
    /// Which tool loads the rules.
    pub backend: Backend,
    /// Where outbound connections are redirected to.
    pub proxy_port: Port,
    /// Where inbound connections are redirected to.
    pub inbound_capture_port: Port,
    /// The HBONE port, which nat never captures.
    pub inbound_tunnel_port: Port,
    /// The sidecar's user ids, a group of rules for each.
    pub proxy_uids: NonEmpty<u32>,
    /// The sidecar's group ids, a group of rules for each.
    pub proxy_gids: NonEmpty<u32>,
    /// Which inbound ports are captured.
    pub inbound_ports: InboundPorts,
    /// Which destinations outbound connections are captured for.
    pub outbound_ranges: OutboundRanges,
    /// Destinations never captured.
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// TCP destination ports captured whatever the address.
    pub include_outbound_ports: Vec<Port>,
    /// Destination ports never captured, TCP and UDP.
    pub exclude_outbound_ports: Vec<Port>,
    /// Whose outbound traffic is captured.
    pub outbound_owners: OwnerGroups,
    /// Interfaces that are left alone.
    pub exclude_interfaces: Vec<Interface>,
    /// Interfaces whose arriving traffic is treated as outbound (virtual machines' NICs).
    pub reroute_interfaces: Vec<Interface>,
    /// Which DNS queries go to the agent.
    pub dns: DnsCapture,
    /// Whether packets of conntrack state INVALID are dropped.
    pub drops_invalid: bool,
    /// Whether IPv6 rules are made beside the IPv4 ones.
    pub has_ipv6: bool,
    /// What counts as "to localhost" in IPv4.
    pub loopback: Ipv4Net,
    /// A file of rules that takes the place of all of the above; the caller loads it instead of [`crate::generate`].
    pub custom_rules: Option<PathBuf>,
}

/// How inbound traffic reaches the sidecar. Outbound is always nat REDIRECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// nat REDIRECT.
    Redirect,
    /// mangle TPROXY: the client's address stays visible.
    Tproxy(Tproxy),
    /// No rules.
    None,
}

impl Mode {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy(_) => "TPROXY",
            Self::None => "NONE",
        }
    }
}

/// What TPROXY needs beside the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tproxy {
    /// The packet mark that `ip rule` looks at.
    pub mark: NonZeroU32,
    /// The routing table of `local default dev lo`.
    pub route_table: NonZeroU32,
}

/// Which tool loads the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `iptables-restore` (`nf_tables`).
    Iptables,
    /// `nft -f`.
    Nftables,
}

/// Which inbound ports are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InboundPorts {
    /// `*`, less the excluded ones.
    AllBut(Vec<Port>),
    /// These alone; empty captures none. Istio ignores exclusions here.
    Only(Vec<Port>),
}

/// Which destinations outbound connections are captured for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboundRanges {
    /// `*`.
    All,
    /// These alone; empty captures none.
    Only(Vec<IpNet>),
}

/// Whose outbound traffic is captured, by the socket's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnerGroups {
    /// `*`, less the excluded ones.
    AllBut(Vec<Group>),
    /// These alone, in one rule; empty captures nobody's.
    Only(Vec<Group>),
}

/// A group as the option names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Group {
    /// A group id.
    Id(u32),
    /// A name, to be looked up by [`Interception::resolve_groups`] before anything is applied.
    Name(String),
}

/// Which DNS queries go to the agent's port 15053.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsCapture {
    /// None.
    Off,
    /// Asked for, but no server is known: Istio warns and leaves it off.
    NoServers,
    /// Those to these servers.
    Servers(NonEmpty<IpAddr>),
    /// Every query.
    All,
}

/// A network interface's name, as the kernel and Istio's injector take it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Interface(String);

impl Interface {
    /// `^[a-zA-Z][a-zA-Z0-9_.-]*$`, at most 15 characters (the injector's check; IFNAMSIZ).
    pub fn parse(name: &str) -> Option<Self> {
        let starts = name
            .chars()
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic());
        let rest = name
            .chars()
            .all(|each| each.is_ascii_alphanumeric() || "_.-".contains(each));
        (starts && rest && name.len() <= 15).then(|| Self(name.to_owned()))
    }

    /// The loopback interface.
    pub fn loopback() -> Self {
        Self("lo".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A list that has a first element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NonEmpty<T>(Vec<T>);

impl<T> NonEmpty<T> {
    /// `None` for an empty list.
    pub fn new(list: Vec<T>) -> Option<Self> {
        (!list.is_empty()).then_some(Self(list))
    }

    /// A list of one.
    pub fn one(value: T) -> Self {
        Self(vec![value])
    }

    /// The elements in order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<'a, T> IntoIterator for &'a NonEmpty<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Interception {
    /// What Istio's injector asks for in a sidecar pod without annotations.
    #[expect(
        clippy::expect_used,
        reason = "invariant: the injector's own values are valid; tested below"
    )]
    pub fn sidecar_default() -> Self {
        Raw::default()
            .resolve(Start::Injector)
            .expect("invariant: the injector's values are valid")
    }

    /// Puts ids in place of group names. `lookup` is `getgrnam` of the place where the rules will be loaded.
    pub fn resolve_groups(&mut self, lookup: impl Fn(&str) -> Option<u32>) -> Result<(), Vec<Mistake>> {
        let (option, groups) = match &mut self.outbound_owners {
            OwnerGroups::AllBut(groups) => ("excludeOutboundOwnerGroups", groups),
            OwnerGroups::Only(groups) => ("includeOutboundOwnerGroups", groups),
        };
        let mut mistakes = Vec::new();
        for group in groups {
            if let Group::Name(name) = group {
                match lookup(name) {
                    Some(id) => *group = Group::Id(id),
                    None => mistakes.push(Mistake::new(
                        option,
                        name,
                        "no such group",
                        "write the group's number",
                    )),
                }
            }
        }
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(mistakes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_injectors() {
        let default = Interception::sidecar_default();
        let ports: Vec<u16> = match &default.inbound_ports {
            InboundPorts::AllBut(ports) => ports.iter().map(|port| port.get()).collect(),
            InboundPorts::Only(ports) => panic!("captures only {ports:?}"),
        };
        assert_eq!(ports, [15090, 15021, 15020]);
        assert_eq!(default.outbound_ranges, OutboundRanges::All);
        assert_eq!(
            (default.proxy_uids, default.proxy_gids),
            (NonEmpty::one(1337), NonEmpty::one(1337))
        );
    }

    #[test]
    fn interface_names() {
        for (name, valid) in [
            ("eth0", true),
            ("net1.5", true),
            ("0eth", false),
            ("", false),
            ("abcdefghijklmnop", false),
            ("a/b", false),
        ] {
            assert_eq!(Interface::parse(name).is_some(), valid, "{name}");
        }
    }

    #[test]
    fn unknown_group_names_are_mistakes() {
        let mut options = Interception::sidecar_default();
        options.outbound_owners =
            OwnerGroups::Only(vec![Group::Name("java".into()), Group::Name("ftp".into())]);
        let mistakes = options
            .resolve_groups(|name| (name == "ftp").then_some(21))
            .unwrap_err();
        assert_eq!(mistakes.len(), 1);
        assert_eq!(
            (mistakes[0].option.as_str(), mistakes[0].value.as_str()),
            ("includeOutboundOwnerGroups", "java")
        );
    }
}
