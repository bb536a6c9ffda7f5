//! `filesystem/linux`: containers have mounts of their own. Volumes are mounted there, by the supervisor and between clone and
//! exec: the machine sees none of them, so nothing is left of them, whoever ends the agent or the container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use api::v1::volume::Mode;
use parking_lot::Mutex;
use supervisor::into::{Found, Wanted};
use supervisor::mounts::{Mount, Place};
use supervisor::spec::Namespace;

use super::Isolator;
use super::linux::{enter, is_session, own};
use crate::container::Container;
use crate::containerizer::Creation;

/// How what containers see of files is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesystemSettings {
    /// Where a container with a root of its own sees its sandbox.
    pub sandbox_directory: String,
    /// Folders of the machine in which what is asked for and missing is made.
    pub made_host_paths: Option<Vec<PathBuf>>,
}

impl Default for FilesystemSettings {
    fn default() -> FilesystemSettings {
        FilesystemSettings { sandbox_directory: "/mnt/mesos/sandbox".to_owned(), made_host_paths: None }
    }
}

/// Where something is mounted that is asked for at a `container_path`: below the sandbox, if that is relative.
pub(crate) fn target(creation: &Creation, settings: &FilesystemSettings, container_path: &str) -> Place {
    if container_path.starts_with('/') {
        return Place::absolute(container_path);
    }
    match creation.world.root {
        Some(_) => Place::below(&settings.sandbox_directory, container_path),
        None => Place::below(creation.container.sandbox.display().to_string(), container_path),
    }
}

/// `filesystem/linux`
#[derive(Debug)]
pub struct FilesystemLinux {
    settings: FilesystemSettings,
    /// Containers that have a root of their own.
    with_root: Mutex<BTreeSet<String>>,
}

impl FilesystemLinux {
    /// Knows no container yet.
    pub fn new(settings: &FilesystemSettings) -> FilesystemLinux {
        FilesystemLinux { settings: settings.clone(), with_root: Mutex::default() }
    }
}

impl FilesystemLinux {
    /// Lets a process know where it finds its sandbox.
    fn tell(&self, creation: &mut Creation) {
        let before = format!("MESOS_SANDBOX={}", creation.container.sandbox.display());
        let now = format!("MESOS_SANDBOX={}", self.settings.sandbox_directory);
        creation.environment.iter_mut().filter(|one| **one == before).for_each(|one| one.clone_from(&now));
    }
}

impl Isolator for FilesystemLinux {
    fn name(&self) -> &'static str {
        "filesystem/linux"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let id = creation.container.id.clone();
        if is_session(creation) {
            if creation.container.info.as_ref().is_some_and(|info| !info.volumes.is_empty()) {
                return Err("Volumes not supported for DEBUG containers".to_owned());
            }
            // Sees what it is within as that one does.
            enter(creation, Namespace::Mount);
            let parent = id.rsplit_once('.').map_or("", |(parent, _)| parent);
            if self.with_root.lock().contains(parent) {
                creation.world.directory.get_or_insert_with(|| self.settings.sandbox_directory.clone());
                self.tell(creation);
            }
            return Ok(());
        }
        own(creation, Namespace::Mount);
        let sandbox = creation.container.sandbox.display().to_string();
        if creation.world.root.is_some() {
            self.with_root.lock().insert(id);
            let seen = self.settings.sandbox_directory.clone();
            let mount = Mount::bind(Place::below(&sandbox, ""), Place::absolute(&seen));
            // Before all that may be mounted in it.
            creation.world.mounts.insert(0, Mount { no_devices: true, ..mount });
            // Unless its image has one.
            creation.world.directory.get_or_insert_with(|| seen.clone());
            self.tell(creation);
        }
        for volume in creation.container.volumes.clone() {
            let Some(found) = volume.resource.disk.as_ref().and_then(|disk| disk.volume.as_ref()) else { continue };
            let at = target(creation, &self.settings, &found.container_path);
            let mount = Mount::bind(Place::absolute(volume.place.display().to_string()), at);
            let read_only = found.mode == Mode::Ro as i32;
            creation.world.mounts.push(Mount { read_only, no_devices: true, mapped: true, ..mount });
        }
        Ok(())
    }

    fn volumes(&self, container: &Container, pid: u32, over: &[(String, PathBuf)]) -> Result<(), String> {
        let has_root = self.with_root.lock().contains(&container.id);
        // By a link they would be nobody's.
        let has_users = supervisor::users::of_process(pid).is_ok_and(|users| users.is_some());
        // By path: read-only if nobody asks for more.
        let mut all: BTreeMap<String, (String, bool)> = BTreeMap::new();
        for volume in &container.volumes {
            let Some(found) = volume.resource.disk.as_ref().and_then(|disk| disk.volume.as_ref()) else { continue };
            let parts = found.container_path.split('/').filter(|part| !matches!(*part, "" | "."));
            let path = parts.collect::<Vec<_>>().join("/");
            let read_only = found.mode == Mode::Ro as i32;
            let one = all.entry(path).or_insert((volume.place.display().to_string(), true));
            one.1 &= read_only;
        }
        let gone = over.iter().map(|(path, place)| (path, place.display().to_string()));
        let gone = gone.filter(|(path, place)| all.get(*path).is_none_or(|(now, _)| now != place));
        let gone = gone.map(|(path, place)| Wanted { path: path.clone(), place, found: Found::Gone });
        let there = all.iter().map(|(path, (place, read_only))| {
            let found = match (read_only, has_root || has_users) {
                (true, _) => Found::ReadOnly,
                // Links lead nowhere in a root of its own.
                (false, true) => Found::Mounted,
                (false, false) => Found::Linked,
            };
            Wanted { path: path.clone(), place: place.clone(), found }
        });
        let wanted: Vec<Wanted> = gone.chain(there).collect();
        let sandbox = container.sandbox.display().to_string();
        let seen = if has_root { &self.settings.sandbox_directory } else { &sandbox };
        if wanted.is_empty() { Ok(()) } else { supervisor::into::settle(pid, seen, &wanted) }
    }

    fn recover(&self, container: &Container) {
        let image = container.info.as_ref().and_then(|info| info.mesos.as_ref()?.image.as_ref());
        if image.is_some() {
            self.with_root.lock().insert(container.id.clone());
        }
    }

    fn cleanup(&self, container: &Container) {
        self.with_root.lock().remove(&container.id);
    }
}
