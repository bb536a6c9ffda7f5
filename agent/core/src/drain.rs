//! The masters want the agent empty: every task is killed, and none is taken, until they say that it is over.

use api::v1::framework_info::capability::Type as Capability;
use api::v1::task_status::Reason;
use api::v1::{DrainConfig, DurationInfo, KillPolicy, TaskInfo, TaskState, TaskStatus};

use crate::command::Surroundings;
use crate::event::{Blob, Event};
use crate::fold::fold;
use crate::kill;
use crate::state::{State, Task};

/// What a launch hears that crossed the order on its way.
pub(crate) const TOO_LATE: &str = "Task was received while agent was already draining";

/// Kills every task that lives. Asked again, the newer `config` counts; who is ending already ends at the earlier time.
pub(crate) fn begin(state: &State, config: &DrainConfig, around: &mut Surroundings<'_>) -> Vec<Event> {
    let mut events = vec![Event::DrainBegun { config: Blob::of(config), at_ms: around.at_ms }];
    // Each kill sees those before it, and that the agent is drained.
    let mut state = state.clone();
    events.iter().for_each(|event| fold(&mut state, event));
    let live: Vec<(String, String, Option<KillPolicy>)> = state
        .executors()
        .filter(|(framework_id, _)| state.frameworks.get(*framework_id).is_some_and(|framework| !framework.removed))
        .flat_map(|(framework_id, executor)| {
            let tasks = executor.live_tasks();
            tasks.map(move |(id, task)| (framework_id.to_owned(), id.clone(), policy(config, task)))
        })
        .collect();
    for (framework_id, task_id, policy) in live {
        let killed = kill::task(&state, &framework_id, &task_id, policy, around);
        killed.iter().for_each(|event| fold(&mut state, event));
        events.extend(killed);
    }
    events
}

/// The smaller of what the task and the operator say; none if the task's own counts.
fn policy(config: &DrainConfig, task: &Task) -> Option<KillPolicy> {
    let most = config.max_grace_period.as_ref()?.nanoseconds.max(0);
    let own = task.info.get::<TaskInfo>().kill_policy.and_then(|policy| policy.grace_period);
    let is_shorter = own.is_some_and(|own| own.nanoseconds <= most);
    (!is_shorter).then_some(KillPolicy { grace_period: Some(DurationInfo { nanoseconds: most }) })
}

/// The masters want it in use again.
pub(crate) fn end(state: &State) -> Vec<Event> {
    state.model.drain.is_some().then_some(Event::DrainEnded {}).into_iter().collect()
}

/// What is killed on an agent that is drained says so, whoever killed it.
pub(crate) fn mark(state: &State, framework_id: &str, status: &mut TaskStatus) {
    let Some(drain) = &state.model.drain else { return };
    if !matches!(status.state(), TaskState::TaskKilling | TaskState::TaskKilled) {
        return;
    }
    status.reason = Some(Reason::AgentDraining as i32);
    let aware = state.frameworks.get(framework_id).is_some_and(|framework| framework.can(Capability::PartitionAware));
    // One that is still to end is not gone yet.
    if status.state() == TaskState::TaskKilled && aware && drain.config.get::<DrainConfig>().mark_gone() {
        status.state = TaskState::TaskGoneByOperator as i32;
    }
}

impl State {
    /// The order to be empty, as long as the agent is not.
    pub fn draining(&self) -> Option<&crate::Drain> {
        let is_empty = self.containers.is_empty() && self.model.operations.is_empty();
        self.model.drain.as_ref().filter(|_| !is_empty)
    }
}
