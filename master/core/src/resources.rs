//! The few operations on resources that stories need, and what they mean where the books must balance.

use api::resources::{Format, Resources};
use api::v1;

pub(crate) fn add(sum: &mut Resources, more: &Resources) {
    sum.add(more);
}

/// Takes away what was added before.
///
/// # Panics
/// If it was not: the books of an agent do not balance.
pub(crate) fn subtract(sum: &mut Resources, less: &Resources) {
    *sum = match sum.checked_sub(less) {
        Some(left) => left,
        None => panic!("only what was added is taken away: {less} of {sum}"),
    };
}

/// What is left, nothing where there is less.
pub(crate) fn minus(a: &Resources, b: &Resources) -> Resources {
    let mut left = a.clone();
    left.saturating_sub(b);
    left
}

pub(crate) fn contains(a: &Resources, b: &Resources) -> bool {
    a.contains(b)
}

pub(crate) fn unallocated(resources: &Resources) -> Resources {
    resources.unallocate()
}

/// What of an agent's free resources may be offered to a role, allocated to it: unreserved, or reserved for the role or
/// one above it. Oversubscribed resources are not offered.
pub(crate) fn offerable(free: &Resources, role: &str) -> Resources {
    free.available_to(role).non_revocable().allocate(role)
}

/// A message's resources, all allocated to this role where they say nothing else.
pub(crate) fn of_message(messages: &[v1::Resource], role: &str) -> Result<Resources, String> {
    let resources = Resources::from_v1(messages).map_err(|invalid| invalid.to_string())?;
    let silent = resources.filter(|resource| resource.allocation_role.is_none());
    let mut all = resources.filter(|resource| resource.allocation_role.is_some());
    all.add(&silent.allocate(role));
    Ok(all)
}

/// As messages between our own processes carry them.
pub(crate) fn to_message(resources: &Resources) -> Vec<v1::Resource> {
    resources.to_v1(Format::PostRefinement)
}
