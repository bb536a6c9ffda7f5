//! What openraft is told about our entries, and how its small types are stored.

use std::fmt;
use std::io;
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::impls::leader_id_std;
use openraft::raft::responder::Responder;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, Membership, OptionalSend, RaftTypeConfig, StoredMembership};
use serde::{Deserialize, Serialize};

use super::runtime::HostRuntime;
use crate::codec::{self, CodecError};
use crate::limits::PROPOSAL_BYTES_MAX;
use crate::record::Record;

pub(crate) type LeaderId = leader_id_std::LeaderId<u64, u64>;
pub(crate) type Clid = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type Vote = openraft::impls::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<Clid>;
pub(crate) type Payload = EntryPayload<Data, u64, String>;
pub(crate) type Entry = openraft::impls::Entry<Clid, Payload>;
pub(crate) type Members = Membership<u64, String>;
pub(crate) type StoredMembers = StoredMembership<Clid, u64, String>;

/// The types of a quorum.
pub(crate) trait Types:
    RaftTypeConfig<
        D = Data,
        R = (),
        NodeId = u64,
        Node = String,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = Entry,
    >
{
}

impl<C> Types for C where
    C: RaftTypeConfig<
            D = Data,
            R = (),
            NodeId = u64,
            Node = String,
            Term = u64,
            LeaderId = LeaderId,
            Vote = Vote,
            Payload = Payload,
            Entry = Entry,
        >
{
}

/// The types of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tokio;

impl RaftTypeConfig for Tokio {
    type D = Data;
    type R = ();
    type NodeId = u64;
    type Node = String;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = HostRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::AnyError;
}

/// Hears what became of a proposal.
pub(crate) struct Callback<T>(pub(crate) Box<dyn FnOnce(T) + Send>);

impl<C: RaftTypeConfig, T: OptionalSend + 'static> Responder<C, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// A record and its bytes: encoded once where it was made, decoded once where it arrived.
#[derive(Clone)]
pub(crate) struct Data {
    pub(crate) record: Arc<Record>,
    pub(crate) bytes: Arc<[u8]>,
    /// Of the bytes: the checksum of an entry is made from it, however often the entry is sent.
    crc: u32,
}

impl Data {
    /// # Errors
    /// [`CodecError::TooLarge`] if the record could be written and never be sent.
    pub(crate) fn new(record: Record) -> Result<Data, CodecError> {
        let bytes: Arc<[u8]> = record.try_encode()?.into();
        if bytes.len() > PROPOSAL_BYTES_MAX {
            return Err(CodecError::TooLarge(bytes.len()));
        }
        Ok(Data { record: Arc::new(record), crc: crc32fast::hash(&bytes), bytes })
    }

    fn decode(bytes: &[u8], crc: u32) -> Result<Data, CodecError> {
        Ok(Data { record: Arc::new(Record::decode(bytes)?), bytes: bytes.into(), crc })
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for Data {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.record.header;
        write!(formatter, "record {}.{} of {} bytes", header.term, header.n, self.bytes.len())
    }
}

/// A member of a quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Random, one per disk.
    pub node_id: u64,
    /// host:port at which the others reach it.
    pub address: String,
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(Clid::from(term), index)
}

/// (term, index), as stored and sent.
pub(crate) type Place = (u64, u64);

pub(crate) fn to_place(id: &LogId) -> Place {
    (id.leader_id.term, id.index)
}

pub(crate) fn from_place((term, index): Place) -> LogId {
    log_id(term, index)
}

/// (term, node, committed), as stored and sent.
pub(crate) type Ballot = (u64, u64, bool);

pub(crate) fn to_ballot(vote: &Vote) -> Ballot {
    (vote.leader_id.term, vote.leader_id.voted_for, vote.committed)
}

pub(crate) fn from_ballot((term, node, committed): Ballot) -> Vote {
    Vote { leader_id: LeaderId::new(term, node), committed }
}

/// A membership, as stored and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roll {
    configs: Vec<Vec<u64>>,
    nodes: Vec<(u64, String)>,
}

impl Roll {
    pub(crate) fn new(members: &Members) -> Roll {
        let configs = members.get_joint_config().iter().map(|config| config.iter().copied().collect()).collect();
        Roll { configs, nodes: members.nodes().map(|(id, address)| (*id, address.clone())).collect() }
    }

    pub(crate) fn into_members(self) -> io::Result<Members> {
        let configs = self.configs.into_iter().map(|config| config.into_iter().collect()).collect();
        let nodes: std::collections::BTreeMap<u64, String> = self.nodes.into_iter().collect();
        Members::new(configs, nodes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }
}

const ENTRY_FORMAT: u8 = 1;
const BLANK: u8 = 0;
const RECORD: u8 = 1;
const MEMBERS: u8 = 2;
const HEAD_BYTES: usize = 14;

/// An entry as stored and sent: crc32 u32 (of index and the rest) · format u8 · kind u8 · term u64 · body.
pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let id = entry.log_id();
    let roll;
    let (kind, body, body_crc): (u8, &[u8], u32) = match &entry.payload {
        EntryPayload::Blank => (BLANK, &[], crc32fast::hash(&[])),
        EntryPayload::Normal(data) => (RECORD, &data.bytes, data.crc),
        EntryPayload::Membership(members) => {
            roll = codec::encode_payload(&Roll::new(members));
            (MEMBERS, &roll, crc32fast::hash(&roll))
        }
    };
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
    bytes.extend_from_slice(&[0, 0, 0, 0, ENTRY_FORMAT, kind]);
    bytes.extend_from_slice(&id.leader_id.term.to_le_bytes());
    bytes.extend_from_slice(body);
    let crc = checksum(id.index, &bytes, body_crc);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Of an entry whose body has this checksum: the body, which may be large, is not read again.
fn checksum(index: u64, bytes: &[u8], body_crc: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&index.to_le_bytes());
    hasher.update(&bytes[4..HEAD_BYTES]);
    hasher.combine(&crc32fast::Hasher::new_with_initial_len(body_crc, (bytes.len() - HEAD_BYTES) as u64));
    hasher.finalize()
}

/// Term and record of the entry at `index` that `bytes` hold; no record if it is the quorum's own business. For who reads
/// only: the bytes are not kept.
pub(crate) fn decode_record(index: u64, bytes: &[u8]) -> io::Result<(u64, Option<Arc<Record>>)> {
    if bytes.len() >= HEAD_BYTES && (bytes[4], bytes[5]) == (ENTRY_FORMAT, RECORD) {
        verify_entry(index, bytes).map_err(|why| invalid(index, &why.to_string()))?;
        let term = u64::from_le_bytes(bytes[6..HEAD_BYTES].try_into().expect("eight bytes"));
        let record = Record::decode(&bytes[HEAD_BYTES..]).map_err(|why| invalid(index, &why.to_string()))?;
        return Ok((term, Some(Arc::new(record))));
    }
    let entry = decode_entry(index, bytes)?;
    Ok((entry.log_id.leader_id.term, None))
}

fn invalid(index: u64, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log is damaged at index {index} ({why}): {REBUILD}"))
}

/// The entry at `index` that `bytes` hold.
pub(crate) fn decode_entry(index: u64, bytes: &[u8]) -> io::Result<Entry> {
    let invalid = |why: String| invalid(index, &why);
    let body_crc = verify_entry(index, bytes).map_err(|why| invalid(why.to_string()))?;
    let term = u64::from_le_bytes(bytes[6..HEAD_BYTES].try_into().expect("eight bytes"));
    let body = &bytes[HEAD_BYTES..];
    let payload = match (bytes[4], bytes[5]) {
        (ENTRY_FORMAT, BLANK) => EntryPayload::Blank,
        (ENTRY_FORMAT, RECORD) => {
            EntryPayload::Normal(Data::decode(body, body_crc).map_err(|why| invalid(why.to_string()))?)
        }
        (ENTRY_FORMAT, MEMBERS) => {
            let roll: Roll = codec::decode_payload(body).map_err(|why| invalid(why.to_string()))?;
            EntryPayload::Membership(roll.into_members()?)
        }
        (format, kind) => return Err(invalid(format!("format {format} and kind {kind} belong to a newer release"))),
    };
    Ok(Entry::new(log_id(term, index), payload))
}

/// The checksum of an encoded entry's body, if the entry is as it was written.
pub(crate) fn verify_entry(index: u64, bytes: &[u8]) -> Result<u32, CodecError> {
    if bytes.len() < HEAD_BYTES {
        return Err(CodecError::Truncated(bytes.len()));
    }
    let expected = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    let body_crc = crc32fast::hash(&bytes[HEAD_BYTES..]);
    let found = checksum(index, bytes, body_crc);
    if found == expected { Ok(body_crc) } else { Err(CodecError::Checksum { found, expected }) }
}

/// What to do about a damaged disk of one member.
pub(crate) const REBUILD: &str = "move the folder away; of a quorum, start this master anew with --join and let it take its own \
    place by `meseta masters replace`, so that the others rebuild it; a master alone goes on from its last saved snapshot \
    (`meseta snapshot restore`) or a copy of the folder";
