//! State as the first releases encoded it whole, to begin a shortened log with. What an agent has now may look
//! otherwise; this stays as it is, because their logs do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use event_log::CodecError;
use serde::{Deserialize, Serialize};

use super::Blob;
use crate::state::{self, Message, Process, Stop};

/// What an agent of the first releases knew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    registration: Registration,
    orders_up_to: u64,
    messages: Messages,
    frameworks: BTreeMap<String, Framework>,
    containers: BTreeMap<String, (String, String)>,
    remnants: BTreeMap<String, Option<Process>>,
    leaving: bool,
    frameworks_seen: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Registration {
    token: Option<[u8; 16]>,
    agent_id: Option<String>,
    cluster_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Messages {
    up_to: u64,
    received_up_to: u64,
    waiting: BTreeMap<u64, Message>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Framework {
    info: Blob,
    order: u64,
    removed: bool,
    executors: BTreeMap<String, Executor>,
    completed: VecDeque<Executor>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Executor {
    executor_id: String,
    is_command: bool,
    info: Blob,
    container_id: String,
    added_ms: u64,
    process: Option<Process>,
    register_by_ms: Option<u64>,
    subscribed: bool,
    complete_by_ms: Option<u64>,
    stop: Option<Stop>,
    tasks: BTreeMap<String, Task>,
    status: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Task {
    info: Blob,
    state: i32,
    group: Option<String>,
    delivered: bool,
    kill: Option<Option<Blob>>,
    statuses: Vec<Blob>,
    uuids: VecDeque<Vec<u8>>,
}

/// The state that such a release encoded.
///
/// # Errors
/// If it is none.
pub(crate) fn decode(encoded: &Blob) -> Result<state::State, CodecError> {
    let first: State = event_log::decode_payload(&encoded.0)?;
    let Registration { token, agent_id, cluster_id } = first.registration;
    let mut messages = state::Messages {
        up_to: first.messages.up_to,
        received_up_to: first.messages.received_up_to,
        ..state::Messages::default()
    };
    first.messages.waiting.into_iter().for_each(|(seq, message)| messages.wait(seq, message));
    Ok(state::State {
        registration: state::Registration { token, agent_id, cluster_id },
        orders_up_to: first.orders_up_to,
        messages,
        frameworks: first.frameworks.into_iter().map(|(id, framework)| (id, framework.into())).collect(),
        containers: first.containers,
        remnants: first.remnants,
        leaving: first.leaving,
        frameworks_seen: first.frameworks_seen,
        clock: None,
        model: crate::Model::default(),
        launched: crate::Containers::default(),
        providers: crate::Providers::default(),
    })
}

impl From<Framework> for state::Framework {
    fn from(framework: Framework) -> state::Framework {
        let Framework { info, order, removed, executors, completed } = framework;
        state::Framework {
            info,
            order,
            removed,
            executors: executors.into_iter().map(|(id, executor)| (id, Arc::new(executor.into()))).collect(),
            completed: completed.into_iter().map(|executor| Arc::new(executor.into())).collect(),
        }
    }
}

impl From<Executor> for state::Executor {
    fn from(executor: Executor) -> state::Executor {
        state::Executor {
            executor_id: executor.executor_id,
            is_command: executor.is_command,
            info: executor.info,
            container_id: executor.container_id,
            added_ms: executor.added_ms,
            process: executor.process,
            register_by_ms: executor.register_by_ms,
            subscribed: executor.subscribed,
            stream: None,
            complete_by_ms: executor.complete_by_ms,
            stop: executor.stop,
            tasks: executor.tasks.into_iter().map(|(id, task)| (id, Box::new(task.into()))).collect(),
            status: executor.status,
            unhealthy: 0,
        }
    }
}

impl From<Task> for state::Task {
    fn from(task: Task) -> state::Task {
        let Task { info, state, group, delivered, kill, statuses, uuids } = task;
        state::Task { info, state, group, delivered, kill, statuses, uuids, ended: 0 }
    }
}

/// State as such a release would have had it: what it did not know is left out.
impl From<&state::State> for State {
    fn from(state: &state::State) -> State {
        let executor = |executor: &state::Executor| Executor {
            executor_id: executor.executor_id.clone(),
            is_command: executor.is_command,
            info: executor.info.clone(),
            container_id: executor.container_id.clone(),
            added_ms: executor.added_ms,
            process: executor.process.clone(),
            register_by_ms: executor.register_by_ms,
            subscribed: executor.subscribed,
            complete_by_ms: executor.complete_by_ms,
            stop: executor.stop,
            tasks: executor.tasks.iter().map(|(id, task)| (id.clone(), (&**task).into())).collect(),
            status: executor.status,
        };
        let framework = |framework: &state::Framework| Framework {
            info: framework.info.clone(),
            order: framework.order,
            removed: framework.removed,
            executors: framework.executors.iter().map(|(id, one)| (id.clone(), executor(one))).collect(),
            completed: framework.completed.iter().map(|one| executor(one)).collect(),
        };
        let state::Registration { token, agent_id, cluster_id } = state.registration.clone();
        State {
            registration: Registration { token, agent_id, cluster_id },
            orders_up_to: state.orders_up_to,
            messages: Messages {
                up_to: state.messages.up_to,
                received_up_to: state.messages.received_up_to,
                waiting: state.messages.waiting.clone(),
            },
            frameworks: state.frameworks.iter().map(|(id, one)| (id.clone(), framework(one))).collect(),
            containers: state.containers.clone(),
            remnants: state.remnants.clone(),
            leaving: state.leaving,
            frameworks_seen: state.frameworks_seen,
        }
    }
}

impl From<&state::Task> for Task {
    fn from(task: &state::Task) -> Task {
        let state::Task { info, state, group, delivered, kill, statuses, uuids, ended: _ } = task.clone();
        Task { info, state, group, delivered, kill, statuses, uuids }
    }
}
