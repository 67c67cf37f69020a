//! The subcommands: a module each, with its clap type, its help and its `run`; `labs`: what those that start labs share.

mod doctor;
mod labs;
mod race;
mod rules;
mod run;
mod world;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::exit::Exit;
use crate::report::terminal;

/// A single-node service-mesh lab in Linux network namespaces: runs a scenario, and checks the path that the kernel
/// reported for each connection.
#[derive(Debug, Parser)]
#[command(
    name = "lab",
    version,
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the lab, run the steps, check them, take the lab down
    Run(run::Args),
    /// Run every order in which a pod's start can go, and say what decides
    Race(race::Args),
    /// The interception rules themselves: print, explain, compare, apply, remove
    Rules {
        /// What about them
        #[command(subcommand)]
        command: rules::Command,
    },
    /// Say whether this machine can run a lab, and what to do if not
    Doctor,
    /// Print the JSON Schema of scenario files
    Schema,
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The process that holds a lab's namespaces
    #[command(name = "__world", hide = true)]
    World(world::Args),
    /// The control plane, in its pod
    #[command(hide = true)]
    Istiod(crate::istiod::Args),
    /// The sidecar, in its pod
    #[command(hide = true)]
    Sidecar {
        /// Which of its two processes
        #[command(subcommand)]
        part: proxy::cli::Sidecar,
    },
    /// The built-in workload, in its pod
    #[command(hide = true)]
    App(crate::app::Args),
    /// One request, sent from where this process runs
    #[command(hide = true)]
    Request(crate::client::Args),
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command {
        Command::Run(args) => code(run::run(args)),
        Command::Race(args) => code(race::run(args)),
        Command::Rules { command } => code(rules::run(command)),
        Command::Doctor => code(doctor::run()),
        Command::Schema => {
            terminal::print(&format!("{:#}\n", crate::scenario::schema()));
            Exit::Held.into()
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lab", &mut text);
            terminal::print(&String::from_utf8_lossy(&text));
            Exit::Held.into()
        }
        Command::World(args) => world::run(&args).into(),
        Command::Istiod(args) => crate::istiod::run(args),
        Command::Sidecar { part } => proxy::cli::run(part, &[OsStr::new("sidecar")]),
        Command::App(args) => crate::app::run(args),
        Command::Request(args) => crate::client::run(args),
    }
}

/// A command that cannot go on gives the status that it ends with as an error.
fn code(done: Result<Exit, Exit>) -> ExitCode {
    done.unwrap_or_else(|exit| exit).into()
}

/// Complains, and gives the exit status.
fn fail(exit: Exit, message: &str) -> Exit {
    terminal::complain(&format!("error: {message}\n"));
    exit
}

/// Help and version are no failure; anything else is bad usage.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().ansi().to_string();
    if error.use_stderr() {
        terminal::complain(&text);
        Exit::Usage.into()
    } else {
        terminal::print(&text);
        Exit::Held.into()
    }
}
