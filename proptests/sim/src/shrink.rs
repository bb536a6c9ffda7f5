//! Smaller scenarios that fail in the same way: steps are dropped, halves first, as long as the same invariant is still
//! violated.

use crate::cluster;
use crate::scenario::Scenario;

/// How many runs shrinking may take.
const RUNS_MAX: u64 = 200;

/// The smallest failing scenario that was found, with what it violates.
pub fn shrink(scenario: &Scenario) -> Option<(Scenario, String)> {
    let fails = |scenario: &Scenario| cluster::run(scenario, false).violation;
    let (invariant, mut what) = fails(scenario)?;
    let mut best = scenario.clone();
    let mut runs = 0;
    let mut size = best.steps.len().div_ceil(2).max(1);
    loop {
        let mut shorter = false;
        let mut at = 0;
        while at < best.steps.len() && runs < RUNS_MAX {
            let mut candidate = best.clone();
            candidate.steps.drain(at..(at + size).min(candidate.steps.len()));
            runs += 1;
            match fails(&candidate) {
                Some((same, text)) if same == invariant => {
                    (best, what, shorter) = (candidate, text, true);
                }
                _ => at += size,
            }
        }
        if runs >= RUNS_MAX || (size == 1 && !shorter) {
            return Some((best, format!("{invariant}: {what}")));
        }
        if !shorter {
            size = size.div_ceil(2).max(1);
        }
    }
}
