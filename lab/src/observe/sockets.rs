//! Who owns a socket: `inet_diag` gives the inode, `/proc/PID/fd` the process, the lab knows the process's role.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::netns::NetNs;

use super::descriptors::Descriptors;
use super::netlink::{self, Asking, Bytes, DUMP, Message, REQUEST, fixed};
use super::nftrace::Protocol;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const LISTEN: u8 = 10;
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// What a process is in its pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Of the container of this name.
    Container(String),
    /// The data plane.
    Sidecar,
    /// The agent that started it.
    Agent,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container(name) => name,
            Self::Sidecar => "sidecar",
            Self::Agent => "agent",
        })
    }
}

/// How it is known whose a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The process held the socket when its SYN was seen.
    Descriptor,
    /// The socket had this user, and all of the pod's processes of that user have this role.
    OnlyOfItsUser,
    /// The process reported the connection as its own.
    Report,
    /// The sidecar's access log names the connection.
    AccessLog,
}

/// The owner of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// What the process is.
    pub role: Role,
    /// Its process id, where it is known.
    pub pid: Option<u32>,
    /// How this is known.
    pub evidence: Evidence,
}

/// The sockets and processes of one pod.
#[derive(Debug)]
pub(super) struct Sockets {
    asking: Asking,
    processes: Vec<(u32, Role)>,
    /// The users of these processes, for when they have ended: none of them can change its own.
    users: HashMap<u32, u32>,
    descriptors: Descriptors,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    state: u8,
    local: (u16, [u8; 16]),
    user: u32,
    inode: u32,
}

impl Sockets {
    pub(super) fn open(pod: &str, namespace: &NetNs) -> Result<Self, netlink::Error> {
        Ok(Self {
            asking: Asking::open(pod, namespace, netlink_sys::protocols::NETLINK_SOCK_DIAG)?,
            processes: Vec::new(),
            users: HashMap::new(),
            descriptors: Descriptors::default(),
        })
    }

    /// A process of this pod; its descendants have its role, but those of the agent are the sidecar.
    pub(super) fn add(&mut self, pid: u32, role: Role) {
        self.processes.push((pid, role));
        self.users.extend(user_of(pid).map(|user| (pid, user)));
    }

    pub(super) fn remove(&mut self, pid: u32) {
        self.processes.retain(|(known, _)| *known != pid);
        self.users.remove(&pid);
    }

    /// Who has the socket with these two ends.
    pub(super) fn connected(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Option<Owner>, netlink::Error> {
        let found = match protocol {
            Protocol::Tcp => self.exact(local, remote)?.filter(|found| found.state != LISTEN),
            Protocol::Udp => self.datagram(local)?,
        };
        Ok(found.and_then(|found| self.owner(found)))
    }

    /// The users of this pod's processes.
    pub(super) fn all_users(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.users.values().copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whose a socket of this user is, if the user alone tells.
    pub(super) fn only_of_user(&self, user: u32) -> Option<Owner> {
        only_of_its_user(&self.all(), &self.users, user)
    }

    /// True if a container has a process of this user.
    pub(super) fn is_of_a_container(&self, user: u32) -> bool {
        self.all()
            .iter()
            .any(|(pid, role)| matches!(role, Role::Container(_)) && may_be_of(*pid, &self.users, user))
    }

    /// Who receives what comes to this address.
    pub(super) fn receiving(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
    ) -> Result<Option<Owner>, netlink::Error> {
        let found = match protocol {
            // No connection has port 0 at its other end, so the kernel's own lookup ends at the listener.
            Protocol::Tcp => self
                .exact(local, SocketAddr::new(unspecified(local.ip()), 0))?
                .filter(|found| found.state == LISTEN),
            Protocol::Udp => self.datagram(local)?,
        };
        Ok(found.and_then(|found| self.owner(found)))
    }

    fn exact(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<Option<Found>, netlink::Error> {
        let sequence = self.asking.next_sequence();
        let request = request(REQUEST, sequence, Protocol::Tcp, local, Some(remote));
        self.asking
            .one("looking up a TCP socket", &request, found)
            .map(Option::flatten)
    }

    /// The kernel's single lookup for UDP takes the ends the other way round in some versions; a list does not.
    fn datagram(&mut self, local: SocketAddr) -> Result<Option<Found>, netlink::Error> {
        let sequence = self.asking.next_sequence();
        let request = request(REQUEST | DUMP, sequence, Protocol::Udp, local, None);
        let mut best: Option<Found> = None;
        self.asking.dump("listing UDP sockets", &request, |message| {
            let Some(found) = found(message).filter(|found| found.local.0 == local.port()) else {
                return;
            };
            let exact = found.local.1 == address(local.ip());
            if exact || (found.local.1 == [0; 16] && best.is_none()) {
                best = Some(found);
            }
        })?;
        Ok(best)
    }

    fn owner(&mut self, found: Found) -> Option<Owner> {
        // Nobody holds it any more (TIME_WAIT), and its user is not told but given as 0 (`inet_twsk_diag_fill`).
        if found.inode == 0 {
            return None;
        }
        if let Some(owner) = self.descriptors.known(found.inode) {
            return Some(owner);
        }
        // Whose descendants are whose takes long to find out, and hardly ever matters.
        if let Some(owner) = self.holder(&self.processes.clone(), found.inode) {
            return Some(owner);
        }
        let all = self.all();
        let descendants = all.get(self.processes.len()..).unwrap_or_default();
        self.holder(descendants, found.inode)
            .or_else(|| only_of_its_user(&all, &self.users, found.user))
    }

    /// Which of these processes holds a socket.
    fn holder(&mut self, processes: &[(u32, Role)], inode: u32) -> Option<Owner> {
        let owner = |(pid, role): &(u32, Role)| {
            let (role, evidence) = (role.clone(), Evidence::Descriptor);
            let owner = Owner {
                role,
                pid: Some(*pid),
                evidence,
            };
            (*pid, owner)
        };
        let owners: Vec<(u32, Owner)> = processes.iter().map(owner).collect();
        let descriptors = &mut self.descriptors;
        let likely = owners
            .iter()
            .find(|(pid, owner)| descriptors.is_likely(*pid, owner, inode));
        let found = match likely {
            Some(likely) => Some(likely),
            None => owners
                .iter()
                .find(|(pid, owner)| descriptors.holds(*pid, owner, inode)),
        };
        found.map(|(_, owner)| owner.clone())
    }

    /// The pod's processes, then all their descendants.
    fn all(&self) -> Vec<(u32, Role)> {
        let mut all = self.processes.clone();
        let mut next = 0;
        while let Some((pid, role)) = all.get(next).cloned() {
            next += 1;
            let of_child = match role {
                Role::Agent => Role::Sidecar,
                Role::Sidecar | Role::Container(_) => role,
            };
            for child in children(pid) {
                if !all.iter().any(|(known, _)| *known == child) {
                    all.push((child, of_child.clone()));
                }
            }
        }
        all
    }
}

/// A user tells the role only if all of the pod's processes of that user have the same.
fn only_of_its_user(all: &[(u32, Role)], users: &HashMap<u32, u32>, user: u32) -> Option<Owner> {
    let of_user: Vec<_> = all
        .iter()
        .filter(|(pid, _)| may_be_of(*pid, users, user))
        .collect();
    let (pid, role) = of_user.first()?;
    of_user.iter().all(|(_, other)| other == role).then(|| Owner {
        role: role.clone(),
        pid: (of_user.len() == 1).then_some(*pid),
        evidence: Evidence::OnlyOfItsUser,
    })
}

/// The user with which a process opens sockets (its `fsuid`); none if it has ended. The owner of `/proc/PID` would not
/// do: it is root if the process is not dumpable.
fn user_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(3)?.parse().ok()
}

/// Of a process that ended before its user was asked for: it may have been this one.
fn may_be_of(pid: u32, users: &HashMap<u32, u32>, user: u32) -> bool {
    let of_process = user_of(pid).or_else(|| users.get(&pid).copied());
    of_process.is_none_or(|of_process| of_process == user)
}

/// A process may end at any time: then it has no children and no descriptors, which is no error.
fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// `struct inet_diag_req_v2`.
fn request(
    flags: u16,
    sequence: u32,
    protocol: Protocol,
    local: SocketAddr,
    remote: Option<SocketAddr>,
) -> Vec<u8> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let number = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let (remote_port, remote_address) =
        remote.map_or((0, [0; 16]), |remote| (remote.port(), address(remote.ip())));
    let local_address = if remote.is_some() {
        address(local.ip())
    } else {
        [0; 16]
    };
    Bytes::message(SOCK_DIAG_BY_FAMILY, flags, sequence)
        .raw(&[family, number, 0, 0])
        .raw(&u32::MAX.to_ne_bytes())
        .raw(&local.port().to_be_bytes())
        .raw(&remote_port.to_be_bytes())
        .raw(&local_address)
        .raw(&remote_address)
        .raw(&[0; 4])
        .raw(&NO_COOKIE)
        .finish()
}

/// `struct inet_diag_msg`.
pub(super) fn found(message: Message<'_>) -> Option<Found> {
    let bytes = message.payload;
    let number = |at: usize| Some(u32::from_ne_bytes(fixed(bytes.get(at..)?)?));
    Some(Found {
        state: *bytes.get(1)?,
        local: (
            u16::from_be_bytes(fixed(bytes.get(4..)?)?),
            fixed(bytes.get(8..)?)?,
        ),
        user: number(64)?,
        inode: number(68)?,
    })
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

const fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No process can have this id: it is above the kernel's limit (`PID_MAX_LIMIT`).
    const ENDED: u32 = 1 << 23;

    #[track_caller]
    fn check(processes: &[(u32, Role)], user: u32, role: Option<&Role>) {
        check_with(processes, &HashMap::new(), user, role);
    }

    #[track_caller]
    fn check_with(processes: &[(u32, Role)], users: &HashMap<u32, u32>, user: u32, role: Option<&Role>) {
        let owner = only_of_its_user(processes, users, user);
        assert_eq!(owner.as_ref().map(|owner| &owner.role), role);
    }

    #[test]
    fn a_user_tells_the_role_only_where_no_other_role_could_have_it() {
        let own = std::process::id();
        let user = user_of(own).unwrap();
        let container = |name: &str| Role::Container(name.to_owned());
        check(&[(own, container("a"))], user, Some(&container("a")));
        check(&[(own, container("a"))], user + 1, None);
        check(
            &[(own, container("a")), (own, container("a"))],
            user,
            Some(&container("a")),
        );
        check(&[(own, Role::Sidecar), (own, Role::Agent)], user, None);
        let one_has_ended = [(own, container("a")), (ENDED, container("b"))];
        check(&one_has_ended, user, None);
        let users = HashMap::from([(ENDED, user + 1)]);
        check_with(&one_has_ended, &users, user, Some(&container("a")));
        check_with(&one_has_ended, &users, user + 1, Some(&container("b")));
    }
}
