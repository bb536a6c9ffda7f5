//! What is told of the book, under the names that Mesos gives it.

use super::Book;
use crate::amounts::Amounts;
use api::resources::Name;
use std::collections::{BTreeMap, BTreeSet};

/// A number of a metric, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Above.
    pub numerator: u128,
    /// Below, at least 1.
    pub denominator: u128,
}

fn milli(milli: i128) -> Figure {
    Figure { numerator: milli.unsigned_abs(), denominator: 1000 }
}

impl Book {
    /// All figures, by key.
    pub fn metrics(&self) -> BTreeMap<String, Figure> {
        let mut figures = BTreeMap::new();
        let mut taken = Amounts::default();
        for agent in self.agents.values() {
            for holding in agent.holdings.values() {
                taken.add(&Amounts::of_scalars(&holding.all()));
            }
        }
        for name in [Name::Cpus, Name::Mem, Name::Disk] {
            let key = |what| format!("allocator/mesos/resources/{}/{what}", name.as_str());
            figures.insert(key("total"), milli(self.tree.totals().get(&name)));
            figures.insert(key("offered_or_allocated"), milli(taken.get(&name)));
        }
        for role in self.tree.clients() {
            let (numerator, denominator) = self.tree.share(role).map_or((0, 1), |share| share.parts());
            let figure = Figure { numerator, denominator };
            figures.insert(format!("allocator/mesos/roles/{role}/shares/dominant"), figure);
        }
        let mut all = Amounts::default();
        for role in self.tree.known() {
            let filters = self.tree.id(role).map_or(0, |id| self.filters_of(id));
            let figure = Figure { numerator: filters as u128, denominator: 1 };
            figures.insert(format!("allocator/mesos/offer_filters/roles/{role}/active"), figure);
            let consumed = self.tree.consumed_for_good(role);
            for (name, amount) in consumed.iter() {
                figures.insert(quota_key(role, &name, "consumed"), milli(amount));
            }
            if !role.contains('/') {
                all.add(&consumed);
            }
        }
        // Of all roles together: the root of the tree has no name.
        for (name, amount) in all.iter() {
            figures.insert(quota_key("", &name, "consumed"), milli(amount));
        }
        for (role, quota) in self.tree.quotas() {
            let mut names: BTreeSet<Name> = BTreeSet::new();
            for (name, amount) in quota.guarantees.iter() {
                figures.insert(quota_key(role, &name, "guarantee"), milli(amount));
                names.insert(name);
            }
            for (name, amount) in quota.limits.iter() {
                figures.insert(quota_key(role, name, "limit"), milli(amount.into()));
                names.insert(name.clone());
            }
            for name in names {
                let held = self.tree.held(role).map_or(0, |held| held.get(&name));
                figures.insert(quota_key(role, &name, "offered_or_allocated"), milli(held));
            }
        }
        figures
    }
}

fn quota_key(role: &str, name: &Name, what: &str) -> String {
    format!("allocator/mesos/quota/roles/{role}/resources/{}/{what}", name.as_str())
}
