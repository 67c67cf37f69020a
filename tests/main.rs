//! End-to-end suites: the real binary, real namespaces, real netfilter. They need root, and fail without it.

mod support;

mod exit_codes;
mod failures;
mod host_untouched;
mod scenarios;
mod usage;
mod xtables_monitor;
