//! `--rate_limits`: how fast frameworks may call, by principal. Whoever calls faster waits; whoever has too much waiting is
//! told so, by an ERROR on its stream. Nobody waits for others than those of its own principal.
//!
//! Each master counts what it receives. SUBSCRIBE is never held back: who was told to slow down may come back.

use api::json::Fault;
use api::limits::THROTTLED_CALLS_MAX;
use api::v1;
use master_core::State;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// From `--rate_limits`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateLimits {
    /// By principal; None is no limit, whatever holds for the others.
    limits: BTreeMap<String, Option<Rate>>,
    /// Of all others together.
    others: Option<Rate>,
}

/// So fast, and no more than so many waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    /// Between two calls.
    pause: Duration,
    /// Calls that may wait.
    capacity: u64,
}

impl Rate {
    fn new(name: &str, qps: f64, capacity: Option<u64>) -> Result<Rate, String> {
        let pause = Duration::try_from_secs_f64(1.0 / qps).ok().filter(|_| qps > 0.0);
        let pause =
            pause.ok_or_else(|| format!("--rate_limits: Invalid {name}: {qps}. It must be a positive number"))?;
        // What waits is held in memory: nothing is without end.
        Ok(Rate { pause, capacity: capacity.unwrap_or(u64::MAX).min(THROTTLED_CALLS_MAX) })
    }
}

impl RateLimits {
    /// From the JSON of a `RateLimits` message.
    ///
    /// # Errors
    /// One sentence.
    pub fn read(text: &str) -> Result<RateLimits, String> {
        let message: v1::RateLimits = api::json::from_slice(text.as_bytes()).map_err(|error| match error.fault {
            Fault::Syntax(why) => format!("--rate_limits is no JSON: {why}"),
            _ => format!("--rate_limits: {error}"),
        })?;
        let mut limits = BTreeMap::new();
        for limit in message.limits {
            let rate = limit.qps.map(|qps| Rate::new("qps", qps, limit.capacity)).transpose()?;
            if limits.insert(limit.principal.clone(), rate).is_some() {
                return Err(format!("--rate_limits: Duplicate principal {} found in RateLimits", limit.principal));
            }
        }
        let others = message.aggregate_default_qps;
        let capacity = message.aggregate_default_capacity;
        let others = others.map(|qps| Rate::new("aggregate_default_qps", qps, capacity)).transpose()?;
        Ok(RateLimits { limits, others })
    }
}

/// Calls of frameworks as they pass: counted, and held back where a rate is set.
#[derive(Debug, Default)]
pub struct Throttle {
    rates: RateLimits,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// By principal; None is all others together.
    waiting: BTreeMap<Option<String>, Lane>,
    counts: BTreeMap<Arc<str>, Counts>,
}

/// Whoever shares a rate.
#[derive(Debug)]
struct Lane {
    /// When the next call may pass.
    next: Instant,
    waiting: u64,
}

/// Calls of frameworks of a principal.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    received: u64,
    processed: u64,
}

/// So many calls wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// No more than so many may.
    pub capacity: u64,
}

impl Throttle {
    /// By these rates.
    pub fn new(rates: RateLimits) -> Throttle {
        Throttle { rates, lanes: Mutex::default() }
    }

    /// A call of a framework of `principal` came: waits until it may pass.
    ///
    /// # Errors
    /// [`Exceeded`], if too many wait already; it is to be dropped.
    pub async fn pass(&self, principal: Option<&Arc<str>>) -> Result<(), Exceeded> {
        if let Some(principal) = principal {
            self.lanes.lock().counts.entry(principal.clone()).or_default().received += 1;
        }
        if let Some((lane, rate)) = self.lane(principal.map(|principal| &**principal)) {
            let at = self.lanes.lock().take(lane.clone(), rate)?;
            let _waiting = Waiting { throttle: self, lane };
            tokio::time::sleep_until(at).await;
        }
        Ok(())
    }

    /// Where calls of `principal` wait, if anywhere.
    fn lane(&self, principal: Option<&str>) -> Option<(Option<String>, Rate)> {
        match principal.and_then(|principal| self.rates.limits.get_key_value(principal)) {
            Some((principal, rate)) => rate.map(|rate| (Some(principal.clone()), rate)),
            None => self.rates.others.map(|rate| (None, rate)),
        }
    }

    /// A call that passed was decided.
    pub fn processed(&self, principal: Option<&Arc<str>>) {
        if let Some(principal) = principal {
            self.lanes.lock().counts.entry(principal.clone()).or_default().processed += 1;
        }
    }

    /// `frameworks/PRINCIPAL/messages_received` and `_processed`, of principals that a framework has.
    pub fn metrics(&self, state: &State, set: &mut impl FnMut(&str, f64)) {
        let live: BTreeSet<&Arc<str>> =
            state.frameworks.live.values().filter_map(|known| known.principal.as_ref()).collect();
        let mut lanes = self.lanes.lock();
        lanes.counts.retain(|principal, _| live.contains(principal));
        for principal in live {
            let counts = lanes.counts.get(principal).copied().unwrap_or_default();
            set(&format!("frameworks/{principal}/messages_received"), counts.received as f64);
            set(&format!("frameworks/{principal}/messages_processed"), counts.processed as f64);
        }
    }
}

impl Lanes {
    /// When the next call of the lane may pass.
    fn take(&mut self, lane: Option<String>, rate: Rate) -> Result<Instant, Exceeded> {
        let now = Instant::now();
        let lane = self.waiting.entry(lane).or_insert(Lane { next: now, waiting: 0 });
        if lane.waiting >= rate.capacity {
            return Err(Exceeded { capacity: rate.capacity });
        }
        lane.waiting += 1;
        let at = lane.next.max(now);
        lane.next = at + rate.pause;
        Ok(at)
    }
}

/// A call that waits, or whose client gave up waiting.
struct Waiting<'a> {
    throttle: &'a Throttle,
    lane: Option<String>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.throttle.lanes.lock().waiting.get_mut(&self.lane) {
            lane.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    fn throttle(text: &str) -> Throttle {
        Throttle::new(RateLimits::read(text).unwrap())
    }

    /// When so many calls at once may pass, in milliseconds from the first on; None for those that may not wait.
    fn calls(throttle: &Throttle, principal: &str, count: usize) -> Vec<Option<u128>> {
        let Some((lane, rate)) = throttle.lane(Some(principal)) else { return vec![Some(0); count] };
        let mut lanes = throttle.lanes.lock();
        let taken: Vec<_> = (0..count).map(|_| lanes.take(lane.clone(), rate).ok()).collect();
        taken.iter().map(|at| at.map(|at| (at - taken[0].unwrap()).as_millis())).collect()
    }

    #[tokio::test]
    async fn each_principal_has_its_own_pace() {
        let throttle = throttle(
            r#"{"limits":[{"principal":"slow","qps":10,"capacity":3},{"principal":"free"}],"aggregate_default_qps":2}"#,
        );
        assert_eq!(calls(&throttle, "slow", 5), [Some(0), Some(100), Some(200), None, None]);
        assert_eq!(calls(&throttle, "free", 1000), [Some(0); 1000], "who has no rate never waits");
        assert_eq!(calls(&throttle, "a", 2), [Some(0), Some(500)]);
        assert_eq!(calls(&throttle, "b", 2), [Some(0), Some(500)]);
        assert_eq!(throttle.lanes.lock().waiting[&None].waiting, 4, "all others share one");
        for _ in 0..3 {
            drop(Waiting { throttle: &throttle, lane: Some("slow".into()) });
        }
        assert!(calls(&throttle, "slow", 1)[0].is_some(), "what has passed leaves room");
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_leaves_room() {
        let throttle = throttle(r#"{"limits":[{"principal":"p","qps":0.001,"capacity":1}]}"#);
        let principal = Arc::from("p");
        throttle.pass(Some(&principal)).await.unwrap();
        for _ in 0..2 {
            let waiting = throttle.pass(Some(&principal));
            assert!(tokio::time::timeout(Duration::from_millis(1), waiting).await.is_err(), "it waits, and gives up");
        }
        let mut first = Box::pin(throttle.pass(Some(&principal)));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
        assert_eq!(throttle.pass(Some(&principal)).await, Err(Exceeded { capacity: 1 }));
        assert_eq!(throttle.pass(None).await, Ok(()), "there is no rate for others");
    }

    #[test]
    fn flags_that_make_no_sense_are_refused() {
        for (text, why) in [
            (r#"{"limits":[{"principal":"a","qps":0}]}"#, "Invalid qps: 0. It must be a positive number"),
            (r#"{"limits":[{"principal":"a","qps":-1}]}"#, "Invalid qps: -1"),
            (r#"{"aggregate_default_qps":0}"#, "Invalid aggregate_default_qps: 0"),
            (r#"{"limits":[{"principal":"a","qps":1},{"principal":"a","qps":2}]}"#, "Duplicate principal a"),
            (r#"{"limits":[{"qps":1}]}"#, "Missing required fields: limits[0].principal"),
            ("{x", "is no JSON"),
        ] {
            let refused = RateLimits::read(text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(RateLimits::read(r#"{"limits":[{"principal":"a","capacity":3,"foo":2}]}"#).is_ok());
    }
}
