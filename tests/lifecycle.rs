//! A pod's life as kubelet runs it: order, probes, hooks, restarts, the end; and what steps break.

use crate::support::Lab;

const WEB: &str = "{name: web, app: {http: 8080, routes: {/: {body: hello}}}";

/// A pod `p` of these fields, a server `up` that is always there, and these steps.
fn with(pod: &str, steps: &str) -> String {
    format!(
        "name: t\nclock: {{scale: 0.02}}\n\
         services: [{{name: web, ports: [{{name: http, port: 80, targetPort: 8080}}]}}, {{name: up, ports: [{{name: http, port: 80, targetPort: 8080}}]}}]\n\
         pods:\n  - name: p\n    labels: {{app: web}}\n{pod}\
         \x20 - {{name: up-v1, labels: {{app: up}}, containers: [{WEB}}}]}}\n\
         \x20 - {{name: client, sidecar: false, containers: [{{name: client}}]}}\n\
         steps:\n{steps}"
    )
}

#[test]
fn init_containers_run_one_after_another_and_containers_in_order() {
    // Rewritten, the probe of `cache` would ask an agent that kubelet starts only after it.
    let pod = format!(
        "    annotations: {{sidecar.istio.io/rewriteAppHTTPProbers: 'false'}}\n\
         \x20   initContainers:\n\
         \x20     - {{name: first, command: ['true']}}\n\
         \x20     - {{name: second, command: ['true']}}\n\
         \x20     - {{name: cache, restartPolicy: Always, app: {{tcp: 6379}}, startupProbe: {{tcpSocket: {{port: 6379}}, periodSeconds: 1}}}}\n\
         \x20     - {{name: third, command: ['true']}}\n\
         \x20   containers:\n\
         \x20     - {WEB}, lifecycle: {{postStart: {{exec: {{command: ['true']}}}}}}}}\n\
         \x20     - {{name: last}}\n"
    );
    let events = "[first started, first ended 0, second started, second ended 0, cache started, cache startupProbe succeeded, \
        third started, third ended 0, rules installed, web started, web postStart done, last started, istio-proxy started, ready]";
    let steps =
        format!("  - {{wait: {{ready: p}}, expect: {{phase: {{p: Running}}, events: {{p: {events}}}}}}}\n");
    Lab::scenario(with(&pod, &steps)).status(0);
    // The negative twin: another order is not what was seen.
    Lab::scenario(with(
        &pod,
        &steps.replace("[first started, first ended 0", "[first ended 0, first started"),
    ))
    .status(1);
}

/// Port 80 is an app's of any user, as in a container.
#[test]
fn whoever_waits_in_vain_is_told_what_the_last_probe_said() {
    let pod = "    containers:\n      - {name: web, app: {http: 80}, readinessProbe: {httpGet: {path: /status/503, port: 80}}}\n";
    let steps = "  - {name: never, wait: {ready: p, timeout: 500ms}}\n";
    let ended = Lab::scenario(with(pod, steps)).status(4);
    let words = "waited 500 ms for pod p to be ready; last seen: container web: readinessProbe failed: status 503; so far: ";
    assert!(ended.stdout.contains(words), "{}", ended.stdout);
}

#[test]
fn without_a_life_cycle_nothing_waits_and_nothing_restarts() {
    let steps = "  - {kill: {pod: p, process: web}}\n  - {wait: {exited: p/web}, expect: {restarts: {p/web: 0}, ready: {p: false}}}\n";
    Lab::scenario(with(&format!("    containers: [{WEB}}}]\n"), steps)).status(0);
}

#[test]
fn a_failed_liveness_probe_restarts_a_container_as_the_policy_says() {
    // Healthy until it is frozen: then it accepts and never answers.
    let pod = |policy: &str| {
        format!(
            "    restartPolicy: {policy}\n    containers:\n      - {WEB}, livenessProbe: {{httpGet: {{path: /status/500, port: 8080}}, periodSeconds: 1, failureThreshold: 2}}}}\n"
        )
    };
    let again = "  - {wait: {event: {pod: p, is: web back-off}, timeout: 30s}, expect: {restarts: {p/web: '>=1'}, \
        events: {p: [web started, web livenessProbe failed, web ended 0, web started]}}}\n";
    Lab::scenario(with(&pod("Always"), again)).status(0);
    let never = "  - {wait: {event: {pod: p, is: web completed}}, expect: {restarts: {p/web: 0}, events: {p: [web livenessProbe failed, web ended 0]}}}\n";
    Lab::scenario(with(&pod("Never"), never)).status(0);
}

#[test]
fn readiness_decides_who_is_an_endpoint() {
    let pod = format!(
        "    hold: [web.listen]\n    containers:\n      - {WEB}, readinessProbe: {{httpGet: {{path: /health, port: 8080}}, periodSeconds: 1}}}}\n"
    );
    let steps = "  - {request: {from: client, url: 'http://web/'}, expect: {outcome: connection-refused, ready: {p: false}}}\n\
        \x20 - {release: {pod: p, gates: [web.listen]}}\n\
        \x20 - {wait: {ready: p}}\n\
        \x20 - {request: {from: client, url: 'http://web/'}, expect: {status: 200, body: hello, ready: {p: true}}}\n";
    Lab::scenario(with(&pod, steps)).status(0);
}

#[test]
fn a_job_succeeds_or_fails_by_the_status_of_its_containers() {
    let pod = |program: &str| {
        format!(
            "    restartPolicy: Never\n    sidecar: false\n    containers: [{{name: work, command: ['{program}']}}]\n"
        )
    };
    let steps = |phase: &str| {
        format!("  - {{wait: {{phase: {{pod: p, is: {phase}}}}}, expect: {{phase: {{p: {phase}}}}}}}\n")
    };
    Lab::scenario(with(&pod("true"), &steps("Succeeded"))).status(0);
    Lab::scenario(with(&pod("false"), &steps("Failed"))).status(0);
}

#[test]
fn a_deleted_pod_is_no_endpoint_its_hooks_run_and_what_stays_is_killed() {
    let pod = "    terminationGracePeriodSeconds: 20\n    containers:\n\
        \x20     - {name: web, app: {http: 8080}, lifecycle: {preStop: {exec: {command: ['true']}}}}\n\
        \x20     - {name: deaf, command: [sh, -c, 'trap \"\" TERM; while :; do read x < /dev/zero; done']}\n";
    let steps = "  - {wait: {ready: p}}\n  - {delete: {pod: p}}\n\
        \x20 - {request: {from: client, url: 'http://web/'}, expect: {outcome: connection-refused}}\n\
        \x20 - {wait: {terminated: p, timeout: 30s}, expect: {events: {p: [deleted, web preStop done, web SIGTERM, web ended 0, terminated]}}}\n\
        \x20 - {wait: {event: {pod: p, is: deaf SIGKILL}}, expect: {events: {p: [deaf SIGTERM, deaf SIGKILL, deaf ended 137]}}}\n";
    Lab::scenario(with(pod, steps)).status(0);
}

#[test]
fn istiod_may_go_and_come_back() {
    let steps = "  - {istiod: down}\n\
        \x20 - {request: {from: p, url: 'http://up/'}, expect: {status: 200, body: hello}}\n\
        \x20 - {istiod: up}\n\
        \x20 - {stop: {pod: up-v1, process: web}}\n\
        \x20 - {request: {from: p, url: 'http://up/'}, expect: {status: 503, responseFlags: UH}}\n";
    Lab::scenario(with(&format!("    containers: [{WEB}}}]\n"), steps)).status(0);
}

#[test]
fn what_is_frozen_neither_answers_nor_refuses() {
    let request = "{from: client, url: 'http://${p.ip}:8080/', timeout: 300ms}";
    let steps = format!(
        "  - {{freeze: {{pod: p, process: sidecar}}}}\n  - {{exec: {{from: client, command: [perl, -e, 'use IO::Socket::INET; \
         $s = IO::Socket::INET->new(PeerAddr => \"${{p.ip}}:8080\") or exit 111; $s->send(\"GET / HTTP/1.0\\r\\n\\r\\n\"); \
         $SIG{{ALRM}} = sub {{ exit 28 }}; alarm 1; exit(defined($s->getline) ? 0 : 52)']}}, expect: {{exitCode: 28}}}}\n\
         \x20 - {{thaw: {{pod: p, process: sidecar}}}}\n  - {{request: {}, expect: {{status: 200}}}}\n",
        request.replace(", timeout: 300ms", "")
    );
    Lab::scenario(with(&format!("    containers: [{WEB}}}]\n"), &steps)).status(0);
}

#[test]
fn a_link_that_is_down_reaches_nobody() {
    let steps = "  - {link: {pod: p, state: down}}\n\
        \x20 - {request: {from: client, url: 'http://${p.ip}:8080/', timeout: 500ms}, expect: {outcome: unreachable}}\n\
        \x20 - {link: {pod: p, state: up}}\n\
        \x20 - {request: {from: client, url: 'http://${p.ip}:8080/'}, expect: {status: 200}}\n";
    Lab::scenario(with(
        &format!("    sidecar: false\n    containers: [{WEB}}}]\n"),
        steps,
    ))
    .status(0);
}

/// A kernel without netem says so by name; one that has it is late.
#[test]
fn netem_that_is_not_there_can_be_taken_away() {
    let steps = "  - {netem: {pod: p}}\n  - {request: {from: client, url: 'http://${p.ip}:8080/'}, expect: {status: 200}}\n";
    Lab::scenario(with(
        &format!("    sidecar: false\n    containers: [{WEB}}}]\n"),
        steps,
    ))
    .status(0);
    let ended = Lab::scenario(with(
        &format!("    containers: [{WEB}}}]\n"),
        "  - {netem: {pod: p, jitter: 5ms}}\n",
    ))
    .status(2);
    assert!(
        ended.stderr.contains("a delay cannot vary by more than it is"),
        "{}",
        ended.stderr
    );
}

#[test]
fn netem_delays_or_says_what_the_kernel_lacks() {
    // The lab drops what does not arrive, so nobody misses it.
    let steps = "  - {name: delay, netem: {pod: p, delay: 300ms}}\n\
        \x20 - {request: {from: client, url: 'http://${p.ip}:8080/', timeout: 100ms}, expect: {outcome: timeout}}\n\
        \x20 - {netem: {pod: p, loss: 100%}}\n\
        \x20 - {request: {from: client, url: 'http://${p.ip}:8080/', timeout: 100ms}, expect: {outcome: timeout}}\n\
        \x20 - {netem: {pod: p}}\n\
        \x20 - {request: {from: client, url: 'http://${p.ip}:8080/'}, expect: {status: 200}}\n";
    let lab = Lab::scenario(with(
        &format!("    sidecar: false\n    containers: [{WEB}}}]\n"),
        steps,
    ))
    .arg("--output=json");
    let (status, ended) = lab.any_status();
    let document = ended.json();
    let delay = &document["scenarios"][0]["steps"][0];
    if delay["result"] == "pass" {
        assert_eq!(status, Some(0), "{document:#}");
    } else {
        let words = delay["message"].as_str().unwrap();
        assert!(words.contains("CONFIG_NET_SCH_NETEM"), "{words}");
        assert_eq!(status, Some(4), "{document:#}");
    }
}
