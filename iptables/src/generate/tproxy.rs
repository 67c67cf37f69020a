//! Inbound capture by mangle TPROXY, and the marks that lead the replies back.

use std::num::NonZeroUsize;

use super::{Emit, dport, on_loopback, passthrough_source, tcp};
use crate::options::{Group, InboundPorts, Interface, Tproxy};
use crate::rule::{Is, Mark, Match, State, Target};
use crate::ruleset::Place;

/// The mark of the sidecar's own connections to its pod; a constant in Istio.
const OUTBOUND_MARK: u32 = 1338;

impl Emit<'_> {
    pub(super) fn inbound_tproxy(&mut self, tproxy: Tproxy) {
        let inbound = self.mangle("ISTIO_INBOUND");
        let captured = match &self.options.inbound_ports {
            InboundPorts::Only(ports) if ports.is_empty() => return,
            InboundPorts::Only(ports) => ports.iter().copied().map(Some).collect(),
            InboundPorts::AllBut(_) => vec![None],
        };
        let (divert, to_sidecar) = (self.mangle("ISTIO_DIVERT"), self.mangle("ISTIO_TPROXY"));
        self.append(&divert, [], Target::SetMark(tproxy.mark.get()), "tproxyMark");
        self.append(&divert, [], Target::Accept, "mode");
        let target = Target::Tproxy {
            port: self.options.inbound_capture_port,
            mark: tproxy.mark,
        };
        for &family in self.families() {
            let elsewhere = Match::Destination(Is::Not(self.loopback(family)));
            let (matches, option) = (vec![elsewhere, tcp()], "inboundCapturePort");
            self.record_for(family, &to_sidecar, Place::End, matches, target.clone(), option);
        }
        self.append(
            &self.mangle("PREROUTING"),
            [tcp()],
            Target::Jump(inbound.clone()),
            "includeInboundPorts",
        );
        if let InboundPorts::AllBut(excluded) = &self.options.inbound_ports {
            for &port in excluded {
                self.append(
                    &inbound,
                    [tcp(), dport(port)],
                    Target::Return,
                    "excludeInboundPorts",
                );
            }
        }
        for port in captured {
            let known = Match::State(Is::Exactly(vec![State::Related, State::Established]));
            let divert = (Some(known), Target::Jump(divert.clone()));
            for (state, target) in [divert, (None, Target::Jump(to_sidecar.clone()))] {
                let matches = [tcp()].into_iter().chain(port.map(dport)).chain(state).collect();
                self.record(&inbound, Place::End, matches, target, "includeInboundPorts");
            }
        }
    }

    pub(super) fn marks(&mut self, tproxy: Tproxy) {
        let mark = Mark {
            value: tproxy.mark.get(),
            mask: None,
        };
        let output = self.mangle("OUTPUT");
        let marked = || Match::Mark(Is::Exactly(mark));
        self.append(
            &self.mangle("PREROUTING"),
            [tcp(), marked()],
            Target::SaveMark,
            "tproxyMark",
        );
        self.append(
            &output,
            [tcp(), on_loopback(), marked()],
            Target::Return,
            "tproxyMark",
        );
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
            for &family in self.families() {
                let elsewhere = Match::Destination(Is::Not(self.loopback(family)));
                let matches = vec![elsewhere, tcp(), on_loopback(), owner.clone()];
                let target = Target::SetMark(OUTBOUND_MARK);
                self.record_for(family, &output, Place::End, matches, target, option);
            }
        }
        self.append(
            &output,
            [tcp(), Match::Connmark(Is::Exactly(mark))],
            Target::RestoreMark,
            "tproxyMark",
        );
        let inbound = self.mangle("ISTIO_INBOUND");
        let arriving = || Match::InInterface(Is::Exactly(Interface::loopback()));
        let not_outbound = Match::Mark(Is::Not(Mark {
            value: OUTBOUND_MARK,
            mask: None,
        }));
        self.insert(&inbound, 1, [tcp(), marked()], Target::Return, "tproxyMark");
        for &family in self.families() {
            let source = Match::Source(Is::Exactly(passthrough_source(family)));
            let second = Place::At(NonZeroUsize::MIN.saturating_add(1));
            let matches = vec![tcp(), source, arriving()];
            self.record_for(family, &inbound, second, matches, Target::Return, "mode");
        }
        self.insert(
            &inbound,
            3,
            [tcp(), arriving(), not_outbound],
            Target::Return,
            "mode",
        );
    }
}
