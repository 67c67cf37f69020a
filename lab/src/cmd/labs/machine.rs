//! What a machine must have for labs to run on it.

use std::fmt::Display;
use std::path::Path;

use tokio::runtime::{Builder, Runtime};

use crate::cmd::fail;
use crate::exit::Exit;
use crate::scenario::model::{ProxyKind, Scenario};
use crate::world::envoy::{self, Envoy};
use crate::world::preflight;

/// A machine that has what labs need.
#[derive(Debug)]
pub(in crate::cmd) struct Machine {
    /// Where the host side of the labs runs.
    pub(in crate::cmd) runtime: Runtime,
    /// The host's Envoy, where a sidecar needs it.
    pub(in crate::cmd) envoy: Option<Envoy>,
}

/// Looks for all that labs of these scenarios need, before anything is created; complains of what is missing.
pub(in crate::cmd) fn ready<'s>(
    scenarios: impl IntoIterator<Item = &'s Scenario>,
    envoy_bin: Option<&Path>,
) -> Result<Machine, Exit> {
    preflight::check().map_err(missing)?;
    let mut needs_envoy = false;
    for scenario in scenarios {
        preflight::nft(scenario).map_err(missing)?;
        needs_envoy |= scenario.has(ProxyKind::Envoy);
    }
    let runtime = runtime()?;
    let envoy = if needs_envoy {
        let found = runtime.block_on(envoy::find(envoy_bin));
        Some(found.map_err(missing)?)
    } else {
        None
    };
    Ok(Machine { runtime, envoy })
}

fn missing(what: impl Display) -> Exit {
    fail(Exit::Machine, &what.to_string())
}

/// A runtime of one thread.
pub(in crate::cmd) fn runtime() -> Result<Runtime, Exit> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| fail(Exit::Lab, &format!("starting the runtime: {error}")))
}
