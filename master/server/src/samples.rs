//! Times that were measured, and what statistics tell of them.

use crate::http::metrics::Metrics;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How old what is measured may be that statistics are made of.
const WINDOW: Duration = Duration::from_secs(3600);
/// How many measurements they are made of at most.
const SAMPLES_MAX: usize = 1000;

/// The parts of all samples, by name, of which the largest is told.
const PERCENTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)];

/// Measurements, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Samples(VecDeque<(Instant, f64)>);

impl Samples {
    /// A measurement.
    pub(crate) fn push(&mut self, now: Instant, time: Duration) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, time.as_secs_f64() * 1000.0));
    }

    /// The last, and of two or more what they are together; nothing if there are none.
    pub(crate) fn tell(&mut self, name: &str, metrics: &mut Metrics) {
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
