//! `disk/du`, `posix/disk` by its old name: measures sandboxes, what is written to roots of images, and persistent volumes, and says
//! which containers take more of the disk than they were given. The outermost containers are measured, with all that is within them:
//! their sandboxes are below the one's, and what they write to their roots is added.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::v1::resource::disk_info::source::Type as SourceType;
use api::v1::task_status::Reason;
use api::v1::{DiskStatistics, Resource};
use parking_lot::Mutex;

use super::du::{Measured, measure};
use super::{DiskSettings, Isolator};
use crate::container::{Container, Limitation, Usage};

/// `disk/du`
#[derive(Debug)]
pub struct Disk {
    name: &'static str,
    settings: DiskSettings,
    /// What was found at the last look, by container and folder.
    found: Mutex<BTreeMap<String, BTreeMap<PathBuf, Measured>>>,
}

/// A folder whose size is limited.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) folder: PathBuf,
    /// What it was given.
    pub(super) resources: Vec<Resource>,
    pub(super) limit_bytes: u64,
    /// It is a persistent volume, and not the sandbox.
    pub(super) is_volume: bool,
    /// Its own file system has the size that was given.
    pub(super) is_limited_by_itself: bool,
}

/// The sandbox, if some disk was given for it, and volumes; these first.
pub(super) fn parts(container: &Container) -> Vec<Part> {
    // Sizes are told in mebibytes.
    let bytes = |resource: &Resource| {
        let mebibytes = resource.scalar.as_ref().map_or(0.0, |scalar| scalar.value);
        (mebibytes.max(0.0) * f64::from(1 << 20)) as u64
    };
    let mut parts: Vec<Part> = Vec::new();
    for volume in &container.volumes {
        let source = volume.resource.disk.as_ref().and_then(|disk| disk.source.as_ref());
        // The same one, of which several parts were given.
        match parts.iter_mut().find(|part| part.folder == volume.place) {
            Some(part) => {
                part.limit_bytes += bytes(&volume.resource);
                part.resources.push(volume.resource.clone());
            }
            None => parts.push(Part {
                folder: volume.place.clone(),
                resources: vec![volume.resource.clone()],
                limit_bytes: bytes(&volume.resource),
                is_volume: true,
                is_limited_by_itself: source.is_some_and(|source| source.r#type() == SourceType::Mount),
            }),
        }
    }
    let is_sandbox = |one: &&Resource| one.name == "disk" && one.disk.as_ref().is_none_or(|disk| disk.volume.is_none());
    let of_sandbox: Vec<Resource> = container.resources.iter().filter(is_sandbox).cloned().collect();
    if !of_sandbox.is_empty() {
        parts.push(Part {
            folder: container.sandbox.clone(),
            limit_bytes: of_sandbox.iter().map(bytes).sum(),
            resources: of_sandbox,
            is_volume: false,
            is_limited_by_itself: false,
        });
    }
    parts
}

impl Disk {
    /// By one of its names.
    pub(super) fn new(name: &'static str, settings: &DiskSettings) -> Disk {
        Disk { name, settings: settings.clone(), found: Mutex::default() }
    }

    fn exceeded(&self, part: &Part, found: Measured) -> Option<Limitation> {
        let is_over = self.settings.is_enforced && !part.is_limited_by_itself && found.bytes > part.limit_bytes;
        is_over.then(|| Limitation {
            reason: Reason::ContainerLimitationDisk,
            message: format!(
                "Disk usage ({}) exceeds quota ({})",
                api::size::format(found.bytes),
                api::size::format(part.limit_bytes)
            ),
            resources: part.resources.clone(),
        })
    }
}

/// Measures each folder once at a look, however many use it.
fn look(folder: &Path, looked: &mut BTreeMap<PathBuf, Option<Measured>>) -> Option<Measured> {
    if let Some(found) = looked.get(folder) {
        return *found;
    }
    let found = match measure(folder) {
        Ok(found) => {
            if found.is_partial {
                tracing::warn!(folder = %folder.display(), "a part of a folder cannot be measured");
            }
            Some(found)
        }
        // It ended meanwhile, perhaps.
        Err(error) => {
            tracing::debug!(folder = %folder.display(), %error, "cannot measure a folder");
            None
        }
    };
    looked.insert(folder.to_owned(), found);
    found
}

impl Isolator for Disk {
    fn name(&self) -> &'static str {
        self.name
    }

    fn interval(&self) -> Option<Duration> {
        Some(self.settings.interval)
    }

    fn watch(&self, containers: &[Container]) -> Vec<(String, Limitation)> {
        let (mut looked, mut exceeded) = (BTreeMap::new(), Vec::new());
        let mut all = BTreeMap::new();
        for container in containers.iter().filter(|container| !container.is_within()) {
            let mut of_container = BTreeMap::new();
            let mut why = None;
            for part in parts(container) {
                let Some(mut found) = look(&part.folder, &mut looked) else { continue };
                if !part.is_volume {
                    let all = containers.iter().filter(|one| one.root_id() == container.id);
                    let written = all.filter_map(|one| look(one.written.as_ref()?, &mut looked));
                    written.for_each(|more| found.add(more));
                }
                why = why.or_else(|| self.exceeded(&part, found));
                of_container.insert(part.folder, found);
            }
            all.insert(container.id.clone(), of_container);
            exceeded.extend(why.map(|why| (container.id.clone(), why)));
        }
        *self.found.lock() = all;
        exceeded
    }

    fn usage(&self, container: &Container, _: &[supervisor::processes::Process], usage: &mut Usage) {
        if container.is_within() {
            return;
        }
        let found = self.found.lock().get(&container.id).cloned().unwrap_or_default();
        for part in parts(container) {
            let used_bytes = found.get(&part.folder).map(|found| found.bytes);
            let limit_bytes = Some(part.limit_bytes);
            if part.is_volume {
                let disk = part.resources.first().and_then(|resource| resource.disk.as_deref()).cloned();
                let (source, persistence) = disk.map(|disk| (disk.source, disk.persistence)).unwrap_or_default();
                usage.disk_statistics.push(DiskStatistics { source, persistence, limit_bytes, used_bytes });
            } else {
                // Before the first look there is nothing.
                let used_bytes = Some(used_bytes.unwrap_or(0));
                (usage.disk_limit_bytes, usage.disk_used_bytes) = (limit_bytes, used_bytes);
                usage.disk_statistics.push(DiskStatistics { limit_bytes, used_bytes, ..DiskStatistics::default() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Volume;
    use api::v1::resource::{DiskInfo, disk_info};
    use api::v1::value::Scalar;
    use std::fs;
    use std::slice::from_ref;

    fn disk(mebibytes: f64, info: Option<DiskInfo>) -> Resource {
        let scalar = Some(Scalar { value: mebibytes });
        Resource { name: "disk".into(), scalar, disk: info.map(Box::new), ..Resource::default() }
    }

    fn volume(id: &str, mebibytes: f64, is_mount: bool) -> Resource {
        let source = disk_info::Source { r#type: SourceType::Mount as i32, ..Default::default() };
        let info = DiskInfo {
            persistence: Some(disk_info::Persistence { id: id.into(), principal: None }),
            volume: Some(api::v1::Volume { container_path: "data".into(), ..Default::default() }),
            source: is_mount.then_some(source),
        };
        disk(mebibytes, Some(info))
    }

    fn settings(is_enforced: bool) -> DiskSettings {
        DiskSettings { interval: Duration::from_secs(1), is_enforced }
    }

    fn fill(path: &Path, mebibytes: usize) {
        fs::write(path, vec![7; mebibytes << 20]).unwrap();
        fs::File::open(path).unwrap().sync_all().unwrap();
    }

    #[test]
    fn who_takes_more_than_was_given_is_named_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let [sandbox, place] = ["sandbox", "volume"].map(|name| dir.path().join(name));
        [&sandbox, &place].into_iter().for_each(|path| fs::create_dir(path).unwrap());
        fill(&sandbox.join("a"), 1);
        fill(&place.join("b"), 3);
        std::os::unix::fs::symlink(&place, sandbox.join("data")).unwrap();
        let of = |resources: Vec<Resource>, volumes: Vec<Volume>| Container {
            id: "c".into(),
            sandbox: sandbox.clone(),
            resources,
            volumes,
            ..Container::default()
        };
        let with = |resource: Resource| vec![Volume { resource, place: place.clone() }];
        let roomy = of(vec![disk(1.0, None), disk(1.0, None)], Vec::new());
        let enforced = Disk::new("disk/du", &settings(true));
        assert_eq!(enforced.watch(from_ref(&roomy)), []);
        let tight = of(vec![disk(1.0, None)], Vec::new());
        let [(id, why)] = &enforced.watch(from_ref(&tight))[..] else { panic!("it is over") };
        assert_eq!((id.as_str(), why.reason), ("c", Reason::ContainerLimitationDisk));
        assert_eq!(why.resources, tight.resources);
        assert!(why.message.starts_with("Disk usage (1") && why.message.ends_with(") exceeds quota (1MB)"), "{why:?}");
        // Nobody is told where it is only measured, and what is within another is measured with that.
        assert_eq!(Disk::new("disk/du", &settings(false)).watch(from_ref(&tight)), []);
        assert_eq!(enforced.watch(&[Container { id: "p.c".into(), ..tight }]), []);
        let small = of(vec![disk(2.0, None), volume("v", 2.0, false)], with(volume("v", 2.0, false)));
        let [(_, why)] = &enforced.watch(from_ref(&small))[..] else { panic!("its volume is over") };
        assert_eq!(why.resources, [volume("v", 2.0, false)]);
        let mut usage = Usage::default();
        enforced.usage(&small, &[], &mut usage);
        let [of_volume, of_sandbox] = &usage.disk_statistics[..] else { panic!("{usage:?}") };
        assert_eq!(of_volume.persistence.as_ref().unwrap().id, "v");
        assert!(of_volume.used_bytes.unwrap() >= 3 << 20 && of_volume.limit_bytes == Some(2 << 20));
        assert_eq!((usage.disk_used_bytes, usage.disk_limit_bytes), (of_sandbox.used_bytes, Some(2 << 20)));
        assert!(usage.disk_used_bytes.unwrap() < 2 << 20, "the volume is not counted twice");
        // What it, and what is within it, wrote to roots of images is the sandbox's.
        let roots = ["own", "inner"].map(|name| dir.path().join(name));
        for root in &roots {
            fs::create_dir(root).unwrap();
            fill(&root.join("c"), 1);
        }
        let [own, inner] = roots.map(Some);
        let four = Container { written: own, ..of(vec![disk(4.0, None)], Vec::new()) };
        let within = Container { id: "c.i".into(), written: inner, ..four.clone() };
        let other = Container { id: "other".into(), ..four.clone() };
        assert_eq!(enforced.watch(&[four.clone(), other.clone(), within.clone()]), []);
        let mut usage = Usage::default();
        enforced.usage(&four, &[], &mut usage);
        assert!((3 << 20..4 << 20).contains(&usage.disk_used_bytes.unwrap()), "{usage:?}");
        let two = Container { resources: vec![disk(2.5, None)], ..four };
        let exceeded = enforced.watch(&[two.clone(), other, within]);
        assert_eq!(exceeded.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["c"]);
        assert_eq!(enforced.watch(from_ref(&two)), []);
        // A disk that is one volume has its own end.
        let mount = of(vec![volume("v", 2.0, true)], with(volume("v", 2.0, true)));
        assert_eq!(enforced.watch(from_ref(&mount)), []);
        let mut usage = Usage::default();
        enforced.usage(&mount, &[], &mut usage);
        assert_eq!(usage.disk_used_bytes, None, "nothing was given for its sandbox");
    }
}
