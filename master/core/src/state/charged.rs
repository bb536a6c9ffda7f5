//! What the limits of roles count, kept as agents change. Only while there are limits: whoever has none does not pay.

use super::Agent;
use crate::roles::each_charge;
use api::resources::{Name, Quantities, role_ancestors};
use imbl::OrdMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sums by role, what is below it included, and by name, in thousandths; None while nobody asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Charged(Option<OrdMap<Arc<str>, OrdMap<Name, i128>>>);

/// What one agent adds, by role without those above, and by name.
pub(super) type Charge = BTreeMap<Arc<str>, BTreeMap<Name, i128>>;

impl Charged {
    /// Whether sums are kept.
    pub(super) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// From now on they are kept, or not.
    pub(super) fn keep<'a>(&mut self, wanted: bool, agents: impl Iterator<Item = &'a Arc<Agent>>) {
        if wanted == self.is_kept() {
            return;
        }
        self.0 = wanted.then(OrdMap::new);
        if wanted {
            agents.for_each(|agent| self.replace(Charge::new(), charge_of(agent)));
        }
    }

    /// What the limits of a role count; None if sums are not kept.
    pub fn of(&self, role: &str) -> Option<Quantities> {
        let sums = self.0.as_ref()?;
        Some(sums.get(role).map(quantities).unwrap_or_default())
    }

    /// The same of every role that has something.
    pub fn all(&self) -> Option<BTreeMap<Arc<str>, Quantities>> {
        let sums = self.0.as_ref()?;
        Some(sums.iter().map(|(role, sums)| (role.clone(), quantities(sums))).collect())
    }

    /// An agent adds something else than before.
    pub(super) fn replace(&mut self, before: Charge, after: Charge) {
        let Some(sums) = &mut self.0 else { return };
        let mut changed = after;
        for (role, names) in before {
            let of = changed.entry(role).or_default();
            names.into_iter().for_each(|(name, milli)| *of.entry(name).or_default() -= milli);
        }
        for (role, names) in changed {
            for (name, milli) in names.into_iter().filter(|(_, milli)| *milli != 0) {
                for above in std::iter::once(&*role).chain(role_ancestors(&role)) {
                    add(sums, above, &name, milli);
                }
            }
        }
    }
}

fn add(sums: &mut OrdMap<Arc<str>, OrdMap<Name, i128>>, role: &str, name: &Name, milli: i128) {
    let mut of = sums.remove(role).unwrap_or_default();
    let sum = of.remove(name).unwrap_or_default() + milli;
    if sum != 0 {
        of.insert(name.clone(), sum);
    }
    if !of.is_empty() {
        sums.insert(role.into(), of);
    }
}

fn quantities(sums: &OrdMap<Name, i128>) -> Quantities {
    let mut quantities = Quantities::default();
    for (name, milli) in sums {
        quantities.add_one(name.clone(), i64::try_from(*milli).unwrap_or(i64::MAX));
    }
    quantities
}

pub(super) fn charge_of(agent: &Agent) -> Charge {
    let mut charge = Charge::new();
    each_charge(agent, |role, resource| {
        let milli = i128::from(resource.quantity_milli());
        match charge.get_mut(role) {
            Some(of) => *of.entry(resource.name.clone()).or_default() += milli,
            None => {
                charge.insert(role.into(), BTreeMap::from([(resource.name.clone(), milli)]));
            }
        }
    });
    charge
}
