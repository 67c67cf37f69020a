//! What the world process does first: mounts of its own, descriptors kept free, orphans reaped.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};

use crate::net::mount;

/// Descriptors that children get under fixed numbers, so that nothing of this process may have them by chance: the
/// pipe on which `std::process` waits for exec would be overwritten in the child.
const RESERVED: std::ops::RangeInclusive<i32> = 3..=9;

/// Where the pods find Envoy. Its own place may lie in a directory that their user may not enter.
pub const ENVOY: &str = "/run/lab/envoy";

/// What went wrong at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// The host name.
    #[error("setting the host name")]
    HostName(#[source] nix::Error),
    /// Descriptors.
    #[error("reserving descriptors")]
    Descriptors(#[source] io::Error),
}

/// Descriptors that are held for the life of the process.
#[derive(Debug)]
pub struct Settled {
    _reserved: Vec<OwnedFd>,
}

/// Makes the world process at home in its namespaces. `envoy` is the host's, for the pods that run it.
pub fn settle_in(envoy: Option<&Path>) -> Result<Settled, Error> {
    mount::settle_in()?;
    if let Some(program) = envoy {
        mount::program(program, Path::new(ENVOY))?;
    }
    nix::unistd::sethostname("node").map_err(Error::HostName)?;
    Ok(Settled {
        _reserved: reserve().map_err(Error::Descriptors)?,
    })
}

/// Fills what is free of the reserved numbers.
fn reserve() -> io::Result<Vec<OwnedFd>> {
    use std::os::fd::AsRawFd as _;
    let null = File::open("/dev/null")?;
    let mut held = Vec::new();
    loop {
        let next: OwnedFd = null.try_clone()?.into();
        let beyond = next.as_raw_fd() > *RESERVED.end();
        held.push(next);
        if beyond {
            held.push(null.into());
            return Ok(held);
        }
    }
}

/// A copy of a descriptor beyond the reserved numbers.
pub fn beyond_reserved(descriptor: &OwnedFd) -> nix::Result<OwnedFd> {
    let copy = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(*RESERVED.end() + 1))?;
    Ok(crate::sys::take_descriptor(copy))
}
