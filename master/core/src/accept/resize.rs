//! GROW_VOLUME and SHRINK_VOLUME: a persistent volume takes some of the disk that it is on, or leaves some of it.

use super::convert::{No, Wish, sum};
use super::rules;
use api::resources::{Format, Resource, Resources, scalar_milli};
use api::v1;
use api::v1::offer::operation;
use api::v1::resource::disk_info::source::Type as SourceType;

/// What it takes and what it makes; the operation as it was understood goes into `info`.
pub(super) fn grow(
    wish: &Wish<'_>,
    body: &operation::GrowVolume,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    let (volume, addition) = (wish.read_one(&body.volume)?, wish.read_one(&body.addition)?);
    let no = |why: &str| Err(No::Invalid(why.to_owned()));
    if addition.milli() <= 0 {
        return no("The size of 'GrowVolume.addition' field must be greater than zero");
    }
    check_volume(&volume, "Growing", "GrowVolume")?;
    let Ok(grown) = volume.grown(&addition) else {
        return no("Incompatible resources in the 'GrowVolume.volume' and 'GrowVolume.addition' fields");
    };
    check_agent(wish, &volume, "grown")?;
    let format = Format::PostRefinement;
    info.grow_volume =
        Some(Box::new(operation::GrowVolume { volume: volume.to_v1(format), addition: addition.to_v1(format) }));
    Ok((sum(&[volume, addition]), sum(&[grown])))
}

/// What it takes and what it makes; the operation as it was understood goes into `info`.
pub(super) fn shrink(
    wish: &Wish<'_>,
    body: &operation::ShrinkVolume,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    let volume = wish.read_one(&body.volume)?;
    let no = |why: &str| Err(No::Invalid(why.to_owned()));
    let Some(subtract) = scalar_milli(body.subtract.value).filter(|milli| *milli > 0) else {
        return no("Value of 'ShrinkVolume.subtract' must be greater than zero");
    };
    if volume.milli() <= subtract {
        return no("Value of 'ShrinkVolume.subtract' must be smaller than the size of 'ShrinkVolume.volume'");
    }
    let source = volume.disk.as_ref().and_then(|disk| disk.to_v1().source);
    if volume.provider_id.is_none() && source.is_some_and(|source| source.r#type == SourceType::Mount as i32) {
        return no("Shrinking a volume on a MOUNT disk is not supported");
    }
    check_volume(&volume, "Shrinking", "ShrinkVolume")?;
    check_agent(wish, &volume, "shrunk")?;
    let parts = volume.shrunk(subtract).map_err(|why| No::Invalid(why.to_string()))?;
    let message = volume.to_v1(Format::PostRefinement);
    info.shrink_volume = Some(Box::new(operation::ShrinkVolume { volume: message, subtract: body.subtract }));
    Ok((sum(&[volume]), sum(&parts)))
}

fn check_volume(volume: &Resource, doing: &str, field: &str) -> Result<(), No> {
    if volume.provider_id.is_some() {
        return Err(No::Invalid(format!("{doing} a volume from a resource provider is not supported")));
    }
    rules::volumes(std::slice::from_ref(volume))
        .map_err(|why| No::Invalid(format!("Invalid persistent volume in the '{field}.volume' field: {why}")))?;
    if volume.shared {
        return Err(No::Invalid(format!("{doing} a shared persistent volume is not supported")));
    }
    Ok(())
}

fn check_agent(wish: &Wish<'_>, volume: &Resource, done: &str) -> Result<(), No> {
    if wish.agent.can("RESIZE_VOLUME") {
        return Ok(());
    }
    let why = format!("Volume {volume} cannot be {done} on an agent without RESIZE_VOLUME capability");
    Err(No::Invalid(why))
}
