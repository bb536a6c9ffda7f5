//! What a folder takes of its disk. Who measures shares the machine with those who are measured: it works half of the time,
//! follows no link, holds what it has open within bounds, and stays on the folder's own disk.

use std::collections::BTreeSet;
use std::fs::{self, ReadDir};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

/// Folders that are within each other and open at once: what is deeper is not measured.
const DEPTH_MAX: usize = 200;
/// Files of one folder that are looked at.
const ENTRIES_MAX: usize = 4_000_000;
/// Files with several names that are remembered, so that none is counted twice.
const LINKED_MAX: usize = 100_000;
/// Files between two pauses.
const BREATH: usize = 1_000;
/// A block of the system's counts.
const BLOCK_BYTES: u64 = 512;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Bytes of the disk, at least.
    pub(super) bytes: u64,
    /// Whether something could not be looked at, or was too much to look at.
    pub(super) is_partial: bool,
}

/// A folder that is being looked through. It is named by its descriptor: whoever renames what is above it leads nobody elsewhere.
struct Level {
    folder: OwnedFd,
    entries: ReadDir,
}

impl Level {
    fn new(folder: OwnedFd) -> io::Result<Level> {
        let entries = fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
        Ok(Level { folder, entries })
    }
}

/// Measures a folder and all below it. What ends meanwhile is not missed.
pub(super) fn measure(folder: &Path) -> io::Result<Measured> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let top = open(folder, flags, Mode::empty())?;
    let own = fs::metadata(format!("/proc/self/fd/{}", top.as_raw_fd()))?;
    let mut measured = Measured { bytes: own.blocks() * BLOCK_BYTES, is_partial: false };
    let mut levels = vec![Level::new(top)?];
    let mut linked = BTreeSet::new();
    let (mut count, mut begun) = (0, Instant::now());
    while let Some(level) = levels.last_mut() {
        let entry = match level.entries.next() {
            None => {
                levels.pop();
                continue;
            }
            Some(Ok(entry)) => entry,
            Some(Err(_)) => {
                measured.is_partial = true;
                levels.pop();
                continue;
            }
        };
        count += 1;
        if count > ENTRIES_MAX {
            return Ok(Measured { is_partial: true, ..measured });
        }
        if count % BREATH == 0 {
            std::thread::sleep(begun.elapsed());
            begun = Instant::now();
        }
        // Of a link it is the link's own.
        let found = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => {
                measured.is_partial = true;
                continue;
            }
            Ok(found) => found,
        };
        if found.dev() != own.dev() {
            continue;
        }
        if found.is_dir() || found.nlink() <= 1 {
            measured.bytes += found.blocks() * BLOCK_BYTES;
        } else if linked.len() >= LINKED_MAX {
            measured.bytes += found.blocks() * BLOCK_BYTES / found.nlink();
        } else if linked.insert(found.ino()) {
            measured.bytes += found.blocks() * BLOCK_BYTES;
        }
        if !found.is_dir() {
            continue;
        }
        let below = openat(&level.folder, entry.file_name().as_os_str(), flags | OFlag::O_NOFOLLOW, Mode::empty());
        match below.map_err(io::Error::from).and_then(Level::new) {
            Ok(_) if levels.len() >= DEPTH_MAX => measured.is_partial = true,
            Ok(below) => levels.push(below),
            // It is gone, or another thing has its name now.
            Err(error) if is_gone(&error) => {}
            Err(_) => measured.is_partial = true,
        }
    }
    Ok(measured)
}

fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn fill(path: &Path, bytes: usize) {
        fs::write(path, vec![7; bytes]).unwrap();
        fs::File::open(path).unwrap().sync_all().unwrap();
    }

    #[test]
    fn each_file_counts_once_and_nothing_beyond_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let [sandbox, outside] = ["sandbox", "outside"].map(|name| dir.path().join(name));
        fs::create_dir_all(sandbox.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fill(&outside.join("large"), 4 << 20);
        let empty = measure(&sandbox).unwrap();
        assert!(!empty.is_partial && empty.bytes < 64 << 10, "{empty:?}");
        fill(&sandbox.join("a/b/data"), 1 << 20);
        fs::hard_link(sandbox.join("a/b/data"), sandbox.join("a/again")).unwrap();
        symlink(&outside, sandbox.join("volume")).unwrap();
        symlink(outside.join("large"), sandbox.join("file")).unwrap();
        symlink("/", sandbox.join("a/all")).unwrap();
        let found = measure(&sandbox).unwrap();
        let more = found.bytes - empty.bytes;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&more), "{more}");
        // What takes no place counts for nothing.
        fs::File::create(sandbox.join("hole")).unwrap().set_len(1 << 30).unwrap();
        assert!(measure(&sandbox).unwrap().bytes < found.bytes + (64 << 10));
        assert!(measure(&dir.path().join("nosuch")).is_err());
    }

    #[test]
    fn what_is_too_deep_is_said_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_owned();
        deep.extend(std::iter::repeat_n("d", DEPTH_MAX + 5));
        fs::create_dir_all(&deep).unwrap();
        fill(&deep.join("hidden"), 1 << 20);
        let found = measure(dir.path()).unwrap();
        assert!(found.is_partial, "{found:?}");
    }
}
