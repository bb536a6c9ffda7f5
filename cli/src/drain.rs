//! `meseta drain`: an agent is to be empty; wait for it, see what it waits for, or take the wish back.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use api::flags::{Flag, Kind, Values};
use api::time::span;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::agents::{self, Agent, list};
use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{self, text};
use crate::say;

pub(crate) const ABOUT: &str = "\
Empties an agent: it is offered to nobody, its tasks are killed, and it is drained when the last end was acknowledged.

  meseta drain AGENT --wait                       until nothing is left on it
  meseta drain AGENT --monitor --deadline=10mins  tell what is left; exit code 1 if there still is something then
  meseta drain AGENT --cancel                     in use again, whether it drains still, is drained or deactivated

AGENT is its id, S0 or whole, or its hostname. With --monitor alone an agent that drains already is watched and not
asked again. Leaving the command does not end the drain.";

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new(
        "deadline",
        Kind::Duration,
        "A task has at most so long to end, whatever it asked for; waiting ends soon after.",
    ),
    Flag::new("force", Kind::Bool, "Tasks are killed at once: a deadline of nothing.").default("false"),
    Flag::new("wait", Kind::Bool, "Wait until the agent is drained.").default("false"),
    Flag::new("monitor", Kind::Bool, "Wait, and tell what is left and what becomes of it.").default("false"),
    Flag::new("ignore_role", Kind::Text, "Do not wait for tasks of these roles, with commas; they are killed too."),
    Flag::new(
        "ignore_framework",
        Kind::Text,
        "Do not wait for tasks of these frameworks, with commas: 0010, or all of an id.",
    ),
    Flag::new("mark_gone", Kind::Bool, "The agent is over for good once it is empty; its id is never admitted again.")
        .default("false"),
    Flag::new(
        "cancel",
        Kind::Bool,
        "Put the agent in use again, at once: what it kills already ends. With --wait or --monitor, once it is drained.",
    )
        .default("false"),
    Flag::new("json", Kind::Bool, "Print one JSON object at the end: the agent, its state, and what is left.")
        .default("false"),
];

/// Between two looks.
const PACE: Duration = Duration::from_millis(500);
/// An end that a deadline brought about is told to its framework, and acknowledged, within this.
const SETTLE: Duration = Duration::from_secs(5);

/// What is asked of the waiting.
struct Wish {
    roles: Vec<String>,
    frameworks: Vec<String>,
    monitor: bool,
    json: bool,
    until: Option<Instant>,
}

pub(crate) async fn run(words: &[String], flags: Values) -> Result<ExitCode, Error> {
    let masters = http::addresses(flags.text("master").unwrap_or_default())?;
    let [wanted] = words else {
        return Err(Error::Usage("drain: name one agent, as S0 (meseta agents lists them)".into()));
    };
    let (force, cancel) = (flags.bool("force"), flags.bool("cancel"));
    let deadline = if force { Some(Duration::ZERO) } else { flags.duration("deadline") };
    if cancel && (deadline.is_some() || flags.bool("mark_gone")) {
        return Err(Error::Usage("drain: --cancel goes with --wait, --monitor and --json alone".into()));
    }
    let names = |flag: &str| -> Vec<String> {
        let text = flags.text(flag).unwrap_or_default();
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let monitor = flags.bool("monitor");
    let wish = Wish {
        roles: names("ignore_role"),
        frameworks: names("ignore_framework"),
        monitor,
        json: flags.bool("json"),
        until: deadline.filter(|_| !cancel).map(|deadline| Instant::now() + deadline + SETTLE),
    };
    let waits = flags.bool("wait") || monitor;
    let agent = agents::find(&masters, wanted).await?;
    let is_draining = agent.drain.as_ref().is_some_and(|info| info["state"] == "DRAINING");
    let began = Instant::now();
    // Before anything is asked for: what ends at once is told of, too.
    let at_first = if wish.monitor && !wish.json { tasks_on(&masters, &agent, &wish).await? } else { Vec::new() };
    if cancel {
        if waits && is_draining {
            let left = wait(&masters, &agent, &wish, (began, at_first)).await?;
            if !left.is_done {
                return Ok(told(&agent, &left, &wish));
            }
        }
        let body = json!({"agent_id": {"value": agent.id}, "cancel_drain": is_draining && !waits});
        agents::call(&masters, "REACTIVATE_AGENT", body).await?;
        let left = Left { state: "ACTIVE", is_done: true, tasks: Vec::new() };
        return Ok(told(&agent, &left, &wish));
    }
    let only_looks = monitor && is_draining && deadline.is_none() && !flags.bool("mark_gone");
    if !only_looks {
        let mut body = json!({"agent_id": {"value": agent.id}, "mark_gone": flags.bool("mark_gone")});
        if let Some(most) = deadline {
            body["max_grace_period"] = json!({"seconds": most.as_secs(), "nanos": most.subsec_nanos()});
        }
        agents::call(&masters, "DRAIN_AGENT", body).await?;
    }
    if !waits {
        let left = look(&masters, &agent, &wish).await?;
        told(&agent, &left, &wish);
        return Ok(ExitCode::SUCCESS);
    }
    let left = wait(&masters, &agent, &wish, (began, at_first)).await?;
    Ok(told(&agent, &left, &wish))
}

/// A task that is left on the agent.
#[derive(Clone, Debug, PartialEq)]
struct Task {
    name: String,
    role: String,
    framework: String,
    state: String,
}

impl Task {
    fn said(&self) -> String {
        let ended = ["TASK_FINISHED", "TASK_FAILED", "TASK_KILLED", "TASK_LOST", "TASK_GONE", "TASK_GONE_BY_OPERATOR"];
        let waits =
            if ended.contains(&self.state.as_str()) { ", which its framework has not acknowledged" } else { "" };
        format!("task {} (role {}) is {}{waits}", self.name, self.role, self.state)
    }
}

/// Where the drain is.
#[derive(Debug)]
struct Left {
    state: &'static str,
    is_done: bool,
    tasks: Vec<Task>,
}

/// What is on the agent at first is told of if it is monitored.
async fn wait(
    masters: &[String],
    agent: &Agent,
    wish: &Wish,
    (began, at_first): (Instant, Vec<Task>),
) -> Result<Left, Error> {
    let mut known: BTreeMap<String, Task> = BTreeMap::new();
    let is_told = wish.monitor && !wish.json;
    if is_told {
        say(&format!("{} left\n", tasks(at_first.len())));
        tell(&mut known, &at_first, began);
    }
    loop {
        let left = look(masters, agent, wish).await?;
        if is_told {
            tell(&mut known, &left.tasks, began);
        }
        if left.is_done || wish.until.is_some_and(|until| Instant::now() >= until) || crate::is_unwritten() {
            return Ok(left);
        }
        tokio::time::sleep(PACE).await;
    }
}

/// One line for each task that is not as it was at the last look.
fn tell(known: &mut BTreeMap<String, Task>, left: &[Task], began: Instant) {
    let at = span(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
    let now: BTreeMap<String, Task> = left.iter().map(|task| (task.name.clone(), task.clone())).collect();
    for task in now.values().filter(|task| known.get(&task.name) != Some(*task)) {
        say(&format!("{at}: {}\n", task.said()));
    }
    for gone in known.values().filter(|task| !now.contains_key(&task.name)) {
        say(&format!("{at}: task {} is over; {} left\n", gone.name, tasks(now.len())));
    }
    *known = now;
}

/// What runs on the agent, and is not ignored.
async fn tasks_on(masters: &[String], agent: &Agent, wish: &Wish) -> Result<Vec<Task>, Error> {
    let answer = http::read_json(masters, &Request::post("/api/v1", &json!({"type": "GET_TASKS"}))).await?;
    let lists = ["tasks", "unreachable_tasks"].map(|kind| list(&answer["get_tasks"][kind]));
    let on_it = lists.iter().copied().flatten().filter(|task| text(&task["agent_id"]["value"]) == agent.id);
    Ok(on_it.map(task_of).filter(|task| !wish.ignores(task)).collect())
}

async fn look(masters: &[String], agent: &Agent, wish: &Wish) -> Result<Left, Error> {
    // Tasks first: what is drained had none before.
    let mut left = tasks_on(masters, agent, wish).await?;
    let known = agents::with_id(masters, &agent.id).await?;
    let state = match known.as_ref().map(|agent| agent.drain.as_ref().map_or("", |drain| text(&drain["state"]))) {
        None => "GONE",
        Some("DRAINED") => "DRAINED",
        Some("DRAINING") => "DRAINING",
        // Somebody put it in use again meanwhile.
        Some(_) => "ACTIVE",
    };
    let is_ignored = left.is_empty() && !(wish.roles.is_empty() && wish.frameworks.is_empty());
    if state != "DRAINING" {
        left.clear();
    }
    Ok(Left { state, is_done: state != "DRAINING" || is_ignored, tasks: left })
}

fn task_of(task: &Value) -> Task {
    let framework = text(&task["framework_id"]["value"]).to_owned();
    let short = ids::cluster_of(&framework).map_or(framework.as_str(), |cluster| &framework[cluster.len() + 1..]);
    let role = list(&task["resources"]).iter().find_map(|resource| resource["allocation_info"]["role"].as_str());
    Task {
        name: format!("{short}/{}", text(&task["task_id"]["value"])),
        role: role.unwrap_or("*").to_owned(),
        state: text(&task["state"]).to_owned(),
        framework,
    }
}

impl Wish {
    fn ignores(&self, task: &Task) -> bool {
        self.roles.contains(&task.role) || self.frameworks.iter().any(|wanted| ids::is(wanted, &task.framework))
    }
}

/// Says how it ended. Exit code 1 if something was waited for in vain.
fn told(agent: &Agent, left: &Left, wish: &Wish) -> ExitCode {
    if wish.json {
        let tasks: Vec<Value> = left
            .tasks
            .iter()
            .map(|task| json!({"task": task.name, "role": task.role, "framework_id": task.framework, "state": task.state}))
            .collect();
        let answer = json!({"agent_id": agent.id, "hostname": agent.hostname, "state": left.state, "left": tasks});
        say(&format!("{}\n", api::terminal::json(&answer.to_string())));
    } else {
        let who = format!("agent {} ({})", agent.id, agent.hostname);
        let how = match (left.state, left.is_done) {
            ("GONE", _) => "is over for good".to_owned(),
            ("DRAINED", _) => "is drained".to_owned(),
            ("ACTIVE", _) => "is in use".to_owned(),
            (_, true) => "drains; only what is not waited for is left".to_owned(),
            (_, false) => format!("drains: {} left", tasks(left.tasks.len())),
        };
        say(&format!("{who} {how}\n"));
        if wish.until.is_some_and(|until| Instant::now() >= until) && !left.is_done && !wish.monitor {
            left.tasks.iter().for_each(|task| say(&format!("  {}\n", task.said())));
        }
    }
    if left.is_done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tasks(count: usize) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_what_the_masters_tell_of_it() {
        const C: &str = "406fbaac-1d9f-4e32-a562-d48f86141d3c";
        let task = task_of(&json!({"task_id": {"value": "t"}, "framework_id": {"value": format!("{C}-0010")},
            "state": "TASK_KILLED", "resources": [{"name": "cpus", "allocation_info": {"role": "web"}}]}));
        let said = "task 0010/t (role web) is TASK_KILLED, which its framework has not acknowledged";
        assert_eq!(task.said(), said);
        let wish = |roles: &[&str], frameworks: &[&str]| Wish {
            roles: roles.iter().map(ToString::to_string).collect(),
            frameworks: frameworks.iter().map(ToString::to_string).collect(),
            monitor: false,
            json: false,
            until: None,
        };
        assert!(wish(&["web"], &[]).ignores(&task) && wish(&[], &["0010"]).ignores(&task));
        assert!(!wish(&["db"], &["0011"]).ignores(&task));
    }
}
