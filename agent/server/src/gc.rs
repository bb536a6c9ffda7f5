//! Deletes the sandboxes of executors that ended: those of an age, and younger ones the fuller the disk is.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use agent_core::Clock;
use nix::sys::statvfs::statvfs;

use crate::agent::Agent;
use crate::machine;

/// How long sandboxes stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sandboxes {
    /// Since their containers ended, on an empty disk.
    pub(crate) age_max: Duration,
    /// Part of the disk to keep free, from 0 to 1.
    pub(crate) headroom: f64,
    /// Between two looks.
    pub(crate) look_every: Duration,
    /// Those of containers that were launched by call, too.
    pub(crate) with_launched: bool,
}

impl Sandboxes {
    /// The age on a disk of which this part is used.
    fn age_max(self, used: f64) -> Duration {
        let part = (1.0 - self.headroom - used).clamp(0.0, 1.0);
        Duration::try_from_secs_f64(self.age_max.as_secs_f64() * part).unwrap_or(Duration::MAX)
    }
}

/// The clock was set so much ahead while no agent ran: what it says of the age of anything says nothing.
const AHEAD_MIN: Duration = Duration::from_secs(60);

/// Sandboxes that nobody needs any more: since when, as this process knows, and how old they were then. A clock that is set
/// makes nothing older, and neither do the times of files that a task sets.
#[derive(Default)]
struct Ended(HashMap<PathBuf, (Instant, Duration)>);

impl Ended {
    /// These are there; those that were not there before have been so for a while.
    fn note(&mut self, sandboxes: &BTreeSet<PathBuf>, now: Instant, before: impl Fn(&Path) -> Duration) {
        self.0.retain(|sandbox, _| sandboxes.contains(sandbox));
        for sandbox in sandboxes {
            self.0.entry(sandbox.clone()).or_insert_with(|| (now, before(sandbox)));
        }
    }

    fn age(&self, sandbox: &Path, now: Instant) -> Duration {
        let age = |(since, before): &(Instant, Duration)| now.saturating_duration_since(*since).saturating_add(*before);
        self.0.get(sandbox).map_or(Duration::ZERO, age)
    }
}

/// Looks and deletes for as long as the agent lives, which is started at this time of its machine.
pub(crate) fn collect(agent: Arc<Agent>, (boot_id, since_boot_ms): (String, u64)) -> impl Future<Output = ()> {
    // As the agent before left it.
    let earlier = agent.state.read().clock.clone();
    let now = Clock { at_ms: agent.clock.now_ms(), boot_id, since_boot_ms };
    let ahead_ms = earlier.and_then(|earlier| now.ahead_of(&earlier)).unwrap_or(0);
    let is_ahead = u128::try_from(ahead_ms).is_ok_and(|ahead_ms| ahead_ms >= AHEAD_MIN.as_millis());
    let counters = &agent.counters;
    counters.sandbox_age_max_secs.store(agent.config.sandboxes.age_max.as_secs(), Ordering::Relaxed);
    async move {
        let ended = Arc::new(Mutex::new(Ended::default()));
        let mut is_first = true;
        loop {
            let (looking, ended) = (agent.clone(), ended.clone());
            let look = move || {
                let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                if is_first { find(&looking, &mut ended, is_ahead).map(|()| 0) } else { look(&looking, &mut ended) }
            };
            match tokio::task::spawn_blocking(look).await {
                Ok(Ok(0)) => {}
                Ok(Ok(deleted)) => tracing::info!(deleted, "deleted old sandboxes"),
                Ok(Err(error)) => tracing::warn!(%error, "cannot look for old sandboxes"),
                Err(error) => tracing::warn!(%error, "looking for old sandboxes failed"),
            }
            is_first = false;
            tokio::time::sleep(agent.config.sandboxes.look_every).await;
        }
    }
}

/// Finds what agents before have left.
fn find(agent: &Agent, ended: &mut Ended, is_ahead: bool) -> io::Result<()> {
    let found = ended_sandboxes(agent);
    if is_ahead {
        tracing::warn!("the clock was set ahead: the sandboxes that are there are as old as if they had ended now");
        for sandbox in &found {
            // So that the next agent knows it, too.
            if let Err(error) = fs::File::open(sandbox).and_then(|dir| dir.set_modified(SystemTime::now())) {
                tracing::warn!(sandbox = %sandbox.display(), %error, "cannot be marked as new");
            }
        }
    }
    ended.note(&found, Instant::now(), |sandbox| if is_ahead { Duration::ZERO } else { unchanged(sandbox) });
    Ok(())
}

/// Those whose containers are no more.
fn ended_sandboxes(agent: &Agent) -> BTreeSet<PathBuf> {
    let found = sandboxes(&agent.config.work_dir.join("slaves"));
    let state = agent.state.read();
    let is_needed = |sandbox: &Path| {
        let container_id = sandbox.file_name().unwrap_or_default().to_string_lossy();
        state.containers.contains_key(&*container_id) || state.remnants.contains_key(&*container_id)
    };
    let (needed, ended): (Vec<PathBuf>, Vec<PathBuf>) = found.into_iter().partition(|sandbox| is_needed(sandbox));
    let mut ended: BTreeSet<PathBuf> = ended.into_iter().collect();
    if agent.config.sandboxes.with_launched {
        let mut launched = below(&agent.config.work_dir, "");
        for sandbox in needed {
            launched.extend(below(&sandbox, &sandbox.file_name().unwrap_or_default().to_string_lossy()));
        }
        let is_live =
            |id: &str| state.launched.live().any(|(live, _)| live == id || live.starts_with(&format!("{id}.")));
        ended.extend(launched.into_iter().filter(|(_, id)| !is_live(id)).map(|(sandbox, _)| sandbox));
    }
    ended
}

/// Sandboxes of containers within one, or of those that stand alone, at any depth, each with its container's id.
fn below(sandbox: &Path, container_id: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sandbox.join("containers")).into_iter().flatten().flatten() {
        // A task may have made links there, which lead anywhere.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = if container_id.is_empty() { name } else { format!("{container_id}.{name}") };
            found.extend(below(&entry.path(), &id));
            found.push((entry.path(), id));
        }
    }
    found
}

/// How many were deleted.
fn look(agent: &Agent, ended: &mut Ended) -> io::Result<usize> {
    let (found, now) = (ended_sandboxes(agent), Instant::now());
    ended.note(&found, now, |_| Duration::ZERO);
    let disk = statvfs(&agent.config.work_dir)?;
    let free = disk.blocks_available() as f64 / disk.blocks().max(1) as f64;
    let age_max = agent.config.sandboxes.age_max(1.0 - free);
    let counters = &agent.counters;
    counters.sandbox_age_max_secs.store(age_max.as_secs(), Ordering::Relaxed);
    let slaves = agent.config.work_dir.join("slaves");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let (mut deleted, mut pending) = (0, 0);
    for sandbox in found {
        // With what it was within.
        if !sandbox.exists() {
            continue;
        }
        if ended.age(&sandbox, now) < age_max {
            pending += 1;
            continue;
        }
        if has_mounts(&mounts, &sandbox) {
            tracing::warn!(sandbox = %sandbox.display(), "something is mounted in an old sandbox; it stays");
            continue;
        }
        // Links in it are removed, not followed.
        match fs::remove_dir_all(&sandbox) {
            Ok(()) => deleted += 1,
            Err(error) => {
                tracing::warn!(sandbox = %sandbox.display(), %error, "cannot delete an old sandbox");
                counters.sandboxes_stuck.fetch_add(1, Ordering::Relaxed);
                continue;
            }
        }
        agent.files.detach(&sandbox.display().to_string());
        let latest = sandbox.with_file_name("latest");
        if fs::read_link(&latest).is_ok_and(|target| latest.with_file_name(target) == sandbox) {
            let _ = fs::remove_file(&latest);
        }
        // And what is empty now above it.
        for above in sandbox.ancestors().skip(1).take_while(|above| *above != slaves) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
    }
    counters.sandboxes_deleted.fetch_add(deleted as u64, Ordering::Relaxed);
    counters.sandboxes_pending.store(pending, Ordering::Relaxed);
    Ok(deleted)
}

/// `AGENT/frameworks/FRAMEWORK/executors/EXECUTOR/runs/CONTAINER`, those that there are.
fn sandboxes(slaves: &Path) -> Vec<PathBuf> {
    let mut found = vec![slaves.to_owned()];
    for level in [None, Some("frameworks"), Some("executors"), Some("runs")] {
        let below = |path: PathBuf| {
            let dir = level.map_or(path.clone(), |name| path.join(name));
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            entries.filter(is_dir).map(|entry| entry.path()).collect::<Vec<_>>()
        };
        found = found.into_iter().flat_map(below).collect();
    }
    found
}

/// Since the folder or an output in it was last changed, which nobody can say of it, as they can when it was written;
/// nothing for what cannot be looked at, or is of a time to come.
fn unchanged(sandbox: &Path) -> Duration {
    let changed = |path: PathBuf| fs::symlink_metadata(path).map(|found| found.ctime());
    let Ok(dir) = changed(sandbox.to_owned()) else { return Duration::ZERO };
    let outputs = ["stdout", "stderr"].map(|name| changed(sandbox.join(name)).unwrap_or(0));
    let newest = outputs.into_iter().fold(dir, i64::max);
    let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(newest).unwrap_or(0));
    newest.elapsed().unwrap_or_default()
}

/// Whether something is mounted below.
fn has_mounts(mounts: &str, sandbox: &Path) -> bool {
    machine::mounted(mounts).any(|place| place.starts_with(sandbox))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_disk_the_younger_they_go() {
        let week = Duration::from_secs(7 * 24 * 3600);
        let sandboxes = Sandboxes { age_max: week, headroom: 0.1, look_every: week, with_launched: false };
        assert_eq!(sandboxes.age_max(0.4), week / 2);
        assert_eq!(sandboxes.age_max(0.95), Duration::ZERO);
        assert!(Sandboxes { age_max: Duration::MAX, ..sandboxes }.age_max(0.1) > week);
    }

    #[test]
    fn an_age_counts_from_the_end_whatever_the_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(24 * 3600);
        let [future, past] = ["future", "past"].map(|name| dir.path().join(name));
        for (sandbox, time) in
            [(&future, SystemTime::now() + 30_000 * day), (&past, SystemTime::UNIX_EPOCH + Duration::from_secs(1))]
        {
            fs::create_dir(sandbox).unwrap();
            for path in [sandbox.join("stdout"), sandbox.join("stderr"), sandbox.clone()] {
                let file = if path == *sandbox { fs::File::open(&path) } else { fs::File::create(&path) };
                file.unwrap().set_modified(time).unwrap();
            }
        }
        // Both as a later agent finds them.
        let both = BTreeSet::from([future.clone(), past.clone()]);
        let (mut ended, start) = (Ended::default(), Instant::now());
        ended.note(&both, start, unchanged);
        for sandbox in &both {
            assert!(ended.age(sandbox, start) < day, "{}", sandbox.display());
            assert!(ended.age(sandbox, start + day) >= day);
        }
        // And one that ends while this one lives. Who is needed again, or gone, is forgotten.
        ended.note(&BTreeSet::from([past.clone()]), start + day, |_| Duration::ZERO);
        ended.note(&both, start + 2 * day, |_| Duration::ZERO);
        assert_eq!(ended.age(&future, start + 3 * day), day);
        assert!(ended.age(&past, start + 3 * day) >= 3 * day);
    }

    #[test]
    fn what_is_mounted_is_seen() {
        let mounts = "22 1 0:21 / /w/slaves/a\\040b/runs/c/data rw - tmpfs tmpfs rw\n";
        assert!(has_mounts(mounts, Path::new("/w/slaves/a b/runs/c")));
        assert!(!has_mounts(mounts, Path::new("/w/slaves/a b/runs/cc")));
    }
}
