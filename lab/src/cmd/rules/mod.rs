//! `lab rules …`: the interception rules themselves, on paper and in a namespace that is no lab's.

mod config;
mod explain;
mod mutate;
mod namespace;
mod render;
mod unreachable;

use clap::Subcommand;

use super::fail;
use crate::exit::Exit;

/// What is done with the rules.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the rules that a configuration makes; needs no root
    Render(render::Args),
    /// Say what the rules would make of a packet, and why; needs no root. A prediction, not an observation
    Explain(explain::Args),
    /// Compare a namespace's rules, or a saved file, with a configuration, order included
    Diff(namespace::DiffArgs),
    /// Load the rules in a network namespace; a second time changes nothing
    Apply(namespace::ApplyArgs),
    /// Run scenarios with one rule changed at a time, and say which step notices, and which rules no step defends
    Mutate(mutate::Args),
    /// Remove from a network namespace what `apply` put there, and nothing else
    Clean(namespace::CleanArgs),
}

/// For whom the output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// People.
    Human,
    /// Programs: one JSON document.
    Json,
}

pub(super) fn run(command: Command) -> Result<Exit, Exit> {
    match command {
        Command::Render(args) => render::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Diff(args) => namespace::diff(&args),
        Command::Apply(args) => namespace::apply(&args),
        Command::Mutate(args) => mutate::run(&args),
        Command::Clean(args) => namespace::clean(&args),
    }
}
