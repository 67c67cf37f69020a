//! `lab __world`: the first process of a lab's namespaces. It runs the whole scenario, and its end is the lab's end.

use std::os::fd::RawFd;

use crate::engine;
use crate::exit::Exit;
use crate::report::terminal;

/// What the host side passes on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The control socket's descriptor
    #[arg(long)]
    control_fd: RawFd,
}

pub(super) fn run(args: &Args) -> Exit {
    match engine::world_main(args.control_fd) {
        Ok(()) => Exit::Held,
        Err(error) => {
            terminal::complain(&format!("error: {}\n", super::run::chain(&error)));
            Exit::Lab
        }
    }
}
