//! Resources as lists show them: totals by name.

use super::json::Json;
use api::resources::{Format, Resource, Resources, Value};
use std::collections::BTreeMap;

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
