//! Scenario files that a command is given.

use std::path::PathBuf;

use crate::exit::Exit;
use crate::report::terminal;
use crate::scenario::model::ProxyKind;
use crate::scenario::{self, Loaded, Warning};

/// Everything that was read and found right before anything is created.
pub(in crate::cmd) struct Checked {
    pub(in crate::cmd) file: PathBuf,
    pub(in crate::cmd) text: String,
    pub(in crate::cmd) loaded: Loaded,
}

/// Reads every file, and complains of all mistakes in all of them at once. `proxy` is the data plane of every sidecar,
/// whatever the files say.
pub(in crate::cmd) fn check_files(
    files: &[PathBuf],
    proxy: Option<ProxyKind>,
    warn: impl Fn(&Warning),
) -> Result<Vec<Checked>, Exit> {
    let mut checked = Vec::new();
    let mut wrong = false;
    for file in files {
        match scenario::load(file) {
            Ok((text, mut loaded)) => {
                loaded.warnings.iter().for_each(&warn);
                if let Some(proxy) = proxy {
                    loaded.scenario.run_by(proxy);
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
