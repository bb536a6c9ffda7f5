//! The fold of all events so far.

use std::collections::{BTreeMap, VecDeque};

use api::internal::{self, FromAgent, from_agent};
use api::v1::{self, TaskState};
use serde::{Deserialize, Serialize};

use crate::event::Blob;

/// Completed executors that are remembered per framework.
pub(crate) const COMPLETED_EXECUTORS_MAX: usize = 150;
/// Frameworks without live executors that are remembered.
pub(crate) const COMPLETED_FRAMEWORKS_MAX: usize = 50;
/// Updates of one task that are remembered, to know one that is sent again.
pub(crate) const UUIDS_MAX: usize = 64;

/// Everything an agent knows for good.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
}

/// Who the agent is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Chosen before the agent registers for the first time.
    pub token: Option<[u8; 16]>,
    /// Given by the masters.
    pub agent_id: Option<String>,
    /// The cluster that gave the id.
    pub cluster_id: Option<String>,
}

/// Numbered messages to the masters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Messages {
    /// Number of the last one.
    pub up_to: u64,
    /// Committed by the masters up to here.
    pub received_up_to: u64,
    /// Not known to be committed.
    pub waiting: BTreeMap<u64, Message>,
}

/// What the masters must hear.
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
}

/// A framework with work on this agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Framework {
    /// `FrameworkInfo`
    pub info: Blob,
    /// In which order frameworks came.
    pub order: u64,
    /// The masters removed it.
    pub removed: bool,
    /// Live executors by id.
    pub executors: BTreeMap<String, Executor>,
    /// Ended ones, oldest first.
    pub completed: VecDeque<Executor>,
}

/// An executor and its container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// When its task must be complete.
    pub complete_by_ms: Option<u64>,
    /// It is to end.
    pub stop: Option<Stop>,
    /// Tasks by id, ended ones too.
    pub tasks: BTreeMap<String, Task>,
    /// Wait status, of a completed one.
    pub status: Option<i32>,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
}

impl Executor {
    /// Tasks that are not over.
    pub fn live_tasks(&self) -> impl Iterator<Item = (&String, &Task)> {
        self.tasks.iter().filter(|(_, task)| !task.is_terminal())
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
        self.frameworks.get(framework_id)?.executors.get(executor_id)
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
            .flat_map(|(id, framework)| framework.executors.values().map(move |executor| (id.as_str(), executor)))
    }

    /// The executor that has a task which is not over.
    pub fn executor_with(&self, framework_id: &str, task_id: &str) -> Option<&Executor> {
        let executors = &self.frameworks.get(framework_id)?.executors;
        // A command task's executor has its name; only custom executors must be searched.
        let named = executors.get(task_id).into_iter();
        let has = |executor: &&Executor| executor.tasks.get(task_id).is_some_and(|task| !task.is_terminal());
        named.chain(executors.values()).find(has)
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
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        match self.stop {
            Some(stop) if stop.forced => None,
            Some(stop) => Some(stop.kill_at_ms),
            None => [self.register_by_ms, self.complete_by_ms].into_iter().flatten().min(),
        }
    }
}

impl Message {
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
        };
        FromAgent { seq: Some(seq), message: Some(message) }
    }
}
