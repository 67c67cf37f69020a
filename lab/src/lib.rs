//! The lab: a service mesh on one machine, out of network namespaces, with the paths that the kernel reported.
//!
//! ARCHITECTURE.md is the map. Modules stand here in reading order; each may use those above it.

pub mod causes;
pub mod path;
pub mod within;

pub mod sys;

pub mod scenario;

pub mod plan;

pub mod net;
pub mod world;

pub mod dns;

pub mod app;
pub mod client;
pub mod istiod;

pub mod race;

pub mod observe;

pub mod verdict;

pub mod engine;

pub mod report;

pub mod exit;

pub mod cmd;
