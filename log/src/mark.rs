//! How far a log is known to reach, kept beside it: a log that ends earlier lost something that was acknowledged.
//!
//! ```text
//! file := slot · slot        slot := magic [8] · index u64 · crc32 u32 (of both), the second at byte 64
//! ```
//!
//! A log alone cannot tell an end that was never finished from one that was damaged or cut off later. The mark is written
//! after each sync, in turn into the two slots, so that one is whole at any time. It is synced now and then only: after
//! a power cut it may be behind, never ahead, of what is in the log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = "reached";
const MAGIC: &[u8; 8] = b"evlogrea";
const SLOT_BYTES: usize = 20;
const SECOND_SLOT_AT: u64 = 64;
const SYNC_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Mark {
    file: File,
    index: u64,
    /// Whether the next goes into the second slot.
    second: bool,
    synced: Instant,
}

fn encode(index: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(MAGIC);
    slot[8..16].copy_from_slice(&index.to_le_bytes());
    let crc = crc32fast::hash(&slot[..16]);
    slot[16..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<u64> {
    let index = u64::from_le_bytes(slot.get(8..16)?.try_into().ok()?);
    (slot.get(..SLOT_BYTES)? == encode(index)).then_some(index)
}

/// How far the log in `dir` reached; 0 if nobody noted it.
pub(crate) fn read(dir: &Path) -> io::Result<u64> {
    let bytes = match std::fs::read(dir.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        bytes => bytes?,
    };
    let slots = [decode(&bytes), bytes.get(SECOND_SLOT_AT as usize..).and_then(decode)];
    if slots == [None, None] {
        // The log itself is still checked in every other way.
        tracing::warn!(dir = %dir.display(), "nobody knows how far the log reached: the note of it is damaged");
    }
    Ok(slots.into_iter().flatten().max().unwrap_or(0))
}

impl Mark {
    /// Goes on from `index`, up to which the log in `dir` was found whole. Makes room now: a full disk must not stop it.
    pub(crate) fn begin(dir: &Path, index: u64) -> io::Result<Mark> {
        let path = dir.join(NAME);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.write_all_at(&encode(index), 0)?;
        file.write_all_at(&encode(index), SECOND_SLOT_AT)?;
        file.sync_all()?;
        Ok(Mark { file, index, second: false, synced: Instant::now() })
    }

    /// Notes that everything up to `index` is synced.
    pub(crate) fn reach(&mut self, index: u64) -> io::Result<()> {
        if index <= self.index {
            return Ok(());
        }
        self.file.write_all_at(&encode(index), if self.second { SECOND_SLOT_AT } else { 0 })?;
        (self.index, self.second) = (index, !self.second);
        if self.synced.elapsed() > SYNC_EVERY {
            self.file.sync_data()?;
            self.synced = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), 0);
        let mut mark = Mark::begin(dir.path(), 5).unwrap();
        for index in [6, 9, 9, 3, 12] {
            mark.reach(index).unwrap();
        }
        assert_eq!(read(dir.path()).unwrap(), 12);
        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!([9, 12].contains(&read(dir.path()).unwrap()), "byte {at}");
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(dir.path()).unwrap(), 0);
    }
}
