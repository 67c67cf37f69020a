//! Rules in their chains, per address family: as they were recorded, and as the kernel will hold them.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

use crate::rule::{Rule, Target};

/// An address family of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both in one table: nftables' `inet`.
    Inet,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Inet];
}

/// A netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Before routing, on the way in.
    Prerouting,
    /// To a local socket.
    Input,
    /// Through the namespace.
    Forward,
    /// From a local socket.
    Output,
    /// After routing, on the way out.
    Postrouting,
}

impl Hook {
    /// All hooks, in the order of their numbers in `linux/netfilter.h`.
    pub const ALL: [Self; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    /// The built-in chain's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A table; in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// A chain of a table; made by [`Ruleset::chain`] alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId {
    table: Table,
    name: String,
}

impl ChainId {
    /// Its table.
    pub fn table(&self) -> Table {
        self.table
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it hangs on a hook: packets enter it without a jump.
    pub fn is_built_in(&self) -> bool {
        self.hook().is_some()
    }

    /// The hook that it hangs on: iptables names such a chain as the hook, Istio's nftables layout in small letters.
    pub fn hook(&self) -> Option<Hook> {
        Hook::ALL
            .into_iter()
            .find(|hook| self.name == hook.name() || self.name == hook.name().to_ascii_lowercase())
    }
}

/// Where a rule goes in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The end (`-A`).
    End,
    /// This position, from 1 (`-I`).
    At(NonZeroUsize),
}

/// A rule on its way into a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The chain.
    pub chain: ChainId,
    /// The place.
    pub place: Place,
    /// The rule.
    pub rule: Rule,
}

/// Whose the chains are that a ruleset names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owns {
    /// Its own chains are new; in built-in ones it adds to what is there (Istio).
    NewChains,
    /// Everything in every chain it names, built-in ones too, is replaced (the node's kube-proxy).
    Contents,
}

/// A ruleset: what was recorded for each family, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    owns: Owns,
    recorded: BTreeMap<Family, Vec<Recorded>>,
    empty: Vec<(Family, ChainId)>,
    retired: Vec<(Family, ChainId)>,
    dropping: Vec<(Family, ChainId)>,
}

impl Ruleset {
    /// A ruleset without rules.
    pub fn new(owns: Owns) -> Self {
        Self {
            owns,
            recorded: BTreeMap::new(),
            empty: Vec::new(),
            retired: Vec::new(),
            dropping: Vec::new(),
        }
    }

    /// A chain of `table`.
    pub fn chain(table: Table, name: &str) -> ChainId {
        ChainId {
            table,
            name: name.to_owned(),
        }
    }

    /// Records a rule. Panics when it jumps into another table, which the kernel has no notion of.
    pub fn record(&mut self, family: Family, chain: ChainId, place: Place, rule: Rule) {
        if let Target::Jump(to) = &rule.target {
            assert_eq!(
                to.table, chain.table,
                "a jump from {} to {} leaves the table",
                chain.name, to.name
            );
        }
        self.recorded
            .entry(family)
            .or_default()
            .push(Recorded { chain, place, rule });
    }

    /// Names a chain that may stay empty.
    pub fn declare(&mut self, family: Family, chain: ChainId) {
        self.empty.push((family, chain));
    }

    /// Takes in what another ruleset has.
    pub fn extend(&mut self, other: Self) {
        for (family, recorded) in other.recorded {
            self.recorded.entry(family).or_default().extend(recorded);
        }
        self.empty.extend(other.empty);
        self.retired.extend(other.retired);
        self.dropping.extend(other.dropping);
    }

    /// Gives a built-in chain the policy DROP.
    pub fn drop_by_policy(&mut self, family: Family, chain: ChainId) {
        self.declare(family, chain.clone());
        self.dropping.push((family, chain));
    }

    /// Whether a chain's policy is DROP.
    pub fn drops_by_policy(&self, family: Family, chain: &ChainId) -> bool {
        self.dropping
            .iter()
            .any(|(of, dropping)| *of == family && dropping == chain)
    }

    /// Removes the chains of `previous` that this ruleset no longer has.
    pub fn retire(&mut self, previous: &Self) {
        for family in Family::ALL {
            let now: Vec<_> = [Table::Filter, Table::Mangle, Table::Nat, Table::Raw]
                .iter()
                .flat_map(|&table| self.chains(family, table))
                .collect();
            for table in previous.tables(family) {
                let gone = previous
                    .chains(family, table)
                    .into_iter()
                    .filter(|chain| !chain.is_built_in() && !now.contains(chain));
                self.retired.extend(gone.map(|chain| (family, chain)));
            }
        }
    }

    /// Whose the chains are.
    pub fn owns(&self) -> Owns {
        self.owns
    }

    /// Whether there is nothing to load for `family`.
    pub fn is_empty(&self, family: Family) -> bool {
        self.tables(family).is_empty()
    }

    /// What was recorded for `family`, in order.
    pub fn recorded(&self, family: Family) -> &[Recorded] {
        self.recorded.get(&family).map_or(&[], Vec::as_slice)
    }

    /// The chains of a table that are removed.
    pub fn retired(&self, family: Family, table: Table) -> impl Iterator<Item = &ChainId> {
        self.retired
            .iter()
            .filter(move |(of, chain)| *of == family && chain.table == table)
            .map(|(_, chain)| chain)
    }

    /// The tables in use, in writing order.
    pub fn tables(&self, family: Family) -> Vec<Table> {
        let mut tables: Vec<Table> = self
            .recorded(family)
            .iter()
            .map(|each| each.chain.table)
            .collect();
        tables.extend(
            self.empty
                .iter()
                .chain(&self.retired)
                .filter(|(of, _)| *of == family)
                .map(|(_, chain)| chain.table),
        );
        tables.sort();
        tables.dedup();
        tables
    }

    /// A table's chains in Istio's order of declaration: by first rule, then those that are only jumped to.
    pub fn chains(&self, family: Family, table: Table) -> Vec<ChainId> {
        let mut chains = Vec::new();
        let mut add = |chain: &ChainId| {
            if chain.table == table && !chains.contains(chain) {
                chains.push(chain.clone());
            }
        };
        for each in self.recorded(family) {
            add(&each.chain);
        }
        for each in self.recorded(family) {
            if let Target::Jump(to) = &each.rule.target {
                add(to);
            }
        }
        self.empty
            .iter()
            .filter(|(of, _)| *of == family)
            .for_each(|(_, chain)| add(chain));
        chains
    }

    /// Whether a chain has rules, is jumped to, or is declared.
    pub fn has(&self, family: Family, chain: &ChainId) -> bool {
        self.chains(family, chain.table).contains(chain)
    }

    /// A chain's rules as the kernel will hold them, `-I` carried out.
    pub fn rules(&self, family: Family, chain: &ChainId) -> Vec<&Rule> {
        let mut rules = Vec::new();
        for each in self.recorded(family).iter().filter(|each| each.chain == *chain) {
            match each.place {
                Place::End => rules.push(&each.rule),
                Place::At(position) => rules.insert((position.get() - 1).min(rules.len()), &each.rule),
            }
        }
        rules
    }

    /// The same as [`Ruleset::rule`], to be changed.
    pub(crate) fn rule_mut(
        &mut self,
        family: Family,
        chain: &ChainId,
        position: NonZeroUsize,
    ) -> Option<&mut Rule> {
        let recorded = self.recorded.get_mut(&family)?;
        let mut order = Vec::new();
        for (index, each) in recorded
            .iter()
            .enumerate()
            .filter(|(_, each)| each.chain == *chain)
        {
            match each.place {
                Place::End => order.push(index),
                Place::At(position) => order.insert((position.get() - 1).min(order.len()), index),
            }
        }
        let index = *order.get(position.get() - 1)?;
        recorded.get_mut(index).map(|each| &mut each.rule)
    }

    /// Rule `position` (from 1) of a chain.
    pub fn rule(&self, family: Family, chain: &ChainId, position: NonZeroUsize) -> Option<&Rule> {
        self.rules(family, chain).get(position.get() - 1).copied()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Raw => "raw",
        })
    }
}
