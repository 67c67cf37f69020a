//! What all cases came to: on the terminal, in `docs/conformance.md`, and one by one for whoever mends a difference.

use crate::cases::Case;
use crate::facts::Facts;
use crate::runs::root;

/// What a case came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Everything is the same.
    Equal,
    /// Something is not, for a reason.
    Listed { reason: String },
    /// Something is not: these of the case's differences.
    Differs { facts: Vec<usize> },
    /// It is listed, and everything is the same.
    NoLonger,
}

impl Outcome {
    /// What is wrong with it, in one line or a few.
    pub(crate) fn complaint(&self, case: &Case) -> Option<String> {
        match self {
            Self::Equal | Self::Listed { .. } => None,
            Self::NoLonger => Some(format!(
                "{}: no longer differs: take it out of listed.yaml",
                case.name
            )),
            Self::Differs { facts } => {
                let lines = facts.iter().map(|index| {
                    let difference = &case.differences[*index];
                    format!(
                        "\n    {}\n      envoy    {}\n      builtin  {}",
                        difference.fact,
                        shown(&difference.envoy),
                        shown(&difference.builtin)
                    )
                });
                Some(format!("{}:{}", case.name, lines.collect::<String>()))
            }
        }
    }

    const fn word(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Listed { .. } => "listed",
            Self::Differs { .. } => "differs",
            Self::NoLonger => "no longer differs",
        }
    }
}

/// On one line, and not too long.
fn shown(text: &str) -> String {
    let text: String = text.escape_debug().take(1500).collect();
    text.replace("\\\"", "\"").replace("\\'", "'")
}

/// A line for each file.
pub(crate) fn summary(outcomes: &[(&Case, Outcome)]) -> String {
    let mut text = String::new();
    for (file, of_file) in by_file(outcomes) {
        let equal = of_file
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Equal))
            .count();
        text.push_str(&format!("{file:<28} {equal:>4} of {:>4} equal\n", of_file.len()));
    }
    text
}

fn by_file<'a>(
    outcomes: &'a [(&'a Case, Outcome)],
) -> impl Iterator<Item = (&'a str, &'a [(&'a Case, Outcome)])> {
    outcomes
        .chunk_by(|(a, _), (b, _)| a.file() == b.file())
        .map(|of_file| (of_file[0].0.file(), of_file))
}

/// `docs/conformance.md` says what was just seen, or is written if `BLESS` is set.
pub(crate) fn hold_document(outcomes: &[(&Case, Outcome)]) {
    let path = root().join("docs/conformance.md");
    let made = document(outcomes);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, made).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/conformance.md is not what was just seen: run `just conformance` with BLESS=1"
    );
}

fn document(outcomes: &[(&Case, Outcome)]) -> String {
    let count = |word: &str| {
        outcomes
            .iter()
            .filter(|(_, outcome)| outcome.word() == word)
            .count()
    };
    let mut text = format!(
        "# Conformance of the built-in data plane with Envoy\n\n\
        Written by the conformance suite (`just conformance`, with `BLESS=1`): each case ran with both data planes on the same\n\
        xDS, and everything that a user can see was compared: outcome, status, headers in order, body, trailers, how and\n\
        when the connection ended, the observed path, every field of every access-log entry.\n\n\
        {} cases: {} equal, {} differ for a reason.\n",
        outcomes.len(),
        count("equal"),
        count("listed"),
    );
    for (file, of_file) in by_file(outcomes) {
        text.push_str(&format!("\n## {file}\n\n| case | |\n| --- | --- |\n"));
        for (case, outcome) in of_file {
            let name = case
                .name
                .split_once('/')
                .map_or("", |(_, name)| name)
                .replace('|', "\\|");
            let said = match outcome {
                Outcome::Listed { reason } => format!("listed: {reason}"),
                Outcome::Equal | Outcome::Differs { .. } | Outcome::NoLonger => outcome.word().to_owned(),
            };
            text.push_str(&format!("| {name} | {said} |\n"));
        }
    }
    text
}

/// Every difference with its request, and what Envoy did, all of it.
pub(crate) fn differences(outcomes: &[(&Case, Outcome)]) -> String {
    let mut text = format!(
        "# Differences between Envoy and the built-in data plane\n\n{}\n",
        indented(&summary(outcomes))
    );
    for (case, outcome) in outcomes {
        let Outcome::Differs { facts } = outcome else {
            continue;
        };
        text.push_str(&format!("\n## {}\n\n`{}`\n\n", case.name, case.request));
        text.push_str(&format!("Envoy:\n{}\ndiffers:\n\n", list(&case.envoy)));
        for index in facts {
            let difference = &case.differences[*index];
            text.push_str(&format!(
                "- {}\n  - envoy: `{}`\n  - builtin: `{}`\n",
                difference.fact,
                shown(&difference.envoy),
                shown(&difference.builtin)
            ));
        }
    }
    text.push_str("\n# Equal\n\n");
    for (case, _) in outcomes
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Equal))
    {
        text.push_str(&format!("- {}\n", case.name));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// All facts but those that only repeat the addresses.
fn list(facts: &Facts) -> String {
    let dull = ["address", "listener", "user_agent", "authority", "upstream_host"];
    let told = facts
        .named
        .iter()
        .filter(|(name, _)| !dull.iter().any(|end| name.ends_with(end)));
    let mut text: String = told
        .map(|(name, value)| format!("- {name}: `{}`\n", shown(value)))
        .collect();
    if let Some(seconds) = facts.seconds {
        text.push_str(&format!("- seconds: {seconds:.2}\n"));
    }
    text
}
