//! What operators were told before the ring begins: folded again, from the nearest snapshot and the log. The fold is the
//! same on every master, so what follows a position is, too.

use super::position::Position;
use super::told::Told;
use crate::applier;
use event_log::Gate;
use event_log::raft::{Committed, History, HistoryError, Node};
use master_core::effect::{Announcement, Effect};
use master_core::{Event, FeatureLevel, State, decode_record, fold_record, react};

/// Entries that are folded at once, in bytes.
const PAGE_BYTES: usize = 1 << 20;

/// Why the past is not told.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// What follows the position is not kept.
    #[error(
        "What followed position {after} is not in the log of this master any more: it is kept from index {first} on. Another master may have it; else subscribe without a position"
    )]
    Gone {
        /// What was asked for.
        after: Position,
        /// The first entry that is there.
        first: u64,
    },
    /// The disk, or a defect.
    #[error("The log cannot be read: {0}")]
    Unreadable(String),
}

impl PastError {
    fn of(error: HistoryError, after: Position) -> PastError {
        match error {
            HistoryError::Gone { first } => PastError::Gone { after, first },
            HistoryError::Disk(error) => PastError::Unreadable(error.to_string()),
        }
    }
}

/// A fold on its way from a snapshot to now.
pub struct Past {
    after: Position,
    state: State,
    gate: Gate,
    /// Everything before its next entry is folded.
    history: History,
}

impl Past {
    /// Goes back to before what follows `after`. Blocks.
    ///
    /// # Errors
    /// A [`PastError`] if that is not possible here.
    pub fn open(node: Node, after: Position) -> Result<Past, PastError> {
        let unreadable = |error: &dyn std::fmt::Display| PastError::Unreadable(error.to_string());
        // More may follow from the position's own record: then it is folded again.
        let until = if after.is_within() { after.index.saturating_sub(1) } else { after.index };
        let snapshot = node.snapshot_until(until).map_err(|error| unreadable(&error))?;
        let (state, gate, next) = match snapshot {
            Some(mut snapshot) => {
                let (state, gate) = applier::read_snapshot(&mut snapshot.content, FeatureLevel::NEWEST)
                    .map_err(|why| unreadable(&why))?;
                (state, gate, snapshot.index + 1)
            }
            None => (State::default(), Gate::default(), 0),
        };
        let history = node.history(next).map_err(|error| PastError::of(error, after))?;
        Ok(Past { after, state, gate, history })
    }

    /// Everything before this was folded.
    pub fn reached(&self) -> Position {
        self.after.max(Position::end_of(self.history.next_index().saturating_sub(1)))
    }

    /// Folds the next part of the log, up to the entry at `last`, which was folded by this master; what it led to after the
    /// position. Blocks.
    ///
    /// # Errors
    /// A [`PastError`] if it is not there any more, or cannot be read.
    pub fn page(&mut self, last: u64) -> Result<Vec<Told>, PastError> {
        let page = self.history.page(last + 1, PAGE_BYTES).map_err(|error| PastError::of(error, self.after))?;
        let mut told = Vec::new();
        for committed in &page {
            let events = self.fold(committed)?;
            if committed.index < self.after.index {
                continue;
            }
            let announcements = announcements(&self.state, &events);
            let all = Told::of(committed.index, &self.state, &announcements);
            told.extend(all.filter(|told| told.position > self.after));
        }
        Ok(told)
    }

    /// Folds the next part of the log, up to the entry at `last`, for the sake of the state alone. Whether that is all. Blocks.
    ///
    /// # Errors
    /// As [`Past::page`].
    pub fn go_on(&mut self, last: u64) -> Result<bool, PastError> {
        if self.history.next_index() <= last {
            let page = self.history.page(last + 1, PAGE_BYTES).map_err(|error| PastError::of(error, self.after))?;
            for committed in &page {
                self.fold(committed)?;
            }
        }
        Ok(self.history.next_index() > last)
    }

    /// Another fold that goes on from where this one is, to what follows `after`. States share what they have in common.
    ///
    /// # Errors
    /// A [`PastError`] if that is not possible here any more.
    pub fn fork(&self, node: &Node, after: Position) -> Result<Past, PastError> {
        let history = node.history(self.history.next_index()).map_err(|error| PastError::of(error, after))?;
        Ok(Past { after, state: self.state.clone(), gate: self.gate, history })
    }

    /// Everything before this entry was folded.
    pub fn next_index(&self) -> u64 {
        self.history.next_index()
    }

    /// Where the log's gate is, and State, after what was folded.
    pub fn folded(&self) -> (Gate, State) {
        (self.gate, self.state.clone())
    }

    fn fold(&mut self, committed: &Committed) -> Result<Vec<Event>, PastError> {
        let header = &committed.record.header;
        if !self.gate.admit(committed.term, header) {
            return Ok(Vec::new());
        }
        let events = decode_record(&committed.record).map_err(|error| PastError::Unreadable(error.to_string()))?;
        fold_record(&mut self.state, header, &events);
        Ok(events)
    }
}

/// What a record's events announce, in the order in which every master announces it.
fn announcements(state: &State, events: &[Event]) -> Vec<Announcement> {
    let effects = events.iter().flat_map(|event| react(state, event));
    effects
        .filter_map(|effect| match effect {
            Effect::Announce(announcement) => Some(announcement),
            _ => None,
        })
        .collect()
}
