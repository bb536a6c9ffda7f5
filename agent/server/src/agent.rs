//! What all parts of the running agent share, and the one task that writes its log.
//!
//! ```text
//! submit ─► inbox ─► keeper: decide, fold, append (a whole batch is one record) ─► synced ─► effects, answers
//! ```
//!
//! The keeper does not wait for the disk: it decides against the state with all records in flight, and holds effects
//! and answers back until their record is synced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent_core::{
    Command, Delivery, Effect, Event, Executor, FEATURE_LEVEL, Refusal, State, Unreadable, Why, decide, fold, part,
    react, restoring, without_useless,
};
use api::limits::{
    AGENT_BATCH_COMMANDS_MAX, AGENT_LAUNCH_COPIES_MAX, AGENT_RECORD_BYTES_FULL, AGENT_RESTORE_BYTES,
    AGENT_WAITING_BYTES_MAX, AGENT_WAITING_MAX, TO_AGENT_BYTES_MAX,
};
use api_http::FileTable;
use event_log::limits::RECORD_BYTES_MAX;
use event_log::local::AppendError;
use event_log::{Cause, Header, RawEvent, Record, host};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::Config;
use crate::dial::Dial;
use crate::executors::ExecutorStream;
use crate::orders;
use crate::providers::{self, Providers};
use crate::surroundings::{Containerizer, Inbox, Log, Surroundings, Volumes};
use crate::waiting::Waiting;

/// What one command may lead to, in bytes: more is not decided.
const DECISION_BYTES_MAX: usize = AGENT_LAUNCH_COPIES_MAX * TO_AGENT_BYTES_MAX;
// Whatever is decided, its record can be written and read again.
const _: () = assert!(AGENT_RECORD_BYTES_FULL + DECISION_BYTES_MAX <= RECORD_BYTES_MAX);
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
    /// Messages that the masters have.
    pub(crate) received_up_to: u64,
}

impl Synced {
    /// If all of this state is.
    fn of(state: &State) -> Synced {
        Synced {
            orders_up_to: state.orders_up_to,
            messages_up_to: state.messages.up_to,
            received_up_to: state.messages.received_up_to,
        }
    }
}

/// The agent's time: that of the machine's clock when the agent was started, and from then on as fast as time goes. A clock
/// that is set meanwhile makes nothing late and nothing early.
#[derive(Debug)]
pub(crate) struct Clock {
    at_ms: u64,
    began: Instant,
}

impl Clock {
    fn start() -> Clock {
        Clock { at_ms: host::wall_ms(), began: Instant::now() }
    }

    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        self.at_ms.saturating_add(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The running agent.
pub(crate) struct Agent {
    pub(crate) config: Config,
    /// host:port of the HTTP endpoints, as told to others.
    pub(crate) address: String,
    pub(crate) clock: Clock,
    pub(crate) started_ms: u64,
    pub(crate) started: Instant,
    /// How long it took to find everything again.
    pub(crate) recovered_ms: AtomicU64,
    /// With all records in flight.
    pub(crate) state: RwLock<State>,
    pub(crate) containers: Box<dyn Containerizer>,
    pub(crate) volumes: Box<dyn Volumes>,
    pub(crate) dial: Box<dyn Dial>,
    /// Those that are open: which of them counts is in State.
    pub(crate) streams: Mutex<BTreeMap<(String, String), ExecutorStream>>,
    pub(crate) streams_opened: AtomicU64,
    pub(crate) providers: Providers,
    /// Those that it started itself.
    pub(crate) local: OnceLock<agent_storage::Daemon>,
    /// Executors that must keep their updates, until the masters have taken some: then they are asked to subscribe again.
    pub(crate) held_up: Mutex<BTreeSet<(String, String)>>,
    pub(crate) files: FileTable,
    pub(crate) waiting: Waiting,
    pub(crate) counters: Counters,
    /// host:port of the master that welcomed the agent, while the connection lasts.
    pub(crate) master: RwLock<Option<String>>,
    pub(crate) synced: watch::Sender<Synced>,
    /// Where messages of executors go, while there is a master; they may be lost.
    pub(crate) to_master: Mutex<Option<mpsc::Sender<api::internal::from_agent::Message>>>,
    /// Why the masters will never want this agent again: it fails with this sentence as soon as nothing runs.
    pub(crate) gone: OnceLock<String>,
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
    pub(crate) orders_given_up: AtomicU64,
    pub(crate) orders_refused: AtomicU64,
    pub(crate) executors_terminated: AtomicU64,
    pub(crate) executors_preempted: AtomicU64,
    pub(crate) operations: AtomicU64,
    pub(crate) operations_failed: AtomicU64,
    pub(crate) fetches: AtomicU64,
    pub(crate) fetches_failed: AtomicU64,
    pub(crate) sandboxes_deleted: AtomicU64,
    pub(crate) sandboxes_stuck: AtomicU64,
    /// Not old enough yet, at the last look.
    pub(crate) sandboxes_pending: AtomicU64,
    /// How old they may be, as of the last look.
    pub(crate) sandbox_age_max_secs: AtomicU64,
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
            Event::StopRequested { why: Why::Preempted, .. } => &self.executors_preempted,
            Event::OperationEnded { status, .. } => {
                self.operations.fetch_add(1, Ordering::Relaxed);
                let status: api::v1::OperationStatus = status.get();
                if status.state() != api::v1::OperationState::OperationFailed {
                    return;
                }
                tracing::error!(why = status.message(), "an operation of the masters failed");
                &self.operations_failed
            }
            Event::OrderNotUnderstood { seq, sentence } => {
                tracing::error!(seq, why = sentence, "an order of the masters cannot be carried out");
                &self.orders_given_up
            }
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Agent {
    pub(crate) fn new(
        config: Config,
        address: String,
        state: State,
        surroundings: Surroundings,
    ) -> (Arc<Agent>, mpsc::UnboundedReceiver<Request>) {
        let (inbox, requests) = mpsc::unbounded_channel();
        let synced = Synced::of(&state);
        let clock = Clock::start();
        let agent = Agent {
            config,
            address,
            started_ms: clock.now_ms(),
            started: Instant::now(),
            clock,
            recovered_ms: AtomicU64::new(0),
            state: RwLock::new(state),
            containers: surroundings.containers,
            volumes: surroundings.volumes,
            dial: surroundings.dial,
            streams: Mutex::default(),
            streams_opened: AtomicU64::new(0),
            providers: Providers::default(),
            local: OnceLock::new(),
            held_up: Mutex::default(),
            files: FileTable::default(),
            waiting: Waiting::default(),
            counters: Counters::default(),
            master: RwLock::default(),
            synced: watch::Sender::new(synced),
            to_master: Mutex::default(),
            gone: OnceLock::new(),
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
    pub(crate) fn runs(&self, framework_id: &str, executor_id: &str) -> PathBuf {
        let agent_id = self.state.read_recursive().registration.agent_id.clone().unwrap_or_default();
        crate::paths::runs(&self.config.work_dir, &agent_id, framework_id, executor_id)
    }

    /// Folder that an executor's process runs in.
    pub(crate) fn sandbox(&self, framework_id: &str, executor: &Executor) -> PathBuf {
        self.runs(framework_id, &executor.executor_id).join(&executor.container_id)
    }

    /// Lets the files of an executor be read over HTTP.
    pub(crate) fn attach(&self, framework_id: &str, executor: &Executor) {
        let sandbox: Arc<Path> = self.sandbox(framework_id, executor).into();
        let latest = self.runs(framework_id, &executor.executor_id).join("latest");
        let short = format!("/frameworks/{framework_id}/executors/{}/runs/latest", executor.executor_id);
        for path in [short, latest.display().to_string(), sandbox.display().to_string()] {
            self.files.attach(&path, sandbox.clone());
        }
    }

    /// Lets nobody find the files of an executor any more, or those of all executors of a framework.
    fn detach(&self, framework_id: &str, executor: Option<(String, String)>) {
        let agent_id = self.state.read_recursive().registration.agent_id.clone().unwrap_or_default();
        let real = self.config.work_dir.join(format!("slaves/{agent_id}/frameworks/{framework_id}"));
        let short = format!("/frameworks/{framework_id}");
        let Some((executor_id, container_id)) = executor else {
            self.files.detach_below(&short);
            return self.files.detach_below(&real.display().to_string());
        };
        let runs = real.join(format!("executors/{executor_id}/runs"));
        let sandbox = runs.join(container_id);
        self.files.detach(&sandbox.display().to_string());
        // These lead to the latest of the executor's runs, which may be another one.
        for path in [format!("{short}/executors/{executor_id}/runs/latest"), runs.join("latest").display().to_string()]
        {
            self.files.detach_from(&path, &sandbox);
        }
    }

    /// Executors that had to keep updates try again when there is room.
    fn wake_held_up(&self) {
        let room = {
            let messages = &self.state.read().messages;
            messages.waiting.len() < AGENT_WAITING_MAX / 2 && messages.waiting_bytes < AGENT_WAITING_BYTES_MAX / 2
        };
        if room {
            for key in std::mem::take(&mut *self.held_up.lock()) {
                self.streams.lock().remove(&key);
            }
        }
    }
}

/// A record in flight, and what is held back until it is synced.
struct Held {
    effects: Vec<Effect>,
    replies: Vec<(oneshot::Sender<Answer>, Answer)>,
    synced: Synced,
    failure: Option<String>,
}

/// The only writer of the log. Ends when nobody can want anything any more, or the log cannot be written.
pub(crate) async fn keep(agent: Arc<Agent>, log: Arc<dyn Log>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut in_flight: FuturesOrdered<BoxFuture<'static, Held>> = FuturesOrdered::new();
    let mut keeper = Keeper { log, limit_bytes: Arc::new(AtomicU64::new(agent.config.log_bytes_max)), began: false };
    let mut inbox = VecDeque::new();
    let mut batch = Vec::new();
    loop {
        let has_room = in_flight.len() < IN_FLIGHT_MAX;
        if has_room && !inbox.is_empty() {
            in_flight.push_back(keeper.run_batch(&agent, &mut inbox));
        }
        let deadline = keeper.began.then(|| agent.state.read().next_deadline_ms()).flatten();
        let pause = deadline.map_or(3_600_000, |due| due.saturating_sub(agent.clock.now_ms()));
        tokio::select! {
            biased;
            Some(held) = in_flight.next(), if !in_flight.is_empty() => {
                if let Some(sentence) = held.failure {
                    return agent.fail(sentence);
                }
                agent.synced.send_if_modified(|synced| std::mem::replace(synced, held.synced) != held.synced);
                held.effects.into_iter().for_each(|effect| perform(&agent, effect));
                for (reply, answer) in held.replies {
                    let _ = reply.send(answer);
                }
                if !agent.held_up.lock().is_empty() {
                    agent.wake_held_up();
                }
            }
            // Some are left over when a record was full.
            () = std::future::ready(()), if has_room && !inbox.is_empty() => {}
            count = requests.recv_many(&mut batch, AGENT_BATCH_COMMANDS_MAX), if has_room => {
                if count == 0 {
                    return;
                }
                inbox.extend(batch.drain(..));
            }
            () = tokio::time::sleep(Duration::from_millis(pause)), if has_room => {
                inbox.push_back(Request { command: Command::PassDeadlines, reply: None });
            }
        }
    }
}

struct Keeper {
    log: Arc<dyn Log>,
    /// The log is shortened when it is larger.
    limit_bytes: Arc<AtomicU64>,
    /// Executors can reach the agent: from here on their time runs, not while it is still looking around.
    began: bool,
}

impl Keeper {
    /// Decides what is wanted, as much as fits into one record.
    fn run_batch(&mut self, agent: &Agent, inbox: &mut VecDeque<Request>) -> BoxFuture<'static, Held> {
        let at_ms = agent.clock.now_ms();
        let mut record = empty_record(at_ms);
        let mut held = Held { effects: Vec::new(), replies: Vec::new(), synced: Synced::default(), failure: None };
        let mut random = || host::random().to_le_bytes();
        let given = |container_id: &str| agent.containers.given(container_id);
        let settings = &agent.config.settings;
        let mut around = agent_core::Surroundings { at_ms, settings, random: &mut random, given: &given };
        let mut state = agent.state.write();
        let mut bytes = 0;
        while bytes < AGENT_RECORD_BYTES_FULL
            && let Some(Request { command, reply }) = inbox.pop_front()
        {
            self.began |= matches!(command, Command::Restart { .. });
            let name = command.name();
            tracing::debug!(command = name, "deciding");
            let cause = record.causes.len() as u32;
            let answer = decide_bounded(&state, command, &mut around, cause).map(|decided| {
                if !decided.is_empty() {
                    record.causes.push(Cause { call: name.to_owned(), ..Cause::default() });
                }
                let count = decided.len();
                let mut effects = Vec::new();
                for (event, raw) in decided {
                    effects.extend(part(&state, &event));
                    fold(&mut state, &event);
                    bytes += raw.payload.len();
                    record.events.push(raw);
                    effects.extend(react(&state, &event));
                    agent.counters.count(&event);
                }
                held.effects.extend(without_useless(effects));
                count
            });
            if let Err(refusal) = &answer {
                tracing::info!(command = name, %refusal, "refused");
            }
            held.replies.extend(reply.map(|reply| (reply, answer)));
        }
        held.synced = Synced::of(&state);
        if record.events.is_empty() {
            return Box::pin(std::future::ready(held));
        }
        let ticket = self.log.append(record);
        let shortened = self.shorten_if_large(&state, at_ms);
        let (log, limit_bytes, bytes_max) = (self.log.clone(), self.limit_bytes.clone(), agent.config.log_bytes_max);
        Box::pin(async move {
            let mut done = ticket.await;
            if let Some(shortened) = shortened {
                done = done.and(shortened.await);
                // A state that is large by itself must not be written again with every record.
                limit_bytes.store(bytes_max.max(2 * log.size_bytes()), Ordering::Relaxed);
            }
            let sentence = |error| format!("Cannot write the agent's log: {}", event_log::sentence(&error));
            held.failure = done.err().map(sentence);
            held
        })
    }

    /// Lets the log begin anew with the parts of `state`, which it has led to.
    fn shorten_if_large(&self, state: &State, at_ms: u64) -> Option<BoxFuture<'static, Result<(), AppendError>>> {
        if self.log.size_bytes() <= self.limit_bytes.load(Ordering::Relaxed) {
            return None;
        }
        // Not again before this one is done.
        self.limit_bytes.store(u64::MAX, Ordering::Relaxed);
        let cause = Cause { call: "shorten".to_owned(), ..Cause::default() };
        let empty = || Record { causes: vec![cause.clone()], ..empty_record(at_ms) };
        let mut records = vec![empty()];
        let mut bytes = 0;
        for event in restoring(state) {
            let raw = event.to_raw(0);
            if bytes > 0 && bytes + raw.payload.len() > AGENT_RESTORE_BYTES {
                records.push(empty());
                bytes = 0;
            }
            bytes += raw.payload.len();
            records.last_mut().expect("there is one at least").events.push(raw);
        }
        Some(self.log.rotate(records))
    }
}

fn empty_record(at_ms: u64) -> Record {
    Record { header: Header { at_ms, feature_level: FEATURE_LEVEL, ..Header::default() }, ..Record::default() }
}

/// What `command` leads to, and how that is stored. An order that leads to more than a record can hold is given up: it would
/// come again for ever.
fn decide_bounded(
    state: &State,
    command: Command,
    around: &mut agent_core::Surroundings<'_>,
    cause: u32,
) -> Result<Vec<(Event, RawEvent)>, Refusal> {
    let given_up = match &command {
        Command::TakeOrder(order) => Some(orders::given_up(order, "It is too large for this agent".to_owned())),
        _ => None,
    };
    let decided = stored(decide(state, command, around)?, cause);
    let Some(order) = given_up.filter(|_| weight(&decided) > DECISION_BYTES_MAX) else { return Ok(decided) };
    let decided = stored(decide(state, Command::GiveUpOrder(Box::new(order.clone())), around)?, cause);
    if weight(&decided) <= DECISION_BYTES_MAX {
        return Ok(decided);
    }
    let nameless = Unreadable { framework_id: None, ..order };
    Ok(stored(decide(state, Command::GiveUpOrder(Box::new(nameless)), around)?, cause))
}

fn stored(events: Vec<Event>, cause: u32) -> Vec<(Event, RawEvent)> {
    events.into_iter().map(|event| (event.to_raw(cause), event)).map(|(raw, event)| (event, raw)).collect()
}

fn weight(decided: &[(Event, RawEvent)]) -> usize {
    decided.iter().map(|(_, raw)| raw.payload.len() + 8).sum()
}

/// An executor whose tasks would not find their volumes is not handed them: it ends.
fn link(agent: &Arc<Agent>, container_id: String) {
    let Err(sentence) = agent.containers.link(&Inbox(agent.clone()), &container_id) else { return };
    tracing::error!(container_id, why = sentence, "cannot bring volumes into a sandbox; ending its executor");
    let key = agent.state.read().containers.get(&container_id).cloned();
    if let Some(key) = key {
        agent.streams.lock().remove(&key);
    }
    agent.submit(Command::ReportUpdateFailure { container_id });
}

/// Tasks are handed over when what they use of providers is ready. If it is not to be, their executor ends.
fn hand_over(agent: &Arc<Agent>, key: crate::executors::Key, stream: u64, delivery: Delivery) {
    let container_id = agent.state.read().executor(&key.0, &key.1).map(|executor| executor.container_id.clone());
    let container_id = container_id.filter(|id| providers::are_used(&agent.state.read(), id));
    let Some(container_id) = container_id else { return crate::executors::deliver(agent, &key, stream, &delivery) };
    let agent = agent.clone();
    host::spawn(async move {
        if let Err(sentence) = providers::publish(&agent, &container_id).await {
            tracing::error!(container_id, why = sentence, "an executor does not get its tasks; ending it");
            crate::executors::hang_up(&agent, &key, stream);
            return agent.submit(Command::ReportUpdateFailure { container_id });
        }
        crate::executors::deliver(&agent, &key, stream, &delivery);
        // What was said meanwhile of a task that it did not have is said again.
        let Delivery::Launch { task_ids, .. } = delivery else { return };
        let is_killed = |task_id: &&String| {
            let state = agent.state.read();
            let executor = state.executor(&key.0, &key.1);
            executor.and_then(|executor| executor.tasks.get(*task_id)).is_some_and(|task| task.kill.is_some())
        };
        for task_id in task_ids.iter().filter(is_killed) {
            crate::executors::deliver(&agent, &key, stream, &Delivery::Kill { task_id: task_id.clone() });
        }
    });
}

pub(crate) fn perform(agent: &Arc<Agent>, effect: Effect) {
    match effect {
        Effect::Launch { container_id } => agent.containers.launch(&Inbox(agent.clone()), container_id),
        Effect::Stop { container_id, signal } => {
            agent.containers.stop(&Inbox(agent.clone()), container_id, signal);
        }
        Effect::Tell { container_id, told } => agent.waiting.tell(&container_id, &told),
        Effect::Remove { container_id } => agent.containers.remove(&Inbox(agent.clone()), container_id),
        Effect::Check { container_id } => agent.containers.check(&Inbox(agent.clone()), container_id),
        Effect::Release { container_id } => agent.containers.release(container_id),
        Effect::Apply { operation } => agent.volumes.apply(&Inbox(agent.clone()), operation),
        Effect::Settle { operation } => agent.volumes.settle(operation),
        Effect::Update { container_id } => agent.containers.update(&Inbox(agent.clone()), &container_id),
        Effect::Link { container_id } => link(agent, container_id),
        Effect::Provide { provider_id, stream, said } => agent.providers.say(agent, &provider_id, stream, &said),
        Effect::LetGo { provider_id, below } => agent.providers.let_go(&provider_id, below),
        Effect::Ready => agent.providers.changed(),
        Effect::Deliver { framework_id, executor_id, stream, delivery: delivery @ Delivery::Launch { .. } } => {
            hand_over(agent, (framework_id, executor_id), stream, delivery);
        }
        Effect::Deliver { framework_id, executor_id, stream, delivery } => {
            crate::executors::deliver(agent, &(framework_id, executor_id), stream, &delivery);
        }
        Effect::HangUp { framework_id, executor_id, stream } => {
            crate::executors::hang_up(agent, &(framework_id, executor_id), stream);
        }
        Effect::ForgetFiles { framework_id, executor } => agent.detach(&framework_id, executor),
        Effect::ReportLeft => {
            let ended = agent.gone.get().map_or(End::Left, |sentence| End::Failed(sentence.clone()));
            agent.end.send_if_modified(|end| {
                let first = end.is_none();
                end.get_or_insert(ended);
                first
            });
        }
        // Whoever holds the connection to a master watches what is synced.
        Effect::SendMessages | Effect::AcknowledgeOrders => {}
    }
}
