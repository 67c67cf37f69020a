//! Every `unsafe` of this crate: what must happen between fork and exec, and system calls that no crate wraps.

mod capabilities;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use netlink_sys::Socket;
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

pub use capabilities::Capabilities;

/// Takes over a descriptor that the parent process left open under this number for this process alone.
pub fn take_descriptor(number: RawFd) -> OwnedFd {
    // SAFETY: the number comes from the command line of a hidden subcommand whose parent opened it for this process,
    // and each entry point takes its own once, before anything else could have closed or reused it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // Children of this process have no business with it.
    nix::fcntl::fcntl(
        &descriptor,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .unwrap_or_default();
    descriptor
}

/// Lets SIGINT and SIGTERM end this process at once from now on.
pub fn default_signals() {
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM] {
        // SAFETY: the default disposition runs no handler; nobody asks for the former one.
        let before = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
        before.map(drop).unwrap_or_default();
    }
}

/// An open descriptor of this program that any user may execute, wherever the file lies.
///
/// A file that others may not execute is copied to a memory file once.
pub fn own_image() -> io::Result<File> {
    let file = File::open("/proc/self/exe")?;
    if file.metadata()?.mode() & 0o001 != 0 {
        return Ok(file);
    }
    let name = c"lab";
    let memory = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .map_err(io::Error::from)?;
    let mut memory = File::from(memory);
    io::copy(&mut &file, &mut memory)?;
    // Executing a file that is open for writing fails (ETXTBSY): reopen it for reading.
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
}

/// The first process of new PID, mount, network, IPC and UTS namespaces: this program, with these arguments, the
/// descriptor `control` at `control_number`, standard input from /dev/null. It dies with the calling thread.
pub fn clone_world(
    image: &File,
    args: &[CString],
    control: &OwnedFd,
    control_number: RawFd,
) -> nix::Result<Pid> {
    let flags = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let environment: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            let mut text = name.into_encoded_bytes();
            text.push(b'=');
            text.extend(value.into_encoded_bytes());
            CString::new(text).ok()
        })
        .collect();
    let null = File::open("/dev/null").map_err(|_error| Errno::ENOENT)?;
    let mut stack = vec![0_u8; 256 * 1024];
    let become_world = || -> isize {
        let steps = nix::unistd::setsid()
            .and_then(|_| nix::unistd::dup2_stdin(&null))
            .and_then(|()| dup_to(control.as_raw_fd(), control_number))
            .and_then(|()| nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL))
            .and_then(|()| {
                nix::unistd::execveat(image, c"", args, &environment, nix::fcntl::AtFlags::AT_EMPTY_PATH)
            });
        match steps {
            Ok(never) => match never {},
            Err(errno) => errno as isize,
        }
    };
    let signal = Some(nix::sys::signal::Signal::SIGCHLD as i32);
    // SAFETY: the child shares no memory with us (no CLONE_VM), so it may use the stack and read what was prepared; it
    // makes only system calls before it executes, which is safe also if this process has threads.
    unsafe { nix::sched::clone(Box::new(become_world), &mut stack, flags, signal) }
}

fn dup_to(from: RawFd, to: RawFd) -> nix::Result<()> {
    if from == to {
        // SAFETY: `from` is open in this process: the caller holds it.
        let done = unsafe { libc::fcntl(from, libc::F_SETFD, 0) };
        return Errno::result(done).map(drop);
    }
    // SAFETY: `from` is open; whatever `to` was in this freshly cloned process is of no use to what it executes.
    let done = unsafe { libc::dup2(from, to) };
    Errno::result(done).map(drop)
}

/// What a pod's process becomes between fork and exec.
#[derive(Debug)]
pub struct Confinement {
    /// The pod's mount namespace.
    pub mounts: OwnedFd,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The capabilities that it keeps.
    pub capabilities: Capabilities,
    /// Descriptors that it gets, and under which numbers.
    pub inherit: Vec<(OwnedFd, RawFd)>,
    /// Where the number of a failed step is told.
    pub failed_step: OwnedFd,
}

/// What is done between fork and exec, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ConfineStep {
    /// A session of its own.
    Session = 1,
    /// Its descriptors.
    Descriptors,
    /// The pod's mount namespace.
    Mounts,
    /// No capability that it does not keep can come back.
    Bounding,
    /// Supplementary groups.
    Groups,
    /// Group.
    Gid,
    /// User.
    Uid,
    /// No capabilities but those that it keeps.
    Capabilities,
    /// Nothing it executes can raise its privilege.
    NoNewPrivs,
    /// What is in effect is what was asked for.
    ReadBack,
    /// It dies with the lab.
    DeathSignal,
}

impl ConfineStep {
    const ALL: [Self; 11] = [
        Self::Session,
        Self::Descriptors,
        Self::Mounts,
        Self::Bounding,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Capabilities,
        Self::NoNewPrivs,
        Self::ReadBack,
        Self::DeathSignal,
    ];

    /// The step with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == number)
    }

    /// In words, after "failed to".
    pub const fn words(self) -> &'static str {
        match self {
            Self::Session => "start a session of its own",
            Self::Descriptors => "pass its descriptors on",
            Self::Mounts => "enter the pod's mount namespace",
            Self::Bounding => "drop the capability bounding set",
            Self::Groups => "set its supplementary groups",
            Self::Gid => "become its group",
            Self::Uid => "become its user",
            Self::Capabilities => "drop its capabilities",
            Self::NoNewPrivs => "set no_new_privs",
            Self::ReadBack => "read its credentials back as they were set",
            Self::DeathSignal => "tie its life to the lab's",
        }
    }
}

/// Makes `command` confine itself before it executes. Fork it inside the pod's network namespace, from a thread that
/// lives as long as the lab.
pub fn confine(command: &mut Command, confinement: Confinement) {
    let steps = move || -> io::Result<()> {
        for step in ConfineStep::ALL {
            if let Err(errno) = take_step(step, &confinement) {
                let number = [step as u8];
                nix::unistd::write(&confinement.failed_step, &number).unwrap_or_default();
                return Err(io::Error::from_raw_os_error(errno as i32));
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes only system calls, on values that were prepared before the fork: nothing in it allocates
    // or takes a lock.
    unsafe { command.pre_exec(steps) };
}

#[expect(
    clippy::disallowed_methods,
    reason = "a pod's process enters its mount namespace here"
)]
fn take_step(step: ConfineStep, confinement: &Confinement) -> nix::Result<()> {
    match step {
        ConfineStep::Session => nix::unistd::setsid().map(drop),
        ConfineStep::Descriptors => confinement
            .inherit
            .iter()
            .try_for_each(|(from, to)| dup_to(from.as_raw_fd(), *to)),
        ConfineStep::Mounts => nix::sched::setns(&confinement.mounts, CloneFlags::CLONE_NEWNS),
        ConfineStep::Bounding => capabilities::bound(confinement.capabilities),
        ConfineStep::Groups => set_groups(&confinement.groups),
        ConfineStep::Gid => {
            let gid = nix::unistd::Gid::from_raw(confinement.gid);
            nix::unistd::setresgid(gid, gid, gid)
        }
        ConfineStep::Uid => {
            capabilities::outlast_user(confinement.capabilities)?;
            let uid = nix::unistd::Uid::from_raw(confinement.uid);
            nix::unistd::setresuid(uid, uid, uid)
        }
        ConfineStep::Capabilities => capabilities::set(confinement.capabilities),
        ConfineStep::NoNewPrivs => nix::sys::prctl::set_no_new_privs(),
        ConfineStep::ReadBack => read_back(confinement),
        // Last: setresuid clears it (prctl(2)).
        ConfineStep::DeathSignal => nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL),
    }
}

fn set_groups(groups: &[u32]) -> nix::Result<()> {
    // SAFETY: pointer and length are of one slice; the call only reads it.
    let done = unsafe { libc::setgroups(groups.len(), groups.as_ptr()) };
    Errno::result(done).map(drop)
}

fn read_back(confinement: &Confinement) -> nix::Result<()> {
    let users = nix::unistd::getresuid()?;
    let groups = nix::unistd::getresgid()?;
    let (uid, gid) = (confinement.uid, confinement.gid);
    // SAFETY: with a size of 0 the call only counts.
    let number = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let as_asked = capabilities::are(confinement.capabilities)?
        && [users.real, users.effective, users.saved]
            .iter()
            .all(|user| user.as_raw() == uid)
        && [groups.real, groups.effective, groups.saved]
            .iter()
            .all(|group| group.as_raw() == gid)
        && usize::try_from(number) == Ok(confinement.groups.len())
        && nix::sys::prctl::get_no_new_privs()?;
    if as_asked { Ok(()) } else { Err(Errno::EPERM) }
}

/// The path under which this process can execute a descriptor of its own.
pub fn descriptor_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A descriptor that is ready to read when the process has ended.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), libc::O_NONBLOCK) };
    let descriptor = Errno::result(descriptor)?;
    let descriptor = RawFd::try_from(descriptor).map_err(|_error| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A copy of a descriptor of another process.
pub fn pidfd_getfd(pidfd: &OwnedFd, number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes three integers, the first a descriptor that is open.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let descriptor = Errno::result(descriptor)?;
    let descriptor = RawFd::try_from(descriptor).map_err(|_error| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The next sequence numbers of a TCP connection, sent and expected, read in repair mode (tcp(7), `TCP_REPAIR`), in
/// which nothing moves; the connection is then as it was.
pub fn tcp_sequences(socket: &OwnedFd) -> nix::Result<(u32, u32)> {
    const RECEIVE: libc::c_int = 1;
    const SEND: libc::c_int = 2;
    /// Leave repair mode without a window probe.
    const OFF: libc::c_int = -1;
    set_tcp(socket, libc::TCP_REPAIR, 1)?;
    let sequence = |queue| {
        set_tcp(socket, libc::TCP_REPAIR_QUEUE, queue)?;
        get_tcp(socket, libc::TCP_QUEUE_SEQ)
    };
    let both = sequence(SEND).and_then(|sent| Ok((sent, sequence(RECEIVE)?)));
    set_tcp(socket, libc::TCP_REPAIR, OFF)?;
    both
}

const INT: libc::socklen_t = 4;

fn set_tcp(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> nix::Result<()> {
    let value = std::ptr::from_ref(&value).cast();
    // SAFETY: the descriptor is open, and the value is an `int` that lives until the call returns.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, INT) };
    Errno::result(done).map(drop)
}

fn get_tcp(socket: &OwnedFd, option: libc::c_int) -> nix::Result<u32> {
    let mut value: u32 = 0;
    let mut length = INT;
    let place = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the descriptor is open; value and length are four bytes each and live until the call returns.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            place,
            &raw mut length,
        )
    };
    Errno::result(done).map(|_| value)
}

/// A C string; what stands behind a zero byte is left out.
pub fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// Gives a netlink socket to the runtime, so that its messages can be awaited.
pub(crate) fn await_netlink(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: `Socket` owns its descriptor, has no way to exchange or give it up by reference, and closes it on drop
    // only; the `AsyncFd` owns the `Socket`, so descriptor and registration end together.
    let registered = unsafe { AsyncFd::register(socket) };
    registered.map_err(io::Error::from)
}

/// Gives a pidfd to the runtime, so that the end of its process can be awaited.
pub(crate) fn await_pidfd(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor, which cannot be exchanged or closed by reference, so descriptor and
    // registration end together.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) };
    registered.map_err(io::Error::from)
}
