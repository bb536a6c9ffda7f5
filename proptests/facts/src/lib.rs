//! Facts about resources, the allocator, its sorters and offer constraints, one JSON object a line: what they mean is told
//! in `testdata/README.md`. Each is asked of the code that serves a cluster, with nothing around it.

mod allocator;
mod constraints;
mod resources;
mod sorter;

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};

/// What became of a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is so.
    Hold,
    /// It is otherwise, and how.
    Wrong(String),
    /// It could not be asked, and why.
    Cannot(String),
}

impl Outcome {
    /// The line that `facts` prints: `id`, `result` and `why`.
    pub fn line(&self, fact: &Value) -> Value {
        let (result, why) = match self {
            Self::Hold => ("hold", ""),
            Self::Wrong(why) => ("wrong", why.as_str()),
            Self::Cannot(why) => ("cannot", why.as_str()),
        };
        json!({ "id": fact["id"], "result": result, "why": why })
    }
}

/// What a step says under `key`; nothing, if that is no text.
fn text<'a>(step: &'a Value, key: &str) -> &'a str {
    step[key].as_str().unwrap_or_default()
}

/// A list of texts.
fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn wanted(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Outcome::Hold } else { Outcome::Wrong(otherwise()) }
}

/// Who can judge a fact, told by what it has.
fn judge_of(fact: &Value) -> fn(&Value) -> Outcome {
    let steps = fact["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    // What only a whole cluster can be asked.
    let over_http = ["http", "start_agent", "subscribe", "restart_master", "expect_json_empty"];
    if steps.iter().any(|step| over_http.iter().any(|op| step["op"] == *op)) || fact.get("master").is_some() {
        |_| Outcome::Cannot("it is about programs that talk over HTTP, and no program is started here".to_owned())
    } else if fact.get("sorter").is_some() {
        sorter::judge
    } else if fact.get("steps").is_some() {
        allocator::judge
    } else if fact.get("constraints").is_some() {
        constraints::judge
    } else if fact.get("op").is_some() {
        resources::judge
    } else {
        |_| Outcome::Cannot("it has neither steps nor constraints nor an op".to_owned())
    }
}

/// Asks one fact. A panic of the code that is asked is a wrong answer.
pub fn judge(fact: &Value) -> Outcome {
    let judge = judge_of(fact);
    catch_unwind(AssertUnwindSafe(|| judge(fact))).unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Outcome::Wrong(format!("it panics: {}", why.unwrap_or("without a word")))
    })
}

/// Asks one line of a file.
pub fn judge_line(line: &str) -> (Value, Outcome) {
    match serde_json::from_str(line) {
        Ok(fact) => {
            let outcome = judge(&fact);
            (fact, outcome)
        }
        Err(error) => (Value::Null, Outcome::Cannot(format!("the line is no JSON: {error}"))),
    }
}
