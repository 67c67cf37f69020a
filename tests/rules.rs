//! `lab rules`: on paper, without root, and in a network namespace that is no lab's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use crate::support::{Ended, Lab, root};

fn rules(arguments: &[&str]) -> Lab {
    arguments
        .iter()
        .fold(Lab::new("rules"), |lab, argument| lab.arg(argument))
}

/// A file that lives as long as the test.
fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    // Another user reads it too.
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(file.path(), everybody).unwrap();
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

#[test]
fn rendered_rules_are_istios() {
    let case = root().join("iptables/tests/golden/istio/ip-range");
    let config = case.join("interception.yaml");
    let config = config.to_str().unwrap();
    let golden = std::fs::read_to_string(case.join("iptables.golden")).unwrap();
    let want: Vec<String> = golden
        .lines()
        .filter(|line| !line.ends_with("tables-save"))
        .map(|line| line.replace("* ", "*").replace("--to-port ", "--to-ports "))
        .collect();
    let got = rules(&["render", "--config", config]).status(0);
    assert_eq!(got.stdout.lines().collect::<Vec<_>>(), want);

    let nft = rules(&["render", "--config", config, "--backend", "nftables"]).status(0);
    assert!(
        nft.stdout.starts_with("add table inet istio-proxy-nat\n"),
        "{}",
        nft.stdout
    );
    let commands = rules(&["render", "--config", config, "--format", "commands"]).status(0);
    assert!(
        commands
            .stdout
            .contains("iptables -t raw -A OUTPUT -j ISTIO_OUTPUT_DNS\n"),
        "{}",
        commands.stdout
    );
    let saved = rules(&["render", "--format", "save"]).status(0);
    assert!(
        saved
            .stdout
            .contains("-A ISTIO_INBOUND -p tcp -m tcp --dport 15008 -j RETURN\n"),
        "{}",
        saved.stdout
    );
}

#[test]
fn rendering_and_explaining_need_no_root() {
    let got = rules(&["render"]).by_user(1000).status(0);
    assert!(got.stdout.contains("-A ISTIO_OUTPUT -j ISTIO_REDIRECT\n"));
    let got = rules(&["explain", "--dst", "10.96.0.5:9080"])
        .by_user(1000)
        .status(0);
    assert!(got.stdout.starts_with("predicted from the rules, not observed\n"));
    let refused = rules(&["apply", "--netns", "x"]).by_user(1000).status(3);
    assert!(refused.stderr.contains("needs root"), "{}", refused.stderr);
}

#[test]
fn a_wrong_configuration_is_told_with_file_and_line() {
    let config = file("mode: REDIRECT\nproxyPort: 0\nexcludeInboundPorts: 80,http\n");
    let refused = rules(&["render", "--config", path(&config)]).status(2);
    for wanted in [
        format!("{}:2: proxyPort: `0`: not a port", path(&config)),
        format!("{}:3: excludeInboundPorts: `http`: not a port", path(&config)),
    ] {
        assert!(refused.stderr.contains(&wanted), "{}", refused.stderr);
    }
    let unknown = file("proxyPorts: 1\n");
    let refused = rules(&["render", "--config", path(&unknown)]).status(2);
    assert!(
        refused.stderr.contains("unknown field `proxyPorts`"),
        "{}",
        refused.stderr
    );
    let refused = rules(&["explain", "--dst", "nowhere"]).status(2);
    assert!(refused.stderr.contains("--dst"), "{}", refused.stderr);
    rules(&["explain"]).status(2);
    rules(&["diff"]).status(2);
    let refused = rules(&["diff", "--netns", "no-such-namespace"]).status(2);
    assert!(refused.stderr.contains("no-such-namespace"), "{}", refused.stderr);
}

fn explained(arguments: &[&str]) -> (String, serde_json::Value) {
    let mut all = vec!["explain", "--output=json"];
    all.extend(arguments);
    let document = rules(&all).status(0).json();
    (document["path"].as_str().unwrap().to_owned(), document)
}

#[test]
fn a_packets_way_is_predicted_with_reasons() {
    let (path, document) = explained(&["--from", "uid=1000", "--dst", "10.96.0.5:9080", "--out", "eth0"]);
    assert_eq!(
        path,
        "OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING"
    );
    assert_eq!(document["predicted"], true);
    assert_eq!(document["backOverLo"]["path"], "PREROUTING -> INPUT");
    let steps = document["steps"].as_array().unwrap();
    let fourth = steps
        .iter()
        .find(|step| step["chain"] == "ISTIO_OUTPUT" && step["position"] == 4)
        .unwrap();
    assert_eq!(
        fourth["reason"],
        "`-m owner --uid-owner 1337`: its socket's user is 1000"
    );
    for (arguments, want) in [
        (
            ["--from=uid=1337", "--dst=127.0.0.1:15000"].as_slice(),
            "OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING",
        ),
        (
            &["--from=uid=1337", "--dst=10.244.0.2:9080", "--out=lo"],
            "OUTPUT -> ISTIO_OUTPUT#2 -> ISTIO_IN_REDIRECT#1 -> POSTROUTING",
        ),
        (
            &["--in=eth0", "--dst=10.244.0.2:9080"],
            "PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT",
        ),
        (
            &["--backend=nftables", "--dst=[2001:db8::1]:80"],
            "OUTPUT -> istio-output#9 -> istio-redirect#1 -> POSTROUTING",
        ),
        (
            &["--in=eth1", "--out=eth0", "--protocol=udp", "--dst=10.96.0.5:53"],
            "PREROUTING -> FORWARD -> POSTROUTING",
        ),
        (
            &["--state=established", "--dst=10.96.0.5:9080"],
            "OUTPUT -> POSTROUTING",
        ),
    ] {
        assert_eq!(explained(arguments).0, want, "{arguments:?}");
    }
}

#[test]
fn imported_rules_are_explained_as_far_as_they_are_known() {
    let saved = file(
        "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p udp -j DROP\n-A OUTPUT -m set --match-set all dst -j ACCEPT\nCOMMIT\n",
    );
    let udp = rules(&[
        "explain",
        "--imported",
        path(&saved),
        "--dst",
        "10.0.0.1:53",
        "--protocol",
        "udp",
    ])
    .status(0);
    assert!(
        udp.stdout.contains("path    OUTPUT -> OUTPUT#1 -> dropped\n"),
        "{}",
        udp.stdout
    );
    let tcp = rules(&["explain", "--imported", path(&saved), "--dst", "10.0.0.1:80"]).status(5);
    assert!(
        tcp.stdout
            .contains("OUTPUT#2 asks for something that is not known here"),
        "{}",
        tcp.stdout
    );
    assert!(
        tcp.stderr.contains("line 4: `-m set --match-set all dst`"),
        "{}",
        tcp.stderr
    );
}

#[test]
fn dead_rules_are_proved() {
    let document = rules(&["explain", "--unreachable", "--output", "json"])
        .status(0)
        .json();
    let dead = document["unreachable"].as_array().unwrap();
    let found: Vec<(u64, &str, Vec<u64>)> = dead
        .iter()
        .map(|each| {
            let by = each["shadowedBy"].as_array().unwrap().iter();
            (
                each["position"].as_u64().unwrap(),
                each["scope"].as_str().unwrap(),
                by.map(|position| position.as_u64().unwrap()).collect(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (5, "always", vec![2, 3]),
            (6, "always", vec![3, 4]),
            (8, "usual-routing", vec![3, 4]),
        ]
    );
}

/// A network namespace that lives as long as the process in it.
struct Namespace(Child);

#[expect(clippy::disallowed_methods, reason = "a test makes its own namespace")]
fn command(program: &str) -> Command {
    Command::new(program)
}

impl Namespace {
    fn new() -> Self {
        let mut holder = command("unshare");
        holder.args(["--net", "sh", "-c", "ip link set lo up; echo in; exec cat"]);
        let mut child = holder
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "in\n");
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn shell(&self, script: &str) -> String {
        let mut inside = command("nsenter");
        inside.args([&format!("--net={}", self.path()), "sh", "-c", script]);
        let output = inside.output().unwrap();
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Everything that interception could change.
    fn state(&self) -> String {
        self.shell(
            "iptables-nft-save | grep '^-'; ip6tables-nft-save | grep '^-'; nft list tables inet; ip rule; ip -6 rule; \
             ip route show table all; ip -6 route show table all; ip address show lo",
        )
    }

    fn lab(&self, what: &str, config: &tempfile::NamedTempFile, more: &[&str]) -> Lab {
        let (namespace, mut arguments) = (self.path(), vec![what, "--netns"]);
        arguments.extend([namespace.as_str(), "--config", path(config)]);
        arguments.extend(more);
        rules(&arguments)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[track_caller]
fn says(ended: &Ended, want: &str) {
    let (out, err) = (&ended.stdout, &ended.stderr);
    assert!(
        out.contains(want) || err.contains(want),
        "no `{want}` in:\n{out}\n{err}"
    );
}

#[track_caller]
fn live_and_die(backend: &str) {
    let namespace = Namespace::new();
    let one = file(&format!("{{backend: {backend}, mode: TPROXY, enableIPv6: true}}"));
    let other = file(&format!(
        "{{backend: {backend}, mode: TPROXY, enableIPv6: true, excludeOutboundPorts: 8080}}"
    ));
    let before = namespace.state();
    says(
        &namespace.lab("clean", &one, &[]).status(0),
        "nothing was changed",
    );
    says(&namespace.lab("diff", &one, &[]).status(1), "- ");
    says(&namespace.lab("apply", &one, &[]).status(0), "loaded");
    let loaded = namespace.state();
    for route in [
        "fwmark 0x539 lookup 133",
        "local default dev lo table 133",
        "inet6 ::6/128",
    ] {
        assert!(loaded.contains(route), "no `{route}` in:\n{loaded}");
    }
    says(
        &namespace.lab("apply", &one, &[]).status(0),
        "nothing was changed",
    );
    assert_eq!(namespace.state(), loaded);
    says(&namespace.lab("diff", &one, &[]).status(0), "as configured");

    let refused = namespace.lab("apply", &other, &[]).status(1);
    says(&refused, "8080");
    says(&refused, "--reconcile");
    assert_eq!(namespace.state(), loaded);
    says(
        &namespace.lab("apply", &other, &["--reconcile"]).status(0),
        "replaced",
    );
    says(&namespace.lab("diff", &other, &[]).status(0), "as configured");
    says(&namespace.lab("clean", &other, &[]).status(0), "removed");
    assert_eq!(namespace.state(), before);
}

#[test]
fn iptables_in_a_namespace() {
    live_and_die("iptables");
}

#[test]
fn nftables_in_a_namespace() {
    live_and_die("nftables");
}

#[test]
fn a_moved_rule_is_found_in_a_saved_file() {
    let saved = rules(&["render", "--format", "save"]).status(0).stdout;
    let same = file(&saved);
    says(
        &rules(&["diff", "--imported", path(&same)]).status(0),
        "as configured",
    );
    let mut lines: Vec<&str> = saved.lines().collect();
    let from = lines
        .iter()
        .position(|line| line.ends_with("-d 127.0.0.1/32 -j RETURN"))
        .unwrap();
    lines.swap(from, from - 1);
    let moved = file(&lines.join("\n"));
    let different = rules(&["diff", "--imported", path(&moved)]).status(1);
    says(&different, "~ nat ISTIO_OUTPUT#");
    let document = rules(&["diff", "--imported", path(&moved), "--output=json"])
        .status(1)
        .json();
    assert_eq!(document["same"], false);
    assert_eq!(document["differences"].as_array().unwrap().len(), 1);
}
