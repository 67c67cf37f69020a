//! A ruleset as the text that a tool loads.

pub mod nft;
pub mod restore;
pub mod save;

use crate::rule::Rule;

/// One line of a tool's input, and the rule it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// The text, without its newline.
    pub text: String,
    /// The rule, where the line is one.
    pub rule: Option<&'a Rule>,
}

impl Line<'_> {
    pub(crate) fn bare(text: String) -> Self {
        Self { text, rule: None }
    }
}
