//! The time that decisions are made at. It goes on from what the log has seen last: a leader whose clock is behind that
//! of the one before, or was set back, must not stand still until its clock has caught up, with every deadline and
//! every filter.

use event_log::host;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Milliseconds since 1970, never less than before, and never slower than time itself.
#[derive(Debug)]
pub(crate) struct Clock {
    /// A time that was seen, and when.
    seen: Mutex<(u64, Instant)>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { seen: Mutex::new((0, Instant::now())) }
    }

    /// The time now.
    pub(crate) fn now_ms(&self) -> u64 {
        self.seen(host::wall_ms())
    }

    /// Takes note of a time in the log: it is not later than now.
    pub(crate) fn observe(&self, at_ms: u64) {
        self.seen(at_ms);
    }

    fn seen(&self, at_ms: u64) -> u64 {
        if event_log::planted(event_log::Bug::TimeGoesBack) {
            return at_ms;
        }
        let mut seen = self.seen.lock();
        let now = Instant::now();
        let passed_ms = u64::try_from(now.duration_since(seen.1).as_millis()).unwrap_or(u64::MAX);
        let expected_ms = seen.0.saturating_add(passed_ms);
        // What is less than a millisecond must not be lost again and again: the earlier sighting stays.
        if at_ms > expected_ms {
            *seen = (at_ms, now);
        }
        at_ms.max(expected_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_although_the_clock_is_behind() {
        let clock = Clock::new();
        let ahead = clock.now_ms() + 3_600_000;
        clock.observe(ahead);
        assert!((ahead..ahead + 60_000).contains(&clock.now_ms()), "an hour is not waited for");
        let before = clock.now_ms();
        while clock.now_ms() == before {
            std::hint::spin_loop();
        }
        clock.observe(5);
        assert!(clock.now_ms() > before, "and it goes on");
    }
}
