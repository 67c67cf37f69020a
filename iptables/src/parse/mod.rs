//! A tool's output as a ruleset.

pub mod save;
mod words;
