//! CREATE and DESTROY: reserved disks become persistent volumes, and disks again. What was in a volume is gone with it.

use super::convert::{No, Wish, check_list, messages, sum};
use super::rules;
use crate::resources;
use api::resources::{Resource, Resources};
use api::v1;
use api::v1::offer::operation;

/// What it takes and what it makes; the operation as it was understood goes into `info`.
pub(super) fn create(
    wish: &Wish<'_>,
    body: &operation::Create,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    if body.volumes.is_empty() {
        return Err(No::Invalid("Invalid resources: There is no volume to create".into()));
    }
    let volumes = wish.read(&body.volumes)?;
    check_list(&volumes)?;
    rules::volumes(&volumes).map_err(|why| No::Invalid(format!("Not a persistent volume: {why}")))?;
    let known = wish.agent.total.persistent_volumes();
    rules::unique_volumes(known.iter().chain(&volumes)).map_err(No::Invalid)?;
    volumes.iter().try_for_each(|volume| check(wish, volume))?;
    wish.check_one_role(&volumes, "volume")?;
    let produced = sum(&volumes);
    let consumed = produced.disks_of_volumes().map_err(|why| No::Invalid(why.to_string()))?;
    info.create = Some(operation::Create { volumes: messages(&volumes) });
    Ok((consumed, produced))
}

fn check(wish: &Wish<'_>, volume: &Resource) -> Result<(), No> {
    if let Some((framework, _)) = wish.framework
        && volume.shared
        && !framework.capabilities.shared_resources
    {
        return Err(No::Invalid(format!(
            "Create volume operation for '{volume}' has been attempted by framework '{}' with no SHARED_RESOURCES \
             capability",
            framework.id
        )));
    }
    wish.check_stack(volume, "Volume", "created")?;
    let Some(principal) = wish.principal else { return Ok(()) };
    let disk = volume.disk.as_ref().map(|disk| disk.to_v1());
    match disk.and_then(|disk| disk.persistence).and_then(|persistence| persistence.principal) {
        None => Err(No::Invalid(format!(
            "Create volume operation attempted by principal '{principal}', but there is a volume in the operation with \
             no principal set in 'disk.persistence'"
        ))),
        Some(own) if own != principal => Err(No::Invalid(format!(
            "Create volume operation attempted by authenticated principal '{principal}', which does not match a volume \
             in the operation with principal '{own}' set in 'disk.persistence'"
        ))),
        Some(_) => Ok(()),
    }
}

/// What it takes and what it makes; the operation as it was understood goes into `info`.
pub(super) fn destroy(
    wish: &Wish<'_>,
    body: &operation::Destroy,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    let volumes = wish.read(&body.volumes)?;
    let bare: Vec<Resource> =
        volumes.iter().map(|volume| Resource { allocation_role: None, ..volume.clone() }).collect();
    check_list(&bare)?;
    rules::volumes(&bare).map_err(|why| No::Invalid(format!("Not a persistent volume: {why}")))?;
    let known = wish.agent.total.persistent_volumes();
    if bare.iter().any(|volume| !known.contains(&sum(std::slice::from_ref(volume)))) {
        return Err(No::Invalid("Persistent volumes not found".to_owned()));
    }
    let used = resources::unallocated(&wish.agent.used);
    if bare.iter().any(|volume| used.contains(&sum(std::slice::from_ref(volume)))) {
        return Err(No::Invalid("Persistent volumes in use".to_owned()));
    }
    let consumed = sum(&volumes);
    let produced = consumed.disks_of_volumes().map_err(|why| No::Invalid(why.to_string()))?;
    info.destroy = Some(operation::Destroy { volumes: messages(&volumes) });
    Ok((consumed, produced))
}
