//! `meseta maintenance`: when machines are to be unavailable, which are down, and what frameworks answered.

use std::process::ExitCode;
use std::time::SystemTime;

use api::flags::{Flag, Kind, Values};
use api::time::{span, to_the_second};
use serde_json::{Value, json};

use crate::agents::{self, list};
use crate::error::Error;
use crate::http;
use crate::ids::{self, text};
use crate::say;
use crate::table;

pub(crate) const ABOUT: &str = "\
When machines are to be unavailable: frameworks are asked to leave them, and nothing runs there while they are down.

  meseta maintenance status                        which machines drain or are down, and what frameworks answered
  meseta maintenance schedule                      the windows
  meseta maintenance schedule MACHINE... --in=1hrs --duration=30mins
                                                   one more window; a machine is in one window only
  meseta maintenance unschedule MACHINE...         out of the schedule, unless they are down
  meseta maintenance start MACHINE...              down: their agents are over, with all that they run
  meseta maintenance stop MACHINE...               up again, and out of the schedule

MACHINE is HOSTNAME/IP as its agent announced them, or an agent: S0.";

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("in", Kind::Duration, "The window begins so much later than now.").default("0secs"),
    Flag::new("duration", Kind::Duration, "The window lasts so long; for good if not given."),
    Flag::new("json", Kind::Bool, "Print what the masters answered, as one JSON object.").default("false"),
];

const ACTIONS: [&str; 5] = ["status", "schedule", "unschedule", "start", "stop"];

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let json = flags.bool("json");
    let (action, names) = match words {
        [] => ("status", words),
        [action, names @ ..] => (action.as_str(), names),
    };
    if !ACTIONS.contains(&action) {
        let hint = api::nearest::did_you_mean(ACTIONS, action).replace('"', "'");
        return Err(Error::Usage(format!("maintenance: there is no '{action}'{hint} ({})", ACTIONS.join(", "))));
    }
    let takes_none = action == "status";
    let needs_some = matches!(action, "unschedule" | "start" | "stop");
    if takes_none && !names.is_empty() || needs_some && names.is_empty() {
        let what = if takes_none { "names no machine" } else { "name a machine, HOSTNAME/IP or an agent" };
        return Err(Error::Usage(format!("maintenance {action}: {what}")));
    }
    let mut machines = Vec::with_capacity(names.len());
    for name in names {
        machines.push(machine(&masters, name).await?);
    }
    match action {
        "start" => agents::call(&masters, "START_MAINTENANCE", json!({"machines": machines})).await?,
        "stop" => agents::call(&masters, "STOP_MAINTENANCE", json!({"machines": machines})).await?,
        "schedule" | "unschedule" if !machines.is_empty() => {
            let mut schedule = http::get_json(&masters, "/maintenance/schedule").await?;
            take_out(&mut schedule, &machines);
            if action == "schedule" {
                put_in(&mut schedule, &machines, &flags)?;
            }
            agents::call(&masters, "UPDATE_MAINTENANCE_SCHEDULE", json!({"schedule": schedule})).await?;
        }
        _ => {}
    }
    if action == "schedule" {
        let answer = http::get_json(&masters, "/maintenance/schedule").await?;
        say(&if json { line(&answer) } else { windows(&answer) });
    } else {
        let answer = http::get_json(&masters, "/maintenance/status").await?;
        say(&if json { line(&answer) } else { status(&answer) });
    }
    Ok(ExitCode::SUCCESS)
}

fn line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}

/// A machine as the masters compare it.
async fn machine(masters: &[String], name: &str) -> Result<Value, Error> {
    let mut machine = json!({});
    if let Some((hostname, ip)) = name.split_once('/') {
        if !hostname.is_empty() {
            machine["hostname"] = json!(hostname);
        }
        if !ip.is_empty() {
            machine["ip"] = json!(ip);
        }
        return Ok(machine);
    }
    let agent = agents::find(masters, name).await?;
    let ip = agent.address.rsplit_once(':').map_or(agent.address.as_str(), |(host, _)| host);
    Ok(json!({"hostname": agent.hostname, "ip": ip}))
}

fn is_same(one: &Value, other: &Value) -> bool {
    text(&one["hostname"]).eq_ignore_ascii_case(text(&other["hostname"])) && text(&one["ip"]) == text(&other["ip"])
}

/// Windows without these machines, and none that is empty.
fn take_out(schedule: &mut Value, machines: &[Value]) {
    let Some(windows) = schedule["windows"].as_array_mut() else { return };
    for window in windows.iter_mut() {
        if let Some(ids) = window["machine_ids"].as_array_mut() {
            ids.retain(|id| !machines.iter().any(|machine| is_same(machine, id)));
        }
    }
    windows.retain(|window| !list(&window["machine_ids"]).is_empty());
}

fn put_in(schedule: &mut Value, machines: &[Value], flags: &Values) -> Result<(), Error> {
    let nanoseconds = |name: &str| flags.duration(name).map(|it| i64::try_from(it.as_nanos()).unwrap_or(i64::MAX));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = i64::try_from(now).map_err(|_| Error::Failed("this host's clock is centuries ahead".into()))?;
    let start = now.saturating_add(nanoseconds("in").unwrap_or(0));
    let mut unavailability = json!({"start": {"nanoseconds": start}});
    if let Some(duration) = nanoseconds("duration") {
        unavailability["duration"] = json!({"nanoseconds": duration});
    }
    let window = json!({"machine_ids": machines, "unavailability": unavailability});
    match schedule["windows"].as_array_mut() {
        Some(windows) => windows.push(window),
        None => schedule["windows"] = json!([window]),
    }
    Ok(())
}

fn named(machine: &Value) -> String {
    format!("{}/{}", text(&machine["hostname"]), text(&machine["ip"]))
}

fn time(value: &Value) -> u64 {
    u64::try_from(value["nanoseconds"].as_i64().unwrap_or(0) / 1_000_000).unwrap_or(0)
}

fn windows(schedule: &Value) -> String {
    let mut rows = Vec::new();
    for window in list(&schedule["windows"]) {
        let unavailability = &window["unavailability"];
        let duration = unavailability.get("duration").map_or("for good".to_owned(), |duration| span(time(duration)));
        for id in list(&window["machine_ids"]) {
            rows.push(vec![named(id), to_the_second(time(&unavailability["start"])), duration.clone()]);
        }
    }
    table::render(&["MACHINE", "FROM", "FOR"], &rows)
}

fn status(status: &Value) -> String {
    let mut rows = Vec::new();
    for machine in list(&status["draining_machines"]) {
        let answers: Vec<String> = list(&machine["statuses"])
            .iter()
            .map(|answer| {
                let framework = text(&answer["framework_id"]["value"]);
                let short = ids::cluster_of(framework).map_or(framework, |cluster| &framework[cluster.len() + 1..]);
                let will = if answer["status"] == "ACCEPT" { "leaves" } else { "stays" };
                format!("{short} {will}")
            })
            .collect();
        rows.push(vec![named(&machine["id"]), "draining".to_owned(), answers.join(", ")]);
    }
    for machine in list(&status["down_machines"]) {
        rows.push(vec![named(machine), "down".to_owned(), String::new()]);
    }
    table::render(&["MACHINE", "STATE", "ANSWERS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_in_one_window() {
        let id = |hostname: &str| json!({"hostname": hostname, "ip": "10.0.0.1"});
        let mut schedule = json!({"windows": [{"machine_ids": [id("a")]}, {"machine_ids": [id("b"), id("A")]}]});
        take_out(&mut schedule, &[id("a")]);
        assert_eq!(schedule, json!({"windows": [{"machine_ids": [id("b")]}]}));
    }

    #[test]
    fn what_is_down_and_what_was_answered_is_shown() {
        let id = |hostname: &str| json!({"hostname": hostname, "ip": "10.0.0.1"});
        let answer = json!({"status": "DECLINE", "framework_id": {"value": "f"}});
        let shown =
            status(&json!({"draining_machines": [{"id": id("a"), "statuses": [answer]}], "down_machines": [id("b")]}));
        assert_eq!(shown, "MACHINE     STATE     ANSWERS\na/10.0.0.1  draining  f stays\nb/10.0.0.1  down\n");
    }
}
