//! What Istio's interception rules are: options, rules, rendering. Pure but for `apply`.
#![forbid(unsafe_code)]

pub mod options;
