//! What operations make of what a provider has.

use api::resources::{Format, Resources};
use api::v1::offer::Operation as Info;
use api::v1::offer::operation::Type;
use api::v1::resource::disk_info::source::Type as SourceType;
use api::v1::{self, Resource};

use crate::pools::source;

/// What there is then, and what the operation made of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Converted {
    pub(crate) resources: Vec<Resource>,
    pub(crate) made: Vec<Resource>,
}

/// Without whom it is allocated to, and without what older formats say twice.
pub(crate) fn free(resources: &[Resource]) -> Result<Resources, String> {
    Resources::from_v1(resources).map(|all| all.unallocate()).map_err(|error| error.to_string())
}

/// Puts `made` in the place of `consumed`. The error is a sentence: that is not there.
pub(crate) fn replaced(has: &[Resource], consumed: &[Resource], made: &[Resource]) -> Result<Converted, String> {
    let made = free(made)?;
    let all = free(has)?.replace(&free(consumed)?, &made).map_err(|error| error.to_string())?;
    Ok(Converted { resources: all.to_v1(Format::PostRefinement), made: made.to_v1(Format::PostRefinement) })
}

/// Those operations that are done by saying so: RESERVE, UNRESERVE, CREATE; and DESTROY, when nothing is left of what was on its volumes. The
/// error is a sentence.
pub(crate) fn converted(has: &[Resource], info: &Info) -> Result<Converted, String> {
    let all = free(has)?;
    let absent = || format!("{} is not set", info.r#type().as_str_name());
    let (left, made) = match info.r#type() {
        Type::Reserve => {
            let body = info.reserve.as_ref().ok_or_else(absent)?;
            let made = free(&body.resources)?;
            let left = match body.source.is_empty() {
                true => all.reserve(&made),
                false => all.replace(&free(&body.source)?, &made),
            };
            (left, made)
        }
        Type::Unreserve => {
            let freed = free(&info.unreserve.as_ref().ok_or_else(absent)?.resources)?;
            (all.unreserve(&freed), freed.pop_reservation())
        }
        Type::Create => {
            let volumes = &info.create.as_ref().ok_or_else(absent)?.volumes;
            volumes.iter().try_for_each(is_on_mount)?;
            let made = free(volumes)?;
            (all.create(&made), made)
        }
        Type::Destroy => {
            let volumes = free(&info.destroy.as_ref().ok_or_else(absent)?.volumes)?;
            let made = volumes.disks_of_volumes().map_err(|error| error.to_string())?;
            (all.destroy(&volumes), made)
        }
        other => return Err(format!("{} is not known to this resource provider", other.as_str_name())),
    };
    let left = left.map_err(|error| error.to_string())?;
    Ok(Converted { resources: left.to_v1(Format::PostRefinement), made: made.to_v1(Format::PostRefinement) })
}

fn is_on_mount(volume: &Resource) -> Result<(), String> {
    let kind = source(volume).r#type();
    let id = volume.disk.as_ref().and_then(|disk| disk.persistence.as_ref()).map_or("", |one| &one.id);
    match kind {
        SourceType::Mount => Ok(()),
        kind => Err(format!("Cannot create persistent volume '{id}' on a {} disk", kind.as_str_name())),
    }
}

/// The disk that CREATE_DISK is to make of this, once it has an id.
pub(crate) fn mounted(
    from: &Resource,
    profile: &str,
    id: &str,
    root: String,
    metadata: Option<v1::Labels>,
) -> Resource {
    let mut made = from.clone();
    if let Some(source) = made.disk.as_mut().and_then(|disk| disk.source.as_mut()) {
        source.r#type = SourceType::Mount as i32;
        source.id = Some(id.to_owned());
        source.profile = Some(profile.to_owned());
        source.mount = Some(v1::resource::disk_info::source::Mount { root: Some(root) });
        source.metadata = metadata.or(source.metadata.take());
    }
    made
}

/// What is left of a disk when its volume is deleted, or when it is only nobody's any more.
pub(crate) fn unmade(from: &Resource, is_deleted: bool) -> Resource {
    let mut made = from.clone();
    if let Some(source) = made.disk.as_mut().and_then(|disk| disk.source.as_mut()) {
        source.r#type = SourceType::Raw as i32;
        source.mount = None;
        if is_deleted {
            (source.id, source.metadata) = (None, None);
        } else {
            source.profile = None;
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(mb: f64) -> Resource {
        let text = format!(
            r#"{{"name": "disk", "type": "SCALAR", "scalar": {{"value": {mb}}}, "provider_id": {{"value": "i"}},
                "disk": {{"source": {{"type": "RAW", "profile": "fast", "vendor": "p.x"}}}}}}"#
        );
        api::json::from_slice(text.as_bytes()).unwrap()
    }

    fn operation(kind: &str, body: serde_json::Value) -> Info {
        let name = kind.to_lowercase();
        api::json::from_value(&serde_json::json!({ "type": kind, name: body })).unwrap()
    }

    #[test]
    fn a_disk_goes_all_the_way_and_back() {
        let part = pool(2.0);
        let metadata = Some(v1::Labels::default());
        let disk = mounted(&part, "fast", "v", "csi/v".to_owned(), metadata);
        let made = replaced(&[pool(8.0)], &[part], std::slice::from_ref(&disk)).unwrap();
        assert_eq!((made.resources.len(), made.made.len()), (2, 1));
        let mut reserved = api::json::to_value(&disk);
        reserved["reservations"] = serde_json::json!([{ "type": "DYNAMIC", "role": "eng" }]);
        reserved["allocation_info"] = serde_json::json!({ "role": "eng" });
        let reserve = operation("RESERVE", serde_json::json!({ "resources": [reserved] }));
        let held = converted(&made.resources, &reserve).unwrap();
        assert!(held.made[0].allocation_info.is_none());
        let mut volume = reserved.clone();
        volume["disk"]["persistence"] = serde_json::json!({ "id": "p" });
        let volumes = serde_json::json!({ "volumes": [volume] });
        let created = converted(&held.resources, &operation("CREATE", volumes.clone())).unwrap();
        let destroyed = converted(&created.resources, &operation("DESTROY", volumes)).unwrap();
        assert_eq!(free(&destroyed.resources), free(&held.resources));
        let unreserve = operation("UNRESERVE", serde_json::json!({ "resources": [reserved] }));
        let freed = converted(&destroyed.resources, &unreserve).unwrap();
        let back = replaced(&freed.resources, &freed.made, &[unmade(&freed.made[0], true)]).unwrap();
        assert_eq!(free(&back.resources), free(&[pool(8.0)]));
        assert!(converted(&back.resources, &unreserve).unwrap_err().contains("is not contained in"));
    }

    #[test]
    fn persistent_volumes_are_on_mount_disks() {
        let mut raw = api::json::to_value(&pool(1.0));
        raw["disk"]["source"]["id"] = "v".into();
        raw["disk"]["persistence"] = serde_json::json!({ "id": "p" });
        let create = operation("CREATE", serde_json::json!({ "volumes": [raw] }));
        assert_eq!(converted(&[], &create).unwrap_err(), "Cannot create persistent volume 'p' on a RAW disk");
        let launch = operation("LAUNCH", serde_json::json!({ "task_infos": [] }));
        assert!(converted(&[], &launch).is_err());
    }
}
