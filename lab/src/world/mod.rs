//! The running lab: supervisor, node, pods and their processes.

pub mod entry;
pub mod envoy;
pub mod ipv6;
pub mod node;
pub mod pod;
pub mod preflight;
pub mod process;
pub mod supervisor;
