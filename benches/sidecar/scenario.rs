//! The lab in which the sidecars are loaded, as a scenario file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Size of the long body.
pub(crate) const LONG: u64 = 100_000_000;

/// Seconds of each load.
const SECONDS: u32 = 2;

/// The congestion control of all pods (tcp(7)): on every machine the same, and one that every network namespace may have.
/// Where the machine's default is BBR, each sender waits for timers of its pacing, half of the throughput of a long body
/// goes there, and the sidecars are not what is measured.
pub(crate) const CONGESTION_CONTROL: &str = "reno";

/// What is compared.
pub(crate) const KINDS: [&str; 3] = ["none", "builtin", "envoy"];

/// The loads: name, program and arguments; `HOST` stands for the service, `LONG` for the long body's path.
pub(crate) const LOADS: [(&str, &str); 8] = [
    ("c1", "wrk, -t1, -c1, --latency, http://HOST/"),
    ("c16", "wrk, -t1, -c16, --latency, http://HOST/"),
    ("c64", "wrk, -t1, -c64, --latency, http://HOST/"),
    ("c256", "wrk, -t1, -c256, --latency, http://HOST/"),
    ("new", "wrk, -t1, -c64, -H, 'Connection: close', http://HOST/"),
    ("h2", "h2load, -c16, -m10, --warm-up-time=0, http://HOST:81/"),
    ("long", "wrk, -t1, -c1, http://HOST/long"),
    ("tcp", "wrk, -t1, -c1, http://HOST:82/long"),
];

/// Writes nginx's configuration, the long body and the scenario; returns the scenario's path.
pub(crate) fn write(dir: &Path, rounds: usize, workers: usize) -> PathBuf {
    let root = dir.join("root");
    std::fs::create_dir(&root).expect("a directory");
    let long = std::fs::File::create(root.join("long")).expect("a file");
    long.set_len(LONG).expect("room for the long body");
    let nginx = dir.join("nginx.conf");
    std::fs::write(&nginx, nginx_conf(&root)).expect("a file");
    let file = dir.join("sidecar.yaml");
    std::fs::write(&file, text(&nginx, rounds, workers)).expect("a file");
    file
}

fn nginx_conf(root: &Path) -> String {
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path /tmp/{kind};"))
        .join(" ");
    format!(
        "worker_processes 1; daemon off; pid /tmp/nginx.pid; error_log /dev/null;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 1000000000; {temp}\n\
         server {{ listen 8080; listen 8082; location = / {{ return 200 \"hello\\n\"; }} location /long {{ root {}; }} }}\n\
         server {{ listen 8081 http2; location = / {{ return 200 \"hello\\n\"; }} }} }}\n",
        root.display()
    )
}

fn text(nginx: &Path, rounds: usize, workers: usize) -> String {
    let mut text = format!("name: sidecar\nmesh: {{concurrency: {workers}, accessLogFile: ''}}\nservices:\n");
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes every write");
    for kind in KINDS {
        line(format!(
            "  - {{name: {kind}, ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: grpc, port: 81, targetPort: \
             8081}}, {{name: tcp, port: 82, targetPort: 8082}}]}}"
        ));
    }
    let security = format!(
        "securityContext: {{sysctls: [{{name: net.ipv4.tcp_congestion_control, value: {CONGESTION_CONTROL}}}]}}"
    );
    line("pods:".to_owned());
    for kind in KINDS {
        let sidecar = match kind {
            "none" => "sidecar: false",
            kind => &format!("proxy: {kind}"),
        };
        line(format!(
            "  - {{name: {kind}-v1, labels: {{app: {kind}}}, {sidecar}, {security}, containers: [{{name: nginx, command: [nginx, -c, {}]}}]}}",
            nginx.display()
        ));
    }
    line(format!(
        "  - {{name: client, sidecar: false, {security}, containers: [{{name: client}}]}}\nsteps:"
    ));
    // Sidecars without an access log: no request through them can be followed, so a short load shows that they serve.
    for kind in KINDS {
        line(format!(
            "  - {{name: 'up {kind}', exec: {{from: client, command: [wrk, -t1, -c1, -d1s, http://{kind}/], timeout: 10s}}, \
             expect: {{eventually: {{within: 10s}}}}}}"
        ));
    }
    let look = |when: &str| {
        format!(
            "  - {{name: '{when}', exec: {{from: client, command: [sh, -c, 'grep -Hs . /proc/[0-9]*/stat; grep -Hs VmRSS \
             /proc/[0-9]*/status; true'], timeout: 10s}}}}"
        )
    };
    line(look("processes idle"));
    for _ in 0..rounds {
        for (load, command) in LOADS {
            for kind in KINDS {
                line(look(&format!("processes before {load} {kind}")));
                line(format!(
                    "  - {{name: 'load {load} {kind}', exec: {{from: client, command: [{}], timeout: 60s}}}}",
                    timed(&command.replace("HOST", kind))
                ));
                line(look(&format!("processes after {load} {kind}")));
            }
        }
        for kind in &KINDS[1..] {
            line(format!(
                "  - {{name: 'kill {kind}', kill: {{pod: {kind}-v1, process: sidecar}}}}"
            ));
            line(format!(
                "  - {{name: 'ready {kind}', wait: {{ready: {kind}-v1, timeout: 20s}}}}"
            ));
            // The agent's own measure is free of what the rest of the mesh does until all is quiet again.
            line(format!(
                "  - {{name: 'startup {kind}', request: {{from: client, url: 'http://${{{kind}-v1.ip}}:15020/stats/prometheus'}}}}"
            ));
        }
    }
    text
}

/// A load with its length.
fn timed(command: &str) -> String {
    let (program, rest) = command.split_once(", ").expect("a program and its arguments");
    let length = if program == "wrk" {
        format!("-d{SECONDS}s")
    } else {
        format!("-D{SECONDS}")
    };
    format!("{program}, {length}, {rest}")
}
