//! What is kept of the allocator from one plan to the next, and what is told of it: the figures of its book, and how its
//! runs went on this master.

use crate::http::metrics::Metrics;
use crate::samples::Samples;
use master_core::State;
use master_core::allocator::{Ledger, Options};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The allocator of this master.
#[derive(Debug, Default)]
pub struct Allocations {
    kept: Mutex<Option<Ledger>>,
    runs: Mutex<Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    count: u64,
    took: Samples,
    waited: Samples,
}

impl Allocations {
    /// What plans are made from, as of `state`; it is kept for the next.
    pub(crate) fn with_ledger<R>(&self, state: &State, options: &Options, work: impl FnOnce(&mut Ledger) -> R) -> R {
        let mut kept = self.kept.lock();
        // Out of its place meanwhile: should the work fail, the next is made from nothing.
        let mut ledger = kept.take().unwrap_or_else(|| Ledger::new(options));
        ledger.follow(state);
        let result = work(&mut ledger);
        *kept = Some(ledger);
        result
    }

    /// Nothing is kept for a leadership that may never come.
    pub(crate) fn forget(&self) {
        *self.kept.lock() = None;
    }

    /// A run took so long, after there had been a reason for it for so long.
    pub(crate) fn ran(&self, took: Duration, waited: Duration) {
        let (mut runs, now) = (self.runs.lock(), Instant::now());
        runs.count += 1;
        runs.took.push(now, took);
        runs.waited.push(now, waited);
    }

    /// Every figure of the allocator, by Mesos's names. The book's are the same on every master; a master that does not
    /// lead makes a book for them.
    pub fn metrics(&self, state: &State, options: &Options) -> Metrics {
        let figures = {
            let mut kept = self.kept.lock();
            match &mut *kept {
                Some(ledger) => {
                    ledger.follow(state);
                    ledger.metrics()
                }
                None => {
                    drop(kept);
                    Ledger::of(state, options).metrics()
                }
            }
        };
        let mut metrics: Metrics = figures
            .into_iter()
            .map(|(name, figure)| (name, figure.numerator as f64 / figure.denominator as f64))
            .collect();
        // Nothing queues for the allocator: it looks at State.
        metrics.insert("allocator/event_queue_dispatches".into(), 0.0);
        metrics.insert("allocator/mesos/event_queue_dispatches".into(), 0.0);
        let mut runs = self.runs.lock();
        metrics.insert("allocator/mesos/allocation_runs".into(), runs.count as f64);
        runs.took.tell("allocator/mesos/allocation_run_ms", &mut metrics);
        runs.waited.tell("allocator/mesos/allocation_run_latency_ms", &mut metrics);
        metrics
    }
}

/// What handlers and the allocator's clock share.
pub(crate) type Shared = Arc<Allocations>;
