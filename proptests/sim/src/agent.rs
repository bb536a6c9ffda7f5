//! Agents: the real core over a simulated log, containers and connection. The log and the containers outlive the
//! process, as they do on a machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agent_core::{
    Command, Effect, Event, Process, Refusal, Settings, Signal, State, Surroundings, decide, fold, react,
};
use api::internal::{self, FromAgent, ToAgent, from_agent, refused::Remedy, to_agent};
use api::v1;
use bytes::{Bytes, BytesMut};
use event_log::host::{self, Host};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::master::PING;
use crate::net::{Net, request};
use crate::random::Random;
use crate::world::{EPOCH_MS, World};

const WELCOME: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A flush of the agent's log takes up to so many microseconds.
const FLUSH_US_MAX: u64 = 8_000;

/// What an agent has, in whole units of cpus; and 1024 of mem for each.
pub const CPUS: u64 = 4;

/// Who may decide whether a container runs: whoever claims it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Agent,
    Supervisor,
}

#[derive(Clone, Debug, Default)]
struct Container {
    claim: Option<Claim>,
    /// Wait status, once it ended.
    exit: Option<i32>,
    signal: Option<i32>,
    /// A supervisor is on its way.
    spawned: bool,
}

/// What survives the process.
#[derive(Default)]
struct Machine {
    /// The log: the first `synced` records survive a crash.
    records: Vec<Vec<Event>>,
    synced: usize,
    containers: BTreeMap<String, Container>,
    /// The process that runs now, for those who report to it.
    inbox: Option<mpsc::UnboundedSender<Request>>,
    /// The masters have no use for it: an operator would look at it.
    stopped: bool,
}

/// One machine with an agent.
pub struct Agent {
    world: Arc<World>,
    net: Net,
    /// Its name in the network.
    pub name: String,
    masters: Arc<Mutex<Vec<String>>>,
    machine: Arc<Mutex<Machine>>,
    random: Random,
    life: Option<Host>,
}

type Answer = Result<usize, Refusal>;

struct Request {
    command: Command,
    reply: Option<oneshot::Sender<Answer>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Synced {
    orders_up_to: u64,
    messages_up_to: u64,
}

/// One process.
struct Running {
    world: Arc<World>,
    net: Net,
    name: String,
    masters: Arc<Mutex<Vec<String>>>,
    machine: Arc<Mutex<Machine>>,
    state: Mutex<State>,
    synced: watch::Sender<Synced>,
    settings: Settings,
    inbox: mpsc::UnboundedSender<Request>,
    random: Mutex<Random>,
}

impl Agent {
    /// An empty machine.
    pub fn new(world: &Arc<World>, net: &Net, name: &str, masters: Arc<Mutex<Vec<String>>>) -> Agent {
        Agent {
            world: world.clone(),
            net: net.clone(),
            name: name.to_owned(),
            masters,
            machine: Arc::default(),
            random: world.random(name),
            life: None,
        }
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        self.life.as_ref().is_some_and(|host| !host.is_dead())
    }

    /// Whether the masters sent it away for good.
    pub fn is_stopped(&self) -> bool {
        self.machine.lock().stopped
    }

    /// The process, to pause it.
    pub fn host(&self) -> Option<&Host> {
        self.life.as_ref()
    }

    /// Ends the process; what it had not flushed is gone. Containers run on.
    pub fn crash(&mut self) {
        let Some(host) = self.life.take() else { return };
        host.kill();
        let mut machine = self.machine.lock();
        let unsynced = (machine.records.len() - machine.synced) as u64;
        let survive = usize::try_from(self.random.below(unsynced + 1)).unwrap_or(0);
        let keep = machine.synced + survive;
        machine.records.truncate(keep);
        machine.synced = keep;
        machine.inbox = None;
        self.world.trace(format_args!("{} crashes: {survive} of {unsynced} unflushed records survive", self.name));
    }

    /// A new machine in its place: disk and containers are gone.
    pub fn wipe(&mut self) {
        self.crash();
        let old = std::mem::take(&mut *self.machine.lock());
        self.machine = Arc::default();
        self.world.oracle.lock().once.machine_lost(old.containers.keys());
        self.world.trace(format_args!("{} is wiped", self.name));
    }

    /// Starts a process, if none runs and it was not sent away.
    pub fn start(&mut self) {
        if self.is_up() || self.is_stopped() {
            return;
        }
        self.life = None;
        self.world.trace(format_args!("{} starts", self.name));
        let host = Host::new(self.random.number(), EPOCH_MS + self.world.now_ms() + self.random.below(3_000), 0);
        let (inbox, requests) = mpsc::unbounded_channel();
        let state = {
            let mut machine = self.machine.lock();
            machine.inbox = Some(inbox.clone());
            let mut state = State::default();
            machine.records.iter().flatten().for_each(|event| fold(&mut state, event));
            state
        };
        let synced = Synced { orders_up_to: state.orders_up_to, messages_up_to: state.messages.up_to };
        if let Some(agent_id) = &state.registration.agent_id {
            self.world.oracle.lock().acknowledged.orders_taken(agent_id, state.orders_up_to);
        }
        let running = Arc::new(Running {
            world: self.world.clone(),
            net: self.net.clone(),
            name: self.name.clone(),
            masters: self.masters.clone(),
            machine: self.machine.clone(),
            state: Mutex::new(state),
            synced: watch::Sender::new(synced),
            settings: Settings {
                ip: "127.0.0.1".into(),
                executor_registration_timeout_ms: 60_000,
                executor_reregistration_timeout_ms: 2_000,
                executor_shutdown_grace_ms: 5_000,
                launcher_dir: "/bin".into(),
                completed_executors_max: 150,
                ended_tasks_max: 200,
            },
            inbox,
            random: Mutex::new(Random::new(self.random.number(), "process")),
        });
        let process = host.clone();
        host.spawn(async move {
            host::spawn(keep(running.clone(), requests));
            recover(&running).await;
            running.stay_connected().await;
            process.kill();
        });
        self.life = Some(host);
    }
}

/// The only writer of the log.
async fn keep(agent: Arc<Running>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut last_ms = 0;
    let mut batch = Vec::new();
    loop {
        let deadline = agent.state.lock().next_deadline_ms();
        let pause = deadline.map_or(3_600_000, |due| due.saturating_sub(host::wall_ms()));
        tokio::select! {
            biased;
            count = requests.recv_many(&mut batch, 64) => if count == 0 { return },
            () = tokio::time::sleep(Duration::from_millis(pause)) => {
                batch.push(Request { command: Command::PassDeadlines, reply: None });
            }
        }
        last_ms = host::wall_ms().max(last_ms);
        let (mut effects, mut replies) = (Vec::new(), Vec::new());
        let synced = {
            let mut state = agent.state.lock();
            let mut machine = agent.machine.lock();
            let mut draw = agent.random.lock();
            let mut random = || draw.bytes16();
            let mut around = Surroundings { at_ms: last_ms, settings: &agent.settings, random: &mut random };
            let mut record = Vec::new();
            for Request { command, reply } in batch.drain(..) {
                let answer = decide(&state, command, &mut around).map(|events| {
                    for event in &events {
                        fold(&mut state, event);
                        effects.extend(react(&state, event));
                    }
                    let count = events.len();
                    record.extend(events);
                    count
                });
                replies.extend(reply.map(|reply| (reply, answer)));
            }
            if !record.is_empty() {
                machine.records.push(record);
            }
            (machine.records.len(), Synced { orders_up_to: state.orders_up_to, messages_up_to: state.messages.up_to })
        };
        let flush_us = host::random() as u64 % FLUSH_US_MAX;
        if agent.machine.lock().synced < synced.0 {
            tokio::time::sleep(Duration::from_micros(flush_us)).await;
            agent.machine.lock().synced = synced.0;
        }
        let agent_id = agent.state.lock().registration.agent_id.clone().unwrap_or_default();
        agent.world.oracle.lock().acknowledged.orders_taken(&agent_id, synced.1.orders_up_to);
        agent.synced.send_if_modified(|known| std::mem::replace(known, synced.1) != synced.1);
        effects.into_iter().for_each(|effect| perform(&agent, effect));
        for (reply, answer) in replies {
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
    }
}

fn perform(agent: &Arc<Running>, effect: Effect) {
    match effect {
        Effect::Launch { container_id } => {
            let state = agent.state.lock();
            let task = state.executor_of(&container_id).and_then(|(framework_id, executor)| {
                let (task_id, task) = executor.tasks.iter().next()?;
                let info: v1::TaskInfo = task.info.get();
                Some((framework_id.to_owned(), task_id.clone(), info))
            });
            drop(state);
            let Some((framework_id, task_id, info)) = task else { return };
            let command = info.command.or_else(|| info.executor.and_then(|executor| executor.command));
            let command = command.and_then(|command| command.value).unwrap_or_default();
            let mut words = command.split(' ').skip(1).map(|word| word.parse::<u64>().unwrap_or(0));
            let (run_ms, code) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
            agent.machine.lock().containers.entry(container_id.clone()).or_default().spawned = true;
            let (world, machine, name) = (agent.world.clone(), agent.machine.clone(), agent.name.clone());
            let start_us = agent.random.lock().below(40_000);
            // Not the agent's task: the supervisor is a process of its own.
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_micros(start_us)).await;
                {
                    let mut machine = machine.lock();
                    let Some(container) = machine.containers.get_mut(&container_id) else { return };
                    if container.claim.is_some() {
                        return;
                    }
                    container.claim = Some(Claim::Supervisor);
                }
                world.trace(format_args!("{name} runs {task_id} for {run_ms} ms in {container_id}"));
                world.oracle.lock().once.launched(&world, &name, &framework_id, &task_id, &container_id);
                report(
                    &machine,
                    Command::ReportStart { container_id: container_id.clone(), process: process(start_us) },
                );
                let mut left_ms = run_ms;
                let status = loop {
                    let signal = machine.lock().containers.get(&container_id).and_then(|container| container.signal);
                    if let Some(signal) = signal {
                        break signal;
                    }
                    if left_ms == 0 {
                        break (code as i32) << 8;
                    }
                    let step = left_ms.min(250);
                    tokio::time::sleep(Duration::from_millis(step)).await;
                    left_ms -= step;
                };
                if let Some(container) = machine.lock().containers.get_mut(&container_id) {
                    container.exit = Some(status);
                }
                world.trace(format_args!("{name} ends {task_id} with {status}"));
                report(&machine, Command::ReportExit { container_id, status: Some(status) });
            });
        }
        Effect::Stop { container_id, signal } => stop(agent, &container_id, signal),
        Effect::Release { container_id } => {
            agent.machine.lock().containers.remove(&container_id);
        }
        Effect::ReportLeft => agent.machine.lock().stopped = true,
        Effect::Deliver { .. }
        | Effect::HangUp { .. }
        | Effect::ForgetFiles { .. }
        | Effect::SendMessages
        | Effect::AcknowledgeOrders => {}
    }
}

fn process(start_us: u64) -> Process {
    Process { supervisor_pid: 7, start_ticks: start_us, boot_id: "boot".into(), pid: 8 }
}

/// To whoever runs on the machine now.
fn report(machine: &Mutex<Machine>, command: Command) {
    if let Some(inbox) = &machine.lock().inbox {
        let _ = inbox.send(Request { command, reply: None });
    }
}

fn stop(agent: &Arc<Running>, container_id: &str, signal: Signal) {
    let number = match signal {
        Signal::Terminate => 15,
        Signal::Kill => 9,
    };
    let mut machine = agent.machine.lock();
    let container = machine.containers.entry(container_id.to_owned()).or_default();
    match container.claim {
        None => {
            container.claim = Some(Claim::Agent);
            drop(machine);
            report(&agent.machine, Command::ReportRevocation { container_id: container_id.to_owned() });
        }
        Some(Claim::Agent) => {
            drop(machine);
            report(&agent.machine, Command::ReportRevocation { container_id: container_id.to_owned() });
        }
        Some(Claim::Supervisor) => match container.exit {
            None => container.signal = Some(number),
            Some(status) => {
                drop(machine);
                let container_id = container_id.to_owned();
                report(&agent.machine, Command::ReportExit { container_id, status: Some(status) });
            }
        },
    }
}

/// Finds everything again that an earlier process had.
async fn recover(agent: &Arc<Running>) {
    let (live, effects) = {
        let state = agent.state.lock();
        let live: Vec<String> = state.containers.keys().chain(state.remnants.keys()).cloned().collect();
        (live, agent_core::resume(&state))
    };
    if !live.is_empty() {
        agent.ask(Command::Restart { boot: ("boot".into(), agent.world.now_ms()) }).await;
    }
    for container_id in live {
        let (claim, exit) = {
            let mut machine = agent.machine.lock();
            let container = machine.containers.entry(container_id.clone()).or_default();
            (*container.claim.get_or_insert(Claim::Agent), container.exit)
        };
        if claim == Claim::Agent {
            report(&agent.machine, Command::ReportRevocation { container_id });
            continue;
        }
        report(&agent.machine, Command::ReportStart { container_id: container_id.clone(), process: process(0) });
        if exit.is_some() {
            report(&agent.machine, Command::ReportExit { container_id, status: exit });
        }
    }
    effects.into_iter().for_each(|effect| perform(agent, effect));
    agent.ask(Command::PassDeadlines).await;
}

/// How a connection ended.
enum Ended {
    Broken,
    Moved,
    Stop(String),
    BeginAnew,
}

impl Running {
    fn submit(&self, command: Command) {
        let _ = self.inbox.send(Request { command, reply: None });
    }

    async fn ask(&self, command: Command) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        let _ = self.inbox.send(Request { command, reply: Some(reply) });
        answer.await.ok()
    }

    /// To any master, again and again, until it is sent away.
    async fn stay_connected(self: &Arc<Self>) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let masters = self.masters.lock().clone();
            let master = {
                let mut random = self.random.lock();
                random.pick(&masters).cloned().unwrap_or_default()
            };
            let before = Instant::now();
            let ended = self.connect(&master).await;
            if before.elapsed() > BACKOFF_MAX {
                backoff = BACKOFF_FIRST;
            }
            match ended {
                Ended::Moved => continue,
                Ended::Broken => {}
                Ended::BeginAnew => {
                    self.world.trace(format_args!("{} begins anew", self.name));
                    self.ask(Command::Forget).await;
                }
                Ended::Stop(why) => {
                    self.world.trace(format_args!("{} is sent away: {why}", self.name));
                    self.machine.lock().stopped = true;
                    return;
                }
            }
            if self.machine.lock().stopped && self.state.lock().messages.waiting.is_empty() {
                return;
            }
            let pause_ms = self.random.lock().below(backoff.as_millis() as u64 + 1);
            tokio::time::sleep(Duration::from_millis(pause_ms) + backoff / 2).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn connect(self: &Arc<Self>, master: &str) -> Ended {
        let Some(hello) = self.hello().await else { return Ended::Broken };
        let target = crate::net::name_of(master).to_owned();
        let (up, body) = api_http::stream(1024);
        let headers = [("content-type", "application/x-protobuf".to_owned())];
        let _ = up.send(framed(None, hello)).await;
        let asked = self.net.call(&self.name, master, request("/meseta/agent", &headers, body));
        let Ok(Ok((response, master_host))) = timeout(WELCOME, asked).await else { return Ended::Broken };
        if !response.status().is_success() {
            return Ended::Broken;
        }
        let mut reader =
            Reader { chunks: self.net.stream(master, &self.name, response, master_host), buffer: BytesMut::new() };
        let welcome = match timeout(WELCOME, reader.next()).await {
            Ok(Some(to_agent::Message::Welcome(welcome))) => welcome,
            Ok(Some(to_agent::Message::Refused(refused))) => return remedy(refused),
            _ => return Ended::Broken,
        };
        let answer = self.ask(Command::AcceptWelcome {
            agent_id: welcome.agent_id.value.clone(),
            cluster_id: welcome.cluster_id.clone(),
            received_up_to: welcome.messages_up_to,
        });
        match answer.await {
            Some(Ok(_)) => {}
            Some(Err(refusal)) => return Ended::Stop(refusal.to_string()),
            None => return Ended::Broken,
        }
        self.world.trace(format_args!("{} is {} at {target}", self.name, welcome.agent_id.value));
        let (pongs, queue) = mpsc::unbounded_channel();
        let writing = host::spawn(self.clone().write(target, up, queue, welcome.messages_up_to));
        let ended = self.read(&mut reader, &pongs).await;
        writing.abort();
        ended
    }

    async fn hello(&self) -> Option<from_agent::Message> {
        if self.state.lock().registration == agent_core::Registration::default() {
            let token = self.random.lock().bytes16();
            self.ask(Command::ChooseToken { token }).await?.ok()?;
        }
        // Nothing is said to a master that a crash could still undo.
        self.ask(Command::PassDeadlines).await?.ok()?;
        let state = self.state.lock();
        let registration = &state.registration;
        let agent_info = v1::AgentInfo {
            hostname: self.name.clone(),
            resources: resources(CPUS as f64),
            id: registration.agent_id.clone().map(|value| v1::AgentId { value }),
            ..v1::AgentInfo::default()
        };
        let (version, address) = ("0.1.0".to_owned(), format!("{}:5051", self.name));
        let capabilities = ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT"].map(str::to_owned).to_vec();
        let (Some(agent_id), Some(cluster_id)) = (&registration.agent_id, &registration.cluster_id) else {
            let token = registration.token?.to_vec().into();
            let register = internal::Register { token, agent_info, version, capabilities, address };
            return Some(from_agent::Message::Register(register));
        };
        let synced = *self.synced.borrow();
        let tasks = state.executors().flat_map(|(framework_id, executor)| {
            executor.live_tasks().map(move |(task_id, _)| internal::LiveTask {
                framework_id: v1::FrameworkId { value: framework_id.to_owned() },
                task_id: v1::TaskId { value: task_id.clone() },
            })
        });
        Some(from_agent::Message::Resume(internal::Resume {
            agent_id: v1::AgentId { value: agent_id.clone() },
            cluster_id: cluster_id.clone(),
            orders_up_to: synced.orders_up_to,
            messages_up_to: synced.messages_up_to,
            agent_info,
            version,
            capabilities,
            address,
            tasks: tasks.collect(),
        }))
    }

    /// Sends what is synced, in order, and pongs.
    async fn write(
        self: Arc<Self>,
        master: String,
        up: api_http::StreamSender,
        mut pongs: mpsc::UnboundedReceiver<()>,
        received_up_to: u64,
    ) {
        let mut synced = self.synced.subscribe();
        let (mut messages_sent, mut orders_sent) = (received_up_to, 0);
        loop {
            let now = *synced.borrow_and_update();
            let mut messages: Vec<Bytes> = Vec::new();
            if now.messages_up_to > messages_sent {
                let state = self.state.lock();
                let waiting = state.messages_after(messages_sent);
                let waiting = waiting.take_while(|message| message.seq() <= now.messages_up_to);
                messages.extend(waiting.map(|message| Bytes::from(message.encode_length_delimited_to_vec())));
                messages_sent = now.messages_up_to;
            }
            if now.orders_up_to > orders_sent {
                let acknowledged = internal::OrdersAcknowledged { up_to: now.orders_up_to };
                messages.push(framed(None, from_agent::Message::OrdersAcknowledged(acknowledged)));
                orders_sent = now.orders_up_to;
            }
            for message in messages {
                self.net.pass(&self.name, &master).await;
                if up.send(message).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                biased;
                changed = synced.changed() => if changed.is_err() { return },
                pong = pongs.recv() => {
                    if pong.is_none() {
                        return;
                    }
                    self.net.pass(&self.name, &master).await;
                    if up.send(framed(None, from_agent::Message::Pong(internal::Pong {}))).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn read(&self, reader: &mut Reader, pongs: &mpsc::UnboundedSender<()>) -> Ended {
        loop {
            let message = match timeout(PING.patience(), reader.next()).await {
                Ok(Some(message)) => message,
                Ok(None) | Err(_) => return Ended::Broken,
            };
            match message {
                to_agent::Message::Order(order) => self.submit(Command::TakeOrder(Box::new(order))),
                to_agent::Message::Received(received) => {
                    let agent_id = self.state.lock().registration.agent_id.clone().unwrap_or_default();
                    self.world.oracle.lock().acknowledged.messages_forgotten(&self.world, &agent_id, received.up_to);
                    self.submit(Command::CoverMessages { up_to: received.up_to });
                }
                to_agent::Message::Ping(_) => {
                    let _ = pongs.send(());
                }
                to_agent::Message::FrameworkMessage(_) | to_agent::Message::Masters(_) => {}
                to_agent::Message::Move(_) => return Ended::Moved,
                to_agent::Message::Refused(refused) => return remedy(refused),
                to_agent::Message::Welcome(_) => return Ended::Broken,
            }
        }
    }
}

fn remedy(refused: internal::Refused) -> Ended {
    match refused.remedy() {
        Remedy::Stop => Ended::Stop(refused.message),
        Remedy::RegisterNew => Ended::BeginAnew,
        Remedy::Retry | Remedy::AskOthers | Remedy::Unknown => Ended::Broken,
    }
}

fn framed(seq: Option<u64>, message: from_agent::Message) -> Bytes {
    FromAgent { seq, message: Some(message) }.encode_length_delimited_to_vec().into()
}

/// So many cpus, and 1024 of mem for each.
pub fn resources(cpus: f64) -> Vec<v1::Resource> {
    let scalar = |name: &str, value| v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..v1::Resource::default()
    };
    vec![scalar("cpus", cpus), scalar("mem", cpus * 1024.0)]
}

/// Length-delimited messages out of a stream.
struct Reader {
    chunks: mpsc::Receiver<Bytes>,
    buffer: BytesMut,
}

impl Reader {
    /// None at the end.
    async fn next(&mut self) -> Option<to_agent::Message> {
        loop {
            let mut view = &self.buffer[..];
            if let Ok(length) = prost::encoding::decode_varint(&mut view) {
                let (head, length) = (self.buffer.len() - view.len(), usize::try_from(length).ok()?);
                if view.len() >= length {
                    let _ = self.buffer.split_to(head);
                    let message = ToAgent::decode(self.buffer.split_to(length).freeze()).ok()?;
                    match message.message {
                        Some(message) => return Some(message),
                        None => continue,
                    }
                }
            }
            self.buffer.extend_from_slice(&self.chunks.recv().await?);
        }
    }
}
