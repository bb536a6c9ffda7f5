//! The framework: commands, fetches, groups; ends that are waited for, and ends that are asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use proptests::framework::{Framework, command_task, info};
use proptests::http::{self, Request};
use serde_json::{Value, json};

use crate::random::Random;
use crate::{REST, Shared};

/// Tasks that run at once, about.
const BUSY: usize = 10;
/// Longer than masters are silent.
const SILENCE: Duration = Duration::from_secs(30);
/// The task that others put containers into.
const HOME: &str = "home";

/// How a task should end, if nobody asks it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Exit(u8),
    /// By a kill: asked for, or with its group.
    Kill,
}

/// What is known of a task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) executor: String,
    pub(crate) is_grouped: bool,
    wanted: Wanted,
    states: Vec<String>,
    last: Value,
}

impl Task {
    /// Its terminal state, if it has one.
    pub(crate) fn ended(&self) -> &str {
        self.states.last().map_or("none", String::as_str)
    }

    fn has_ended(&self) -> bool {
        !["none", "TASK_STAGING", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"].contains(&self.ended())
    }

    /// Whether it was what it should be, as far as its framework saw, and having run so many times.
    pub(crate) fn judge(&self, runs: usize) -> Result<(), String> {
        let told = || format!("{:?}, ran {runs} times, {}", self.states, self.last);
        let reason = self.last["reason"].as_str().unwrap_or_default();
        // An offer that was taken back meanwhile: it never reached the agent.
        if self.states == ["TASK_LOST"] && ["REASON_INVALID_OFFERS", "REASON_SLAVE_DISCONNECTED"].contains(&reason) {
            return if runs == 0 { Ok(()) } else { Err(format!("ran without being launched: {}", told())) };
        }
        // It was on its way to an executor when the agent was killed: handed over once more, it could run twice.
        if self.states == ["TASK_LOST"] && reason == "REASON_AGENT_RESTARTED" && self.is_grouped && runs == 0 {
            return Ok(());
        }
        let order = ["TASK_STARTING", "TASK_RUNNING", "TASK_KILLING"];
        let rank = |state: &String| order.iter().position(|one| state == one).unwrap_or(order.len());
        if !self.states.is_sorted_by(|one, next| rank(one) < rank(next)) || !self.has_ended() {
            return Err(format!("states that cannot be: {}", told()));
        }
        let (state, message) = (self.ended(), self.last["message"].as_str().unwrap_or_default());
        let is_right = match self.wanted {
            Wanted::Exit(0) => state == "TASK_FINISHED",
            Wanted::Exit(code) => state == "TASK_FAILED" && message == format!("Command exited with status {code}"),
            Wanted::Kill => state == "TASK_KILLED",
        };
        let times_wanted = match self.wanted {
            Wanted::Exit(_) => 1..=1,
            // Before it had begun.
            Wanted::Kill => 0..=1,
        };
        if is_right && times_wanted.contains(&runs) { Ok(()) } else { Err(format!("ended otherwise: {}", told())) }
    }
}

struct Churn<'a> {
    shared: &'a Shared,
    framework: Framework,
    random: Random,
    tasks: BTreeMap<String, Task>,
    count: usize,
}

impl Churn<'_> {
    fn name(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    fn note(&mut self, id: &str, executor: &str, wanted: Wanted) {
        let is_grouped = id != executor;
        let task =
            Task { executor: executor.to_owned(), is_grouped, wanted, states: Vec::new(), last: Value::default() };
        self.tasks.insert(id.to_owned(), task);
    }

    /// Says that it ran, in its sandbox and where all do.
    fn script(&self, id: &str, rest: &str) -> String {
        format!("echo {id}; echo {id} >> {}; {rest}", self.shared.ran.display())
    }

    fn exits(&mut self) -> (Wanted, String) {
        let code = *self.random.pick(&[0, 0, 0, 1, 7, 42]);
        (Wanted::Exit(code), format!("sleep 0.{}; exit {code}", self.random.below(10)))
    }

    fn launch(&mut self, offer: &Value) {
        let operation = match self.random.below(8) {
            _ if self.count == 0 => {
                self.note(HOME, HOME, Wanted::Kill);
                self.count = 1;
                command(command_task(HOME, offer, &self.script(HOME, "sleep 1000")))
            }
            0..3 => {
                let (id, (wanted, rest)) = (self.name("command-"), self.exits());
                self.note(&id, &id, wanted);
                command(command_task(&id, offer, &self.script(&id, &rest)))
            }
            3 => {
                let (id, (wanted, rest)) = (self.name("fetch-"), self.exits());
                self.note(&id, &id, wanted);
                let script = self.script(&id, &format!("[ \"$(cat content)\" = fetched ] || exit 99; {rest}"));
                let mut task = command_task(&id, offer, &script);
                let cache = self.random.one_in(2);
                let uri = json!({"value": self.shared.archive.display().to_string(), "extract": true, "cache": cache});
                task["command"]["uris"] = json!([uri]);
                command(task)
            }
            4 => {
                let id = self.name("killed-");
                self.note(&id, &id, Wanted::Kill);
                command(command_task(&id, offer, &self.script(&id, "sleep 1000")))
            }
            kind => self.group(offer, kind == 5),
        };
        self.framework.call(json!({"type": "ACCEPT", "accept": {"offer_ids": [offer["id"]],
            "operations": [operation], "filters": {"refuse_seconds": 0.0}}}));
    }

    fn group(&mut self, offer: &Value, fails: bool) -> Value {
        let executor = self.name("group-");
        let (one, two) = (format!("{executor}-a"), format!("{executor}-b"));
        let pause = self.random.below(10);
        let (code, rest) = if fails { (3, "sleep 1000".to_owned()) } else { (0, format!("sleep 0.{pause}")) };
        self.note(&one, &executor, Wanted::Exit(code));
        self.note(&two, &executor, if fails { Wanted::Kill } else { Wanted::Exit(0) });
        let tasks = [
            command_task(&one, offer, &self.script(&one, &format!("sleep 0.{pause}; exit {code}"))),
            command_task(&two, offer, &self.script(&two, &rest)),
        ];
        let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}});
        let info = json!({"type": "DEFAULT", "executor_id": {"value": executor},
            "framework_id": {"value": self.framework.id},
            "resources": [scalar("cpus", 0.1), scalar("mem", 32.0), scalar("disk", 32.0)]});
        json!({"type": "LAUNCH_GROUP", "launch_group": {"executor": info, "task_group": {"tasks": tasks}}})
    }

    fn kill(&mut self, id: &str) {
        self.framework.call(json!({"type": "KILL", "kill": {"task_id": {"value": id}}}));
    }

    fn live(&self) -> usize {
        self.tasks.values().filter(|task| !task.has_ended()).count()
    }

    /// One of those that end by a kill, now and then; all of them at last.
    fn kill_some(&mut self) {
        let is_quiet = self.shared.is_quiet.load(Ordering::Acquire);
        if !is_quiet && !self.random.one_in(5) {
            return;
        }
        let own = |(id, task): &(&String, &Task)| {
            !task.has_ended() && task.wanted == Wanted::Kill && !task.is_grouped && (is_quiet || *id != HOME)
        };
        let ids: Vec<String> = self.tasks.iter().filter(own).map(|(id, _)| id.clone()).collect();
        let count = if is_quiet { ids.len() } else { 1 };
        for id in ids.iter().take(count) {
            self.kill(id);
        }
    }

    fn update(&mut self, status: &Value, tell: &Sender<String>) {
        self.framework.acknowledge(status);
        let (Some(id), Some(state)) = (status["task_id"]["value"].as_str(), status["state"].as_str()) else { return };
        let Some(task) = self.tasks.get_mut(id) else {
            return self.shared.wrong(format!("an update of no task: {status}"));
        };
        if id == HOME && state == "TASK_RUNNING" {
            let container = &status["container_status"]["container_id"]["value"];
            let _ = tell.send(container.as_str().unwrap_or_default().to_owned());
        }
        // Sent again: the acknowledgement was under way.
        let again = status["uuid"].is_string() && task.last["uuid"] == status["uuid"];
        if task.has_ended() && !again {
            self.shared.wrong(format!("{id} is told after its end: {:?}, then {status}", task.states));
        } else if !again {
            task.states.push(state.to_owned());
            task.last = status.clone();
        }
    }
}

fn command(task: Value) -> Value {
    json!({"type": "LAUNCH", "launch": {"task_infos": [task]}})
}

/// Launches until it is quiet, and comes back when all has ended. Tells of the container of [`HOME`].
pub(crate) fn run(
    shared: &Shared,
    master: SocketAddr,
    random: Random,
    tell: &Sender<String>,
) -> BTreeMap<String, Task> {
    let framework = Framework::subscribe(master, &info("churn"));
    let mut churn = Churn { shared, framework, random, tasks: BTreeMap::new(), count: 0 };
    let mut quiet: Option<Instant> = None;
    loop {
        let is_quiet = shared.is_quiet.load(Ordering::Acquire);
        if is_quiet && churn.live() == 0 {
            break;
        }
        if is_quiet && quiet.get_or_insert_with(Instant::now).elapsed() > REST {
            let live = churn.tasks.iter().filter(|(_, task)| !task.has_ended()).map(|(id, _)| id.as_str());
            let known = http::send(master, &Request::post_json("/api/v1", r#"{"type": "GET_TASKS"}"#));
            let known = known.map(|answer| answer.json()["get_tasks"]["tasks"].to_string()).unwrap_or_default();
            shared.wrong(format!("{:?} have no end; the master has {known}", live.collect::<Vec<_>>()));
            break;
        }
        let Some(event) = churn.framework.event(SILENCE) else {
            shared.wrong("the stream of the framework ended".to_owned());
            break;
        };
        if event["type"] == "UPDATE" {
            churn.update(&event["update"]["status"], tell);
        }
        for offer in event["offers"]["offers"].as_array().into_iter().flatten() {
            churn.kill_some();
            if !is_quiet && churn.live() < BUSY {
                churn.launch(offer);
            } else {
                churn.framework.call(json!({"type": "DECLINE",
                    "decline": {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 0.2}}}));
            }
        }
    }
    churn.tasks
}
