//! A program that runs in a container beside what the container runs: of a hook, a probe, an `exec` step.

use super::lab::Lab;
use crate::scenario::model::{ProcessName, Target};
use crate::world::process::{Identity, Program, Spec, Stdin};

/// The program, in the environment of the process that it stands beside.
pub(super) fn beside(lab: &Lab, target: Target, identity: Identity, command: &[String]) -> Spec {
    let pod = lab.scenario.pod(target.pod);
    let expand = |word: &String| lab.plan.expand(word, target.pod);
    Spec {
        role: pod.role(target.process).to_owned(),
        program: Program::Command(command.iter().map(expand).collect()),
        identity,
        env: match target.process {
            ProcessName::Container(id) => pod.container(id).env.clone(),
            ProcessName::Sidecar | ProcessName::Agent => Vec::new(),
        },
        stdin: Stdin::Null,
        inherit: Vec::new(),
    }
}
