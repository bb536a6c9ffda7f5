//! Every target for a moment, from one seed: what was found once stays mended. `make fuzz` searches for longer.

use fuzz::search::{Until, search};
use fuzz::targets::targets;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

const RUNS: u64 = 3_000;

#[test]
fn nothing_is_found_in_a_moment() {
    let (targets, next, found) = (targets(), AtomicUsize::new(0), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(bad) = search(target, 1, Until::Runs(RUNS)) {
                        let input = String::from_utf8_lossy(&bad.input).into_owned();
                        let sentence = format!("{} {}\n  {input:?}", target.name, bad.what);
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(sentence);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
