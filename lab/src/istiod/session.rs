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

/// The four types of a proxy's stream.
#[derive(Debug)]
pub(super) struct Session {
    wanted: Wanted,
    watches: [Watch; 4],
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
            Kind::Lds | Kind::Rds => {}
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
                // A proxy asks for endpoints and routes only if it has clusters and listeners that need them.
                None => !kind.is_wildcard() && needed.next().is_none(),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::google::rpc::Status;

    use super::*;
    use crate::istiod::listeners::Interception;
    use crate::istiod::registry::Registry;
    use crate::istiod::snapshot::Snapshot;
    use crate::istiod::tests::bookinfo;

    const RATINGS: &str = "outbound|80||ratings.default.svc.cluster.local";
    const MYSQL: &str = "outbound|3306||mysql.default.svc.cluster.local";

    fn wanted(generation: u64, change: impl FnOnce(&mut Registry)) -> Wanted {
        let mut registry = bookinfo();
        change(&mut registry);
        let proxy = registry.proxies[1].clone();
        let snapshot = Arc::new(Snapshot::new(generation, registry));
        Wanted::new(&snapshot, &proxy, Interception::Redirect)
    }

    fn unchanged(_registry: &mut Registry) {}

    fn without_mysql_endpoints(registry: &mut Registry) {
        registry.services[3].endpoints.clear();
    }

    fn session() -> Session {
        Session::new(wanted(1, unchanged))
    }

    fn request(nonce: &str, names: &[&str]) -> DiscoveryRequest {
        DiscoveryRequest {
            response_nonce: nonce.to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DiscoveryRequest::default()
        }
    }

    fn next(session: &mut Session) -> Option<Response> {
        session.next(&BTreeSet::new())
    }

    /// Asks for a type, takes the response, and gives its nonce.
    #[track_caller]
    fn ask_and_take(session: &mut Session, kind: Kind, names: &[&str]) -> String {
        assert_eq!(session.request(kind, request("", names)), Heard::Subscribed);
        let response = next(session).unwrap();
        assert_eq!(response.kind, kind);
        let nonce = response.version.nonce.clone();
        let heard = session.request(kind, request(&nonce, names));
        assert_eq!(heard, Heard::Acked(response.version));
        nonce
    }

    fn names_of(response: &Response) -> Vec<&str> {
        response
            .resources
            .iter()
            .map(|resource| resource.name.as_str())
            .collect()
    }

    #[test]
    fn what_is_owed_together_goes_in_the_order_of_a_push() {
        let mut session = session();
        for (kind, names) in [
            (Kind::Rds, &["9080"][..]),
            (Kind::Lds, &[]),
            (Kind::Eds, &[MYSQL]),
            (Kind::Cds, &[]),
        ] {
            session.request(kind, request("", names));
        }
        let order: Vec<Kind> = std::iter::from_fn(|| next(&mut session))
            .map(|response| response.kind)
            .collect();
        assert_eq!(order, Kind::ALL);
    }

    #[test]
    fn an_answer_to_an_older_response_says_nothing() {
        let mut session = session();
        let first = ask_and_take(&mut session, Kind::Eds, &[MYSQL]);
        session.replace(wanted(2, without_mysql_endpoints));
        let second = next(&mut session).unwrap();
        assert_eq!(second.version.version, "2");
        assert_eq!(
            session.request(Kind::Eds, request(&first, &[MYSQL, RATINGS])),
            Heard::Overtaken
        );
        assert_eq!(next(&mut session), None);
        let heard = session.request(Kind::Eds, request(&second.version.nonce, &[MYSQL, RATINGS]));
        assert_eq!(heard, Heard::Acked(second.version));
        let third = next(&mut session).unwrap();
        assert_eq!(names_of(&third), [MYSQL, RATINGS]);
    }

    #[test]
    fn fewer_names_need_no_answer_and_the_same_name_again_does() {
        let mut session = session();
        let nonce = ask_and_take(&mut session, Kind::Eds, &[MYSQL, RATINGS]);
        session.request(Kind::Eds, request(&nonce, &[MYSQL]));
        assert_eq!(next(&mut session), None);
        session.request(Kind::Eds, request(&nonce, &[MYSQL, RATINGS]));
        let again = next(&mut session).unwrap();
        assert_eq!(names_of(&again), [MYSQL, RATINGS]);
    }

    #[test]
    fn no_names_end_a_subscription_and_names_begin_it_again() {
        let mut session = session();
        let nonce = ask_and_take(&mut session, Kind::Rds, &["9080"]);
        session.request(Kind::Rds, request(&nonce, &[]));
        assert_eq!(next(&mut session), None);
        assert_eq!(session.watch(Kind::Rds).names(), None);
        session.request(Kind::Rds, request(&nonce, &["9080"]));
        assert_eq!(next(&mut session).map(|response| response.kind), Some(Kind::Rds));
    }

    #[test]
    fn names_that_do_not_exist_are_answered_as_empty() {
        let mut session = session();
        session.request(Kind::Rds, request("", &["1234"]));
        let response = next(&mut session).unwrap();
        assert_eq!(names_of(&response), ["1234"]);
    }

    #[test]
    fn only_what_changed_is_sent_again() {
        let mut session = session();
        ask_and_take(&mut session, Kind::Cds, &[]);
        ask_and_take(&mut session, Kind::Eds, &[MYSQL, RATINGS]);
        ask_and_take(&mut session, Kind::Lds, &[]);
        ask_and_take(&mut session, Kind::Rds, &["9080"]);
        session.replace(wanted(2, unchanged));
        assert_eq!(next(&mut session), None);
        session.replace(wanted(3, without_mysql_endpoints));
        assert_eq!(next(&mut session).map(|response| response.kind), Some(Kind::Eds));
        assert_eq!(next(&mut session), None);
    }

    #[test]
    fn a_refusal_keeps_what_was_taken_and_nothing_is_sent_before_a_change() {
        let mut session = session();
        ask_and_take(&mut session, Kind::Lds, &[]);
        session.replace(wanted(2, |registry| registry.allow_any = false));
        let refused = next(&mut session).unwrap();
        let refusal = DiscoveryRequest {
            error_detail: Some(Status {
                message: "no such filter".to_owned(),
                ..Status::default()
            }),
            ..request(&refused.version.nonce, &[])
        };
        let heard = session.request(Kind::Lds, refusal);
        assert!(
            matches!(heard, Heard::Nacked(refusal) if refusal.message == "no such filter" && refusal.version.version == "2")
        );
        assert_eq!(next(&mut session), None);
        let watch = session.watch(Kind::Lds);
        assert_eq!(watch.acked().map(|version| version.version.as_str()), Some("1"));
        session.replace(wanted(3, unchanged));
        let response = next(&mut session).unwrap();
        session.request(Kind::Lds, request(&response.version.nonce, &[]));
        assert_eq!(session.watch(Kind::Lds).nacked(), None);
    }

    #[test]
    fn endpoints_are_answered_once_more_after_clusters_were_sent() {
        let mut session = session();
        ask_and_take(&mut session, Kind::Cds, &[]);
        let nonce = ask_and_take(&mut session, Kind::Eds, &[MYSQL]);
        assert_eq!(next(&mut session), None);
        session.replace(wanted(2, |registry| {
            registry.services[3].ports[0].protocol = crate::istiod::registry::Protocol::Http;
        }));
        assert_eq!(next(&mut session).map(|response| response.kind), Some(Kind::Cds));
        // The changed cluster warms: the same names, the last nonce.
        session.request(Kind::Eds, request(&nonce, &[MYSQL]));
        let again = next(&mut session).unwrap();
        assert_eq!(again.kind, Kind::Eds);
        session.request(Kind::Eds, request(&again.version.nonce, &[MYSQL]));
        assert_eq!(next(&mut session), None);
    }

    #[test]
    fn a_held_type_stays_behind_and_the_others_go_on() {
        let mut session = session();
        session.request(Kind::Cds, request("", &[]));
        session.request(Kind::Lds, request("", &[]));
        let held = BTreeSet::from([Kind::Cds]);
        assert_eq!(session.next(&held).map(|response| response.kind), Some(Kind::Lds));
        assert_eq!(session.next(&held), None);
        assert_eq!(next(&mut session).map(|response| response.kind), Some(Kind::Cds));
    }

    #[test]
    fn settled_is_to_have_asked_for_all_and_answered_all() {
        let mut session = session();
        let every: Vec<String> = session.wanted().needed(Kind::Eds).map(str::to_owned).collect();
        let every: Vec<&str> = every.iter().map(String::as_str).collect();
        let routes: Vec<String> = session.wanted().needed(Kind::Rds).map(str::to_owned).collect();
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        ask_and_take(&mut session, Kind::Cds, &[]);
        ask_and_take(&mut session, Kind::Eds, &[MYSQL]);
        ask_and_take(&mut session, Kind::Lds, &[]);
        ask_and_take(&mut session, Kind::Rds, &routes);
        assert!(!session.is_settled(), "not all endpoints were asked for");
        ask_and_take(&mut session, Kind::Eds, &every);
        assert!(session.is_settled());
        session.replace(wanted(2, without_mysql_endpoints));
        assert!(!session.is_settled(), "endpoints are owed");
        let sent = next(&mut session).unwrap();
        assert!(!session.is_settled(), "endpoints were not answered");
        session.request(Kind::Eds, request(&sent.version.nonce, &every));
        assert!(session.is_settled());
    }
}
