//! The connection to the masters: one HTTP/2 stream to any of them, both ways, again and again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Refusal};
use api::internal::{self, FromAgent, from_agent, refused, to_agent};
use api::limits::{AGENT_WINDOW_BYTES, AGENT_WINDOW_MAX};
use api::v1;
use bytes::{Bytes, BytesMut};
use event_log::{Bug, host, planted};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::agent::Agent;
use crate::dial::Task;
use crate::incoming::{Reader, Said};

/// Time for a master to welcome the agent.
const WELCOME: Duration = Duration::from_secs(10);
/// Between two looks for what is still to end before this agent registers.
const REMNANTS_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Between two lines that say the same.
const SAY_EVERY: Duration = Duration::from_secs(15);
const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// Why a connection ended.
enum Ended {
    /// It broke, or was never there.
    Broken(String),
    /// The master asks to move, after it had welcomed the agent.
    Moved,
    /// The masters want the agent to begin anew.
    BeginAnew(String),
    /// The masters do not want the agent.
    Stop(String),
    /// The masters will never want the agent again, nor anything that it runs.
    Gone(String),
    /// Another cluster's master.
    Foreign(String),
}

/// Stays connected until the agent ends.
pub(crate) async fn stay_connected(agent: Arc<Agent>) {
    let configured = agent.config.masters.clone();
    let mut masters = configured.clone();
    let mut turn = random(configured.len() as u64) as usize;
    let backoff_first = agent.config.values.duration("registration_backoff_factor").unwrap_or(BACKOFF_MAX);
    let mut backoff = BACKOFF_MIN.min(backoff_first);
    // Those that said that they belong to another cluster, since the last welcome.
    let mut foreign = BTreeSet::new();
    let mut outage = Outage::default();
    loop {
        let master = masters[turn % masters.len()].clone();
        turn += 1;
        let mut welcomed = None;
        let ended = connect(&agent, &master, &mut welcomed).await;
        *agent.master.write() = None;
        if let Some(known) = welcomed {
            outage = Outage::default();
            backoff = BACKOFF_MIN;
            foreign.clear();
            // What the operator wrote stays, in case that all others are replaced.
            masters = configured.clone();
            masters.extend(known.into_iter().filter(|one| !configured.contains(one)));
        }
        match ended {
            Ended::Broken(reason) => {
                tracing::info!(master, reason, "no connection to a master");
                outage.failed(master, reason);
                if let Some(sentence) = outage.news(&masters) {
                    tracing::warn!("no master takes this agent: {sentence}");
                }
            }
            Ended::Moved => {
                tracing::info!(master, "the master asks to connect to another");
                continue;
            }
            Ended::BeginAnew(reason) => {
                tracing::warn!(master, reason, "the masters want this agent to register anew");
                if agent.ask(Command::Forget).await.is_none() {
                    return;
                }
            }
            Ended::Stop(sentence) => return agent.fail(format!("The masters refuse this agent: {sentence}")),
            Ended::Gone(sentence) => return end_all(&agent, sentence).await,
            Ended::Foreign(sentence) => {
                tracing::warn!(master, reason = sentence, "a master of another cluster");
                foreign.insert(master);
                if masters.iter().all(|master| foreign.contains(master)) {
                    return agent.fail(format!("The masters refuse this agent: {sentence}"));
                }
            }
        }
        let pause = Duration::from_millis(random(backoff.as_millis() as u64 + 1)) + backoff / 2;
        tokio::time::sleep(pause).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Ends what runs, and then the agent. Nothing of it is told to the masters: for them it is over.
async fn end_all(agent: &Agent, sentence: String) {
    tracing::error!(reason = sentence, "the masters want nothing of this agent any more: ending what runs");
    agent.gone.get_or_init(|| format!("The masters refuse this agent: {sentence}"));
    agent.submit(Command::Leave);
    let _ = agent.end.subscribe().wait_for(Option::is_some).await;
}

/// Masters that could not be reached since the last welcome.
#[derive(Default)]
struct Outage {
    failed: BTreeMap<String, String>,
    said: Option<Instant>,
}

impl Outage {
    fn failed(&mut self, master: String, reason: String) {
        self.failed.insert(master, reason);
    }

    /// What to say, if every master was tried in vain and that was not said lately.
    fn news(&mut self, masters: &[String]) -> Option<String> {
        let said_lately = self.said.is_some_and(|said| said.elapsed() < SAY_EVERY);
        if said_lately || masters.iter().any(|master| !self.failed.contains_key(master)) {
            return None;
        }
        self.said = Some(Instant::now());
        let reasons = self.failed.iter().map(|(master, reason)| format!("{master} ({reason})"));
        Some(reasons.collect::<Vec<_>>().join(", "))
    }
}

fn random(below: u64) -> u64 {
    host::random() as u64 % below.max(1)
}

fn framed(message: from_agent::Message) -> Bytes {
    FromAgent { seq: None, message: Some(message) }.encode_length_delimited_to_vec().into()
}

async fn connect(agent: &Arc<Agent>, master: &str, welcomed: &mut Option<Vec<String>>) -> Ended {
    let Some(mut hello) = hello(agent).await else { return Ended::Broken("the agent is ending".to_owned()) };
    let proof = match agent.config.identity.proof().await {
        Ok(proof) => proof,
        Err(sentence) => return Ended::Broken(sentence),
    };
    match &mut hello {
        from_agent::Message::Register(register) => register.proof = proof,
        from_agent::Message::Resume(resume) => resume.proof = proof,
        _ => {}
    }
    let (sender, body) = api_http::stream(64);
    let _ = sender.send(framed(hello)).await;
    let chunks = match agent.dial.dial(master, body).await {
        Ok(chunks) => chunks,
        Err(sentence) => return Ended::Broken(sentence),
    };
    let (outbox, queue) = mpsc::channel(64);
    let mut reader = Reader::new(chunks);
    let welcome = match timeout(WELCOME, reader.next()).await {
        Ok(Ok(Said::Message(first))) => match *first {
            to_agent::Message::Welcome(welcome) => welcome,
            to_agent::Message::Refused(refused) => {
                if refused.make_identity()
                    && let Err(sentence) = agent.config.identity.make_another().await
                {
                    return Ended::Broken(sentence);
                }
                return remedy(refused);
            }
            _ => return Ended::Broken("the master's first message was no welcome".to_owned()),
        },
        Ok(Ok(Said::Unreadable(_) | Said::Unknown(_))) => {
            return Ended::Broken("the master's first message was no welcome".to_owned());
        }
        Ok(Err(error)) => return Ended::Broken(error),
        Err(error) => return Ended::Broken(format!("no welcome: {error}")),
    };
    if let Some(ended) = accept(agent, &welcome).await {
        return ended;
    }
    tracing::info!(master, agent_id = welcome.agent_id.value, "welcome");
    *agent.master.write() = Some(master.to_owned());
    let masters = welcomed.insert(welcome.masters.clone());
    let writer = Task(host::spawn(write(agent.clone(), sender, queue, welcome.messages_up_to)));
    let ping_timeout = Duration::from_millis(welcome.ping_timeout_ms);
    let rotation = Rotation::default();
    let tells = welcome.tells_of_operations();
    let ended = read(agent, &mut reader, &outbox, (ping_timeout, welcome.identity, tells), (masters, rotation)).await;
    drop(writer);
    ended
}

/// The first message: an agent without an id registers, under a token that is synced before it is sent.
async fn hello(agent: &Agent) -> Option<from_agent::Message> {
    // Its resources are about to be offered: what an earlier agent ran, or this one under another id, is ended first.
    let is_busy = || {
        let state = agent.state.read();
        state.registration.agent_id.is_none() && !state.remnants.is_empty()
    };
    while is_busy() {
        tokio::time::sleep(REMNANTS_PAUSE).await;
    }
    if agent.state.read().registration == agent_core::Registration::default() {
        agent.ask(Command::ChooseToken { token: host::random().to_le_bytes() }).await?.ok()?;
    }
    // Nothing is said to a master that a crash could still undo.
    agent.ask(Command::Settle).await?.ok()?;
    let synced = *agent.synced.borrow();
    let state = agent.state.read();
    let (agent_info, address) = (agent_info(agent, None), agent.address.clone());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let capabilities = agent.config.capabilities.clone();
    let registration = &state.registration;
    let (Some(agent_id), Some(cluster_id)) = (&registration.agent_id, &registration.cluster_id) else {
        let token = registration.token?.to_vec().into();
        let register = internal::Register {
            token,
            agent_info,
            version,
            capabilities,
            address,
            checkpointed_resources: state.model.checkpointed(),
            proof: None,
        };
        return Some(from_agent::Message::Register(register));
    };
    let live = state.executors().flat_map(|(framework_id, executor)| {
        executor.live_tasks().map(move |(task_id, _)| (framework_id.to_owned(), task_id.clone()))
    });
    let live_task = |(framework_id, task_id)| internal::LiveTask {
        framework_id: v1::FrameworkId { value: framework_id },
        task_id: v1::TaskId { value: task_id },
    };
    let tasks = live.chain(ending(&state, synced.messages_up_to)).map(live_task);
    Some(from_agent::Message::Resume(internal::Resume {
        checkpointed_resources: state.model.checkpointed(),
        proof: None,
        agent_id: v1::AgentId { value: agent_id.clone() },
        cluster_id: cluster_id.clone(),
        orders_up_to: synced.orders_up_to,
        messages_up_to: synced.messages_up_to,
        agent_info: v1::AgentInfo { id: Some(v1::AgentId { value: agent_id.clone() }), ..agent_info },
        version,
        capabilities,
        address,
        tasks: tasks.collect(),
    }))
}

/// Tasks of which something was written that is not on the disk yet, their end perhaps: a crash could undo it, so they are
/// not over for the masters. They hear of it as soon as it is.
fn ending(state: &agent_core::State, synced_up_to: u64) -> impl Iterator<Item = (String, String)> + '_ {
    let synced_up_to = if planted(Bug::ResumeFromUnsynced) { state.messages.up_to } else { synced_up_to };
    state.messages.waiting.range(synced_up_to + 1..).filter_map(|(_, message)| match message {
        agent_core::Message::Status { framework_id, status } => {
            Some((framework_id.clone(), status.get::<v1::TaskStatus>().task_id.value))
        }
        _ => None,
    })
}

/// The agent as it describes itself.
pub(crate) fn agent_info(agent: &Agent, id: Option<String>) -> v1::AgentInfo {
    let port = agent.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    v1::AgentInfo { port, id: id.map(|value| v1::AgentId { value }), ..agent.config.described() }
}

fn remedy(refused: internal::Refused) -> Ended {
    match refused.remedy() {
        refused::Remedy::Stop if refused.end_all() => Ended::Gone(refused.message),
        refused::Remedy::Stop => Ended::Stop(refused.message),
        refused::Remedy::RegisterNew => Ended::BeginAnew(refused.message),
        refused::Remedy::AskOthers => Ended::Foreign(refused.message),
        refused::Remedy::Retry | refused::Remedy::Unknown => Ended::Broken(refused.message),
    }
}

async fn accept(agent: &Agent, welcome: &internal::Welcome) -> Option<Ended> {
    let answer = agent.ask(Command::AcceptWelcome {
        agent_id: welcome.agent_id.value.clone(),
        cluster_id: welcome.cluster_id.clone(),
        received_up_to: welcome.messages_up_to,
        tells_of_operations: welcome.tells_of_operations(),
        takes_providers: welcome.takes_providers(),
    });
    match answer.await {
        Some(Ok(_)) => {
            agent.containers.named(&welcome.agent_id.value);
            // What the masters know of it now is what a later start is compared with: on disk, before this agent counts as known.
            let described = agent.ask(Command::Describe(Box::new(agent.config.described())));
            if described.await.is_none() {
                return Some(Ended::Broken("the agent is ending".to_owned()));
            }
            agent.submit(Command::Spare { resources: agent.config.spare.clone() });
            None
        }
        Some(Err(refusal @ Refusal::MastersForgot { .. })) => Some(Ended::BeginAnew(refusal.to_string())),
        Some(Err(refusal @ Refusal::OtherIdentity { .. })) => Some(Ended::Stop(refusal.to_string())),
        Some(Err(refusal)) => Some(Ended::Broken(refusal.to_string())),
        None => Some(Ended::Broken("the agent is ending".to_owned())),
    }
}

/// Sends what the masters must hear: what is synced, in order, and what may be lost.
async fn write(
    agent: Arc<Agent>,
    sender: api_http::StreamSender,
    mut queue: mpsc::Receiver<from_agent::Message>,
    received_up_to: u64,
) {
    let mut synced = agent.synced.subscribe();
    let mut window = Window { sent_up_to: received_up_to, under_way: VecDeque::new(), bytes: 0 };
    let mut orders_sent = 0;
    let (forward, mut forwarded) = mpsc::channel(256);
    *agent.to_master.lock() = Some(forward);
    loop {
        let now = *synced.borrow_and_update();
        window.cover(now.received_up_to);
        let mut bytes = BytesMut::new();
        window.fill(&agent.state.read(), now.messages_up_to, &mut bytes);
        if now.orders_up_to > orders_sent {
            let acknowledged = internal::OrdersAcknowledged { up_to: now.orders_up_to };
            bytes.extend_from_slice(&framed(from_agent::Message::OrdersAcknowledged(acknowledged)));
            orders_sent = now.orders_up_to;
        }
        if sender.send(bytes.freeze()).await.is_err() {
            return;
        }
        let message = tokio::select! {
            biased;
            changed = synced.changed() => if changed.is_err() { return } else { continue },
            message = queue.recv() => message,
            message = forwarded.recv() => message,
        };
        let Some(message) = message else { return };
        if sender.send(framed(message)).await.is_err() {
            return;
        }
    }
}

/// Messages that were sent and that the masters have not committed: so many and no more, whatever waits.
struct Window {
    sent_up_to: u64,
    /// Number and weight, oldest first.
    under_way: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Window {
    fn cover(&mut self, received_up_to: u64) {
        while let Some((_, bytes)) = self.under_way.front().filter(|(seq, _)| *seq <= received_up_to) {
            self.bytes -= bytes;
            self.under_way.pop_front();
        }
    }

    /// Adds what there is room for, of what is synced.
    fn fill(&mut self, state: &agent_core::State, synced_up_to: u64, buffer: &mut BytesMut) {
        for (seq, message) in state.messages.waiting.range(self.sent_up_to + 1..) {
            let is_full = self.under_way.len() >= AGENT_WINDOW_MAX || self.bytes >= AGENT_WINDOW_BYTES;
            if *seq > synced_up_to || is_full {
                return;
            }
            message.to_wire(*seq).encode_length_delimited(buffer).expect("a buffer grows");
            self.sent_up_to = *seq;
            self.under_way.push_back((*seq, message.bytes()));
            self.bytes += message.bytes();
        }
    }
}

async fn read(
    agent: &Arc<Agent>,
    reader: &mut Reader,
    outbox: &mpsc::Sender<from_agent::Message>,
    (ping_timeout, identity, tells_of_operations): (Duration, Option<internal::Identity>, bool),
    (masters, mut rotation): (&mut Vec<String>, Rotation),
) -> Ended {
    let mut due = Instant::now() + ping_timeout;
    if let Some(identity) = identity
        && let Err(ended) = rotation.heard(agent, &identity, outbox).await
    {
        return ended;
    }
    if tells_of_operations && !ask_of_operations(agent, outbox).await {
        return Ended::Broken("the connection is closed".to_owned());
    }
    // The first order that this release does not know. It is not acknowledged, nor is any behind it: the masters keep them,
    // give nothing more once too many wait, and what runs here goes on.
    let mut unknown = None;
    loop {
        let said = tokio::select! {
            biased;
            said = tokio::time::timeout_at(due, reader.next()) => said,
            () = rotation.due() => {
                match rotation.rotate(agent, outbox).await {
                    Ok(()) => continue,
                    Err(ended) => return ended,
                }
            }
        };
        let message = match said {
            Ok(Ok(message)) => message,
            Ok(Err(error)) => return Ended::Broken(error),
            Err(_) => return Ended::Broken("the master does not ping any more".to_owned()),
        };
        let message = match message {
            Said::Message(message) => message,
            Said::Unreadable(order) => {
                if unknown.is_none_or(|seq| order.seq < seq) {
                    agent.submit(Command::GiveUpOrder(order));
                }
                continue;
            }
            Said::Unknown(seq) => {
                refuse(agent, &mut unknown, seq);
                continue;
            }
        };
        match *message {
            to_agent::Message::Order(order) if order.order.is_none() => refuse(agent, &mut unknown, order.seq),
            to_agent::Message::Order(order) if unknown.is_some_and(|seq| order.seq > seq) => {}
            to_agent::Message::Order(order) => {
                if let Some(internal::order::Order::ShutdownAgent(shutdown)) = &order.order {
                    tracing::warn!(reason = shutdown.message, "the masters shut this agent down");
                }
                agent.submit(Command::TakeOrder(Box::new(order)));
            }
            to_agent::Message::Received(internal::Received { up_to }) => {
                agent.submit(Command::CoverMessages { up_to, tells_of_operations });
            }
            to_agent::Message::OperationsOver(over) => {
                let operations = over.operations.iter().map(|operation| operation.to_vec()).collect();
                agent.submit(Command::ForgetOperations { operations });
            }
            to_agent::Message::Ping(_) => {
                due = Instant::now() + ping_timeout;
                let is_asked = !tells_of_operations || ask_of_operations(agent, outbox).await;
                if !is_asked || outbox.send(from_agent::Message::Pong(internal::Pong {})).await.is_err() {
                    return Ended::Broken("the connection is closed".to_owned());
                }
            }
            to_agent::Message::FrameworkMessage(message) => crate::executors::forward(agent, &message),
            to_agent::Message::Masters(now) => *masters = now.masters,
            to_agent::Message::Identity(identity) => {
                if let Err(ended) = rotation.heard(agent, &identity, outbox).await {
                    return ended;
                }
            }
            to_agent::Message::Move(_) => return Ended::Moved,
            to_agent::Message::Refused(refused) => return remedy(refused),
            to_agent::Message::Welcome(_) => return Ended::Broken("a second welcome".to_owned()),
        }
    }
}

/// Says which operations are remembered for their frameworks: what the masters do not know any more is over. False if the
/// connection is.
async fn ask_of_operations(agent: &Agent, outbox: &mpsc::Sender<from_agent::Message>) -> bool {
    let operations: Vec<Bytes> = {
        let state = agent.state.read();
        state.model.heard(state.messages.received_up_to).map(|one| one.operation.clone().into()).collect()
    };
    let kept = from_agent::Message::OperationsKept(internal::OperationsKept { operations: operations.clone() });
    operations.is_empty() || outbox.send(kept).await.is_ok()
}

/// When this agent is to have another identity, as the masters say on one connection.
#[derive(Default)]
struct Rotation {
    at: Option<Instant>,
}

/// An identity that could not be changed is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

impl Rotation {
    async fn due(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// The masters know this agent by this identity.
    async fn heard(
        &mut self,
        agent: &Agent,
        told: &internal::Identity,
        outbox: &mpsc::Sender<from_agent::Message>,
    ) -> Result<(), Ended> {
        self.at = Instant::now().checked_add(Duration::from_millis(told.rotate_in_ms));
        match agent.config.identity.heard(told).await {
            Ok(next) => say(outbox, next).await,
            Err(sentence) => {
                tracing::error!("{sentence}");
                Ok(())
            }
        }
    }

    async fn rotate(&mut self, agent: &Agent, outbox: &mpsc::Sender<from_agent::Message>) -> Result<(), Ended> {
        self.at = Some(Instant::now() + ROTATE_AGAIN);
        match agent.config.identity.rotate().await {
            Ok(next) => {
                tracing::info!("this agent changes its identity");
                say(outbox, next).await
            }
            Err(sentence) => {
                tracing::error!("{sentence}");
                Ok(())
            }
        }
    }
}

async fn say(outbox: &mpsc::Sender<from_agent::Message>, next: Option<internal::NextIdentity>) -> Result<(), Ended> {
    let Some(next) = next else { return Ok(()) };
    let sent = outbox.send(from_agent::Message::NextIdentity(next)).await;
    sent.map_err(|_| Ended::Broken("the connection is closed".to_owned()))
}

fn refuse(agent: &Agent, unknown: &mut Option<u64>, seq: u64) {
    if seq > agent.state.read().orders_up_to && unknown.is_none_or(|earlier| seq < earlier) {
        *unknown = Some(seq);
        agent.counters.orders_refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::error!(
            seq,
            "the masters give an order of a kind that this release does not know; no order is taken from here on: upgrade this agent"
        );
    }
}

/// Waits until the masters have heard that the agent left, but not for ever.
pub(crate) async fn wait_for_farewell(agent: &Agent) {
    let mut synced = agent.synced.subscribe();
    let heard = synced.wait_for(|_| agent.state.read().messages.waiting.is_empty());
    let _ = timeout(Duration::from_secs(5), heard).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reaches_no_master_says_so_once_every_one_was_tried() {
        let masters = ["a:1".to_owned(), "b:2".to_owned()];
        let mut outage = Outage::default();
        outage.failed("a:1".to_owned(), "refused".to_owned());
        assert_eq!(outage.news(&masters), None, "another one may answer");
        outage.failed("b:2".to_owned(), "silent".to_owned());
        assert_eq!(outage.news(&masters).as_deref(), Some("a:1 (refused), b:2 (silent)"));
        assert_eq!(outage.news(&masters), None, "that was said");
    }
}
