//! `meseta state`, `agents`, `frameworks`, `tasks`, `roles`: what a master knows, for people and for programs.

mod state;
mod tasks;

use std::process::ExitCode;

use api::flags::{Flag, Kind, Values};
use api::time::to_the_second;
use serde_json::Value;

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{Short, text};
use crate::quota;
use crate::say;
use crate::table;

const MASTER: Flag = Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
    .default("127.0.0.1:5050");
const JSON: Flag =
    Flag::new("json", Kind::Bool, "Print what the master answered, as one JSON object.").default("false");
const FULL: Flag =
    Flag::new("full", Kind::Bool, "Ids in full, instead of the cluster's once and the rest of each.").default("false");

pub(crate) const FLAGS: &[Flag] = &[MASTER, JSON, http::SECRET];
pub(crate) const TABLE_FLAGS: &[Flag] = &[MASTER, JSON, FULL];
pub(crate) const TASKS_FLAGS: &[Flag] = &[
    MASTER,
    JSON,
    FULL,
    Flag::new("state", Kind::Text, "Only those in this state, or in one of these: RUNNING,FAILED."),
    Flag::new("framework", Kind::Text, "Only those of this framework: 0010, or all of its id."),
];

pub(crate) const STATE_ABOUT: &str = "The cluster at a glance.";
pub(crate) const AGENTS_ABOUT: &str = "\
The agents, what they have and use, and how they are: active, draining or drained, deactivated by an operator,
disconnected (with the time at which the masters will give up waiting), or unreachable.

  meseta agents deactivate AGENT   no offers of it are made; what it runs goes on
  meseta agents reactivate AGENT   offers of it are made again; it need not be drained any more
  meseta agents gone AGENT         it is over for good: its tasks are lost, its id is never admitted again

AGENT is its id, S0 or whole, or its hostname.";
pub(crate) const FRAMEWORKS_ABOUT: &str = "The frameworks, and what they use.";
pub(crate) const TASKS_ABOUT: &str = "\
The tasks that the masters remember, newest last: since when each is in its state, where, and what was said of it.

  meseta tasks [TASK ...] [--state=FAILED] [--framework=0010]";
pub(crate) const ROLES_ABOUT: &str = "\
The roles, their frameworks, what they use with those below them, and their quota (see meseta quota).";

pub(crate) async fn run(name: &str, words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let json = flags.bool("json");
    let text = match name {
        "tasks" => tasks::run(&masters, words, &flags).await?,
        "agents" if !words.is_empty() => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            crate::agents::act(&masters, &words).await?
        }
        "agents" => {
            let answer = http::get_json(&masters, "/master/slaves").await?;
            if json { line(&answer) } else { agents(&answer, &away(&masters).await, flags.bool("full")) }
        }
        "frameworks" => {
            let answer = http::get_json(&masters, "/master/frameworks").await?;
            if json { line(&answer) } else { frameworks(&answer, flags.bool("full")) }
        }
        "roles" => {
            let answer = http::get_json(&masters, "/master/roles").await?;
            if json { line(&answer) } else { roles(&answer) }
        }
        _ => {
            let answer = http::get_json(&masters, "/master/state").await?;
            if json { line(&answer) } else { state::shown(&answer, &cluster(&masters).await) }
        }
    };
    say(&text);
    Ok(ExitCode::SUCCESS)
}

fn line(answer: &Value) -> String {
    format!("{}\n", api::terminal::json(&answer.to_string()))
}

/// What Mesos's state has no place for: the cluster's id and its feature level. Nothing if no master tells.
async fn cluster(masters: &[String]) -> Value {
    let request = Request::post("/meseta/masters", &serde_json::json!({"action": "list"}));
    http::read_json(masters, &request).await.unwrap_or_default()
}

/// Agents without a connection, since when and until when; none if no master tells.
async fn away(masters: &[String]) -> Value {
    http::get_json(masters, "/agents/away").await.unwrap_or_default()
}

fn agents(answer: &Value, away: &Value, full: bool) -> String {
    let (slaves, away) = (list(&answer["slaves"]), list(&away["agents"]));
    let ids = slaves.iter().chain(away).map(|agent| text(&agent["id"]));
    let short = Short::of(ids, full);
    let note = |agent: &Value| {
        let time = |name: &str| agent[name].as_u64().map(to_the_second);
        let since = time("since_ms").map_or_else(String::new, |since| format!("since {since}"));
        time("unreachable_at_ms").map_or(since.clone(), |at| format!("{since}, unreachable at {at}"))
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for agent in slaves {
        let gone = away.iter().find(|away| away["id"] == agent["id"]);
        let state = match (&agent["deactivated"], gone) {
            (_, Some(_)) => "disconnected",
            _ if agent["drain_info"]["state"] == "DRAINING" => "draining",
            _ if agent["drain_info"]["state"] == "DRAINED" => "drained",
            (Value::Bool(true), None) => "deactivated",
            _ if agent["active"] == true => "active",
            _ => "disconnected",
        };
        let used = |name: &str| {
            let of = |kind: &str| number(agent[kind][name].as_f64().unwrap_or(0.0));
            format!("{}/{}", of("used_resources"), of("resources"))
        };
        rows.push(vec![
            short.id(text(&agent["id"])),
            text(&agent["hostname"]).to_owned(),
            text(&agent["pid"]).rsplit('@').next().unwrap_or_default().to_owned(),
            state.to_owned(),
            used("cpus"),
            used("mem"),
            used("disk"),
            gone.map(note).unwrap_or_default(),
        ]);
    }
    // The unreachable ones, and after an election those that have not come back.
    for agent in away.iter().filter(|agent| !slaves.iter().any(|known| known["id"] == agent["id"])) {
        let field = |name: &str| text(&agent[name]).to_owned();
        let state = if agent["unreachable"] == true { "unreachable" } else { "disconnected" };
        let mut row = vec![short.id(&field("id")), field("hostname"), field("address"), state.to_owned()];
        row.extend(["-", "-", "-"].map(str::to_owned));
        row.push(note(agent));
        rows.push(row);
    }
    let heading = ["ID", "HOSTNAME", "ADDRESS", "STATE", "CPUS", "MEM", "DISK", "NOTE"];
    if rows.iter().all(|row| row[7].is_empty()) {
        rows.iter_mut().for_each(|row| row.truncate(7));
        return table::render_with(&heading[..7], &rows, &short.heading());
    }
    table::render_with(&heading, &rows, &short.heading())
}

fn frameworks(answer: &Value, full: bool) -> String {
    let all = list(&answer["frameworks"]);
    let short = Short::of(all.iter().map(|framework| text(&framework["id"])), full);
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|framework| {
            let roles: Vec<&str> = list(&framework["roles"]).iter().map(text).collect();
            let roles = if roles.is_empty() { text(&framework["role"]).to_owned() } else { roles.join(",") };
            let state = if framework["active"] == true { "active" } else { "inactive" };
            let used = |name: &str| number(framework["used_resources"][name].as_f64().unwrap_or(0.0));
            let tasks = list(&framework["tasks"]).len().to_string();
            vec![
                short.id(text(&framework["id"])),
                text(&framework["name"]).to_owned(),
                roles,
                state.into(),
                tasks,
                used("cpus"),
                used("mem"),
                text(&framework["user"]).to_owned(),
                text(&framework["hostname"]).to_owned(),
            ]
        })
        .collect();
    let heading = ["ID", "NAME", "ROLES", "STATE", "TASKS", "CPUS", "MEM", "USER", "HOSTNAME"];
    table::render_with(&heading, &rows, &short.heading())
}

fn roles(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = list(&answer["roles"])
        .iter()
        .map(|role| {
            let used = |name: &str| number(role["resources"][name].as_f64().unwrap_or(0.0));
            let frameworks = list(&role["frameworks"]).len().to_string();
            let weight = number(role["weight"].as_f64().unwrap_or(1.0));
            let quota = |kind: &str| quota::amounts(&role["quota"][kind]);
            vec![
                text(&role["name"]).to_owned(),
                weight,
                frameworks,
                used("cpus"),
                used("mem"),
                used("disk"),
                quota("guarantee"),
                quota("limit"),
            ]
        })
        .collect();
    table::render(&["NAME", "WEIGHT", "FRAMEWORKS", "CPUS", "MEM", "DISK", "GUARANTEED", "LIMIT"], &rows)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Three decimals at most, and none that are not needed.
pub(crate) fn number(value: f64) -> String {
    // A sum of nothing is -0.0; adding 0.0 makes it 0.0.
    let rounded = (value * 1000.0).round() / 1000.0 + 0.0;
    format!("{rounded}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn agents_that_are_away_are_there() {
        const C: &str = "406fbaac-1d9f-4e32-a562-d48f86141d3c";
        let has = json!({"cpus": 2.0, "mem": 64.0, "disk": 10.0});
        let slave = |n: u32, active: bool| {
            json!({"id": format!("{C}-S{n}"), "hostname": "h", "pid": "slave(1)@h:1", "active": active,
                "resources": has, "used_resources": {"cpus": 0.5}})
        };
        let away = json!({"agents": [
            {"id": format!("{C}-S1"), "hostname": "h", "address": "h:1", "unreachable": false,
                "since_ms": 1_795_216_408_419_u64, "unreachable_at_ms": 1_795_216_483_419_u64},
            {"id": format!("{C}-S2"), "hostname": "g", "address": "g:1", "unreachable": true, "since_ms": 0},
            {"id": format!("{C}-S3"), "hostname": "i", "address": "i:1", "unreachable": false, "since_ms": 0}]});
        let answer = json!({"slaves": [slave(0, true), slave(1, false)]});
        assert_eq!(
            agents(&answer, &away, false),
            format!(
                "ID  HOSTNAME  ADDRESS  STATE         CPUS   MEM   DISK  NOTE  [ids: {C}-ID]\n\
                 S0  h         h:1      active        0.5/2  0/64  0/10\n\
                 S1  h         h:1      disconnected  0.5/2  0/64  0/10  since 2026-11-20T23:13:28Z, unreachable at \
                 2026-11-20T23:14:43Z\n\
                 S2  g         g:1      unreachable   -      -     -     since 1970-01-01T00:00:00Z\n\
                 S3  i         i:1      disconnected  -      -     -     since 1970-01-01T00:00:00Z\n"
            )
        );
        assert!(agents(&answer, &away, true).contains(&format!("\n{C}-S0 ")));
    }
}
