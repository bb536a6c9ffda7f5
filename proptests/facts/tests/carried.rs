//! Every fact in `testdata` holds.

use std::path::Path;

use facts::{Outcome, judge_line};

fn all_hold(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let judged: Vec<_> = text.lines().map(judge_line).collect();
    let bad: Vec<String> = judged
        .iter()
        .filter(|(_, outcome)| *outcome != Outcome::Hold)
        .map(|(fact, outcome)| outcome.line(fact).to_string())
        .collect();
    assert!(!judged.is_empty(), "{file} is empty");
    assert!(bad.is_empty(), "{} of {} do not hold:\n{}", bad.len(), judged.len(), bad.join("\n"));
}

#[test]
fn resources() {
    all_hold("resources.jsonl");
}

#[test]
fn offer_constraints() {
    all_hold("offer_constraints.jsonl");
}

#[test]
fn allocator() {
    all_hold("allocator.jsonl");
}

#[test]
fn sorter() {
    all_hold("sorter.jsonl");
}
