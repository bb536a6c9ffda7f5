//! Whether a log is what it should be: every checksum, the order of its records, every event decoded and folded, the
//! invariants of the state, the digests that masters logged of theirs, and the digest at the end, which is the same on
//! every master at the same index.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::state;
use crate::output::Output;
use crate::progress::Progress;
use crate::replay::{self, Replay};
use crate::source::{Entry, Source, SourceError};
use serde_json::json;
use std::collections::BTreeMap;

/// Until here the invariants are checked after every record unless told otherwise, then after every
/// [`SELDOM`]: each check looks at the whole state.
const OFTEN_UNTIL: u64 = 10_000;
const SELDOM: u64 = 100;

/// What was gone through.
#[derive(Default)]
struct Seen {
    last_index: u64,
    records: u64,
    events: u64,
    /// Records that never took effect: written under a leadership that was over.
    skipped: u64,
    checks: u64,
    /// The snapshot that what follows was folded onto, where the beginning is gone.
    from_snapshot: Option<u64>,
    /// Snapshots whose digest is that of the fold.
    snapshots: u64,
    /// Entries behind the last that is known to be committed.
    uncommitted: u64,
}

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let every = args.number("every")?;
    if every == Some(0) {
        return Err(Usage("--every must be at least 1".into()).into());
    }
    let to = args.place("to")?;
    let source = Source::open(&args.dir()?)?;
    let to = to.map(|to| source.index_of(to)).transpose()?.unwrap_or(u64::MAX);
    let mut replay = replay::begin(source.kind());
    let mut seen = Seen::default();
    // A running log goes on growing: what is verified ends where it ended now. Damage is for the walk to find.
    let end = source.last_index().map_or(to, |last| last.min(to));
    // What a master said of the states in its snapshots; whoever folds to the same index must find the same.
    let snapshots = source.digests();
    let gone = state::oldest(&source, |content| replay.resume(content));
    let mut fault = gone.and_then(|gone| {
        seen.from_snapshot = (gone > 0).then_some(gone);
        source.walk(seen.from_snapshot.map_or(0, |index| index + 1), |entries| {
            walk(entries, end, every, &mut *replay, &mut seen, snapshots?)
        })
    });
    if fault.is_ok() && end < u64::MAX {
        // Entries without a record count too.
        seen.last_index = end;
    }
    if fault.is_ok() {
        fault = source.uncommitted().map(|uncommitted| seen.uncommitted = uncommitted).map_err(Failure::from);
    }
    if fault.is_ok() {
        // A snapshot that nobody needed for this is read as well: whoever recovers begins at the newest.
        fault = source.snapshots(u64::MAX).map_err(Failure::from).and_then(|snapshots| {
            snapshots.iter().try_for_each(|snapshot| source.open_snapshot(snapshot).map(drop).map_err(Failure::from))
        });
    }
    let (digest, fault) = (replay.digest(), fault.err());
    let digests = match replay.compared().map_or(0, |compared| compared.equal) {
        0 => String::new(),
        equal => format!(", {equal} digests that masters logged are those of this fold"),
    };
    output.line(
        || match &fault {
            None => format!(
                "ok: {}{} records with {} events up to index {}, {} without effect, invariants checked {} times{digests}\
                 {}\ndigest {digest}",
                seen.from_snapshot.map_or(String::new(), |index| format!("from the snapshot at index {index} on, ")),
                seen.records,
                seen.events,
                seen.last_index,
                seen.skipped,
                seen.checks,
                behind(seen.uncommitted)
            ),
            Some(_) => format!("NOT ok: the log is good up to index {} only\ndigest {digest}", seen.last_index),
        },
        || {
            let mut summary = json!({
                "ok": fault.is_none(), "kind": source.kind().name(), "last_index": seen.last_index, "digest": digest,
                "records": seen.records, "events": seen.events, "skipped": seen.skipped, "uncommitted": seen.uncommitted,
                "checks": seen.checks, "snapshots": seen.snapshots,
            });
            if let Some(compared) = replay.compared() {
                summary["digests"] = compared.equal.into();
            }
            if let Some(index) = seen.from_snapshot {
                summary["from_snapshot"] = index.into();
            }
            if let Some(fault) = &fault {
                summary["error"] = event_log::sentence(fault).into();
            }
            summary
        },
    )?;
    output.flush()?;
    fault.map_or(Ok(()), Err)
}

/// A master that stops has usually written something of which it did not hear any more that it was committed.
fn behind(uncommitted: u64) -> String {
    match uncommitted {
        0 => String::new(),
        count => format!(
            "; {} written after that, committed or not: this disk cannot know",
            if count == 1 { "1 entry was".to_owned() } else { format!("{count} entries were") }
        ),
    }
}

fn walk(
    entries: &mut dyn Iterator<Item = Result<Entry, SourceError>>,
    to: u64,
    every: Option<u64>,
    replay: &mut dyn Replay,
    seen: &mut Seen,
    mut snapshots: BTreeMap<u64, String>,
) -> Result<(), Failure> {
    let mut at_ms = 0;
    let mut unchecked = None;
    let mut progress = Progress::new("verifying", to);
    for entry in entries {
        let entry = entry?;
        if entry.index > to {
            break;
        }
        progress.reached(entry.index);
        compare(&*replay, &mut snapshots, entry.index - 1, seen)?;
        let damaged = &Failure::in_record(entry.index);
        let events = entry.names().map_err(damaged)?;
        if let Some(raw) = entry.record.events.iter().find(|raw| raw.cause as usize >= entry.record.causes.len()) {
            // An event may lack a cause (number 0 of none), but not name one that is not there.
            if raw.cause != 0 {
                return Err(damaged(format!("an event names cause {}, which it does not have", raw.cause)));
            }
        }
        replay.compare(&entry);
        if replay.admit(&entry) {
            if entry.record.header.at_ms < at_ms {
                return Err(damaged(format!("its time {} is before {at_ms}", entry.record.header.at_ms)));
            }
            at_ms = entry.record.header.at_ms;
            replay.fold(&entry).map_err(damaged)?;
            seen.records += 1;
            seen.events += events.len() as u64;
        } else {
            seen.skipped += 1;
        }
        let often = every.unwrap_or(if seen.records < OFTEN_UNTIL { 1 } else { SELDOM });
        unchecked = Some(entry.index);
        if seen.records.is_multiple_of(often) {
            check(replay, &entry, seen)?;
            unchecked = None;
        }
        seen.last_index = entry.index;
    }
    if let Some(index) = unchecked {
        check_at(replay, index, seen)?;
    }
    compare(&*replay, &mut snapshots, to, seen)?;
    match replay.compared().and_then(|compared| compared.different.as_ref()) {
        None => Ok(()),
        Some(logged) => Err(Failure::Damaged(format!(
            "at index {} master {:016x} had another state than this log folds to: it logged the digest {}",
            logged.index,
            logged.by.0,
            logged.digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        ))),
    }
}

/// Compares the state with the snapshots that were taken of it, at an index up to `to` behind which no record was folded.
fn compare(
    replay: &dyn Replay,
    snapshots: &mut BTreeMap<u64, String>,
    to: u64,
    seen: &mut Seen,
) -> Result<(), Failure> {
    while let Some(first) = snapshots.first_entry().filter(|first| *first.key() <= to) {
        let (index, digest) = first.remove_entry();
        // Before what is there, and the one that was folded onto, nothing is compared.
        if seen.from_snapshot.is_some_and(|from| index <= from) {
            continue;
        }
        if replay.digest() != digest {
            return Err(Failure::Damaged(format!(
                "at index {index} this log folds to the digest {}, but the snapshot of that index says {digest}",
                replay.digest()
            )));
        }
        seen.snapshots += 1;
    }
    Ok(())
}

fn check(replay: &dyn Replay, entry: &Entry, seen: &mut Seen) -> Result<(), Failure> {
    check_at(replay, entry.index, seen)
}

fn check_at(replay: &dyn Replay, index: u64, seen: &mut Seen) -> Result<(), Failure> {
    seen.checks += 1;
    match replay.violations().as_slice() {
        [] => Ok(()),
        [first, more @ ..] => {
            let others = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
            Err(Failure::Damaged(format!("after the record at index {index} an invariant is broken: {first}{others}")))
        }
    }
}
