//! Outbound capture: `ISTIO_OUTPUT`, in both modes.

use std::num::NonZeroU16;

use super::{Emit, dport, nat, on_loopback, tcp, udp};
use crate::options::{Group, OutboundRanges, OwnerGroups};
use crate::rule::{Is, Match, Target};
use crate::ruleset::{ChainId, Place};

const DNS: NonZeroU16 = NonZeroU16::new(53).unwrap();

/// Whose packets a group of three rules is for.
enum Owner {
    Uid(u32),
    Gid(u32),
}

impl Owner {
    fn is(&self) -> Match {
        match self {
            Self::Uid(uid) => Match::OwnerUid(Is::Exactly(*uid)),
            Self::Gid(gid) => Match::OwnerGid(Is::Exactly(Group::Id(*gid))),
        }
    }

    fn is_not(&self) -> Match {
        match self {
            Self::Uid(uid) => Match::OwnerUid(Is::Not(*uid)),
            Self::Gid(gid) => Match::OwnerGid(Is::Not(Group::Id(*gid))),
        }
    }
}

impl Emit<'_> {
    pub(super) fn outbound(&mut self) {
        let output = nat("ISTIO_OUTPUT");
        for &port in &self.options.exclude_outbound_ports {
            for protocol in [tcp(), udp()] {
                self.append(
                    &output,
                    [protocol, dport(port)],
                    Target::Return,
                    "excludeOutboundPorts",
                );
            }
        }
        let source = Match::Source(Is::Exactly(self.passthrough_source()));
        self.append(&output, [on_loopback(), source], Target::Return, "mode");
        for &uid in &self.options.proxy_uids {
            self.owner(&output, &Owner::Uid(uid), "proxyUID");
        }
        for &gid in &self.options.proxy_gids {
            self.owner(&output, &Owner::Gid(gid), "proxyGID");
        }
        self.owner_groups(&output);
        self.dns();
        self.append(
            &output,
            [Match::Destination(Is::Exactly(self.loopback()))],
            Target::Return,
            "hostIPv4LoopbackCidr",
        );
        for range in &self.options.exclude_outbound_ranges {
            if self.is_own_family(range) {
                let matches = [Match::Destination(Is::Exactly(*range))];
                self.append(&output, matches, Target::Return, "excludeOutboundIPRanges");
            }
        }
        let redirect = Target::Jump(nat("ISTIO_REDIRECT"));
        for &port in &self.options.include_outbound_ports {
            self.append(
                &output,
                [tcp(), dport(port)],
                redirect.clone(),
                "includeOutboundPorts",
            );
        }
        self.ranges(&output, &redirect);
    }

    fn owner(&mut self, output: &ChainId, owner: &Owner, option: &'static str) {
        let tunnel = self.options.inbound_tunnel_port;
        let elsewhere = Match::Destination(Is::Not(self.loopback()));
        // Istio takes 53 out of the UID's rule alone.
        let ports = match owner {
            Owner::Uid(_) if self.captures_dns() => Match::DestinationPorts(Is::Not(vec![DNS, tunnel])),
            Owner::Uid(_) | Owner::Gid(_) => Match::DestinationPort(Is::Not(tunnel)),
        };
        let to_itself = [on_loopback(), elsewhere, tcp(), ports, owner.is()];
        self.append(output, to_itself, Target::Jump(nat("ISTIO_IN_REDIRECT")), option);
        if !self.includes_loopback() {
            if self.captures_dns() {
                let matches = [
                    on_loopback(),
                    tcp(),
                    Match::DestinationPort(Is::Not(DNS)),
                    owner.is_not(),
                ];
                self.append(output, matches, Target::Return, option);
            } else {
                self.append(output, [on_loopback(), owner.is_not()], Target::Return, option);
            }
        }
        self.append(output, [owner.is()], Target::Return, option);
    }

    /// Whether an included range's address is a loopback address; either family's counts for both.
    fn includes_loopback(&self) -> bool {
        match &self.options.outbound_ranges {
            OutboundRanges::All => false,
            OutboundRanges::Only(ranges) => ranges.iter().any(|range| range.addr().is_loopback()),
        }
    }

    fn owner_groups(&mut self, output: &ChainId) {
        match &self.options.outbound_owners {
            OwnerGroups::AllBut(groups) => {
                for group in groups {
                    let matches = [Match::OwnerGid(Is::Exactly(group.clone()))];
                    self.append(output, matches, Target::Return, "excludeOutboundOwnerGroups");
                }
            }
            OwnerGroups::Only(groups) => {
                let matches = groups
                    .iter()
                    .map(|group| Match::OwnerGid(Is::Not(group.clone())))
                    .collect();
                self.record(
                    output,
                    Place::End,
                    matches,
                    Target::Return,
                    "includeOutboundOwnerGroups",
                );
            }
        }
    }

    fn ranges(&mut self, output: &ChainId, redirect: &Target) {
        let option = "includeOutboundIPRanges";
        let rerouted =
            |interface: &crate::options::Interface| Match::InInterface(Is::Exactly(interface.clone()));
        match &self.options.outbound_ranges {
            OutboundRanges::All => {
                self.append(output, [], redirect.clone(), option);
                for interface in &self.options.reroute_interfaces {
                    self.insert(
                        &nat("PREROUTING"),
                        1,
                        [rerouted(interface)],
                        redirect.clone(),
                        option,
                    );
                }
            }
            OutboundRanges::Only(ranges) => {
                for range in ranges
                    .iter()
                    .filter(|range| self.is_own_family(range))
                    .collect::<Vec<_>>()
                {
                    let to = || Match::Destination(Is::Exactly(*range));
                    for interface in &self.options.reroute_interfaces {
                        self.insert(
                            &nat("PREROUTING"),
                            1,
                            [rerouted(interface), to()],
                            redirect.clone(),
                            option,
                        );
                    }
                    self.append(output, [to()], redirect.clone(), option);
                }
            }
        }
    }
}
