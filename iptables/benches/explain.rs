//! How long a prediction takes: one packet through a pod's rules (target: below a microsecond), the rules from options to
//! text, the search for dead rules. `cargo bench -p iptables`.
//!
//! A whole process, `lab rules render`, is to take less than 5 ms: `perf stat -r 50 lab rules render >/dev/null`.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use iptables::evaluate::{Program, evaluate};
use iptables::generate::generate;
use iptables::options::{Interception, Interface};
use iptables::packet::{Connection, Owner, Packet, Route};
use iptables::reach::dead;
use iptables::render::restore::render;
use iptables::rule::Protocol;
use iptables::ruleset::Family;

fn packet() -> Packet {
    Packet {
        route: Route::FromSocket,
        protocol: Protocol::Tcp,
        source: "10.244.0.2".parse().unwrap(),
        source_port: 40000,
        destination: "10.96.0.5".parse().unwrap(),
        destination_port: 9080,
        in_interface: None,
        out_interface: Interface::parse("eth0"),
        owner: Some(Owner { uid: 1000, gid: 1000 }),
        mark: 0,
        connection: Connection::NEW,
    }
}

fn benchmarks(criterion: &mut Criterion) {
    let options = Interception::sidecar_default();
    let program = Program::compile(&generate(&options), Family::V4);
    let packet = packet();
    criterion.bench_function("explain one packet", |bench| {
        bench.iter(|| evaluate(black_box(&program), black_box(&packet)));
    });
    criterion.bench_function("render the default rules", |bench| {
        bench.iter(|| render(&generate(black_box(&options)), Family::V4));
    });
    criterion.bench_function("find the dead rules", |bench| {
        bench.iter(|| dead(black_box(&program)));
    });
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
