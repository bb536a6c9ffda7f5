//! `gpu/nvidia`: whole GPUs of NVIDIA, each given to one container at a time. The control group of a container lets it use those that
//! it was given and no other, whatever files of devices it has; in a root of its own it finds their files, and the driver's programs
//! and libraries where its image asks for them.

mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::resources::Resources;
use parking_lot::{Condvar, Mutex};
use supervisor::mounts::{Mount, Place};
use supervisor::nodes::Node;
use supervisor::sys::nvml::Library;

use super::Isolator;
use super::cgroups::{CgroupsDevices, Rule};
use super::linux::is_session;
use crate::cgroups::Cgroups;
use crate::container::Container;
use crate::containerizer::Creation;

pub use driver::Driver;

/// So long a launch waits for GPUs that were promised to it: whoever had them is over, and about to give them back.
const PATIENCE: Duration = Duration::from_secs(20);
/// Devices by which all GPUs are used; those that there are not always are last.
const CONTROLS: [&str; 3] = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"];
const CONTROLS_NEEDED: usize = 2;

/// What tells which GPUs there are: NVIDIA's management library, or what takes its place in tests.
pub trait Nvml {
    /// The version of the driver. The error is a sentence.
    ///
    /// # Errors
    /// It cannot be told.
    fn version(&self) -> Result<String, String>;
    /// How many there are. The error is a sentence.
    ///
    /// # Errors
    /// It cannot be told.
    fn count(&self) -> Result<u32, String>;
    /// Which `/dev/nvidiaN` one is, by its index. The error is a sentence.
    ///
    /// # Errors
    /// There is none, or it cannot be told.
    fn minor(&self, index: u32) -> Result<u32, String>;
}

impl Nvml for Library {
    fn version(&self) -> Result<String, String> {
        Library::version(self)
    }

    fn count(&self) -> Result<u32, String> {
        Library::count(self)
    }

    fn minor(&self, index: u32) -> Result<u32, String> {
        Library::minor(self, index)
    }
}

/// Which GPUs an agent gives out, by the numbers of their `/dev/nvidiaN`: those that are `listed` by their indices, of which `--resources`
/// says that there are so many, `given` in thousandths; or all. The error is a sentence.
///
/// # Errors
/// The two do not go together, or the machine does not have them.
pub fn found(nvml: &dyn Nvml, given: Option<i64>, listed: Option<&[u32]>) -> Result<BTreeSet<u32>, String> {
    let there = nvml.count()?;
    let indices = match (given, listed) {
        (None, None) => (0..there).collect(),
        (Some(0), None) => Vec::new(),
        (Some(0), Some(_)) => return Err("'--nvidia_gpu_devices' names GPUs, and '--resources' has gpus:0".to_owned()),
        (Some(_), None) => {
            return Err(
                "'gpus' in '--resources' needs '--nvidia_gpu_devices', which names as many; without both all are found"
                    .to_owned(),
            );
        }
        (None, Some(_)) => return Err("'--nvidia_gpu_devices' needs as many 'gpus' in '--resources'".to_owned()),
        (Some(milli), Some(listed)) => {
            let once: BTreeSet<u32> = listed.iter().copied().collect();
            if once.len() != listed.len() {
                return Err("'--nvidia_gpu_devices' names a GPU twice".to_owned());
            }
            if milli != 1000 * listed.len() as i64 {
                return Err(format!(
                    "'--nvidia_gpu_devices' names {} GPUs, and '--resources' has gpus:{}",
                    listed.len(),
                    milli / 1000
                ));
            }
            if let Some(missing) = once.iter().find(|index| **index >= there) {
                return Err(format!(
                    "'--nvidia_gpu_devices' names GPU {missing}, and this machine has {there}, from 0 on"
                ));
            }
            listed.to_vec()
        }
    };
    indices.into_iter().map(|index| nvml.minor(index)).collect()
}

/// How it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuSettings {
    /// Those that it gives out, by the numbers of their `/dev/nvidiaN`.
    pub gpus: BTreeSet<u32>,
    /// The files of the driver.
    pub driver: Driver,
    /// Folder of what is kept of containers: which GPUs each has.
    pub dir: PathBuf,
}

/// `gpu/nvidia`
pub struct GpuNvidia {
    devices: CgroupsDevices,
    settings: GpuSettings,
    /// Which container has which.
    given: Mutex<BTreeMap<String, BTreeSet<u32>>>,
    /// Some came back.
    returned: Condvar,
}

/// A device of the machine's. The error is a sentence.
fn device(name: &str) -> Result<Node, String> {
    let path = format!("/dev/{name}");
    Node::of(&path, name)
        .map(|node| Node { mode: 0o666, ..node })
        .map_err(|error| format!("cannot find {path}: {error}"))
}

fn rule(node: &Node, make: bool) -> Rule {
    Rule { is_block: node.is_block, major: Some(node.major), minor: Some(node.minor), read: true, write: true, make }
}

/// The rules of these GPUs.
fn rules(gpus: impl IntoIterator<Item = u32>) -> Result<Vec<Rule>, String> {
    gpus.into_iter().map(|minor| Ok(rule(&device(&format!("nvidia{minor}"))?, false))).collect()
}

fn controls() -> impl Iterator<Item = Node> {
    CONTROLS.into_iter().filter_map(|name| device(name).ok())
}

impl GpuNvidia {
    /// Whether the devices are there by which GPUs are used. One of them is made when it is used first: so it is, by the driver's program.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(settings: &GpuSettings) -> Result<(), String> {
        if device("nvidia-uvm").is_err() {
            let _ = std::process::Command::new("nvidia-modprobe").args(["-u", "-c", "0"]).status();
        }
        let all = settings.gpus.iter().map(|minor| format!("nvidia{minor}"));
        let controls = CONTROLS.iter().take(CONTROLS_NEEDED).map(ToString::to_string);
        let missing = controls.chain(all).find_map(|name| device(&name).err());
        missing.map_or(Ok(()), |why| Err(format!("gpu/nvidia in --isolation cannot be: {why}")))
    }

    /// With those that containers of an agent before this one have.
    pub fn new(groups: &Cgroups, allowed: &[Rule], settings: &GpuSettings) -> GpuNvidia {
        let mut given = BTreeMap::new();
        for entry in fs::read_dir(&settings.dir).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let gpus = text.split_whitespace().filter_map(|minor| minor.parse().ok()).collect();
            given.insert(entry.file_name().to_string_lossy().into_owned(), gpus);
        }
        let devices = CgroupsDevices::new(groups, allowed);
        GpuNvidia { devices, settings: settings.clone(), given: Mutex::new(given), returned: Condvar::new() }
    }

    fn write(&self, container_id: &str, gpus: &BTreeSet<u32>) -> Result<(), String> {
        let path = self.settings.dir.join(container_id);
        let text: Vec<String> = gpus.iter().map(ToString::to_string).collect();
        let draft = self.settings.dir.with_extension("draft");
        let written = fs::create_dir_all(&self.settings.dir)
            .and_then(|()| fs::write(&draft, text.join(" ")))
            .and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| format!("cannot write down which GPUs it has: {error}"))
    }

    /// Those that a container has from now on: as many as it was given, and of those that it had so many as may be. What it gets is
    /// written down before it may use it, what it loses after. Waits for what is about to come back, until then.
    fn give(&self, container: &Container, is_new: bool, until: Instant) -> Result<(), String> {
        let milli = Resources::from_v1(&container.resources).unwrap_or_default().scalar_milli("gpus");
        let count = usize::try_from(milli / 1000).unwrap_or(0);
        let mut given = self.given.lock();
        let (had, mut has) = loop {
            let had = given.get(&container.id).cloned().unwrap_or_default();
            let taken: BTreeSet<u32> = given.values().flatten().copied().collect();
            let free: Vec<u32> = self.settings.gpus.difference(&taken).copied().collect();
            if had.len() + free.len() >= count {
                let more = count.saturating_sub(had.len());
                break (had.clone(), had.into_iter().chain(free.into_iter().take(more)).collect::<BTreeSet<u32>>());
            }
            if self.returned.wait_until(&mut given, until).timed_out() {
                return Err(format!(
                    "it asks for {count} GPUs, and of the {} of this agent {} are free",
                    self.settings.gpus.len(),
                    free.len()
                ));
            }
        };
        while has.len() > count {
            has.pop_last();
        }
        if had == has && !is_new {
            return Ok(());
        }
        self.write(&container.id, &had.union(&has).copied().collect())?;
        given.insert(container.id.clone(), had.union(&has).copied().collect());
        let wanted: Vec<Rule> = controls().map(|node| rule(&node, true)).chain(rules(has.iter().copied())?).collect();
        self.devices.grant(container, &wanted, &rules(had.difference(&has).copied())?)?;
        if !had.is_subset(&has) {
            self.write(&container.id, &has)?;
            given.insert(container.id.clone(), has);
            self.returned.notify_all();
        }
        Ok(())
    }

    fn forget(&self, container_id: &str) {
        let mut given = self.given.lock();
        match fs::remove_file(self.settings.dir.join(container_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(container_id, %error, "cannot forget which GPUs a container had");
            }
            _ => {}
        }
        given.remove(container_id);
        self.returned.notify_all();
    }

    /// What a container finds in a root of its own: files of all GPUs, since it may be given others while it runs.
    fn show(&self, creation: &mut Creation) -> Result<(), String> {
        let gpus = self.settings.gpus.iter().map(|minor| device(&format!("nvidia{minor}")));
        creation.world.nodes.extend(controls().map(Ok).chain(gpus).collect::<Result<Vec<Node>, String>>()?);
        if driver::is_asked(&creation.environment) {
            for (path, at) in &self.settings.driver.0 {
                let mount = Mount::bind(Place::absolute(path.display().to_string()), Place::absolute(at));
                creation.world.mounts.push(Mount { read_only: true, no_devices: true, ..mount });
            }
            driver::tell(&mut creation.environment);
        }
        Ok(())
    }
}

impl Isolator for GpuNvidia {
    fn name(&self) -> &'static str {
        "gpu/nvidia"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let container = &creation.container;
        if !container.is_within() {
            self.give(container, true, Instant::now() + PATIENCE)?;
        } else if !is_session(creation) {
            // In a control group of its own it has what the one around it has.
            let gpus = self.given.lock().get(container.root_id()).cloned().unwrap_or_default();
            let wanted: Vec<Rule> = controls().map(|node| rule(&node, true)).chain(rules(gpus)?).collect();
            self.devices.grant(container, &wanted, &[])?;
        }
        if creation.world.root.is_some() && !is_session(creation) {
            self.show(creation)?;
        }
        Ok(())
    }

    fn recover(&self, container: &Container) {
        if !container.is_within()
            && let Err(why) = self.give(container, true, Instant::now())
        {
            tracing::error!(container_id = container.id, why, "a container does not have the GPUs that it should");
        }
    }

    fn sweep(&self, known: &BTreeSet<String>) {
        let all: Vec<String> = self.given.lock().keys().cloned().collect();
        all.iter()
            .filter(|container_id| !known.contains(*container_id))
            .for_each(|container_id| self.forget(container_id));
    }

    fn update(&self, container: &Container) {
        if !container.is_within()
            && let Err(why) = self.give(container, false, Instant::now())
        {
            tracing::error!(container_id = container.id, why, "a container does not have the GPUs that it should");
        }
    }

    fn cleanup(&self, container: &Container) {
        if !container.is_within() {
            self.forget(&container.id);
        }
    }
}

/// Folder of what is kept, below that of an agent.
pub fn dir(work_dir: &Path) -> PathBuf {
    work_dir.join("meta/gpus")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GPUs by index.
    struct Fake(Vec<u32>);

    impl Nvml for Fake {
        fn version(&self) -> Result<String, String> {
            Ok("550.1".to_owned())
        }

        fn count(&self) -> Result<u32, String> {
            Ok(self.0.len() as u32)
        }

        fn minor(&self, index: u32) -> Result<u32, String> {
            self.0.get(index as usize).copied().ok_or_else(|| "Not Found".to_owned())
        }
    }

    #[test]
    fn which_gpus_are_given_out() {
        let machine = Fake(vec![3, 1, 0]);
        let found = |given, listed: Option<&[u32]>| found(&machine, given, listed);
        assert_eq!(found(None, None), Ok([0, 1, 3].into()));
        assert_eq!(found(Some(0), None), Ok([].into()));
        assert_eq!(found(Some(2000), Some(&[2, 0])), Ok([0, 3].into()));
        for (given, listed, why) in [
            (Some(1000), None, "needs '--nvidia_gpu_devices'"),
            (None, Some(&[0][..]), "needs as many 'gpus'"),
            (Some(0), Some(&[0]), "has gpus:0"),
            (Some(2000), Some(&[0]), "names 1 GPUs, and '--resources' has gpus:2"),
            (Some(2000), Some(&[0, 0]), "names a GPU twice"),
            (Some(1000), Some(&[3]), "names GPU 3, and this machine has 3"),
        ] {
            assert!(found(given, listed).unwrap_err().contains(why), "{why}");
        }
    }
}
