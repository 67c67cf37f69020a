//! Network sysctls of the namespace that the calling thread is in.

use std::io;
use std::path::PathBuf;

/// A sysctl that could not be set.
#[derive(Debug, thiserror::Error)]
#[error("setting {} to {value}", path.display())]
pub struct Error {
    path: PathBuf,
    value: String,
    #[source]
    source: io::Error,
}

/// Sets `net.NAME` (`ipv4/ip_forward`) in the network namespace of the calling thread.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    // /proc/sys/net is a view of the reading task's own network namespace.
    let path = PathBuf::from(format!("/proc/sys/net/{name}"));
    std::fs::write(&path, value).map_err(|source| Error {
        path,
        value: value.to_owned(),
        source,
    })
}
