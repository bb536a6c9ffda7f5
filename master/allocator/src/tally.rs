//! What somebody holds.

use crate::amounts::Amounts;
use crate::ids::AgentKey;
use api::resources::{Resource, Resources};
use std::collections::BTreeMap;

/// Whether somebody holds more of something than before, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    More,
    Less,
}

impl Way {
    /// `of`, with `by` more or less.
    pub(crate) fn count(self, of: u64, by: u64) -> u64 {
        match self {
            Way::More => of + by,
            Way::Less => of.saturating_sub(by),
        }
    }
}

/// A sum over agents, in which a shared resource of an agent counts once however often it is held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    sum: Amounts,
    copies: BTreeMap<(AgentKey, Resource), u32>,
}

impl Tally {
    /// The sum.
    pub fn sum(&self) -> &Amounts {
        &self.sum
    }

    fn change(&mut self, agent: AgentKey, part: &Part, way: Way) {
        match way {
            Way::More => self.add(agent, part),
            Way::Less => self.sub(agent, part),
        }
    }

    fn add(&mut self, agent: AgentKey, part: &Part) {
        self.sum.add(&part.plain);
        for resource in &part.shared {
            let copies = self.copies.entry((agent, single(resource))).or_insert(0);
            if *copies == 0 {
                self.sum.count(resource);
            }
            *copies += resource.copies;
        }
    }

    fn sub(&mut self, agent: AgentKey, part: &Part) {
        self.sum.sub(&part.plain);
        for resource in &part.shared {
            let key = (agent, single(resource));
            let Some(copies) = self.copies.get_mut(&key) else { continue };
            *copies = copies.saturating_sub(resource.copies);
            if *copies == 0 {
                self.copies.remove(&key);
                let mut gone = Amounts::default();
                gone.count(resource);
                self.sum.sub(&gone);
            }
        }
    }

    /// So much more or less of what uses up quota.
    pub(crate) fn change_use(&mut self, agent: AgentKey, charge: &Charge, way: Way) {
        self.change(agent, &charge.unreserved, way);
    }

    /// Takes all of another tally away, which was counted in this one too.
    pub(crate) fn sub_all(&mut self, other: &Tally) {
        let mut plain = other.sum.clone();
        for ((agent, resource), copies) in &other.copies {
            let mut once = Amounts::default();
            once.count(resource);
            plain.sub(&once);
            let shared = vec![Resource { copies: *copies, ..resource.clone() }];
            self.sub(*agent, &Part { plain: Amounts::default(), shared });
        }
        self.sum.sub(&plain);
    }
}

fn single(resource: &Resource) -> Resource {
    Resource { copies: 1, ..resource.clone() }
}

/// Resources as tallies count them.
#[derive(Clone, Debug, Default)]
struct Part {
    plain: Amounts,
    shared: Vec<Resource>,
}

impl Part {
    fn count(&mut self, resource: &Resource) {
        if resource.shared { self.shared.push(resource.clone()) } else { self.plain.count(resource) }
    }
}

/// Scalars on their way into tallies or out of them, by what they count as.
#[derive(Clone, Debug, Default)]
pub struct Charge {
    all: Part,
    /// Neither reserved nor revocable: what uses up quota.
    unreserved: Part,
    reserved: Part,
}

impl Charge {
    /// What these resources count for.
    pub fn of(resources: &Resources) -> Charge {
        let mut charge = Charge::default();
        for resource in resources {
            charge.all.count(resource);
            if !resource.reservations.is_empty() {
                charge.reserved.count(resource);
            } else if !resource.revocable {
                charge.unreserved.count(resource);
            }
        }
        charge
    }
}

/// What a role or a framework holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Everything.
    pub all: Tally,
    /// What is neither reserved nor revocable.
    pub unreserved: Tally,
    /// What is reserved.
    pub reserved: Tally,
}

impl Held {
    pub(crate) fn change(&mut self, agent: AgentKey, charge: &Charge, way: Way) {
        self.all.change(agent, &charge.all, way);
        self.unreserved.change(agent, &charge.unreserved, way);
        self.reserved.change(agent, &charge.reserved, way);
    }

    pub(crate) fn sub_all(&mut self, other: &Held) {
        self.all.sub_all(&other.all);
        self.unreserved.sub_all(&other.unreserved);
        self.reserved.sub_all(&other.reserved);
    }
}
