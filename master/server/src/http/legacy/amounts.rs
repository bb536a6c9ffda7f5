//! Resources as lists show them: totals by name, and what each role has.

use super::json::Json;
use api::resources::{Format, Resource, Resources, Value};
use api::v1;
use master_core::ids::FrameworkKey;
use master_core::state::State;
use std::collections::{BTreeMap, BTreeSet};

/// Scalars by name, in thousandths.
pub type Quantities = BTreeMap<String, i64>;

/// Thousandths as the number that clients see.
pub fn units(milli: i64) -> f64 {
    milli as f64 / 1000.0
}

/// A field that holds totals, as `{"disk":0.0,"mem":32.0,"gpus":0.0,"cpus":0.1,"ports":"[1-2]"}`.
pub fn field(json: &mut Json, name: &str, resources: &Resources) {
    json.key(name).written(|out| resources.write_state_json(out));
}

/// A field that lists every single resource.
pub fn full(json: &mut Json, name: &str, resources: &Resources) {
    json.array_at(name, |json| {
        resources.iter().for_each(|resource| json.message(&resource.to_v1(Format::Endpoint)));
    });
}

/// What each role has reserved.
pub fn reserved(resources: &Resources) -> Vec<(String, Resources)> {
    let roles = resources.reservation_roles();
    roles.into_iter().map(|role| (role.to_owned(), resources.reserved_by(role))).collect()
}

/// The role that resources are given to.
pub fn role(resources: &Resources) -> Option<String> {
    resources.iter().find_map(|resource| resource.allocation_role.as_deref()).map(str::to_owned)
}

/// What may not be taken back at any time.
pub fn is_firm(resource: &Resource) -> bool {
    !resource.revocable
}

/// Adds those scalars of `resources` that `wanted` wants.
pub fn tally(sum: &mut Quantities, resources: &Resources, wanted: impl Fn(&Resource) -> bool) {
    let scalars = resources.iter().filter(|resource| matches!(resource.value, Value::Scalar(_)));
    for resource in scalars.filter(|resource| wanted(resource)) {
        match sum.get_mut(resource.name.as_str()) {
            Some(milli) => *milli = milli.saturating_add(resource.milli()),
            None => {
                sum.insert(resource.name.as_str().to_owned(), resource.milli());
            }
        }
    }
}

/// A field that holds scalars; those that are zero are left out.
pub fn quantities(json: &mut Json, name: &str, quantities: &Quantities) {
    json.object_at(name, |json| {
        for (name, milli) in quantities.iter().filter(|(_, milli)| **milli != 0) {
            json.double_at(name, units(*milli));
        }
    });
}

/// Scalars as plain v1 resources.
pub fn plain(quantities: &Quantities) -> Vec<v1::Resource> {
    let scalars = quantities.iter().filter(|(_, milli)| **milli > 0);
    scalars
        .map(|(name, milli)| Resource::new(name.as_str(), Value::Scalar(*milli)).to_v1(Format::PostRefinement))
        .collect()
}

/// What belongs to a role.
#[derive(Debug, Default)]
pub struct Role {
    /// What tasks and executors hold.
    pub allocated: Quantities,
    /// Of that, what nobody had reserved.
    allocated_unreserved: Quantities,
    /// What offers hold.
    pub offered: Quantities,
    /// What is reserved for it or for a role below it, used or not.
    pub reserved: Quantities,
    /// Who subscribed with it.
    pub frameworks: BTreeSet<FrameworkKey>,
}

impl Role {
    /// What is allocated or offered to it.
    pub fn held(&self) -> Quantities {
        sum(&self.allocated, &self.offered)
    }

    /// What counts against its quota.
    pub fn consumed(&self) -> Quantities {
        sum(&self.reserved, &self.allocated_unreserved)
    }
}

fn sum(a: &Quantities, b: &Quantities) -> Quantities {
    let mut sum = a.clone();
    for (name, milli) in b {
        let both = sum.entry(name.clone()).or_default();
        *both = both.saturating_add(*milli);
    }
    sum
}

/// A role and those above it: `a/b` is itself and below `a`.
fn lineage(role: &str) -> impl Iterator<Item = &str> {
    let above = role.match_indices('/').map(|(end, _)| &role[..end]);
    above.chain(std::iter::once(role))
}

/// Every role that a framework has, or something is reserved for in it or below it, by name.
pub fn roles(state: &State) -> BTreeMap<String, Role> {
    let mut roles: BTreeMap<String, Role> = BTreeMap::new();
    for framework in state.frameworks.live.values() {
        for name in framework.roles.keys() {
            roles.entry(name.to_string()).or_default().frameworks.insert(framework.key);
        }
    }
    for agent in state.agents.live.values() {
        for (name, resources) in reserved(&agent.total) {
            for name in lineage(&name) {
                tally(&mut roles.entry(name.to_owned()).or_default().reserved, &resources, |_| true);
            }
        }
        // One pass over what is held, whoever holds it.
        for resource in &agent.used {
            if let Some(role) = resource.allocation_role.as_deref() {
                let role = roles.entry(role.to_owned()).or_default();
                let one = Resources::from_iter([resource.clone()]);
                tally(&mut role.allocated, &one, |_| true);
                tally(&mut role.allocated_unreserved, &one, |resource| resource.reservation_role().is_none());
            }
        }
    }
    for offer in state.offers.live.values() {
        tally(&mut roles.entry(offer.role.to_string()).or_default().offered, &offer.resources, |_| true);
    }
    roles
}

#[cfg(test)]
mod tests {
    use super::lineage;

    #[test]
    fn what_is_reserved_for_a_role_counts_for_those_above_it() {
        assert_eq!(lineage("a/b/c").collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(lineage("*").collect::<Vec<_>>(), ["*"]);
    }
}
