//! Addresses, node ids and endpoints of a lab, worked out from a scenario. Pure: the same file gives the same plan.

pub mod endpoints;

use std::net::Ipv4Addr;

use crate::scenario::model::{PodId, Scenario};

/// The address of the cluster's DNS server, as kubeadm gives it.
pub const DNS_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

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

/// A lab before it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Pods, by the index of their [`PodId`].
    pub pods: Vec<PodPlan>,
    /// Virtual addresses of the scenario's services, in their order.
    pub vips: Vec<Ipv4Addr>,
    /// istiod's pod.
    pub istiod_ip: Ipv4Addr,
    /// istiod's service.
    pub istiod_vip: Ipv4Addr,
}

/// A pod before it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// What its sidecar is called in xDS (`sidecar~IP~POD.default~default.svc.cluster.local`).
    pub node_id: String,
    /// `PORT/PATH` of the app's metrics, by the annotations `prometheus.io/{scrape,port,path}` as Istio reads them.
    pub app_metrics: Option<String>,
}

impl Plan {
    /// Gives every pod and service its address.
    pub fn new(scenario: &Scenario) -> Self {
        let pods = (FIRST_POD..).zip(&scenario.pods).map(|(ip, pod)| {
            let ip = Ipv4Addr::from_bits(ip);
            PodPlan {
                name: pod.name.clone(),
                ip,
                node_id: node_id(ip, &pod.name),
                app_metrics: app_metrics(&pod.annotations),
            }
        });
        Self {
            pods: pods.collect(),
            vips: (FIRST_SERVICE..)
                .zip(&scenario.services)
                .map(|(ip, _)| Ipv4Addr::from_bits(ip))
                .collect(),
            istiod_ip: ISTIOD_IP,
            istiod_vip: ISTIOD_VIP,
        }
    }

    /// The plan of this pod.
    pub fn pod(&self, id: PodId) -> &PodPlan {
        &self.pods[id.index()]
    }

    /// The names that DNS answers, and their addresses.
    pub fn dns_records(&self, scenario: &Scenario) -> Vec<(String, Ipv4Addr)> {
        let services = scenario
            .services
            .iter()
            .zip(&self.vips)
            .map(|(service, vip)| (service.name.clone(), *vip));
        services
            .chain([
                (ISTIOD.to_owned(), self.istiod_vip),
                ("kube-dns".to_owned(), DNS_IP),
            ])
            .collect()
    }

    /// `text` with `${POD.ip}` and `${self.ip}` replaced; `own` is the pod that sends it. Names were checked before.
    pub fn expand(&self, text: &str, own: PodId) -> String {
        let mut expanded = text.replace("${self.ip}", &self.pod(own).ip.to_string());
        for pod in &self.pods {
            expanded = expanded.replace(&format!("${{{}.ip}}", pod.name), &pod.ip.to_string());
        }
        expanded.replace("${istiod.ip}", &self.istiod_ip.to_string())
    }
}

fn node_id(ip: Ipv4Addr, pod: &str) -> String {
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
