//! A loaded ruleset against a wanted one: what of it is interception's own, and the text that takes it away.

use std::collections::HashSet;

use crate::diff::canonical;
use crate::render::Line;
use crate::render::restore::rule_text;
use crate::rule::{Rule, Target};
use crate::ruleset::{ChainId, Family, Owns, Place, Ruleset, Table};

/// The chains that Istio, and so the lab, makes.
const PREFIX: &str = "ISTIO_";

/// What of `live` interception has put there: the chains that `wanted` has or that have Istio's names, the jumps to them,
/// and the rules of `wanted` in built-in chains. Everything else belongs to others.
pub fn own_part(live: &Ruleset, wanted: &Ruleset) -> Ruleset {
    let mut own = Ruleset::new(Owns::NewChains);
    for family in Family::ALL {
        for table in live.tables(family) {
            for chain in live.chains(family, table) {
                if is_own(&chain, wanted, family) {
                    own.declare(family, chain.clone());
                }
                let expected: HashSet<String> = wanted
                    .rules(family, &chain)
                    .into_iter()
                    .map(|rule| rule_text(&canonical(rule)))
                    .collect();
                for rule in live.rules(family, &chain) {
                    let is_jump = matches!(&rule.target, Target::Jump(to) if is_own(to, wanted, family));
                    let is_ours = is_own(&chain, wanted, family)
                        || chain.is_built_in()
                            && (is_jump || expected.contains(&rule_text(&canonical(rule))));
                    if is_ours {
                        own.record(family, chain.clone(), Place::End, rule.clone());
                    }
                }
            }
        }
    }
    own
}

fn is_own(chain: &ChainId, wanted: &Ruleset, family: Family) -> bool {
    !chain.is_built_in() && (chain.name().starts_with(PREFIX) || wanted.has(family, chain))
}

/// `iptables-restore --noflush` input that takes `old` away and puts `new` there, one transaction for each table: where the
/// new rules are refused, the old ones stay.
pub fn replacement<'a>(old: &'a Ruleset, new: &'a Ruleset, family: Family) -> Vec<Line<'a>> {
    let mut tables = old.tables(family);
    tables.extend(new.tables(family));
    tables.sort();
    tables.dedup();
    tables
        .into_iter()
        .flat_map(|table| one_table(old, new, family, table))
        .collect()
}

fn one_table<'a>(old: &'a Ruleset, new: &'a Ruleset, family: Family, table: Table) -> Vec<Line<'a>> {
    let mut lines = vec![Line::bare(format!("*{table}"))];
    let (before, after) = (old.chains(family, table), new.chains(family, table));
    for chain in before.iter().filter(|chain| chain.is_built_in()) {
        let rules = old.rules(family, chain).into_iter();
        lines.extend(rules.map(|rule| told(rule, format!("-D {} {}", chain.name(), rule_text(rule)))));
    }
    // With --noflush this empties a chain that is there, and makes one that is not.
    let all = before
        .iter()
        .chain(after.iter().filter(|chain| !before.contains(chain)));
    let user: Vec<&ChainId> = all.filter(|chain| !chain.is_built_in()).collect();
    lines.extend(
        user.iter()
            .map(|chain| Line::bare(format!(":{} - [0:0]", chain.name()))),
    );
    for each in new
        .recorded(family)
        .iter()
        .filter(|each| each.chain.table() == table)
    {
        let chain = each.chain.name();
        let rule = rule_text(&each.rule);
        lines.push(told(
            &each.rule,
            match each.place {
                Place::End => format!("-A {chain} {rule}"),
                Place::At(position) => format!("-I {chain} {position} {rule}"),
            },
        ));
    }
    let gone = user.into_iter().filter(|chain| !after.contains(chain));
    lines.extend(gone.map(|chain| Line::bare(format!("-X {}", chain.name()))));
    lines.push(Line::bare("COMMIT".to_owned()));
    lines
}

fn told(rule: &Rule, text: String) -> Line<'_> {
    Line {
        text,
        rule: Some(rule),
    }
}
