//! The six traffic types and their kin, against this kernel, in namespaces that each test makes for itself.

mod arbitrary;
mod judge;
mod world;

use std::net::{Ipv4Addr, SocketAddr};

use super::{Collected, Evidence, Origin, Protocol, Role};
use world::{Actor, LIMIT, OTHER, POD, World, in_world};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 7);
const BIND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const TO_SIDECAR: &str =
    "pod: app -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> sidecar:15001";
const IN: &str = "pod: PREROUTING -> ISTIO_INBOUND#5 -> ISTIO_IN_REDIRECT#1 -> INPUT -> sidecar:15006";
const TO_APP: &str = "pod: sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> app:9080";

fn app() -> Role {
    Role::Container("app".to_owned())
}

fn client() -> Role {
    Role::Container("client".to_owned())
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}

fn sidecar(world: &World) -> Actor {
    let mut sidecar = world.actor("pod", Role::Sidecar, 1337);
    for port in [15001, 15006, 15090] {
        sidecar.listen(&format!("0.0.0.0:{port}"));
    }
    sidecar.listen("127.0.0.1:15000");
    sidecar
}

fn log(world: &World, client: SocketAddr, upstream: Option<(SocketAddr, SocketAddr)>, request: Option<&str>) {
    let line = serde_json::json!({
        "downstream_remote_address": client.to_string(),
        "upstream_local_address": upstream.map(|(local, _)| local.to_string()),
        "upstream_host": upstream.map(|(_, host)| host.to_string()),
        "request_id": request,
    });
    world.observer.add_log_line("pod", &line.to_string()).unwrap();
}

fn texts(collected: &Collected) -> Vec<String> {
    collected
        .legs
        .iter()
        .map(|leg| format!("{}: {}", leg.pod(), leg.text()))
        .collect()
}

#[track_caller]
fn check(collected: &Collected, legs: &[&str]) {
    assert_eq!(texts(collected), legs);
    assert_eq!(collected.unobserved, Vec::<String>::new());
}

async fn collect(world: &World, mark: super::Mark, origin: Origin) -> Collected {
    world
        .observer
        .collect(mark, &[origin], false, LIMIT)
        .await
        .unwrap()
}

#[test]
fn type_1_remote_pod_to_local_pod() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let mut app = world.actor("pod", app(), 1000);
        app.listen("0.0.0.0:9080");
        let mut client = world.actor("other", client(), 1000);
        let mark = world.observer.mark();
        let to = at(POD, 9080);
        let (local, result) = client.connect(None, to);
        assert_eq!(result, Ok(()));
        let (upstream, _) = sidecar.connect(Some(BIND), to);
        log(&world, at(OTHER, local.port()), Some((upstream, to)), Some("one"));
        let origin = client.origin(local, to, Protocol::Tcp);
        let collected = collect(&world, mark, origin.clone()).await;
        check(
            &collected,
            &["other: client -> OUTPUT -> POSTROUTING", IN, TO_APP],
        );
        assert_eq!(collected.entries[0].request_id.as_deref(), Some("one"));

        let mark = world.observer.mark();
        log(&world, at(OTHER, local.port()), Some((upstream, to)), Some("two"));
        let again = collect(&world, mark, origin).await;
        let client = "other: client -> OUTPUT -> POSTROUTING (reused)";
        check(
            &again,
            &[client, &format!("{IN} (reused)"), &format!("{TO_APP} (reused)")],
        );
    });
}

#[test]
fn type_2_local_pod_to_remote_pod_and_the_reuse_of_its_upstream() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let mut app = world.actor("pod", app(), 1000);
        let mut server = world.actor("other", client(), 1000);
        server.listen("0.0.0.0:9080");
        let mark = world.observer.mark();
        let to = at(OTHER, 9080);
        let (local, _) = app.connect(None, to);
        let (upstream, _) = sidecar.connect(None, to);
        log(
            &world,
            at(POD, local.port()),
            Some((at(POD, upstream.port()), to)),
            None,
        );
        let origin = app.origin(local, to, Protocol::Tcp);
        let out = "pod: sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING";
        let far = "other: PREROUTING -> INPUT -> client:9080";
        check(&collect(&world, mark, origin).await, &[TO_SIDECAR, out, far]);

        let mark = world.observer.mark();
        let (local, _) = app.connect(None, to);
        log(
            &world,
            at(POD, local.port()),
            Some((at(POD, upstream.port()), to)),
            None,
        );
        let again = collect(&world, mark, app.origin(local, to, Protocol::Tcp)).await;
        let reused = [
            TO_SIDECAR.to_owned(),
            format!("{out} (reused)"),
            format!("{far} (reused)"),
        ];
        assert_eq!(texts(&again), reused);
    });
}

#[test]
fn type_3_scrape_of_the_sidecar() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let mut client = world.actor("other", client(), 1000);
        let mark = world.observer.mark();
        let (local, _) = client.connect(None, at(POD, 15090));
        let admin = at(Ipv4Addr::LOCALHOST, 15000);
        let (upstream, _) = sidecar.connect(None, admin);
        let upstream = at(Ipv4Addr::LOCALHOST, upstream.port());
        log(&world, at(OTHER, local.port()), Some((upstream, admin)), None);
        let collected = collect(&world, mark, client.origin(local, at(POD, 15090), Protocol::Tcp)).await;
        check(
            &collected,
            &[
                "other: client -> OUTPUT -> POSTROUTING",
                "pod: PREROUTING -> ISTIO_INBOUND#2 -> INPUT -> sidecar:15090",
                "pod: sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING -> sidecar:15000",
            ],
        );
    });
}

#[test]
fn type_4_own_service_by_its_virtual_address() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let mut app = world.actor("pod", app(), 1000);
        app.listen("0.0.0.0:9080");
        let mark = world.observer.mark();
        let (local, _) = app.connect(None, at(VIP, 9080));
        let own = at(POD, 9080);
        let (outbound, result) = sidecar.connect(None, own);
        assert_eq!(result, Ok(()));
        let outbound = at(POD, outbound.port());
        let (inbound, _) = sidecar.connect(Some(BIND), own);
        log(&world, outbound, Some((inbound, own)), Some("id"));
        log(&world, at(POD, local.port()), Some((outbound, own)), Some("id"));
        let collected = collect(&world, mark, app.origin(local, at(VIP, 9080), Protocol::Tcp)).await;
        let own =
            "pod: sidecar -> OUTPUT -> ISTIO_OUTPUT#2 -> ISTIO_IN_REDIRECT#1 -> POSTROUTING -> sidecar:15006";
        check(&collected, &[TO_SIDECAR, own, TO_APP]);
    });
}

#[test]
fn types_5_and_6_the_sidecar_to_its_agent_and_the_agent_to_istiod() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let mut agent = world.actor("pod", Role::Agent, 1337);
        agent.listen("127.0.0.1:15010");
        let mut istiod = world.actor("other", client(), 1000);
        istiod.listen("0.0.0.0:15010");
        let (_, to_agent) = sidecar.connect(None, at(Ipv4Addr::LOCALHOST, 15010));
        let (_, to_istiod) = agent.connect(None, at(OTHER, 15010));
        assert_eq!((to_agent, to_istiod), (Ok(()), Ok(())));
        let text = |role: &Role| {
            let legs = world
                .observer
                .connection_from("pod", role, 15010)
                .unwrap()
                .unwrap();
            legs.iter().map(super::ObservedLeg::text).collect::<Vec<_>>()
        };
        let local = ["sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING -> agent:15010"];
        assert_eq!(text(&Role::Sidecar), local);
        let remote = [
            "agent -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING",
            "PREROUTING -> INPUT -> client:15010",
        ];
        assert_eq!(text(&Role::Agent), remote);
    });
}

#[test]
fn a_refusal_inside_the_pod_names_the_port_where_it_was_refused() {
    in_world(async |world| {
        let mut app = world.actor("pod", app(), 1000);
        let mark = world.observer.mark();
        let to = at(OTHER, 9080);
        let (local, result) = app.connect(None, to);
        assert_eq!(result, Err("ConnectionRefused".to_owned()));
        let collected = collect(&world, mark, app.origin(local, to, Protocol::Tcp)).await;
        let leg = "pod: app -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#1 -> POSTROUTING -> refused:15001";
        check(&collected, &[leg]);
        assert_eq!(
            collected.legs[0].hops()[0].evidence(),
            Some(Evidence::OnlyOfItsUser)
        );
    });
}

#[test]
fn the_user_of_a_syn_is_found_by_its_addresses_and_by_who_may_have_sent_it() {
    in_world(async |world| {
        let mut app = world.actor("pod", app(), 1000);
        let to = at(OTHER, 9080);
        let (local, _) = app.connect(None, to);
        let sent = super::Tuple {
            protocol: Protocol::Tcp,
            source: local,
            destination: to,
        };
        let mut users = super::users::Users::open("pod", &world.pod).unwrap();
        assert!(users.has_sent(&sent, 1000).unwrap());
        assert!(!users.has_sent(&sent, 1001).unwrap());
        assert!(!users.has_sent(&sent.reversed(), 1000).unwrap());
        for likely in [&[][..], &[1001], &[1000], &[0, 1000, 1337]] {
            assert_eq!(users.of(&sent, likely).unwrap(), Some(1000), "{likely:?}");
        }
    });
}

#[test]
fn an_app_that_calls_its_own_address_passes_the_sidecar_by() {
    in_world(async |world| {
        let mut app = world.actor("pod", app(), 1000);
        app.listen("0.0.0.0:9080");
        let mark = world.observer.mark();
        let (local, _) = app.connect(None, at(POD, 9080));
        let collected = collect(&world, mark, app.origin(local, at(POD, 9080), Protocol::Tcp)).await;
        check(
            &collected,
            &["pod: app -> OUTPUT -> ISTIO_OUTPUT#3 -> POSTROUTING -> app:9080"],
        );
        assert_eq!(collected.legs[0].hops()[0].evidence(), Some(Evidence::Descriptor));
        let hidden: Vec<String> = collected.legs[0]
            .hops()
            .iter()
            .filter(|hop| hop.is_hidden())
            .map(|hop| hop.hop().to_string())
            .collect();
        assert_eq!(hidden, ["OUTPUT#1", "PREROUTING", "INPUT"]);
    });
}

#[test]
fn a_datagram_falls_through_the_redirect_and_is_refused_where_nobody_listens() {
    in_world(async |world| {
        let mut app = world.actor("pod", app(), 1000);
        let to = at(OTHER, 5353);
        let mark = world.observer.mark();
        let local = app.send_datagram(to);
        let origin = app.origin(local, to, Protocol::Udp);
        let collected = collect(&world, mark, origin).await;
        let sent = "pod: app -> OUTPUT -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end -> POSTROUTING";
        check(&collected, &[sent, "other: PREROUTING -> INPUT -> refused:5353"]);
    });
}

/// Istio's zones for DNS: the agent's own questions in zone 1, everybody else's in zone 2.
const ZONES: &str = "*raw
-N ISTIO_OUTPUT_DNS
-A OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1
-A ISTIO_OUTPUT_DNS -p udp --dport 53 -j CT --zone 2
COMMIT
";

#[test]
fn the_same_addresses_in_two_zones_are_two_flows() {
    in_world(async |world| {
        const PORT: u16 = 40_053;
        world::apply(&world.pod, ZONES);
        let mut app = world.actor("pod", app(), 1000);
        let mut agent = world.actor("pod", Role::Agent, 1337);
        let to = at(OTHER, 53);
        let mark = world.observer.mark();
        let first = app.send_datagram_from(PORT, to);
        let second = agent.send_datagram_from(PORT, to);
        assert_eq!(first, second);
        app.send_datagram_from(PORT, to);
        let _all = world.observer.mark();
        let seen = world.observer.seen.borrow();
        let flows: Vec<_> = seen.connections[mark.connections..]
            .iter()
            .filter(|it| it.is_from_here())
            .collect();
        assert_eq!(flows.len(), 2, "{flows:#?}");
        let ids: Vec<u32> = flows.iter().filter_map(|it| it.packet.conntrack_id).collect();
        let tracked: Vec<u32> = flows.iter().filter_map(|it| Some(it.tracked?.id)).collect();
        // A kernel before 6.16 does not tell the ids of traced packets; then the later event has the later flow.
        if !ids.is_empty() {
            assert_eq!(tracked, ids);
            assert_ne!(ids[0], ids[1]);
        }
        let deciding: Vec<String> = flows
            .iter()
            .map(|it| super::ObservedLeg::of("pod", it, None, false).text())
            .collect();
        assert_eq!(
            deciding,
            [
                "OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#9 -> ISTIO_REDIRECT#end -> POSTROUTING",
                "OUTPUT -> ISTIO_OUTPUT_DNS#end -> ISTIO_OUTPUT#4 -> POSTROUTING",
            ]
        );
    });
}

#[test]
fn what_the_access_log_withholds_is_named() {
    in_world(async |world| {
        let _sidecar = sidecar(&world);
        let mut client = world.actor("other", client(), 1000);
        let mark = world.observer.mark();
        let (local, _) = client.connect(None, at(POD, 9080));
        let origin = client.origin(local, at(POD, 9080), Protocol::Tcp);
        let short = std::time::Duration::from_millis(100);
        let collected = world
            .observer
            .collect(mark, &[origin], false, short)
            .await
            .unwrap();
        let missing = format!(
            "pod `pod`: the access log has no entry for {OTHER}:{} at sidecar:15006",
            local.port()
        );
        assert_eq!(collected.unobserved, [missing]);
    });
}

#[test]
fn rules_that_come_later_are_known_by_their_position() {
    in_world(async |world| {
        let mut app = world.actor("pod", app(), 1000);
        world::apply(
            &world.pod,
            "*nat\n-I ISTIO_OUTPUT 1 -p tcp --dport 3306 -j RETURN\nCOMMIT\n*filter\n-A OUTPUT -p tcp --dport 25 -j DROP\nCOMMIT\n",
        );
        let mark = world.observer.mark();
        let (local, result) = app.connect(None, at(OTHER, 9080));
        assert!(result.is_err());
        let origin = app.origin(local, at(OTHER, 9080), Protocol::Tcp);
        let collected = collect(&world, mark, origin).await;
        let leg = "pod: app -> OUTPUT -> ISTIO_OUTPUT#10 -> ISTIO_REDIRECT#1 -> POSTROUTING -> refused:15001";
        check(&collected, &[leg]);
        let (local, _) = app.connect(None, at(Ipv4Addr::LOCALHOST, 25));
        let origin = app.origin(local, at(Ipv4Addr::LOCALHOST, 25), Protocol::Tcp);
        let collected = collect(&world, mark, origin).await;
        let leg = "pod: app -> OUTPUT -> ISTIO_OUTPUT#4 -> OUTPUT#1 -> dropped";
        check(&collected, &[leg]);
    });
}

#[test]
fn the_canary_sings_in_every_pod() {
    in_world(async |world| {
        let pods = [("pod", &world.pod), ("other", &world.other)];
        world.observer.canary(&pods, LIMIT).await.unwrap();
    });
}

#[test]
fn of_two_hundred_quick_connections_none_is_lost() {
    in_world(async |world| {
        let _sidecar = sidecar(&world);
        let mut app = world.actor("pod", app(), 1000);
        let mark = world.observer.mark();
        let to = at(OTHER, 9080);
        let locals: Vec<SocketAddr> = (0..200).map(|_| app.touch(to)).collect();
        let began = std::time::Instant::now();
        world.observer.mark();
        println!("200 connections taken in in {:?}", began.elapsed());
        for local in &locals {
            world
                .observer
                .reported(app.origin(*local, to, Protocol::Tcp))
                .unwrap();
            log(&world, at(POD, local.port()), None, None);
        }
        let origins: Vec<Origin> = locals
            .iter()
            .map(|local| app.origin(*local, to, Protocol::Tcp))
            .collect();
        let began = std::time::Instant::now();
        let collected = world.observer.collect(mark, &origins, true, LIMIT).await.unwrap();
        println!("200 connections collected in {:?}", began.elapsed());
        check(&collected, &vec![TO_SIDECAR; 200]);
    });
}

#[test]
fn what_an_app_calls_belongs_to_the_request_that_made_it_call() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let mut app = world.actor("pod", app(), 1000);
        app.listen("0.0.0.0:9080");
        let mut client = world.actor("other", client(), 1000);
        client.listen("0.0.0.0:7070");
        let mark = world.observer.mark();
        let (local, _) = client.connect(None, at(POD, 9080));
        let (inbound, _) = sidecar.connect(Some(BIND), at(POD, 9080));
        let (call, _) = app.connect(None, at(VIP, 7070));
        // A connection of the sidecar's that no entry speaks of.
        let (_, refused) = sidecar.connect(None, at(OTHER, 7071));
        let (outbound, _) = sidecar.connect(None, at(OTHER, 7070));
        assert_eq!(refused, Err("ConnectionRefused".to_owned()));
        // The agent's own talk is no part of it.
        let mut agent = world.actor("pod", Role::Agent, 1337);
        let (_, _) = agent.connect(None, at(OTHER, 7070));
        let upstream = (at(POD, outbound.port()), at(OTHER, 7070));
        log(&world, at(POD, call.port()), Some(upstream), Some("id"));
        log(
            &world,
            at(OTHER, local.port()),
            Some((inbound, at(POD, 9080))),
            Some("id"),
        );
        let legs = [
            "other: client -> OUTPUT -> POSTROUTING",
            IN,
            TO_APP,
            TO_SIDECAR,
            "pod: sidecar -> OUTPUT -> ISTIO_OUTPUT#4 -> POSTROUTING",
            "other: PREROUTING -> INPUT -> client:7070",
        ];
        for parallel in [false, true] {
            let origin = client.origin(local, at(POD, 9080), Protocol::Tcp);
            let collected = world
                .observer
                .collect(mark, &[origin], parallel, LIMIT)
                .await
                .unwrap();
            check(&collected, &legs);
        }
    });
}

/// The kernel says neither holder nor user of a socket in `TIME_WAIT`: it must not be taken for a socket of root's, nor
/// for one of a process that has ended.
#[test]
fn a_socket_that_is_closed_before_anybody_looks_is_not_given_to_whoever_has_ended() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let mut app_process = world.actor("pod", app(), 1000);
        app_process.listen("0.0.0.0:9080");
        let mut agent = world.actor("pod", Role::Agent, 1337);
        let mut client = world.actor("other", client(), 1000);
        drop(world.actor("pod", app(), 1000));
        let mark = world.observer.mark();
        let (local, _) = client.connect(None, at(POD, 9080));
        let (inbound, _) = sidecar.connect(Some(BIND), at(POD, 9080));
        agent.touch(at(Ipv4Addr::LOCALHOST, 15000));
        log(
            &world,
            at(OTHER, local.port()),
            Some((inbound, at(POD, 9080))),
            Some("id"),
        );
        let origin = client.origin(local, at(POD, 9080), Protocol::Tcp);
        let collected = collect(&world, mark, origin).await;
        check(
            &collected,
            &["other: client -> OUTPUT -> POSTROUTING", IN, TO_APP],
        );
    });
}

#[test]
fn an_attempt_that_was_refused_stands_before_the_entry_that_names_its_address() {
    in_world(async |world| {
        let mut sidecar = sidecar(&world);
        let _agent = world.actor("pod", Role::Agent, 1337);
        let mut client = world.actor("other", client(), 1000);
        let mark = world.observer.mark();
        let (local, _) = client.connect(None, at(POD, 9080));
        let (_, refused) = sidecar.connect(Some(BIND), at(POD, 9080));
        assert_eq!(refused, Err("ConnectionRefused".to_owned()));
        let line = serde_json::json!({
            "downstream_remote_address": at(OTHER, local.port()).to_string(),
            "upstream_host": at(POD, 9080).to_string(), "upstream_local_address": null, "response_flags": "UF",
        });
        world.observer.add_log_line("pod", &line.to_string()).unwrap();
        let collected = collect(&world, mark, client.origin(local, at(POD, 9080), Protocol::Tcp)).await;
        let refused = "pod: sidecar -> OUTPUT -> ISTIO_OUTPUT#1 -> POSTROUTING -> refused:9080";
        check(
            &collected,
            &["other: client -> OUTPUT -> POSTROUTING", IN, refused],
        );
        assert_eq!(collected.legs[2].hops()[0].evidence(), Some(Evidence::AccessLog));
    });
}

#[test]
fn tproxy_names_the_socket_that_took_the_packet() {
    in_world(async |world| {
        world::apply(
            &world.pod,
            "*mangle\n-N ISTIO_TPROXY\n-A PREROUTING -p tcp -i eth0 -j ISTIO_TPROXY\n-A ISTIO_TPROXY ! -d 127.0.0.1/32 -p tcp \
             -j TPROXY --tproxy-mark 1337/0xffffffff --on-port 15016\nCOMMIT\n*nat\n-F PREROUTING\nCOMMIT\n",
        );
        // As Istio runs it in this mode: without the right to IP_TRANSPARENT the kernel drops the SYN.
        let mut sidecar = world.actor("pod", Role::Sidecar, 0);
        sidecar.listen_transparent("0.0.0.0:15016");
        let mut app = world.actor("pod", app(), 1000);
        app.listen("0.0.0.0:9080");
        let mut client = world.actor("other", client(), 1000);
        let mark = world.observer.mark();
        let local = client.send_syn(at(POD, 9080));
        let collected = collect(&world, mark, client.origin(local, at(POD, 9080), Protocol::Tcp)).await;
        let taken = "pod: PREROUTING -> ISTIO_TPROXY#1 -> INPUT -> sidecar:15016";
        check(&collected, &["other: client -> OUTPUT -> POSTROUTING", taken]);
    });
}

/// nftables' own statement has the port in a register, in Istio's layout for that backend.
#[test]
fn tproxy_by_nftables_names_the_socket_too() {
    in_world(async |world| {
        world::apply(&world.pod, "*nat\n-F PREROUTING\nCOMMIT\n");
        world::apply_nft(
            &world.pod,
            "table inet istio-proxy-mangle {\n\
             chain prerouting { type filter hook prerouting priority mangle; meta l4proto tcp jump istio-inbound; }\n\
             chain istio-inbound { iifname eth0 meta l4proto tcp counter jump istio-tproxy; }\n\
             chain istio-tproxy { meta l4proto tcp ip daddr != 127.0.0.1/32 tproxy ip to :15016 meta mark set 1337 counter \
             accept; }\n}\n",
        );
        let mut sidecar = world.actor("pod", Role::Sidecar, 0);
        sidecar.listen_transparent("0.0.0.0:15016");
        let mut app = world.actor("pod", app(), 1000);
        app.listen("0.0.0.0:9080");
        let mut client = world.actor("other", client(), 1000);
        let mark = world.observer.mark();
        let local = client.send_syn(at(POD, 9080));
        let collected = collect(&world, mark, client.origin(local, at(POD, 9080), Protocol::Tcp)).await;
        let taken = "pod: PREROUTING -> istio-inbound#1 -> istio-tproxy#1 -> INPUT -> sidecar:15016";
        check(&collected, &["other: client -> OUTPUT -> POSTROUTING", taken]);
    });
}

#[test]
fn lost_events_make_everything_since_unobserved() {
    in_world(async |world| {
        let mut app = world.actor("pod", app(), 1000);
        world.observer.shrink_buffer("pod");
        let mark = world.observer.mark();
        let to = at(OTHER, 9080);
        let locals: Vec<SocketAddr> = (0..40).map(|_| app.touch(to)).collect();
        let origin = app.origin(locals[0], to, Protocol::Tcp);
        let short = std::time::Duration::from_millis(100);
        let collected = world
            .observer
            .collect(mark, &[origin], false, short)
            .await
            .unwrap();
        assert!(collected.unobserved[0].starts_with("events of pod `pod` were lost: No buffer space"));
        let later = world.observer.mark();
        assert_ne!(mark, later);
        let nothing = world.observer.collect(later, &[], false, LIMIT).await.unwrap();
        check(&nothing, &[]);
    });
}
