//! A scenario that has been checked: every name resolved, every default filled in.
//!
//! Nothing after `resolve` sees a raw field. A pod, container or service is named by its index ([`PodId`] and so on),
//! made by `resolve` alone, so the engine has no "unknown pod" branch.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use iptables::options::{Backend, DnsCapture, Interception};
use serde::{Deserialize, Serialize};

use super::custom::CustomRules;
use super::families::{IpFamilies, IpFamily};
use super::lifecycle::{Clock, ContainerKind, ContainerLife, Phase, PodLife, ProbeKind, ProxyLife};
use super::objects::{Object, ObjectName};
use crate::path::{HopPattern, LegPattern};

/// A pod of the scenario, by its index in [`Scenario::pods`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub(crate) usize);

/// A container of a pod, by its index in [`Pod::containers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub(crate) usize);

/// A whole scenario file.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its `name`, or the file's stem.
    pub name: String,
    /// Its `description`, empty if none.
    pub description: String,
    /// What holds for the whole mesh.
    pub mesh: Mesh,
    /// Services, in file order.
    pub services: Vec<Service>,
    /// Istio `DestinationRule`s.
    pub destination_rules: Vec<DestinationRule>,
    /// Istio `VirtualService`s.
    pub virtual_services: Vec<VirtualService>,
    /// Pods, in file order. istiod is not among them: the lab always has one.
    pub pods: Vec<Pod>,
    /// Steps, in file order.
    pub steps: Vec<Step>,
    /// `clock`.
    pub clock: Clock,
}

/// Where in the file something stands: 1-based line and column of its first character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

/// What holds for the whole mesh.
#[derive(Debug, Clone)]
pub struct Mesh {
    /// What happens to traffic to hosts that no service names.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// How the inbound cluster reaches the app.
    pub inbound: InboundCluster,
    /// Attempts after the first, in Istio's default retry policy; 0 turns it off.
    pub retries: u32,
    /// How long a sidecar waits for a client's first bytes to tell its protocol by (`protocolDetectionTimeout`); zero = for
    /// ever.
    pub protocol_detection_timeout: Duration,
    /// The data plane of sidecars whose pods name none.
    pub proxy: ProxyKind,
    /// Worker threads of each data plane (`proxyConfig.concurrency`).
    pub concurrency: NonZeroU16,
    /// Sidecars write an access log (`accessLogFile`). Without one no path can be followed through a sidecar.
    pub access_log: bool,
    /// The IP families of pods and services that name none.
    pub ip_families: IpFamilies,
}

/// What happens to traffic to hosts that no service names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboundTrafficPolicy {
    /// It passes through (`PassthroughCluster`).
    AllowAny,
    /// It is refused (`BlackHoleCluster`).
    RegistryOnly,
}

/// Which program is the sidecar's data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProxyKind {
    /// The one in this workspace.
    Builtin,
    /// Envoy, as it is installed on this machine.
    Envoy,
}

impl ProxyKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Builtin, Self::Envoy];

    /// As a scenario names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Envoy => "envoy",
        }
    }
}

/// How the inbound cluster reaches the app: two generations of Istio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundCluster {
    /// To the original destination (the pod's address), from 127.0.0.6 (Istio 1.10 and later). `inbound: pod-ip`.
    PodIp,
    /// To 127.0.0.1 with no source address of its own (the articles of 2018, up to Istio 1.9). `inbound: localhost`.
    Localhost,
}

/// A Kubernetes service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its short name; `NAME.default.svc.cluster.local` is its host.
    pub name: String,
    /// At least one port.
    pub ports: Vec<ServicePort>,
    /// Labels that its pods carry, all of them.
    pub selector: BTreeMap<String, String>,
    /// It is not there until a step applies it.
    pub held: bool,
    /// Of which families it has an address.
    pub ip_families: IpFamilies,
}

/// A port of a service.
#[derive(Debug, Clone)]
pub struct ServicePort {
    /// Port name; its prefix tells the protocol (`http-web`, `tcp-mysql`), as in Istio.
    pub name: String,
    /// The service's port.
    pub port: NonZeroU16,
    /// The pod's port.
    pub target_port: NonZeroU16,
    /// What the sidecars make of it.
    pub protocol: Protocol,
}

/// The protocol of a service port, by `appProtocol` or the prefix of the port's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge, or gRPC.
    Http2,
    /// Plain TCP: no sniffing.
    Tcp,
    /// Neither declared: the sidecar sniffs.
    Unknown,
}

/// Subsets of a service's pods by label (Istio `DestinationRule`).
#[derive(Debug, Clone)]
pub struct DestinationRule {
    /// What steps call it.
    pub name: String,
    /// Index into [`Scenario::services`].
    pub service: usize,
    /// Subset name and the labels that select it.
    pub subsets: Vec<(String, BTreeMap<String, String>)>,
}

/// HTTP routes to a service (Istio `VirtualService`).
#[derive(Debug, Clone)]
pub struct VirtualService {
    /// What steps call it; one with several hosts stands here once for each.
    pub name: String,
    /// Index into [`Scenario::services`]: the host whose traffic is routed.
    pub service: usize,
    /// Routes, the first match wins.
    pub http: Vec<HttpRoute>,
}

/// One HTTP route.
#[derive(Debug, Clone)]
pub struct HttpRoute {
    /// Any of these; empty = everything.
    pub matches: Vec<HttpMatch>,
    /// Where it goes.
    pub destinations: Vec<WeightedDestination>,
    /// Whole-request timeout; none = no limit, as in Istio.
    pub timeout: Option<Duration>,
    /// Attempts after the first; none = the mesh's.
    pub retries: Option<u32>,
    /// Answer at once with this status and body instead of routing (`directResponse`).
    pub direct_response: Option<(u16, String)>,
}

/// All of these must hold.
#[derive(Debug, Clone, Default)]
pub struct HttpMatch {
    /// The path.
    pub uri: Option<StringMatch>,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
}

/// How a string is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// The whole string.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// The whole string, by a regular expression (RE2 syntax).
    Regex(String),
}

/// A share of the traffic of a route.
#[derive(Debug, Clone)]
pub struct WeightedDestination {
    /// Index into [`Scenario::services`].
    pub service: usize,
    /// A subset of that service, by name (checked to exist).
    pub subset: Option<String>,
    /// The service's port; none = the port that was asked for.
    pub port: Option<NonZeroU16>,
    /// The weight, of the sum of weights.
    pub weight: u32,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name, a DNS label.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its sidecar, or none (`sidecar: false`, or annotation/label `sidecar.istio.io/inject: "false"`).
    pub sidecar: Option<Sidecar>,
    /// Rules of the user's own in the place of Istio's; a pod without a sidecar may have them too.
    pub custom_rules: Option<CustomRules>,
    /// Containers, at least one; init containers come after the pod's own.
    pub containers: Vec<Container>,
    /// Gates that start closed.
    pub hold: Vec<Gate>,
    /// `securityContext.sysctls`, of its network namespace.
    pub sysctls: Vec<(String, String)>,
    /// Of which families it has an address.
    pub ip_families: IpFamilies,
    /// How it lives.
    pub life: PodLife,
}

/// What a pod's sidecar is like.
#[derive(Debug, Clone)]
pub struct Sidecar {
    /// Which data plane.
    pub proxy: ProxyKind,
    /// The interception rules' options, mesh, pod and annotations merged.
    pub interception: Interception,
    /// Whether rules are installed at all (`mode: NONE` = not).
    pub intercept: bool,
    /// Who agent and data plane run as: 1337, or 0 in mode TPROXY, as Istio's injector has it, unless a container
    /// `istio-proxy` says otherwise.
    pub run_as_user: u32,
    /// Their group.
    pub run_as_group: u32,
    /// A change of its rules, by its number among all that there are (`lab rules mutate`).
    pub mutation: Option<usize>,
    /// How it lives.
    pub life: ProxyLife,
}

impl Sidecar {
    /// Its agent answers DNS.
    pub fn captures_dns(&self) -> bool {
        match self.interception.dns {
            DnsCapture::Off | DnsCapture::NoServers => false,
            DnsCapture::Servers(_) | DnsCapture::All => true,
        }
    }
}

/// A container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name, the role in a path.
    pub name: String,
    /// What it runs.
    pub workload: Workload,
    /// `securityContext.runAsUser`, 1000 if none.
    pub run_as_user: u32,
    /// `securityContext.runAsGroup`, as the user if none.
    pub run_as_group: u32,
    /// `securityContext.supplementalGroups`.
    pub supplemental_groups: Vec<u32>,
    /// Environment, beyond the lab's own.
    pub env: Vec<(String, String)>,
    /// Which list it stands in.
    pub kind: ContainerKind,
    /// Its probes and hooks.
    pub life: ContainerLife,
}

/// What a container runs.
#[derive(Debug, Clone)]
pub enum Workload {
    /// Nothing but a place to send requests from.
    Idle,
    /// The built-in workload.
    App(App),
    /// A program that is installed on this machine, with its arguments.
    Command(Vec<String>),
}

/// The built-in workload: what it listens on and what it calls.
#[derive(Debug, Clone)]
pub struct App {
    /// The kind of server and its port.
    pub listen: Listen,
    /// Address to bind; none = every address of the pod.
    pub bind: Option<std::net::IpAddr>,
    /// URLs called on every request that no route takes (HTTP servers only).
    pub calls: Vec<String>,
    /// Answers by exact path (before `?`).
    pub routes: BTreeMap<String, AppRoute>,
    /// URLs called once before it listens; it ends with status 1 if one of them fails.
    pub at_start: Vec<String>,
    /// URLs called on SIGTERM, before it ends; with status 1 if one of them fails.
    pub at_stop: Vec<String>,
    /// It ends well as soon as its calls at the start are done, as a job does.
    pub exits: bool,
}

/// What a built-in workload listens for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// HTTP/1.1 and HTTP/2 with prior knowledge.
    Http(NonZeroU16),
    /// TCP: answers each line with itself (echo).
    Tcp(NonZeroU16),
    /// TCP that greets first, as `MySQL` and SMTP do.
    TcpServerFirst(NonZeroU16),
    /// HTTP/1 by hand: what came is told byte for byte, what is answered is written byte for byte.
    RawHttp(NonZeroU16),
}

impl Listen {
    /// Its port.
    pub const fn port(self) -> NonZeroU16 {
        match self {
            Self::Http(port) | Self::Tcp(port) | Self::TcpServerFirst(port) | Self::RawHttp(port) => port,
        }
    }
}

/// What a built-in HTTP workload does for one path.
#[derive(Debug, Clone, Default)]
pub struct AppRoute {
    /// The status of its answer, 200 if none.
    pub status: Option<u16>,
    /// The body of its answer; none = a JSON description of pod, container, path, and what the calls returned.
    pub body: Option<String>,
    /// URLs called first, one after another.
    pub calls: Vec<String>,
    /// What is written instead of an answer, byte for byte (`rawHttp` alone).
    pub raw: Option<Raw>,
}

/// An answer that is written as it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// What is written, and when.
    pub pieces: Vec<Piece>,
    /// What happens to the connection then.
    pub then: Then,
    /// It is written before the request's body is read.
    pub early: bool,
}

/// What a server does to a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It awaits the next request.
    Keep,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// Something of a pod's life that can be held and released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// The interception rules are installed.
    Rules,
    /// The agent is started.
    Agent,
    /// The data plane is started by the agent.
    Sidecar,
    /// istiod answers this pod's sidecar for one xDS type.
    Xds(XdsType),
    /// The container is started.
    Container(ContainerId),
    /// A built-in app begins to listen.
    Listen(ContainerId),
    /// A built-in app that got SIGTERM makes its last calls and ends.
    Exit(ContainerId),
    /// What others are told of the pod's readiness.
    Endpoints,
}

/// An xDS resource type, as gates name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum XdsType {
    /// Clusters.
    Cds,
    /// Endpoints.
    Eds,
    /// Listeners.
    Lds,
    /// Routes.
    Rds,
    /// Names, for the agent's DNS.
    Nds,
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name; `step N` if the file gives none.
    pub name: String,
    /// Where the file has it.
    pub location: Location,
    /// What is done.
    pub action: Action,
    /// What must be seen.
    pub expect: Expect,
    /// What a published explanation says, shown beside what the kernel reported.
    pub article: Option<String>,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// One request.
    Request(Request),
    /// Run a program in a container and wait for its end.
    Exec {
        /// Where.
        from: Actor,
        /// Program and arguments.
        command: Vec<String>,
        /// How long it may take.
        timeout: Duration,
    },
    /// Close gates.
    Hold(PodId, Vec<Gate>),
    /// Open gates, and wait until what they held has happened.
    Release(PodId, Vec<Gate>),
    /// Start what was stopped.
    Start(Target),
    /// SIGTERM, then SIGKILL after the grace period; waits for the end.
    Stop(Target),
    /// A signal, SIGKILL if none is given; waits for the end if the signal ends it.
    Kill(Target, i32),
    /// Stop it, and start it.
    Restart(Target),
    /// SIGSTOP: it keeps its sockets and does nothing.
    Freeze(Target),
    /// SIGCONT.
    Thaw(Target),
    /// Kubernetes deletes the pod: returns when the endpoints are told; the rest takes its course.
    Delete(PodId),
    /// One probe of a container, as kubelet sends it.
    Probe {
        /// The pod.
        pod: PodId,
        /// Whose.
        container: ContainerId,
        /// Which.
        kind: ProbeKind,
    },
    /// An object is there from now on, in the place of what it was before.
    Apply(Object),
    /// An object is there no more.
    Withdraw(ObjectName),
    /// Stops istiod, or starts it again.
    Istiod(Power),
    /// Takes a pod's link down, or up again.
    Link(PodId, Power),
    /// Delays and drops what goes to a pod.
    Netem(PodId, Impairment),
    /// A segment of an open connection, out of its window, sent from where the connection was opened.
    InvalidSegment {
        /// Who opened it.
        from: Target,
        /// The port that it was opened to.
        port: NonZeroU16,
    },
    /// The pod's rules are installed once more, as when istio-init runs again.
    Rules {
        /// Whose.
        pod: PodId,
        /// How.
        mode: RulesRerun,
    },
    /// Wait for an event.
    Wait {
        /// Which.
        event: Event,
        /// How long at most.
        timeout: Duration,
    },
    /// All at once.
    Parallel(Vec<Step>),
    /// The same again and again; every round is held to the steps' expectations.
    Repeat {
        /// How often.
        times: u32,
        /// What.
        steps: Vec<Step>,
    },
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// It works.
    Up,
    /// It does not.
    Down,
}

/// How istio-init treats rules that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RulesRerun {
    /// It looks first, and does nothing if they are what it would install (Istio 1.24 and later).
    Verify,
    /// It installs them without looking, and fails (earlier).
    Blindly,
}

/// What a link does to packets (`netem`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Impairment {
    /// Each is late by this.
    pub delay: Duration,
    /// More or less by this.
    pub jitter: Duration,
    /// This share of them is lost, 0 to 1.
    pub loss: f64,
}

/// A process of a pod that steps act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The pod.
    pub pod: PodId,
    /// Which of its processes.
    pub process: ProcessName,
}

/// A process of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProcessName {
    /// A container's.
    Container(ContainerId),
    /// The data plane.
    Sidecar,
    /// The agent.
    Agent,
}

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Its pod and the process as which it is sent.
    pub target: Target,
    /// Another user than that process's (`asUser`).
    pub user: Option<u32>,
    /// Another group than that process's (`asGroup`).
    pub group: Option<u32>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who sends it.
    pub from: Actor,
    /// What is sent, and where to.
    pub kind: RequestKind,
    /// How long it may take.
    pub timeout: Duration,
    /// Names stand for addresses of this family alone; none = as the pod's families have it.
    pub ip_family: Option<IpFamily>,
}

/// What is sent, and where to.
#[derive(Debug, Clone)]
pub enum RequestKind {
    /// HTTP.
    Http {
        /// GET if none is given.
        method: String,
        /// `http://HOST[:PORT]/PATH`. HOST is a name that DNS answers, an address, or `${POD.ip}` / `${self.ip}`
        /// (left in the text here: addresses are given by the plan).
        url: String,
        /// Headers, in order.
        headers: Vec<(String, String)>,
        /// The body.
        body: Body,
        /// In chunks, without a length, even if the length is known.
        chunked: bool,
        /// Trailers, in order.
        trailers: Vec<(String, String)>,
        /// HTTP/2 with prior knowledge instead of HTTP/1.1.
        http2: bool,
        /// The pod whose metrics are fetched, if this is a `scrape` step.
        scrape_of: Option<PodId>,
    },
    /// TCP: connect, send, read.
    Tcp {
        /// `HOST:PORT`, HOST as in a URL.
        address: String,
        /// What is sent and read.
        exchange: Exchange,
    },
    /// A DNS query for an A record, or an AAAA record in a pod that has IPv6 alone.
    Dns {
        /// The name.
        name: String,
        /// Who is asked, `ADDRESS` or `ADDRESS:PORT`; none = the pod's resolver.
        server: Option<String>,
        /// TCP instead of UDP.
        tcp: bool,
    },
}

/// The body of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    Empty,
    /// This text.
    Text(String),
    /// So many bytes of the lab's own pattern.
    Generated(u64),
}

/// What happens on a raw connection, from its opening to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What is sent, piece by piece; empty = only listen.
    pub send: Vec<Piece>,
    /// A FIN follows the last piece.
    pub half_close: bool,
    /// How long it is read.
    pub read: Read,
    /// Read slowly, with a small receive buffer; none = as it comes.
    pub slowly: Option<Slowly>,
}

/// A piece of what is sent on a raw connection, or what comes between two pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// This text, in one write.
    Text(String),
    /// These bytes, in one write.
    Raw(Vec<u8>),
    /// So many bytes of the lab's own pattern.
    Generated(u64),
    /// Nothing, until this text has come since the last `await`.
    Await(String),
    /// Until these bytes have come.
    AwaitRaw(Vec<u8>),
    /// Nothing, for so long.
    Pause(Duration),
}

/// How long a raw connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Until the first bytes, or the end.
    First,
    /// Until the peer ends it.
    End,
    /// Not beyond what was awaited.
    Nothing,
}

/// A pace of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowly {
    /// At most so many bytes at a time.
    pub bytes: u32,
    /// The pause after each read.
    pub every: Duration,
}

/// An event that a step can wait for.
#[derive(Debug, Clone)]
pub enum Event {
    /// The pod's sidecar is ready (15021), its containers are started, and their probes hold.
    Ready(PodId),
    /// The pod is not ready, and everybody knows.
    NotReady(PodId),
    /// A process runs.
    Started(Target),
    /// The pod is in this phase.
    Phase(PodId, Phase),
    /// The pod was deleted, and nothing of it runs any more.
    Terminated(PodId),
    /// This happened to the pod, at any time since it was made.
    Happened(PodId, String),
    /// A process has ended.
    Exited(Target),
    /// A connection from this process to this port was seen, at any time since the pod was made.
    Connection {
        /// Who opened it.
        from: Target,
        /// The destination port as the client asked for it.
        port: NonZeroU16,
    },
}

/// What must be seen. An absent field asks nothing.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// How the request ended: one of these; empty = nothing is asked.
    pub outcome: Vec<Outcome>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// Response flags of the outermost sidecar's access log, as a set (`UF,URX`); `-` = none.
    pub response_flags: Option<String>,
    /// The body.
    pub body: Option<BodyMatch>,
    /// Response headers by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
    /// Exit code of an `exec` step, 0 if none is given.
    pub exit_code: Option<i32>,
    /// Exactly these legs of that pod, in order.
    pub path: Vec<(PodId, Vec<LegPattern>)>,
    /// These hops in this order somewhere in a leg of that pod: each list in some leg.
    pub contains: Vec<(PodId, Vec<Vec<HopPattern>>)>,
    /// None of these hops in any leg of that pod.
    pub never: Vec<(PodId, Vec<HopPattern>)>,
    /// Try again until all holds, at most this long.
    pub eventually: Option<Duration>,
    /// Phases of pods.
    pub phase: Vec<(PodId, Phase)>,
    /// Readiness of pods.
    pub ready: Vec<(PodId, bool)>,
    /// How often containers were started again.
    pub restarts: Vec<(Target, Restarts)>,
    /// These events of that pod, in this order, others between them.
    pub events: Vec<(PodId, Vec<String>)>,
    /// None of these events of that pod.
    pub never_events: Vec<(PodId, Vec<String>)>,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarts {
    /// Just so often.
    Exactly(u32),
    /// So often or more.
    AtLeast(u32),
}

/// How a body is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyMatch {
    /// The whole body (one final newline aside).
    Exact(String),
    /// A part of it.
    Contains(String),
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An HTTP response, a DNS answer, bytes over TCP, or an `exec` that ended.
    Ok,
    /// ECONNREFUSED.
    ConnectionRefused,
    /// ECONNRESET or EPIPE.
    ConnectionReset,
    /// The peer closed before it answered.
    ConnectionClosed,
    /// No answer in time.
    Timeout,
    /// ENETUNREACH or EHOSTUNREACH.
    Unreachable,
    /// The name does not resolve.
    NoSuchHost,
    /// An answer that is not the protocol's.
    ProtocolError,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::ConnectionRefused,
        Self::ConnectionReset,
        Self::ConnectionClosed,
        Self::Timeout,
        Self::Unreachable,
        Self::NoSuchHost,
        Self::ProtocolError,
    ];

    /// As scenario files and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ConnectionRefused => "connection-refused",
            Self::ConnectionReset => "connection-reset",
            Self::ConnectionClosed => "connection-closed",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::NoSuchHost => "no-such-host",
            Self::ProtocolError => "protocol-error",
        }
    }
}

impl Scenario {
    /// The pod of this id.
    pub fn pod(&self, id: PodId) -> &Pod {
        &self.pods[id.0]
    }

    /// True if a step installs this pod's rules a second time.
    pub fn reruns_rules(&self, id: PodId) -> bool {
        fn within(steps: &[Step], id: PodId) -> bool {
            steps.iter().any(|step| {
                if let Action::Rules { pod, .. } = &step.action {
                    return *pod == id;
                }
                if let Action::Parallel(inner) | Action::Repeat { steps: inner, .. } = &step.action {
                    return within(inner, id);
                }
                false
            })
        }
        within(&self.steps, id)
    }

    /// The files that it names: texts by names.
    pub fn files(&self) -> BTreeMap<String, String> {
        let rules = self.pods.iter().filter_map(|pod| pod.custom_rules.as_ref());
        rules
            .map(|rules| (rules.file.clone(), rules.text.clone()))
            .collect()
    }

    /// All pods with their ids.
    pub fn pods_with_ids(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.pods
            .iter()
            .enumerate()
            .map(|(index, pod)| (PodId(index), pod))
    }

    /// Makes this the data plane of every sidecar.
    pub fn run_by(&mut self, proxy: ProxyKind) {
        self.mesh.proxy = proxy;
        for sidecar in self.pods.iter_mut().filter_map(|pod| pod.sidecar.as_mut()) {
            sidecar.proxy = proxy;
        }
    }

    /// True if some sidecar's data plane is this.
    pub fn has(&self, proxy: ProxyKind) -> bool {
        let mut sidecars = self.pods.iter().filter_map(|pod| pod.sidecar.as_ref());
        sidecars.any(|sidecar| sidecar.proxy == proxy)
    }
}

impl Pod {
    /// Whether interception rules are installed in it.
    pub fn has_rules(&self) -> bool {
        self.custom_rules.is_some() || self.sidecar.as_ref().is_some_and(|sidecar| sidecar.intercept)
    }

    /// The tool that loads its rules, if it has any.
    pub fn backend(&self) -> Option<Backend> {
        let sidecar = self.sidecar.as_ref().filter(|sidecar| sidecar.intercept);
        let custom = self.custom_rules.as_ref().map(|rules| rules.backend);
        custom.or_else(|| sidecar.map(|sidecar| sidecar.interception.backend))
    }

    /// The container of this id.
    pub fn container(&self, id: ContainerId) -> &Container {
        &self.containers[id.0]
    }

    /// All containers with their ids.
    pub fn containers_with_ids(&self) -> impl Iterator<Item = (ContainerId, &Container)> {
        self.containers
            .iter()
            .enumerate()
            .map(|(index, container)| (ContainerId(index), container))
    }

    /// The name of one of its processes, as a path's role.
    pub fn role(&self, process: ProcessName) -> &str {
        match process {
            ProcessName::Container(id) => &self.container(id).name,
            ProcessName::Sidecar => "sidecar",
            ProcessName::Agent => "agent",
        }
    }
}

impl PodId {
    /// Its index in [`Scenario::pods`].
    pub const fn index(self) -> usize {
        self.0
    }
}

impl ContainerId {
    /// Its index in [`Pod::containers`].
    pub const fn index(self) -> usize {
        self.0
    }
}
