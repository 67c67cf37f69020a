//! What Istio's interception rules are: options, rules, rendering. Pure but for `apply`.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod apply;
pub mod generate;
pub mod kube_proxy;
pub mod options;
pub mod raw;
pub mod render;
pub mod rule;
pub mod ruleset;
