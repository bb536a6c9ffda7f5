//! What a folder takes of its disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::walk::{top, walk};

/// Files with several names that are remembered, so that none is counted twice.
const LINKED_MAX: usize = 100_000;
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

impl Measured {
    /// Both together.
    pub(super) fn add(&mut self, other: Measured) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.is_partial |= other.is_partial;
    }
}

/// Measures a folder and all below it. What ends meanwhile is not missed.
pub(super) fn measure(folder: &Path) -> io::Result<Measured> {
    let top = top(folder)?;
    let own = fs::metadata(format!("/proc/self/fd/{}", top.as_raw_fd()))?;
    let mut bytes = own.blocks() * BLOCK_BYTES;
    let mut linked = BTreeSet::new();
    let is_partial = walk(top, |_, _, found| {
        if found.is_dir() || found.nlink() <= 1 {
            bytes += found.blocks() * BLOCK_BYTES;
        } else if linked.len() >= LINKED_MAX {
            bytes += found.blocks() * BLOCK_BYTES / found.nlink();
        } else if linked.insert(found.ino()) {
            bytes += found.blocks() * BLOCK_BYTES;
        }
        Ok(())
    })?;
    Ok(Measured { bytes, is_partial })
}

#[cfg(test)]
mod tests {
    use super::super::walk::DEPTH_MAX;
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
