//! Every connection of every pod, each recorded at its SYN: its way, its owner, its end.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use netlink_sys::Socket;
use tokio::io::unix::AsyncFd;

use crate::net::netns::NetNs;
use crate::path::Hook;
use crate::sys;

use super::access_log::Entry;
use super::join::dns::Lookup;
use super::netlink::{self, messages};
use super::nftrace::{self, Event, GROUPS, Protocol, Segment, Tracked, Tuple};
use super::packet::{Assembly, Packet, Progress};
use super::rules::Rules;
use super::sockets::{Owner, Role, Sockets};
use super::users::Users;
use super::{Error, Origin, install};
use crate::plan::ips::Ips;

const BUFFER: usize = 16 << 20;
pub(super) const BATCH: usize = 64 << 10;
/// `lo` has this index in every namespace (`LOOPBACK_IFINDEX`, net/flow.h).
const LO: u32 = 1;

/// How a connection ended in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// A socket took it.
    Socket { owner: Owner, port: u16 },
    /// The kernel answered the SYN with RST.
    Refused(u16),
    /// A verdict dropped it.
    Dropped,
}

/// One connection as one pod saw it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) pod: usize,
    pub(super) packet: Packet,
    /// The same packet when it came back over `lo`.
    pub(super) over_lo: Option<Packet>,
    pub(super) owner: Option<Owner>,
    /// The user of the socket, where the owner was gone.
    pub(super) user: Option<u32>,
    pub(super) ended: Option<Ended>,
    /// What conntrack made of it.
    pub(super) tracked: Option<Tracked>,
}

impl Connection {
    pub(super) const fn tuple(&self) -> &Tuple {
        &self.packet.first.tuple
    }

    /// True if a process of this pod opened it.
    pub(super) fn is_from_here(&self) -> bool {
        self.packet.entered() == Some(Hook::Output)
    }

    /// True if it went out of the pod.
    pub(super) fn leaves(&self) -> bool {
        self.is_from_here()
            && !self.packet.dropped
            && self.packet.left() == Some(Hook::Postrouting)
            && self.packet.last.out_index != Some(LO)
    }

    /// The addresses that the receiving socket sees, or with which it left.
    pub(super) fn last_tuple(&self) -> &Tuple {
        &self.over_lo.as_ref().unwrap_or(&self.packet).last.tuple
    }

    /// Rules and chains that the lists did not know.
    pub(super) fn unknown(&self) -> impl Iterator<Item = &String> {
        let again = self.over_lo.iter().flat_map(|packet| &packet.unknown);
        self.packet.unknown.iter().chain(again)
    }
}

/// One pod under observation.
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) addresses: Ips,
    /// Its link is down: what is sent to it does not arrive.
    pub(super) cut_off: bool,
    pub(super) socket: Rc<AsyncFd<Socket>>,
    pub(super) sockets: Sockets,
    users: Users,
    rules: Rules,
    assembly: Assembly,
    /// Owners of the packets that have begun and not ended.
    owners: HashMap<Tuple, Owner>,
}

/// A line of an access log, and how many connections had been seen when it came.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) entry: Entry,
    pub(super) pod: usize,
    pub(super) after: usize,
}

/// How much had been seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub(super) connections: usize,
    pub(super) entries: usize,
    pub(super) losses: usize,
    pub(super) lookups: usize,
}

/// All that has been observed.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) pods: Vec<Pod>,
    pub(super) connections: Vec<Connection>,
    pub(super) entries: Vec<Logged>,
    reports: HashMap<(usize, Protocol, u16, SocketAddr), Vec<Origin>>,
    /// What agents did with questions, by pod.
    pub(super) lookups: Vec<(usize, Lookup)>,
    /// Why something since then may have gone unseen.
    pub(super) losses: Vec<String>,
    by_tuple: HashMap<(usize, Tuple), Vec<usize>>,
    arrivals: HashMap<(Protocol, SocketAddr), Vec<usize>>,
    on_lo: HashMap<(usize, Tuple), usize>,
    arrived: HashMap<(usize, Tuple), usize>,
    /// Where [`Seen::drain_all`] reads into.
    buffer: Vec<u8>,
}

impl Seen {
    pub(super) fn attach(&mut self, name: &str, addresses: Ips, namespace: &NetNs) -> Result<usize, Error> {
        let socket = netlink::listen(name, namespace, &GROUPS, BUFFER)?;
        install::install(name, namespace, addresses)?;
        let socket = sys::await_netlink(socket).map_err(|source| Error::Register {
            pod: name.to_owned(),
            source,
        })?;
        self.pods.push(Pod {
            name: name.to_owned(),
            addresses,
            cut_off: false,
            socket: Rc::new(socket),
            sockets: Sockets::open(name, namespace)?,
            users: Users::open(name, namespace)?,
            rules: Rules::read(name, namespace)?,
            assembly: Assembly::default(),
            owners: HashMap::new(),
        });
        Ok(self.pods.len() - 1)
    }

    pub(super) const fn mark(&self) -> Mark {
        Mark {
            connections: self.connections.len(),
            entries: self.entries.len(),
            losses: self.losses.len(),
            lookups: self.lookups.len(),
        }
    }

    pub(super) fn pod(&self, name: &str) -> Result<usize, Error> {
        self.pods
            .iter()
            .position(|pod| pod.name == name)
            .ok_or_else(|| Error::UnknownPod { pod: name.to_owned() })
    }

    /// Takes all that is queued for all pods.
    pub(super) fn drain_all(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BATCH, 0);
        for pod in 0..self.pods.len() {
            while self.take_batch(pod, &mut buffer) {}
        }
        self.buffer = buffer;
    }

    /// Takes the packets that saw no end for what they are: something other than netfilter swallowed them.
    pub(super) fn give_up_open_packets(&mut self) {
        for pod in 0..self.pods.len() {
            for packet in self.pods[pod].assembly.flush() {
                self.take_packet(pod, packet);
            }
        }
    }

    /// Takes the first of what is queued for one pod; false if nothing is.
    pub(super) fn take_batch(&mut self, pod: usize, buffer: &mut [u8]) -> bool {
        let socket = Rc::clone(&self.pods[pod].socket);
        match socket.get_ref().recv(&mut &mut *buffer, 0) {
            Ok(length) => {
                for message in messages(&buffer[..length]) {
                    self.take(pod, nftrace::event(message));
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) => {
                let more_may_come = error.raw_os_error() == Some(libc::ENOBUFS);
                self.lose(pod, &error);
                more_may_come
            }
        }
    }

    fn lose(&mut self, pod: usize, why: &dyn std::error::Error) {
        let mut text = format!("events of pod `{}` were lost: {why}", self.pods[pod].name);
        let mut source = why.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        self.losses.push(text);
    }

    fn take(&mut self, pod: usize, event: Event) {
        match event {
            Event::Trace(trace) => {
                let place = &mut self.pods[pod];
                let header = trace.header.clone();
                match place.assembly.take(trace, place.rules.book()) {
                    Progress::Began(before) => {
                        if let Some(header) = header {
                            self.look_up_owner(pod, &header);
                        }
                        if let Some(before) = before {
                            self.take_packet(pod, before);
                        }
                    }
                    Progress::Ended(packet) => self.take_packet(pod, packet),
                    Progress::Under | Progress::Foreign => {}
                }
            }
            Event::Tracked(tracked) => {
                if let Some(id) = self.tracked_as(pod, &tracked) {
                    self.connections[id].tracked = Some(tracked);
                }
            }
            Event::RulesChanged => {
                if let Err(error) = self.pods[pod].rules.reread() {
                    self.lose(pod, &error);
                }
            }
            Event::Other => {}
        }
    }

    /// Which connection conntrack speaks of: the one with its id. Two conntrack zones may have the same addresses at once,
    /// so that the newest with these addresses is right only where the kernel does not tell ids.
    fn tracked_as(&self, pod: usize, tracked: &Tracked) -> Option<usize> {
        let all = self.by_tuple.get(&(pod, tracked.original))?;
        all.iter().copied().rfind(|&id| {
            let known = self.connections[id].packet.conntrack_id;
            known.is_none_or(|known| known == tracked.id)
        })
    }

    /// At once: a short-lived client may be gone a moment later.
    fn look_up_owner(&mut self, pod: usize, header: &nftrace::Header) {
        if header.out_index.is_none() || !matches!(header.kind, Segment::Syn(_) | Segment::Datagram) {
            return;
        }
        let tuple = header.tuple;
        let place = &mut self.pods[pod];
        let found = place
            .sockets
            .connected(tuple.protocol, tuple.source, tuple.destination);
        match found {
            Ok(Some(owner)) => {
                place.owners.insert(tuple, owner);
            }
            Ok(None) => {}
            Err(error) => self.lose(pod, &error),
        }
    }

    fn take_packet(&mut self, pod: usize, packet: Packet) {
        let tuple = packet.first.tuple;
        match (packet.first.kind, packet.entered()) {
            (Segment::Syn(_) | Segment::Datagram, Some(Hook::Output)) => self.leave(pod, packet),
            (Segment::Syn(_) | Segment::Datagram, _) if packet.first.in_index == Some(LO) => {
                self.back_over_lo(pod, packet);
            }
            (Segment::Syn(_) | Segment::Datagram, _) => self.arrive(pod, &packet),
            (Segment::Rst, Some(Hook::Output)) => {
                if let Some(&id) = self.arrived.get(&(pod, tuple.reversed())) {
                    self.connections[id].ended = Some(Ended::Refused(tuple.source.port()));
                }
            }
            (Segment::Unreachable, Some(Hook::Output)) => {
                self.refuse_datagrams(pod, tuple.destination.ip());
            }
            (Segment::Rst | Segment::Other | Segment::Unreachable, _) => {}
        }
    }

    /// The kernel has told somebody that a datagram found no socket: which one, the table knows.
    fn refuse_datagrams(&mut self, pod: usize, told: IpAddr) {
        let refused = match self.pods[pod].users.refused(told) {
            Ok(refused) => refused,
            Err(error) => return self.lose(pod, &error),
        };
        let waiting = |connection: &&mut Connection| {
            connection.pod == pod
                && connection.ended.is_none()
                && connection.tuple().protocol == Protocol::Udp
        };
        for connection in self.connections.iter_mut().rev().filter(waiting) {
            let came = *connection.last_tuple();
            if refused.contains(&came) {
                connection.ended = Some(Ended::Refused(came.destination.port()));
            }
        }
    }

    fn leave(&mut self, pod: usize, packet: Packet) {
        let tuple = packet.first.tuple;
        let owner = self.pods[pod].owners.remove(&tuple);
        let left = packet.last.tuple;
        let on_lo = packet.last.out_index == Some(LO) && !packet.dropped;
        if let Some(id) = self.sent_before(pod, &packet) {
            if on_lo {
                self.on_lo.insert((pod, left), id);
            }
            return;
        }
        let id = self.add(pod, packet, owner);
        if on_lo {
            self.on_lo.insert((pod, left), id);
        }
        let has_users = tuple.source.is_ipv4() || self.pods[pod].addresses.v6().is_some();
        if self.connections[id].owner.is_none() && tuple.protocol == Protocol::Tcp && has_users {
            self.look_up_user(id, &tuple);
        }
    }

    /// A retransmitted SYN has the sequence number of the first: it is the same connection.
    fn sent_before(&self, pod: usize, packet: &Packet) -> Option<usize> {
        let id = *self.by_tuple.get(&(pod, packet.first.tuple))?.last()?;
        let first = &self.connections[id].packet.first;
        (first.kind == packet.first.kind && matches!(first.kind, Segment::Syn(_))).then_some(id)
    }

    fn look_up_user(&mut self, id: usize, tuple: &Tuple) {
        let pod = self.connections[id].pod;
        let place = &mut self.pods[pod];
        match place.users.of(tuple, &place.sockets.all_users()) {
            Ok(user) => {
                let owner = user.and_then(|user| place.sockets.only_of_user(user));
                self.connections[id].user = user;
                self.connections[id].owner = owner;
            }
            Err(error) => self.lose(pod, &error),
        }
    }

    fn back_over_lo(&mut self, pod: usize, packet: Packet) {
        let Some(id) = self.on_lo.remove(&(pod, packet.first.tuple)) else {
            return;
        };
        self.end(id, &packet);
        self.connections[id].over_lo = Some(packet);
    }

    fn arrive(&mut self, pod: usize, packet: &Packet) {
        if let Some(id) = self.sent_before(pod, packet) {
            self.end(id, packet);
            return;
        }
        let tuple = packet.first.tuple;
        let id = self.add(pod, packet.clone(), None);
        self.arrivals
            .entry((tuple.protocol, tuple.source))
            .or_default()
            .push(id);
        self.end(id, packet);
    }

    fn add(&mut self, pod: usize, packet: Packet, owner: Option<Owner>) -> usize {
        let id = self.connections.len();
        self.by_tuple
            .entry((pod, packet.first.tuple))
            .or_default()
            .push(id);
        self.connections.push(Connection {
            pod,
            ended: packet.dropped.then_some(Ended::Dropped),
            packet,
            over_lo: None,
            owner,
            user: None,
            tracked: None,
        });
        id
    }

    /// Looks up, at once, which socket takes a packet that came to INPUT.
    fn end(&mut self, id: usize, packet: &Packet) {
        let pod = self.connections[id].pod;
        let tuple = packet.last.tuple;
        self.arrived.insert((pod, tuple), id);
        if packet.dropped {
            self.connections[id].ended = Some(Ended::Dropped);
            return;
        }
        if packet.left() != Some(Hook::Input) {
            return;
        }
        let port = packet.tproxy.unwrap_or(tuple.destination.port());
        let local = SocketAddr::new(tuple.destination.ip(), port);
        match self.pods[pod].sockets.receiving(tuple.protocol, local) {
            Ok(Some(owner)) => self.connections[id].ended = Some(Ended::Socket { owner, port }),
            Ok(None) => {}
            Err(error) => self.lose(pod, &error),
        }
    }

    /// The newest connection that a process of this pod opened with these addresses, among the first `before`.
    pub(super) fn opened(&self, pod: usize, tuple: &Tuple, before: usize) -> Option<usize> {
        let all = self.by_tuple.get(&(pod, *tuple))?;
        all.iter()
            .copied()
            .rfind(|&id| id < before && self.connections[id].is_from_here())
    }

    /// The same by its own end alone, to a port of another address than `host`: one that stands for the same endpoint, of
    /// which a log names only the first.
    pub(super) fn opened_elsewhere(
        &self,
        pod: usize,
        source: SocketAddr,
        host: SocketAddr,
        before: usize,
    ) -> Option<usize> {
        let is_it = |&id: &usize| {
            let connection = &self.connections[id];
            let tuple = connection.tuple();
            connection.pod == pod
                && connection.is_from_here()
                && tuple.protocol == Protocol::Tcp
                && tuple.source == source
                && self.is_same_endpoint(tuple.destination, host)
        };
        (0..before.min(self.connections.len())).rev().find(is_it)
    }

    /// The same port of the same pod, by either of its addresses.
    pub(super) fn is_same_endpoint(&self, one: SocketAddr, other: SocketAddr) -> bool {
        let has_both = |pod: &Pod| {
            let has = |ip| pod.addresses.all().any(|own| own == ip);
            has(one.ip()) && has(other.ip())
        };
        one == other || (one.port() == other.port() && self.pods.iter().any(has_both))
    }

    /// The same connection as the pod saw it to which it went: same source and, for TCP, same sequence number. The
    /// node may have changed the destination, so that says nothing.
    pub(super) fn arrival(&self, id: usize) -> Option<usize> {
        let connection = &self.connections[id];
        let source = connection.last_tuple().source;
        let all = self.arrivals.get(&(connection.tuple().protocol, source))?;
        all.iter().copied().rfind(|&other| {
            let other = &self.connections[other];
            other.packet.first.kind == connection.packet.first.kind
        })
    }

    /// A process of this pod says that it opened a connection.
    pub(super) fn report(&mut self, pod: usize, origin: Origin) {
        let key = (pod, origin.protocol, origin.local.port(), origin.remote);
        self.reports.entry(key).or_default().push(origin);
    }

    /// Who opened this connection, as far as anybody or anything told.
    pub(super) fn owner(&self, id: usize) -> Option<Owner> {
        let connection = &self.connections[id];
        connection.owner.clone().or_else(|| {
            let tuple = connection.tuple();
            let key = (
                connection.pod,
                tuple.protocol,
                tuple.source.port(),
                tuple.destination,
            );
            let mut reports = self.reports.get(&key)?.iter().rev();
            reports.find(|report| report.is_of(tuple)).map(Origin::owner)
        })
    }

    /// True if a container's process opened it.
    pub(super) fn is_of_container(&self, id: usize) -> bool {
        matches!(
            self.owner(id),
            Some(Owner {
                role: Role::Container(_),
                ..
            })
        )
    }
}
