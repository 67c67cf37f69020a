//! Mount namespaces: private ones for the lab, and one for each pod with files of its own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

use super::netns::NetNs;

/// What could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mount.
    #[error("mounting {what} on {}", target.display())]
    Mount {
        /// What.
        what: String,
        /// Where.
        target: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// Files that the machine lacks, and no overlay to show them in pods all the same.
    #[error(
        "giving pods {files} of their own, which this machine lacks: `touch {files}` as root, or \
         `modprobe overlay`, and run again"
    )]
    Overlay {
        /// Their paths.
        files: String,
        /// Why there is no overlay.
        #[source]
        source: Errno,
    },
    /// A file or directory to mount on.
    #[error("making {}", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A namespace of its own.
    #[error("making a mount namespace for pod `{pod}`")]
    Namespace {
        /// For whom.
        pod: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The private tmpfs of a lab. The directory itself is the one thing that a lab leaves on the host, empty.
pub const RUN: &str = "/run/lab";

fn mounted(
    what: &str,
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), Error> {
    mount(source, target, kind, flags, options).map_err(|source| Error::Mount {
        what: what.to_owned(),
        target: target.to_owned(),
        source,
    })
}

/// Nothing that is mounted from here on is seen outside. Where `/` is shared by a container's runtime that forbids
/// private, slave does the same for what matters here.
pub fn make_private() -> Result<(), Error> {
    let root = Path::new("/");
    mounted(
        "private propagation",
        None,
        root,
        None,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None,
    )
    .or_else(|_| {
        mounted(
            "slave propagation",
            None,
            root,
            None,
            MsFlags::MS_REC | MsFlags::MS_SLAVE,
            None,
        )
    })
}

/// Shows a file at another path, in this mount namespace and those that are made from it.
pub fn program(file: &Path, target: &Path) -> Result<(), Error> {
    File::create(target).map_err(|source| Error::Make {
        path: target.to_owned(),
        source,
    })?;
    let what = file.display().to_string();
    mounted(&what, Some(file), target, None, MsFlags::MS_BIND, None)
}

/// Mounts an empty tmpfs.
pub fn tmpfs(target: &Path, mode: &str) -> Result<(), Error> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mounted(
        "tmpfs",
        Some(Path::new("tmpfs")),
        target,
        Some("tmpfs"),
        flags,
        Some(&format!("mode={mode}")),
    )
}

/// The lab's own /proc, /run/lab and /dev/shm, in the lab's own mount namespace.
pub fn settle_in() -> Result<(), Error> {
    make_private()?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mounted(
        "proc",
        Some(Path::new("proc")),
        Path::new("/proc"),
        Some("proc"),
        plain,
        None,
    )?;
    make_dir(Path::new(RUN))?;
    tmpfs(Path::new(RUN), "0755")?;
    let namespaces = Path::new(RUN).join("netns");
    make_dir(&namespaces)?;
    // A mount of its own: netns-rs makes the directory shared, and must not have to bind it to itself first.
    tmpfs(&namespaces, "0755")
}

fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Make {
        path: path.to_owned(),
        source,
    })
}

/// The files that a pod sees in place of the node's.
#[derive(Debug)]
pub struct PodFiles<'a> {
    /// The pod's name, its host name too.
    pub pod: &'a str,
    /// Path and content.
    pub files: &'a [(&'a str, String)],
}

/// A mount namespace for a pod: its own files, /tmp, /dev/shm and /sys. Runs on a thread of its own, which ends.
pub fn pod_namespace(pod: &PodFiles<'_>, netns: &NetNs) -> Result<OwnedFd, Error> {
    let dir = Path::new(RUN).join("pods").join(pod.pod);
    make_dir(&dir)?;
    let failed = |source| Error::Namespace {
        pod: pod.pod.to_owned(),
        source,
    };
    std::thread::scope(|scope| {
        let built = scope.spawn(|| build_pod_namespace(pod, netns, &dir)).join();
        built.map_err(|_panic| failed(io::Error::other("its thread panicked")))?
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "this module makes the pods' mount namespaces"
)]
fn build_pod_namespace(pod: &PodFiles<'_>, netns: &NetNs, dir: &Path) -> Result<OwnedFd, Error> {
    let failed = |source: io::Error| Error::Namespace {
        pod: pod.pod.to_owned(),
        source,
    };
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| failed(errno.into()))?;
    make_private()?;
    put_files(pod.files, dir)?;
    for path in ["/tmp", "/dev/shm"].map(Path::new) {
        if path.is_dir() {
            tmpfs(path, "1777")?;
        }
    }
    mount_sysfs(netns)?;
    let file = File::open("/proc/thread-self/ns/mnt").map_err(failed)?;
    Ok(file.into())
}

/// Puts files in the place of others, for this namespace alone. A symbolic link (systemd's resolv.conf) is followed to what it
/// names, which is what programs would open. Files that are not there come first: what covers their directory covers
/// whatever was put into it before.
fn put_files(files: &[(&str, String)], dir: &Path) -> Result<(), Error> {
    let mut missing: BTreeMap<&Path, Vec<&OsStr>> = BTreeMap::new();
    for (path, content) in files {
        let target = Path::new(path);
        let (parent, name) = (target.parent(), target.file_name());
        let (Some(parent), Some(name)) = (parent, name) else {
            continue;
        };
        let source = dir.join(name);
        fs::write(&source, content).map_err(|error| Error::Make {
            path: source.clone(),
            source: error,
        })?;
        if fs::canonicalize(target).is_err() {
            missing.entry(parent).or_default().push(name);
        }
    }
    for (parent, names) in &missing {
        overlay_dir(parent, names, dir)?;
    }
    for (path, _) in files {
        let target = Path::new(path);
        let name = target.file_name().unwrap_or_default();
        let is_covered = missing.values().flatten().any(|covered| *covered == name);
        if let (false, Ok(target)) = (is_covered, fs::canonicalize(target)) {
            let source = dir.join(name);
            let what = "a pod's file";
            mounted(what, Some(&source), &target, None, MsFlags::MS_BIND, None)?;
        }
    }
    Ok(())
}

/// For files that are not there: their directory is covered by an overlay that has its entries and them.
fn overlay_dir(parent: &Path, names: &[&OsStr], dir: &Path) -> Result<(), Error> {
    let staged = dir.join("overlay").join(parent.file_name().unwrap_or_default());
    let (upper, work) = (staged.join("upper"), staged.join("work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    for name in names {
        let copied = upper.join(name);
        fs::copy(dir.join(name), &copied).map_err(|source| Error::Make {
            path: copied.clone(),
            source,
        })?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        parent.display(),
        upper.display(),
        work.display()
    );
    let done = mounted(
        "overlay",
        Some(Path::new("overlay")),
        parent,
        Some("overlay"),
        MsFlags::empty(),
        Some(&options),
    );
    if let Err(Error::Mount { source, .. }) = done {
        return Err(Error::Overlay {
            files: listed(parent, names),
            source,
        });
    }
    done
}

fn listed(parent: &Path, names: &[&OsStr]) -> String {
    let paths: Vec<String> = names
        .iter()
        .map(|name| parent.join(name).display().to_string())
        .collect();
    paths.join(" ")
}

/// /sys shows the links of the namespace of whoever mounted it. A container that forbids it keeps the node's view.
fn mount_sysfs(netns: &NetNs) -> Result<(), Error> {
    let target = Path::new("/sys");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let source = Some(Path::new("sysfs"));
    let done = netns.run(|| mounted("sysfs", source, target, Some("sysfs"), flags, None));
    match done {
        Ok(Err(Error::Mount {
            source: Errno::EPERM | Errno::EBUSY,
            ..
        })) => Ok(()),
        Ok(done) => done,
        Err(error) => Err(Error::Namespace {
            pod: netns.name().to_owned(),
            source: io::Error::other(error),
        }),
    }
}
