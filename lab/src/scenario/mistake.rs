//! What is wrong with a file, and how it is told: where, the line itself, what is wrong, what would be right.

use std::io;

use anstyle::{AnsiColor, Style};

use super::model::{Location, Scenario};
use super::source::{Place, lines};

const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default().bold();
const BLUE: Style = AnsiColor::Blue.on_default().bold();

/// A scenario that can be run.
#[derive(Debug)]
pub struct Loaded {
    /// The scenario.
    pub scenario: Scenario,
    /// What is likely not meant, but can be run.
    pub warnings: Vec<Warning>,
}

/// What is likely not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(String);

/// Why a file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// It is no text that a scenario could be.
    #[error("{file} {why}")]
    NotText {
        /// The file.
        file: String,
        /// Why.
        why: String,
    },
    /// It has mistakes.
    #[error("{}", _0.render())]
    Mistakes(Mistakes),
}

/// All mistakes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes {
    file: String,
    lines: Vec<String>,
    found: Vec<Mistake>,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) place: Place,
    /// What is wrong.
    pub(super) what: String,
    /// What would be right; empty if `what` says it.
    pub(super) help: String,
}

impl LoadError {
    /// As a person reads it.
    pub fn render(&self) -> String {
        match self {
            Self::Read { .. } | Self::NotText { .. } => {
                format!("{RED}error:{RED:#} {self}; nothing was created")
            }
            Self::Mistakes(mistakes) => mistakes.render(),
        }
    }
}

impl Warning {
    /// As a person reads it.
    pub fn render(&self) -> String {
        self.0.clone()
    }
}

impl Mistakes {
    pub(super) fn new(file: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| (mistake.place.location.line, mistake.place.location.column));
        mistakes.dedup();
        Self {
            file: file.to_owned(),
            lines: lines(text).map(str::to_owned).collect(),
            found: mistakes,
        }
    }

    /// Where each is, in order.
    pub fn locations(&self) -> impl Iterator<Item = Location> {
        self.found.iter().map(|mistake| mistake.place.location)
    }

    /// As a person reads them.
    pub fn render(&self) -> String {
        let mut text: String = self
            .found
            .iter()
            .map(|it| render(&self.file, &self.lines, it, "error", RED))
            .collect();
        let number = self.found.len();
        let mistakes = if number == 1 {
            "1 mistake".to_owned()
        } else {
            format!("{number} mistakes")
        };
        text.push_str(&format!(
            "{RED}error:{RED:#} {mistakes} in {}; nothing was created",
            self.file
        ));
        text
    }
}

pub(super) fn warning(file: &str, text: &str, mistake: &Mistake) -> Warning {
    let lines: Vec<String> = lines(text).map(str::to_owned).collect();
    Warning(render(file, &lines, mistake, "warning", YELLOW))
}

fn render(file: &str, lines: &[String], mistake: &Mistake, word: &str, style: Style) -> String {
    let Location { line, column } = mistake.place.location;
    let number = line.to_string();
    let gutter = " ".repeat(number.len());
    let mut text = format!(
        "{style}{word}:{style:#} {}\n{gutter}{BLUE}-->{BLUE:#} {file}:{line}:{column}\n",
        mistake.what
    );
    if let Some(shown) = lines.get(line - 1) {
        let left = shown.chars().count().saturating_sub(column - 1).max(1);
        let mark = "^".repeat(mistake.place.width.min(left));
        text.push_str(&format!(
            "{gutter} {BLUE}|{BLUE:#}\n{BLUE}{number} |{BLUE:#} {shown}\n{gutter} {BLUE}|{BLUE:#} {}{style}{mark}{style:#}\n",
            " ".repeat(column - 1)
        ));
    }
    if !mistake.help.is_empty() {
        text.push_str(&format!("{gutter} {BLUE}={BLUE:#} help: {}\n", mistake.help));
    }
    text.push('\n');
    text
}
