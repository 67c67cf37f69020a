//! Two rulesets compared, order included.

use std::fmt;
use std::num::NonZeroUsize;

use crate::options::Group;
use crate::render::restore::rule_text;
use crate::rule::{Is, Match, Rule};
use crate::ruleset::{ChainId, Family, Ruleset, Table};

/// One thing in which two rulesets differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The family.
    pub family: Family,
    /// The chain.
    pub chain: ChainId,
    /// What is different.
    pub change: Change,
}

/// What became of a rule or a chain on the way from the first ruleset to the second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The first has this chain, the second does not.
    ChainLost,
    /// The second has this chain, the first does not.
    ChainGained,
    /// A rule of the first alone, by its position there.
    Lost(NonZeroUsize, String),
    /// A rule of the second alone, by its position there.
    Gained(NonZeroUsize, String),
    /// The same rule elsewhere in the chain.
    Moved {
        /// Its position in the first.
        from: NonZeroUsize,
        /// Its position in the second.
        to: NonZeroUsize,
        /// The rule.
        text: String,
    },
    /// The chain's policy is another.
    Policy,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 | Family::Inet => "",
            Family::V6 => "v6 ",
        };
        let place = format!("{family}{} {}", self.chain.table(), self.chain.name());
        match &self.change {
            Change::ChainLost => write!(f, "- {place}"),
            Change::ChainGained => write!(f, "+ {place}"),
            Change::Lost(at, text) => write!(f, "- {place}#{at} {text}"),
            Change::Gained(at, text) => write!(f, "+ {place}#{at} {text}"),
            Change::Moved { from, to, text } => write!(f, "~ {place}#{from} -> #{to} {text}"),
            Change::Policy => write!(f, "~ {place} has another policy"),
        }
    }
}

/// What the second ruleset has otherwise than the first, in every family.
pub fn diff(first: &Ruleset, second: &Ruleset) -> Vec<Difference> {
    let mut all = Vec::new();
    for family in Family::ALL {
        for table in [Table::Raw, Table::Mangle, Table::Nat, Table::Filter] {
            let mut chains = first.chains(family, table);
            let theirs = second.chains(family, table);
            chains.extend(theirs.iter().filter(|chain| !first.has(family, chain)).cloned());
            for chain in chains {
                let changes = changes(first, second, family, &chain).into_iter();
                all.extend(changes.map(|change| Difference {
                    family,
                    chain: chain.clone(),
                    change,
                }));
            }
        }
    }
    all
}

fn changes(first: &Ruleset, second: &Ruleset, family: Family, chain: &ChainId) -> Vec<Change> {
    let mut changes = Vec::new();
    // A built-in chain is always there.
    if !chain.is_built_in() {
        match (first.has(family, chain), second.has(family, chain)) {
            (true, false) => changes.push(Change::ChainLost),
            (false, true) => changes.push(Change::ChainGained),
            (true, true) | (false, false) => {}
        }
    }
    if first.drops_by_policy(family, chain) != second.drops_by_policy(family, chain) {
        changes.push(Change::Policy);
    }
    let texts = |ruleset: &Ruleset| -> Vec<String> {
        let rules = ruleset.rules(family, chain).into_iter();
        rules.map(|rule| rule_text(&canonical(rule))).collect()
    };
    changes.extend(rule_changes(&texts(first), &texts(second)));
    changes
}

fn rule_changes(first: &[String], second: &[String]) -> Vec<Change> {
    let kept = common(first, second);
    let is_kept =
        |side: fn(&(usize, usize)) -> usize, index: usize| kept.iter().any(|pair| side(pair) == index);
    let mut lost: Vec<usize> = (0..first.len())
        .filter(|index| !is_kept(|pair| pair.0, *index))
        .collect();
    let mut changes = Vec::new();
    for (to, text) in second
        .iter()
        .enumerate()
        .filter(|(to, _)| !is_kept(|pair| pair.1, *to))
    {
        let moved = lost.iter().position(|from| first[*from] == *text);
        changes.push(match moved.map(|index| lost.remove(index)) {
            Some(from) => Change::Moved {
                from: position(from),
                to: position(to),
                text: text.clone(),
            },
            None => Change::Gained(position(to), text.clone()),
        });
    }
    let lost = lost
        .into_iter()
        .map(|from| Change::Lost(position(from), first[from].clone()));
    lost.chain(changes).collect()
}

/// The longest common subsequence, as pairs of indices.
fn common(first: &[String], second: &[String]) -> Vec<(usize, usize)> {
    let mut longest = vec![vec![0_usize; second.len() + 1]; first.len() + 1];
    for from in (0..first.len()).rev() {
        for to in (0..second.len()).rev() {
            longest[from][to] = if first[from] == second[to] {
                longest[from + 1][to + 1] + 1
            } else {
                longest[from + 1][to].max(longest[from][to + 1])
            };
        }
    }
    let (mut from, mut to, mut pairs) = (0, 0, Vec::new());
    while from < first.len() && to < second.len() {
        if first[from] == second[to] {
            pairs.push((from, to));
            (from, to) = (from + 1, to + 1);
        } else if longest[from + 1][to] >= longest[from][to + 1] {
            from += 1;
        } else {
            to += 1;
        }
    }
    pairs
}

fn position(index: usize) -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(index)
}

/// A rule as the kernel holds it: conditions in one order, no comments, addresses without host bits.
pub fn canonical(rule: &Rule) -> Rule {
    let mut matches: Vec<Match> = rule.matches.iter().filter_map(same).collect();
    matches.sort_by_key(rank);
    Rule {
        matches,
        ..rule.clone()
    }
}

fn same(each: &Match) -> Option<Match> {
    let trunc = |is: &Is<ipnet::IpNet>| match is {
        Is::Exactly(net) => Is::Exactly(net.trunc()),
        Is::Not(net) => Is::Not(net.trunc()),
    };
    if let Match::Source(is) = each {
        return Some(Match::Source(trunc(is)));
    }
    if let Match::Destination(is) = each {
        return Some(Match::Destination(trunc(is)));
    }
    (!matches!(each, Match::Comment(_))).then(|| each.clone())
}

/// The order in which `iptables-save` writes; conditions of one kind keep theirs.
fn rank(each: &Match) -> (u8, u32) {
    let rank = match each {
        Match::Source(_) => 0,
        Match::Destination(_) => 1,
        Match::InInterface(_) => 2,
        Match::OutInterface(_) => 3,
        Match::Protocol(_) => 4,
        Match::SourcePort(_) => 5,
        Match::DestinationPort(_) => 6,
        Match::DestinationPorts(_) => 7,
        Match::OwnerUid(_) => 8,
        Match::OwnerGid(Is::Exactly(Group::Id(gid)) | Is::Not(Group::Id(gid))) => return (9, *gid),
        Match::OwnerGid(_) => 9,
        Match::Mark(_) => 10,
        Match::Connmark(_) => 11,
        Match::State(_) => 12,
        Match::OneIn(_) => 13,
        Match::Comment(_) => 14,
        Match::Unknown(_) => 15,
    };
    (rank, 0)
}
