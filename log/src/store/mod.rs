//! Where a member of a quorum keeps its entries: ordered writes now, durability at the next flush.
//!
//! The storage engine is one implementation; the other keeps everything in memory and loses, in a simulated crash,
//! exactly what a real disk may lose.

pub(crate) mod memory;
pub(crate) mod rocks;
mod wal;

use std::io;

/// Small values beside the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Meta {
    Vote,
    Committed,
    Purged,
}

impl Meta {
    pub(crate) fn key(self) -> &'static [u8] {
        match self {
            Meta::Vote => b"vote",
            Meta::Committed => b"committed",
            Meta::Purged => b"purged",
        }
    }
}

/// Written at once: all of it or nothing survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Entries at and after this index are removed, before `entries` are written.
    pub(crate) truncate_from: Option<u64>,
    /// Entries up to this index are removed.
    pub(crate) purge_to: Option<u64>,
    /// By index.
    pub(crate) entries: Vec<(u64, Vec<u8>)>,
    pub(crate) meta: Vec<(Meta, Vec<u8>)>,
}

/// An ordered log on a disk.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Readable when this returns. Durable after a later [`Disk::flush`], never before what was written earlier.
    fn write(&self, batch: Batch) -> io::Result<()>;

    /// Makes everything durable that was written before this call. May run beside writes.
    fn flush(&self) -> io::Result<()>;

    /// Notes, durably with a later flush and in a place of its own, that entries up to `index` are committed.
    fn note_committed(&self, _index: u64) {}

    fn meta(&self, key: Meta) -> io::Result<Option<Vec<u8>>>;

    /// Entries from `start` to before `end`, in order, until their sizes exceed `bytes_max`; at least one if there is one.
    fn entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<(u64, Vec<u8>)>>;

    /// Gives the room of entries up to `to` back, which were removed.
    fn reclaim(&self, _to: u64) -> io::Result<()> {
        Ok(())
    }

    /// Index of the last entry.
    fn last_index(&self) -> io::Result<Option<u64>>;
}
