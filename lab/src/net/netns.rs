//! Network namespaces: made by name, kept by descriptor, entered for one visit. The only caller of `setns`.
//!
//! The whole lab is driven by one thread (a `current_thread` runtime). A visit is synchronous: it opens sockets or
//! forks a child, and the thread is home again before anything else runs. Sockets stay bound to the namespace in
//! which they were opened, so nothing else ever has to be "in" a namespace.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

/// A network namespace of the lab's own.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

/// What can go wrong with a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// netns-rs could not make it.
    #[error("making network namespace `{name}` in {}: {said}", dir.display())]
    Create {
        /// Its name.
        name: String,
        /// Where its name is kept.
        dir: PathBuf,
        /// netns-rs's words.
        said: String,
    },
    /// Its descriptor could not be opened.
    #[error("opening network namespace `{name}`")]
    Open {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is the namespace of the caller: nothing would be isolated.
    #[error("network namespace `{name}` is the caller's own: this kernel or container does not isolate")]
    NotIsolated {
        /// Its name.
        name: String,
    },
    /// It could not be entered.
    #[error("entering network namespace `{name}`")]
    Enter {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: nix::Error,
    },
}

struct Dir(PathBuf);

impl netns_rs::Env for Dir {
    fn persist_dir(&self) -> PathBuf {
        self.0.clone()
    }
}

/// The thread's own namespace, to which it returns when a visit ends, however it ends.
struct Visit {
    home: File,
    /// A namespace belongs to a thread.
    _not_send: PhantomData<*mut ()>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        if enter(&self.home).is_err() {
            // A thread lost in a pod would do the next pod's work there.
            std::process::abort();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this module is the one that enters network namespaces"
)]
fn enter(namespace: &File) -> nix::Result<()> {
    nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)
}

impl NetNs {
    /// Makes a namespace, named under `dir` (a directory on a private tmpfs).
    pub fn create(name: &str, dir: &Path) -> Result<Self, Error> {
        let made =
            netns_rs::NetNs::new_with_env(name, Dir(dir.to_owned())).map_err(|error| Error::Create {
                name: name.to_owned(),
                dir: dir.to_owned(),
                said: error.to_string(),
            })?;
        let open = |source| Error::Open {
            name: name.to_owned(),
            source,
        };
        let file = File::open(made.path()).map_err(open)?;
        let own = File::open("/proc/thread-self/ns/net").map_err(open)?;
        if inode(&file).map_err(open)? == inode(&own).map_err(open)? {
            return Err(Error::NotIsolated {
                name: name.to_owned(),
            });
        }
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// A namespace that somebody else made: its name under /run/netns, or a path.
    pub fn open(name: &str) -> Result<Self, Error> {
        let path = if name.contains('/') {
            PathBuf::from(name)
        } else {
            Path::new("/run/netns").join(name)
        };
        let file = File::open(path).map_err(|source| Error::Open {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// A namespace without a name: it is gone when this value is, and what was started in it.
    pub fn scratch() -> Result<Self, Error> {
        let name = "scratch";
        let made = std::thread::spawn(|| {
            #[expect(clippy::disallowed_methods, reason = "a thread of its own, which ends here")]
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let failed = || io::Error::other("the thread that makes it panicked");
        let file = made.join().unwrap_or_else(|_| Err(failed()));
        Ok(Self {
            name: name.to_owned(),
            file: file.map_err(|source| Error::Open {
                name: name.to_owned(),
                source,
            })?,
        })
    }

    /// The namespace that the calling thread is in.
    pub fn own(name: &str) -> Result<Self, Error> {
        let file = File::open("/proc/thread-self/ns/net").map_err(|source| Error::Open {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its descriptor.
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Runs `visit` inside the namespace on this thread, and returns home also if it panics.
    ///
    /// `visit` opens sockets or forks; it must not await, and must not make threads.
    pub fn run<R>(&self, visit: impl FnOnce() -> R) -> Result<R, Error> {
        let home = File::open("/proc/thread-self/ns/net").map_err(|source| Error::Open {
            name: self.name.clone(),
            source,
        })?;
        enter(&self.file).map_err(|source| Error::Enter {
            name: self.name.clone(),
            source,
        })?;
        let _visit = Visit {
            home,
            _not_send: PhantomData,
        };
        Ok(visit())
    }
}

fn inode(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mount namespace for this test's thread, so that nothing it mounts outlives it.
    #[expect(clippy::disallowed_methods, reason = "a test in a namespace of its own")]
    fn private_mounts() {
        use nix::mount::{MsFlags, mount};
        nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
            .expect("root is needed: run the tests with sudo");
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
    }

    #[test]
    fn a_visit_ends_also_when_it_panics() {
        private_mounts();
        let dir = tempfile::tempdir().unwrap();
        nix::mount::mount(
            None::<&str>,
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let ns = NetNs::create("visited", dir.path()).unwrap();
        let home = inode(&File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        let inside = ns
            .run(|| inode(&File::open("/proc/thread-self/ns/net").unwrap()).unwrap())
            .unwrap();
        assert_ne!(inside, home);
        let panicked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ns.run(|| panic!("on purpose"))));
        assert!(panicked.is_err());
        assert_eq!(
            inode(&File::open("/proc/thread-self/ns/net").unwrap()).unwrap(),
            home
        );
        drop(ns);
        nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}
