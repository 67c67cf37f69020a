//! What the host side tells the world process: one JSON document on the control socket.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::report::ProxyReport;
use crate::scenario::model::ProxyKind;
use crate::scenario::mutate::Mutant;

/// A scenario to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The file, as it was named on the command line.
    pub file: String,
    /// Its text, as it was read and checked.
    pub text: String,
    /// The files that the text names, as they were read.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Only the steps whose names contain one of these; all if empty.
    pub only: Vec<String>,
    /// The data plane of every sidecar, whatever the file says.
    pub proxy: Option<ProxyKind>,
    /// The host's Envoy, if a sidecar needs it.
    pub envoy: Option<PathBuf>,
    /// The rules of the pods are reported after the last step.
    #[serde(default)]
    pub list_rules: bool,
    /// The rules of some pods are changed, and the first step that notices is the last.
    #[serde(default)]
    pub mutant: Option<Mutant>,
    /// What the sidecars' data planes are.
    pub proxies: Vec<ProxyReport>,
    /// The text is a race, and its events come in this order.
    #[serde(default)]
    pub order: Option<Vec<usize>>,
}
