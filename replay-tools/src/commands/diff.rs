//! What is different between two states: at two indexes of one log, or at the same index of two.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::state;
use crate::output::Output;
use crate::place::Place;
use crate::source::Source;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let [a, b, rest @ ..] = args.words.as_slice() else {
        return Err(Usage("diff what? Name two indexes or times and a folder, or two folders".into()).into());
    };
    let (before, after) = match (Place::parse(a), Place::parse(b), rest) {
        (Some(a), Some(b), [] | [_]) => {
            let source = Source::open(&rest.first().map_or(PathBuf::from("."), PathBuf::from))?;
            (state::at(&source, Some(a))?.replay, state::at(&source, Some(b))?.replay)
        }
        (_, _, []) => {
            let (a, b) = (Source::open(Path::new(a))?, Source::open(Path::new(b))?);
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
                    (Value::Null, new) => format!("+ {path} = {new}"),
                    (old, Value::Null) => format!("- {path} = {old}"),
                    (old, new) => format!("~ {path}: {old} -> {new}"),
                },
                || json!({ "path": path, "before": before, "after": after }),
            )?;
            Ok(())
        }
    }
}
