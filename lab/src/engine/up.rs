//! Building the lab and waiting until all that no gate holds is ready; and taking it down.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use super::lab::{Lab, Parts};
use super::rules::{Rules, Tools};
use super::{chain, life, mesh};
use crate::dns;
use crate::net::netns::NetNs;
use crate::net::sysctl;
use crate::observe::Observer;
use crate::plan::ips::Ips;
use crate::plan::{ISTIOD, Plan};
use crate::report::LabError;
use crate::scenario::model::{Pod, PodId, Scenario};
use crate::world::ipv6;
use crate::world::node::Node;
use crate::world::pod::{self, PodSpace, PodSpec};

/// How long a lab may take to come up.
const UP: Duration = Duration::from_secs(30);

/// How long the kernel may take to report the canary's first packet.
const CANARY: Duration = Duration::from_secs(5);

/// Builds the lab; returns when everything that no gate holds is ready and every sidecar knows it.
pub(super) async fn up(scenario: Scenario) -> Result<Rc<Lab>, LabError> {
    let plan = Plan::new(&scenario);
    let tools = Tools::find(&scenario).map_err(|error| LabError::machine(chain(&error)))?;
    let own: Vec<_> = plan.dns.all().collect();
    if plan.dns.v6().is_some() && !ipv6::is_there() {
        return Err(LabError::machine(
            "this kernel has no IPv6 (there is no /proc/sys/net/ipv6), and the scenario has IPv6 addresses"
                .to_owned(),
        ));
    }
    let node = Node::enter(&own)
        .await
        .map_err(|error| LabError::lab(chain(&error)))?;
    let mut specs: Vec<PodSpec> = vec![PodSpec {
        name: ISTIOD.to_owned(),
        ips: plan.istiod_ip,
    }];
    specs.extend(plan.pods.iter().map(|pod| PodSpec {
        name: pod.name.clone(),
        ips: pod.ips,
    }));
    let mut spaces = pod::create_pods(&node, &specs)
        .await
        .map_err(|error| LabError::lab(chain(&error)))?;
    let istiod = spaces.remove(0);
    for (pod, space) in scenario.pods.iter().zip(&spaces) {
        set_sysctls(pod, space).map_err(LabError::lab)?;
        test_rules(&tools, pod, space).await?;
    }
    let observed: Vec<(&str, Ips, &NetNs)> = spaces
        .iter()
        .map(|space| (space.name.as_str(), space.ips, &space.netns))
        .collect();
    let observer = Observer::attach(&observed).map_err(|error| LabError::lab(chain(&error)))?;
    let named: Vec<(&str, &NetNs)> = spaces
        .iter()
        .map(|space| (space.name.as_str(), &space.netns))
        .collect();
    observer
        .canary(&named, CANARY)
        .await
        .map_err(|error| LabError::lab(chain(&error)))?;
    let lab = Lab::new(Parts {
        scenario,
        plan,
        observer,
        node,
        istiod,
        pods: spaces,
        tools,
    });
    bring_up(&lab).await.map_err(LabError::lab)?;
    Ok(lab)
}

/// A user's own rules: what the tool says of them, before anything else is there.
async fn test_rules(tools: &Tools, pod: &Pod, space: &PodSpace) -> Result<(), LabError> {
    let Some((rules, custom)) = Rules::of(pod).zip(pod.custom_rules.as_ref()) else {
        return Ok(());
    };
    let refused = |error: iptables::apply::Error| {
        let (pod, file) = (&pod.name, &custom.file);
        LabError::mistake(format!("pod {pod}: customRules `{file}`: {}", chain(&error)))
    };
    tools.test(&rules, &space.netns).await.map_err(refused)
}

/// The sysctls that a pod's `securityContext` asks for.
fn set_sysctls(pod: &Pod, space: &PodSpace) -> Result<(), String> {
    for (name, value) in &pod.sysctls {
        let path = name.trim_start_matches("net.").replace('.', "/");
        space
            .netns
            .run(|| sysctl::set(&path, value))
            .map_err(|error| chain(&error))?
            .map_err(|error| format!("pod `{}`: sysctl {name}: {}", pod.name, chain(&error)))?;
    }
    Ok(())
}

async fn bring_up(lab: &Rc<Lab>) -> Result<(), String> {
    start_dns(lab)?;
    mesh::start_istiod(lab)?;
    let held: Vec<_> = lab
        .scenario
        .pods_with_ids()
        .map(|(id, pod)| (id, pod.hold.clone()))
        .collect();
    for (id, gates) in held {
        mesh::hold(lab, id, &gates, true).await?;
    }
    lab.spawn(mesh::follow(Rc::clone(lab)));
    let ids: Vec<PodId> = lab.scenario.pods_with_ids().map(|(id, _)| id).collect();
    for id in &ids {
        life::begin(lab, *id);
    }
    let unsettled = |state: &super::state::State| {
        let pods = ids.iter().flat_map(|id| {
            let name = &lab.scenario.pod(*id).name;
            state
                .unsettled(&lab.scenario, *id)
                .into_iter()
                .map(move |missing| format!("pod {name}: {missing}"))
        });
        pods.collect::<Vec<_>>()
    };
    lab.watched
        .wait(
            UP,
            "the pods to be ready",
            |state| unsettled(state).is_empty() || !lab.nacks.borrow().is_empty(),
            |state| unsettled(state).join("; "),
        )
        .await
        .map_err(|error| lab.with_logs(&error.to_string()))?;
    lab.accepted()?;
    lab.settled_mesh(UP).await?;
    lab.accepted()
}

fn start_dns(lab: &Lab) -> Result<(), String> {
    let records = dns::Records::new(&lab.plan.dns_records(&lab.scenario));
    let bind = |ip| {
        let address = SocketAddr::new(ip, 53);
        let udp = UdpSocket::bind(address)?;
        let tcp = TcpListener::bind(address)?;
        Ok::<_, std::io::Error>((udp, tcp))
    };
    let mut sockets = Vec::new();
    for ip in lab.plan.dns.all() {
        let bound = lab.node.netns().run(|| bind(ip)).map_err(|error| chain(&error))?;
        sockets.push(bound.map_err(|error| format!("binding the DNS server to port 53 of {ip}: {error}"))?);
    }
    let server = dns::serve(sockets, records).map_err(|error| chain(&error))?;
    *lab.dns.borrow_mut() = Some(server);
    Ok(())
}

/// Ends every task and closes what the lab holds. Its processes end with the world process, whose end the kernel
/// makes the end of everything in its namespaces.
pub(super) async fn down(lab: Rc<Lab>) {
    let server = lab.dns.borrow_mut().take();
    if let Some(server) = server {
        server.close().await;
    }
    lab.end_tasks().await;
}
