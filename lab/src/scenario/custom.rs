//! `customRules`: a file of the user's own rules in the place of the generated ones, and where such files come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use iptables::options::Backend;
use iptables::parse::save;
use iptables::ruleset::Family;

use super::fields::{At, Reader};

/// The longest file that is read.
const LONGEST: u64 = 1 << 20;

/// Rules that a user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomRules {
    /// The file, as the scenario names it.
    pub file: String,
    /// What it holds.
    pub text: String,
    /// Whose text it is: `iptables-restore`'s or `nft`'s.
    pub backend: Backend,
}

/// Where the files are that a scenario names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    /// Nowhere: a text alone is read.
    Nowhere,
    /// Named from this directory on.
    In(PathBuf),
    /// They were read before: texts by the names that the scenario has for them.
    Read(BTreeMap<String, String>),
}

impl Files {
    /// Those beside a scenario's file.
    pub fn beside(scenario: &Path) -> Self {
        Self::In(scenario.parent().unwrap_or(Path::new("")).to_owned())
    }

    /// The text of one, or why it cannot be had.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        match self {
            Self::Nowhere => Err("there are no files beside this text".to_owned()),
            Self::Read(texts) => texts
                .get(name)
                .cloned()
                .ok_or_else(|| "it was not read".to_owned()),
            Self::In(directory) => text(&directory.join(name)),
        }
    }
}

fn text(path: &Path) -> Result<String, String> {
    let said = |error: std::io::Error| format!("{}: {error}", path.display());
    let metadata = std::fs::metadata(path).map_err(said)?;
    if !metadata.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    if metadata.len() > LONGEST {
        return Err(format!("{} has more than 1 MiB", path.display()));
    }
    std::fs::read_to_string(path).map_err(said)
}

/// Reads such a file, and finds what is wrong with it as far as that can be said without the tool.
pub(super) fn read(reader: &Reader<'_>, at: &At<'_>, file: &str, backend: Backend) -> Option<CustomRules> {
    let wrong = |what: &str, help: &str| reader.wrong(at, &format!("customRules: {what}"), help);
    let text = match reader.file(file) {
        Ok(text) => text,
        Err(why) => {
            wrong(&why, "name a file, by its path from the scenario's directory");
            return None;
        }
    };
    let mistakes = match backend {
        Backend::Iptables => of_restore(&text),
        Backend::Nftables => of_nft(&text),
    };
    for (line, what, help) in &mistakes {
        wrong(&format!("{file}:{line}: {what}"), help);
    }
    mistakes.is_empty().then(|| CustomRules {
        file: file.to_owned(),
        text,
        backend,
    })
}

/// The line, what is wrong, what would be right.
type Mistake = (usize, String, String);

fn of_restore(text: &str) -> Vec<Mistake> {
    match save::parse(text, Family::V4) {
        Ok(parsed) if parsed.ruleset.recorded(Family::V4).is_empty() && parsed.unknown.is_empty() => vec![(
            1,
            "not one rule".to_owned(),
            "write what iptables-save prints: `*nat`, rules that begin with `-A CHAIN`, `COMMIT`".to_owned(),
        )],
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes
            .into_iter()
            .map(|it| (it.line, format!("`{}`: {}", it.text, it.reason), String::new()))
            .collect(),
    }
}

/// Only what would blind the lab, or be nothing: the rest is the tool's to say.
fn of_nft(text: &str) -> Vec<Mistake> {
    let lines = || {
        let bare = |line: &str| line.split('#').next().unwrap_or_default().to_owned();
        text.lines().map(bare).enumerate()
    };
    let mut mistakes: Vec<Mistake> = Vec::new();
    for (index, line) in lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words
            .windows(2)
            .any(|pair| matches!(pair, ["flush", second] if second.starts_with("ruleset")))
        {
            mistakes.push((
                index + 1,
                "`flush ruleset` would remove the table by which the lab observes".to_owned(),
                "write `flush table FAMILY NAME` of your own tables; the pod's namespace is empty before"
                    .to_owned(),
            ));
        }
        if line.contains("lab_trace") {
            mistakes.push((
                index + 1,
                "`lab_trace` is the table by which the lab observes".to_owned(),
                "choose another name".to_owned(),
            ));
        }
    }
    if lines().all(|(_, line)| line.trim().is_empty()) {
        mistakes.push((
            1,
            "not one rule".to_owned(),
            "write what `nft -f` reads: `table inet NAME { chain … }`".to_owned(),
        ));
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mistakes: &[Mistake], expected: &[(usize, &str)]) {
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:?}");
        for ((line, what, _), (want_line, want)) in mistakes.iter().zip(expected) {
            assert!(line == want_line && what.contains(want), "{mistakes:?}");
        }
    }

    #[test]
    fn what_iptables_restore_would_not_read_is_told_by_line() {
        check(&of_restore("*nat\n-A OUTPUT -j RETURN\nCOMMIT\n"), &[]);
        check(
            &of_restore("*nat\n-A OUTPUT -j RETURN\nnonsense\n"),
            &[(3, "nonsense"), (3, "COMMIT")],
        );
        check(&of_restore("# nothing\n"), &[(1, "not one rule")]);
        check(&of_restore("-A OUTPUT -j RETURN\n"), &[(1, "before any table")]);
    }

    #[test]
    fn nft_text_may_not_blind_the_lab() {
        check(&of_nft("table inet mine {\n}\n"), &[]);
        check(&of_nft("# flush ruleset\ntable inet mine {\n}\n"), &[]);
        check(&of_nft("flush  ruleset;\n"), &[(1, "flush ruleset")]);
        check(&of_nft("\ndelete table inet lab_trace\n"), &[(2, "lab_trace")]);
        check(&of_nft("\n"), &[(1, "not one rule")]);
    }
}
