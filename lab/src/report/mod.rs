//! What a person or a program reads of a run: one [`ScenarioReport`] per file, rendered by the modules below.
//!
//! The world process sends these over its control socket as it goes, so they have a wire shape.

pub mod coverage;
pub mod human;
pub mod json;
pub mod mutate;
pub mod race;
pub mod terminal;

use serde::{Deserialize, Serialize};

use crate::exit::Exit;

/// How a step or a scenario ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything that was expected was observed.
    Pass,
    /// Something else was observed.
    Fail,
    /// Something could not be observed; never a pass.
    Unobserved,
    /// The lab could not do what the step asks.
    Error,
}

/// A whole scenario file, run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// The scenario's name.
    pub name: String,
    /// The file, as it was named.
    pub file: String,
    /// What the sidecars' data planes are.
    pub proxies: Vec<ProxyReport>,
    /// What was done first: pods, rules, sidecars, until all was ready; seconds. None if it never was.
    pub up_seconds: Option<f64>,
    /// From start to the last thing torn down, seconds.
    pub seconds: f64,
    /// Steps in order, those that were run.
    pub steps: Vec<StepReport>,
    /// Why the lab itself failed, if it did.
    pub error: Option<LabError>,
    /// The rules that the kernel had in each pod after the last step, if they were asked for.
    #[serde(default)]
    pub rules: Vec<PodRules>,
}

/// The interception rules of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRules {
    /// The pod.
    pub pod: String,
    /// `iptables` or `nftables`.
    pub backend: String,
    /// In the order of chains and rules in which the tool lists them.
    pub rules: Vec<RuleReport>,
}

/// A rule that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// Its table's family, as nft names it.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// The rule, as its tool lists it.
    pub text: String,
}

/// A kind of data plane that sidecars of a scenario run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyReport {
    /// `builtin` or `envoy`.
    pub kind: String,
    /// Its version.
    pub version: String,
}

/// Why the lab itself failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabError {
    /// The machine lacks something (exit 3); else the lab failed (exit 4).
    pub machine: bool,
    /// Something that the user wrote cannot be (exit 2).
    #[serde(default)]
    pub mistake: bool,
    /// What failed, each cause on a line of its own.
    pub message: String,
}

/// One step, run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub result: Outcome,
    /// How long it took.
    pub seconds: f64,
    /// Line of the file, from 1.
    pub line: usize,
    /// Column of the file, from 1.
    pub column: usize,
    /// How its request ended, in the scenario's words.
    pub outcome: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// Response flags of the outermost sidecar.
    pub flags: Option<String>,
    /// The legs that were observed, in the order in which the request went.
    pub path: Vec<LegReport>,
    /// What was expected and did not hold.
    pub findings: Vec<FindingReport>,
    /// What a published explanation says.
    pub article: Option<String>,
    /// Anything more to say: why it could not be observed, what a program printed.
    pub notes: Vec<String>,
    /// What its request got, if it was one.
    pub answer: Option<AnswerReport>,
    /// The steps inside a `parallel` or `repeat`, each round of them.
    pub inner: Vec<StepReport>,
}

#[cfg(test)]
impl StepReport {
    /// A step that ended so, and nothing else of it.
    pub(crate) fn bare(name: &str, result: Outcome) -> Self {
        Self {
            name: name.to_owned(),
            result,
            seconds: 0.0,
            line: 1,
            column: 1,
            outcome: None,
            status: None,
            flags: None,
            path: Vec::new(),
            findings: Vec::new(),
            article: None,
            notes: Vec::new(),
            answer: None,
            inner: Vec::new(),
        }
    }
}

/// What a request got, whole, and what the sidecars along its way logged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerReport {
    /// Words for an outcome other than `ok`.
    pub error: Option<String>,
    /// Response headers, in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; none if it is too long to be shown.
    pub body: Option<String>,
    /// The same in hexadecimal, if it is no UTF-8.
    pub body_hex: Option<String>,
    /// The length of the whole body.
    pub body_length: u64,
    /// SHA-256 of the whole body, in hexadecimal.
    pub body_sha256: String,
    /// Trailers, in order.
    pub trailers: Vec<(String, String)>,
    /// How the peer ended a raw connection: `fin` or `rst`.
    pub end: Option<String>,
    /// From the first packet to the last, by the client's clock; seconds.
    pub seconds: f64,
    /// The access-log entries along the way, in order.
    pub access_log: Vec<LogReport>,
}

/// One entry of a sidecar's access log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// The sidecar's pod.
    pub pod: String,
    /// All fields, as they were logged.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// One leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegReport {
    /// The pod that saw it.
    pub pod: String,
    /// True if an earlier request opened it.
    pub reused: bool,
    /// All hops, those that the text leaves out as well.
    pub hops: Vec<HopReport>,
    /// The leg in path notation.
    pub text: String,
}

/// One hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopReport {
    /// `hook`, `rule`, `socket` or `end`.
    pub kind: String,
    /// The hop in path notation.
    pub name: String,
    /// The family of a rule's table, as nft names it: `ip`, `ip6` or `inet`.
    #[serde(default)]
    pub family: Option<String>,
    /// The table of a rule.
    pub table: Option<String>,
    /// The chain of a rule.
    pub chain: Option<String>,
    /// The position of a rule in its chain, from 1.
    pub rule: Option<u16>,
    /// What the rule decided, in lower case.
    pub verdict: Option<String>,
    /// The role of a socket's owner.
    pub role: Option<String>,
    /// The port of a socket or refusal.
    pub port: Option<u16>,
    /// The process that owns a socket.
    pub pid: Option<u32>,
    /// True if the notation leaves this hop out.
    pub hidden: bool,
}

/// One thing that was expected and did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingReport {
    /// What it is about: `status`, `path of reviews-v1`…
    pub what: String,
    /// As the scenario has it, one line or leg each.
    pub expected: Vec<String>,
    /// As it was observed.
    pub observed: Vec<String>,
    /// For paths: the leg and the hop, from 0, where they first differ.
    pub differs_at: Option<(usize, usize)>,
}

/// What the world process tells its parent, one JSON document a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RunEvent {
    /// Something is under way ("waiting for sidecars").
    Progress {
        /// In a few words.
        text: String,
    },
    /// All is ready for the first step.
    Up {
        /// How long that took.
        seconds: f64,
    },
    /// A step has begun.
    StepStarted {
        /// Its name.
        name: String,
    },
    /// A step has ended.
    StepEnded {
        /// What was seen.
        step: Box<StepReport>,
    },
    /// The run is over, everything is torn down.
    Ended {
        /// All of it.
        report: Box<ScenarioReport>,
    },
}

impl LabError {
    /// The lab failed.
    pub fn lab(message: String) -> Self {
        Self {
            machine: false,
            mistake: false,
            message,
        }
    }

    /// The machine lacks something.
    pub fn machine(message: String) -> Self {
        Self {
            machine: true,
            ..Self::lab(message)
        }
    }

    /// Something that the user wrote cannot be.
    pub fn mistake(message: String) -> Self {
        Self {
            mistake: true,
            ..Self::lab(message)
        }
    }

    /// The exit code that it asks for.
    pub const fn exit(&self) -> Exit {
        match (self.mistake, self.machine) {
            (true, _) => Exit::Usage,
            (false, true) => Exit::Machine,
            (false, false) => Exit::Lab,
        }
    }
}

impl ScenarioReport {
    /// The exit code that this scenario asks for.
    pub fn exit(&self) -> Exit {
        let steps = self
            .steps
            .iter()
            .fold(Exit::Held, |worst, step| worst.worse(step.result.exit()));
        match &self.error {
            None => steps,
            Some(error) => steps.worse(error.exit()),
        }
    }
}

impl Outcome {
    /// The exit code that a step with this result asks for.
    pub const fn exit(self) -> Exit {
        match self {
            Self::Pass => Exit::Held,
            Self::Fail => Exit::Failed,
            Self::Unobserved => Exit::Unobserved,
            Self::Error => Exit::Lab,
        }
    }

    /// In capitals, as the human output has it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Unobserved => "UNOBSERVED",
            Self::Error => "ERROR",
        }
    }
}
