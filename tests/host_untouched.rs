//! Before and after any run, passed, failed, interrupted or killed, the host is the same.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Lab;
use crate::support::host::{Host, descendants};

fn startup_order(only: &str) -> Lab {
    Lab::shipped("startup-order.yaml")
        .arg("--output=human")
        .arg("--only")
        .arg(only)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// The kernel takes a dead world process's namespaces apart on its own time; its processes go at once.
#[track_caller]
fn all_gone(processes: &[i32]) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let alive = |pid: &i32| kill(Pid::from_raw(*pid), None).is_ok();
    while processes.iter().any(alive) {
        assert!(
            Instant::now() < deadline,
            "still there: {:?}",
            processes.iter().filter(|pid| alive(pid)).collect::<Vec<_>>()
        );
        std::thread::yield_now();
    }
}

#[test]
fn passed_and_failed_runs_leave_the_host_as_it_was() {
    let before = Host::now();
    startup_order("Case 1: app before sidecar, the app's first call").status(0);
    assert_eq!(Host::now(), before);
    Lab::scenario(
        "name: f\npods: [{name: a, sidecar: false, containers: [{name: a}]}]\n\
         steps: [{name: s, exec: {from: a, command: ['false']}}]\n",
    )
    .status(1);
    assert_eq!(Host::now(), before);
}

/// A signal after each of the first lines of output, and at moments in between.
#[test]
fn interrupted_at_any_moment() {
    let before = Host::now();
    for moment in 0..12_u32 {
        let lab = startup_order("Case");
        let mut child = lab.spawn();
        let deadline = Instant::now() + Duration::from_millis(u64::from(moment) * 25);
        while Instant::now() < deadline {
            std::thread::yield_now();
        }
        let below = descendants(child.id());
        // Nobody reads its output, so at the last moments it may be blocked by that; and a signal between its last lab
        // and its output is one that came too late.
        let pressed = std::iter::repeat_with(|| {
            kill(pid(&child), Signal::SIGINT).unwrap();
            let patience = Instant::now() + Duration::from_secs(5);
            std::iter::repeat_with(|| child.try_wait().unwrap())
                .inspect(|_| std::thread::yield_now())
                .find(|ended| ended.is_some() || Instant::now() > patience)
                .flatten()
        });
        let status = pressed.take(4).flatten().next().expect("Ctrl-C ends it");
        // A signal before `lab` catches it, or when it has no lab any more, ends it as it ends any process.
        let ended_by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(2);
        assert!(
            status.code() == Some(130) || ended_by_signal,
            "after {} ms: {status}",
            moment * 25
        );
        all_gone(&below);
        assert_eq!(Host::now(), before, "after {} ms", moment * 25);
    }
}

#[test]
fn killed_without_a_chance_to_clean_up() {
    let before = Host::now();
    let lab = Lab::shipped("startup-order.yaml").arg("--output=human");
    let mut child = lab.spawn();
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.map(|line| line.unwrap()).any(|line| line.contains("up in")));
    let below = descendants(child.id());
    assert!(below.len() > 8, "a lab that is up has many processes: {below:?}");
    kill(pid(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    all_gone(&below);
    assert_eq!(Host::now(), before);
}

/// The first process of the lab is stopped, so it cannot hear that it is to come down.
#[test]
fn interrupted_while_it_does_not_listen() {
    let before = Host::now();
    let lab = Lab::shipped("startup-order.yaml").arg("--output=human");
    let mut child = lab.spawn();
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.map(|line| line.unwrap()).any(|line| line.contains("up in")));
    let below = descendants(child.id());
    let world = below[0];
    kill(Pid::from_raw(world), Signal::SIGSTOP).unwrap();
    kill(pid(&child), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{status}");
    all_gone(&below);
    assert_eq!(Host::now(), before);
}

#[test]
fn two_labs_at_once_do_not_meet() {
    let file = crate::support::root().join("scenarios/startup-order.yaml");
    let file = file.to_str().unwrap();
    let ended = Lab::new("run")
        .arg("--output=json")
        .arg("--jobs=3")
        .arg(file)
        .arg(file)
        .arg(file)
        .status(0);
    let document = ended.json();
    let scenarios = document["scenarios"].as_array().unwrap();
    assert_eq!(scenarios.len(), 3);
    assert!(
        scenarios.iter().all(|scenario| scenario["result"] == "pass"),
        "{document:#}"
    );
}
