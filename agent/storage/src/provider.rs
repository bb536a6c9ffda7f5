//! One provider: it subscribes, says what there is, and makes operations so.
//!
//! Operations are begun in the order in which they come. What plugins take their time for goes on beside the others: nothing depends on
//! it before its end. A look at what there is waits for those, and those for it: the plugin would tell of what is half done.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_csi::Found;
use api::v1::offer::Operation as Info;
use api::v1::offer::operation::Type;
use api::v1::resource::disk_info::source::Type as SourceType;
use api::v1::resource_provider::call::update_publish_resources_status::Status as PublishStatus;
use api::v1::resource_provider::{Call, Event, call, event};
use api::v1::{self, OperationState, OperationStatus, ResourceProviderId, ResourceProviderInfo};
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conversions::{Converted, converted, free, mounted, replaced, unmade};
use crate::host::{Events, Host, Refused};
use crate::kept::{Begun, Kept, Volume, random};
use crate::numbers::Numbers;
use crate::plugin::Plugin;
use crate::pools::{Seen, bytes, context, labels, reconciled, source};
use crate::profiles::{Matrix, Profile};

/// Pauses before something is tried again, the first and the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether the agent has registered, at most.
const UNREGISTERED: Duration = Duration::from_millis(250);
/// Between two looks at what there is.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// It.
pub(crate) struct Provider {
    pub(crate) host: Arc<dyn Host>,
    /// As it is configured.
    pub(crate) info: ResourceProviderInfo,
    pub(crate) kept: Kept,
    pub(crate) folder: PathBuf,
    pub(crate) plugin: Plugin,
    pub(crate) profiles: watch::Receiver<Option<Matrix>>,
    pub(crate) numbers: Numbers,
    pub(crate) doing: Doing,
}

/// What it is at. Of it nothing is written down that is not in what is kept.
#[derive(Default)]
pub(crate) struct Doing {
    stream: String,
    /// What came and is not begun, in its order.
    line: VecDeque<Turn>,
    work: JoinSet<Done>,
    /// Volumes that are made or deleted.
    disks: usize,
    /// Something is deleted; what comes behind waits.
    empties: bool,
    looks: bool,
    /// It looked once, and says what there is.
    has_looked: bool,
    /// Ends of operations that the agent has not taken yet.
    unsaid: BTreeSet<Vec<u8>>,
    /// What there is has to be said.
    is_unstated: bool,
    retry: Option<Instant>,
}

enum Turn {
    Apply(Box<event::ApplyOperation>),
    Publish(event::PublishResources),
}

enum Done {
    Made { operation: Vec<u8>, source: Box<v1::Resource>, made: Result<(String, Volume), String> },
    Deleted { operation: Vec<u8>, source: Box<v1::Resource>, deleted: Result<bool, String> },
    Emptied { operation: Vec<u8>, emptied: Result<(), String> },
    Published { uuid: v1::Uuid, published: Result<(), String> },
    Seen(Result<Seen, String>),
}

/// Why a stream is read no more.
enum End {
    /// It ended.
    Lost,
    /// The provider is to be no more.
    Teardown,
}

fn is_slow(info: &Info) -> bool {
    matches!(info.r#type(), Type::CreateDisk | Type::DestroyDisk)
}

impl Provider {
    /// For as long as `stop` does not say otherwise. When it returns nothing of it goes on.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = self.live() => stopped(&mut stop.clone()).await,
        }
        // Who comes after this one must not find it deleting.
        while self.doing.empties
            && let Some(done) = self.doing.work.join_next().await
        {
            self.doing.empties = !matches!(done, Ok(Done::Emptied { .. }));
        }
    }

    async fn live(&mut self) {
        self.plugin.ready(&self.info).await;
        let mut pause = RETRY_MIN;
        loop {
            match self.subscribe().await {
                Ok(events) => match self.listen(events).await {
                    End::Teardown => {
                        tracing::info!(name = self.info.name, "a resource provider is marked gone");
                        return self.forget();
                    }
                    End::Lost => pause = RETRY_MIN,
                },
                Err(refused) if refused.is_unknown => {
                    tracing::warn!(name = self.info.name, "a resource provider was marked gone: it begins anew");
                    self.forget();
                    self.kept = Kept { version: random(), containers: self.kept.containers.clone(), ..Kept::default() };
                    self.doing = Doing::default();
                }
                // An agent that has not registered yet, mostly.
                Err(refused) if refused.status == 503 => pause = pause.min(UNREGISTERED),
                Err(refused) => {
                    tracing::error!(name = self.info.name, why = refused.why, "a resource provider cannot subscribe");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    /// As its agent knows it.
    fn known(&self) -> ResourceProviderInfo {
        let id = self.kept.id.clone().map(|value| ResourceProviderId { value });
        ResourceProviderInfo { id, ..self.info.clone() }
    }

    async fn subscribe(&mut self) -> Result<Events, Refused> {
        let (stream, events) = self.host.subscribe(self.known()).await?;
        self.doing.stream = stream;
        // What was not begun the agent knows to be dropped when it is not listed.
        self.doing.line.clear();
        Ok(events)
    }

    fn forget(&self) {
        if let Err(error) = Kept::remove(&self.folder) {
            tracing::error!(folder = %self.folder.display(), %error, "cannot forget a resource provider");
        }
    }

    /// Nothing is said before it is written down.
    async fn save(&self) {
        self.numbers.pend(&self.kept);
        let mut pause = RETRY_MIN;
        // A write is never left half-way: whoever stops this does so between two.
        while let Err(error) = tokio::task::block_in_place(|| self.kept.save(&self.folder)) {
            tracing::error!(folder = %self.folder.display(), %error, "a resource provider cannot write down what it does");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    /// Hears and does, until the stream ends.
    async fn listen(&mut self, mut events: Events) -> End {
        let every = self.info.storage.as_ref().and_then(|storage| storage.reconciliation_interval_seconds);
        let every = every.map_or(LOOK_EVERY, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        let mut next_look = Instant::now();
        let mut watches = true;
        loop {
            let looks = self.kept.id.is_some() && self.doing.disks == 0 && !self.doing.looks && !self.doing.empties;
            tokio::select! {
                event = events.next() => match event {
                    None => return End::Lost,
                    Some(event) if event.r#type() == event::Type::Teardown => return End::Teardown,
                    Some(event) => self.hear(event).await,
                },
                Some(done) = self.doing.work.join_next(), if !self.doing.work.is_empty() => {
                    let has_looked = self.doing.has_looked;
                    match done {
                        Ok(done) => self.done(done).await,
                        Err(error) => tracing::error!(%error, "a resource provider's work was lost"),
                    }
                    if self.doing.has_looked && !has_looked {
                        next_look = after(every);
                    }
                }
                () = tokio::time::sleep_until(next_look), if looks => {
                    self.look();
                    next_look = if self.doing.has_looked { after(every) } else { Instant::now() + RETRY_MAX };
                }
                changed = self.profiles.changed(), if watches => {
                    watches = changed.is_ok();
                    if self.doing.has_looked {
                        next_look = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(self.doing.retry.unwrap_or_else(Instant::now)), if self.doing.retry.is_some() => {
                    self.say().await;
                }
            }
        }
    }

    async fn hear(&mut self, event: Event) {
        match event.r#type() {
            event::Type::Subscribed => {
                let id = event.subscribed.unwrap_or_default().provider_id.value;
                tracing::info!(name = self.info.name, id, "a resource provider is subscribed");
                if self.kept.id.as_ref() != Some(&id) {
                    self.kept.id = Some(id);
                    self.save().await;
                }
                if self.doing.has_looked {
                    self.doing.is_unstated = true;
                } else if self.doing.work.is_empty() {
                    self.go_on();
                }
                let over = self.kept.operations.iter().filter(|one| one.is_over());
                self.doing.unsaid.extend(over.map(|one| one.name().to_vec()));
                self.say().await;
            }
            event::Type::ApplyOperation => {
                self.doing.line.extend(event.apply_operation.map(|apply| Turn::Apply(Box::new(apply))));
                self.advance().await;
            }
            event::Type::PublishResources => {
                self.doing.line.extend(event.publish_resources.map(Turn::Publish));
                self.advance().await;
            }
            event::Type::AcknowledgeOperationStatus => {
                let acknowledged = event.acknowledge_operation_status.unwrap_or_default();
                let is_it = |one: &Begun| {
                    let status = one.operation.latest_status.uuid.as_ref();
                    one.operation.uuid == acknowledged.operation_uuid && status == Some(&acknowledged.status_uuid)
                };
                let before = self.kept.operations.len();
                self.kept.operations.retain(|one| !is_it(one));
                if self.kept.operations.len() < before {
                    self.doing.unsaid.remove(&acknowledged.operation_uuid.value[..]);
                    self.save().await;
                }
            }
            // It is not sent by this agent; the others were heard before.
            _ => {}
        }
    }

    /// Begins again what an earlier one had begun.
    fn go_on(&mut self) {
        let open: Vec<Begun> = self.kept.operations.iter().filter(|one| !one.is_over()).cloned().collect();
        open.into_iter().for_each(|one| self.work(&one));
    }

    /// Takes what is next, as far as it can be begun.
    async fn advance(&mut self) {
        while !self.doing.empties {
            let waits = |turn: &Turn| matches!(turn, Turn::Apply(apply) if self.doing.looks && is_slow(&apply.info));
            if self.doing.line.front().is_none_or(waits) {
                return;
            }
            match self.doing.line.pop_front() {
                Some(Turn::Apply(apply)) => self.begin(*apply).await,
                Some(Turn::Publish(publish)) => self.publish(publish),
                None => return,
            }
        }
    }

    async fn begin(&mut self, apply: event::ApplyOperation) {
        let name = apply.operation_uuid.value.to_vec();
        if let Some(known) = self.kept.operations.iter().find(|one| one.name() == name) {
            if known.is_over() {
                self.doing.unsaid.insert(name);
                self.say().await;
            }
            return;
        }
        let kind = apply.info.r#type();
        tracing::info!(name = self.info.name, kind = kind.as_str_name(), "an operation on disks");
        let profile = apply.info.create_disk.as_ref().and_then(|body| {
            let profile = body.target_profile.clone().or_else(|| source(&body.source).profile);
            self.kept.profiles.get(&profile?).cloned()
        });
        let operation = v1::Operation {
            framework_id: apply.framework_id,
            latest_status: OperationStatus {
                operation_id: apply.info.id.clone(),
                state: OperationState::OperationPending as i32,
                resource_provider_id: self.known().id,
                ..OperationStatus::default()
            },
            info: apply.info,
            uuid: apply.operation_uuid,
            ..v1::Operation::default()
        };
        let is_stale = apply.resource_version_uuid.value[..] != self.kept.version[..];
        let begun = Begun { operation, profile };
        self.kept.operations.push(begun.clone());
        if is_stale {
            let why = "It was decided on what this resource provider does not have any more".to_owned();
            return self.end(&name, Err((OperationState::OperationDropped, why))).await;
        }
        if is_slow(&begun.operation.info) || kind == Type::Destroy {
            self.save().await;
            return self.work(&begun);
        }
        let made = converted(&self.kept.resources, &begun.operation.info);
        self.end_at_once(&name, made).await;
    }

    /// Has it done what is written down.
    fn work(&mut self, begun: &Begun) {
        let (name, info, plugin) = (begun.name().to_vec(), &begun.operation.info, self.plugin.clone());
        match info.r#type() {
            Type::CreateDisk => {
                let body = info.create_disk.clone().unwrap_or_default();
                let known = self.kept.volumes.get(source(&body.source).id()).cloned();
                let profile = begun.profile.clone();
                self.doing.disks += 1;
                self.doing.work.spawn(async move {
                    let source = Box::new(body.source.clone());
                    let made = create(plugin, &name, *body, profile, known).await;
                    Done::Made { operation: name, source, made }
                });
            }
            Type::DestroyDisk => {
                let disk = info.destroy_disk.clone().unwrap_or_default().source;
                let id = source(&disk).id().to_owned();
                let volume = self.kept.volumes.get(&id).cloned();
                self.doing.disks += 1;
                self.doing.work.spawn(async move {
                    let deleted = plugin.delete(id, volume).await;
                    Done::Deleted { operation: name, source: Box::new(disk), deleted }
                });
            }
            _ => {
                let disks = info.destroy.iter().flat_map(|body| &body.volumes).map(|one| source(one).id().to_owned());
                let disks: Vec<_> = disks.map(|id| (self.kept.volumes.get(&id).cloned(), id)).collect();
                self.doing.empties = true;
                self.doing.work.spawn(async move {
                    let mut emptied = Ok(());
                    for (volume, id) in &disks {
                        emptied = match volume {
                            Some(volume) => emptied.and(plugin.empty(id, volume).await),
                            None => Err(format!("there is no disk '{id}'")),
                        };
                    }
                    Done::Emptied { operation: name, emptied }
                });
            }
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Made { operation, source, made } => {
                self.doing.disks -= 1;
                let made = made.and_then(|(id, volume)| {
                    let profile = self.profile_of(&operation);
                    let disk = mounted(&source, &profile, &id, self.plugin.root(&id), labels(&volume.context));
                    let made = replaced(&self.kept.resources, std::slice::from_ref(&*source), &[disk])?;
                    self.kept.volumes.insert(id, volume);
                    Ok(made)
                });
                self.end(&operation, made.map_err(|why| (OperationState::OperationFailed, why))).await;
            }
            Done::Deleted { operation, source: disk, deleted } => {
                self.doing.disks -= 1;
                let profile = source(&disk).profile.filter(|name| self.kept.profiles.contains_key(name));
                let deleted = deleted.and_then(|is_deleted| {
                    let left = unmade(&disk, is_deleted);
                    // Of a profile that is no more there is no room: what the others have is to be seen.
                    let is_lost = is_deleted && profile.is_none();
                    let left: &[_] = if is_lost { &[] } else { std::slice::from_ref(&left) };
                    let made = replaced(&self.kept.resources, std::slice::from_ref(&*disk), left)?;
                    self.kept.volumes.remove(source(&disk).id());
                    Ok((made, is_lost))
                });
                let is_lost = deleted.as_ref().is_ok_and(|(_, is_lost)| *is_lost);
                let made = deleted.map(|(made, _)| made);
                self.end(&operation, made.map_err(|why| (OperationState::OperationFailed, why))).await;
                if is_lost && self.doing.disks == 0 && self.doing.has_looked && !self.doing.looks {
                    self.look();
                }
            }
            Done::Emptied { operation, emptied } => {
                self.doing.empties = false;
                let info = self.kept.operations.iter().find(|one| one.name() == operation);
                let info = info.map(|one| one.operation.info.clone()).unwrap_or_default();
                let made = emptied.and_then(|()| converted(&self.kept.resources, &info));
                self.end_at_once(&operation, made).await;
            }
            Done::Published { uuid, published } => {
                if let Err(why) = &published {
                    tracing::error!(name = self.info.name, why, "a resource provider cannot publish what a task uses");
                }
                let status = if published.is_ok() { PublishStatus::Ok } else { PublishStatus::Failed };
                let update = call::UpdatePublishResourcesStatus { uuid, status: status as i32 };
                let call = Call { update_publish_resources_status: Some(update), ..self.call() };
                let call = Call { r#type: Some(call::Type::UpdatePublishResourcesStatus as i32), ..call };
                if let Err(refused) = self.host.call(self.doing.stream.clone(), call).await {
                    tracing::warn!(name = self.info.name, why = refused.why, "nobody heard what was published");
                }
            }
            Done::Seen(seen) => {
                self.doing.looks = false;
                match seen {
                    Ok(seen) => self.saw(&seen).await,
                    Err(why) => {
                        tracing::warn!(name = self.info.name, why, "a CSI plugin does not say what there is");
                    }
                }
            }
        }
        self.advance().await;
    }

    /// The profile that a disk was to be made by.
    fn profile_of(&self, operation: &[u8]) -> String {
        let begun = self.kept.operations.iter().find(|one| one.name() == operation);
        let body = begun.and_then(|one| one.operation.info.create_disk.clone()).unwrap_or_default();
        body.target_profile.clone().or_else(|| source(&body.source).profile).unwrap_or_default()
    }

    /// Asks the plugin what there is.
    fn look(&mut self) {
        // Until some were read, those that were known last.
        let profiles = self.profiles.borrow().as_ref().map(|matrix| matrix.of(&self.info));
        self.kept.profiles = profiles.unwrap_or_else(|| self.kept.profiles.clone());
        self.doing.looks = true;
        let (plugin, profiles) = (self.plugin.clone(), self.kept.profiles.clone());
        self.doing.work.spawn(async move { Done::Seen(plugin.see(profiles).await) });
    }

    async fn saw(&mut self, seen: &Seen) {
        let (now, missing) = reconciled(&self.known(), &self.kept.resources, seen);
        missing
            .iter()
            .for_each(|why| tracing::warn!(name = self.info.name, why, "something of a CSI plugin is missing"));
        let is_news = free(&now) != free(&self.kept.resources);
        if is_news {
            (self.kept.resources, self.kept.version) = (now, random());
            self.save().await;
        }
        let is_first = !std::mem::replace(&mut self.doing.has_looked, true);
        self.doing.is_unstated |= is_news || is_first;
        self.say().await;
    }

    /// An operation that was decided to be done is done, or what there is, is not what others think.
    async fn end_at_once(&mut self, name: &[u8], made: Result<Converted, String>) {
        let is_failed = made.is_err();
        if is_failed {
            self.kept.version = random();
        }
        self.doing.is_unstated |= is_failed;
        self.end(name, made.map_err(|why| (OperationState::OperationFailed, why))).await;
    }

    async fn end(&mut self, name: &[u8], made: Result<Converted, (OperationState, String)>) {
        let provider_id = self.known().id;
        let Some(one) = self.kept.operations.iter_mut().find(|one| one.name() == name) else { return };
        let status = OperationStatus {
            uuid: Some(v1::Uuid { value: random().into() }),
            operation_id: one.operation.info.id.clone(),
            resource_provider_id: provider_id,
            ..OperationStatus::default()
        };
        let status = match made {
            Ok(made) => {
                self.kept.resources = made.resources;
                let state = OperationState::OperationFinished as i32;
                OperationStatus { state, converted_resources: made.made, ..status }
            }
            Err((state, why)) => {
                tracing::warn!(name = self.info.name, why, "an operation on disks is not done");
                OperationStatus { state: state as i32, message: Some(why), ..status }
            }
        };
        self.numbers.end(one.operation.info.r#type(), status.state());
        one.operation.latest_status = status.clone();
        one.operation.statuses.push(status);
        self.save().await;
        self.doing.unsaid.insert(name.to_vec());
        self.say().await;
    }

    fn call(&self) -> Call {
        Call { resource_provider_id: self.known().id, ..Call::default() }
    }

    /// Says what is to be said. What the agent does not take is said again.
    async fn say(&mut self) {
        self.doing.retry = None;
        let refused = self.say_all().await;
        if let Err(refused) = refused {
            tracing::warn!(
                name = self.info.name,
                why = refused.why,
                "the agent does not take what a resource provider says"
            );
            self.doing.retry = Some(Instant::now() + RETRY_MAX);
        }
    }

    async fn say_all(&mut self) -> Result<(), Refused> {
        // Before it said what there is an agent takes no end: it is told together with that.
        if !self.doing.has_looked {
            return Ok(());
        }
        if self.doing.is_unstated {
            let update = call::UpdateState {
                operations: self.kept.operations.iter().map(|one| one.operation.clone()).collect(),
                resources: self.kept.resources.clone(),
                resource_version_uuid: v1::Uuid { value: self.kept.version.clone().into() },
            };
            let call = Call { update_state: Some(update), ..self.call() };
            let call = Call { r#type: Some(call::Type::UpdateState as i32), ..call };
            self.host.call(self.doing.stream.clone(), call).await?;
            self.doing.is_unstated = false;
        }
        while let Some(name) = self.doing.unsaid.first().cloned() {
            if let Some(one) = self.kept.operations.iter().find(|one| one.name() == name) {
                let update = call::UpdateOperationStatus {
                    framework_id: one.operation.framework_id.clone(),
                    status: one.operation.latest_status.clone(),
                    latest_status: None,
                    operation_uuid: one.operation.uuid.clone(),
                };
                let call = Call { update_operation_status: Some(update), ..self.call() };
                let call = Call { r#type: Some(call::Type::UpdateOperationStatus as i32), ..call };
                self.host.call(self.doing.stream.clone(), call).await?;
            }
            self.doing.unsaid.remove(&name);
        }
        Ok(())
    }

    /// Makes ready what tasks use.
    fn publish(&mut self, publish: event::PublishResources) {
        let (uuid, plugin) = (publish.uuid.clone(), self.plugin.clone());
        let wanted = self.published(&publish.resources);
        self.doing.work.spawn(async move {
            let mut published = wanted.as_ref().map(drop).map_err(Clone::clone);
            for (id, volume) in wanted.into_iter().flatten() {
                published = published.and(plugin.publish(&id, &volume).await.map(drop));
            }
            Done::Published { uuid, published }
        });
    }

    /// The volumes that these resources are on. The error is a sentence: they cannot be had.
    fn published(&self, resources: &[v1::Resource]) -> Result<Vec<(String, Volume)>, String> {
        let has = free(&self.kept.resources)?;
        let mut volumes = Vec::new();
        for one in resources {
            // What is shared is there once, however many use it.
            let wanted = free(std::slice::from_ref(one))?.once();
            if !has.contains(&wanted) {
                return Err(format!("Cannot publish unknown resource '{wanted}'"));
            }
            let from = source(one);
            if from.r#type() != SourceType::Mount {
                return Err(format!("Cannot publish volume of {} type", from.r#type().as_str_name()));
            }
            let volume = self.kept.volumes.get(from.id()).cloned();
            volumes.push((from.id().to_owned(), volume.ok_or_else(|| format!("there is no disk '{}'", from.id()))?));
        }
        Ok(volumes)
    }
}

/// Waits until somebody says so, or nobody can any more.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// As good as never, if there is to be no other look.
fn after(every: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + if every.is_zero() { NEVER } else { every.min(NEVER) }
}

/// Makes the volume of CREATE_DISK, or takes over the one that is there. The error is a sentence.
async fn create(
    plugin: Plugin,
    name: &[u8],
    body: v1::offer::operation::CreateDisk,
    profile: Option<Profile>,
    known: Option<Volume>,
) -> Result<(String, Volume), String> {
    let from = source(&body.source);
    let wanted = body.target_profile.as_deref().unwrap_or(from.profile());
    let profile = profile.ok_or_else(|| format!("Profile '{wanted}' not found"))?;
    match body.target_type() {
        SourceType::Mount if profile.is_mount() => {}
        SourceType::Mount => return Err(format!("Profile '{wanted}' cannot be used to create a MOUNT disk")),
        other => {
            return Err(format!(
                "A {} disk cannot be made: devices are not given to containers by this agent; ask for MOUNT",
                other.as_str_name()
            ));
        }
    }
    match (&from.id, known) {
        (None, _) => {
            let name = uuid::Uuid::from_slice(name).map_err(|error| error.to_string())?.to_string();
            plugin.create(name, bytes(&body.source), profile).await
        }
        (Some(id), Some(known)) if known.profile == profile => Ok((id.clone(), known)),
        (Some(id), Some(_)) => {
            Err(format!("Cannot apply profile '{wanted}' to volume '{id}': it was made with another one"))
        }
        (Some(id), None) => {
            let found = Found { id: id.clone(), bytes: bytes(&body.source), context: context(&from) };
            plugin.take(found, profile).await
        }
    }
}
