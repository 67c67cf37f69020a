//! What Istio's interception rules are: options, rules, rendering. Pure but for `apply`.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod apply;
pub mod diff;
pub mod evaluate;
pub mod explain;
pub mod generate;
pub mod kube_proxy;
pub mod mutate;
pub mod options;
pub mod packet;
pub mod parse;
pub mod raw;
pub mod reach;
pub mod reconcile;
pub mod render;
pub mod rule;
pub mod ruleset;
