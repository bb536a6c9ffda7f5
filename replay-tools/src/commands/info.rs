//! Whose log it is and how far it goes.

use crate::Failure;
use crate::args::Args;
use crate::output::{Output, time};
use crate::source::Source;
use serde_json::{Map, Value};

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let source = Source::open(&args.dir()?)?;
    let mut facts: Vec<(String, Value)> = vec![("kind".into(), source.kind().name().into())];
    facts.push(("dir".into(), source.dir().display().to_string().into()));
    facts.extend(source.facts()?.into_iter().map(|(name, value)| (name.to_owned(), value)));
    if let Some(first) = source.entries(0)?.next() {
        let first = first?;
        facts.push(("first_index".into(), first.index.into()));
        facts.push(("first_at".into(), time(first.record.header.at_ms).into()));
    }
    facts.push(("last_index".into(), source.last_index()?.into()));
    output.line(
        || {
            let lines = facts.iter().map(|(name, value)| format!("{:<16} {}", name.replace('_', " "), plain(value)));
            lines.collect::<Vec<_>>().join("\n")
        },
        || Value::Object(facts.iter().cloned().collect::<Map<_, _>>()),
    )?;
    Ok(())
}

/// For people: what is listed is a line each, indented under the first, and nothing is a dash.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        // A range.
        Value::Array(items) if items.iter().all(Value::is_u64) => {
            items.iter().map(plain).collect::<Vec<_>>().join(" to ")
        }
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(&format!("\n{:17}", "")),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}
