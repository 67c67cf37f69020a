//! The sidecar: an agent (pilot-agent's part) and a data plane (Envoy's part) that lives on xDS v3 alone.

pub mod within;

pub mod addr;
pub mod sys;

pub mod drain;

pub mod access_log;
pub mod stats;

pub mod config;

pub mod streams;
pub mod upstream;

mod lots;
mod pass;

pub mod detect;

pub mod http;
pub mod tcp;

pub mod serve;

pub mod xds;

pub mod admin;

pub mod bootstrap;

pub mod data_plane;
mod workers;

pub mod agent;

pub mod cli;
