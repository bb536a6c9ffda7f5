//! What is kept of the allocator from one plan to the next, and what is told of it: the figures of its book, and how its
//! runs went on this master.

use crate::http::metrics::Metrics;
use master_core::State;
use master_core::allocator::{Ledger, Options};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How old what is measured may be that statistics are made of.
const WINDOW: Duration = Duration::from_secs(3600);
/// How many measurements they are made of at most.
const SAMPLES_MAX: usize = 1000;

/// The parts of all samples, by name, of which the largest is told.
const PERCENTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)];

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

/// Measurements, the newest last.
#[derive(Debug, Default)]
struct Samples(VecDeque<(Instant, f64)>);

impl Samples {
    fn push(&mut self, now: Instant, time: Duration) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, time.as_secs_f64() * 1000.0));
    }

    /// The last, and of two or more what they are together; nothing if there are none.
    fn tell(&mut self, name: &str, metrics: &mut Metrics) {
        let Some((_, last)) = self.0.back().copied() else { return };
        metrics.insert(name.to_owned(), last);
        while self.0.len() > 1 && self.0.front().is_some_and(|(at, _)| at.elapsed() > WINDOW) {
            self.0.pop_front();
        }
        let mut sorted: Vec<f64> = self.0.iter().map(|(_, milliseconds)| *milliseconds).collect();
        if sorted.len() < 2 {
            return;
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let mut set = |what: &str, value: f64| metrics.insert(format!("{name}/{what}"), value);
        set("count", sorted.len() as f64);
        set("min", sorted[0]);
        set("max", sorted[last]);
        for (what, part) in PERCENTILES {
            // Between two samples where it falls between them.
            let at = part * last as f64;
            let below = sorted[at as usize];
            let above = sorted[last.min(at as usize + 1)];
            set(what, below + (above - below) * at.fract());
        }
    }
}

/// What handlers and the allocator's clock share.
pub(crate) type Shared = Arc<Allocations>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_of_the_last_hour() {
        let mut samples = Samples::default();
        let (now, mut metrics) = (Instant::now(), Metrics::new());
        samples.tell("t_ms", &mut metrics);
        assert!(metrics.is_empty());
        samples.push(now, Duration::from_millis(7));
        samples.tell("t_ms", &mut metrics);
        assert_eq!(metrics.into_iter().collect::<Vec<_>>(), [("t_ms".to_owned(), 7.0)], "of one there are none");
        for milliseconds in [1, 3, 2, 5, 4] {
            samples.push(now, Duration::from_millis(milliseconds));
        }
        let mut metrics = Metrics::new();
        samples.tell("t_ms", &mut metrics);
        let of = |what: &str| metrics[&format!("t_ms{what}")];
        assert_eq!((of(""), of("/count"), of("/min"), of("/max")), (4.0, 6.0, 1.0, 7.0));
        assert_eq!((of("/p50"), of("/p90")), (3.5, 6.0));
        (0..2 * SAMPLES_MAX).for_each(|_| samples.push(now, Duration::from_millis(1)));
        assert_eq!(samples.0.len(), SAMPLES_MAX);
    }
}
