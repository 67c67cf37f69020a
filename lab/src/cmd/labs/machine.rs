//! What a machine must have for labs to run on it.

use std::path::Path;

use crate::exit::Exit;
use crate::report::terminal;
use crate::world::envoy::{self, Envoy};

/// The host's Envoy, where a sidecar needs it.
pub(in crate::cmd) async fn find_envoy(
    is_needed: bool,
    program: Option<&Path>,
) -> Result<Option<Envoy>, Exit> {
    if !is_needed {
        return Ok(None);
    }
    envoy::find(program).await.map(Some).map_err(|missing| {
        terminal::complain(&format!("error: {missing}\n"));
        Exit::Machine
    })
}
