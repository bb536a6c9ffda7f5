//! Agents: the real shell over a simulated log, containers and network. The log and the containers outlive the process, as
//! they do on a machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Event, Process, Settings, Signal, State, Volume, Why, decode_record, fold};
use agent_server::surroundings::{Chunks, Containerizer, Dial, Inbox, Log, Running, Surroundings, Terms, Volumes};
use api::resources::Resources;
use api::v1;
use event_log::Record;
use event_log::host::{self, Host};
use event_log::local::AppendError;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use master_core::ids::SecretHash;
use master_core::state::identities::Bound;
use master_core::view;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::doorkeeper::{Door, NO_TOKEN, TOKEN};
use crate::executor::Executor;
use crate::net::{Net, request};
use crate::provider::{Account, Provider, Standing, Store};
use crate::random::Random;
use crate::world::{EPOCH_MS, World};

/// A master that does not answer is given up after so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A flush of the agent's log takes up to so many microseconds,
const FLUSH_US_MAX: u64 = 8_000;
/// and now and then so many times as long.
const SLOW_FLUSH: u64 = 40;
/// Executors have so long to return.
const REREGISTRATION_MS: u64 = 2_000;
/// And so long to come for the first time.
const REGISTRATION_MS: u64 = 20_000;
/// What is to be ended is by then.
const ENDING_MS: u64 = 4_500;
/// Ended tasks that are remembered of an executor: few, so that some are forgotten.
const ENDED_TASKS_MAX: usize = 1;
/// The log is shortened when it is larger, in bytes.
const LOG_BYTES_MAX: u64 = 16 << 10;

/// What an agent has, in whole units of cpus; and 1024 of mem for each.
pub const CPUS: u64 = 4;
/// And so much disk, for volumes.
pub const DISK: u64 = 64;

/// Who may decide whether a container runs: whoever claims it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Agent,
    Supervisor,
}

#[derive(Clone, Debug, Default)]
struct Container {
    claim: Option<Claim>,
    /// Wait status, once it ended; the inner one is none if nobody saw it.
    exit: Option<Option<i32>>,
    signal: Option<i32>,
}

impl Container {
    fn runs(&self) -> bool {
        self.claim == Some(Claim::Supervisor) && self.exit.is_none()
    }
}

/// A process that can be reached.
#[derive(Clone)]
struct Listening {
    host: Host,
    running: Running,
    since_ms: u64,
}

/// What is written: records, or those that take the place of all before.
enum Written {
    Record(Box<Record>),
    Instead(Vec<Record>),
}

/// The log of a machine.
#[derive(Default)]
struct Disk {
    /// Those that are not obsolete, by number.
    written: VecDeque<(u64, Written)>,
    /// Number of the last one.
    last: u64,
    /// Up to here they survive a crash.
    synced: u64,
    bytes: u64,
    /// When the flush under way is done.
    flushed: Option<Instant>,
    /// The fold of everything written, and of what is synced.
    head: State,
    state: State,
}

/// What survives the process.
#[derive(Default)]
pub(crate) struct Machine {
    disk: Disk,
    containers: BTreeMap<String, Container>,
    /// Persistent volumes: each with the operation that made it.
    volumes: BTreeMap<Volume, Vec<u8>>,
    /// Operations that were made so on the disk, until the log knows.
    made_so: BTreeSet<Vec<u8>>,
    /// The process that runs now, for those who report to it.
    inbox: Option<Inbox>,
    listening: Option<Listening>,
    /// The masters have no use for it: an operator would look at it.
    stopped: bool,
    /// It is gone, with all that runs on it.
    gone: bool,
    /// Tasks that executors were handed: framework and task.
    pub(crate) handed: BTreeSet<(String, String)>,
    /// Tasks that were declared lost on their way to an executor.
    pub(crate) declared_lost: BTreeSet<(String, String)>,
    /// How containers ended, also those whose files are gone.
    pub(crate) ends: BTreeMap<String, Option<i32>>,
    /// Containers that somebody was told are over, and those that somebody had removed.
    pub(crate) told_over: BTreeSet<String>,
    pub(crate) removed: BTreeSet<String>,
    /// Told when one ended.
    pub(crate) news: Arc<tokio::sync::Notify>,
    /// Containers that an agent's log said are to end, and since when.
    to_end: BTreeMap<String, u64>,
    /// The disks of resource providers.
    pub(crate) providers: Vec<Store>,
    /// What providers made ready, and what they were asked to, by the name of the question.
    published: BTreeSet<String>,
    pub(crate) publishing: BTreeMap<Vec<u8>, Vec<String>>,
    /// The process is paused; else, since when it is not.
    is_paused: bool,
    awake_ms: u64,
}

impl Machine {
    /// The agent that listens now.
    pub(crate) fn listening(&self) -> Option<(Host, Running)> {
        let listening = self.listening.as_ref().filter(|listening| !listening.host.is_dead())?;
        Some((listening.host.clone(), listening.running.clone()))
    }

    /// Since when the agent that listens now does, which names it.
    pub(crate) fn listens_since_ms(&self) -> Option<u64> {
        self.listening.as_ref().filter(|listening| !listening.host.is_dead()).map(|listening| listening.since_ms)
    }

    /// Whether it is gone, with all that ran on it.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// What a provider was asked to make ready is ready.
    pub(crate) fn publish(&mut self, question: &[u8]) {
        self.published.extend(self.publishing.remove(question).unwrap_or_default());
    }

    /// Whether this was made ready.
    pub(crate) fn is_published(&self, shown: &str) -> bool {
        self.published.contains(shown)
    }

    /// What a task uses of a provider's that was not made ready, if there is any.
    pub(crate) fn unpublished(&self, resources: &[v1::Resource]) -> Option<String> {
        let all = Resources::from_v1(resources).unwrap_or_default();
        let mut provided = all.iter().filter(|one| one.provider_id.is_some()).map(ToString::to_string);
        provided.find(|shown| !self.is_published(shown))
    }

    /// Whether something runs in a container.
    pub(crate) fn runs(&self, container_id: &str) -> bool {
        self.containers.get(container_id).is_some_and(Container::runs)
    }

    /// Whether an update that an executor hears is acknowledged would be lost in a crash.
    pub(crate) fn would_lose(&self, container_id: &str, task_id: &str, uuid: &[u8]) -> bool {
        let state = &self.disk.state;
        let Some((framework_id, executor)) = state.executor_of(container_id) else { return false };
        let is_removed = state.frameworks.get(framework_id).is_none_or(|framework| framework.removed);
        let task = executor.tasks.get(task_id).filter(|task| !task.is_terminal() && !is_removed);
        task.is_some_and(|task| !task.uuids.iter().any(|known| known == uuid))
    }

    /// Whether what the agent has written says that this is the container of an executor that lives.
    pub(crate) fn knows(&self, container_id: &str) -> bool {
        !self.gone && self.disk.head.executor_of(container_id).is_some()
    }

    /// Files of containers that no log knows any more go at each start. Nothing runs in one of those.
    fn sweep(&mut self, state: &State) -> Option<String> {
        let stray = self.containers.iter().find(|(id, one)| one.runs() && !is_known(state, id));
        let stray = stray.map(|(id, _)| format!("{id} runs, and no log knows it"));
        self.containers.retain(|id, _| is_known(state, id));
        stray
    }

    /// What must not be in what an agent finds when it starts.
    fn forgotten(&self, state: &State) -> Option<String> {
        let live = |id: &&String| state.launched.all.get(*id).is_some_and(|one| one.end.is_none());
        self.told_over.iter().find(live).map(|id| format!("{id} was said to be over, and is not in the log"))
    }

    /// The signal that ends a container now.
    pub(crate) fn signal(&self, container_id: &str) -> Option<i32> {
        if self.gone {
            return Some(9);
        }
        self.containers.get(container_id).and_then(|container| container.signal)
    }
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
    /// Where machines of this name keep who their agents are, and how many there were.
    identities: Option<(PathBuf, u64)>,
    /// None is started before then, in virtual milliseconds.
    away_until_ms: u64,
}

impl Agent {
    /// An empty machine.
    pub fn new(world: &Arc<World>, net: &Net, name: &str, masters: Arc<Mutex<Vec<String>>>) -> Agent {
        let mut agent = Agent {
            identities: None,
            world: world.clone(),
            net: net.clone(),
            name: name.to_owned(),
            masters,
            machine: Arc::default(),
            random: world.random(name),
            life: None,
            away_until_ms: 0,
        };
        agent.bring_providers();
        agent
    }

    /// A new machine has resource providers, or none; none at all where they were not asked for.
    fn bring_providers(&mut self) {
        if std::env::var_os("PROVIDERS").is_none() {
            return;
        }
        let count = [0, 0, 1, 2][usize::try_from(self.random.below(4)).unwrap_or(0)];
        self.machine.lock().providers.resize_with(count, Store::default);
        for place in 0..count {
            let random = Random::new(self.random.number(), "provider");
            tokio::spawn(Provider::new(&self.world, &self.machine, &self.name, place, random).run());
        }
    }

    /// Its resource providers, as they are: those that are known, and whether some are still to be.
    pub(crate) fn providers(&self) -> (Vec<Account>, bool) {
        let machine = self.machine.lock();
        let unsettled = machine.providers.iter().any(|one| match one.standing {
            Standing::There => one.id.is_none(),
            Standing::Left => true,
            Standing::Gone => false,
        });
        (machine.providers.iter().filter_map(Store::account).collect(), unsettled)
    }

    /// As whom its agent is registered.
    pub(crate) fn id(&self) -> Option<String> {
        self.machine.lock().disk.state.registration.agent_id.clone()
    }

    /// From now on it has an identity, which is kept below `dir`.
    pub fn keep_identities(&mut self, dir: &Path) {
        self.identities = Some((dir.join(&self.name), 0));
        self.furnish();
    }

    /// Makes the folder in which this machine's agent keeps who it is.
    fn furnish(&mut self) {
        let Some((_, number)) = &mut self.identities else { return };
        *number += 1;
        let folder = self.folder().unwrap_or_default();
        let made = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join(TOKEN), NO_TOKEN));
        made.unwrap_or_else(|error| self.world.violated("identities", format!("no folder for an agent: {error}")));
    }

    fn folder(&self) -> Option<PathBuf> {
        self.identities.as_ref().map(|(below, number)| below.join(number.to_string()))
    }

    /// What whoever lets agents in sees of it.
    pub fn door(&self) -> Option<Door> {
        let agent_id = self.machine.lock().disk.state.registration.agent_id.clone();
        Some(Door { folder: self.folder()?, agent_id })
    }

    /// If it does not have what the masters know it by.
    pub fn locked_out(&self, state: &master_core::State) -> Option<String> {
        let folder = self.folder()?;
        let id = self.machine.lock().disk.state.registration.agent_id.clone()?;
        let key = view::parse_agent_id(state, &id)?;
        let Some(Bound::Own { hash, .. }) = state.identities.of_agents.get(&key) else { return None };
        let text = std::fs::read_to_string(folder.join("identity")).unwrap_or_default();
        let kept: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let secrets = kept["identities"].as_array().into_iter().flatten().filter_map(|one| unhex(one.as_str()?));
        let mut hashes = secrets.map(|secret| SecretHash(api_http::identity_hash(&secret)));
        let has = hashes.any(|one| one == *hash);
        (!has).then(|| format!("{id} on {} is known by an identity that it has not kept", self.name))
    }

    /// Whether its process runs.
    pub fn is_up(&self) -> bool {
        self.life.as_ref().is_some_and(|host| !host.is_dead())
    }

    /// Whether the masters sent it away for good.
    pub fn is_stopped(&self) -> bool {
        self.machine.lock().stopped
    }

    /// What the process that runs now remembers of conversions, by its id, and whether its disk has just those volumes.
    pub fn converted(&self) -> Option<(String, Resources, bool)> {
        let machine = self.machine.lock();
        let state = &machine.disk.state;
        let id = state.registration.agent_id.clone().filter(|_| self.is_up())?;
        let checkpointed = state.model.checkpointed();
        let volumes: BTreeSet<Volume> = checkpointed.iter().filter_map(|volume| Volume::of(volume).ok()).collect();
        let is_so = volumes.iter().eq(machine.volumes.keys());
        Some((id, Resources::from_v1(&checkpointed).unwrap_or_default(), is_so))
    }

    /// Whether it has written something that a crash would undo.
    pub fn is_writing(&self) -> bool {
        let machine = self.machine.lock();
        self.is_up() && machine.disk.last > machine.disk.synced
    }

    /// What is left of containers that its log does not know, if something is.
    pub fn left_behind(&self) -> Option<String> {
        let machine = self.machine.lock();
        let state = &machine.disk.state;
        let (id, container) = machine.containers.iter().find(|(id, _)| !is_known(state, id))?;
        Some(format!("{id} of {} {}", self.name, if container.runs() { "runs" } else { "has left its files" }))
    }

    /// Takes note of whether it is paused now.
    pub fn look(&self) {
        let mut machine = self.machine.lock();
        let was_paused = std::mem::replace(&mut machine.is_paused, self.life.as_ref().is_some_and(Host::is_paused));
        if was_paused && !machine.is_paused {
            machine.awake_ms = self.world.now_ms();
        }
    }

    /// The process, to pause it.
    pub fn host(&self) -> Option<&Host> {
        self.life.as_ref()
    }

    /// Ends the process; what it had not flushed is gone. Containers run on.
    pub fn crash(&mut self) {
        let Some(host) = self.life.take() else { return };
        host.kill();
        self.look();
        let mut machine = self.machine.lock();
        (machine.inbox, machine.listening) = (None, None);
        let disk = &mut machine.disk;
        let unsynced = disk.last - disk.synced;
        let survive = self.random.below(unsynced + 1);
        disk.last = disk.synced + survive;
        while disk.written.back().is_some_and(|(number, _)| *number > disk.last) {
            disk.written.pop_back();
        }
        drop(machine);
        self.world.trace(format_args!("{} crashes: {survive} of {unsynced} unflushed records survive", self.name));
    }

    /// A new machine in its place: disk and containers are gone.
    pub fn wipe(&mut self) {
        self.crash();
        let mut old = self.machine.lock();
        old.gone = true;
        self.world.oracle.lock().once.machine_lost(old.containers.keys());
        drop(old);
        self.machine = Arc::default();
        self.furnish();
        self.bring_providers();
        self.world.trace(format_args!("{} is wiped", self.name));
    }

    /// Ends the process; none is started before then.
    pub fn leave(&mut self, until_ms: u64) {
        self.crash();
        self.away_until_ms = until_ms;
        self.world.trace(format_args!("{} is away until {until_ms}", self.name));
    }

    /// Starts a process, if none runs and it was not sent away.
    pub fn start(&mut self) {
        if self.is_up() || self.is_stopped() || self.world.now_ms() < self.away_until_ms {
            return;
        }
        // It may have ended by itself.
        self.crash();
        self.world.trace(format_args!("{} starts", self.name));
        let host = Host::new(self.random.number(), EPOCH_MS + self.world.now_ms() + self.random.below(3_000), 0);
        let (state, forgotten) = {
            let mut machine = self.machine.lock();
            let state = machine.disk.open(&self.world);
            let forgotten = machine.forgotten(&state).or(machine.sweep(&state));
            let stopping = state.executors().filter(|(_, executor)| executor.stop.is_some());
            for (_, executor) in stopping {
                machine.to_end.entry(executor.container_id.clone()).or_insert(self.world.now_ms());
            }
            (state, forgotten)
        };
        if let Some(what) = forgotten {
            self.world.violated("containers", format!("{}: {what}", self.name));
        }
        if let Some(agent_id) = &state.registration.agent_id {
            self.world.oracle.lock().acknowledged.orders_taken(agent_id, state.orders_up_to);
        }
        let terms = Terms {
            hostname: self.name.clone(),
            masters: self.masters.lock().clone(),
            resources: resources(CPUS as f64).into_iter().chain([scalar("disk", DISK as f64)]).collect(),
            settings: Settings {
                ip: ip_of(&self.name),
                executor_registration_timeout_ms: REGISTRATION_MS,
                executor_reregistration_timeout_ms: REREGISTRATION_MS,
                executor_shutdown_grace_ms: 5_000,
                launcher_dir: "/bin".into(),
                completed_executors_max: 5,
                ended_tasks_max: ENDED_TASKS_MAX,
            },
            log_bytes_max: LOG_BYTES_MAX,
            identity: self.folder(),
        };
        let (world, machine, name) = (self.world.clone(), self.machine.clone(), self.name.clone());
        let place = Place { world: world.clone(), machine: machine.clone(), name: name.clone() };
        let surroundings = Surroundings {
            log: Arc::new(place.clone()),
            dial: Box::new(Way { net: self.net.clone(), name: name.clone() }),
            containers: Box::new(place.clone()),
            volumes: Box::new(place),
        };
        host.spawn(spare(self.world.clone(), self.machine.clone(), self.world.random(&format!("spare {name}"))));
        // A machine that has just come back is busy.
        let busy_ms = if self.random.permille(250) { self.random.below(4_000) } else { 0 };
        let process = host.clone();
        host.spawn(async move {
            let running = match Running::simulated(terms, state, surroundings) {
                Ok(running) => running,
                Err(sentence) => return world.violated("agents", format!("{name} cannot start: {sentence}")),
            };
            machine.lock().inbox = Some(running.inbox());
            running.recover().await;
            tokio::time::sleep(Duration::from_millis(busy_ms)).await;
            let since_ms = world.now_ms();
            machine.lock().listening = Some(Listening { host: process.clone(), running: running.clone(), since_ms });
            let _connection = running.begin(("boot".to_owned(), since_ms));
            match running.ended().await {
                None => {
                    world.trace(format_args!("{name} has left"));
                    machine.lock().stopped = true;
                }
                Some(sentence) => {
                    world.trace(format_args!("{name} ends: {sentence}"));
                    machine.lock().stopped = sentence.starts_with("The masters refuse");
                }
            }
            process.kill();
        });
        self.life = Some(host);
    }
}

/// What the machine can spare changes, and when there is too much, some executors give way.
async fn spare(world: Arc<World>, machine: Arc<Mutex<Machine>>, mut random: Random) {
    loop {
        tokio::time::sleep(Duration::from_millis(random.range(1_000, 12_000))).await;
        let (inbox, executors) = {
            let machine = machine.lock();
            let executors = machine.disk.state.executors();
            let named = executors.map(|(framework, executor)| (framework.to_owned(), executor.executor_id.clone()));
            (machine.inbox.clone(), named.collect::<Vec<_>>())
        };
        let Some(inbox) = inbox else { continue };
        let (quiet, choice) = (world.is_quiet(), random.below(10));
        if !quiet && choice == 0 {
            if let Some(victim) = random.pick(&executors).cloned() {
                inbox.submit(Command::Preempt { executors: vec![victim] });
            }
            continue;
        }
        let cpus = if quiet { 0 } else { random.below(3) };
        let revocable = Some(v1::resource::RevocableInfo {});
        let one = v1::Resource { revocable, ..scalar("cpus", cpus as f64) };
        inbox.submit(Command::Spare { resources: if cpus == 0 { Vec::new() } else { vec![one] } });
    }
}

impl Disk {
    /// What a process finds.
    fn open(&mut self, world: &World) -> State {
        let mut state = State::default();
        self.bytes = 0;
        for (_, written) in &self.written {
            let records = match written {
                Written::Record(record) => std::slice::from_ref(&**record),
                Written::Instead(records) => records,
            };
            for record in records {
                self.bytes += record.encode().len() as u64;
                apply(&mut state, record, world);
            }
        }
        (self.synced, self.flushed) = (self.last, None);
        (self.head, self.state) = (state.clone(), state.clone());
        state
    }

    /// When what is written now will have been flushed.
    fn flush(&mut self) -> Instant {
        let random = host::random() as u64;
        let slow = if random % 100 < 3 { SLOW_FLUSH } else { 1 };
        let takes = Duration::from_micros((random >> 8) % FLUSH_US_MAX * slow);
        let done = self.flushed.map_or(Instant::now(), |before| before.max(Instant::now())) + takes;
        self.flushed = Some(done);
        done
    }
}

fn apply(state: &mut State, record: &Record, world: &World) -> Vec<Event> {
    apply_and_look(state, record, world, |_, _| {})
}

/// Looks at each event, and the State before it.
fn apply_and_look(
    state: &mut State,
    record: &Record,
    world: &World,
    mut look: impl FnMut(&State, &Event),
) -> Vec<Event> {
    // As it is read again.
    let read = Record::decode(&record.encode()).map_err(|error| error.to_string());
    match read.and_then(|record| decode_record(&record).map_err(|error| error.to_string())) {
        Ok(events) => {
            for event in &events {
                look(state, event);
                fold(state, event);
            }
            events
        }
        Err(error) => {
            world.violated("agents", format!("a record of an agent cannot be read: {error}"));
            Vec::new()
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
}

/// Whether a container is one that an agent waits for.
fn is_known(state: &State, id: &str) -> bool {
    let is_launched = state.launched.all.get(id).is_some_and(|one| one.end.is_none());
    is_launched || state.containers.contains_key(id) || state.remnants.contains_key(id)
}

/// A machine, as its agent's process sees it.
#[derive(Clone)]
struct Place {
    world: Arc<World>,
    machine: Arc<Mutex<Machine>>,
    name: String,
}

impl Log for Place {
    fn append(&self, record: Record) -> BoxFuture<'static, Result<(), AppendError>> {
        self.write(Written::Record(Box::new(record)))
    }

    fn rotate(&self, records: Vec<Record>) -> BoxFuture<'static, Result<(), AppendError>> {
        self.write(Written::Instead(records))
    }

    fn size_bytes(&self) -> u64 {
        self.machine.lock().disk.bytes
    }
}

impl Place {
    fn write(&self, written: Written) -> BoxFuture<'static, Result<(), AppendError>> {
        let mut machine = self.machine.lock();
        let disk = &mut machine.disk;
        match &written {
            Written::Record(record) => {
                disk.bytes += record.encode().len() as u64;
                apply(&mut disk.head, record, &self.world);
            }
            Written::Instead(records) => {
                let mut restored = State::default();
                records.iter().for_each(|record| drop(apply(&mut restored, record, &self.world)));
                if restored != disk.head {
                    self.world.violated("agents", format!("{} shortens its log to another state", self.name));
                }
                disk.bytes = records.iter().map(|record| record.encode().len() as u64).sum();
            }
        }
        disk.last += 1;
        let number = disk.last;
        disk.written.push_back((number, written));
        let done = disk.flush();
        drop(machine);
        let place = self.clone();
        Box::pin(async move {
            tokio::time::sleep_until(done).await;
            place.flushed(number);
            Ok(())
        })
    }

    /// What was written up to a number survives from now on.
    fn flushed(&self, number: u64) {
        let mut guard = self.machine.lock();
        let machine = &mut *guard;
        let disk = &mut machine.disk;
        let mut events = Vec::new();
        let mut ended = Vec::new();
        let mut obsolete = 0;
        for (place, (written_number, written)) in disk.written.iter().enumerate() {
            if *written_number > number || *written_number <= disk.synced {
                continue;
            }
            match written {
                Written::Record(record) => {
                    let before = disk.state.containers.clone();
                    let applied = apply_and_look(&mut disk.state, record, &self.world, |state, event| {
                        self.look_at_launch(state, event);
                    });
                    ended.extend(before.into_keys().filter(|id| !disk.state.containers.contains_key(id)));
                    // They are to be ended, and it is known which.
                    ended.retain(|id| !disk.state.remnants.contains_key(id));
                    events.extend(applied);
                }
                Written::Instead(_) => obsolete = place,
            }
        }
        disk.written.drain(..obsolete);
        disk.synced = disk.synced.max(number);
        // A container is over when nothing within it runs.
        for id in ended {
            let prefix = format!("{id}.");
            let within = machine.containers.range(prefix.clone()..).take_while(|(id, _)| id.starts_with(&prefix));
            if let Some((within, _)) = within.into_iter().find(|(_, one)| one.runs()) {
                self.world.violated("containers", format!("{id} of {} is over, and {within} runs", self.name));
            }
        }
        let agent_id = disk.state.registration.agent_id.clone().unwrap_or_default();
        for event in &events {
            match event {
                Event::OrdersTaken { up_to } => {
                    self.world.oracle.lock().acknowledged.orders_taken(&agent_id, *up_to);
                }
                Event::MessagesReceived { up_to, .. } => {
                    self.world.oracle.lock().acknowledged.messages_forgotten(&self.world, &agent_id, *up_to);
                }
                Event::StatusWritten { framework_id, task_id, status, .. } => {
                    let status: v1::TaskStatus = status.get();
                    let key = (framework_id.clone(), task_id.clone());
                    if status.reason() == v1::task_status::Reason::AgentRestarted {
                        if machine.handed.contains(&key) {
                            self.world.violated("executors", format!("{task_id} is declared lost, and runs"));
                        }
                        machine.declared_lost.insert(key);
                    }
                }
                _ => {}
            }
        }
        let over = |executor: &agent_core::Executor| executor.tasks.values().filter(|task| task.is_terminal()).count();
        if let Some((_, executor)) = disk.state.executors().find(|(_, one)| over(one) > ENDED_TASKS_MAX) {
            let what = format!("{} remembers {} ended tasks", executor.executor_id, over(executor));
            self.world.violated("executors", what);
        }
    }

    /// A task is taken on what its providers have.
    fn look_at_launch(&self, state: &State, event: &Event) {
        let Event::TaskAdded { framework_id, task_id, .. } = event else { return };
        let version_of = |id: &str| {
            let provider = state.providers.get(id).filter(|provider| provider.stream.is_some())?;
            provider.stated.as_ref().map(|stated| stated.version.clone())
        };
        self.world.oracle.lock().providers.taken(framework_id, task_id, version_of);
    }

    /// What a task uses of resource providers must have been made ready for it.
    fn look_at_run(&self, task_id: &str, task: &agent_core::Task) {
        let resources = task.info.get::<v1::TaskInfo>().resources;
        let unpublished = self.machine.lock().unpublished(&resources);
        if let Some(shown) = unpublished {
            self.world.violated("providers", format!("{task_id} runs on {shown}, which nobody made ready"));
        }
    }

    /// To whoever runs on the machine now.
    fn report(&self, command: Command) {
        let inbox = self.machine.lock().inbox.clone();
        if let Some(inbox) = inbox {
            inbox.submit(command);
        }
    }

    /// A supervisor and what it runs: processes of their own.
    async fn supervise(self, framework_id: String, executor: agent_core::Executor, mut random: Random) {
        let container_id = executor.container_id.clone();
        let start_us = random.below(40_000);
        // No process of the host's is here: what it would draw would follow from no seed.
        let (late, end) = (Random::new(random.number(), "late"), Random::new(random.number(), "end"));
        tokio::time::sleep(Duration::from_micros(start_us)).await;
        {
            let mut machine = self.machine.lock();
            let Some(container) = machine.containers.get_mut(&container_id) else { return };
            if container.claim.is_some() {
                return;
            }
            container.claim = Some(Claim::Supervisor);
        }
        let report = started(&container_id, start_us);
        let command = |command: Option<v1::CommandInfo>| command.and_then(|command| command.value).unwrap_or_default();
        let task = executor.tasks.iter().next();
        // An executor may be no more than a command, too.
        let (task, run) = match executor.is_command {
            true => (task, command(task.and_then(|(_, task)| task.info.get::<v1::TaskInfo>().command))),
            false => (task, command(executor.info.get::<v1::ExecutorInfo>().command)),
        };
        let status = match task.filter(|_| run.starts_with("run ")) {
            Some((task_id, task)) => {
                let (run_ms, code) = run_of(&run);
                self.world.trace(format_args!("{} runs {task_id} for {run_ms} ms in {container_id}", self.name));
                let world = &self.world;
                world.oracle.lock().once.launched(world, &self.name, &framework_id, task_id, &container_id);
                self.look_at_run(task_id, task);
                self.report(report);
                let status = self.run(&container_id, run_ms, code).await;
                self.world.trace(format_args!("{} ends {task_id} with {status}", self.name));
                status
            }
            None => {
                self.world.trace(format_args!("{} runs {} in {container_id}", self.name, executor.executor_id));
                self.report(report);
                let (world, machine) = (self.world.clone(), self.machine.clone());
                let named = (framework_id, executor.executor_id.clone(), container_id.clone());
                let status = Executor::new(world, machine, &self.name, named, random).run().await;
                // Somebody else may yet want a container within what is ending.
                let (world, machine, agent) = (self.world.clone(), self.machine.clone(), self.name.clone());
                let id = crate::within::id_of(&container_id, "late");
                let within = crate::within::Within { world, machine, agent, id };
                tokio::spawn(async move { within.run_late(late).await });
                self.world.trace(format_args!("{} ends {} with {status}", self.name, executor.executor_id));
                status
            }
        };
        self.ended(container_id, status, start_us, end).await;
    }

    /// The same for a container within another: a command.
    async fn supervise_within(self, container_id: String, command: String, mut random: Random) {
        let start_us = random.below(40_000);
        tokio::time::sleep(Duration::from_micros(start_us)).await;
        let is_twice = {
            let mut machine = self.machine.lock();
            let Some(container) = machine.containers.get_mut(&container_id) else { return };
            if container.claim.is_some() {
                return;
            }
            container.claim = Some(Claim::Supervisor);
            machine.ends.contains_key(&container_id)
        };
        if is_twice {
            self.world.violated("containers", format!("{container_id} of {} runs a second time", self.name));
        }
        let (run_ms, code) = run_of(&command);
        self.world.trace(format_args!("{} runs {container_id} for {run_ms} ms", self.name));
        self.report(started(&container_id, start_us));
        let status = self.run(&container_id, run_ms, code).await;
        self.world.trace(format_args!("{} ends {container_id} with {status}", self.name));
        self.ended(container_id, status, start_us, random).await;
    }

    /// A container's process ended. Now and then its supervisor was killed, and nobody knows how; and what is told of it comes
    /// late, since it was told by nobody until somebody looked, or twice.
    async fn ended(&self, container_id: String, status: i32, start_us: u64, mut random: Random) {
        let status = (!random.permille(20)).then_some(status);
        {
            let mut machine = self.machine.lock();
            machine.ends.insert(container_id.clone(), status);
            machine.news.notify_waiters();
            if let Some(container) = machine.containers.get_mut(&container_id) {
                container.exit = Some(status);
            }
        }
        if random.permille(150) {
            tokio::time::sleep(Duration::from_millis(random.below(2_500))).await;
            self.report(started(&container_id, start_us));
        }
        self.report(Command::ReportExit { container_id: container_id.clone(), status });
        if random.permille(400) {
            tokio::time::sleep(Duration::from_millis(random.below(600))).await;
            self.report(started(&container_id, start_us));
            self.report(Command::ReportExit { container_id, status });
        }
    }

    /// It fails, which is claimed first.
    fn fail_launch(&self, agent: &Inbox, container_id: String, message: String) {
        // It may have been ended meanwhile.
        if !agent.awaits(&container_id) {
            return;
        }
        let mut machine = self.machine.lock();
        let container = machine.containers.entry(container_id.clone()).or_default();
        if *container.claim.get_or_insert(Claim::Agent) == Claim::Agent {
            agent.submit(Command::ReportLaunchFailure { container_id, message });
        }
    }

    /// Ends what runs in a container now.
    fn stop_now(&self, agent: &Inbox, container_id: String, signal: Signal) {
        if !agent.awaits(&container_id) {
            return;
        }
        let mut machine = self.machine.lock();
        let container = machine.containers.entry(container_id.clone()).or_default();
        let report = match container.claim {
            None | Some(Claim::Agent) => {
                container.claim = Some(Claim::Agent);
                Command::ReportRevocation { container_id }
            }
            Some(Claim::Supervisor) => match container.exit {
                None => {
                    container.signal = Some(if signal == Signal::Kill { 9 } else { 15 });
                    return;
                }
                Some(status) => Command::ReportExit { container_id, status },
            },
        };
        drop(machine);
        agent.submit(report);
    }

    /// Long after it was to be ended, by an agent that was there all the time?
    fn ended_by_itself(&self, container_id: &str) {
        let now_ms = self.world.now_ms();
        let machine = self.machine.lock();
        let was_there = |since_ms: u64| {
            let up_ms = machine.listens_since_ms().filter(|_| !machine.is_paused);
            up_ms.is_some_and(|up_ms| up_ms.max(since_ms).max(machine.awake_ms) + ENDING_MS < now_ms)
        };
        let late = machine.to_end.get(container_id).is_some_and(|since_ms| was_there(*since_ms));
        drop(machine);
        if late {
            self.world.violated("containers", format!("{container_id} of {} was to be ended, and ran on", self.name));
        }
    }

    async fn run(&self, container_id: &str, run_ms: u64, code: u64) -> i32 {
        let mut left_ms = run_ms;
        loop {
            if let Some(signal) = self.machine.lock().signal(container_id) {
                return signal;
            }
            if left_ms == 0 {
                self.ended_by_itself(container_id);
                return (code as i32) << 8;
            }
            let step = left_ms.min(250);
            tokio::time::sleep(Duration::from_millis(step)).await;
            left_ms -= step;
        }
    }
}

/// `run MILLISECONDS CODE`
pub(crate) fn run_of(command: &str) -> (u64, u64) {
    let mut words = command.split(' ').skip(1).map(|word| word.parse::<u64>().unwrap_or(0));
    (words.next().unwrap_or(0), words.next().unwrap_or(0))
}

fn started(container_id: &str, start_us: u64) -> Command {
    Command::ReportStart {
        container_id: container_id.to_owned(),
        process: process(start_us),
        facts: Default::default(),
    }
}

fn process(start_us: u64) -> Process {
    Process { supervisor_pid: 7, start_ticks: start_us, boot_id: "boot".into(), pid: 8 }
}

impl Containerizer for Place {
    fn launch(&self, agent: &Inbox, container_id: String) {
        let draw = host::random() as u64;
        if draw.is_multiple_of(40) && !self.world.is_quiet() && agent.awaits(&container_id) {
            return self.fail_launch(agent, container_id, "it may not".to_owned());
        }
        let random = Random::new(draw, "supervisor");
        if let Some(info) = agent.launched(&container_id) {
            self.machine.lock().containers.entry(container_id.clone()).or_default();
            let command = info.command.and_then(|command| command.value).unwrap_or_default();
            tokio::spawn(self.clone().supervise_within(container_id, command, random));
            return;
        }
        let Some((framework_id, executor)) = agent.executor_of(&container_id) else { return };
        if let Err(message) = self.link(agent, &container_id) {
            return agent.submit(Command::ReportLaunchFailure { container_id, message });
        }
        self.machine.lock().containers.entry(container_id.clone()).or_default();
        if !agent.uses_providers(&container_id) {
            // Not the agent's task.
            tokio::spawn(self.clone().supervise(framework_id, executor, random));
            return;
        }
        // With the agent this ends: the next one finds that nothing was launched.
        let (place, agent) = (self.clone(), agent.clone());
        host::spawn(async move {
            match agent.publish(&container_id).await {
                Ok(()) => drop(tokio::spawn(place.supervise(framework_id, executor, random))),
                Err(message) => place.fail_launch(&agent, container_id, message),
            }
        });
    }

    fn stop(&self, agent: &Inbox, container_id: String, signal: Signal) {
        let why = agent.executor_of(&container_id).and_then(|(_, executor)| executor.stop).map(|stop| stop.why);
        // What an agent before had decided, this one goes on with.
        let is_new = !self.machine.lock().to_end.contains_key(&container_id);
        if why == Some(Why::ReregistrationTimeout) && is_new {
            let since_ms = self.machine.lock().listening.as_ref().map(|listening| listening.since_ms);
            let now_ms = self.world.now_ms();
            if since_ms.is_none_or(|since_ms| now_ms < since_ms + REREGISTRATION_MS) {
                let what = format!("an executor of {} is ended before it had time to return", self.name);
                self.world.violated("executors", what);
            }
        }
        self.machine.lock().to_end.entry(container_id.clone()).or_insert(self.world.now_ms());
        // The machine is short of something: it is tried again, as long as the agent lives.
        let draw = host::random() as u64;
        if draw.is_multiple_of(3) && !self.world.is_quiet() {
            let (place, agent, late) = (self.clone(), agent.clone(), Duration::from_millis((draw >> 8) % 3_000));
            host::spawn(async move {
                tokio::time::sleep(late).await;
                place.stop_now(&agent, container_id, signal);
            });
            return;
        }
        self.stop_now(agent, container_id, signal);
    }

    fn release(&self, container_id: String) {
        self.machine.lock().containers.remove(&container_id);
    }

    fn recover(&self, agent: &Inbox, container_id: &str) {
        let (claim, exit) = {
            let mut machine = self.machine.lock();
            let container = machine.containers.entry(container_id.to_owned()).or_default();
            (*container.claim.get_or_insert(Claim::Agent), container.exit)
        };
        let container_id = container_id.to_owned();
        if claim == Claim::Agent {
            return agent.submit(Command::ReportRevocation { container_id });
        }
        agent.submit(started(&container_id, 0));
        if let Some(status) = exit {
            agent.submit(Command::ReportExit { container_id, status });
        }
    }

    fn named(&self, agent_id: &str) {
        self.world.trace(format_args!("{} is {agent_id}", self.name));
    }

    fn link(&self, agent: &Inbox, container_id: &str) -> Result<(), String> {
        let Some((_, executor)) = agent.executor_of(container_id) else { return Ok(()) };
        let machine = self.machine.lock();
        match executor
            .volumes()?
            .into_iter()
            // What is on the disk of a resource provider is the provider's to have.
            .filter(|one| one.volume.root.is_none())
            .find(|one| !machine.volumes.contains_key(&one.volume) && !agent.is_to_come(&one.volume))
        {
            None => Ok(()),
            Some(one) => {
                let what = format!("volume {} of a task is not there", one.volume.id);
                drop(machine);
                self.world.violated("volumes", format!("{}: {what}", self.name));
                Err(what)
            }
        }
    }
}

impl Volumes for Place {
    fn apply(&self, agent: &Inbox, operation: Vec<u8>) {
        let Some(info) = agent.operation(&operation) else { return };
        let creates = info.create.is_some();
        let volumes = agent_core::on_disk(&info).iter().filter_map(|volume| Volume::of(volume).ok());
        let mut machine = self.machine.lock();
        // Once, whatever crashes in between.
        if machine.made_so.insert(operation.clone()) {
            for volume in volumes {
                if creates {
                    machine.volumes.entry(volume).or_insert_with(|| operation.clone());
                } else {
                    machine.volumes.remove(&volume);
                }
            }
        }
        drop(machine);
        let (agent, takes) = (agent.clone(), Duration::from_micros(host::random() as u64 % 1_000_000));
        host::spawn(async move {
            tokio::time::sleep(takes).await;
            agent.submit(Command::ReportOperation { operation, failure: None });
        });
    }

    fn settle(&self, operation: Vec<u8>) {
        self.machine.lock().made_so.remove(&operation);
    }
}

/// An agent's way to the masters.
struct Way {
    net: Net,
    name: String,
}

impl Dial for Way {
    fn dial(&self, address: &str, upward: api_http::Body) -> BoxFuture<'static, Result<Chunks, String>> {
        let (net, name, address) = (self.net.clone(), self.name.clone(), address.to_owned());
        Box::pin(async move {
            let (up, body) = api_http::stream(1024);
            let (to, from, on) = (crate::net::name_of(&address).to_owned(), name.clone(), net.clone());
            // What it says is under way as long as it says it: with the process ends the connection.
            let pump = Task(host::spawn(async move {
                let mut upward = upward;
                while let Some(Ok(frame)) = upward.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    on.pass(&from, &to).await;
                    if up.send(data).await.is_err() {
                        return;
                    }
                }
            }));
            let headers = [("content-type", "application/x-protobuf".to_owned())];
            let asked = net.call(&name, &address, request("/meseta/agent", &headers, body));
            let (response, master) = match timeout(PATIENCE, asked).await {
                Ok(Ok(answered)) => answered,
                Ok(Err(error)) => return Err(format!("{error:?}")),
                Err(_) => return Err("no answer".to_owned()),
            };
            if !response.status().is_success() {
                return Err(format!("the master answered {}", response.status()));
            }
            let chunks = net.stream(&address, &name, response, master);
            let reading = |(mut chunks, pump): (mpsc::Receiver<bytes::Bytes>, Task)| async move {
                chunks.recv().await.map(|chunk| (Ok(chunk), (chunks, pump)))
            };
            Ok(stream::unfold((chunks, pump), reading).boxed())
        })
    }
}

/// A task that does not outlive its connection.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The address of a machine with this name, such as `a3`.
pub fn ip_of(name: &str) -> String {
    format!("10.0.0.{}", name.trim_start_matches(|it: char| !it.is_ascii_digit()))
}

/// So much of something.
pub fn scalar(name: &str, value: f64) -> v1::Resource {
    v1::Resource {
        name: name.to_owned(),
        r#type: v1::value::Type::Scalar as i32,
        scalar: Some(v1::value::Scalar { value }),
        ..v1::Resource::default()
    }
}

/// So many cpus, and 1024 of mem for each.
pub fn resources(cpus: f64) -> Vec<v1::Resource> {
    vec![scalar("cpus", cpus), scalar("mem", cpus * 1024.0)]
}
