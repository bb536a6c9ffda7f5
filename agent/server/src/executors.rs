//! The API of custom executors: `POST /api/v1/executor`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agent_core::{Command, Delivery, Refusal};
use api::internal::{self, from_agent};
use api::limits::{MESSAGE_DATA_BYTES_MAX, STATUS_BYTES_MAX, STATUS_MESSAGE_BYTES_MAX, cut};
use api::media::{Media, Rejection, accept, request_media};
use api::v1::executor::{Call, Event, call, event};
use api::v1::{self, TaskInfo, task_status};
use api_http::{HeaderMap, Received, Response, StatusCode, Visitor, header, text};
use event_log::{Bug, host, planted};
use prost::Message as _;
use tokio::sync::oneshot;

use crate::agent::Agent;
use crate::masters::agent_info;
use crate::permit;
use crate::records::{Records, records};

/// Rare, because there are executors that end when they see one.
const HEARTBEAT: Duration = Duration::from_secs(30 * 60);

/// Framework and executor.
pub(crate) type Key = (String, String);

/// The stream of one executor. Whoever drops it hangs up.
pub(crate) struct ExecutorStream {
    /// Counted since the agent was started.
    number: u64,
    media: Media,
    sender: Records,
    /// Its other end waits for it, and holds the stream open meanwhile.
    _end: oneshot::Sender<()>,
}

/// What cannot be read, or not be answered as is wanted.
pub(crate) fn rejected(rejection: &Rejection) -> Response {
    text(StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST), &rejection.message)
}

/// What is wrong with a call.
pub(crate) fn bad(sentence: &str) -> Response {
    text(StatusCode::BAD_REQUEST, sentence)
}

/// Answers one call.
pub(crate) async fn answer(
    agent: &Arc<Agent>,
    headers: &HeaderMap,
    body: &mut Received,
    visitor: &Visitor,
) -> Response {
    let header = |name| headers.get(name).and_then(|value: &api_http::HeaderValue| value.to_str().ok());
    let media = match request_media(header(header::CONTENT_TYPE)) {
        Ok(media) => media,
        Err(rejection) => return rejected(&rejection),
    };
    let call: Call = match body.decode(media).await {
        Ok(call) => call,
        Err(rejection) => return rejected(&rejection),
    };
    if let Err(sentence) = validate(&call) {
        return bad(&format!("Failed to validate Executor::Call: {sentence}"));
    }
    let (framework_id, executor_id) = (call.framework_id.value.clone(), call.executor_id.value.clone());
    if call.r#type() == call::Type::Heartbeat {
        return api_http::empty(StatusCode::ACCEPTED);
    }
    {
        let state = agent.state.read();
        let Some(framework) = state.frameworks.get(&framework_id).filter(|framework| !framework.executors.is_empty())
        else {
            return bad(&Refusal::UnknownFramework.to_string());
        };
        let Some(executor) = framework.executors.get(&executor_id).filter(|executor| !executor.is_command) else {
            return bad(&Refusal::UnknownExecutor.to_string());
        };
        let container_id = Some(executor.container_id.as_str());
        if let Err(sentence) = permit::executor(visitor, &framework_id, &executor_id, container_id) {
            return text(StatusCode::FORBIDDEN, &sentence);
        }
        if call.r#type() != call::Type::Subscribe && !executor.subscribed {
            return text(StatusCode::FORBIDDEN, "Executor is not subscribed");
        }
    }
    match call.r#type() {
        call::Type::Subscribe => match accept(header(header::ACCEPT)) {
            Ok(media) => subscribe(agent, media, framework_id, executor_id, call.subscribe.unwrap_or_default()).await,
            Err(rejection) => rejected(&rejection),
        },
        call::Type::Update => {
            let Some(update) = call.update else { return bad("Expecting 'update' to be present") };
            let key = (framework_id, executor_id);
            match self::update(agent, &key, update.status).await {
                Some(Ok(_)) => api_http::empty(StatusCode::ACCEPTED),
                Some(Err(refusal @ Refusal::TooManyWaiting { .. })) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, &refusal.to_string())
                }
                Some(Err(refusal)) => {
                    agent.counters.invalid_updates.fetch_add(1, Ordering::Relaxed);
                    bad(&refusal.to_string())
                }
                None => text(StatusCode::SERVICE_UNAVAILABLE, "Agent is stopping"),
            }
        }
        call::Type::Message => {
            let message = from_agent::Message::ExecutorMessage(internal::ExecutorMessage {
                framework_id: call.framework_id,
                executor_id: call.executor_id,
                data: call.message.map(|message| message.data).unwrap_or_default(),
            });
            // May be lost, and is if no master listens.
            if let Some(master) = agent.to_master.lock().as_ref() {
                let _ = master.try_send(message);
            }
            api_http::empty(StatusCode::ACCEPTED)
        }
        call::Type::Heartbeat | call::Type::Unknown => text(StatusCode::NOT_IMPLEMENTED, "501 Not Implemented."),
    }
}

fn validate(call: &Call) -> Result<(), String> {
    if call.r#type.is_none() {
        return Err("Expecting 'type' to be present".to_owned());
    }
    match call.r#type() {
        call::Type::Subscribe => match &call.subscribe {
            None => Err("Expecting 'subscribe' to be present".to_owned()),
            Some(subscribe) => {
                subscribe.unacknowledged_updates.iter().try_for_each(|update| check_status(call, &update.status))
            }
        },
        call::Type::Message => match &call.message {
            None => Err("Expecting 'message' to be present".to_owned()),
            Some(message) if message.data.len() > MESSAGE_DATA_BYTES_MAX => Err(format!(
                "The data of the message has {} bytes, more than {MESSAGE_DATA_BYTES_MAX}",
                message.data.len()
            )),
            Some(_) => Ok(()),
        },
        call::Type::Update => {
            let Some(update) = &call.update else { return Err("Expecting 'update' to be present".to_owned()) };
            check_status(call, &update.status)
        }
        _ => Ok(()),
    }
}

/// A status is the same whether it is new or was not acknowledged.
fn check_status(call: &Call, status: &v1::TaskStatus) -> Result<(), String> {
    if status.uuid.is_none() {
        return Err("Expecting 'uuid' to be present".to_owned());
    }
    if status.executor_id.as_ref().is_some_and(|id| *id != call.executor_id) {
        return Err("ExecutorID in Call does not match ExecutorID in TaskStatus".to_owned());
    }
    if status.source() != task_status::Source::Executor {
        return Err("Received Call from executor with invalid source: expecting SOURCE_EXECUTOR".to_owned());
    }
    agent_core::check_status(status).map_err(|refusal| refusal.to_string())?;
    check_size(status)
}

/// The message of a status is cut where it enters; the rest must fit.
fn check_size(status: &v1::TaskStatus) -> Result<(), String> {
    let cut_off = status.message().len().saturating_sub(STATUS_MESSAGE_BYTES_MAX);
    let bytes = status.encoded_len() - cut_off;
    if bytes > STATUS_BYTES_MAX {
        let beside = "beside its message";
        return Err(format!("The TaskStatus has {bytes} bytes {beside}, and a status has {STATUS_BYTES_MAX} at most"));
    }
    Ok(())
}

fn acknowledgement(status: &v1::TaskStatus) -> Delivery {
    let uuid = status.uuid.clone().unwrap_or_default().to_vec();
    Delivery::Acknowledge { task_id: status.task_id.value.clone(), uuid }
}

/// Writes an update. One that is known already is acknowledged again, on the stream that counts.
async fn update(agent: &Arc<Agent>, key: &Key, status: v1::TaskStatus) -> Option<crate::agent::Answer> {
    let delivery = acknowledgement(&status);
    if planted(Bug::UpdateAcknowledgedUnsynced) {
        let stream = agent.state.read().executor(&key.0, &key.1).and_then(|executor| executor.stream);
        stream.into_iter().for_each(|stream| deliver(agent, key, stream, &delivery));
    }
    let answer = write(agent, key, status).await?;
    if answer == Ok(0) {
        let stream = agent.state.read().executor(&key.0, &key.1).and_then(|executor| executor.stream);
        stream.into_iter().for_each(|stream| deliver(agent, key, stream, &delivery));
    }
    Some(answer)
}

async fn write(agent: &Arc<Agent>, key: &Key, mut status: v1::TaskStatus) -> Option<crate::agent::Answer> {
    if let Some(message) = &mut status.message {
        message.truncate(cut(message, STATUS_MESSAGE_BYTES_MAX).len());
    }
    let (framework_id, executor_id) = key.clone();
    let answer = agent.ask(Command::UpdateTask { framework_id, executor_id, status: Box::new(status) }).await?;
    if matches!(answer, Err(Refusal::TooManyWaiting { .. })) {
        agent.held_up.lock().insert(key.clone());
    }
    Some(answer)
}

/// Opens the stream of an executor. It counts from the moment in which the subscription is decided: until then nothing is
/// said on it but what it is.
async fn subscribe(
    agent: &Arc<Agent>,
    media: Media,
    framework_id: String,
    executor_id: String,
    subscribe: call::Subscribe,
) -> Response {
    let (sender, body) = records();
    let number = agent.streams_opened.fetch_add(1, Ordering::Relaxed) + 1;
    let subscribed = {
        let state = agent.state.read();
        let Some(executor) = state.executor(&framework_id, &executor_id) else {
            return bad(&Refusal::UnknownExecutor.to_string());
        };
        event::Subscribed {
            executor_info: executor.info.get(),
            framework_info: state.frameworks[&framework_id].info.get(),
            agent_info: agent_info(agent, state.registration.agent_id.clone()),
            container_id: Some(v1::ContainerId { value: executor.container_id.clone(), parent: None }),
        }
    };
    let event =
        Event { r#type: Some(event::Type::Subscribed as i32), subscribed: Some(subscribed), ..Event::default() };
    sender.send(media.encode_record(&event));
    let key = (framework_id.clone(), executor_id.clone());
    let (end, ended) = oneshot::channel();
    // The stream before this one ends here: an executor has one, and what was said there and did not arrive is lost.
    let stream = ExecutorStream { number, media, sender: sender.clone(), _end: end };
    agent.streams.lock().insert(key.clone(), stream);
    let mut written = Vec::new();
    for unacknowledged in subscribe.unacknowledged_updates {
        let delivery = acknowledgement(&unacknowledged.status);
        if planted(Bug::ReturnedUpdatesLost) {
            written.push(delivery);
            continue;
        }
        if let Some(Ok(_)) = write(agent, &key, unacknowledged.status).await {
            written.push(delivery);
        }
    }
    let unacknowledged_tasks: BTreeSet<String> =
        subscribe.unacknowledged_tasks.into_iter().map(|task| task.task_id.value).collect();
    let command = Command::SubscribeExecutor { framework_id, executor_id, stream: number, unacknowledged_tasks };
    if planted(Bug::StreamBeforeSubscription) {
        // It counts already, and what is handed over on it is taken for lost.
        let _ = agent.ask(command.clone()).await;
    }
    match agent.ask(command).await {
        Some(Ok(_)) => {}
        Some(Err(refusal)) => {
            hang_up(agent, &key, number);
            return bad(&refusal.to_string());
        }
        None => return text(StatusCode::SERVICE_UNAVAILABLE, "Agent is stopping"),
    }
    written.iter().for_each(|delivery| deliver(agent, &key, number, delivery));
    host::spawn(watch(agent.clone(), key, number, sender, media, ended));
    api_http::streaming(media.content_type(), body)
}

/// Holds a stream open until one of its ends is let go, and says so.
async fn watch(
    agent: Arc<Agent>,
    key: Key,
    stream: u64,
    sender: Records,
    media: Media,
    mut ended: oneshot::Receiver<()>,
) {
    let heartbeat = Event { r#type: Some(event::Type::Heartbeat as i32), ..Event::default() };
    let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => break,
            () = sender.closed() => break,
            _ = clock.tick() => {
                if !sender.send(media.encode_record(&heartbeat)) {
                    break;
                }
            }
        }
    }
    hang_up(&agent, &key, stream);
    let (framework_id, executor_id) = key;
    agent.submit(Command::LoseExecutor { framework_id, executor_id, stream });
}

/// Ends a stream, if it is still the executor's.
pub(crate) fn hang_up(agent: &Agent, key: &Key, stream: u64) {
    let mut streams = agent.streams.lock();
    if streams.get(key).is_some_and(|open| open.number == stream) {
        streams.remove(key);
    }
}

/// Says something to an executor on this stream and no other: what it must know, it is told again when it subscribes.
pub(crate) fn deliver(agent: &Agent, key: &Key, stream: u64, delivery: &Delivery) {
    let event = {
        let state = agent.state.read();
        let Some(executor) = state.executor(&key.0, &key.1) else { return };
        let secret = agent.config.secret.as_ref();
        let opened = |info: TaskInfo| crate::secrets::opened(secret, info, &key.0);
        let task = |id: &String| executor.tasks.get(id).map(|task| opened(task.info.get()));
        match delivery {
            Delivery::Launch { task_ids, together: true } => Event {
                r#type: Some(event::Type::LaunchGroup as i32),
                launch_group: Some(event::LaunchGroup {
                    task_group: v1::TaskGroupInfo { tasks: task_ids.iter().filter_map(task).collect() },
                }),
                ..Event::default()
            },
            Delivery::Launch { task_ids, .. } => Event {
                r#type: Some(event::Type::Launch as i32),
                launch: task_ids.first().and_then(task).map(|task| event::Launch { task }),
                ..Event::default()
            },
            Delivery::Kill { task_id } => {
                let kill = executor.tasks.get(task_id).and_then(|task| task.kill.clone()).flatten();
                Event {
                    r#type: Some(event::Type::Kill as i32),
                    kill: Some(event::Kill {
                        task_id: v1::TaskId { value: task_id.clone() },
                        kill_policy: kill.map(|policy| policy.get()),
                    }),
                    ..Event::default()
                }
            }
            Delivery::Acknowledge { task_id, uuid } => Event {
                r#type: Some(event::Type::Acknowledged as i32),
                acknowledged: Some(event::Acknowledged {
                    task_id: v1::TaskId { value: task_id.clone() },
                    uuid: uuid.clone().into(),
                }),
                ..Event::default()
            },
            Delivery::Shutdown => Event { r#type: Some(event::Type::Shutdown as i32), ..Event::default() },
        }
    };
    send(agent, key, stream, &event);
}

/// Passes a framework's message on.
pub(crate) fn forward(agent: &Agent, message: &internal::FrameworkMessage) {
    let event = Event {
        r#type: Some(event::Type::Message as i32),
        message: Some(event::Message { data: message.data.clone() }),
        ..Event::default()
    };
    let key = (message.framework_id.value.clone(), message.executor_id.value.clone());
    let stream = agent.state.read().executor(&key.0, &key.1).and_then(|executor| executor.stream);
    let sent = stream.is_some_and(|stream| send(agent, &key, stream, &event));
    let counters = &agent.counters;
    let counter = if sent { &counters.framework_messages } else { &counters.invalid_framework_messages };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn send(agent: &Agent, key: &Key, stream: u64, event: &Event) -> bool {
    let mut streams = agent.streams.lock();
    let Some(open) = streams.get(key).filter(|open| open.number == stream) else { return false };
    let sent = open.sender.send(open.media.encode_record(event));
    if !sent {
        // It is gone, or does not read. Either way it has to subscribe again to hear what it missed.
        streams.remove(key);
    }
    sent
}
