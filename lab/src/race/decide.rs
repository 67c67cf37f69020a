//! What decides how a request ends: the fewest pairs "this before the request" that tell good orders from bad ones.

use std::collections::HashMap;

/// An order as one request saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// For each event, whether it came before the request.
    pub before: Vec<bool>,
    /// Whether the request ended as it should.
    pub good: bool,
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deciding {
    /// Every order is good, or every one bad.
    Nothing {
        /// Which.
        good: bool,
    },
    /// The order is good if and only if one of these holds: events, and whether each comes before the request.
    GoodWhen(Vec<Vec<(usize, bool)>>),
    /// Orders in which the same came before the request ended differently: the order does not decide it.
    NotTheOrder,
}

/// Finds the smallest set of events whose place decides.
pub fn decide(rows: &[Seen]) -> Deciding {
    let Some(first) = rows.first() else {
        return Deciding::Nothing { good: true };
    };
    if rows.iter().all(|row| row.good == first.good) {
        return Deciding::Nothing { good: first.good };
    }
    let number = first.before.len();
    for size in 1..=number {
        let sets = (1_u32..1 << number).filter(|set| set.count_ones() as usize == size);
        for set in sets {
            let events: Vec<usize> = (0..number).filter(|event| set & 1 << event != 0).collect();
            if separates(rows, &events) {
                return Deciding::GoodWhen(good_when(rows, &events));
            }
        }
    }
    Deciding::NotTheOrder
}

fn places(row: &Seen, events: &[usize]) -> Vec<bool> {
    events.iter().map(|event| row.before[*event]).collect()
}

fn separates(rows: &[Seen], events: &[usize]) -> bool {
    let mut known = HashMap::new();
    rows.iter()
        .all(|row| *known.entry(places(row, events)).or_insert(row.good) == row.good)
}

/// The places of these events in good orders, without what does not matter there.
fn good_when(rows: &[Seen], events: &[usize]) -> Vec<Vec<(usize, bool)>> {
    let mut all: Vec<Vec<(usize, bool)>> = Vec::new();
    for row in rows.iter().filter(|row| row.good) {
        let mut literals: Vec<(usize, bool)> =
            events.iter().map(|event| (*event, row.before[*event])).collect();
        let mut index = 0;
        while index < literals.len() {
            let mut fewer = literals.clone();
            fewer.remove(index);
            let holds = |row: &Seen| fewer.iter().all(|(event, before)| row.before[*event] == *before);
            if rows.iter().any(|row| !row.good && holds(row)) {
                index += 1;
            } else {
                literals = fewer;
            }
        }
        if !all.contains(&literals) {
            all.push(literals);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(before: &[bool], good: bool) -> Seen {
        Seen {
            before: before.to_vec(),
            good,
        }
    }

    #[test]
    fn the_fewest_events_that_tell_good_from_bad() {
        // Good if and only if both 0 and 2 came before; 1 does not matter.
        let mut rows = Vec::new();
        for number in 0_u8..8 {
            let before = [number & 1 != 0, number & 2 != 0, number & 4 != 0];
            rows.push(row(&before, before[0] && before[2]));
        }
        assert_eq!(
            decide(&rows),
            Deciding::GoodWhen(vec![vec![(0, true), (2, true)]])
        );
        // Good without the rules, or with the sidecar.
        let either: Vec<Seen> = rows
            .iter()
            .map(|seen| row(&seen.before, !seen.before[0] || seen.before[1]))
            .collect();
        let Deciding::GoodWhen(ways) = decide(&either) else {
            panic!("{:?}", decide(&either));
        };
        assert!(
            ways.contains(&vec![(0, false)]) && ways.contains(&vec![(1, true)]),
            "{ways:?}"
        );
    }

    #[test]
    fn nothing_decides_where_nothing_differs_and_where_the_same_differs() {
        assert_eq!(
            decide(&[row(&[true], true), row(&[false], true)]),
            Deciding::Nothing { good: true }
        );
        assert_eq!(
            decide(&[row(&[true], true), row(&[true], false)]),
            Deciding::NotTheOrder
        );
    }
}
