//! The fold of all events so far.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use api::internal::{self, FromAgent, from_agent};
use api::v1::{self, TaskState};
use serde::{Deserialize, Serialize};

use crate::containers::Containers;
use crate::event::Blob;
use crate::model::Model;
use crate::providers::{ProviderTold, Providers};

/// Updates of one task that are remembered, to know one that is sent again.
pub(crate) const UUIDS_MAX: usize = 64;

/// Everything an agent knows for good.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct State {
    /// Who the agent is.
    pub registration: Registration,
    /// The last order taken.
    pub orders_up_to: u64,
    /// What the masters must hear.
    pub messages: Messages,
    /// By id; those without live executors too, for a while.
    pub frameworks: BTreeMap<String, Framework>,
    /// Container to (framework, executor), of live executors.
    pub containers: BTreeMap<String, (String, String)>,
    /// Containers of a past that was forgotten, to be ended.
    pub remnants: BTreeMap<String, Option<Process>>,
    /// The agent ends for good.
    pub leaving: bool,
    /// Counts frameworks as they come, so that the oldest can be dropped.
    pub frameworks_seen: u64,
    /// The time of the agent that was started last.
    pub clock: Option<Clock>,
    /// The resource model's part.
    #[serde(skip_serializing_if = "Model::is_empty")]
    pub model: Model,
    /// Containers that were launched by call.
    #[serde(skip_serializing_if = "Containers::is_empty")]
    pub launched: Containers,
    /// Providers of resources that are known, by id.
    #[serde(skip_serializing_if = "Providers::is_empty")]
    pub providers: Providers,
}

/// An agent's time, as of its start: from there on it goes as fast as time does, whatever becomes of the machine's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Milliseconds since 1970, as the machine's clock had it.
    pub at_ms: u64,
    /// The start of the machine.
    pub boot_id: String,
    /// Milliseconds since then.
    pub since_boot_ms: u64,
}

impl Clock {
    /// By how many milliseconds this time is ahead of an earlier one's; none if the machine was started in between.
    pub fn ahead_of(&self, earlier: &Clock) -> Option<i64> {
        let passed_ms = self.since_boot_ms.checked_sub(earlier.since_boot_ms)?;
        let expected_ms = i64::try_from(earlier.at_ms.saturating_add(passed_ms)).ok()?;
        (self.boot_id == earlier.boot_id).then(|| i64::try_from(self.at_ms).map(|at_ms| at_ms - expected_ms).ok())?
    }
}

/// Who the agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Registration {
    /// Chosen before the agent registers for the first time.
    pub token: Option<[u8; 16]>,
    /// Given by the masters.
    pub agent_id: Option<String>,
    /// The cluster that gave the id.
    pub cluster_id: Option<String>,
}

/// Numbered messages to the masters.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Messages {
    /// Number of the last one.
    pub up_to: u64,
    /// Committed by the masters up to here.
    pub received_up_to: u64,
    /// Not known to be committed.
    pub waiting: BTreeMap<u64, Message>,
    /// What those weigh.
    pub waiting_bytes: u64,
}

/// What the masters must hear. Its bytes are part of events: a change is another variant, behind the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// A task has a new state.
    Status {
        /// The task's framework.
        framework_id: String,
        /// `TaskStatus`
        status: Blob,
    },
    /// A custom executor was started.
    ExecutorLaunched {
        /// Its framework.
        framework_id: String,
        /// `ExecutorInfo`
        info: Blob,
    },
    /// A custom executor ended.
    ExecutorExited {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Wait status.
        status: Option<i32>,
    },
    /// The agent is gone for good.
    Leaving,
    /// An operation is over.
    Operation {
        /// Names it.
        operation: Vec<u8>,
        /// `OperationStatus`
        status: Blob,
    },
    /// What the agent can spare, in place of what it said before.
    Spare {
        /// A `Resource` each.
        resources: Vec<Blob>,
    },
    /// All providers that are known, in place of what was said before.
    Providers {
        /// One each.
        providers: Vec<ProviderTold>,
    },
}

/// A framework with work on this agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Framework {
    /// `FrameworkInfo`
    pub info: Blob,
    /// In which order frameworks came.
    pub order: u64,
    /// The masters removed it.
    pub removed: bool,
    /// Live executors by id.
    pub executors: BTreeMap<String, Arc<Executor>>,
    /// Ended ones, oldest first.
    pub completed: VecDeque<Arc<Executor>>,
}

/// An executor and its container.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Executor {
    /// Its id.
    pub executor_id: String,
    /// Whether it only stands for one command task.
    pub is_command: bool,
    /// `ExecutorInfo`
    pub info: Blob,
    /// Its container.
    pub container_id: String,
    /// When it was added, in milliseconds since 1970.
    pub added_ms: u64,
    /// Known once it runs.
    pub process: Option<Process>,
    /// When it must have subscribed, in milliseconds since 1970; none if it has, or never will.
    pub register_by_ms: Option<u64>,
    /// Whether it ever subscribed.
    pub subscribed: bool,
    /// Number of its stream, while it has one: what is said to it is said there.
    pub stream: Option<u64>,
    /// When its task must be complete.
    pub complete_by_ms: Option<u64>,
    /// It is to end.
    pub stop: Option<Stop>,
    /// Tasks by id, ended ones too. Most executors have one, and nodes of maps have room for eleven.
    pub tasks: BTreeMap<String, Box<Task>>,
    /// Wait status, of a completed one.
    pub status: Option<i32>,
    /// How often in a row its command was not healthy, while it lives.
    #[serde(skip_serializing_if = "is_none")]
    pub unhealthy: u32,
}

fn is_none(number: &u32) -> bool {
    *number == 0
}

/// The order to end, and how far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The first reason.
    pub why: Why,
    /// When patience ends, in milliseconds since 1970.
    pub kill_at_ms: u64,
    /// It ended.
    pub forced: bool,
}

/// Why an executor is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Its framework killed the task.
    Kill,
    /// The task took longer than it may.
    MaxCompletion,
    /// Its framework wants the executor to end, or it has nothing to do.
    Shutdown,
    /// Its framework is gone.
    FrameworkRemoved,
    /// It did not subscribe in time.
    RegistrationTimeout,
    /// It did not come back after the agent was started again.
    ReregistrationTimeout,
    /// The agent ends for good.
    Leaving,
    /// The agent is overloaded, and it runs on what others need.
    Preempted,
    /// What its tasks use could not be brought into its sandbox.
    UpdateFailed,
    /// Its task was not healthy for too long.
    Unhealthy,
    /// Its container exceeded what it may use.
    Limited,
}

/// The processes of a container, named so that a pid which was given away again is not mistaken for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The supervisor.
    pub supervisor_pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub start_ticks: u64,
    /// The start of the machine.
    pub boot_id: String,
    /// The first process in the container.
    pub pid: u32,
}

/// A task of an executor.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Task {
    /// `TaskInfo`
    pub info: Blob,
    /// Number of its `TaskState`.
    pub state: i32,
    /// First task of the group that it was launched with.
    pub group: Option<String>,
    /// It was handed to its executor.
    pub delivered: bool,
    /// It is to end; with the `KillPolicy` if one was given.
    pub kill: Option<Option<Blob>>,
    /// `TaskStatus`es, oldest first; of equal states in a row the last.
    pub statuses: Vec<Blob>,
    /// Of its latest updates, to know one that is sent again.
    pub uuids: VecDeque<Vec<u8>>,
    /// Number of the message that told its end, by which the oldest is found; 0 if it is not over.
    pub ended: u64,
}

/// Whether a task in the `TaskState` of this number is over.
pub fn is_terminal(state: i32) -> bool {
    use TaskState::*;
    matches!(
        TaskState::try_from(state),
        Ok(TaskFinished | TaskFailed | TaskKilled | TaskError | TaskLost | TaskDropped | TaskGone | TaskGoneByOperator)
    )
}

impl Task {
    /// Whether it is over.
    pub fn is_terminal(&self) -> bool {
        is_terminal(self.state)
    }

    /// What it weighs in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.info.0.len() + self.statuses.iter().map(|status| status.0.len()).sum::<usize>() + 256
    }
}

impl Executor {
    /// Tasks that are not over.
    pub fn live_tasks(&self) -> impl Iterator<Item = (&String, &Task)> {
        self.tasks.iter().map(|(task_id, task)| (task_id, &**task)).filter(|(_, task)| !task.is_terminal())
    }
}

impl Framework {
    /// Whether it has a capability.
    pub(crate) fn can(&self, capability: v1::framework_info::capability::Type) -> bool {
        let info: v1::FrameworkInfo = self.info.get();
        info.capabilities.iter().any(|have| have.r#type == Some(capability as i32))
    }
}

impl State {
    /// A live executor.
    pub fn executor(&self, framework_id: &str, executor_id: &str) -> Option<&Executor> {
        self.frameworks.get(framework_id)?.executors.get(executor_id).map(Arc::as_ref)
    }

    /// The live executor of a container, with the id of its framework.
    pub fn executor_of(&self, container_id: &str) -> Option<(&str, &Executor)> {
        let (framework_id, executor_id) = self.containers.get(container_id)?;
        Some((framework_id, self.executor(framework_id, executor_id)?))
    }

    /// Live executors, each with the id of its framework.
    pub fn executors(&self) -> impl Iterator<Item = (&str, &Executor)> {
        self.frameworks
            .iter()
            .flat_map(|(id, framework)| framework.executors.values().map(move |one| (id.as_str(), one.as_ref())))
    }

    /// The executor that has a task which is not over.
    pub fn executor_with(&self, framework_id: &str, task_id: &str) -> Option<&Executor> {
        let executors = &self.frameworks.get(framework_id)?.executors;
        // A command task's executor has its name; only custom executors must be searched.
        let named = executors.get(task_id).into_iter();
        let has = |executor: &&Executor| executor.tasks.get(task_id).is_some_and(|task| !task.is_terminal());
        named.chain(executors.values()).map(Arc::as_ref).find(has)
    }

    /// When `DeadlinePassed` is due, in milliseconds since 1970.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.executors().filter_map(|(_, executor)| executor.next_deadline_ms()).min()
    }

    /// Messages after `after`, as they are sent.
    pub fn messages_after(&self, after: u64) -> impl Iterator<Item = FromAgent> + '_ {
        self.messages.waiting.range(after + 1..).map(|(seq, message)| message.to_wire(*seq))
    }
}

impl Executor {
    /// What it weighs in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.info.0.len() + self.tasks.values().map(|task| task.bytes()).sum::<usize>() + 256
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        match self.stop {
            Some(stop) if stop.forced || event_log::planted(event_log::Bug::ShutdownNeverForced) => None,
            Some(stop) => Some(stop.kill_at_ms),
            None => [self.register_by_ms, self.complete_by_ms].into_iter().flatten().min(),
        }
    }
}

impl Messages {
    /// One more that the masters must hear.
    pub(crate) fn wait(&mut self, seq: u64, message: Message) {
        self.waiting_bytes += message.bytes();
        self.waiting.insert(seq, message);
    }

    /// The masters have those up to a number.
    pub(crate) fn cover(&mut self, up_to: u64) {
        let left = self.waiting.split_off(&(up_to + 1));
        let gone = std::mem::replace(&mut self.waiting, left);
        self.waiting_bytes -= gone.values().map(Message::bytes).sum::<u64>();
        self.received_up_to = up_to;
    }
}

impl Message {
    /// What it weighs in memory and on the wire, about.
    pub fn bytes(&self) -> u64 {
        let (framework_id, rest) = match self {
            Message::Status { framework_id, status } => (framework_id.len(), status.0.len()),
            Message::ExecutorLaunched { framework_id, info } => (framework_id.len(), info.0.len()),
            Message::ExecutorExited { framework_id, executor_id, .. } => (framework_id.len(), executor_id.len()),
            Message::Leaving => (0, 0),
            Message::Operation { operation, status } => (operation.len(), status.0.len()),
            Message::Spare { resources } => (0, resources.iter().map(|resource| resource.0.len()).sum()),
            Message::Providers { providers } => (0, providers.iter().map(ProviderTold::bytes).sum()),
        };
        (framework_id + rest + 32) as u64
    }

    /// As it is sent.
    pub fn to_wire(&self, seq: u64) -> FromAgent {
        let framework = |id: &String| v1::FrameworkId { value: id.clone() };
        let message = match self {
            Message::Status { framework_id, status } => from_agent::Message::StatusUpdate(internal::StatusUpdate {
                framework_id: framework(framework_id),
                status: status.get(),
            }),
            Message::ExecutorLaunched { framework_id, info } => {
                from_agent::Message::ExecutorLaunched(internal::ExecutorLaunched {
                    framework_id: framework(framework_id),
                    executor_info: info.get(),
                })
            }
            Message::ExecutorExited { framework_id, executor_id, status } => {
                from_agent::Message::ExecutorExited(internal::ExecutorExited {
                    framework_id: framework(framework_id),
                    executor_id: v1::ExecutorId { value: executor_id.clone() },
                    status: *status,
                })
            }
            Message::Leaving => from_agent::Message::Leaving(internal::Leaving {}),
            Message::Operation { operation, status } => {
                from_agent::Message::OperationStatus(internal::OperationStatus {
                    operation: operation.clone().into(),
                    status: status.get(),
                })
            }
            Message::Spare { resources } => from_agent::Message::Oversubscribed(internal::Oversubscribed {
                resources: resources.iter().map(Blob::get).collect(),
            }),
            Message::Providers { providers } => from_agent::Message::Providers(internal::Providers {
                providers: providers.iter().map(ProviderTold::to_wire).collect(),
            }),
        };
        FromAgent { seq: Some(seq), message: Some(message) }
    }
}
