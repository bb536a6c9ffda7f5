//! Volumes of containers: `volume/host_path`, `volume/sandbox_path` and `volume/secret`. They say what is to be mounted where; the
//! supervisor finds it and mounts it, in mounts that are the container's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use api::v1::mount_propagation::Mode as Propagation;
use api::v1::volume::source::{Type, sandbox_path};
use api::v1::volume::{Mode, Source as From};
use api::v1::{ContainerInfo, Volume};
use parking_lot::Mutex;
use supervisor::mounts::{Mount, Place, Source};

use super::Isolator;
use super::filesystem::{FilesystemSettings, target};
use super::linux::is_session;
use crate::container::Container;
use crate::containerizer::Creation;
use crate::sandbox::ids;

fn info(creation: &Creation) -> ContainerInfo {
    creation.container.info.as_deref().cloned().unwrap_or_default()
}

/// The volumes that come from sources of this kind.
pub(super) fn of(creation: &Creation, kind: Type) -> Vec<(Volume, From)> {
    let volumes = info(creation).volumes.into_iter();
    volumes
        .filter_map(|one| one.source.clone().filter(|source| source.r#type() == kind).map(|from| (one, from)))
        .collect()
}

/// Volumes as they were asked for before they had sources: their paths.
fn older(creation: &Creation, is_absolute: bool) -> Vec<(Volume, String)> {
    let volumes = info(creation).volumes.into_iter();
    let path = |one: &Volume| one.host_path.clone().filter(|path| path.starts_with('/') == is_absolute);
    volumes.filter_map(|one| path(&one).map(|path| (one, path))).collect()
}

pub(super) fn is_read_only(volume: &Volume) -> bool {
    volume.mode == Mode::Ro as i32
}

/// Where a volume is mounted. Without a root of its own nothing is made for it outside of the sandbox.
pub(super) fn place(creation: &Creation, settings: &FilesystemSettings, volume: &Volume) -> Result<Place, String> {
    let path = &volume.container_path;
    if path.split('/').any(|part| part == "..") {
        return Err(format!("The container_path '{path}' of a volume leads upwards"));
    }
    if creation.world.root.is_none() && path.starts_with('/') && !Path::new(path).exists() {
        return Err(format!(
            "Mount point '{path}' is an absolute path. It must exist if the container shares the host filesystem"
        ));
    }
    Ok(target(creation, settings, path))
}

/// `volume/host_path`: files and folders of the machine.
#[derive(Debug)]
pub struct VolumeHostPath(pub FilesystemSettings);

impl VolumeHostPath {
    /// Where a path is. What is missing, and is allowed to be made, is so by the supervisor, which follows nothing that leads out of
    /// the folder where it is allowed.
    fn find(&self, path: &str) -> Result<Place, String> {
        if Path::new(path).exists() {
            return Ok(Place::absolute(path));
        }
        let Some(allowed) = &self.0.made_host_paths else {
            return Err(format!("Path '{path}' in HOST_PATH volume does not exist"));
        };
        let normal = normal(path).ok_or_else(|| format!("Path '{path}' in HOST_PATH volume leads upwards"))?;
        let Some((above, rest)) = allowed.iter().find_map(|above| Some((above, normal.strip_prefix(above).ok()?)))
        else {
            return Err(format!(
                "Path '{path}' in HOST_PATH volume does not exist and is not whitelisted for creation \
                 (--host_path_volume_force_creation)"
            ));
        };
        if !above.exists() {
            // Whatever the mask of this process is.
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            let made = fs::create_dir_all(above).and_then(|()| fs::set_permissions(above, open));
            made.map_err(|error| format!("Failed to create the host path at '{path}': {error}"))?;
        }
        Ok(Place::below(above.display().to_string(), rest.display().to_string()))
    }
}

/// A path without `.`; none of one that leads upwards.
fn normal(path: &str) -> Option<PathBuf> {
    let parts = Path::new(path).components();
    parts.filter(|part| *part != Component::CurDir).map(|part| (part != Component::ParentDir).then_some(part)).collect()
}

impl Isolator for VolumeHostPath {
    fn name(&self) -> &'static str {
        "volume/host_path"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let mut wanted: Vec<(Volume, String, bool)> =
            older(creation, true).into_iter().map(|(volume, path)| (volume, path, false)).collect();
        for (volume, source) in of(creation, Type::HostPath) {
            let from = source.host_path.unwrap_or_default();
            if !from.path.starts_with('/') {
                return Err(format!("Path '{}' in HOST_PATH volume is not absolute", from.path));
            }
            let propagates = from.mount_propagation.is_some_and(|one| one.mode() == Propagation::Bidirectional);
            wanted.push((volume, from.path, propagates));
        }
        if !wanted.is_empty() && is_session(creation) {
            return Err("HOST_PATH volume is not supported for DEBUG containers".to_owned());
        }
        for (volume, path, propagates) in wanted {
            let from = self.find(&path)?;
            let at = place(creation, &self.0, &volume)?;
            if propagates {
                is_shared(&path)?;
            }
            let read_only = is_read_only(&volume);
            creation.world.mounts.push(Mount { read_only, propagates, ..Mount::bind(from, at) });
        }
        Ok(())
    }
}

/// Whether what is mounted at a path is told to others that have it.
fn is_shared(path: &str) -> Result<(), String> {
    let cannot =
        |why: &str| format!("Cannot setup bidirectional mount propagation for host path '{path}' because {why}");
    let real = fs::canonicalize(path).map_err(|error| cannot(&error.to_string()))?;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|error| cannot(&error.to_string()))?;
    // The last of the longest: what is on top.
    let mounts = table.lines().filter_map(|line| {
        let at = line.split(' ').nth(4)?;
        let is_shared = line.split(" - ").next()?.split(' ').skip(6).any(|field| field.starts_with("shared:"));
        real.starts_with(unescaped(at)).then_some((at.len(), is_shared))
    });
    match mounts.max_by_key(|(length, _)| *length) {
        Some((_, true)) => Ok(()),
        _ => Err(cannot("it is not under a shared mount")),
    }
}

/// A path as the table of mounts has it: what would break a line is written as `\040`.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// `volume/sandbox_path`: folders of the container's own sandbox, or of that of what it is within.
#[derive(Debug)]
pub struct VolumeSandboxPath {
    settings: FilesystemSettings,
    /// Those of containers that there are.
    sandboxes: Mutex<BTreeMap<String, PathBuf>>,
}

impl VolumeSandboxPath {
    /// Knows no container yet.
    pub fn new(settings: &FilesystemSettings) -> VolumeSandboxPath {
        VolumeSandboxPath { settings: settings.clone(), sandboxes: Mutex::default() }
    }

    /// The sandbox that a volume comes from.
    fn sandbox(&self, creation: &Creation, volume: &Volume, kind: sandbox_path::Type) -> Result<PathBuf, String> {
        match kind {
            sandbox_path::Type::Unknown => Err("Unknown SANDBOX_PATH volume type".to_owned()),
            sandbox_path::Type::Self_ if !volume.container_path.starts_with('/') => {
                Err("'container_path' is relative for SANDBOX_PATH volume SELF type".to_owned())
            }
            sandbox_path::Type::Self_ => Ok(creation.container.sandbox.clone()),
            sandbox_path::Type::Parent => {
                let Some((parent, _)) = creation.container.id.rsplit_once('.') else {
                    return Err("SANDBOX_PATH volume PARENT type only works for nested container".to_owned());
                };
                let found = self.sandboxes.lock().get(parent).cloned();
                found.ok_or_else(|| "Failed to locate the sandbox for the parent container".to_owned())
            }
        }
    }
}

impl Isolator for VolumeSandboxPath {
    fn name(&self) -> &'static str {
        "volume/sandbox_path"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let container = &creation.container;
        self.sandboxes.lock().insert(container.id.clone(), container.sandbox.clone());
        let mut wanted: Vec<(Volume, String, sandbox_path::Type)> = older(creation, false)
            .into_iter()
            .map(|(volume, path)| (volume, path, sandbox_path::Type::Self_))
            .collect();
        for (volume, source) in of(creation, Type::SandboxPath) {
            let from = source.sandbox_path.unwrap_or_default();
            if from.path.starts_with('/') {
                return Err(format!("Path '{}' in SANDBOX_PATH volume is absolute", from.path));
            }
            let kind = from.r#type();
            wanted.push((volume, from.path, kind));
        }
        if !wanted.is_empty() && is_session(creation) {
            return Err("SANDBOX_PATH volume is not supported for DEBUG containers".to_owned());
        }
        for (volume, path, kind) in wanted {
            if path.split('/').any(|part| part == "..") {
                return Err(format!("Path '{path}' in SANDBOX_PATH volume leads upwards"));
            }
            let from = self.sandbox(creation, &volume, kind)?;
            let at = place(creation, &self.settings, &volume)?;
            // Whoever has that sandbox may change what is in it at any time: the supervisor follows nothing that leads out.
            let mount = Mount::bind(Place::below(from.display().to_string(), path), at);
            let read_only = is_read_only(&volume);
            creation.world.mounts.push(Mount { read_only, no_devices: true, ..mount });
        }
        Ok(())
    }

    fn recover(&self, container: &Container) {
        self.sandboxes.lock().insert(container.id.clone(), container.sandbox.clone());
    }

    fn cleanup(&self, container: &Container) {
        self.sandboxes.lock().remove(&container.id);
    }
}

/// `volume/secret`: files that are in memory only, and that their container alone sees.
#[derive(Debug)]
pub struct VolumeSecret(pub FilesystemSettings);

impl Isolator for VolumeSecret {
    fn name(&self) -> &'static str {
        "volume/secret"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        if is_session(creation) {
            return Ok(());
        }
        let found = of(creation, Type::Secret);
        if found.is_empty() {
            return Ok(());
        }
        // As the container numbers them.
        let (uid, gid) = ids(&creation.user, None)?;
        for (volume, source) in found {
            let path = &volume.container_path;
            let value = source.secret.and_then(|secret| secret.value).map(|value| value.data).unwrap_or_default();
            if api::secrets::is_sealed(&value) {
                return Err(format!(
                    "the secret of the volume at '{path}' cannot be opened: this agent needs the --cluster_secret of its masters"
                ));
            }
            let at = place(creation, &self.0, &volume)?;
            let mount = Mount::memory(None, 0o700, at);
            let read_only = is_read_only(&volume);
            creation.world.mounts.push(Mount { source: Source::Content(value.to_vec(), uid, gid), read_only, ..mount });
        }
        Ok(())
    }
}
