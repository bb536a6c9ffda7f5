//! The API of custom executors: `POST /api/v1/executor`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_core::{Command, Delivery, Refusal};
use api::internal::{self, from_agent};
use api::media::{Media, Rejection, accept, request_media};
use api::v1::executor::{Call, Event, call, event};
use api::v1::{self, TaskInfo, TaskState, task_status};
use api_http::{HeaderMap, Received, Response, StatusCode, StreamSender, header, text};

use crate::agent::Agent;
use crate::masters::agent_info;

/// Rare, because there are executors that end when they see one.
const HEARTBEAT: Duration = Duration::from_secs(30 * 60);
/// Events that an executor may be behind.
const EVENTS_MAX: usize = 4096;

static STREAMS: AtomicU64 = AtomicU64::new(0);

/// The stream of one executor.
pub(crate) struct ExecutorStream {
    id: u64,
    media: Media,
    sender: StreamSender,
}

fn rejected(rejection: &Rejection) -> Response {
    text(StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST), &rejection.message)
}

fn bad(sentence: &str) -> Response {
    text(StatusCode::BAD_REQUEST, sentence)
}

/// Answers one call.
pub(crate) async fn answer(agent: &Arc<Agent>, headers: &HeaderMap, body: &mut Received) -> Response {
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
            match self::update(agent, framework_id, executor_id, update.status).await {
                Some(Ok(_)) => api_http::empty(StatusCode::ACCEPTED),
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
        call::Type::Subscribe if call.subscribe.is_none() => Err("Expecting 'subscribe' to be present".to_owned()),
        call::Type::Message if call.message.is_none() => Err("Expecting 'message' to be present".to_owned()),
        call::Type::Update => {
            let Some(update) = &call.update else { return Err("Expecting 'update' to be present".to_owned()) };
            let status = &update.status;
            match &status.uuid {
                None => return Err("Expecting 'uuid' to be present".to_owned()),
                Some(uuid) if uuid.len() != 16 => {
                    return Err(format!("Expecting 'uuid' to have 16 bytes, but it has {}", uuid.len()));
                }
                Some(_) => {}
            }
            if status.executor_id.as_ref().is_some_and(|id| *id != call.executor_id) {
                return Err("ExecutorID in Call does not match ExecutorID in TaskStatus".to_owned());
            }
            if status.source() != task_status::Source::Executor {
                return Err("Received Call from executor with invalid source: expecting SOURCE_EXECUTOR".to_owned());
            }
            if status.state() == TaskState::TaskStaging {
                return Err("Received TASK_STAGING from executor, which is not allowed".to_owned());
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Writes an update; one that is known already is acknowledged again.
async fn update(
    agent: &Arc<Agent>,
    framework_id: String,
    executor_id: String,
    status: v1::TaskStatus,
) -> Option<crate::agent::Answer> {
    let delivery = Delivery::Acknowledge {
        task_id: status.task_id.value.clone(),
        uuid: status.uuid.clone().unwrap_or_default().to_vec(),
    };
    let (framework, executor) = (framework_id.clone(), executor_id.clone());
    let answer = agent.ask(Command::UpdateTask { framework_id, executor_id, status: Box::new(status) }).await?;
    if answer == Ok(0) {
        deliver(agent, &framework, &executor, &delivery);
    }
    Some(answer)
}

async fn subscribe(
    agent: &Arc<Agent>,
    media: Media,
    framework_id: String,
    executor_id: String,
    subscribe: call::Subscribe,
) -> Response {
    let (sender, body) = api_http::stream(EVENTS_MAX);
    let id = STREAMS.fetch_add(1, Ordering::Relaxed);
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
    let _ = sender.try_send(media.encode_record(&event));
    let key = (framework_id.clone(), executor_id.clone());
    // The stream before this one ends here: an executor has one.
    agent.streams.lock().insert(key.clone(), ExecutorStream { id, media, sender: sender.clone() });
    for unacknowledged in subscribe.unacknowledged_updates {
        let _ = update(agent, framework_id.clone(), executor_id.clone(), unacknowledged.status).await;
    }
    let unacknowledged_tasks: BTreeSet<String> =
        subscribe.unacknowledged_tasks.into_iter().map(|task| task.task_id.value).collect();
    let answer = agent.ask(Command::SubscribeExecutor { framework_id, executor_id, unacknowledged_tasks }).await;
    match answer {
        Some(Ok(_)) => {}
        Some(Err(refusal)) => {
            forget(agent, &key, id);
            return bad(&refusal.to_string());
        }
        None => return text(StatusCode::SERVICE_UNAVAILABLE, "Agent is stopping"),
    }
    let agent = agent.clone();
    tokio::spawn(async move {
        let heartbeat = Event { r#type: Some(event::Type::Heartbeat as i32), ..Event::default() };
        let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                () = sender.closed() => break,
                _ = clock.tick() => {}
            }
            if agent.streams.lock().get(&key).is_none_or(|stream| stream.id != id) {
                return;
            }
            let _ = sender.try_send(media.encode_record(&heartbeat));
        }
        forget(&agent, &key, id);
    });
    api_http::streaming(media.content_type(), body)
}

fn forget(agent: &Agent, key: &(String, String), id: u64) {
    let mut streams = agent.streams.lock();
    if streams.get(key).is_some_and(|stream| stream.id == id) {
        streams.remove(key);
    }
}

/// Says something to an executor, if it has a stream: what it must know, it is told again when it subscribes.
pub(crate) fn deliver(agent: &Agent, framework_id: &str, executor_id: &str, delivery: &Delivery) {
    let event = {
        let state = agent.state.read();
        let Some(executor) = state.executor(framework_id, executor_id) else { return };
        let task = |id: &String| executor.tasks.get(id).map(|task| task.info.get::<TaskInfo>());
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
    send(agent, framework_id, executor_id, &event);
}

/// Passes a framework's message on.
pub(crate) fn forward(agent: &Agent, message: &internal::FrameworkMessage) {
    let event = Event {
        r#type: Some(event::Type::Message as i32),
        message: Some(event::Message { data: message.data.clone() }),
        ..Event::default()
    };
    let sent = send(agent, &message.framework_id.value, &message.executor_id.value, &event);
    let counters = &agent.counters;
    let counter = if sent { &counters.framework_messages } else { &counters.invalid_framework_messages };
    counter.fetch_add(1, Ordering::Relaxed);
}

fn send(agent: &Agent, framework_id: &str, executor_id: &str, event: &Event) -> bool {
    let key = (framework_id.to_owned(), executor_id.to_owned());
    let mut streams = agent.streams.lock();
    let Some(stream) = streams.get(&key) else { return false };
    let sent = stream.sender.try_send(stream.media.encode_record(event)).is_ok();
    if !sent {
        // It is gone, or does not read. Either way it has to subscribe again to hear what it missed.
        streams.remove(&key);
    }
    sent
}
