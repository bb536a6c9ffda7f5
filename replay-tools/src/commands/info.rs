//! Whose log it is and how far it goes.

use crate::Failure;
use crate::args::Args;
use crate::output::{Output, time};
use crate::replay;
use crate::source::Source;
use master_core::State;
use serde_json::{Map, Value, json};

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
    let last_index = source.last_index()?;
    facts.push(("last_index".into(), last_index.into()));
    let newest = source.snapshots(last_index)?.into_iter().next();
    // A snapshot alone is asked what is in it; for the rest of a log there is `state`.
    if let Some(newest) = newest.filter(|newest| newest.index == last_index) {
        let (_, state) =
            replay::read_master_snapshot(&mut *source.open_snapshot(&newest)?).map_err(Failure::Damaged)?;
        facts.extend(contents(&state).into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    output.line(
        || {
            let lines = facts.iter().map(|(name, value)| format!("{:<16} {}", name.replace('_', " "), plain(value)));
            lines.collect::<Vec<_>>().join("\n")
        },
        || Value::Object(facts.iter().cloned().collect::<Map<_, _>>()),
    )?;
    Ok(())
}

/// When the state is of, how much is in it, and whose it was.
fn contents(state: &State) -> Vec<(&'static str, Value)> {
    let masters = state.masters.values().map(|master| json!({ "address": *master.address }));
    vec![
        ("at", time(state.at_ms).into()),
        ("agents", state.agents.live.len().into()),
        ("frameworks", state.frameworks.live.len().into()),
        ("tasks", state.tasks.live.len().into()),
        ("masters", masters.collect()),
    ]
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
