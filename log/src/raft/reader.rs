//! Reading a member's folder: offline, or beside the process that writes it. Nothing in it is changed or claimed.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log_store::{read_place, record_of};
use super::machine::Committed;
use super::network::rand_u64;
use super::open::{self, ENTRIES, SNAPSHOTS, storage};
use super::snapshot_file;
use super::snapshots;
use super::types::decode_entry;
use crate::disk::{IdentityFile, OpenError};
use crate::record::Record;
use crate::store::rocks::Rocks;
use crate::store::{Disk, Meta};

/// Read from the disk at once.
const READ_BYTES: usize = 4 << 20;

/// A member's folder as it was when it was opened or last refreshed.
pub struct RaftReader {
    dir: PathBuf,
    node_id: u64,
    cluster_id: Option<String>,
    disk: Rocks,
    /// Removed at last: the engine's notes.
    _scratch: Scratch,
}

struct Scratch(PathBuf);

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
    let scratch = Scratch(std::env::temp_dir().join(format!("event-log-{:016x}", rand_u64())));
    let disk = Rocks::open_secondary(&dir.join(ENTRIES), &scratch.0).map_err(storage(dir))?;
    Ok(RaftReader {
        dir: dir.to_owned(),
        node_id,
        cluster_id: file.field("cluster").map(str::to_owned),
        disk,
        _scratch: scratch,
    })
}

impl fmt::Debug for RaftReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RaftReader").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl RaftReader {
    /// Random, one per disk.
    pub fn node_id(&self) -> u64 {
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
        self.disk.catch_up().map_err(storage(&self.dir))
    }

    /// Index of the last entry, committed or not; none in an empty log.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn last_index(&self) -> Result<Option<u64>, OpenError> {
        self.disk.last_index().map_err(storage(&self.dir))
    }

    /// Index of the last entry that the member knew to be committed.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn committed_index(&self) -> Result<Option<u64>, OpenError> {
        let place = read_place(&self.disk, Meta::Committed).map_err(storage(&self.dir))?;
        Ok(place.map(|place| place.index))
    }

    /// Index of the first entry that is there: more than 0 if the beginning was replaced by a snapshot.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn first_index(&self) -> Result<u64, OpenError> {
        let place = read_place(&self.disk, Meta::Purged).map_err(storage(&self.dir))?;
        Ok(place.map_or(0, |place| place.index + 1))
    }

    /// Committed records from the entry at `from` on. Ends after an error, and where the log ended when this was called.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn entries(
        &self,
        from: u64,
    ) -> Result<impl Iterator<Item = Result<Committed, OpenError>> + use<'_>, OpenError> {
        let entries = self.all_entries(from)?;
        Ok(entries.take_while(|entry| entry.as_ref().map_or(true, |entry| entry.committed)).filter_map(|entry| {
            let RaftEntry { index, term, record, .. } = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            record.map(|record| Ok(Committed { index, term, record }))
        }))
    }

    /// Every entry from `from` on, committed or not. Ends after an error, and where the log ended when this was called.
    ///
    /// # Errors
    /// An [`OpenError`] if it cannot be read.
    pub fn all_entries(&self, from: u64) -> Result<AllEntries<'_>, OpenError> {
        let next = from.max(self.first_index()?);
        let end = self.last_index()?.map_or(0, |last| last + 1);
        let committed = self.committed_index()?;
        Ok(AllEntries { reader: self, next, end, committed, read: Vec::new().into_iter() })
    }

    /// The snapshots in the folder, oldest first.
    ///
    /// # Errors
    /// An [`OpenError`] if they cannot be listed. Those that are damaged show when they are opened.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, OpenError> {
        let dir = self.dir.join(SNAPSHOTS);
        let paths = match snapshots::list(&dir) {
            // A member that never took one may not have the folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(OpenError::io("read", &dir))?,
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
    fn of(path: PathBuf) -> Option<SnapshotInfo> {
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

/// Every entry, in order.
pub struct AllEntries<'a> {
    reader: &'a RaftReader,
    next: u64,
    end: u64,
    committed: Option<u64>,
    read: std::vec::IntoIter<(u64, Vec<u8>)>,
}

impl fmt::Debug for AllEntries<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AllEntries").field("next", &self.next).field("end", &self.end).finish_non_exhaustive()
    }
}

impl AllEntries<'_> {
    fn try_next(&mut self) -> Result<RaftEntry, OpenError> {
        let damaged = |why: &str| OpenError::Damaged {
            index: self.next,
            path: self.reader.dir.join(ENTRIES),
            why: why.to_owned(),
            remedy: super::types::REBUILD,
        };
        if self.read.len() == 0 {
            let found = self.reader.disk.entries(self.next, self.end, READ_BYTES);
            self.read = found.map_err(storage(&self.reader.dir))?.into_iter();
        }
        let (index, bytes) = self.read.next().ok_or_else(|| damaged("the entry is missing"))?;
        if index != self.next {
            return Err(damaged("the entry is missing"));
        }
        let entry = decode_entry(index, &bytes).map_err(storage(&self.reader.dir))?;
        self.next += 1;
        let committed = self.committed.is_some_and(|committed| index <= committed);
        Ok(RaftEntry { index, term: entry.log_id.leader_id.term, committed, record: record_of(&entry).cloned() })
    }
}

impl Iterator for AllEntries<'_> {
    type Item = Result<RaftEntry, OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let next = self.try_next();
        if next.is_err() {
            self.end = 0;
        }
        Some(next)
    }
}
