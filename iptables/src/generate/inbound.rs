//! Inbound capture by nat REDIRECT.

use super::{Emit, dport, tcp};
use crate::options::InboundPorts;
use crate::rule::Target;

impl Emit<'_> {
    pub(super) fn inbound_redirect(&mut self) {
        let (inbound, capture) = (
            self.nat("ISTIO_INBOUND"),
            Target::Jump(self.nat("ISTIO_IN_REDIRECT")),
        );
        let prerouting = self.nat("PREROUTING");
        let jump = Target::Jump(inbound.clone());
        match &self.options.inbound_ports {
            InboundPorts::Only(ports) if ports.is_empty() => {}
            InboundPorts::Only(ports) => {
                self.append(&prerouting, [tcp()], jump, "includeInboundPorts");
                for &port in ports {
                    self.append(
                        &inbound,
                        [tcp(), dport(port)],
                        capture.clone(),
                        "includeInboundPorts",
                    );
                }
            }
            InboundPorts::AllBut(ports) => {
                self.append(&prerouting, [tcp()], jump, "includeInboundPorts");
                for &port in ports {
                    self.append(
                        &inbound,
                        [tcp(), dport(port)],
                        Target::Return,
                        "excludeInboundPorts",
                    );
                }
                self.append(&inbound, [tcp()], capture, "includeInboundPorts");
            }
        }
    }
}
