//! Addresses, node ids and endpoints of a lab, worked out from a scenario. Pure: the same file gives the same plan.

pub mod endpoints;
pub mod ips;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::scenario::families::IpFamilies;
use crate::scenario::model::{PodId, Scenario};
use ips::Ips;

/// The addresses of the cluster's DNS server, as kubeadm gives them.
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The one of IPv6.
pub const DNS_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 10);

/// The port on which istiod serves xDS in plain text.
pub const ISTIOD_XDS_PORT: u16 = 15010;

/// The port of istiod's `/ready`, `/debug/…` and `/metrics`.
pub const ISTIOD_HTTP_PORT: u16 = 15014;

/// The name of the pod and of the service that the lab adds.
pub const ISTIOD: &str = "istiod";

/// `istiod`'s user, and that of every sidecar (Istio's `istio-proxy`).
pub const PROXY_USER: u32 = 1337;

/// Pods get 10.244.0.0/16 from here on; what lies below is the node's and istiod's.
const FIRST_POD: u32 = 0x0af4_000a;
const ISTIOD_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);

/// Services get 10.96.0.0/12 from here on.
const FIRST_SERVICE: u32 = 0x0a60_0101;
const ISTIOD_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);

/// The same in IPv6: each address ends in the number that the IPv4 address ends in, in `fd00:10:244::/64` and
/// `fd00:10:96::/112` (kubeadm's example of two families).
const PODS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0);
const SERVICES6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0);

/// A lab before it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Pods, by the index of their [`PodId`].
    pub pods: Vec<PodPlan>,
    /// Virtual addresses of the scenario's services, in their order.
    pub vips: Vec<Ips>,
    /// istiod's pod.
    pub istiod_ip: Ips,
    /// istiod's service.
    pub istiod_vip: Ips,
    /// The DNS server.
    pub dns: Ips,
}

/// A pod before it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ips: Ips,
    /// What its sidecar is called in xDS (`sidecar~IP~POD.default~default.svc.cluster.local`).
    pub node_id: String,
    /// `PORT/PATH` of the app's metrics, by the annotations `prometheus.io/{scrape,port,path}` as Istio reads them.
    pub app_metrics: Option<String>,
}

impl Plan {
    /// Gives every pod and service its address.
    pub fn new(scenario: &Scenario) -> Self {
        let pods = (FIRST_POD..).zip(&scenario.pods).map(|(number, pod)| {
            let ips = pod_ips(pod.ip_families, Ipv4Addr::from_bits(number));
            PodPlan {
                name: pod.name.clone(),
                ips,
                node_id: node_id(ips.first(), &pod.name),
                app_metrics: app_metrics(&pod.annotations),
            }
        });
        let families = families(scenario);
        Self {
            pods: pods.collect(),
            vips: (FIRST_SERVICE..)
                .zip(&scenario.services)
                .map(|(number, service)| service_ips(service.ip_families, Ipv4Addr::from_bits(number)))
                .collect(),
            istiod_ip: pod_ips(families, ISTIOD_IP),
            istiod_vip: service_ips(families, ISTIOD_VIP),
            dns: service_ips(families, DNS_IP),
        }
    }

    /// The plan of this pod.
    pub fn pod(&self, id: PodId) -> &PodPlan {
        &self.pods[id.index()]
    }

    /// The names that DNS answers, and their addresses.
    pub fn dns_records(&self, scenario: &Scenario) -> Vec<(String, Ips)> {
        let services = scenario
            .services
            .iter()
            .zip(&self.vips)
            .map(|(service, vip)| (service.name.clone(), *vip));
        services
            .chain([
                (ISTIOD.to_owned(), self.istiod_vip),
                ("kube-dns".to_owned(), self.dns),
            ])
            .collect()
    }

    /// `text` with `${POD.ip}` and `${self.ip}` replaced, and with `${POD.ipv4}` and `${POD.ipv6}`; `own` is the pod that
    /// sends it. Names were checked before.
    pub fn expand(&self, text: &str, own: PodId) -> String {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            expanded.push_str(before);
            let known = after
                .split_once('}')
                .and_then(|(name, after)| Some((self.address(name, own)?, after)));
            if let Some((ip, after)) = known {
                expanded.push_str(&ips::written(ip, &expanded, after));
                rest = after;
            } else {
                expanded.push_str("${");
                rest = after;
            }
        }
        expanded + rest
    }

    /// The address that `POD.ip` names.
    fn address(&self, name: &str, own: PodId) -> Option<IpAddr> {
        let (pod, which) = name.rsplit_once('.')?;
        let ips = match pod {
            "self" => self.pod(own).ips,
            ISTIOD => self.istiod_ip,
            pod => self.pods.iter().find(|known| known.name == pod)?.ips,
        };
        match which {
            "ip" => Some(ips.first()),
            "ipv4" => ips.v4(),
            "ipv6" => ips.v6(),
            _ => None,
        }
    }
}

/// The families that anything in the lab has.
fn families(scenario: &Scenario) -> IpFamilies {
    let pods = scenario.pods.iter().map(|pod| pod.ip_families);
    let services = scenario.services.iter().map(|service| service.ip_families);
    let all = pods.chain(services).reduce(IpFamilies::and);
    all.unwrap_or(IpFamilies::V4)
}

fn pod_ips(families: IpFamilies, v4: Ipv4Addr) -> Ips {
    Ips::new(families, v4, same_number(PODS6, v4))
}

/// The name server of a pod with these families: kubelet's `--cluster-dns` is of the one that comes first.
pub fn resolver(families: IpFamilies) -> IpAddr {
    service_ips(families, DNS_IP).first()
}

fn service_ips(families: IpFamilies, v4: Ipv4Addr) -> Ips {
    Ips::new(families, v4, same_number(SERVICES6, v4))
}

fn same_number(range: Ipv6Addr, v4: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(range.to_bits() | u128::from(v4.to_bits() & 0xffff))
}

fn node_id(ip: IpAddr, pod: &str) -> String {
    format!("sidecar~{ip}~{pod}.default~default.svc.cluster.local")
}

fn app_metrics(annotations: &std::collections::BTreeMap<String, String>) -> Option<String> {
    let annotation = |name: &str| {
        annotations
            .get(&format!("prometheus.io/{name}"))
            .map(String::as_str)
    };
    if annotation("scrape") != Some("true") {
        return None;
    }
    let port = annotation("port").unwrap_or("80");
    let path = annotation("path").unwrap_or("/metrics");
    Some(format!("{port}/{}", path.trim_start_matches('/')))
}
