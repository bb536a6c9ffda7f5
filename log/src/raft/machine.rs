//! What a quorum's log is for: a machine that is told every committed record, in order.

use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder, SnapshotMeta};
use tokio::sync::watch;

use super::log_store::record_of;
use super::snapshot_file::{self, Head, SnapshotFile};
use super::snapshots::Snapshots;
use super::types::{Clid, Entry, LogId, Payload, StoredMembers, Types, from_place};
use crate::host;
use crate::planted::{Bug, planted};
use crate::record::Record;

/// How many entries a machine is given at once, at most.
const APPLY_ENTRIES_MAX: usize = 256;

/// One entry of the log that holds a record and is committed: it is never taken back.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Position in the log. Entries without a record count, too, so there are gaps.
    pub index: u64,
    /// Term of the leadership that appended the entry: see [`crate::Gate`].
    pub term: u64,
    /// What it holds.
    pub record: Arc<Record>,
}

/// Reads the content of a snapshot, and says what is wrong with it.
pub type CheckSnapshot = Box<dyn FnOnce(&mut dyn Read) -> Result<(), String> + Send>;

/// Writes a snapshot, later and elsewhere. Answers with the digest of the state that it wrote: at most 255 bytes that
/// are equal for equal states, kept with the snapshot so that a fold of the log can be compared with it. Empty: unknown.
pub type WriteSnapshot = Box<dyn FnOnce(&mut dyn Write) -> io::Result<Vec<u8>> + Send>;

/// The state that follows from the log. Called from one place at a time, in the order of indexes.
pub trait Machine: Send + 'static {
    /// Takes committed records in. Must not block for long: elections wait for nobody.
    fn apply(&mut self, entries: Vec<Committed>);

    /// Takes hold of the state as it is now; the answer writes it in the background.
    fn snapshot(&self) -> WriteSnapshot;

    /// What reads a snapshot again that was just written: one that nobody can restore must not be the base of anything.
    fn check_snapshot(&self) -> CheckSnapshot {
        Box::new(|_| Ok(()))
    }

    /// Replaces everything by a snapshot that was taken after the entry at `index`.
    ///
    /// # Errors
    /// One sentence; the member stops.
    fn restore(&mut self, index: u64, from: &mut dyn Read) -> Result<(), String>;
}

/// How far the machine is.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Index of the last entry that was handed over.
    pub(crate) applied: watch::Sender<u64>,
    /// Bytes of entries since the last snapshot.
    pub(crate) since_snapshot_bytes: AtomicU64,
    /// Of records that this member proposed and that are not committed.
    pub(crate) under_way_bytes: AtomicU64,
}

/// openraft's view of a [`Machine`].
pub(crate) struct Applier<C> {
    machine: Arc<Mutex<Box<dyn Machine>>>,
    snapshots: Snapshots,
    applied: Option<LogId>,
    members: StoredMembers,
    progress: Arc<Progress>,
    types: PhantomData<C>,
}

fn lock(machine: &Mutex<Box<dyn Machine>>) -> MutexGuard<'_, Box<dyn Machine>> {
    // A machine that panicked stops its member; nobody looks at what it left behind.
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: Types> Applier<C> {
    pub(crate) fn new(machine: Box<dyn Machine>, snapshots: Snapshots) -> Applier<C> {
        let progress = Progress {
            applied: watch::Sender::new(0),
            since_snapshot_bytes: AtomicU64::new(0),
            under_way_bytes: AtomicU64::new(0),
        };
        Applier {
            machine: Arc::new(Mutex::new(machine)),
            snapshots,
            applied: None,
            members: StoredMembers::default(),
            progress: Arc::new(progress),
            types: PhantomData,
        }
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// Hands entries over that are committed.
    pub(crate) fn take(&mut self, entries: Vec<Entry>) {
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return };
        let mut committed = Vec::with_capacity(entries.len());
        let mut bytes = 0;
        for entry in entries {
            if let Payload::Normal(data) = &entry.payload {
                bytes += data.bytes.len() as u64;
            }
            if let Payload::Membership(members) = &entry.payload {
                self.members = StoredMembers::new(Some(entry.log_id), members.clone());
            }
            if let Some(record) = record_of(&entry) {
                let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
                committed.push(Committed { index, term, record: record.clone() });
            }
        }
        if !committed.is_empty() {
            lock(&self.machine).apply(committed);
        }
        self.advanced(last);
        self.progress.since_snapshot_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn restore(&mut self, file: &SnapshotFile) -> io::Result<()> {
        let (SnapshotFile { head, .. }, mut content) = snapshot_file::open(&file.path)?;
        lock(&self.machine).restore(head.last.1, &mut content).map_err(io::Error::other)?;
        self.members = head.members()?;
        self.advanced(from_place(head.last));
        self.progress.since_snapshot_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// What writes a snapshot of the state as it is now; none before the first entry.
    fn work(&self) -> Option<Work> {
        let mut last = self.applied?;
        last.index += u64::from(planted(Bug::SnapshotIndexAhead));
        let head = Head::new(last, &self.members);
        let machine = lock(&self.machine);
        Some((head, machine.snapshot(), machine.check_snapshot()))
    }

    fn advanced(&mut self, last: LogId) {
        self.applied = Some(last);
        self.progress.applied.send_replace(last.index);
    }
}

/// A snapshot to be written, and how it is checked.
type Work = (Head, WriteSnapshot, CheckSnapshot);

type MachineSnapshot = Snapshot<Clid, u64, String, SnapshotFile>;

fn with_meta(file: SnapshotFile) -> io::Result<MachineSnapshot> {
    let meta = SnapshotMeta { last_log_id: Some(from_place(file.head.last)), last_membership: file.head.members()? };
    Ok(Snapshot { meta, snapshot: file })
}

impl<C: Types> RaftStateMachine<C> for Applier<C> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder<C>;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembers)> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_ENTRIES_MAX);
        while let Some(chunk) = chunks.next().await {
            let mut responders = Vec::new();
            let mut entries = Vec::with_capacity(chunk.len());
            for item in chunk {
                let (entry, responder) = item?;
                entries.push(entry);
                responders.extend(responder);
            }
            self.take(entries);
            responders.into_iter().for_each(|responder| responder.send(()));
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<C> {
        self.progress.since_snapshot_bytes.store(0, Ordering::Relaxed);
        Builder { work: Mutex::new(self.work()), snapshots: self.snapshots.clone(), types: PhantomData }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta<Clid, u64, String>,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        self.restore(&snapshot)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<MachineSnapshot>> {
        if let Some(file) = self.snapshots.newest() {
            return with_meta(file).map(Some);
        }
        // Somebody lacks what was purged, and the snapshots that covered it are damaged.
        match self.work() {
            Some(work) if self.snapshots.made().borrow().newest.is_some() => {
                write(self.snapshots.clone(), work).await.and_then(with_meta).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Writes one snapshot.
pub(crate) struct Builder<C> {
    /// In a mutex because openraft wants builders that could be shared.
    work: Mutex<Option<Work>>,
    snapshots: Snapshots,
    types: PhantomData<fn() -> C>,
}

impl<C: Types> RaftSnapshotBuilder<C> for Builder<C> {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<MachineSnapshot> {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(work) = work else { return nothing_new() };
        match write(self.snapshots.clone(), work).await {
            Ok(file) => with_meta(file),
            // An error would stop the member, which needs no snapshot to go on: it is tried again later.
            Err(error) => {
                self.snapshots.failed(&error);
                nothing_new()
            }
        }
    }
}

async fn write(snapshots: Snapshots, (head, content, check): Work) -> io::Result<SnapshotFile> {
    host::blocking(move || snapshots.create(head, content, check)).await.map_err(io::Error::other)?
}

/// No newer snapshot than there was.
fn nothing_new() -> io::Result<MachineSnapshot> {
    Ok(Snapshot { meta: SnapshotMeta::default(), snapshot: SnapshotFile::default() })
}
