//! Entries in RocksDB. The only place that names it.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rocksdb::{
    ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, Options, WriteBatch,
    WriteOptions,
};

use super::{Batch, Disk, Meta, wal};
use crate::disk::DirLock;
use crate::mark::Mark;

const ENTRIES: &str = "entries";
const META: &str = "meta";
const OPEN_ATTEMPTS: usize = 3;

pub(crate) struct Rocks {
    db: DB,
    /// Up to where entries are known to be committed.
    committed: AtomicU64,
    /// None for readers.
    mark: Option<Mutex<Mark>>,
    /// The claim on the member's folder; given up after the engine has closed.
    _lock: Option<DirLock>,
    /// Last: by then the engine has closed.
    _open: Open,
}

/// How many stores this process has open.
static OPEN: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// One open store.
struct Open;

impl Open {
    fn new() -> Open {
        *OPEN.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Open
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *OPEN.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        OPEN.1.notify_all();
    }
}

/// Waits until every store of this process has closed, at most `limit`. True if they have.
pub(crate) fn wait_until_closed(limit: Duration) -> bool {
    let open = OPEN.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (open, _) = OPEN.1.wait_timeout_while(open, limit, |open| *open > 0).unwrap_or_else(PoisonError::into_inner);
    *open == 0
}

fn to_io(error: rocksdb::Error) -> io::Error {
    let text = error.to_string();
    let kind = match error.kind() {
        rocksdb::ErrorKind::Corruption => io::ErrorKind::InvalidData,
        // It looks for what its own notes name.
        rocksdb::ErrorKind::IOError if text.contains("No such file") => io::ErrorKind::InvalidData,
        rocksdb::ErrorKind::IOError if text.contains("No space left") => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, text)
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The default silently drops everything after a damaged record; this refuses it, unless it is the torn end.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Writes reach the file when the flusher says so: one system call for many of them.
    options.set_manual_wal_flush(true);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(256 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_max_background_jobs(2);
    options.set_db_write_buffer_size(64 << 20);
    options
}

fn families() -> [ColumnFamilyDescriptor; 2] {
    let mut entries = Options::default();
    entries.set_compression_type(DBCompressionType::Lz4);
    entries.set_write_buffer_size(32 << 20);
    // A write waits when so many of them are full and not yet in files: large records would fill two at once.
    entries.set_max_write_buffer_number(6);
    [ColumnFamilyDescriptor::new(ENTRIES, entries), ColumnFamilyDescriptor::new(META, Options::default())]
}

/// What would keep the engine busy for ever is refused.
fn check(dir: &Path) -> io::Result<()> {
    wal::flaw(dir)?.map_or(Ok(()), |flaw| Err(flaw.error()))
}

impl Rocks {
    pub(crate) fn open(dir: &Path, lock: DirLock, mark: Mark) -> io::Result<Rocks> {
        if dir.exists() {
            check(dir)?;
        }
        let db = DB::open_cf_descriptors(&options(), dir, families()).map_err(to_io)?;
        let (committed, mark) = (AtomicU64::new(0), Some(Mutex::new(mark)));
        Ok(Rocks { db, committed, mark, _lock: Some(lock), _open: Open::new() })
    }

    /// Opens for reading while another process may write. `scratch` is for the reader's own notes.
    pub(crate) fn open_secondary(dir: &Path, scratch: &Path) -> io::Result<Rocks> {
        let mut options = options();
        options.create_if_missing(false);
        options.set_max_open_files(-1);
        check(dir)?;
        let open = || DB::open_cf_descriptors_as_secondary(&options, dir, scratch, families());
        // The writer may remove files while they are looked for; then there are others.
        let db = (0..OPEN_ATTEMPTS).find_map(|_| open().ok()).map_or_else(open, Ok).map_err(to_io)?;
        let rocks = Rocks { db, committed: AtomicU64::new(0), mark: None, _lock: None, _open: Open::new() };
        rocks.catch_up()?;
        Ok(rocks)
    }

    /// As [`Rocks::open_secondary`], while nobody writes. Nothing is changed, and nothing that is written later is seen.
    pub(crate) fn open_still(dir: &Path, scratch: &Path) -> io::Result<Rocks> {
        check(dir)?;
        Rocks::read_only(dir, scratch, options())
    }

    /// As [`Rocks::open_still`], of a store whose newest writes are damaged: what was written before the damage is there,
    /// nothing of what came after it.
    pub(crate) fn open_until_damage(dir: &Path, scratch: &Path) -> io::Result<Rocks> {
        let mut options = options();
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        let Some(flaw) = wal::flaw(dir)? else { return Rocks::read_only(dir, scratch, options) };
        let copy = scratch.join(ENTRIES);
        wal::before(&flaw, dir, &copy)?;
        Rocks::read_only(&copy, scratch, options)
    }

    fn read_only(dir: &Path, scratch: &Path, mut options: Options) -> io::Result<Rocks> {
        options.create_if_missing(false);
        options.set_db_log_dir(scratch);
        let db = DB::open_cf_descriptors_read_only(&options, dir, families(), false).map_err(to_io)?;
        Ok(Rocks { db, committed: AtomicU64::new(0), mark: None, _lock: None, _open: Open::new() })
    }

    /// A secondary sees what was written since.
    pub(crate) fn catch_up(&self) -> io::Result<()> {
        self.db.try_catch_up_with_primary().map_err(to_io)
    }

    fn family(&self, name: &str) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(name).expect("opened with both families")
    }
}

fn index_of(key: &[u8]) -> io::Result<u64> {
    let bytes = key.try_into().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a key that is not an index"))?;
    Ok(u64::from_be_bytes(bytes))
}

impl Disk for Rocks {
    fn write(&self, batch: Batch) -> io::Result<()> {
        let (entries, meta) = (self.family(ENTRIES), self.family(META));
        let mut writes = WriteBatch::default();
        if let Some(from) = batch.truncate_from {
            writes.delete_range_cf(entries, from.to_be_bytes(), u64::MAX.to_be_bytes());
        }
        if let Some(to) = batch.purge_to {
            writes.delete_range_cf(entries, 0u64.to_be_bytes(), (to + 1).to_be_bytes());
        }
        for (index, bytes) in &batch.entries {
            writes.put_cf(entries, index.to_be_bytes(), bytes);
        }
        for (key, bytes) in &batch.meta {
            writes.put_cf(meta, key.key(), bytes);
        }
        self.db.write_opt(writes, &WriteOptions::default()).map_err(to_io)
    }

    fn flush(&self) -> io::Result<()> {
        // Looked at first: the flush makes entries durable that were written before.
        let committed = self.committed.load(Ordering::Relaxed);
        self.db.flush_wal(true).map_err(to_io)?;
        match &self.mark {
            Some(mark) => mark.lock().unwrap_or_else(PoisonError::into_inner).reach(committed),
            None => Ok(()),
        }
    }

    fn note_committed(&self, index: u64) {
        self.committed.fetch_max(index, Ordering::Relaxed);
    }

    fn meta(&self, key: Meta) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(META), key.key()).map_err(to_io)
    }

    fn entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let start = start.to_be_bytes();
        for item in self.db.iterator_cf(self.family(ENTRIES), IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = match item {
                // What was found before it is whole; whoever asks for what follows hears of it.
                Err(_) if !found.is_empty() => break,
                item => item.map_err(to_io)?,
            };
            let index = index_of(&key)?;
            if index >= end || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            bytes += value.len();
            found.push((index, value.into_vec()));
        }
        Ok(found)
    }

    fn reclaim(&self, to: u64) -> io::Result<()> {
        // The removal first: without it a file that is gone would be damage.
        self.flush()?;
        // Whole files at once; what else is gone goes with the next compaction.
        self.db.delete_file_in_range_cf(self.family(ENTRIES), 0u64.to_be_bytes(), to.to_be_bytes()).map_err(to_io)
    }

    fn last_index(&self) -> io::Result<Option<u64>> {
        let last = self.db.iterator_cf(self.family(ENTRIES), IteratorMode::End).next();
        last.map(|item| index_of(&item.map_err(to_io)?.0)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_ordered_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let mark = Mark::begin(dir.path(), 0).unwrap();
            Rocks::open(dir.path(), crate::disk::claim(dir.path()).unwrap(), mark).unwrap()
        };
        let rocks = open();
        let entries = |range: std::ops::Range<u64>| range.map(|index| (index, vec![index as u8; 10])).collect();
        rocks.write(Batch { entries: entries(0..10), meta: vec![(Meta::Vote, vec![7])], ..Batch::default() }).unwrap();
        rocks.write(Batch { truncate_from: Some(5), entries: entries(5..6), ..Batch::default() }).unwrap();
        rocks.write(Batch { purge_to: Some(1), ..Batch::default() }).unwrap();
        rocks.flush().unwrap();
        let indexes = |rocks: &Rocks, bytes_max| {
            let found = rocks.entries(0, 100, bytes_max).unwrap();
            found.into_iter().map(|(index, _)| index).collect::<Vec<_>>()
        };
        assert_eq!(indexes(&rocks, 1000), [2, 3, 4, 5]);
        assert_eq!(indexes(&rocks, 15), [2, 3]);
        let scratch = tempfile::tempdir().unwrap();
        let secondary = Rocks::open_secondary(dir.path(), scratch.path()).unwrap();
        assert_eq!(indexes(&secondary, 1000), [2, 3, 4, 5]);
        rocks.write(Batch { entries: entries(6..8), ..Batch::default() }).unwrap();
        rocks.flush().unwrap();
        secondary.catch_up().unwrap();
        assert_eq!(secondary.last_index().unwrap(), Some(7));
        drop(rocks);
        let rocks = open();
        assert_eq!(rocks.meta(Meta::Vote).unwrap(), Some(vec![7]));
        assert_eq!(rocks.last_index().unwrap(), Some(7));
    }

    #[test]
    fn a_flipped_bit_in_a_kind_is_damage_and_what_came_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("entries");
        let mark = || Mark::begin(dir.path(), 0).unwrap();
        let rocks = Rocks::open(&store, crate::disk::claim(dir.path()).unwrap(), mark()).unwrap();
        let mut lengths = Vec::new();
        let log = |store: &Path| {
            let files = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap()
        };
        for index in 0..5 {
            rocks.write(Batch { entries: vec![(index, vec![7; 100])], ..Batch::default() }).unwrap();
            rocks.flush().unwrap();
            lengths.push(std::fs::metadata(log(&store)).unwrap().len() as usize);
        }
        drop(rocks);
        let whole = std::fs::read(log(&store)).unwrap();
        // The records of the first entry and of the fourth.
        for (at, kept) in [(0, 0), (lengths[2], 3)] {
            let mut bytes = whole.clone();
            assert_eq!(bytes[at + 6], 1, "a whole record");
            bytes[at + 6] ^= 4;
            std::fs::write(log(&store), bytes).unwrap();
            let scratch = tempfile::tempdir().unwrap();
            let claimed = crate::disk::claim(dir.path()).unwrap();
            for error in [
                Rocks::open(&store, claimed, mark()).err().unwrap(),
                Rocks::open_secondary(&store, scratch.path()).err().unwrap(),
                Rocks::open_still(&store, scratch.path()).err().unwrap(),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(error.to_string().ends_with(&format!("no record begins at byte {at}")), "{error}");
            }
            let before = Rocks::open_until_damage(&store, scratch.path()).unwrap();
            assert_eq!(before.entries(0, 100, 10_000).unwrap().len(), kept);
        }
    }
}
