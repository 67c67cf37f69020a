//! The scenarios that are shipped pass, and what they print equals what was measured independently.

use crate::support::Lab;

/// The table of the six types, as measured with an unmodified Envoy and `xtables-monitor` (`ISTIO_OUTPUT`'s nine rules).
/// It stands here a second time on purpose: a change of a scenario file must not change what is true.
pub(crate) const TRUTH: [(&str, &str, &[&str]); 9] = [
    (
        "Type 1: remote pod -> local pod",
        "reviews-v1",
        &[
            "PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> reviews:9080",
        ],
    ),
    (
        "Type 2: local pod -> remote pod",
        "productpage-v1",
        &[
            "productpage -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING",
        ],
    ),
    (
        "Type 3: Prometheus -> local pod",
        "reviews-v1",
        &[
            "PREROUTING -> ISTIO_INBOUND#2 -> INPUT -> sidecar:15090",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING -> sidecar:15000",
        ],
    ),
    (
        "Type 4: local pod -> local pod, new connections",
        "ratings-v1",
        &[
            "ratings -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#2 -> ISTIO_IN_REDIRECT#1 -> POSTROUTING -> sidecar:15006",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> ratings:9080",
        ],
    ),
    (
        "Type 5: agent -> data plane",
        "reviews-v1",
        &["agent -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING -> sidecar:15000"],
    ),
    (
        "Type 6: agent -> istiod, the xDS stream itself",
        "reviews-v1",
        &["agent -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING"],
    ),
    (
        "Type 6: the article's path",
        "reviews-v1",
        &[
            "reviews -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING",
        ],
    ),
    (
        "Self call by pod address",
        "ratings-v1",
        &["ratings -> OUTPUT -> ISTIO_OUTPUT#3 -> POSTROUTING -> ratings:9080"],
    ),
    (
        "DNS over UDP",
        "ratings-v1",
        &["ratings -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end -> POSTROUTING"],
    ),
];

#[test]
fn bookinfo_shows_the_six_types() {
    let ended = Lab::shipped("bookinfo.yaml").status(0);
    for (step, pod, legs) in TRUTH {
        assert_eq!(ended.legs(step, pod), legs, "{step}");
    }
    let document = ended.json();
    assert_eq!(document["version"], 1);
    assert_eq!(document["scenarios"][0]["result"], "pass");
}

#[test]
fn the_older_inbound_cluster_leaves_by_rule_4() {
    let ended = Lab::shipped("bookinfo-2018.yaml").status(0);
    let legs = ended.legs("Type 1", "reviews-v1");
    assert_eq!(
        legs[1],
        "sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING -> reviews:9080"
    );
}

#[test]
fn both_startup_orders_fail_as_published() {
    let ended = Lab::shipped("startup-order.yaml").status(0);
    assert_eq!(
        ended.legs("Case 1: app before sidecar, the app's first call", "ratings-v1"),
        ["ratings -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> refused:15001"]
    );
    assert_eq!(
        ended.legs(
            "Case 2: sidecar before app, a caller without sidecar",
            "reviews-v1"
        )[1],
        "sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> refused:9080"
    );
}

#[test]
fn every_shipped_scenario_has_a_test() {
    let dir = crate::support::root().join("scenarios");
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        // Those below it are all run by `races`, and by what they are about.
        .filter(|name| name != "races" && name != "interception")
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["bookinfo-2018.yaml", "bookinfo.yaml", "startup-order.yaml"]
    );
}
