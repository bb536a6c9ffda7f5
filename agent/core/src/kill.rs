//! How things are ended: tasks, executors, frameworks; and what happens when patience ends.

use api::v1::framework_info::capability::Type as Capability;
use api::v1::task_status::{Reason, Source};
use api::v1::{ExecutorInfo, KillPolicy, TaskInfo, TaskState};

use crate::command::Surroundings;
use crate::event::{Blob, Event};
use crate::executors;
use crate::state::{Executor, State, Why};
use crate::status::Update;

/// Executors whose time has come are dealt with in steps of so many: each is one record.
const DUE_MAX: usize = 256;

/// Time for a command to end after SIGTERM when nobody says otherwise.
const GRACE_MS: u64 = 3_000;

fn grace_ms(policy: &Option<KillPolicy>) -> Option<u64> {
    let nanoseconds = policy.as_ref()?.grace_period.as_ref()?.nanoseconds;
    Some(u64::try_from(nanoseconds).unwrap_or(0) / 1_000_000)
}

/// The framework wants a task to end.
pub(crate) fn task(
    state: &State,
    framework_id: &str,
    task_id: &str,
    policy: Option<KillPolicy>,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    // Not here, or over: its last update is under way to the masters.
    let Some(executor) = state.executor_with(framework_id, task_id) else { return Vec::new() };
    if executor.is_command {
        command(state, framework_id, executor, policy, Why::Kill, around)
    } else {
        custom(state, framework_id, executor, task_id, policy, around)
    }
}

/// A command is to end within its grace period.
pub(crate) fn command(
    state: &State,
    framework_id: &str,
    executor: &Executor,
    policy: Option<KillPolicy>,
    why: Why,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let Some((task_id, task)) = executor.live_tasks().next() else { return events };
    let of_task = || grace_ms(&task.info.get::<TaskInfo>().kill_policy);
    let kill_at_ms = around.at_ms + grace_ms(&policy).or_else(of_task).unwrap_or(GRACE_MS);
    let tells = state.frameworks.get(framework_id).is_some_and(|framework| framework.can(Capability::TaskKillingState));
    if tells && executor.process.is_some() && task.state != TaskState::TaskKilling as i32 {
        let update = Update::new(TaskState::TaskKilling, Source::Executor).checked(executor);
        events.push(update.event(state, framework_id, Some(executor), task_id, around));
    }
    let (framework_id, executor_id) = (framework_id.to_owned(), executor.executor_id.clone());
    events.push(Event::StopRequested { framework_id, executor_id, why, kill_at_ms });
    events
}

fn custom(
    state: &State,
    framework_id: &str,
    executor: &Executor,
    task_id: &str,
    policy: Option<KillPolicy>,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let task = &executor.tasks[task_id];
    if task.delivered {
        return vec![Event::TaskKillRequested {
            framework_id: framework_id.to_owned(),
            executor_id: executor.executor_id.clone(),
            task_id: task_id.to_owned(),
            policy: policy.as_ref().map(Blob::of),
        }];
    }
    // A group lives and dies together.
    let together = |(id, other): &(&String, &crate::Task)| {
        *id == task_id || (task.group.is_some() && other.group == task.group && !other.delivered)
    };
    let update = Update::new(TaskState::TaskKilled, Source::Agent)
        .because(Reason::TaskKilledDuringLaunch)
        .saying("Killed before delivery to the executor");
    let killed: Vec<&String> = executor.live_tasks().filter(together).map(|(id, _)| id).collect();
    let mut events: Vec<Event> =
        killed.iter().map(|id| update.event(state, framework_id, Some(executor), id, around)).collect();
    let ids: Vec<&str> = killed.iter().map(|id| id.as_str()).collect();
    events.extend(executors::forgotten(framework_id, executor, &ids, around.settings.ended_tasks_max));
    events
}

/// What its tasks use could not be brought into its sandbox: they cannot run as they should.
pub(crate) fn update_failed(state: &State, container_id: &str, around: &Surroundings<'_>) -> Vec<Event> {
    let Some((framework_id, executor)) = state.executor_of(container_id) else { return Vec::new() };
    let (framework_id, executor_id) = (framework_id.to_owned(), executor.executor_id.clone());
    let (why, kill_at_ms) = (Why::UpdateFailed, around.at_ms);
    let requested =
        Event::StopRequested { framework_id: framework_id.clone(), executor_id: executor_id.clone(), why, kill_at_ms };
    vec![requested, Event::StopForced { framework_id, executor_id }]
}

/// A framework is gone, and with it all that it has here.
pub(crate) fn framework(state: &State, framework_id: &str, kill_at_ms: u64) -> Vec<Event> {
    let Some(framework) = state.frameworks.get(framework_id) else { return Vec::new() };
    let mut events = vec![Event::FrameworkRemoved { framework_id: framework_id.to_owned() }];
    events.extend(framework.executors.keys().map(|executor_id| Event::StopRequested {
        framework_id: framework_id.to_owned(),
        executor_id: executor_id.clone(),
        why: Why::FrameworkRemoved,
        kill_at_ms,
    }));
    events
}

/// An executor is to end within its grace period.
pub(crate) fn stop(framework_id: &str, executor: &Executor, why: Why, around: &Surroundings<'_>) -> Event {
    let own = executor.info.get::<ExecutorInfo>().shutdown_grace_period;
    let own_ms = own.map(|grace| u64::try_from(grace.nanoseconds).unwrap_or(0) / 1_000_000);
    Event::StopRequested {
        framework_id: framework_id.to_owned(),
        executor_id: executor.executor_id.clone(),
        why,
        kill_at_ms: around.at_ms + own_ms.unwrap_or(around.settings.executor_shutdown_grace_ms),
    }
}

/// Everything of which the time has come.
pub(crate) fn pass_deadlines(state: &State, around: &mut Surroundings<'_>) -> Vec<Event> {
    let at_ms = around.at_ms;
    let due = state.executors().filter(|(_, executor)| executor.next_deadline_ms().is_some_and(|due| due <= at_ms));
    let mut events = Vec::new();
    for (framework_id, executor) in due.take(DUE_MAX) {
        let (framework_id, executor_id) = (framework_id.to_owned(), executor.executor_id.clone());
        let request = |why, kill_at_ms| Event::StopRequested {
            framework_id: framework_id.clone(),
            executor_id: executor_id.clone(),
            why,
            kill_at_ms,
        };
        if executor.stop.is_some() {
            events.push(Event::StopForced { framework_id, executor_id });
        } else if executor.register_by_ms.is_some_and(|due| due <= at_ms) {
            let why = if executor.subscribed { Why::ReregistrationTimeout } else { Why::RegistrationTimeout };
            events.extend([request(why, at_ms), Event::StopForced { framework_id, executor_id }]);
        } else {
            let task = executor.tasks.values().next();
            let policy = task.and_then(|task| task.info.get::<TaskInfo>().kill_policy);
            events.push(request(Why::MaxCompletion, at_ms + grace_ms(&policy).unwrap_or(GRACE_MS)));
        }
    }
    events
}
