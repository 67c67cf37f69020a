//! Readiness made known: the pods that are ready are the endpoints that istiod and kube-proxy are told.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::identity;
use super::lab::Lab;
use super::state::State;
use crate::istiod::registry::{Command, Report};
use crate::plan::{ISTIOD_HTTP_PORT, ISTIOD_XDS_PORT};
use crate::scenario::model::{Gate, PodId, XdsType};
use crate::world::process::{self, Program, Spec, Stdin};

/// How long istiod may take to end, and to be found again.
const LIMIT: Duration = Duration::from_secs(15);

/// The descriptor of istiod's control socket.
const CONTROL_FD: i32 = 3;

/// Starts istiod in its pod; it stays until the lab comes down.
pub(super) fn start_istiod(lab: &Rc<Lab>) -> Result<(), String> {
    let said = |error: io::Error| format!("making istiod's control socket: {error}");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(said)?;
    ours.set_nonblocking(true).map_err(said)?;
    let control = UnixStream::from_std(ours).map_err(said)?;
    let mut args: Vec<String> = ["istiod", "--control-fd", &CONTROL_FD.to_string()]
        .map(str::to_owned)
        .into();
    if lab.plan.istiod_ip.v6().is_some() {
        // These take IPv4 too.
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).to_string();
        args.extend(["--xds-address".to_owned(), any(ISTIOD_XDS_PORT)]);
        args.extend(["--monitoring-address".to_owned(), any(ISTIOD_HTTP_PORT)]);
    }
    let theirs = OwnedFd::from(theirs);
    let spec = Spec {
        role: "istiod".to_owned(),
        program: Program::Lab(args),
        identity: identity::proxy(),
        env: Vec::new(),
        stdin: Stdin::Null,
        inherit: vec![(theirs.as_fd().try_clone_to_owned().map_err(said)?, CONTROL_FD)],
    };
    drop(theirs);
    let mut process = process::spawn(&lab.istiod, spec)
        .map_err(|error| format!("starting istiod: {}", super::chain(&error)))?;
    let pid = process.pid();
    lab.istiod_pid.set(Some(pid));
    let (read, write) = control.into_split();
    *lab.istiod_commands.borrow_mut() = Some(write);
    let task_lab = Rc::clone(lab);
    lab.spawn(async move {
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(report) => take(&task_lab, &report),
                Err(error) => task_lab.watched.fail(format!("istiod said `{line}`: {error}")),
            }
        }
    });
    let (stdout, stderr) = (process.take_stdout(), process.take_stderr());
    let task_lab = Rc::clone(lab);
    lab.spawn(async move {
        let mut last = String::new();
        if let Some(stderr) = stderr {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                last = line;
            }
        }
        let ended = process.exited().await;
        drop(stdout);
        task_lab.istiod_pid.set(None);
        if task_lab.watched.change(|state| state.istiod_down) {
            return;
        }
        task_lab
            .watched
            .fail(format!("istiod ended: {ended}; its last words: {last}"));
    });
    Ok(())
}

fn take(lab: &Lab, report: &Report) {
    match report {
        Report::Listening => lab.watched.change(|state| state.istiod_listening = true),
        Report::Synced { generation } => lab.watched.change(|state| state.synced = *generation),
        Report::Nack {
            node_id,
            kind,
            version,
            message,
        } => {
            // Envoy says the whole resource first, in many lines, and then what is wrong with it.
            let words = message.rsplit_once("\n: ").map_or(&**message, |(_, words)| words);
            lab.nacks
                .borrow_mut()
                .push(format!("{node_id} refused {kind} version {version}: {words}"));
            lab.watched.change(|_| ());
        }
        Report::Connected { node_id } => {
            lab.watched
                .change(|state| state.connected.insert(node_id.clone()));
        }
        Report::Disconnected { .. } | Report::Ack { .. } => {}
    }
}

/// Tells istiod something.
pub(super) async fn tell(lab: &Lab, command: &Command) -> Result<(), String> {
    if lab.watched.read(|state| state.istiod_down) {
        return Ok(());
    }
    let mut text = serde_json::to_string(command).map_err(|error| error.to_string())?;
    text.push('\n');
    let _turn = lab.telling.lock().await;
    // One writer at a time: it is taken out while the line is written.
    let Some(mut writer) = lab.istiod_commands.borrow_mut().take() else {
        return Err("istiod is not running".to_owned());
    };
    let written = writer.write_all(text.as_bytes()).await;
    *lab.istiod_commands.borrow_mut() = Some(writer);
    written.map_err(|error| format!("telling istiod: {error}"))
}

/// Holds or releases xDS types of a pod at istiod.
pub(super) async fn hold(lab: &Lab, id: PodId, gates: &[Gate], closed: bool) -> Result<(), String> {
    for gate in gates {
        let Gate::Xds(kind) = gate else { continue };
        let (pod, kind) = (lab.scenario.pod(id).name.clone(), xds_name(*kind).to_owned());
        let command = if closed {
            Command::Hold { pod, kind }
        } else {
            Command::Release { pod, kind }
        };
        tell(lab, &command).await?;
    }
    Ok(())
}

const fn xds_name(kind: XdsType) -> &'static str {
    match kind {
        XdsType::Cds => "cds",
        XdsType::Eds => "eds",
        XdsType::Lds => "lds",
        XdsType::Rds => "rds",
        XdsType::Nds => "nds",
    }
}

/// Ends istiod at once. Sidecars go on with what they have.
pub(super) async fn istiod_down(lab: &Rc<Lab>) -> Result<(), String> {
    let Some(pid) = lab.istiod_pid.get() else {
        return Err("istiod does not run".to_owned());
    };
    lab.watched.change(|state| {
        (state.istiod_down, state.istiod_listening) = (true, false);
        state.connected.clear();
    });
    drop(lab.istiod_commands.borrow_mut().take());
    // It may have ended by itself: its control socket is closed.
    drop(super::life::signal(pid, nix::sys::signal::Signal::SIGKILL));
    let gone = |_: &State| lab.istiod_pid.get().is_none();
    lab.watched
        .wait(LIMIT, "istiod to end", gone, |_| format!("process {pid} runs"))
        .await
        .map_err(|error| error.to_string())
}

/// Starts istiod again; returns when every sidecar that runs has its stream and all that it is to know.
pub(super) async fn istiod_up(lab: &Rc<Lab>) -> Result<(), String> {
    if lab.istiod_pid.get().is_some() {
        return Err("istiod runs already".to_owned());
    }
    start_istiod(lab)?;
    let closed: Vec<_> = lab.watched.change(|state| {
        state.istiod_down = false;
        state.closed.iter().copied().collect()
    });
    for (id, gate) in closed {
        hold(lab, id, &[gate], true).await?;
    }
    // The first state makes it serve; to nobody, which counts as acknowledged by all.
    republish(lab);
    let unconnected = |state: &State| {
        let live = |(id, _): &(PodId, _)| state.pod(*id).sidecar_ready;
        let ids = lab.scenario.pods_with_ids().filter(live);
        ids.map(|(id, _)| lab.plan.pod(id))
            .filter(|pod| !state.connected.contains(&pod.node_id))
            .map(|pod| pod.name.clone())
            .collect::<Vec<_>>()
    };
    lab.watched
        .wait(
            LIMIT,
            "every sidecar to find istiod again",
            |state| unconnected(state).is_empty(),
            |state| format!("not yet: {}", unconnected(state).join(", ")),
        )
        .await
        .map_err(|error| error.to_string())?;
    // The second is acknowledged by those who are there.
    republish(lab);
    lab.settled_mesh(LIMIT).await
}

/// Has the state told once more, though nothing has changed.
pub(super) fn republish(lab: &Lab) {
    lab.stale.set(true);
    lab.watched.change(|_| ());
}

/// Follows readiness: whenever the set of ready pods changes, istiod and kube-proxy are told the new one.
pub(super) async fn follow(lab: Rc<Lab>) {
    loop {
        lab.watched
            .until(|state| lab.stale.get() || lab.told.borrow().as_ref() != Some(&lab.ready(state)))
            .await;
        lab.stale.set(false);
        let (set, generation) = lab.watched.change(|state| {
            state.wanted += 1;
            (lab.ready(state), state.wanted)
        });
        *lab.told.borrow_mut() = Some(set.clone());
        if let Err(error) = publish(&lab, &set, generation).await {
            lab.watched.fail(error);
            return;
        }
    }
}

async fn publish(lab: &Lab, set: &BTreeSet<PodId>, generation: u64) -> Result<(), String> {
    let registry = lab
        .watched
        .read(|state| lab.plan.registry(&lab.scenario, set, &state.objects));
    let services = lab.plan.kube_proxy(&registry);
    // The kernel takes its time to commit rules (an RCU grace period); the sidecars are told meanwhile.
    let command = Command::State { generation, registry };
    let (told, applied) = tokio::join!(tell(lab, &command), lab.apply_services(&services));
    told.and(applied)?;
    lab.watched.change(|state| state.routed = generation);
    Ok(())
}
