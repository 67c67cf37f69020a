//! `iptables-save` output (or `iptables-restore` input) as a ruleset.
//!
//! What a rule asks for that is not known here stays in its own words, and is listed: such a rule cannot be evaluated, and
//! nothing is guessed about it.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;

use ipnet::IpNet;

use super::words::split;
use crate::options::{Group, Interface, Port};
use crate::rule::{Is, Mark, Match, Protocol, Rule, State, Target};
use crate::ruleset::{ChainId, Family, Owns, Place, Ruleset, Table};

/// A text that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Its rules, under the family that was given.
    pub ruleset: Ruleset,
    /// What is kept in its own words.
    pub unknown: Vec<Unknown>,
}

/// A condition or a target that is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The line, from 1.
    pub line: usize,
    /// Its words.
    pub text: String,
}

/// A line that is not what the tool writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}`: {reason}")]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// The line's text.
    pub text: String,
    /// What is wrong, and what to write instead.
    pub reason: String,
}

/// Reads the whole text, or tells every line that is wrong.
pub fn parse(text: &str, family: Family) -> Result<Parsed, Vec<Mistake>> {
    let mut reader = Reader {
        parsed: Parsed {
            ruleset: Ruleset::new(Owns::NewChains),
            unknown: Vec::new(),
        },
        family,
        table: Whereabouts::Outside,
        chains: Vec::new(),
        line: 0,
    };
    let mut mistakes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        reader.line = index + 1;
        if let Err(reason) = reader.line(line.trim()) {
            mistakes.push(Mistake {
                line: index + 1,
                text: line.trim().to_owned(),
                reason,
            });
        }
    }
    if matches!(reader.table, Whereabouts::In(_) | Whereabouts::Skipped) {
        mistakes.push(Mistake {
            line: reader.line,
            text: String::new(),
            reason: "the text ends inside a table: its COMMIT is missing".to_owned(),
        });
    }
    if mistakes.is_empty() {
        Ok(reader.parsed)
    } else {
        Err(mistakes)
    }
}

/// Where in the text the reader is.
#[derive(Clone, Copy)]
enum Whereabouts {
    Outside,
    In(Table),
    /// In a table that is not known here.
    Skipped,
}

struct Reader {
    parsed: Parsed,
    family: Family,
    table: Whereabouts,
    /// The user chains of the table so far.
    chains: Vec<String>,
    line: usize,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            return self.begin(name.trim());
        }
        if line == "COMMIT" {
            if matches!(self.table, Whereabouts::Outside) {
                return Err("no table is open here".to_owned());
            }
            self.table = Whereabouts::Outside;
            return Ok(());
        }
        let table = match self.table {
            Whereabouts::Outside => {
                return Err("stands before any table: write a line like `*nat` first".to_owned());
            }
            Whereabouts::Skipped => return Ok(()),
            Whereabouts::In(table) => table,
        };
        if let Some(declared) = line.strip_prefix(':') {
            return self.declare(table, declared);
        }
        let words = split(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // `iptables-save -c` begins with counters.
        let words = match words.split_first() {
            Some((counters, rest)) if counters.starts_with('[') => rest,
            _ => &words,
        };
        match words {
            ["-N", name] => {
                self.new_chain(table, name);
                Ok(())
            }
            ["-A", chain, rule @ ..] => self.rule(table, chain, Place::End, rule),
            ["-I", chain, rule @ ..] => {
                let (at, rule) = match rule.split_first().map(|(first, rest)| (first.parse(), rest)) {
                    Some((Ok(at), rest)) => (at, rest),
                    Some((Err(_), _)) | None => (NonZeroUsize::MIN, rule),
                };
                self.rule(table, chain, Place::At(at), rule)
            }
            _ => Err("neither a chain (`:NAME`, `-N NAME`) nor a rule (`-A CHAIN`, `-I CHAIN`)".to_owned()),
        }
    }

    fn begin(&mut self, name: &str) -> Result<(), String> {
        if !matches!(self.table, Whereabouts::Outside) {
            return Err("the table before has no COMMIT".to_owned());
        }
        self.chains.clear();
        self.table = match name {
            "filter" => Whereabouts::In(Table::Filter),
            "mangle" => Whereabouts::In(Table::Mangle),
            "nat" => Whereabouts::In(Table::Nat),
            "raw" => Whereabouts::In(Table::Raw),
            "security" => {
                self.keep(&format!("*{name}"));
                Whereabouts::Skipped
            }
            _ => return Err("no such table: filter, mangle, nat, raw and security are".to_owned()),
        };
        Ok(())
    }

    fn declare(&mut self, table: Table, declared: &str) -> Result<(), String> {
        let mut words = declared.split_whitespace();
        let (Some(name), Some(policy)) = (words.next(), words.next()) else {
            return Err("a chain is written `:NAME POLICY [packets:bytes]`".to_owned());
        };
        let chain = Ruleset::chain(table, name);
        match policy {
            "-" => self.new_chain(table, name),
            "ACCEPT" if chain.is_built_in() => {}
            "DROP" if chain.is_built_in() => self.parsed.ruleset.drop_by_policy(self.family, chain),
            _ => {
                return Err(format!(
                    "`{policy}` is no policy of {name}: write ACCEPT, DROP or `-`"
                ));
            }
        }
        Ok(())
    }

    fn new_chain(&mut self, table: Table, name: &str) {
        self.chains.push(name.to_owned());
        self.parsed
            .ruleset
            .declare(self.family, Ruleset::chain(table, name));
    }

    fn keep(&mut self, text: &str) {
        self.parsed.unknown.push(Unknown {
            line: self.line,
            text: text.to_owned(),
        });
    }

    fn rule(&mut self, table: Table, chain: &str, place: Place, words: &[&str]) -> Result<(), String> {
        let chain = Ruleset::chain(table, chain);
        if !chain.is_built_in() && !self.chains.iter().any(|name| name == chain.name()) {
            let name = chain.name();
            return Err(format!(
                "no chain {name} in table {table}: declare it before by `:{name} - [0:0]`"
            ));
        }
        let (matches, target) = self.conditions(table, words)?;
        let rule = Rule {
            matches,
            target,
            option: "imported",
        };
        self.parsed.ruleset.record(self.family, chain, place, rule);
        Ok(())
    }

    fn conditions(&mut self, table: Table, words: &[&str]) -> Result<(Vec<Match>, Target), String> {
        let (mut rest, mut matches, mut module) = (words, Vec::new(), "");
        while let Some((&word, after)) = rest.split_first() {
            if matches!(word, "-j" | "--jump") {
                return Ok((matches, self.target(table, after)?));
            }
            if matches!(word, "-g" | "--goto") {
                let text = rest.join(" ");
                self.keep(&text);
                return Ok((matches, Target::Unknown(text)));
            }
            if let ["-m" | "--match", name, ..] = rest {
                module = name;
            }
            let (condition, left) = condition(rest, module)?;
            if let Some(Match::Unknown(text)) = &condition {
                self.keep(text);
            }
            matches.extend(condition);
            rest = left;
        }
        Ok((matches, Target::Continue))
    }

    fn target(&mut self, table: Table, words: &[&str]) -> Result<Target, String> {
        let Some((&name, arguments)) = words.split_first() else {
            return Err("a target is missing after -j".to_owned());
        };
        if self.chains.iter().any(|chain| chain == name) {
            return Ok(Target::Jump(chain_id(table, name)));
        }
        Ok(target(name, arguments).unwrap_or_else(|| {
            let text = format!("-j {}", words.join(" "));
            self.keep(&text);
            Target::Unknown(text)
        }))
    }
}

fn chain_id(table: Table, name: &str) -> ChainId {
    Ruleset::chain(table, name)
}

type Rest<'a> = &'a [&'a str];

/// The condition at the head, and the words after it; `None` for a word that only names a module.
fn condition<'a>(words: Rest<'a>, module: &str) -> Result<(Option<Match>, Rest<'a>), String> {
    let (not_before, words) = match words {
        ["!", rest @ ..] => (true, rest),
        _ => (false, words),
    };
    let missing = || format!("`{}` has no value", words.first().copied().unwrap_or("!"));
    let Some((&option, [value, rest @ ..])) = words.split_first() else {
        return Err(missing());
    };
    // Old tools write the `!` behind the option. What is unknown keeps it where it is.
    let (is_not, value, rest) = match (*value, rest) {
        ("!", [value, rest @ ..]) => (true, *value, rest),
        _ => (not_before, *value, rest),
    };
    let known = match option {
        "-m" | "--match" => {
            return Ok(match value {
                "tcp" | "udp" | "multiport" | "owner" | "mark" | "connmark" | "conntrack" | "state"
                | "statistic" | "comment" => (None, rest),
                _ => unknown(words, 2, not_before),
            });
        }
        "-i" | "--in-interface" => Interface::parse(value).map(|name| Match::InInterface(is(is_not, name))),
        "-o" | "--out-interface" => Interface::parse(value).map(|name| Match::OutInterface(is(is_not, name))),
        "-s" | "--source" | "--src" => range(value).map(|net| Match::Source(is(is_not, net))),
        "-d" | "--destination" | "--dst" => range(value).map(|net| Match::Destination(is(is_not, net))),
        "-p" | "--protocol" => protocol(value).map(|protocol| Match::Protocol(is(is_not, protocol))),
        "--sport" | "--source-port" => parsed(value).map(|port: Port| Match::SourcePort(is(is_not, port))),
        "--dport" | "--destination-port" => {
            parsed(value).map(|port: Port| Match::DestinationPort(is(is_not, port)))
        }
        "--dports" | "--destination-ports" => {
            list(value).map(|ports: Vec<Port>| Match::DestinationPorts(is(is_not, ports)))
        }
        "--uid-owner" => parsed(value).map(|uid: u32| Match::OwnerUid(is(is_not, uid))),
        "--gid-owner" => parsed(value).map(|gid: u32| Match::OwnerGid(is(is_not, Group::Id(gid)))),
        // Two modules share the option.
        "--mark" if module == "connmark" => mark(value).map(|mark| Match::Connmark(is(is_not, mark))),
        "--mark" => mark(value).map(|mark| Match::Mark(is(is_not, mark))),
        "--ctstate" | "--state" => states(value).map(|states| Match::State(is(is_not, states))),
        "--comment" => Some(Match::Comment(value.to_owned())),
        "--mode" => return Ok(statistic(words, not_before)),
        _ => None,
    };
    Ok(match known {
        Some(known) => (Some(known), rest),
        None => unknown(words, 1, not_before),
    })
}

/// The words up to the next condition or target, of which `least` belong to it in any case.
fn unknown(words: Rest<'_>, least: usize, is_not: bool) -> (Option<Match>, Rest<'_>) {
    let short = ["-m", "-i", "-o", "-s", "-d", "-p", "-j", "-g"];
    let ends = |word: &&str| short.contains(word) || least == 1 && (word.starts_with("--") || *word == "!");
    let length = least + words[least..].iter().take_while(|word| !ends(word)).count();
    let text = words[..length].join(" ");
    let text = if is_not { format!("! {text}") } else { text };
    (Some(Match::Unknown(text)), &words[length..])
}

fn statistic(words: Rest<'_>, is_not: bool) -> (Option<Match>, Rest<'_>) {
    if let (false, ["--mode", "random", "--probability", share, rest @ ..]) = (is_not, words) {
        let count = share
            .parse::<f64>()
            .ok()
            .filter(|share| *share > 0.0 && *share <= 1.0)
            .map(|share| (1.0 / share).round());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 1, rounded, and far below what u32 holds for a share that a tool writes"
        )]
        if let Some(count) = count.and_then(|count| NonZeroU32::new(count as u32)) {
            return (Some(Match::OneIn(count)), rest);
        }
    }
    let length = words
        .iter()
        .take_while(|word| !matches!(**word, "-m" | "-j" | "-g"))
        .count();
    (Some(Match::Unknown(words[..length].join(" "))), &words[length..])
}

fn is<T>(is_not: bool, value: T) -> Is<T> {
    if is_not {
        Is::Not(value)
    } else {
        Is::Exactly(value)
    }
}

fn parsed<T: FromStr>(value: &str) -> Option<T> {
    value.parse().ok()
}

fn list<T: FromStr>(value: &str) -> Option<Vec<T>> {
    value.split(',').map(|item| item.parse().ok()).collect()
}

fn range(value: &str) -> Option<IpNet> {
    value
        .parse()
        .ok()
        .or_else(|| value.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The names are those of /etc/protocols that `iptables-save` writes.
fn protocol(value: &str) -> Option<Protocol> {
    Some(match value {
        "tcp" | "6" => Protocol::Tcp,
        "udp" | "17" => Protocol::Udp,
        "icmp" => Protocol::Other(1),
        "ipv6-icmp" | "icmpv6" => Protocol::Other(58),
        "sctp" => Protocol::Other(132),
        "esp" => Protocol::Other(50),
        "ah" => Protocol::Other(51),
        number => Protocol::Other(number.parse().ok().filter(|number| *number != 0)?),
    })
}

fn states(value: &str) -> Option<Vec<State>> {
    let state = |name: &str| {
        Some(match name {
            "INVALID" => State::Invalid,
            "RELATED" => State::Related,
            "ESTABLISHED" => State::Established,
            "NEW" => State::New,
            "UNTRACKED" => State::Untracked,
            _ => return None,
        })
    };
    value.split(',').map(state).collect()
}

fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

fn mark(value: &str) -> Option<Mark> {
    let (value, mask) = match value.split_once('/') {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(value)?, u32::MAX),
    };
    let mask = NonZeroU32::new(mask)?;
    Some(Mark {
        value,
        mask: (mask.get() != u32::MAX).then_some(mask),
    })
}

fn target(name: &str, arguments: &[&str]) -> Option<Target> {
    Some(match (name, arguments) {
        ("RETURN", []) => Target::Return,
        ("ACCEPT", []) => Target::Accept,
        ("DROP", []) => Target::Drop,
        (
            "REJECT",
            []
            | [
                "--reject-with",
                "icmp-port-unreachable" | "icmp6-port-unreachable",
            ],
        ) => Target::Reject,
        ("REDIRECT", ["--to-ports" | "--to-port", port]) => Target::Redirect(port.parse().ok()?),
        ("MARK", ["--set-mark", value]) => Target::SetMark(number(value)?),
        ("MARK", ["--set-xmark", value]) => set_xmark(value)?,
        ("MARK", ["--or-mark", bits]) => Target::OrMark(NonZeroU32::new(number(bits)?)?),
        ("MARK", ["--xor-mark", bits]) => Target::XorMark(NonZeroU32::new(number(bits)?)?),
        ("CONNMARK", ["--save-mark", masks @ ..]) if whole(masks) => Target::SaveMark,
        ("CONNMARK", ["--restore-mark", masks @ ..]) if whole(masks) => Target::RestoreMark,
        ("CT", ["--zone", zone]) => Target::Zone(zone.parse().ok()?),
        ("TPROXY", arguments) => tproxy(arguments)?,
        ("DNAT", ["--to-destination", to]) => Target::Dnat(to.parse().ok()?),
        ("MASQUERADE", [] | ["--random-fully"]) => Target::Masquerade,
        _ => return None,
    })
}

/// `value/mask`: the mask's bits are cleared, then the value's are flipped.
fn set_xmark(text: &str) -> Option<Target> {
    let (value, mask) = text.split_once('/')?;
    let (value, mask) = (number(value)?, number(mask)?);
    match (NonZeroU32::new(value), mask) {
        (_, u32::MAX) => Some(Target::SetMark(value)),
        (Some(bits), 0) => Some(Target::XorMark(bits)),
        (Some(bits), mask) if mask == value => Some(Target::OrMark(bits)),
        _ => None,
    }
}

fn whole(masks: &[&str]) -> bool {
    matches!(masks, [] | ["--nfmask", "0xffffffff", "--ctmask", "0xffffffff"])
}

fn tproxy(arguments: &[&str]) -> Option<Target> {
    let (mut port, mut tproxy_mark) = (None, None);
    for pair in arguments.chunks(2) {
        match pair {
            ["--on-port", value] => port = value.parse().ok(),
            ["--on-ip", "0.0.0.0" | "::"] => {}
            ["--tproxy-mark", value] => tproxy_mark = mark(value).filter(|mark| mark.mask.is_none()),
            _ => return None,
        }
    }
    Some(Target::Tproxy {
        port: port?,
        mark: NonZeroU32::new(tproxy_mark?.value)?,
    })
}
