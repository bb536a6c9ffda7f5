//! What of a master is on its disk.

use super::Metrics;
use std::path::Path;
use std::time::SystemTime;

/// Sizes of its log, archive and newest snapshot, and how old that is. Reads folders.
pub(super) fn tell(work_dir: &Path, metrics: &mut Metrics) {
    let mut set = |name: &str, value: f64| metrics.insert(name.to_owned(), value);
    set("master/meseta/log_bytes", bytes(&work_dir.join("entries")) as f64);
    set("master/meseta/archive_bytes", bytes(&work_dir.join("archive")) as f64);
    let snapshots = work_dir.join("snapshots");
    set("master/meseta/snapshots_bytes", bytes(&snapshots) as f64);
    let newest = newest(&snapshots);
    set("registrar/registry_size_bytes", newest.map_or(0, |(_, bytes)| bytes) as f64);
    if let Some((written, _)) = newest {
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        set("master/meseta/snapshot_age_secs", age.as_secs_f64());
    }
}

/// What the files of a folder have, those of folders in it too; what cannot be read is nothing.
fn bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

fn newest(dir: &Path) -> Option<(SystemTime, u64)> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok()).filter(std::fs::Metadata::is_file);
    files.filter_map(|file| Some((file.modified().ok()?, file.len()))).max()
}
