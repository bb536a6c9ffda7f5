//! Tasks: from launch to the acknowledgement of their last update, and a bounded history after that.

use crate::ids::{AgentKey, ExecutorId, FrameworkKey, TaskId};
use api::resources::Resources;
use bytes::Bytes;
use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Tasks by framework and id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// Tasks whose last update is not acknowledged yet.
    pub live: OrdMap<(FrameworkKey, TaskId), Arc<Task>>,
    /// Ended and acknowledged tasks, by framework and order of their end; at most `MAX_COMPLETED_TASKS` a framework.
    pub completed: OrdMap<(FrameworkKey, u64), Arc<Task>>,
    /// The number of the next end.
    pub next_completed: u64,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Whose.
    pub framework: FrameworkKey,
    /// Named by its framework.
    pub task_id: TaskId,
    /// Where it was launched.
    pub agent: AgentKey,
    /// The custom executor that runs it; None for a command task.
    pub executor_id: Option<ExecutorId>,
    /// The role that its resources were offered to.
    pub role: Arc<str>,
    /// The `TaskInfo` in protobuf.
    pub info: Bytes,
    /// What it holds, with allocation role.
    pub resources: Resources,
    /// Number of `v1::TaskState`: the newest that the log knows, which may be ahead of what the framework saw.
    pub state: i32,
    /// Number of `v1::TaskState` and uuid of the update delivered last, for reconciliation.
    pub delivered: Option<(i32, Bytes)>,
    /// One `v1::TaskStatus` in protobuf for each change of state, without `data`; equal neighbours collapse.
    pub statuses: Vector<Bytes>,
    /// Updates that the framework has not acknowledged, oldest first; only the head is sent.
    pub updates: Vector<Arc<PendingUpdate>>,
    /// Its resources are given back (terminal or unreachable), even if updates wait.
    pub released: bool,
    /// A KILL was ordered.
    pub kill_requested: bool,
    /// When it was launched.
    pub launched_ms: u64,
    /// Set while its agent is unreachable.
    pub unreachable_ms: Option<u64>,
}

/// An update on its way to its framework.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingUpdate {
    /// Number of `v1::TaskState`.
    pub state: i32,
    /// 16 bytes; what ACKNOWLEDGE names.
    pub uuid: Bytes,
    /// The `v1::TaskStatus` in protobuf.
    pub status: Bytes,
}
