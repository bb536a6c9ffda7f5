//! Frameworks: small actors that launch, kill, decline, acknowledge late or not the first time, leave and come back at
//! another master. Once faults are over they behave, launch one last task, and wait for everything to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Media;
use api::v1;
use api::v1::scheduler::call::{self, Type};
use api::v1::scheduler::{Call, Event, event};
use bytes::{Bytes, BytesMut};
use event_log::host::{self, Host};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::agent::resources;
use crate::net::{Net, request};
use crate::random::Random;
use crate::wishes::{self, Wishes};
use crate::world::{EPOCH_MS, World};

const PATH: &str = "/api/v1/scheduler";
const PROTOBUF: &str = "application/x-protobuf";
/// A call without an answer is given up after so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Masters send heartbeats every 15 seconds.
const SILENCE: Duration = Duration::from_secs(35);
/// Tasks that a framework launches while there are faults.
const TASKS_MAX: usize = 24;

/// A task as its framework knows it.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// An ACCEPT with it was answered 202.
    pub accepted: bool,
    /// Its end was told, or that there is no such task.
    pub over: bool,
    /// The framework was told of it at least once.
    pub heard: bool,
    /// An ACCEPT with it is under way.
    sending: bool,
    kill_sent: bool,
}

/// What a framework knows, across its streams.
#[derive(Debug, Default)]
pub struct Book {
    /// Given by the masters.
    pub id: Option<String>,
    /// By task.
    pub tasks: BTreeMap<String, Known>,
    stream_id: Option<String>,
    master: String,
    /// Launched after the end of the faults.
    pub last_task: Option<String>,
    /// Streams that were opened.
    pub streams: u64,
    /// The framework was removed and began anew: tasks of before count no more.
    pub lives: u64,
    outstanding: BTreeMap<String, v1::Offer>,
    /// How many operations and volumes it named.
    named: u64,
    /// Operations that it named and that were accepted, with how each ended.
    operations: BTreeMap<String, Option<v1::OperationState>>,
    /// It stays away for longer than usual, once.
    away_ms: Option<u64>,
    /// It has another role beside its own.
    extra: bool,
    /// It wants no offers of some agent.
    picky: bool,
    /// Executors that run several tasks, each with the agent where it was wanted last.
    executors: BTreeMap<String, v1::AgentId>,
}

/// One framework.
pub struct Framework {
    world: Arc<World>,
    net: Net,
    /// Its name in the network.
    pub name: String,
    masters: Arc<Mutex<Vec<String>>>,
    /// What it knows.
    pub book: Mutex<Book>,
    random: Mutex<Random>,
    /// In seconds.
    failover_timeout: f64,
}

/// A role that frameworks have in common now and then.
const EXTRA: &str = "x1";

/// In seconds: a week, or so short that a framework can miss it.
const FAILOVER_TIMEOUTS: (f64, f64) = (604_800.0, 8.0);

impl Framework {
    /// Starts a framework.
    pub fn start(world: &Arc<World>, net: &Net, name: &str, masters: Arc<Mutex<Vec<String>>>) -> Arc<Framework> {
        let mut random = world.random(name);
        let host = Host::new(random.number(), EPOCH_MS, 0);
        let failover_timeout = if random.permille(250) { FAILOVER_TIMEOUTS.1 } else { FAILOVER_TIMEOUTS.0 };
        let framework = Arc::new(Framework {
            world: world.clone(),
            net: net.clone(),
            name: name.to_owned(),
            masters,
            book: Mutex::default(),
            random: Mutex::new(random),
            failover_timeout,
        });
        host.spawn(framework.clone().run());
        framework
    }

    fn draw<T>(&self, with: impl FnOnce(&mut Random) -> T) -> T {
        with(&mut self.random.lock())
    }

    fn pick_master(&self) -> String {
        let masters = self.masters.lock().clone();
        self.draw(|random| random.pick(&masters).cloned()).unwrap_or_default()
    }

    fn info(&self) -> v1::FrameworkInfo {
        let capability =
            |kind: v1::framework_info::capability::Type| v1::framework_info::Capability { r#type: Some(kind as i32) };
        use v1::framework_info::capability::Type as Kind;
        let mut roles = vec![self.name.clone()];
        if self.book.lock().extra {
            roles.push(EXTRA.to_owned());
        }
        v1::FrameworkInfo {
            user: "root".into(),
            name: self.name.clone(),
            id: self.book.lock().id.clone().map(|value| v1::FrameworkId { value }),
            failover_timeout: Some(self.failover_timeout),
            checkpoint: Some(true),
            roles,
            capabilities: vec![
                capability(Kind::MultiRole),
                capability(Kind::PartitionAware),
                capability(Kind::ReservationRefinement),
                capability(Kind::RevocableResources),
            ],
            ..v1::FrameworkInfo::default()
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let master = self.pick_master();
            // What it said of offers is over with its stream.
            self.book.lock().picky = false;
            let info = self.info();
            let call = Call {
                framework_id: info.id.clone(),
                r#type: Some(Type::Subscribe as i32),
                subscribe: Some(call::Subscribe { framework_info: info, ..Default::default() }),
                ..Call::default()
            };
            let headers = [("content-type", PROTOBUF.to_owned()), ("accept", PROTOBUF.to_owned())];
            let body = api_http::Body::full(Media::Protobuf.encode(&call));
            let asked = self.net.call(&self.name, &master, request(PATH, &headers, body));
            if let Ok(Ok((response, host))) = timeout(PATIENCE, asked).await
                && response.status().is_success()
            {
                let stream_id = response.headers().get("mesos-stream-id").and_then(|id| id.to_str().ok());
                let stream_id = stream_id.unwrap_or_default().to_owned();
                self.world.trace(format_args!("{} opens a stream at {master}", self.name));
                {
                    let mut book = self.book.lock();
                    (book.stream_id, book.master) = (Some(stream_id), master.clone());
                    book.streams += 1;
                    book.outstanding.clear();
                }
                let chunks = self.net.stream(&master, &self.name, response, host);
                self.converse(Records { chunks, buffer: BytesMut::new() }).await;
                self.book.lock().stream_id = None;
                self.world.trace(format_args!("{} has no stream", self.name));
            }
            let away_ms = self.book.lock().away_ms.take();
            let pause_ms = away_ms.unwrap_or_else(|| self.draw(|random| random.range(100, 1_500)));
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    async fn converse(self: &Arc<Self>, mut records: Records) {
        let mut heard = Instant::now();
        let mut act = Instant::now() + Duration::from_millis(self.draw(|random| random.range(500, 5_000)));
        loop {
            tokio::select! {
                biased;
                record = records.next() => {
                    let Some(record) = record else { return };
                    heard = Instant::now();
                    if !self.hear(record) {
                        return;
                    }
                }
                () = tokio::time::sleep_until(act) => {
                    act = Instant::now() + Duration::from_millis(self.draw(|random| random.range(500, 6_000)));
                    if !self.act() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(heard + SILENCE) => return,
            }
        }
    }

    /// False if the stream is over.
    fn hear(self: &Arc<Self>, record: Bytes) -> bool {
        let event: Event = match api::decode_protobuf(record) {
            Ok(event) => event,
            Err(error) => {
                self.world.violated("updates", format!("{} cannot read a record: {error}", self.name));
                return false;
            }
        };
        match event::Type::try_from(event.r#type.unwrap_or_default()).unwrap_or(event::Type::Unknown) {
            event::Type::Subscribed => {
                let id = event.subscribed.map(|subscribed| subscribed.framework_id.value).unwrap_or_default();
                self.book.lock().id = Some(id.clone());
                self.world.oracle.lock().linear.framework_subscribed(&id);
                if self.failover_timeout == FAILOVER_TIMEOUTS.1 {
                    self.world.oracle.lock().linear.framework_leaving(&id);
                }
                self.world.oracle.lock().updates.stream_opened(&id);
            }
            event::Type::Offers => {
                for offer in event.offers.map(|offers| offers.offers).unwrap_or_default() {
                    self.book.lock().outstanding.insert(offer.id.value.clone(), offer.clone());
                    self.consider(offer);
                }
            }
            event::Type::Rescind => {
                let id = event.rescind.map(|rescind| rescind.offer_id.value).unwrap_or_default();
                self.book.lock().outstanding.remove(&id);
            }
            event::Type::InverseOffers => {
                for offer in event.inverse_offers.map(|offers| offers.inverse_offers).unwrap_or_default() {
                    self.answer_inverse(offer.id);
                }
            }
            event::Type::Update => self.update(event.update.map(|update| update.status).unwrap_or_default()),
            event::Type::UpdateOperationStatus => {
                let status = event.update_operation_status.map(|update| update.status).unwrap_or_default();
                self.operation_update(status);
            }
            event::Type::Error => {
                let message = event.error.map(|error| error.message).unwrap_or_default();
                self.world.trace(format_args!("{} hears: {message}", self.name));
                if message.contains("removed") || message.contains("completed") || message.contains("tore down") {
                    self.begin_anew();
                }
                return false;
            }
            _ => {}
        }
        true
    }

    fn begin_anew(&self) {
        let mut book = self.book.lock();
        let streams = book.streams;
        *book = Book { lives: book.lives + 1, streams, ..Book::default() };
    }

    fn update(self: &Arc<Self>, status: v1::TaskStatus) {
        let task_id = status.task_id.value.clone();
        let framework_id = self.book.lock().id.clone().unwrap_or_default();
        self.world.trace(format_args!("{} hears {task_id} {:?}", self.name, status.state()));
        self.world.oracle.lock().updates.received(&self.world, &framework_id, &status);
        {
            let mut book = self.book.lock();
            let known = book.tasks.entry(task_id.clone()).or_default();
            known.heard = true;
            // One that was never launched is over, too: the oracle knows whether it had to be.
            if is_over(status.state) || (status.state() == v1::TaskState::TaskUnknown && !known.sending) {
                known.over = true;
            }
        }
        let Some(uuid) = status.uuid.clone().filter(|uuid| !uuid.is_empty()) else { return };
        // Now and then it forgets, and is asked again.
        if !self.world.is_quiet() && self.draw(|random| random.permille(100)) {
            return;
        }
        let late_ms = match self.world.is_quiet() {
            false if self.draw(|random| random.permille(150)) => self.draw(|random| random.below(15_000)),
            _ => 0,
        };
        let agent_id = status.agent_id.unwrap_or_default();
        let framework = self.clone();
        host::spawn(async move {
            tokio::time::sleep(Duration::from_millis(late_ms)).await;
            framework.world.oracle.lock().updates.acknowledging(&framework_id, &task_id, &uuid);
            let acknowledge = call::Acknowledge { agent_id, task_id: v1::TaskId { value: task_id }, uuid };
            framework.call(Type::Acknowledge, |call| call.acknowledge = Some(acknowledge)).await;
        });
    }

    /// It will leave an agent, or not; or says nothing.
    fn answer_inverse(self: &Arc<Self>, id: v1::OfferId) {
        let (choice, wait_ms) = self.draw(|random| (random.below(10), random.below(8_000)));
        let filters = Some(v1::Filters { refuse_seconds: Some((choice * 2) as f64) });
        let inverse_offer_ids = vec![id];
        let framework = self.clone();
        host::spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            match choice {
                0..=4 => {
                    let body = call::AcceptInverseOffers { inverse_offer_ids, filters };
                    framework.call(Type::AcceptInverseOffers, |call| call.accept_inverse_offers = Some(body)).await;
                }
                5..=7 => {
                    let body = call::DeclineInverseOffers { inverse_offer_ids, filters };
                    framework.call(Type::DeclineInverseOffers, |call| call.decline_inverse_offers = Some(body)).await;
                }
                _ => {}
            }
        });
    }

    /// Says anew who it is and which agents it wants: other roles, or none of some agent; or all of it is taken back.
    async fn change(self: &Arc<Self>, plain: bool) {
        let (extra, picky, host) = self.draw(|random| (random.permille(500), random.permille(400), random.range(1, 4)));
        let picky = picky && !plain;
        self.book.lock().extra = extra && !plain;
        let framework_info = self.info();
        let text = format!(
            r#"{{"role_constraints": {{"{}": {{"groups": [{{"attribute_constraints": [{{
                "selector": {{"pseudoattribute_type": "HOSTNAME"}},
                "predicate": {{"text_not_equals": {{"value": "a{host}"}}}}}}]}}]}}}}}}"#,
            self.name
        );
        let offer_constraints = api::json::from_slice(text.as_bytes()).ok().filter(|_| picky);
        let body = call::UpdateFramework { framework_info, offer_constraints, ..Default::default() };
        self.book.lock().picky = true;
        if self.call(Type::UpdateFramework, |call| call.update_framework = Some(body)).await == Some(200) {
            self.book.lock().picky = picky;
        }
    }

    fn operation_update(self: &Arc<Self>, status: v1::OperationStatus) {
        let operation_id = status.operation_id.clone().unwrap_or_default();
        self.world.trace(format_args!("{} hears {} {}", self.name, operation_id.value, status.state));
        self.operation_ended(&operation_id.value, status.state());
        let Some(uuid) = status.uuid.filter(|_| self.world.is_quiet() || !self.draw(|random| random.permille(100)))
        else {
            return;
        };
        let framework = self.clone();
        let body = call::AcknowledgeOperationStatus {
            agent_id: status.agent_id,
            resource_provider_id: None,
            uuid: uuid.value,
            operation_id,
        };
        host::spawn(async move {
            framework
                .call(Type::AcknowledgeOperationStatus, |call| call.acknowledge_operation_status = Some(body))
                .await;
        });
    }

    /// Once, whatever else is said of it: that it is not known any more, or that its agent is gone, comes afterwards.
    fn operation_ended(&self, id: &str, state: v1::OperationState) {
        use v1::OperationState::{
            OperationDropped, OperationError, OperationFailed, OperationFinished, OperationGoneByOperator,
            OperationUnknown,
        };
        let is_end = matches!(state, OperationFinished | OperationFailed | OperationError | OperationDropped);
        let is_later = matches!(state, OperationGoneByOperator | OperationUnknown);
        if !is_end && !is_later {
            return;
        }
        let mut book = self.book.lock();
        // It may be heard before the ACCEPT is answered.
        let before = *book.operations.entry(id.to_owned()).or_default().get_or_insert(state);
        drop(book);
        if is_end && before != state && !matches!(before, OperationGoneByOperator | OperationUnknown) {
            let (before, state) = (before.as_str_name(), state.as_str_name());
            self.world.violated("providers", format!("{id} ended with {before}, and {} hears {state}", self.name));
        }
    }

    /// What it wants of an offer beside plain tasks.
    fn wishes(&self, offer: &v1::Offer, quiet: bool) -> Wishes {
        let number = |what: &str| {
            let mut book = self.book.lock();
            book.named += 1;
            format!("{}-{what}{}", self.name, book.lives * 1000 + book.named)
        };
        self.draw(|random| wishes::draw(offer, &self.name, random, quiet, number))
    }

    fn consider(self: &Arc<Self>, offer: v1::Offer) {
        let is_spare = |it: &&v1::Resource| it.revocable.is_some();
        let unreserved = offer.resources.iter().filter(|it| it.reservations.is_empty() && it.revocable.is_none());
        let cpus = unreserved.filter(|it| it.name == "cpus").filter_map(|it| it.scalar.as_ref());
        let cpus: f64 = cpus.map(|scalar| scalar.value).sum();
        let spare = offer.resources.iter().filter(is_spare).filter_map(|it| it.scalar.as_ref());
        let spare: f64 = spare.map(|scalar| scalar.value).sum();
        let own = offer.allocation_info.as_ref().is_none_or(|info| info.role() == self.name);
        let quiet = self.world.is_quiet();
        let (launched, has_last) = {
            let book = self.book.lock();
            (book.tasks.len(), book.last_task.is_some())
        };
        let (choice, wait_ms) = self.draw(|random| (random.below(100), random.below(8_000)));
        let count = match quiet {
            true => u64::from(!has_last),
            false if launched >= TASKS_MAX || choice >= 60 => 0,
            false => 1 + choice % 2,
        };
        let count = count.min(cpus as u64);
        let wait_ms = if !quiet && choice % 5 == 0 { wait_ms } else { 0 };
        let refuse_seconds = if quiet { 1.0 } else { (choice % 8) as f64 };
        let framework = self.clone();
        let filters = Some(v1::Filters { refuse_seconds: Some(refuse_seconds) });
        host::spawn(async move {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            let offer_ids = vec![offer.id.clone()];
            let wishes = if own { framework.wishes(&offer, quiet) } else { Wishes::default() };
            let Wishes { mut operations, volume } = wishes;
            let mut tasks: Vec<v1::TaskInfo> = (0..count).map(|_| framework.task(&offer, quiet)).collect();
            if let (Some(task), Some(volume)) = (tasks.first_mut(), volume) {
                task.resources.push(volume);
            }
            // What may be taken back at any time runs something, too.
            if let Some(task) = tasks.first_mut().filter(|_| spare >= 1.0 && choice % 3 == 0) {
                let cpus = task.resources.iter_mut().filter(|it| it.name == "cpus");
                cpus.for_each(|it| it.revocable = Some(v1::resource::RevocableInfo {}));
            }
            if tasks.is_empty() && operations.is_empty() {
                framework.give_back(offer_ids, filters).await;
                return;
            }
            let names: Vec<String> = tasks.iter().map(|task| task.task_id.value.clone()).collect();
            let wanted: Vec<&str> = operations.iter().map(|operation| operation.r#type().as_str_name()).collect();
            let id = &offer.id.value;
            framework.world.trace(format_args!("{} wants {wanted:?} and {names:?} with {id}", framework.name));
            if tasks.len() > 1 && choice % 3 == 1 && !quiet {
                operations.push(framework.group(tasks));
            } else if !tasks.is_empty() {
                operations.push(v1::offer::Operation {
                    r#type: Some(v1::offer::operation::Type::Launch as i32),
                    launch: Some(v1::offer::operation::Launch { task_infos: tasks }),
                    ..Default::default()
                });
            }
            let named: Vec<String> =
                operations.iter().filter_map(|operation| Some(operation.id.clone()?.value)).collect();
            let accept = call::Accept { offer_ids: offer_ids.clone(), operations, filters };
            let lives = framework.book.lock().lives;
            let status = framework.call(Type::Accept, |call| call.accept = Some(accept)).await;
            if status.is_none() {
                // Whoever holds it may yet have it decided.
                tokio::time::sleep(PATIENCE).await;
            }
            {
                let mut book = framework.book.lock();
                if book.lives == lives {
                    for id in named.into_iter().filter(|_| status == Some(202)) {
                        book.operations.entry(id).or_default();
                    }
                    for name in &names {
                        let known = book.tasks.entry(name.clone()).or_default();
                        (known.sending, known.accepted) = (false, status == Some(202));
                    }
                }
            }
            if status != Some(202) {
                // If it was not taken, nobody else is offered it.
                framework.give_back(offer_ids, filters).await;
            }
        });
    }

    /// Declines until that is answered: an offer without a time limit is kept for whoever has it.
    async fn give_back(&self, offer_ids: Vec<v1::OfferId>, filters: Option<v1::Filters>) {
        let lives = self.book.lock().lives;
        while self.book.lock().lives == lives {
            let decline = call::Decline { offer_ids: offer_ids.clone(), filters };
            match self.call(Type::Decline, |call| call.decline = Some(decline)).await {
                None | Some(503) => tokio::time::sleep(Duration::from_secs(2)).await,
                Some(_) => return,
            }
        }
    }

    fn task(&self, offer: &v1::Offer, last: bool) -> v1::TaskInfo {
        let mut book = self.book.lock();
        let name = format!("{}-t{}", self.name, book.lives * 1000 + book.tasks.len() as u64);
        book.tasks.insert(name.clone(), Known { sending: true, ..Known::default() });
        if last {
            book.last_task = Some(name.clone());
        }
        let (run_ms, code) = self.draw(|random| (random.range(200, 15_000), random.below(2)));
        let run = format!("run {run_ms} {code}");
        let task = v1::TaskInfo {
            name: name.clone(),
            task_id: v1::TaskId { value: name },
            agent_id: offer.agent_id.clone(),
            resources: resources(1.0),
            ..Default::default()
        };
        let command = |value| Some(v1::CommandInfo { value: Some(value), ..Default::default() });
        let executor = |executor_id, value| v1::ExecutorInfo {
            r#type: Some(v1::executor_info::Type::Custom as i32),
            executor_id: v1::ExecutorId { value: executor_id },
            command: command(value),
            ..Default::default()
        };
        match self.draw(|random| (random.below(10), random.below(4) / 3)) {
            // Some bring an executor of their own that has nothing beside its task, and ends without a word.
            (0 | 1, _) => v1::TaskInfo { executor: Some(executor(format!("{}-e", task.name), run)), ..task },
            // Some share one that runs what it is handed.
            (2..=5, number) => {
                let executor = executor(format!("{}-x{number}", self.name), "executor".to_owned());
                book.executors.insert(executor.executor_id.value.clone(), task.agent_id.clone());
                v1::TaskInfo { executor: Some(executor), data: Some(run.into_bytes().into()), ..task }
            }
            _ => v1::TaskInfo { command: command(run), ..task },
        }
    }

    /// Tasks that one executor gets together.
    fn group(&self, tasks: Vec<v1::TaskInfo>) -> v1::offer::Operation {
        let first = tasks.first().map(|task| (task.task_id.value.clone(), task.agent_id.clone()));
        let (first, agent_id) = first.unwrap_or_default();
        let executor = v1::ExecutorInfo {
            r#type: Some(v1::executor_info::Type::Custom as i32),
            executor_id: v1::ExecutorId { value: format!("{first}-g") },
            command: Some(v1::CommandInfo { value: Some("executor".to_owned()), ..Default::default() }),
            ..Default::default()
        };
        self.book.lock().executors.insert(executor.executor_id.value.clone(), agent_id);
        let run = |task: v1::TaskInfo| {
            let text = format!("run {} 0", self.draw(|random| random.range(200, 15_000)));
            v1::TaskInfo { executor: None, command: None, data: Some(text.into_bytes().into()), ..task }
        };
        let task_group = v1::TaskGroupInfo { tasks: tasks.into_iter().map(run).collect() };
        v1::offer::Operation {
            r#type: Some(v1::offer::operation::Type::LaunchGroup as i32),
            launch_group: Some(Box::new(v1::offer::operation::LaunchGroup { executor, task_group })),
            ..Default::default()
        }
    }

    /// The status of an answer; None if there was none.
    async fn call(&self, kind: Type, with: impl FnOnce(&mut Call)) -> Option<u16> {
        let (id, stream_id, mut master) = {
            let book = self.book.lock();
            (book.id.clone()?, book.stream_id.clone()?, book.master.clone())
        };
        // Any master takes it.
        if self.draw(|random| random.permille(300)) {
            master = self.pick_master();
        }
        let mut call =
            Call { framework_id: Some(v1::FrameworkId { value: id }), r#type: Some(kind as i32), ..Call::default() };
        with(&mut call);
        let headers = [("content-type", PROTOBUF.to_owned()), ("mesos-stream-id", stream_id)];
        let body = Media::Protobuf.encode(&call);
        let asked = timeout(PATIENCE, self.net.post(&self.name, &master, PATH, &headers, body)).await;
        let status = asked.ok()?.ok().map(|(status, _)| status.as_u16());
        self.world.trace(format_args!("{} {} is answered {status:?}", self.name, kind.as_str_name()));
        status
    }

    /// Something of its own accord. False if it leaves its stream.
    fn act(self: &Arc<Self>) -> bool {
        let framework = self.clone();
        if self.world.is_quiet() {
            host::spawn(async move { framework.ask_about_doubtful().await });
            return true;
        }
        match self.draw(|random| random.below(20)) {
            0..=5 => {
                let victim = {
                    let mut book = self.book.lock();
                    let live: Vec<String> = book
                        .tasks
                        .iter()
                        .filter(|(_, known)| known.heard && !known.over && !known.kill_sent)
                        .map(|(id, _)| id.clone())
                        .collect();
                    let victim = self.draw(|random| random.pick(&live).cloned());
                    if let Some(known) = victim.as_ref().and_then(|victim| book.tasks.get_mut(victim)) {
                        known.kill_sent = true;
                    }
                    victim
                };
                if let Some(value) = victim {
                    host::spawn(async move {
                        let kill = call::Kill { task_id: v1::TaskId { value }, ..Default::default() };
                        framework.call(Type::Kill, |call| call.kill = Some(kill)).await;
                    });
                }
            }
            6..=8 => {
                host::spawn(async move {
                    framework.call(Type::Reconcile, |call| call.reconcile = Some(call::Reconcile::default())).await;
                });
            }
            9 => {
                host::spawn(async move {
                    framework.call(Type::Suppress, |call| call.suppress = Some(call::Suppress::default())).await;
                });
            }
            10..=11 => {
                host::spawn(async move {
                    framework.call(Type::Revive, |call| call.revive = Some(call::Revive::default())).await;
                });
            }
            13 => {
                host::spawn(async move { framework.change(false).await });
            }
            14 => {
                let known: Vec<(String, v1::AgentId)> = self.book.lock().executors.clone().into_iter().collect();
                if let Some((value, agent_id)) = self.draw(|random| random.pick(&known).cloned()) {
                    let body = call::Shutdown { executor_id: v1::ExecutorId { value }, agent_id };
                    host::spawn(async move {
                        framework.call(Type::Shutdown, |call| call.shutdown = Some(body)).await;
                    });
                }
            }
            12 => {
                if self.failover_timeout == FAILOVER_TIMEOUTS.1 && self.draw(|random| random.permille(500)) {
                    self.book.lock().away_ms = Some(self.draw(|random| random.range(6_000, 45_000)));
                }
                self.world.trace(format_args!("{} leaves its stream", self.name));
                return false;
            }
            _ => {}
        }
        true
    }

    /// Wants offers, and asks about tasks of which it does not know the end.
    async fn ask_about_doubtful(self: &Arc<Self>) {
        let has_more = {
            let book = self.book.lock();
            book.picky || book.extra
        };
        if has_more {
            self.change(true).await;
        }
        // Also when it has launched its last: what it has reserved is offered to it only then.
        self.call(Type::Revive, |call| call.revive = Some(call::Revive::default())).await;
        let doubtful: Vec<call::reconcile::Task> = {
            let book = self.book.lock();
            let doubtful =
                book.tasks.iter().filter(|(_, known)| !known.over && !known.sending).map(|(id, _)| id.clone());
            let task = |value| call::reconcile::Task { task_id: v1::TaskId { value }, agent_id: None };
            doubtful.map(task).collect()
        };
        if !doubtful.is_empty() {
            self.call(Type::Reconcile, |call| call.reconcile = Some(call::Reconcile { tasks: doubtful })).await;
        }
        let operations: Vec<call::reconcile_operations::Operation> = {
            let book = self.book.lock();
            let doubtful = book.operations.iter().filter(|(_, end)| end.is_none()).map(|(id, _)| id.clone());
            let operation = |value| call::reconcile_operations::Operation {
                operation_id: v1::OperationId { value },
                ..Default::default()
            };
            doubtful.map(operation).collect()
        };
        if !operations.is_empty() {
            let body = call::ReconcileOperations { operations };
            self.call(Type::ReconcileOperations, |call| call.reconcile_operations = Some(body)).await;
        }
    }

    /// Tasks of which an ACCEPT was answered as taken.
    pub fn accepted(&self) -> Vec<String> {
        let book = self.book.lock();
        book.tasks.iter().filter(|(_, known)| known.accepted).map(|(id, _)| id.clone()).collect()
    }

    /// Whether it was told of an offer, and not that it was taken back.
    pub fn knows(&self, offer_id: &str) -> bool {
        self.book.lock().outstanding.contains_key(offer_id)
    }

    /// Whether nothing is open any more; if not, what.
    pub fn unfinished(&self) -> Option<String> {
        let book = self.book.lock();
        if book.stream_id.is_none() {
            return Some(format!("{} has no stream", self.name));
        }
        let Some(last) = &book.last_task else { return Some(format!("{} was offered nothing", self.name)) };
        if let Some((id, _)) = book.operations.iter().find(|(_, end)| end.is_none()) {
            return Some(format!("{} does not know what became of {id}", self.name));
        }
        let open = book.tasks.iter().find(|(_, known)| !known.over || known.sending).map(|(id, _)| id.clone());
        open.map(|open| format!("{} does not know the end of {open} (the last is {last})", self.name))
    }
}

/// Whether nothing more comes of a task in this state.
pub fn is_over(state: i32) -> bool {
    use v1::TaskState::*;
    matches!(
        v1::TaskState::try_from(state),
        Ok(TaskFinished | TaskFailed | TaskKilled | TaskError | TaskLost | TaskDropped | TaskGone | TaskGoneByOperator)
    )
}

/// Records out of an event stream: a length in decimal, a line feed, and so many bytes.
pub(crate) struct Records {
    pub(crate) chunks: mpsc::Receiver<Bytes>,
    pub(crate) buffer: BytesMut,
}

impl Records {
    /// None at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let length: usize = std::str::from_utf8(&self.buffer[..at]).ok()?.parse().ok()?;
                if self.buffer.len() > at + length {
                    let _ = self.buffer.split_to(at + 1);
                    return Some(self.buffer.split_to(length).freeze());
                }
            }
            self.buffer.extend_from_slice(&self.chunks.recv().await?);
        }
    }
}
