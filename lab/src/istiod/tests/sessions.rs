//! The rules of a stream, without a stream: what is owed, in which order, and what answers mean.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::google::rpc::Status;

use super::super::kind::Kind;
use super::super::metadata::Metadata;
use super::super::registry::{Protocol, Registry};
use super::super::session::{Heard, Response, Session};
use super::super::snapshot::{Snapshot, Wanted};
use super::bookinfo;

const RATINGS: &str = "outbound|80||ratings.default.svc.cluster.local";
const MYSQL: &str = "outbound|3306||mysql.default.svc.cluster.local";

fn wanted(generation: u64, change: impl FnOnce(&mut Registry)) -> Wanted {
    let mut registry = bookinfo();
    change(&mut registry);
    let proxy = registry.proxies[1].clone();
    let snapshot = Arc::new(Snapshot::new(generation, registry));
    Wanted::new(&snapshot, &proxy, Metadata::default())
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
        (Kind::Nds, &[][..]),
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
        registry.services[3].ports[0].protocol = Protocol::Http;
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
    // Names are no part of it before an agent has asked for them.
    session.request(Kind::Nds, request("", &[]));
    assert!(!session.is_settled(), "names are owed");
    let names = next(&mut session).unwrap();
    assert_eq!((names.kind, names.resources.len()), (Kind::Nds, 1));
    session.request(Kind::Nds, request(&names.version.nonce, &[]));
    assert!(session.is_settled());
    session.replace(wanted(2, without_mysql_endpoints));
    assert!(!session.is_settled(), "endpoints are owed");
    let sent = next(&mut session).unwrap();
    assert!(!session.is_settled(), "endpoints were not answered");
    session.request(Kind::Eds, request(&sent.version.nonce, &every));
    assert!(session.is_settled());
}
