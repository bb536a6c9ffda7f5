//! What a running agent stands on: its log, its way to the masters, and what runs its containers. On a machine these are a
//! folder, TCP and supervisors; a simulation brings others, and runs all the rest of the agent as it is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Executor, Settings, Signal, State};
use api::v1::Resource;
use api::v1::offer::Operation as OperationInfo;
use api_http::{Request, Response};
use event_log::Record;
use event_log::local::{AppendError, LocalLog};
use futures_util::future::BoxFuture;
use parking_lot::RwLockReadGuard;

use crate::agent::{Agent, End, keep};
use crate::config::{self, Config};
use crate::gc::Sandboxes;
use crate::identity::Identity;
use crate::{http, masters, providers, run};

pub use crate::dial::Dial;
pub use crate::images::Images;
pub use crate::incoming::Chunks;

/// An agent's log: what was appended is there for good when its future is done, in the order of the calls.
pub trait Log: Send + Sync {
    /// Appends a record.
    fn append(&self, record: Record) -> BoxFuture<'static, Result<(), AppendError>>;
    /// Replaces everything appended before by these, in one step.
    fn rotate(&self, records: Vec<Record>) -> BoxFuture<'static, Result<(), AppendError>>;
    /// What it weighs since the last time that it was replaced, in bytes.
    fn size_bytes(&self) -> u64;
}

impl Log for LocalLog {
    fn append(&self, record: Record) -> BoxFuture<'static, Result<(), AppendError>> {
        let ticket = LocalLog::append(self, record);
        Box::pin(async move { ticket.await.map(drop) })
    }

    fn rotate(&self, records: Vec<Record>) -> BoxFuture<'static, Result<(), AppendError>> {
        let ticket = LocalLog::rotate(self, records);
        Box::pin(async move { ticket.await.map(drop) })
    }

    fn size_bytes(&self) -> u64 {
        LocalLog::size_bytes(self)
    }
}

/// What runs containers. Nothing here waits: what comes of it is reported.
pub trait Containerizer: Send + Sync {
    /// Launches the container of a live executor.
    fn launch(&self, agent: &Inbox, container_id: String);
    /// Ends what runs in a container; what does not run yet must never run.
    fn stop(&self, agent: &Inbox, container_id: String, signal: Signal);
    /// Nobody needs the container's files of launch and exit any more.
    fn release(&self, container_id: String);
    /// Finds out what became of a container that an agent before this one launched.
    fn recover(&self, agent: &Inbox, container_id: &str);
    /// Looks at the task of a container for as long as it runs, as its checks say. Who runs none looks at none.
    fn check(&self, _agent: &Inbox, _container_id: String) {}
    /// The agent has this id: its sandboxes are found under it.
    fn named(&self, agent_id: &str);
    /// Lets a live executor find the volumes of its tasks, and no longer those of tasks that are over.
    ///
    /// # Errors
    /// A sentence: its tasks cannot run as they should.
    fn link(&self, agent: &Inbox, container_id: &str) -> Result<(), String>;
    /// Nobody needs the sandbox of a container that was launched by call any more.
    fn remove(&self, agent: &Inbox, container_id: String) {
        let _ = (agent, container_id);
    }
    /// Sends a signal to the first process of a container; false if it is no more.
    ///
    /// # Errors
    /// It cannot be done.
    fn signal(&self, container_id: &str, process: &agent_core::Process, signal: i32) -> std::io::Result<bool> {
        let _ = (container_id, process, signal);
        Ok(false)
    }
    /// Connects with the streams of a container's process.
    ///
    /// # Errors
    /// It cannot be done.
    fn connect(
        &self,
        container_id: &str,
        process: &agent_core::Process,
    ) -> std::io::Result<std::os::unix::net::UnixStream> {
        let _ = (container_id, process);
        Err(std::io::ErrorKind::Unsupported.into())
    }
    /// What a container that runs may use is not what it was.
    fn update(&self, agent: &Inbox, container_id: &str) {
        let _ = (agent, container_id);
    }
    /// What a container was given on this machine.
    fn given(&self, container_id: &str) -> api::v1::ContainerStatus {
        let _ = container_id;
        api::v1::ContainerStatus::default()
    }
    /// Numbers of who runs containers, by their names at `/metrics/snapshot`.
    fn numbers(&self, _set: &mut dyn FnMut(&str, f64)) {}
    /// Images of containers, if there are any.
    fn images(&self) -> Option<&Images> {
        None
    }
    /// What a container that runs uses now.
    fn usage(&self, state: &State, container_id: &str) -> containers::Usage {
        let _ = (state, container_id);
        containers::Usage::default()
    }
}

/// What makes persistent volumes.
pub trait Volumes: Send + Sync {
    /// Makes an operation so. Whatever is done next sees it done; what came of it, with what takes longer, is reported by
    /// `Command::ReportOperation`. It may have been begun before a crash.
    fn apply(&self, agent: &Inbox, operation: Vec<u8>);
    /// The log knows that an operation is over: it will not be made so again.
    fn settle(&self, operation: Vec<u8>);
}

/// All of it.
pub struct Surroundings {
    /// The log, which has been read.
    pub log: Arc<dyn Log>,
    /// The way to the masters.
    pub dial: Box<dyn Dial>,
    /// The containers.
    pub containers: Box<dyn Containerizer>,
    /// The volumes.
    pub volumes: Box<dyn Volumes>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// How the sentence begins that tells of a fetch that failed.
pub(crate) const FETCH_FAILED: &str = "Failed to fetch all URIs for container";

/// The agent, for whoever runs its containers.
#[derive(Clone)]
pub struct Inbox(pub(crate) Arc<Agent>);

impl Inbox {
    /// Reports something; it is not waited for.
    pub fn submit(&self, command: Command) {
        self.0.submit(command);
    }

    /// Reports something; how many events came of it, or none at all if the agent is stopping.
    pub(crate) async fn ask(&self, command: Command) -> Option<usize> {
        self.0.ask(command).await?.ok()
    }

    /// The agent's time, in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// What an operation is to change, if it is not over.
    pub fn operation(&self, operation: &[u8]) -> Option<OperationInfo> {
        let state = self.0.state.read();
        state.model.find(operation).filter(|(_, one)| one.status.is_none()).map(|(_, one)| one.info.get())
    }

    /// Whether a volume is being made: whoever is to use it is told of it later.
    pub fn is_to_come(&self, volume: &agent_core::Volume) -> bool {
        self.0.state.read().model.is_to_come(volume)
    }

    /// The agent's core, for its containers.
    pub(crate) fn core(&self) -> Arc<dyn containers::Core> {
        Arc::new(self.clone())
    }

    /// What values of tasks' secrets are sealed with.
    pub(crate) fn secret(&self) -> Option<&api_http::Secret> {
        self.0.config.secret.as_ref()
    }

    /// What it knows. Nothing can be decided meanwhile: not to be held by who waits for anything, a disk included.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read_recursive()
    }

    /// Whether the end of a container is waited for.
    pub(crate) fn has_container(&self, container_id: &str) -> bool {
        let state = self.0.state.read();
        let launched = state.launched.all.get(container_id).is_some_and(|one| one.end.is_none());
        launched || state.executor_of(container_id).is_some() || state.remnants.contains_key(container_id)
    }

    /// Lets the files of an executor be read over HTTP.
    pub(crate) fn attach(&self, framework_id: &str, executor: &Executor) {
        self.0.attach(framework_id, executor);
    }

    /// A launch that had something to fetch has fetched it, or not.
    pub(crate) fn count_fetch(&self, report: &containers::Report) {
        let counters = &self.0.counters;
        let fetches = |command: Option<&api::v1::CommandInfo>| command.is_some_and(|command| !command.uris.is_empty());
        match report {
            containers::Report::Failed { message, .. } if message.starts_with(FETCH_FAILED) => {
                counters.fetches_failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            containers::Report::Started { container_id, .. } => {
                let state = self.0.state.read();
                let Some((_, executor)) = state.executor_of(container_id).filter(|(_, one)| one.process.is_none())
                else {
                    return;
                };
                let info: api::v1::ExecutorInfo = executor.info.get();
                let task = executor.tasks.values().next().filter(|_| executor.is_command);
                let task: Option<api::v1::TaskInfo> = task.map(|task| task.info.get());
                if fetches(task.map_or(info.command, |task| task.command).as_ref()) {
                    counters.fetches.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }

    /// Whether a container or a task in it uses something of a resource provider's.
    pub fn uses_providers(&self, container_id: &str) -> bool {
        providers::are_used(&self.0.state.read(), container_id)
    }

    /// Has resource providers make ready what a container and its tasks use of theirs.
    ///
    /// # Errors
    /// A sentence: it is not ready, and the container is not to run.
    pub async fn publish(&self, container_id: &str) -> Result<(), String> {
        providers::publish(&self.0, container_id).await
    }

    pub(crate) fn count_launch_error(&self) {
        self.0.counters.launch_errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether anybody waits for the end of a container.
    pub fn awaits(&self, container_id: &str) -> bool {
        self.has_container(container_id)
    }

    /// What is to run in a container that was launched by call and is not over.
    pub fn launched(&self, container_id: &str) -> Option<api::v1::agent::call::LaunchContainer> {
        let state = self.0.state.read();
        state.launched.all.get(container_id).filter(|one| one.end.is_none()).map(|one| one.info.get())
    }

    /// The live executor of a container, with the id of its framework.
    pub fn executor_of(&self, container_id: &str) -> Option<(String, Executor)> {
        let state = self.0.state.read();
        state.executor_of(container_id).map(|(framework_id, executor)| (framework_id.to_owned(), executor.clone()))
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inbox").finish_non_exhaustive()
    }
}

/// What a simulated agent is configured to.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The name of its machine.
    pub hostname: String,
    /// host:port of masters.
    pub masters: Vec<String>,
    /// What it offers.
    pub resources: Vec<Resource>,
    /// How it decides.
    pub settings: Settings,
    /// The log is shortened when it is larger, in bytes.
    pub log_bytes_max: u64,
    /// The folder in which it keeps who it is, and has the token to join by in a file `token`; None: it has nothing to show.
    pub identity: Option<PathBuf>,
}

impl Terms {
    pub(crate) fn config(self) -> Result<Config, String> {
        let none = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let words = ["--master=none:0", "--work_dir=/nowhere"].map(str::to_owned);
        let values = api::flags::parse(config::FLAGS, words.to_vec(), |_| None, none);
        let identity = self.identity.map(|folder| Identity::open(&folder, Some(folder.join("token"))));
        Ok(Config {
            credential: None,
            identity: identity.transpose()?.unwrap_or_default(),
            secret_warning: None,
            door: Arc::default(),
            admission: Arc::default(),
            masters: self.masters,
            signer: None,
            secret: None,
            tls: None,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5051),
            advertise_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise_port: None,
            hostname: self.hostname,
            resources: self.resources,
            attributes: Vec::new(),
            domain: None,
            capabilities: config::CAPABILITIES.map(str::to_owned).to_vec(),
            policy: agent_core::Policy::Equal,
            spare: Vec::new(),
            loads: None,
            correct_every: Duration::MAX,
            launcher: PathBuf::new(),
            isolators: Default::default(),
            images: None,
            default_container: None,
            external: None,
            docker: None,
            local: None,
            groups: None,
            executor_socket: None,
            executor_environment: Vec::new(),
            settings: self.settings,
            recovery_timeout_ms: 0,
            task_files: None,
            task_umask: None,
            log_bytes_max: self.log_bytes_max,
            log_file: None,
            logger: None,
            sandboxes: Sandboxes {
                age_max: Duration::MAX,
                headroom: 0.0,
                look_every: Duration::MAX,
                with_launched: false,
            },
            work_dir: PathBuf::from("/nowhere"),
            values: values.map_err(|error| error.to_string())?,
        })
    }
}

/// An agent's process without its machine.
#[derive(Clone)]
pub struct Running(pub(crate) Arc<Agent>);

impl std::fmt::Debug for Running {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Running {
    /// Begins to write its log, which led to `state`. The next step is [`Running::recover`].
    ///
    /// # Errors
    /// A sentence.
    pub fn simulated(terms: Terms, state: State, surroundings: Surroundings) -> Result<Running, String> {
        let address = format!("{}:5051", terms.settings.ip);
        Ok(Running::new(terms.config()?, address, state, surroundings))
    }

    pub(crate) fn new(config: Config, address: String, state: State, surroundings: Surroundings) -> Running {
        let log = surroundings.log.clone();
        let (agent, requests) = Agent::new(config, address, state, surroundings);
        run::vital(&agent, "log", keep(agent.clone(), log, requests));
        Running(agent)
    }

    /// Finds everything again that an earlier agent had.
    pub async fn recover(&self) {
        run::recover(&self.0).await;
    }

    /// From here on executors can reach the agent, and have their time; the masters hear of it. `boot` is the start of the
    /// machine, and milliseconds since then.
    pub fn begin(&self, boot: (String, u64)) -> tokio::task::JoinHandle<()> {
        if !event_log::planted(event_log::Bug::DeadlineBeforeListener) {
            self.0.submit(Command::Restart { boot });
        }
        run::vital(&self.0, "connection to the masters", masters::stay_connected(self.0.clone()))
    }

    /// For whoever runs its containers.
    pub fn inbox(&self) -> Inbox {
        Inbox(self.0.clone())
    }

    /// Answers a request.
    pub async fn answer(&self, request: Request) -> Response {
        http::answer(self.0.clone(), request, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Waits for the agent's end: a sentence if it cannot go on, none if it has left for good.
    pub async fn ended(&self) -> Option<String> {
        let mut end = self.0.end.subscribe();
        let end = end.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(End::Left)) => {
                masters::wait_for_farewell(&self.0).await;
                None
            }
            Ok(Some(End::Failed(sentence))) => Some(sentence),
            _ => None,
        }
    }
}
