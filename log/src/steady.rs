//! Time that only goes on, at the pace of time itself, whatever is done to the wall clock.
//!
//! It is close to the wall clock: a difference is made up for slowly, so that no deadline counts more than a little early
//! or late. It outlives its process as long as the machine runs: a file keeps what time it was when the machine had run for
//! how long. After a start of the machine nobody knows how long it was off; then the wall clock is believed, once.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::host;
use crate::planted::{Bug, planted};

/// So much faster or slower than time itself it goes until it shows what the wall clock shows, in hundredths.
pub const SLEW_PERCENT: u64 = 3;
/// A difference to the wall clock is worth a warning from here on.
const DIFFERENCE_MAX: Duration = Duration::from_secs(10);
const NS_PER_MS: u64 = 1_000_000;

/// Milliseconds since 1970 that never go back and never jump. One process reads it from many threads.
#[derive(Debug)]
pub struct Steady {
    time: Mutex<Time>,
    file: Option<PathBuf>,
}

/// What the machine says at one moment.
#[derive(Clone, Copy, Debug)]
struct Moment {
    since_boot: Duration,
    wall_ns: u64,
}

impl Moment {
    fn now() -> Moment {
        Moment { since_boot: host::since_boot(), wall_ns: host::wall_ms().saturating_mul(NS_PER_MS) }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Time {
    /// Nanoseconds since 1970, when the machine had run for `since_boot`.
    time_ns: u64,
    since_boot: Duration,
    /// Whether it is known what time it is: then it goes on from there without the wall clock.
    known: bool,
    /// Whether it is this process that decides what time it is.
    leads: bool,
    warned: bool,
}

impl Default for Steady {
    fn default() -> Steady {
        Steady::new()
    }
}

impl Steady {
    /// It is not known yet what time it is, and nothing is kept.
    pub fn new() -> Steady {
        Steady { time: Mutex::new(Time::unknown(Moment::now())), file: None }
    }

    /// It goes on from what `file` says, if this start of the machine wrote it. [`Steady::save`] writes it.
    pub fn open(file: PathBuf) -> Steady {
        let now = Moment::now();
        let kept = fs::read_to_string(&file).ok().and_then(|text| Time::read(&text, &host::boot_id(), now));
        Steady { time: Mutex::new(kept.unwrap_or_else(|| Time::unknown(now))), file: Some(file) }
    }

    /// The time now, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        if planted(Bug::TimeGoesBack) {
            return host::wall_ms();
        }
        self.time(Moment::now()).ms()
    }

    /// The time now, if it is known.
    pub fn known_ms(&self) -> Option<u64> {
        let time = self.time(Moment::now());
        time.known.then(|| time.ms())
    }

    /// Something was decided at `at_ms`: it is not earlier now.
    pub fn observe(&self, at_ms: u64) {
        self.time(Moment::now()).observe(at_ms);
    }

    /// Whoever knows says that it is `at_ms`.
    pub fn learn(&self, at_ms: u64) {
        let mut time = self.time(Moment::now());
        time.observe(at_ms);
        time.known = true;
    }

    /// From now on this process decides what time it is, and not earlier than `at_ms`, the last that was decided. What
    /// nobody knows, the wall clock says.
    pub fn lead(&self, at_ms: u64) {
        let now = Moment::now();
        self.time(now).lead(at_ms, now);
    }

    /// Another process decides what time it is.
    pub fn follow(&self) {
        self.time(Moment::now()).leads = false;
    }

    /// Keeps the time for the next process, if it is known. Not synced: no power failure leaves a machine running.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let Some(text) = self.time(Moment::now()).write(&host::boot_id()) else { return Ok(()) };
        let new = file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, file)
    }

    fn time(&self, now: Moment) -> MutexGuard<'_, Time> {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.go_on(now);
        time
    }
}

impl Time {
    fn unknown(now: Moment) -> Time {
        Time { since_boot: now.since_boot, ..Time::default() }
    }

    fn ms(&self) -> u64 {
        self.time_ns / NS_PER_MS
    }

    fn observe(&mut self, at_ms: u64) {
        self.time_ns = self.time_ns.max(at_ms.saturating_mul(NS_PER_MS));
    }

    fn lead(&mut self, at_ms: u64, now: Moment) {
        self.observe(at_ms);
        if !self.known {
            let passed = Duration::from_nanos(now.wall_ns.saturating_sub(self.time_ns));
            if at_ms > 0 && passed > DIFFERENCE_MAX {
                tracing::warn!(
                    passed = %said(passed),
                    "nobody knows how long it is since the log was written last: the wall clock is believed, and what was to end \
                     meanwhile ends soon"
                );
            }
            self.time_ns = self.time_ns.max(now.wall_ns);
            self.known = true;
        }
        (self.leads, self.warned) = (true, false);
        self.compare(now);
    }

    fn go_on(&mut self, now: Moment) {
        let passed_ns = u64::try_from(now.since_boot.saturating_sub(self.since_boot).as_nanos()).unwrap_or(u64::MAX);
        // Whoever read its clock before others did is not listened to.
        self.since_boot = self.since_boot.max(now.since_boot);
        self.time_ns = self.time_ns.saturating_add(passed_ns);
        if !self.leads {
            return;
        }
        if planted(Bug::WallClockTaken) {
            self.time_ns = self.time_ns.max(now.wall_ns);
            return;
        }
        // Less than what has passed: it never goes back.
        let most_ns = u64::try_from(u128::from(passed_ns) * u128::from(SLEW_PERCENT) / 100).unwrap_or(u64::MAX);
        self.time_ns = now.wall_ns.clamp(self.time_ns - most_ns, self.time_ns.saturating_add(most_ns));
        self.compare(now);
    }

    /// Warns of a wall clock that shows another time.
    fn compare(&mut self, now: Moment) {
        let difference = Duration::from_nanos(now.wall_ns.abs_diff(self.time_ns));
        if difference <= DIFFERENCE_MAX / 2 {
            self.warned = false;
        }
        if difference <= DIFFERENCE_MAX || self.warned {
            return;
        }
        self.warned = true;
        let side = if now.wall_ns > self.time_ns { "ahead of" } else { "behind" };
        tracing::warn!(
            "this machine's clock is {} {side} the time of the log: deadlines count the time that passes, so nothing ends \
             early or late by more than {SLEW_PERCENT} in 100 of its time, and at that pace the time of the log follows the \
             clock; if the clock is wrong, set it right",
            said(difference)
        );
    }

    /// Which start of the machine, nanoseconds since then, nanoseconds since 1970: one line. None if that is not known.
    fn write(&self, boot_id: &str) -> Option<String> {
        let is_known = self.known && !boot_id.is_empty();
        is_known.then(|| format!("{boot_id} {} {}\n", self.since_boot.as_nanos(), self.time_ns))
    }

    /// None if another start of the machine wrote it.
    fn read(text: &str, boot_id: &str, now: Moment) -> Option<Time> {
        let mut words = text.split_whitespace();
        let is_this_boot = words.next()? == boot_id;
        let since_boot = Duration::from_nanos(words.next()?.parse().ok()?);
        let time_ns = words.next()?.parse().ok()?;
        let kept = Time { time_ns, since_boot, known: true, ..Time::default() };
        (is_this_boot && since_boot <= now.since_boot).then_some(kept)
    }
}

/// A duration in its two largest units.
fn said(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;
    const HOUR_MS: u64 = 60 * MINUTE_MS;
    const BEGIN_MS: u64 = 1_700_000_000_000;

    /// When the machine has run for `ms`, with a clock that is `off_ms` wrong.
    fn at(ms: u64, off_ms: i64) -> Moment {
        let wall_ms = (BEGIN_MS + ms).saturating_add_signed(off_ms);
        Moment { since_boot: Duration::from_millis(ms), wall_ns: wall_ms * NS_PER_MS }
    }

    #[test]
    fn a_clock_that_is_set_moves_time_by_three_in_a_hundred_at_most() {
        for off_ms in [2 * HOUR_MS as i64, -2 * HOUR_MS as i64] {
            let mut time = Time::unknown(at(0, 0));
            time.lead(0, at(0, 0));
            assert_eq!(time.ms(), BEGIN_MS, "what nobody knows, the wall clock says");
            time.go_on(at(0, off_ms));
            assert_eq!(time.ms(), BEGIN_MS);
            for minute in 1..=60 {
                time.go_on(at(minute * MINUTE_MS, off_ms));
                let moved_ms = (minute * 1_800) as i64 * off_ms.signum();
                assert_eq!(time.ms(), (BEGIN_MS + minute * MINUTE_MS).saturating_add_signed(moved_ms));
            }
            time.go_on(at(200 * HOUR_MS, off_ms));
            assert_eq!(time.time_ns, at(200 * HOUR_MS, off_ms).wall_ns, "it arrives");
        }
    }

    #[test]
    fn it_never_goes_back() {
        let mut time = Time::unknown(at(5, 0));
        time.lead(0, at(5, 0));
        let mut last_ns = time.time_ns;
        for (ms, off_ms) in [(5, -90_000), (4, 0), (6, 90_000), (6, -90_000), (7, 0), (3, 0), (8, i64::MIN / 2)] {
            time.go_on(at(ms, off_ms));
            assert!(time.time_ns >= last_ns);
            last_ns = time.time_ns;
        }
    }

    #[test]
    fn whoever_follows_needs_no_clock() {
        let mut time = Time::unknown(at(0, 0));
        time.observe(BEGIN_MS);
        time.known = true;
        time.go_on(at(HOUR_MS, 3 * HOUR_MS as i64));
        time.observe(BEGIN_MS + 5);
        time.lead(BEGIN_MS + 10, at(HOUR_MS, 3 * HOUR_MS as i64));
        assert_eq!(time.ms(), BEGIN_MS + HOUR_MS, "its clock is hours ahead, and nothing ends early");
    }

    #[test]
    fn one_that_knows_nothing_believes_the_clock_but_not_that_time_went_back() {
        for (off_ms, expected_ms) in [(0, BEGIN_MS + HOUR_MS), (-2 * HOUR_MS as i64, BEGIN_MS)] {
            let mut time = Time::unknown(at(HOUR_MS, off_ms));
            time.lead(BEGIN_MS, at(HOUR_MS, off_ms));
            assert_eq!(time.ms(), expected_ms);
        }
    }

    #[test]
    fn another_process_goes_on_as_long_as_the_machine_runs() {
        let mut time = Time::unknown(at(0, 0));
        assert_eq!(time.write("boot"), None, "what is not known is not kept");
        time.lead(0, at(0, 0));
        let text = time.write("boot").unwrap();
        let later = at(HOUR_MS, -5 * HOUR_MS as i64);
        let mut kept = Time::read(&text, "boot", later).unwrap();
        kept.go_on(later);
        assert_eq!((kept.known, kept.ms()), (true, BEGIN_MS + HOUR_MS));
        assert_eq!(Time::read(&text, "another", later), None);
        for damaged in ["", "boot", "boot x y", "boot 1", "boot 99999999999999999 1"] {
            assert_eq!(Time::read(damaged, "boot", later), None, "{damaged}");
        }
    }

    #[test]
    fn it_is_kept_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("time");
        let steady = Steady::open(file.clone());
        assert_eq!(steady.known_ms(), None);
        steady.learn(BEGIN_MS);
        steady.save().unwrap();
        let other = Steady::open(file);
        assert!(other.known_ms().unwrap() >= BEGIN_MS);
    }
}
