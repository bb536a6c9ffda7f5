//! Checks of command tasks: what was seen becomes a status, and who is not healthy for too long ends.

use api::v1::task_status::{Reason, Source};
use api::v1::{CheckStatusInfo, TaskInfo, TaskState, TaskStatus};

use crate::command::{Seen, Surroundings};
use crate::event::Event;
use crate::state::{Executor, State, Why};
use crate::status::Update;
use crate::{executors, kill};

/// Whether this agent looks at the task of an executor: the executors of frameworks do so themselves.
pub fn is_checked(executor: &Executor) -> bool {
    let has = |info: TaskInfo| info.check.is_some() || info.health_check.is_some();
    executor.is_command && executor.stop.is_none() && executor.live_tasks().any(|(_, task)| has(task.info.get()))
}

/// What is told of a command's check before anything was seen.
pub(crate) fn unseen(executor: &Executor) -> Option<CheckStatusInfo> {
    let task = executor.tasks.values().next().filter(|_| executor.is_command)?;
    task.info.get::<TaskInfo>().check.map(|check| api::checks::empty(&check))
}

/// Something new was seen. Nobody looks at what is ending.
pub(crate) fn report(state: &State, container_id: &str, seen: Seen, around: &mut Surroundings<'_>) -> Vec<Event> {
    let Some((framework_id, executor)) = state.executor_of(container_id) else { return Vec::new() };
    let is_removed = state.frameworks.get(framework_id).is_some_and(|framework| framework.removed);
    if !executor.is_command || executor.stop.is_some() || executor.process.is_none() || is_removed {
        return Vec::new();
    }
    let Some((task_id, task)) = executor.live_tasks().next() else { return Vec::new() };
    let last: TaskStatus = task.statuses.last().map(|status| status.get()).unwrap_or_default();
    let kills = matches!(seen, Seen::Health { kill: true, .. });
    let failures = match seen {
        Seen::Health { failures, .. } if failures != executor.unhealthy => Some(failures),
        _ => None,
    };
    let (reason, check, healthy) = match seen {
        Seen::Check(status) => (Reason::TaskCheckStatusUpdated, Some(*status), last.healthy),
        Seen::Health { healthy, .. } => (Reason::TaskHealthCheckStatusUpdated, last.check_status, Some(healthy)),
    };
    let mut events = Vec::new();
    // What waits for the masters has its bound, and a later look shows the same.
    if kills || !executors::is_full(state) {
        let update = Update::new(TaskState::TaskRunning, Source::Executor).because(reason).knowing(check, healthy);
        events.push(update.event(state, framework_id, Some(executor), task_id, around));
        let seen = |failures| Event::HealthSeen { container_id: container_id.to_owned(), failures };
        events.extend(failures.map(seen));
    }
    if kills {
        events.extend(kill::command(state, framework_id, executor, None, Why::Unhealthy, around));
    }
    events
}
