//! Records in flight with the state after each: at commit the leader adopts that state instead of folding again.

use master_core::{Event, State};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// What the sequencer knows about a record before it is committed.
pub(crate) struct Foreseen {
    pub(crate) term: u64,
    pub(crate) n: u64,
    /// Head after the record.
    pub(crate) state: State,
    /// The record's events, decoded.
    pub(crate) events: Vec<Event>,
}

/// Foreseen records by (term, n).
#[derive(Default)]
pub(crate) struct Ahead(Mutex<VecDeque<Foreseen>>);

impl Ahead {
    /// Remembers a record that is about to be appended.
    pub(crate) fn push(&self, foreseen: Foreseen) {
        let mut queue = self.0.lock();
        // An earlier leadership's records that were never committed are of no use to anybody.
        queue.retain(|known| known.term == foreseen.term);
        queue.push_back(foreseen);
    }

    /// What was foreseen for the record that takes effect now; whatever came before it is forgotten.
    pub(crate) fn take(&self, term: u64, n: u64) -> Option<Foreseen> {
        let mut queue = self.0.lock();
        if event_log::planted(event_log::Bug::ForeseenMistaken) {
            return queue.pop_front();
        }
        while queue.front().is_some_and(|front| (front.term, front.n) < (term, n)) {
            queue.pop_front();
        }
        if queue.front().is_some_and(|front| (front.term, front.n) == (term, n)) { queue.pop_front() } else { None }
    }
}
