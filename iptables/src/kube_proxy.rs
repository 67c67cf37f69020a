//! kube-proxy's rules in its iptables mode: a service's address becomes one of its endpoints', at random.
//!
//! Chain layout as kube-proxy has it (pkg/proxy/iptables/proxier.go): `KUBE-SERVICES` -> one `KUBE-SVC-…` for each
//! service port -> one `KUBE-SEP-…` for each endpoint -> DNAT; a port without endpoints is refused.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::rule::{Is, Match, Protocol, Rule, Target, host};
use crate::ruleset::{Rules, Table};

const SERVICES: &str = "KUBE-SERVICES";
const OPTION: &str = "services";

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's name, for the chain's.
    pub service: String,
    /// The service's address.
    pub vip: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Where it goes: ready endpoints.
    pub endpoints: Vec<SocketAddrV4>,
}

/// The node's rules for these service ports. Chains are named by index, which is unique where a hash is only likely to be.
pub fn rules(ports: &[ServicePort]) -> Rules {
    let mut rules = Rules::default();
    // A chain that is empty must be there all the same: the jumps of an earlier ruleset lead to it.
    for table in [Table::Filter, Table::Nat] {
        rules.append(
            table,
            SERVICES,
            Rule::new(
                OPTION,
                vec![Match::Destination(Is::Exactly(host(Ipv4Addr::BROADCAST)))],
                Target::Return,
            ),
        );
    }
    for (index, port) in ports.iter().enumerate() {
        let to_port = vec![
            Match::Destination(Is::Exactly(host(port.vip))),
            Match::Protocol(Protocol::Tcp),
            Match::DestinationPort(Is::Exactly(port.port)),
        ];
        if port.endpoints.is_empty() {
            rules.append(
                Table::Filter,
                SERVICES,
                Rule::new(OPTION, to_port, Target::Reject),
            );
            continue;
        }
        let chain = format!("KUBE-SVC-{index}");
        rules.append(
            Table::Nat,
            SERVICES,
            Rule::new(OPTION, to_port, Target::Jump(chain.clone())),
        );
        balance(&mut rules, &chain, index, &port.endpoints);
    }
    rules
}

/// Each endpoint gets the same share: the n-th last is taken with probability 1/n of what is left.
fn balance(rules: &mut Rules, chain: &str, service: usize, endpoints: &[SocketAddrV4]) {
    for (index, endpoint) in endpoints.iter().enumerate() {
        let left = u32::try_from(endpoints.len() - index).unwrap_or(u32::MAX);
        let share = (left > 1).then(|| Match::Random((1 << 31) / left));
        let own = format!("KUBE-SEP-{service}-{index}");
        let share = share.into_iter().collect();
        rules.append(
            Table::Nat,
            chain,
            Rule::new(OPTION, share, Target::Jump(own.clone())),
        );
        let tcp = vec![Match::Protocol(Protocol::Tcp)];
        rules.append(Table::Nat, &own, Rule::new(OPTION, tcp, Target::Dnat(*endpoint)));
    }
}

/// The jumps to those rules, which are made once.
pub fn jumps() -> Rules {
    let mut rules = Rules::default();
    let jump = || Rule::new(OPTION, Vec::new(), Target::Jump(SERVICES.to_owned()));
    for chain in ["PREROUTING", "OUTPUT"] {
        rules.append(Table::Nat, chain, jump());
    }
    for chain in ["INPUT", "FORWARD", "OUTPUT"] {
        rules.append(Table::Filter, chain, jump());
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::restore::render_replacing;

    fn port(endpoints: &[&str]) -> ServicePort {
        ServicePort {
            service: "reviews".to_owned(),
            vip: Ipv4Addr::new(10, 96, 1, 1),
            port: 9080,
            endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn endpoints_share_evenly() {
        let text = render_replacing(&rules(&[port(&[
            "10.244.0.1:80",
            "10.244.0.2:80",
            "10.244.0.3:80",
        ])]));
        for line in [
            ":KUBE-SVC-0 - [0:0]",
            "-A KUBE-SERVICES -d 10.96.1.1/32 -p tcp --dport 9080 -j KUBE-SVC-0",
            "-A KUBE-SVC-0 -m statistic --mode random --probability 0.3333333330 -j KUBE-SEP-0-0",
            "-A KUBE-SVC-0 -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-0-1",
            "-A KUBE-SVC-0 -j KUBE-SEP-0-2",
            "-A KUBE-SEP-0-1 -p tcp -j DNAT --to-destination 10.244.0.2:80",
        ] {
            assert!(text.lines().any(|seen| seen == line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn a_port_without_endpoints_is_refused() {
        let text = render_replacing(&rules(&[port(&[])]));
        assert!(
            text.contains("-A KUBE-SERVICES -d 10.96.1.1/32 -p tcp --dport 9080 -j REJECT --reject-with icmp-port-unreachable"),
            "{text}"
        );
        assert!(!text.contains("KUBE-SVC-0"), "{text}");
    }
}
