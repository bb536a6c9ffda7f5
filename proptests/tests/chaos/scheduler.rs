//! A framework that launches small tasks, follows them to their ends, and comes back at another master when its stream
//! breaks. It writes down every promise that was broken.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proptests::framework::{Framework, SCHEDULER, command_task};
use proptests::http::{self, Request};
use serde_json::{Value, json};

use crate::random::Random;
use crate::shared::{Phase, Shared};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(12);
/// A stream without an event or heartbeat for so long is given up.
const SILENCE: Duration = Duration::from_secs(20);
/// Tasks begun lately and on their way at once.
const TASKS_MAX: usize = 20;
/// What takes longer than this waits for its end without keeping others from beginning.
const LATELY: Duration = Duration::from_secs(10);
/// Between two questions about what has not ended.
const RECONCILE_EVERY: Duration = Duration::from_secs(3);

/// What the framework knows of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// ACCEPT has no answer, or an unknown one.
    Unknown,
    /// ACCEPT was refused: it must never run.
    Refused,
    /// ACCEPT was answered with 202.
    Accepted,
    /// It ended: state and reason.
    Ended(String, String),
}

pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) fate: Fate,
    begun: Instant,
    /// Rank of the last state that was acknowledged.
    rank: u8,
}

impl Task {
    fn is_open(&self) -> bool {
        !matches!(self.fate, Fate::Ended(..) | Fate::Refused)
    }
}

pub(crate) struct Scheduler<'a> {
    shared: &'a Shared,
    random: Random,
    name: String,
    id: Option<String>,
    framework: Option<Framework>,
    heard: Instant,
    asked: Instant,
    tasks: BTreeMap<String, Task>,
}

/// Runs until the end; its tasks.
pub(crate) fn run(shared: &Shared, random: Random, name: &str) -> Vec<Task> {
    let now = Instant::now();
    let mut scheduler = Scheduler {
        shared,
        random,
        name: name.to_owned(),
        id: None,
        framework: None,
        heard: now,
        asked: now,
        tasks: BTreeMap::new(),
    };
    while shared.phase() != Phase::Over && !(shared.phase() == Phase::Quiet && scheduler.is_done()) {
        scheduler.step();
    }
    scheduler.tasks.into_values().collect()
}

fn rank(state: &str) -> u8 {
    match state {
        "TASK_STAGING" => 0,
        "TASK_STARTING" => 1,
        "TASK_RUNNING" => 2,
        "TASK_KILLING" => 3,
        _ => 4,
    }
}

impl Scheduler<'_> {
    /// Nothing is on its way any more.
    fn is_done(&self) -> bool {
        !self.tasks.values().any(Task::is_open)
    }

    fn step(&mut self) {
        let Some(framework) = &mut self.framework else { return self.subscribe() };
        match framework.records.next(Duration::from_millis(200)) {
            Ok(Some(record)) => {
                self.heard = Instant::now();
                match serde_json::from_slice::<Value>(&record) {
                    Ok(event) => self.event(&event),
                    Err(error) => self.shared.wrong(format!("{}: a record that is no JSON: {error}", self.name)),
                }
            }
            Ok(None) => self.framework = None,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                if self.heard.elapsed() > SILENCE {
                    self.framework = None;
                }
            }
            Err(_) => self.framework = None,
        }
        if self.asked.elapsed() > RECONCILE_EVERY {
            self.asked = Instant::now();
            self.reconcile();
        }
    }

    fn subscribe(&mut self) {
        let mut info = json!({"user": "root", "name": self.name, "failover_timeout": 1e6, "checkpoint": true});
        if let Some(id) = &self.id {
            info["id"] = json!({"value": id});
        }
        match Framework::try_subscribe_within(self.any(), &info, PATIENCE) {
            Ok(framework) => {
                self.shared.counts.streams.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if self.id.as_ref().is_some_and(|id| *id != framework.id) {
                    self.shared.wrong(format!("{}: another id after it subscribed again", self.name));
                }
                self.id = Some(framework.id.clone());
                self.framework = Some(framework);
                self.heard = Instant::now();
            }
            Err(why) if why.contains("completed") || why.contains("removed") => {
                self.shared.wrong(format!("{}: it was given up: {why}", self.name));
                std::thread::sleep(Duration::from_secs(1));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }

    fn any(&mut self) -> SocketAddr {
        *self.random.pick(&self.shared.masters)
    }

    fn event(&mut self, event: &Value) {
        match event["type"].as_str().unwrap_or_default() {
            "OFFERS" => {
                for offer in event["offers"]["offers"].as_array().into_iter().flatten() {
                    self.offer(offer);
                }
            }
            "UPDATE" => self.update(&event["update"]["status"]),
            "ERROR" => self.framework = None,
            _ => {}
        }
    }

    fn offer(&mut self, offer: &Value) {
        let on_their_way = self.tasks.values().filter(|task| task.is_open() && task.begun.elapsed() < LATELY);
        if self.shared.phase() != Phase::Faults || on_their_way.count() >= TASKS_MAX {
            let decline = json!({"type": "DECLINE",
                "decline": {"offer_ids": [offer["id"]], "filters": {"refuse_seconds": 1.0}}});
            self.call(decline);
            return;
        }
        let count = 1 + self.random.below(3);
        let tasks: Vec<Value> = (0..count).map(|_| self.new_task(offer)).collect();
        let ids: Vec<String> =
            tasks.iter().map(|task| task["task_id"]["value"].as_str().unwrap_or_default().to_owned()).collect();
        let accept = json!({"type": "ACCEPT", "accept": {
            "offer_ids": [offer["id"]], "operations": [{"type": "LAUNCH", "launch": {"task_infos": tasks}}],
            "filters": {"refuse_seconds": 0.2}}});
        let fate = match self.call(accept) {
            Some(202) => Fate::Accepted,
            Some(status) if (400..500).contains(&status) => Fate::Refused,
            _ => Fate::Unknown,
        };
        for id in ids {
            let task = self.tasks.get_mut(&id).expect("just made");
            // An update may not come before, but it is not the stream's reader who is behind.
            task.fate = fate.clone();
        }
        if self.random.one_in(5)
            && let Some(id) = self.tasks.keys().next_back().cloned()
        {
            self.call(json!({"type": "KILL", "kill": {"task_id": {"value": id}}}));
        }
    }

    fn new_task(&mut self, offer: &Value) -> Value {
        let id = format!("{}-{:05}", self.name, self.tasks.len());
        // One write of a line, appended: as many lines as the task ran.
        let seconds = self.random.below(30) as f64 / 10.0;
        let command = format!("echo {id} >> {}; sleep {seconds}", self.shared.ran.display());
        self.tasks.insert(id.clone(), Task { id: id.clone(), fate: Fate::Unknown, begun: Instant::now(), rank: 0 });
        command_task(&id, offer, &command)
    }

    fn update(&mut self, status: &Value) {
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        let (state, reason) = (text("state"), text("reason"));
        let id = status["task_id"]["value"].as_str().unwrap_or_default().to_owned();
        let Some(task) = self.tasks.get_mut(&id) else {
            return self.shared.wrong(format!("{}: an update of {id}, which it never launched", self.name));
        };
        let of_agent = status["uuid"].is_string();
        if of_agent && task.fate == Fate::Refused {
            self.shared.wrong(format!("{id}: its launch was refused, but it is {state}"));
        }
        if of_agent && rank(&state) < task.rank {
            self.shared.wrong(format!("{id}: {state} after a later state was acknowledged"));
        }
        let is_end = rank(&state) == 4;
        // The answer to a question about a task that is not known: perhaps it is not known yet.
        let is_guess = !of_agent && reason == "REASON_RECONCILIATION";
        let counts = is_end && (!is_guess || self.shared.phase() == Phase::Quiet);
        match &task.fate {
            Fate::Ended(before, why) if is_end && *before != state && why != "REASON_RECONCILIATION" && !is_guess => {
                self.shared.wrong(format!("{id}: it ended as {before} ({why}), then as {state} ({reason})"));
            }
            Fate::Ended(..) => {}
            _ if counts => task.fate = Fate::Ended(state.clone(), reason),
            _ => {}
        }
        if of_agent {
            let call = json!({"type": "ACKNOWLEDGE", "acknowledge": {
                "agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]}});
            // Not acknowledged, it comes again.
            if self.call(call) == Some(202)
                && let Some(task) = self.tasks.get_mut(&id)
            {
                task.rank = task.rank.max(rank(&state));
            }
        }
    }

    fn reconcile(&mut self) {
        if self.shared.phase() != Phase::Quiet {
            return;
        }
        let open: Vec<Value> = self
            .tasks
            .values()
            .filter(|task| task.is_open())
            .map(|task| json!({"task_id": {"value": task.id}}))
            .collect();
        if !open.is_empty() {
            self.call(json!({"type": "RECONCILE", "reconcile": {"tasks": open}}));
        }
    }

    /// The status of the answer, if there was one. Any master takes calls.
    fn call(&mut self, mut call: Value) -> Option<u16> {
        let at = self.any();
        let framework = self.framework.as_ref()?;
        call["framework_id"] = json!({"value": framework.id});
        let request = Request::post_json(SCHEDULER, &call.to_string()).header("Mesos-Stream-Id", &framework.stream_id);
        let status = http::send_within(at, &request, PATIENCE).ok().map(|answer| answer.status());
        if status.is_some_and(|status| (400..500).contains(&status)) {
            // This stream is none any more.
            self.framework = None;
        }
        status
    }
}
