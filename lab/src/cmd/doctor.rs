//! `lab doctor`: does on a small scale what a lab does, and says what is missing.

use super::labs;
use crate::exit::Exit;
use crate::report::terminal;
use crate::world::envoy;

pub(super) fn run() -> Result<Exit, Exit> {
    let machine = labs::ready([], None)?;
    let envoy = match machine.runtime.block_on(envoy::find(None)) {
        Ok(envoy) => format!("Envoy {}: {}", envoy.version, envoy.path.display()),
        Err(missing) => format!("no `proxy: envoy`: {missing}"),
    };
    let nft = match iptables::apply::find_nft() {
        Ok(path) => format!("nft: {}", path.display()),
        Err(missing) => format!("no `backend: nftables`: {missing}"),
    };
    terminal::print(&format!("this machine can run a lab\n{envoy}\n{nft}\n"));
    Ok(Exit::Held)
}
