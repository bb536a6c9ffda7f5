//! What this machine has: resources that nobody configured, names, load.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::resources::{Format, Parsed, Reservation, Resource, Resources, Value};
use nix::sys::statvfs::statvfs;

const MB: u64 = 1 << 20;
const GB_MB: u64 = 1024;

/// The resources given, and, for the default role, those of `cpus`, `mem`, `disk` and `ports` that were not, as found on this machine;
/// `gpus`, if some were found.
pub(crate) fn resources(given: Parsed, default_role: &str, work_dir: &Path, gpus: usize) -> Vec<api::v1::Resource> {
    let mut resources = given.resources;
    let is_held = default_role != "*";
    let held = || Reservation { dynamic: false, role: default_role.into(), principal: None, labels: vec![] };
    let mut add = |name: &'static str, value: Value| {
        if !given.names.iter().any(|given| given == name) {
            let reservations = if is_held { vec![held()] } else { Vec::new() };
            resources.add_one(Resource { reservations, ..Resource::new(name, value) });
        }
    };
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as i64);
    add("cpus", Value::Scalar(cpus * 1000));
    let mem_mb = match api_http::Host::read().mem_total_bytes as u64 {
        0 => GB_MB,
        total => spare(total / MB, GB_MB),
    };
    add("mem", Value::Scalar(mem_mb as i64 * 1000));
    let disk_mb =
        statvfs(work_dir).map_or(10 * GB_MB, |disk| spare(disk.blocks() * disk.fragment_size() / MB, 5 * GB_MB));
    add("disk", Value::Scalar(disk_mb as i64 * 1000));
    add("ports", Value::ranges([(31000, 32000)]));
    if gpus > 0 {
        add("gpus", Value::Scalar(gpus as i64 * 1000));
    }
    in_order(&resources)
}

/// A disk of its own that is not there would be offered, and tasks would run beside it. The root of a PATH disk is made if it
/// is missing. The error is a sentence.
pub(crate) fn check_disks(resources: &[api::v1::Resource], work_dir: &Path) -> Result<(), String> {
    for resource in resources {
        let source = resource.disk.as_ref().and_then(|disk| disk.source.as_ref());
        if let Some(path) = source.and_then(|source| source.path.as_ref()) {
            let root = path.root.as_deref().unwrap_or_default();
            if root.is_empty() {
                return Err("A PATH disk in --resources has no root".to_owned());
            }
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(work_dir.join(root))
                .map_err(|error| format!("Cannot use the PATH disk '{root}' in --resources: {error}"))?;
        }
        let Some(mount) = source.and_then(|source| source.mount.as_ref()) else { continue };
        let root = mount.root.as_deref().unwrap_or_default();
        // A path that is not absolute is one below the work_dir.
        match fs::metadata(work_dir.join(root)) {
            Ok(found) if found.is_dir() && !root.is_empty() => check_mounted(root, &work_dir.join(root))?,
            Ok(_) => return Err(format!("The root '{root}' of a MOUNT disk in --resources is no folder")),
            Err(error) => return Err(format!("Cannot use the MOUNT disk '{root}' in --resources: {error}")),
        }
    }
    Ok(())
}

/// Where a disk is usually mounted there may be nothing but a folder of the disk below: volumes on it would be empty, and what
/// is written to them would be found by nobody once the disk is back.
fn check_mounted(root: &str, place: &Path) -> Result<(), String> {
    let cannot = |error: io::Error| format!("Cannot use the MOUNT disk '{root}' in --resources: {error}");
    let place = fs::canonicalize(place).map_err(cannot)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(cannot)?;
    if mounted(&mounts).any(|mounted| mounted == place) {
        return Ok(());
    }
    Err(format!(
        "Nothing is mounted at the root '{root}' of a MOUNT disk in --resources; mount it, or make it a PATH disk"
    ))
}

/// Where something is mounted, as `mountinfo` writes it: the fifth field is the place.
pub(crate) fn mounted(mounts: &str) -> impl Iterator<Item = PathBuf> + '_ {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.map(|place| place.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").into())
}

/// What is left of a total after the system's part; half if that would be too little.
fn spare(total_mb: u64, system_mb: u64) -> u64 {
    if total_mb >= 2 * system_mb { total_mb - system_mb } else { total_mb / 2 }
}

fn in_order(resources: &Resources) -> Vec<api::v1::Resource> {
    resources.to_v1(Format::PostRefinement)
}
