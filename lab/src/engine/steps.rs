//! The steps, one after another: each is done, observed, judged and reported.

use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;

use super::lab::{Lab, role_of};
use super::request::{self, Answer};
use super::state::Running;
use super::{command, facts, faults, identity, life, mesh, reports};
use crate::client::content::Content;
use crate::observe::ObservedLeg;
use crate::report::{AnswerReport, StepReport};
use crate::scenario::model::{
    Action, Actor, BodyMatch, Event, Expect, Gate, PodId, Power, Request, RulesRerun, Step, Target,
};
use crate::scenario::objects::ObjectName;
use crate::verdict::{self, Seen, Verdict};
use crate::within::within;
use crate::world::process;

/// How long a released gate may take to show its effect, and a started process to serve.
const SETTLE: Duration = Duration::from_secs(15);

/// How long a stopped process gets between SIGTERM and SIGKILL (core/v1's default is 30 s; nothing here needs it).
const GRACE: Duration = Duration::from_secs(5);

/// What a step was seen to do.
struct Done {
    seen: Seen,
    legs: Vec<ObservedLeg>,
    notes: Vec<String>,
    /// What a request got.
    answer: Option<AnswerReport>,
    /// The steps inside a `parallel` or `repeat`.
    inner: Vec<StepReport>,
}

impl Done {
    /// A step that has nothing to show but that it was done.
    fn quietly() -> Self {
        Self::of(Seen::default(), Vec::new())
    }

    fn of(seen: Seen, legs: Vec<ObservedLeg>) -> Self {
        Self {
            seen,
            legs,
            notes: Vec::new(),
            answer: None,
            inner: Vec::new(),
        }
    }
}

impl From<Answer> for Done {
    fn from(answer: Answer) -> Self {
        let Answer {
            seen,
            collected,
            notes,
            told,
        } = answer;
        Self {
            seen,
            legs: collected.legs,
            notes,
            answer: Some(told),
            inner: Vec::new(),
        }
    }
}

/// Runs a step, and judges it. `alone` is false while other steps run beside it.
pub(super) async fn run(lab: &Rc<Lab>, step: &Step, alone: bool) -> StepReport {
    let started = Instant::now();
    let deadline = step.expect.eventually.map(|within| started + within);
    loop {
        let (done, verdict) = attempt(lab, step, alone).await;
        let again = !matches!(verdict, Ok(Verdict::Held)) && deadline.is_some_and(|end| Instant::now() < end);
        if again {
            // Whatever makes the next attempt differ shows as a change of state, or as nothing but time.
            let pause = Duration::from_millis(20);
            let changed = lab.watched.changed();
            drop(within(pause, "a change", changed).await);
            continue;
        }
        let mut report = reports::step(step, started.elapsed(), &done.seen, &done.legs, verdict);
        report.notes.extend(done.notes);
        report.answer = done.answer;
        reports::take_in(&mut report, done.inner);
        return report;
    }
}

type Judged = Result<Verdict, String>;

async fn attempt(lab: &Rc<Lab>, step: &Step, alone: bool) -> (Done, Judged) {
    match act(lab, step, alone).await {
        Ok(mut done) => {
            let legs = done.legs.iter();
            done.seen.legs = legs.map(|leg| reports::seen_leg(leg, &lab.swaps)).collect();
            done.seen.pods = facts::of(lab, &step.expect);
            let verdict = verdict::judge(&lab.scenario, &expected(lab, step), &done.seen);
            (done, Ok(verdict))
        }
        Err(why) => (Done::quietly(), Err(why)),
    }
}

/// What a step expects, with the addresses of pods that a body names.
fn expected<'a>(lab: &Lab, step: &'a Step) -> Cow<'a, Expect> {
    let (Action::Request(Request { from, .. }) | Action::Exec { from, .. }) = &step.action else {
        return Cow::Borrowed(&step.expect);
    };
    let from = from.target.pod;
    let body = match &step.expect.body {
        Some(BodyMatch::Exact(text)) => BodyMatch::Exact(lab.plan.expand(text, from)),
        Some(BodyMatch::Contains(text)) => BodyMatch::Contains(lab.plan.expand(text, from)),
        None => return Cow::Borrowed(&step.expect),
    };
    Cow::Owned(Expect {
        body: Some(body),
        ..step.expect.clone()
    })
}

async fn act(lab: &Rc<Lab>, step: &Step, alone: bool) -> Result<Done, String> {
    match &step.action {
        Action::Request(request) => request::send(lab, request, alone).await.map(Done::from),
        Action::Exec {
            from,
            command,
            timeout,
        } => exec(lab, from, command, *timeout).await,
        Action::Hold(pod, gates) => hold(lab, *pod, gates).await,
        Action::Release(pod, gates) => release(lab, *pod, gates).await,
        Action::Start(target) => start(lab, *target).await,
        Action::Stop(target) => stop(lab, *target, Signal::SIGTERM).await,
        Action::Kill(target, number) => {
            let signal = Signal::try_from(*number).map_err(|errno| format!("signal {number}: {errno}"))?;
            stop(lab, *target, signal).await
        }
        Action::Restart(target) => {
            stop(lab, *target, Signal::SIGTERM).await?;
            start(lab, *target).await
        }
        Action::Freeze(target) => faults::freeze(lab, *target).await.map(|()| Done::quietly()),
        Action::Thaw(target) => faults::thaw(lab, *target).map(|()| Done::quietly()),
        Action::Delete(pod) => delete(lab, *pod).await,
        Action::Probe { pod, container, kind } => {
            request::probe(lab, *pod, *container, *kind).await.map(Done::from)
        }
        Action::Apply(object) => {
            lab.watched.change(|state| state.objects.apply(object));
            mesh::republish(lab);
            lab.settled_mesh(SETTLE).await?;
            Ok(Done::quietly())
        }
        Action::Withdraw(which) => withdraw(lab, which).await,
        Action::Istiod(Power::Down) => mesh::istiod_down(lab).await.map(|()| Done::quietly()),
        Action::Istiod(Power::Up) => mesh::istiod_up(lab).await.map(|()| Done::quietly()),
        Action::Link(pod, power) => faults::set_link(lab, *pod, *power)
            .await
            .map(|()| Done::quietly()),
        Action::Netem(pod, impairment) => faults::netem(lab, *pod, impairment)
            .await
            .map(|()| Done::quietly()),
        Action::InvalidSegment { from, port } => {
            faults::invalid_segment(lab, *from, port.get()).map(|()| Done::quietly())
        }
        Action::Rules { pod, mode } => rerun_rules(lab, *pod, *mode).await,
        Action::Wait { event, timeout } => wait(lab, event, *timeout).await,
        Action::Parallel(steps) => parallel(lab, steps).await,
        Action::Repeat { times, steps } => repeat(lab, *times, steps, alone).await,
    }
}

async fn hold(lab: &Rc<Lab>, pod: PodId, gates: &[Gate]) -> Result<Done, String> {
    lab.watched
        .change(|state| state.closed.extend(gates.iter().map(|gate| (pod, *gate))));
    mesh::hold(lab, pod, gates, true).await?;
    Ok(Done::quietly())
}

async fn release(lab: &Rc<Lab>, pod: PodId, gates: &[Gate]) -> Result<Done, String> {
    lab.watched.change(|state| {
        for gate in gates {
            state.closed.remove(&(pod, *gate));
        }
    });
    mesh::hold(lab, pod, gates, false).await?;
    if gates.iter().any(|gate| matches!(gate, Gate::Xds(_))) {
        // What was held is owed now; a new state is not acknowledged before that.
        mesh::republish(lab);
    }
    settle(lab, pod).await?;
    Ok(Done::quietly())
}

/// Waits until everything of the pod that no gate holds has happened, and the mesh knows of it.
async fn settle(lab: &Lab, pod: PodId) -> Result<(), String> {
    let name = &lab.scenario.pod(pod).name;
    let what = format!("pod {name} to start what no gate holds");
    let unsettled = |state: &super::state::State| state.unsettled(&lab.scenario, pod);
    lab.watched
        .wait(
            SETTLE,
            &what,
            |state| unsettled(state).is_empty(),
            |state| unsettled(state).join("; "),
        )
        .await
        .map_err(|error| error.to_string())?;
    lab.settled_mesh(SETTLE).await?;
    lab.accepted()
}

async fn start(lab: &Rc<Lab>, target: Target) -> Result<Done, String> {
    if lab.watched.read(|state| state.process(target).pid().is_some()) {
        return Err(format!("{} runs already", name_of(lab, target)));
    }
    life::start(lab, target).await;
    settle(lab, target.pod).await?;
    Ok(Done::quietly())
}

/// Kubernetes deletes the pod; returns when whoever may know of it knows.
async fn delete(lab: &Rc<Lab>, pod: PodId) -> Result<Done, String> {
    if lab.watched.read(|state| state.pod(pod).kubelet.deleting) {
        return Err(format!("pod {} was deleted already", lab.scenario.pod(pod).name));
    }
    life::delete(lab, pod);
    lab.settled_mesh(SETTLE).await?;
    Ok(Done::quietly())
}

/// An object is deleted; returns when whoever may know of it knows.
async fn withdraw(lab: &Rc<Lab>, which: &ObjectName) -> Result<Done, String> {
    if !lab.watched.change(|state| state.objects.delete(which)) {
        let what = match which {
            ObjectName::Service(index) => format!("service {}", lab.scenario.services[*index].name),
            ObjectName::VirtualService(name) => format!("virtual service {name}"),
            ObjectName::DestinationRule(name) => format!("destination rule {name}"),
        };
        return Err(format!("{what} is not there"));
    }
    mesh::republish(lab);
    lab.settled_mesh(SETTLE).await?;
    Ok(Done::quietly())
}

async fn rerun_rules(lab: &Rc<Lab>, pod: PodId, mode: RulesRerun) -> Result<Done, String> {
    let (code, words) = faults::rerun_rules(lab, pod, mode).await?;
    let seen = Seen {
        exit_code: Some(code),
        body: words,
        ..Seen::default()
    };
    Ok(Done::of(seen, Vec::new()))
}

async fn stop(lab: &Rc<Lab>, target: Target, signal: Signal) -> Result<Done, String> {
    // kubelet would start it again at once; a step that stops it wants it stopped.
    if signal == Signal::SIGTERM && lab.scenario.pod(target.pod).life.ordered {
        lab.watched
            .change(|state| state.member_mut(target).stopped = true);
    }
    let name = name_of(lab, target);
    let Some(pid) = lab.watched.read(|state| state.process(target).pid()) else {
        return Err(format!("{name} does not run"));
    };
    life::signal(pid, signal)?;
    if !ends(signal) {
        return Ok(Done::quietly());
    }
    let gone = |state: &super::state::State| state.process(target).pid() != Some(pid);
    let still = |_: &super::state::State| format!("process {pid} still runs");
    let what = format!("{name} to end after {signal}");
    if lab.watched.wait(GRACE, &what, gone, still).await.is_err() {
        life::signal(pid, Signal::SIGKILL)?;
        lab.watched
            .wait(GRACE, &what, gone, still)
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok(Done::quietly())
}

const fn ends(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGTERM
            | Signal::SIGKILL
            | Signal::SIGINT
            | Signal::SIGQUIT
            | Signal::SIGABRT
            | Signal::SIGSEGV
    )
}

async fn wait(lab: &Rc<Lab>, event: &Event, limit: Duration) -> Result<Done, String> {
    type State = super::state::State;
    let pod_name = |pod: &PodId| lab.scenario.pod(*pod).name.clone();
    let happened = |pod: PodId| move |state: &State| state.pod(pod).events.join("; ");
    match event {
        Event::Ready(pod) => {
            let ready = |state: &State| state.ready(&lab.scenario, *pod);
            let missing = |state: &State| {
                let mut known = state.unsettled(&lab.scenario, *pod);
                known.extend(state.failed_probes(&lab.scenario, *pod));
                known.push(format!("so far: {}", state.pod(*pod).events.join(", ")));
                known.join("; ")
            };
            let what = format!("pod {} to be ready", pod_name(pod));
            until(lab, limit, &what, ready, missing).await?;
            lab.settled_mesh(limit).await?;
        }
        Event::NotReady(pod) => {
            let unready = |state: &State| !state.ready(&lab.scenario, *pod);
            let what = format!("pod {} not to be ready", pod_name(pod));
            until(lab, limit, &what, unready, |_| "it is ready".to_owned()).await?;
            lab.settled_mesh(limit).await?;
        }
        Event::Started(target) => {
            let runs = |state: &State| state.process(*target).pid().is_some();
            let what = format!("{} to run", name_of(lab, *target));
            until(lab, limit, &what, runs, happened(target.pod)).await?;
        }
        Event::Exited(target) => {
            let ended = |state: &State| matches!(state.process(*target), Running::Ended(_));
            let what = format!("{} to end", name_of(lab, *target));
            until(lab, limit, &what, ended, |_| "it runs".to_owned()).await?;
        }
        Event::Phase(pod, phase) => {
            let is = |state: &State| state.phase(&lab.scenario, *pod) == *phase;
            let last = |state: &State| {
                let mut known = vec![state.phase(&lab.scenario, *pod).name().to_owned()];
                known.extend(state.failed_probes(&lab.scenario, *pod));
                known.push(format!("so far: {}", state.pod(*pod).events.join(", ")));
                known.join("; ")
            };
            let what = format!("pod {} to be {}", pod_name(pod), phase.name());
            until(lab, limit, &what, is, last).await?;
        }
        Event::Terminated(pod) => {
            let over = |state: &State| state.pod(*pod).kubelet.terminated;
            let what = format!("pod {} to be terminated", pod_name(pod));
            until(lab, limit, &what, over, happened(*pod)).await?;
            lab.settled_mesh(limit).await?;
        }
        Event::Happened(pod, event) => {
            let has = |state: &State| {
                let mut events = state.pod(*pod).events.iter();
                events.any(|happened| verdict::is_event(event, happened))
            };
            let what = format!("`{event}` in pod {}", pod_name(pod));
            until(lab, limit, &what, has, happened(*pod)).await?;
        }
        Event::Connection { from, port } => return connection(lab, *from, port.get(), limit).await,
    }
    Ok(Done::quietly())
}

async fn until(
    lab: &Lab,
    limit: Duration,
    what: &str,
    holds: impl Fn(&super::state::State) -> bool,
    missing: impl Fn(&super::state::State) -> String,
) -> Result<(), String> {
    let waited = lab.watched.wait(limit, what, holds, missing).await;
    waited.map_err(|error| error.to_string())
}

async fn connection(lab: &Rc<Lab>, from: Target, port: u16, limit: Duration) -> Result<Done, String> {
    let pod = &lab.scenario.pod(from.pod).name;
    let role = lab.scenario.pod(from.pod).role(from.process);
    let what = format!("a connection from {} to port {port}", name_of(lab, from));
    let role = role_of(role);
    let found = async {
        loop {
            match lab.observer.connection_from(pod, &role, port) {
                Ok(Some(legs)) => return Ok(legs),
                Ok(None) => lab.observer.news().await,
                Err(error) => return Err(super::chain(&error)),
            }
        }
    };
    let legs = within(limit, &what, found)
        .await
        .map_err(|error| error.to_string())??;
    Ok(Done::of(Seen::default(), legs))
}

async fn exec(lab: &Rc<Lab>, from: &Actor, program: &[String], limit: Duration) -> Result<Done, String> {
    let identity = identity::acting(&lab.scenario, from);
    let spec = command::beside(lab, from.target, identity, program);
    let role = spec.role.clone();
    let mut process =
        process::spawn(lab.space(from.target.pod), spec).map_err(|error| super::chain(&error))?;
    lab.register(from.target.pod, process.pid(), &role)?;
    let (Some(mut stdout), Some(mut stderr)) = (process.take_stdout(), process.take_stderr()) else {
        return Err("a program without output".to_owned());
    };
    let (mut output, mut words) = (Vec::new(), Vec::new());
    let ended = async {
        let (out, err) = tokio::join!(stdout.read_to_end(&mut output), stderr.read_to_end(&mut words));
        out.and(err)
            .map_err(|error| format!("reading its output: {error}"))?;
        Ok::<_, String>(process.exited().await)
    };
    let status = match within(limit, "the command to end", ended).await {
        Ok(status) => status?,
        Err(too_long) => {
            process.kill().map_err(|error| super::chain(&error))?;
            return Err(too_long.to_string());
        }
    };
    lab.forget(from.target.pod, process.pid());
    let seen = Seen {
        exit_code: Some(status.code()),
        body: String::from_utf8_lossy(&output).into_owned(),
        ..Seen::default()
    };
    let mut done = Done::of(seen, Vec::new());
    done.answer = Some(printed(&output));
    if !words.is_empty() {
        done.notes
            .push(String::from_utf8_lossy(&words).trim_end().to_owned());
    }
    Ok(done)
}

/// What a program printed, for programs that read the report.
fn printed(output: &[u8]) -> AnswerReport {
    let mut content = Content::default();
    content.push(output);
    AnswerReport {
        body: Some(String::from_utf8_lossy(content.kept()).into_owned()),
        body_hex: content.hex(),
        body_length: content.length(),
        body_sha256: content.sha256(),
        ..AnswerReport::default()
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

async fn parallel(lab: &Rc<Lab>, steps: &[Step]) -> Result<Done, String> {
    let all = steps
        .iter()
        .map(|step| Box::pin(run(lab, step, false)) as Boxed<'_, StepReport>);
    let reports = futures_util::future::join_all(all).await;
    Ok(Done {
        inner: reports,
        ..Done::quietly()
    })
}

async fn repeat(lab: &Rc<Lab>, times: u32, steps: &[Step], alone: bool) -> Result<Done, String> {
    let mut reports = Vec::new();
    for round in 1..=times {
        for step in steps {
            let mut report = (Box::pin(run(lab, step, alone)) as Boxed<'_, StepReport>).await;
            report.name = format!("round {round}: {}", report.name);
            reports.push(report);
        }
    }
    Ok(Done {
        inner: reports,
        ..Done::quietly()
    })
}

fn name_of(lab: &Lab, target: Target) -> String {
    let pod = lab.scenario.pod(target.pod);
    format!("{}/{}", pod.name, pod.role(target.process))
}
