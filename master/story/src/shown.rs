//! Events of either log as people see them: a name, and fields with their values.

use serde_json::{Map, Value};
use std::fmt;

/// One event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// In small letters, words joined by dashes.
    pub name: String,
    /// In the order of their declaration.
    pub fields: Vec<(String, String)>,
    /// What it concerns.
    pub touches: Touches,
}

/// What an event concerns, by the names that people use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Touches {
    /// Ids of tasks, each also as `FRAMEWORK/ID`.
    pub tasks: Vec<String>,
    /// Agents.
    pub agents: Vec<String>,
    /// Frameworks.
    pub frameworks: Vec<String>,
    /// Offers.
    pub offers: Vec<String>,
    /// Roles.
    pub roles: Vec<String>,
}

impl Shown {
    /// From `name field=value ...`, where a value has spaces only within quotes.
    pub fn from_display(text: &str) -> Shown {
        let mut words = split(text, ' ').into_iter();
        let name = words.next().unwrap_or_default();
        let mut fields: Vec<(String, String)> = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some((field, value)) => fields.push((field.to_owned(), value.to_owned())),
                None => {
                    if let Some((_, value)) = fields.last_mut() {
                        value.push(' ');
                        value.push_str(&word);
                    }
                }
            }
        }
        Shown { name, fields, touches: Touches::default() }
    }

    /// From what `derive(Debug)` writes of a variant with named fields.
    pub fn from_debug(text: &str) -> Shown {
        let (name, rest) = text.split_once(" {").unwrap_or((text, ""));
        let rest = rest.strip_suffix('}').unwrap_or(rest).trim();
        let fields = split(rest, ',').into_iter().filter_map(|field| {
            let (field, value) = field.trim().split_once(": ")?;
            Some((field.to_owned(), plain(value)))
        });
        Shown { name: kebab(name), fields: fields.collect(), touches: Touches::default() }
    }

    /// Puts what a message says in the place of its size. One that cannot be read stays a size; what the event says itself
    /// is not said twice.
    pub fn say(&mut self, field: &str, says: Vec<(String, String)>) {
        let Some(at) = self.fields.iter().position(|(name, _)| name == field).filter(|_| !says.is_empty()) else {
            return;
        };
        self.fields.remove(at);
        let new = says.into_iter().filter(|(name, _)| self.get(name).is_none()).collect::<Vec<_>>();
        self.fields.splice(at..at, new);
    }

    /// The value of a field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_str())
    }

    /// The fields as a JSON object of texts.
    pub fn json(&self) -> Value {
        Value::Object(
            self.fields.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect::<Map<_, _>>(),
        )
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

/// The parts of `text` between `separator`s that are neither quoted nor in brackets.
fn split(text: &str, separator: char) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for letter in text.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ if letter == separator && depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(letter);
    }
    if !part.trim().is_empty() {
        parts.push(part);
    }
    parts
}

/// `Some(x)` is x, `None` is a dash, and a word needs no quotes.
fn plain(value: &str) -> String {
    if value == "None" {
        return "-".to_owned();
    }
    if let Some(inner) = value.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')) {
        return plain(inner);
    }
    let word = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match word {
        Some(word) if !word.is_empty() && !word.contains([' ', '\\', '"', '=']) => word.to_owned(),
        _ => value.replace(": ", ":").replace(", ", ",").replace(" {", "{").replace("{ ", "{").replace(" }", "}"),
    }
}

/// `TaskAdded` is `task-added`.
pub fn kebab(name: &str) -> String {
    let mut kebab = String::with_capacity(name.len() + 4);
    for (at, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    kebab
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_either_log_is_one_line() {
        let shown = Shown::from_display("task-updated task=F0/\"a b\" state=1 reason=\"x = y\" list=[S1,S2]");
        assert_eq!(shown.get("task"), Some("F0/\"a b\""));
        assert_eq!(shown.get("reason"), Some("\"x = y\""));
        assert_eq!(shown.to_string(), "task-updated task=F0/\"a b\" state=1 reason=\"x = y\" list=[S1,S2]");

        #[derive(Debug)]
        #[allow(dead_code)]
        enum Event {
            StatusWritten {
                task_id: String,
                executor_id: Option<String>,
                why: Option<u8>,
                ids: Vec<String>,
                pair: (u8, u8),
            },
            Left {},
        }
        let event = Event::StatusWritten {
            task_id: "t1".into(),
            executor_id: Some("an \"x\", {y}".into()),
            why: None,
            ids: vec!["a".into(), "b".into()],
            pair: (1, 2),
        };
        assert_eq!(
            Shown::from_debug(&format!("{event:?}")).to_string(),
            r#"status-written task_id=t1 executor_id="an \"x\",{y}" why=- ids=["a","b"] pair=(1,2)"#
        );
        assert_eq!(Shown::from_debug(&format!("{:?}", Event::Left {})).to_string(), "left");
    }
}
