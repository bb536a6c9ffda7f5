//! How much memory State takes: as masters have it, folded from decoded records.

use master_core::{State, decode_record, fold_record};

use crate::history::Business;
use crate::report::{Report, Row};
use crate::{Bench, Fallible};

const TASKS_PER_AGENT: usize = 10;

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["state_bytes_per_agent", "state_bytes_per_task"], "State in memory", || memory(bench));
}

fn memory(bench: &Bench) -> Fallible<Vec<Row>> {
    let agents = if bench.quick { 500 } else { 5_000 };
    let mut state = State::default();
    let mut business = Business::begin(1, agents)?;
    take(&mut business, &mut state)?;
    let idle = state.clone();
    for _ in 0..TASKS_PER_AGENT {
        business.launches()?;
        take(&mut business, &mut state)?;
    }
    drop(business);
    let tasks = state.tasks.live.len();
    let full = in_use();
    drop(state);
    let without_tasks = in_use();
    drop(idle);
    let empty = in_use();
    let each = |bytes: u64, count: usize| bytes as f64 / count as f64;
    Ok(vec![
        Row::new(
            "state_bytes_per_agent",
            format!("{agents} agents without tasks"),
            each(without_tasks - empty, agents),
            "B",
        ),
        Row::new(
            "state_bytes_per_task",
            format!("{tasks} running tasks on {agents} agents, updates acknowledged"),
            each(full - without_tasks, tasks),
            "B",
        ),
    ])
}

/// Folds what was written since the last time, and forgets it.
fn take(business: &mut Business, state: &mut State) -> Fallible<()> {
    business.history.close();
    for entry in business.history.entries.drain(..) {
        // As it comes from a disk or another master.
        let record = event_log::Record::decode(&entry.record.encode())?;
        fold_record(state, &record.header, &decode_record(&record)?);
    }
    Ok(())
}

/// Bytes that were allocated and not freed.
fn in_use() -> u64 {
    // SAFETY: reads counters of the allocator.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}
