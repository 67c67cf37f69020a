//! Rules that a user wrote as a tool's own text: tried, loaded; and the rules that are there, whoever wrote them, one by one.

use std::ffi::OsStr;
use std::path::Path;

use super::invoke::{feed, printed, refused_by_nft, refused_line};
use super::{Error, Snapshot, Spawn, Tool, read};
use crate::render::Line;
use crate::ruleset::Family;

/// The option that names such a text.
const OPTION: &str = "customRules";

/// A rule that is there, as its tool lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The table's family, as nft names it.
    pub family: String,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// The rule without its chain.
    pub text: String,
}

/// Whether a text is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// The tool and the kernel say whether they would take it; nothing changes.
    Testing,
    /// It is loaded.
    Loading,
}

/// Gives IPv4's `iptables-restore --noflush` a user's text.
pub async fn restore_text(tool: &Tool, text: &str, doing: Doing, spawn: Spawn<'_>) -> Result<(), Error> {
    let mut arguments = vec![OsStr::new("--noflush")];
    if doing == Doing::Testing {
        arguments.push(OsStr::new("--test"));
    }
    let program = tool.restore(Family::V4);
    feed(program, &arguments, &lines(text), spawn, refused_line)
        .await
        .map_err(of_text)
}

/// Gives `nft -f` a user's text.
pub async fn nft_text(nft: &Path, text: &str, doing: Doing, spawn: Spawn<'_>) -> Result<(), Error> {
    let mut arguments = vec![OsStr::new("-f"), OsStr::new("-")];
    if doing == Doing::Testing {
        arguments.insert(0, OsStr::new("--check"));
    }
    feed(nft, &arguments, &lines(text), spawn, refused_by_nft)
        .await
        .map_err(of_text)
}

/// The rules of these families that are there, in the kernel's order.
pub async fn list(tool: &Tool, families: &[Family], spawn: Spawn<'_>) -> Result<Vec<Listed>, Error> {
    let mut rules = Vec::new();
    for &family in families {
        let name = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
            Family::Inet => "inet",
        };
        rules.extend(listed_by_save(name, &read(tool, &[family], spawn).await?));
    }
    Ok(rules)
}

fn listed_by_save(family: &str, snapshot: &Snapshot) -> Vec<Listed> {
    let (mut rules, mut table) = (Vec::new(), String::new());
    for line in &snapshot.0 {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
            rules.push(Listed {
                family: family.to_owned(),
                table: table.clone(),
                chain: chain.to_owned(),
                text: text.to_owned(),
            });
        }
    }
    rules
}

/// The rules of all tables but `except`, as `nft` lists them, in the kernel's order.
pub async fn list_nft(nft: &Path, except: &str, spawn: Spawn<'_>) -> Result<Vec<Listed>, Error> {
    let arguments = ["--stateless", "--numeric", "list", "ruleset"].map(OsStr::new);
    let mut rules = listed_by_nft(&printed(nft, &arguments, spawn).await?);
    rules.retain(|rule| rule.table != except);
    Ok(rules)
}

fn listed_by_nft(text: &str) -> Vec<Listed> {
    let (mut rules, mut table, mut chain) = (Vec::new(), ("", ""), None);
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), &chain) {
            (["table", family, name, "{"], _) => table = (*family, *name),
            (["chain", name, "{"], _) => chain = Some((*name).to_owned()),
            (["}"], _) => chain = None,
            // A base chain's hook, a chain's comment.
            (["type", _, "hook", ..] | ["comment", ..] | [], _) | (_, None) => {}
            (words, Some(chain)) => rules.push(Listed {
                family: table.0.to_owned(),
                table: table.1.to_owned(),
                chain: chain.clone(),
                text: words.join(" "),
            }),
        }
    }
    rules
}

/// The rules of all tables but `except`, to be compared with what is there later.
pub async fn read_nft(nft: &Path, except: &str, spawn: Spawn<'_>) -> Result<Snapshot, Error> {
    let rules = list_nft(nft, except, spawn).await?;
    let line = |rule: &Listed| {
        format!(
            "add rule {} {} {} {}",
            rule.family, rule.table, rule.chain, rule.text
        )
    };
    Ok(Snapshot(rules.iter().map(line).collect()))
}

fn lines(text: &str) -> Vec<Line<'static>> {
    text.lines().map(|line| Line::bare(line.to_owned())).collect()
}

fn of_text(error: Error) -> Error {
    match error {
        Error::Refused {
            program,
            line,
            status,
            said,
            rule,
            ..
        } => Error::Refused {
            program,
            line,
            status,
            said,
            rule,
            option: OPTION,
        },
        other @ (Error::GroupName { .. }
        | Error::Run { .. }
        | Error::Failed { .. }
        | Error::Unread { .. }
        | Error::Different { .. }) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rules: &[Listed]) -> Vec<String> {
        let one = |rule: &Listed| format!("{} {}|{}|{}", rule.family, rule.table, rule.chain, rule.text);
        rules.iter().map(one).collect()
    }

    #[test]
    fn what_iptables_save_lists() {
        let lines = [
            "*nat",
            ":PREROUTING ACCEPT",
            ":X -",
            "-A PREROUTING -p tcp -j X",
            "-A X -j RETURN",
            "-A X",
            "COMMIT",
        ];
        let rules = listed_by_save("ip", &Snapshot(lines.map(str::to_owned).into()));
        assert_eq!(
            shown(&rules),
            ["ip nat|PREROUTING|-p tcp -j X", "ip nat|X|-j RETURN", "ip nat|X|"]
        );
    }

    #[test]
    fn what_nft_lists_is_rules_hooks_sets_and_comments() {
        let text = "# Warning: table ip nat is managed by iptables-nft, do not touch!\n\
            table inet mine {\n\tset ports {\n\t\ttype inet_service\n\t\telements = { 80, 443 }\n\t}\n\n\
            \tchain in {\n\t\tcomment \"what comes\"\n\t\ttype nat hook prerouting priority -100; policy accept;\n\
            \t\ttcp dport @ports jump on\n\t}\n\n\tchain on {\n\t\tredirect to :4143\n\t}\n}\n";
        assert_eq!(
            shown(&listed_by_nft(text)),
            [
                "inet mine|in|tcp dport @ports jump on",
                "inet mine|on|redirect to :4143"
            ]
        );
    }
}
