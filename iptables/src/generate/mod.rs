//! Options to rules, in Istio's order of emission (istio `capture/run.go`).

mod dns;
mod inbound;
mod outbound;
mod tproxy;

use std::num::{NonZeroU16, NonZeroUsize};

use ipnet::IpNet;

use crate::options::{Backend, DnsCapture, Interception, Interface, Mode, Tproxy};
use crate::rule::{Is, Match, Protocol, Rule, State, Target};
use crate::ruleset::{ChainId, Family, Owns, Place, Ruleset, Table};

/// The rules that `options` ask for, in the layout of their backend; none for [`Mode::None`].
///
/// iptables has a ruleset for each family. nftables has one for both ([`Family::Inet`]), in Istio's chains: a rule that
/// names no address stands there once, and sees IPv6 packets also where `enableIPv6` is off.
pub fn generate(options: &Interception) -> Ruleset {
    let mut emit = Emit {
        options,
        ruleset: Ruleset::new(Owns::NewChains),
    };
    match options.mode {
        Mode::None => {}
        Mode::Redirect => emit.all(None),
        Mode::Tproxy(tproxy) => emit.all(Some(tproxy)),
    }
    emit.ruleset
}

struct Emit<'a> {
    options: &'a Interception,
    ruleset: Ruleset,
}

impl Emit<'_> {
    fn all(&mut self, tproxy: Option<Tproxy>) {
        self.interfaces(tproxy);
        self.drop_invalid();
        let inbound = self.nat("ISTIO_INBOUND");
        self.append(
            &inbound,
            [tcp(), dport(self.options.inbound_tunnel_port)],
            Target::Return,
            "inboundTunnelPort",
        );
        self.append(
            &self.nat("ISTIO_REDIRECT"),
            [tcp()],
            Target::Redirect(self.options.proxy_port),
            "proxyPort",
        );
        let capture = Target::Redirect(self.options.inbound_capture_port);
        self.append(
            &self.nat("ISTIO_IN_REDIRECT"),
            [tcp()],
            capture,
            "inboundCapturePort",
        );
        match tproxy {
            None => self.inbound_redirect(),
            Some(tproxy) => self.inbound_tproxy(tproxy),
        }
        self.append(
            &self.nat("OUTPUT"),
            [],
            Target::Jump(self.nat("ISTIO_OUTPUT")),
            "mode",
        );
        self.outbound();
        if let Some(tproxy) = tproxy {
            self.marks(tproxy);
        }
    }

    fn interfaces(&mut self, tproxy: Option<Tproxy>) {
        let tables: &[Table] = if tproxy.is_some() {
            &[Table::Nat, Table::Mangle]
        } else {
            &[Table::Nat]
        };
        for &table in tables {
            for interface in &self.options.exclude_interfaces {
                let (arriving, leaving) = (Is::Exactly(interface.clone()), Is::Exactly(interface.clone()));
                let option = "excludeInterfaces";
                let arriving = [Match::InInterface(arriving)];
                self.append(&self.chain(table, "PREROUTING"), arriving, Target::Return, option);
                let leaving = [Match::OutInterface(leaving)];
                self.append(&self.chain(table, "OUTPUT"), leaving, Target::Return, option);
            }
        }
        for interface in &self.options.reroute_interfaces {
            let matches = [Match::InInterface(Is::Exactly(interface.clone()))];
            let option = "rerouteVirtualInterfaces";
            self.insert(&self.nat("PREROUTING"), 1, matches, Target::Return, option);
        }
    }

    fn drop_invalid(&mut self) {
        if self.options.drops_invalid {
            let invalid = Match::State(Is::Exactly(vec![State::Invalid]));
            let matches = match self.options.backend {
                Backend::Iptables => vec![invalid],
                Backend::Nftables => vec![tcp(), invalid],
            };
            let drop = self.mangle("ISTIO_DROP");
            let prerouting = self.mangle("PREROUTING");
            self.record(
                &prerouting,
                Place::End,
                matches,
                Target::Jump(drop.clone()),
                "dropInvalid",
            );
            self.append(&drop, [], Target::Drop, "dropInvalid");
        }
    }

    fn append<const N: usize>(
        &mut self,
        chain: &ChainId,
        matches: [Match; N],
        target: Target,
        option: &'static str,
    ) {
        self.record(chain, Place::End, matches.into(), target, option);
    }

    fn insert<const N: usize>(
        &mut self,
        chain: &ChainId,
        at: usize,
        matches: [Match; N],
        target: Target,
        option: &'static str,
    ) {
        let place = NonZeroUsize::new(at).map_or(Place::End, Place::At);
        self.record(chain, place, matches.into(), target, option);
    }

    /// A rule that names no address: once for each ruleset.
    fn record(
        &mut self,
        chain: &ChainId,
        place: Place,
        matches: Vec<Match>,
        target: Target,
        option: &'static str,
    ) {
        let rulesets: &[Family] = match self.options.backend {
            Backend::Iptables => self.families(),
            Backend::Nftables => &[Family::Inet],
        };
        for &family in rulesets {
            let rule = Rule {
                matches: matches.clone(),
                target: target.clone(),
                option,
            };
            self.ruleset.record(family, chain.clone(), place, rule);
        }
    }

    /// A rule that names an address of `family`.
    fn record_for(
        &mut self,
        family: Family,
        chain: &ChainId,
        place: Place,
        matches: Vec<Match>,
        target: Target,
        option: &'static str,
    ) {
        let family = match self.options.backend {
            Backend::Iptables => family,
            Backend::Nftables => Family::Inet,
        };
        let rule = Rule {
            matches,
            target,
            option,
        };
        self.ruleset.record(family, chain.clone(), place, rule);
    }

    /// The address families that rules are made for.
    fn families(&self) -> &'static [Family] {
        if self.options.has_ipv6 {
            &[Family::V4, Family::V6]
        } else {
            &[Family::V4]
        }
    }

    /// A chain under the name that the backend's layout has for it.
    fn chain(&self, table: Table, name: &str) -> ChainId {
        match self.options.backend {
            Backend::Iptables => Ruleset::chain(table, name),
            Backend::Nftables => Ruleset::chain(table, &name.to_ascii_lowercase().replace('_', "-")),
        }
    }

    fn nat(&self, name: &str) -> ChainId {
        self.chain(Table::Nat, name)
    }

    fn mangle(&self, name: &str) -> ChainId {
        self.chain(Table::Mangle, name)
    }

    fn raw(&self, name: &str) -> ChainId {
        self.chain(Table::Raw, name)
    }

    /// What counts as localhost; in IPv6 it is fixed.
    fn loopback(&self, family: Family) -> IpNet {
        match family {
            Family::V4 | Family::Inet => IpNet::V4(self.options.loopback),
            Family::V6 => net([0, 0, 0, 0, 0, 0, 0, 1]),
        }
    }

    fn captures_dns(&self) -> bool {
        match self.options.dns {
            DnsCapture::Off | DnsCapture::NoServers => false,
            DnsCapture::Servers(_) | DnsCapture::All => true,
        }
    }
}

fn net(segments: [u16; 8]) -> IpNet {
    IpNet::from(std::net::IpAddr::from(segments))
}

/// The source address of Envoy's inbound connections to the application.
fn passthrough_source(family: Family) -> IpNet {
    match family {
        Family::V4 | Family::Inet => IpNet::from(std::net::IpAddr::from([127, 0, 0, 6])),
        Family::V6 => net([0, 0, 0, 0, 0, 0, 0, 6]),
    }
}

fn is_of(family: Family, range: &IpNet) -> bool {
    match family {
        Family::V4 => matches!(range, IpNet::V4(_)),
        Family::V6 => matches!(range, IpNet::V6(_)),
        Family::Inet => true,
    }
}

fn tcp() -> Match {
    Match::Protocol(Is::Exactly(Protocol::Tcp))
}

fn udp() -> Match {
    Match::Protocol(Is::Exactly(Protocol::Udp))
}

fn dport(port: NonZeroU16) -> Match {
    Match::DestinationPort(Is::Exactly(port))
}

fn on_loopback() -> Match {
    Match::OutInterface(Is::Exactly(Interface::loopback()))
}
