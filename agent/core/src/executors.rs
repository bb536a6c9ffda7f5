//! Executors that frameworks bring along: they subscribe, get tasks, and say how these are.

use std::collections::BTreeSet;

use api::v1::task_status::{Reason, Source};
use api::v1::{FrameworkInfo, TaskState, TaskStatus};

use crate::command::{Refusal, Surroundings};
use crate::event::{Blob, Event};
use crate::kill;
use crate::state::{Executor, State, Stop, Why};
use crate::status::{Update, agent_id, container_status, lost, seconds};

fn find<'a>(state: &'a State, framework_id: &str, executor_id: &str) -> Result<&'a Executor, Refusal> {
    let framework = state.frameworks.get(framework_id).ok_or(Refusal::UnknownFramework)?;
    framework.executors.get(executor_id).filter(|executor| !executor.is_command).ok_or(Refusal::UnknownExecutor)
}

/// An executor is here, or here again.
pub(crate) fn subscribe(
    state: &State,
    framework_id: &str,
    executor_id: &str,
    unacknowledged_tasks: &BTreeSet<String>,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Event>, Refusal> {
    let executor = find(state, framework_id, executor_id)?;
    let mut events = Vec::new();
    let ids = || (framework_id.to_owned(), executor_id.to_owned());
    if !executor.subscribed || executor.register_by_ms.is_some() {
        let (framework_id, executor_id) = ids();
        events.push(Event::ExecutorSubscribed { framework_id, executor_id });
    }
    // Time was up before it came: it hears that it is to end.
    if let Some(stop) = executor.stop {
        let (framework_id, executor_id) = ids();
        let Stop { why, kill_at_ms, .. } = stop;
        events.push(Event::StopRequested { framework_id, executor_id, why, kill_at_ms });
        return Ok(events);
    }
    let info: FrameworkInfo = state.frameworks[framework_id].info.get();
    let mut waiting = Vec::new();
    for (task_id, task) in executor.live_tasks() {
        let staging = task.state == TaskState::TaskStaging as i32;
        if !task.delivered {
            waiting.push(task_id.clone());
        } else if staging && !unacknowledged_tasks.contains(task_id) {
            // Handed over, but it never arrived; handing it over once more could run it twice.
            let update = Update::new(lost(&info), Source::Agent)
                .because(Reason::AgentRestarted)
                .saying("The task was lost on its way to the executor while the agent was restarted");
            events.push(update.event(state, framework_id, Some(executor), task_id, around));
        } else if let Some(policy) = &task.kill {
            let (framework_id, executor_id) = ids();
            let (task_id, policy) = (task_id.clone(), policy.clone());
            events.push(Event::TaskKillRequested { framework_id, executor_id, task_id, policy });
        }
    }
    let idle = waiting.is_empty() && executor.tasks.values().all(|task| !task.delivered);
    if idle {
        events.push(kill::stop(framework_id, executor, Why::Shutdown, around));
    } else if !waiting.is_empty() {
        // Those of one group next to each other.
        waiting.sort_by_key(|task_id| executor.tasks[task_id].group.clone());
        let (framework_id, executor_id) = ids();
        events.push(Event::TasksDelivered { framework_id, executor_id, task_ids: waiting });
    }
    Ok(events)
}

/// A task's new state. No events if it is known already, or comes after the end: then it is only acknowledged.
pub(crate) fn update(
    state: &State,
    framework_id: &str,
    executor_id: &str,
    mut status: TaskStatus,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Event>, Refusal> {
    let executor = find(state, framework_id, executor_id)?;
    let task_id = status.task_id.value.clone();
    if let Some(task) = executor.tasks.get(&task_id) {
        let known = status.uuid.as_ref().is_some_and(|uuid| task.uuids.iter().any(|seen| seen[..] == uuid[..]));
        if known || task.is_terminal() {
            return Ok(Vec::new());
        }
    }
    if state.frameworks[framework_id].removed {
        return Ok(Vec::new());
    }
    // Client demand 28: an executor may leave out what the agent knows.
    status.agent_id = agent_id(state);
    status.executor_id = Some(api::v1::ExecutorId { value: executor_id.to_owned() });
    status.source = Some(Source::Executor as i32);
    status.timestamp.get_or_insert(seconds(around.at_ms));
    let known = container_status(executor, &around.settings.ip);
    let container = status.container_status.get_or_insert_with(Default::default);
    container.container_id = known.container_id;
    container.executor_pid = known.executor_pid;
    if container.network_infos.is_empty() {
        container.network_infos = known.network_infos;
    }
    Ok(vec![Event::StatusWritten {
        framework_id: framework_id.to_owned(),
        executor_id: Some(executor_id.to_owned()),
        task_id,
        task_state: status.state,
        status: Blob::of(&status),
    }])
}
