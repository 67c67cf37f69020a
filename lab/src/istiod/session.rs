//! One proxy's stream as a state machine: what it asked for, what it got, what it answered, and what it is owed next.
//! Pure: no socket, no clock.
//!
//! State of the world, version 3 (xDS protocol, "Basic Protocol Overview" and "ACK/NACK and resource type instance
//! version"). The rules that are not obvious:
//! - A request is an answer to a response only by its nonce; one with an older nonce is overtaken and says nothing.
//! - What is owed is sent clusters first, then endpoints, listeners, routes; a later type never overtakes an earlier one
//!   that is owed as well. A type that is held is out of that order: the others go on without it.
//! - No type waits for the answer to another, as in Istio. It could not: Envoy answers clusters only when they are warm,
//!   that is, when it has their endpoints (`ClusterManagerImpl::updateClusterCounts`).
//! - After clusters were sent, the next request for endpoints is answered even if it looks like an ACK: a cluster that
//!   was changed warms again, and asks for the same names (Istio, `warmingDependencies`).
//! - What was refused is not sent again until it changes.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::kind::Kind;
use super::snapshot::{Names, Resources, Wanted};

/// The types of a proxy's stream.
#[derive(Debug)]
pub(super) struct Session {
    wanted: Wanted,
    watches: [Watch; Kind::COUNT],
    nonces: u64,
}

/// A type on the stream.
#[derive(Debug, Default)]
pub(super) struct Watch {
    names: Option<Names>,
    /// An answer is owed, whether anything changed or not.
    owed: bool,
    /// The next request is answered, though it may look like an ACK.
    warming: bool,
    sent: Option<Sent>,
    acked: Option<Version>,
    nacked: Option<Refusal>,
}

#[derive(Debug)]
struct Sent {
    version: Version,
    resources: Resources,
    answered: bool,
}

/// One response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// `version_info`: the number of the state.
    pub(super) version: String,
    /// Its nonce.
    pub(super) nonce: String,
}

/// A response that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Which one.
    pub(super) version: Version,
    /// The proxy's words.
    pub(super) message: String,
}

/// What a request said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// It asks for something.
    Subscribed,
    /// It asks for nothing any more.
    Unsubscribed,
    /// It took a response.
    Acked(Version),
    /// It refused a response.
    Nacked(Refusal),
    /// A later response has been sent since: it says nothing.
    Overtaken,
}

/// A response to send.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Response {
    /// Its type.
    pub(super) kind: Kind,
    /// Its version and nonce.
    pub(super) version: Version,
    /// What is in it.
    pub(super) resources: Resources,
}

impl Session {
    /// A stream on which nothing has been asked for yet.
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            watches: Default::default(),
            nonces: 0,
        }
    }

    /// The state that the proxy is to have.
    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The proxy is to have this from now on.
    pub(super) fn replace(&mut self, wanted: Wanted) {
        self.wanted = wanted;
    }

    /// A type, to look at.
    pub(super) fn watch(&self, kind: Kind) -> &Watch {
        &self.watches[kind as usize]
    }

    /// Takes in a request.
    pub(super) fn request(&mut self, kind: Kind, request: DiscoveryRequest) -> Heard {
        let watch = &mut self.watches[kind as usize];
        let names = names(kind, request.resource_names);
        match &mut watch.sent {
            Some(sent) if !request.response_nonce.is_empty() => {
                if sent.version.nonce != request.response_nonce {
                    return Heard::Overtaken;
                }
                sent.answered = true;
                let version = sent.version.clone();
                watch.answered(names, version, request.error_detail.map(|detail| detail.message))
            }
            // A nonce on a fresh stream is left over from the one before.
            Some(_) | None => {
                watch.owed = names.is_some();
                watch.names = names;
                watch.heard_of_names()
            }
        }
    }

    /// What is to be sent now, the first in order; none if the proxy has all that may be sent.
    pub(super) fn next(&mut self, held: &BTreeSet<Kind>) -> Option<Response> {
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| !held.contains(kind) && self.is_due(*kind))?;
        let resources = self.resources(kind)?;
        self.nonces += 1;
        let generation = self.wanted.snapshot().generation;
        let version = Version {
            version: generation.to_string(),
            nonce: format!("{generation}-{}", self.nonces),
        };
        match kind {
            Kind::Cds => self.watches[Kind::Eds as usize].warming = true,
            Kind::Eds => self.watches[Kind::Eds as usize].warming = false,
            Kind::Lds | Kind::Rds | Kind::Nds => {}
        }
        let watch = &mut self.watches[kind as usize];
        watch.owed = false;
        watch.sent = Some(Sent {
            version: version.clone(),
            resources: resources.clone(),
            answered: false,
        });
        Some(Response {
            kind,
            version,
            resources,
        })
    }

    /// True if the proxy asked for all that it needs, has it, and answered every response.
    pub(super) fn is_settled(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| {
            let watch = self.watch(kind);
            let mut needed = self.wanted.needed(kind);
            match &watch.names {
                Some(Names::Only(names)) if !needed.all(|name| names.contains(name)) => false,
                Some(_) => watch.is_answered() && !self.is_due(kind),
                // A proxy asks for endpoints and routes only if it has clusters and listeners that need them; its agent
                // asks for names together with listeners, if at all.
                None => !kind.is_asked_by_all() && needed.next().is_none(),
            }
        })
    }

    fn is_due(&self, kind: Kind) -> bool {
        let watch = self.watch(kind);
        let Some(resources) = self.resources(kind) else {
            return false;
        };
        watch.owed || watch.sent.as_ref().is_none_or(|sent| sent.resources != resources)
    }

    fn resources(&self, kind: Kind) -> Option<Resources> {
        let names = self.watch(kind).names.as_ref()?;
        Some(self.wanted.resources(kind, names))
    }
}

impl Watch {
    /// What was sent last.
    pub(super) fn sent(&self) -> Option<&Version> {
        self.sent.as_ref().map(|sent| &sent.version)
    }

    /// What was taken last.
    pub(super) fn acked(&self) -> Option<&Version> {
        self.acked.as_ref()
    }

    /// What was refused last, unless something was taken since.
    pub(super) fn nacked(&self) -> Option<&Refusal> {
        self.nacked.as_ref()
    }

    /// What is asked for.
    pub(super) fn names(&self) -> Option<&Names> {
        self.names.as_ref()
    }

    fn is_answered(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.answered)
    }

    fn answered(&mut self, names: Option<Names>, version: Version, refusal: Option<String>) -> Heard {
        let before = self.names.take();
        self.owed |= self.warming && names.is_some();
        self.warming &= names.is_none();
        if let (Some(sent), Some(Names::Only(asked))) = (&mut self.sent, &names) {
            // What is not asked for any more needs no answer; a name that is new makes a difference, and gets one.
            sent.resources.retain(|resource| asked.contains(&resource.name));
        }
        self.owed |= match (&before, &names) {
            (_, None) | (Some(_), Some(Names::Only(_))) => false,
            (None, Some(_)) => true,
            (Some(before), Some(Names::All)) => *before != Names::All,
        };
        self.names = names;
        if let Some(message) = refusal {
            let refusal = Refusal { version, message };
            self.nacked = Some(refusal.clone());
            return Heard::Nacked(refusal);
        }
        self.nacked = None;
        self.acked = Some(version.clone());
        Heard::Acked(version)
    }

    fn heard_of_names(&self) -> Heard {
        if self.names.is_some() {
            Heard::Subscribed
        } else {
            Heard::Unsubscribed
        }
    }
}

fn names(kind: Kind, names: Vec<String>) -> Option<Names> {
    if names.iter().any(|name| name == "*") || (names.is_empty() && kind.is_wildcard()) {
        return Some(Names::All);
    }
    (!names.is_empty()).then(|| Names::Only(names.into_iter().collect()))
}
