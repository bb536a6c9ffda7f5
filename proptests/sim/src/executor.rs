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
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::agent::{Machine, run_of};
use crate::framework::Records;
use crate::net::request;
use crate::random::Random;
use crate::within::{Over, Within, id_of};
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
    /// It runs in a container of its own.
    apart: bool,
    killed: bool,
    /// When it says that it runs, if it has not.
    tells: Option<Instant>,
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
    /// Calls about containers within its own; they end with it. By task, how one ended.
    within: JoinSet<Option<(String, Over)>>,
    /// Some do not end when they are asked to,
    deaf: bool,
    /// and some do not come back, or not at all.
    lost: bool,
    /// The agent that it subscribed with last.
    with: Option<u64>,
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
        let (agent, within, with, mut random) = (agent.to_owned(), JoinSet::new(), None, random);
        let is_bad = !world.is_quiet();
        let (deaf, lost) = (is_bad && random.permille(150), is_bad && random.permille(15));
        Executor {
            world,
            machine,
            agent,
            framework_id,
            executor_id,
            container_id,
            random,
            tasks,
            updates,
            outgoing,
            within,
            deaf,
            lost,
            with,
        }
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
            let ends = self.tasks.values().filter(|task| !task.over && !task.apart).map(|task| task.ends).min();
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
                Some(over) = self.within.join_next(), if !self.within.is_empty() => {
                    if let Ok(Some((task_id, over))) = over {
                        self.ended_apart(&task_id, over);
                    }
                }
                () = tokio::time::sleep_until(ends) => self.end_tasks(),
                () = tokio::time::sleep_until(retry), if !is_connected && !self.lost => {
                    stream = self.subscribe().await;
                    retry = Instant::now() + Duration::from_millis(self.random.range(50, 500));
                }
                () = tokio::time::sleep(LOOK) => {
                    if busy.elapsed() > patience {
                        return 0;
                    }
                }
            }
            self.tell();
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
        // To another life of the agent some do not come back.
        let since_ms = self.machine.lock().listens_since_ms()?;
        if self.with.is_some_and(|with| with != since_ms) && !self.world.is_quiet() && self.random.permille(50) {
            self.lost = true;
            self.world.trace(format_args!("{} of {} does not come back", self.executor_id, self.agent));
            return None;
        }
        self.with = Some(since_ms);
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
                match self.tasks.get_mut(&task_id).filter(|task| task.apart && !task.over) {
                    Some(task) => {
                        task.killed = true;
                        let (within, random) = self.within(&task_id);
                        self.within.spawn(async move {
                            within.kill(random).await;
                            None
                        });
                    }
                    None => self.finish(&task_id, TaskState::TaskKilled),
                }
            }
            event::Type::Acknowledged => {
                let acknowledged = event.acknowledged.unwrap_or_default();
                let (task_id, uuid) = (&acknowledged.task_id.value, &acknowledged.uuid);
                if self.machine.lock().would_lose(&self.container_id, task_id, uuid) {
                    let what = format!("an update of {task_id} is acknowledged, and not in the log of {}", self.agent);
                    self.world.violated("executors", what);
                }
                self.updates.retain(|status| status.uuid.as_ref() != Some(&acknowledged.uuid));
                if let Some(task) = self.tasks.get_mut(&acknowledged.task_id.value) {
                    task.acknowledged = true;
                }
            }
            event::Type::Shutdown if !self.deaf => return Next::End(0),
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
        let (was_lost, unpublished) = {
            let mut machine = self.machine.lock();
            machine.handed.insert(key.clone());
            (machine.declared_lost.contains(&key), machine.unpublished(&info.resources))
        };
        if let Some(shown) = unpublished {
            self.world.violated("providers", format!("{task_id} is handed over with {shown}, which nobody made ready"));
        }
        if was_lost {
            self.world.violated("executors", format!("{task_id} was declared lost, and runs"));
        }
        let ends = Instant::now() + Duration::from_millis(run_ms);
        let apart = self.random.permille(500);
        // Some take their time before they say that it runs.
        let slow = !self.world.is_quiet() && self.random.permille(300);
        let tells = Some(Instant::now() + Duration::from_millis(if slow { self.random.below(4_000) } else { 0 }));
        let task = Task { info, ends, code, acknowledged: false, over: false, apart, killed: false, tells };
        self.tasks.insert(task_id.clone(), task);
        if !slow {
            self.tell();
        }
        if apart {
            let (within, random) = self.within(&task_id);
            self.within.spawn(async move { Some((task_id, within.run(format!("run {run_ms} {code}"), random).await)) });
        }
    }

    /// The container of a task.
    fn within(&mut self, task_id: &str) -> (Within, Random) {
        let (world, machine, agent) = (self.world.clone(), self.machine.clone(), self.agent.clone());
        let id = id_of(&self.container_id, task_id);
        (Within { world, machine, agent, id }, Random::new(self.random.number(), task_id))
    }

    fn ended_apart(&mut self, task_id: &str, over: Over) {
        self.world.trace(format_args!("{} of {} hears of {task_id}: {over:?}", self.executor_id, self.agent));
        let killed = self.tasks.get(task_id).is_some_and(|task| task.killed);
        self.finish(
            task_id,
            match over {
                _ if killed => TaskState::TaskKilled,
                Ok(Some(0)) => TaskState::TaskFinished,
                _ => TaskState::TaskFailed,
            },
        );
    }

    /// Says of which tasks it is time that they run.
    fn tell(&mut self) {
        let due = |task: &&mut Task| task.tells.is_some_and(|at| at <= Instant::now());
        let due: Vec<String> = self
            .tasks
            .values_mut()
            .filter(due)
            .map(|task| {
                task.tells = None;
                task.info.task_id.value.clone()
            })
            .collect();
        due.iter().for_each(|task_id| self.update(task_id, TaskState::TaskRunning));
    }

    fn end_tasks(&mut self) {
        let now = Instant::now();
        let due = self.tasks.iter().filter(|(_, task)| !task.over && !task.apart && task.ends <= now);
        let due: Vec<(String, u64)> = due.map(|(task_id, task)| (task_id.clone(), task.code)).collect();
        for (task_id, code) in due {
            self.finish(&task_id, if code == 0 { TaskState::TaskFinished } else { TaskState::TaskFailed });
        }
    }

    fn finish(&mut self, task_id: &str, state: TaskState) {
        if let Some(task) = self.tasks.get_mut(task_id).filter(|task| !task.over) {
            task.over = true;
            task.tells = None;
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
