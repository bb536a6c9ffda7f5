//! What may be shown to strangers of what frameworks and operators entrusted to a cluster: its shape, and not what programs
//! are told, what they say, or what they prove themselves with. Names stay; values go.

use serde_json::{Value, json};

/// What stands in place of what was taken out.
pub const REDACTED: &str = "[redacted]";

/// Names of flags whose values are secrets, or may hold them.
const SECRET_FLAGS: &[&str] =
    &["acls", "executor_environment_variables", "cluster_secret", "modules", "default_container_info"];

/// Takes out of a message in JSON, or of anything that is made of such messages: values of environment variables and
/// labels, commands, secrets, data, parameters of containers, what identifies a user in a URI.
pub fn message(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(message),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                field(name, value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn field(name: &str, value: &mut Value) {
    match (name, &mut *value) {
        // Of a task, an executor, a status, a message; of a secret it must be there.
        ("data", Value::String(_)) => *value = json!(""),
        ("environment", _) => environment(value),
        ("labels", _) => values_of(value),
        ("parameters", _) => values_of(value),
        // Reservations are told from each other by their labels.
        ("reservations" | "reservation", _) => {}
        ("command", Value::Object(command)) => {
            for (name, part) in command.iter_mut() {
                match name.as_str() {
                    "value" if part.is_string() => *part = json!(REDACTED),
                    "arguments" | "argv" => *part = json!([]),
                    "uris" => uris(part),
                    name => field(name, part),
                }
            }
        }
        // As text, in version 0.
        ("command", Value::String(_)) => *value = json!(REDACTED),
        ("flags", Value::Object(all)) => {
            for (name, value) in all.iter_mut().filter(|(name, _)| SECRET_FLAGS.contains(&name.as_str())) {
                let _ = name;
                *value = json!(REDACTED);
            }
        }
        ("webui_url" | "url" | "uri", Value::String(text)) => *text = uri(text),
        ("message" | "reason", Value::String(_)) => {}
        _ => message(value),
    }
}

/// `{"variables": [{"name", "value"}]}`, or an object of names and values.
fn environment(value: &mut Value) {
    match value {
        Value::Object(fields) if fields.get("variables").is_some_and(Value::is_array) => {
            for variable in fields["variables"].as_array_mut().into_iter().flatten() {
                let Value::Object(variable) = variable else { continue };
                variable.remove("secret");
                variable.remove("type");
                variable.insert("value".into(), json!(REDACTED));
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(|value| *value = json!(REDACTED)),
        _ => message(value),
    }
}

/// `[{"key", "value"}]`, in a list or below a name.
fn values_of(value: &mut Value) {
    match value {
        Value::Array(pairs) => {
            for pair in pairs {
                match pair.get_mut("value") {
                    Some(value) => *value = json!(REDACTED),
                    None => message(pair),
                }
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(values_of),
        _ => {}
    }
}

fn uris(value: &mut Value) {
    for one in value.as_array_mut().into_iter().flatten() {
        if let Some(Value::String(text)) = one.get_mut("value") {
            *text = uri(text);
        }
    }
}

/// Without what is before an `@` in its authority, and what is behind a `?` or `#`.
fn uri(text: &str) -> String {
    let bare = text.split(['?', '#']).next().unwrap_or_default();
    match bare.split_once("://") {
        None => bare.to_owned(),
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn values_go_and_names_stay() {
        let mut task = json!({
            "name": "t", "task_id": {"value": "t1"}, "agent_id": {"value": "a"},
            "data": "aHVudGVyMg==",
            "labels": {"labels": [{"key": "team", "value": "hunter2"}]},
            "command": {
                "value": "run --password=hunter2", "arguments": ["run", "hunter2"],
                "environment": {"variables": [
                    {"name": "PASSWORD", "value": "hunter2"},
                    {"name": "KEY", "type": "SECRET", "secret": {"type": "VALUE", "value": {"data": "aHVudGVyMg=="}}}]},
                "uris": [{"value": "https://me:hunter2@h:8/a.tgz?sig=hunter2"}],
            },
            "health_check": {"type": "COMMAND", "command": {"value": "curl hunter2"}},
            "container": {
                "type": "DOCKER",
                "docker": {"image": "i", "parameters": [{"key": "env", "value": "hunter2"}]},
                "volumes": [{"mode": "RW", "container_path": "p", "source": {"type": "SECRET",
                    "secret": {"type": "VALUE", "value": {"data": "aHVudGVyMg=="}}}}],
            },
        });
        message(&mut task);
        let text = task.to_string();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
        for kept in ["PASSWORD", "KEY", "team", "https://h:8/a.tgz", "\"t1\""] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        let read: v1::TaskInfo = crate::json::from_value(&task).expect("it is still a task");
        assert_eq!(read.command.unwrap().value(), REDACTED);
    }

    #[test]
    fn what_masters_show_is_made_of_the_same() {
        let mut state = json!({
            "frameworks": [{"webui_url": "http://u:p@h/x?token=p", "labels": [{"key": "k", "value": "hunter2"}],
                "tasks": [{"statuses": [{"labels": [{"key": "k", "value": "hunter2"}]}], "state": "TASK_RUNNING"}]}],
            "flags": {"acls": "{\"hunter2\": 1}", "work_dir": "/d"},
            "executor": {"command": {"argv": ["hunter2"], "value": "hunter2"}},
        });
        message(&mut state);
        let text = state.to_string();
        assert!(!text.contains("hunter2") && text.contains("http://h/x") && text.contains("TASK_RUNNING"), "{text}");
        assert_eq!(state["flags"]["work_dir"], "/d");
    }
}
