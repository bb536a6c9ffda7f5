//! Simulated agents: they speak what agents speak to masters, acknowledge what they are ordered, and report every task
//! they are given as running. When a connection ends they resume at the next master. No process is ever started.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::internal::{self, FromAgent, ToAgent, from_agent, order, to_agent};
use api::v1;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::Fallible;

/// How often an agent tries to register.
const ATTEMPTS: u32 = 10;
/// Agents that are about to be welcomed at once: real ones do not start in the same millisecond.
const WELCOMES_AT_ONCE: usize = 256;
/// Between two attempts.
const PACE: Duration = Duration::from_millis(100);

/// Connected agents; dropped, their connections end.
#[derive(Debug)]
pub(crate) struct Agents {
    tasks: Vec<JoinHandle<()>>,
    /// How often any of them was welcomed.
    welcomes: Arc<AtomicUsize>,
}

impl Agents {
    /// Registers `count` agents, spread over `masters`, each with this much, and waits until all are welcome.
    pub(crate) async fn register(masters: &[SocketAddr], count: usize, cpus: f64, mem: f64) -> Fallible<Self> {
        let (welcome, mut welcomed) = mpsc::unbounded_channel();
        let door = Arc::new(Semaphore::new(WELCOMES_AT_ONCE));
        let mut agents = Self { tasks: Vec::new(), welcomes: Arc::default() };
        for number in 0..count {
            let masters = masters.iter().copied().cycle().skip(number % masters.len()).take(masters.len()).collect();
            let welcomes = agents.welcomes.clone();
            let agent = Agent { number, cpus, mem, masters, welcomes, ..Agent::default() };
            agents.tasks.push(tokio::spawn(agent.live(welcome.clone(), door.clone())));
        }
        for _ in 0..count {
            let next = tokio::time::timeout(Duration::from_secs(60), welcomed.recv());
            next.await.map_err(|_| "a simulated agent was not welcomed within 60 s")?.ok_or("no agents")??;
        }
        Ok(agents)
    }

    /// How often any of them was welcomed, after a registration or back from another master.
    pub(crate) fn welcomes(&self) -> usize {
        self.welcomes.load(Ordering::Relaxed)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One agent, and what a real one would have in its log.
#[derive(Debug, Default)]
struct Agent {
    number: usize,
    cpus: f64,
    mem: f64,
    /// Where it connects, in turn.
    masters: Vec<SocketAddr>,
    welcomes: Arc<AtomicUsize>,
    /// Its id and its cluster's, once it is registered.
    identity: Option<(v1::AgentId, String)>,
    orders_up_to: u64,
    messages_up_to: u64,
    /// Not yet known to be committed.
    unreceived: Vec<(u64, internal::StatusUpdate)>,
    tasks: Vec<internal::LiveTask>,
}

impl Agent {
    /// Until it is dropped.
    async fn live(mut self, welcome: mpsc::UnboundedSender<Fallible<()>>, door: Arc<Semaphore>) {
        let mut failures = 0;
        for at in (0..self.masters.len()).cycle() {
            let before = self.identity.is_some();
            let master = self.masters[at];
            let outcome = self.connect(master, &welcome, &door).await;
            // As real agents do: the same token again is the same agent.
            if let (Err(error), false) = (outcome, before) {
                failures += 1;
                if failures == ATTEMPTS {
                    // Nobody waits any more once all are welcome.
                    let _ = welcome.send(Err(error));
                    return;
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// One connection, until it ends.
    async fn connect(
        &mut self,
        master: SocketAddr,
        welcome: &mpsc::UnboundedSender<Fallible<()>>,
        door: &Semaphore,
    ) -> Fallible<()> {
        // Held until it is welcome.
        let mut permit = Some(door.acquire().await?);
        let (up, mut body) = mpsc::unbounded_channel::<Bytes>();
        let body = futures_util::stream::poll_fn(move |context| body.poll_recv(context));
        let body = StreamBody::new(body.map(|bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes))));
        let socket = TcpStream::connect(master).await?;
        socket.set_nodelay(true)?;
        let (mut requests, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
        let connection = Aborting(tokio::spawn(async move {
            let _ = connection.await;
        }));
        send(&up, 0, self.greeting())?;
        let request = http::Request::post(format!("http://{master}/meseta/agent"))
            .header("content-type", "application/x-protobuf")
            .body(body)?;
        let answer = requests.send_request(request).await?;
        if answer.status() != 200 {
            return Err(format!("an agent's connection is answered {}", answer.status()).into());
        }
        let outcome = self.converse(answer.into_body(), &up, welcome, &mut permit).await;
        drop(connection);
        outcome
    }

    async fn converse(
        &mut self,
        mut body: Incoming,
        up: &mpsc::UnboundedSender<Bytes>,
        welcome: &mpsc::UnboundedSender<Fallible<()>>,
        permit: &mut Option<tokio::sync::SemaphorePermit<'_>>,
    ) -> Fallible<()> {
        let mut buffer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                buffer.extend_from_slice(&data);
            }
            let mut orders_up_to = None;
            while let Some(message) = take(&mut buffer)? {
                match message.message {
                    Some(to_agent::Message::Welcome(welcomed)) => {
                        *permit = None;
                        self.welcomed(&welcomed);
                        self.unreceived.iter().try_for_each(|(seq, update)| {
                            send(up, *seq, from_agent::Message::StatusUpdate(update.clone()))
                        })?;
                        // Who waits for all of them may have stopped waiting.
                        let _ = welcome.send(Ok(()));
                    }
                    Some(to_agent::Message::Refused(refused)) => return Err(refused.message.into()),
                    Some(to_agent::Message::Ping(_)) => send(up, 0, from_agent::Message::Pong(internal::Pong {}))?,
                    Some(to_agent::Message::Received(received)) => {
                        self.unreceived.retain(|(seq, _)| *seq > received.up_to);
                    }
                    Some(to_agent::Message::Order(order)) if order.seq > self.orders_up_to => {
                        self.orders_up_to = order.seq;
                        orders_up_to = Some(order.seq);
                        if let Some(order::Order::Launch(launch)) = order.order {
                            self.launch(launch, up)?;
                        }
                    }
                    _ => {}
                }
            }
            if let Some(up_to) = orders_up_to {
                send(up, 0, from_agent::Message::OrdersAcknowledged(internal::OrdersAcknowledged { up_to }))?;
            }
        }
        Ok(())
    }

    fn welcomed(&mut self, welcome: &internal::Welcome) {
        self.welcomes.fetch_add(1, Ordering::Relaxed);
        self.identity = Some((welcome.agent_id.clone(), welcome.cluster_id.clone()));
        self.unreceived.retain(|(seq, _)| *seq > welcome.messages_up_to);
    }

    fn launch(&mut self, launch: internal::Launch, up: &mpsc::UnboundedSender<Bytes>) -> Fallible<()> {
        let Some((agent_id, _)) = &self.identity else { return Err("an order before the welcome".into()) };
        let update = running(agent_id, launch);
        let (framework_id, task_id) = (update.framework_id.clone(), update.status.task_id.clone());
        self.tasks.push(internal::LiveTask { framework_id, task_id });
        self.messages_up_to += 1;
        self.unreceived.push((self.messages_up_to, update.clone()));
        send(up, self.messages_up_to, from_agent::Message::StatusUpdate(update))
    }

    /// What it says first.
    fn greeting(&self) -> from_agent::Message {
        let Agent { number, cpus, mem, .. } = *self;
        let internal::Register { token, agent_info, version, capabilities, address, checkpointed_resources, proof } =
            registration(number, cpus, mem);
        match self.identity.clone() {
            None => from_agent::Message::Register(internal::Register {
                proof,
                token,
                agent_info,
                version,
                capabilities,
                address,
                checkpointed_resources,
            }),
            Some((agent_id, cluster_id)) => from_agent::Message::Resume(internal::Resume {
                proof,
                checkpointed_resources: Vec::new(),
                agent_id,
                cluster_id,
                orders_up_to: self.orders_up_to,
                messages_up_to: self.messages_up_to,
                agent_info,
                version,
                capabilities,
                address,
                tasks: self.tasks.clone(),
            }),
        }
    }
}

/// A task that ends with the value.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The next whole message, if it is there.
fn take(buffer: &mut BytesMut) -> Fallible<Option<ToAgent>> {
    let Ok(length) = prost::decode_length_delimiter(&buffer[..]) else { return Ok(None) };
    let start = prost::length_delimiter_len(length);
    if buffer.len() < start + length {
        return Ok(None);
    }
    buffer.advance(start);
    Ok(Some(ToAgent::decode(buffer.split_to(length))?))
}

fn send(up: &mpsc::UnboundedSender<Bytes>, seq: u64, message: from_agent::Message) -> Fallible<()> {
    let message = FromAgent { seq: Some(seq), message: Some(message) };
    Ok(up.send(message.encode_length_delimited_to_vec().into())?)
}

fn registration(number: usize, cpus: f64, mem: f64) -> internal::Register {
    let mut token = b"benchmark-------".to_vec();
    token[8..].copy_from_slice(&(number as u64).to_be_bytes());
    internal::Register {
        proof: None,
        checkpointed_resources: Vec::new(),
        token: token.into(),
        agent_info: v1::AgentInfo {
            hostname: format!("agent-{number}"),
            port: Some(5051),
            resources: vec![scalar("cpus", cpus), scalar("mem", mem)],
            ..Default::default()
        },
        version: env!("CARGO_PKG_VERSION").into(),
        capabilities: ["MULTI_ROLE", "HIERARCHICAL_ROLE", "RESERVATION_REFINEMENT"].map(str::to_owned).to_vec(),
        address: format!("127.0.0.1:{}", 10_000 + number % 50_000),
    }
}

fn scalar(name: &str, value: f64) -> v1::Resource {
    v1::Resource {
        name: name.into(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    }
}

fn running(agent_id: &v1::AgentId, launch: internal::Launch) -> internal::StatusUpdate {
    static UUID: AtomicU64 = AtomicU64::new(1);
    let mut uuid = vec![0; 16];
    uuid[..8].copy_from_slice(&UUID.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    internal::StatusUpdate {
        framework_id: launch.framework_info.id.unwrap_or_default(),
        status: v1::TaskStatus {
            executor_id: Some(v1::ExecutorId { value: launch.task.task_id.value.clone() }),
            task_id: launch.task.task_id,
            state: v1::TaskState::TaskRunning as i32,
            source: Some(v1::task_status::Source::Executor as i32),
            agent_id: Some(agent_id.clone()),
            timestamp: Some(now),
            uuid: Some(uuid.into()),
            ..Default::default()
        },
    }
}
