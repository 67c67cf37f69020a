//! Tables, chains and the rules in them, in the order in which they are made.

use crate::rule::{Rule, Target};

/// An address family: each has a ruleset of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// filter.
    Filter,
    /// mangle.
    Mangle,
    /// nat.
    Nat,
    /// raw.
    Raw,
}

impl Table {
    /// All tables, sorted by name.
    pub const ALL: [Self; 4] = [Self::Filter, Self::Mangle, Self::Nat, Self::Raw];

    /// As iptables names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Raw => "raw",
        }
    }
}

/// Where a rule is put in its chain when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Behind the others.
    Append,
    /// At this position, from 1; the others move back.
    Insert(usize),
}

/// A rule being made: the unit of order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Its table.
    pub table: Table,
    /// Its chain.
    pub chain: String,
    /// Where in the chain.
    pub place: Place,
    /// The rule.
    pub rule: Rule,
}

/// The rules of one family, in the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    made: Vec<Made>,
}

/// The rules of both families.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// IPv4.
    pub v4: Rules,
    /// IPv6; empty if there is none.
    pub v6: Rules,
}

/// The chains that the kernel has in every table.
pub const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

impl Rules {
    /// Puts a rule behind those of its chain.
    pub fn append(&mut self, table: Table, chain: &str, rule: Rule) {
        self.made.push(Made {
            table,
            chain: chain.to_owned(),
            place: Place::Append,
            rule,
        });
    }

    /// Puts a rule at this position of its chain, from 1.
    pub fn insert(&mut self, table: Table, chain: &str, position: usize, rule: Rule) {
        self.made.push(Made {
            table,
            chain: chain.to_owned(),
            place: Place::Insert(position),
            rule,
        });
    }

    /// True if there is no rule.
    pub fn is_empty(&self) -> bool {
        self.made.is_empty()
    }

    /// All rules in the order in which they are made.
    pub fn made(&self) -> &[Made] {
        &self.made
    }

    /// The tables that have rules, sorted by name.
    pub fn tables(&self) -> impl Iterator<Item = Table> {
        Table::ALL
            .into_iter()
            .filter(|table| self.made.iter().any(|made| made.table == *table))
    }

    /// The chains of a table that are not built in: first those that have rules, then those that are only jumped to.
    pub fn own_chains(&self, table: Table) -> Vec<&str> {
        let in_table = || self.made.iter().filter(move |made| made.table == table);
        let mut chains: Vec<&str> = Vec::new();
        let with_rules = in_table().map(|made| made.chain.as_str());
        let jumped_to = in_table().filter_map(|made| match &made.rule.target {
            Target::Jump(chain) => Some(chain.as_str()),
            _ => None,
        });
        for chain in with_rules.chain(jumped_to) {
            if !BUILT_IN.contains(&chain) && !chains.contains(&chain) {
                chains.push(chain);
            }
        }
        chains
    }

    /// A chain as it is in the end; the n-th is at position n + 1.
    pub fn chain(&self, table: Table, chain: &str) -> Vec<&Rule> {
        let mut rules: Vec<&Rule> = Vec::new();
        for made in self
            .made
            .iter()
            .filter(|made| made.table == table && made.chain == chain)
        {
            match made.place {
                Place::Append => rules.push(&made.rule),
                Place::Insert(position) => rules.insert((position - 1).min(rules.len()), &made.rule),
            }
        }
        rules
    }
}
