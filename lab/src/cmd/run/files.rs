//! The files of a run, and which of their steps are asked for.

use std::path::PathBuf;

use crate::cmd::fail;
use crate::exit::Exit;
use crate::report::terminal;
use crate::scenario::{self, Loaded};

/// Everything that was read and found right before anything is created.
pub(super) struct Checked {
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) loaded: Loaded,
}

/// Reads every file, and complains of all mistakes in all of them at once.
pub(super) fn check_files(files: &[PathBuf]) -> Result<Vec<Checked>, Exit> {
    let mut checked = Vec::new();
    let mut wrong = false;
    for file in files {
        match scenario::load(file) {
            Ok((text, loaded)) => {
                for warning in &loaded.warnings {
                    terminal::complain(&format!("{}\n", warning.render()));
                }
                checked.push(Checked {
                    file: file.clone(),
                    text,
                    loaded,
                });
            }
            Err(error) => {
                terminal::complain(&format!("{}\n", error.render()));
                wrong = true;
            }
        }
    }
    if wrong { Err(Exit::Usage) } else { Ok(checked) }
}

pub(super) fn check_only(only: &[String], checked: &[Checked]) -> Result<(), Exit> {
    for wanted in only {
        let names = || {
            checked
                .iter()
                .flat_map(|file| &file.loaded.scenario.steps)
                .map(|step| &step.name)
        };
        if !names().any(|name| name.contains(wanted.as_str())) {
            let list = names().map(|name| format!("\n  {name}")).collect::<String>();
            let why = format!("--only `{wanted}`: no step's name contains it; steps are:{list}");
            return Err(fail(Exit::Usage, &why));
        }
    }
    Ok(())
}
