//! `meseta tasks`: what runs and what ran, since when, where, and why it ended.

use std::collections::BTreeMap;

use api::flags::Values;
use api::resources::Resources;
use api::time::to_the_second;
use api::v1;
use serde_json::{Value, json};

use super::{line, list};
use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{self, Short, text};
use crate::sandbox::check_framework;
use crate::table;

/// Which tasks are wanted.
struct Wanted {
    tasks: Vec<String>,
    states: Vec<String>,
    framework: Option<String>,
}

pub(super) async fn run(masters: &[String], words: &[String], flags: &Values) -> Result<String, Error> {
    let wanted = Wanted::new(words, flags)?;
    if flags.bool("json") {
        let mut answer = http::get_json(masters, "/master/tasks?limit=1000000&order=asc").await?;
        wanted.check(masters, list(&answer["tasks"]).iter().map(Known::of_list)).await?;
        if let Some(tasks) = answer["tasks"].as_array_mut() {
            tasks.retain(|task| wanted.has(&Known::of_list(task)));
        }
        return Ok(line(&answer));
    }
    // First, since an agent would answer the next call, too, with what it has.
    let hosts = hosts(masters).await?;
    // Of all endpoints this one has what was said with each status.
    let answer = http::read_json(masters, &Request::post("/api/v1", &json!({"type": "GET_TASKS"}))).await?;
    let kinds = ["pending_tasks", "tasks", "unreachable_tasks", "completed_tasks", "orphan_tasks"];
    let mut tasks: Vec<&Value> = kinds.iter().flat_map(|kind| list(&answer["get_tasks"][kind])).collect();
    tasks.sort_by(|a, b| first_time(a).total_cmp(&first_time(b)));
    wanted.check(masters, tasks.iter().map(|task| Known::of_call(task))).await?;
    tasks.retain(|task| wanted.has(&Known::of_call(task)));
    Ok(shown(&tasks, &hosts, flags.bool("full")))
}

impl Wanted {
    fn new(words: &[String], flags: &Values) -> Result<Wanted, Error> {
        let mut states = Vec::new();
        for word in flags.text("state").unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let upper = word.to_uppercase();
            let name = if upper.starts_with("TASK_") { upper } else { format!("TASK_{upper}") };
            if v1::TaskState::from_str_name(&name).is_none() {
                let names: Vec<&str> =
                    (0..64).filter_map(|n| v1::TaskState::try_from(n).ok()).map(|it| it.as_str_name()).collect();
                let hint = api::nearest::did_you_mean(names, &name).replace('"', "'");
                return Err(Error::Usage(format!("--state={word}: there is no state '{name}'{hint}")));
            }
            states.push(name);
        }
        Ok(Wanted { tasks: words.to_vec(), states, framework: flags.text("framework").map(str::to_owned) })
    }

    fn has(&self, task: &Known<'_>) -> bool {
        (self.tasks.is_empty() || self.tasks.iter().any(|wanted| task.is_called(wanted)))
            && (self.states.is_empty() || self.states.iter().any(|state| state == task.state))
            && self.framework.as_ref().is_none_or(|wanted| ids::is(wanted, task.framework))
    }

    /// Whether everybody who is named is known: an empty table would say that nothing of theirs runs.
    async fn check<'a>(&self, masters: &[String], all: impl Iterator<Item = Known<'a>>) -> Result<(), Error> {
        let all: Vec<Known<'_>> = all.collect();
        if let Some(wanted) = self.tasks.iter().find(|wanted| !all.iter().any(|task| task.is_called(wanted))) {
            let hint = api::nearest::did_you_mean(all.iter().map(|task| task.id), wanted);
            return Err(Error::Failed(format!("no task {wanted:?} is known{hint}")));
        }
        let Some(wanted) = self.framework.as_ref() else { return Ok(()) };
        if all.iter().any(|task| ids::is(wanted, task.framework)) {
            return Ok(());
        }
        check_framework(masters, wanted).await
    }
}

/// What is asked of a task, whichever endpoint told of it.
struct Known<'a> {
    id: &'a str,
    framework: &'a str,
    state: &'a str,
}

impl<'a> Known<'a> {
    fn of_list(task: &'a Value) -> Known<'a> {
        Known { id: text(&task["id"]), framework: text(&task["framework_id"]), state: text(&task["state"]) }
    }

    fn of_call(task: &'a Value) -> Known<'a> {
        let value = |name: &str| text(&task[name]["value"]);
        Known { id: value("task_id"), framework: value("framework_id"), state: text(&task["state"]) }
    }

    /// By its id, or by `FRAMEWORK/ID`.
    fn is_called(&self, wanted: &str) -> bool {
        self.id == wanted
            || wanted
                .strip_suffix(self.id)
                .and_then(|rest| rest.strip_suffix('/'))
                .is_some_and(|framework| ids::is(framework, self.framework))
    }
}

/// Agents by their ids, those that are away too.
async fn hosts(masters: &[String]) -> Result<BTreeMap<String, String>, Error> {
    let slaves = http::get_json(masters, "/master/slaves").await?;
    let away = super::away(masters).await;
    let all = list(&away["agents"]).iter().chain(list(&slaves["slaves"]));
    Ok(all.map(|agent| (text(&agent["id"]).to_owned(), text(&agent["hostname"]).to_owned())).collect())
}

fn shown(tasks: &[&Value], hosts: &BTreeMap<String, String>, full: bool) -> String {
    let value = |task: &Value, name: &str| text(&task[name]["value"]).to_owned();
    let ids: Vec<String> =
        tasks.iter().flat_map(|task| [value(task, "agent_id"), value(task, "framework_id")]).collect();
    let short = Short::of(ids.iter().map(String::as_str), full);
    // Most tasks are called as their ids are.
    let named = tasks.iter().any(|task| text(&task["name"]) != value(task, "task_id"));
    let mut heading = vec!["ID", "STATE", "SINCE", "HOST", "AGENT", "FRAMEWORK", "RESOURCES"];
    if named {
        heading.push("NAME");
    }
    heading.push("SAID");
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .map(|task| {
            let agent = value(task, "agent_id");
            let last = list(&task["statuses"]).last().unwrap_or(&Value::Null);
            let at = last["timestamp"].as_f64();
            let mut row = vec![
                value(task, "task_id"),
                text(&task["state"]).to_owned(),
                at.map_or("-".to_owned(), |seconds| to_the_second((seconds.max(0.0) * 1000.0) as u64)),
                hosts.get(&agent).cloned().unwrap_or_else(|| "-".to_owned()),
                short.id(&agent),
                short.id(&value(task, "framework_id")),
                resources(&task["resources"]),
            ];
            if named {
                row.push(text(&task["name"]).to_owned());
            }
            row.push(said(last, full));
            row
        })
        .collect();
    table::render_with(&heading, &rows, &short.heading())
}

/// The message of a status; its reason where there is none, or as well.
fn said(status: &Value, full: bool) -> String {
    let (message, reason) = (text(&status["message"]), text(&status["reason"]));
    match (message, reason) {
        ("", reason) => reason.to_owned(),
        (message, "") => message.to_owned(),
        (message, reason) if full => format!("{reason}: {message}"),
        (message, _) => message.to_owned(),
    }
}

/// `cpus:0.1;mem:32`
fn resources(value: &Value) -> String {
    let messages: Result<Vec<v1::Resource>, _> = list(value).iter().map(api::json::from_value).collect();
    let read = messages.ok().and_then(|messages| Resources::from_v1(&messages).ok()).unwrap_or_default();
    read.unallocate().to_string().replace("; ", ";")
}

fn first_time(task: &Value) -> f64 {
    list(&task["statuses"]).first().and_then(|status| status["timestamp"].as_f64()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_its_time_its_place_and_its_reason() {
        const C: &str = "406fbaac-1d9f-4e32-a562-d48f86141d3c";
        let task = json!({"task_id": {"value": "t1"}, "name": "t1", "state": "TASK_FAILED",
            "agent_id": {"value": format!("{C}-S0")}, "framework_id": {"value": format!("{C}-0010")},
            "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
                {"name": "mem", "type": "SCALAR", "scalar": {"value": 32.0}}],
            "statuses": [{"state": "TASK_RUNNING", "timestamp": 1.0}, {"state": "TASK_FAILED", "timestamp": 2.5,
                "message": "Command exited\nwith status 3", "reason": "REASON_COMMAND_EXECUTOR_FAILED"}]});
        let hosts = BTreeMap::from([(format!("{C}-S0"), "box".to_owned())]);
        let told = shown(&[&task], &hosts, false);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 2, "{told}");
        assert!(lines[0].ends_with(&format!("SAID  [ids: {C}-ID]")), "{told}");
        assert!(lines[1].starts_with("t1  TASK_FAILED  1970-01-01T00:00:02Z"), "{told}");
        let end = "  box   S0     0010       cpus:0.1;mem:32  Command exited\\nwith status 3";
        assert!(lines[1].ends_with(end), "{told}");
        assert!(shown(&[&task], &hosts, true).contains("REASON_COMMAND_EXECUTOR_FAILED: Command"));
        assert!(Known::of_call(&task).is_called("0010/t1") && !Known::of_call(&task).is_called("0011/t1"));
    }
}
