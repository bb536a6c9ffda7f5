//! Resource providers: programs beside an agent that have disks. They do what is ordered late, say what became of it late, twice or
//! into the void, are killed and come back, change what they have, and some never return. What they have and know is on their
//! own disk, written before anything is said.

use std::sync::Arc;
use std::time::Duration;

use api::Media;
use api::resources::{Format, Resource, Resources};
use api::v1::offer::Operation as Info;
use api::v1::offer::operation::Type as Kind;
use api::v1::resource::disk_info::{Source, source};
use api::v1::resource_provider::call::update_publish_resources_status::Status as Published;
use api::v1::resource_provider::{Call, Event, call, event};
use api::v1::{self, OperationState, OperationStatus, ResourceProviderId, Uuid};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::agent::{Machine, scalar};
use crate::framework::Records;
use crate::net::request;
use crate::random::Random;
use crate::world::World;

const PATH: &str = "/api/v1/resource_provider";
const PROTOBUF: &str = "application/x-protobuf";
/// A call without an answer is given up after so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is not acknowledged is said again.
const AGAIN: Duration = Duration::from_millis(1_700);
/// How often it looks whether its machine is there.
const LOOK: Duration = Duration::from_millis(250);
/// So much disk a provider has in the beginning, and by so much that becomes more or less.
const DISK: f64 = 64.0;
const MORE: f64 = 16.0;
/// Streams that it had, after which it does not begin anew when it is gone for good.
const LIVES_MAX: u64 = 3;

/// Whether somebody is to come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, or soon will be.
    #[default]
    There,
    /// It does not come back: an operator is about to say so.
    Left,
    /// Its agent heard that.
    Gone,
}

/// An operation that it was given, until its end is acknowledged.
struct Known {
    uuid: Bytes,
    info: Info,
    framework_id: Option<v1::FrameworkId>,
    /// What became of it.
    status: Option<OperationStatus>,
}

/// What is on its disk.
#[derive(Default)]
pub(crate) struct Store {
    /// Given by the agent.
    pub(crate) id: Option<String>,
    version: Bytes,
    has: Resources,
    /// In the order in which they came.
    operations: Vec<Known>,
    /// How many disks it made.
    made: u64,
    pub(crate) standing: Standing,
}

/// What is compared with what its agent and the masters believe.
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) version: Bytes,
    pub(crate) has: Resources,
    /// Operations whose end nobody acknowledged.
    pub(crate) open: usize,
}

impl Store {
    /// None of one that is not to come back, or that nobody knows yet.
    pub(crate) fn account(&self) -> Option<Account> {
        let id = self.id.clone().filter(|_| self.standing == Standing::There)?;
        Some(Account { id, version: self.version.clone(), has: self.has.clone(), open: self.operations.len() })
    }
}

/// One process.
pub(crate) struct Provider {
    world: Arc<World>,
    machine: Arc<Mutex<Machine>>,
    name: String,
    /// Its place among the machine's.
    place: usize,
    random: Random,
    /// What it is about to do, and when.
    due: Vec<(Instant, Bytes)>,
    /// When what comes next may be done: not before what came earlier.
    after: Instant,
    lives: u64,
}

/// A stream.
struct Open {
    id: String,
    records: Records,
    /// Calls that are not waited for; they end with it.
    saying: JoinSet<()>,
}

/// How a stream ended.
enum End {
    /// It ended, or is not believed any more.
    Broken,
    /// So did the process.
    Killed,
    /// And is not to come back.
    Left,
    /// Nobody wants it any more, or its machine is gone.
    Over,
}

impl Provider {
    pub(crate) fn new(
        world: &Arc<World>,
        machine: &Arc<Mutex<Machine>>,
        agent: &str,
        place: usize,
        random: Random,
    ) -> Provider {
        Provider {
            world: world.clone(),
            machine: machine.clone(),
            name: format!("{agent}.p{place}"),
            place,
            random,
            due: Vec::new(),
            after: Instant::now(),
            lives: 0,
        }
    }

    /// What is on its disk.
    fn disk<T>(&self, with: impl FnOnce(&mut Store) -> T) -> T {
        with(&mut self.machine.lock().providers[self.place])
    }

    fn is_gone(&self) -> bool {
        self.machine.lock().is_gone()
    }

    /// So many times in a thousand, while things go wrong.
    fn errs(&mut self, permille: u64) -> bool {
        self.random.permille(permille) && !self.world.is_quiet()
    }

    fn violated(&self, what: &str) {
        self.world.violated("providers", format!("{}: {what}", self.name));
    }

    pub(crate) async fn run(mut self) {
        let mut before: Option<Open> = None;
        while !self.is_gone() {
            let Some(mut open) = self.subscribe().await else {
                drop(before.take());
                sleep(Duration::from_millis(self.random.range(50, 700))).await;
                continue;
            };
            // The older stream ends when it is known that the newer one is there.
            drop(before.take());
            match self.serve(&mut open).await {
                End::Broken => before = Some(open),
                End::Killed => {
                    drop(open);
                    self.due.clear();
                    let most = if self.world.is_quiet() { 300 } else { 9_000 };
                    sleep(Duration::from_millis(self.random.range(10, most))).await;
                }
                End::Left => {
                    drop(open);
                    self.due.clear();
                    if !self.leave().await {
                        return;
                    }
                }
                End::Over => return,
            }
        }
    }

    async fn subscribe(&mut self) -> Option<Open> {
        let id = self.disk(|store| store.id.clone());
        let info = v1::ResourceProviderInfo {
            id: id.clone().map(|value| ResourceProviderId { value }),
            r#type: "org.example.disks".to_owned(),
            name: self.name.clone(),
            ..Default::default()
        };
        let subscribe = Some(call::Subscribe { resource_provider_info: info });
        let call = Call { r#type: Some(call::Type::Subscribe as i32), subscribe, ..Call::default() };
        let (response, host) = ask(&self.machine, PATH, None, Media::Protobuf.encode(&call)).await?;
        let status = response.status();
        self.world.trace(format_args!("{} subscribes: {status}", self.name));
        if !status.is_success() {
            if status.as_u16() == 400 && !self.is_gone() {
                let body = response.into_body().collect().await.ok()?.to_bytes();
                let told = String::from_utf8_lossy(&body);
                if told.contains("is not known") {
                    self.violated(&format!("it is not let in: {told}"));
                }
            }
            return None;
        }
        let stream_id = response.headers().get("mesos-stream-id").and_then(|id| id.to_str().ok());
        let stream_id = stream_id.unwrap_or_default().to_owned();
        let (sender, chunks) = mpsc::channel(1024);
        let mut body = response.into_body();
        // With either process the stream ends.
        host.spawn(async move {
            loop {
                let frame = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    frame = body.frame() => frame,
                };
                let Some(Ok(frame)) = frame else { return };
                let Ok(data) = frame.into_data() else { continue };
                if sender.send(data).await.is_err() {
                    return;
                }
            }
        });
        // It ends before it has heard who it is.
        if id.is_none() && self.errs(100) {
            return None;
        }
        let records = Records { chunks, buffer: BytesMut::new() };
        Some(Open { id: stream_id, records, saying: JoinSet::new() })
    }

    async fn serve(&mut self, open: &mut Open) -> End {
        let mut act = Instant::now() + Duration::from_millis(self.random.range(300, 6_000));
        let mut again = Instant::now() + AGAIN;
        loop {
            let due = self.due.iter().map(|(at, _)| *at).min().unwrap_or_else(|| Instant::now() + LOOK);
            let end = tokio::select! {
                biased;
                record = open.records.next() => match record {
                    Some(record) => self.hear(open, record).await,
                    None => Some(End::Broken),
                },
                () = sleep_until(due) => self.work(open).await,
                () = sleep_until(again) => {
                    again = Instant::now() + AGAIN;
                    self.say_again(open);
                    None
                }
                () = sleep_until(act) => {
                    act = Instant::now() + Duration::from_millis(self.random.range(300, 6_000));
                    self.act(open).await
                }
                () = sleep(LOOK) => None,
            };
            if self.is_gone() {
                return End::Over;
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    async fn hear(&mut self, open: &mut Open, record: Bytes) -> Option<End> {
        let event: Event = match api::decode_protobuf(record) {
            Ok(event) => event,
            Err(error) => {
                self.violated(&format!("a record cannot be read: {error}"));
                return Some(End::Broken);
            }
        };
        let kind = event.r#type();
        self.world.trace(format_args!("{} hears {}", self.name, kind.as_str_name()));
        match kind {
            event::Type::Subscribed => {
                let id = event.subscribed.map(|subscribed| subscribed.provider_id.value).unwrap_or_default();
                let version = self.new_version();
                self.disk(|store| {
                    if store.id.is_none() {
                        store.has = Resources::from_iter([space(&id, DISK)]);
                        store.version = version;
                    }
                    store.id = Some(id);
                });
                self.due.clear();
                let open_ones = self.disk(|store| {
                    let without = store.operations.iter().filter(|one| one.status.is_none());
                    without.map(|one| (one.uuid.clone(), one.info.r#type())).collect::<Vec<_>>()
                });
                open_ones.into_iter().for_each(|(uuid, kind)| self.schedule(uuid, kind));
                self.state(open).await
            }
            event::Type::ApplyOperation => {
                self.take(event.apply_operation.unwrap_or_default());
                None
            }
            event::Type::PublishResources => {
                self.publish(open, event.publish_resources.unwrap_or_default());
                None
            }
            event::Type::AcknowledgeOperationStatus => {
                let acknowledged = event.acknowledge_operation_status.unwrap_or_default();
                let uuid = acknowledged.operation_uuid.value;
                let said = Some(&acknowledged.status_uuid);
                let is_said =
                    |one: &Known| one.uuid == uuid && one.status.as_ref().and_then(|it| it.uuid.as_ref()) == said;
                let is_known = self.disk(|store| {
                    let is_known = store.operations.iter().any(is_said);
                    store.operations.retain(|one| !is_said(one));
                    is_known
                });
                if is_known {
                    self.world.oracle.lock().provider_acknowledged(&uuid);
                }
                None
            }
            event::Type::Teardown => {
                self.violated("nobody said that it is gone");
                Some(End::Over)
            }
            event::Type::ReconcileOperations | event::Type::Unknown => None,
        }
    }

    fn new_version(&mut self) -> Bytes {
        self.random.bytes16().to_vec().into()
    }

    /// When an operation is done: one that only it can judge takes its own time, the others are done in their order.
    fn schedule(&mut self, uuid: Bytes, kind: Kind) {
        let most_ms = match self.world.is_quiet() {
            true => 20,
            false if self.random.permille(150) => 6_000,
            false => 200,
        };
        let late = Duration::from_millis(self.random.below(most_ms));
        let at = self.after.max(Instant::now() + late);
        if !matches!(kind, Kind::CreateDisk | Kind::DestroyDisk) {
            self.after = at;
        }
        self.due.push((at, uuid));
    }

    fn take(&mut self, order: event::ApplyOperation) {
        let uuid = order.operation_uuid.value.clone();
        self.world.oracle.lock().providers.given(&uuid);
        let kind = order.info.r#type();
        let is_outdated = self.disk(|store| store.version != order.resource_version_uuid.value);
        let status = is_outdated.then(|| {
            let message = Some("It was decided for what this provider does not have".to_owned());
            OperationStatus { message, ..self.status(OperationState::OperationDropped) }
        });
        if let Some(status) = &status {
            self.world.oracle.lock().providers.done(&uuid, status.state);
        }
        let is_over = status.is_some();
        let known = Known { uuid: uuid.clone(), info: order.info, framework_id: order.framework_id, status };
        self.disk(|store| store.operations.push(known));
        self.world.trace(format_args!("{} is given {} ({is_outdated})", self.name, kind.as_str_name()));
        if is_over {
            // It is said with what is said again.
            return;
        }
        self.schedule(uuid, kind);
    }

    fn status(&mut self, state: OperationState) -> OperationStatus {
        let uuid = Some(Uuid { value: self.new_version() });
        let id = self.disk(|store| store.id.clone()).unwrap_or_default();
        let resource_provider_id = Some(ResourceProviderId { value: id });
        OperationStatus { state: state as i32, uuid, resource_provider_id, ..OperationStatus::default() }
    }

    /// Does what is due.
    async fn work(&mut self, open: &mut Open) -> Option<End> {
        let now = Instant::now();
        let mut due: Vec<Bytes> = Vec::new();
        self.due.retain(|(at, uuid)| {
            if *at <= now {
                due.push(uuid.clone());
            }
            *at > now
        });
        for uuid in due {
            let open_one = |one: &&Known| one.uuid == uuid && one.status.is_none();
            let Some(info) = self.disk(|store| store.operations.iter().find(open_one).map(|one| one.info.clone()))
            else {
                continue;
            };
            let kind = info.r#type();
            let converted = if self.errs(80) { Err("It does not work".to_owned()) } else { self.convert(&info) };
            let is_failed = converted.is_err();
            let status = match converted {
                Ok(converted_resources) => {
                    OperationStatus { converted_resources, ..self.status(OperationState::OperationFinished) }
                }
                Err(why) => OperationStatus { message: Some(why), ..self.status(OperationState::OperationFailed) },
            };
            self.world.trace(format_args!("{} does {}: {}", self.name, kind.as_str_name(), status.message()));
            self.world.oracle.lock().providers.done(&uuid, status.state);
            // Of what the masters took for done they may believe more than can be undone: it says anew what it has.
            let says_anew = is_failed && !matches!(kind, Kind::CreateDisk | Kind::DestroyDisk);
            let version = self.new_version();
            self.disk(|store| {
                if let Some(one) = store.operations.iter_mut().find(|one| one.uuid == uuid) {
                    one.status = Some(status);
                }
                if says_anew {
                    store.version = version;
                }
            });
            if self.errs(30) {
                return Some(End::Killed);
            }
            self.report(open, &uuid);
            if says_anew && let Some(end) = self.state(open).await {
                return Some(end);
            }
        }
        None
    }

    /// What an operation makes, if it can be done.
    fn convert(&self, info: &Info) -> Result<Vec<v1::Resource>, String> {
        let read =
            |list: &[v1::Resource]| Resources::from_v1(list).map(|all| all.unallocate()).map_err(|it| it.to_string());
        self.disk(|store| {
            let has = &store.has;
            let unfit = |unfit: api::resources::Unfit| unfit.to_string();
            let (has, made) = match info.r#type() {
                Kind::Reserve => {
                    let reserved = read(&info.reserve.clone().unwrap_or_default().resources)?;
                    (has.reserve(&reserved).map_err(unfit)?, reserved)
                }
                Kind::Unreserve => {
                    let reserved = read(&info.unreserve.clone().unwrap_or_default().resources)?;
                    (has.unreserve(&reserved).map_err(unfit)?, reserved.pop_reservation())
                }
                Kind::Create => {
                    let volumes = read(&info.create.clone().unwrap_or_default().volumes)?;
                    (has.create(&volumes).map_err(unfit)?, volumes)
                }
                Kind::Destroy => {
                    let volumes = read(&info.destroy.clone().unwrap_or_default().volumes)?;
                    (has.destroy(&volumes).map_err(unfit)?, volumes.disks_of_volumes().map_err(unfit)?)
                }
                Kind::CreateDisk => {
                    let create = info.create_disk.clone().unwrap_or_default();
                    let source = read(std::slice::from_ref(&create.source))?;
                    store.made += 1;
                    let id = format!("{}-{}", self.name, store.made);
                    let made = of_kind(&create.source, create.target_type(), Some(id));
                    let made = read(&[made])?;
                    (has.replace(&source, &made).map_err(unfit)?, made)
                }
                Kind::DestroyDisk => {
                    let destroy = info.destroy_disk.clone().unwrap_or_default();
                    let source = read(std::slice::from_ref(&destroy.source))?;
                    let made = read(&[of_kind(&destroy.source, source::Type::Raw, None)])?;
                    (has.replace(&source, &made).map_err(unfit)?, made)
                }
                other => return Err(format!("{} is not known here", other.as_str_name())),
            };
            store.has = has;
            Ok(made.to_v1(Format::PostRefinement))
        })
    }

    /// Says what it has, and which operations it knows. The stream is not believed any more if nobody hears that.
    async fn state(&mut self, open: &mut Open) -> Option<End> {
        loop {
            let (state, id, amounts) = self.disk(|store| {
                let operation = |one: &Known| v1::Operation {
                    framework_id: one.framework_id.clone(),
                    info: one.info.clone(),
                    latest_status: one.status.clone().unwrap_or_else(|| OperationStatus {
                        state: OperationState::OperationPending as i32,
                        ..OperationStatus::default()
                    }),
                    uuid: Uuid { value: one.uuid.clone() },
                    ..v1::Operation::default()
                };
                let state = call::UpdateState {
                    operations: store.operations.iter().map(operation).collect(),
                    resources: store.has.to_v1(Format::PostRefinement),
                    resource_version_uuid: Uuid { value: store.version.clone() },
                };
                (state, store.id.clone().unwrap_or_default(), store.has.all_quantities())
            });
            let version = state.resource_version_uuid.value.clone();
            self.world.oracle.lock().providers.stated(&id, version, amounts);
            let call = Call { update_state: Some(state), ..self.call(call::Type::UpdateState) };
            let answer = post(&self.machine, PATH, Some(&open.id), Media::Protobuf.encode(&call)).await;
            let (status, body) = answer.unwrap_or_default();
            self.world.trace(format_args!("{} says what it has: {status}", self.name));
            match status {
                // The answer may be lost on its way.
                202 if !self.errs(40) => return None,
                503 => sleep(Duration::from_millis(self.random.range(50, 500))).await,
                400 if !is_of_the_past(&body) => {
                    self.violated(&format!("what it has is refused: {body}"));
                    return Some(End::Broken);
                }
                _ => return Some(End::Broken),
            }
        }
    }

    fn call(&self, kind: call::Type) -> Call {
        let value = self.disk(|store| store.id.clone()).unwrap_or_default();
        Call { r#type: Some(kind as i32), resource_provider_id: Some(ResourceProviderId { value }), ..Call::default() }
    }

    /// Says what became of an operation: at once or later, once or twice.
    fn report(&mut self, open: &mut Open, uuid: &Bytes) {
        let found = self.disk(|store| {
            let one = store.operations.iter().find(|one| one.uuid == *uuid)?;
            Some((one.status.clone()?, one.framework_id.clone()))
        });
        let Some((status, framework_id)) = found else { return };
        let update = |status: OperationStatus| call::UpdateOperationStatus {
            framework_id: framework_id.clone(),
            status,
            latest_status: None,
            operation_uuid: Uuid { value: uuid.clone() },
        };
        // Some say more than is of use.
        if self.errs(100) {
            let pending = self.status(OperationState::OperationPending);
            self.send(open, call::Type::UpdateOperationStatus, |call| {
                call.update_operation_status = Some(update(pending))
            });
        }
        for _ in 0..if self.errs(150) { 2 } else { 1 } {
            let update = update(status.clone());
            self.send(open, call::Type::UpdateOperationStatus, |call| call.update_operation_status = Some(update));
        }
    }

    fn say_again(&mut self, open: &mut Open) {
        let ended = self.disk(|store| {
            let ended = store.operations.iter().filter(|one| one.status.is_some());
            ended.map(|one| one.uuid.clone()).collect::<Vec<_>>()
        });
        ended.iter().for_each(|uuid| self.report(open, uuid));
    }

    /// A call whose answer is not waited for.
    fn send(&mut self, open: &mut Open, kind: call::Type, with: impl FnOnce(&mut Call)) {
        let late_ms = if self.errs(200) { self.random.below(3_000) } else { 0 };
        // It is lost on its way, as far as that is possible on one machine.
        let is_lost = self.errs(60);
        let mut call = self.call(kind);
        with(&mut call);
        let (world, machine, name) = (self.world.clone(), self.machine.clone(), self.name.clone());
        let stream_id = open.id.clone();
        let body = Media::Protobuf.encode(&call);
        let published = call.update_publish_resources_status.filter(|update| update.status() == Published::Ok);
        open.saying.spawn(async move {
            sleep(Duration::from_millis(late_ms)).await;
            if is_lost {
                return;
            }
            if let Some(update) = published {
                machine.lock().publish(&update.uuid.value);
            }
            let answer = post(&machine, PATH, Some(&stream_id), body).await;
            if let Some((400, body)) = answer
                && !is_of_the_past(&body)
            {
                world.violated("providers", format!("{name}: {} is refused: {body}", kind.as_str_name()));
            }
        });
        while open.saying.try_join_next().is_some() {}
    }

    /// Makes resources ready, or not.
    fn publish(&mut self, open: &mut Open, wanted: event::PublishResources) {
        let all = Resources::from_v1(&wanted.resources).unwrap_or_default();
        let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
        let has = self.disk(|store| store.has.clone());
        let is_there = |one: &Resource| has.contains(&Resources::from_iter([one.clone()]).unallocate());
        let lacking =
            all.iter().zip(&shown).any(|(one, shown)| !is_there(one) && !self.machine.lock().is_published(shown));
        let choice = if self.world.is_quiet() { 9 } else { self.random.below(20) };
        let status = match choice {
            0 => return,
            1 => Published::Failed,
            _ if lacking => Published::Failed,
            _ => Published::Ok,
        };
        let uuid = wanted.uuid;
        self.machine.lock().publishing.insert(uuid.value.to_vec(), shown);
        let update = call::UpdatePublishResourcesStatus { uuid, status: status as i32 };
        self.send(open, call::Type::UpdatePublishResourcesStatus, |call| {
            call.update_publish_resources_status = Some(update)
        });
    }

    /// Something of its own accord.
    async fn act(&mut self, open: &mut Open) -> Option<End> {
        if self.world.is_quiet() {
            return None;
        }
        let change = match self.random.below(16) {
            0 | 1 => return Some(End::Killed),
            2 => return Some(End::Broken),
            3 => return self.state(open).await,
            4 if self.random.permille(250) => return Some(End::Left),
            5 => 0.0,
            6 => MORE,
            7 => -MORE,
            _ => return None,
        };
        let version = self.new_version();
        let is_other = self.disk(|store| {
            let id = store.id.clone()?;
            let piece = Resources::from_iter([space(&id, change.abs())]);
            let has = if change < 0.0 { store.has.checked_sub(&piece)? } else { store.has.plus(&piece) };
            (store.has, store.version) = (has, version);
            Some(())
        });
        is_other?;
        self.world.trace(format_args!("{} has {change} more", self.name));
        // It may end before it has said so.
        if self.errs(100) {
            return Some(End::Killed);
        }
        self.state(open).await
    }

    /// It does not come back, and its operator says so. True if another takes its place.
    async fn leave(&mut self) -> bool {
        let id = self.disk(|store| {
            store.standing = Standing::Left;
            store.id.clone()
        });
        self.world.trace(format_args!("{} is gone for good", self.name));
        sleep(Duration::from_millis(self.random.range(500, 15_000))).await;
        let gone = v1::agent::call::MarkResourceProviderGone {
            resource_provider_id: ResourceProviderId { value: id.unwrap_or_default() },
        };
        let call = v1::agent::Call {
            r#type: Some(v1::agent::call::Type::MarkResourceProviderGone as i32),
            mark_resource_provider_gone: Some(gone),
            ..Default::default()
        };
        let body = Media::Protobuf.encode(&call);
        loop {
            if self.is_gone() {
                return false;
            }
            let answer = post(&self.machine, "/api/v1", None, body.clone()).await;
            let (status, text) = answer.unwrap_or_default();
            self.world.trace(format_args!("{} is said to be gone: {status} {text}", self.name));
            if status == 200 || text.contains("unknown resource provider") {
                break;
            }
            sleep(Duration::from_millis(self.random.range(200, 1_000))).await;
        }
        self.lives += 1;
        let is_followed = self.lives < LIVES_MAX && self.random.permille(600) && !self.world.is_quiet();
        self.disk(|store| {
            let standing = if is_followed { Standing::There } else { Standing::Gone };
            *store = Store { standing, made: store.made, ..Store::default() };
        });
        is_followed
    }
}

/// A call came too late for its stream.
fn is_of_the_past(answer: &str) -> bool {
    answer.contains("is not subscribed") || answer.contains("stream ID")
}

/// So much of what disks are made of.
fn space(provider_id: &str, amount: f64) -> Resource {
    let source = Source { r#type: source::Type::Raw as i32, profile: Some("fast".to_owned()), ..Source::default() };
    let disk = v1::resource::DiskInfo { source: Some(source), ..Default::default() };
    let space = v1::Resource {
        provider_id: Some(ResourceProviderId { value: provider_id.to_owned() }),
        disk: Some(disk.into()),
        ..scalar("disk", amount)
    };
    Resource::from_v1(&space).expect("a disk")
}

/// A disk of another kind. What is below its root is the provider's.
fn of_kind(disk: &v1::Resource, kind: source::Type, id: Option<String>) -> v1::Resource {
    let mut made = disk.clone();
    if let Some(source) = made.disk.as_mut().and_then(|disk| disk.source.as_mut()) {
        let mount = id.as_ref().filter(|_| kind == source::Type::Mount);
        source.mount = mount.map(|id| source::Mount { root: Some(format!("/provided/{id}")) });
        (source.r#type, source.id) = (kind as i32, id);
    }
    made
}

/// An answer of the agent that listens on the machine now.
async fn ask(
    machine: &Mutex<Machine>,
    path: &str,
    stream_id: Option<&str>,
    body: Bytes,
) -> Option<(api_http::Response, event_log::host::Host)> {
    let (host, running) = machine.lock().listening()?;
    let mut headers = vec![("content-type", PROTOBUF.to_owned()), ("accept", PROTOBUF.to_owned())];
    headers.extend(stream_id.map(|id| ("mesos-stream-id", id.to_owned())));
    let request = request(path, &headers, api_http::Body::full(body));
    let answer = host.spawn(async move { running.answer(request).await });
    Some((timeout(PATIENCE, answer).await.ok()?.ok()?, host))
}

/// Status and text of a short answer.
async fn post(machine: &Mutex<Machine>, path: &str, stream_id: Option<&str>, body: Bytes) -> Option<(u16, String)> {
    let (response, _) = ask(machine, path, stream_id, body).await?;
    let status = response.status().as_u16();
    let body = timeout(PATIENCE, response.into_body().collect()).await.ok()?.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}
