//! Who looks on without taking part: a simulation that compares what masters do with what they must do.

use crate::outcome::Outcome;
use event_log::raft::Committed;
use master_core::State;
use master_core::command::{Caller, Command};

/// Is told what one master does, where it does it. Must return at once.
pub trait Witness: Send + Sync {
    /// This master was given an entry that is committed; `state` is the fold after it. If it does not take effect, the
    /// gate skipped it.
    fn applied(&self, entry: &Committed, takes_effect: bool, state: &State);

    /// This master replaced everything by a snapshot taken after the entry at `index`.
    fn restored(&self, index: u64, state: &State);

    /// A command was submitted here.
    fn asked(&self, request_id: [u8; 16], command: &Command, caller: &Caller);

    /// Its caller hears this now.
    fn answered(&self, request_id: [u8; 16], outcome: &Outcome);
}
