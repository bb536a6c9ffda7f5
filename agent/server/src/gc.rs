//! Deletes the sandboxes of executors that ended: those of an age, and younger ones the fuller the disk is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;

use crate::agent::Agent;

/// How long sandboxes stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sandboxes {
    /// Since they were last changed, on an empty disk.
    pub(crate) age_max: Duration,
    /// Part of the disk to keep free, from 0 to 1.
    pub(crate) headroom: f64,
    /// Between two looks.
    pub(crate) look_every: Duration,
}

impl Sandboxes {
    /// The age on a disk of which this part is used.
    fn age_max(self, used: f64) -> Duration {
        let part = (1.0 - self.headroom - used).clamp(0.0, 1.0);
        Duration::try_from_secs_f64(self.age_max.as_secs_f64() * part).unwrap_or(Duration::MAX)
    }
}

/// Looks and deletes for as long as the agent lives.
pub(crate) async fn collect(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(agent.config.sandboxes.look_every).await;
        let looking = agent.clone();
        match tokio::task::spawn_blocking(move || look(&looking)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(deleted)) => tracing::info!(deleted, "deleted old sandboxes"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot look for old sandboxes"),
            Err(error) => tracing::warn!(%error, "looking for old sandboxes failed"),
        }
    }
}

/// How many were deleted.
fn look(agent: &Agent) -> io::Result<usize> {
    let disk = statvfs(&agent.config.work_dir)?;
    let free = disk.blocks_available() as f64 / disk.blocks().max(1) as f64;
    let age_max = agent.config.sandboxes.age_max(1.0 - free);
    let needed: BTreeSet<String> = {
        let state = agent.state.read();
        state.containers.keys().chain(state.remnants.keys()).cloned().collect()
    };
    let slaves = agent.config.work_dir.join("slaves");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut deleted = 0;
    for sandbox in sandboxes(&slaves) {
        let container_id = sandbox.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if needed.contains(&container_id) || age(&sandbox) < age_max {
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
                continue;
            }
        }
        agent.files.detach(&sandbox.display().to_string());
        let latest = sandbox.with_file_name("latest");
        if fs::read_link(&latest).is_ok_and(|target| target == sandbox) {
            let _ = fs::remove_file(&latest);
        }
        // And what is empty now above it.
        for above in sandbox.ancestors().skip(1).take_while(|above| *above != slaves) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
    }
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

/// Since the folder or an output in it was last changed; nothing for what cannot be looked at.
fn age(sandbox: &Path) -> Duration {
    let changed = |path: PathBuf| fs::symlink_metadata(path).and_then(|found| found.modified());
    let Ok(dir) = changed(sandbox.to_owned()) else { return Duration::ZERO };
    let outputs = ["stdout", "stderr"].map(|name| changed(sandbox.join(name)).unwrap_or(SystemTime::UNIX_EPOCH));
    let newest = outputs.into_iter().fold(dir, SystemTime::max);
    newest.elapsed().unwrap_or_default()
}

/// Whether something is mounted below, as `mountinfo` writes it: the fifth field is the place.
fn has_mounts(mounts: &str, sandbox: &Path) -> bool {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places
        .map(|place| place.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        .any(|place| Path::new(&place).starts_with(sandbox))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_disk_the_younger_they_go() {
        let week = Duration::from_secs(7 * 24 * 3600);
        let sandboxes = Sandboxes { age_max: week, headroom: 0.1, look_every: week };
        assert_eq!(sandboxes.age_max(0.4), week / 2);
        assert_eq!(sandboxes.age_max(0.95), Duration::ZERO);
        assert!(Sandboxes { age_max: Duration::MAX, ..sandboxes }.age_max(0.1) > week);
    }

    #[test]
    fn what_is_mounted_is_seen() {
        let mounts = "22 1 0:21 / /w/slaves/a\\040b/runs/c/data rw - tmpfs tmpfs rw\n";
        assert!(has_mounts(mounts, Path::new("/w/slaves/a b/runs/c")));
        assert!(!has_mounts(mounts, Path::new("/w/slaves/a b/runs/cc")));
    }
}
