//! What of the host a lab must leave as it was: links, addresses, routes, rules, namespaces, sysctls, mounts, devices, names.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

/// The host as the tools that people use show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    links: String,
    addresses: String,
    routes: String,
    rules: String,
    rules_v6: String,
    named_namespaces: String,
    iptables: String,
    ip6tables: String,
    nft: String,
    sysctls: BTreeSet<String>,
    mounts: BTreeSet<String>,
    devices: BTreeSet<String>,
    names: BTreeSet<String>,
}

impl Host {
    /// Looks at it now.
    pub(crate) fn now() -> Self {
        Self {
            links: said("ip", &["-d", "link"]),
            addresses: said("ip", &["-o", "address"]),
            routes: said("ip", &["route", "show", "table", "all"]),
            rules: said("ip", &["rule"]),
            rules_v6: said("ip", &["-6", "rule"]),
            named_namespaces: said("ip", &["netns"]),
            iptables: without_counters(&said("iptables-save", &[])),
            ip6tables: without_counters(&said("ip6tables-save", &[])),
            nft: said("nft", &["list", "ruleset"]),
            sysctls: sysctls(),
            mounts: mounts(),
            devices: devices(),
            names: names(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tests look with the tools that people use"
)]
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The devices of /dev, each with its owner and its mode.
fn devices() -> BTreeSet<String> {
    let of_device = |entry: fs::DirEntry| {
        let data = fs::symlink_metadata(entry.path()).ok()?;
        let kind = data.file_type();
        let is_device = kind.is_char_device() || kind.is_block_device();
        let place = entry.path().display().to_string();
        is_device.then(|| format!("{place} {}:{} {:o}", data.uid(), data.gid(), data.mode()))
    };
    let all = fs::read_dir("/dev").into_iter().flatten().flatten();
    all.filter_map(of_device).collect()
}

/// The files from which programs learn names and addresses.
fn names() -> BTreeSet<String> {
    let files = ["hosts", "resolv.conf", "nsswitch.conf", "gai.conf", "host.conf"];
    let text = |name: &str| {
        let text = fs::read_to_string(Path::new("/etc").join(name)).ok();
        format!("{name}: {text:?}")
    };
    files.into_iter().map(text).collect()
}

/// `iptables-save` stamps its output with the time, and counts packets.
fn without_counters(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split('[').next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Everything under /proc/sys/net, which is what namespaces could leak into; a few values change by themselves.
fn sysctls() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(Path::new("/proc/sys/net"), &mut found);
    found.retain(|line| {
        !["nf_conntrack_count", "dentry-state", "gc_"]
            .iter()
            .any(|name| line.contains(name))
    });
    found
}

fn walk(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path) {
            found.insert(format!("{} = {}", path.display(), value.trim()));
        }
    }
}

fn mounts() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let fields = text
        .lines()
        .map(|line| line.split(' ').skip(3).take(2).collect::<Vec<_>>().join(" "));
    fields.collect()
}

/// All processes below this one, children of children too, at this moment.
pub(crate) fn descendants(ancestor: u32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // The command's name, in brackets, may hold anything; the parent is the second field after it (proc(5)).
        let after = stat.rsplit(") ").next().unwrap_or_default();
        if let Some(Ok(parent)) = after.split(' ').nth(1).map(str::parse::<u32>) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found
        .into_iter()
        .skip(1)
        .filter_map(|pid| i32::try_from(pid).ok())
        .collect()
}
