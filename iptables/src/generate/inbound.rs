//! Inbound capture by nat REDIRECT.

use super::{Emit, dport, nat, tcp};
use crate::options::InboundPorts;
use crate::rule::Target;

impl Emit<'_> {
    pub(super) fn inbound_redirect(&mut self) {
        let (inbound, capture) = (nat("ISTIO_INBOUND"), Target::Jump(nat("ISTIO_IN_REDIRECT")));
        let jump = Target::Jump(inbound.clone());
        match &self.options.inbound_ports {
            InboundPorts::Only(ports) if ports.is_empty() => {}
            InboundPorts::Only(ports) => {
                self.append(&nat("PREROUTING"), [tcp()], jump, "includeInboundPorts");
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
                self.append(&nat("PREROUTING"), [tcp()], jump, "includeInboundPorts");
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
