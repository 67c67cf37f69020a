//! Why a ruleset is not in the kernel.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a ruleset is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A group is named, and only ids are loaded.
    #[error(
        "rule `{rule}` (option {option}) names the group `{group}`: resolve group names to ids before applying"
    )]
    GroupName {
        /// The group.
        group: String,
        /// The rule.
        rule: String,
        /// Its option.
        option: &'static str,
    },
    /// The tool could not be run.
    #[error("could not {what} {}: check that the pod's namespace is there and the program runs", program.display())]
    Run {
        /// What was tried.
        what: &'static str,
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The tool refused a line; the table of that line is unchanged.
    #[error("{} refused line {line} ({status}): {said}\n  rule:   {rule}\n  option: {option}", program.display())]
    Refused {
        /// The program.
        program: PathBuf,
        /// The line, from 1.
        line: usize,
        /// How it ended.
        status: ExitStatus,
        /// Its words.
        said: String,
        /// The line's text.
        rule: String,
        /// The option that asked for it.
        option: &'static str,
    },
    /// The tool failed without naming a line.
    #[error("{} failed ({status}): {said}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// Its words.
        said: String,
    },
    /// The tool printed what is not its format.
    #[error("{} printed what could not be read:\n{}", program.display(), mistakes.join("\n"))]
    Unread {
        /// The program.
        program: PathBuf,
        /// Each line that is wrong.
        mistakes: Vec<String>,
    },
    /// Other rules are there.
    #[error("other rules are already loaded, remove them first:\n{}", difference.join("\n"))]
    Different {
        /// What the kernel has (`+`), and what it lacks (`-`), in save form.
        difference: Vec<String>,
    },
}
