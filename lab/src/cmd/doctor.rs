//! `lab doctor`: does on a small scale what a lab does, and says what is missing.

use crate::exit::Exit;
use crate::report::terminal;
use crate::world::envoy;
use crate::world::preflight;

pub(super) fn run() -> Exit {
    if let Err(missing) = preflight::check() {
        terminal::complain(&format!("error: {missing}\n"));
        return Exit::Machine;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal::complain(&format!("error: starting the runtime: {error}\n"));
            return Exit::Lab;
        }
    };
    let envoy = match runtime.block_on(envoy::find(None)) {
        Ok(envoy) => format!("Envoy {}: {}", envoy.version, envoy.path.display()),
        Err(missing) => format!("no `proxy: envoy`: {missing}"),
    };
    let nft = match iptables::apply::find_nft() {
        Ok(path) => format!("nft: {}", path.display()),
        Err(missing) => format!("no `backend: nftables`: {missing}"),
    };
    terminal::print(&format!("this machine can run a lab\n{envoy}\n{nft}\n"));
    Exit::Held
}
