//! What all parts of the running agent share, and the one task that writes its log.
//!
//! ```text
//! submit ─► inbox ─► keeper: decide, fold, append (a whole batch is one record) ─► synced ─► effects, answers
//! ```
//!
//! The keeper does not wait for the disk: it decides against the state with all records in flight, and holds effects
//! and answers back until their record is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_core::{Command, Effect, Event, Executor, FEATURE_LEVEL, Refusal, State, Surroundings, decide, fold, react};
use api::limits::{AGENT_BATCH_COMMANDS_MAX, AGENT_LAUNCH_COPIES_MAX, AGENT_RECORD_BYTES_FULL, TO_AGENT_BYTES_MAX};
use api_http::FileTable;
use event_log::{Cause, Header, LocalLog, Record, encode_payload};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::containers::{self, Containers};
use crate::executors::ExecutorStream;

// Whatever order comes, its record can be written and read again.
const _: () = assert!(
    AGENT_RECORD_BYTES_FULL + AGENT_LAUNCH_COPIES_MAX * TO_AGENT_BYTES_MAX <= event_log::limits::RECORD_BYTES_MAX
);
/// Records in flight at most.
const IN_FLIGHT_MAX: usize = 16;

/// What an answered command did: how many events it made.
pub(crate) type Answer = Result<usize, Refusal>;

pub(crate) struct Request {
    command: Command,
    reply: Option<oneshot::Sender<Answer>>,
}

/// What of the log is synced, for those who tell the masters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Orders taken.
    pub(crate) orders_up_to: u64,
    /// Messages numbered.
    pub(crate) messages_up_to: u64,
}

/// The running agent.
pub(crate) struct Agent {
    pub(crate) config: Config,
    /// host:port of the HTTP endpoints, as told to others.
    pub(crate) address: String,
    pub(crate) started_ms: u64,
    pub(crate) started: Instant,
    /// How long it took to find everything again.
    pub(crate) recovered_ms: AtomicU64,
    /// With all records in flight.
    pub(crate) state: RwLock<State>,
    pub(crate) containers: Containers,
    pub(crate) streams: Mutex<BTreeMap<(String, String), ExecutorStream>>,
    pub(crate) files: FileTable,
    pub(crate) counters: Counters,
    /// host:port of the master that welcomed the agent, while the connection lasts.
    pub(crate) master: RwLock<Option<String>>,
    pub(crate) synced: watch::Sender<Synced>,
    /// Where messages of executors go, while there is a master; they may be lost.
    pub(crate) to_master: Mutex<Option<mpsc::Sender<api::internal::from_agent::Message>>>,
    /// Everything ended, for good; or the agent cannot go on: a sentence says why.
    pub(crate) end: watch::Sender<Option<End>>,
    inbox: mpsc::UnboundedSender<Request>,
}

/// Why the agent ends by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It left, and nothing runs any more.
    Left,
    /// It must not go on.
    Failed(String),
}

/// Counted since the start, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) finished: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) killed: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) gone: AtomicU64,
    pub(crate) updates: AtomicU64,
    pub(crate) invalid_updates: AtomicU64,
    pub(crate) framework_messages: AtomicU64,
    pub(crate) invalid_framework_messages: AtomicU64,
    pub(crate) launch_errors: AtomicU64,
    pub(crate) executors_terminated: AtomicU64,
}

impl Counters {
    fn count(&self, event: &Event) {
        use api::v1::TaskState::*;
        let counter = match event {
            Event::StatusWritten { task_state, .. } => {
                self.updates.fetch_add(1, Ordering::Relaxed);
                match api::v1::TaskState::try_from(*task_state) {
                    Ok(TaskFinished) => &self.finished,
                    Ok(TaskFailed) => &self.failed,
                    Ok(TaskKilled) => &self.killed,
                    Ok(TaskLost | TaskDropped) => &self.lost,
                    Ok(TaskGone) => &self.gone,
                    _ => return,
                }
            }
            Event::ExecutorEnded { .. } => &self.executors_terminated,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Agent {
    pub(crate) fn new(
        config: Config,
        address: String,
        state: State,
        containers: Containers,
    ) -> (Arc<Agent>, mpsc::UnboundedReceiver<Request>) {
        let (inbox, requests) = mpsc::unbounded_channel();
        let synced = Synced { orders_up_to: state.orders_up_to, messages_up_to: state.messages.up_to };
        let agent = Agent {
            config,
            address,
            started_ms: now_ms(),
            started: Instant::now(),
            recovered_ms: AtomicU64::new(0),
            state: RwLock::new(state),
            containers,
            streams: Mutex::default(),
            files: FileTable::default(),
            counters: Counters::default(),
            master: RwLock::default(),
            synced: watch::Sender::new(synced),
            to_master: Mutex::default(),
            end: watch::Sender::new(None),
            inbox,
        };
        (Arc::new(agent), requests)
    }

    /// Wants something, and does not wait for it.
    pub(crate) fn submit(&self, command: Command) {
        let _ = self.inbox.send(Request { command, reply: None });
    }

    /// Wants something; the answer comes when what was decided is synced. None if the agent is ending.
    pub(crate) fn ask(&self, command: Command) -> impl Future<Output = Option<Answer>> + use<> {
        let (reply, answer) = oneshot::channel();
        let _ = self.inbox.send(Request { command, reply: Some(reply) });
        async move { answer.await.ok() }
    }

    /// The agent must not go on, for a reason in one sentence.
    pub(crate) fn fail(&self, sentence: String) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(End::Failed(sentence));
            first
        });
    }

    /// Folder of an executor's runs.
    fn runs(&self, framework_id: &str, executor_id: &str) -> PathBuf {
        let agent_id = self.state.read_recursive().registration.agent_id.clone().unwrap_or_default();
        let path = format!("slaves/{agent_id}/frameworks/{framework_id}/executors/{executor_id}/runs");
        self.config.work_dir.join(path)
    }

    /// Folder that an executor's process runs in.
    pub(crate) fn sandbox(&self, framework_id: &str, executor: &Executor) -> PathBuf {
        self.runs(framework_id, &executor.executor_id).join(&executor.container_id)
    }

    /// Lets the files of an executor be read over HTTP.
    pub(crate) fn attach(&self, framework_id: &str, executor: &Executor) {
        let sandbox = self.sandbox(framework_id, executor);
        let latest = self.runs(framework_id, &executor.executor_id).join("latest");
        let short = format!("/frameworks/{framework_id}/executors/{}/runs/latest", executor.executor_id);
        for path in [short, latest.display().to_string(), sandbox.display().to_string()] {
            self.files.attach(&path, &sandbox);
        }
    }

    fn connected(&self) -> BTreeSet<(String, String)> {
        self.streams.lock().keys().cloned().collect()
    }
}

/// A record in flight, and what is held back until it is synced.
struct Held {
    effects: Vec<Effect>,
    replies: Vec<(oneshot::Sender<Answer>, Answer)>,
    synced: Synced,
    failure: Option<String>,
}

/// The only writer of the log.
pub(crate) async fn keep(agent: Arc<Agent>, log: LocalLog, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut in_flight: FuturesOrdered<BoxFuture<'static, Held>> = FuturesOrdered::new();
    let limit_bytes = Arc::new(AtomicU64::new(agent.config.log_bytes_max));
    let mut last_ms = 0;
    let mut batch = Vec::new();
    loop {
        let deadline = agent.state.read().next_deadline_ms();
        let pause =
            deadline.map_or(Duration::from_secs(3600), |due| Duration::from_millis(due.saturating_sub(now_ms())));
        tokio::select! {
            Some(held) = in_flight.next(), if !in_flight.is_empty() => {
                if let Some(sentence) = held.failure {
                    return agent.fail(sentence);
                }
                agent.synced.send_if_modified(|synced| std::mem::replace(synced, held.synced) != held.synced);
                held.effects.into_iter().for_each(|effect| perform(&agent, effect));
                for (reply, answer) in held.replies {
                    let _ = reply.send(answer);
                }
            }
            count = requests.recv_many(&mut batch, AGENT_BATCH_COMMANDS_MAX), if in_flight.len() < IN_FLIGHT_MAX => {
                if count == 0 {
                    return;
                }
                last_ms = now_ms().max(last_ms);
                in_flight.push_back(run_batch(&agent, &log, &limit_bytes, std::mem::take(&mut batch), last_ms));
            }
            () = tokio::time::sleep(pause), if in_flight.len() < IN_FLIGHT_MAX => {
                agent.submit(Command::PassDeadlines);
                tokio::task::yield_now().await;
                // Let it be decided before the deadline is looked at again.
                if let Some(request) = requests.recv().await {
                    last_ms = now_ms().max(last_ms);
                    in_flight.push_back(run_batch(&agent, &log, &limit_bytes, vec![request], last_ms));
                }
            }
        }
    }
}

/// `limit_bytes`: the log is shortened when it is larger.
fn run_batch(
    agent: &Agent,
    log: &LocalLog,
    limit_bytes: &Arc<AtomicU64>,
    requests: Vec<Request>,
    at_ms: u64,
) -> BoxFuture<'static, Held> {
    let mut record =
        Record { header: Header { at_ms, feature_level: FEATURE_LEVEL, ..Header::default() }, ..Record::default() };
    let mut held = Held { effects: Vec::new(), replies: Vec::new(), synced: Synced::default(), failure: None };
    let connected = agent.connected();
    let mut random = || *uuid::Uuid::new_v4().as_bytes();
    let mut around =
        Surroundings { at_ms, settings: &agent.config.settings, connected: &connected, random: &mut random };
    let mut state = agent.state.write();
    for Request { command, reply } in requests {
        let name = command.name();
        tracing::debug!(command = name, "deciding");
        let answer = decide(&state, command, &mut around).map(|events| {
            let cause = record.causes.len() as u32;
            if !events.is_empty() {
                record.causes.push(Cause { call: name.to_owned(), ..Cause::default() });
            }
            for event in &events {
                fold(&mut state, event);
                record.events.push(event.to_raw(cause));
                held.effects.extend(react(&state, event));
                agent.counters.count(event);
            }
            events.len()
        });
        if let Err(refusal) = &answer {
            tracing::info!(command = name, %refusal, "refused");
        }
        if let Some(reply) = reply {
            held.replies.push((reply, answer));
        }
    }
    held.synced = Synced { orders_up_to: state.orders_up_to, messages_up_to: state.messages.up_to };
    if record.events.is_empty() {
        return Box::pin(std::future::ready(held));
    }
    let ticket = log.append(record);
    let shortened = (log.size_bytes() > limit_bytes.load(Ordering::Relaxed)).then(|| {
        // Not again before this one is done.
        limit_bytes.store(u64::MAX, Ordering::Relaxed);
        let restored = Event::Restored { state: agent_core::Blob(encode_payload(&*state)) };
        let cause = Cause { call: "shorten".to_owned(), ..Cause::default() };
        let header = Header { at_ms, feature_level: FEATURE_LEVEL, ..Header::default() };
        let rotated = log.rotate(vec![Record { header, causes: vec![cause], events: vec![restored.to_raw(0)] }]);
        (rotated, log.clone(), limit_bytes.clone(), agent.config.log_bytes_max)
    });
    Box::pin(async move {
        let mut done = ticket.await.map(drop);
        if let Some((rotated, log, limit_bytes, bytes_max)) = shortened {
            done = done.and(rotated.await.map(drop));
            // A state that is large by itself must not be written again with every record.
            limit_bytes.store(bytes_max.max(2 * log.size_bytes()), Ordering::Relaxed);
        }
        held.failure = done.err().map(|error| format!("Cannot write the agent's log: {}", event_log::sentence(&error)));
        held
    })
}

pub(crate) fn perform(agent: &Arc<Agent>, effect: Effect) {
    match effect {
        Effect::Launch { container_id } => {
            tokio::spawn(containers::launch(agent.clone(), container_id));
        }
        Effect::Stop { container_id, signal } => {
            let agent = agent.clone();
            tokio::task::spawn_blocking(move || containers::stop(&agent, &container_id, signal));
        }
        Effect::Release { container_id } => {
            let agent = agent.clone();
            tokio::task::spawn_blocking(move || agent.containers.release(&container_id));
        }
        Effect::Deliver { framework_id, executor_id, delivery } => {
            crate::executors::deliver(agent, &framework_id, &executor_id, &delivery);
        }
        Effect::ReportLeft => {
            agent.end.send_if_modified(|end| {
                let first = end.is_none();
                end.get_or_insert(End::Left);
                first
            });
        }
        // Whoever holds the connection to a master watches what is synced.
        Effect::SendMessages | Effect::AcknowledgeOrders => {}
    }
}
