//! Tasks: from launch to the acknowledgement of their last update, and a bounded history after that.

use crate::ids::TaskKey;
use crate::ids::{AgentKey, ExecutorId, FrameworkKey, TaskId};
use crate::task_state;
use api::resources::Resources;
use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Tasks by framework and id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// Tasks whose last update is not acknowledged yet.
    pub live: OrdMap<(FrameworkKey, TaskId), Arc<Task>>,
    /// Ended and acknowledged tasks, by framework and order of their end; at most [`History::tasks`](crate::state::History) a framework.
    pub completed: OrdMap<(FrameworkKey, u64), Arc<Task>>,
    /// The number of the next end.
    pub next_completed: u64,
    /// Live tasks of each agent. Derived.
    #[serde(skip)]
    pub by_agent: OrdSet<(AgentKey, FrameworkKey, TaskId)>,
    /// How many completed tasks each framework has. Derived.
    #[serde(skip)]
    pub completed_counts: OrdMap<FrameworkKey, usize>,
}

/// So many statuses of a task are kept, the newest; from feature level 3 on.
pub const STATUSES_MAX: usize = 32;

/// So many bytes of them, beside the newest.
const STATUSES_BYTES_MAX: usize = 1 << 20;

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
    /// One `v1::TaskStatus` in protobuf for each change of state, without `data`; equal neighbours collapse, and
    /// only the newest are kept.
    pub statuses: Vec<Bytes>,
    /// Updates that the framework has not acknowledged, oldest first; only the head is sent.
    pub updates: VecDeque<Arc<PendingUpdate>>,
    /// Its resources are given back (terminal or unreachable), even if updates wait.
    pub released: bool,
    /// The number of the order that launched it.
    pub launch_order: u64,
    /// A KILL was ordered.
    pub kill_requested: bool,
    /// When it was launched.
    pub launched_ms: u64,
    /// Set while its agent is unreachable.
    pub unreachable_ms: Option<u64>,
    /// The state that it had before its agent was unreachable.
    pub state_before: Option<i32>,
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

impl Task {
    /// Its place in State.
    pub fn key(&self) -> TaskKey {
        (self.framework, self.task_id.clone())
    }

    /// Whether the log knows its end.
    pub fn is_terminal(&self) -> bool {
        task_state::is_terminal(self.state)
    }

    fn remember(&mut self, state: i32, status: Bytes, max: usize) {
        // Equal neighbours collapse to the last one: the newest entry is always that of the current state.
        if self.state == state && !self.statuses.is_empty() {
            self.statuses.pop();
        }
        self.statuses.push(status);
        self.state = state;
        if max == usize::MAX {
            return;
        }
        let mut bytes: usize = self.statuses.iter().map(Bytes::len).sum();
        let mut oldest = 0;
        while oldest + 1 < self.statuses.len() && (self.statuses.len() - oldest > max || bytes > STATUSES_BYTES_MAX) {
            bytes -= self.statuses[oldest].len();
            oldest += 1;
        }
        self.statuses.drain(..oldest);
    }
}

impl Tasks {
    /// A task whose last update is not acknowledged yet.
    pub fn get(&self, key: &TaskKey) -> Option<&Task> {
        self.live.get(key).map(Arc::as_ref)
    }

    /// The live tasks of a framework.
    pub fn of(&self, framework: FrameworkKey) -> impl Iterator<Item = &Arc<Task>> + '_ {
        let from: TaskKey = (framework, "".into());
        self.live.range(from..).take_while(move |((of, _), _)| *of == framework).map(|(_, task)| task)
    }

    /// The live tasks of an agent.
    pub fn on(&self, agent: AgentKey) -> impl Iterator<Item = &Arc<Task>> + '_ {
        let from: (AgentKey, FrameworkKey, TaskId) = (agent, FrameworkKey(0), "".into());
        self.by_agent
            .range(from..)
            .take_while(move |(on, _, _)| *on == agent)
            .filter_map(|(_, framework, task_id)| self.live.get(&(*framework, task_id.clone())))
    }

    /// The live tasks of a framework on an agent.
    pub fn of_on(&self, framework: FrameworkKey, agent: AgentKey) -> impl Iterator<Item = &Arc<Task>> + '_ {
        let from: (AgentKey, FrameworkKey, TaskId) = (agent, framework, "".into());
        self.by_agent
            .range(from..)
            .take_while(move |(on, of, _)| *on == agent && *of == framework)
            .filter_map(|(_, framework, task_id)| self.live.get(&(*framework, task_id.clone())))
    }

    /// The ended and acknowledged tasks of a framework, oldest first.
    pub fn completed_of(&self, framework: FrameworkKey) -> impl Iterator<Item = &Arc<Task>> + '_ {
        self.completed.range((framework, 0)..=(framework, u64::MAX)).map(|(_, task)| task)
    }

    pub(crate) fn change(&mut self, key: &TaskKey) -> &mut Task {
        Arc::make_mut(self.live.get_mut(key).expect("the event's task is live"))
    }

    pub(crate) fn insert(&mut self, task: Task) {
        self.by_agent.insert((task.agent, task.framework, task.task_id.clone()));
        self.live.insert(task.key(), Arc::new(task));
    }

    /// Queues an update. True if the task ended by it.
    pub(crate) fn update(&mut self, key: &TaskKey, update: PendingUpdate, brief: Option<&Bytes>, keep: usize) -> bool {
        let task = self.change(key);
        let ends = task_state::is_terminal(update.state) && !task.is_terminal();
        task.remember(update.state, brief.unwrap_or(&update.status).clone(), keep);
        if task.updates.is_empty() {
            task.delivered = Some((update.state, update.uuid.clone()));
        }
        task.updates.push_back(Arc::new(update));
        ends
    }

    /// Forgets the oldest update; a task is over with its last one.
    pub(crate) fn acknowledge(&mut self, key: &TaskKey, max: u32) {
        let task = self.change(key);
        let acknowledged = task.updates.pop_front().expect("the event's update waits");
        if let Some(next) = task.updates.front() {
            task.delivered = Some((next.state, next.uuid.clone()));
        } else if task_state::is_terminal(acknowledged.state) {
            self.complete(key, max);
        }
    }

    pub(crate) fn declare(&mut self, key: &TaskKey, state: i32, status: &Bytes, keep: usize) {
        self.change(key).remember(state, status.clone(), keep);
    }

    /// Moves a task to the history, of which no more than `max` of the framework stay.
    pub(crate) fn complete(&mut self, key: &TaskKey, max: u32) {
        let mut task = self.live.remove(key).expect("the event's task is live");
        self.by_agent.remove(&(task.agent, task.framework, task.task_id.clone()));
        if !task.updates.is_empty() {
            Arc::make_mut(&mut task).updates = VecDeque::new();
        }
        self.completed.insert((key.0, self.next_completed), task);
        self.next_completed += 1;
        let count = self.completed_counts.entry(key.0).or_insert(0);
        *count += 1;
        while *count > max as usize
            && let Some(oldest) = self.completed.range((key.0, 0)..).next().map(|(place, _)| *place)
        {
            *count -= 1;
            self.completed.remove(&oldest);
        }
    }

    /// Forgets the history of a framework.
    pub(crate) fn forget(&mut self, framework: FrameworkKey) {
        let places: Vec<(FrameworkKey, u64)> =
            self.completed.range((framework, 0)..=(framework, u64::MAX)).map(|(place, _)| *place).collect();
        for place in places {
            self.completed.remove(&place);
        }
        self.completed_counts.remove(&framework);
    }
}
