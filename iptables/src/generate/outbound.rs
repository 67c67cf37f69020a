//! Outbound capture: `ISTIO_OUTPUT`, in both modes.

use std::num::{NonZeroU16, NonZeroUsize};

use super::{Emit, dport, is_of, on_loopback, passthrough_source, tcp, udp};
use crate::options::{Group, Interface, OutboundRanges, OwnerGroups};
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
        let output = self.nat("ISTIO_OUTPUT");
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
        for &family in self.families() {
            let source = Match::Source(Is::Exactly(passthrough_source(family)));
            let matches = vec![on_loopback(), source];
            self.record_for(family, &output, Place::End, matches, Target::Return, "mode");
        }
        for &uid in &self.options.proxy_uids {
            self.owner(&output, &Owner::Uid(uid), "proxyUID");
        }
        for &gid in &self.options.proxy_gids {
            self.owner(&output, &Owner::Gid(gid), "proxyGID");
        }
        self.owner_groups(&output);
        self.dns();
        for &family in self.families() {
            let matches = vec![Match::Destination(Is::Exactly(self.loopback(family)))];
            let option = "hostIPv4LoopbackCidr";
            self.record_for(family, &output, Place::End, matches, Target::Return, option);
        }
        for &family in self.families() {
            let ranges = &self.options.exclude_outbound_ranges;
            for range in ranges.iter().filter(|range| is_of(family, range)) {
                let matches = vec![Match::Destination(Is::Exactly(*range))];
                let option = "excludeOutboundIPRanges";
                self.record_for(family, &output, Place::End, matches, Target::Return, option);
            }
        }
        let redirect = Target::Jump(self.nat("ISTIO_REDIRECT"));
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
        // Istio takes 53 out of the UID's rule alone.
        let ports = match owner {
            Owner::Uid(_) if self.captures_dns() => Match::DestinationPorts(Is::Not(vec![DNS, tunnel])),
            Owner::Uid(_) | Owner::Gid(_) => Match::DestinationPort(Is::Not(tunnel)),
        };
        for &family in self.families() {
            let elsewhere = Match::Destination(Is::Not(self.loopback(family)));
            let to_itself = vec![on_loopback(), elsewhere, tcp(), ports.clone(), owner.is()];
            let capture = Target::Jump(self.nat("ISTIO_IN_REDIRECT"));
            self.record_for(family, output, Place::End, to_itself, capture, option);
        }
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
        let prerouting = self.nat("PREROUTING");
        let rerouted = |interface: &Interface| Match::InInterface(Is::Exactly(interface.clone()));
        match &self.options.outbound_ranges {
            OutboundRanges::All => {
                self.append(output, [], redirect.clone(), option);
                for interface in &self.options.reroute_interfaces {
                    let arriving = [rerouted(interface)];
                    self.insert(&prerouting, 1, arriving, redirect.clone(), option);
                }
            }
            OutboundRanges::Only(ranges) => {
                for &family in self.families() {
                    for range in ranges.iter().filter(|range| is_of(family, range)) {
                        let to = || Match::Destination(Is::Exactly(*range));
                        let first = Place::At(NonZeroUsize::MIN);
                        for interface in &self.options.reroute_interfaces {
                            let arriving = vec![rerouted(interface), to()];
                            self.record_for(family, &prerouting, first, arriving, redirect.clone(), option);
                        }
                        self.record_for(family, output, Place::End, vec![to()], redirect.clone(), option);
                    }
                }
            }
        }
    }
}
