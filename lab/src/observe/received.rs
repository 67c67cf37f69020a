//! Everything that the observer reads from the kernel, in one call: for the fuzz target, which cannot be the kernel.

use super::netlink::messages;
use super::nftrace::{Event, event};
use super::packet::{Assembly, Packet, Progress};
use super::rules::Book;
use super::sockets;
use super::users;

/// What bytes of netlink came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Messages.
    pub messages: usize,
    /// Those that tell of an error, or that there was none.
    pub errors: usize,
    /// Sockets, if all messages were of `inet_diag`.
    pub sockets: usize,
    /// Elements of the set of users, if all messages listed that.
    pub users: usize,
    /// Connections that conntrack reported.
    pub tracked: usize,
    /// Packets that were seen, to their end or not.
    pub packets: usize,
}

/// Reads `bytes` as the answer to each question that the observer asks, and as what it hears unasked.
pub fn received(bytes: &[u8]) -> Received {
    let mut book = Book::default();
    messages(bytes).for_each(|message| book.take(message));
    let (mut all, mut assembly) = (Received::default(), Assembly::default());
    for message in messages(bytes) {
        all.messages += 1;
        all.errors += usize::from(message.errno().is_some());
        all.sockets += usize::from(sockets::found(message).is_some());
        all.users += users::elements(message.payload).len();
        match event(message) {
            Event::Trace(trace) => {
                let seen: Option<Packet> = match assembly.take(trace, &book) {
                    Progress::Ended(packet) => Some(packet),
                    Progress::Began(unfinished) => unfinished,
                    Progress::Under | Progress::Foreign => None,
                };
                all.packets += usize::from(seen.is_some());
            }
            Event::Tracked(_) => all.tracked += 1,
            Event::RulesChanged | Event::Other => {}
        }
    }
    all.packets += assembly.flush().len();
    all
}
