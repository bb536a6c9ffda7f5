//! An operator who watches a master, in JSON, and goes on where a stream ended.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::framework::Records;
use crate::http::{self, Answer, Request};

/// A stream of operator events.
#[derive(Debug)]
pub struct Watcher {
    records: Records,
    /// The first event.
    pub subscribed: Value,
}

/// Where an event is, as `?after=` takes it; none for an event that does not say.
pub fn position(event: &Value) -> Option<String> {
    let position = event.get("log_position")?;
    let index = position["index"].as_u64()?;
    Some(position["event"].as_u64().map_or(index.to_string(), |event| format!("{index}.{event}")))
}

impl Watcher {
    /// Subscribes from now on, or after a position.
    ///
    /// # Panics
    /// Unless the answer is a stream that begins with SUBSCRIBED.
    pub fn subscribe(address: SocketAddr, after: Option<&str>) -> Self {
        match Self::try_subscribe(address, after) {
            Ok(watcher) => watcher,
            Err(answer) => panic!("SUBSCRIBE after {after:?} at {address}: {} {}", answer.status(), answer.text()),
        }
    }

    /// The same, with the answer if it is no stream.
    ///
    /// # Errors
    /// An answer with another status than 200.
    pub fn try_subscribe(address: SocketAddr, after: Option<&str>) -> Result<Self, Answer> {
        let call = json!({"type": "SUBSCRIBE"}).to_string();
        let path = after.map_or("/api/v1".to_owned(), |after| format!("/api/v1?after={after}"));
        let stream = http::open(address, &Request::post_json(&path, &call)).expect("an answer");
        if stream.head.status != 200 {
            return Err(stream.finish().expect("a whole answer"));
        }
        let mut watcher = Self { records: Records::new(stream), subscribed: Value::Null };
        watcher.subscribed = watcher.any_event(http::PATIENCE).expect("a first event");
        assert_eq!(watcher.subscribed["type"], "SUBSCRIBED");
        Ok(watcher)
    }

    /// The next event, heartbeats included; none when the stream ended or nothing came in time.
    pub fn any_event(&mut self, patience: Duration) -> Option<Value> {
        let record = self.records.next(patience).ok()??;
        Some(serde_json::from_slice(&record).expect("a record of JSON"))
    }

    /// The next event that is no heartbeat.
    pub fn event(&mut self, patience: Duration) -> Option<Value> {
        let start = Instant::now();
        while let Some(left) = patience.checked_sub(start.elapsed()) {
            let event = self.any_event(left)?;
            if event["type"] != "HEARTBEAT" {
                return Some(event);
            }
        }
        None
    }

    /// Events without heartbeats, up to the first for which `is_last`.
    ///
    /// # Panics
    /// With `what`, when that does not come within [`http::PATIENCE`].
    pub fn until(&mut self, what: &str, mut is_last: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        let start = Instant::now();
        while let Some(left) = http::PATIENCE.checked_sub(start.elapsed()) {
            let Some(event) = self.event(left) else { break };
            let done = is_last(&event);
            events.push(event);
            if done {
                return events;
            }
        }
        panic!("waited in vain for {what}; events were:\n{events:#?}")
    }

    /// As many events, without heartbeats.
    ///
    /// # Panics
    /// When they do not come within [`http::PATIENCE`].
    pub fn take(&mut self, count: usize) -> Vec<Value> {
        let mut left = count;
        let mut last = |_: &Value| {
            left -= 1;
            left == 0
        };
        if count == 0 { Vec::new() } else { self.until(&format!("{count} events"), &mut last) }
    }
}
