//! What Istio's interception rules are: options, rules, rendering. Pure but for `apply`.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod options;
pub mod raw;
pub mod rule;
pub mod ruleset;

pub mod generate;
pub mod kube_proxy;
pub mod render;

pub mod apply;
