//! `docker/volume`: volumes of Docker's plugins, which the program `dvdcli` mounts on the machine and unmounts when nobody uses them
//! any more. Who uses which is written down before anything is mounted, as Mesos does:
//!
//! ```text
//! DIR/CONTAINER/volumes   {"volumes": [{"driver": D, "name": N}]}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use api::v1::Parameter;
use api::v1::volume::source::Type;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Uid, chown};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use supervisor::mounts::{Mount, Place};

use super::asked::ask;
use super::linux::is_session;
use super::volume::{is_read_only, of, place};
use super::{FilesystemSettings, Isolator};
use crate::container::Container;
use crate::containerizer::Creation;
use crate::sandbox::ids;

/// The program, looked for where the agent looks for programs.
const PROGRAM: &str = "dvdcli";
/// So long it may take; as with Mesos.
const MOUNT_PATIENCE: Duration = Duration::from_secs(120);
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(600);

/// How `docker/volume` is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DockerVolumeSettings {
    /// Where it is written down who uses what.
    pub dir: PathBuf,
    /// Whether a volume becomes its container's user's.
    pub is_chowned: bool,
}

/// A volume of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Used {
    driver: String,
    name: String,
}

/// As it is written down.
#[derive(Default, Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    volumes: Vec<Used>,
}

/// `docker/volume`
#[derive(Debug)]
pub struct DockerVolume {
    filesystem: FilesystemSettings,
    is_chowned: bool,
    volumes: Arc<Volumes>,
}

#[derive(Debug)]
struct Volumes {
    dir: PathBuf,
    program: Option<PathBuf>,
    /// Who uses what, or is about to.
    users: Mutex<BTreeMap<String, BTreeSet<Used>>>,
    /// Of each volume one thing is done at a time.
    turns: Mutex<BTreeMap<Used, Arc<Mutex<()>>>>,
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let is_program = |path: &PathBuf| nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok();
    std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|path| path.is_file() && is_program(path))
}

impl DockerVolume {
    /// Knows no container yet.
    pub fn new(settings: &DockerVolumeSettings, filesystem: &FilesystemSettings) -> DockerVolume {
        let volumes =
            Volumes { dir: settings.dir.clone(), program: find(), users: Mutex::default(), turns: Mutex::default() };
        DockerVolume { filesystem: filesystem.clone(), is_chowned: settings.is_chowned, volumes: Arc::new(volumes) }
    }

    /// Looks whether it can be used, and makes its folder this process's until it ends: what another agent uses would be taken for
    /// left behind.
    ///
    /// # Errors
    /// A sentence: it cannot be used.
    pub fn check(settings: &DockerVolumeSettings) -> Result<(), String> {
        if find().is_none() {
            return Err(format!("The 'docker/volume' isolator cannot get {PROGRAM}: it is in no folder of PATH"));
        }
        let dir = &settings.dir;
        let cannot = |error: io::Error| format!("Cannot use --docker_volume_checkpoint_dir={}: {error}", dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(cannot)?;
        let own = File::open(dir).map_err(cannot)?;
        match Flock::lock(own, FlockArg::LockExclusiveNonblock) {
            // Until this process ends.
            Ok(held) => std::mem::forget(held),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                return Err(format!(
                    "Another agent uses --docker_volume_checkpoint_dir={}: give each its own",
                    dir.display()
                ));
            }
            Err((_, error)) => return Err(cannot(error.into())),
        }
        Ok(())
    }
}

impl Volumes {
    fn file(&self, container_id: &str) -> PathBuf {
        self.dir.join(container_id).join("volumes")
    }

    fn write(&self, container_id: &str, all: &BTreeSet<Used>) -> io::Result<()> {
        let file = self.file(container_id);
        DirBuilder::new().recursive(true).mode(0o700).create(file.parent().unwrap_or(&self.dir))?;
        let draft = file.with_extension("draft");
        fs::write(&draft, serde_json::to_vec(&Written { volumes: all.iter().cloned().collect() })?)?;
        fs::rename(draft, file)
    }

    /// What was written down. Of one that was killed before it wrote there is nothing.
    fn read(&self, container_id: &str) -> io::Result<BTreeSet<Used>> {
        let text = match fs::read(self.file(container_id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            read => read?,
        };
        let written: Written = if text.is_empty() { Written::default() } else { serde_json::from_slice(&text)? };
        Ok(written.volumes.into_iter().collect())
    }

    fn ask(&self, verb: &str, used: &Used, options: &[Parameter], patience: Duration) -> Result<String, String> {
        let Used { driver, name } = used;
        let failed = |why: &dyn std::fmt::Display| {
            format!("Failed to {verb} the volume '{name}' of the driver '{driver}': {why}")
        };
        let program = self.program.as_ref().ok_or_else(|| failed(&format!("there is no {PROGRAM} in PATH")))?;
        let mut command = Command::new(program);
        command.arg(verb).arg(format!("--volumedriver={driver}")).arg(format!("--volumename={name}"));
        command.args(options.iter().map(|one| format!("--volumeopts={}={}", one.key, one.value)));
        let answer = ask(&mut command, b"", patience).map_err(|error| failed(&format!("{PROGRAM}: {error}")))?;
        match answer.code {
            Some(0) => Ok(answer.said),
            code => {
                let code = code.map_or("by a signal".to_owned(), |code| format!("with {code}"));
                Err(failed(&format!("{PROGRAM} ended {code}: {}", answer.errors)))
            }
        }
    }

    fn turn(&self, used: &Used) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock();
        // Nobody waits for those that nobody holds.
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(used.clone()).or_default().clone()
    }

    /// Where it is on the machine, for one who is written down as its user.
    fn mount(&self, used: &Used, options: &[Parameter]) -> Result<PathBuf, String> {
        let turn = self.turn(used);
        let _held = turn.lock();
        let said = PathBuf::from(self.ask("mount", used, options, MOUNT_PATIENCE)?);
        if said.is_absolute() && said.is_dir() {
            return Ok(said);
        }
        let said = said.display().to_string();
        Err(format!(
            "{PROGRAM} said '{}' of the volume '{}', which is no folder",
            api::limits::quoted(&said),
            used.name
        ))
    }

    /// A container is over.
    fn leave(&self, container_id: &str) {
        let Some(all) = self.users.lock().get(container_id).cloned() else { return };
        let mut is_left = false;
        for used in &all {
            let turn = self.turn(used);
            let _held = turn.lock();
            let is_used = {
                let mut users = self.users.lock();
                users.get_mut(container_id).map(|all| all.remove(used));
                users.values().any(|all| all.contains(used))
            };
            if is_used {
                continue;
            }
            if let Err(why) = self.ask("unmount", used, &[], UNMOUNT_PATIENCE) {
                tracing::error!(container_id, why, "a volume stays mounted; tried again at the next start");
                is_left = true;
            }
        }
        self.users.lock().remove(container_id);
        if is_left {
            return;
        }
        if let Err(error) = fs::remove_dir_all(self.dir.join(container_id)) {
            tracing::warn!(container_id, %error, "cannot remove what is written down of the volumes of a container");
        }
    }
}

impl Isolator for DockerVolume {
    fn name(&self) -> &'static str {
        "docker/volume"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let id = creation.container.id.clone();
        let (mut wanted, mut all) = (Vec::new(), BTreeSet::new());
        for (volume, source) in of(creation, Type::DockerVolume) {
            let from = source.docker_volume.unwrap_or_default();
            let name = from.name;
            let driver = from.driver.filter(|driver| !driver.is_empty());
            let driver = driver.ok_or_else(|| format!("The volume driver is not specified for volume '{name}'"))?;
            let used = Used { driver, name };
            if !all.insert(used.clone()) {
                let Used { driver, name } = used;
                return Err(format!("Found duplicate docker volume with driver '{driver}' and name '{name}'"));
            }
            let at = place(creation, &self.filesystem, &volume)?;
            let options = from.driver_options.map(|options| options.parameter).unwrap_or_default();
            wanted.push((used, options, at, is_read_only(&volume)));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        if is_session(creation) {
            return Err("DOCKER_VOLUME volume is not supported for DEBUG containers".to_owned());
        }
        // Before anything is mounted, so that all of it is taken back, whoever is killed.
        let written = self.volumes.write(&id, &all);
        written.map_err(|error| format!("cannot write down the volumes of the container: {error}"))?;
        self.volumes.users.lock().insert(id, all);
        for (used, options, at, read_only) in wanted {
            let source = self.volumes.mount(&used, &options)?;
            if self.is_chowned {
                let (uid, gid) = ids(&creation.user, None)?;
                if uid != 0 {
                    chown(&source, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(|error| {
                        format!("cannot give the volume '{}' to '{}': {error}", used.name, creation.user)
                    })?;
                }
            }
            let mount = Mount::bind(Place::absolute(source.display().to_string()), at);
            creation.world.mounts.push(Mount { read_only, no_devices: true, mapped: true, ..mount });
        }
        Ok(())
    }

    fn sweep(&self, known: &BTreeSet<String>) {
        let volumes = &self.volumes;
        let mut orphans = Vec::new();
        for entry in fs::read_dir(&volumes.dir).into_iter().flatten().flatten() {
            let container_id = entry.file_name().to_string_lossy().into_owned();
            match volumes.read(&container_id) {
                Ok(all) => drop(volumes.users.lock().insert(container_id.clone(), all)),
                Err(error) => {
                    tracing::error!(container_id, %error, "cannot read which volumes a container has; they stay mounted");
                    continue;
                }
            }
            if !known.contains(&container_id) {
                orphans.push(container_id);
            }
        }
        if orphans.is_empty() {
            return;
        }
        // A plugin takes its time; who mounts one of them meanwhile waits for it.
        let volumes = volumes.clone();
        let leaving = move || {
            for container_id in orphans {
                tracing::warn!(container_id, "unmounting volumes of a container that this agent's log does not know");
                volumes.leave(&container_id);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("docker-volumes".to_owned()).spawn(leaving) {
            tracing::error!(%error, "cannot unmount volumes that were left behind; tried again at the next start");
        }
    }

    fn cleanup(&self, container: &Container) {
        self.volumes.leave(&container.id);
    }
}
