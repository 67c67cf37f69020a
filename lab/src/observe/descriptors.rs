//! Which process holds a socket: the links in `/proc/PID/fd`, and what is remembered of them.
//!
//! Each link costs a system call, and a busy client opens thousands of sockets a second. A process gets the lowest number
//! that is free (POSIX, "File Descriptor Allocation"), which is that of a socket it has closed; the sockets that were seen
//! longest ago are the likeliest to be closed by now, so their numbers are looked at before all others.

use std::collections::{HashMap, VecDeque};
use std::fs::File;

use nix::fcntl::readlinkat;

use super::sockets::Owner;

/// How many numbers of a process are looked at before all are.
const LOOKS: usize = 16;

/// How many processes are remembered before those that have ended are forgotten.
const PROCESSES: usize = 256;

/// The sockets that processes held when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    processes: HashMap<u32, Process>,
    /// By inode.
    held: HashMap<u32, Held>,
}

#[derive(Debug, Default)]
struct Process {
    /// The numbers of its sockets, what was looked at last at the end.
    numbers: VecDeque<u32>,
    /// The inode of each.
    inodes: HashMap<u32, u32>,
}

#[derive(Debug)]
struct Held {
    by: Descriptor,
    owner: Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Descriptor {
    pid: u32,
    number: u32,
}

impl Descriptors {
    /// Who is known to hold this socket, if that is so still.
    pub(super) fn known(&self, inode: u32) -> Option<Owner> {
        let held = self.held.get(&inode)?;
        held.by.is_socket(inode).then(|| held.owner.clone())
    }

    /// True if this process holds a socket, as far as the numbers tell that are looked at first.
    pub(super) fn is_likely(&mut self, pid: u32, owner: &Owner, inode: u32) -> bool {
        let looks = self
            .processes
            .get(&pid)
            .map_or(0, |process| process.numbers.len().min(LOOKS));
        if looks == 0 {
            return false;
        }
        let Ok(directory) = File::open(place(pid)) else {
            return false;
        };
        for _ in 0..looks {
            let number = self
                .processes
                .get_mut(&pid)
                .and_then(|process| process.numbers.pop_front());
            let Some(number) = number else { return false };
            let there = socket_at(&directory, &number.to_string());
            self.remember(Descriptor { pid, number }, owner, there);
            if there == Some(inode) {
                return true;
            }
        }
        false
    }

    /// True if this process holds a socket.
    pub(super) fn holds(&mut self, pid: u32, owner: &Owner, inode: u32) -> bool {
        if let Some(former) = self.processes.remove(&pid) {
            let numbers = former.inodes.into_iter();
            for (number, inode) in numbers {
                self.forget(Descriptor { pid, number }, inode);
            }
        }
        let mut all = sockets_of(pid);
        // Older sockets have lower inode numbers.
        all.sort_unstable_by_key(|(_, inode)| *inode);
        for &(number, there) in &all {
            self.remember(Descriptor { pid, number }, owner, Some(there));
        }
        if self.processes.len() > PROCESSES {
            self.forget_ended();
        }
        all.iter().any(|(_, there)| *there == inode)
    }

    /// What is at this number of a process now: a socket, or none.
    fn remember(&mut self, by: Descriptor, owner: &Owner, now: Option<u32>) {
        let process = self.processes.entry(by.pid).or_default();
        process.numbers.push_back(by.number);
        let before = match now {
            Some(inode) => process.inodes.insert(by.number, inode),
            None => process.inodes.remove(&by.number),
        };
        if let Some(before) = before.filter(|before| now != Some(*before)) {
            self.forget(by, before);
        }
        let Some(inode) = now else { return };
        // Of several that hold it, the first stays the one, as long as it does.
        let known = self.held.get(&inode);
        if known.is_none_or(|known| known.by != by && !known.by.is_socket(inode)) {
            let owner = owner.clone();
            self.held.insert(inode, Held { by, owner });
        }
    }

    fn forget(&mut self, by: Descriptor, inode: u32) {
        if self.held.get(&inode).is_some_and(|held| held.by == by) {
            self.held.remove(&inode);
        }
    }

    fn forget_ended(&mut self) {
        self.processes
            .retain(|pid, _| std::path::Path::new(&place(*pid)).exists());
        self.held
            .retain(|_, held| self.processes.contains_key(&held.by.pid));
    }
}

impl Descriptor {
    fn is_socket(self, inode: u32) -> bool {
        let target = std::fs::read_link(format!("/proc/{}/fd/{}", self.pid, self.number));
        target.is_ok_and(|target| target.as_os_str() == format!("socket:[{inode}]").as_str())
    }
}

fn place(pid: u32) -> String {
    format!("/proc/{pid}/fd")
}

/// The socket with this number in the open directory of a process's descriptors.
fn socket_at(directory: &File, number: &str) -> Option<u32> {
    let target = readlinkat(directory, number).ok()?;
    let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// The sockets among a process's descriptors: their numbers and inodes. A process may end at any time: then it has none.
fn sockets_of(pid: u32) -> Vec<(u32, u32)> {
    let place = place(pid);
    // The links are read from the open directory: finding the process again for each would take twice as long.
    let (Ok(directory), Ok(descriptors)) = (File::open(&place), std::fs::read_dir(&place)) else {
        return Vec::new();
    };
    let socket = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.ok()?.file_name();
        let name = name.to_str()?;
        Some((name.parse().ok()?, socket_at(&directory, name)?))
    };
    descriptors.filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Evidence, Role};
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;

    fn socket() -> (UdpSocket, u32) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = File::open(place(std::process::id())).unwrap();
        let inode = socket_at(&own, &socket.as_raw_fd().to_string()).unwrap();
        (socket, inode)
    }

    #[test]
    fn a_socket_is_found_where_another_was_closed_and_what_is_closed_is_forgotten() {
        let pid = std::process::id();
        let owner = Owner {
            role: Role::Sidecar,
            pid: Some(pid),
            evidence: Evidence::Descriptor,
        };
        let mut all = Descriptors::default();
        let (first, old) = socket();
        assert!(!all.is_likely(pid, &owner, old), "nothing is known of it");
        assert!(all.holds(pid, &owner, old));
        assert_eq!(all.known(old), Some(owner.clone()));
        let number = first.as_raw_fd();
        drop(first);
        assert_eq!(all.known(old), None);
        // The other tests of this process have sockets too, and may take its number meanwhile.
        let (second, new) = socket();
        let rounds = all.processes[&pid].numbers.len().div_ceil(LOOKS);
        let found = (0..rounds).any(|_| all.is_likely(pid, &owner, new));
        assert!(found || second.as_raw_fd() != number);
        assert!(found || all.holds(pid, &owner, new));
        assert_eq!(all.known(new), Some(owner.clone()));
        assert!(!all.holds(pid, &owner, old));
        assert!(!all.held.contains_key(&old), "what is closed is forgotten");
        let known = &all.processes[&pid];
        assert_eq!(known.numbers.len(), known.inodes.len());
    }
}
