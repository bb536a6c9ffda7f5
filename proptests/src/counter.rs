//! A client that counts: it writes one number after the other into a cluster, through any of its masters, and remembers
//! which of them were acknowledged. Whatever happens to the masters, those must be in the log.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use crate::framework::{Framework, SCHEDULER, info};
use crate::http::{self, Request};
use crate::watcher::{Watcher, position};

/// A counting client, on a thread of its own.
#[derive(Debug)]
pub struct Counter {
    name: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<u64>>,
}

fn counted(name: &str, id: Option<&str>, number: u64) -> Value {
    let mut info = info(name);
    info["labels"] = json!({"labels": [{"key": "number", "value": number.to_string()}]});
    if let Some(id) = id {
        info["id"] = json!({"value": id});
    }
    info
}

impl Counter {
    /// Begins to count as the framework `name`, at any of `masters`.
    pub fn start(name: &str, masters: Vec<SocketAddr>) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = {
            let (name, stop, acknowledged) = (name.to_owned(), stop.clone(), acknowledged.clone());
            thread::spawn(move || count(&name, &masters, &stop, &acknowledged))
        };
        Self { name: name.to_owned(), stop, acknowledged, thread }
    }

    /// How many numbers were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops counting. Every acknowledged number must be among what `master` tells of the time since `begin`, a position.
    ///
    /// # Panics
    /// When one is missing.
    pub fn finish(self, master: SocketAddr, begin: &str) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = self.thread.join().expect("a client that counts");
        let last = acknowledged.last().copied().unwrap_or_default().to_string();
        let mut seen = BTreeSet::new();
        let mut watcher = Watcher::subscribe(master, Some(begin));
        watcher.until(&format!("the last number of {}, {last}", self.name), |event| {
            let update = ["framework_added", "framework_updated"].iter().find_map(|kind| event.get(kind));
            let info = update.map(|update| &update["framework"]["framework_info"]).filter(|it| it["name"] == self.name);
            let number = info.and_then(|info| info["labels"]["labels"][0]["value"].as_str()).map(str::to_owned);
            let is_last = number.as_deref() == Some(&last);
            seen.extend(number);
            is_last
        });
        let lost: Vec<_> = acknowledged.iter().filter(|number| !seen.contains(&number.to_string())).collect();
        assert!(lost.is_empty(), "{} of {} acknowledged numbers are lost: {lost:?}", lost.len(), acknowledged.len());
        acknowledged.len()
    }
}

/// Where what is told from now on begins.
pub fn begin(master: SocketAddr) -> String {
    position(&Watcher::subscribe(master, None).subscribed).expect("a position")
}

fn count(name: &str, masters: &[SocketAddr], stop: &AtomicBool, acknowledged: &AtomicUsize) -> Vec<u64> {
    let (mut numbers, mut id, mut turn) = (Vec::new(), None, 0);
    let mut number: u64 = 1;
    while !stop.load(Ordering::Relaxed) {
        let master = masters[turn % masters.len()];
        turn += 1;
        let Ok(framework) = Framework::try_subscribe(master, &counted(name, id.as_deref(), number)) else {
            // Nobody is there, or not yet.
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        id = Some(framework.id.clone());
        while !stop.load(Ordering::Relaxed) {
            let call = json!({"type": "UPDATE_FRAMEWORK", "framework_id": {"value": framework.id},
                "update_framework": {"framework_info": counted(name, id.as_deref(), number)}});
            let request =
                Request::post_json(SCHEDULER, &call.to_string()).header("Mesos-Stream-Id", &framework.stream_id);
            match http::send(master, &request) {
                Ok(answer) if answer.status() == 200 => {
                    numbers.push(number);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
                // Not known, or not here: said again elsewhere.
                _ => break,
            }
        }
    }
    numbers
}
