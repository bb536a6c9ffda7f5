//! Every event for other programs: JSON lines, CSV with the fields as one JSON column, or Parquet. Whatever the length of
//! the log, only a part of it is in memory.

mod parquet;

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::cat::{Told, cause_of};
use crate::commands::state;
use crate::output::Output;
use crate::progress::Progress;
use crate::replay;
use crate::source::Source;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

const COLUMNS: &[&str] = &["index", "term", "n", "at_ms", "at", "event", "takes_effect", "fields"];
const CAUSE_COLUMNS: &[&str] = &["call", "principal", "peer", "request_id"];

/// Where events go, in one form.
trait Sink {
    /// One event, as `cat --json` shows it.
    fn event(&mut self, event: &Value) -> io::Result<()>;

    /// No more will come.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// `export [DIR]`
pub(crate) fn run(args: &Args, _: &mut Output) -> Result<(), Failure> {
    let format = args.get("format").unwrap_or("jsonl");
    if !["jsonl", "csv", "parquet"].contains(&format) {
        return Err(Usage(format!("--format must be jsonl, csv or parquet, not {format:?}")).into());
    }
    let out = args.get("out");
    if format == "parquet" && out.is_none() && io::stdout().is_terminal() {
        return Err(Usage("Parquet is nothing for a terminal: name a file with --out=FILE".into()).into());
    }
    let source = Source::open(&args.dir()?)?;
    let (from, to) = state::span(args, &source)?;
    state::tell_holes(&source, from, to)?;
    let writer: Box<dyn Write + Send> = match out {
        Some(path) => Box::new(File::create(Path::new(path)).map_err(|error| Failure::File(path.to_owned(), error))?),
        None => Box::new(io::stdout()),
    };
    let writer = BufWriter::with_capacity(1 << 16, writer);
    let mut sink: Box<dyn Sink> = match format {
        "csv" => Box::new(Csv::new(writer)?),
        "parquet" => Box::new(parquet::Parquet::new(writer)?),
        _ => Box::new(JsonLines { writer }),
    };
    let mut replay = replay::begin(source.kind());
    // Where the beginning is gone, or not asked for, which records took effect is known from a snapshot on.
    let (first, unknown_to) = state::begin_before(&source, from, |content| replay.resume(content))?;
    let what = "exporting";
    let mut progress = if out.is_some() { Progress::new(what, to) } else { Progress::beside_output(what, to) };
    let damage = source.walk_to_damage(first, to, |entry| {
        progress.reached(entry.index);
        let takes_effect = entry.index <= unknown_to || replay.admit(&entry);
        if entry.index < from {
            return Ok(());
        }
        let events = replay.show(&entry).map_err(Failure::in_record(entry.index))?;
        for (at, shown) in events.iter().enumerate() {
            sink.event(&Told { entry: &entry, shown, cause: cause_of(&entry, at), takes_effect }.json())?;
        }
        Ok::<_, Failure>(())
    })?;
    sink.finish()?;
    damage.map_or(Ok(()), |damage| Err(damage.into()))
}

struct JsonLines<W> {
    writer: W,
}

impl<W: Write> Sink for JsonLines<W> {
    fn event(&mut self, event: &Value) -> io::Result<()> {
        // Names in a log are of strangers.
        writeln!(self.writer, "{}", api::terminal::json(&event.to_string()))
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.writer.flush()
    }
}

/// As RFC 4180 has it, but for line ends. What shows nothing on a terminal is escaped, in JSON as JSON has it.
struct Csv<W> {
    writer: W,
}

impl<W: Write> Csv<W> {
    fn new(mut writer: W) -> io::Result<Csv<W>> {
        writeln!(writer, "{},{}", COLUMNS.join(","), CAUSE_COLUMNS.join(","))?;
        Ok(Csv { writer })
    }
}

impl<W: Write> Sink for Csv<W> {
    fn event(&mut self, event: &Value) -> io::Result<()> {
        let columns = COLUMNS.iter().map(|column| &event[*column]);
        let cells = columns.chain(CAUSE_COLUMNS.iter().map(|column| &event["cause"][*column])).map(cell);
        writeln!(self.writer, "{}", cells.collect::<Vec<_>>().join(","))
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.writer.flush()
    }
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => api::terminal::plain(text).into_owned(),
        other => api::terminal::json(&other.to_string()).into_owned(),
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
        let cells = [json!("a\u{9b}\n"), json!({"x": "\u{202e}"})].map(|value| cell(&value));
        assert_eq!(cells, ["a\\x9b\\n", "\"{\"\"x\"\":\"\"\\u202e\"\"}\""]);
    }
}
