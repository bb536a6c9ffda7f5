//! How openraft reaches the other members: one request at a time through a [`Transport`], each with a time limit.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::log_store::record_bytes;
use super::snapshot_file::SnapshotFile;
use super::snapshots::Snapshots;
use super::terms::Terms;
use super::types::{Clid, Member, Tokio, Vote, from_ballot, from_place, to_ballot, to_place};
use super::wire::{Blob, Envelope, Refused, Request, Response};
use crate::host;
use crate::limits::{LARGE_BYTES, LARGE_BYTES_PER_SECOND};

const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// The receiver reads all of the snapshot before it answers the last chunk.
const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection: it is certain that the request did not arrive, or nobody knows.
    #[error("{address} cannot be reached: {why}")]
    Unreachable {
        /// host:port
        address: String,
        /// The reason, in words.
        why: String,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} ms", timeout.as_millis())]
    Timeout {
        /// host:port
        address: String,
        /// How long was waited.
        timeout: Duration,
    },
}

/// Carries requests to other members, who pass them to [`super::Node::handle`] and answer what it returns.
pub trait Transport: Send + Sync + 'static {
    /// Sends `body` to `to` and returns the answer's body.
    fn send(&self, to: &Member, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>>;
}

/// How much longer than a small message one of so many bytes may take.
pub(crate) fn time_of(bytes: usize) -> Duration {
    Duration::from_millis((bytes as u64).saturating_mul(1000) / LARGE_BYTES_PER_SECOND as u64)
}

/// One member's end of all connections.
pub(crate) struct Link {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) me: u64,
    pub(crate) cluster_id: RwLock<Option<String>>,
    pub(crate) rpc_timeout: Duration,
    pub(crate) vote_timeout: Duration,
    pub(crate) snapshots: Snapshots,
    pub(crate) snapshot_chunk_bytes: usize,
    pub(crate) terms: Terms,
}

/// Why a call to another member failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("{address} refused: {refused}")]
    Refused { address: String, refused: Refused },
    #[error("{address} answered another question")]
    Confused { address: String },
}

impl Link {
    pub(crate) fn cluster_id(&self) -> Option<String> {
        self.cluster_id.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks `to` and waits for its answer, no longer than `timeout`.
    pub(crate) async fn call(&self, to: &Member, request: Request, timeout: Duration) -> Result<Response, CallError> {
        self.terms.say(&request);
        let body = Bytes::from(self.envelope(to, request).encode());
        self.send(to, body, timeout).await
    }

    fn envelope(&self, to: &Member, request: Request) -> Envelope {
        Envelope { cluster_id: self.cluster_id(), from: self.me, to: to.node_id, request }
    }

    /// Sends an encoded request.
    async fn send(&self, to: &Member, body: Bytes, timeout: Duration) -> Result<Response, CallError> {
        let address = to.address.clone();
        // A transport that hangs must not freeze an election.
        let answer = tokio::time::timeout(timeout, self.transport.send(to, body, timeout)).await;
        let bytes = answer.map_err(|_| TransportError::Timeout { address: address.clone(), timeout })??;
        match Response::decode(&bytes) {
            Ok(Response::Refused(refused)) | Err(refused) => Err(CallError::Refused { address, refused }),
            Ok(response) => match self.terms.check_answer(&response) {
                Ok(()) => Ok(response),
                Err(refused) => Err(CallError::Refused { address, refused }),
            },
        }
    }
}

pub(crate) struct Links(pub(crate) Arc<Link>);

impl RaftNetworkFactory<Tokio> for Links {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, address: &String) -> Peer {
        Peer { link: self.0.clone(), member: Member { node_id: target, address: address.clone() } }
    }
}

/// One other member.
pub(crate) struct Peer {
    link: Arc<Link>,
    member: Member,
}

fn failed(error: CallError) -> RPCError<Tokio> {
    match error {
        CallError::Transport(TransportError::Timeout { .. }) => {
            RPCError::Network(NetworkError::from_string(error.to_string()))
        }
        // Backs off before the next attempt.
        _ => RPCError::Unreachable(Unreachable::from_string(error.to_string())),
    }
}

impl Peer {
    async fn call(&self, request: Request, timeout: Duration) -> Result<Response, RPCError<Tokio>> {
        self.link.call(&self.member, request, timeout).await.map_err(failed)
    }

    fn appended(&self, response: Response) -> Result<AppendEntriesResponse<Tokio>, RPCError<Tokio>> {
        match response {
            Response::Append(appended) => Ok(appended.into_response()),
            _ => Err(self.confused()),
        }
    }

    fn confused(&self) -> RPCError<Tokio> {
        failed(CallError::Confused { address: self.member.address.clone() })
    }

    async fn ask_vote(&self, request: VoteRequest<Tokio>, pre: bool) -> Result<VoteResponse<Tokio>, RPCError<Tokio>> {
        match self.call(Request::vote(&request, pre), self.link.vote_timeout).await? {
            Response::Vote { vote, granted, last } => {
                Ok(VoteResponse::new(from_ballot(vote), last.map(from_place), granted))
            }
            _ => Err(self.confused()),
        }
    }

    async fn send_snapshot(&self, vote: Vote, file: SnapshotFile) -> Result<Vote, StreamingError<Tokio>> {
        let unreadable =
            |error: io::Error| StreamingError::Unreachable(Unreachable::from_string(format!("a snapshot: {error}")));
        let transfer = rand_u64();
        let (snapshots, head) = (self.link.snapshots.clone(), file.head.clone());
        let opened = host::blocking(move || {
            // What is damaged is never sent. Opened once: a newer snapshot may take its place meanwhile.
            snapshots.check(&file)?;
            File::open(&file.path).map(Arc::new)
        });
        let file = opened.await.map_err(|error| unreadable(io::Error::other(error)))?.map_err(unreadable)?;
        let mut offset = 0;
        loop {
            let (from, bytes_max) = (file.clone(), self.link.snapshot_chunk_bytes);
            let read = host::blocking(move || chunk(&from, offset, bytes_max));
            let (bytes, last) = read.await.map_err(|error| unreadable(io::Error::other(error)))?.map_err(unreadable)?;
            let length = bytes.len() as u64;
            let (vote, head, bytes) = (to_ballot(&vote), head.clone(), Blob(bytes));
            let request = Request::Snapshot { vote, transfer, offset, bytes, last, head };
            let timeout = if last { SNAPSHOT_INSTALL_TIMEOUT } else { SNAPSHOT_CHUNK_TIMEOUT };
            match self.call(request, timeout).await? {
                Response::Snapshot(Some(vote)) => return Ok(from_ballot(vote)),
                Response::Snapshot(None) if !last => offset += length,
                _ => return Err(self.confused().into()),
            }
        }
    }
}

/// A part of a file, and whether it is the last.
fn chunk(file: &File, offset: u64, bytes_max: usize) -> io::Result<(Vec<u8>, bool)> {
    let length = file.metadata()?.len();
    let size = length.saturating_sub(offset).min(bytes_max as u64) as usize;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, offset)?;
    Ok((bytes, offset + size as u64 >= length))
}

/// Never 0.
pub(crate) fn rand_u64() -> u64 {
    let bits = host::random();
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    (high ^ low.rotate_left(17)).max(1)
}

impl RaftNetworkV2<Tokio> for Peer {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Tokio>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Tokio>, RPCError<Tokio>> {
        // A heartbeat is worth nothing when it is late; entries may need a slow disk.
        if request.entries.is_empty() {
            return self.appended(self.call(Request::append(&request), self.link.vote_timeout).await?);
        }
        let bytes: usize = request.entries.iter().map(record_bytes).sum();
        if bytes < LARGE_BYTES {
            return self.appended(self.call(Request::append(&request), self.link.rpc_timeout).await?);
        }
        let (link, member) = (self.link.clone(), self.member.clone());
        let encode = move || Bytes::from(link.envelope(&member, Request::append(&request)).encode());
        let broken = |error| RPCError::Network(NetworkError::from_string(format!("{error}")));
        let body = host::blocking(encode).await.map_err(broken)?;
        let timeout = self.link.rpc_timeout + time_of(bytes);
        self.appended(self.link.send(&self.member, body, timeout).await.map_err(failed)?)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Tokio>,
        _: RPCOption,
    ) -> Result<VoteResponse<Tokio>, RPCError<Tokio>> {
        self.ask_vote(request, false).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Tokio>,
        _: RPCOption,
    ) -> Result<VoteResponse<Tokio>, RPCError<Tokio>> {
        self.ask_vote(request, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Clid, u64, String, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Tokio>, StreamingError<Tokio>> {
        let send = std::pin::pin!(self.send_snapshot(vote, snapshot.snapshot));
        match select(send, std::pin::pin!(cancel)).await {
            Either::Left((sent, _)) => Ok(SnapshotResponse::new(sent?)),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Tokio>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Tokio>, RPCError<Tokio>> {
        let message = Request::TransferLeader {
            to: *request.to_node_id(),
            from: to_ballot(request.from_leader()),
            last: request.last_log_id().map(to_place),
        };
        match self.call(message, self.link.vote_timeout).await? {
            Response::TransferLeader(true) => Ok(Ok(())),
            Response::TransferLeader(false) => {
                Err(RPCError::Unreachable(Unreachable::from_string("the transfer was declined")))
            }
            _ => Err(self.confused()),
        }
    }
}
