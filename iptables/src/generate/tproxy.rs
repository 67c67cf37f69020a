//! Inbound capture by mangle TPROXY, and the marks that lead the replies back.

use super::{Emit, dport, mangle, on_loopback, tcp};
use crate::options::{Group, InboundPorts, Interface, Tproxy};
use crate::rule::{Is, Mark, Match, State, Target};

/// The mark of the sidecar's own connections to its pod; a constant in Istio.
const OUTBOUND_MARK: u32 = 1338;

impl Emit<'_> {
    pub(super) fn inbound_tproxy(&mut self, tproxy: Tproxy) {
        let inbound = mangle("ISTIO_INBOUND");
        let captured = match &self.options.inbound_ports {
            InboundPorts::Only(ports) if ports.is_empty() => return,
            InboundPorts::Only(ports) => ports.iter().copied().map(Some).collect(),
            InboundPorts::AllBut(_) => vec![None],
        };
        self.append(
            &mangle("ISTIO_DIVERT"),
            [],
            Target::SetMark(tproxy.mark.get()),
            "tproxyMark",
        );
        self.append(&mangle("ISTIO_DIVERT"), [], Target::Accept, "mode");
        let elsewhere = Match::Destination(Is::Not(self.loopback()));
        let target = Target::Tproxy {
            port: self.options.inbound_capture_port,
            mark: tproxy.mark,
        };
        self.append(
            &mangle("ISTIO_TPROXY"),
            [elsewhere, tcp()],
            target,
            "inboundCapturePort",
        );
        self.append(
            &mangle("PREROUTING"),
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
            let divert = (Some(known), Target::Jump(mangle("ISTIO_DIVERT")));
            for (state, target) in [divert, (None, Target::Jump(mangle("ISTIO_TPROXY")))] {
                let matches = [tcp()].into_iter().chain(port.map(dport)).chain(state).collect();
                self.record(
                    &inbound,
                    crate::ruleset::Place::End,
                    matches,
                    target,
                    "includeInboundPorts",
                );
            }
        }
    }

    pub(super) fn marks(&mut self, tproxy: Tproxy) {
        let mark = Mark {
            value: tproxy.mark.get(),
            mask: None,
        };
        let output = mangle("OUTPUT");
        let marked = || Match::Mark(Is::Exactly(mark));
        self.append(
            &mangle("PREROUTING"),
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
            let elsewhere = Match::Destination(Is::Not(self.loopback()));
            self.append(
                &output,
                [elsewhere, tcp(), on_loopback(), owner],
                Target::SetMark(OUTBOUND_MARK),
                option,
            );
        }
        self.append(
            &output,
            [tcp(), Match::Connmark(Is::Exactly(mark))],
            Target::RestoreMark,
            "tproxyMark",
        );
        let inbound = mangle("ISTIO_INBOUND");
        let arriving = || Match::InInterface(Is::Exactly(Interface::loopback()));
        let source = Match::Source(Is::Exactly(self.passthrough_source()));
        let not_outbound = Match::Mark(Is::Not(Mark {
            value: OUTBOUND_MARK,
            mask: None,
        }));
        self.insert(&inbound, 1, [tcp(), marked()], Target::Return, "tproxyMark");
        self.insert(&inbound, 2, [tcp(), source, arriving()], Target::Return, "mode");
        self.insert(
            &inbound,
            3,
            [tcp(), arriving(), not_outbound],
            Target::Return,
            "mode",
        );
    }
}
