//! `meseta state`, `agents`, `frameworks`, `tasks`, `roles`: what a master knows, for people and for programs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use serde_json::Value;

use crate::error::Error;
use crate::http;
use crate::say;
use crate::table;

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false"),
];

pub(crate) fn about(name: &str) -> &'static str {
    match name {
        "agents" => "The agents, and what they have and use.",
        "frameworks" => "The frameworks, and what they use.",
        "tasks" => "The tasks that a master remembers, newest last.",
        "roles" => "The roles, their frameworks, and what they use.",
        _ => "The cluster at a glance.",
    }
}

pub(crate) async fn run(name: &str, flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let path = match name {
        "agents" => "/master/slaves",
        "frameworks" => "/master/frameworks",
        "tasks" => "/master/tasks?limit=1000000&order=asc",
        "roles" => "/master/roles",
        _ => "/master/state",
    };
    let answer = http::get_json(&masters, path).await?;
    if flags.bool("json") {
        say(&format!("{answer}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    say(&match name {
        "agents" => agents(&answer),
        "frameworks" => frameworks(&answer),
        "tasks" => tasks(&answer),
        "roles" => roles(&answer),
        _ => state(&answer) + &feature_level(&masters).await,
    });
    Ok(ExitCode::SUCCESS)
}

/// Mesos's state has no place for it. Nothing if no master tells.
async fn feature_level(masters: &[String]) -> String {
    let body = Some(r#"{"action":"list"}"#.to_owned());
    let request = http::Request { path: "/meseta/masters".into(), body, stream_id: None };
    let Ok(answer) = http::send(masters, &request).await else { return String::new() };
    let listed: Option<Value> = answer.text().await.ok().and_then(|text| serde_json::from_str(&text).ok());
    let Some(listed) = listed else { return String::new() };
    let level = listed["feature_level"].as_u64();
    let level = level.map_or_else(String::new, |level| format!("{:<11}{level}\n", "level"));
    let crashed = &listed["crashed_decisions"];
    let Some(count) = crashed["count"].as_u64() else { return level };
    let (command, panic) = (text(&crashed["command"]), text(&crashed["panic"]));
    format!("{level}{:<11}{count} decisions by a defect of Meseta, the last of {command}: {panic}\n", "crashed")
}

fn state(state: &Value) -> String {
    let agents = list(&state["slaves"]);
    let frameworks = list(&state["frameworks"]);
    let mut by_state: BTreeMap<String, usize> = BTreeMap::new();
    for framework in frameworks.iter().chain(list(&state["completed_frameworks"])) {
        for task in list(&framework["tasks"]).iter().chain(list(&framework["completed_tasks"])) {
            *by_state.entry(text(&task["state"])).or_default() += 1;
        }
    }
    let sum = |kind: &str, name: &str| {
        let total: f64 = agents.iter().filter_map(|agent| agent[kind][name].as_f64()).sum();
        number(total)
    };
    let used = |name| format!("{} of {}", sum("used_resources", name), sum("resources", name));
    let tasks: Vec<String> = by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let active = agents.iter().filter(|agent| agent["active"] == true).count();
    let rows = [
        ("leader", text(&state["leader"]).trim_start_matches("master@").to_owned()),
        ("id", text(&state["id"])),
        ("agents", format!("{} ({active} active)", agents.len())),
        ("frameworks", frameworks.len().to_string()),
        ("tasks", if tasks.is_empty() { "none".to_owned() } else { tasks.join(", ") }),
        ("cpus used", used("cpus")),
        ("mem used", format!("{} MB", used("mem"))),
        ("disk used", format!("{} MB", used("disk"))),
    ];
    rows.iter().map(|(name, value)| format!("{name:<11}{value}\n")).collect()
}

fn agents(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(&answer["slaves"])
        .iter()
        .map(|agent| {
            let state = match (&agent["deactivated"], &agent["active"]) {
                (Value::Bool(true), _) => "deactivated",
                (_, Value::Bool(true)) => "active",
                _ => "inactive",
            };
            let used = |name: &str| {
                let of = |kind: &str| number(agent[kind][name].as_f64().unwrap_or(0.0));
                format!("{}/{}", of("used_resources"), of("resources"))
            };
            let address = text(&agent["pid"]).rsplit('@').next().unwrap_or_default().to_owned();
            let id = text(&agent["id"]);
            vec![id, text(&agent["hostname"]), address, state.into(), used("cpus"), used("mem"), used("disk")]
        })
        .collect();
    table::render(&["ID", "HOSTNAME", "ADDRESS", "STATE", "CPUS", "MEM", "DISK"], &rows)
}

fn frameworks(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(&answer["frameworks"])
        .iter()
        .map(|framework| {
            let roles: Vec<String> = list(&framework["roles"]).iter().map(text).collect();
            let roles = if roles.is_empty() { text(&framework["role"]) } else { roles.join(",") };
            let state = if framework["active"] == true { "active" } else { "inactive" };
            let used = |name: &str| number(framework["used_resources"][name].as_f64().unwrap_or(0.0));
            let tasks = list(&framework["tasks"]).len().to_string();
            vec![
                text(&framework["id"]),
                text(&framework["name"]),
                roles,
                state.into(),
                tasks,
                used("cpus"),
                used("mem"),
                text(&framework["user"]),
            ]
        })
        .collect();
    table::render(&["ID", "NAME", "ROLES", "STATE", "TASKS", "CPUS", "MEM", "USER"], &rows)
}

fn tasks(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(&answer["tasks"])
        .iter()
        .map(|task| ["id", "state", "name", "slave_id", "framework_id"].map(|key| text(&task[key])).to_vec())
        .collect();
    table::render(&["ID", "STATE", "NAME", "AGENT", "FRAMEWORK"], &rows)
}

fn roles(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(&answer["roles"])
        .iter()
        .map(|role| {
            let used = |name: &str| number(role["resources"][name].as_f64().unwrap_or(0.0));
            let frameworks = list(&role["frameworks"]).len().to_string();
            let weight = number(role["weight"].as_f64().unwrap_or(1.0));
            vec![text(&role["name"]), weight, frameworks, used("cpus"), used("mem"), used("disk")]
        })
        .collect();
    table::render(&["NAME", "WEIGHT", "FRAMEWORKS", "CPUS", "MEM", "DISK"], &rows)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Three decimals at most, and none that are not needed.
fn number(value: f64) -> String {
    // A sum of nothing is -0.0; adding 0.0 makes it 0.0.
    let rounded = (value * 1000.0).round() / 1000.0 + 0.0;
    format!("{rounded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_at_a_glance() {
        let answer: Value = serde_json::from_str(
            r#"{"leader": "master@10.0.0.1:5050", "id": "c", "slaves": [{"active": true, "resources": {"cpus": 2.0,
            "mem": 1024.0}, "used_resources": {"cpus": 0.1, "mem": 32.0}}], "frameworks": [{"tasks": [
            {"state": "TASK_RUNNING"}], "completed_tasks": [{"state": "TASK_FINISHED"}]}]}"#,
        )
        .expect("JSON");
        assert_eq!(
            state(&answer),
            "leader     10.0.0.1:5050\nid         c\nagents     1 (1 active)\nframeworks 1\n\
             tasks      1 TASK_FINISHED, 1 TASK_RUNNING\ncpus used  0.1 of 2\nmem used   32 of 1024 MB\n\
             disk used  0 of 0 MB\n"
        );
    }
}
