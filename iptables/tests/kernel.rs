//! What the kernel makes of the rules, in a network namespace of the test's own. Needs root; fails without.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Stdio};

use iptables::apply::{
    Applied, Error, Installed, Others, Spawn, Tool, apply, find_nft, install, install_nft, own_part, read,
    reapply, remove, remove_nft, replace_nft,
};
use iptables::diff::diff;
use iptables::generate::generate;
use iptables::kube_proxy::{self, Service};
use iptables::options::{Backend, Group, Interception, OwnerGroups, Port, Raw, Start};
use iptables::parse::save::parse;
use iptables::raw::Text;
use iptables::render::restore::{render, rule_text};
use iptables::render::{nft, save};
use iptables::rule::Protocol;
use iptables::ruleset::{Family, Ruleset, Table};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A network namespace that lives as long as the process in it.
struct Namespace(RefCell<Child>);

#[expect(clippy::disallowed_methods, reason = "a test has no world to spawn in")]
fn command(program: &str) -> std::process::Command {
    std::process::Command::new(program)
}

impl Namespace {
    fn new() -> Self {
        let mut holder = command("unshare");
        holder
            .args(["--net", "sh", "-c", "echo in; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = holder.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "in\n", "unshare --net failed: run the tests as root");
        Self(RefCell::new(child))
    }

    fn command<A: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, arguments: &[A]) -> std::process::Command {
        let mut inside = command("nsenter");
        inside
            .arg(format!("--net=/proc/{}/ns/net", self.0.borrow().id()))
            .arg(program)
            .args(arguments);
        inside
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        inside
    }

    fn spawn(&self, program: &Path, arguments: &[&OsStr]) -> io::Result<tokio::process::Child> {
        tokio::process::Command::from(self.command(program, arguments))
            .kill_on_drop(true)
            .spawn()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let child = self.0.get_mut();
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

fn resolve(yaml: &str) -> Interception {
    serde_yaml::from_str::<Raw>(yaml)
        .unwrap()
        .resolve(Start::Injector)
        .unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn a_second_apply_changes_nothing_and_a_different_one_is_refused() {
    let (namespace, tool) = (Namespace::new(), Tool::find().unwrap());
    let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
    let rules = generate(&Interception::sidecar_default());
    let loaded = apply(&tool, &rules, spawn).await.unwrap();
    assert_eq!(
        reapply(&tool, &rules, &loaded, spawn).await.unwrap(),
        Applied::AlreadyThere
    );
    assert_eq!(read(&tool, &[Family::V4], spawn).await.unwrap(), loaded);
    let other = generate(&resolve("excludeOutboundPorts: 8080"));
    assert!(
        matches!(apply(&tool, &other, spawn).await, Err(Error::Different { difference }) if !difference.is_empty())
    );
    assert_eq!(read(&tool, &[Family::V4], spawn).await.unwrap(), loaded);
}

#[tokio::test(flavor = "current_thread")]
async fn moved_rules_are_a_difference() {
    let (namespace, tool) = (Namespace::new(), Tool::find().unwrap());
    let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
    let rules = generate(&Interception::sidecar_default());
    let loaded = apply(&tool, &rules, spawn).await.unwrap();
    for arguments in [
        ["-D", "ISTIO_OUTPUT", "9"].as_slice(),
        &["-I", "ISTIO_OUTPUT", "1", "-j", "ISTIO_REDIRECT"],
    ] {
        let arguments: Vec<&OsStr> = ["-t", "nat"].iter().chain(arguments).map(OsStr::new).collect();
        let moved = namespace
            .spawn(Path::new("iptables-nft"), &arguments)
            .unwrap()
            .wait_with_output()
            .await
            .unwrap();
        assert!(moved.status.success(), "{moved:?}");
    }
    let refused = reapply(&tool, &rules, &loaded, spawn)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("+ -A ISTIO_OUTPUT -j ISTIO_REDIRECT") && refused.contains("- -A ISTIO_OUTPUT -j"),
        "{refused}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn every_feature_loads() {
    let tool = Tool::find().unwrap();
    for yaml in [
        "{mode: TPROXY, enableIPv6: true, redirectDNS: true, captureAllDNS: true, dropInvalid: true}",
        "{enableIPv6: true, redirectDNS: true, dnsServersV4: [10.96.0.10], dnsServersV6: ['fd00::a'], rerouteVirtualInterfaces: 'a0,b0'}",
        "{includeOutboundOwnerGroups: '1,2,3', excludeInterfaces: eth1, includeOutboundIPRanges: '10.0.0.0/8,127.0.0.0/8'}",
        "{proxyUID: '1,2', proxyGID: '3,4', includeOutboundPorts: 80, excludeOutboundPorts: 443, excludeOutboundOwnerGroups: 9}",
    ] {
        let namespace = Namespace::new();
        let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
        let loaded = apply(&tool, &generate(&resolve(yaml)), spawn)
            .await
            .unwrap_or_else(|error| panic!("{yaml}: {error}"));
        assert!(loaded.rules().count() > 10, "{yaml}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn services_are_replaced_as_a_whole() {
    let (namespace, tool) = (Namespace::new(), Tool::find().unwrap());
    let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
    let service = |name: &str, endpoints: &[&str]| Service {
        name: name.to_owned(),
        vip: "10.96.0.20".parse().unwrap(),
        port: Port::new(9080).unwrap(),
        protocol: Protocol::Tcp,
        endpoints: endpoints.iter().map(|each| each.parse().unwrap()).collect(),
    };
    let two = kube_proxy::ruleset(&[
        service("a/b:c", &["10.244.0.2:80", "10.244.0.3:80"]),
        service("a/none:c", &[]),
    ]);
    let first = apply(&tool, &two, spawn).await.unwrap();
    assert_eq!(apply(&tool, &two, spawn).await.unwrap(), first);
    let mut none = kube_proxy::ruleset(&[]);
    none.retire(&two);
    let after = apply(&tool, &none, spawn).await.unwrap();
    assert!(
        !after
            .rules()
            .any(|rule| rule.contains("KUBE-SEP") || rule.contains("REJECT")),
        "{after:?}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_refusal_names_its_line_its_rule_and_its_option() {
    let (namespace, tool) = (Namespace::new(), Tool::find().unwrap());
    let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
    let mut options = Interception::sidecar_default();
    // More words than iptables-restore takes in a line; the options' check refuses it, so it is put in behind its back.
    options.outbound_owners = OwnerGroups::Only((1..80).map(Group::Id).collect());
    let refused = apply(&tool, &generate(&options), spawn).await.unwrap_err();
    let Error::Refused {
        option, rule, line, ..
    } = &refused
    else {
        panic!("{refused}")
    };
    assert_eq!((*option, *line), ("includeOutboundOwnerGroups", 22), "{refused}");
    assert!(
        rule.starts_with("-A ISTIO_OUTPUT -m owner ! --gid-owner 1 "),
        "{refused}"
    );
}

/// How many random configurations each tool is shown.
fn configurations() -> u32 {
    std::env::var("LAB_CONFIGURATIONS").map_or(150, |count| count.parse().unwrap())
}

/// The items of a list, as it is written.
fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn ports() -> impl Strategy<Value = String> {
    vec(1_u16.., 0..12).prop_map(|ports| list(&ports))
}

/// `*`, or what `only` makes.
fn all_or(only: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop_oneof![Just("*".to_owned()), only]
}

/// Networks of both families, host bits and all.
fn ranges() -> impl Strategy<Value = String> {
    let v4 = (any::<Ipv4Addr>(), 0_u8..=32).prop_map(|(address, length)| format!("{address}/{length}"));
    let v6 = (any::<Ipv6Addr>(), 0_u8..=128).prop_map(|(address, length)| format!("{address}/{length}"));
    let loopback = prop_oneof![Just("127.0.0.0/8".to_owned()), Just("::1/128".to_owned())];
    vec(prop_oneof![4 => v4, 4 => v6, 1 => loopback], 0..6).prop_map(|ranges| list(&ranges))
}

fn ids(most: usize) -> impl Strategy<Value = String> {
    vec(any::<u32>(), 0..=most).prop_map(|ids| list(&ids))
}

/// The sidecar's users or groups.
fn owners() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("1337".to_owned()),
        Just("0".to_owned()),
        vec(any::<u32>(), 1..4).prop_map(|ids| list(&ids))
    ]
}

/// Names of interfaces, some of them words of the tools' own.
fn interfaces() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "[a-zA-Z][a-zA-Z0-9_.-]{0,14}",
        prop::sample::select(std::vec!["lo", "eth0", "tcp", "mark", "ip6", "return", "counter"])
            .prop_map(str::to_owned),
    ];
    vec(name, 0..3).prop_map(|names| list(&names))
}

fn servers() -> impl Strategy<Value = (String, String)> {
    let v4 = vec(any::<Ipv4Addr>(), 0..3).prop_map(|servers| list(&servers));
    let v6 = vec(any::<Ipv6Addr>(), 0..3).prop_map(|servers| list(&servers));
    (v4, v6)
}

/// Every option but `backend`, which is the test's, and `customRules`, which is not generated; each is left out at times.
fn options() -> impl Strategy<Value = Interception> {
    let maybe = |strategy: BoxedStrategy<String>| proptest::option::weighted(0.7, strategy);
    let port = || (1_u16..).prop_map(|port| port.to_string()).boxed();
    let number = || (1_u32..).prop_map(|number| number.to_string()).boxed();
    let yes = || any::<bool>().prop_map(|yes| yes.to_string()).boxed();
    let loopback = prop_oneof![Just("127.0.0.1/32".to_owned()), Just("127.0.0.0/8".to_owned())];
    let how = (
        prop::sample::select(std::vec!["REDIRECT", "TPROXY"]),
        maybe(port()),
        maybe(port()),
        maybe(port()),
        maybe(owners().boxed()),
        maybe(owners().boxed()),
        maybe(number()),
        maybe(number()),
    );
    let what = (
        maybe(all_or(ports()).boxed()),
        maybe(ports().boxed()),
        maybe(all_or(ranges()).boxed()),
        maybe(ranges().boxed()),
        maybe(ports().boxed()),
        maybe(ports().boxed()),
        maybe(all_or(ids(49)).boxed()),
        maybe(ids(9).boxed()),
    );
    let rest = (
        maybe(interfaces().boxed()),
        maybe(interfaces().boxed()),
        maybe(yes()),
        maybe(yes()),
        servers(),
        maybe(yes()),
        maybe(yes()),
        maybe(loopback.boxed()),
    );
    (how, what, rest).prop_map(|(how, what, rest)| {
        let text = |text: Option<String>| text.map(Text);
        let written = Raw {
            mode: text(Some(how.0.to_owned())),
            proxy_port: text(how.1),
            inbound_capture_port: text(how.2),
            inbound_tunnel_port: text(how.3),
            proxy_uid: text(how.4),
            proxy_gid: text(how.5),
            tproxy_mark: text(how.6),
            tproxy_route_table: text(how.7),
            include_inbound_ports: text(what.0),
            exclude_inbound_ports: text(what.1),
            include_outbound_ip_ranges: text(what.2),
            exclude_outbound_ip_ranges: text(what.3),
            include_outbound_ports: text(what.4),
            exclude_outbound_ports: text(what.5),
            include_outbound_owner_groups: text(what.6),
            exclude_outbound_owner_groups: text(what.7),
            exclude_interfaces: text(rest.0),
            reroute_virtual_interfaces: text(rest.1),
            redirect_dns: text(rest.2),
            capture_all_dns: text(rest.3),
            dns_servers_v4: text(Some(rest.4.0)),
            dns_servers_v6: text(Some(rest.4.1)),
            drop_invalid: text(rest.5),
            enable_ipv6: text(rest.6),
            host_ipv4_loopback_cidr: text(rest.7),
            ..Raw::default()
        };
        written.resolve(Start::Injector).unwrap()
    })
}

/// Shows a tool the rules of random configurations; one that is refused is made as small as it can be, and told with its
/// rules and the tool's words.
fn shown(texts: impl Fn(Interception) -> Vec<(&'static [&'static str], String)>) {
    let namespace = Namespace::new();
    let cases = configurations();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&options(), |options| {
        for (tool, text) in texts(options) {
            let mut child = namespace.command(tool[0], &tool[1..]).spawn().unwrap();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            prop_assert!(
                output.status.success(),
                "{tool:?}: {}\n{text}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!("the rules of {cases} configurations were taken");
}

#[test]
fn whatever_the_options_the_tool_takes_the_rules() {
    shown(|options| {
        let ruleset = generate(&options);
        std::vec![
            (
                ["iptables-nft-restore", "--noflush", "--test"].as_slice(),
                render(&ruleset, Family::V4)
            ),
            (
                &["ip6tables-nft-restore", "--noflush", "--test"],
                render(&ruleset, Family::V6)
            ),
        ]
    });
}

#[test]
fn whatever_the_options_nft_takes_the_rules() {
    shown(|options| {
        let options = Interception {
            backend: Backend::Nftables,
            ..options
        };
        std::vec![(
            ["nft", "--check", "-f", "-"].as_slice(),
            nft::render(&generate(&options))
        )]
    });
}

#[test]
fn the_default_has_the_nine_rules_of_istio_output() {
    let rules = generate(&Interception::sidecar_default());
    let output = Ruleset::chain(Table::Nat, "ISTIO_OUTPUT");
    let texts: Vec<String> = rules
        .rules(Family::V4, &output)
        .into_iter()
        .map(rule_text)
        .collect();
    assert_eq!(
        texts,
        [
            "-o lo -s 127.0.0.6/32 -j RETURN",
            "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
            "-o lo -m owner ! --uid-owner 1337 -j RETURN",
            "-m owner --uid-owner 1337 -j RETURN",
            "-o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT",
            "-o lo -m owner ! --gid-owner 1337 -j RETURN",
            "-m owner --gid-owner 1337 -j RETURN",
            "-d 127.0.0.1/32 -j RETURN",
            "-j ISTIO_REDIRECT",
        ]
    );
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_tool_saves_is_foreseen_and_read_back() {
    let tool = Tool::find().unwrap();
    for yaml in [
        "{}",
        "{mode: TPROXY, enableIPv6: true, redirectDNS: true, captureAllDNS: true, dropInvalid: true}",
        "{enableIPv6: true, redirectDNS: true, dnsServersV4: [10.96.0.10], dnsServersV6: ['fd00::a'], rerouteVirtualInterfaces: 'a0,b0'}",
        "{includeOutboundOwnerGroups: '1,2,3', excludeInterfaces: eth1, includeOutboundIPRanges: '10.1.2.3/8,127.0.0.0/8'}",
    ] {
        let namespace = Namespace::new();
        let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
        let ruleset = generate(&resolve(yaml));
        apply(&tool, &ruleset, spawn).await.unwrap();
        for family in [Family::V4, Family::V6] {
            let kernel = read(&tool, &[family], spawn).await.unwrap().text();
            if ruleset.is_empty(family) {
                continue;
            }
            // The order of tables is the tool's own affair.
            let rules = |text: &str| -> Vec<Vec<String>> {
                let mut tables: Vec<Vec<String>> = Vec::new();
                for line in text.lines().filter(|line| line.starts_with(['*', '-'])) {
                    if line.starts_with('*') {
                        tables.push(Vec::new());
                    }
                    tables.last_mut().unwrap().push(line.to_owned());
                }
                tables.sort();
                tables
            };
            assert_eq!(rules(&save::render(&ruleset, family)), rules(&kernel), "{yaml}");
            let parsed = parse(&kernel, family).unwrap();
            assert_eq!(parsed.unknown, [], "{yaml}");
            let other: Vec<_> = diff(&ruleset, &parsed.ruleset)
                .into_iter()
                .filter(|each| each.family == family)
                .collect();
            assert_eq!(other, [], "{yaml}");
        }
    }
}

/// Rules of somebody else's, in chains that interception uses too.
const FOREIGN: &str = "*nat\n:KUBE - [0:0]\n-A OUTPUT -d 10.9.9.9/32 -j KUBE\n-A KUBE -j RETURN\nCOMMIT\n*filter\n-A INPUT -i eth9 -j DROP\nCOMMIT\n";

async fn saved(tool: &Tool, spawn: Spawn<'_>) -> Vec<String> {
    let all = read(tool, &[Family::V4, Family::V6], spawn).await.unwrap();
    all.rules().map(str::to_owned).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn installed_twice_replaced_and_removed_beside_others_rules() {
    let (namespace, tool) = (Namespace::new(), Tool::find().unwrap());
    let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
    let mut foreign = namespace
        .command("iptables-nft-restore", &["--noflush"])
        .spawn()
        .unwrap();
    foreign
        .stdin
        .take()
        .unwrap()
        .write_all(FOREIGN.as_bytes())
        .unwrap();
    assert!(foreign.wait().unwrap().success());
    let before = saved(&tool, spawn).await;
    let first = generate(&resolve(
        "{mode: TPROXY, enableIPv6: true, excludeInterfaces: eth1}",
    ));
    let second = generate(&resolve(
        "{excludeOutboundPorts: '8080', redirectDNS: true, captureAllDNS: true}",
    ));
    let loaded = install(&tool, &first, Others::Refuse, spawn).await.unwrap();
    assert_eq!(loaded, Installed::Loaded);
    let all = saved(&tool, spawn).await;
    let again = install(&tool, &first, Others::Refuse, spawn).await.unwrap();
    assert_eq!(again, Installed::AlreadyThere);
    assert_eq!(saved(&tool, spawn).await, all);

    let refused = install(&tool, &second, Others::Refuse, spawn).await.unwrap_err();
    assert!(refused.to_string().contains("+ nat ISTIO_OUTPUT"), "{refused}");
    assert_eq!(saved(&tool, spawn).await, all);

    // What only the first's options can name is taken away by the first's options.
    let removed = remove(&tool, &first, spawn).await.unwrap();
    assert_eq!(diff(&first, &removed), []);
    assert_eq!(saved(&tool, spawn).await, before);
    install(&tool, &second, Others::Refuse, spawn).await.unwrap();
    let third = generate(&resolve("excludeOutboundPorts: '9090'"));
    let replaced = install(&tool, &third, Others::Replace, spawn).await.unwrap();
    assert_eq!(replaced, Installed::Replaced);
    assert_eq!(diff(&third, &own_part(&tool, &third, spawn).await.unwrap()), []);
    remove(&tool, &third, spawn).await.unwrap();
    assert_eq!(saved(&tool, spawn).await, before);
}

#[tokio::test(flavor = "current_thread")]
async fn nft_installed_twice_replaced_and_removed() {
    let (namespace, empty, nft) = (Namespace::new(), Namespace::new(), find_nft().unwrap());
    let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
    let scratch: Spawn<'_> = &|program, arguments| empty.spawn(program, arguments);
    let first = generate(&resolve("{backend: nftables, mode: TPROXY, enableIPv6: true}"));
    let second = generate(&resolve("{backend: nftables, excludeOutboundPorts: 80}"));
    for want in [Installed::Loaded, Installed::AlreadyThere] {
        let got = install_nft(&nft, &first, Others::Refuse, spawn, scratch).await;
        assert_eq!(got.unwrap(), want);
    }
    let refused = install_nft(&nft, &second, Others::Refuse, spawn, scratch)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("+ istio-proxy-"), "{refused}");
    let replaced = install_nft(&nft, &second, Others::Replace, spawn, scratch).await;
    assert_eq!(replaced.unwrap(), Installed::Replaced);
    let listed = namespace.command("nft", &["list", "tables"]).output().unwrap();
    assert_eq!(listed.stdout, b"table inet istio-proxy-nat\n");
    remove_nft(&nft, spawn).await.unwrap();
    let listed = namespace.command("nft", &["list", "ruleset"]).output().unwrap();
    assert_eq!(listed.stdout, b"");
}

#[tokio::test(flavor = "current_thread")]
async fn nfts_refusal_names_its_line_its_rule_and_its_option() {
    let (namespace, nft) = (Namespace::new(), find_nft().unwrap());
    let spawn: Spawn<'_> = &|program, arguments| namespace.spawn(program, arguments);
    let mut options = resolve("backend: nftables");
    // More conditions than a rule of the kernel's holds; the options' check refuses it.
    options.outbound_owners = OwnerGroups::Only((1..100).map(Group::Id).collect());
    let refused = replace_nft(&nft, &generate(&options), spawn).await.unwrap_err();
    let Error::Refused { option, rule, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(*option, "includeOutboundOwnerGroups", "{refused}");
    assert!(rule.contains("istio-output skgid != 1 skgid != 2 "), "{refused}");
}
