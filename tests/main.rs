//! End-to-end suites: the real binary, real namespaces, real netfilter. They need root, and fail without it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

mod answers;
mod backends;
mod coverage;
mod custom_rules;
mod dns;
mod envoy;
mod exit_codes;
mod failures;
mod host_untouched;
mod ipv6;
mod lifecycle;
mod mutate;
mod pods;
mod races;
mod raw;
mod rules;
mod scenarios;
mod six_types;
mod tidy;
mod tproxy;
mod usage;
mod xtables_monitor;
