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

/// The node's rules for these services; those of IPv6 only if one of them has an IPv6 address. The ruleset owns the
/// contents of every chain it names, nat PREROUTING, OUTPUT and POSTROUTING and filter INPUT, FORWARD and OUTPUT among
/// them: loading it replaces what was there, in one transaction for each table. An endpoint of another family than its
/// service's is left out. A service that the node itself answers is left out by the caller.
pub fn ruleset(services: &[Service]) -> Ruleset {
    let mut rules = Ruleset::new(Owns::Contents);
    add_family(&mut rules, Family::V4, services);
    if services.iter().any(|service| service.vip.is_ipv6()) {
        add_family(&mut rules, Family::V6, services);
    }
    rules
}

fn add_family(rules: &mut Ruleset, family: Family, services: &[Service]) {
    let mut rules = OfFamily { rules, family };
    for (table, chain) in [(Table::Nat, "KUBE-SERVICES"), (Table::Filter, "KUBE-SERVICES")] {
        rules.rules.declare(family, Ruleset::chain(table, chain));
    }
    hooks(&mut rules);
    masquerade(&mut rules);
    let is_v4 = family == Family::V4;
    for service in services.iter().filter(|service| service.vip.is_ipv4() == is_v4) {
        let endpoints: Vec<_> = service
            .endpoints
            .iter()
            .copied()
            .filter(|endpoint| endpoint.is_ipv4() == is_v4)
            .collect();
        if endpoints.is_empty() {
            rules.add(
                &Ruleset::chain(Table::Filter, "KUBE-SERVICES"),
                to(service),
                Target::Reject,
            );
        } else {
            balance(&mut rules, service, &endpoints);
        }
    }
}

/// The rules of one family, as they are made.
struct OfFamily<'a> {
    rules: &'a mut Ruleset,
    family: Family,
}

impl OfFamily<'_> {
    fn add(&mut self, chain: &ChainId, matches: Vec<Match>, target: Target) {
        self.rules.record(
            self.family,
            chain.clone(),
            Place::End,
            Rule {
                matches,
                target,
                option: "services",
            },
        );
    }
}

fn hooks(rules: &mut OfFamily<'_>) {
    for hook in ["PREROUTING", "OUTPUT"] {
        rules.add(&nat(hook), vec![], Target::Jump(nat("KUBE-SERVICES")));
    }
    rules.add(&nat("POSTROUTING"), vec![], Target::Jump(nat("KUBE-POSTROUTING")));
    for hook in ["INPUT", "FORWARD", "OUTPUT"] {
        let services = Ruleset::chain(Table::Filter, "KUBE-SERVICES");
        rules.add(
            &Ruleset::chain(Table::Filter, hook),
            vec![],
            Target::Jump(services),
        );
    }
}

fn masquerade(rules: &mut OfFamily<'_>) {
    let unmarked = Match::Mark(Is::Not(Mark {
        value: MASQUERADE.get(),
        mask: Some(MASQUERADE),
    }));
    let postrouting = nat("KUBE-POSTROUTING");
    rules.add(&nat("KUBE-MARK-MASQ"), vec![], Target::OrMark(MASQUERADE));
    rules.add(&postrouting, vec![unmarked], Target::Return);
    rules.add(&postrouting, vec![], Target::XorMark(MASQUERADE));
    rules.add(&postrouting, vec![], Target::Masquerade);
}

fn balance(rules: &mut OfFamily<'_>, service: &Service, endpoints: &[Endpoint]) {
    let key = format!("{}{}", service.name, service.protocol);
    let chain = nat(&format!("KUBE-SVC-{}", suffix(&key)));
    rules.add(&nat("KUBE-SERVICES"), to(service), Target::Jump(chain.clone()));
    for (left, endpoint) in (1..=u32::try_from(endpoints.len()).unwrap_or(u32::MAX))
        .rev()
        .zip(endpoints)
    {
        let share = NonZeroU32::new(left)
            .filter(|left| left.get() > 1)
            .map(Match::OneIn);
        let to = nat(&format!("KUBE-SEP-{}", suffix(&format!("{key}{endpoint}"))));
        rules.add(&chain, share.into_iter().collect(), Target::Jump(to.clone()));
        // A pod that reaches itself through the service needs another source address than its own.
        let itself = Match::Source(Is::Exactly(IpNet::from(endpoint.ip())));
        rules.add(&to, vec![itself], Target::Jump(nat("KUBE-MARK-MASQ")));
        let protocol = Match::Protocol(Is::Exactly(service.protocol));
        rules.add(&to, vec![protocol], Target::Dnat(*endpoint));
    }
}

fn to(service: &Service) -> Vec<Match> {
    vec![
        Match::Destination(Is::Exactly(IpNet::from(service.vip))),
        Match::Protocol(Is::Exactly(service.protocol)),
        Match::DestinationPort(Is::Exactly(service.port)),
    ]
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

    #[test]
    fn each_family_has_its_own_services_and_endpoints() {
        let v4 = service("default/a:http", &["10.244.0.2:9080", "[fd00:10:244::2]:9080"]);
        let v6 = Service {
            vip: "fd00:10:96::14".parse().unwrap(),
            ..v4.clone()
        };
        let only_v4 = ruleset(std::slice::from_ref(&v4));
        assert!(only_v4.chains(Family::V6, Table::Nat).is_empty());
        let both = ruleset(&[v4, v6]);
        assert_eq!(render(&only_v4, Family::V4), render(&both, Family::V4));
        let text = render(&both, Family::V6);
        let to_service = "-A KUBE-SERVICES -d fd00:10:96::14/128 -p tcp --dport 9080 -j KUBE-SVC-";
        assert!(text.contains(to_service), "{text}");
        assert!(
            text.contains("-j DNAT --to-destination [fd00:10:244::2]:9080\n"),
            "{text}"
        );
        assert!(!text.contains("10.244.0.2"), "{text}");
    }
}
