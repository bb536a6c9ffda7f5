//! Custom executors: they subscribe, run what they are handed, keep what was not acknowledged, and come back when their
//! agent was away. They end when they have had nothing to do for a while, and now and then in the middle of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Media;
use api::v1::executor::{Call, Event, call, event};
use api::v1::{self, TaskState};
use bytes::{Bytes, BytesMut};
use event_log::host::Host;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::agent::{Machine, run_of};
use crate::framework::Records;
use crate::net::request;
use crate::random::Random;
use crate::world::World;

const PATH: &str = "/api/v1/executor";
const PROTOBUF: &str = "application/x-protobuf";
/// A call without an answer is given up after so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks for signals.
const LOOK: Duration = Duration::from_millis(250);

/// A task in its hands.
struct Task {
    info: v1::TaskInfo,
    ends: Instant,
    code: u64,
    /// An update of it was acknowledged.
    acknowledged: bool,
    over: bool,
}

/// One process.
pub(crate) struct Executor {
    world: Arc<World>,
    machine: Arc<Mutex<Machine>>,
    agent: String,
    framework_id: String,
    executor_id: String,
    container_id: String,
    random: Random,
    tasks: BTreeMap<String, Task>,
    /// Updates without an acknowledgement, oldest first.
    updates: Vec<v1::TaskStatus>,
    /// Updates on their way, one after the other.
    outgoing: mpsc::UnboundedSender<Bytes>,
}

/// What an event leads to.
enum Next {
    GoOn,
    End(i32),
}

impl Executor {
    /// `named`: framework, executor, container.
    pub(crate) fn new(
        world: Arc<World>,
        machine: Arc<Mutex<Machine>>,
        agent: &str,
        named: (String, String, String),
        random: Random,
    ) -> Executor {
        let (outgoing, mut queue) = mpsc::unbounded_channel::<Bytes>();
        let to = machine.clone();
        tokio::spawn(async move {
            while let Some(body) = queue.recv().await {
                ask(&to, body).await;
            }
        });
        let (framework_id, executor_id, container_id) = named;
        let (tasks, updates) = (BTreeMap::new(), Vec::new());
        let agent = agent.to_owned();
        Executor { world, machine, agent, framework_id, executor_id, container_id, random, tasks, updates, outgoing }
    }

    /// Its wait status.
    pub(crate) async fn run(mut self) -> i32 {
        let patience = Duration::from_millis(self.random.range(5_000, 40_000));
        let mut busy = Instant::now();
        let mut stream: Option<Records> = None;
        let mut retry = Instant::now() + Duration::from_millis(self.random.below(500));
        loop {
            if self.tasks.values().any(|task| !task.over) || !self.updates.is_empty() || stream.is_none() {
                busy = Instant::now();
            }
            let ends = self.tasks.values().filter(|task| !task.over).map(|task| task.ends).min();
            let ends = ends.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let is_connected = stream.is_some();
            tokio::select! {
                biased;
                record = next(&mut stream), if is_connected => match record {
                    Some(record) => if let Next::End(status) = self.hear(record) {
                        return status;
                    },
                    None => {
                        stream = None;
                        retry = Instant::now() + Duration::from_millis(self.random.range(50, 500));
                    }
                },
                () = tokio::time::sleep_until(ends) => self.end_tasks(),
                () = tokio::time::sleep_until(retry), if !is_connected => {
                    stream = self.subscribe().await;
                    retry = Instant::now() + Duration::from_millis(self.random.range(50, 500));
                }
                () = tokio::time::sleep(LOOK) => {
                    if busy.elapsed() > patience {
                        return 0;
                    }
                }
            }
            if let Some(signal) = self.machine.lock().signal(&self.container_id) {
                return signal;
            }
        }
    }

    fn call(&self, kind: call::Type) -> Call {
        Call {
            executor_id: v1::ExecutorId { value: self.executor_id.clone() },
            framework_id: v1::FrameworkId { value: self.framework_id.clone() },
            r#type: Some(kind as i32),
            ..Call::default()
        }
    }

    async fn subscribe(&mut self) -> Option<Records> {
        let unacknowledged = self.tasks.values().filter(|task| !task.acknowledged).map(|task| task.info.clone());
        let update = |status: &v1::TaskStatus| call::Update { status: status.clone() };
        let subscribe = call::Subscribe {
            unacknowledged_tasks: unacknowledged.collect(),
            unacknowledged_updates: self.updates.iter().map(update).collect(),
        };
        let call = Call { subscribe: Some(subscribe), ..self.call(call::Type::Subscribe) };
        let (response, host) = ask(&self.machine, Media::Protobuf.encode(&call)).await?;
        let status = response.status();
        self.world.trace(format_args!("{} of {} subscribes: {status}", self.executor_id, self.agent));
        if !status.is_success() {
            return None;
        }
        let (sender, chunks) = mpsc::channel(1024);
        let mut body = response.into_body();
        // What the agent's process has said is there; with the process the stream ends.
        host.spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if sender.send(data).await.is_err() {
                    return;
                }
            }
        });
        Some(Records { chunks, buffer: BytesMut::new() })
    }

    fn hear(&mut self, record: Bytes) -> Next {
        let event: Event = match api::decode_protobuf(record) {
            Ok(event) => event,
            Err(error) => {
                self.world.violated("executors", format!("{} cannot read a record: {error}", self.executor_id));
                return Next::End(1 << 8);
            }
        };
        match event.r#type() {
            event::Type::Launch => {
                if let Some(launch) = event.launch {
                    self.launch(launch.task);
                }
                // Some do not survive what they are to do.
                if self.random.permille(30) {
                    return Next::End(1 << 8);
                }
            }
            event::Type::LaunchGroup => {
                let group = event.launch_group.map(|launch| launch.task_group).unwrap_or_default();
                group.tasks.into_iter().for_each(|task| self.launch(task));
            }
            event::Type::Kill => {
                let task_id = event.kill.map(|kill| kill.task_id.value).unwrap_or_default();
                self.finish(&task_id, TaskState::TaskKilled);
            }
            event::Type::Acknowledged => {
                let acknowledged = event.acknowledged.unwrap_or_default();
                self.updates.retain(|status| status.uuid.as_ref() != Some(&acknowledged.uuid));
                if let Some(task) = self.tasks.get_mut(&acknowledged.task_id.value) {
                    task.acknowledged = true;
                }
            }
            event::Type::Shutdown => return Next::End(0),
            _ => {}
        }
        Next::GoOn
    }

    fn launch(&mut self, info: v1::TaskInfo) {
        let task_id = info.task_id.value.clone();
        let key = (self.framework_id.clone(), task_id.clone());
        let (run_ms, code) = run_of(&String::from_utf8_lossy(info.data.as_deref().unwrap_or_default()));
        self.world.trace(format_args!("{} of {} is handed {task_id} for {run_ms} ms", self.executor_id, self.agent));
        let world = &self.world;
        world.oracle.lock().once.launched(world, &self.agent, &self.framework_id, &task_id, &self.container_id);
        let was_lost = {
            let mut machine = self.machine.lock();
            machine.handed.insert(key.clone());
            machine.declared_lost.contains(&key)
        };
        if was_lost {
            self.world.violated("executors", format!("{task_id} was declared lost, and runs"));
        }
        let ends = Instant::now() + Duration::from_millis(run_ms);
        self.tasks.insert(task_id.clone(), Task { info, ends, code, acknowledged: false, over: false });
        self.update(&task_id, TaskState::TaskRunning);
    }

    fn end_tasks(&mut self) {
        let now = Instant::now();
        let due = self.tasks.iter().filter(|(_, task)| !task.over && task.ends <= now);
        let due: Vec<(String, u64)> = due.map(|(task_id, task)| (task_id.clone(), task.code)).collect();
        for (task_id, code) in due {
            self.finish(&task_id, if code == 0 { TaskState::TaskFinished } else { TaskState::TaskFailed });
        }
    }

    fn finish(&mut self, task_id: &str, state: TaskState) {
        if let Some(task) = self.tasks.get_mut(task_id).filter(|task| !task.over) {
            task.over = true;
            self.update(task_id, state);
        }
    }

    fn update(&mut self, task_id: &str, state: TaskState) {
        let status = v1::TaskStatus {
            task_id: v1::TaskId { value: task_id.to_owned() },
            state: state as i32,
            source: Some(v1::task_status::Source::Executor as i32),
            uuid: Some(self.random.bytes16().to_vec().into()),
            ..v1::TaskStatus::default()
        };
        self.updates.push(status.clone());
        let call = Call { update: Some(call::Update { status }), ..self.call(call::Type::Update) };
        let _ = self.outgoing.send(Media::Protobuf.encode(&call));
    }
}

async fn next(stream: &mut Option<Records>) -> Option<Bytes> {
    stream.as_mut()?.next().await
}

/// An answer of the agent that listens on the machine now.
async fn ask(machine: &Mutex<Machine>, body: Bytes) -> Option<(api_http::Response, Host)> {
    let (host, running) = machine.lock().listening()?;
    let headers = [("content-type", PROTOBUF.to_owned()), ("accept", PROTOBUF.to_owned())];
    let request = request(PATH, &headers, api_http::Body::full(body));
    let answer = host.spawn(async move { running.answer(request).await });
    Some((timeout(PATIENCE, answer).await.ok()?.ok()?, host))
}
