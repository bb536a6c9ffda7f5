//! What this member still has of the past, for whoever wants to fold it again: snapshots and committed records.

use std::io::{self, Read};

use super::log_store::record_of;
use super::machine::Committed;
use super::node::Node;
use super::snapshot_file;

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

/// Committed records in the order of the log, with where to go on.
#[derive(Debug)]
pub struct Page {
    /// Entries without a record are left out.
    pub records: Vec<Committed>,
    /// Index of the entry after the last one that was looked at.
    pub next: u64,
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

    /// Committed records from the entry at `from` on, before the one at `end`, about `bytes_max` bytes of them. `end` must
    /// not be after what was handed to this member's machine. Blocks: it may read from the disk.
    ///
    /// # Errors
    /// [`HistoryError::Gone`] if the entry at `from` is not kept any more.
    pub fn records(&self, from: u64, end: u64, bytes_max: usize) -> Result<Page, HistoryError> {
        let gone = |node: &Node| HistoryError::Gone { first: node.first_index() };
        if from < self.first_index() {
            return Err(gone(self));
        }
        let entries = self.inner.store.read(from, end, bytes_max)?;
        // Purged meanwhile: what is left begins later.
        if entries.first().is_some_and(|first| first.log_id.index != from) {
            return Err(gone(self));
        }
        let next = entries.last().map_or(end, |last| last.log_id.index + 1);
        let committed = entries.iter().filter_map(|entry| {
            let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
            Some(Committed { index, term, record: record_of(entry)?.clone() })
        });
        Ok(Page { records: committed.collect(), next })
    }

    /// Index of the first entry that this member still has.
    pub fn first_index(&self) -> u64 {
        self.inner.store.purged().map_or(0, |purged| purged.index + 1)
    }
}
