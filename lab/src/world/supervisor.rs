//! The host side of a lab: starts the world process, and knows when it has ended.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::sys;

/// The descriptor of the control socket in the world process.
const CONTROL: i32 = 3;

/// What could not be done about the world process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that it needs.
    #[error("preparing the world process: {what}")]
    Prepare {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The namespaces.
    #[error(
        "making PID, mount, network, IPC and UTS namespaces (needs root; a container needs --privileged)"
    )]
    Clone(#[source] Errno),
}

/// The first process of a lab's namespaces. Dropping it kills it, and the kernel then removes all that it made.
#[derive(Debug)]
pub struct WorldProcess {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    control: Option<UnixStream>,
    ended: bool,
}

/// Starts a world process. Call it from a thread that lives as long as the lab: the world dies with it.
pub fn spawn_world() -> Result<WorldProcess, Error> {
    let failed = |what: &'static str| move |source| Error::Prepare { what, source };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed("a socket pair"))?;
    let image = sys::own_image().map_err(failed("its program"))?;
    let args = ["lab", "__world", "--control-fd", &CONTROL.to_string()].map(sys::c_string);
    let pid = sys::clone_world(&image, &args, &OwnedFd::from(theirs), CONTROL).map_err(Error::Clone)?;
    let pidfd = sys::pidfd_open(pid).map_err(|errno| failed("a pidfd")(errno.into()))?;
    let pidfd = sys::await_pidfd(pidfd).map_err(failed("waiting for its end"))?;
    ours.set_nonblocking(true).map_err(failed("its control socket"))?;
    let control = UnixStream::from_std(ours).map_err(failed("its control socket"))?;
    Ok(WorldProcess {
        pid,
        pidfd,
        control: Some(control),
        ended: false,
    })
}

impl WorldProcess {
    /// The control socket; none if it was taken before.
    pub fn take_control(&mut self) -> Option<UnixStream> {
        self.control.take()
    }

    /// Returns when the process has ended, with how it ended in words.
    pub async fn exited(&mut self) -> String {
        loop {
            // A pidfd becomes readable when its process ends (pidfd_open(2)), and stays so.
            if self.pidfd.readable().await.is_err() {
                return "its end could not be awaited".to_owned();
            }
            match waitid(
                Id::PIDFd(std::os::fd::AsFd::as_fd(self.pidfd.get_ref())),
                WaitPidFlag::WEXITED,
            ) {
                Ok(status) => {
                    self.ended = true;
                    return describe(status);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    return format!(
                        "its end could not be read from descriptor {}: {errno}",
                        self.pidfd.as_raw_fd()
                    );
                }
            }
        }
    }

    /// Ends it at once.
    pub fn kill(&self) {
        if !self.ended {
            // An error can only mean that it has ended already.
            kill(self.pid, Signal::SIGKILL).unwrap_or_default();
        }
    }
}

impl Drop for WorldProcess {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            // Reaped, or gone already.
            let _status = waitid(Id::Pid(self.pid), WaitPidFlag::WEXITED);
        }
    }
}

fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        other @ (WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive) => format!("{other:?}"),
    }
}
