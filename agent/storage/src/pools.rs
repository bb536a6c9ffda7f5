//! What a provider has after its plugin was asked: pools of room, one for each profile, and volumes. What operations made of them stays,
//! also if the plugin does not tell of it; what nobody touched is what the plugin says.

use std::collections::{BTreeMap, BTreeSet};

use agent_csi::Found;
use api::resources::Resource;
use api::v1::resource::DiskInfo;
use api::v1::resource::disk_info::Source;
use api::v1::resource::disk_info::source::Type;
use api::v1::{self, Label, Labels, ResourceProviderInfo};

/// Of what sizes of disks are told in.
const MEGABYTE: u64 = 1 << 20;

/// What a plugin told; none of what it does not tell of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) volumes: Option<Vec<Found>>,
    /// Bytes, by profile.
    pub(crate) pools: Option<BTreeMap<String, u64>>,
}

/// Thousandths of a megabyte, which a disk of so many bytes has in full.
pub(crate) fn milli(bytes: u64) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / u128::from(MEGABYTE)).unwrap_or(u64::MAX)
}

/// What a disk of this size needs.
pub(crate) fn bytes(resource: &v1::Resource) -> u64 {
    let milli = Resource::from_v1(resource).map_or(0, |resource| resource.milli()).max(0).unsigned_abs();
    u64::try_from((u128::from(milli) * u128::from(MEGABYTE)).div_ceil(1000)).unwrap_or(u64::MAX)
}

pub(crate) fn labels(context: &BTreeMap<String, String>) -> Option<Labels> {
    let labels = context.iter().map(|(key, value)| Label { key: key.clone(), value: Some(value.clone()) });
    (!context.is_empty()).then(|| Labels { labels: labels.collect() })
}

pub(crate) fn context(source: &Source) -> BTreeMap<String, String> {
    let labels = source.metadata.iter().flat_map(|metadata| &metadata.labels);
    labels.map(|label| (label.key.clone(), label.value().to_owned())).collect()
}

pub(crate) fn source(resource: &v1::Resource) -> Source {
    resource.disk.as_ref().and_then(|disk| disk.source.clone()).unwrap_or_default()
}

/// The vendor of a provider's disks.
pub(crate) fn vendor(info: &ResourceProviderInfo) -> String {
    let plugin = info.storage.as_ref().map(|storage| &storage.plugin);
    plugin.map_or(String::new(), |plugin| format!("{}.{}", plugin.r#type, plugin.name()))
}

/// Room, or a volume, as nobody has touched it.
fn raw(info: &ResourceProviderInfo, milli: u64, of: Source) -> v1::Resource {
    let disk = DiskInfo { source: Some(Source { r#type: Type::Raw as i32, ..of }), ..DiskInfo::default() };
    v1::Resource {
        provider_id: info.id.clone(),
        name: "disk".to_owned(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value: milli as f64 / 1000.0 }),
        reservations: info.default_reservations.clone(),
        disk: Some(disk.into()),
        ..v1::Resource::default()
    }
}

/// Whether it is as the plugin told of it: no operation made it what it is.
fn is_untouched(info: &ResourceProviderInfo, resource: &v1::Resource) -> bool {
    let milli = Resource::from_v1(resource).map_or(0, |one| one.milli()).max(0).unsigned_abs();
    let Source { vendor, id, profile, metadata, .. } = source(resource);
    // A volume with a profile was made here.
    let is_own = id.is_some() && profile.is_some();
    let plain = raw(info, milli, Source { vendor, id, profile, metadata, ..Source::default() });
    !is_own && Resource::from_v1(&plain).ok() == Resource::from_v1(resource).ok()
}

/// What there is from now on, with sentences of what is missing.
pub(crate) fn reconciled(
    info: &ResourceProviderInfo,
    has: &[v1::Resource],
    seen: &Seen,
) -> (Vec<v1::Resource>, Vec<String>) {
    let vendor = vendor(info);
    let (mut result, mut missing) = (Vec::new(), Vec::new());
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    for one in has {
        let from = source(one);
        let is_own = from.vendor() == vendor;
        let is_untouched = is_untouched(info, one);
        match (&from.id, &seen.volumes, &seen.pools) {
            (Some(_), None, _) | (None, _, None) => result.push(one.clone()),
            (Some(id), Some(volumes), _) => {
                let found = volumes.iter().find(|found| found.id == *id).filter(|_| is_own);
                match found {
                    Some(found) => {
                        known.insert(id.clone());
                        let mut one = one.clone();
                        if let Some(source) = one.disk.as_mut().and_then(|disk| disk.source.as_mut()) {
                            source.metadata = labels(&found.context);
                        }
                        result.push(one);
                    }
                    None if is_untouched => {}
                    None => {
                        missing.push(missing_sentence(one));
                        result.push(one.clone());
                    }
                }
            }
            (None, _, Some(_)) if is_untouched => {}
            (None, _, Some(pools)) => {
                let milli = Resource::from_v1(one).map_or(0, |one| one.milli()).max(0).unsigned_abs();
                if is_own && pools.contains_key(from.profile()) {
                    *taken.entry(from.profile().to_owned()).or_default() += milli;
                } else {
                    missing.push(missing_sentence(one));
                }
                result.push(one.clone());
            }
        }
    }
    for found in seen.volumes.iter().flatten() {
        if known.insert(found.id.clone()) && milli(found.bytes) > 0 {
            let (id, metadata) = (Some(found.id.clone()), labels(&found.context));
            let of = Source { vendor: Some(vendor.clone()), id, metadata, ..Source::default() };
            result.push(raw(info, milli(found.bytes), of));
        }
    }
    for (profile, bytes) in seen.pools.iter().flatten() {
        let (all, gone) = (milli(*bytes), taken.get(profile).copied().unwrap_or(0));
        if gone > all {
            missing
                .push(format!("of profile '{profile}' there are {all} thousandths of a MB, and {gone} are reserved"));
        } else if all > gone {
            let of = Source { vendor: Some(vendor.clone()), profile: Some(profile.clone()), ..Source::default() };
            result.push(raw(info, all - gone, of));
        }
    }
    (result, missing)
}

fn missing_sentence(resource: &v1::Resource) -> String {
    let shown = Resource::from_v1(resource).map_or_else(|error| error.to_string(), |one| one.to_string());
    format!("the plugin does not tell of '{shown}', which operations made")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::resources::Resources;

    fn info() -> ResourceProviderInfo {
        let text = r#"{"id": {"value": "i"}, "type": "t", "name": "n", "storage": {"plugin": {"type": "org.p", "name": "x"}},
            "default_reservations": [{"type": "DYNAMIC", "role": "storage"}]}"#;
        api::json::from_slice(text.as_bytes()).unwrap()
    }

    fn seen(volumes: &[(&str, u64)], pools: &[(&str, u64)]) -> Seen {
        let found = |(id, mb): &(&str, u64)| Found { id: (*id).to_owned(), bytes: mb << 20, context: BTreeMap::new() };
        Seen {
            volumes: Some(volumes.iter().map(found).collect()),
            pools: Some(pools.iter().map(|(name, mb)| ((*name).to_owned(), mb << 20)).collect()),
        }
    }

    fn shown(resources: &[v1::Resource]) -> Vec<String> {
        let one = |one: &v1::Resource| {
            let source = source(one);
            let kind = source.r#type().as_str_name();
            let (id, profile, reserved) = (source.id(), source.profile(), one.reservations.len());
            format!("{kind} {id}/{profile} {} x{reserved}", one.scalar.as_ref().unwrap().value)
        };
        let mut all: Vec<String> = resources.iter().map(one).collect();
        all.sort();
        all
    }

    fn reserved(resource: &v1::Resource, mb: f64) -> v1::Resource {
        let mut one = resource.clone();
        one.scalar = Some(v1::value::Scalar { value: mb });
        one.reservations.push(v1::resource::ReservationInfo {
            r#type: Some(v1::resource::reservation_info::Type::Dynamic as i32),
            role: Some("storage/a".to_owned()),
            ..Default::default()
        });
        one
    }

    #[test]
    fn what_nobody_touched_is_what_the_plugin_says() {
        let (first, missing) = reconciled(&info(), &[], &seen(&[("v", 4), ("empty", 0)], &[("fast", 10), ("none", 0)]));
        assert_eq!(shown(&first), ["RAW /fast 10 x1", "RAW v/ 4 x1"]);
        assert_eq!(source(&first[0]).vendor(), "org.p.x");
        assert_eq!(missing, [""; 0]);
        let again = reconciled(&info(), &first, &seen(&[("v", 4)], &[("fast", 10)])).0;
        assert_eq!(Resources::from_v1(&first), Resources::from_v1(&again));
        let (other, missing) = reconciled(&info(), &first, &seen(&[("w", 2)], &[("fast", 6), ("slow", 3)]));
        assert_eq!(shown(&other), ["RAW /fast 6 x1", "RAW /slow 3 x1", "RAW w/ 2 x1"]);
        assert_eq!(missing, [""; 0]);
        // Nothing is told: nothing changes.
        assert_eq!(shown(&reconciled(&info(), &first, &Seen::default()).0), shown(&first));
        // Another vendor's are others.
        let mut renamed = info();
        renamed.storage.as_mut().unwrap().plugin.name = Some("y".to_owned());
        let renamed = reconciled(&renamed, &first, &seen(&[("v", 4)], &[("fast", 10)])).0;
        assert!(renamed.iter().all(|one| source(one).vendor() == "org.p.y"));
    }

    #[test]
    fn what_operations_made_stays_and_what_is_missing_is_said() {
        let first = reconciled(&info(), &[], &seen(&[("v", 4)], &[("fast", 10)])).0;
        let pool = first.iter().find(|one| source(one).id.is_none()).unwrap();
        let rest = v1::Resource { scalar: Some(v1::value::Scalar { value: 7.0 }), ..pool.clone() };
        let mut made = pool.clone();
        made.scalar = Some(v1::value::Scalar { value: 2.0 });
        let from = made.disk.as_mut().unwrap().source.as_mut().unwrap();
        (from.r#type, from.id) = (Type::Mount as i32, Some("m".to_owned()));
        let raw_with_profile = {
            let mut one = made.clone();
            let from = one.disk.as_mut().unwrap().source.as_mut().unwrap();
            (from.r#type, from.id) = (Type::Raw as i32, Some("r".to_owned()));
            one
        };
        let has = [reserved(pool, 3.0), rest, made, raw_with_profile];
        let all = [("m", 2), ("r", 2)];
        let (same, missing) = reconciled(&info(), &has, &seen(&all, &[("fast", 10)]));
        assert_eq!(shown(&same), shown(&has));
        assert_eq!(missing, [""; 0]);
        // A plugin that makes volumes a little larger has the same ones.
        assert_eq!(shown(&reconciled(&info(), &has, &seen(&[("m", 3), ("r", 2)], &[("fast", 10)])).0), shown(&has));
        let (less, missing) = reconciled(&info(), &has, &seen(&[], &[("fast", 2)]));
        assert_eq!(shown(&less), ["MOUNT m/fast 2 x1", "RAW /fast 3 x2", "RAW r/fast 2 x1"]);
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert_eq!(reconciled(&info(), &has, &seen(&all, &[])).1.len(), 1);
    }

    #[test]
    fn sizes_are_whole_thousandths_and_disks_get_all_of_theirs() {
        assert_eq!((milli(1 << 30), milli(1049), milli(1048)), (1_024_000, 1, 0));
        let one = raw(&info(), 1_024_001, Source::default());
        assert_eq!(bytes(&one), (1 << 30) + 1049);
        assert!(milli(bytes(&one)) >= 1_024_001);
    }
}
