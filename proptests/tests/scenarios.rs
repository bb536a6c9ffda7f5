//! Every scenario of `testdata/scenarios.jsonl`, some at a time.

use std::path::Path;
use std::sync::Mutex;
use std::thread;

use proptests::scenario;
use serde_json::Value;

/// So many clusters at once.
const TOGETHER: usize = 4;

fn hold(topics: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/scenarios.jsonl");
    play_all(&path, |one| topics.iter().any(|topic| one["topic"] == *topic));
}

fn play_all(path: &Path, is_wanted: impl Fn(&Value) -> bool) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let wanted: Vec<Value> = all.filter(is_wanted).collect();
    assert!(!wanted.is_empty(), "{}: nothing to play", path.display());
    let left = Mutex::new(wanted);
    thread::scope(|scope| {
        for _ in 0..TOGETHER {
            // Who fails says so as it ends, and ends the others with the scope.
            scope.spawn(|| {
                while let Some(one) = { left.lock().ok().and_then(|mut left| left.pop()) } {
                    scenario::play(&one);
                }
            });
        }
    });
}

#[test]
fn what_is_reserved_and_made_a_volume() {
    hold(&["reservations"]);
}

#[test]
fn roles_with_quota_and_weights() {
    hold(&["quota", "roles", "weights"]);
}

#[test]
fn agents_that_leave() {
    hold(&["draining", "maintenance", "api", "agents"]);
}

#[test]
fn what_frameworks_are_told() {
    hold(&["reconciliation", "operations", "framework", "master", "partition", "scheduler"]);
}

#[test]
fn who_asks_and_what_they_may() {
    hold(&["authorization"]);
}

#[test]
fn what_cannot_be_launched_or_done() {
    hold(&["validation"]);
}

/// Scenarios of another file, if there is one: MESETA_SCENARIOS=FILE.jsonl cargo test -p proptests --test scenarios those_of_a_file
#[test]
fn those_of_a_file() {
    if let Some(path) = std::env::var_os("MESETA_SCENARIOS") {
        play_all(Path::new(&path), |_| true);
    }
}
