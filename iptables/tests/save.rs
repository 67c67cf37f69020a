//! What a tool prints, read back: nothing is lost, and what is not known is told.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use iptables::diff::{Change, diff};
use iptables::generate::generate;
use iptables::kube_proxy;
use iptables::options::{Interception, Raw, Start};
use iptables::parse::save::{self, parse};
use iptables::render::restore::render;
use iptables::ruleset::{Family, Owns, Ruleset};

fn ruleset(yaml: &str) -> Ruleset {
    let raw: Raw = serde_yaml::from_str(yaml).unwrap();
    generate(&raw.resolve(Start::Injector).unwrap())
}

#[test]
fn what_is_rendered_is_read_back() {
    for yaml in [
        "{}",
        "{mode: TPROXY, redirectDNS: true, captureAllDNS: true, dropInvalid: true}",
        "{redirectDNS: true, dnsServersV4: [10.96.0.10], rerouteVirtualInterfaces: 'a0,b0', excludeInterfaces: c0}",
    ] {
        let ruleset = ruleset(yaml);
        let parsed = parse(&render(&ruleset, Family::V4), Family::V4).unwrap();
        assert_eq!(diff(&ruleset, &parsed.ruleset), [], "{yaml}");
        assert_eq!(parsed.unknown, []);
    }
    let services = kube_proxy::ruleset(&[kube_proxy::Service {
        name: "default/reviews:http".to_owned(),
        vip: "10.96.0.20".parse().unwrap(),
        port: 9080.try_into().unwrap(),
        protocol: iptables::rule::Protocol::Tcp,
        endpoints: vec![
            "10.244.0.2:9080".parse().unwrap(),
            "10.244.0.3:9080".parse().unwrap(),
        ],
    }]);
    // `-F` of a built-in chain is no part of what a table holds.
    let text: String = render(&services, Family::V4)
        .lines()
        .filter(|line| !line.starts_with("-F"))
        .map(|line| format!("{line}\n"))
        .collect();
    let parsed = parse(&text, Family::V4).unwrap();
    assert_eq!(diff(&services, &parsed.ruleset), []);
    assert_eq!(parsed.unknown, []);
}

#[test]
fn the_tools_own_spelling() {
    let text = "# Generated\n*mangle\n:PREROUTING ACCEPT [1:60]\n:X - [0:0]\n\
        [5:300] -A PREROUTING -d 10.1.0.0/16 -i lo -p tcp -m tcp --dport 80 -m mark ! --mark 0x53a -m comment --comment \"a b\" -j X\n\
        -A X -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff\n\
        -A X -j MARK --set-xmark 0x539/0xffffffff\n\
        -A X -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff\nCOMMIT\n";
    let parsed = parse(text, Family::V4).unwrap();
    let same = "*mangle\n-N X\n\
        -A PREROUTING -i lo -p tcp --dport 80 -d 10.1.2.3/16 -m mark ! --mark 1338 -j X\n\
        -A X -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark\n\
        -A X -j MARK --set-mark 1337\n\
        -A X -p tcp -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15006\nCOMMIT\n";
    assert_eq!(
        diff(&parsed.ruleset, &parse(same, Family::V4).unwrap().ruleset),
        []
    );
    assert_eq!(parsed.unknown, []);
}

#[test]
fn what_is_not_known_keeps_its_words_and_its_line() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n\
        -A INPUT -m addrtype ! --dst-type LOCAL --limit-iface-in -p tcp -m tcp --dport 80:90 -j ACCEPT\n\
        -A INPUT -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu\nCOMMIT\n";
    let parsed = parse(text, Family::V4).unwrap();
    let unknown: Vec<(usize, &str)> = parsed
        .unknown
        .iter()
        .map(|each| (each.line, each.text.as_str()))
        .collect();
    assert_eq!(
        unknown,
        [
            (3, "-m addrtype ! --dst-type LOCAL --limit-iface-in"),
            (3, "--dport 80:90"),
            (4, "--tcp-flags SYN,RST SYN"),
            (4, "-j TCPMSS --clamp-mss-to-pmtu"),
        ]
    );
    // Rendered, it is the same rule again.
    let again = render(&parsed.ruleset, Family::V4);
    assert!(again.contains("-m addrtype ! --dst-type LOCAL --limit-iface-in -p tcp --dport 80:90 -j ACCEPT"));
}

#[test]
fn an_old_not_behind_what_is_not_known_stays_one() {
    let text = "*nat\n:X -\n-A X --foo ! bar -j RETURN\n-A X --dport ! none --dport ! 7 -j RETURN\nCOMMIT\n";
    let parsed = parse(text, Family::V4).unwrap();
    let unknown: Vec<&str> = parsed.unknown.iter().map(|it| it.text.as_str()).collect();
    assert_eq!(unknown, ["--foo", "! bar", "--dport", "! none"]);
    let printed = render(&parsed.ruleset, Family::V4);
    let again = parse(&printed, Family::V4).unwrap();
    assert_eq!(diff(&parsed.ruleset, &again.ruleset), [], "{printed}");
}

#[test]
fn mistakes_have_lines() {
    let told = |text: &str| -> Vec<String> {
        let mistakes: Vec<save::Mistake> = parse(text, Family::V4).unwrap_err();
        mistakes.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        told("-A INPUT -j DROP\n*nat\n-A X -j RETURN\nfoo\nCOMMIT\n*wrong\n"),
        [
            "line 1: `-A INPUT -j DROP`: stands before any table: write a line like `*nat` first",
            "line 3: `-A X -j RETURN`: no chain X in table nat: declare it before by `:X - [0:0]`",
            "line 4: `foo`: neither a chain (`:NAME`, `-N NAME`) nor a rule (`-A CHAIN`, `-I CHAIN`)",
            "line 6: `*wrong`: no such table: filter, mangle, nat, raw and security are",
        ]
    );
    assert_eq!(
        told("*nat\n-A INPUT -p\n"),
        [
            "line 2: `-A INPUT -p`: `-p` has no value",
            "line 2: ``: the text ends inside a table: its COMMIT is missing"
        ]
    );
}

#[test]
fn order_is_a_difference() {
    let first = generate(&Interception::sidecar_default());
    let text = render(&first, Family::V4);
    let mut lines: Vec<&str> = text.lines().collect();
    let last = lines
        .iter()
        .position(|line| line.ends_with("-j ISTIO_REDIRECT"))
        .unwrap();
    let eighth = lines.remove(last - 1);
    lines.insert(last - 4, eighth);
    let moved = parse(&lines.join("\n"), Family::V4).unwrap().ruleset;
    let found = diff(&first, &moved);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(matches!(&found[0].change, Change::Moved { from, to, .. } if from.get() == 8 && to.get() == 5));
    assert_eq!(
        found[0].to_string(),
        "~ nat ISTIO_OUTPUT#8 -> #5 -d 127.0.0.1/32 -j RETURN"
    );
    let nothing = Ruleset::new(Owns::NewChains);
    assert!(
        diff(&first, &nothing)
            .iter()
            .any(|each| each.change == Change::ChainLost)
    );
    assert!(
        diff(&nothing, &first)
            .iter()
            .all(|each| each.to_string().starts_with('+'))
    );
}
