//! `disk/xfs`: what sandboxes and persistent volumes take is counted and limited by the kernel, by projects of XFS: numbers that files
//! bear, and that what is made in a folder has from it. Each sandbox has a project, with what its container writes to its root, and
//! each volume; what is within another container is that one's.
//!
//! Which projects are free nobody writes down: those that no file bears. So they are given back by whoever deletes the files, in
//! whatever way, and an agent that was killed knows the same as before.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::v1::DiskStatistics;
use api::v1::task_status::Reason;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use parking_lot::Mutex;
use supervisor::sys::quota::{self, Quota};

use super::Isolator;
use super::disk::{Part, parts};
use super::walk::{top, walk};
use crate::container::{Container, Limitation, Usage};
use crate::containerizer::Creation;

/// What becomes of who takes more than was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: it is only counted.
    #[default]
    Count,
    /// It cannot write more.
    Deny,
    /// It can write so many bytes more, and is ended.
    End(u64),
}

/// How it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XfsSettings {
    /// Projects that are this agent's to give.
    pub projects: Vec<RangeInclusive<u32>>,
    /// What becomes of who takes more than was given.
    pub policy: Policy,
    /// Between two looks for those who are to be ended.
    pub interval: Duration,
    /// A folder on the disk of sandboxes.
    pub work_dir: PathBuf,
}

impl Default for XfsSettings {
    fn default() -> XfsSettings {
        let (policy, interval, work_dir) = Default::default();
        XfsSettings { projects: vec![5000..=10000], policy, interval, work_dir }
    }
}

/// A folder with a project.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    folder: PathBuf,
    project: u32,
    /// The limits that were set, soft and hard.
    limits: Option<(u64, u64)>,
}

/// Folders of containers that there are. No two folders have one project here, whatever their files say.
#[derive(Debug, Default)]
struct Book {
    /// By container; its sandbox is the first.
    containers: BTreeMap<String, Vec<Held>>,
    /// The project that was given last.
    last: u32,
}

impl Book {
    fn all(&self) -> impl Iterator<Item = &Held> {
        self.containers.values().flatten()
    }

    fn of(&self, folder: &Path) -> Option<u32> {
        self.all().find(|held| held.folder == folder).map(|held| held.project)
    }

    fn has(&self, project: u32) -> bool {
        self.all().any(|held| held.project == project)
    }

    fn held(&mut self, container_id: &str, folder: &Path) -> Option<&mut Held> {
        self.containers.get_mut(container_id)?.iter_mut().find(|held| held.folder == folder)
    }
}

/// `disk/xfs`
#[derive(Debug)]
pub struct DiskXfs {
    settings: XfsSettings,
    book: Mutex<Book>,
}

impl DiskXfs {
    /// Knows no container yet.
    pub fn new(settings: &XfsSettings) -> DiskXfs {
        DiskXfs { settings: settings.clone(), book: Mutex::default() }
    }

    /// Whether the disk of a folder counts what projects take, and limits it if that is wanted.
    ///
    /// # Errors
    /// A sentence: it does not.
    pub fn check(settings: &XfsSettings, folder: &Path) -> Result<(), String> {
        let place = folder.display();
        let cannot = |why: String| format!("disk/xfs in --isolation cannot be: {place} {why}");
        if !nix::unistd::geteuid().is_root() {
            return Err("disk/xfs in --isolation needs root: nobody else sets quotas".to_owned());
        }
        let state = File::open(folder).and_then(|file| quota::state(&file));
        match state {
            Ok(None) => Err(cannot("is not on XFS".to_owned())),
            Ok(Some((false, _))) => Err(cannot("is on XFS that counts no projects: mount it with prjquota".to_owned())),
            Ok(Some((true, false))) if settings.policy != Policy::Count => Err(cannot(
                "is on XFS that counts projects and does not limit them: mount it with prjquota, or give \
                 --no-enforce_container_disk_quota"
                    .to_owned(),
            )),
            Ok(Some(_)) => Ok(()),
            Err(error) => Err(cannot(format!(
                "has no quotas, or this kernel has no quotactl_fd (Linux 5.14) or no quotas of XFS: {error}"
            ))),
        }
    }

    fn range(&self) -> String {
        let all = self.settings.projects.iter().map(|range| format!("{}-{}", range.start(), range.end()));
        format!("[{}]", all.collect::<Vec<_>>().join(","))
    }

    /// A project that no file of this disk bears and no folder of the book has. The error is a sentence.
    fn free(&self, book: &mut Book, disk: &OwnedFd) -> Result<u32, String> {
        // From the one after the last: who still knows the number of one that was given back is not confused.
        let all = || self.settings.projects.iter().cloned().flatten();
        let last = book.last;
        for project in all().filter(|one| *one > last).chain(all().filter(|one| *one <= last)) {
            if book.has(project) {
                continue;
            }
            let found =
                quota::quota(disk, project).map_err(|error| format!("cannot look at project {project}: {error}"))?;
            if found.files == 0 {
                book.last = project;
                return Ok(project);
            }
        }
        Err(format!(
            "all projects of --xfs_project_range={} have files: sandboxes keep theirs until they are deleted",
            self.range()
        ))
    }

    /// The project of a folder. One that it bears is its own if it is of ours and no other's, unless it `is_new`; else all of the folder
    /// gets one. The error is a sentence.
    fn given(&self, book: &mut Book, folder: &Path, is_new: bool) -> Result<u32, String> {
        if let Some(project) = book.of(folder).filter(|_| !is_new) {
            return Ok(project);
        }
        let cannot = |error: io::Error| format!("cannot give {} a project of XFS: {error}", folder.display());
        let disk = top(folder).map_err(cannot)?;
        let found = quota::project(&disk).map_err(cannot)?;
        let is_ours = self.settings.projects.iter().any(|range| range.contains(&found));
        if is_ours && !is_new && !book.has(found) {
            return Ok(found);
        }
        let project = self.free(book, &disk)?;
        bear(folder, project).map_err(cannot)?;
        tracing::debug!(folder = %folder.display(), project, "a folder has a project of XFS");
        Ok(project)
    }

    /// Soft and hard.
    fn limits(&self, bytes: u64) -> (u64, u64) {
        // None at all would be no limit.
        let bytes = bytes.max(1);
        match self.settings.policy {
            Policy::Count => (0, 0),
            Policy::Deny => (bytes, bytes),
            Policy::End(more) => (bytes, bytes.saturating_add(more)),
        }
    }

    /// Gives a container's folders projects, where they have none, and these their limits. The error is a sentence.
    fn apply(&self, container: &Container, is_new: bool) -> Result<(), String> {
        let parts = parts(container);
        let of_sandbox = parts.iter().find(|part| !part.is_volume).map_or((0, 0), |part| self.limits(part.limit_bytes));
        let of_volumes = parts.iter().filter(|part| part.is_volume && !part.is_limited_by_itself);
        let of_volumes = of_volumes.map(|part| (part.folder.as_path(), self.limits(part.limit_bytes)));
        let mut book = self.book.lock();
        for (folder, limits) in std::iter::once((container.sandbox.as_path(), of_sandbox)).chain(of_volumes) {
            let is_sandbox = folder == container.sandbox;
            let project = self.given(&mut book, folder, is_new && is_sandbox)?;
            let all = book.containers.entry(container.id.clone()).or_default();
            // An id that is used again has another project.
            all.retain(|held| held.folder != folder || held.project == project);
            if !all.iter().any(|held| held.folder == folder) {
                all.push(Held { folder: folder.to_owned(), project, limits: None });
            }
            let Some(held) = book.held(&container.id, folder).filter(|held| held.limits != Some(limits)) else {
                continue;
            };
            top(folder)
                .and_then(|disk| quota::limit(&disk, project, limits.0, limits.1))
                .map_err(|error| format!("cannot limit project {project} of {}: {error}", folder.display()))?;
            held.limits = Some(limits);
        }
        Ok(())
    }

    /// What a folder of a container takes.
    fn used(&self, container_id: &str, folder: &Path) -> Option<Quota> {
        let project = self.book.lock().held(container_id, folder)?.project;
        quota::quota(&top(folder).ok()?, project).ok()
    }

    fn exceeded(&self, container_id: &str, part: &Part) -> Option<Limitation> {
        let used_bytes = self.used(container_id, &part.folder)?.used_bytes;
        let format = api::size::format;
        (!part.is_limited_by_itself && used_bytes > part.limit_bytes).then(|| Limitation {
            reason: Reason::ContainerLimitationDisk,
            message: format!("Disk usage ({}) exceeded quota ({})", format(used_bytes), format(part.limit_bytes)),
            resources: part.resources.clone(),
        })
    }
}

/// Has a folder and all that is below it bear a project, and what comes to be there. Links, pipes and sockets that are there already
/// cannot: they take next to nothing.
fn bear(folder: &Path, project: u32) -> io::Result<()> {
    let folder = top(folder)?;
    quota::set_project(&folder, project, true)?;
    let is_partial = walk(folder, |around, entry, found| {
        if !found.is_dir() && !found.is_file() {
            return Ok(());
        }
        // Whatever has that name by now: nothing is opened that is not what it was.
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let one = File::from(openat(around, entry.file_name().as_os_str(), flags, Mode::empty())?);
        let kind = one.metadata()?.file_type();
        if kind.is_dir() || kind.is_file() {
            let path = format!("/proc/self/fd/{}", one.as_raw_fd());
            let one = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty())?;
            quota::set_project(&one, project, kind.is_dir())?;
        }
        Ok(())
    })?;
    if is_partial {
        tracing::warn!(project, "a part of a folder has no project: it is not counted");
    }
    Ok(())
}

impl Isolator for DiskXfs {
    fn name(&self) -> &'static str {
        "disk/xfs"
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let container = &creation.container;
        if !container.is_within() {
            self.apply(container, true)?;
        }
        let scratch = creation.scratch.iter().chain(creation.images.iter().filter_map(|image| image.scratch.as_ref()));
        let project = self.book.lock().containers.get(container.root_id()).and_then(|all| Some(all.first()?.project));
        // What it is within was launched by an agent without this isolator, perhaps.
        let Some(project) = project else { return Ok(()) };
        for folder in scratch {
            bear(folder, project)
                .map_err(|error| format!("cannot give {} the project of its container: {error}", folder.display()))?;
        }
        Ok(())
    }

    fn recover(&self, container: &Container) {
        self.update(container);
    }

    fn sweep(&self, _: &std::collections::BTreeSet<String>) {
        // Limits of what is gone.
        let Ok(disk) = top(&self.settings.work_dir) else { return };
        for project in self.settings.projects.iter().cloned().flatten() {
            let is_left = |found: Quota| found.files == 0 && (found.soft_bytes, found.hard_bytes) != (0, 0);
            if quota::quota(&disk, project).is_ok_and(is_left) {
                let _ = quota::limit(&disk, project, 0, 0);
            }
        }
    }

    fn update(&self, container: &Container) {
        if container.is_within() {
            return;
        }
        if let Err(why) = self.apply(container, false) {
            tracing::error!(container_id = container.id, why, "the disk of a container is not limited as it should be");
        }
    }

    fn usage(&self, container: &Container, _: &[supervisor::processes::Process], usage: &mut Usage) {
        if container.is_within() {
            return;
        }
        // Also where nothing was given for it.
        usage.disk_used_bytes = self.used(&container.id, &container.sandbox).map(|found| found.used_bytes);
        for part in parts(container) {
            let limit_bytes = Some(part.limit_bytes);
            if !part.is_volume {
                usage.disk_limit_bytes = limit_bytes;
                continue;
            }
            let used_bytes = match part.is_limited_by_itself {
                true => nix::sys::statvfs::statvfs(&part.folder)
                    .ok()
                    .map(|disk| (disk.blocks() - disk.blocks_free()) * disk.fragment_size()),
                false => self.used(&container.id, &part.folder).map(|found| found.used_bytes),
            };
            let disk = part.resources.first().and_then(|resource| resource.disk.as_deref()).cloned();
            let (source, persistence) = disk.map(|disk| (disk.source, disk.persistence)).unwrap_or_default();
            usage.disk_statistics.push(DiskStatistics { source, persistence, limit_bytes, used_bytes });
        }
    }

    fn interval(&self) -> Option<Duration> {
        matches!(self.settings.policy, Policy::End(_)).then_some(self.settings.interval)
    }

    fn watch(&self, containers: &[Container]) -> Vec<(String, Limitation)> {
        let outermost = containers.iter().filter(|container| !container.is_within());
        let one = |container: &Container| {
            let why = parts(container).iter().find_map(|part| self.exceeded(&container.id, part))?;
            Some((container.id.clone(), why))
        };
        outermost.filter_map(one).collect()
    }

    fn cleanup(&self, container: &Container) {
        // Its folders keep their projects until they are deleted.
        self.book.lock().containers.remove(&container.id);
    }
}
