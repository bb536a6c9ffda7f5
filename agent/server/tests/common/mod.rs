//! A master of a few lines, and real agents.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

pub mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agent_server::supervisor::processes;
use api::internal::{self, FromAgent, ToAgent, from_agent, order, to_agent};
use api::v1;
use api::v1::offer::{Operation, operation};
use api_http::StreamSender;
use bytes::BytesMut;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

/// Between two questions whether an agent is there.
const PING: Duration = Duration::from_secs(3);
/// Longer than anything takes on a busy machine; nothing waits for it in vain.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The work_dirs of agents, by the address of the master that they were started with: what they leave running ends with that.
static WORK_DIRS: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());

/// What the fake master knows. Messages are committed as they come, once.
#[derive(Debug, Default)]
pub struct Known {
    pub registers: Vec<internal::Register>,
    pub resumes: Vec<internal::Resume>,
    pub messages: Vec<FromAgent>,
    pub unnumbered: Vec<from_agent::Message>,
    pub received_up_to: u64,
    pub acknowledged: u64,
    pub orders: BTreeMap<u64, internal::Order>,
    /// Say to every hello.
    pub refuse: Option<internal::Refused>,
    /// Do not say that messages are committed.
    pub silent: bool,
    /// Say that it tells which operations are over.
    pub tells: bool,
    /// Say that it takes what resource providers have.
    pub takes_providers: bool,
    connection: Option<StreamSender>,
}

pub struct Master {
    pub address: String,
    pub known: Arc<Mutex<Known>>,
    changed: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

fn frame(message: to_agent::Message) -> bytes::Bytes {
    ToAgent { message: Some(message) }.encode_length_delimited_to_vec().into()
}

impl Master {
    pub async fn start() -> Master {
        Self::start_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// With a listener that is somewhere else, perhaps.
    pub fn start_on(listener: std::net::TcpListener) -> Master {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (changed, (stop, stopped)) = (watch::Sender::new(0), watch::channel(false));
        let known = Arc::new(Mutex::new(Known::default()));
        let (shared, signal) = (known.clone(), changed.clone());
        let handler = move |request: api_http::Request, _peer| {
            assert_eq!(request.uri().path(), "/meseta/agent");
            let (sender, body) = api_http::stream(1024);
            tokio::spawn(connection(shared.clone(), signal.clone(), request, sender));
            async move { api_http::streaming("application/x-protobuf", body) }
        };
        tokio::spawn(api_http::serve(listener, handler, stopped));
        Master { address, known, changed, stop }
    }

    /// Waits until what the agent said satisfies `condition`.
    pub async fn wait<T>(&self, what: &str, mut condition: impl FnMut(&Known) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = condition(&self.known.lock()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not happen; known: {:#?}", self.states()),
        }
    }

    /// Waits for the end of the operation whose name has this byte throughout.
    pub async fn operation_ended(&self, name: u8) -> v1::OperationStatus {
        self.wait(&format!("the end of operation {name}"), |known| {
            known.messages.iter().find_map(|message| match &message.message {
                Some(from_agent::Message::OperationStatus(said)) if said.operation[..] == [name; 16] => {
                    Some(said.status.clone())
                }
                _ => None,
            })
        })
        .await
    }

    pub fn states(&self) -> Vec<(String, String)> {
        let known = self.known.lock();
        known.statuses().map(|status| (status.task_id.value.clone(), status.state().as_str_name().to_owned())).collect()
    }

    pub fn order(&self, order: order::Order) -> u64 {
        self.give(Some(order))
    }

    /// An order of a kind that an agent does not know reads like this.
    pub fn order_of_nothing(&self) -> u64 {
        self.give(None)
    }

    fn give(&self, order: Option<order::Order>) -> u64 {
        let mut known = self.known.lock();
        let seq = known.orders.keys().last().copied().unwrap_or(known.acknowledged) + 1;
        let order = internal::Order { seq, order };
        if let Some(connection) = &known.connection {
            let _ = connection.try_send(frame(to_agent::Message::Order(order.clone())));
        }
        known.orders.insert(seq, order);
        seq
    }

    pub fn send(&self, message: to_agent::Message) {
        let known = self.known.lock();
        known.connection.as_ref().expect("a connection").try_send(frame(message)).unwrap();
    }

    pub fn launch(&self, task: v1::TaskInfo) {
        self.order(order::Order::Launch(internal::Launch { framework_info: framework(), task, providers: Vec::new() }));
    }

    /// A group of tasks on a default executor.
    pub fn launch_group(&self, executor_id: &str, tasks: Vec<v1::TaskInfo>) {
        self.launch_group_on(default_executor(executor_id), tasks);
    }

    pub fn launch_group_on(&self, executor: v1::ExecutorInfo, tasks: Vec<v1::TaskInfo>) {
        let tasks = tasks.into_iter().map(|task| v1::TaskInfo { executor: Some(executor.clone()), ..task }).collect();
        self.order(order::Order::LaunchGroup(internal::LaunchGroup {
            framework_info: framework(),
            executor,
            task_group: v1::TaskGroupInfo { tasks },
            providers: Vec::new(),
        }));
    }

    pub fn kill(&self, task_id: &str) {
        self.order(order::Order::Kill(internal::Kill {
            framework_id: framework().id.unwrap(),
            task_id: v1::TaskId { value: task_id.into() },
            kill_policy: None,
        }));
    }

    pub fn apply(&self, name: u8, info: Operation, checkpointed: Vec<v1::Resource>) {
        self.order(order::Order::ApplyOperation(internal::ApplyOperation {
            operation: vec![name; 16].into(),
            framework_id: framework().id,
            info,
            checkpointed_resources: checkpointed,
            provider: None,
        }));
    }

    pub fn create(&self, name: u8, volume: &v1::Resource, checkpointed: &[v1::Resource]) {
        self.apply(name, create(vec![volume.clone()]), checkpointed.to_vec());
    }

    /// Waits for the update of a task in a state.
    pub async fn update(&self, task_id: &str, state: v1::TaskState) -> v1::TaskStatus {
        self.wait(&format!("{task_id} {}", state.as_str_name()), |known| {
            known.statuses().find(|status| status.task_id.value == task_id && status.state() == state)
        })
        .await
    }

    /// All states of a task, in the order in which they came.
    pub fn history(&self, task_id: &str) -> Vec<&'static str> {
        let known = self.known.lock();
        known.statuses().filter(|status| status.task_id.value == task_id).map(|s| s.state().as_str_name()).collect()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        let mut all = WORK_DIRS.lock();
        let (own, others): (Vec<_>, Vec<_>) = all.drain(..).partition(|(master, _)| *master == self.address);
        *all = others;
        drop(all);
        for work_dir in own.into_iter().map(|(_, work_dir)| work_dir).collect::<BTreeSet<_>>() {
            let all = |all: &[processes::Process]| processes::of_containers(all, &work_dir, |_, _, _| true);
            let _ = processes::end(PATIENCE, all);
        }
    }
}

impl Known {
    pub fn statuses(&self) -> impl Iterator<Item = v1::TaskStatus> + '_ {
        self.messages.iter().filter_map(|message| match &message.message {
            Some(from_agent::Message::StatusUpdate(update)) => Some(update.status.clone()),
            _ => None,
        })
    }
}

async fn connection(
    known: Arc<Mutex<Known>>,
    changed: watch::Sender<u64>,
    request: api_http::Request,
    sender: StreamSender,
) {
    let mut body = request.into_body();
    let mut buffer = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        loop {
            let mut view = &buffer[..];
            let Ok(length) = prost::decode_length_delimiter(&mut view) else { break };
            if view.len() < length {
                break;
            }
            let start = buffer.len() - view.len();
            let bytes = buffer.split_to(start + length);
            heard(&mut known.lock(), FromAgent::decode(&bytes[start..]).unwrap(), &sender);
            changed.send_modify(|count| *count += 1);
        }
    }
}

fn heard(known: &mut Known, message: FromAgent, sender: &StreamSender) {
    let say = |message| sender.try_send(frame(message)).unwrap();
    match message.message.clone().unwrap() {
        from_agent::Message::Register(register) => {
            known.registers.push(register);
            welcome(known, sender);
        }
        from_agent::Message::Resume(resume) => {
            known.resumes.push(resume);
            welcome(known, sender);
        }
        from_agent::Message::OrdersAcknowledged(up_to) => {
            known.acknowledged = up_to.up_to;
            known.orders = known.orders.split_off(&(up_to.up_to + 1));
        }
        from_agent::Message::Pong(_) => {}
        other if message.seq() == 0 => known.unnumbered.push(other),
        _ => {
            if message.seq() > known.received_up_to {
                known.received_up_to = message.seq();
                known.messages.push(message);
            }
            if !known.silent {
                say(to_agent::Message::Received(internal::Received { up_to: known.received_up_to }));
            }
        }
    }
}

fn welcome(known: &mut Known, sender: &StreamSender) {
    let say = |message| sender.try_send(frame(message)).unwrap();
    if let Some(refused) = known.refuse.take() {
        return say(to_agent::Message::Refused(refused));
    }
    say(to_agent::Message::Welcome(internal::Welcome {
        tells_of_operations: known.tells.then_some(true),
        takes_providers: known.takes_providers.then_some(true),
        identity: None,
        agent_id: v1::AgentId { value: "C-S0".into() },
        cluster_id: "C".into(),
        messages_up_to: known.received_up_to,
        ping_timeout_ms: 60_000,
        masters: Vec::new(),
    }));
    for order in known.orders.values() {
        say(to_agent::Message::Order(order.clone()));
    }
    known.connection = Some(sender.clone());
    // Its answers keep the connection: one on which nothing comes is ended after a while.
    let sender = sender.clone();
    tokio::spawn(async move {
        while sender.try_send(frame(to_agent::Message::Ping(internal::Ping {}))).is_ok() {
            tokio::time::sleep(PING).await;
        }
    });
}

pub fn default_executor(id: &str) -> v1::ExecutorInfo {
    v1::ExecutorInfo {
        r#type: Some(v1::executor_info::Type::Default as i32),
        executor_id: v1::ExecutorId { value: id.into() },
        framework_id: framework().id,
        ..Default::default()
    }
}

pub fn framework() -> v1::FrameworkInfo {
    let capability =
        |kind: v1::framework_info::capability::Type| v1::framework_info::Capability { r#type: Some(kind as i32) };
    v1::FrameworkInfo {
        user: nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name,
        name: "test".into(),
        id: Some(v1::FrameworkId { value: "C-0000".into() }),
        roles: vec!["*".into()],
        capabilities: vec![capability(v1::framework_info::capability::Type::TaskKillingState)],
        ..Default::default()
    }
}

pub fn task(id: &str, command: &str) -> v1::TaskInfo {
    let scalar = |name: &str, value| v1::Resource {
        name: name.into(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..Default::default()
    };
    v1::TaskInfo {
        name: id.into(),
        task_id: v1::TaskId { value: id.into() },
        agent_id: v1::AgentId { value: "C-S0".into() },
        resources: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
        command: Some(v1::CommandInfo { value: Some(command.into()), ..Default::default() }),
        ..Default::default()
    }
}

/// A volume of the role eng/dev, found at `data`.
pub fn volume(id: &str) -> v1::Resource {
    volume_on(id, None)
}

/// The same on a disk of its own.
pub fn volume_on(id: &str, source: Option<v1::resource::disk_info::Source>) -> v1::Resource {
    let persistence = v1::resource::disk_info::Persistence { id: id.into(), principal: None };
    let found = v1::Volume { mode: v1::volume::Mode::Rw as i32, container_path: "data".into(), ..Default::default() };
    let disk = v1::resource::DiskInfo { persistence: Some(persistence), volume: Some(found), source };
    v1::Resource {
        name: "disk".into(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value: 64.0 }),
        reservations: vec![v1::resource::ReservationInfo {
            r#type: Some(v1::resource::reservation_info::Type::Dynamic as i32),
            role: Some("eng/dev".into()),
            ..Default::default()
        }],
        disk: Some(disk.into()),
        ..Default::default()
    }
}

pub fn create(volumes: Vec<v1::Resource>) -> Operation {
    let create = Some(operation::Create { volumes });
    Operation { r#type: Some(operation::Type::Create as i32), create, ..Default::default() }
}

/// A real agent. Killed when dropped; what it leaves running is ended with its master.
pub struct RealAgent {
    pub child: Child,
    pub address: String,
    pub work_dir: PathBuf,
}

/// Whether one of the containers whose files are here has ended, as its supervisor wrote down.
pub fn any_ended(containers: &Path) -> bool {
    let ids = agent_server::spec::containers_in(containers).unwrap();
    ids.iter().any(|id| agent_server::spec::Files::new(containers, id).end().unwrap().is_some())
}

impl RealAgent {
    pub fn start(master: &str, work_dir: &Path, more: &[&str]) -> RealAgent {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_meseta-agent")), master, work_dir, more)
    }

    /// By a shell that first runs `prelude`; its errors go to a file beside the work_dir's content.
    pub fn start_after(prelude: &str, master: &str, work_dir: &Path, more: &[&str]) -> RealAgent {
        let mut shell = Command::new("/bin/sh");
        let program = env!("CARGO_BIN_EXE_meseta-agent");
        let errors = work_dir.join("stderr");
        shell.args(["-c", &format!("{prelude}; exec {program} \"$@\" 2>{}", errors.display()), "sh"]);
        Self::start_as(shell, master, work_dir, more)
    }

    /// In another network, that of a file.
    pub fn start_within(network: &Path, master: &str, work_dir: &Path, more: &[&str]) -> RealAgent {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", network.display())).arg(env!("CARGO_BIN_EXE_meseta-agent"));
        Self::start_as(command, master, work_dir, more)
    }

    fn start_as(mut command: Command, master: &str, work_dir: &Path, more: &[&str]) -> RealAgent {
        WORK_DIRS.lock().push((master.to_owned(), work_dir.to_owned()));
        let mut child = command
            .arg(format!("--master={master}"))
            .arg(format!("--work_dir={}", work_dir.display()))
            .arg("--ip=127.0.0.1")
            .args((!more.iter().any(|flag| flag.starts_with("--port="))).then_some("--port=0"))
            .args(
                (!more.iter().any(|flag| flag.starts_with("--resources")))
                    .then_some("--resources=cpus:4;mem:1024;disk:1024"),
            )
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("meseta-agent listening on ").expect(&line).to_owned();
        RealAgent { child, address, work_dir: work_dir.to_owned() }
    }

    /// `kill -9`
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the end, which is near.
    pub async fn ended(mut self) -> std::process::ExitStatus {
        tokio::task::spawn_blocking(move || self.child.wait().unwrap()).await.unwrap()
    }

    pub fn sandbox(&self, executor_id: &str) -> PathBuf {
        self.work_dir.join(format!("slaves/C-S0/frameworks/C-0000/executors/{executor_id}/runs/latest"))
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP/1.1 answer: head and body.
pub async fn http(address: &str, method: &str, path: &str, head: &str, body: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

impl groups::Place {
    /// What an agent is to be told to have its control groups here.
    pub fn flags(&self) -> [String; 3] {
        [
            "--launcher=linux".to_owned(),
            format!("--cgroups_hierarchy={}", self.hierarchy),
            format!("--cgroups_root={}", self.root),
        ]
    }

    pub fn start(&self, master: &Master, work_dir: &Path, more: &[&str]) -> RealAgent {
        let own = self.flags();
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        RealAgent::start(&master.address, work_dir, &flags)
    }
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

pub async fn number(path: PathBuf) -> u32 {
    let read = || fs::read_to_string(&path).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
    until(&path.display().to_string(), || read().is_some()).await;
    read().unwrap()
}
