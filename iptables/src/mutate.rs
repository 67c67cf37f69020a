//! A ruleset with one thing wrong: a rule that does nothing, or two neighbours in the other order.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use crate::evaluate::Program;
use crate::reach::{Scope, dead, meeting};
use crate::rule::{Rule, Target};
use crate::ruleset::{ChainId, Family, Ruleset, Table};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The rule stands there and does nothing, so that those behind it keep their numbers.
    Drop,
    /// It and the next rule of its chain stand in each other's place.
    Swap,
}

/// A change of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The rule's family.
    pub family: Family,
    /// Its chain.
    pub chain: ChainId,
    /// Its place there, from 1.
    pub position: NonZeroUsize,
    /// What happens to it.
    pub change: Change,
    /// Packets that could tell the difference.
    pub noticed_by: Packets,
}

/// Which packets could tell that a rule is changed, as far as the rules themselves say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// Such as routing sends.
    Usual,
    /// Only such as routing does not usually send ([`Scope::UsualRouting`]).
    Unusual,
    /// None reaches the rule.
    None,
}

/// Every change of every rule, but for those that change no packet's way: of neighbours that do the same, and of
/// neighbours that no packet matches both.
pub fn mutations(ruleset: &Ruleset) -> Vec<Mutation> {
    Family::ALL
        .into_iter()
        .filter(|family| !ruleset.is_empty(*family))
        .flat_map(|family| of_family(ruleset, family))
        .collect()
}

fn of_family(ruleset: &Ruleset, family: Family) -> Vec<Mutation> {
    let program = Program::compile(ruleset, family);
    let scopes: HashMap<(ChainId, NonZeroUsize), Scope> = dead(&program)
        .into_iter()
        .map(|dead| ((program.chain(dead.at).clone(), dead.at.position()), dead.scope))
        .collect();
    let ordered: Vec<(ChainId, NonZeroUsize)> = meeting(&program)
        .into_iter()
        .map(|at| (program.chain(at).clone(), at.position()))
        .collect();
    let mut all = Vec::new();
    let tables = ruleset.tables(family);
    for chain in tables
        .into_iter()
        .flat_map(|table: Table| ruleset.chains(family, table))
    {
        let rules = ruleset.rules(family, &chain);
        for (position, (index, rule)) in (1..).filter_map(NonZeroUsize::new).zip(rules.iter().enumerate()) {
            let place = (chain.clone(), position);
            let mut add = |change, noticed_by| {
                all.push(Mutation {
                    family,
                    chain: chain.clone(),
                    position,
                    change,
                    noticed_by,
                });
            };
            if rule.target != Target::Continue {
                let by = match scopes.get(&place) {
                    None => Packets::Usual,
                    Some(Scope::UsualRouting) => Packets::Unusual,
                    Some(Scope::Always) => Packets::None,
                };
                add(Change::Drop, by);
            }
            let does_other = rules
                .get(index + 1)
                .is_some_and(|next| next.target != rule.target);
            if does_other && ordered.contains(&place) {
                add(Change::Swap, Packets::Usual);
            }
        }
    }
    all
}

impl Mutation {
    /// The rule.
    pub fn rule<'r>(&self, ruleset: &'r Ruleset) -> Option<&'r Rule> {
        ruleset.rule(self.family, &self.chain, self.position)
    }

    /// The ruleset with this change.
    #[must_use]
    pub fn of(&self, ruleset: &Ruleset) -> Ruleset {
        let mut changed = ruleset.clone();
        let next = self.position.saturating_add(1);
        match self.change {
            Change::Drop => {
                if let Some(rule) = changed.rule_mut(self.family, &self.chain, self.position) {
                    rule.target = Target::Continue;
                }
            }
            Change::Swap => {
                let other = ruleset.rule(self.family, &self.chain, next);
                if let (Some(one), Some(other)) = (self.rule(ruleset), other) {
                    for (position, rule) in [(self.position, other), (next, one)] {
                        if let Some(place) = changed.rule_mut(self.family, &self.chain, position) {
                            place.clone_from(rule);
                        }
                    }
                }
            }
        }
        changed
    }
}
