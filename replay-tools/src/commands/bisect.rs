//! The first index at which something is true of the state, or an invariant fails. Every record is looked at: what
//! became true and false again would escape whoever halves.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::cat::{Told, cause_of};
use crate::commands::{diff, state};
use crate::output::{Output, time};
use crate::place::Place;
use crate::progress::Progress;
use crate::replay::{self, Replay};
use crate::select::{Question, select};
use crate::source::{Entry, Source};
use serde_json::{Value, json};

/// `bisect [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let path = args.get("select");
    let question = Question::new(args)?;
    if path.is_none() && question != Question::Exists {
        return Err(Usage("a question needs its part of the state: --select=PATH".into()).into());
    }
    let (from, to) = args.span()?;
    let source = Source::open(&args.dir()?)?;
    let last_index = source.last_index()?;
    let to = to.map_or(Ok(last_index), |to| source.index_of(to))?.min(last_index);
    let mut replay = replay::begin(source.kind());
    let gone = state::oldest(&source, |content| replay.resume(content))?;
    let mut progress = Progress::new("looking", to);
    // Of the state that the first record which is asked about finds.
    let mut asked = gone == 0 && from.is_none();
    let found_at = source.walk(if gone > 0 { gone + 1 } else { 0 }, |entries| {
        for entry in entries {
            let entry = entry?;
            if entry.index > to {
                break;
            }
            progress.reached(entry.index);
            if !asked && !is_early(from, &entry) {
                asked = true;
                if found(&*replay, path, &question)?.is_some() {
                    return Err(already(path, entry.index));
                }
            }
            let in_entry = Failure::in_record(entry.index);
            if !replay.admit(&entry) {
                continue;
            }
            replay.fold(&entry).map_err(&in_entry)?;
            if is_early(from, &entry) {
                continue;
            }
            if let Some(found) = found(&*replay, path, &question)? {
                return Ok(Some((replay.show(&entry).map_err(in_entry)?, entry, found)));
            }
        }
        Ok::<_, Failure>(None)
    })?;
    drop(progress);
    if !asked && found(&*replay, path, &question)?.is_some() {
        return Err(already(path, gone + 1));
    }
    let Some((events, entry, found)) = found_at else {
        let what = path.map_or("no invariant fails".to_owned(), |path| format!("{path} never was so"));
        return Err(Failure::Damaged(format!("{what} up to index {to}")));
    };
    let told: Vec<Told<'_>> = events
        .iter()
        .enumerate()
        .map(|(at, shown)| Told { entry: &entry, shown, cause: cause_of(&entry, at), takes_effect: true })
        .collect();
    tell(&entry, path, &found, &told, output)
}

/// There is no first index to be found from `begins_at` on.
fn already(path: Option<&str>, begins_at: u64) -> Failure {
    let what = path.map_or("an invariant fails".to_owned(), |path| format!("{path} was so"));
    Failure::Damaged(format!("{what} already before index {begins_at}, where the search begins"))
}

fn is_early(from: Option<Place>, entry: &Entry) -> bool {
    match from {
        None => false,
        Some(Place::Index(from)) => entry.index < from,
        Some(Place::Time(from)) => entry.record.header.at_ms < from,
    }
}

/// What is so now; none if it is not.
fn found(replay: &dyn Replay, path: Option<&str>, question: &Question) -> Result<Option<Value>, Failure> {
    let Some(path) = path else {
        return Ok(replay.violations().into_iter().next().map(Value::from));
    };
    let part = select(&state::tree(replay)?, path);
    Ok(question.holds(part.as_ref()).then(|| part.unwrap_or(Value::Null)))
}

fn tell(
    entry: &Entry,
    path: Option<&str>,
    found: &Value,
    told: &[Told<'_>],
    output: &mut Output,
) -> Result<(), Failure> {
    let at = time(entry.record.header.at_ms);
    output.line(
        || {
            let found = match path {
                Some(path) => diff::plain(path, found),
                None => found.as_str().map_or_else(|| found.to_string(), str::to_owned),
            };
            let first = format!("first at index {}, {at}: {found}", entry.index);
            std::iter::once(first).chain(told.iter().map(Told::text)).collect::<Vec<_>>().join("\n")
        },
        || {
            let events: Vec<_> = told.iter().map(Told::json).collect();
            json!({ "index": entry.index, "at": at, "value": found, "events": events })
        },
    )?;
    Ok(())
}
