//! The frameworks of one role, in the order in which they are next: by dominant share, then by how often they were
//! allocated something, then by key.

use crate::amounts::Amounts;
use crate::dice::Dice;
use crate::ids::{AgentKey, FrameworkKey};
use crate::share::Share;
use crate::tally::{Charge, Held, Way};
use crate::tree::Measure;
use std::collections::{BTreeMap, BTreeSet};

/// Which frameworks are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// All that want offers for the role.
    Active,
    /// Those of them that want something that they did not want in the last run.
    Fresh,
}

const LINES: [Line; 2] = [Line::Active, Line::Fresh];

/// The frameworks of one role.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    members: BTreeMap<FrameworkKey, Member>,
    lines: [BTreeSet<(Share, u64, FrameworkKey)>; 2],
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) held: Held,
    /// How often it was allocated something.
    pub(crate) turns: u64,
    /// It is subscribed to the role; if not, it is here for what it still holds.
    pub(crate) subscribed: bool,
    /// On how many agents it holds something.
    pub(crate) holdings: usize,
    share: Share,
    active: bool,
    fresh: bool,
}

impl Member {
    fn is_in(&self, line: Line) -> bool {
        self.active && (line == Line::Active || self.fresh)
    }
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn is_idle(&self, line: Line) -> bool {
        self.lines[line as usize].is_empty()
    }

    pub(crate) fn get(&self, key: FrameworkKey) -> Option<&Member> {
        self.members.get(&key)
    }

    /// Everybody, in the order of keys.
    pub(crate) fn members(&self) -> impl Iterator<Item = (FrameworkKey, &Member)> {
        self.members.iter().map(|(key, member)| (*key, member))
    }

    /// A member, made if it is none; it is not active then.
    pub(crate) fn enter(&mut self, key: FrameworkKey) -> &mut Member {
        self.members.entry(key).or_insert_with(|| Member {
            held: Held::default(),
            turns: 0,
            subscribed: false,
            holdings: 0,
            share: Share::NONE,
            active: false,
            fresh: false,
        })
    }

    pub(crate) fn leave(&mut self, key: FrameworkKey) -> Option<Member> {
        self.change(key, |member| member.active = false);
        self.members.remove(&key)
    }

    /// Changes a member, and its place.
    pub(crate) fn change<R>(&mut self, key: FrameworkKey, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let member = self.members.get_mut(&key)?;
        let was = LINES.map(|line| member.is_in(line));
        let before = (member.share, member.turns, key);
        let result = change(member);
        let after = (member.share, member.turns, key);
        for (line, was) in LINES.into_iter().zip(was) {
            let is = member.is_in(line);
            if was && (!is || before != after) {
                self.lines[line as usize].remove(&before);
            }
            if is && (!was || before != after) {
                self.lines[line as usize].insert(after);
            }
        }
        Some(result)
    }

    /// Whether it was active before.
    pub(crate) fn set_active(&mut self, key: FrameworkKey, active: bool) -> bool {
        self.change(key, |member| std::mem::replace(&mut member.active, active)).unwrap_or_default()
    }

    pub(crate) fn set_fresh(&mut self, key: FrameworkKey, fresh: bool) {
        self.change(key, |member| member.fresh = fresh);
    }

    /// Nobody is fresh any more.
    pub(crate) fn calm(&mut self) {
        let fresh: Vec<FrameworkKey> =
            self.members.iter().filter(|(_, member)| member.fresh).map(|(key, _)| *key).collect();
        fresh.into_iter().for_each(|key| self.set_fresh(key, false));
    }

    pub(crate) fn charge(
        &mut self,
        key: FrameworkKey,
        agent: AgentKey,
        charge: &Charge,
        turns: u64,
        way: Way,
        measure: &Measure<'_>,
    ) {
        self.change(key, |member| {
            member.held.change(agent, charge, way);
            member.turns = way.count(member.turns, turns);
            member.share = measure.share(member.held.all.sum());
        });
    }

    /// The cluster is larger or smaller: every share is another one.
    pub(crate) fn measure_again(&mut self, measure: &Measure<'_>) {
        let holders = self.members.iter().filter(|(_, member)| !member.held.all.sum().is_zero());
        let holders: Vec<FrameworkKey> = holders.map(|(key, _)| *key).collect();
        for key in holders {
            self.change(key, |member| member.share = measure.share(member.held.all.sum()));
        }
    }

    /// Who is next, one after the other.
    pub(crate) fn order(&self, line: Line) -> impl Iterator<Item = FrameworkKey> + '_ {
        self.lines[line as usize].iter().map(|(_, _, key)| *key)
    }

    /// Those of them that are active, the next one first.
    pub(crate) fn in_order(&self, keys: impl Iterator<Item = FrameworkKey>) -> Vec<FrameworkKey> {
        let mut places: Vec<(Share, u64, FrameworkKey)> = keys
            .filter_map(|key| Some((key, self.members.get(&key).filter(|member| member.active)?)))
            .map(|(key, member)| (member.share, member.turns, key))
            .collect();
        places.sort_unstable();
        places.into_iter().map(|(_, _, key)| key).collect()
    }

    /// The same in any order.
    pub(crate) fn shuffled(&self, line: Line, dice: &mut Dice) -> Vec<FrameworkKey> {
        let mut keys: Vec<FrameworkKey> =
            self.members.iter().filter(|(_, member)| member.is_in(line)).map(|(key, _)| *key).collect();
        dice.shuffle(&mut keys);
        keys
    }

    /// What all hold.
    pub(crate) fn held(&self, key: FrameworkKey) -> Option<&Amounts> {
        self.members.get(&key).map(|member| member.held.all.sum())
    }
}
