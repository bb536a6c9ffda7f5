//! What is different between two states: at two indexes of one log, or at the same index of two.

use crate::Failure;
use crate::args::{Args, Usage};
use crate::commands::state;
use crate::output::Output;
use crate::replay::Replay;
use crate::source::Source;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let [a, b, rest @ ..] = args.words.as_slice() else {
        return Err(Usage("diff what? Name two indexes and a folder, or two folders".into()).into());
    };
    let (before, after) = match (a.parse::<u64>(), b.parse::<u64>(), rest) {
        (Ok(a), Ok(b), [] | [_]) => {
            let source = Source::open(&rest.first().map_or(PathBuf::from("."), PathBuf::from))?;
            (state::at(&source, Some(a))?.0, state::at(&source, Some(b))?.0)
        }
        (_, _, []) => {
            let (a, b) = (Source::open(Path::new(a))?, Source::open(Path::new(b))?);
            let common = a.last_index()?.min(b.last_index()?);
            let index = args.number("at")?.unwrap_or(common);
            (state::at(&a, Some(index))?.0, state::at(&b, Some(index))?.0)
        }
        _ => return Err(Usage("diff takes two indexes and a folder, or two folders".into()).into()),
    };
    let (before, after) = (tree(&*before)?, tree(&*after)?);
    compare(&before, &after, "", output)
}

fn tree(replay: &dyn Replay) -> Result<Value, Failure> {
    let mut text = Vec::new();
    replay.render(&mut text, false)?;
    serde_json::from_slice(&text).map_err(|error| Failure::Damaged(format!("the state has no JSON form: {error}")))
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
