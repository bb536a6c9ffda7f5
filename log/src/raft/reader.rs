//! Reading what a member wrote: its folder, offline or beside the process that writes it; an archive or a snapshot alone.
//! Nothing is changed or claimed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::archive::{self, Segment};
use super::log_store::read_place;
use super::machine::Committed;
use super::network::rand_u64;
use super::open::{self, ARCHIVE, ENTRIES, SNAPSHOTS, storage};
use super::snapshot_file;
use super::snapshots;
use super::types::decode_record;
use crate::disk::{self, IdentityFile, OpenError};
use crate::record::Record;
use crate::store::rocks::Rocks;
use crate::store::{Disk, Meta};

/// Read from the disk at once.
const READ_BYTES: usize = 4 << 20;

/// A member's folder, or a part of one, as it was when it was opened or last refreshed.
pub struct RaftReader {
    dir: PathBuf,
    node_id: Option<u64>,
    cluster_id: Option<String>,
    /// None without the log itself.
    log: Option<Log>,
    log_begins_at: AtomicU64,
    archive_dir: PathBuf,
    /// Of the archive; they can be removed meanwhile, the oldest first.
    segments: Mutex<Vec<Segment>>,
    snapshots: Place,
    /// What is wrong with the end of the log, if it can be read up to there only.
    damage: Option<Damage>,
}

/// Where the log cannot be read any further.
struct Damage {
    /// The file, or the folder if it may be any of several.
    path: PathBuf,
    why: String,
    /// Entries up to here were known to be committed.
    reached: u64,
}

struct Log {
    entries: PathBuf,
    /// As it was opened last.
    opened: Mutex<Arc<Opened>>,
}

/// The engine, as a reader opens it.
struct Opened {
    disk: Rocks,
    /// Removed at last: the engine's notes.
    _scratch: Scratch,
    /// If nobody wrote when it was opened, what the folder held.
    held: Option<BTreeMap<OsString, u64>>,
}

/// Where snapshots are.
enum Place {
    Folder(PathBuf),
    File(SnapshotInfo),
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        Scratch(std::env::temp_dir().join(format!("event-log-{:016x}", rand_u64())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind it does no harm: it lies in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An entry of any kind, committed or not.
#[derive(Clone, Debug)]
pub struct RaftEntry {
    /// Position in the log.
    pub index: u64,
    /// Term of the leadership that appended it.
    pub term: u64,
    /// Whether this member knew it to be committed.
    pub committed: bool,
    /// What it holds; none if it is the quorum's own business.
    pub record: Option<Arc<Record>>,
}

/// A snapshot in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Last entry that is in it.
    pub index: u64,
    /// Of that entry.
    pub term: u64,
    /// What the machine said of the state in it, to be compared with a fold of the log; empty if it is not known.
    pub digest: Vec<u8>,
    /// Of the file.
    pub bytes: u64,
    /// The file.
    pub path: PathBuf,
}

/// Opens the folder of a member, or a copy of it, for reading.
///
/// # Errors
/// An [`OpenError`] if it is not a member's folder or cannot be read.
pub fn read_raft(dir: &Path) -> Result<RaftReader, OpenError> {
    let Some(file) = IdentityFile::read(dir)? else { return Err(OpenError::Missing { dir: dir.to_owned() }) };
    file.check(dir, &open::identity())?;
    let node_id = open::node_id(&file, dir)?;
    let reached = crate::mark::read(dir).map_err(OpenError::io("read", dir))?;
    let entries = dir.join(ENTRIES);
    let (opened, damage) = match Opened::open(dir, &entries) {
        Ok(opened) => (opened, None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let damage = Damage { path: newest_writes(&entries), why: error.to_string(), reached };
            // What was written before can be told.
            let opened = Opened::until_damage(&entries);
            (opened.map_err(|_| damage.error(dir, None))?, Some(damage))
        }
        Err(error) => return Err(storage(dir)(error)),
    };
    let archive_dir = dir.join(ARCHIVE);
    Ok(RaftReader {
        dir: dir.to_owned(),
        node_id: Some(node_id),
        cluster_id: file.field("cluster").map(str::to_owned),
        log_begins_at: AtomicU64::new(log_begins_at(&opened.disk, dir)?),
        log: Some(Log { entries, opened: Mutex::new(Arc::new(opened)) }),
        segments: Mutex::new(list_archive(&archive_dir)?),
        archive_dir,
        snapshots: Place::Folder(dir.join(SNAPSHOTS)),
        damage,
    })
}

impl Log {
    fn opened(&self) -> Arc<Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sees what was written since it was opened.
    fn catch_up(&self, dir: &Path) -> io::Result<Arc<Opened>> {
        let opened = self.opened();
        if opened.held.is_none() {
            opened.disk.catch_up()?;
            return Ok(opened);
        }
        if !disk::is_claimed(dir) && opened.held == Some(held(&self.entries)) {
            return Ok(opened);
        }
        let opened = Arc::new(Opened::open(dir, &self.entries)?);
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = opened.clone();
        Ok(opened)
    }
}

impl Opened {
    /// Beside the process that writes if there is one; it can be caught up with. Else what was written is read again as
    /// that process would when it starts, which finds damage that is not looked for while following.
    fn open(dir: &Path, entries: &Path) -> io::Result<Opened> {
        let scratch = Scratch::new();
        if !disk::is_claimed(dir) {
            let held = Some(held(entries));
            match Rocks::open_still(entries, &scratch.0) {
                Ok(disk) => return Ok(Opened { disk, _scratch: scratch, held }),
                // Somebody began to write meanwhile.
                Err(_) if disk::is_claimed(dir) => {}
                Err(error) => return Err(error),
            }
        }
        let disk = Rocks::open_secondary(entries, &scratch.0)?;
        Ok(Opened { disk, _scratch: scratch, held: None })
    }

    fn until_damage(entries: &Path) -> io::Result<Opened> {
        let scratch = Scratch::new();
        let disk = Rocks::open_until_damage(entries, &scratch.0)?;
        Ok(Opened { disk, _scratch: scratch, held: None })
    }
}

/// The files of a folder and how long they are.
fn held(dir: &Path) -> BTreeMap<OsString, u64> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| Some((file.file_name(), file.metadata().ok()?.len()))).collect()
}

/// The file of the newest writes, if there is one only.
fn newest_writes(entries: &Path) -> PathBuf {
    let files = std::fs::read_dir(entries).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut logs = files.filter(|path| path.extension().is_some_and(|end| end == "log"));
    match (logs.next(), logs.next()) {
        (Some(only), None) => only,
        _ => entries.to_owned(),
    }
}

impl Damage {
    /// `last` is the last entry that can be read.
    fn error(&self, dir: &Path, last: Option<u64>) -> OpenError {
        let Damage { path, why, reached } = self;
        let from = last.map_or_else(String::new, |last| format!("the log is damaged after index {last}, in "));
        let remedy = super::types::REBUILD;
        OpenError::Storage {
            dir: dir.to_owned(),
            why: format!(
                "{from}{} ({why}; everything up to index {reached} was committed): {remedy}; what is in {ARCHIVE}/ and \
                 {SNAPSHOTS}/ can be read by itself",
                path.display()
            ),
        }
    }
}

/// Opens an archive alone: the folder `archive` of a member, or a copy of it. Snapshots may lie beside its segments.
///
/// # Errors
/// An [`OpenError`] if there is none or it cannot be read.
pub fn read_archive(dir: &Path) -> Result<RaftReader, OpenError> {
    let segments = list_archive(dir)?;
    let Some(last) = segments.last() else { return Err(OpenError::Missing { dir: dir.to_owned() }) };
    let cluster = last.head()?.cluster;
    Ok(RaftReader {
        dir: dir.to_owned(),
        node_id: None,
        cluster_id: (cluster != 0).then(|| uuid::Uuid::from_u128(cluster).to_string()),
        log: None,
        log_begins_at: AtomicU64::new(last.last + 1),
        archive_dir: dir.to_owned(),
        segments: Mutex::new(segments),
        snapshots: Place::Folder(dir.to_owned()),
        damage: None,
    })
}

/// Opens a snapshot alone: the file of a member, or a saved one. It is read and found whole first.
///
/// # Errors
/// An [`OpenError`] if it is damaged or cannot be read.
pub fn read_snapshot(path: &Path) -> Result<RaftReader, OpenError> {
    let file = snapshot_file::verify(path).map_err(OpenError::io("read", path))?;
    let (term, index) = file.head.last;
    let bytes = std::fs::metadata(path).map_err(OpenError::io("read", path))?.len();
    Ok(RaftReader {
        dir: path.to_owned(),
        node_id: None,
        cluster_id: file.cluster_id,
        log: None,
        log_begins_at: AtomicU64::new(index + 1),
        archive_dir: path.to_owned(),
        segments: Mutex::default(),
        snapshots: Place::File(SnapshotInfo { index, term, digest: file.digest, bytes, path: path.to_owned() }),
        damage: None,
    })
}

impl fmt::Debug for RaftReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RaftReader").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl RaftReader {
    /// Random, one per disk; none of an archive or a snapshot alone.
    pub fn node_id(&self) -> Option<u64> {
        self.node_id
    }

    /// A uuid as text; none before the quorum formed.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// Sees what was written since.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn refresh(&self) -> Result<(), OpenError> {
        let Some(log) = &self.log else { return Ok(()) };
        if self.damage.is_some() {
            return Ok(());
        }
        let opened = log.catch_up(&self.dir).map_err(storage(&self.dir))?;
        self.log_begins_at.store(log_begins_at(&opened.disk, &self.dir)?, Ordering::Relaxed);
        // Afterwards: what has left the log by now is in the archive by now.
        *self.segments() = list_archive(&self.archive_dir)?;
        Ok(())
    }

    fn segments(&self) -> MutexGuard<'_, Vec<Segment>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Index of the last entry, committed or not; none in an empty log.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn last_index(&self) -> Result<Option<u64>, OpenError> {
        let last =
            self.log.as_ref().map(|log| log.opened().disk.last_index()).transpose().map_err(storage(&self.dir))?;
        Ok(last.flatten().max(self.log_begins_at().checked_sub(1)))
    }

    /// Index of the last entry that the member knew to be committed.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn committed_index(&self) -> Result<Option<u64>, OpenError> {
        let place = self.log.as_ref().map(|log| read_place(&log.opened().disk, Meta::Committed));
        let place = place.transpose().map_err(storage(&self.dir))?.flatten();
        // Where a snapshot took the place of entries, everything in it was committed.
        let known = place.map(|place| place.index).max(self.log_begins_at().checked_sub(1));
        let Some(damage) = &self.damage else { return Ok(known) };
        // The newest that the log said of it is behind the damage.
        Ok(known.max(self.last_index()?.map(|last| last.min(damage.reached))))
    }

    /// Index of the first entry in the log itself, behind the archive.
    fn log_begins_at(&self) -> u64 {
        self.log_begins_at.load(Ordering::Relaxed)
    }

    /// Index of the first entry from which nothing is missing up to the end, in the archive and the log together: more
    /// than 0 if the beginning was replaced by a snapshot.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn first_index(&self) -> Result<u64, OpenError> {
        let first = self.ranges()?.last().map(|range| *range.start());
        Ok(first.filter(|first| *first <= self.log_begins_at()).unwrap_or(self.log_begins_at()))
    }

    /// The indexes of all entries that are there, oldest first. More than one range if this member was once so far
    /// behind that a snapshot took the place of entries; the snapshot with which a range begins is kept as long as it.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn ranges(&self) -> Result<Vec<RangeInclusive<u64>>, OpenError> {
        let log_begins_at = self.log_begins_at();
        let mut ranges = archive::ranges(&self.segments());
        let Some(last) = self.last_index()?.filter(|last| *last >= log_begins_at) else { return Ok(ranges) };
        match ranges.last_mut() {
            Some(range) if *range.end() + 1 >= log_begins_at => *range = *range.start()..=last,
            _ => ranges.push(log_begins_at..=last),
        }
        Ok(ranges)
    }

    /// Committed records from the entry at `from` on. Ends after an error, and where the log ended when this was called.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn entries(
        &self,
        from: u64,
    ) -> Result<impl Iterator<Item = Result<Committed, OpenError>> + use<'_>, OpenError> {
        Ok(committed_records(self.all_entries(from)?))
    }

    /// As [`RaftReader::entries`], of the range that holds the entry at `from`, or of the first one after it; ends with it.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn entries_of_range(
        &self,
        from: u64,
    ) -> Result<impl Iterator<Item = Result<Committed, OpenError>> + use<'_>, OpenError> {
        let ranges = self.ranges()?;
        let range = ranges.iter().find(|range| from <= *range.end());
        let (next, end) = range.map_or((from, from), |range| (from.max(*range.start()), *range.end() + 1));
        Ok(committed_records(self.read(next, end)?))
    }

    /// Every entry from `from` on, committed or not. Ends after an error, and where the log ended when this was called.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn all_entries(&self, from: u64) -> Result<AllEntries<'_>, OpenError> {
        let next = from.max(self.first_index()?);
        self.read(next, self.last_index()?.map_or(0, |last| last + 1))
    }

    fn read(&self, next: u64, end: u64) -> Result<AllEntries<'_>, OpenError> {
        let committed = self.committed_index()?;
        let untold = self.damage.as_ref().filter(|_| self.last_index().is_ok_and(|last| last < Some(end)));
        let read = Vec::new().into_iter();
        Ok(AllEntries { reader: self, next, end, committed, archived: None, read, untold })
    }

    /// The snapshots in the folder, oldest first.
    ///
    /// # Errors
    /// An [`OpenError`] if they cannot be listed. Those that are damaged show when they are opened.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, OpenError> {
        let dir = match &self.snapshots {
            Place::Folder(dir) => dir,
            Place::File(info) => return Ok(vec![info.clone()]),
        };
        let paths = match snapshots::list(dir) {
            // A member that never took one may not have the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(OpenError::io("read", dir))?,
        };
        Ok(paths.into_iter().filter_map(|(_, path)| SnapshotInfo::of(path)).collect())
    }

    /// What [`super::Machine::restore`] would be given, after its checksum was found right.
    ///
    /// # Errors
    /// An [`OpenError`] if the snapshot is damaged or cannot be read.
    pub fn open_snapshot(&self, snapshot: &SnapshotInfo) -> Result<impl Read + use<>, OpenError> {
        open_snapshot(&snapshot.path)
    }
}

impl SnapshotInfo {
    /// By the name of the file and, as far as they can be read, its head and end.
    pub(crate) fn of(path: PathBuf) -> Option<SnapshotInfo> {
        let (index, term) = snapshots::parse_name(&path)?;
        let digest = snapshot_file::open(&path).map_or_else(|_| Vec::new(), |(file, _)| file.digest);
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Some(SnapshotInfo { index, term, digest, bytes, path })
    }
}

fn open_snapshot(path: &Path) -> Result<snapshot_file::Content, OpenError> {
    snapshot_file::verify(path).map_err(OpenError::io("read", path))?;
    Ok(snapshot_file::open(path).map_err(OpenError::io("read", path))?.1)
}

fn committed_records(entries: AllEntries<'_>) -> impl Iterator<Item = Result<Committed, OpenError>> + use<'_> {
    // Behind the last that is known to be committed there may be damage still to be told of.
    let is_damaged = entries.untold.is_some();
    let wanted = move |entry: &RaftEntry| entry.committed || is_damaged;
    entries.take_while(move |entry| entry.as_ref().map_or(true, wanted)).filter_map(|entry| {
        let RaftEntry { index, term, record, committed } = match entry {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        record.filter(|_| committed).map(|record| Ok(Committed { index, term, record }))
    })
}

/// Every entry, in order: from the archive, then from the log.
pub struct AllEntries<'a> {
    reader: &'a RaftReader,
    next: u64,
    end: u64,
    committed: Option<u64>,
    archived: Option<archive::Reader>,
    read: std::vec::IntoIter<(u64, Vec<u8>)>,
    /// What stands behind the last entry.
    untold: Option<&'a Damage>,
}

impl fmt::Debug for AllEntries<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AllEntries").field("next", &self.next).field("end", &self.end).finish_non_exhaustive()
    }
}

impl AllEntries<'_> {
    fn try_next(&mut self) -> Result<RaftEntry, OpenError> {
        let (index, bytes) = self.next_bytes()?;
        let (term, record) = decode_record(index, &bytes).map_err(storage(&self.reader.dir))?;
        self.next += 1;
        let committed = self.committed.is_some_and(|committed| index <= committed);
        Ok(RaftEntry { index, term, committed, record })
    }

    fn next_bytes(&mut self) -> Result<(u64, Vec<u8>), OpenError> {
        if let Some(found) = self.next_archived()? {
            return Ok(found);
        }
        if self.read.len() == 0 {
            let log = self.reader.log.as_ref().map(|log| log.opened().disk.entries(self.next, self.end, READ_BYTES));
            self.read = log.transpose().map_err(storage(&self.reader.dir))?.unwrap_or_default().into_iter();
        }
        match self.read.next() {
            Some((index, bytes)) if index == self.next => Ok((index, bytes)),
            // Moved to the archive since this began.
            _ => match self.next_archived()? {
                Some(found) => Ok(found),
                None => Err(OpenError::Damaged {
                    index: self.next,
                    path: self.reader.dir.join(ENTRIES),
                    why: "the entry is missing".to_owned(),
                    remedy: super::types::REBUILD,
                }),
            },
        }
    }

    /// The next entry, if it is archived. The log is read where it has the entry, too.
    fn next_archived(&mut self) -> Result<Option<(u64, Vec<u8>)>, OpenError> {
        let log_begins_at = self.reader.log_begins_at();
        if self.next >= log_begins_at {
            self.archived = None;
            return Ok(None);
        }
        self.read = Vec::new().into_iter();
        let (next, end) = (self.next, log_begins_at);
        let segments = || self.reader.segments().clone();
        let archived = self.archived.get_or_insert_with(|| archive::Reader::new(segments(), next, end));
        archived.next().transpose()
    }
}

impl Iterator for AllEntries<'_> {
    type Item = Result<RaftEntry, OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            let last = self.reader.last_index().ok().flatten();
            return self.untold.take().map(|damage| Err(damage.error(&self.reader.dir, last)));
        }
        let next = self.try_next();
        if next.is_err() {
            (self.end, self.untold) = (0, None);
        }
        Some(next)
    }
}

fn log_begins_at(disk: &dyn Disk, dir: &Path) -> Result<u64, OpenError> {
    let place = read_place(disk, Meta::Purged).map_err(storage(dir))?;
    Ok(place.map_or(0, |place| place.index + 1))
}

fn list_archive(dir: &Path) -> Result<Vec<Segment>, OpenError> {
    archive::list(dir).map_err(OpenError::io("read", dir))
}
