//! Providers of resources: `POST /api/v1/resource_provider`, and what is said to them on their streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_core::{Blob, Command, Said, State, Stated};
use api::limits::{AGENT_OPERATIONS_MAX, NAME_BYTES_MAX, OPERATION_BYTES_MAX, STATUS_BYTES_MAX};
use api::media::{Media, accept, request_media};
use api::resources::Resource;
use api::v1::resource_provider::{Call, Event, call, event};
use api::v1::{self, ResourceProviderId, ResourceProviderInfo, TaskInfo};
use api_http::{HeaderMap, Received, Response, StatusCode, Visitor, empty, header, text};
use event_log::{Bug, host, planted};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{Notify, oneshot};

use crate::agent::Agent;
use crate::config::PROVIDERS;
use crate::executors::{bad, rejected};
use crate::records::{Records, records};

const STREAM_ID: &str = "Mesos-Stream-Id";

/// A provider and the number of a stream of it.
type Key = (String, u64);

/// Streams of providers that are open: which of them counts is in State.
#[derive(Default)]
pub(crate) struct Providers {
    open: Mutex<BTreeMap<Key, Stream>>,
    /// One subscribed, or said what it has.
    changed: Notify,
    subscriptions: AtomicU64,
    disconnections: AtomicU64,
}

/// Whoever drops it hangs up.
struct Stream {
    /// As its provider names it in every call.
    id: String,
    media: Media,
    sender: Records,
    /// What is being published, by the name that it was asked under.
    publishing: BTreeMap<Vec<u8>, oneshot::Sender<bool>>,
    /// Its other end waits for it, and holds the stream open meanwhile.
    _end: oneshot::Sender<()>,
}

/// Answers one call.
pub(crate) async fn answer(
    agent: &Arc<Agent>,
    headers: &HeaderMap,
    body: &mut Received,
    visitor: &Visitor,
) -> Response {
    // An executor is none, whatever its token says that it is.
    if visitor.approver.claims_container("").is_some() {
        return text(StatusCode::FORBIDDEN, "Resource providers do not subscribe with the token of an executor");
    }
    if !agent.config.capabilities.iter().any(|name| name == PROVIDERS) {
        let sentence =
            "Resource providers are not enabled on this agent: --agent_features leaves RESOURCE_PROVIDER away";
        return text(StatusCode::NOT_IMPLEMENTED, sentence);
    }
    if agent.state.read().registration.agent_id.is_none() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "Agent has not registered yet");
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let media = match request_media(header(header::CONTENT_TYPE.as_str())) {
        Ok(media) => media,
        Err(rejection) => return rejected(&rejection),
    };
    let call: Call = match body.decode(media).await {
        Ok(call) => call,
        Err(rejection) => return rejected(&rejection),
    };
    if let Err(sentence) = validate(&call) {
        return bad(&format!("Failed to validate resource_provider::Call: {sentence}"));
    }
    let stream_id = header(STREAM_ID);
    if call.r#type() == call::Type::Subscribe {
        if stream_id.is_some() {
            return bad("Subscribe calls should not include the 'Mesos-Stream-Id' header");
        }
        return match accept(header(header::ACCEPT.as_str())) {
            Ok(media) => subscribe(agent, media, call.subscribe.unwrap_or_default().resource_provider_info).await,
            Err(rejection) => rejected(&rejection),
        };
    }
    let provider_id = call.resource_provider_id.clone().unwrap_or_default().value;
    let stream = match stream_of(agent, &provider_id, &call, stream_id) {
        Ok(stream) => stream,
        Err(sentence) => return bad(&sentence),
    };
    let command = match call.r#type() {
        call::Type::UpdateState => state(provider_id, stream, call.update_state.unwrap_or_default()),
        call::Type::UpdateOperationStatus => {
            let update = call.update_operation_status.unwrap_or_default();
            return report(agent, provider_id, stream, update).await;
        }
        call::Type::UpdatePublishResourcesStatus => {
            let update = call.update_publish_resources_status.unwrap_or_default();
            agent.providers.published(&(provider_id, stream), &update);
            return empty(StatusCode::ACCEPTED);
        }
        call::Type::Subscribe | call::Type::Unknown => {
            return text(StatusCode::NOT_IMPLEMENTED, "501 Not Implemented.");
        }
    };
    match command {
        Ok(command) => decided(agent, command).await.err().unwrap_or_else(|| empty(StatusCode::ACCEPTED)),
        Err(sentence) => bad(&sentence),
    }
}

/// Wants something. The error is the answer.
async fn decided(agent: &Agent, command: Command) -> Result<(), Response> {
    match agent.ask(command).await {
        Some(Ok(_)) => Ok(()),
        Some(Err(refusal @ agent_core::Refusal::TooManyWaiting { .. })) => {
            Err(text(StatusCode::SERVICE_UNAVAILABLE, &refusal.to_string()))
        }
        Some(Err(refusal)) => Err(bad(&refusal.to_string())),
        None => Err(text(StatusCode::SERVICE_UNAVAILABLE, "Agent is stopping")),
    }
}

fn validate(call: &Call) -> Result<(), String> {
    let absent = |field: &str| Err(format!("Expecting '{field}' to be present"));
    let Some(_) = call.r#type else { return absent("type") };
    let kind = call.r#type();
    let is_known = matches!(kind, call::Type::Subscribe | call::Type::Unknown) || call.resource_provider_id.is_some();
    if !is_known {
        return absent("resource_provider_id");
    }
    match kind {
        call::Type::Subscribe => match &call.subscribe {
            Some(subscribe) => validate_info(&subscribe.resource_provider_info),
            None => absent("subscribe"),
        },
        call::Type::UpdateOperationStatus if call.update_operation_status.is_none() => {
            absent("update_operation_status")
        }
        call::Type::UpdateState if call.update_state.is_none() => absent("update_state"),
        call::Type::UpdatePublishResourcesStatus if call.update_publish_resources_status.is_none() => {
            absent("update_publish_resources_status")
        }
        _ => Ok(()),
    }
}

fn validate_info(info: &ResourceProviderInfo) -> Result<(), String> {
    for (field, value) in [("type", &info.r#type), ("name", &info.name)] {
        if value.is_empty() || value.len() > NAME_BYTES_MAX {
            let bytes = value.len();
            return Err(format!("The {field} of a resource provider has 1 to {NAME_BYTES_MAX} bytes, and not {bytes}"));
        }
    }
    Ok(())
}

/// The number of the stream that a call belongs to. The error is a sentence.
fn stream_of(agent: &Agent, provider_id: &str, call: &Call, stream_id: Option<&str>) -> Result<u64, String> {
    let stream = agent.state.read().providers.get(provider_id).and_then(|provider| provider.stream);
    let open = agent.providers.open.lock();
    let found = stream.and_then(|stream| Some((stream, open.get(&(provider_id.to_owned(), stream))?)));
    let (stream, open) = found.ok_or("Resource provider is not subscribed")?;
    let is_own = |id: &Option<ResourceProviderId>| id.as_ref().is_some_and(|id| id.value == provider_id);
    let update = call.update_operation_status.as_ref();
    if update.is_some_and(|update| !is_own(&update.status.resource_provider_id)) {
        return Err("Inconsistent call: Inconsistent resource provider ID in 'update_operation_status'".to_owned());
    }
    let mut resources = call.update_state.iter().flat_map(|update| &update.resources);
    if resources.any(|resource| !is_own(&resource.provider_id)) {
        return Err("Inconsistent call: Inconsistent resource provider ID in 'update_state'".to_owned());
    }
    match stream_id {
        None => Err("All non-subscribe calls should include to 'Mesos-Stream-Id' header".to_owned()),
        Some(id) if id != open.id => Err(format!(
            "The stream ID {} included in this request didn't match the stream ID currently associated with resource provider ID {provider_id}",
            api::limits::quoted(id)
        )),
        Some(_) => Ok(stream),
    }
}

/// What a provider says that it has. The error is a sentence.
fn state(provider_id: String, stream: u64, update: call::UpdateState) -> Result<Command, String> {
    let version = update.resource_version_uuid.value.to_vec();
    if version.len() != 16 {
        return Err(format!("Expecting 'resource_version_uuid' to have 16 bytes, but it has {}", version.len()));
    }
    for message in &update.resources {
        let resource = Resource::from_v1(message).map_err(|error| error.to_string())?;
        if resource.allocation_role.is_some() {
            return Err(format!("The resource '{resource}' is allocated, which is the masters' to say"));
        }
        if resource.revocable {
            return Err(format!("The resource '{resource}' is revocable, which no resource provider's is"));
        }
    }
    if update.operations.len() > AGENT_OPERATIONS_MAX {
        let count = update.operations.len();
        return Err(format!("'operations' has {count} entries, more than the {AGENT_OPERATIONS_MAX} that are allowed"));
    }
    let known = update.operations.into_iter();
    let known = known.map(|one| (one.uuid.value.to_vec(), Some(one.latest_status)));
    let resources = update.resources.iter().map(Blob::of).collect();
    let stated = Stated { version, resources };
    Ok(Command::StateProvider { provider_id, stream, stated, operations: known.collect() })
}

/// Opens the stream of a provider.
async fn subscribe(agent: &Arc<Agent>, media: Media, info: ResourceProviderInfo) -> Response {
    let provider_id = info.id.as_ref().map_or_else(random_id, |id| id.value.clone());
    let number = agent.streams_opened.fetch_add(1, Ordering::Relaxed) + 1;
    let (sender, body) = records();
    let subscribed = event::Subscribed { provider_id: ResourceProviderId { value: provider_id.clone() } };
    sender.send(media.encode_record(&Event {
        r#type: Some(event::Type::Subscribed as i32),
        subscribed: Some(subscribed),
        ..Event::default()
    }));
    let (end, ended) = oneshot::channel();
    let (id, key) = (random_id(), (provider_id.clone(), number));
    let stream = Stream { id: id.clone(), media, sender: sender.clone(), publishing: BTreeMap::new(), _end: end };
    // It counts from the moment in which the subscription is decided; what is said then finds it here.
    agent.providers.open.lock().insert(key.clone(), stream);
    let command = Command::SubscribeProvider { provider_id, info: Box::new(info), stream: number };
    if let Err(refused) = decided(agent, command).await {
        agent.providers.open.lock().remove(&key);
        return refused;
    }
    agent.providers.subscriptions.fetch_add(1, Ordering::Relaxed);
    host::spawn(watch(agent.clone(), key, sender, ended));
    let mut response = api_http::streaming(media.content_type(), body);
    let id = api_http::HeaderValue::try_from(id).expect("a UUID is good for a header");
    response.headers_mut().insert(STREAM_ID, id);
    response
}

fn random_id() -> String {
    agent_core::uuid_text(host::random().to_le_bytes())
}

/// Holds a stream open until one of its ends is let go, and says so.
async fn watch(agent: Arc<Agent>, key: Key, sender: Records, ended: oneshot::Receiver<()>) {
    tokio::select! {
        _ = ended => {}
        () = sender.closed() => {}
    }
    agent.providers.open.lock().remove(&key);
    agent.providers.disconnections.fetch_add(1, Ordering::Relaxed);
    let (provider_id, stream) = key;
    agent.submit(Command::LoseProvider { provider_id, stream });
}

/// What became of an operation. What is over already, or nobody here knows of, is acknowledged: nobody waits for it.
async fn report(agent: &Agent, provider_id: String, stream: u64, update: call::UpdateOperationStatus) -> Response {
    let (operation, status) = (update.operation_uuid.value.to_vec(), update.status);
    let bytes = status.encoded_len() - status.message().len();
    if bytes > STATUS_BYTES_MAX {
        return bad(&format!("The status has {bytes} bytes beside its message, more than {STATUS_BYTES_MAX}"));
    }
    let converted: usize = status.converted_resources.iter().map(prost::Message::encoded_len).sum();
    if converted > OPERATION_BYTES_MAX {
        return bad(&format!("'converted_resources' has {converted} bytes, more than {OPERATION_BYTES_MAX}"));
    }
    let uuid = status.uuid.as_ref().map(|uuid| uuid.value.to_vec());
    let command = Command::ReportProviderOperation {
        provider_id: provider_id.clone(),
        stream,
        operation: operation.clone(),
        status: Box::new(status),
    };
    if let Err(refused) = decided(agent, command).await {
        return refused;
    }
    if let Some(uuid) = uuid {
        let is_waited_for = agent.state.read().model.find(&operation).is_some_and(|(_, one)| {
            one.status.as_ref().is_some_and(|status| {
                let status: v1::OperationStatus = status.get();
                status.uuid.is_some_and(|own| own.value[..] == uuid[..])
            })
        });
        if !is_waited_for || planted(Bug::AcknowledgedUncommitted) {
            agent.providers.say(agent, &provider_id, stream, &Said::Acknowledge { operation, status: uuid });
        }
    }
    empty(StatusCode::ACCEPTED)
}

/// What is said, as an event.
fn said(state: &State, said: &Said) -> Option<Event> {
    let uuid = |bytes: &[u8]| v1::Uuid { value: bytes.to_vec().into() };
    let event = match said {
        Said::Apply { operation } => {
            let (_, one) = state.model.find(operation).filter(|(_, one)| one.status.is_none())?;
            let apply = event::ApplyOperation {
                framework_id: one.framework_id.clone().map(|value| v1::FrameworkId { value }),
                info: one.info.get(),
                operation_uuid: uuid(operation),
                resource_version_uuid: uuid(&one.provided.as_ref()?.version),
            };
            Event { r#type: Some(event::Type::ApplyOperation as i32), apply_operation: Some(apply), ..Event::default() }
        }
        Said::Acknowledge { operation, status } => {
            let acknowledged =
                event::AcknowledgeOperationStatus { status_uuid: uuid(status), operation_uuid: uuid(operation) };
            Event {
                r#type: Some(event::Type::AcknowledgeOperationStatus as i32),
                acknowledge_operation_status: Some(acknowledged),
                ..Event::default()
            }
        }
        Said::Teardown => Event { r#type: Some(event::Type::Teardown as i32), ..Event::default() },
    };
    Some(event)
}

impl Providers {
    /// Says something on this stream and no other.
    pub(crate) fn say(&self, agent: &Agent, provider_id: &str, stream: u64, what: &Said) {
        let event = said(&agent.state.read(), what);
        if let Some(event) = event {
            self.send(&(provider_id.to_owned(), stream), &event, |_| {});
        }
    }

    fn send(&self, key: &Key, event: &Event, then: impl FnOnce(&mut Stream)) -> bool {
        let mut streams = self.open.lock();
        let Some(open) = streams.get_mut(key) else { return false };
        let sent = open.sender.send(open.media.encode_record(event));
        if sent {
            then(open);
        } else {
            // It is gone, or does not read: it has to subscribe again, and say what it has and knows.
            streams.remove(key);
        }
        sent
    }

    /// Ends streams of a provider, up to a number if there is one.
    pub(crate) fn let_go(&self, provider_id: &str, below: Option<u64>) {
        let goes = |key: &Key| key.0 == provider_id && below.is_none_or(|below| key.1 < below);
        self.open.lock().retain(|key, _| !goes(key));
        self.changed();
    }

    /// A provider said what it has.
    pub(crate) fn changed(&self) {
        self.changed.notify_waiters();
    }

    fn published(&self, key: &Key, update: &call::UpdatePublishResourcesStatus) {
        let mut streams = self.open.lock();
        let waiting = streams.get_mut(key).and_then(|open| open.publishing.remove(&update.uuid.value[..]));
        match waiting {
            Some(waiting) => {
                let is_ok = update.status() == call::update_publish_resources_status::Status::Ok;
                let _ = waiting.send(is_ok);
            }
            None => tracing::warn!(provider_id = key.0, "a resource provider published what nobody waits for"),
        }
    }

    /// Subscribed now, subscriptions and disconnections since the start.
    pub(crate) fn numbers(&self) -> [(&'static str, f64); 3] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        [
            ("events/disconnect", count(&self.disconnections)),
            ("events/subscribe", count(&self.subscriptions)),
            ("subscribed", self.open.lock().len() as f64),
        ]
    }
}

/// What of providers the executors here use, by provider: all of a container's, and all of the others'.
fn used(state: &State, container_id: &str) -> BTreeMap<String, Vec<v1::Resource>> {
    let of = |executor: &agent_core::Executor| -> Vec<v1::Resource> {
        let tasks = executor.live_tasks().flat_map(|(_, task)| task.info.get::<TaskInfo>().resources);
        let own = executor.info.get::<v1::ExecutorInfo>().resources;
        own.into_iter().chain(tasks).filter(|resource| resource.provider_id.is_some()).collect()
    };
    let provider = |resource: &v1::Resource| resource.provider_id.clone().unwrap_or_default().value;
    let Some((_, executor)) = state.executor_of(container_id) else { return BTreeMap::new() };
    let mut used: BTreeMap<String, Vec<v1::Resource>> = BTreeMap::new();
    for resource in of(executor) {
        used.entry(provider(&resource)).or_default().push(resource);
    }
    if used.is_empty() {
        return used;
    }
    // A provider makes ready all that is said, and may take back what is not: so all is said.
    for (_, other) in state.executors().filter(|(_, other)| other.container_id != container_id) {
        for resource in of(other) {
            if let Some(all) = used.get_mut(&provider(&resource)) {
                all.push(resource);
            }
        }
    }
    used
}

/// Whether any of these resources are a provider's.
pub(crate) fn are_used(state: &State, container_id: &str) -> bool {
    !used(state, container_id).is_empty()
}

/// Has providers make ready what a container and the tasks in it use. One that is about to come back is waited for.
///
/// # Errors
/// A sentence: it is not ready.
pub(crate) async fn publish(agent: &Agent, container_id: &str) -> Result<(), String> {
    let used = used(&agent.state.read(), container_id);
    let patience = Duration::from_millis(agent.config.settings.executor_registration_timeout_ms);
    for (provider_id, resources) in used {
        let shown = api::resources::Resources::from_v1(&resources).map(|all| all.to_string()).unwrap_or_default();
        let failed = |why: String| format!("Failed to publish resources '{shown}' for container {container_id}: {why}");
        match tokio::time::timeout(patience, publish_at(agent, &provider_id, &resources)).await {
            Ok(published) => published.map_err(failed)?,
            Err(_) => {
                let is_subscribed =
                    agent.state.read().providers.get(&provider_id).is_some_and(|one| one.stream.is_some());
                let what = if is_subscribed { "has not published them" } else { "is not subscribed" };
                let within = api::duration::format(patience);
                return Err(failed(format!(
                    "Resource provider {provider_id} {what} within {within} (--executor_registration_timeout)"
                )));
            }
        }
    }
    Ok(())
}

async fn publish_at(agent: &Agent, provider_id: &str, resources: &[v1::Resource]) -> Result<(), String> {
    loop {
        let changed = agent.providers.changed.notified();
        let stream = {
            let state = agent.state.read();
            let Some(provider) = state.providers.get(provider_id) else {
                return Err(format!("Resource provider {provider_id} is not known to this agent"));
            };
            provider.stream.filter(|_| provider.stated.is_some())
        };
        let Some(stream) = stream else {
            changed.await;
            continue;
        };
        let uuid = host::random().to_le_bytes().to_vec();
        let event = Event {
            r#type: Some(event::Type::PublishResources as i32),
            publish_resources: Some(event::PublishResources {
                uuid: v1::Uuid { value: uuid.clone().into() },
                resources: resources.to_vec(),
            }),
            ..Event::default()
        };
        let (reply, published) = oneshot::channel();
        let key = (provider_id.to_owned(), stream);
        let sent = agent.providers.send(&key, &event, |open| drop(open.publishing.insert(uuid, reply)));
        if !sent {
            // Its end is about to be written down.
            changed.await;
            continue;
        }
        if planted(Bug::PublishNotAwaited) {
            return Ok(());
        }
        return match published.await {
            Ok(true) => Ok(()),
            Ok(false) => Err("Received FAILED status".to_owned()),
            Err(_) => {
                Err(format!("Failed to publish resources from resource provider {provider_id}: Connection closed"))
            }
        };
    }
}

/// MARK_RESOURCE_PROVIDER_GONE
pub(crate) async fn mark_gone(agent: &Agent, provider_id: &ResourceProviderId) -> Response {
    match agent.ask(Command::ForgetProvider { provider_id: provider_id.value.clone() }).await {
        Some(Ok(_)) => empty(StatusCode::OK),
        Some(Err(refusal)) => text(StatusCode::INTERNAL_SERVER_ERROR, &refusal.to_string()),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "Agent is stopping"),
    }
}

/// Those that are subscribed, with what they have as they said last.
pub(crate) fn show(state: &State) -> Vec<v1::agent::response::get_resource_providers::ResourceProvider> {
    let subscribed = state.providers.known.values().filter(|provider| provider.stream.is_some());
    subscribed
        .map(|provider| v1::agent::response::get_resource_providers::ResourceProvider {
            resource_provider_info: provider.info.get(),
            total_resources: provider.resources(),
        })
        .collect()
}
