//! Options -> rules, in the order in which Istio makes them (`tools/istio-iptables/pkg/capture/run.go`).

mod dns;
mod inbound;
mod outbound;
mod tproxy;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::options::{DnsCapture, Interception, Mode};
use crate::rule::{ConntrackState, Is, Match, Protocol, Rule, Target};
use crate::ruleset::{Family, Rules, Ruleset, Table};

pub(crate) const INBOUND: &str = "ISTIO_INBOUND";
pub(crate) const OUTPUT: &str = "ISTIO_OUTPUT";
pub(crate) const REDIRECT: &str = "ISTIO_REDIRECT";
pub(crate) const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
pub(crate) const DIVERT: &str = "ISTIO_DIVERT";
pub(crate) const TPROXY: &str = "ISTIO_TPROXY";
pub(crate) const DROP: &str = "ISTIO_DROP";
pub(crate) const OUTPUT_DNS: &str = "ISTIO_OUTPUT_DNS";

pub(crate) const TCP: Match = Match::Protocol(Protocol::Tcp);
pub(crate) const UDP: Match = Match::Protocol(Protocol::Udp);

/// The rules that these options ask for; none in mode NONE.
pub fn generate(options: &Interception) -> Ruleset {
    if options.mode == Mode::None {
        return Ruleset::default();
    }
    let v6 = if options.ipv6 {
        family(options, Family::V6)
    } else {
        Rules::default()
    };
    Ruleset {
        v4: family(options, Family::V4),
        v6,
    }
}

/// What the parts of the generator share: the options as one family sees them.
pub(crate) struct Scope<'a> {
    pub(crate) options: &'a Interception,
    pub(crate) family: Family,
}

impl Scope<'_> {
    /// "To localhost".
    pub(crate) fn loopback(&self) -> IpNet {
        match self.family {
            Family::V4 => IpNet::V4(self.options.loopback),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        }
    }

    /// The source address by which a sidecar's inbound connections to the app are known.
    pub(crate) fn passthrough(&self) -> IpNet {
        match self.family {
            Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 6), 32)),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6), 128)),
        }
    }

    /// Those ranges that are of this family.
    pub(crate) fn own<'b>(&self, ranges: &'b [IpNet]) -> impl Iterator<Item = &'b IpNet> + use<'b> {
        let family = self.family;
        ranges
            .iter()
            .filter(move |range| (family == Family::V4) == range.addr().is_ipv4())
    }

    /// The DNS servers of this family.
    pub(crate) fn dns_servers(&self) -> Vec<IpAddr> {
        match &self.options.dns {
            DnsCapture::Servers(servers) => servers
                .iter()
                .filter(|ip| (self.family == Family::V4) == ip.is_ipv4())
                .copied()
                .collect(),
            DnsCapture::Off | DnsCapture::All => Vec::new(),
        }
    }
}

pub(crate) fn to_lo() -> Match {
    Match::OutInterface(Is::Exactly("lo".to_owned()))
}

pub(crate) fn jump(chain: &str) -> Target {
    Target::Jump(chain.to_owned())
}

fn family(options: &Interception, family: Family) -> Rules {
    let scope = Scope { options, family };
    let mut rules = Rules::default();
    excluded_interfaces(&scope, &mut rules);
    for interface in &options.reroute_interfaces {
        let from = Match::InInterface(Is::Exactly(interface.clone()));
        let rule = Rule::new("rerouteVirtualInterfaces", vec![from], Target::Return);
        rules.insert(Table::Nat, "PREROUTING", 1, rule);
    }
    if options.drop_invalid {
        let invalid = Match::ConntrackState(vec![ConntrackState::Invalid]);
        rules.append(
            Table::Mangle,
            "PREROUTING",
            Rule::new("dropInvalid", vec![invalid], jump(DROP)),
        );
        rules.append(
            Table::Mangle,
            DROP,
            Rule::new("dropInvalid", Vec::new(), Target::Drop),
        );
    }
    let tunnel = Match::DestinationPort(Is::Exactly(options.inbound_tunnel_port));
    let to_outbound = Rule::new("proxyPort", vec![TCP], Target::Redirect(options.proxy_port));
    rules.append(
        Table::Nat,
        INBOUND,
        Rule::new("inboundTunnelPort", vec![TCP, tunnel], Target::Return),
    );
    rules.append(Table::Nat, REDIRECT, to_outbound);
    let to_inbound = Rule::new(
        "inboundCapturePort",
        vec![TCP],
        Target::Redirect(options.inbound_capture_port),
    );
    rules.append(Table::Nat, IN_REDIRECT, to_inbound);
    inbound::add(&scope, &mut rules);
    outbound::add(&scope, &mut rules);
    if options.mode == Mode::Tproxy {
        tproxy::add_marks(&scope, &mut rules);
    }
    rules
}

fn excluded_interfaces(scope: &Scope<'_>, rules: &mut Rules) {
    let options = scope.options;
    let tables: &[Table] = if options.mode == Mode::Tproxy {
        &[Table::Nat, Table::Mangle]
    } else {
        &[Table::Nat]
    };
    for table in tables {
        for interface in &options.exclude_interfaces {
            let is = || Is::Exactly(interface.clone());
            let leave = |on| Rule::new("excludeInterfaces", vec![on], Target::Return);
            rules.append(*table, "PREROUTING", leave(Match::InInterface(is())));
            rules.append(*table, "OUTPUT", leave(Match::OutInterface(is())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Raw;
    use crate::render::restore::rule_text;

    /// The nine rules that published explanations number, as a pod of Istio's has them.
    const ISTIO_OUTPUT: [&str; 9] = [
        "-o lo -s 127.0.0.6/32 -j RETURN",
        "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-o lo -m owner ! --uid-owner 1337 -j RETURN",
        "-m owner --uid-owner 1337 -j RETURN",
        "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT",
        "-o lo -m owner ! --gid-owner 1337 -j RETURN",
        "-m owner --gid-owner 1337 -j RETURN",
        "-d 127.0.0.1/32 -j RETURN",
        "-j ISTIO_REDIRECT",
    ];

    #[test]
    fn a_default_pod_has_the_nine_rules() {
        let options = Raw::sidecar().or(&Raw::empty()).check().unwrap();
        let ruleset = generate(&options);
        let text = |rule: &&Rule| rule_text(rule).unwrap_or_default();
        let output: Vec<String> = ruleset.v4.chain(Table::Nat, OUTPUT).iter().map(text).collect();
        assert_eq!(output, ISTIO_OUTPUT);
        let inbound: Vec<String> = ruleset.v4.chain(Table::Nat, INBOUND).iter().map(text).collect();
        assert_eq!(
            inbound,
            [
                "-p tcp --dport 15008 -j RETURN",
                "-p tcp --dport 15090 -j RETURN",
                "-p tcp --dport 15021 -j RETURN",
                "-p tcp --dport 15020 -j RETURN",
                "-p tcp -j ISTIO_IN_REDIRECT",
            ]
        );
        assert!(ruleset.v6.is_empty());
    }

    #[test]
    fn inserted_rules_end_up_last_first() {
        let mut raw = Raw::default();
        raw.set("rerouteVirtualInterfaces", "eth1,eth2");
        let options = raw.or(&Raw::sidecar()).or(&Raw::empty()).check().unwrap();
        let rules = generate(&options).v4;
        let chain: Vec<String> = rules
            .chain(Table::Nat, "PREROUTING")
            .iter()
            .map(|rule| rule_text(rule).unwrap_or_default())
            .collect();
        assert_eq!(
            chain[..4],
            [
                "-i eth2 -j ISTIO_REDIRECT",
                "-i eth1 -j ISTIO_REDIRECT",
                "-i eth2 -j RETURN",
                "-i eth1 -j RETURN"
            ]
        );
    }

    #[test]
    fn mode_none_has_no_rules() {
        let mut raw = Raw::default();
        raw.set("mode", "NONE");
        let ruleset = generate(&raw.or(&Raw::sidecar()).or(&Raw::empty()).check().unwrap());
        assert!(ruleset.v4.is_empty() && ruleset.v6.is_empty());
    }
}
