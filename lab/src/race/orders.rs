//! The orders that the constraints of a race admit: how many there are, and one of each kind that can differ.
//!
//! What a request meets depends on which events have come before it, not on their order among themselves: the lab lets
//! each take its whole effect before the next. So two orders are of one kind if the same events come before each request.

use std::collections::{BTreeSet, HashMap};

/// Events are bits.
type Set = u32;

/// A race's events and constraints, as numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How many events there are.
    pub number: usize,
    /// Those of them that are requests.
    pub requests: Vec<usize>,
    /// `(a, b)`: a comes before b.
    pub before: Vec<(usize, usize)>,
}

impl Problem {
    /// Events that must have come before `event`.
    fn needs(&self, event: usize) -> Set {
        let needed = self.before.iter().filter(|(_, after)| *after == event);
        needed.fold(0, |set, (before, _)| set | 1 << before)
    }

    /// Events that come before `event` in every admissible order, in the file's order.
    pub fn always_before(&self, event: usize) -> Vec<usize> {
        let mut all = 0;
        let mut open = vec![event];
        while let Some(event) = open.pop() {
            let new = self.needs(event) & !all;
            all |= new;
            open.extend((0..self.number).filter(|other| new & 1 << other != 0));
        }
        (0..self.number).filter(|other| all & 1 << other != 0).collect()
    }

    fn may_come(&self, event: usize, done: Set) -> bool {
        done & 1 << event == 0 && self.needs(event) & !done == 0
    }

    /// All admissible orders, counted.
    pub fn count(&self) -> u128 {
        let all = (1_u64 << self.number) - 1;
        let mut known = HashMap::new();
        self.count_from(0, u32::try_from(all).unwrap_or(u32::MAX), &mut known)
    }

    fn count_from(&self, done: Set, all: Set, known: &mut HashMap<Set, u128>) -> u128 {
        if done == all {
            return 1;
        }
        if let Some(number) = known.get(&done) {
            return *number;
        }
        let next = (0..self.number).filter(|event| self.may_come(*event, done));
        let number = next
            .map(|event| self.count_from(done | 1 << event, all, known))
            .sum();
        known.insert(done, number);
        number
    }

    /// One order of each kind; events that no request comes after are last.
    pub fn kinds(&self) -> Vec<Vec<usize>> {
        let mut found = BTreeSet::new();
        self.extend(&mut Vec::new(), 0, &mut found);
        found.into_iter().collect()
    }

    /// Adds, to an order that ends in a request, every set of events that can come before the next one.
    fn extend(&self, order: &mut Vec<usize>, done: Set, found: &mut BTreeSet<Vec<usize>>) {
        let left: Vec<usize> = self
            .requests
            .iter()
            .copied()
            .filter(|request| done & 1 << request == 0)
            .collect();
        if left.is_empty() {
            let mut whole = order.clone();
            self.finish(&mut whole, done);
            found.insert(whole);
            return;
        }
        for steps in self.advances(done) {
            let now = steps.iter().fold(done, |set, event| set | 1 << event);
            for request in left
                .iter()
                .copied()
                .filter(|request| self.may_come(*request, now))
            {
                let length = order.len();
                order.extend(&steps);
                order.push(request);
                self.extend(order, now | 1 << request, found);
                order.truncate(length);
            }
        }
    }

    /// The sets of events, without requests, that can come next, each in an order that the constraints admit.
    fn advances(&self, done: Set) -> Vec<Vec<usize>> {
        let mut sets: HashMap<Set, Vec<usize>> = HashMap::from([(done, Vec::new())]);
        let mut open = vec![done];
        while let Some(set) = open.pop() {
            let steps = sets[&set].clone();
            for event in (0..self.number).filter(|event| !self.requests.contains(event)) {
                if self.may_come(event, set) && !sets.contains_key(&(set | 1 << event)) {
                    let mut more = steps.clone();
                    more.push(event);
                    sets.insert(set | 1 << event, more);
                    open.push(set | 1 << event);
                }
            }
        }
        let mut all: Vec<(Set, Vec<usize>)> = sets.into_iter().collect();
        all.sort();
        all.into_iter().map(|(set, _)| self.sorted(done, set)).collect()
    }

    /// The events of `set` that are not in `done`, each as early as the constraints let it, in the file's order.
    fn sorted(&self, done: Set, set: Set) -> Vec<usize> {
        let mut order = Vec::new();
        let mut now = done;
        while let Some(event) =
            (0..self.number).find(|event| set & 1 << event != 0 && self.may_come(*event, now))
        {
            order.push(event);
            now |= 1 << event;
        }
        order
    }

    fn finish(&self, order: &mut Vec<usize>, done: Set) {
        let all = u32::try_from((1_u64 << self.number) - 1).unwrap_or(u32::MAX);
        order.extend(self.sorted(done, all));
    }

    /// A circle among the constraints, if there is one: its events in order.
    pub fn circle(&self) -> Option<Vec<usize>> {
        let mut done: Set = 0;
        while let Some(event) = (0..self.number).find(|event| self.may_come(*event, done)) {
            done |= 1 << event;
        }
        let stuck = |event: &usize| done & 1 << event == 0;
        // Whatever is left waits for something that is left: following that must come back to itself.
        let mut way = vec![(0..self.number).find(stuck)?];
        loop {
            let last = *way.last()?;
            let (before, _) = self
                .before
                .iter()
                .find(|(before, after)| *after == last && stuck(before))?;
            if let Some(start) = way.iter().position(|event| event == before) {
                let mut circle = way.split_off(start);
                circle.reverse();
                return Some(circle);
            }
            way.push(*before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(number: usize, requests: &[usize], before: &[(usize, usize)]) -> Problem {
        Problem {
            number,
            requests: requests.to_vec(),
            before: before.to_vec(),
        }
    }

    #[test]
    fn orders_of_one_kind_are_one() {
        // Two events and a request: before it none, one, the other, both.
        let free = problem(3, &[2], &[]);
        assert_eq!(free.count(), 6);
        assert_eq!(
            free.kinds(),
            [vec![0, 1, 2], vec![0, 2, 1], vec![1, 2, 0], vec![2, 0, 1]]
        );
        let chained = problem(3, &[2], &[(0, 1)]);
        assert_eq!(chained.count(), 3);
        assert_eq!(chained.kinds(), [vec![0, 1, 2], vec![0, 2, 1], vec![2, 0, 1]]);
    }

    #[test]
    fn constraints_hold_in_every_order() {
        let both = problem(5, &[3, 4], &[(0, 1), (1, 3), (3, 4), (4, 2)]);
        let kinds = both.kinds();
        assert_eq!(both.count(), 1);
        assert_eq!(kinds, [vec![0, 1, 3, 4, 2]]);
        let free = problem(6, &[4, 5], &[(0, 1), (2, 4)]);
        for order in free.kinds() {
            for (before, after) in &free.before {
                let place = |event| order.iter().position(|it| it == event);
                assert!(place(before) < place(after), "{order:?}");
            }
        }
    }

    #[test]
    fn what_always_comes_before_is_what_the_constraints_lead_back_to() {
        let chained = problem(5, &[4], &[(2, 1), (1, 3), (0, 4)]);
        assert_eq!(chained.always_before(3), [1, 2]);
        assert_eq!(chained.always_before(2), [0; 0]);
        assert_eq!(chained.always_before(4), [0]);
    }

    #[test]
    fn a_circle_is_found() {
        assert_eq!(problem(3, &[2], &[(0, 1), (1, 2)]).circle(), None);
        assert_eq!(
            problem(3, &[2], &[(0, 1), (1, 0)]).circle().map(|it| it.len()),
            Some(2)
        );
        assert_eq!(problem(3, &[2], &[(0, 0)]).circle(), Some(vec![0]));
    }
}
