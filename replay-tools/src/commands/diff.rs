//! What is different between two states: at two indexes of one log, or at the same index of two.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::state;
use crate::output::{Output, time};
use crate::place::{Edge, Place};
use crate::source::Source;
use crate::story::phrase::task_state;
use api::resources::Resources;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let [a, b, rest @ ..] = args.words.as_slice() else {
        return Err(Usage("diff what? Name two indexes or times and a folder, or two folders".into()).into());
    };
    let (before, after) = match (Place::parse(a, Edge::End), Place::parse(b, Edge::End), rest) {
        (Some(a), Some(b), [] | [_]) => {
            let source = Source::open(&rest.first().map_or(PathBuf::from("."), PathBuf::from))?;
            (state::at(&source, Some(a))?.replay, state::at(&source, Some(b))?.replay)
        }
        (_, _, []) => {
            let (a, b) = (Source::open(Path::new(a))?, Source::open(Path::new(b))?);
            if a.kind() != b.kind() {
                let (a, b) = (a.kind().with_article(), b.kind().with_article());
                return Err(Usage(format!(
                    "one is the log of {a}, the other that of {b}: they have nothing to compare"
                ))
                .into());
            }
            let common = a.last_index()?.min(b.last_index()?);
            let place = args.place("at")?.unwrap_or(Place::Index(common));
            (state::at(&a, Some(place))?.replay, state::at(&b, Some(place))?.replay)
        }
        _ => return Err(Usage("diff takes two indexes or times and a folder, or two folders".into()).into()),
    };
    let (before, after) = (state::tree(&*before)?, state::tree(&*after)?);
    compare(&before, &after, "", output)
}

fn compare(before: &Value, after: &Value, path: &str, output: &mut Output) -> Result<(), Failure> {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                compare(value, new.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"), output)?;
            }
            for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                compare(&Value::Null, value, &format!("{path}.{name}"), output)?;
            }
            Ok(())
        }
        _ if before == after => Ok(()),
        _ => {
            let path = path.trim_start_matches('.');
            output.line(
                || match (before, after) {
                    (Value::Null, new) => format!("+ {path} = {}", plain(path, new)),
                    (old, Value::Null) => format!("- {path} = {}", plain(path, old)),
                    (old, new) => format!("~ {path}: {} -> {}", plain(path, old), plain(path, new)),
                },
                || json!({ "path": path, "before": before, "after": after }),
            )?;
            Ok(())
        }
    }
}

/// The value at a path for people: times, states and resources by their names, protobuf by its size. Programs get all of it.
pub(crate) fn plain(path: &str, value: &Value) -> String {
    let field = path.rsplit('.').next().unwrap_or(path);
    match value {
        Value::Number(number) => {
            let number = number.as_u64();
            match number.filter(|at_ms| field.ends_with("_ms") && *at_ms > TIMES_FROM_MS) {
                Some(at_ms) => time(at_ms),
                None if field == "state" && path.starts_with("tasks.") => {
                    number.and_then(|number| number.try_into().ok()).map_or_else(|| value.to_string(), task_state)
                }
                None => value.to_string(),
            }
        }
        Value::String(text) if text.len() > HEX_DIGITS_MAX && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            format!("({} bytes)", text.len() / 2)
        }
        Value::Array(_) => match serde_json::from_value::<Resources>(value.clone()) {
            Ok(resources) if !resources.is_empty() => resources.to_string(),
            _ => inner(path, value),
        },
        Value::Object(_) => inner(path, value),
        _ => value.to_string(),
    }
}

fn inner(path: &str, value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| plain(path, item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{name}: {}", plain(&format!("{path}.{name}"), value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// Smaller numbers of milliseconds are spans, not times.
const TIMES_FROM_MS: u64 = 1_000_000_000_000;
/// Longer runs of hexadecimal digits are messages, not ids.
const HEX_DIGITS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::plain;
    use serde_json::json;

    #[test]
    fn people_read_names_not_numbers() {
        let cpus = json!([{
            "reservations": [], "name": "Cpus", "allocation_role": "web", "provider_id": null, "disk": null,
            "revocable": false, "shared": false, "value": {"Scalar": 1500}, "copies": 1
        }]);
        for (path, value, expected) in [
            ("agents.live.0.since_ms", json!(1_795_216_408_419_u64), "2026-11-20T23:13:28.419Z"),
            ("frameworks.live.0.failover_timeout_ms", json!(60_000), "60000"),
            ("tasks.live.0/t1.state", json!(1), "TASK_RUNNING"),
            ("agents.live.0.used", cpus, "cpus(allocated: web):1.5"),
            ("tasks.live.0/t1.statuses", json!(["0a".repeat(40)]), "[(40 bytes)]"),
            ("agents.live.0.liveness", json!({"Unreachable": {"since_ms": 0}}), "{Unreachable: {since_ms: 0}}"),
            ("messages.up_to", json!(null), "null"),
        ] {
            assert_eq!(plain(path, &value), expected, "{path}");
        }
    }
}
