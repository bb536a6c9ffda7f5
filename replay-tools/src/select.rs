//! A part of a state by its path, and a question about it: `frameworks.live.count`, at least 3.

use crate::args::{Args, Usage};
use serde_json::Value;

/// What the path ends with when a number of entries is meant.
const COUNT: &str = "count";

/// The part of `tree` at a path of names and numbers joined by dots; none if there is no such part. A name may contain
/// dots itself: the longest one that fits counts. `count` is the number of entries of a list or map, or of the `live`
/// ones where a part has such.
pub(crate) fn select(tree: &Value, path: &str) -> Option<Value> {
    if path.is_empty() {
        return Some(tree.clone());
    }
    let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
    for end in ends.collect::<Vec<_>>().into_iter().rev() {
        let (name, rest) = (&path[..end], path[end..].strip_prefix('.').unwrap_or(""));
        let part = match tree {
            Value::Object(fields) => fields.get(name),
            Value::Array(items) => name.parse().ok().and_then(|at: usize| items.get(at)),
            _ => None,
        };
        if let Some(found) = part.and_then(|part| select(part, rest)) {
            return Some(found);
        }
    }
    if path == COUNT { count(tree) } else { None }
}

fn count(tree: &Value) -> Option<Value> {
    match tree {
        Value::Array(items) => Some(items.len().into()),
        Value::Object(fields) => match fields.get("live") {
            Some(live) => count(live),
            None => Some(fields.len().into()),
        },
        _ => None,
    }
}

/// What can be asked about a selected part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    /// Is it there, and not null?
    Exists,
    /// Is it this value? Numbers and texts are compared as they are written.
    Equals(String),
    /// Is it a number that is not less?
    AtLeast(i128),
    /// Is it a number that is not more?
    AtMost(i128),
}

impl Question {
    /// The one question that the flags ask; without any, whether the part is there.
    ///
    /// # Errors
    /// A [`Usage`] if there is more than one, or a bound is no number.
    pub(crate) fn new(args: &Args) -> Result<Question, Usage> {
        let bound = |name: &str| {
            let Some(text) = args.get(name) else { return Ok(None) };
            let bound = text.parse().map_err(|_| Usage(format!("--{name} must be a whole number, not {text:?}")))?;
            Ok(Some(bound))
        };
        let equals = args.get("equals").map(|text| Question::Equals(text.to_owned()));
        let asked = [equals, bound("at-least")?.map(Question::AtLeast), bound("at-most")?.map(Question::AtMost)];
        let mut asked = asked.into_iter().flatten();
        match (asked.next(), asked.next()) {
            (None, _) => Ok(Question::Exists),
            (Some(question), None) => Ok(question),
            (Some(_), Some(_)) => Err(Usage("one question is enough: --equals, --at-least or --at-most".into())),
        }
    }

    /// The answer for a part, or for its absence.
    pub(crate) fn holds(&self, part: Option<&Value>) -> bool {
        let Some(part) = part else { return matches!(self, Question::Equals(text) if text == "null") };
        let number = || part.as_i64().map(i128::from).or_else(|| part.as_u64().map(i128::from));
        match self {
            Question::Exists => !part.is_null(),
            Question::Equals(text) => match part.as_str() {
                Some(word) => word == text,
                None => {
                    let written = part.to_string();
                    written == *text
                }
            },
            Question::AtLeast(bound) => number().is_some_and(|number| number >= *bound),
            Question::AtMost(bound) => number().is_some_and(|number| number <= *bound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_finds_its_part() {
        let tree = json!({
            "frameworks": {"live": {"0": {"id": "C-0000"}, "2": {}}, "next": 3},
            "tasks": {"0/my.task": {"state": 1}, "0/my": {"other": 2}, "list": [5, {"a": null}]}
        });
        for (path, expected) in [
            ("frameworks.next", Some(json!(3))),
            ("frameworks.count", Some(json!(2))),
            ("frameworks.live.count", Some(json!(2))),
            ("frameworks.live.0.id", Some(json!("C-0000"))),
            ("tasks.0/my.task.state", Some(json!(1))),
            ("tasks.0/my.other", Some(json!(2))),
            ("tasks.list.0", Some(json!(5))),
            ("tasks.list.count", Some(json!(2))),
            ("tasks.list.2", None),
            ("frameworks.next.count", None),
            ("nothing", None),
        ] {
            assert_eq!(select(&tree, path), expected, "{path}");
        }
    }

    #[test]
    fn a_question_has_an_answer() {
        let equals = |text: &str| Question::Equals(text.into());
        assert!(equals("3").holds(Some(&json!(3))) && equals("3").holds(Some(&json!("3"))));
        assert!(equals("a b").holds(Some(&json!("a b"))) && !equals("a").holds(Some(&json!("a b"))));
        assert!(equals("null").holds(None) && !equals("3").holds(None));
        assert!(Question::AtLeast(3).holds(Some(&json!(3))) && !Question::AtLeast(4).holds(Some(&json!(3))));
        assert!(Question::AtMost(3).holds(Some(&json!(3))) && !Question::AtMost(3).holds(Some(&json!("x"))));
        assert!(Question::Exists.holds(Some(&json!(0))) && !Question::Exists.holds(Some(&Value::Null)));
    }
}
