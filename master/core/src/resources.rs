//! The few operations on resources that stories need, and what they mean where the books must balance.

use api::resources::{Format, Invalid, Resource, Resources};
use api::v1;
use prost::Message;
use std::sync::Arc;

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

/// Whether an agent with `total` can have all of this in use: what is shared, however often.
pub(crate) fn fits(total: &Resources, taken: &Resources) -> bool {
    total.contains(&taken.non_shared()) && taken.shared().iter().all(|shared| total.count(shared) > 0)
}

/// What they weigh in protobuf, in bytes.
pub(crate) fn bytes(resources: &Resources) -> usize {
    resources.iter().map(|resource| resource.to_v1(Format::PostRefinement).encoded_len()).sum()
}

/// What an agent has with what was made of what it was configured with in place of that.
pub(crate) fn with_converted(configured: &Resources, converted: &Resources) -> Result<Resources, String> {
    let mut left = configured.clone();
    for item in converted {
        let item = Resources::from_iter([item.clone()]);
        let origin = item.as_configured();
        left = left.checked_sub(&origin).ok_or_else(|| {
            format!("The agent's resources {configured} do not contain {origin}, of which {item} was made")
        })?;
    }
    Ok(left.plus(converted))
}

/// What is an agent's own, and no resource provider's.
pub(crate) fn own(resources: &Resources) -> Resources {
    resources.filter(|resource| resource.provider_id.is_none())
}

/// What resource providers have.
pub(crate) fn provided(resources: &Resources) -> Resources {
    resources.filter(|resource| resource.provider_id.is_some())
}

/// What one resource provider has.
pub(crate) fn of_provider(resources: &Resources, id: &str) -> Resources {
    resources.filter(|resource| resource.provider_id.as_deref() == Some(id))
}

/// Whose these are, if they are a resource provider's: of what an operation takes, all are one's.
pub(crate) fn provider_of(resources: &Resources) -> Option<&Arc<str>> {
    resources.iter().find_map(|resource| resource.provider_id.as_ref())
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
    let resources = Resources::from_v1(messages).map_err(|invalid| match is_of_gpus(&invalid) {
        true => format!("Invalid 'gpus' resource: {}", invalid.why),
        false => invalid.to_string(),
    })?;
    let silent = resources.filter(|resource| resource.allocation_role.is_none());
    let mut all = resources.filter(|resource| resource.allocation_role.is_some());
    all.add(&silent.allocate(role));
    Ok(all)
}

/// Why one of these is no resource, if one is not; how many a resource is of is somebody else's to ask.
pub(crate) fn malformed<'a>(messages: impl IntoIterator<Item = &'a v1::Resource>) -> Option<String> {
    let invalid = messages.into_iter().filter_map(|message| Resource::from_v1(message).err());
    invalid.filter(|invalid| !is_of_gpus(invalid)).map(|invalid| invalid.to_string()).next()
}

/// Whether it is a resource but for this: there is a fraction of a `gpus`.
fn is_of_gpus(invalid: &Invalid) -> bool {
    invalid.why == "The 'gpus' resource must be an unsigned integer"
}

/// As messages between our own processes carry them.
pub(crate) fn to_message(resources: &Resources) -> Vec<v1::Resource> {
    resources.to_v1(Format::PostRefinement)
}
