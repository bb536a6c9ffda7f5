//! Every event for other programs: JSON lines, or CSV with the fields as one JSON column.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::cat::{Told, cause_of};
use crate::output::Output;
use crate::progress::Progress;
use crate::replay;
use crate::source::Source;
use serde_json::Value;
use std::io::Write;

const COLUMNS: &[&str] = &["index", "term", "n", "at_ms", "at", "event", "takes_effect", "fields"];
const CAUSE_COLUMNS: &[&str] = &["call", "principal", "peer", "request_id"];

/// `export [DIR]`
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let csv = match args.get("format") {
        None | Some("jsonl") => false,
        Some("csv") => true,
        Some(other) => return Err(Usage(format!("--format must be jsonl or csv, not {other:?}")).into()),
    };
    let source = Source::open(&args.dir()?)?;
    let mut replay = replay::begin(source.kind());
    let mut progress = Progress::beside_output("exporting", source.last_index()?);
    let out = output.writer();
    if csv {
        writeln!(out, "{},{}", COLUMNS.join(","), CAUSE_COLUMNS.join(","))?;
    }
    for entry in source.entries(0)? {
        let entry = entry?;
        progress.reached(entry.index);
        let takes_effect = replay.admit(&entry);
        let events = replay.show(&entry.record);
        let events = events.map_err(|why| Failure::Damaged(format!("the record at index {}: {why}", entry.index)))?;
        for (at, shown) in events.iter().enumerate() {
            let event = Told { entry: &entry, shown, cause: cause_of(&entry, at), takes_effect }.json();
            if csv { write_row(out, &event)? } else { writeln!(out, "{event}")? }
        }
    }
    Ok(())
}

fn write_row(out: &mut dyn Write, event: &Value) -> std::io::Result<()> {
    let columns = COLUMNS.iter().map(|column| &event[*column]);
    let cells = columns.chain(CAUSE_COLUMNS.iter().map(|column| &event["cause"][*column])).map(cell);
    writeln!(out, "{}", cells.collect::<Vec<_>>().join(","))
}

/// As RFC 4180 has it.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::cell;
    use serde_json::json;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let cells = [json!("a"), json!(7), json!(null), json!("a,b"), json!({"x": "y"})].map(|value| cell(&value));
        assert_eq!(cells, ["a", "7", "", "\"a,b\"", "\"{\"\"x\"\":\"\"y\"\"}\""]);
    }
}
