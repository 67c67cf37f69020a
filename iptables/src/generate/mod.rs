//! Options to rules, in Istio's order of emission (istio `capture/run.go`).

mod dns;
mod inbound;
mod outbound;
mod tproxy;

use std::num::{NonZeroU16, NonZeroUsize};

use ipnet::IpNet;

use crate::options::{DnsCapture, Interception, Interface, Mode, Tproxy};
use crate::rule::{Is, Match, Protocol, Rule, State, Target};
use crate::ruleset::{ChainId, Family, Owns, Place, Ruleset, Table};

/// The rules that `options` ask for; none for [`Mode::None`].
pub fn generate(options: &Interception) -> Ruleset {
    let mut ruleset = Ruleset::new(Owns::NewChains);
    let families: &[Family] = if options.has_ipv6 {
        &[Family::V4, Family::V6]
    } else {
        &[Family::V4]
    };
    for &family in families {
        let mut emit = Emit {
            options,
            family,
            ruleset: &mut ruleset,
        };
        match options.mode {
            Mode::None => {}
            Mode::Redirect => emit.all(None),
            Mode::Tproxy(tproxy) => emit.all(Some(tproxy)),
        }
    }
    ruleset
}

struct Emit<'a> {
    options: &'a Interception,
    family: Family,
    ruleset: &'a mut Ruleset,
}

impl Emit<'_> {
    fn all(&mut self, tproxy: Option<Tproxy>) {
        self.interfaces(tproxy);
        self.drop_invalid();
        let inbound = nat("ISTIO_INBOUND");
        self.append(
            &inbound,
            [tcp(), dport(self.options.inbound_tunnel_port)],
            Target::Return,
            "inboundTunnelPort",
        );
        self.append(
            &nat("ISTIO_REDIRECT"),
            [tcp()],
            Target::Redirect(self.options.proxy_port),
            "proxyPort",
        );
        let capture = Target::Redirect(self.options.inbound_capture_port);
        self.append(&nat("ISTIO_IN_REDIRECT"), [tcp()], capture, "inboundCapturePort");
        match tproxy {
            None => self.inbound_redirect(),
            Some(tproxy) => self.inbound_tproxy(tproxy),
        }
        self.append(&nat("OUTPUT"), [], Target::Jump(nat("ISTIO_OUTPUT")), "mode");
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
                let prerouting = Ruleset::chain(table, "PREROUTING");
                self.append(
                    &prerouting,
                    [Match::InInterface(arriving)],
                    Target::Return,
                    option,
                );
                self.append(
                    &Ruleset::chain(table, "OUTPUT"),
                    [Match::OutInterface(leaving)],
                    Target::Return,
                    option,
                );
            }
        }
        for interface in &self.options.reroute_interfaces {
            let matches = [Match::InInterface(Is::Exactly(interface.clone()))];
            self.insert(
                &nat("PREROUTING"),
                1,
                matches,
                Target::Return,
                "rerouteVirtualInterfaces",
            );
        }
    }

    fn drop_invalid(&mut self) {
        if self.options.drops_invalid {
            let invalid = Match::State(Is::Exactly(vec![State::Invalid]));
            self.append(
                &mangle("PREROUTING"),
                [invalid],
                Target::Jump(mangle("ISTIO_DROP")),
                "dropInvalid",
            );
            self.append(&mangle("ISTIO_DROP"), [], Target::Drop, "dropInvalid");
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

    fn record(
        &mut self,
        chain: &ChainId,
        place: Place,
        matches: Vec<Match>,
        target: Target,
        option: &'static str,
    ) {
        self.ruleset.record(
            self.family,
            chain.clone(),
            place,
            Rule {
                matches,
                target,
                option,
            },
        );
    }

    /// What counts as localhost; in IPv6 it is fixed.
    fn loopback(&self) -> IpNet {
        match self.family {
            Family::V4 => IpNet::V4(self.options.loopback),
            Family::V6 => net([0, 0, 0, 0, 0, 0, 0, 1]),
        }
    }

    /// The source address of Envoy's inbound connections to the application.
    fn passthrough_source(&self) -> IpNet {
        match self.family {
            Family::V4 => IpNet::from(std::net::IpAddr::from([127, 0, 0, 6])),
            Family::V6 => net([0, 0, 0, 0, 0, 0, 0, 6]),
        }
    }

    fn is_own_family(&self, range: &IpNet) -> bool {
        match self.family {
            Family::V4 => matches!(range, IpNet::V4(_)),
            Family::V6 => matches!(range, IpNet::V6(_)),
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

fn nat(name: &str) -> ChainId {
    Ruleset::chain(Table::Nat, name)
}

fn mangle(name: &str) -> ChainId {
    Ruleset::chain(Table::Mangle, name)
}

fn raw(name: &str) -> ChainId {
    Ruleset::chain(Table::Raw, name)
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
