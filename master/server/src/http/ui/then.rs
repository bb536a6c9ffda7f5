//! The past, for pages: states folded again from the nearest snapshot and the log. A fold takes as long as it takes, so a
//! few go on at once, each for a while at a time; one that was begun is kept for whoever asks again, who goes on with it.

use crate::http::watch::past::{Past, PastError};
use crate::http::watch::position::Position;
use event_log::raft::{HistoryError, Node};
use event_log::{Gate, host};
use master_core::State;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Folds at once.
const FOLDS_MAX: usize = 2;
/// How long a page waits for its turn.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one request folds, before it says how far it is.
pub(super) const FOLD_MAX: Duration = Duration::from_secs(4);
/// So far before what is asked for a fold that is kept is worth more than a snapshot.
const NEAR_ENTRIES: u64 = 50_000;
/// States that are kept for the next page.
const KEPT_MAX: usize = 3;
/// For so long.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// What was folded for pages.
pub(in super::super) struct Moments {
    turns: Arc<Semaphore>,
    kept: Arc<Mutex<Vec<Kept>>>,
}

struct Kept {
    /// The index that was asked for; the fold may not have reached it yet.
    index: u64,
    past: Past,
    used: Instant,
}

/// Why a moment is not shown.
#[derive(Debug)]
pub(super) enum Absent {
    /// Others are looking back.
    Crowded,
    /// The fold is on its way.
    UnderWay {
        /// So far.
        reached: u64,
        /// Where to.
        index: u64,
    },
    /// The log of this master begins later.
    Gone {
        /// The first entry that it has.
        first: u64,
    },
    /// The disk, or a defect: one sentence.
    Failed(String),
}

impl Default for Moments {
    fn default() -> Moments {
        Moments { turns: Arc::new(Semaphore::new(FOLDS_MAX)), kept: Arc::default() }
    }
}

impl From<PastError> for Absent {
    fn from(error: PastError) -> Absent {
        match error {
            PastError::Gone { first, .. } => Absent::Gone { first },
            PastError::Unreadable(why) => Absent::Failed(why),
        }
    }
}

impl From<HistoryError> for Absent {
    fn from(error: HistoryError) -> Absent {
        match error {
            HistoryError::Gone { first } => Absent::Gone { first },
            HistoryError::Disk(error) => Absent::Failed(error.to_string()),
        }
    }
}

impl Moments {
    /// State after the entry at `index`, which this master has folded, and where the log's gate was.
    pub(super) async fn at(&self, node: &Node, index: u64) -> Result<(Gate, State), Absent> {
        let turn = self.turn().await?;
        let begun = self.begun(node, index)?;
        let node = node.clone();
        let folding = blocking(turn, move || {
            let mut past = match begun {
                Some(past) => past,
                None => Past::open(node, Position::end_of(index))?,
            };
            let began = Instant::now();
            loop {
                if past.go_on(index)? {
                    return Ok((past, true));
                }
                if began.elapsed() >= FOLD_MAX {
                    return Ok((past, false));
                }
            }
        });
        let (past, is_there) = folding.await?;
        let found = if is_there { Ok(past.folded()) } else { Err(past.next_index().saturating_sub(1)) };
        self.keep(index, past);
        found.map_err(|reached| Absent::UnderWay { reached, index })
    }

    /// A fold that is on its way to `index`, or was there; or another one that goes on from not far before.
    fn begun(&self, node: &Node, index: u64) -> Result<Option<Past>, Absent> {
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|kept| kept.index == index) {
            return Ok(Some(kept.remove(at).past));
        }
        let is_before = |kept: &&Kept| kept.past.next_index() <= index && index - kept.past.next_index() < NEAR_ENTRIES;
        let nearest = kept.iter().filter(is_before).max_by_key(|kept| kept.past.next_index());
        Ok(nearest.map(|nearest| nearest.past.fork(node, Position::end_of(index))).transpose()?)
    }

    /// Leave to look back.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Absent> {
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or(Absent::Crowded)
    }

    fn keep(&self, index: u64, past: Past) {
        let mut kept = self.kept.lock();
        kept.push(Kept { index, past, used: Instant::now() });
        while kept.len() > KEPT_MAX {
            kept.remove(0);
        }
        drop(kept);
        let kept = self.kept.clone();
        host::spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            kept.lock().retain(|kept| kept.used.elapsed() < KEPT_FOR);
        });
    }
}

/// Does what takes long where that is allowed, and gives the turn back.
pub(super) async fn blocking<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Absent> + Send + 'static,
) -> Result<T, Absent> {
    let done = host::blocking(move || {
        let _turn = turn;
        work()
    });
    done.await.unwrap_or_else(|panic| Err(Absent::Failed(panic.to_string())))
}

/// The first entry up to `last` that was made at `at_ms` or later, or `last`. Blocks.
pub(super) fn first_at(node: &Node, last: u64, at_ms: u64) -> Result<u64, Absent> {
    let first = node.first_kept().map_err(|error| Absent::Failed(error.to_string()))?;
    let (mut low, mut high) = (first.min(last), last);
    while low < high {
        let middle = low + (high - low) / 2;
        match next_record(node, middle, high)? {
            Some((index, made_ms)) if made_ms < at_ms => low = (index + 1).min(high),
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Index and time of the first record from `from` on, up to `last`.
fn next_record(node: &Node, from: u64, last: u64) -> Result<Option<(u64, u64)>, Absent> {
    /// Enough for one, usually.
    const BYTES: usize = 4096;
    let mut history = node.history(from)?;
    while history.next_index() <= last {
        if let Some(first) = history.page(last + 1, BYTES)?.first() {
            return Ok(Some((first.index, first.record.header.at_ms)));
        }
    }
    Ok(None)
}
