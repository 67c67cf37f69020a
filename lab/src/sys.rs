//! Every `unsafe` of this crate: what must happen between fork and exec, and system calls that no crate wraps.

use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Takes over a descriptor that the parent process left open under this number for this process alone.
pub fn take_descriptor(number: RawFd) -> OwnedFd {
    // SAFETY: the number comes from the command line of a hidden subcommand whose parent opened it for this process,
    // and each entry point takes its own once, before anything else could have closed or reused it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // Children of this process have no business with it.
    let close_on_exec = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    let done = nix::fcntl::fcntl(&descriptor, close_on_exec);
    // Of a descriptor that is not open, its first use will tell.
    debug_assert!(done.is_ok(), "descriptor {number} is not open");
    descriptor
}
