//! What an operation makes of what, and whether it may: the rules that ACCEPT and operators' calls share. Each kind has
//! its own in the files beside.

use super::{disk, reserve, resize, rules, volume};
use crate::state::{Agent, Framework};
use api::resources::{Format, Resource, Resources};
use api::v1;
use api::v1::offer::operation::Type;
use std::sync::Arc;

/// Who wants it, and of which agent.
pub(crate) struct Wish<'a> {
    pub(crate) agent: &'a Agent,
    /// A framework, and for which of its roles; None for an operator.
    pub(crate) framework: Option<(&'a Framework, &'a Arc<str>)>,
    /// Whose name what is made must bear.
    pub(crate) principal: Option<&'a str>,
}

/// What an operation makes of what; with allocation roles, if a framework wants it.
#[derive(Debug)]
pub(crate) struct Conversion {
    pub(crate) kind: Type,
    /// The operation with its resources as they were understood.
    pub(crate) info: v1::offer::Operation,
    pub(crate) consumed: Resources,
    /// Nothing, if only a resource provider can say it.
    pub(crate) produced: Resources,
}

/// Whether only whoever does it can say what it makes. Then nothing is made of what it takes until they do.
pub(crate) fn is_open(kind: Type) -> bool {
    matches!(kind, Type::CreateDisk | Type::DestroyDisk)
}

/// Why an operation cannot be, whatever there is.
#[derive(Debug)]
pub(crate) enum No {
    /// What it names is nothing.
    Malformed(String),
    /// What it wants may not be.
    Invalid(String),
}

impl Wish<'_> {
    /// What this operation would make of what.
    pub(crate) fn judge(&self, kind: Type, operation: &v1::offer::Operation) -> Result<Conversion, No> {
        let absent = |field: &str| {
            let kind = kind.as_str_name();
            No::Malformed(format!("A {kind} offer operation must have the Offer.Operation.{field} field set."))
        };
        let mut info =
            v1::offer::Operation { r#type: Some(kind as i32), id: operation.id.clone(), ..Default::default() };
        let (consumed, produced) = match kind {
            Type::Reserve => {
                reserve::reserve(self, operation.reserve.as_ref().ok_or_else(|| absent("reserve"))?, &mut info)
            }
            Type::Unreserve => {
                reserve::unreserve(self, operation.unreserve.as_ref().ok_or_else(|| absent("unreserve"))?, &mut info)
            }
            Type::Create => volume::create(self, operation.create.as_ref().ok_or_else(|| absent("create"))?, &mut info),
            Type::Destroy => {
                volume::destroy(self, operation.destroy.as_ref().ok_or_else(|| absent("destroy"))?, &mut info)
            }
            Type::GrowVolume => {
                resize::grow(self, operation.grow_volume.as_ref().ok_or_else(|| absent("grow_volume"))?, &mut info)
            }
            Type::ShrinkVolume => resize::shrink(
                self,
                operation.shrink_volume.as_ref().ok_or_else(|| absent("shrink_volume"))?,
                &mut info,
            ),
            Type::CreateDisk => {
                disk::create(self, operation.create_disk.as_ref().ok_or_else(|| absent("create_disk"))?, &mut info)
            }
            Type::DestroyDisk => {
                disk::destroy(self, operation.destroy_disk.as_ref().ok_or_else(|| absent("destroy_disk"))?, &mut info)
            }
            Type::Unknown | Type::Launch | Type::LaunchGroup => {
                Err(No::Malformed(format!("{} converts nothing", kind.as_str_name())))
            }
        }?;
        if consumed.is_empty() || (produced.is_empty() && !is_open(kind)) {
            return Err(No::Invalid("Every amount in it is zero".to_owned()));
        }
        Ok(Conversion { kind, info, consumed, produced })
    }

    /// Reads resources as they were meant: for a framework, what does not say to whom it is allocated is the offer's.
    pub(super) fn read(&self, messages: &[v1::Resource]) -> Result<Vec<Resource>, No> {
        rules::lengths(messages).map_err(No::Malformed)?;
        messages.iter().map(|message| self.read_one(message)).collect()
    }

    pub(super) fn read_one(&self, message: &v1::Resource) -> Result<Resource, No> {
        rules::lengths(std::slice::from_ref(message)).map_err(No::Malformed)?;
        let mut resource = Resource::from_v1(message).map_err(|invalid| No::Malformed(invalid.to_string()))?;
        if let Some((_, role)) = self.framework {
            resource.allocation_role.get_or_insert_with(|| role.clone());
        }
        Ok(resource)
    }

    /// What this agent cannot have for want of a capability.
    pub(super) fn check_stack(&self, resource: &Resource, what: &str, done: &str) -> Result<(), No> {
        let role = resource.reservation_role().unwrap_or("*");
        if !self.agent.can("HIERARCHICAL_ROLE") && role.contains('/') {
            return Err(No::Invalid(format!(
                "{what} {resource} with reservation for hierarchical role '{role}' cannot be {done} on an agent without \
                 HIERARCHICAL_ROLE capability"
            )));
        }
        if !self.agent.can("RESERVATION_REFINEMENT") && resource.reservations.len() > 1 {
            return Err(No::Invalid(format!(
                "{what} {resource} with reservation refinement cannot be {done} on an agent without \
                 RESERVATION_REFINEMENT capability"
            )));
        }
        Ok(())
    }

    /// For a framework: all is allocated to one role.
    pub(super) fn check_one_role(&self, resources: &[Resource], what: &str) -> Result<(), No> {
        if self.framework.is_none() {
            return Ok(());
        }
        rules::one_allocation(resources).map_err(|why| No::Invalid(format!("Invalid {what} resources: {why}")))
    }
}

/// Checks shared by all kinds that name a list.
pub(super) fn check_list(resources: &[Resource]) -> Result<(), No> {
    let invalid = |why: String| No::Invalid(format!("Invalid resources: {why}"));
    rules::any(resources).map_err(invalid)?;
    rules::one_provider(resources).map_err(invalid)
}

/// A volume lies where its role says: with another reservation its files would not be found.
pub(crate) fn check_volumes_stay(made: &Conversion) -> Result<(), String> {
    let moved = made.consumed.persistent_volumes();
    if made.kind != Type::Reserve || moved.is_empty() {
        return Ok(());
    }
    Err(format!(
        "A persistent volume {moved} cannot be reserved for another role. Please destroy the persistent volume first then \
         reserve the resource"
    ))
}

/// As messages between our own processes carry them.
pub(super) fn messages(resources: &[Resource]) -> Vec<v1::Resource> {
    resources.iter().map(|resource| resource.to_v1(Format::PostRefinement)).collect()
}

/// The sum.
pub(super) fn sum(resources: &[Resource]) -> Resources {
    resources.iter().cloned().collect()
}

/// Why what an operation takes is not to be had of that: the first that is missing. A volume and what is to be added to it
/// are named together.
pub(crate) fn missing(held: &Resources, made: &Conversion) -> Option<String> {
    let wanted = &made.consumed;
    if held.contains(wanted) {
        return None;
    }
    if made.kind == Type::GrowVolume {
        let (volume, addition) = (wanted.persistent_volumes(), wanted.filter(|one| !one.is_persistent_volume()));
        return Some(format!("{held} does not contain {volume}; {addition}"));
    }
    let first = wanted.iter().find(|one| !held.contains(&Resources::from_iter([(*one).clone()])));
    let first = first.map_or_else(|| wanted.clone(), |one| Resources::from_iter([one.clone()]));
    Some(format!("{held} does not contain {first}"))
}
