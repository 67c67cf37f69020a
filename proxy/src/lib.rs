//! The sidecar: an agent (pilot-agent's part) and a data plane (Envoy's part) that lives on xDS v3 alone.

pub mod access_log;
pub mod addr;
pub mod admin;
pub mod agent;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod data_plane;
pub mod detect;
pub mod http;
pub mod serve;
pub mod stats;
pub mod sys;
pub mod tcp;
pub mod upstream;
pub mod within;
pub mod xds;
