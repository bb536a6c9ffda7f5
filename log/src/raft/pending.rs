//! Proposals whose fate is open, so that it can be declared unknown when a leadership is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::node::AppendError;
use crate::planted::{Bug, planted};

type Answer = oneshot::Sender<Result<u64, AppendError>>;

#[derive(Default)]
struct Open {
    /// (term, who waits), by proposal.
    proposals: BTreeMap<u64, (u64, Answer)>,
    /// Leaderships up to this term are over for us, whatever others may think.
    abandoned_to: u64,
    closed: bool,
}

#[derive(Default)]
pub(crate) struct Pending {
    open: Mutex<Open>,
}

impl Pending {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the proposal may be made; if not, it was answered.
    pub(crate) fn insert(&self, id: u64, term: u64, answer: Answer) -> bool {
        let mut open = self.open();
        if open.closed || term <= open.abandoned_to {
            let _ = answer.send(Err(AppendError::NotLeader { leader: None }));
            return false;
        }
        open.proposals.insert(id, (term, answer));
        true
    }

    pub(crate) fn answer(&self, id: u64, result: Result<u64, AppendError>) {
        let proposal = self.open().proposals.remove(&id);
        if let Some((_, answer)) = proposal {
            // Whoever does not wait does not care.
            let _ = answer.send(result);
        }
    }

    /// Answers the proposal as unknown if nobody else did.
    pub(crate) fn answering(self: &Arc<Self>, id: u64) -> Answering {
        Answering { pending: self.clone(), id }
    }

    /// Declares the fate of proposals unknown, by their term.
    pub(crate) fn fail(&self, which: impl Fn(u64) -> bool) {
        let mut open = self.open();
        let failed: Vec<_> = open.proposals.extract_if(.., |_, (term, _)| which(*term)).collect();
        drop(open);
        for (_, (_, answer)) in failed {
            let _ = answer.send(Err(AppendError::Unknown));
        }
    }

    /// Takes no more proposals.
    pub(crate) fn close(&self) {
        self.open().closed = true;
        self.fail(|_| true);
    }

    /// Gives a leadership up: nothing more is proposed under `term` or an earlier one.
    pub(crate) fn abandon(&self, term: u64) {
        let mut open = self.open();
        if !planted(Bug::TermLedTwice) {
            open.abandoned_to = open.abandoned_to.max(term);
        }
        drop(open);
        self.fail(|proposed| proposed <= term);
    }

    pub(crate) fn is_abandoned(&self, term: u64) -> bool {
        term <= self.open().abandoned_to
    }
}

pub(crate) struct Answering {
    pending: Arc<Pending>,
    id: u64,
}

impl Answering {
    pub(crate) fn answer(self, result: Result<u64, AppendError>) {
        self.pending.answer(self.id, result);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.pending.answer(self.id, Err(AppendError::Unknown));
    }
}
