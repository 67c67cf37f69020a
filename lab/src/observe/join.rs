//! From connections to a step's path: who rode what, from pod to pod and through the sidecars.
//!
//! Joined only by what was observed: the SYN's source and sequence number between pods, a sidecar's access log
//! between its two sides, request ids and (one step at a time) the step's own time for what an app calls.

pub(super) mod dns;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::access_log::Entry;
use super::connections::{Connection, Ended, Mark, Seen};
use super::leg::ObservedLeg;
use super::nftrace::{Protocol, Tuple};
use super::sockets::{Evidence, Owner, Role};
use super::{Error, NODE, Origin};

/// The sidecar's listeners that log.
const LOGGED: [u16; 4] = [15001, 15006, 15021, 15090];
const DNS: u16 = 53;
/// More connections than this, each for the sake of the one before, go round in a circle.
const DEEPEST: usize = 100;
/// Where the agent answers for the app's probes, and from which address it asks the app.
const HEALTH: u16 = 15020;
const INBOUND: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
    IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
];

/// What was observed of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// Its legs, in the order in which the request travelled.
    pub legs: Vec<ObservedLeg>,
    /// The access-log entries along the way, each with its pod.
    pub entries: Vec<Entry>,
    /// What could not be observed, and why; empty if everything was.
    pub unobserved: Vec<String>,
}

/// The state of the matter at one moment.
#[derive(Debug)]
pub(super) struct Found {
    collected: Collected,
    /// What may still come.
    missing: Vec<String>,
}

impl Found {
    pub(super) fn is_waiting(&self) -> bool {
        !self.missing.is_empty()
    }

    /// What is still missing will not come any more.
    pub(super) fn conclude(self) -> Collected {
        let mut collected = self.collected;
        collected.unobserved.extend(self.missing);
        collected
    }
}

/// Follows all origins through what has been seen so far.
pub(super) fn look(seen: &Seen, mark: Mark, origins: &[Origin], parallel: bool) -> Result<Found, Error> {
    let mut walk = Walk {
        seen,
        mark,
        parallel,
        origins,
        ridden: HashSet::new(),
        silent: false,
        used: HashSet::new(),
        visited: Vec::new(),
        depth: 0,
        legs: Vec::new(),
        entries: Vec::new(),
        unobserved: seen.losses[mark.losses..].to_vec(),
        missing: Vec::new(),
    };
    for origin in origins {
        if origin.pod == NODE {
            walk.node(origin);
        } else {
            walk.origin(origin, seen.pod(&origin.pod)?);
        }
    }
    walk.nameless();
    Ok(Found {
        collected: Collected {
            legs: walk.legs,
            entries: walk.entries,
            unobserved: walk.unobserved,
        },
        missing: walk.missing,
    })
}

/// The legs of the newest connection of `role` to `port`, without what it carried.
pub(super) fn newest(seen: &Seen, pod: usize, role: &Role, port: u16) -> Option<Vec<ObservedLeg>> {
    let id = (0..seen.connections.len()).rev().find(|&id| {
        let connection = &seen.connections[id];
        connection.pod == pod
            && connection.is_from_here()
            && connection.tuple().destination.port() == port
            && seen.owner(id).is_some_and(|owner| owner.role == *role)
    })?;
    let mut legs = vec![leg(seen, id, false)];
    if seen.connections[id].leaves() {
        legs.extend(seen.arrival(id).map(|other| leg(seen, other, false)));
    }
    Some(legs)
}

fn leg(seen: &Seen, id: usize, reused: bool) -> ObservedLeg {
    let connection = &seen.connections[id];
    let name = &seen.pods[connection.pod].name;
    ObservedLeg::of(name, connection, seen.owner(id).as_ref(), reused)
}

struct Walk<'a> {
    seen: &'a Seen,
    mark: Mark,
    parallel: bool,
    origins: &'a [Origin],
    /// Connections that already stand as legs.
    ridden: HashSet<usize>,
    /// Nothing is sent on the connection that is followed.
    silent: bool,
    /// Access-log entries that already stand.
    used: HashSet<usize>,
    /// Pods whose apps were reached.
    visited: Vec<usize>,
    /// How many connections there are between an origin and the one that is followed.
    depth: usize,
    legs: Vec<ObservedLeg>,
    entries: Vec<Entry>,
    unobserved: Vec<String>,
    missing: Vec<String>,
}

impl Walk<'_> {
    fn origin(&mut self, origin: &Origin, pod: usize) {
        let of_origin = |&id: &usize| {
            let connection = &self.seen.connections[id];
            connection.pod == pod && connection.is_from_here() && origin.is_of(connection.tuple())
        };
        let Some(id) = (0..self.seen.connections.len()).rev().find(of_origin) else {
            self.missing.push(format!(
                "pod `{}`: no first packet was seen of {}'s connection from port {} to {}",
                origin.pod,
                origin.role,
                origin.local.port(),
                origin.remote
            ));
            return;
        };
        let known = self.seen.owner(id).unwrap_or_else(|| origin.owner());
        self.follow(id, Some(&known), None);
    }

    /// The node is no pod: its connections are seen where they arrive.
    fn node(&mut self, origin: &Origin) {
        let arrived = |&id: &usize| {
            let connection = &self.seen.connections[id];
            let tuple = connection.tuple();
            !connection.is_from_here()
                && tuple.protocol == origin.protocol
                && tuple.destination == origin.remote
                && tuple.source.port() == origin.local.port()
        };
        self.silent = !origin.carries;
        match (self.mark.connections..self.seen.connections.len())
            .rev()
            .find(arrived)
        {
            Some(id) => self.follow(id, None, None),
            None => self.missing.push(format!(
                "no first packet was seen of the node's connection from port {} to {}",
                origin.local.port(),
                origin.remote
            )),
        }
    }

    /// One leg, and all that its connection carried. `request` is the request id that rode it, where that is known.
    fn follow(&mut self, id: usize, owner: Option<&Owner>, request: Option<&str>) {
        if self.depth == DEEPEST {
            self.unobserved.push(format!(
                "pod `{}`: the request goes round and round; what comes after {DEEPEST} connections in a row is not followed",
                self.seen.pods[self.seen.connections[id].pod].name
            ));
            return;
        }
        self.depth += 1;
        self.follow_one(id, owner, request);
        self.depth -= 1;
    }

    fn follow_one(&mut self, id: usize, owner: Option<&Owner>, request: Option<&str>) {
        let connection = &self.seen.connections[id];
        let reused = !self.ridden.insert(id) || id < self.mark.connections;
        let name = &self.seen.pods[connection.pod].name;
        self.legs.push(ObservedLeg::of(name, connection, owner, reused));
        let tuple = connection.tuple();
        for what in connection.unknown() {
            self.unobserved.push(format!("pod `{name}`: {what} is gone"));
        }
        if connection.is_from_here() && owner.is_none() {
            self.unobserved.push(format!(
                "pod `{name}`: nothing tells who opened the connection {} -> {}",
                tuple.source, tuple.destination
            ));
        }
        match &connection.ended {
            Some(Ended::Socket { owner, port }) => self.at_socket(connection, owner, *port, request),
            Some(Ended::Refused(_) | Ended::Dropped) => {}
            None if connection.leaves() => {
                if let Some(next) = self.seen.arrival(id) {
                    self.follow(next, None, request);
                } else if self.is_pod(connection.last_tuple().destination) {
                    self.missing.push(format!(
                        "pod `{name}`: the connection {} -> {} was not seen to arrive",
                        tuple.source, tuple.destination
                    ));
                }
            }
            None => self.missing.push(format!(
                "pod `{name}`: nothing tells what became of the connection {} -> {}",
                tuple.source, tuple.destination
            )),
        }
    }

    fn is_pod(&self, address: SocketAddr) -> bool {
        let mut pods = self.seen.pods.iter();
        pods.any(|pod| pod.addresses.all().any(|ip| ip == address.ip()) && !pod.cut_off)
    }

    fn at_socket(&mut self, connection: &Connection, owner: &Owner, port: u16, request: Option<&str>) {
        match owner.role {
            Role::Sidecar if LOGGED.contains(&port) => self.through_sidecar(connection, port, request),
            Role::Container(_) => self.calls_of_app(connection.pod, request),
            Role::Agent if port == HEALTH && !self.parallel => self.probe_of_agent(connection.pod),
            Role::Agent if port == dns::CAPTURED => self.through_dns(connection),
            Role::Sidecar | Role::Agent => {}
        }
    }

    /// The agent asks the app what it was asked itself: a connection from the sidecar's inbound address.
    fn probe_of_agent(&mut self, pod: usize) {
        let asked = |&id: &usize| {
            let connection = &self.seen.connections[id];
            let by_agent = self.seen.owner(id).is_none_or(|owner| owner.role == Role::Agent);
            connection.pod == pod
                && connection.is_from_here()
                && INBOUND.contains(&connection.tuple().source.ip())
                && by_agent
                && !self.ridden.contains(&id)
        };
        let found: Vec<usize> = (self.mark.connections..self.seen.connections.len())
            .filter(asked)
            .collect();
        for id in found {
            match self.seen.owner(id) {
                Some(owner) => self.follow(id, Some(&owner), None),
                // The agent tells of it, a moment later than the kernel.
                None => self.missing.push(format!(
                    "pod `{}`: the agent has not told of its question to the app",
                    self.seen.pods[pod].name
                )),
            }
        }
    }

    fn through_sidecar(&mut self, connection: &Connection, port: u16, request: Option<&str>) {
        let client = connection.last_tuple().source;
        let carried = self.unused(|entry, pod| {
            pod == connection.pod
                && entry.downstream_remote_address == client
                && (request.is_none() || entry.request_id.is_none() || entry.request_id.as_deref() == request)
        });
        if carried.is_empty() && !self.silent {
            let name = &self.seen.pods[connection.pod].name;
            self.missing.push(format!(
                "pod `{name}`: the access log has no entry for {client} at sidecar:{port}"
            ));
        }
        for index in carried {
            self.used.insert(index);
            let entry = &self.seen.entries[index].entry;
            self.entries.push(entry.clone());
            self.upstream(connection, index);
        }
    }

    fn unused(&self, wanted: impl Fn(&Entry, usize) -> bool) -> Vec<usize> {
        (self.mark.entries..self.seen.entries.len())
            .filter(|index| !self.used.contains(index))
            .filter(|&index| wanted(&self.seen.entries[index].entry, self.seen.entries[index].pod))
            .collect()
    }

    /// The upstream connection of an entry, after the attempts that failed before it.
    fn upstream(&mut self, downstream: &Connection, index: usize) {
        let logged = &self.seen.entries[index];
        let entry = &logged.entry;
        let Some(host) = entry.upstream_host else { return };
        let request = entry.request_id.as_deref();
        let main = entry.upstream_local_address.and_then(|local| {
            let tuple = Tuple {
                protocol: Protocol::Tcp,
                source: local,
                destination: host,
            };
            if local.is_ipv4() == host.is_ipv4() {
                self.seen.opened(downstream.pod, &tuple, logged.after)
            } else {
                // Of an endpoint with two addresses the log has the first, and the one that answered was the other.
                self.seen
                    .opened_elsewhere(downstream.pod, local, host, logged.after)
            }
        });
        let failed = self.attempts(downstream.pod, entry, host, main, logged.after);
        let is_elsewhere = entry
            .upstream_local_address
            .is_some_and(|local| local.is_ipv4() != host.is_ipv4());
        let nothing = main.is_none() && (failed.is_empty() || is_elsewhere);
        // The log says whose they are, whatever else was found.
        let sidecar = |owner: &Owner| owner.role == Role::Sidecar;
        for id in failed.into_iter().chain(main) {
            let owner = self.seen.owner(id).filter(sidecar).unwrap_or_else(by_access_log);
            // What came to nothing carried nothing, whichever socket its SYN came to.
            let silent = self.silent;
            self.silent |= Some(id) != main;
            self.follow(id, Some(&owner), request);
            self.silent = silent;
        }
        if nothing {
            let name = &self.seen.pods[downstream.pod].name;
            self.unobserved.push(format!(
                "pod `{name}`: the sidecar's connection to {host} was not seen, or cannot be told from others"
            ));
        }
    }

    /// The sidecar's connections to `host`'s port that came to nothing. A log entry names only the last attempt, so
    /// these are known by the step's time; of several at once in `parallel`, none can be told from the others.
    fn attempts(
        &self,
        pod: usize,
        entry: &Entry,
        host: SocketAddr,
        main: Option<usize>,
        before: usize,
    ) -> Vec<usize> {
        // The log names its own end of every connection that was established.
        let established = entry.upstream_local_address.is_some();
        let until = main.unwrap_or(before);
        let all: Vec<usize> = (self.mark.connections..until)
            .filter(|id| !self.ridden.contains(id))
            .filter(|&id| self.is_attempt(id, pod, host, established))
            .collect();
        if self.parallel && (main.is_some() || all.len() > 1) {
            return Vec::new();
        }
        all
    }

    fn is_attempt(&self, id: usize, pod: usize, host: SocketAddr, established: bool) -> bool {
        let connection = &self.seen.connections[id];
        let to = connection.tuple().destination;
        let by_sidecar = match self.seen.owner(id) {
            Some(owner) => owner.role == Role::Sidecar,
            // The log says that the sidecar tried this very address, and so the other one of the same endpoint.
            None => self.seen.is_same_endpoint(to, host),
        };
        connection.pod == pod
            && connection.is_from_here()
            && by_sidecar
            && to.port() == host.port()
            && self.came_to_nothing(id, host, established)
    }

    fn came_to_nothing(&self, id: usize, host: SocketAddr, established: bool) -> bool {
        let connection = &self.seen.connections[id];
        match &connection.ended {
            Some(Ended::Refused(_) | Ended::Dropped) => true,
            // A SYN may come to a socket whose answer finds no way back.
            Some(Ended::Socket { .. }) => !established && connection.tuple().destination == host,
            None => match self
                .seen
                .arrival(id)
                .map(|other| &self.seen.connections[other].ended)
            {
                Some(ended) => matches!(ended, Some(Ended::Refused(_) | Ended::Dropped)),
                None => connection.tuple().destination == host,
            },
        }
    }

    /// What the apps of a pod that was reached called.
    fn calls_of_app(&mut self, pod: usize, request: Option<&str>) {
        if !self.visited.contains(&pod) {
            self.visited.push(pod);
        }
        let by_id =
            self.unused(|entry, of| of == pod && request.is_some() && entry.request_id.as_deref() == request);
        let ridden: Vec<usize> = by_id
            .into_iter()
            .filter_map(|index| self.downstream_of_app(index))
            .collect();
        for id in ridden {
            self.follow(id, self.seen.owner(id).as_ref(), request);
        }
        if self.parallel {
            return;
        }
        for id in self.mark.connections..self.seen.connections.len() {
            if !self.ridden.contains(&id) && self.is_call(id, pod) {
                self.follow(id, self.seen.owner(id).as_ref(), None);
            }
        }
        // Over connections that the app kept from earlier requests.
        for index in self.unused(|_, of| of == pod) {
            if let Some(id) = self
                .downstream_of_app(index)
                .filter(|id| *id < self.mark.connections)
                && !self.used.contains(&index)
            {
                self.follow(id, self.seen.owner(id).as_ref(), None);
            }
        }
    }

    /// The connection of an app in this entry's pod on which the entry's request came to the sidecar.
    fn downstream_of_app(&self, index: usize) -> Option<usize> {
        let logged = &self.seen.entries[index];
        let client = logged.entry.downstream_remote_address;
        (0..logged.after).rev().find(|&id| {
            let connection = &self.seen.connections[id];
            connection.pod == logged.pod
                && connection.is_from_here()
                && connection.last_tuple().source == client
                && self.seen.is_of_container(id)
        })
    }

    fn is_call(&self, id: usize, pod: usize) -> bool {
        let connection = &self.seen.connections[id];
        connection.pod == pod
            && connection.is_from_here()
            && connection.tuple().destination.port() != DNS
            && self.seen.is_of_container(id)
            && !self.origins.iter().any(|origin| origin.is_of(connection.tuple()))
    }

    /// A connection of a container's user, in a pod that was reached, of which nobody knows whose it was.
    fn nameless(&mut self) {
        if self.parallel {
            return;
        }
        for id in self.mark.connections..self.seen.connections.len() {
            let connection = &self.seen.connections[id];
            let pod = &self.seen.pods[connection.pod];
            let may_be_a_call = self.visited.contains(&connection.pod)
                && connection.is_from_here()
                && !self.ridden.contains(&id)
                && connection.tuple().destination.port() != DNS
                && self.seen.owner(id).is_none()
                && connection
                    .user
                    .is_none_or(|user| pod.sockets.is_of_a_container(user));
            if may_be_a_call {
                self.missing.push(format!(
                    "pod `{}`: nothing tells who opened the connection {} -> {}",
                    pod.name,
                    connection.tuple().source,
                    connection.tuple().destination
                ));
            }
        }
    }
}

const fn by_access_log() -> Owner {
    Owner {
        role: Role::Sidecar,
        pid: None,
        evidence: Evidence::AccessLog,
    }
}
