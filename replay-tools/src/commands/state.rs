//! The state after a record, and its digest.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::output::Output;
use crate::place::Place;
use crate::progress::Progress;
use crate::replay::{self, Replay};
use crate::select::select;
use crate::source::{Kind, Source, ahead_of};
use api::terminal::{json as json_text, plain};
use serde_json::{Value, json};
use std::io::Read;

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let place = args.place("at")?;
    let source = Source::open(&args.dir()?)?;
    let StateAt { replay, index, snapshot, damage } = furthest(&source, place)?;
    let digest = replay.digest();
    if let Some(path) = args.get("select") {
        let tree = tree(&*replay)?;
        let Some(value) = select(&tree, path) else {
            return Err(Failure::Damaged(format!("there is no {path} in the state at index {index}")));
        };
        output.line(
            || {
                let text = value.as_str().map_or_else(|| format!("{value:#}"), str::to_owned);
                if value.is_string() { plain(&text).into_owned() } else { json_text(&text).into_owned() }
            },
            || json!({ "index": index, "digest": digest, "select": path, "value": value }),
        )?;
        return damage.map_or(Ok(()), Err);
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
    damage.map_or(Ok(()), Err)
}

/// A state in its place.
pub(crate) struct StateAt {
    /// The state itself.
    pub replay: Box<dyn Replay>,
    /// The index that was asked for.
    pub index: u64,
    /// The index of the snapshot from which it was folded, if there was one.
    pub snapshot: Option<u64>,
    /// What cannot be read behind it, if the log was to be folded to its end.
    pub damage: Option<Failure>,
}

/// The state after the record at `place` (or the last one before it): folded from the nearest snapshot, or from the
/// beginning.
///
/// # Errors
/// The log is damaged, begins later or ends earlier.
pub(crate) fn at(source: &Source, place: Option<Place>) -> Result<StateAt, Failure> {
    let mut found = furthest(source, place)?;
    found.damage.take().map_or(Ok(found), Err)
}

/// As [`at`]; without a place, where the log is damaged, the state before the damage.
fn furthest(source: &Source, place: Option<Place>) -> Result<StateAt, Failure> {
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
    let mut reached = snapshot.unwrap_or(0);
    let damage = ahead_of(entries, |entries| {
        for entry in entries {
            let entry = match entry {
                Err(damage) if place.is_none() => return Ok(Some(damage.into())),
                entry => entry?,
            };
            if entry.index > index {
                break;
            }
            progress.reached(entry.index);
            if replay.admit(&entry) {
                replay.fold(&entry).map_err(Failure::in_record(entry.index))?;
            }
            reached = entry.index;
        }
        Ok::<_, Failure>(None)
    })?;
    let index = if damage.is_some() { reached } else { index };
    Ok(StateAt { replay, index, snapshot, damage })
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

/// Where to begin to read so that what happened from `from` on can be told: behind the newest snapshot before it that
/// `resume` takes, so that not all of a long history is read; else as [`oldest`]. The first index to read, and the index up
/// to which what happened is known by its outcome only.
///
/// # Errors
/// As [`oldest`].
pub(crate) fn begin_before(
    source: &Source,
    from: u64,
    mut resume: impl FnMut(&mut dyn Read) -> Result<(), String>,
) -> Result<(u64, u64), Failure> {
    let begins_at = source.begins_at()?;
    if let Some(before) = from.checked_sub(1).filter(|before| *before >= begins_at) {
        for snapshot in source.snapshots(before)? {
            let content = source.open_snapshot(&snapshot).map_err(|error| event_log::sentence(&error));
            if content.and_then(|mut content| resume(&mut *content)).is_ok() {
                return Ok((snapshot.index + 1, 0));
            }
        }
    }
    let gone = oldest(source, resume)?;
    // Entries that an archive or a log still has before that snapshot can be shown, if not all that they meant.
    Ok((begins_at, gone))
}

/// Says what is not there of what was asked for: history may have holes, and begin late.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn tell_holes(source: &Source, from: u64, to: u64) -> Result<(), Failure> {
    let begins_at = source.begins_at()?;
    let missing = source.holes()?.into_iter().filter(|hole| *hole.start() <= to && *hole.end() >= from);
    for hole in missing {
        let (first, last) = (hole.start(), hole.end());
        eprintln!(
            "meseta-log: what happened from index {first} to {last} is not in this log: a snapshot took its place"
        );
    }
    if from < begins_at && source.holes()?.is_empty() && source.kind() == Kind::Master {
        eprintln!("meseta-log: what happened up to index {} is known by its outcome only", begins_at - 1);
    }
    Ok(())
}

/// Where a walk begins and ends: the indexes of two places.
///
/// # Errors
/// A wrong order, or a beginning behind the end of the log.
pub(crate) fn span(args: &Args, source: &Source) -> Result<(u64, u64), Failure> {
    let (from, to) = args.span()?;
    let last_index = source.last_index()?;
    let from_index = from.map_or(Ok(0), |from| source.first_at(from))?;
    let to_index = to.map_or(Ok(last_index), |to| source.index_of(to))?;
    let given = |name: &str| args.get(name).unwrap_or_default().to_owned();
    if from_index > last_index && from_index > 0 {
        let from = given("from");
        return Err(Failure::Damaged(format!("--from={from} is behind the end: the log ends at index {last_index}")));
    }
    if to.is_some() && from.is_some() && from_index > to_index {
        let (from, to) = (given("from"), given("to"));
        return Err(Usage(format!(
            "nothing happened from --from={from} to --to={to}: index {from_index} is after {to_index}"
        ))
        .into());
    }
    Ok((from_index, to_index.min(last_index)))
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
