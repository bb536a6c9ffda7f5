//! How far terms may jump. A term only ever grows, so that whoever named one near the end of all numbers would end all
//! elections, for good: each vote for it is on the disks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::types::{Ballot, Place};
use super::wire::{Appended, Refused, Request, Response};

/// A term so far behind the highest that is known is followed at once. Elections raise it by one each, a few times a
/// second at most, and only while a majority is in touch: years of them are less.
pub(crate) const JUMP_MAX: u64 = 1_000_000;

/// The highest term that a member has taken seriously.
#[derive(Debug, Default)]
pub(crate) struct Terms(AtomicU64);

impl Terms {
    /// Of a member whose disk has seen `term`; 0 if it is empty.
    pub(crate) fn new(term: u64) -> Terms {
        Terms(AtomicU64::new(term))
    }

    /// What this member says itself is true.
    pub(crate) fn say(&self, request: &Request) {
        if let Some((vote, _)) = claim(request) {
            self.0.fetch_max(vote.0, Ordering::Relaxed);
        }
    }

    /// Whether a request of another member can be true.
    pub(crate) fn check(&self, request: &Request) -> Result<(), Refused> {
        let Some((vote, last)) = claim(request) else { return Ok(()) };
        if last.is_some_and(|(term, _)| term > vote.0) {
            return Err(Refused::Malformed("its log is of a later term than it is itself".into()));
        }
        self.follow(vote.0)
    }

    /// Whether an answer of another member can be true.
    pub(crate) fn check_answer(&self, response: &Response) -> Result<(), Refused> {
        match response {
            Response::Vote { vote, .. }
            | Response::Append(Appended::HigherVote(vote))
            | Response::Snapshot(Some(vote)) => self.follow(vote.0),
            _ => Ok(()),
        }
    }

    fn follow(&self, term: u64) -> Result<(), Refused> {
        let known = self.0.load(Ordering::Relaxed);
        // An empty disk knows nothing to compare with.
        if known > 0 && term > known.saturating_add(JUMP_MAX) {
            tracing::warn!(term, known, "a term that no election can have led to was refused");
            return Err(Refused::Malformed(format!(
                "term {term} is more than {JUMP_MAX} beyond {known}, the highest known"
            )));
        }
        self.0.fetch_max(term, Ordering::Relaxed);
        Ok(())
    }
}

/// The vote that a request rests on, and where its sender says that its log ends.
fn claim(request: &Request) -> Option<(Ballot, Option<Place>)> {
    match request {
        Request::Append { vote, previous, .. } => Some((*vote, *previous)),
        Request::Vote { vote, last, .. } => Some((*vote, *last)),
        Request::Snapshot { vote, .. } => Some((*vote, None)),
        Request::TransferLeader { from, last, .. } => Some((*from, *last)),
        Request::Hello | Request::Adopt { .. } | Request::ReadIndex | Request::Members => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(term: u64, last: Option<Place>) -> Request {
        Request::Vote { vote: (term, 7, false), last, transfer: true, pre: false }
    }

    #[test]
    fn a_term_that_no_election_can_have_led_to_is_refused() {
        let terms = Terms::new(5);
        for term in [u64::MAX, u64::MAX - 1, 6 + JUMP_MAX] {
            assert!(terms.check(&vote(term, None)).is_err(), "{term}");
            let append = Request::Append { vote: (term, 7, true), previous: None, entries: vec![], committed: None };
            assert!(terms.check(&append).is_err());
            assert!(terms.check_answer(&Response::Append(Appended::HigherVote((term, 7, false)))).is_err());
            assert!(
                terms.check_answer(&Response::Vote { vote: (term, 7, false), granted: false, last: None }).is_err()
            );
        }
        assert!(terms.check(&vote(6, Some((9, u64::MAX)))).is_err(), "a log cannot be of a later term");
        assert!(terms.check(&vote(5 + JUMP_MAX, None)).is_ok());
        assert!(terms.check(&vote(5 + 2 * JUMP_MAX, None)).is_ok(), "step by step it goes on");
    }

    #[test]
    fn an_empty_disk_and_ones_own_elections_set_no_bound() {
        assert!(Terms::new(0).check(&vote(50 * JUMP_MAX, None)).is_ok());
        let terms = Terms::new(1);
        terms.say(&vote(3 * JUMP_MAX, None));
        assert!(terms.check(&vote(4 * JUMP_MAX, None)).is_ok());
    }
}
