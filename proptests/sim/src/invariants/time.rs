//! Whatever is done to the masters' clocks, the time of the log goes on at the pace of time itself, and what has a deadline
//! ends neither before it nor long after it.

use event_log::{Header, SLEW_PERCENT};
use master_core::State;

use crate::master::PING;

/// A record may be decided so long before anybody applies it, in milliseconds: its leader stood still meanwhile.
const COMMIT_MS: u64 = 45_000;
/// Masters that find out what time it is differ by so much, in milliseconds.
const AHEAD_MS: u64 = 6_000;
/// A leader that stood still has other things to decide first, for so long, in milliseconds.
const LATE_MS: u64 = 30_000;
/// Whoever was away while nobody led has so much longer, in milliseconds.
const GRACE_MS: u64 = PING.every.as_millis() as u64 * PING.misses_max as u64;

/// When the first record was applied, and what time it said it was.
#[derive(Default)]
pub struct Time {
    began: Option<(u64, u64)>,
}

impl Time {
    /// A record took effect at `now_ms` of true time; `before`: the State that it was decided on.
    pub fn committed(
        &mut self,
        now_ms: u64,
        index: u64,
        header: &Header,
        before: Option<&State>,
    ) -> Result<(), String> {
        let (began_ms, first_ms) = *self.began.get_or_insert((now_ms, header.at_ms));
        let (passed_ms, said_ms) = (now_ms - began_ms, header.at_ms.saturating_sub(first_ms));
        let slewed_ms = passed_ms * (SLEW_PERCENT + 1) / 100;
        if said_ms > passed_ms + slewed_ms + AHEAD_MS {
            return Err(format!("index {index}: {passed_ms} ms have passed, {said_ms} ms according to the log"));
        }
        if said_ms + slewed_ms + COMMIT_MS < passed_ms {
            return Err(format!("index {index}: {passed_ms} ms have passed, only {said_ms} ms according to the log"));
        }
        let Some(before) = before else { return Ok(()) };
        let led_since_ms = before.leader.as_ref().map_or(0, |leader| leader.since_ms);
        match before.next_deadline() {
            Some(due_ms) if due_ms.max(led_since_ms + GRACE_MS) + LATE_MS < header.at_ms && header.n > 1 => {
                Err(format!("index {index}: what was due {} ms ago has not ended", header.at_ms - due_ms))
            }
            _ => Ok(()),
        }
    }
}
