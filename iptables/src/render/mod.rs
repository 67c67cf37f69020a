//! A ruleset as the text that a tool loads.

pub mod restore;
