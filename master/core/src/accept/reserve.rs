//! RESERVE and UNRESERVE: one reservation more or less on the stack of resources; and for operators, one stack in place of
//! another.

use super::convert::{No, Wish, check_list, messages, sum};
use super::rules;
use api::resources::{Resource, Resources};
use api::v1;
use api::v1::offer::operation;

/// What it takes and what it makes; the operation as it was understood goes into `info`.
pub(super) fn reserve(
    wish: &Wish<'_>,
    body: &operation::Reserve,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    let (resources, source) = (wish.read(&body.resources)?, wish.read(&body.source)?);
    if !source.is_empty() && wish.framework.is_some() {
        let why = "Reservation updates are not yet implemented for the scheduler API.";
        return Err(No::Malformed(why.to_owned()));
    }
    rules::any(&resources).map_err(|why| No::Invalid(format!("Invalid resources: {why}")))?;
    rules::any(&source).map_err(|why| No::Invalid(format!("Invalid source: {why}")))?;
    if !source.is_empty() {
        check_update(&source, &resources)?;
    }
    check_list(&resources)?;
    resources.iter().try_for_each(|resource| check(wish, resource))?;
    wish.check_one_role(&resources, "reservation")?;
    let produced = sum(&resources);
    let consumed = if source.is_empty() { produced.pop_reservation() } else { sum(&source) };
    info.reserve = Some(operation::Reserve { source: messages(&source), resources: messages(&resources) });
    Ok((consumed, produced))
}

/// A reservation in place of another: of the same amounts, each of them uniform.
fn check_update(source: &[Resource], target: &[Resource]) -> Result<(), No> {
    let uniform = |what: &str, resources: &[Resource]| {
        let Some(first) = resources.first() else {
            return Err(No::Invalid(format!("Invalid {what}: Resource cannot be empty")));
        };
        if resources.iter().any(|other| other.reservations != first.reservations) {
            let mixed = sum(resources);
            return Err(No::Invalid(format!("Invalid {what}: Mixed reservations are not supported{mixed}")));
        }
        Ok(())
    };
    uniform("source", source)?;
    uniform("resources", target)?;
    let (from, to) = (sum(source).without_reservations(), sum(target).without_reservations());
    if from != to {
        return Err(No::Invalid(format!(
            "Source and target resources should refer to identical resource quantities: {from} vs. {to}"
        )));
    }
    Ok(())
}

fn check(wish: &Wish<'_>, resource: &Resource) -> Result<(), No> {
    let Some(top) = resource.reservations.last().filter(|top| top.dynamic) else {
        return Err(No::Invalid(format!("Resource {resource} is not dynamically reserved")));
    };
    wish.check_stack(resource, "Resource", "reserved")?;
    if let Some(principal) = wish.principal {
        match top.principal.as_deref() {
            None => {
                return Err(No::Invalid(format!(
                    "A reserve operation was attempted by principal '{principal}', but there is a reserved resource in \
                     the request with no principal set"
                )));
            }
            Some(own) if own != principal => {
                return Err(No::Invalid(format!(
                    "A reserve operation was attempted by authenticated principal '{principal}', which does not match \
                     a reserved resource in the request with principal '{own}'"
                )));
            }
            Some(_) => {}
        }
    }
    let Some((framework, _)) = wish.framework else {
        if resource.allocation_role.is_some() {
            let why = "A reserve operation was attempted with an allocated resource, but the operator API only allows \
                       reservations to be made to unallocated resources";
            return Err(No::Invalid(why.to_owned()));
        }
        return Ok(());
    };
    let allocated = resource.allocation_role.as_deref().unwrap_or("*");
    if *top.role != *allocated {
        return Err(No::Invalid(format!(
            "A reserve operation was attempted for a resource with role '{}', but the resource was allocated to role \
             '{allocated}'",
            top.role
        )));
    }
    if !framework.roles.contains_key(allocated) {
        let roles: Vec<&str> = framework.roles.keys().map(|role| &**role).collect();
        return Err(No::Invalid(format!(
            "A reserve operation was attempted for a resource allocated to role '{allocated}', but the framework only \
             has roles '{{ {} }}'",
            roles.join(", ")
        )));
    }
    Ok(())
}

/// What it takes and what it makes; the operation as it was understood goes into `info`.
pub(super) fn unreserve(
    wish: &Wish<'_>,
    body: &operation::Unreserve,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    let resources = wish.read(&body.resources)?;
    check_list(&resources)?;
    for resource in &resources {
        if !resource.is_dynamically_reserved() {
            return Err(No::Invalid(format!("Resource {resource} is not dynamically reserved")));
        }
        if resource.is_persistent_volume() {
            return Err(No::Invalid(format!(
                "A dynamically reserved persistent volume {resource} cannot be unreserved directly. Please destroy the \
                 persistent volume first then unreserve the resource"
            )));
        }
    }
    let consumed = sum(&resources);
    let produced = consumed.pop_reservation();
    info.unreserve = Some(operation::Unreserve { resources: messages(&resources) });
    Ok((consumed, produced))
}
