//! Labs that the host starts, watches, and takes down: what `lab run`, `lab race` and `lab rules mutate` have in common.

mod drive;
mod files;
mod interruption;
mod jobs;
mod machine;

pub(super) use drive::{Show, Steps, drive, request_of, run_quietly};
pub(super) use files::{Checked, check_files};
pub(super) use interruption::{Interruption, Stop};
pub(super) use jobs::{Jobs, Next, by_processors};
pub(super) use machine::{ready, runtime};
