//! DNS capture: queries to the agent, and conntrack zones that keep its two legs apart.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::{Emit, dport, nat, raw, tcp, udp};
use crate::options::{DnsCapture, Group};
use crate::rule::{Is, Match, Target};
use crate::ruleset::Place;

const DNS: NonZeroU16 = NonZeroU16::new(53).unwrap();
/// The agent's DNS port; not an option in Istio.
const AGENT: NonZeroU16 = NonZeroU16::new(15053).unwrap();
/// Between the agent and the resolvers.
const OUTSIDE: Target = Target::Zone(1);
/// Between the applications and the agent.
const INSIDE: Target = Target::Zone(2);

impl Emit<'_> {
    pub(super) fn dns(&mut self) {
        let servers: Vec<Option<IpNet>> = match &self.options.dns {
            DnsCapture::Off | DnsCapture::NoServers => return,
            DnsCapture::All => vec![None],
            DnsCapture::Servers(servers) => {
                let nets = servers.iter().copied().map(|server: IpAddr| IpNet::from(server));
                nets.filter(|net| self.is_own_family(net)).map(Some).collect()
            }
        };
        let option = if servers.contains(&None) {
            "captureAllDNS"
        } else {
            "redirectDNS"
        };
        let (in_raw, in_nat) = (raw("ISTIO_OUTPUT_DNS"), nat("ISTIO_OUTPUT_DNS"));
        self.append(&raw("OUTPUT"), [], Target::Jump(in_raw.clone()), option);
        if !servers.is_empty() {
            self.append(&nat("ISTIO_OUTPUT"), [], Target::Jump(in_nat.clone()), option);
        }
        for protocol in [tcp(), udp()] {
            for server in &servers {
                let matches = with(
                    vec![protocol.clone(), dport(DNS)],
                    server.map(|net| Match::Destination(Is::Exactly(net))),
                );
                self.record(&in_nat, Place::End, matches, Target::Redirect(AGENT), option);
            }
        }
        self.agent_zones();
        if !servers.is_empty() {
            self.append(&raw("PREROUTING"), [], Target::Jump(raw("ISTIO_INBOUND")), option);
        }
        for server in servers {
            let query = with(
                vec![udp(), dport(DNS)],
                server.map(|net| Match::Destination(Is::Exactly(net))),
            );
            let answer = with(
                vec![udp(), sport(DNS)],
                server.map(|net| Match::Source(Is::Exactly(net))),
            );
            self.record(&in_raw, Place::End, query, INSIDE, option);
            self.record(&raw("ISTIO_INBOUND"), Place::End, answer, OUTSIDE, option);
        }
    }

    fn agent_zones(&mut self) {
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
            self.append(
                &raw("ISTIO_OUTPUT_DNS"),
                [udp(), dport(DNS), owner.clone()],
                OUTSIDE,
                option,
            );
            self.append(
                &raw("ISTIO_OUTPUT_DNS"),
                [udp(), sport(AGENT), owner],
                INSIDE,
                option,
            );
        }
    }
}

fn with(mut matches: Vec<Match>, more: Option<Match>) -> Vec<Match> {
    matches.extend(more);
    matches
}

fn sport(port: NonZeroU16) -> Match {
    Match::SourcePort(Is::Exactly(port))
}
