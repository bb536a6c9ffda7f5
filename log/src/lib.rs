//! The event log: what happened is written down here first; everything else is computed from it.
//!
//! - [`Record`]: events decided together, stored together, with who caused them. [`codec`] turns it into bytes.
//! - [`Gate`]: which records of a replicated log take effect.
//! - `host` (feature `local`): what a process runs on, so that a simulation can take its place.
//! - `local` (feature `local`): a log of one process: checksummed segments, one writer, batched fsync.
//! - `vital` (feature `local`): work whose failure ends the process.
//! - [`Steady`] (feature `local`): time that nobody can set.
//! - `raft` (feature `raft`): a log that a quorum of processes shares.
//!
//! This crate knows neither events nor commands of anybody: an event is a number, a version and bytes.

mod ahead;
#[cfg(feature = "local")]
mod boot;
pub mod codec;
#[cfg(feature = "local")]
mod disk;
#[cfg(feature = "local")]
mod exit;
#[cfg(feature = "local")]
mod frames;
#[cfg(feature = "local")]
pub mod host;
pub mod limits;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "local")]
mod mark;
mod planted;
#[cfg(feature = "raft")]
pub mod raft;
mod record;
mod sentence;
#[cfg(feature = "local")]
mod steady;
#[cfg(feature = "raft")]
mod store;
#[cfg(feature = "local")]
pub mod vital;

pub use ahead::ahead;
pub use codec::{CodecError, decode_payload, encode_payload};
#[cfg(feature = "local")]
pub use disk::Identity;
#[cfg(feature = "local")]
pub use local::{LocalLog, read_local};
#[cfg(feature = "planted-bugs")]
pub use planted::plant;
pub use planted::{BUGS, Bug, planted};
pub use record::{Cause, Gate, Header, RawEvent, Record};
pub use sentence::sentence;
#[cfg(feature = "local")]
pub use steady::{SLEW_PERCENT, Steady};
