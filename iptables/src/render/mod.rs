//! A ruleset as text for the tools that install it.

pub mod restore;
