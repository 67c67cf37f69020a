//! Every option of the interception rules, already valid.

/// The options of a pod's interception rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interception {}
