//! What members say to each other: a version byte, then one message.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::snapshot_file::Head;
use super::types::{
    Ballot, Entry, Member, Place, Types, decode_entry, encode_entry, from_ballot, from_place, to_ballot, to_place,
};
use crate::codec;

/// Version of this protocol. A member speaks one.
const PROTOCOL: u8 = 1;

/// Bytes that are copied as one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }

            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Blob, E> {
                Err(E::custom("text in the place of bytes"))
            }
        }
        deserializer.deserialize_byte_buf(Bytes).map_err(D::Error::custom)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Of the sender; none before its quorum formed.
    pub(crate) cluster_id: Option<String>,
    pub(crate) from: u64,
    /// The member that is meant; 0 for whoever answers at the address.
    pub(crate) to: u64,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Who are you, and is your disk empty?
    Hello,
    /// You are one of these.
    Adopt {
        cluster_id: String,
        members: Vec<Member>,
    },
    Append {
        vote: Ballot,
        previous: Option<Place>,
        entries: Vec<(u64, Blob)>,
        committed: Option<Place>,
    },
    Vote {
        vote: Ballot,
        last: Option<Place>,
        transfer: bool,
        pre: bool,
    },
    Snapshot {
        vote: Ballot,
        transfer: u64,
        offset: u64,
        bytes: Blob,
        last: bool,
        head: Head,
    },
    TransferLeader {
        /// Who shall lead; the others only stop defending the leader.
        to: u64,
        from: Ballot,
        last: Option<Place>,
    },
    ReadIndex,
    /// Who is in the quorum?
    Members,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    Hello(Hello),
    Adopted,
    Append(Appended),
    Vote {
        vote: Ballot,
        granted: bool,
        last: Option<Place>,
    },
    /// With the receiver's vote once all of it was installed.
    Snapshot(Option<Ballot>),
    TransferLeader(bool),
    /// None if the answering member does not lead.
    ReadIndex(Option<u64>),
    Refused(Refused),
    /// None if the answering member does not lead.
    Members(Option<Vec<Member>>),
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) member: Member,
    /// Its disk holds neither a vote nor an entry.
    pub(crate) pristine: bool,
    pub(crate) cluster_id: Option<String>,
    /// The list that it was started with, sorted, if it was told already.
    pub(crate) masters: Option<Vec<String>>,
    /// Those that it knows, of a quorum that formed.
    pub(crate) members: Vec<Member>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Appended {
    Success,
    Partial(Option<Place>),
    Conflict,
    HigherVote(Ballot),
}

/// Why a member did not even consider a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it speaks version {0} of the protocol between masters, not {PROTOCOL}")]
    OtherVersion(u8),
    #[error("it belongs to {}", .0.as_ref().map_or("no cluster yet".into(), |id| format!("cluster {id}")))]
    OtherCluster(Option<String>),
    #[error("it is another member ({0:x})")]
    OtherMember(u64),
    #[error("it cannot read the message: {0}")]
    Malformed(String),
    #[error("it failed: {0}")]
    Failed(String),
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    codec::encode_behind(PROTOCOL, message)
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    match bytes.split_first() {
        Some((&PROTOCOL, message)) => {
            codec::decode_payload(message).map_err(|error| Refused::Malformed(error.to_string()))
        }
        Some((other, _)) => Err(Refused::OtherVersion(*other)),
        None => Err(Refused::Malformed("it is empty".into())),
    }
}

impl Envelope {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Envelope, Refused> {
        decode(bytes)
    }
}

impl Response {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Response, Refused> {
        decode(bytes)
    }
}

impl Request {
    pub(crate) fn append<C: Types>(request: &AppendEntriesRequest<C>) -> Request {
        Request::Append {
            vote: to_ballot(&request.vote),
            previous: request.prev_log_id.as_ref().map(to_place),
            entries: request.entries.iter().map(|entry| (entry.log_id.index, Blob(encode_entry(entry)))).collect(),
            committed: request.leader_commit.as_ref().map(to_place),
        }
    }

    pub(crate) fn vote<C: Types>(request: &VoteRequest<C>, pre: bool) -> Request {
        Request::Vote {
            vote: to_ballot(&request.vote),
            last: request.last_log_id.as_ref().map(to_place),
            transfer: request.leadership_transfer,
            pre,
        }
    }
}

/// The parts of [`Request::Append`] as openraft wants them.
pub(crate) fn append_request<C: Types>(
    vote: Ballot,
    previous: Option<Place>,
    entries: &[(u64, Blob)],
    committed: Option<Place>,
) -> Result<AppendEntriesRequest<C>, Refused> {
    let entries: Result<Vec<Entry>, _> = entries.iter().map(|(index, blob)| decode_entry(*index, &blob.0)).collect();
    Ok(AppendEntriesRequest {
        vote: from_ballot(vote),
        prev_log_id: previous.map(from_place),
        entries: entries.map_err(|error| Refused::Malformed(error.to_string()))?,
        leader_commit: committed.map(from_place),
    })
}

impl Appended {
    pub(crate) fn new<C: Types>(response: AppendEntriesResponse<C>) -> Appended {
        match response {
            AppendEntriesResponse::Success => Appended::Success,
            AppendEntriesResponse::PartialSuccess(last) => Appended::Partial(last.as_ref().map(to_place)),
            AppendEntriesResponse::Conflict => Appended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(to_ballot(&vote)),
        }
    }

    pub(crate) fn into_response<C: Types>(self) -> AppendEntriesResponse<C> {
        match self {
            Appended::Success => AppendEntriesResponse::Success,
            Appended::Partial(last) => AppendEntriesResponse::PartialSuccess(last.map(from_place)),
            Appended::Conflict => AppendEntriesResponse::Conflict,
            Appended::HigherVote(vote) => AppendEntriesResponse::HigherVote(from_ballot(vote)),
        }
    }
}

pub(crate) fn vote_request<C: Types>(vote: Ballot, last: Option<Place>, transfer: bool) -> VoteRequest<C> {
    let mut request = VoteRequest::new(from_ballot(vote), last.map(from_place));
    request.leadership_transfer = transfer;
    request
}

impl Response {
    pub(crate) fn vote<C: Types>(response: &VoteResponse<C>) -> Response {
        Response::Vote {
            vote: to_ballot(&response.vote),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(to_place),
        }
    }
}
