//! The state after a record, and its digest.

use crate::Failure;
use crate::args::Args;
use crate::output::Output;
use crate::replay::{self, Replay};
use crate::source::Source;

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let index = args.number("at")?;
    let source = Source::open(&args.dir()?)?;
    let (replay, index) = at(&source, index)?;
    let (indent, digest) = (!output.is_json(), replay.digest());
    let out = output.writer();
    let space = if indent { "\n " } else { "" };
    write!(out, "{{{space}\"index\":{index},{space}\"digest\":\"{digest}\",{space}\"state\":")?;
    replay.render(out, indent)?;
    writeln!(out, "{}}}", if indent { "\n" } else { "" })?;
    Ok(())
}

/// The state after the record at `index` (or the last one before it), and the index it was asked for.
///
/// # Errors
/// The log is damaged, begins later or ends earlier.
pub(crate) fn at(source: &Source, index: Option<u64>) -> Result<(Box<dyn Replay>, u64), Failure> {
    let last_index = source.last_index()?;
    let index = index.unwrap_or(last_index);
    if index > last_index {
        return Err(Failure::Damaged(format!("the log ends at index {last_index}: there is no state at {index} yet")));
    }
    let mut replay = replay::begin(source.kind());
    for (place, entry) in source.entries(0)?.enumerate() {
        let entry = entry?;
        if entry.index > index {
            if place == 0 && source.is_shortened()? {
                let first = entry.index;
                return Err(Failure::Damaged(format!("the log was shortened and now begins at index {first}")));
            }
            break;
        }
        if replay.admit(&entry) {
            let folded = replay.fold(&entry);
            folded.map_err(|why| Failure::Damaged(format!("the record at index {}: {why}", entry.index)))?;
        }
    }
    Ok((replay, index))
}
