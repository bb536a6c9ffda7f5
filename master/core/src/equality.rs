//! The story of equal masters. At fixed indexes every master makes a digest of State; the leader logs its own, so that
//! whoever folds the log, now or in years, can tell whether the fold is the same.

use crate::decide::{Draft, Reply};
use crate::event::StateDigested;
use crate::ids::NodeId;
use crate::state::State;
use std::collections::VecDeque;

/// The distance between two digests, in indexes of the log, from feature level 2 on. A digest reads all of State: at full
/// load this is one every ten seconds or more.
pub const DIGEST_EVERY: u64 = 16_384;

/// Digests of a fold that are remembered, to be compared with those in the log: they are logged soon after.
const KEPT: usize = 64;

/// The index at which State is digested while it is what it is now: after the record at `last`, before the record at
/// `next`. Indexes without a record, between the two, count.
pub fn digest_due(state: &State, last: u64, next: u64) -> Option<u64> {
    let every = state.digest_every;
    if every == 0 || next == 0 {
        return None;
    }
    let due = (next - 1) / every * every;
    (due >= last && due > 0).then_some(due)
}

/// The leader's digest, for whoever compares. The first at an index counts, unless the masters found out that it was
/// the digest of a leader that differed from the others: then theirs takes its place.
pub(crate) fn log_digest(draft: &mut Draft, index: u64, digest: [u8; 32], by: NodeId) -> Reply {
    let state = &draft.state;
    let fixed = state.digest_every > 0 && index.is_multiple_of(state.digest_every);
    let new = state
        .last_digest
        .as_ref()
        .is_none_or(|last| index > last.index || (index == last.index && digest != last.digest && by != last.by));
    if state.feature_level.has_digests() && fixed && new {
        draft.push(StateDigested { index, digest, by });
    }
    Reply::Empty
}

/// What comparing a fold with the digests in its log has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// Digests in the log that were those of the fold.
    pub equal: u64,
    /// Digests in the log for which the fold had none: taken before the fold began.
    pub skipped: u64,
    /// The last digest that was not that of the fold, and was not corrected either.
    pub different: Option<StateDigested>,
}

/// Compares a fold with the digests in its log, on one way through it: [`Comparison::before`] each record that is in the
/// log, whether it takes effect or not, then [`Comparison::logged`] for each digest that it holds.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Index of the record before.
    last: u64,
    made: VecDeque<(u64, [u8; 32])>,
    compared: Compared,
}

impl Comparison {
    /// Begins after the record at `last`: 0 at the beginning of a log, otherwise where a snapshot was taken.
    pub fn after(last: u64) -> Comparison {
        Comparison { last, ..Comparison::default() }
    }

    /// The record at `next` is about to be folded into `state`.
    pub fn before(&mut self, state: &State, next: u64) {
        if let Some(due) = digest_due(state, self.last, next) {
            self.made.push_back((due, state.digest()));
            if self.made.len() > KEPT {
                self.made.pop_front();
            }
        }
        self.last = next;
    }

    /// The log has this digest; whether the fold had the same, if it had one.
    pub fn logged(&mut self, event: &StateDigested) -> Option<bool> {
        let Some((_, made)) = self.made.iter().find(|(index, _)| *index == event.index) else {
            self.compared.skipped += 1;
            return None;
        };
        let equal = *made == event.digest;
        if equal {
            self.compared.equal += 1;
            // A later entry for the same index corrects the earlier one.
            self.compared.different.take_if(|different| different.index == event.index);
        } else {
            self.compared.different = Some(event.clone());
        }
        Some(equal)
    }

    /// What was found so far.
    pub fn compared(&self) -> &Compared {
        &self.compared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Caller, Command};
    use crate::level::FeatureLevel;
    use crate::testing::Cluster;

    fn raised() -> Cluster {
        let mut cluster = Cluster::new();
        let masters = vec![(NodeId(1), FeatureLevel(2))];
        let raise = Command::RaiseFeatureLevel { level: FeatureLevel(2), digest_every: 10, masters };
        cluster.run(raise, &Caller::default()).unwrap();
        cluster
    }

    fn log(cluster: &mut Cluster, index: u64, digest: u8, by: u64) -> Vec<&'static str> {
        let command = Command::LogDigest { index, digest: [digest; 32], by: NodeId(by) };
        cluster.run(command, &Caller::default()).unwrap()
    }

    #[test]
    fn each_fixed_index_is_due_once_wherever_records_are() {
        let state = raised().state;
        assert_eq!(digest_due(&state, 3, 9), None);
        assert_eq!(digest_due(&state, 9, 10), None, "the record at 10 still belongs to it");
        assert_eq!(digest_due(&state, 10, 11), Some(10));
        assert_eq!(digest_due(&state, 11, 12), None);
        assert_eq!(digest_due(&state, 8, 14), Some(10), "there is no record at 10");
        assert_eq!(digest_due(&state, 8, 35), Some(30), "State is the same at 10 and 20: the last is enough");
        assert_eq!(digest_due(&state, 0, 1), None);
        assert_eq!(digest_due(&State::default(), 10, 11), None, "level 1 has no digests");
    }

    #[test]
    fn digests_are_logged_in_order_and_corrected_by_others_only() {
        let mut cluster = Cluster::new();
        assert_eq!(log(&mut cluster, 10, 1, 1), [""; 0], "level 1 has no such event");
        let mut cluster = raised();
        assert_eq!(log(&mut cluster, 11, 1, 1), [""; 0], "no fixed index");
        assert_eq!(log(&mut cluster, 20, 1, 1), ["state-digested"]);
        assert_eq!(log(&mut cluster, 20, 1, 2), [""; 0], "known");
        assert_eq!(log(&mut cluster, 10, 1, 1), [""; 0], "late");
        assert_eq!(log(&mut cluster, 20, 2, 1), [""; 0], "nobody corrects himself");
        assert_eq!(log(&mut cluster, 20, 2, 2), ["state-digested"]);
        assert_eq!(cluster.state.last_digest.as_ref().unwrap().by, NodeId(2));
    }

    #[test]
    fn a_fold_is_compared_with_its_log() {
        let state = raised().state;
        let mut comparison = Comparison::after(0);
        comparison.before(&state, 9);
        comparison.before(&state, 11);
        let right = StateDigested { index: 10, digest: state.digest(), by: NodeId(1) };
        let wrong = StateDigested { digest: [0; 32], ..right.clone() };
        assert_eq!(comparison.logged(&StateDigested { index: 20, ..right.clone() }), None);
        assert_eq!(comparison.logged(&wrong), Some(false));
        assert_eq!(comparison.compared(), &Compared { equal: 0, skipped: 1, different: Some(wrong) });
        assert_eq!(comparison.logged(&right), Some(true));
        assert_eq!(comparison.compared(), &Compared { equal: 1, skipped: 1, different: None }, "corrected");
    }
}
