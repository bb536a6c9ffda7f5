//! Simulated agents: they speak what agents speak to masters, acknowledge what they are ordered, and report every task
//! they are given as running. No process is ever started.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
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
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Fallible;

/// How often an agent tries to register.
const ATTEMPTS: u32 = 10;

/// Connected agents; dropped, their connections end.
#[derive(Debug)]
pub(crate) struct Agents {
    tasks: Vec<JoinHandle<()>>,
}

impl Agents {
    /// Registers `count` agents, spread over `masters`, each with this much, and waits until all are welcome.
    pub(crate) async fn register(masters: &[SocketAddr], count: usize, cpus: f64, mem: f64) -> Fallible<Self> {
        let (welcome, mut welcomed) = mpsc::unbounded_channel();
        let mut agents = Self { tasks: Vec::new() };
        for number in 0..count {
            let (master, welcome) = (masters[number % masters.len()], welcome.clone());
            agents.tasks.push(tokio::spawn(async move {
                // As real agents do: the same token again is the same agent.
                for attempt in 1.. {
                    let Err(error) = live(master, number, cpus, mem, &welcome).await else { return };
                    if attempt == ATTEMPTS {
                        // Nobody waits any more once all are welcome.
                        let _ = welcome.send(Err(error));
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }));
        }
        for _ in 0..count {
            let next = tokio::time::timeout(Duration::from_secs(60), welcomed.recv());
            next.await.map_err(|_| "a simulated agent was not welcomed within 60 s")?.ok_or("no agents")??;
        }
        Ok(agents)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One agent, from its registration until the connection ends.
async fn live(
    master: SocketAddr,
    number: usize,
    cpus: f64,
    mem: f64,
    welcome: &mpsc::UnboundedSender<Fallible<()>>,
) -> Fallible<()> {
    let (up, mut body) = mpsc::unbounded_channel::<Bytes>();
    let body = futures_util::stream::poll_fn(move |context| body.poll_recv(context));
    let body = StreamBody::new(body.map(|bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes))));
    let socket = TcpStream::connect(master).await?;
    socket.set_nodelay(true)?;
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    send(&up, 0, from_agent::Message::Register(registration(number, cpus, mem)))?;
    let request = http::Request::post(format!("http://{master}/meseta/agent"))
        .header("content-type", "application/x-protobuf")
        .body(body)?;
    let answer = requests.send_request(request).await?;
    if answer.status() != 200 {
        return Err(format!("an agent's connection is answered {}", answer.status()).into());
    }
    let outcome = converse(answer.into_body(), &up, welcome).await;
    connection.abort();
    outcome
}

async fn converse(
    mut body: Incoming,
    up: &mpsc::UnboundedSender<Bytes>,
    welcome: &mpsc::UnboundedSender<Fallible<()>>,
) -> Fallible<()> {
    let (mut buffer, mut agent_id, mut sent) = (BytesMut::new(), v1::AgentId::default(), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            buffer.extend_from_slice(&data);
        }
        let mut orders_up_to = None;
        while let Some(message) = take(&mut buffer)? {
            match message.message {
                Some(to_agent::Message::Welcome(welcomed)) => {
                    agent_id = welcomed.agent_id;
                    welcome.send(Ok(()))?;
                }
                Some(to_agent::Message::Refused(refused)) => return Err(refused.message.into()),
                Some(to_agent::Message::Ping(_)) => send(up, 0, from_agent::Message::Pong(internal::Pong {}))?,
                Some(to_agent::Message::Order(order)) => {
                    orders_up_to = Some(order.seq);
                    if let Some(order::Order::Launch(launch)) = order.order {
                        sent += 1;
                        send(up, sent, from_agent::Message::StatusUpdate(running(&agent_id, launch)))?;
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
