//! An agent that runs nothing: it acknowledges orders and says what tasks became when it is told to.

use super::PATIENCE;
use api::internal::{self, FromAgent, ToAgent, from_agent, order, to_agent};
use api::v1;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::sync::mpsc;

pub struct Agent {
    pub id: String,
    pub cluster_id: String,
    pub token: Bytes,
    /// The last order that it acknowledged.
    pub orders: u64,
    /// The last message that it numbered.
    pub seq: u64,
    /// What it brings beside its own may be told.
    pub takes_providers: bool,
    /// What it was told to launch.
    pub tasks: Vec<internal::LiveTask>,
    up: mpsc::UnboundedSender<Bytes>,
    down: mpsc::UnboundedReceiver<to_agent::Message>,
}

pub fn info() -> v1::AgentInfo {
    let scalar = |name: &str, value: f64| v1::Resource {
        name: name.into(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    };
    v1::AgentInfo {
        hostname: "localhost".into(),
        port: Some(5051),
        resources: vec![scalar("cpus", 4.0), scalar("mem", 4096.0), scalar("disk", 1000.0)],
        ..Default::default()
    }
}

fn capabilities() -> Vec<String> {
    ["MULTI_ROLE", "AGENT_DRAINING", "RESERVATION_REFINEMENT", "RESOURCE_PROVIDER"].map(str::to_owned).to_vec()
}

impl Agent {
    /// Registers as a new agent.
    pub async fn register(master: SocketAddr) -> Agent {
        let token = Bytes::copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let register = internal::Register {
            proof: None,
            checkpointed_resources: Vec::new(),
            token: token.clone(),
            agent_info: info(),
            version: "0.1.0".into(),
            capabilities: capabilities(),
            address: "127.0.0.1:5051".into(),
        };
        let mut agent = Agent::connect(master, from_agent::Message::Register(register)).await;
        agent.token = token;
        agent.welcome().await;
        agent
    }

    /// Comes back with its log, at any master.
    pub async fn resume(self, master: SocketAddr) -> Agent {
        let resume = internal::Resume {
            proof: None,
            checkpointed_resources: Vec::new(),
            agent_id: v1::AgentId { value: self.id.clone() },
            cluster_id: self.cluster_id.clone(),
            orders_up_to: self.orders,
            messages_up_to: self.seq,
            agent_info: v1::AgentInfo { id: Some(v1::AgentId { value: self.id.clone() }), ..info() },
            version: "0.1.0".into(),
            capabilities: capabilities(),
            address: "127.0.0.1:5051".into(),
            tasks: self.tasks.clone(),
        };
        let mut agent = Agent::connect(master, from_agent::Message::Resume(resume)).await;
        (agent.orders, agent.seq, agent.token) = (self.orders, self.seq, self.token.clone());
        agent.tasks = self.tasks.clone();
        agent.welcome().await;
        assert_eq!(agent.id, self.id);
        agent
    }

    pub async fn connect(master: SocketAddr, hello: from_agent::Message) -> Agent {
        let socket = tokio::net::TcpStream::connect(master).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        let (up, messages) = mpsc::unbounded_channel();
        let messages = tokio_stream::wrappers::UnboundedReceiverStream::new(messages)
            .map(|bytes: Bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let request =
            http::Request::post(format!("http://{master}/meseta/agent")).body(StreamBody::new(messages)).unwrap();
        let first = FromAgent { seq: None, message: Some(hello) };
        up.send(first.encode_length_delimited_to_vec().into()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let (to_test, down) = mpsc::unbounded_channel();
        tokio::spawn(listen(response.into_body(), up.clone(), to_test));
        let (id, cluster_id, token) = Default::default();
        Agent { id, cluster_id, token, orders: 0, seq: 0, takes_providers: false, tasks: vec![], up, down }
    }

    async fn welcome(&mut self) {
        match self.next().await {
            Some(to_agent::Message::Welcome(welcome)) => {
                self.takes_providers = welcome.takes_providers();
                self.id = welcome.agent_id.value;
                self.cluster_id = welcome.cluster_id;
            }
            other => panic!("{other:?} instead of a welcome"),
        }
    }

    pub fn send(&self, seq: Option<u64>, message: from_agent::Message) {
        send(&self.up, seq, message);
    }

    /// The next message that is not a ping; None when the connection has ended.
    pub async fn next(&mut self) -> Option<to_agent::Message> {
        tokio::time::timeout(PATIENCE, self.down.recv()).await.expect("a message for the agent")
    }

    /// The next order, which it acknowledges.
    pub async fn order(&mut self) -> order::Order {
        loop {
            match self.next().await.expect("the connection ended before an order") {
                to_agent::Message::Order(order) => {
                    assert_eq!(order.seq, self.orders + 1, "orders come in order, each once");
                    self.orders = order.seq;
                    let up_to = internal::OrdersAcknowledged { up_to: order.seq };
                    self.send(None, from_agent::Message::OrdersAcknowledged(up_to));
                    let order = order.order.unwrap();
                    if let order::Order::Launch(launch) = &order
                        && let Some(framework_id) = launch.framework_info.id.clone()
                    {
                        let task_id = launch.task.task_id.clone();
                        self.tasks.push(internal::LiveTask { framework_id, task_id });
                    }
                    return order;
                }
                to_agent::Message::Received(_) => {}
                other => panic!("{other:?} instead of an order"),
            }
        }
    }

    /// Says something that counts once.
    pub fn tell(&mut self, message: from_agent::Message) {
        self.seq += 1;
        self.send(Some(self.seq), message);
    }

    /// Says what became of a task; numbered, so that it counts once.
    pub fn update(&mut self, framework_id: &str, task_id: &str, state: v1::TaskState) {
        self.seq += 1;
        let status = v1::TaskStatus {
            task_id: v1::TaskId { value: task_id.into() },
            state: state as i32,
            agent_id: Some(v1::AgentId { value: self.id.clone() }),
            executor_id: Some(v1::ExecutorId { value: task_id.into() }),
            uuid: Some(Bytes::copy_from_slice(uuid::Uuid::new_v4().as_bytes())),
            timestamp: Some(1.0),
            source: Some(v1::task_status::Source::Executor as i32),
            ..Default::default()
        };
        let framework_id = v1::FrameworkId { value: framework_id.into() };
        let update = internal::StatusUpdate { framework_id, status };
        self.send(Some(self.seq), from_agent::Message::StatusUpdate(update));
    }
}

fn send(up: &mpsc::UnboundedSender<Bytes>, seq: Option<u64>, message: from_agent::Message) {
    let message = FromAgent { seq, message: Some(message) };
    // The master may be gone already; what was not taken is sent again after the next welcome.
    let _ = up.send(message.encode_length_delimited_to_vec().into());
}

/// Answers pings whatever the test waits for, so that a slow machine ends no agent; the rest is for the test. Ends with
/// the connection, or once the test has dropped the agent.
async fn listen(
    mut down: Incoming,
    up: mpsc::UnboundedSender<Bytes>,
    to_test: mpsc::UnboundedSender<to_agent::Message>,
) {
    let mut buffer = BytesMut::new();
    loop {
        let mut peek = &buffer[..];
        if let Ok(length) = prost::encoding::decode_varint(&mut peek)
            && peek.len() >= length as usize
        {
            let head = buffer.len() - peek.len();
            buffer.advance(head);
            let message = ToAgent::decode(buffer.split_to(length as usize)).unwrap();
            match message.message.unwrap() {
                to_agent::Message::Ping(_) => send(&up, None, from_agent::Message::Pong(internal::Pong {})),
                // Nobody listens: that ends below.
                message => drop(to_test.send(message)),
            }
            continue;
        }
        tokio::select! {
            frame = down.frame() => match frame {
                Some(Ok(frame)) => buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                _ => return,
            },
            () = to_test.closed() => return,
        }
    }
}
