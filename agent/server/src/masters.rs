//! The connection to the masters: one HTTP/2 stream to any of them, both ways, again and again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Refusal};
use api::internal::{self, FromAgent, ToAgent, from_agent, refused, to_agent};
use api::limits::TO_AGENT_BYTES_MAX;
use api::v1;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use prost::encoding::decode_varint;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::agent::{Agent, End};

/// As a registered agent says what it can do.
pub(crate) const CAPABILITIES: [&str; 3] = ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT"];
/// Time for a master to welcome the agent.
const WELCOME: Duration = Duration::from_secs(10);
/// Longest pause between attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
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
    loop {
        let master = masters[turn % masters.len()].clone();
        turn += 1;
        let mut welcomed = None;
        let ended = connect(&agent, &master, &mut welcomed).await;
        *agent.master.write() = None;
        if let Some(known) = welcomed {
            backoff = BACKOFF_MIN;
            foreign.clear();
            // What the operator wrote stays, in case that all others are replaced.
            masters = configured.clone();
            masters.extend(known.into_iter().filter(|one| !configured.contains(one)));
        }
        match ended {
            Ended::Broken(reason) => tracing::info!(master, reason, "no connection to a master"),
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

fn random(below: u64) -> u64 {
    let bytes = uuid::Uuid::new_v4();
    u64::from_le_bytes(bytes.as_bytes()[..8].try_into().expect("eight bytes")) % below.max(1)
}

fn framed(message: from_agent::Message) -> Bytes {
    FromAgent { seq: None, message: Some(message) }.encode_length_delimited_to_vec().into()
}

async fn connect(agent: &Arc<Agent>, master: &str, welcomed: &mut Option<Vec<String>>) -> Ended {
    let broken = |what: &str, error: &dyn std::fmt::Display| Ended::Broken(format!("{what}: {error}"));
    let Some(hello) = hello(agent).await else { return Ended::Broken("the agent is ending".to_owned()) };
    let socket = match timeout(WELCOME, TcpStream::connect(master)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return broken("cannot connect", &error),
        Err(error) => return broken("cannot connect", &error),
    };
    api_http::look_after(&socket);
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .keep_alive_interval(api_http::PING)
        .keep_alive_timeout(api_http::PONG)
        .handshake(TokioIo::new(socket));
    let (mut client, connection) = match timeout(WELCOME, handshake).await {
        Ok(Ok(pair)) => pair,
        Ok(Err(error)) => return broken("no HTTP/2", &error),
        Err(error) => return broken("no HTTP/2", &error),
    };
    let connection = Task(tokio::spawn(async move { connection.await.map_err(|error| error.to_string()) }));
    let (sender, body) = api_http::stream(64);
    let request = http::Request::post(format!("http://{master}/meseta/agent"))
        .header(http::header::CONTENT_TYPE, api::media::PROTOBUF)
        .body(body)
        .expect("a request without surprises");
    let _ = sender.send(framed(hello)).await;
    let response = match timeout(WELCOME, client.send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return broken("no answer", &error),
        Err(error) => return broken("no answer", &error),
    };
    if !response.status().is_success() {
        return Ended::Broken(format!("the master answered {}", response.status()));
    }
    let (outbox, queue) = mpsc::channel(64);
    let mut reader = Reader { body: response.into_body(), buffer: BytesMut::new() };
    let welcome = match timeout(WELCOME, reader.next()).await {
        Ok(Ok(to_agent::Message::Welcome(welcome))) => welcome,
        Ok(Ok(to_agent::Message::Refused(refused))) => return remedy(refused),
        Ok(Ok(_)) => return Ended::Broken("the master's first message was no welcome".to_owned()),
        Ok(Err(error)) => return Ended::Broken(error),
        Err(error) => return broken("no welcome", &error),
    };
    if let Some(ended) = accept(agent, &welcome).await {
        return ended;
    }
    tracing::info!(master, agent_id = welcome.agent_id.value, "welcome");
    *agent.master.write() = Some(master.to_owned());
    let masters = welcomed.insert(welcome.masters.clone());
    let writer = Task(tokio::spawn(write(agent.clone(), sender, queue, welcome.messages_up_to)));
    let ping_timeout = Duration::from_millis(welcome.ping_timeout_ms);
    let ended = read(agent, &mut reader, &outbox, ping_timeout, masters).await;
    drop((writer, connection));
    ended
}

/// A task that does not outlive its connection.
struct Task<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The first message: an agent without an id registers, under a token that is synced before it is sent.
async fn hello(agent: &Agent) -> Option<from_agent::Message> {
    if agent.state.read().registration == agent_core::Registration::default() {
        agent.ask(Command::ChooseToken { token: *uuid::Uuid::new_v4().as_bytes() }).await?.ok()?;
    }
    // Nothing is said to a master that a crash could still undo.
    agent.ask(Command::PassDeadlines).await?.ok()?;
    let state = agent.state.read();
    let (agent_info, address) = (agent_info(agent, None), agent.address.clone());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let capabilities = CAPABILITIES.map(str::to_owned).to_vec();
    let registration = &state.registration;
    let (Some(agent_id), Some(cluster_id)) = (&registration.agent_id, &registration.cluster_id) else {
        let token = registration.token?.to_vec().into();
        let register = internal::Register { token, agent_info, version, capabilities, address };
        return Some(from_agent::Message::Register(register));
    };
    let synced = *agent.synced.borrow();
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
        agent_info: v1::AgentInfo { id: Some(v1::AgentId { value: agent_id.clone() }), ..agent_info },
        version,
        capabilities,
        address,
        tasks: tasks.collect(),
    }))
}

/// The agent as it describes itself.
pub(crate) fn agent_info(agent: &Agent, id: Option<String>) -> v1::AgentInfo {
    let port = agent.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    v1::AgentInfo {
        hostname: agent.config.hostname.clone(),
        port,
        resources: agent.config.resources.clone(),
        attributes: agent.config.attributes.clone(),
        id: id.map(|value| v1::AgentId { value }),
        ..v1::AgentInfo::default()
    }
}

fn remedy(refused: internal::Refused) -> Ended {
    match refused.remedy() {
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
    });
    match answer.await {
        Some(Ok(_)) => {
            let latest = agent.config.work_dir.join("slaves/latest");
            let _ = std::fs::create_dir_all(agent.config.work_dir.join("slaves"));
            let _ = std::fs::remove_file(&latest);
            let _ = std::os::unix::fs::symlink(&welcome.agent_id.value, latest);
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
    let (mut messages_sent, mut orders_sent) = (received_up_to, 0);
    let (forward, mut forwarded) = mpsc::channel(256);
    *agent.to_master.lock() = Some(forward);
    loop {
        let now = *synced.borrow_and_update();
        let mut bytes = BytesMut::new();
        if now.messages_up_to > messages_sent {
            let state = agent.state.read();
            let waiting = state.messages_after(messages_sent);
            for message in waiting.take_while(|message| message.seq() <= now.messages_up_to) {
                message.encode_length_delimited(&mut bytes).expect("a buffer grows");
            }
            messages_sent = now.messages_up_to;
        }
        if now.orders_up_to > orders_sent {
            let acknowledged = internal::OrdersAcknowledged { up_to: now.orders_up_to };
            bytes.extend_from_slice(&framed(from_agent::Message::OrdersAcknowledged(acknowledged)));
            orders_sent = now.orders_up_to;
        }
        if sender.send(bytes.freeze()).await.is_err() {
            return;
        }
        let message = tokio::select! {
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

async fn read(
    agent: &Arc<Agent>,
    reader: &mut Reader,
    outbox: &mpsc::Sender<from_agent::Message>,
    ping_timeout: Duration,
    masters: &mut Vec<String>,
) -> Ended {
    let mut due = Instant::now() + ping_timeout;
    loop {
        let message = match tokio::time::timeout_at(due, reader.next()).await {
            Ok(Ok(message)) => message,
            Ok(Err(error)) => return Ended::Broken(error),
            Err(_) => return Ended::Broken("the master does not ping any more".to_owned()),
        };
        match message {
            to_agent::Message::Order(order) => {
                if let Some(internal::order::Order::ShutdownAgent(shutdown)) = &order.order {
                    tracing::warn!(reason = shutdown.message, "the masters shut this agent down");
                }
                agent.submit(Command::TakeOrder(Box::new(order)));
            }
            to_agent::Message::Received(received) => agent.submit(Command::CoverMessages { up_to: received.up_to }),
            to_agent::Message::Ping(_) => {
                due = Instant::now() + ping_timeout;
                if outbox.send(from_agent::Message::Pong(internal::Pong {})).await.is_err() {
                    return Ended::Broken("the connection is closed".to_owned());
                }
            }
            to_agent::Message::FrameworkMessage(message) => crate::executors::forward(agent, &message),
            to_agent::Message::Masters(now) => *masters = now.masters,
            to_agent::Message::Move(_) => return Ended::Moved,
            to_agent::Message::Refused(refused) => return remedy(refused),
            to_agent::Message::Welcome(_) => return Ended::Broken("a second welcome".to_owned()),
        }
    }
}

/// Length-delimited messages out of a body.
struct Reader {
    body: Incoming,
    buffer: BytesMut,
}

impl Reader {
    async fn next(&mut self) -> Result<to_agent::Message, String> {
        loop {
            if let Some(message) = self.take()? {
                // A kind that a newer master knows has no content here.
                if let Some(message) = message.message {
                    return Ok(message);
                }
                continue;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the master ended the connection".to_owned()),
            }
        }
    }

    fn take(&mut self) -> Result<Option<ToAgent>, String> {
        let mut view = &self.buffer[..];
        let prefix = view.iter().take(10).position(|byte| byte & 0x80 == 0);
        if prefix.is_none() {
            return if view.len() < 10 { Ok(None) } else { Err("a length without end".to_owned()) };
        }
        let length = decode_varint(&mut view).map_err(|error| error.to_string())? as usize;
        if length > TO_AGENT_BYTES_MAX {
            return Err(format!("a message of {length} bytes"));
        }
        if view.len() < length {
            return Ok(None);
        }
        let start = self.buffer.len() - view.len();
        let message = self.buffer.split_to(start + length).freeze().slice(start..);
        api::decode_protobuf(message).map(Some).map_err(|error| error.to_string())
    }
}

/// Waits until the masters have heard that the agent left, but not for ever.
pub(crate) async fn wait_for_farewell(agent: &Agent) {
    let heard = async {
        let mut synced = agent.synced.subscribe();
        loop {
            if agent.state.read().messages.waiting.is_empty() {
                return;
            }
            tokio::select! {
                changed = synced.changed() => if changed.is_err() { return },
                // What the masters commit changes no counter that is watched.
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    };
    let _ = timeout(Duration::from_secs(5), heard).await;
    debug_assert!(matches!(*agent.end.borrow(), Some(End::Left | End::Failed(_))));
}
