//! CREATE_DISK and DESTROY_DISK: a resource provider makes a disk of its storage, or storage of a disk. What comes of it only
//! the provider can say.

use super::convert::{No, Wish};
use super::rules;
use api::resources::{Format, Resource, Resources};
use api::v1;
use api::v1::offer::operation;
use api::v1::resource::disk_info::source::Type as SourceType;

/// What it takes, and nothing that it makes; the operation as it was understood goes into `info`.
pub(super) fn create(
    wish: &Wish<'_>,
    body: &operation::CreateDisk,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    let source = wish.read_one(&body.source)?;
    let no = |why: &str| Err(No::Invalid(why.to_owned()));
    let (kind, has_profile) = check(&source)?;
    if kind != Some(SourceType::Raw) {
        return no("'source' is not a RAW disk resource");
    }
    if body.target_type != SourceType::Mount as i32 && body.target_type != SourceType::Block as i32 {
        return no("'target_type' is neither MOUNT or BLOCK");
    }
    match (has_profile, body.target_profile.is_some()) {
        (true, true) => return no("'target_profile' must not be set when 'source' has a profile"),
        (false, false) => return no("'target_profile' must be set when 'source' has no profile"),
        _ => {}
    }
    let message = source.to_v1(Format::PostRefinement);
    info.create_disk = Some(Box::new(operation::CreateDisk { source: message, ..body.clone() }));
    Ok((Resources::from_iter([source]), Resources::default()))
}

/// What it takes, and nothing that it makes; the operation as it was understood goes into `info`.
pub(super) fn destroy(
    wish: &Wish<'_>,
    body: &operation::DestroyDisk,
    info: &mut v1::offer::Operation,
) -> Result<(Resources, Resources), No> {
    let source = wish.read_one(&body.source)?;
    let (kind, _) = check(&source)?;
    if !matches!(kind, Some(SourceType::Mount | SourceType::Block | SourceType::Raw)) {
        return Err(No::Invalid("'source' is neither a MOUNT, BLOCK or RAW disk resource".to_owned()));
    }
    if source_of(&source).is_none_or(|source| source.id.is_none()) {
        return Err(No::Invalid("'source' is not backed by a CSI volume".to_owned()));
    }
    if source.is_persistent_volume() {
        return Err(No::Invalid(format!(
            "A disk resource containing a persistent volume {source} cannot be destroyed directly. Please destroy the \
             persistent volume first then destroy the disk resource"
        )));
    }
    info.destroy_disk = Some(Box::new(operation::DestroyDisk { source: source.to_v1(Format::PostRefinement) }));
    Ok((Resources::from_iter([source]), Resources::default()))
}

/// The kind of disk that it is, and whether it has a profile.
fn check(source: &Resource) -> Result<(Option<SourceType>, bool), No> {
    rules::any(std::slice::from_ref(source)).map_err(|why| No::Invalid(format!("Invalid resource: {why}")))?;
    if source.provider_id.is_none() {
        return Err(No::Invalid("'source' is not managed by a resource provider".to_owned()));
    }
    let of = source_of(source);
    let kind = of.as_ref().and_then(|of| SourceType::try_from(of.r#type).ok());
    Ok((kind, of.is_some_and(|of| of.profile.is_some())))
}

fn source_of(resource: &Resource) -> Option<v1::resource::disk_info::Source> {
    resource.disk.as_ref().and_then(|disk| disk.to_v1().source)
}
