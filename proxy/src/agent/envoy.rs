//! Envoy as the data plane: its bootstrap in a file, and its command line.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bootstrap::Bootstrap;

/// How often Envoy writes its access log out, in milliseconds: a path is joined by its lines. Its own is 10 s.
const FLUSH: &str = "10";

/// An Envoy that can be started. Its bootstrap is removed with this value.
#[derive(Debug)]
pub(crate) struct Envoy {
    program: PathBuf,
    bootstrap: tempfile::NamedTempFile,
    concurrency: String,
    drain_time: String,
    local_address: &'static str,
}

impl Envoy {
    /// Writes the bootstrap.
    pub(super) fn prepare(program: &Path, bootstrap: &Bootstrap) -> io::Result<Self> {
        // Envoy tells the format by the file's name.
        let mut file = tempfile::Builder::new()
            .prefix("envoy-")
            .suffix(".json")
            .tempfile()?;
        file.write_all(format!("{:#}\n", bootstrap.envoy_json()).as_bytes())?;
        Ok(Self {
            program: program.to_owned(),
            bootstrap: file,
            concurrency: bootstrap.concurrency.to_string(),
            drain_time: bootstrap.drain_time.as_secs().to_string(),
            local_address: if bootstrap.instance_ips.iter().any(IpAddr::is_ipv4) {
                "v4"
            } else {
                "v6"
            },
        })
    }

    /// What starts it.
    pub(super) fn command(&self) -> Command {
        #[expect(clippy::disallowed_methods, reason = "the agent starts the data plane")]
        let mut command = Command::new(&self.program);
        command.arg("--config-path").arg(self.bootstrap.path()).args([
            "--concurrency",
            &self.concurrency,
            // Two Envoys in one namespace of shared memory would meet there.
            "--disable-hot-restart",
            "--file-flush-interval-msec",
            FLUSH,
            // As pilot-agent has it: clients are told as soon as a drain begins.
            "--drain-strategy",
            "immediate",
            "--drain-time-s",
            &self.drain_time,
            "--local-address-ip-version",
            self.local_address,
            "--log-level",
            "warning",
        ]);
        command
    }
}
