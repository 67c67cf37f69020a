//! `lab doctor`: does on a small scale what a lab does, and says what is missing.

use crate::exit::Exit;
use crate::report::terminal;
use crate::world::preflight;

pub(super) fn run() -> Exit {
    match preflight::check() {
        Ok(()) => {
            terminal::print("this machine can run a lab\n");
            Exit::Held
        }
        Err(missing) => {
            terminal::complain(&format!("error: {missing}\n"));
            Exit::Machine
        }
    }
}
