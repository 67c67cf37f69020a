//! Services as kube-proxy's iptables mode writes them into the node's tables (kubernetes `pkg/proxy/iptables/proxier.go`).

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use ipnet::IpNet;

use crate::options::Port;
use crate::rule::{Is, Mark, Match, Protocol, Rule, Target};
use crate::ruleset::{ChainId, Family, Owns, Place, Ruleset, Table};

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name:port`; what the chains' names are made of.
    pub name: String,
    /// The cluster IP.
    pub vip: IpAddr,
    /// The service's port.
    pub port: Port,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its endpoints; without any, connections are refused.
    pub endpoints: Vec<Endpoint>,
}

/// A pod's address and port behind a service.
pub type Endpoint = SocketAddr;

/// The bit that asks for masquerading (kube-proxy's `--iptables-masquerade-bit` 14).
const MASQUERADE: NonZeroU32 = NonZeroU32::new(0x4000).unwrap();

/// The node's IPv4 rules for these services. The ruleset owns the contents of every chain it names, nat PREROUTING,
/// OUTPUT and POSTROUTING and filter INPUT, FORWARD and OUTPUT among them: loading it replaces what was there, in one
/// transaction for each table. IPv6 services are left out. A service that the node itself answers is left out by the caller.
pub fn ruleset(services: &[Service]) -> Ruleset {
    let mut rules = Ruleset::new(Owns::Contents);
    for (table, chain) in [(Table::Nat, "KUBE-SERVICES"), (Table::Filter, "KUBE-SERVICES")] {
        rules.declare(Family::V4, Ruleset::chain(table, chain));
    }
    hooks(&mut rules);
    masquerade(&mut rules);
    for service in services.iter().filter(|service| service.vip.is_ipv4()) {
        let endpoints: Vec<_> = service
            .endpoints
            .iter()
            .copied()
            .filter(SocketAddr::is_ipv4)
            .collect();
        if endpoints.is_empty() {
            add(
                &mut rules,
                &Ruleset::chain(Table::Filter, "KUBE-SERVICES"),
                to(service),
                Target::Reject,
            );
        } else {
            balance(&mut rules, service, &endpoints);
        }
    }
    rules
}

fn hooks(rules: &mut Ruleset) {
    for hook in ["PREROUTING", "OUTPUT"] {
        add(rules, &nat(hook), vec![], Target::Jump(nat("KUBE-SERVICES")));
    }
    add(
        rules,
        &nat("POSTROUTING"),
        vec![],
        Target::Jump(nat("KUBE-POSTROUTING")),
    );
    for hook in ["INPUT", "FORWARD", "OUTPUT"] {
        let services = Ruleset::chain(Table::Filter, "KUBE-SERVICES");
        add(
            rules,
            &Ruleset::chain(Table::Filter, hook),
            vec![],
            Target::Jump(services),
        );
    }
}

fn masquerade(rules: &mut Ruleset) {
    let unmarked = Match::Mark(Is::Not(Mark {
        value: MASQUERADE.get(),
        mask: Some(MASQUERADE),
    }));
    let postrouting = nat("KUBE-POSTROUTING");
    add(rules, &nat("KUBE-MARK-MASQ"), vec![], Target::OrMark(MASQUERADE));
    add(rules, &postrouting, vec![unmarked], Target::Return);
    add(rules, &postrouting, vec![], Target::XorMark(MASQUERADE));
    add(rules, &postrouting, vec![], Target::Masquerade);
}

fn balance(rules: &mut Ruleset, service: &Service, endpoints: &[Endpoint]) {
    let key = format!("{}{}", service.name, service.protocol);
    let chain = nat(&format!("KUBE-SVC-{}", suffix(&key)));
    add(
        rules,
        &nat("KUBE-SERVICES"),
        to(service),
        Target::Jump(chain.clone()),
    );
    for (left, endpoint) in (1..=u32::try_from(endpoints.len()).unwrap_or(u32::MAX))
        .rev()
        .zip(endpoints)
    {
        let share = NonZeroU32::new(left)
            .filter(|left| left.get() > 1)
            .map(Match::OneIn);
        let to = nat(&format!("KUBE-SEP-{}", suffix(&format!("{key}{endpoint}"))));
        add(
            rules,
            &chain,
            share.into_iter().collect(),
            Target::Jump(to.clone()),
        );
        // A pod that reaches itself through the service needs another source address than its own.
        let itself = Match::Source(Is::Exactly(IpNet::from(endpoint.ip())));
        add(rules, &to, vec![itself], Target::Jump(nat("KUBE-MARK-MASQ")));
        let protocol = Match::Protocol(Is::Exactly(service.protocol));
        add(rules, &to, vec![protocol], Target::Dnat(*endpoint));
    }
}

fn to(service: &Service) -> Vec<Match> {
    vec![
        Match::Destination(Is::Exactly(IpNet::from(service.vip))),
        Match::Protocol(Is::Exactly(service.protocol)),
        Match::DestinationPort(Is::Exactly(service.port)),
    ]
}

fn add(rules: &mut Ruleset, chain: &ChainId, matches: Vec<Match>, target: Target) {
    rules.record(
        Family::V4,
        chain.clone(),
        Place::End,
        Rule {
            matches,
            target,
            option: "services",
        },
    );
}

fn nat(name: &str) -> ChainId {
    Ruleset::chain(Table::Nat, name)
}

/// Sixteen letters of base 32, as in kube-proxy's names; of FNV-1a where kube-proxy takes SHA-256, since only
/// stability matters here.
fn suffix(key: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    for byte in key.bytes() {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    (0..16)
        .map(|letter| char::from(LETTERS[((hash >> (letter * 5 + 40)) & 31) as usize]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::restore::{render, rule_text};

    fn service(name: &str, endpoints: &[&str]) -> Service {
        Service {
            name: name.to_owned(),
            vip: "10.96.0.20".parse().unwrap(),
            port: Port::new(9080).unwrap(),
            protocol: Protocol::Tcp,
            endpoints: endpoints.iter().map(|each| each.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn endpoints_share_evenly() {
        let rules = ruleset(&[service(
            "default/reviews:http",
            &["10.244.0.2:9080", "10.244.0.3:9080", "10.244.0.4:9080"],
        )]);
        let chains = rules.chains(Family::V4, Table::Nat);
        let balancing = chains
            .iter()
            .find(|chain| chain.name().starts_with("KUBE-SVC-"))
            .unwrap();
        let texts: Vec<String> = rules
            .rules(Family::V4, balancing)
            .into_iter()
            .map(rule_text)
            .collect();
        assert_eq!(texts.len(), 3);
        assert!(
            texts[0].starts_with("-m statistic --mode random --probability 0.3333333333 -j KUBE-SEP-"),
            "{texts:?}"
        );
        assert!(
            texts[1].contains("0.5000000000") && texts[2].starts_with("-j KUBE-SEP-"),
            "{texts:?}"
        );
        assert!(render(&rules, Family::V4).contains("-p tcp -j DNAT --to-destination 10.244.0.4:9080\n"));
    }

    #[test]
    fn without_endpoints_connections_are_refused() {
        let text = render(&ruleset(&[service("default/gone:http", &[])]), Family::V4);
        let refusal = "-A KUBE-SERVICES -d 10.96.0.20/32 -p tcp --dport 9080 -j REJECT\n";
        assert!(text.contains(refusal), "{text}");
        assert!(!text.contains("KUBE-SVC-"), "{text}");
    }

    #[test]
    fn chains_of_a_service_that_went_are_removed() {
        let before = ruleset(&[service("default/gone:http", &["10.244.0.2:9080"])]);
        let mut now = ruleset(&[]);
        now.retire(&before);
        let text = render(&now, Family::V4);
        assert_eq!(
            text.matches("-X KUBE-SVC-").count() + text.matches("-X KUBE-SEP-").count(),
            2,
            "{text}"
        );
    }
}
