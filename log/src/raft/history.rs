//! What this member still has of the past, for whoever wants to fold it again: snapshots and committed records.

use std::io::{self, Read};

use super::archive;
use super::log_store::record_of;
use super::machine::Committed;
use super::node::Node;
use super::snapshot_file;
use super::types::{Entry, decode_entry};
use crate::disk::OpenError;

/// Why the past cannot be read here.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The beginning of what was asked for is not kept any more.
    #[error("the log is kept from index {first} on")]
    Gone {
        /// The first entry that is still there.
        first: u64,
    },
    /// The disk.
    #[error("the log cannot be read: {0}")]
    Disk(#[from] io::Error),
}

/// Committed records of this member in the order of the log, from its archive and its disk.
pub struct History {
    node: Node,
    next: u64,
    /// Set while `next` is in the archive.
    archived: Option<archive::Reader>,
}

/// A snapshot that was found whole.
pub struct PastSnapshot {
    /// The last entry that is in it.
    pub index: u64,
    /// What [`super::Machine::restore`] would be given.
    pub content: Box<dyn Read + Send>,
}

impl Node {
    /// The newest whole snapshot on this disk that holds nothing after the entry at `index`; none if all of the log
    /// before `index` must be folded. Blocks: it reads the file once to check it.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn snapshot_until(&self, index: u64) -> io::Result<Option<PastSnapshot>> {
        for (_, path) in self.inner.snapshots.list()?.into_iter().rev().filter(|(at, _)| *at <= index) {
            // One that is removed or damaged meanwhile is passed over.
            if snapshot_file::verify(&path).is_ok()
                && let Ok((file, content)) = snapshot_file::open(&path)
            {
                return Ok(Some(PastSnapshot { index: file.head.last.1, content: Box::new(content) }));
            }
        }
        Ok(None)
    }

    /// Committed records from the entry at `from` on.
    ///
    /// # Errors
    /// [`HistoryError::Gone`] if the entry at `from` is not kept any more.
    pub fn history(&self, from: u64) -> Result<History, HistoryError> {
        let first = self.first_kept()?;
        if from < first {
            return Err(HistoryError::Gone { first });
        }
        Ok(History { node: self.clone(), next: from, archived: None })
    }

    /// Index of the first entry from which on everything is kept, in the archive or the log.
    ///
    /// # Errors
    /// The archive's folder cannot be listed.
    pub fn first_kept(&self) -> io::Result<u64> {
        let first = self.first_index();
        let ranges = archive::ranges(&self.inner.archive.list()?);
        let adjoining = ranges.iter().find(|range| *range.start() < first && *range.end() + 1 >= first);
        Ok(adjoining.map_or(first, |range| *range.start()))
    }

    /// Index of the first entry in the log itself.
    fn first_index(&self) -> u64 {
        self.inner.store.purged().map_or(0, |purged| purged.index + 1)
    }
}

impl History {
    /// Index of the entry that is looked at next.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// The next committed records, before the entry at `end`, about `bytes_max` bytes of them; entries without a record are
    /// left out. `end` must not be after what was handed to this member's machine. Blocks: it may read from the disk.
    ///
    /// # Errors
    /// [`HistoryError::Gone`] if the next entry was removed meanwhile.
    pub fn page(&mut self, end: u64, bytes_max: usize) -> Result<Vec<Committed>, HistoryError> {
        let first = self.node.first_index();
        let entries =
            if self.next < first { self.archived(first.min(end), bytes_max)? } else { self.stored(end, bytes_max)? };
        self.next = entries.last().map_or(end.max(self.next), |last| last.log_id.index + 1);
        let committed = entries.iter().filter_map(|entry| {
            let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
            Some(Committed { index, term, record: record_of(entry)?.clone() })
        });
        Ok(committed.collect())
    }

    fn stored(&mut self, end: u64, bytes_max: usize) -> Result<Vec<Entry>, HistoryError> {
        self.archived = None;
        let entries = self.node.inner.store.read(self.next, end, bytes_max)?;
        // Purged meanwhile: what is left begins later.
        let first = entries.first().map_or_else(|| self.node.first_index(), |first| first.log_id.index);
        if first > self.next { self.archived(first.min(end), bytes_max) } else { Ok(entries) }
    }

    fn archived(&mut self, end: u64, bytes_max: usize) -> Result<Vec<Entry>, HistoryError> {
        let was_listed = self.archived.is_some();
        match self.listed(end, bytes_max) {
            // What was in the log when segments were listed may have moved to the archive since.
            Err(HistoryError::Gone { .. }) if was_listed => {
                self.archived = None;
                self.listed(end, bytes_max)
            }
            read => read,
        }
    }

    fn listed(&mut self, end: u64, bytes_max: usize) -> Result<Vec<Entry>, HistoryError> {
        let reader = match &mut self.archived {
            Some(reader) => reader,
            // Everything that the log does not have.
            None => {
                let segments = self.node.inner.archive.list()?;
                self.archived.insert(archive::Reader::new(segments, self.next, u64::MAX))
            }
        };
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, self.next);
        while next < end && bytes <= bytes_max {
            let (index, encoded) = match reader.next() {
                Some(Ok(entry)) => entry,
                // Listed anew the next time: what was being written may be there by then.
                _ if !entries.is_empty() => {
                    self.archived = None;
                    break;
                }
                Some(Err(OpenError::NotKept { .. })) | None => {
                    return Err(HistoryError::Gone { first: self.node.first_kept()? });
                }
                Some(Err(error)) => return Err(HistoryError::Disk(io::Error::other(error.to_string()))),
            };
            bytes += encoded.len();
            entries.push(decode_entry(index, &encoded)?);
            next = index + 1;
        }
        Ok(entries)
    }
}
