//! Executors that frameworks bring along: they subscribe, get tasks, and say how these are.

use std::collections::BTreeSet;

use api::limits::{AGENT_ENDED_TASKS_BYTES_MAX, AGENT_STATUSES_MAX, AGENT_WAITING_BYTES_MAX, AGENT_WAITING_MAX};
use api::v1::task_status::{Reason, Source};
use api::v1::{FrameworkInfo, TaskState, TaskStatus};

use crate::command::{Refusal, Surroundings};
use crate::containers::{parent_of, path};
use crate::event::{Blob, Event};
use crate::state::{Executor, State, Stop, Why, is_terminal};
use crate::status::{Update, agent_id, container_status, lost, seconds};
use crate::{drain, kill};

fn find<'a>(state: &'a State, framework_id: &str, executor_id: &str) -> Result<&'a Executor, Refusal> {
    state.frameworks.get(framework_id).ok_or(Refusal::UnknownFramework)?;
    let executor = state.executor(framework_id, executor_id).filter(|executor| !executor.is_command);
    executor.ok_or(Refusal::UnknownExecutor)
}

/// An executor is here, or here again. From this decision on its stream counts: what was handed over before went to
/// another one, or to none.
pub(crate) fn subscribe(
    state: &State,
    framework_id: &str,
    executor_id: &str,
    stream: u64,
    unacknowledged_tasks: &BTreeSet<String>,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Event>, Refusal> {
    let executor = find(state, framework_id, executor_id)?;
    let mut events = Vec::new();
    let ids = || (framework_id.to_owned(), executor_id.to_owned());
    events.extend(
        executor
            .stream
            .filter(|earlier| *earlier != stream)
            .into_iter()
            .flat_map(|earlier| lose(state, framework_id, executor_id, earlier)),
    );
    let (framework_id_, executor_id_) = ids();
    events.push(Event::ExecutorSubscribed { framework_id: framework_id_, executor_id: executor_id_, stream });
    // Time was up before it came: it hears that it is to end.
    if let Some(stop) = executor.stop {
        let (framework_id, executor_id) = ids();
        let Stop { why, kill_at_ms, .. } = stop;
        events.push(Event::StopRequested { framework_id, executor_id, why, kill_at_ms });
        return Ok(events);
    }
    let info: FrameworkInfo = state.frameworks[framework_id].info.get();
    let (mut waiting, mut lost_tasks) = (Vec::new(), Vec::new());
    for (task_id, task) in executor.live_tasks() {
        let staging = task.state == TaskState::TaskStaging as i32;
        if !task.delivered {
            waiting.push(task_id.clone());
        } else if staging
            && (!unacknowledged_tasks.contains(task_id) || event_log::planted(event_log::Bug::ReturnedTasksLost))
        {
            // Handed over, but it never arrived; handing it over once more could run it twice.
            let update = Update::new(lost(&info), Source::Agent)
                .because(Reason::AgentRestarted)
                .saying("The task was lost on its way to the executor while the agent was restarted");
            events.push(update.event(state, framework_id, Some(executor), task_id, around));
            lost_tasks.push(task_id.as_str());
        } else if let Some(policy) = &task.kill {
            let (framework_id, executor_id) = ids();
            let (task_id, policy) = (task_id.clone(), policy.clone());
            events.push(Event::TaskKillRequested { framework_id, executor_id, task_id, policy });
        }
    }
    events.extend(forgotten(framework_id, executor, &lost_tasks, around.settings.ended_tasks_max));
    let idle = waiting.is_empty() && !executor.subscribed && executor.tasks.values().all(|task| !task.delivered);
    // What was handed to its earlier stream was all that it was started for, and it will never hear of it.
    let in_vain = !lost_tasks.is_empty() && lost_tasks.len() == executor.tasks.len();
    if idle || in_vain {
        events.push(kill::stop(framework_id, executor, Why::Shutdown, around));
    } else if !waiting.is_empty() {
        // Those of one group next to each other.
        waiting.sort_by_key(|task_id| executor.tasks[task_id].group.clone());
        let (framework_id, executor_id) = ids();
        events.push(Event::TasksDelivered { framework_id, executor_id, task_ids: waiting });
    }
    Ok(events)
}

/// A stream ended. It may be that of another life, or one that another took the place of.
pub(crate) fn lose(state: &State, framework_id: &str, executor_id: &str, stream: u64) -> Vec<Event> {
    let executor = state.executor(framework_id, executor_id);
    let current = executor.is_some_and(|executor| executor.stream == Some(stream));
    let (framework_id, executor_id) = (framework_id.to_owned(), executor_id.to_owned());
    current.then_some(Event::ExecutorDisconnected { framework_id, executor_id, stream }).into_iter().collect()
}

/// Which ended tasks of a live executor there is no room for, with those that end now: the oldest. Those that end now are
/// over when this is folded, behind what they end by.
pub(crate) fn forgotten(framework_id: &str, executor: &Executor, ending: &[&str], count_max: usize) -> Option<Event> {
    let mut ended: Vec<_> = executor.tasks.iter().filter(|(_, task)| task.is_terminal()).collect();
    ended.sort_by_key(|(task_id, task)| (std::cmp::Reverse(task.ended), *task_id));
    let ending = ending.iter().filter_map(|task_id| executor.tasks.get_key_value(*task_id));
    let (mut count, mut bytes) = (0, 0);
    let over = ending.chain(ended).filter(|(_, task)| {
        count += 1;
        bytes += task.bytes();
        count > count_max || bytes > AGENT_ENDED_TASKS_BYTES_MAX
    });
    let task_ids: Vec<String> = over.map(|(task_id, _)| task_id.clone()).collect();
    (!task_ids.is_empty() && !event_log::planted(event_log::Bug::EndedTasksKept)).then(|| Event::TasksForgotten {
        framework_id: framework_id.to_owned(),
        executor_id: executor.executor_id.clone(),
        task_ids,
    })
}

/// Whether so much waits for the masters that only the ends of tasks are added.
pub(crate) fn is_full(state: &State) -> bool {
    state.messages.waiting.len() >= AGENT_WAITING_MAX || state.messages.waiting_bytes >= AGENT_WAITING_BYTES_MAX
}

/// Whether a status can be taken from an executor, whatever task it is of.
///
/// # Errors
/// A [`Refusal`] if it cannot be acknowledged, or says what only agents and masters say.
pub fn check_status(status: &TaskStatus) -> Result<(), Refusal> {
    let bytes = status.uuid.as_ref().map_or(0, |uuid| uuid.len());
    if bytes != 16 {
        return Err(Refusal::InvalidUuid { bytes });
    }
    match status.state() {
        // Whether an agent can be reached, or a task is known, is for masters to say.
        state @ (TaskState::TaskStaging | TaskState::TaskUnreachable | TaskState::TaskUnknown) => {
            Err(Refusal::NotAnExecutorsState { state: state.as_str_name() })
        }
        _ => Ok(()),
    }
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
    check_status(&status)?;
    let task_id = status.task_id.value.clone();
    if let Some(task) = executor.tasks.get(&task_id) {
        let known = status.uuid.as_ref().is_some_and(|uuid| task.uuids.iter().any(|seen| seen[..] == uuid[..]));
        if known || task.is_terminal() {
            return Ok(Vec::new());
        }
    } else if state.frameworks[framework_id].executors.values().any(|other| other.tasks.contains_key(&task_id)) {
        return Err(Refusal::OtherExecutorsTask { task_id, executor_id: executor_id.to_owned() });
    }
    if state.frameworks[framework_id].removed {
        return Ok(Vec::new());
    }
    // The executor keeps what was not acknowledged. There are not more ends than tasks.
    let ends = is_terminal(status.state) && executor.tasks.contains_key(&task_id);
    if is_full(state) && !ends {
        let (messages, bytes) = (state.messages.waiting.len(), state.messages.waiting_bytes);
        return Err(Refusal::TooManyWaiting { messages, bytes });
    }
    // Client demand 28: an executor may leave out what the agent knows.
    status.agent_id = agent_id(state);
    status.executor_id = Some(api::v1::ExecutorId { value: executor_id.to_owned() });
    status.source = Some(Source::Executor as i32);
    // No reader of JSON can be told of a time that is no number.
    status.timestamp = status.timestamp.filter(|timestamp| timestamp.is_finite());
    status.timestamp.get_or_insert(seconds(around.at_ms));
    let known = container_status(executor, around);
    let container = status.container_status.get_or_insert_with(Default::default);
    let within = container
        .container_id
        .as_ref()
        .map(path)
        .filter(|id| parent_of(id).is_some() && id.split('.').next() == Some(executor.container_id.as_str()));
    let is_there = match &within {
        // A container of the task's own, within the executor's. Nothing is said of one that is over.
        Some(id) => {
            let process = state.process(id);
            container.executor_pid = process.map(|process| process.supervisor_pid);
            container.cgroup_info = (around.given)(id).cgroup_info;
            state.launched.all.get(id).is_some_and(|one| one.end.is_none())
        }
        None => {
            container.container_id = known.container_id;
            container.executor_pid = known.executor_pid;
            container.cgroup_info = known.cgroup_info;
            true
        }
    };
    if container.network_infos.is_empty() && is_there {
        container.network_infos = known.network_infos;
    }
    drain::mark(state, framework_id, &mut status);
    let forgotten =
        if ends { forgotten(framework_id, executor, &[&task_id], around.settings.ended_tasks_max) } else { None };
    let written = Event::StatusWritten {
        framework_id: framework_id.to_owned(),
        executor_id: Some(executor_id.to_owned()),
        task_id,
        task_state: status.state,
        status: Blob::of(&status),
        statuses_max: AGENT_STATUSES_MAX,
    };
    Ok(std::iter::once(written).chain(forgotten).collect())
}
