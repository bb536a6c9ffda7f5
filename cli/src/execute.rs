//! `meseta execute`: a scheduler for one task. Subscribes, accepts one offer, follows the task to its end.
//!
//! It outlives the master it talks to: when its stream ends it subscribes again, at any master of the list, and asks
//! for the task's state.

mod output;
mod waiting;

use std::process::ExitCode;
use std::time::Duration;

use api::flags::{Flag, Kind, Values};
use api::terminal::plain;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use output::Output;

use crate::error::Error;
use crate::http::{self, Request};
use crate::ids::{self, text};
use crate::launch;
use crate::sandbox::{self, Task};
use crate::say;

pub(crate) const ABOUT: &str = "\
Run one task, follow its states, exit with its result.

Each state is a line `NAME: TASK_...` on standard output; the last one names the sandbox, the folder that the task ran
in. What the task writes to its standard output and error comes out of ours, as it is. While nothing runs, a line on
standard error says why. Ctrl-C, SIGTERM and a closed terminal end the task.

Exit codes: the command's own (0 when it finished); 1 if it ended in another way, never ran, or is not known to have
ended; 2 the command line is wrong; 129, 130, 143 ended by SIGHUP, Ctrl-C, SIGTERM.";

pub(crate) const FLAGS: &[Flag] = &[
    Flag::new("master", Kind::Text, "HOST:PORT of a master, or of several with commas; any will do.")
        .default("127.0.0.1:5050"),
    Flag::new("name", Kind::Text, "The task's name, which is its id too. Required unless --task is given."),
    Flag::new("command", Kind::Text, "What to run. Required unless --task is given."),
    Flag::new("shell", Kind::Bool, "Whether a shell runs the command; if not, its words are its arguments.")
        .default("true"),
    Flag::new("resources", Kind::Text, "What it needs.").default("cpus:1;mem:128"),
    Flag::new("env", Kind::Text, "Its environment, as a JSON object of strings."),
    Flag::new("role", Kind::Text, "The role to run in (default: *)."),
    Flag::new("user", Kind::Text, "Who runs it (default: who you are)."),
    Flag::new(
        "task",
        Kind::Content,
        "A TaskInfo as JSON, or a file of it, instead of the flags above; its task_id is its name unless it says so, and its resources are --resources.",
    ),
    Flag::new("timeout", Kind::Duration, "Give up if the task does not run after this long, as 30secs."),
    Flag::new("kill_after", Kind::Duration, "Kill the task after it ran this long, as 30secs."),
    Flag::new("output", Kind::Bool, "Show what the task writes; never with --json.").default("true"),
    Flag::new("statuses", Kind::Bool, "Show its states; without them only its output is on standard output.")
        .default("true"),
    Flag::new("framework_name", Kind::Text, "How the framework is called.").default("meseta execute"),
    Flag::new("checkpoint", Kind::Bool, "As in mesos-execute; tasks survive an agent's restart either way.")
        .default("false"),
    Flag::new("json", Kind::Bool, "Print each status as one JSON object instead of a line.").default("false"),
    http::SECRET,
];

/// An event of a cluster with 50,000 agents fits.
const EVENT_BYTES_MAX: usize = 256 << 20;
/// Subscribing again may take as long as an election on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Masters that form a quorum, or elect, are waited for this long at first.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// Who waits longer is told why.
const SILENT: Duration = Duration::from_secs(1);
/// How often it is looked why nothing runs.
const LOOK: Duration = Duration::from_secs(4);

pub(crate) async fn run(flags: Values) -> Result<ExitCode, Error> {
    let mut execution = Execution::new(&flags)?;
    let mut signals = Signals::new()?;
    let outcome = tokio::select! {
        outcome = execution.follow() => outcome,
        (name, code) = signals.next() => {
            eprintln!("meseta: {name}: {}", execution.farewell());
            execution.teardown().await;
            return Ok(ExitCode::from(code));
        }
    };
    // The task is at its end, or will never start: nothing of this framework should stay.
    execution.teardown().await;
    Ok(ExitCode::from(exit_code(&outcome?)))
}

/// Whoever wants us to end wants the task to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Error> {
        let watch = |kind| signal(kind).map_err(|error| Error::Failed(format!("cannot watch signals: {error}")));
        Ok(Signals {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hang_up: watch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> (&'static str, u8) {
        tokio::select! {
            _ = self.interrupt.recv() => ("interrupted", 130),
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.hang_up.recv() => ("the terminal is gone", 129),
        }
    }
}

/// The command's own, as far as its last status tells it.
fn exit_code(status: &Value) -> u8 {
    if status["state"] == "TASK_FINISHED" {
        return 0;
    }
    let said = text(&status["message"]).strip_prefix("Command exited with status ");
    said.and_then(|code| code.trim().parse().ok()).filter(|code| *code != 0).unwrap_or(1)
}

struct Execution {
    masters: Vec<String>,
    task: Value,
    framework_info: Value,
    framework_id: Option<String>,
    stream_id: Option<String>,
    /// Who answered SUBSCRIBE: calls go there.
    at: Vec<String>,
    /// An ACCEPT was sent, and it was not heard that it failed.
    launched: bool,
    seen_update: bool,
    last_state: String,
    kill_at: Option<Instant>,
    kill_after: Option<Duration>,
    timeout: Option<Duration>,
    output: Option<Output>,
    show: Show,
    /// What was said last about why nothing runs.
    said: String,
}

/// What of it is printed.
#[derive(Clone, Copy, Debug)]
struct Show {
    output: bool,
    statuses: bool,
    as_json: bool,
}

/// What the task of reading the stream hands over.
type Events = mpsc::Receiver<Value>;

impl Execution {
    fn new(flags: &Values) -> Result<Self, Error> {
        let masters = http::addresses(flags.text("master").unwrap_or_default())?;
        let task = match flags.text("task") {
            Some(text) => task_from_json(text, flags.text("resources").unwrap_or_default())?,
            None => task_from_flags(flags)?,
        };
        let user = flags.text("user").map_or_else(own_user, str::to_owned);
        let mut framework_info = json!({
            "user": user,
            "name": flags.text("framework_name"),
            // So that the task lives on while we look for another master.
            "failover_timeout": PATIENCE.as_secs_f64(),
            "checkpoint": flags.bool("checkpoint"),
        });
        if let Some(role) = flags.text("role") {
            framework_info["role"] = json!(role);
        }
        Ok(Self {
            masters,
            task,
            framework_info,
            framework_id: None,
            stream_id: None,
            at: Vec::new(),
            launched: false,
            seen_update: false,
            last_state: String::new(),
            kill_at: None,
            kill_after: flags.duration("kill_after"),
            timeout: flags.duration("timeout"),
            output: None,
            show: Show {
                output: flags.bool("output") && !flags.bool("json"),
                statuses: flags.bool("statuses"),
                as_json: flags.bool("json"),
            },
            said: String::new(),
        })
    }

    /// Until the task's terminal status.
    async fn follow(&mut self) -> Result<Value, Error> {
        let give_up_at = self.timeout.map(|timeout| Instant::now() + timeout);
        let subscribed = async {
            tokio::select! {
                events = self.subscribe() => Some(events),
                () = sleep_until(give_up_at.unwrap_or_else(Instant::now)), if give_up_at.is_some() => None,
            }
        };
        let Some(events) = subscribed.await else { return Err(self.gave_up()) };
        let mut events = events?;
        let mut silence = Duration::from_secs(60);
        let mut look_at = Instant::now() + SILENT;
        let mut looks: JoinSet<String> = JoinSet::new();
        loop {
            let kill_at = self.kill_at;
            let runs = self.has_begun();
            let event = tokio::select! {
                event = timeout(silence, events.recv()) => event.ok().flatten(),
                () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                    self.kill_at = None;
                    self.call(json!({"type": "KILL", "kill": {"task_id": self.task["task_id"]}})).await?;
                    continue;
                }
                () = sleep_until(give_up_at.unwrap_or_else(Instant::now)), if give_up_at.is_some() && !runs => {
                    return Err(self.gave_up());
                }
                () = sleep_until(look_at), if !self.launched && looks.is_empty() => {
                    look_at = Instant::now() + LOOK;
                    looks.spawn(waiting::why(self.at.clone(), self.task["resources"].clone()));
                    continue;
                }
                Some(why) = looks.join_next() => {
                    if let (false, Ok(why)) = (self.launched, why) {
                        self.waits(&why);
                    }
                    continue;
                }
            };
            let Some(event) = event else {
                eprintln!("meseta: lost the master at {}: subscribing again", self.at.join(", "));
                events = self.subscribe().await.map_err(|error| self.unknown(&error))?;
                continue;
            };
            match event["type"].as_str().unwrap_or_default() {
                "SUBSCRIBED" => {
                    if let Some(seconds) = event["subscribed"]["heartbeat_interval_seconds"].as_f64() {
                        silence = Duration::from_secs_f64(seconds.clamp(1.0, 600.0) * 4.0);
                    }
                    if self.launched {
                        let task = json!({"task_id": self.task["task_id"]});
                        self.call(json!({"type": "RECONCILE", "reconcile": {"tasks": [task]}})).await?;
                    }
                }
                "OFFERS" => self.offers(&event["offers"]["offers"]).await?,
                "UPDATE" => {
                    if let Some(terminal) = self.update(&event["update"]["status"]).await? {
                        return Ok(terminal);
                    }
                }
                "ERROR" => {
                    let message = event["error"]["message"].as_str().unwrap_or("no reason").to_owned();
                    // The framework is over: there is nothing left to tear down.
                    self.stream_id = None;
                    return Err(Error::Failed(format!("the master ended this framework: {message}")));
                }
                _ => {}
            }
        }
    }

    async fn subscribe(&mut self) -> Result<Events, Error> {
        let mut info = self.framework_info.clone();
        let mut call = json!({"type": "SUBSCRIBE"});
        if let Some(id) = &self.framework_id {
            info["id"] = json!({"value": id});
            call["framework_id"] = json!({"value": id});
        }
        call["subscribe"] = json!({"framework_info": info});
        let request = Request { path: "/api/v1/scheduler".into(), body: Some(call.to_string()), stream_id: None };
        let start = Instant::now();
        let is_first = self.framework_id.is_none();
        let patience = if is_first { FIRST_PATIENCE } else { PATIENCE };
        let answer = loop {
            if !is_first {
                self.is_same_cluster(&self.masters).await?;
            }
            let problem = match http::send(&self.masters, &request).await {
                Ok(answer) if answer.status() == 200 => break answer,
                Ok(answer) if answer.status() == 503 => answer.text().await.err(),
                Ok(answer) => return Err(answer.text().await.err().unwrap_or_else(|| unexpected("SUBSCRIBE"))),
                // A wrong address should be told at once; later, masters may be electing.
                Err(error) if is_first && error.is_refused_by_all() => return Err(error),
                Err(error) => Some(error),
            };
            let problem = problem.unwrap_or_else(|| unexpected("SUBSCRIBE"));
            if start.elapsed() > patience {
                return Err(problem);
            }
            if start.elapsed() > SILENT {
                self.waits(&problem.to_string());
            }
            // The first of the list may be the one that is gone.
            self.masters.rotate_left(1);
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        let stream_id = answer.inner.headers().get("mesos-stream-id").and_then(|value| value.to_str().ok());
        self.stream_id = stream_id.map(str::to_owned);
        self.at = vec![answer.address.clone()];
        if !is_first {
            // One that was starting did not know yet which cluster it is of.
            self.is_same_cluster(&self.at).await?;
        }
        let (sender, mut events) = mpsc::channel(64);
        tokio::spawn(read_events(answer.inner.into_body(), sender));
        let first = timeout(PATIENCE, events.recv()).await.ok().flatten();
        let first = first.ok_or_else(|| Error::Failed("the master ended the stream at once".into()))?;
        if let Some(id) = first["subscribed"]["framework_id"]["value"].as_str() {
            self.framework_id = Some(id.to_owned());
        }
        // Handled like any other event, in its place.
        let (sender, all) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(event) = next {
                if sender.send(event).await.is_err() {
                    return;
                }
                next = events.recv().await;
            }
        });
        Ok(all)
    }

    /// At the old addresses somebody else may have begun a cluster since: its word about our task would be wrong. Who
    /// cannot be asked is not in doubt.
    async fn is_same_cluster(&self, masters: &[String]) -> Result<(), Error> {
        let Some(own) = self.framework_id.as_deref().and_then(ids::cluster_of) else { return Ok(()) };
        for master in masters {
            let request = Request::post("/meseta/masters", &json!({"action": "list", "here": true}));
            let Ok(answer) = http::ask(master, &request, Duration::from_secs(2)).await else { continue };
            let Ok(answer) = http::json(answer).await else { continue };
            if let Some(other) = answer["cluster_id"].as_str().filter(|other| *other != own) {
                return Err(Error::Failed(format!("{master} is a master of cluster {other} now, not of {own}")));
            }
        }
        Ok(())
    }

    /// Says once why nothing runs.
    fn waits(&mut self, why: &str) {
        if self.said != why {
            eprintln!("meseta: waiting: {}", plain(why));
            self.said = why.to_owned();
        }
    }

    fn gave_up(&self) -> Error {
        let after = self.timeout.map_or_else(String::new, api::duration::format);
        let why = match self.said.as_str() {
            "" if self.framework_id.is_none() => format!("no master of {} took it", self.masters.join(", ")),
            "" if self.launched => "it was launched, and its agent has said nothing".to_owned(),
            "" => "no offer came".to_owned(),
            said => said.to_owned(),
        };
        Error::Failed(format!("gave up after {after}: the task does not run: {why}"))
    }

    /// It runs, or has.
    fn has_begun(&self) -> bool {
        !matches!(self.last_state.as_str(), "" | "TASK_STAGING" | "TASK_STARTING")
    }

    /// What is said when we are to end before it.
    fn farewell(&self) -> String {
        match (self.launched, self.last_state.as_str()) {
            (false, _) => "nothing was launched".to_owned(),
            (true, "") => "ending the task, which was launched and has not been heard of".to_owned(),
            (true, state) => format!("ending the task, which was {state}"),
        }
    }

    /// No master can be asked any more: what is known of the task.
    fn unknown(&self, error: &Error) -> Error {
        if !self.launched {
            return Error::Failed(format!("{error}; nothing was launched"));
        }
        let state = if self.last_state.is_empty() { "launched" } else { &self.last_state };
        let agent = text(&self.task["agent_id"]["value"]);
        let until = api::duration::format(PATIENCE);
        Error::Failed(format!(
            "{error}; the task was {state} on {agent} when last heard of and may still run: masters end it {until} after \
             they lost this framework ({})",
            self.framework_id.as_deref().unwrap_or_default()
        ))
    }

    async fn offers(&mut self, offers: &Value) -> Result<(), Error> {
        let wanted = self.task["resources"].clone();
        let mut declined = Vec::new();
        for offer in offers.as_array().map_or(&[][..], Vec::as_slice) {
            if self.launched || !launch::fits(&wanted, offer) {
                declined.push(offer["id"].clone());
                continue;
            }
            self.task["agent_id"] = offer["agent_id"].clone();
            self.launched = true;
            let operation = json!({"type": "LAUNCH", "launch": {"task_infos": [self.task]}});
            let accept = json!({"offer_ids": [offer["id"]], "operations": [operation]});
            self.call(json!({"type": "ACCEPT", "accept": accept})).await?;
        }
        if !declined.is_empty() {
            // Once the task is placed nothing more is wanted; before that, look again soon.
            let refuse = if self.launched { 3600.0 } else { 5.0 };
            let decline = json!({"offer_ids": declined, "filters": {"refuse_seconds": refuse}});
            self.call(json!({"type": "DECLINE", "decline": decline})).await?;
        }
        Ok(())
    }

    /// Tells the user, acknowledges, and gives the status back if it is the last.
    async fn update(&mut self, status: &Value) -> Result<Option<Value>, Error> {
        if status["task_id"] != self.task["task_id"] {
            return Ok(None);
        }
        if status["uuid"].is_string() {
            let acknowledge =
                json!({"agent_id": status["agent_id"], "task_id": status["task_id"], "uuid": status["uuid"]});
            self.call(json!({"type": "ACKNOWLEDGE", "acknowledge": acknowledge})).await?;
        }
        let state = status["state"].as_str().unwrap_or_default().to_owned();
        let reconciled = status["reason"] == "REASON_RECONCILIATION";
        if reconciled && !self.seen_update && state == "TASK_LOST" {
            // The master that was asked to launch it ended before it did: the next offer will do.
            self.launched = false;
            self.call(json!({"type": "REVIVE"})).await?;
            return Ok(None);
        }
        self.seen_update |= !reconciled;
        let is_over = sandbox::is_terminal(&state);
        let mut ended = output::Ended::default();
        if self.launched && !self.show.as_json {
            self.watch_output(status);
            if is_over && let Some(output) = &mut self.output {
                ended = output.finish().await;
            }
        }
        if state != self.last_state {
            self.tell(status, &state, &ended);
            self.last_state.clone_from(&state);
        }
        if state == "TASK_RUNNING" && self.kill_at.is_none() {
            self.kill_at = self.kill_after.take().map(|after| Instant::now() + after);
        }
        Ok(is_over.then(|| status.clone()))
    }

    /// From the first word of its executor on there is a sandbox.
    fn watch_output(&mut self, status: &Value) {
        let of_agent = status["source"] != "SOURCE_MASTER";
        if self.output.is_some() || !of_agent || status["state"] == "TASK_STAGING" {
            return;
        }
        let task = Task {
            id: text(&status["task_id"]["value"]).to_owned(),
            framework_id: self.framework_id.clone().unwrap_or_default(),
            agent_id: text(&self.task["agent_id"]["value"]).to_owned(),
            state: text(&status["state"]).to_owned(),
        };
        self.output = Some(Output::start(self.masters.clone(), task, self.show.output));
    }

    fn tell(&self, status: &Value, state: &str, ended: &output::Ended) {
        if !self.show.statuses {
            return;
        }
        if self.show.as_json {
            return say(&format!("{}\n", api::terminal::json(&status.to_string())));
        }
        let mut line = format!("{}: {state}", text(&status["task_id"]["value"]));
        if let Some(agent) = status["agent_id"]["value"].as_str() {
            line.push_str(&format!(" on {agent}"));
        }
        if let Some(message) = status["message"].as_str().filter(|message| !message.is_empty()) {
            line.push_str(&format!(" ({message})"));
        }
        if let Some(sandbox) = &ended.sandbox {
            line.push_str(&format!(", sandbox {}", sandbox.shown()));
        }
        say(&format!("{}\n", plain(&line)));
    }

    /// A call whose failure is repaired by subscribing again; only a refusal is an error.
    async fn call(&self, mut call: Value) -> Result<(), Error> {
        call["framework_id"] = json!({"value": self.framework_id});
        let request = Request {
            path: "/api/v1/scheduler".into(),
            body: Some(call.to_string()),
            stream_id: self.stream_id.clone(),
        };
        let answer = match http::send(&self.at, &request).await {
            Ok(answer) if answer.status() != 503 => answer,
            // The master went away: the stream ends too, and what was asked is found out by RECONCILE.
            Ok(_) | Err(_) => return Ok(()),
        };
        match answer.text().await {
            // An older stream's id: the end of that stream is on its way to us.
            Err(Error::Refused { status: 400, message, .. }) if message.contains("stream ID") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn teardown(&mut self) {
        if self.stream_id.is_some() && self.framework_id.is_some() {
            // Nothing can be done about a failure: the failover timeout ends the framework then.
            let _ = timeout(Duration::from_secs(10), self.call(json!({"type": "TEARDOWN"}))).await;
        }
    }
}

/// Cuts the stream into records and hands them over, until either side ends.
async fn read_events(mut body: hyper::body::Incoming, events: mpsc::Sender<Value>) {
    let mut records = api::recordio::Decoder::new(EVENT_BYTES_MAX);
    while let Some(Ok(frame)) = body.frame().await {
        records.push(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(record) = records.next() {
            let Some(event) = record.ok().and_then(|record| serde_json::from_slice(&record).ok()) else { return };
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

fn task_from_flags(flags: &Values) -> Result<Value, Error> {
    let wanted = |name: &str| {
        flags.text(name).ok_or_else(|| Error::Usage(format!("--{name} is required (meseta execute --help tells more)")))
    };
    let (name, text) = (wanted("name")?, wanted("command")?);
    let mut command = if flags.bool("shell") {
        json!({"shell": true, "value": text})
    } else {
        let words: Vec<&str> = text.split_whitespace().collect();
        json!({"shell": false, "value": words.first(), "arguments": words})
    };
    if let Some(env) = flags.text("env") {
        let wrong = |_| Error::Usage("--env is not a JSON object of strings".into());
        let env: std::collections::BTreeMap<String, String> = serde_json::from_str(env).map_err(wrong)?;
        let variables: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        command["environment"] = json!({"variables": variables});
    }
    let resources = launch::resources(flags.text("resources").unwrap_or_default())?;
    Ok(json!({"name": name, "task_id": {"value": name}, "command": command, "resources": resources}))
}

/// A task as JSON, with these resources if it has none, or in a file whose path does not begin with a slash: those that do were read with the flags.
fn task_from_json(text: &str, resources: &str) -> Result<Value, Error> {
    let wrong = |why: String| Error::Usage(format!("--task is neither a TaskInfo as JSON nor a file of one: {why}"));
    let read;
    let text = match text.trim_start().starts_with('{') {
        true => text,
        false => {
            let path = text.trim();
            read = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot read '{path}': {error}")))?;
            &read
        }
    };
    let mut task: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    // One of the two says what the other is.
    match (task["name"].as_str().map(str::to_owned), task["task_id"]["value"].as_str().map(str::to_owned)) {
        (Some(name), None) => task["task_id"] = json!({"value": name}),
        (None, Some(id)) => task["name"] = json!(id),
        (Some(_), Some(_)) => {}
        (None, None) => return Err(wrong("it has neither a name nor a task_id".to_owned())),
    }
    if task.get("resources").is_none() {
        task["resources"] = json!(launch::resources(resources)?);
    }
    Ok(task)
}

fn own_user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
    user.map_or_else(|| "root".to_owned(), |user| user.name)
}

fn unexpected(call: &str) -> Error {
    Error::Failed(format!("{call} got an answer that is not one"))
}
