//! IPv6 alone, and both families: the same paths, with either data plane; and what a file can get wrong about families.

use crate::support::{Lab, root};

const SCENARIO: &str = "interception/ipv6.yaml";
const DUAL: &str = "interception/dual-stack.yaml";

/// A step, a pod, and the legs that are true of it in IPv4: rules of the same numbers, in `ip6tables` now.
const TRUTH: [(&str, &str, &[&str]); 6] = [
    (
        "Type 1: remote pod -> local pod, by the pod's",
        "web-v1",
        &[
            "PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> web:8080",
        ],
    ),
    (
        "Type 2: local pod -> remote pod, TCP",
        "caller",
        &[
            "caller -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING",
        ],
    ),
    (
        "Type 3",
        "web-v1",
        &[
            "PREROUTING -> ISTIO_INBOUND#2 -> INPUT -> sidecar:15090",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING -> sidecar:15000",
        ],
    ),
    (
        "Type 4",
        "web-v1",
        &[
            "web -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#2 -> ISTIO_IN_REDIRECT#1 -> POSTROUTING -> sidecar:15006",
            "sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> web:8080 (reused)",
        ],
    ),
    (
        "Type 5: agent -> data plane",
        "web-v1",
        &["agent -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING -> sidecar:15000"],
    ),
    (
        "Type 6",
        "web-v1",
        &["agent -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING"],
    ),
];

#[track_caller]
fn check_ipv6(proxy: &str) {
    let ended = Lab::shipped(SCENARIO).arg(proxy).status(0);
    for (step, pod, legs) in TRUTH {
        assert_eq!(ended.legs(step, pod), legs, "{step}");
    }
    // The access logs have every address of every connection.
    assert!(ended.stdout.contains("\"[::6]:"), "{}", ended.stdout);
    for v4 in ["10.244.", "10.96.", "127.0.0."] {
        assert!(!ended.stdout.contains(v4), "{v4} in {}", ended.stdout);
    }
}

#[test]
fn the_six_types_where_there_is_no_ipv4() {
    check_ipv6("--proxy=builtin");
}

#[test]
fn the_six_types_where_there_is_no_ipv4_with_envoy() {
    check_ipv6("--proxy=envoy");
}

/// The file with the families of today's default has the same paths, all of them.
#[test]
fn the_paths_are_those_of_ipv4() {
    let text = std::fs::read_to_string(root().join("scenarios").join(SCENARIO)).unwrap();
    let text = text
        .replace("ipFamilies: [IPv6]", "ipFamilies: [IPv4]")
        .replace("fd00:10:96::101", "10.96.1.1")
        .replace("[::1]", "127.0.0.1")
        .replace("::1", "127.0.0.1");
    Lab::scenario(text).arg("--output=json").status(0);
}

/// Races that cannot be had over IPv6 by writing `::1` for 127.0.0.1, by the beginning of the file's name.
const OF_IPV4: [&str; 2] = [
    // It is about what 0.0.0.0 and 127.0.0.1 are.
    "17-",
    // Its validation is refused by 127.0.0.6, which is there without rules. `::6` is not: nobody answers.
    "07-",
];

/// Faults, conntrack's verdicts, refusals, kubelet: all of it as over IPv4.
#[test]
fn the_races_are_the_same_over_ipv6() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::new("run").arg("--jobs=2");
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("scenarios/races")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_scenario = name.starts_with(|first: char| first.is_ascii_digit());
        if !is_scenario || OF_IPV4.iter().any(|other| name.starts_with(other)) {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let file = dir.path().join(&name);
        std::fs::write(&file, over_ipv6(&text)).unwrap();
        lab = lab.arg(file.to_str().unwrap());
        count += 1;
    }
    assert!(count > 20, "{count} races");
    lab.status(0);
}

fn over_ipv6(text: &str) -> String {
    let text = text
        .replace("IO::Socket::INET", "IO::Socket::IP")
        .replace("127.0.0.1", "[::1]");
    let with_mesh = if text.contains("\nmesh: {") {
        text.replacen("\nmesh: {", "\nmesh: {ipFamilies: [IPv6], ", 1)
    } else if text.contains("\nmesh:\n") {
        text.replacen("\nmesh:\n", "\nmesh:\n  ipFamilies: [IPv6]\n", 1)
    } else {
        text.replacen("\npods:", "\nmesh: {ipFamilies: [IPv6]}\npods:", 1)
    };
    assert!(with_mesh.contains("ipFamilies"));
    with_mesh
}

/// Questions to `fd00:10:96::a`, led to `::1`: every step of the file, by rules of the same numbers.
#[track_caller]
fn check_captured_dns(proxy: &str) {
    let mut text = std::fs::read_to_string(root().join("scenarios/interception/dns-capture.yaml")).unwrap();
    for (v4, v6) in [
        ("\nmesh:\n", "\nmesh:\n  ipFamilies: [IPv6]\n"),
        ("server: 10.96.0.11", "server: 'fd00:10:96::b'"),
        ("server: 127.0.0.1}", "server: '::1'}"),
        ("127.0.0.1:", "[::1]:"),
        ("10.96.1.1", "fd00:10:96::101"),
        ("10.96.0.10", "fd00:10:96::a"),
    ] {
        assert!(text.contains(v4), "{v4}");
        text = text.replace(v4, v6);
    }
    Lab::scenario(text).arg(proxy).status(0);
}

#[test]
fn captured_dns_is_the_same_over_ipv6() {
    check_captured_dns("--proxy=builtin");
}

#[test]
fn captured_dns_is_the_same_over_ipv6_with_envoy() {
    check_captured_dns("--proxy=envoy");
}

/// The agent has a socket of the family of resolv.conf's one server, the pod's first. `captureAllDNS` leads questions to
/// servers of the other family to where nobody is; with `redirectDNS` they go past the agent.
#[test]
fn the_agent_answers_dns_in_the_family_of_resolv_conf() {
    let mut text = "name: x\n\
        mesh: {ipFamilies: [IPv4, IPv6]}\n\
        services: [{name: web, ipFamilies: [IPv4, IPv6], ports: [{name: http, port: 80}]}]\n\
        pods:\n\
        \x20 - {name: four, interception: {redirectDNS: true, captureAllDNS: true}, containers: [{name: four}]}\n\
        \x20 - {name: six, ipFamilies: [IPv6, IPv4], interception: {redirectDNS: true, captureAllDNS: true}, containers: [{name: six}]}\n\
        \x20 - {name: server, interception: {redirectDNS: true}, containers: [{name: server}]}\n\
        steps:\n"
        .to_owned();
    let lead = "OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#8 -> ISTIO_OUTPUT_DNS#1 -> POSTROUTING -> ISTIO_INBOUND#end";
    for (pod, other) in [("four", "fd00:10:96::a"), ("six", "10.96.0.10")] {
        let ask = format!("from: {pod}, dns: web., over: tcp, ipFamily");
        text += &format!(
            "  - {{request: {{{ask}: IPv4}}, expect: {{body: {{contains: 10.96.1.1}}, path: {{{pod}: [{pod} -> {lead} -> agent:15053]}}}}}}\n\
             \x20 - {{request: {{{ask}: IPv6}}, expect: {{body: {{contains: 'fd00:10:96::101'}}, path: {{{pod}: [{pod} -> {lead} -> agent:15053]}}}}}}\n\
             \x20 - {{request: {{{ask}: IPv4, server: '{other}'}}, expect: {{outcome: connection-refused, path: {{{pod}: [{pod} -> {lead} -> refused:15053]}}}}}}\n"
        );
    }
    text += "  - {request: {from: server, dns: web., ipFamily: IPv6, server: 'fd00:10:96::a'}, expect: {body: {contains: 'fd00:10:96::101'}, path: {server: [server -> OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end -> POSTROUTING]}}}\n";
    Lab::scenario(text).status(0);
}

#[track_caller]
fn check_dual(proxy: &str) {
    let ended = Lab::shipped(DUAL).arg(proxy).status(0);
    for family in ["IPv4", "IPv6"] {
        let legs = ended.legs(&format!("Type 1, {family}: remote"), "web-v1");
        assert_eq!(
            legs,
            [
                "PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006",
                "sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> web:8080",
            ]
        );
    }
    assert_eq!(
        ended.legs("and over IPv6 nobody has", "half"),
        ["PREROUTING -> INPUT -> half:8080"]
    );
    // Each family's inbound connections come from its own address.
    for source in ["\"127.0.0.6:", "\"[::6]:"] {
        assert!(ended.stdout.contains(source), "{source}");
    }
}

#[test]
fn each_family_of_a_pod_with_both() {
    check_dual("--proxy=builtin");
}

#[test]
fn each_family_of_a_pod_with_both_with_envoy() {
    check_dual("--proxy=envoy");
}

/// nft's one table has the rules that name an address twice, IPv4's first.
#[test]
fn each_family_of_a_pod_with_both_by_nftables() {
    for proxy in ["--proxy=builtin", "--proxy=envoy"] {
        let ended = Lab::shipped("interception/dual-stack-nftables.yaml")
            .arg(proxy)
            .status(0);
        for (family, number) in [("IPv4", 1), ("IPv6", 2)] {
            assert_eq!(
                ended.legs(&format!("Type 1, {family}: remote"), "web-v1"),
                [
                    "PREROUTING -> istio-inbound#5 -> istio-in-redirect#1 -> INPUT -> sidecar:15006"
                        .to_owned(),
                    format!("sidecar -> OUTPUT -> istio-output#{number} -> POSTROUTING -> web:8080"),
                ]
            );
        }
    }
}

/// What `/proc/net/if_inet6` has of `eth0`: address, index, prefix length, scope, flags.
fn eth0(families: &str) -> Vec<String> {
    let text = format!(
        "name: x\n\
         pods: [{{name: a, ipFamilies: {families}, containers: [{{name: a}}]}}]\n\
         steps: [{{name: s, exec: {{from: a, command: [cat, /proc/net/if_inet6]}}}}]\n"
    );
    let ended = Lab::scenario(text).arg("--output=json").status(0);
    let document = ended.json();
    let output = document["scenarios"][0]["steps"][0].to_string();
    let lines = output.split("\\n").filter(|line| line.ends_with("eth0"));
    lines
        .map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" "))
        .collect()
}

/// No link-local address, and nothing that waits for duplicates to answer: flags are `IFA_F_PERMANENT` and
/// `IFA_F_NODAD`, not `IFA_F_TENTATIVE`.
#[test]
fn a_pod_has_the_addresses_that_it_was_given_and_no_other() {
    assert_eq!(eth0("[IPv6]"), ["80 00 82 eth0"]);
    assert_eq!(eth0("[IPv4, IPv6]"), ["80 00 82 eth0"]);
    assert!(eth0("[IPv4]").is_empty());
}

/// kubelet asks the pod's first address, and the agent asks the app from `::6`.
#[test]
fn probes_of_an_ipv6_pod() {
    let text = "name: x\n\
        mesh: {ipFamilies: [IPv6]}\n\
        pods:\n\
        \x20 - name: a\n\
        \x20   containers:\n\
        \x20     - name: a\n\
        \x20       app: {http: 8080}\n\
        \x20       readinessProbe: {httpGet: {path: /health, port: 8080}}\n\
        steps:\n\
        \x20 - name: s\n\
        \x20   probe: {pod: a, container: a, probe: readinessProbe}\n\
        \x20   expect:\n\
        \x20     status: 200\n\
        \x20     path:\n\
        \x20       a:\n\
        \x20         - PREROUTING -> ISTIO_INBOUND#4 -> INPUT -> agent:15020\n\
        \x20         - agent -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> a:8080\n";
    Lab::scenario(text).status(0);
}

#[track_caller]
fn refused(mesh: &str, service: &str, pod: &str, url: &str, wanted: &str) {
    let text = format!(
        "name: x\n\
         mesh: {{{mesh}}}\n\
         services: [{{name: a, {service} ports: [{{name: http, port: 80}}]}}]\n\
         pods: [{{name: a, labels: {{app: a}}, {pod} containers: [{{name: a}}]}}]\n\
         steps: [{{name: s, request: {{from: a, url: '{url}'}}}}]\n"
    );
    let ended = Lab::scenario(text).status(2);
    assert!(
        ended.stderr.contains(wanted),
        "no `{wanted}` in:\n{}",
        ended.stderr
    );
}

#[test]
fn mistakes_about_families() {
    let url = "http://a/";
    refused("ipFamilies: [IPv5]", "", "", url, "IPv5");
    refused("", "ipFamilies: [IPv4, IPv4],", "", url, "each once");
    refused("", "", "ipFamilies: [],", url, "one or two families");
    let both = "ipFamilies: [IPv4, IPv6], ipFamilyPolicy: SingleStack,";
    refused("", both, "", url, "`SingleStack` beside two families");
    let rules = "interception: {enableIPv6: true},";
    refused("", "", rules, url, "the pod has no IPv6 address");
    let v6 = "http://${self.ipv6}/";
    refused("", "", "", v6, "pod `a` has addresses of IPv4");
    refused(
        "ipFamilies: [IPv6]",
        "",
        "",
        "http://${a.ipv4}/",
        "addresses of IPv6",
    );
}
