//! Which rules no packet can reach, and which rules stand in its way.
//!
//! A rule's conditions are sets of values, so the packets that it takes are a box with a side for each thing that a rule can
//! look at. From the packets that enter a chain, each rule that decides cuts its box off; a rule whose box meets
//! nothing of what is left cannot be reached. What is not known exactly (an unknown condition) cuts off nothing, so that no
//! rule is called dead that is not.

mod space;

use std::collections::{HashMap, HashSet};

use crate::evaluate::{At, Program};
use crate::rule::{Rule, Target};
use crate::ruleset::Hook;

use space::{Region, Space};

/// More pieces than this are not cut: rules that follow then count as reachable.
const MOST_PIECES: usize = 4096;

/// A rule that no packet reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// The rule.
    pub at: At,
    /// Which packets there would have to be.
    pub scope: Scope,
    /// Why.
    pub cause: Cause,
}

/// For which packets a rule is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// For every packet.
    Always,
    /// For every packet that routing sends as usual: only one to a loopback address that does not leave by `lo`
    /// (`SO_BINDTODEVICE`, policy routing) would reach it.
    UsualRouting,
}

/// Why a rule is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// No packet enters its chain.
    NoWayIn,
    /// No packet that enters its chain can be such as it asks for.
    Contradiction,
    /// These rules before it take every packet that it would match.
    Shadowed(Vec<At>),
}

/// The rules that no packet reaches, in the order of chains and rules.
pub fn dead(program: &Program) -> Vec<Dead> {
    let space = Space::of(program);
    let rules = program.chains().flat_map(|(chain, _)| program.entries(chain));
    let region = |at, rule| space.region(program.chain(at).table(), rule);
    let regions: Regions = rules.map(|(at, rule, _)| (at, region(at, rule))).collect();
    let always = Walk::over(program, &space, &regions, Scope::Always);
    let usual = Walk::over(program, &space, &regions, Scope::UsualRouting);
    let mut dead = Vec::new();
    for (chain, _) in program.chains() {
        for (at, _, _) in program.entries(chain) {
            let found = [(&always, Scope::Always), (&usual, Scope::UsualRouting)]
                .into_iter()
                .find(|(walk, _)| !walk.reached.contains(&at));
            if let Some((walk, scope)) = found {
                let cause = walk.cause(at);
                dead.push(Dead { at, scope, cause });
            }
        }
    }
    dead
}

/// The rules that some packet, such as routing usually sends, matches along with the next rule of the chain: where the
/// order of the two can matter.
pub fn meeting(program: &Program) -> Vec<At> {
    let space = Space::of(program);
    let rules = program.chains().flat_map(|(chain, _)| program.entries(chain));
    let region = |at, rule| space.region(program.chain(at).table(), rule);
    let regions: Regions = rules.map(|(at, rule, _)| (at, region(at, rule))).collect();
    let walk = Walk::over(program, &space, &regions, Scope::UsualRouting);
    let all = program.chains().flat_map(|(chain, _)| program.entries(chain));
    all.map(|(at, _, _)| at)
        .filter(|at| walk.with_next.contains(at))
        .collect()
}

/// The packets that each rule admits, and whether it is exactly those.
type Regions = HashMap<At, (Region, bool)>;

/// Which packets came where.
struct Walk<'p> {
    program: &'p Program,
    space: &'p Space,
    regions: &'p Regions,
    /// The rules that some packet matches.
    reached: HashSet<At>,
    /// The rules that some packet matches along with the next one.
    with_next: HashSet<At>,
    /// What entered each chain.
    entered: HashMap<usize, Vec<Region>>,
}

impl<'p> Walk<'p> {
    fn over(program: &'p Program, space: &'p Space, regions: &'p Regions, scope: Scope) -> Self {
        let mut walk = Self {
            program,
            space,
            regions,
            reached: HashSet::new(),
            with_next: HashSet::new(),
            entered: HashMap::new(),
        };
        for hook in Hook::ALL {
            for &base in program.bases(hook) {
                let chain = program.chain_by_number(base);
                walk.chain(base, space.entering(hook, chain, scope), 0);
            }
        }
        walk
    }

    /// Sends packets into a chain; gives those that come back.
    fn chain(&mut self, chain: usize, entering: Vec<Region>, depth: usize) -> Vec<Region> {
        self.entered.entry(chain).or_default().extend(entering.clone());
        let program = self.program;
        let (mut alive, mut back) = (entering, Vec::new());
        let mut entries = program.entries(chain).peekable();
        while let Some((at, rule, jump)) = entries.next() {
            let (region, is_exact) = &self.regions[&at];
            let taken: Vec<Region> = alive.iter().filter_map(|piece| piece.meet(region)).collect();
            if taken.is_empty() {
                continue;
            }
            self.reached.insert(at);
            let next = entries.peek().map(|(next, _, _)| &self.regions[next].0);
            if next.is_some_and(|next| taken.iter().any(|piece| piece.meet(next).is_some())) {
                self.with_next.insert(at);
            }
            let inside = match jump {
                Some(to) if depth < 16 => Some(self.chain(to, taken.clone(), depth + 1)),
                _ => None,
            };
            if *is_exact && alive.len() < MOST_PIECES {
                alive = without(alive, region);
            }
            match (&rule.target, inside) {
                (Target::Jump(_), Some(returned)) => alive.extend(returned),
                (Target::Return, _) => back.extend(taken),
                (Target::Jump(_) | Target::Unknown(_), None) => alive.extend(taken),
                (target, _) => alive.extend(self.space.after(target, taken)),
            }
        }
        back.extend(alive);
        back
    }

    fn cause(&self, at: At) -> Cause {
        let (chain, index) = at.parts();
        let Some(entered) = self.entered.get(&chain).filter(|entered| !entered.is_empty()) else {
            return Cause::NoWayIn;
        };
        let entries: Vec<(At, &Rule, Option<usize>)> = self.program.entries(chain).collect();
        let (wanted, _) = &self.regions[&at];
        let wanted: Vec<Region> = entered.iter().filter_map(|piece| piece.meet(wanted)).collect();
        if wanted.is_empty() {
            return Cause::Contradiction;
        }
        // Every rule before it first; then, from the nearest, without each that the others do not need.
        let mut shadows: Vec<usize> = (0..index).collect();
        for candidate in (0..index).rev() {
            let fewer: Vec<usize> = shadows
                .iter()
                .copied()
                .filter(|each| *each != candidate)
                .collect();
            if self.left_of(wanted.clone(), &entries, &fewer).is_empty() {
                shadows = fewer;
            }
        }
        Cause::Shadowed(shadows.into_iter().map(|index| entries[index].0).collect())
    }

    /// What these rules leave of some packets.
    fn left_of(
        &self,
        mut alive: Vec<Region>,
        entries: &[(At, &Rule, Option<usize>)],
        rules: &[usize],
    ) -> Vec<Region> {
        for &index in rules {
            let (at, rule, jump) = entries[index];
            let (region, is_exact) = &self.regions[&at];
            if !*is_exact || alive.len() >= MOST_PIECES {
                continue;
            }
            let taken: Vec<Region> = alive.iter().filter_map(|piece| piece.meet(region)).collect();
            if taken.is_empty() {
                continue;
            }
            alive = without(alive, region);
            match (&rule.target, jump) {
                (Target::Jump(_), Some(to)) => {
                    let mut inside = Self {
                        program: self.program,
                        space: self.space,
                        regions: self.regions,
                        reached: HashSet::new(),
                        with_next: HashSet::new(),
                        entered: HashMap::new(),
                    };
                    alive.extend(inside.chain(to, taken, 1));
                }
                (Target::Return, _) => {}
                (Target::Jump(_) | Target::Unknown(_), _) => alive.extend(taken),
                (target, _) => alive.extend(self.space.after(target, taken)),
            }
        }
        alive
    }
}

fn without(alive: Vec<Region>, region: &Region) -> Vec<Region> {
    alive.into_iter().flat_map(|piece| piece.minus(region)).collect()
}
