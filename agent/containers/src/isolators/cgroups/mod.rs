//! `cgroups/...`: what limits containers, and counts what they use, by their control groups. Each looks at its own controller;
//! where a group is, and in which version of control groups, is [`Cgroups`]'s to know.

mod blkio;
mod cpu;
mod devices;
mod mem;
mod net_cls;
mod perf_event;
mod pids;
mod plain;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use api::resources::Resources;

use crate::cgroups::{Cgroups, Version};
use crate::container::Container;
use crate::containerizer::Creation;

pub use blkio::CgroupsBlkio;
pub use cpu::CgroupsCpu;
pub use devices::{CgroupsDevices, Rule, allowed};
pub use mem::CgroupsMem;
pub use net_cls::{CgroupsNetCls, Handles};
pub use perf_event::{CgroupsPerfEvent, Sampling};
pub use pids::CgroupsPids;
pub use plain::CgroupsPlain;

/// How they are configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Time on processors is bounded by what was asked for, too, and not by limits alone.
    pub enable_cfs: bool,
    /// Memory and swap are limited together.
    pub limit_swap: bool,
    /// Processes and threads are counted.
    pub count_processes: bool,
    /// Revocable processors are for when nobody else wants them.
    pub low_revocable: bool,
}

/// Controllers of an isolator, by version; none if that version has nothing for it. [`TREE`] is the tree itself.
type Needs = Option<&'static [&'static str]>;
/// What every group of the second version has.
const TREE: &str = "";

/// The names of those that are built, and the controllers that each needs, of the first version and of the second.
pub const ALL: [(&str, Needs, Needs); 10] = [
    ("cgroups/blkio", Some(&["blkio"]), Some(&["io"])),
    ("cgroups/cpu", Some(&["cpu", "cpuacct"]), Some(&["cpu"])),
    ("cgroups/cpuset", Some(&["cpuset"]), Some(&["cpuset"])),
    ("cgroups/devices", Some(&["devices"]), Some(&[TREE])),
    ("cgroups/hugetlb", Some(&["hugetlb"]), Some(&["hugetlb"])),
    ("cgroups/mem", Some(&["memory"]), Some(&["memory"])),
    ("cgroups/net_cls", Some(&["net_cls"]), None),
    ("cgroups/net_prio", Some(&["net_prio"]), None),
    ("cgroups/perf_event", Some(&["perf_event"]), Some(&[TREE])),
    ("cgroups/pids", Some(&["pids"]), Some(&["pids"])),
];

/// What an isolator needs, of this version: outside none if it is not one of these.
fn needs(name: &str, version: Version) -> Option<Needs> {
    let found = ALL.iter().find(|(one, ..)| *one == name);
    found.map(|(_, first, second)| if version == Version::First { *first } else { *second })
}

fn controllers(name: &str, version: Version) -> &'static [&'static str] {
    needs(name, version).flatten().unwrap_or_default()
}

/// Whether this machine has what an isolator needs.
///
/// # Errors
/// A sentence.
pub fn check(groups: &Cgroups, name: &str) -> Result<(), String> {
    let version = groups.version();
    if needs(name, version) == Some(None) {
        return Err(format!(
            "{name} in --isolation needs control groups of the first version, and at --cgroups_hierarchy there is the second"
        ));
    }
    if let Some(missing) = controllers(name, version).iter().find(|one| !groups.has(one)) {
        return Err(format!(
            "{name} in --isolation needs the controller '{missing}' of control groups, and at --cgroups_hierarchy there is {}",
            groups.list()
        ));
    }
    match (name, version) {
        ("cgroups/devices", Version::Second) => {
            devices::check().map_err(|why| format!("{name} in --isolation cannot be: {why}"))
        }
        _ => Ok(()),
    }
}

/// The same, of what is to be counted.
///
/// # Errors
/// A sentence.
pub fn check_events(groups: &Cgroups, sampling: &Sampling) -> Result<(), String> {
    perf_event::check(groups, sampling)
}

/// Those of `cgroups/all`: the ones that this machine has the controllers of.
pub fn all(groups: &Cgroups) -> Vec<&'static str> {
    ALL.iter().map(|(name, ..)| *name).filter(|name| check(groups, name).is_ok()).collect()
}

/// Lets a container be in a group of its own for these controllers, or, if it shares with what it is within, in that one's. Its own
/// group, if it has one.
fn join(groups: &Cgroups, name: &str, creation: &mut Creation) -> Result<Option<PathBuf>, String> {
    let mut own = None;
    for controller in controllers(name, groups.version()) {
        let cannot = |error: io::Error| format!("cannot make its control group of '{controller}': {error}");
        if shares(&creation.container) {
            // Who is below a group of the second version is in it.
            if groups.version() == Version::First
                && let Some(shared) = shared(groups, controller, &creation.container.id)
            {
                add(creation, shared.join("cgroup.procs"));
            }
            continue;
        }
        let procs = groups.make(Some(controller), &creation.container.id).map_err(cannot)?;
        add(creation, procs);
        own = own.or(groups.of(controller, &creation.container.id));
    }
    Ok(own)
}

fn add(creation: &mut Creation, procs: PathBuf) {
    // Two controllers may have one tree.
    if !creation.joins.contains(&procs) {
        creation.joins.push(procs);
    }
}

/// Whether a container is limited with what it is within, and not by itself.
fn shares(container: &Container) -> bool {
    let said = container.info.as_ref().and_then(|info| info.linux_info.as_ref()?.share_cgroups);
    container.is_within() && said.unwrap_or(true)
}

/// The group of a container itself, if it has one that is there.
fn own(groups: &Cgroups, controller: &str, container: &Container) -> Option<PathBuf> {
    groups.of(controller, &container.id).filter(|group| !shares(container) && group.exists())
}

/// What a container was given of a resource, in thousandths.
fn given(container: &Container, name: &str) -> i64 {
    Resources::from_v1(&container.resources).unwrap_or_default().scalar_milli(name)
}

/// The limit of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// In thousandths.
    Milli(i64),
    /// As much as there is.
    None,
}

fn limit(container: &Container, name: &str) -> Option<Limit> {
    let most = *container.limits.get(name)?;
    Some(api::resources::scalar_milli(most).map_or(Limit::None, Limit::Milli))
}

/// The group of the nearest container around one that has its own.
fn shared(groups: &Cgroups, controller: &str, container_id: &str) -> Option<PathBuf> {
    let mut id = container_id;
    loop {
        let group = groups.of(controller, id)?;
        if group.exists() {
            return Some(group);
        }
        id = id.rsplit_once('.')?.0;
    }
}

/// A limit of a group, or what it has counted.
fn read(group: &Path, file: &str) -> io::Result<String> {
    fs::read_to_string(group.join(file)).map(|text| text.trim().to_owned())
}

fn number(group: &Path, file: &str) -> Option<u64> {
    read(group, file).ok()?.parse().ok()
}

/// Lines of a name and a number.
fn numbers(group: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = read(group, file).unwrap_or_default();
    let one = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(one).collect()
}

/// Sets a limit. The error is a sentence.
fn write(group: &Path, file: &str, value: impl std::fmt::Display) -> Result<(), String> {
    let value = value.to_string();
    fs::write(group.join(file), &value)
        .map_err(|error| format!("cannot set {} to {value}: {error}", group.join(file).display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isolators::Isolator;
    use api::v1::value::Scalar;
    use api::v1::{ContainerInfo, LinuxInfo, Resource, value};

    fn container(id: &str, mem: f64, share_cgroups: Option<bool>) -> Container {
        let scalar = |name: &str, value| Resource {
            name: name.into(),
            r#type: value::Type::Scalar as i32,
            scalar: Some(Scalar { value }),
            ..Resource::default()
        };
        let linux_info = Some(LinuxInfo { share_cgroups, ..LinuxInfo::default() });
        let info = Some(Box::new(ContainerInfo { linux_info, ..ContainerInfo::default() }));
        let resources = vec![scalar("mem", mem), scalar("cpus", mem / 64.0)];
        Container { id: id.into(), resources, info, ..Container::default() }
    }

    #[test]
    fn limits_follow_what_a_container_has_and_a_running_one_loses_no_memory() {
        const MB: u64 = 1 << 20;
        for (groups, _) in crate::cgroups::tests::real("follow") {
            if check(&groups, "cgroups/mem").is_err() || check(&groups, "cgroups/cpu").is_err() {
                crate::cgroups::tests::take_away(&groups);
                continue;
            }
            let first = groups.version() == Version::First;
            let (mem, cpu) = (CgroupsMem::new(&groups, Terms::default()), CgroupsCpu::new(&groups, Terms::default()));
            let all: [&dyn Isolator; 2] = [&mem, &cpu];
            let prepared = |container: Container| {
                let mut creation = Creation { container, ..Creation::default() };
                all.iter().for_each(|isolator| isolator.prepare(&mut creation).unwrap());
                creation.joins
            };
            let own = groups.of("memory", "c").unwrap();
            let limit = || number(&own, if first { "memory.limit_in_bytes" } else { "memory.max" }).unwrap_or(u64::MAX);
            let soft = || number(&own, if first { "memory.soft_limit_in_bytes" } else { "memory.low" }).unwrap();
            let share =
                || number(&groups.of("cpu", "c").unwrap(), if first { "cpu.shares" } else { "cpu.weight" }).unwrap();
            let joins = prepared(container("c", 64.0, None));
            assert_eq!((limit(), soft(), share()), (64 * MB, 64 * MB, if first { 1024 } else { 100 }));
            let update = |container: Container| all.iter().for_each(|isolator| isolator.update(&container));
            update(container("c", 128.0, None));
            assert_eq!((limit(), soft(), share()), (128 * MB, 128 * MB, if first { 2048 } else { 200 }));
            update(container("c", 32.0, None));
            assert_eq!((limit(), soft(), share()), (128 * MB, 32 * MB, if first { 512 } else { 50 }));
            update(Container { limits: [("mem".to_owned(), f64::INFINITY)].into(), ..container("c", 32.0, None) });
            assert!(limit() > 1 << 60);
            // What is within another is limited with that, unless it is said that it is not.
            let shared = prepared(container("c.a", 32.0, None));
            assert!(groups.of("memory", "c.a").is_some_and(|group| !group.exists()));
            assert!(if first { shared == joins } else { shared.is_empty() }, "{shared:?}");
            prepared(container("c.b", 48.0, Some(false)));
            let inner = groups.of("memory", "c.b").unwrap();
            assert_eq!(number(&inner, if first { "memory.limit_in_bytes" } else { "memory.max" }), Some(48 * MB));
            assert!(inner.starts_with(&own));
            update(container("other", 32.0, None));
            assert!(groups.of("memory", "other").is_some_and(|group| !group.exists()), "of one that it never heard of");
            groups.remove("c").unwrap();
            crate::cgroups::tests::take_away(&groups);
        }
    }

    #[test]
    fn what_a_machine_does_not_have_is_named() {
        for (groups, _) in crate::cgroups::tests::real("named") {
            assert_eq!(check(&groups, "posix/cpu"), Ok(()));
            for (name, ..) in ALL {
                let needed = needs(name, groups.version()).unwrap();
                let Some(needed) = needed else {
                    let said = check(&groups, name).unwrap_err();
                    assert!(said.contains("first version") && !all(&groups).contains(&name), "{said}");
                    continue;
                };
                let missing = needed.iter().find(|controller| !groups.has(controller));
                if missing.is_none() && name == "cgroups/devices" {
                    continue;
                }
                let said = check(&groups, name).err();
                assert_eq!(said.is_some(), missing.is_some(), "{said:?}");
                assert_eq!(all(&groups).contains(&name), missing.is_none());
                if let Some((said, missing)) = said.zip(missing) {
                    assert!(said.contains(name) && said.contains(missing) && said.contains(&groups.list()), "{said}");
                }
            }
            crate::cgroups::tests::take_away(&groups);
        }
    }
}
