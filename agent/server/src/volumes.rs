//! Persistent volumes on this machine's disks, and the links by which sandboxes find them.
//!
//! ```text
//! DISK/volumes/roles/ROLE/ID           a volume, with spaces for the slashes of its role; of a MOUNT disk, its root
//! DISK/volumes/destroyed/OPERATION-N   what a DESTROY took away, while it is deleted; empty then, until the log knows
//! ```
//!
//! What an operation changes is changed at once, in steps that take no time: a folder is made, or renamed. So whatever
//! is done next, another operation or a launch, sees it. Deleting takes its time and is done behind that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Executor, State, Volume};
use api::v1::offer::Operation as Info;
use api::v1::offer::operation::Type;
use containers::users::Users;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use parking_lot::Mutex;

use crate::surroundings::{Inbox, Volumes};

/// Pauses before something is deleted again, the first and the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Of the file system itself, at the root of a disk.
const NOT_DATA: &str = "lost+found";

/// The disks of this machine.
pub(crate) struct Disks {
    work_dir: PathBuf,
    /// What is left of operations until they are settled.
    left: Mutex<BTreeMap<Vec<u8>, Vec<PathBuf>>>,
}

/// Where a volume is.
pub(crate) fn path(work_dir: &Path, volume: &Volume) -> PathBuf {
    let disk = disk(work_dir, volume);
    match volume.is_root {
        true => disk,
        false => disk.join("volumes/roles").join(volume.role.replace('/', " ")).join(&volume.id),
    }
}

/// The root of the disk that it is on.
fn disk(work_dir: &Path, volume: &Volume) -> PathBuf {
    // One that is not absolute is below the work_dir.
    volume.root.as_ref().map_or_else(|| work_dir.to_owned(), |root| work_dir.join(root))
}

impl Disks {
    pub(crate) fn new(work_dir: &Path) -> Arc<Disks> {
        Arc::new(Disks { work_dir: work_dir.to_owned(), left: Mutex::default() })
    }

    /// Deletes what earlier agents left of operations that are over. `roots` are those of other disks.
    pub(crate) fn sweep(&self, roots: &BTreeSet<String>, open: &BTreeSet<String>) {
        let disks = roots.iter().map(|root| self.work_dir.join(root)).chain([self.work_dir.clone()]);
        for entry in disks.filter_map(|disk| fs::read_dir(disk.join("volumes/destroyed")).ok()).flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.rsplit_once('-').is_some_and(|(operation, _)| open.contains(operation)) {
                let deleted = fs::remove_dir_all(entry.path());
                if let Err(error) = deleted {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot delete what is left of a volume");
                }
            }
        }
    }

    /// Makes it so, as far as others see it. What is still to be deleted is told; the error is a sentence, and nothing was done.
    fn begin(&self, operation: &[u8], info: &Info) -> Result<Vec<PathBuf>, String> {
        let volumes = agent_core::on_disk(info).iter().map(Volume::of).collect::<Result<Vec<_>, _>>()?;
        let mut done: Vec<(PathBuf, Undo)> = Vec::new();
        let mut left = Vec::new();
        for (n, volume) in volumes.iter().enumerate() {
            let place = path(&self.work_dir, volume);
            let (verb, changed) = match info.r#type() {
                Type::Create => ("make", self.create(volume, &place).map(|made| made.then_some(Undo::Remove))),
                _ => ("destroy", self.destroy(&format!("{}-{n}", hex(operation)), volume, &place, &mut left)),
            };
            match changed {
                Ok(undo) => done.extend(undo.map(|undo| (place, undo))),
                Err(error) => {
                    for (place, undo) in done.into_iter().rev() {
                        let undone = match undo {
                            Undo::Remove => fs::remove_dir(&place),
                            Undo::Rename(from) => fs::rename(from, &place),
                        };
                        if let Err(error) = undone {
                            tracing::error!(path = %place.display(), %error, "cannot undo what was begun of an operation");
                        }
                    }
                    return Err(format!("Cannot {verb} the volume '{}' at {}: {error}", volume.id, place.display()));
                }
            }
        }
        Ok(left)
    }

    /// Whether it was made now. What is there already stays: it may be the root of a disk, or have been made before a crash.
    fn create(&self, volume: &Volume, place: &Path) -> io::Result<bool> {
        if volume.is_root {
            let is_dir = fs::metadata(place)?.is_dir();
            return if is_dir { Ok(false) } else { Err(io::ErrorKind::NotADirectory.into()) };
        }
        let disk = disk(&self.work_dir, volume);
        // The disk itself must be there: what was not mounted must not come to be on another one.
        fs::metadata(&disk)?;
        make_path(&disk, place.parent().unwrap_or(&disk))?;
        match fs::create_dir(place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(error),
        }
        // The mask of this process leaves nothing to others.
        fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
        Ok(true)
    }

    /// Takes it away: from here on nobody finds it. `name` was not used before, unless by this very operation.
    fn destroy(&self, name: &str, volume: &Volume, place: &Path, left: &mut Vec<PathBuf>) -> io::Result<Option<Undo>> {
        let disk = if volume.is_root { self.work_dir.clone() } else { disk(&self.work_dir, volume) };
        let destroyed = disk.join("volumes/destroyed");
        let mark = destroyed.join(name);
        if volume.is_root {
            left.push(place.join(format!(".meseta-destroyed-{name}")));
        }
        left.push(mark.clone());
        // Done before a crash. What is in its place now is another volume's.
        if fs::symlink_metadata(&mark).is_ok() {
            return Ok(None);
        }
        make_path(&disk, &destroyed)?;
        let mut undo = None;
        if volume.is_root {
            empty_root(place, &place.join(format!(".meseta-destroyed-{name}")))?;
            fs::create_dir(&mark)?;
        } else {
            match fs::rename(place, &mark) {
                Ok(()) => undo = Some(Undo::Rename(mark)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&mark)?,
                Err(error) => return Err(error),
            }
        }
        sync(&destroyed)?;
        Ok(undo)
    }
}

/// Deletes what was taken away, however often that takes. What marks that it was done stays.
async fn delete(left: Vec<PathBuf>) {
    {
        let mut pause = RETRY_MIN;
        loop {
            let paths = left.clone();
            let deleted = tokio::task::spawn_blocking(move || paths.iter().try_for_each(|path| empty(path)));
            match deleted.await {
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(error)) => tracing::error!(%error, ?left, "cannot delete a destroyed volume; trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }
}

enum Undo {
    Remove,
    Rename(PathBuf),
}

/// As [`Volumes`] of a surrounding.
pub(crate) struct OnDisks(pub(crate) Arc<Disks>);

impl Volumes for OnDisks {
    fn apply(&self, agent: &Inbox, operation: Vec<u8>) {
        let Some(info) = agent.operation(&operation) else { return };
        // Not long, but the disk may be slow.
        let begun = tokio::task::block_in_place(|| self.0.begin(&operation, &info));
        let (agent, disks) = (agent.clone(), self.0.clone());
        let left = match begun {
            Ok(left) => left,
            Err(sentence) => {
                tracing::error!(why = sentence, "an operation cannot be carried out");
                return agent.submit(Command::ReportOperation { operation, failure: Some(sentence) });
            }
        };
        disks.left.lock().insert(operation.clone(), left.clone());
        tokio::spawn(async move {
            delete(left).await;
            agent.submit(Command::ReportOperation { operation, failure: None });
        });
    }

    fn settle(&self, operation: Vec<u8>) {
        for path in self.0.left.lock().remove(&operation).into_iter().flatten() {
            if let Err(error) = fs::remove_dir(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot delete what is left of a volume");
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names the operations that are open, as their marks do.
pub(crate) fn open(state: &agent_core::State) -> BTreeSet<String> {
    let open = state.model.operations.values().filter(|one| one.on_disk && one.status.is_none());
    open.map(|one| hex(&one.operation)).collect()
}

/// The roots of disks that are named in resources.
pub(crate) fn roots<'a>(resources: impl Iterator<Item = &'a api::v1::Resource>) -> BTreeSet<String> {
    let paths = resources.filter_map(|resource| {
        let source = resource.disk.as_ref()?.source.as_ref()?;
        source.path.as_ref()?.root.clone()
    });
    paths.collect()
}

/// Lets nobody but root come to the volumes of a disk, or everybody pass: what root of a container with users of its own makes there
/// is root's on the disk, also a program that makes others root.
pub(crate) fn keep(disk: &Path, is_kept: bool) -> io::Result<()> {
    let volumes = disk.join("volumes");
    let mode = if is_kept { 0o700 } else { 0o711 };
    if is_kept {
        match fs::DirBuilder::new().mode(mode).create(&volumes) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    match fs::metadata(&volumes) {
        // What somebody else has made of it stays.
        Ok(found) if is_kept || found.mode() & 0o7777 == 0o700 => {
            fs::set_permissions(&volumes, fs::Permissions::from_mode(mode))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Folders from `top` to `path`, which everybody may pass through and nobody list.
fn make_path(top: &Path, path: &Path) -> io::Result<()> {
    let mut at = top.to_owned();
    for part in path.strip_prefix(top).map_err(io::Error::other)? {
        at.push(part);
        match fs::DirBuilder::new().mode(0o711).create(&at) {
            Ok(()) => fs::set_permissions(&at, fs::Permissions::from_mode(0o711))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Moves everything in the root of a disk to a folder in it; all of it, or nothing.
fn empty_root(root: &Path, to: &Path) -> io::Result<()> {
    // Nothing that a task put there is taken for it.
    match fs::DirBuilder::new().mode(0o700).create(to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(to)?.is_dir() => {}
        made => made?,
    }
    let mut moved: Vec<(PathBuf, PathBuf)> = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let from = root.join(&name);
        if from == to || name == NOT_DATA {
            continue;
        }
        let into = to.join(&name);
        if let Err(error) = fs::rename(&from, &into) {
            for (from, into) in moved.iter().rev() {
                if let Err(error) = fs::rename(into, from) {
                    tracing::error!(path = %from.display(), %error, "cannot move back what was on a disk");
                }
            }
            let _ = fs::remove_dir(to);
            return Err(error);
        }
        moved.push((from, into));
    }
    sync(root)
}

/// Deletes what is in a folder, if there is one. Links are removed, not followed.
fn empty(dir: &Path) -> io::Result<()> {
    let is_dir = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?.is_dir(),
    };
    if !is_dir {
        return fs::remove_file(dir);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    sync(dir)
}

fn sync(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// How a container finds its volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// By links in its sandbox.
    Links,
    /// They are mounted there for it, when it is created.
    Mounts,
    /// Those that it was created with are mounted; to others there are links.
    Either,
}

/// Volumes that an executor is to find in its sandbox, and those of its tasks that are over, which it is not.
pub(crate) struct Links {
    uses: Vec<Link>,
    before: Vec<agent_core::Use>,
}

struct Link {
    one: agent_core::Use,
    is_to_come: bool,
    /// Others use it.
    keeps_owner: bool,
}

impl Links {
    /// The error is a sentence.
    pub(crate) fn of(executor: &Executor, state: &State) -> Result<Links, String> {
        let link = |one: agent_core::Use| Link {
            is_to_come: state.model.is_to_come(&one.volume),
            keeps_owner: one.volume.shared && is_used(state, &executor.container_id, &one.volume),
            one,
        };
        Ok(Links { uses: executor.volumes()?.into_iter().map(link).collect(), before: executor.volumes_before() })
    }

    /// Lets it find them, and no longer the others. The error is a sentence.
    pub(crate) fn make(
        &self,
        work_dir: &Path,
        sandbox: &Path,
        finding: Finding,
        users: Option<Users>,
    ) -> Result<(), String> {
        if self.uses.is_empty() && self.before.is_empty() {
            return Ok(());
        }
        let owner =
            fs::symlink_metadata(sandbox).map_err(|error| format!("cannot look at {}: {error}", sandbox.display()))?;
        for over in self.before.iter().filter(|over| self.uses.iter().all(|link| link.one != **over)) {
            let target = path(work_dir, &over.volume);
            if let Err(error) = unlink(sandbox, &over.path, &target) {
                tracing::warn!(path = over.path, %error, "cannot remove the link to a volume");
            }
        }
        for link in &self.uses {
            let target = path(work_dir, &link.one.volume);
            if link.is_to_come && !target.exists() {
                // The task that uses it is handed over behind the order that makes it.
                continue;
            }
            link_one(sandbox, &link.one, &target, (&owner, users), link.keeps_owner, finding)?;
        }
        Ok(())
    }
}

/// Lets a container within an executor's find the volumes that it is launched with, which are the executor's. The error is a
/// sentence.
pub(crate) fn link_within(
    work_dir: &Path,
    sandbox: &Path,
    uses: &[agent_core::Use],
    of_executor: &[agent_core::Use],
    finding: Finding,
    users: Option<Users>,
) -> Result<(), String> {
    if uses.is_empty() {
        return Ok(());
    }
    let owner =
        fs::symlink_metadata(sandbox).map_err(|error| format!("cannot look at {}: {error}", sandbox.display()))?;
    for one in uses {
        if !of_executor.iter().any(|other| other.volume == one.volume) {
            return Err(format!("volume '{}' is none of its executor", one.volume.id));
        }
        link_one(sandbox, one, &path(work_dir, &one.volume), (&owner, users), one.volume.shared, finding)?;
    }
    Ok(())
}

/// Lets a sandbox find one volume, which becomes its user's unless it `keeps_owner`: with users of a container's own, whom the user is
/// among these. The error is a sentence.
fn link_one(
    sandbox: &Path,
    one: &agent_core::Use,
    target: &Path,
    (owner, users): (&fs::Metadata, Option<Users>),
    keeps_owner: bool,
    finding: Finding,
) -> Result<(), String> {
    let linked = found(target).and_then(|()| {
        // On the disk a volume is as any container has it.
        let within = |id: u32| users.map_or(Some(id), |users| users.within(id));
        if let (Some(uid @ 1..), Some(gid), false) = (within(owner.uid()), within(owner.gid()), keeps_owner) {
            std::os::unix::fs::lchown(target, Some(uid), Some(gid))?;
        }
        match finding {
            Finding::Mounts => Ok(()),
            Finding::Links => place_link(sandbox, &one.path, target, owner),
            Finding::Either => place_link(sandbox, &one.path, target, owner).or_else(|error| {
                let (dir, name) = parent(sandbox, &one.path, None)?;
                // What is mounted there is seen by its container only.
                let is_folder = openat(
                    &dir,
                    name.as_str(),
                    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                    Mode::empty(),
                );
                is_folder.map(drop).map_err(|_| error)
            }),
        }
    });
    let at = target.display();
    linked.map_err(|error| format!("cannot link volume '{}' at {at} to '{}': {error}", one.volume.id, one.path))
}

/// Whether another executor uses a volume.
fn is_used(state: &State, container_id: &str, volume: &Volume) -> bool {
    let others = state.executors().filter(|(_, executor)| executor.container_id != container_id);
    let uses = |executor: &Executor| executor.volumes().unwrap_or_default();
    others.flat_map(|(_, executor)| uses(executor)).any(|one| one.volume == *volume)
}

fn found(volume: &Path) -> io::Result<()> {
    if fs::metadata(volume)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// The folder of a name in a sandbox, which is its task's: no link is followed on the way.
fn parent(sandbox: &Path, path: &str, make: Option<&fs::Metadata>) -> io::Result<(std::os::fd::OwnedFd, String)> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at = nix::fcntl::open(sandbox, flags, Mode::empty())?;
    let mut parts: Vec<&str> = path.split('/').collect();
    let name = parts.pop().unwrap_or_default().to_owned();
    for part in parts {
        if let Some(owner) = make {
            match mkdirat(&at, part, Mode::from_bits_truncate(0o750)) {
                Ok(()) => {
                    let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
                    if !uid.is_root() {
                        fchownat(&at, part, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                    }
                }
                Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        at = openat(&at, part, flags, Mode::empty())?;
    }
    Ok((at, name))
}

fn place_link(sandbox: &Path, path: &str, target: &Path, owner: &fs::Metadata) -> io::Result<()> {
    let (dir, name) = parent(sandbox, path, Some(owner))?;
    match symlinkat(target, &dir, name.as_str()) {
        Ok(()) => Ok(()),
        // As before, or by an agent before this one.
        Err(nix::errno::Errno::EEXIST) => match readlinkat(&dir, name.as_str()) {
            Ok(there) if Path::new(&there) == target => Ok(()),
            _ => Err(io::Error::other("something else is in its place")),
        },
        Err(error) => Err(error.into()),
    }
}

fn unlink(sandbox: &Path, path: &str, target: &Path) -> io::Result<()> {
    let (dir, name) = match parent(sandbox, path, None) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    match readlinkat(&dir, name.as_str()) {
        Ok(there) if Path::new(&there) == target => Ok(unlinkat(&dir, name.as_str(), UnlinkatFlags::NoRemoveDir)?),
        // Whatever it is, it is not ours.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(root: Option<&Path>, is_root: bool) -> Volume {
        let root = root.map(|root| root.display().to_string());
        Volume { root, is_root, role: "eng/dev".into(), id: "v".into(), shared: false }
    }

    fn begin_destroy(disks: &Disks, name: &str, volume: &Volume) -> Vec<PathBuf> {
        let mut left = Vec::new();
        let place = path(&disks.work_dir, volume);
        disks.destroy(name, volume, &place, &mut left).unwrap();
        left
    }

    #[test]
    fn volumes_are_where_others_look_for_them() {
        let work_dir = Path::new("/w");
        assert_eq!(path(work_dir, &volume(None, false)), Path::new("/w/volumes/roles/eng dev/v"));
        let absolute = volume(Some(Path::new("/d")), false);
        assert_eq!(path(work_dir, &absolute), Path::new("/d/volumes/roles/eng dev/v"));
        assert_eq!(path(work_dir, &volume(Some(Path::new("d")), false)), Path::new("/w/d/volumes/roles/eng dev/v"));
        assert_eq!(path(work_dir, &volume(Some(Path::new("d")), true)), Path::new("/w/d"));
    }

    /// The same operation again, as after a crash, spares what came into its place since.
    #[test]
    fn what_was_destroyed_once_is_not_destroyed_again() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::new(dir.path());
        let root = dir.path().join("mounted");
        fs::create_dir_all(root.join(NOT_DATA)).unwrap();
        for volume in [volume(None, false), volume(Some(&root), true)] {
            let place = path(dir.path(), &volume);
            disks.create(&volume, &place).unwrap();
            fs::create_dir(place.join("old")).unwrap();
            fs::write(place.join("old/data"), "1").unwrap();
            let left = begin_destroy(&disks, "aa-0", &volume);
            assert!(!place.join("old").exists());
            disks.create(&volume, &place).unwrap();
            fs::write(place.join("new"), "2").unwrap();
            left.iter().try_for_each(|path| empty(path)).unwrap();
            // A crash, before the log knew.
            assert_eq!(begin_destroy(&disks, "aa-0", &volume), left);
            left.iter().try_for_each(|path| empty(path)).unwrap();
            assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "2");
            disks.sweep(&BTreeSet::new(), &BTreeSet::from(["aa".to_owned()]));
            assert!(left.last().unwrap().exists(), "it is open");
            disks.sweep(&BTreeSet::new(), &BTreeSet::new());
            assert!(!left.last().unwrap().exists());
        }
        assert!(root.join(NOT_DATA).exists());
    }

    #[test]
    fn a_link_is_made_below_the_sandbox_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let [sandbox, outside, target] = ["sandbox", "outside", "target"].map(|name| dir.path().join(name));
        [&sandbox, &outside, &target].into_iter().for_each(|path| fs::create_dir(path).unwrap());
        let owner = fs::symlink_metadata(&sandbox).unwrap();
        for path in ["data", "a/b/c"] {
            place_link(&sandbox, path, &target, &owner).unwrap();
            place_link(&sandbox, path, &target, &owner).unwrap();
            assert_eq!(fs::read_link(sandbox.join(path)).unwrap(), target);
            assert!(place_link(&sandbox, path, &outside, &owner).is_err(), "another one is there");
            unlink(&sandbox, path, &outside).unwrap();
            assert!(sandbox.join(path).exists());
            unlink(&sandbox, path, &target).unwrap();
            assert!(!sandbox.join(path).exists());
        }
        std::os::unix::fs::symlink(&outside, sandbox.join("way")).unwrap();
        assert!(place_link(&sandbox, "way/out", &target, &owner).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
