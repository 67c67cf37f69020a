//! Processes in pods: confined between fork and exec, their output on pipes, their end awaited.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tokio::net::unix::pipe;

use super::entry::beyond_reserved;
use super::pod::PodSpace;
use crate::net::netns::{self, NetNs};
use crate::sys::{self, Capabilities, ConfineStep, Confinement};

/// Where programs are looked for in a pod.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process to be started in a pod.
#[derive(Debug)]
pub struct Spec {
    /// What it is in a path: a container's name, `sidecar`, `agent`.
    pub role: String,
    /// What it executes.
    pub program: Program,
    /// Who it runs as.
    pub identity: Identity,
    /// Environment, beyond what every process of the pod gets.
    pub env: Vec<(String, String)>,
    /// Standard input.
    pub stdin: Stdin,
    /// Descriptors that it gets, and under which numbers (3 to 9).
    pub inherit: Vec<(OwnedFd, i32)>,
}

/// Who a process runs as.
#[derive(Debug, Clone)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The capabilities that it keeps.
    pub capabilities: Capabilities,
}

/// What a process executes.
#[derive(Debug, Clone)]
pub enum Program {
    /// This program, by descriptor, with these arguments.
    Lab(Vec<String>),
    /// A program that is installed on the machine, with its arguments.
    Command(Vec<String>),
}

/// What a process reads.
#[derive(Debug)]
pub enum Stdin {
    /// Nothing.
    Null,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What could not be done to start a process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pipe, a descriptor.
    #[error("preparing {what} of {role}")]
    Prepare {
        /// What.
        what: &'static str,
        /// Whose.
        role: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The pod's network namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// A step between fork and exec.
    #[error("the process of {role} failed to {} (user {uid}, group {gid})", step.words())]
    Confine {
        /// Whose.
        role: String,
        /// Which step.
        step: ConfineStep,
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not there, or may not be executed.
    #[error("{role} cannot execute {}: {why} (user {uid}, group {gid})", path.display())]
    Execute {
        /// Whose.
        role: String,
        /// Which program.
        path: PathBuf,
        /// Which part of the path denies it, or what is missing.
        why: String,
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no program to execute.
    #[error("{role} has an empty command")]
    Empty {
        /// Whose.
        role: String,
    },
    /// A signal could not be sent.
    #[error("killing process {pid}")]
    Kill {
        /// Which.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A process in a pod. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    child: tokio::process::Child,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exited {
    /// By itself.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// Not known: it could not be awaited.
    Unknown,
}

impl Exited {
    /// The status as a shell gives it: 128 and the signal's number if a signal ended it.
    pub const fn code(self) -> i32 {
        match self {
            Self::Status(code) => code,
            Self::Signal(signal) => 128 + signal,
            Self::Unknown => -1,
        }
    }
}

impl std::fmt::Display for Exited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code) => write!(f, "exit status {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::Unknown => f.write_str("unknown status"),
        }
    }
}

/// This program's image, opened once.
fn image() -> io::Result<&'static File> {
    static IMAGE: OnceLock<File> = OnceLock::new();
    if let Some(image) = IMAGE.get() {
        return Ok(image);
    }
    let opened = sys::own_image()?;
    Ok(IMAGE.get_or_init(|| opened))
}

/// Starts a process in a pod. Call it on the lab's one thread: the process dies with the thread that forks it.
pub fn spawn(pod: &PodSpace, spec: Spec) -> Result<Process, Error> {
    let Spec {
        role,
        program,
        identity,
        env,
        stdin,
        inherit,
    } = spec;
    let Identity {
        uid,
        gid,
        groups,
        capabilities,
    } = identity;
    let failed = |what: &'static str| {
        let role = role.clone();
        move |source| Error::Prepare { what, role, source }
    };
    let (path, args) = resolve(&program, &role)?;
    let (mut step_read, step_write) = io::pipe().map_err(failed("a pipe"))?;
    let (stdout, stdout_end) = output_pipe(uid, gid).map_err(failed("standard output"))?;
    let (stderr, stderr_end) = output_pipe(uid, gid).map_err(failed("standard error"))?;
    let inherit = inherit
        .into_iter()
        .map(|(descriptor, number)| Ok((beyond_reserved(&descriptor)?, number)))
        .collect::<Result<Vec<_>, nix::Error>>()
        .map_err(|errno| failed("a descriptor")(errno.into()))?;
    let mut command = command(&path);
    command
        .args(&args)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/"), ("LANG", "C.UTF-8")])
        .envs([("HOSTNAME", pod.name.as_str()), ("POD_NAME", pod.name.as_str())])
        .env("POD_IP", pod.ips.first().to_string())
        .env("POD_NAMESPACE", "default")
        .envs(env)
        .current_dir("/")
        .stdin(input(stdin).map_err(failed("standard input"))?)
        .stdout(Stdio::from(stdout_end))
        .stderr(Stdio::from(stderr_end));
    if let Program::Lab(_) = program {
        std::os::unix::process::CommandExt::arg0(&mut command, "lab");
    }
    let mounts = pod.mounts.try_clone().map_err(failed("the mount namespace"))?;
    sys::confine(
        &mut command,
        Confinement {
            mounts,
            uid,
            gid,
            groups,
            capabilities,
            inherit,
            failed_step: step_write.into(),
        },
    );
    let spawned = pod.netns.run(|| {
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true).spawn()
    })?;
    let child = match spawned {
        Ok(child) => child,
        Err(source) => {
            let mut step = [0];
            // The writing end is closed by now: the child is gone and the command dropped.
            let step = if matches!(step_read.read(&mut step), Ok(1)) {
                ConfineStep::from_number(step[0])
            } else {
                None
            };
            return Err(match step {
                Some(step) => Error::Confine {
                    role,
                    step,
                    uid,
                    gid,
                    source,
                },
                None => Error::Execute {
                    role,
                    why: why_not(&path, uid, gid, &source),
                    path,
                    uid,
                    gid,
                    source,
                },
            });
        }
    };
    let receiver = |end: OwnedFd| pipe::Receiver::from_owned_fd(end);
    Ok(Process {
        pid: child.id().unwrap_or_default(),
        child,
        stdout: Some(receiver(stdout).map_err(failed("standard output"))?),
        stderr: Some(receiver(stderr).map_err(failed("standard error"))?),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that starts processes"
)]
fn command(path: &Path) -> Command {
    Command::new(path)
}

/// Starts a tool of the machine's in a network namespace, as root, with all three streams piped.
pub fn spawn_tool(netns: &NetNs, program: &Path, args: &[&OsStr]) -> io::Result<tokio::process::Child> {
    let mut command = command(program);
    command.args(args).env_clear().env("PATH", PATH).current_dir("/");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    netns.run(|| command.spawn()).map_err(io::Error::other)?
}

/// Runs a program of the machine's to its end, where this process is.
pub async fn output(program: &Path, args: &[&str]) -> io::Result<std::process::Output> {
    let mut command = tokio::process::Command::from(command(program));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command.output().await
}

/// A pipe that its reader may re-open as /dev/stdout: it belongs to the process's user.
fn output_pipe(uid: u32, gid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    std::os::unix::fs::fchown(&write, Some(uid), Some(gid))?;
    Ok((read.into(), write.into()))
}

fn input(stdin: Stdin) -> io::Result<Stdio> {
    match stdin {
        Stdin::Null => Ok(Stdio::null()),
        Stdin::Bytes(bytes) => {
            let memory = nix::sys::memfd::memfd_create(c"stdin", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
            let mut memory = File::from(memory);
            memory.write_all(&bytes)?;
            memory.rewind()?;
            Ok(Stdio::from(memory))
        }
    }
}

fn resolve(program: &Program, role: &str) -> Result<(PathBuf, Vec<String>), Error> {
    match program {
        Program::Lab(args) => {
            let image = image().map_err(|source| Error::Prepare {
                what: "the program",
                role: role.to_owned(),
                source,
            })?;
            Ok((PathBuf::from(sys::descriptor_path(image)), args.clone()))
        }
        Program::Command(argv) => {
            let (name, args) = argv.split_first().ok_or_else(|| Error::Empty {
                role: role.to_owned(),
            })?;
            Ok((look_up(name), args.to_vec()))
        }
    }
}

/// As execvp does: a name with a slash is a path, any other is looked for in PATH.
fn look_up(name: &str) -> PathBuf {
    if name.contains('/') {
        return PathBuf::from(name);
    }
    let places = PATH.split(':').map(|dir| Path::new(dir).join(name));
    places
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

/// Which part of a path a user may not pass, in words.
fn why_not(path: &Path, uid: u32, gid: u32, error: &io::Error) -> String {
    if !path.is_absolute() {
        return format!("no such program in {PATH}");
    }
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for dir in above {
        match std::fs::metadata(dir) {
            Err(error) => return format!("{}: {error}", dir.display()),
            Ok(metadata) if !may_execute(&metadata, uid, gid) => {
                return format!(
                    "{} may not be entered (mode {:04o})",
                    dir.display(),
                    metadata.mode() & 0o7777
                );
            }
            Ok(_) => {}
        }
    }
    match std::fs::metadata(path) {
        Err(error) => error.to_string(),
        Ok(metadata) if metadata.is_dir() => "it is a directory".to_owned(),
        Ok(metadata) if !may_execute(&metadata, uid, gid) => {
            format!("it may not be executed (mode {:04o})", metadata.mode() & 0o7777)
        }
        Ok(_) => error.to_string(),
    }
}

fn may_execute(metadata: &std::fs::Metadata, uid: u32, gid: u32) -> bool {
    let bit = if metadata.uid() == uid {
        0o100
    } else if metadata.gid() == gid {
        0o010
    } else {
        0o001
    };
    metadata.mode() & bit != 0
}

impl Process {
    /// Its process id, in the lab's PID namespace.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// What it prints; an empty pipe if it was taken before.
    pub fn take_stdout(&mut self) -> Option<pipe::Receiver> {
        self.stdout.take()
    }

    /// What it complains of.
    pub fn take_stderr(&mut self) -> Option<pipe::Receiver> {
        self.stderr.take()
    }

    /// Waits for its end.
    pub async fn exited(&mut self) -> Exited {
        match self.child.wait().await {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Exited::Status(code),
                (None, Some(signal)) => Exited::Signal(signal),
                (None, None) => Exited::Unknown,
            },
            Err(_) => Exited::Unknown,
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.child.start_kill().map_err(|source| Error::Kill {
            pid: self.pid,
            source,
        })
    }
}
