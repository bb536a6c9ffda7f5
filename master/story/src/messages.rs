//! What the messages of the wire say that events carry: who a framework is, what a task runs. Values of environment
//! variables, secrets and data of frameworks' own are left out: a log is read by more people than may know them.

use api::v1;
use api::wire::Wire;
use prost::Message;
use serde_json::Value;

/// Which message some bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `FrameworkInfo`
    Framework,
    /// `TaskInfo`
    Task,
    /// `AgentInfo`
    Agent,
    /// `ExecutorInfo`
    Executor,
    /// `TaskStatus`
    Status,
}

impl Kind {
    /// Of a field of a struct of either state.
    pub fn of_field(owner: &str, field: &str) -> Option<Kind> {
        match (owner, field) {
            (_, "status" | "statuses") => Some(Kind::Status),
            ("Framework", "info") => Some(Kind::Framework),
            ("Task", "info") => Some(Kind::Task),
            ("Agent", "info") => Some(Kind::Agent),
            ("Executor", "info") => Some(Kind::Executor),
            _ => None,
        }
    }
}

/// The message as JSON, without what may be secret; none if it is no such message.
pub fn json(kind: Kind, bytes: &[u8]) -> Option<Value> {
    fn of<M: Message + Default + Wire>(bytes: &[u8]) -> Option<Value> {
        Some(api::json::to_value(&M::decode(bytes).ok()?))
    }
    let mut value = match kind {
        Kind::Framework => of::<v1::FrameworkInfo>(bytes),
        Kind::Task => of::<v1::TaskInfo>(bytes),
        Kind::Agent => of::<v1::AgentInfo>(bytes),
        Kind::Executor => of::<v1::ExecutorInfo>(bytes),
        Kind::Status => of::<v1::TaskStatus>(bytes),
    }?;
    leave_out(&mut value);
    Some(value)
}

const LEFT_OUT: &str = "(left out)";

fn leave_out(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &mut *value) {
                    ("data", Value::String(text)) => *text = LEFT_OUT.to_owned(),
                    ("secret" | "credential" | "credentials", value) => *value = LEFT_OUT.into(),
                    ("environment", Value::Object(environment)) => {
                        for variable in environment.values_mut().filter_map(Value::as_array_mut).flatten() {
                            leave_out_value(variable);
                        }
                    }
                    // What docker is told may hold variables too.
                    ("parameters", Value::Array(parameters)) => parameters.iter_mut().for_each(leave_out_value),
                    (_, value) => leave_out(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out),
        _ => {}
    }
}

/// The name stays.
fn leave_out_value(variable: &mut Value) {
    let Value::Object(fields) = variable else { return };
    for (name, value) in fields.iter_mut() {
        if matches!(name.as_str(), "value" | "secret") {
            *value = LEFT_OUT.into();
        }
    }
}

/// The same as fields of an event: what people ask for first.
pub fn fields(kind: Kind, bytes: &[u8]) -> Vec<(String, String)> {
    let Some(value) = json(kind, bytes) else { return Vec::new() };
    let mut fields = Vec::new();
    let mut add = |name: &str, text: Option<String>| {
        fields.extend(text.filter(|text| !text.is_empty()).map(|text| (name.to_owned(), word(&cut(text)))));
    };
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    match kind {
        Kind::Framework => {
            ["name", "user", "hostname", "principal"].iter().for_each(|name| add(name, text(name)));
        }
        Kind::Task => {
            add("name", text("name"));
            add_command(&mut add, &value["command"]);
            if value["executor"].is_object() {
                add("executor_id", value["executor"]["executor_id"]["value"].as_str().map(str::to_owned));
                add_command(&mut add, &value["executor"]["command"]);
            }
        }
        Kind::Executor => {
            add("name", text("name"));
            add_command(&mut add, &value["command"]);
        }
        Kind::Status => {
            ["source", "reason", "message"].iter().for_each(|name| add(name, text(name)));
        }
        Kind::Agent => {}
    }
    add("labels", labels(&value["labels"]));
    fields
}

/// `command "echo hello" as root`, of a task or of the executor that it brings; none if neither is told.
pub fn command_of_task(bytes: &[u8]) -> Option<String> {
    let task = json(Kind::Task, bytes)?;
    let command = [&task["command"], &task["executor"]["command"]].into_iter().find(|it| it.is_object())?;
    let user = command["user"].as_str().map_or_else(String::new, |user| format!(" as {user}"));
    Some(format!("command {:?}{user}", cut(command_line(command)?)))
}

fn add_command(add: &mut impl FnMut(&str, Option<String>), command: &Value) {
    add("command", command_line(command));
    add("user", command["user"].as_str().map(str::to_owned));
    let variables = command["environment"]["variables"].as_array().into_iter().flatten();
    let names: Vec<&str> = variables.filter_map(|variable| variable["name"].as_str()).collect();
    add("environment", (!names.is_empty()).then(|| names.join(",")));
}

/// As a shell would be given it, or the words of a program.
fn command_line(command: &Value) -> Option<String> {
    let value = command["value"].as_str()?;
    if command["shell"] != false {
        return Some(value.to_owned());
    }
    let arguments = command["arguments"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let arguments: Vec<&str> = arguments.collect();
    // By custom the first is the program itself.
    Some(if arguments.is_empty() { value.to_owned() } else { arguments.join(" ") })
}

fn labels(labels: &Value) -> Option<String> {
    let labels = labels["labels"].as_array()?.iter();
    let pair = |label: &Value| Some(format!("{}:{}", label["key"].as_str()?, label["value"].as_str().unwrap_or("")));
    Some(labels.filter_map(pair).collect::<Vec<_>>().join(","))
}

/// A script may be as long as a program: its beginning tells which it is. `state` has all of it.
fn cut(text: String) -> String {
    match text.char_indices().nth(LETTERS_MAX) {
        Some((at, _)) => format!("{}... ({} more)", &text[..at], text.len() - at),
        None => text,
    }
}

const LETTERS_MAX: usize = 500;

/// As it is, or quoted if it would not stay one word.
fn word(text: &str) -> String {
    let is_word = !text.contains([' ', '"', '\\', '=']) && api::terminal::plain(text) == text;
    if is_word { text.to_owned() } else { api::terminal::json(&Value::from(text).to_string()).into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn task() -> Vec<u8> {
        let task = json!({"name": "n", "task_id": {"value": "t"}, "agent_id": {"value": "a"}, "data": "c2VjcmV0",
            "labels": {"labels": [{"key": "k", "value": "v"}]},
            "command": {"value": "echo \u{1b} $A", "user": "root", "environment": {"variables": [
                {"name": "A", "value": "hunter2"}, {"name": "B", "type": "SECRET",
                    "secret": {"type": "VALUE", "value": {"data": "aHVudGVyMg=="}}}]}}});
        api::json::from_value::<v1::TaskInfo>(&task).expect("a task").encode_to_vec()
    }

    #[test]
    fn what_ran_is_told_without_secrets() {
        let told = json(Kind::Task, &task()).expect("a task").to_string();
        assert!(!told.contains("hunter2") && !told.contains("aHVu") && !told.contains("c2Vj"), "{told}");
        let fields = fields(Kind::Task, &task());
        let shown: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = ["name=n", r#"command="echo \u001b $A""#, "user=root", "environment=A,B", "labels=k:v"];
        assert_eq!(shown, expected);
        assert_eq!(command_of_task(&task()).as_deref(), Some(r#"command "echo \u{1b} $A" as root"#));
        assert_eq!(json(Kind::Task, b"\xff"), None);
    }
}
