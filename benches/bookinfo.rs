//! How long Bookinfo takes to come up, and as a whole, beside what the kernel alone takes for the same namespaces,
//! links and rule commits, in the same run.
//!
//! `./x bench`, as root. Prints medians and ratios; it asserts only that every run passed.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark prints, and one that cannot go on fails"
)]

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use iptables::generate::generate;
use iptables::options::Interception;
use lab::world::node::Node;
use lab::world::pod::{PodSpec, create_pods};
use lab::world::{entry, process};

/// Rounds of each; medians are printed.
const ROUNDS: usize = 15;

/// Bookinfo's pods with a sidecar, and those without (istiod, client, prometheus).
const WITH_SIDECAR: usize = 6;
const WITHOUT: usize = 3;

fn main() {
    // The raw cost is measured by this program itself, in a world of its own.
    if std::env::args().any(|arg| arg == "raw") {
        println!("{}", raw_cost());
        return;
    }
    let (mut up, mut whole, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    // Interleaved, so that a busy moment of the machine hits both.
    for _ in 0..ROUNDS {
        let (up_seconds, seconds) = bookinfo();
        up.push(up_seconds);
        whole.push(seconds);
        raw.push(raw_in_a_world());
    }
    let (up, whole, raw) = (median(up), median(whole), median(raw));
    println!("bookinfo, medians of {ROUNDS} runs");
    println!("  namespaces, links and rules alone   {:>7.1} ms", raw * 1e3);
    println!(
        "  up                                  {:>7.1} ms   {:.2} x the kernel's part   limit 300 ms",
        up * 1e3,
        up / raw
    );
    println!(
        "  whole run                           {:>7.1} ms   {:.2} x the kernel's part   limit 1500 ms",
        whole * 1e3,
        whole / raw
    );
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

#[expect(clippy::disallowed_methods, reason = "the benchmark runs the real binary")]
fn bookinfo() -> (f64, f64) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/bookinfo.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", "--output=json"])
        .arg(file)
        .output()
        .expect("running lab");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
    let scenario = &document["scenarios"][0];
    (
        scenario["up_seconds"].as_f64().expect("a number"),
        scenario["seconds"].as_f64().expect("a number"),
    )
}

/// This program again, in namespaces of its own, which go when it ends.
#[expect(
    clippy::disallowed_methods,
    reason = "the benchmark runs itself in namespaces of its own"
)]
fn raw_in_a_world() -> f64 {
    let own = PathBuf::from(std::env::args_os().next().expect("a name"));
    let output = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount", "--net", "--uts"])
        .arg(own)
        .arg("raw")
        .output()
        .expect("unshare comes with util-linux");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn raw_cost() -> f64 {
    let _settled = entry::settle_in(None).expect("mounts");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let tool = iptables::apply::Tool::find().expect("iptables");
        let ruleset = generate(&Interception::sidecar_default());
        let specs: Vec<PodSpec> = (0..WITH_SIDECAR + WITHOUT)
            .map(|index| PodSpec {
                name: format!("p{index}"),
                ips: Ipv4Addr::from_bits(0x0af4_000a + u32::try_from(index).expect("few")).into(),
            })
            .collect();
        let started = Instant::now();
        let node = Node::enter(&[]).await.expect("a node");
        let pods = create_pods(&node, &specs).await.expect("pods");
        let applied = pods.iter().take(WITH_SIDECAR).map(|pod| {
            let (tool, ruleset) = (&tool, &ruleset);
            async move {
                let spawn = |program: &Path, args: &[&OsStr]| process::spawn_tool(&pod.netns, program, args);
                iptables::apply::load(tool, ruleset, &spawn).await.expect("rules");
            }
        });
        futures_util::future::join_all(applied).await;
        started.elapsed().as_secs_f64()
    })
}
