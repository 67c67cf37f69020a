//! DNS capture: queries to the agent, and conntrack zones that keep its two legs apart.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::{Emit, dport, is_of, tcp, udp};
use crate::options::{Backend, DnsCapture, Group};
use crate::rule::{Is, Match, Target};
use crate::ruleset::{ChainId, Family, Place};

const DNS: NonZeroU16 = NonZeroU16::new(53).unwrap();
/// The agent's DNS port; not an option in Istio.
const AGENT: NonZeroU16 = NonZeroU16::new(15053).unwrap();
/// Between the agent and the resolvers.
const OUTSIDE: Target = Target::Zone(1);
/// Between the applications and the agent.
const INSIDE: Target = Target::Zone(2);

impl Emit<'_> {
    pub(super) fn dns(&mut self) {
        match &self.options.dns {
            DnsCapture::Off | DnsCapture::NoServers => {}
            DnsCapture::All => self.every_query(),
            DnsCapture::Servers(servers) => {
                let nets = servers.iter().copied().map(|server: IpAddr| IpNet::from(server));
                self.queries_to(&nets.collect::<Vec<_>>());
            }
        }
    }

    fn every_query(&mut self) {
        let option = "captureAllDNS";
        let (in_raw, in_nat) = (self.raw("ISTIO_OUTPUT_DNS"), self.nat("ISTIO_OUTPUT_DNS"));
        self.append(&self.raw("OUTPUT"), [], Target::Jump(in_raw.clone()), option);
        self.append(
            &self.nat("ISTIO_OUTPUT"),
            [],
            Target::Jump(in_nat.clone()),
            option,
        );
        for protocol in [tcp(), udp()] {
            self.append(&in_nat, [protocol, dport(DNS)], Target::Redirect(AGENT), option);
        }
        self.agent_zones(&in_raw);
        let inbound = self.raw("ISTIO_INBOUND");
        self.append(&self.raw("PREROUTING"), [], Target::Jump(inbound.clone()), option);
        self.append(&in_raw, [udp(), dport(DNS)], INSIDE, option);
        self.append(&inbound, [udp(), sport(DNS)], OUTSIDE, option);
    }

    fn queries_to(&mut self, servers: &[IpNet]) {
        let option = "redirectDNS";
        let (in_raw, in_nat) = (self.raw("ISTIO_OUTPUT_DNS"), self.nat("ISTIO_OUTPUT_DNS"));
        let of = |family| servers.iter().copied().filter(move |net| is_of(family, net));
        self.append(&self.raw("OUTPUT"), [], Target::Jump(in_raw.clone()), option);
        let has_servers = |&family: &Family| of(family).next().is_some();
        // In nftables' one table, one family's servers are enough for a jump.
        let all: Vec<Family> = self.families().iter().copied().filter(has_servers).collect();
        let jumping = match self.options.backend {
            Backend::Iptables => all.as_slice(),
            Backend::Nftables => all.get(..1).unwrap_or_default(),
        };
        for &family in jumping {
            let jump = Target::Jump(in_nat.clone());
            self.record_for(
                family,
                &self.nat("ISTIO_OUTPUT"),
                Place::End,
                vec![],
                jump,
                option,
            );
        }
        for protocol in [tcp(), udp()] {
            for &family in &all {
                for server in of(family) {
                    let matches = vec![
                        protocol.clone(),
                        dport(DNS),
                        Match::Destination(Is::Exactly(server)),
                    ];
                    let agent = Target::Redirect(AGENT);
                    self.record_for(family, &in_nat, Place::End, matches, agent, option);
                }
            }
        }
        self.agent_zones(&in_raw);
        let inbound = self.raw("ISTIO_INBOUND");
        for &family in jumping {
            let jump = Target::Jump(inbound.clone());
            self.record_for(family, &self.raw("PREROUTING"), Place::End, vec![], jump, option);
        }
        for &family in &all {
            for server in of(family) {
                let query = vec![udp(), dport(DNS), Match::Destination(Is::Exactly(server))];
                let answer = vec![udp(), sport(DNS), Match::Source(Is::Exactly(server))];
                self.record_for(family, &in_raw, Place::End, query, INSIDE, option);
                self.record_for(family, &inbound, Place::End, answer, OUTSIDE, option);
            }
        }
    }

    fn agent_zones(&mut self, in_raw: &ChainId) {
        let uids = self
            .options
            .proxy_uids
            .iter()
            .map(|&uid| (Match::OwnerUid(Is::Exactly(uid)), "proxyUID"));
        let gids = self
            .options
            .proxy_gids
            .iter()
            .map(|&gid| (Match::OwnerGid(Is::Exactly(Group::Id(gid))), "proxyGID"));
        for (owner, option) in uids.chain(gids) {
            self.append(in_raw, [udp(), dport(DNS), owner.clone()], OUTSIDE, option);
            self.append(in_raw, [udp(), sport(AGENT), owner], INSIDE, option);
        }
    }
}

fn sport(port: NonZeroU16) -> Match {
    Match::SourcePort(Is::Exactly(port))
}
