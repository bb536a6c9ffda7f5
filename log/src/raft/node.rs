//! A member of a quorum: opens its disk, takes proposals, answers the others.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::TransferLeaderRequest;
use openraft::storage::Snapshot;
use openraft::{Config, Raft, ReadPolicy, SnapshotMeta, SnapshotPolicy};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::archive::Archive;
use super::archiver::Archiver;
use super::incoming::Incoming;
use super::log_store::LogStore;
use super::machine::{Applier, Machine, Progress};
use super::network::{Link, Links, Transport};
use super::open;
use super::pending::Pending;
use super::retention::ArchiveBounds;
use super::snapshot_file::Head;
use super::snapshots::Snapshots;
use super::status::{self, Role, Status};
use super::terms::Terms;
use super::types::{Callback, Data, Member, REBUILD, Tokio, from_ballot, from_place, to_ballot};
use super::wire::{self, Appended, Envelope, Hello, Refused, Request, Response};
use crate::codec::CodecError;
use crate::disk::{IdentityFile, OpenError};
use crate::host;
use crate::limits::{LARGE_BYTES, UNDER_WAY_BYTES};
use crate::planted::{Bug, planted};
use crate::record::Record;
use crate::store::memory::MemoryDisk;

pub(crate) type QuorumRaft = Raft<Tokio, Applier<Tokio>>;

/// What keeps a member's entries.
#[derive(Clone, Debug, Default)]
pub enum Engine {
    /// RocksDB, in the member's folder.
    #[default]
    Rocks,
    /// A disk in memory, for simulations. Everything else is in the member's folder all the same.
    Memory(MemoryDisk),
}

/// How a member is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that holds everything.
    pub dir: PathBuf,
    /// host:port at which the others reach this member.
    pub address: String,
    /// A leader shows itself this often, in milliseconds.
    pub heartbeat_ms: u64,
    /// Without a leader for this long, in milliseconds, a member asks to be elected: at random between the two.
    pub election_ms_min: u64,
    /// See `election_ms_min`. Also how long a leader believes that it leads without hearing from a quorum.
    pub election_ms_max: u64,
    /// A snapshot is taken after records of so many bytes.
    pub snapshot_bytes: u64,
    /// So many of the newest entries at least stay in the log, for members that are a little behind; those before move
    /// to the archive once snapshots cover them.
    pub tail_entries_min: u64,
    /// How much history is kept.
    pub archive: ArchiveBounds,
    /// A new segment of the archive is begun when the current one is larger, in bytes.
    pub archive_segment_bytes: u64,
    /// Snapshots are sent to other members in pieces of so many bytes.
    pub snapshot_chunk_bytes: usize,
    /// Time limit of one message with entries to another member, in milliseconds.
    pub rpc_ms_max: u64,
    /// What keeps the entries.
    pub engine: Engine,
}

impl Options {
    /// The defaults, for a member with its folder in `dir`, reached at `address` (host:port).
    pub fn new(dir: impl Into<PathBuf>, address: impl Into<String>) -> Options {
        Options { dir: dir.into(), address: address.into(), ..Options::default() }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            dir: PathBuf::new(),
            address: String::new(),
            heartbeat_ms: 50,
            election_ms_min: 200,
            election_ms_max: 400,
            snapshot_bytes: 256 << 20,
            tail_entries_min: 10_000,
            archive: ArchiveBounds::default(),
            archive_segment_bytes: 64 << 20,
            snapshot_chunk_bytes: 1 << 20,
            rpc_ms_max: 3000,
            engine: Engine::Rocks,
        }
    }
}

/// Why a record was not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It never will be: the leadership under which it was proposed is not this member's, or no longer.
    #[error("this master does not lead")]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<Member>,
    },
    /// It never will be: no message could carry it. Whoever counted it cannot count on.
    #[error("the record is too large")]
    TooLarge(#[source] CodecError),
    /// It may be committed, or may yet be, or never.
    #[error("it is not known whether the record was committed")]
    Unknown,
}

/// This member does not lead, or cannot show it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this master does not lead, or a quorum does not answer it")]
pub struct NotLeader {
    /// Who leads, if that is known.
    pub leader: Option<Member>,
}

/// Resolves to the record's index once it is committed and was handed to the machine.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<u64, AppendError>>);

impl Future for Ticket {
    type Output = Result<u64, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(AppendError::Unknown)))
    }
}

struct Proposal {
    id: u64,
    term: u64,
    data: Data,
    under_way: UnderWay,
}

/// Bytes of a proposal whose fate is open.
struct UnderWay(Arc<Progress>, u64);

impl UnderWay {
    fn new(progress: &Arc<Progress>, data: &Data) -> UnderWay {
        let bytes = data.bytes.len() as u64;
        progress.under_way_bytes.fetch_add(bytes, Ordering::Relaxed);
        UnderWay(progress.clone(), bytes)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way_bytes.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Someone who waits for proof of leadership.
type Doubt = oneshot::Sender<Result<Confirmed, NotLeader>>;

/// Proof of a leadership: its term, and an index at or above everything committed before.
type Confirmed = (u64, u64);

pub(crate) struct Inner {
    pub(crate) raft: QuorumRaft,
    pub(crate) store: LogStore<Tokio>,
    pub(crate) link: Arc<Link>,
    pub(crate) options: Options,
    pub(crate) identity: Mutex<IdentityFile>,
    pub(crate) masters: Mutex<Option<Vec<String>>>,
    /// Held by whoever changes the quorum.
    pub(crate) changing: tokio::sync::Mutex<()>,
    status: watch::Receiver<Status>,
    progress: Arc<Progress>,
    pending: Arc<Pending>,
    handing_over: Arc<AtomicBool>,
    proposals: mpsc::UnboundedSender<Proposal>,
    doubts: mpsc::UnboundedSender<Doubt>,
    /// When a leader was last heard, for followers.
    heard: Arc<Mutex<Option<Instant>>>,
    pub(crate) snapshots: Snapshots,
    pub(crate) archive: Arc<Archive>,
    next_id: AtomicU64,
    /// A snapshot that is being received.
    incoming: Mutex<Incoming>,
    stop: watch::Sender<bool>,
}

/// A member of a quorum. Clones are the same member.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Node").field("node_id", &self.node_id()).finish_non_exhaustive()
    }
}

pub(crate) fn config(options: &Options) -> Result<Arc<Config>, OpenError> {
    let config = Config {
        cluster_name: "log".into(),
        heartbeat_interval: options.heartbeat_ms,
        election_timeout_min: options.election_ms_min,
        election_timeout_max: options.election_ms_max,
        // A leader that restarts may have lost entries that it had sent out but not synced. Leading on in the same
        // term, it would give their places to others.
        enable_leader_restore: Some(planted(Bug::LeaderRestored)),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(options.election_ms_max * 2),
        // Snapshots are taken by bytes; entries are purged once they are in the archive.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: 300_000,
        max_payload_entries: 1024,
        backoff: "20ms 40ms 80ms ...400ms".into(),
        ..Config::default()
    };
    let invalid =
        |error: openraft::ConfigError| OpenError::Storage { dir: options.dir.clone(), why: error.to_string() };
    config.validate().map(Arc::new).map_err(invalid)
}

impl Node {
    /// Opens the member in `options.dir`, or a new one on an empty disk, and hands everything to `machine` that is
    /// known to be committed. A member whose quorum formed takes part in it from now on.
    ///
    /// # Errors
    /// An [`OpenError`], with nothing changed on the disk.
    pub async fn open(
        options: Options,
        transport: Arc<dyn Transport>,
        machine: impl Machine,
    ) -> Result<Node, OpenError> {
        let config = config(&options)?;
        let of = options.clone();
        let opened = host::blocking(move || open::open(&of, Box::new(machine))).await;
        let opened = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;

        let link = Arc::new(Link {
            transport,
            me: opened.node_id,
            cluster_id: opened.identity.field("cluster").map(str::to_owned).into(),
            rpc_timeout: Duration::from_millis(options.rpc_ms_max),
            vote_timeout: Duration::from_millis(options.election_ms_min),
            snapshots: opened.snapshots.clone(),
            snapshot_chunk_bytes: options.snapshot_chunk_bytes,
            terms: Terms::new(opened.store.term()),
        });
        let progress = opened.applier.progress();
        let raft = Raft::new(opened.node_id, config, Links(link.clone()), opened.store.clone(), opened.applier).await;
        let raft: QuorumRaft = raft.map_err(|error| {
            let why = match &error {
                Fatal::StorageError(_) => format!("{error}: {REBUILD}"),
                _ => error.to_string(),
            };
            OpenError::Storage { dir: options.dir.clone(), why }
        })?;
        // What the disk knows of the members is published by another task; once that has answered, it can be asked for. An
        // error comes up again with whatever is asked first.
        let _ = raft.with_raft_state(|_| ()).await;

        let pending = Arc::new(Pending::default());
        let handing_over = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(Mutex::new(None));
        let stop = watch::Sender::new(false);
        let (proposals, proposed) = mpsc::unbounded_channel();
        let (doubts, doubted) = mpsc::unbounded_channel();
        let watcher = status::Watcher {
            raft: raft.clone(),
            me: opened.node_id,
            options: options.clone(),
            pending: pending.clone(),
            handing_over: handing_over.clone(),
            heard: heard.clone(),
            progress: progress.clone(),
            stop: stop.subscribe(),
        };
        let status = watcher.start();
        host::spawn(propose(raft.clone(), pending.clone(), proposed, stop.subscribe()));
        host::spawn(confirm(raft.clone(), pending.clone(), doubted, stop.subscribe()));
        let archiver = Archiver {
            raft: raft.clone(),
            store: opened.store.clone(),
            snapshots: opened.snapshots.clone(),
            archive: opened.archive.clone(),
            bounds: options.archive,
            tail_entries: options.tail_entries_min,
        };
        host::spawn(archiver.run(stop.subscribe()));
        let settling = stop.subscribe();
        let inner = Inner {
            raft,
            store: opened.store,
            link,
            options,
            identity: Mutex::new(opened.identity),
            masters: Mutex::new(None),
            changing: tokio::sync::Mutex::new(()),
            status,
            progress,
            pending,
            handing_over,
            proposals,
            doubts,
            heard,
            snapshots: opened.snapshots,
            archive: opened.archive,
            next_id: AtomicU64::new(0),
            incoming: Mutex::default(),
            stop,
        };
        let inner = Arc::new(inner);
        host::spawn(super::membership::settle(Arc::downgrade(&inner), settling));
        Ok(Node { inner })
    }

    /// Index of the last entry that the machine was given.
    pub(crate) fn applied(&self) -> u64 {
        *self.inner.progress.applied.borrow()
    }

    /// Random, one per disk.
    pub fn node_id(&self) -> u64 {
        self.inner.link.me
    }

    /// A uuid as text, made when the quorum formed.
    pub fn cluster_id(&self) -> Option<String> {
        self.inner.link.cluster_id()
    }

    /// Proposes a record under the leadership of `term`, and of no other. Records are appended in the order of these
    /// calls; this returns at once.
    pub fn append(&self, term: u64, record: Record) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        if self.inner.pending.insert(id, term, sender) {
            // If nobody takes proposals any more, stopping has answered all that were pending.
            let data = match Data::new(record) {
                Ok(data) => data,
                Err(error) => {
                    self.inner.pending.answer(id, Err(AppendError::TooLarge(error)));
                    return Ticket(receiver);
                }
            };
            let proposal = Proposal { id, term, under_way: UnderWay::new(&self.inner.progress, &data), data };
            if self.inner.proposals.send(proposal).is_err() {
                self.inner.pending.answer(id, Err(AppendError::Unknown));
            }
        }
        Ticket(receiver)
    }

    /// Gives up the leadership of `term`, if this member has it: nothing more is proposed under it, what is pending is
    /// unknown, and once a quorum answers, this member or another one begins a new term. For whoever lost track of what
    /// it proposed: records of one leadership are counted, and nobody can count on from an unknown number.
    pub fn give_up(&self, term: u64) {
        self.inner.pending.abandon(term);
    }

    /// What this member knows of the quorum, as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.clone()
    }

    /// Shows that this member leads, by hearing from a quorum after this call. Everything committed before it is
    /// at or below the index that it returns. Concurrent calls share one round.
    ///
    /// # Errors
    /// [`NotLeader`] if it does not lead or a quorum does not answer in time.
    pub async fn confirm(&self) -> Result<u64, NotLeader> {
        self.confirmed().await.map(|(_, index)| index)
    }

    /// As [`Node::confirm`], of the leadership of `term` and no other: another master may have led in between.
    ///
    /// # Errors
    /// [`NotLeader`] if it does not lead in `term` or a quorum does not answer in time.
    pub async fn confirm_term(&self, term: u64) -> Result<u64, NotLeader> {
        let (confirmed, index) = self.confirmed().await?;
        if confirmed == term { Ok(index) } else { Err(NotLeader { leader: None }) }
    }

    async fn confirmed(&self) -> Result<Confirmed, NotLeader> {
        let (sender, receiver) = oneshot::channel();
        if self.inner.doubts.send(sender).is_err() {
            return Err(NotLeader { leader: None });
        }
        receiver.await.unwrap_or(Err(NotLeader { leader: None }))
    }

    /// How long ago this member last heard from a leader, or from a quorum if it leads; none if never.
    pub fn last_contact(&self) -> Option<Duration> {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        if metrics.state == openraft::ServerState::Leader {
            let alone = metrics.membership_config.voter_ids().count() == 1;
            return if alone { Some(Duration::ZERO) } else { metrics.last_quorum_acked.map(|at| at.elapsed()) };
        }
        self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    /// Asks the leader, from any member, and waits until everything that was committed before this call was handed
    /// to this member's machine.
    ///
    /// # Errors
    /// [`NotLeader`] if no leader answers in time.
    pub async fn read_index(&self) -> Result<u64, NotLeader> {
        let leader = self.inner.status.borrow().leader.clone();
        let index = match &leader {
            Some(member) if member.node_id != self.node_id() => {
                let timeout = Duration::from_millis(self.inner.options.election_ms_max * 2);
                match self.inner.link.call(member, Request::ReadIndex, timeout).await {
                    Ok(Response::ReadIndex(Some(index))) => index,
                    _ => return Err(NotLeader { leader }),
                }
            }
            _ => self.confirm().await?,
        };
        let mut applied = self.inner.progress.applied.subscribe();
        let mut stop = self.inner.stop.subscribe();
        if planted(Bug::FollowerReadsStale) {
            return Ok(index);
        }
        let result = tokio::select! {
            reached = applied.wait_for(|applied| *applied >= index) => reached.map(|_| index).map_err(drop),
            _ = stop.wait_for(|stop| *stop) => Err(()),
        };
        result.map_err(|()| NotLeader { leader: None })
    }

    /// Hands leadership to the member that is furthest; returns once another leads or this one no longer does.
    ///
    /// # Errors
    /// [`NotLeader`] if this member does not lead, or nobody took over in time.
    pub async fn transfer_leadership(&self) -> Result<(), NotLeader> {
        let me = self.node_id();
        let target = {
            let metrics = self.inner.raft.metrics().borrow_watched().clone();
            let voters: Vec<u64> = metrics.membership_config.voter_ids().filter(|id| *id != me).collect();
            let progress = metrics.replication.unwrap_or_default();
            let known = progress.into_iter().filter(|(id, _)| voters.contains(id));
            known.max_by_key(|(_, matched)| matched.map(|id| id.index)).map(|(id, _)| id)
        };
        match target {
            Some(target) => self.transfer_leadership_to(target).await,
            None => Err(NotLeader { leader: None }),
        }
    }

    /// Hands leadership to the voter `target`; returns once another leads or this one no longer does.
    ///
    /// # Errors
    /// [`NotLeader`] if this member does not lead, or nobody took over in time.
    pub async fn transfer_leadership_to(&self, target: u64) -> Result<(), NotLeader> {
        let me = self.node_id();
        if self.inner.status.borrow().role != Role::Leader {
            return Err(NotLeader { leader: self.inner.status.borrow().leader.clone() });
        }
        let stopped = |_| NotLeader { leader: None };
        let _handing_over = HandingOver::begin(&self.inner.handing_over);
        self.inner.raft.trigger().transfer_leader(target).await.map_err(stopped)?;
        let mut status = self.status();
        let timeout = Duration::from_millis(self.inner.options.election_ms_max * 4);
        let handed = status.wait_for(|status| status.leader.as_ref().is_some_and(|leader| leader.node_id != me));
        match tokio::time::timeout(timeout, handed).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(NotLeader { leader: None }),
        }
    }

    /// Stops taking part. What is pending resolves as unknown. The folder is free again when every clone is dropped.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "stopping the log");
        }
        self.inner.pending.fail(|_| true);
    }

    /// Answers another member's request.
    pub async fn handle(&self, body: Bytes) -> Bytes {
        let decoded = if body.len() < LARGE_BYTES {
            Envelope::decode(&body)
        } else {
            host::blocking(move || Envelope::decode(&body)).await.unwrap_or_else(|error| Err(failed(error)))
        };
        let response = match decoded {
            Ok(envelope) => self.answer(envelope).await.unwrap_or_else(Response::Refused),
            Err(refused) => Response::Refused(refused),
        };
        Bytes::from(response.encode())
    }

    async fn answer(&self, envelope: Envelope) -> Result<Response, Refused> {
        let Envelope { cluster_id, from: _, to, request } = envelope;
        if to != 0 && to != self.node_id() {
            return Err(Refused::OtherMember(self.node_id()));
        }
        match &request {
            // Before a quorum formed there is no cluster to belong to.
            Request::Hello => return Ok(Response::Hello(self.hello())),
            Request::Adopt { cluster_id, members } => {
                self.adopt(cluster_id, members)?;
                return Ok(Response::Adopted);
            }
            _ => {}
        }
        let mine = self.cluster_id();
        if mine.is_none() || mine != cluster_id {
            return Err(Refused::OtherCluster(mine));
        }
        self.inner.link.terms.check(&request)?;
        let raft = &self.inner.raft;
        match request {
            Request::Append { vote, previous, entries, committed } => {
                let committed = match entries.last() {
                    Some((index, _)) if planted(Bug::CommitBeforeQuorum) => Some((vote.0, *index)),
                    _ => committed,
                };
                let bytes: usize = entries.iter().map(|(_, entry)| entry.0.len()).sum();
                let read = move || wire::append_request(vote, previous, &entries, committed);
                let request =
                    if bytes < LARGE_BYTES { read()? } else { host::blocking(read).await.map_err(failed)?? };
                let response = raft.append_entries(request).await.map_err(failed)?;
                let appended = match Appended::new(response) {
                    Appended::Conflict if planted(Bug::ConflictAccepted) => Appended::Success,
                    appended => appended,
                };
                if matches!(appended, Appended::Success | Appended::Partial(_) | Appended::Conflict) {
                    *self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                }
                Ok(Response::Append(appended))
            }
            Request::Vote { vote, last, transfer, pre } => {
                let last = if planted(Bug::VoteForShorterLog) { Some((vote.0, u64::MAX)) } else { last };
                let request = wire::vote_request(vote, last, transfer);
                let response = if pre { raft.pre_vote(request).await } else { raft.vote(request).await };
                Ok(Response::vote(&response.map_err(failed)?))
            }
            Request::Snapshot { vote, transfer, offset, bytes, last, head } => {
                let snapshot = (vote, transfer, offset, last, head);
                self.receive_snapshot(snapshot, bytes.0).await
            }
            Request::TransferLeader { to, from, last } => {
                let request = TransferLeaderRequest::new(from_ballot(from), to, last.map(from_place));
                let taken = raft.handle_transfer_leader(request).await.map_err(failed)?;
                Ok(Response::TransferLeader(taken.is_ok()))
            }
            Request::ReadIndex => Ok(Response::ReadIndex(self.confirm().await.ok())),
            Request::Members => Ok(Response::Members(self.confirmed_members().await)),
            Request::Hello | Request::Adopt { .. } => unreachable!("answered above"),
        }
    }

    async fn receive_snapshot(
        &self,
        (vote, transfer, offset, last, head): (super::types::Ballot, u64, u64, bool, Head),
        bytes: Vec<u8>,
    ) -> Result<Response, Refused> {
        let node = self.clone();
        let write = host::blocking(move || {
            let mut incoming = node.inner.incoming.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(path) = incoming.take(&node.inner.snapshots, transfer, offset, &bytes, last)? else {
                return Ok(None);
            };
            drop(incoming);
            node.inner.snapshots.adopt(&path).map(Some).inspect_err(|_| {
                // Damaged on its way, or another cluster's; the next attempt has a file of its own.
                let _ = std::fs::remove_file(&path);
            })
        });
        let Some(file) = write.await.map_err(failed)?.map_err(failed)? else { return Ok(Response::Snapshot(None)) };
        if file.head != head {
            return Err(Refused::Malformed("the snapshot is not the one that was announced".into()));
        }
        let meta =
            SnapshotMeta { last_log_id: Some(from_place(head.last)), last_membership: head.members().map_err(failed)? };
        let snapshot = Snapshot { meta, snapshot: file };
        let response = self.inner.raft.install_full_snapshot(from_ballot(vote), snapshot).await.map_err(failed)?;
        Ok(Response::Snapshot(Some(to_ballot(&response.vote))))
    }

    pub(crate) fn hello(&self) -> Hello {
        let metrics = self.inner.raft.metrics().borrow_watched().membership_config.clone();
        let members = metrics.nodes().map(|(id, address)| Member { node_id: *id, address: address.clone() }).collect();
        Hello {
            member: Member { node_id: self.node_id(), address: self.inner.options.address.clone() },
            pristine: self.inner.store.is_pristine(),
            cluster_id: self.cluster_id(),
            masters: self.inner.masters.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            members,
        }
    }
}

/// Set from here to its end.
struct HandingOver(Arc<AtomicBool>);

impl HandingOver {
    fn begin(flag: &Arc<AtomicBool>) -> HandingOver {
        flag.store(true, Ordering::Release);
        HandingOver(flag.clone())
    }
}

impl Drop for HandingOver {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn failed(error: impl fmt::Display) -> Refused {
    Refused::Failed(error.to_string())
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// How long a proposal waits for those before it to make room, before it is tried all the same.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// Passes proposals on, one after the other, and no more at a time than are taken between two heartbeats: what a quorum
/// answers would wait behind them.
async fn propose(
    raft: QuorumRaft,
    pending: Arc<Pending>,
    mut proposals: mpsc::UnboundedReceiver<Proposal>,
    mut stop: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(UNDER_WAY_BYTES));
    loop {
        let next = tokio::select! {
            next = proposals.recv() => next,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(Proposal { id, term, data, under_way }) = next else { break };
        let weight = u32::try_from(data.bytes.len().min(UNDER_WAY_BYTES)).unwrap_or(u32::MAX).max(1);
        let room = tokio::time::timeout(ROOM_PATIENCE, room.clone().acquire_many_owned(weight));
        // Without room for that long it is tried all the same: whoever waits for an answer gets one.
        let room = room.await.ok().and_then(Result::ok);
        let answers = pending.answering(id);
        let callback = Callback(Box::new(move |result: openraft::raft::ClientWriteResult<Tokio>| {
            drop((under_way, room));
            answers.answer(match result {
                Ok(response) => Ok(response.log_id.index),
                // Said only of what was not appended.
                Err(ClientWriteError::ForwardToLeader(to)) => {
                    let leader = to.leader_id.zip(to.leader_node);
                    let leader = leader.map(|(node_id, address)| Member { node_id, address });
                    Err(AppendError::NotLeader { leader })
                }
                Err(_) => Err(AppendError::Unknown),
            });
        }));
        // If the core has stopped, the callback is dropped, which answers: unknown.
        let _ = raft.write(data).with_leader(term).responder(callback).await;
    }
    pending.fail(|_| true);
}

/// Confirms leadership for everybody who asked before the round began.
async fn confirm(
    raft: QuorumRaft,
    pending: Arc<Pending>,
    mut doubts: mpsc::UnboundedReceiver<Doubt>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let first = tokio::select! {
            first = doubts.recv() => first,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(first) = first else { break };
        let mut waiting = vec![first];
        while let Ok(doubt) = doubts.try_recv() {
            waiting.push(doubt);
        }
        let term = raft.metrics().borrow_watched().current_term;
        if planted(Bug::ReadWithoutQuorum) {
            let metrics = raft.metrics().borrow_watched().clone();
            let index = metrics.last_applied.map_or(0, |last| last.index);
            waiting.into_iter().for_each(|doubt| drop(doubt.send(Ok((metrics.current_term, index)))));
            continue;
        }
        let result = match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(_) if pending.is_abandoned(term) => Err(NotLeader { leader: None }),
            Ok(linearizer) => {
                let read = linearizer.read_log_id();
                Ok((read.committed_leader_id().term, read.index()))
            }
            Err(error) => {
                let to = error.forward_to_leader();
                let leader = to.and_then(|to| to.leader_id.zip(to.leader_node.clone()));
                Err(NotLeader { leader: leader.map(|(node_id, address)| Member { node_id, address }) })
            }
        };
        for doubt in waiting {
            let _ = doubt.send(result.clone());
        }
    }
}
