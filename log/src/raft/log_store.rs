//! openraft's view of a [`Disk`]: appends return before they are durable, and say when they are.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::OneshotSender;
use openraft::type_config::TypeConfigExt;
use openraft::{OptionalSend, RaftLogReader};

use super::archive::Archive;
use super::types::{
    Ballot, Entry, LogId, Payload, Place, Types, Vote, decode_entry, encode_entry, from_ballot, from_place, to_ballot,
    to_place,
};
use crate::codec;
use crate::host;
use crate::limits::{LARGE_BYTES, REPLICATION_BYTES, TAIL_BYTES_MAX, TAIL_ENTRIES_MAX};
use crate::planted::{Bug, planted};
use crate::store::{Batch, Disk, Meta};

/// Read at once for the archive.
const ARCHIVE_READ_BYTES: usize = 4 << 20;
/// Among so many of the newest entries one has a record, but for a log without any.
const NEWEST_ENTRIES: u64 = 64;

/// Called with the result of a flush.
pub(crate) type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Flushes the disk after a request and says so. Requests are answered in their order.
pub(crate) trait Flusher: Send + Sync + 'static {
    /// Everything written before this call is durable when `done` hears Ok.
    fn request(&self, done: Flushed);
}

/// A thread that flushes for everybody who asked meanwhile: group commit. Dropping it waits until the thread has let
/// go of the disk: a process must not end while RocksDB is still closing on another thread.
pub(crate) struct FlusherThread {
    /// None once it is being dropped.
    requests: Option<mpsc::Sender<Flushed>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl FlusherThread {
    pub(crate) fn start(disk: Arc<dyn Disk>) -> io::Result<FlusherThread> {
        let (requests, inbox) = mpsc::channel::<Flushed>();
        let thread = thread::Builder::new().name("log-flusher".into()).spawn(move || {
            let mut failed: Option<io::Error> = None;
            loop {
                let mut waiting = match inbox.recv_timeout(Duration::from_millis(100)) {
                    Ok(done) => vec![done],
                    // Nobody waits, but the committed index may be newer than on the disk.
                    Err(RecvTimeoutError::Timeout) => Vec::new(),
                    // The last word: what is known to be committed.
                    Err(RecvTimeoutError::Disconnected) => {
                        if failed.is_none() {
                            failed = disk.flush().err();
                        }
                        if let Some(error) = failed {
                            tracing::error!(%error, "the log was not flushed at its end");
                        }
                        break;
                    }
                };
                waiting.extend(inbox.try_iter());
                if failed.is_none() {
                    failed = disk.flush().err();
                }
                for done in waiting {
                    // After one failure nobody knows what is on the disk: nothing is acknowledged any more.
                    done(failed.as_ref().map_or(Ok(()), |error| Err(io::Error::new(error.kind(), error.to_string()))));
                }
            }
        })?;
        Ok(FlusherThread { requests: Some(requests), thread: Some(thread) })
    }
}

impl Flusher for FlusherThread {
    fn request(&self, done: Flushed) {
        let refused = match &self.requests {
            Some(requests) => requests.send(done).err().map(|mpsc::SendError(done)| done),
            None => Some(done),
        };
        if let Some(done) = refused {
            done(Err(io::Error::other("the flusher has stopped")));
        }
    }
}

impl Drop for FlusherThread {
    fn drop(&mut self) {
        self.requests = None;
        // What it answers may hold the last reference to it: it cannot wait for itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id()) {
            // A panic there was told when it happened, and ends with it.
            let _ = thread.join();
        }
    }
}

/// What is known without asking the disk.
#[derive(Default)]
struct Known {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The newest entries, without a gap up to `last`.
    tail: VecDeque<(Entry, usize)>,
    tail_bytes: usize,
}

impl Known {
    fn push(&mut self, entry: Entry, bytes: usize) {
        self.last = Some(entry.log_id());
        self.tail_bytes += bytes;
        self.tail.push_back((entry, bytes));
        while self.tail.len() > TAIL_ENTRIES_MAX || (self.tail_bytes > TAIL_BYTES_MAX && self.tail.len() > 1) {
            let (_, bytes) = self.tail.pop_front().expect("not empty");
            self.tail_bytes -= bytes;
        }
    }

    fn next_index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// Index of the first entry in memory.
    fn tail_start(&self) -> u64 {
        self.tail.front().map_or(self.next_index(), |(entry, _)| entry.log_id.index)
    }
}

struct Shared {
    disk: Arc<dyn Disk>,
    flusher: Box<dyn Flusher>,
    /// Where entries go before they are purged; without one they are gone.
    archive: Option<Arc<Archive>>,
    known: Mutex<Known>,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of one member. Clones share it.
pub(crate) struct LogStore<C> {
    shared: Arc<Shared>,
    types: PhantomData<C>,
}

impl<C> Clone for LogStore<C> {
    fn clone(&self) -> Self {
        LogStore { shared: self.shared.clone(), types: PhantomData }
    }
}

pub(crate) fn read_place(disk: &dyn Disk, key: Meta) -> io::Result<Option<LogId>> {
    let place: Option<Option<Place>> = read_meta(disk, key)?;
    Ok(place.flatten().map(from_place))
}

fn read_meta<T: serde::de::DeserializeOwned>(disk: &dyn Disk, key: Meta) -> io::Result<Option<T>> {
    let bytes = disk.meta(key)?;
    let value = bytes.map(|bytes| codec::decode_payload(&bytes)).transpose();
    value.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{key:?} cannot be read: {error}")))
}

impl<C: Types> LogStore<C> {
    /// The log as it is on the disk.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        flusher: Box<dyn Flusher>,
        archive: Option<Arc<Archive>>,
    ) -> io::Result<LogStore<C>> {
        let purged = read_place(&*disk, Meta::Purged)?;
        let last = match disk.last_index()? {
            Some(index) => {
                let found = disk.entries(index, index + 1, 0)?;
                let bytes = &found.first().ok_or_else(|| io::Error::other("the last entry is gone"))?.1;
                Some(decode_entry(index, bytes)?.log_id)
            }
            None => purged,
        };
        let known = Known {
            vote: read_meta::<Ballot>(&*disk, Meta::Vote)?.map(from_ballot).filter(|_| !planted(Bug::VoteForgotten)),
            committed: read_place(&*disk, Meta::Committed)?,
            purged,
            last,
            ..Known::default()
        };
        Ok(LogStore {
            shared: Arc::new(Shared { disk, flusher, archive, known: Mutex::new(known) }),
            types: PhantomData,
        })
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.known().last
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.shared.known().committed
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.known().purged
    }

    /// The highest term that was stored; 0 if there is none.
    pub(crate) fn term(&self) -> u64 {
        let known = self.shared.known();
        let voted = known.vote.map_or(0, |vote| vote.leader_id.term);
        known.last.as_ref().map_or(0, |last| to_place(last).0).max(voted)
    }

    /// Whether nothing was ever stored: neither a vote nor an entry.
    pub(crate) fn is_pristine(&self) -> bool {
        let known = self.shared.known();
        known.vote.is_none() && known.last.is_none()
    }

    /// Entries from `start` to before `end`, in order, until their sizes exceed `bytes_max`; at least one if there is one.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let known = self.shared.known();
        let start = start.max(known.purged.map_or(0, |purged| purged.index + 1));
        let end = end.min(known.next_index());
        if start >= end {
            return Ok(Vec::new());
        }
        let tail_start = known.tail_start();
        if start >= tail_start {
            let mut bytes = 0;
            let mut found = Vec::new();
            for (entry, size) in known.tail.range((start - tail_start) as usize..(end - tail_start) as usize) {
                if bytes > bytes_max {
                    break;
                }
                bytes += size;
                found.push(entry.clone());
            }
            return Ok(found);
        }
        drop(known);
        let found = self.shared.disk.entries(start, end, bytes_max)?;
        let mut entries = Vec::with_capacity(found.len());
        for ((index, bytes), expected) in found.iter().zip(start..) {
            if *index != expected {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the log is damaged at index {expected} (the entry is missing): {}", super::types::REBUILD),
                ));
            }
            entries.push(decode_entry(*index, bytes)?);
        }
        Ok(entries)
    }

    /// Moves entries up to `to` to the archive, durably; the log still has them. All of them must be committed.
    pub(crate) fn archive(&self, to: u64) -> io::Result<()> {
        let Some(archive) = &self.shared.archive else { return Ok(()) };
        let mut writer = archive.write()?;
        let mut next = writer.next.max(self.purged().map_or(0, |purged| purged.index + 1));
        while next <= to {
            let entries = self.read(next, to + 1, ARCHIVE_READ_BYTES)?;
            if entries.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the entry at index {next} is missing"),
                ));
            }
            for entry in &entries {
                let at_ms = record_of(entry).map(|record| record.header.at_ms);
                writer.push(entry.log_id.index, at_ms, &encode_entry(entry))?;
            }
            next += entries.len() as u64;
        }
        writer.finish()
    }

    /// Gives the room of purged entries back.
    pub(crate) fn reclaim(&self) -> io::Result<()> {
        let purged = self.purged();
        purged.map_or(Ok(()), |purged| self.shared.disk.reclaim(purged.index))
    }

    /// When the newest record was made, in milliseconds since 1970; 0 if there is none.
    pub(crate) fn newest_at_ms(&self) -> io::Result<u64> {
        let end = self.last().map_or(0, |last| last.index + 1);
        let entries = self.read(end.saturating_sub(NEWEST_ENTRIES), end, usize::MAX)?;
        Ok(entries.iter().filter_map(record_of).map(|record| record.header.at_ms).max().unwrap_or(0))
    }

    async fn flushed(&self) -> io::Result<()> {
        let (sender, receiver) = C::oneshot();
        self.shared.flusher.request(Box::new(move |result| {
            // Whoever asked may be gone.
            let _ = sender.send(result);
        }));
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the flusher has stopped")))
    }
}

impl<C: Types> RaftLogReader<C> for LogStore<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.known().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, REPLICATION_BYTES)
    }
}

impl<C: Types> RaftLogStorage<C> for LogStore<C> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        let known = self.shared.known();
        Ok(LogState { last_purged_log_id: known.purged, last_log_id: known.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let meta = vec![(Meta::Vote, codec::encode_payload(&to_ballot(vote)))];
        self.shared.disk.write(Batch { meta, ..Batch::default() })?;
        // One log of writes holds votes and entries, so neither overtakes the other.
        if !planted(Bug::VoteNotSynced) {
            self.flushed().await?;
        }
        self.shared.known().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Durable with the next flush: an older index only means that more is learned from the others after a restart.
        let meta = vec![(Meta::Committed, codec::encode_payload(&committed.as_ref().map(to_place)))];
        self.shared.disk.write(Batch { meta, ..Batch::default() })?;
        if let Some(committed) = committed {
            self.shared.disk.note_committed(committed.index);
        }
        self.shared.known().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bytes: usize = entries.iter().map(record_bytes).sum();
        let disk = self.shared.disk.clone();
        let write = move || {
            let encoded: Vec<(u64, Vec<u8>)> =
                entries.iter().map(|entry| (entry.log_id.index, encode_entry(entry))).collect();
            let sizes: Vec<usize> = encoded.iter().map(|(_, bytes)| bytes.len()).collect();
            disk.write(Batch { entries: encoded, ..Batch::default() }).map(|()| (entries, sizes))
        };
        let (entries, sizes) =
            if bytes < LARGE_BYTES { write()? } else { host::blocking(write).await.map_err(io::Error::other)?? };
        let mut known = self.shared.known();
        for (entry, size) in entries.into_iter().zip(sizes) {
            known.push(entry, size);
        }
        drop(known);
        if planted(Bug::AckBeforeSync) {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.shared.flusher.request(Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |last| last.index + 1);
        if planted(Bug::TruncationForgotten) {
            return Ok(());
        }
        self.shared.disk.write(Batch { truncate_from: Some(from), ..Batch::default() })?;
        let mut known = self.shared.known();
        while known.tail.back().is_some_and(|(entry, _)| entry.log_id.index >= from) {
            let (_, bytes) = known.tail.pop_back().expect("not empty");
            known.tail_bytes -= bytes;
        }
        known.last = last;
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        // Usually done before. But where a snapshot takes the place of entries, those that are known to be committed are
        // history that this member has; the snapshot goes on from further on.
        let history = self.committed().map(|committed| committed.index.min(upto.index));
        if let Some(to) = history.filter(|to| self.purged().is_none_or(|purged| purged.index < *to)) {
            let store = self.clone();
            let archived = host::blocking(move || store.archive(to)).await.map_err(io::Error::other)?;
            if let Err(error) = archived {
                // The snapshot counts for more than history.
                tracing::error!(%error, "history is lost that could not be archived");
            }
        }
        let meta = vec![(Meta::Purged, codec::encode_payload(&Some(to_place(&upto))))];
        self.shared.disk.write(Batch { purge_to: Some(upto.index), meta, ..Batch::default() })?;
        let mut known = self.shared.known();
        while known.tail.front().is_some_and(|(entry, _)| entry.log_id.index <= upto.index) {
            let (_, bytes) = known.tail.pop_front().expect("not empty");
            known.tail_bytes -= bytes;
        }
        known.purged = Some(upto);
        known.last = known.last.max(Some(upto));
        Ok(())
    }
}

/// How large the record of an entry is, in bytes; 0 if it holds none.
pub(crate) fn record_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(data) => data.bytes.len(),
        _ => 0,
    }
}

/// The record of an entry, if it holds one.
pub(crate) fn record_of(entry: &Entry) -> Option<&std::sync::Arc<crate::record::Record>> {
    match &entry.payload {
        Payload::Normal(data) => Some(&data.record),
        _ => None,
    }
}
