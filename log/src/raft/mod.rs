//! A log that a quorum of processes shares. The only place that names openraft.
//!
//! ```text
//! append ─► leader's disk and the others' ─► a quorum has synced it ─► committed ─► every member's Machine
//! ```

mod form;
mod log_store;
mod machine;
mod membership;
mod network;
mod node;
mod open;
mod pending;
mod reader;
#[cfg(test)]
mod simulation;
mod snapshots;
mod status;
mod types;
mod wire;

pub use crate::disk::OpenError;
pub use form::FormError;
pub use machine::{Committed, Machine, WriteSnapshot};
pub use membership::{MemberStatus, MembershipError};
pub use network::{Transport, TransportError};
pub use node::{AppendError, Node, NotLeader, Options, Ticket};
pub use reader::{AllEntries, RaftEntry, RaftReader, SnapshotInfo, read_raft};
pub use status::{Role, Status};
pub use types::Member;
