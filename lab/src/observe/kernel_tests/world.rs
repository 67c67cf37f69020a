//! Two namespaces joined by a veth pair, and processes in them that a test drives line by line.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use socket2::{Domain, Socket, Type};

use crate::net::netns::NetNs;
use crate::observe::{Observer, Origin, Protocol, Role};

/// The pod with Istio's rules, and its neighbour without.
pub(super) const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
pub(super) const OTHER: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);
pub(super) const LIMIT: Duration = Duration::from_secs(5);
const ROLE_KEY: &str = "LAB_OBSERVE_TEST_UID";

/// Istio's rules of an init container (nine in `ISTIO_OUTPUT`).
pub(super) const RULES: &str = "*nat
-N ISTIO_INBOUND
-N ISTIO_REDIRECT
-N ISTIO_IN_REDIRECT
-N ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 15008 -j RETURN
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A ISTIO_INBOUND -p tcp --dport 15090 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15021 -j RETURN
-A ISTIO_INBOUND -p tcp --dport 15020 -j RETURN
-A ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT
-A OUTPUT -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -o lo -s 127.0.0.6/32 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m owner --gid-owner 1337 -j ISTIO_IN_REDIRECT
-A ISTIO_OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
COMMIT
";

/// Everything of one test.
pub(super) struct World {
    pub(super) observer: Observer,
    pub(super) pod: NetNs,
    pub(super) other: NetNs,
    _dir: tempfile::TempDir,
}

/// A process in a pod: it does one thing a line, and says what came of it.
pub(super) struct Actor {
    child: Child,
    lines: BufReader<ChildStdout>,
    commands: ChildStdin,
    pod: &'static str,
    role: Role,
}

/// Runs a test on a runtime and in a mount namespace of its own.
pub(super) fn in_world(test: impl AsyncFnOnce(World)) {
    private_mounts();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let world = World::build().await;
        test(world).await;
    });
}

#[expect(clippy::disallowed_methods, reason = "a test in a namespace of its own")]
fn private_mounts() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
        .expect("root is needed: run the tests with sudo");
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>).unwrap();
}

impl World {
    async fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let none = None::<&str>;
        mount(none, dir.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let pod = NetNs::create("pod", dir.path()).unwrap();
        let other = NetNs::create("other", dir.path()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        let (wires, handle, _) = pod.run(|| rtnetlink::new_connection().unwrap()).unwrap();
        tasks.spawn_local(wires);
        let (wires, far, _) = other.run(|| rtnetlink::new_connection().unwrap()).unwrap();
        tasks.spawn_local(wires);
        handle
            .link()
            .add(LinkVeth::new("eth0", "peer").build())
            .execute()
            .await
            .unwrap();
        let peer = index(&pod, "peer");
        let moved = LinkUnspec::new_with_index(peer)
            .setns_by_fd(other.file().as_raw_fd())
            .name("eth0")
            .build();
        handle.link().set(moved).execute().await.unwrap();
        up(&handle, &pod, POD, OTHER).await;
        up(&far, &other, OTHER, POD).await;
        apply(&pod, RULES);
        let pods = [("pod", POD.into(), &pod), ("other", OTHER.into(), &other)];
        let observer = Observer::attach(&pods).unwrap();
        Self {
            observer,
            pod,
            other,
            _dir: dir,
        }
    }

    /// Starts a process of this role and user.
    pub(super) fn actor(&self, pod: &'static str, role: Role, user: u32) -> Actor {
        let namespace = if pod == "pod" { &self.pod } else { &self.other };
        #[expect(
            clippy::disallowed_methods,
            reason = "the test binary is its own process in a pod"
        )]
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "observe::kernel_tests::world::an_actor", "--nocapture"])
            .env(ROLE_KEY, user.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = namespace.run(|| command.spawn().unwrap()).unwrap();
        let mut actor = Actor {
            lines: BufReader::new(child.stdout.take().unwrap()),
            commands: child.stdin.take().unwrap(),
            child,
            pod,
            role,
        };
        // It has its user by now.
        actor.answer();
        let role = actor.role.clone();
        self.observer.add_process(pod, actor.child.id(), role).unwrap();
        actor
    }
}

fn index(namespace: &NetNs, name: &str) -> u32 {
    namespace
        .run(|| nix::net::if_::if_nametoindex(name).unwrap())
        .unwrap()
}

async fn up(handle: &rtnetlink::Handle, namespace: &NetNs, own: Ipv4Addr, gateway: Ipv4Addr) {
    for name in ["lo", "eth0"] {
        let message = LinkUnspec::new_with_index(index(namespace, name)).up().build();
        handle.link().set(message).execute().await.unwrap();
    }
    let eth0 = index(namespace, "eth0");
    handle
        .address()
        .add(eth0, IpAddr::V4(own), 24)
        .execute()
        .await
        .unwrap();
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
    handle.route().add(route).execute().await.unwrap();
}

/// Loads rules by iptables-restore.
pub(super) fn apply(namespace: &NetNs, rules: &str) {
    load(namespace, "iptables-restore", &["--noflush"], rules);
}

pub(super) fn apply_nft(namespace: &NetNs, rules: &str) {
    load(namespace, "nft", &["-f", "-"], rules);
}

fn load(namespace: &NetNs, tool: &str, args: &[&str], rules: &str) {
    #[expect(clippy::disallowed_methods, reason = "a test loads the rules as Istio does")]
    let mut command = Command::new(tool);
    command.args(args).stdin(Stdio::piped());
    let mut child = namespace.run(|| command.spawn().unwrap()).unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

impl Actor {
    fn answer(&mut self) -> String {
        // The test harness of the child prints lines of its own; one may share its line with an answer.
        for line in (&mut self.lines).lines() {
            if let Some((_, answer)) = line.unwrap().split_once("> ") {
                return answer.to_owned();
            }
        }
        panic!("the process in pod {} ended", self.pod)
    }

    fn ask(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").unwrap();
        self.answer()
    }

    pub(super) fn listen(&mut self, address: &str) {
        assert_eq!(self.ask(&format!("listen {address}")), "ok");
    }

    pub(super) fn listen_transparent(&mut self, address: &str) {
        assert_eq!(self.ask(&format!("transparent {address}")), "ok");
    }

    /// Opens a connection, from an address or from any, and gives both ends.
    pub(super) fn connect(
        &mut self,
        from: Option<Ipv4Addr>,
        to: SocketAddr,
    ) -> (SocketAddr, Result<(), String>) {
        let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let answer = self.ask(&format!("connect {from} {to}"));
        let (local, result) = answer.split_once(' ').unwrap();
        let result = if result == "ok" {
            Ok(())
        } else {
            Err(result.to_owned())
        };
        (local.parse().unwrap(), result)
    }

    pub(super) fn send_datagram(&mut self, to: SocketAddr) -> SocketAddr {
        self.ask(&format!("datagram 0.0.0.0 {to}")).parse().unwrap()
    }

    /// The same from this port, which others may have too.
    pub(super) fn send_datagram_from(&mut self, port: u16, to: SocketAddr) -> SocketAddr {
        self.ask(&format!("datagram 0.0.0.0:{port} {to}"))
            .parse()
            .unwrap()
    }

    /// Sends a SYN and does not wait for the answer.
    pub(super) fn send_syn(&mut self, to: SocketAddr) -> SocketAddr {
        self.ask(&format!("syn 0.0.0.0 {to}")).parse().unwrap()
    }

    /// Opens a connection and closes it at once.
    pub(super) fn touch(&mut self, to: SocketAddr) -> SocketAddr {
        self.ask(&format!("touch 0.0.0.0 {to}")).parse().unwrap()
    }

    pub(super) fn origin(&self, local: SocketAddr, remote: SocketAddr, protocol: Protocol) -> Origin {
        Origin {
            pod: self.pod.to_owned(),
            role: self.role.clone(),
            pid: Some(self.child.id()),
            protocol,
            local,
            remote,
            carries: true,
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Not a test: what an [`Actor`]'s process does. Without its environment it does nothing.
#[test]
fn an_actor() {
    let Ok(user) = std::env::var(ROLE_KEY) else { return };
    let user: u32 = user.parse().unwrap();
    nix::unistd::setresgid(user.into(), user.into(), user.into()).unwrap();
    nix::unistd::setresuid(user.into(), user.into(), user.into()).unwrap();
    let mut kept = Vec::new();
    println!("> ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        println!("> {}", act(&words, &mut kept));
    }
}

fn act(words: &[&str], kept: &mut Vec<Socket>) -> String {
    let kind = if words[0] == "datagram" {
        Type::DGRAM
    } else {
        Type::STREAM
    };
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    if let [what @ ("listen" | "transparent"), address] = words {
        if *what == "transparent" {
            socket.set_ip_transparent_v4(true).unwrap();
        }
        socket.set_reuse_address(true).unwrap();
        socket
            .bind(&address.parse::<SocketAddr>().unwrap().into())
            .unwrap();
        socket.listen(1024).unwrap();
        kept.push(socket);
        return "ok".to_owned();
    }
    let [what, from, to] = words else {
        panic!("{words:?}")
    };
    let to: SocketAddr = to.parse().unwrap();
    let any_port = from.parse().map(|from: IpAddr| SocketAddr::new(from, 0));
    let from = any_port.unwrap_or_else(|_| {
        socket.set_reuse_address(true).unwrap();
        from.parse().unwrap()
    });
    socket.bind(&from.into()).unwrap();
    if *what == "syn" {
        socket.set_nonblocking(true).unwrap();
        let outcome = socket.connect(&to.into());
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
        let local = socket.local_addr().unwrap().as_socket().unwrap().to_string();
        kept.push(socket);
        return local;
    }
    let outcome = socket.connect_timeout(&to.into(), Duration::from_secs(2));
    let local = socket.local_addr().unwrap().as_socket().unwrap();
    match *what {
        "connect" => {
            kept.push(socket);
            match outcome {
                Ok(()) => format!("{local} ok"),
                Err(error) => format!("{local} {:?}", error.kind()),
            }
        }
        "datagram" => {
            outcome.unwrap();
            socket.send(b"?").unwrap();
            kept.push(socket);
            local.to_string()
        }
        "touch" => local.to_string(),
        other => panic!("{other}"),
    }
}
