//! A log that a quorum of processes shares. The only place that names openraft.
//!
//! ```text
//! append ─► leader's disk and the others' ─► a quorum has synced it ─► committed ─► every member's Machine
//! ```

mod archive;
mod archiver;
mod form;
mod history;
mod incoming;
pub(crate) mod log_store;
mod machine;
mod membership;
mod network;
mod node;
mod open;
mod pending;
mod reader;
mod restore;
mod retention;
mod rewrite;
mod runtime;
mod snapshot_file;
mod snapshots;
mod status;
mod taking;
mod terms;
mod types;
mod wire;

pub use crate::disk::OpenError;
pub use crate::store::memory::{DiskFault, MemoryDisk};
pub use form::FormError;
pub use history::{History, HistoryError, PastSnapshot};
pub use machine::{CheckSnapshot, Committed, Machine, WriteSnapshot};
pub use membership::{MemberStatus, MembershipError};
pub use network::{Transport, TransportError};
pub use node::{AppendError, Engine, Node, NotLeader, Options, Ticket};
pub use reader::{AllEntries, RaftEntry, RaftReader, SnapshotInfo, read_archive, read_raft, read_snapshot};
pub use restore::{Restored, restore};
pub use retention::ArchiveBounds;
pub use rewrite::rewrite_snapshot;
pub use status::{Role, Status};
pub use taking::SnapshotError;
pub use types::Member;

/// Waits until every member and reader that this process opened has closed its store, at most `limit`; true if they have.
/// Threads that held the last clone of a [`Node`] may still be closing it after the runtime has ended, and a process that
/// ends meanwhile is aborted by the store. To be called before `main` returns.
pub fn wait_until_closed(limit: std::time::Duration) -> bool {
    crate::store::rocks::wait_until_closed(limit)
}
