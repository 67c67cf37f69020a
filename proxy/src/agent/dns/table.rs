//! What the agent's DNS knows: Istio's name table, with every form of a name that an application in this pod may ask for.
//!
//! As `pkg/dns/client/dns.go` in istio/istio has it: a Kubernetes service answers to its host, `name.namespace` and
//! `name.namespace.svc`, and in the proxy's own namespace to its bare name. Each of these followed by the first domain
//! of the search list is an alias (CNAME), so that a resolver that searches ends its search at once.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::xds::name_table::{KUBERNETES, NameInfo, NameTable};

/// Istio's `defaultTTLInSeconds`.
const TTL: u32 = 30;

/// Where a proxy is, which decides what a short name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    namespace: String,
    /// Without the namespace: `svc.cluster.local`.
    domain: String,
}

impl Place {
    /// Of `sidecar~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local`.
    pub fn of_node(node_id: &str) -> Self {
        let mut parts = node_id.split('~').skip(2);
        let workload = parts.next().unwrap_or_default();
        let namespace = workload.rsplit_once('.').map_or("", |(_, namespace)| namespace);
        let domain = parts.next().unwrap_or_default();
        let own = domain
            .strip_prefix(namespace)
            .and_then(|rest| rest.strip_prefix('.'));
        Self {
            namespace: namespace.to_owned(),
            domain: own.unwrap_or(domain).to_owned(),
        }
    }

    /// `svc` of `svc.cluster.local`.
    fn first_part(&self) -> &str {
        self.domain.split('.').next().unwrap_or_default()
    }

    /// The names of a host, each with a dot at its end.
    fn forms(&self, host: &str, info: &NameInfo) -> Vec<String> {
        let mut forms = vec![absolute(host)];
        if info.registry != KUBERNETES || self.domain.is_empty() || !host.ends_with(&self.domain) {
            return forms;
        }
        let NameInfo {
            shortname, namespace, ..
        } = info;
        forms.push(format!("{shortname}.{namespace}."));
        if *namespace == self.namespace {
            forms.push(format!("{shortname}."));
        }
        forms.push(format!("{shortname}.{namespace}.{}.", self.first_part()));
        forms.extend(info.alt_hosts.iter().map(|host| absolute(host)));
        for form in &mut forms {
            form.make_ascii_lowercase();
        }
        forms
    }
}

/// In lower case, with a dot at its end.
fn absolute(name: &str) -> String {
    format!("{}.", name.trim_end_matches('.').to_ascii_lowercase())
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Known {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
    /// It is another name of this one.
    alias_of: Option<String>,
}

/// The names that are answered here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    names: HashMap<String, Known>,
}

impl Table {
    /// Of a name table, for a proxy in this place whose resolvers append these domains.
    pub fn new(told: &NameTable, place: &Place, search: &[String]) -> Self {
        let mut table = Self::default();
        for (host, info) in &told.table {
            let (mut v4, mut v6) = (Vec::new(), Vec::new());
            for ip in info.ips.iter().filter_map(|ip| ip.parse().ok()) {
                match ip {
                    IpAddr::V4(ip) => v4.push(ip),
                    IpAddr::V6(ip) => v6.push(ip),
                }
            }
            if v4.is_empty() && v6.is_empty() {
                continue;
            }
            let forms = place.forms(host, info);
            for form in &forms {
                let known = table.names.entry(form.clone()).or_default();
                (known.v4, known.v6) = (v4.clone(), v6.clone());
                let Some(domain) = search.first() else { continue };
                let searched = format!("{form}{}", absolute(domain));
                if !forms.contains(&searched) {
                    table.names.entry(searched).or_default().alias_of = Some(form.clone());
                }
            }
        }
        table
    }

    /// The answers to a question, none of them if the name has no record of this type; `None` if somebody else has to be
    /// asked: nothing here has the name, or it is asked for something other than an address.
    pub fn look_up(&self, asked: &Name, kind: RecordType) -> Option<Vec<Record>> {
        // Istio passes on questions of all other types.
        if kind != RecordType::A && kind != RecordType::AAAA {
            return None;
        }
        let known = self.find(&asked.to_ascii().to_ascii_lowercase())?;
        let mut answers = Vec::new();
        let (mut owner, mut has) = (asked.clone(), known);
        if let Some(target) = &known.alias_of {
            let target_name = Name::from_ascii(target).ok()?;
            let alias = RData::CNAME(CNAME(target_name.clone()));
            answers.push(Record::from_rdata(asked.clone(), TTL, alias));
            (owner, has) = (target_name, self.names.get(target)?);
        }
        let mut addresses: Vec<RData> = if kind == RecordType::A {
            has.v4.iter().map(|ip| RData::A(A(*ip))).collect()
        } else {
            has.v6.iter().map(|ip| RData::AAAA(AAAA(*ip))).collect()
        };
        if addresses.is_empty() {
            return Some(Vec::new());
        }
        // Of several, another one is the first each time, as with kube-dns.
        fastrand::shuffle(&mut addresses);
        answers.extend(
            addresses
                .into_iter()
                .map(|data| Record::from_rdata(owner.clone(), TTL, data)),
        );
        Some(answers)
    }

    /// The name itself, or the nearest `*.` above it.
    fn find(&self, asked: &str) -> Option<&Known> {
        let above = std::iter::successors(Some(asked), |name| {
            let (_, above) = name.split_once('.')?;
            (!above.is_empty()).then_some(above)
        });
        let wildcards = above.skip(1).map(|above| format!("*.{above}"));
        std::iter::once(asked.to_owned())
            .chain(wildcards)
            .find_map(|name| self.names.get(&name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const NODE: &str = "sidecar~10.244.0.10~shop.default~default.svc.cluster.local";
    const SEARCH: [&str; 2] = ["default.svc.cluster.local", "svc.cluster.local"];

    fn info(registry: &str, name: &str, namespace: &str, ips: &[&str]) -> NameInfo {
        NameInfo {
            ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
            registry: registry.to_owned(),
            shortname: name.to_owned(),
            namespace: namespace.to_owned(),
            alt_hosts: Vec::new(),
        }
    }

    fn table() -> Table {
        let hosts = [
            (
                "reviews.default.svc.cluster.local",
                info(KUBERNETES, "reviews", "default", &["10.96.1.1"]),
            ),
            (
                "api.other.svc.cluster.local",
                info(KUBERNETES, "api", "other", &["10.96.1.2", "fd00::2"]),
            ),
            (
                "far.default.svc.else.where",
                info(KUBERNETES, "far", "default", &["10.96.1.3"]),
            ),
            ("Example.com", info("External", "", "", &["240.240.0.1"])),
            ("*.wild.org", info("External", "", "", &["240.240.0.2"])),
            ("broken.org", info("External", "", "", &["10.0.0.0/8"])),
        ];
        let table = NameTable {
            table: hosts.map(|(host, info)| (host.to_owned(), info)).into(),
        };
        Table::new(&table, &Place::of_node(NODE), &SEARCH.map(str::to_owned))
    }

    /// The answers as text: `CNAME target` and addresses; none if somebody else is asked.
    fn ask(name: &str, kind: RecordType) -> Option<Vec<String>> {
        let name = Name::from_ascii(name).unwrap();
        let mut owner = name.clone();
        let answers = table().look_up(&name, kind)?;
        let texts = answers.into_iter().map(|record| {
            assert_eq!(record.name, owner, "owner of {}", record.data);
            if let RData::CNAME(target) = &record.data {
                owner = target.0.clone();
            }
            record.data.to_string()
        });
        Some(texts.collect())
    }

    #[track_caller]
    fn check(name: &str, want: Option<&[&str]>) {
        let got = ask(name, RecordType::A);
        let want = want.map(|it| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        assert_eq!(got, want, "{name}");
    }

    #[test]
    fn a_service_has_istios_forms() {
        for form in [
            "reviews.",
            "reviews.default.",
            "reviews.default.svc.",
            "Reviews.default.svc.CLUSTER.local.",
        ] {
            check(form, Some(&["10.96.1.1"]));
        }
        check("api.other.", Some(&["10.96.1.2"]));
        check("api.other.svc.", Some(&["10.96.1.2"]));
        // Of another namespace, or of another domain, only what says so.
        check("api.", None);
        check("far.default.", None);
        check("far.default.svc.else.where.", Some(&["10.96.1.3"]));
        // Istio makes no more than these.
        check("reviews.default.svc.cluster.", None);
    }

    #[test]
    fn a_searched_name_is_an_alias_under_the_first_domain_alone() {
        check(
            "reviews.default.default.svc.cluster.local.",
            Some(&["reviews.default.", "10.96.1.1"]),
        );
        check(
            "example.com.default.svc.cluster.local.",
            Some(&["example.com.", "240.240.0.1"]),
        );
        check("example.com.svc.cluster.local.", None);
    }

    #[test]
    fn a_wildcard_answers_for_what_is_below_it() {
        check("a.wild.org.", Some(&["240.240.0.2"]));
        check("a.b.wild.org.", Some(&["240.240.0.2"]));
        check("wild.org.", None);
    }

    #[test]
    fn a_name_without_a_record_of_the_type_is_there_all_the_same() {
        assert_eq!(ask("reviews.", RecordType::AAAA), Some(Vec::new()));
        assert_eq!(
            ask("api.other.", RecordType::AAAA),
            Some(vec!["fd00::2".to_owned()])
        );
    }

    #[test]
    fn what_is_no_address_is_asked_of_others() {
        assert_eq!(ask("reviews.", RecordType::TXT), None);
        check("broken.org.", None);
        check(".", None);
    }

    #[test]
    fn a_place_is_read_from_the_node_id() {
        let place = |namespace: &str, domain: &str| Place {
            namespace: namespace.to_owned(),
            domain: domain.to_owned(),
        };
        assert_eq!(Place::of_node(NODE), place("default", "svc.cluster.local"));
        assert_eq!(
            Place::of_node("sidecar~1.2.3.4~a.b.ns~other.local"),
            place("ns", "other.local")
        );
        assert_eq!(Place::of_node("x"), place("", ""));
        let nowhere = Table::new(
            &NameTable {
                table: BTreeMap::from([("a.b.c".to_owned(), info(KUBERNETES, "a", "b", &["1.2.3.4"]))]),
            },
            &Place::of_node("x"),
            &[],
        );
        assert_eq!(nowhere.names.keys().collect::<Vec<_>>(), ["a.b.c."]);
    }
}
