//! Faults: frozen processes, links, netem, rules installed a second time.

use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::lab::Lab;
use super::life;
use super::state::CutOff;
use crate::net::link;
use crate::net::segment::Connection;
use crate::scenario::model::{Impairment, PodId, Power, RulesRerun, Target};
use crate::sys;
use crate::within::within;

/// How long the kernel may take to stop a process.
const LIMIT: Duration = Duration::from_secs(5);

/// Stops a process where it stands; returns when it stands.
pub(super) async fn freeze(lab: &Rc<Lab>, target: Target) -> Result<(), String> {
    let pid = pid(lab, target)?;
    life::signal(pid, Signal::SIGSTOP)?;
    // The kernel tells only the parent, which may be the agent: so it is asked.
    let stopped = async {
        while !is_stopped(pid)? {
            let a_moment = Duration::from_millis(1);
            drop(within(a_moment, "the kernel", std::future::pending::<()>()).await);
        }
        Ok::<(), String>(())
    };
    within(LIMIT, "the process to stop", stopped)
        .await
        .map_err(|error| error.to_string())?
}

/// Lets a process go on.
pub(super) fn thaw(lab: &Lab, target: Target) -> Result<(), String> {
    life::signal(pid(lab, target)?, Signal::SIGCONT)
}

fn pid(lab: &Lab, target: Target) -> Result<u32, String> {
    let pod = lab.scenario.pod(target.pod);
    lab.watched
        .read(|state| state.process(target).pid())
        .ok_or_else(|| format!("{}/{} does not run", pod.name, pod.role(target.process)))
}

fn is_stopped(pid: u32) -> Result<bool, String> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("reading {path}: {error}"))?;
    // The name in parentheses may hold anything; the state is the first letter after it.
    let state = text
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim().chars().next());
    Ok(state == Some('T'))
}

/// Takes the node's end of a pod's link down, or up again with its route.
pub(super) async fn set_link(lab: &Lab, id: PodId, power: Power) -> Result<(), String> {
    let links = lab.node.links();
    let said = |error: link::Error| super::chain(&error);
    let index = links.index(&link_name(id)).await.map_err(said)?;
    lab.watched
        .change(|state| state.pod_mut(id).cut_off.link = power == Power::Down);
    tell_cut_off(lab, id)?;
    match power {
        Power::Down => links.down(index).await.map_err(said),
        Power::Up => {
            let ips = lab.plan.pod(id).ips;
            links.up(index).await.map_err(said)?;
            for ip in ips.all() {
                links
                    .add_host_route(index, ip, link::mac(ips.first(), false))
                    .await
                    .map_err(said)?;
            }
            Ok(())
        }
    }
}

/// Nobody waits for what cannot arrive: the link is down, or all is lost.
fn tell_cut_off(lab: &Lab, id: PodId) -> Result<(), String> {
    let is_cut_off = lab.watched.read(|state| {
        let CutOff { link, loss } = state.pod(id).cut_off;
        link || loss
    });
    lab.observer
        .cut_off(&lab.scenario.pod(id).name, is_cut_off)
        .map_err(|error| super::chain(&error))
}

/// Delays and drops what the node sends to a pod; nothing of both lets everything pass again.
pub(super) async fn netem(lab: &Lab, id: PodId, impairment: &Impairment) -> Result<(), String> {
    let links = lab.node.links();
    let said = |error: link::Error| super::chain(&error);
    let index = links.index(&link_name(id)).await.map_err(said)?;
    let Impairment { delay, jitter, loss } = *impairment;
    let done = if delay.is_zero() && loss == 0.0 {
        links.mend(index).await
    } else {
        links.impair(index, delay, jitter, loss).await
    };
    done.map_err(said)?;
    lab.watched
        .change(|state| state.pod_mut(id).cut_off.loss = loss >= 1.0);
    tell_cut_off(lab, id)
}

/// Sends, from a process's pod, a segment of its connection to this port that is out of the connection's window.
pub(super) fn invalid_segment(lab: &Lab, from: Target, port: u16) -> Result<(), String> {
    let pid = pid(lab, from)?;
    let raw = i32::try_from(pid).map_err(|error| format!("process id {pid}: {error}"))?;
    let failed = |error: &dyn std::fmt::Display| format!("looking at the sockets of process {pid}: {error}");
    let pidfd = sys::pidfd_open(Pid::from_raw(raw)).map_err(|errno| failed(&errno))?;
    let dir = format!("/proc/{pid}/fd");
    for entry in std::fs::read_dir(dir).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_string_lossy().parse();
        let (true, Ok(number)) = (is_socket, number) else {
            continue;
        };
        let socket = sys::pidfd_getfd(&pidfd, number).map_err(|errno| failed(&errno))?;
        let goes_there = socket2::SockRef::from(&socket)
            .peer_addr()
            .is_ok_and(|peer| peer.as_socket().is_some_and(|peer| peer.port() == port));
        if goes_there {
            let connection = Connection::of(&socket).map_err(|error| failed(&error))?;
            let sent = lab.space(from.pod).netns.run(|| connection.send_invalid());
            return sent
                .map_err(|error| super::chain(&error))?
                .map_err(|error| format!("sending a segment from {}: {error}", connection.local));
        }
    }
    Err(format!("process {pid} has no open connection to port {port}"))
}

/// The node's end: istiod's pod is the first.
fn link_name(id: PodId) -> String {
    format!("pod{}", id.index() + 1)
}

/// Installs a pod's rules a second time.
pub(super) async fn rerun_rules(lab: &Rc<Lab>, id: PodId, mode: RulesRerun) -> Result<(i32, String), String> {
    lab.apply_rules_again(id, mode).await
}
