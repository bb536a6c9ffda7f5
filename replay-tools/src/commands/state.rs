//! The state after a record, and its digest.

use crate::Failure;
use crate::args::Args;
use crate::output::Output;
use crate::place::Place;
use crate::progress::Progress;
use crate::replay::{self, Replay};
use crate::select::select;
use crate::source::{Kind, Source, ahead_of};
use serde_json::{Value, json};
use std::io::Read;

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let place = args.place("at")?;
    let source = Source::open(&args.dir()?)?;
    let StateAt { replay, index, snapshot } = at(&source, place)?;
    let digest = replay.digest();
    if let Some(path) = args.get("select") {
        let tree = tree(&*replay)?;
        let Some(value) = select(&tree, path) else {
            return Err(Failure::Damaged(format!("there is no {path} in the state at index {index}")));
        };
        output.line(
            || value.as_str().map_or_else(|| format!("{value:#}"), str::to_owned),
            || json!({ "index": index, "digest": digest, "select": path, "value": value }),
        )?;
        return Ok(());
    }
    let indent = !output.is_json();
    let out = output.writer();
    let space = if indent { "\n " } else { "" };
    write!(out, "{{{space}\"index\":{index},{space}\"digest\":\"{digest}\",{space}")?;
    if let Some(snapshot) = snapshot {
        write!(out, "\"from_snapshot\":{snapshot},{space}")?;
    }
    write!(out, "\"state\":")?;
    replay.render(out, indent)?;
    writeln!(out, "{}}}", if indent { "\n" } else { "" })?;
    Ok(())
}

/// A state in its place.
pub(crate) struct StateAt {
    /// The state itself.
    pub replay: Box<dyn Replay>,
    /// The index that was asked for.
    pub index: u64,
    /// The index of the snapshot from which it was folded, if there was one.
    pub snapshot: Option<u64>,
}

/// The state after the record at `place` (or the last one before it): folded from the nearest snapshot, or from the
/// beginning.
///
/// # Errors
/// The log is damaged, begins later or ends earlier.
pub(crate) fn at(source: &Source, place: Option<Place>) -> Result<StateAt, Failure> {
    let last_index = source.last_index()?;
    let index = place.map_or(Ok(last_index), |place| source.index_of(place))?;
    if index > last_index {
        return Err(Failure::Damaged(format!("the log ends at index {last_index}: there is no state at {index} yet")));
    }
    let (mut replay, snapshot) = begin(source, index)?;
    let begins_at = source.begins_before(index)?;
    if snapshot.is_none() && begins_at > 0 {
        return Err(Failure::Damaged(format!(
            "the log was shortened and now begins at index {begins_at}, and no snapshot at index {index} or before it \
             leads there"
        )));
    }
    let mut progress = Progress::new("folding", index);
    let entries = source.entries_before(snapshot.map_or(0, |snapshot| snapshot + 1), index)?;
    ahead_of(entries, |entries| {
        for entry in entries {
            let entry = entry?;
            if entry.index > index {
                break;
            }
            progress.reached(entry.index);
            if replay.admit(&entry) {
                let folded = replay.fold(&entry);
                folded.map_err(|why| Failure::Damaged(format!("the record at index {}: {why}", entry.index)))?;
            }
        }
        Ok::<_, Failure>(())
    })?;
    Ok(StateAt { replay, index, snapshot })
}

/// The state to fold from. A snapshot that is damaged is not worth a refusal while there is another way.
fn begin(source: &Source, index: u64) -> Result<(Box<dyn Replay>, Option<u64>), Failure> {
    for snapshot in source.snapshots(index)? {
        let mut replay = replay::begin(source.kind());
        let resumed = source.open_snapshot(&snapshot).map_err(|error| event_log::sentence(&error));
        match resumed.and_then(|mut content| replay.resume(&mut *content)) {
            Ok(()) => return Ok((replay, Some(snapshot.index))),
            Err(why) => eprintln!("meseta-log: left the snapshot at index {} aside: {why}", snapshot.index),
        }
    }
    Ok((replay::begin(source.kind()), None))
}

/// The state from which the most of the log that is there can be followed, and the index of its last entry: the empty one,
/// 0; where the beginning is gone, that of the oldest snapshot that leads on. What `resume` answers decides whether a
/// snapshot will do.
///
/// # Errors
/// The folder cannot be read, or no snapshot leads on.
pub(crate) fn oldest(
    source: &Source,
    mut resume: impl FnMut(&mut dyn Read) -> Result<(), String>,
) -> Result<u64, Failure> {
    let begins_at = source.begins_at()?;
    // An agent's log that was shortened begins with its outcome.
    if begins_at == 0 || source.kind() == Kind::Agent {
        return Ok(0);
    }
    for snapshot in source.snapshots(u64::MAX)?.into_iter().rev() {
        let resumed = source.open_snapshot(&snapshot).map_err(|error| event_log::sentence(&error));
        match resumed.and_then(|mut content| resume(&mut *content)) {
            Ok(()) => return Ok(snapshot.index),
            Err(why) => eprintln!("meseta-log: left the snapshot at index {} aside: {why}", snapshot.index),
        }
    }
    Err(Failure::Damaged(format!(
        "the log was shortened and now begins at index {begins_at}, and no snapshot leads to where it goes on"
    )))
}

/// A state as JSON.
///
/// # Errors
/// It has no such form.
pub(crate) fn tree(replay: &dyn Replay) -> Result<Value, Failure> {
    let mut text = Vec::new();
    replay.render(&mut text, false)?;
    serde_json::from_slice(&text).map_err(|error| Failure::Damaged(format!("the state has no JSON form: {error}")))
}
