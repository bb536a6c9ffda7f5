//! What the agent was configured to, beside what it was before and what the masters made of it.

use api::resources::{Resource, Resources, Value};
use api::v1::{self, AgentInfo, Attribute};

/// The resources that there are: the configured ones, with those that were reserved dynamically or made volumes in the place
/// of what they were made of.
///
/// # Errors
/// A sentence that names the first for which there is no room.
pub fn total(configured: &Resources, checkpointed: &[v1::Resource]) -> Result<Resources, String> {
    let mut total = configured.clone();
    for message in checkpointed {
        let read = |message: &v1::Resource| Resource::from_v1(message).map_err(|error| error.to_string());
        let (resource, origin) = (read(message)?, read(&origin(message))?);
        let room = total.checked_sub(&Resources::from_iter([origin.clone()]));
        let Some(mut rest) = room else {
            return Err(format!("{resource} is made of {origin}, of which there is too little left in {total}"));
        };
        rest.add_one(resource);
        total = rest;
    }
    Ok(total)
}

/// What a resource was made of: only static reservations and disks can be configured.
fn origin(resource: &v1::Resource) -> v1::Resource {
    let mut origin = resource.clone();
    let is_static = |reservation: &v1::resource::ReservationInfo| {
        reservation.r#type() == v1::resource::reservation_info::Type::Static
    };
    origin.reservations.truncate(1);
    origin.reservations.retain(is_static);
    if let Some(disk) = &mut origin.disk {
        (disk.persistence, disk.volume) = (None, None);
    }
    origin.disk = origin.disk.filter(|disk| disk.source.is_some());
    origin.shared = None;
    origin
}

/// Which changes of its description an agent may keep its id with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// None.
    Equal,
    /// More resources, wider ranges, more attributes; a domain where there was none.
    Additive,
}

impl Policy {
    /// Whether the agent that was `before` may go on as `now`.
    ///
    /// # Errors
    /// A sentence that names the first difference that may not be.
    pub fn check(self, before: &AgentInfo, now: &AgentInfo) -> Result<(), String> {
        match self {
            Policy::Equal => equal(before, now),
            Policy::Additive => additive(before, now),
        }
    }
}

fn resources(info: &AgentInfo) -> Result<Resources, String> {
    Resources::from_v1(&info.resources).map_err(|error| error.to_string())
}

fn changed(what: &str, before: impl std::fmt::Display, now: impl std::fmt::Display) -> String {
    format!("the {what} changed from '{before}' to '{now}'")
}

fn equal(before: &AgentInfo, now: &AgentInfo) -> Result<(), String> {
    names(before, now)?;
    if before.domain != now.domain {
        return Err(changed("domain", domain(before), domain(now)));
    }
    let (old, new) = (resources(before)?, resources(now)?);
    if old != new {
        return Err(changed("resources", old, new));
    }
    let have = |all: &[Attribute], one: &Attribute| all.iter().filter(|other| *other == one).count();
    let is_equal = before.attributes.len() == now.attributes.len()
        && before.attributes.iter().all(|one| have(&before.attributes, one) == have(&now.attributes, one));
    if is_equal { Ok(()) } else { Err(changed("attributes", attributes(before), attributes(now))) }
}

fn additive(before: &AgentInfo, now: &AgentInfo) -> Result<(), String> {
    names(before, now)?;
    if before.domain.is_some() && before.domain != now.domain {
        return Err(changed("domain", domain(before), domain(now)));
    }
    let new = resources(now)?;
    for old in &resources(before)? {
        still_there(old, &new)?;
    }
    before.attributes.iter().try_for_each(|old| still_has(old, &now.attributes))
}

fn names(before: &AgentInfo, now: &AgentInfo) -> Result<(), String> {
    if before.hostname != now.hostname {
        return Err(changed("hostname", &before.hostname, &now.hostname));
    }
    // One that nobody chose is not part of what was configured.
    match (before.port, now.port) {
        (Some(old), Some(new)) if old != new => Err(changed("port", old, new)),
        _ => Ok(()),
    }
}

/// As much of it as before, or more.
fn still_there(old: &Resource, new: &Resources) -> Result<(), String> {
    let is_same = |one: &&Resource| {
        let key = |it: &Resource| {
            (it.reservations.clone(), it.name.clone(), it.disk.clone(), it.revocable, it.shared, it.provider_id.clone())
        };
        key(one) == key(old)
    };
    let Some(found) = new.iter().find(is_same) else { return Err(format!("the resource '{old}' is gone")) };
    let is_enough = match (&old.value, &found.value) {
        (Value::Scalar(_), Value::Scalar(_)) => old.milli() <= found.milli(),
        _ => Resources::from_iter([found.clone()]).contains(&Resources::from_iter([old.clone()])),
    };
    if is_enough { Ok(()) } else { Err(format!("the resource '{old}' became less: '{found}'")) }
}

fn still_has(old: &Attribute, now: &[Attribute]) -> Result<(), String> {
    let name = &old.name;
    let Some(new) = now.iter().find(|new| new.name == *name) else {
        return Err(format!("the attribute '{name}' is gone"));
    };
    if old.r#type != new.r#type {
        return Err(format!("the attribute '{name}' is of another type"));
    }
    let ranges = |one: &Attribute| {
        let ranges = one.ranges.iter().flat_map(|ranges| &ranges.range).map(|range| (range.begin, range.end));
        Resources::from_iter([Resource::new("ranges", Value::ranges(ranges))])
    };
    let is_kept = match (&old.ranges, &new.ranges) {
        (Some(_), Some(_)) => ranges(new).contains(&ranges(old)),
        _ => old.scalar == new.scalar && old.text == new.text && old.set == new.set,
    };
    if is_kept { Ok(()) } else { Err(format!("the attribute '{name}' has another value")) }
}

fn domain(info: &AgentInfo) -> String {
    let fault = info.domain.as_ref().and_then(|domain| domain.fault_domain.as_ref());
    fault.map_or("none".to_owned(), |fault| format!("{}/{}", fault.region.name, fault.zone.name))
}

fn attributes(info: &AgentInfo) -> String {
    api::attributes::to_state_json(&info.attributes).to_string()
}
