//! What the host side tells the world process: one JSON document on the control socket.

use serde::{Deserialize, Serialize};

/// A scenario to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// The file, as it was named on the command line.
    pub file: String,
    /// Its text, as it was read and checked.
    pub text: String,
    /// Only the steps whose names contain one of these; all if empty.
    pub only: Vec<String>,
    /// The text is a race, and its events come in this order.
    #[serde(default)]
    pub order: Option<Vec<usize>>,
}
