//! What became of a question that came to an agent's DNS: answered there, or passed on by a connection of the agent's.
//!
//! Joined by what the agent tells of each question: who asked it, and from which port it asks elsewhere.

use std::net::SocketAddr;

use super::Walk;
use crate::observe::connections::Connection;
use crate::observe::nftrace::Protocol;

/// Where the interception rules lead questions.
pub(in crate::observe) const CAPTURED: u16 = 15053;

/// What an agent does with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lookup {
    /// How it came.
    pub protocol: Protocol,
    /// Who asked, as the agent's socket saw it.
    pub client: SocketAddr,
    /// From which port the agent asks whom; none if it answers from what it knows.
    pub forward: Option<(u16, SocketAddr)>,
}

impl Walk<'_> {
    /// The questions of a connection, or of a UDP flow, that came to the agent, and where they went from there.
    pub(super) fn through_dns(&mut self, connection: &Connection) {
        let (pod, name) = (connection.pod, &self.seen.pods[connection.pod].name);
        let client = connection.last_tuple().source;
        let protocol = connection.tuple().protocol;
        let told: Vec<Lookup> = self.seen.lookups[self.mark.lookups..]
            .iter()
            .filter(|(of, it)| *of == pod && it.client == client && it.protocol == protocol)
            .map(|(_, lookup)| *lookup)
            .collect();
        if told.is_empty() && !self.silent {
            self.missing.push(format!(
                "pod `{name}`: the agent has not told what it did with the question from {client}"
            ));
        }
        for (port, server) in told.iter().filter_map(|lookup| lookup.forward) {
            let passed_on = |&id: &usize| {
                let connection = &self.seen.connections[id];
                let tuple = connection.tuple();
                connection.pod == pod
                    && connection.is_from_here()
                    && tuple.protocol == protocol
                    && tuple.source.port() == port
                    && tuple.destination == server
                    && !self.ridden.contains(&id)
            };
            let found = (self.mark.connections..self.seen.connections.len())
                .rev()
                .find(passed_on);
            match found {
                Some(id) => self.follow(id, self.seen.owner(id).as_ref(), None),
                None => self.missing.push(format!(
                    "pod `{name}`: the agent's question from port {port} to {server} was not seen"
                )),
            }
        }
    }
}
