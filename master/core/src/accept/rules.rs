//! What is wrong with resources, whatever is to become of them: in the order and with the sentences that clients know.

use crate::lengths;
use crate::validate;
use api::limits::{LABELS_BYTES_MAX, NAME_BYTES_MAX, PRINCIPAL_BYTES_MAX};
use api::resources::{Quantities, Resource, Resources};
use api::v1;
use api::v1::volume::Mode;
use std::collections::BTreeSet;

/// What must be true of any resources that a client names.
pub(crate) fn any(resources: &[Resource]) -> Result<(), String> {
    resources.iter().try_for_each(disk).map_err(|why| format!("Invalid DiskInfo: {why}"))?;
    resources.iter().try_for_each(reservation).map_err(|why| format!("Invalid ReservationInfo: {why}"))
}

fn disk(resource: &Resource) -> Result<(), String> {
    let Some(disk) = &resource.disk else { return Ok(()) };
    let info = disk.to_v1();
    let is = |wrong: bool, why: &str| if wrong { Err(why.to_owned()) } else { Ok(()) };
    let Some(persistence) = &info.persistence else {
        is(info.volume.is_some(), "Non-persistent volume not supported")?;
        return is(info.source.is_none(), "DiskInfo is set but empty");
    };
    is(resource.revocable, "Persistent volumes cannot be created from revocable resources")?;
    is(resource.reservations.is_empty(), "Persistent volumes cannot be created from unreserved resources")?;
    is(info.volume.is_none(), "Expecting 'volume' to be set for persistent volume")?;
    let host_path = info.volume.as_ref().and_then(|volume| volume.host_path.as_ref());
    is(host_path.is_some(), "Expecting 'host_path' to be unset for persistent volume")?;
    validate::id(&persistence.id).map_err(|why| format!("Invalid persistence ID for persistent volume: {why}"))
}

fn reservation(resource: &Resource) -> Result<(), String> {
    if resource.is_dynamically_reserved() && resource.revocable {
        return Err(format!("Dynamically reserved resource {resource} cannot be created from revocable resources"));
    }
    Ok(())
}

/// No role has a volume's id twice.
pub(crate) fn unique_volumes<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for volume in resources.into_iter().filter(|resource| resource.is_persistent_volume()) {
        let id = volume.disk.as_ref().and_then(|disk| disk.persistence_id.clone()).unwrap_or_default();
        let is_again = !seen.insert((volume.reservation_role(), id.clone()));
        if is_again || (!volume.shared && volume.copies > 1) {
            return Err(format!("Persistence ID '{id}' is not unique"));
        }
    }
    Ok(())
}

/// All are allocated to one role.
pub(crate) fn one_allocation<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Result<(), String> {
    let mut roles = resources.into_iter().map(|resource| resource.allocation_role.as_deref().unwrap_or_default());
    let Some(first) = roles.next() else { return Ok(()) };
    match roles.find(|role| *role != first) {
        None => Ok(()),
        Some(other) => Err(format!(
            "The resources have multiple allocation roles ('{other}' and '{first}') but only one allocation role is allowed"
        )),
    }
}

/// Nothing is used both firmly and revocably.
pub(crate) fn one_kind(resources: &Resources) -> Result<(), String> {
    let revocable = resources.revocable();
    let mixed = revocable.iter().find(|resource| {
        let is_firm = |other: &Resource| !other.revocable && other.name == resource.name;
        resources.iter().any(is_firm)
    });
    match mixed {
        Some(mixed) => Err(format!("Cannot use both revocable and non-revocable '{}' at the same time", mixed.name)),
        None => Ok(()),
    }
}

/// Whether two of these have the same port, or the same item of a set: their sum is less than all of them.
pub(crate) fn overlap<'a>(parts: impl IntoIterator<Item = &'a Resources>) -> bool {
    let (mut sum, mut all) = (Resources::default(), Quantities::default());
    for part in parts {
        all.add(&part.all_quantities());
        sum.add(part);
    }
    sum.all_quantities() != all
}

/// All are of one resource provider, or all are the agent's own.
pub(crate) fn one_provider(resources: &[Resource]) -> Result<(), String> {
    let providers: BTreeSet<_> = resources.iter().map(|resource| resource.provider_id.as_deref()).collect();
    match providers.len() {
        1 => Ok(()),
        _ if providers.contains(&None) => Err("Some resources have a resource provider and some do not".to_owned()),
        _ => {
            let providers: Vec<&str> = providers.into_iter().flatten().collect();
            Err(format!("The resources have multiple resource providers: {}", providers.join(", ")))
        }
    }
}

/// All are volumes that can be made.
pub(crate) fn volumes(volumes: &[Resource]) -> Result<(), String> {
    for volume in volumes {
        let Some(disk) = &volume.disk else { return Err(format!("Resource {volume} does not have DiskInfo")) };
        let info = disk.to_v1();
        if info.persistence.is_none() {
            return Err("'persistence' is not set in DiskInfo".to_owned());
        }
        match info.volume {
            None => return Err("Expecting 'volume' to be set for persistent volume".to_owned()),
            Some(volume) if volume.mode == Mode::Ro as i32 => {
                return Err("Read-only persistent volume not supported".to_owned());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Their names are as long as names may be.
pub(crate) fn lengths(messages: &[v1::Resource]) -> Result<(), String> {
    use prost::Message;
    let short = |what: &str, length: usize, most: usize| match length <= most {
        true => Ok(()),
        false => Err(format!("'{what}' has {length} bytes, more than the {most} that are allowed")),
    };
    for message in messages {
        short("Resource.name", message.name.len(), NAME_BYTES_MAX)?;
        for info in message.reservations.iter().chain(&message.reservation) {
            info.role.as_deref().map_or(Ok(()), lengths::role)?;
            short("ReservationInfo.principal", info.principal().len(), PRINCIPAL_BYTES_MAX)?;
            let labels = info.labels.as_ref().map_or(0, Message::encoded_len);
            short("ReservationInfo.labels", labels, LABELS_BYTES_MAX)?;
        }
        short("Resource.disk", message.disk.as_ref().map_or(0, |disk| disk.encoded_len()), LABELS_BYTES_MAX)?;
    }
    Ok(())
}
