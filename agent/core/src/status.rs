//! The updates that the agent itself writes, and what the end of a container means for its tasks.

use api::limits::{AGENT_COMPLETED_BYTES_MAX, AGENT_STATUSES_MAX};
use api::v1::framework_info::capability::Type as Capability;
use api::v1::task_status::{Reason, Source};
use api::v1::{
    CheckStatusInfo, ContainerId, ContainerStatus, FrameworkInfo, NetworkInfo, TaskResourceLimitation, TaskState,
    TaskStatus, network_info,
};

use crate::command::{Facts, Surroundings};
use crate::event::{Blob, Event};
use crate::state::{Executor, State, Why};
use crate::{checks, drain};

/// An update in the making.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    task_state: TaskState,
    source: Source,
    reason: Option<Reason>,
    message: Option<String>,
    check: Option<CheckStatusInfo>,
    healthy: Option<bool>,
    limitation: Option<TaskResourceLimitation>,
    data: Option<String>,
}

impl Update {
    pub(crate) fn new(task_state: TaskState, source: Source) -> Update {
        let (reason, message, check, healthy, limitation) = (None, None, None, None, None);
        Update { task_state, source, reason, message, check, healthy, limitation, data: None }
    }

    pub(crate) fn because(self, reason: Reason) -> Update {
        Update { reason: Some(reason), ..self }
    }

    /// With what is told of its check before anything was seen.
    pub(crate) fn checked(self, executor: &Executor) -> Update {
        Update { check: checks::unseen(executor), ..self }
    }

    /// It ends because it was not healthy.
    fn unhealthy(self) -> Update {
        Update { healthy: Some(false), ..self }
    }

    /// With what is known of its checks.
    pub(crate) fn knowing(self, check: Option<CheckStatusInfo>, healthy: Option<bool>) -> Update {
        Update { check, healthy, ..self }
    }

    /// It ends because it exceeded this.
    pub(crate) fn limited(self, limitation: Option<TaskResourceLimitation>) -> Update {
        Update { limitation, ..self }
    }

    /// With what is known of how it started.
    pub(crate) fn knowing_of_start(self, facts: &Facts) -> Update {
        Update { data: facts.data.clone(), ..self }
    }

    pub(crate) fn saying(self, message: &str) -> Update {
        Update { message: Some(message.to_owned()), ..self }
    }

    /// Written for one task. `executor` is none if the launch was refused before it had one.
    pub(crate) fn event(
        &self,
        state: &State,
        framework_id: &str,
        executor: Option<&Executor>,
        task_id: &str,
        around: &mut Surroundings<'_>,
    ) -> Event {
        let mut status = TaskStatus {
            task_id: api::v1::TaskId { value: task_id.to_owned() },
            state: self.task_state as i32,
            message: self.message.clone(),
            source: Some(self.source as i32),
            reason: self.reason.map(|reason| reason as i32),
            agent_id: agent_id(state),
            executor_id: executor.map(|executor| api::v1::ExecutorId { value: executor.executor_id.clone() }),
            timestamp: Some(seconds(around.at_ms)),
            uuid: Some((around.random)().to_vec().into()),
            check_status: self.check,
            healthy: self.healthy,
            limitation: self.limitation.clone(),
            container_status: executor.map(|executor| container_status(executor, around)),
            data: self.data.as_ref().map(|data| data.clone().into()),
            ..TaskStatus::default()
        };
        drain::mark(state, framework_id, &mut status);
        Event::StatusWritten {
            framework_id: framework_id.to_owned(),
            executor_id: executor.map(|executor| executor.executor_id.clone()),
            task_id: task_id.to_owned(),
            task_state: status.state,
            status: Blob::of(&status),
            statuses_max: AGENT_STATUSES_MAX,
        }
    }

    /// Written for every task that is not over; and the executor is over, without ever having run.
    pub(crate) fn end(
        &self,
        state: &State,
        framework_id: &str,
        executor: &Executor,
        around: &mut Surroundings<'_>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        if !is_removed(state, framework_id) {
            for (task_id, _) in executor.live_tasks() {
                events.push(self.event(state, framework_id, Some(executor), task_id, around));
            }
        }
        ended(state, framework_id, executor, None, events, around)
    }
}

/// The `events` and then the executor's end.
fn ended(
    state: &State,
    framework_id: &str,
    executor: &Executor,
    status: Option<i32>,
    mut events: Vec<Event>,
    around: &Surroundings<'_>,
) -> Vec<Event> {
    // Also if it never ran: the masters count it, with its resources, from its first task on.
    let announced = !executor.is_command && !is_removed(state, framework_id);
    // There is always room for the one that has just ended, until the others are forgotten.
    let completed_max = around.settings.completed_executors_max.saturating_add(1);
    let forgotten = forgotten(state, framework_id, executor, around.settings.completed_executors_max as usize);
    let (framework_id, executor_id) = (framework_id.to_owned(), executor.executor_id.clone());
    events.push(Event::ExecutorEnded { framework_id, executor_id, status, announced, completed_max });
    events.extend(forgotten);
    let alone = state.launched.live().any(|(id, _)| crate::containers::parent_of(id).is_none());
    if state.leaving && state.containers.len() == 1 && !alone {
        events.push(Event::Left {});
    }
    events
}

/// Ended executors of a framework for which there is no room beside this one: the oldest.
fn forgotten(state: &State, framework_id: &str, ended: &Executor, count_max: usize) -> Vec<Event> {
    let completed = state.frameworks.get(framework_id).into_iter().flat_map(|framework| &framework.completed);
    let (mut count, mut bytes) = (0, 0);
    // The youngest first.
    let all = std::iter::once(ended).chain(completed.map(AsRef::as_ref).rev());
    let over = all.filter(|executor| {
        count += 1;
        bytes += executor.bytes();
        count > count_max || (bytes > AGENT_COMPLETED_BYTES_MAX && count > 1)
    });
    over.map(|executor| Event::ExecutorForgotten {
        framework_id: framework_id.to_owned(),
        executor_id: executor.executor_id.clone(),
        container_id: executor.container_id.clone(),
    })
    .collect()
}

/// The end of an executor that the masters counted and that never was.
pub(crate) fn never_ran(framework_id: String, executor_id: String, around: &Surroundings<'_>) -> Event {
    let completed_max = around.settings.completed_executors_max.saturating_add(1);
    Event::ExecutorEnded { framework_id, executor_id, status: None, announced: true, completed_max }
}

fn is_removed(state: &State, framework_id: &str) -> bool {
    state.frameworks.get(framework_id).is_some_and(|framework| framework.removed)
}

pub(crate) fn agent_id(state: &State) -> Option<api::v1::AgentId> {
    state.registration.agent_id.clone().map(|value| api::v1::AgentId { value })
}

/// As the wire has it: the one place where time is not an integer.
pub(crate) fn seconds(at_ms: u64) -> f64 {
    at_ms as f64 / 1000.0
}

/// Where a task can be reached.
pub(crate) fn container_status(executor: &Executor, around: &Surroundings<'_>) -> ContainerStatus {
    let address = network_info::IpAddress {
        protocol: Some(network_info::Protocol::IPv4 as i32),
        ip_address: Some(around.settings.ip.clone()),
    };
    let given = (around.given)(&executor.container_id);
    let machine = || vec![NetworkInfo { ip_addresses: vec![address], ..NetworkInfo::default() }];
    ContainerStatus {
        container_id: Some(ContainerId { value: executor.container_id.clone(), parent: None }),
        // One without a network of its own is reached where the machine is.
        network_infos: if given.network_infos.is_empty() { machine() } else { given.network_infos },
        executor_pid: executor.process.as_ref().map(|process| process.supervisor_pid),
        cgroup_info: given.cgroup_info,
    }
}

/// The state of a task that never was: what it is called depends on whether its framework knows partitions.
pub(crate) fn lost(info: &FrameworkInfo) -> TaskState {
    let aware = info.capabilities.iter().any(|have| have.r#type == Some(Capability::PartitionAware as i32));
    if aware { TaskState::TaskDropped } else { TaskState::TaskLost }
}

/// A container ended with a wait status, or nobody saw how.
pub(crate) fn exited(
    state: &State,
    container_id: &str,
    status: Option<i32>,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    if state.remnants.contains_key(container_id) {
        return vec![Event::RemnantEnded { container_id: container_id.to_owned() }];
    }
    let Some((framework_id, executor)) = state.executor_of(container_id) else { return Vec::new() };
    let mut events = Vec::new();
    if !is_removed(state, framework_id) {
        let limited = state.launched.limited.get(container_id);
        for (task_id, _) in executor.live_tasks() {
            let update = match limited {
                Some(limited) => limited.update(),
                None if executor.is_command => command_ended(state, framework_id, executor, status),
                None => executor_ended(state, framework_id, executor, status),
            };
            events.push(update.event(state, framework_id, Some(executor), task_id, around));
        }
    }
    ended(state, framework_id, executor, status, events, around)
}

fn command_ended(state: &State, framework_id: &str, executor: &Executor, status: Option<i32>) -> Update {
    if executor.stop.is_some_and(|stop| stop.why == Why::Preempted) {
        return preempted(state, framework_id);
    }
    let Some(status) = status else {
        return Update::new(TaskState::TaskFailed, Source::Agent)
            .because(Reason::ExecutorTerminated)
            .saying("The supervisor of the task ended without leaving its exit status");
    };
    let message = api::exit::describe(status);
    let update = |task_state| Update::new(task_state, Source::Executor).saying(&message).checked(executor);
    match executor.stop.map(|stop| stop.why) {
        Some(Why::MaxCompletion) => update(TaskState::TaskFailed).because(Reason::MaxCompletionTimeReached),
        Some(Why::Unhealthy) => update(TaskState::TaskKilled).unhealthy(),
        Some(_) => update(TaskState::TaskKilled),
        None if status == 0 => update(TaskState::TaskFinished),
        None => update(TaskState::TaskFailed),
    }
}

fn preempted(state: &State, framework_id: &str) -> Update {
    let update = Update::new(gone(state, framework_id), Source::Agent);
    update.because(Reason::ContainerPreempted).saying(crate::spare::PREEMPTED)
}

/// The state of a task that was started and is no more.
fn gone(state: &State, framework_id: &str) -> TaskState {
    let framework = state.frameworks.get(framework_id);
    let aware = framework.is_some_and(|framework| framework.can(Capability::PartitionAware));
    if aware { TaskState::TaskGone } else { TaskState::TaskLost }
}

fn executor_ended(state: &State, framework_id: &str, executor: &Executor, status: Option<i32>) -> Update {
    let why = executor.stop.map(|stop| stop.why);
    let (task_state, reason, message) = match why {
        Some(Why::RegistrationTimeout) => (
            TaskState::TaskFailed,
            Reason::ExecutorRegistrationTimeout,
            "The executor did not subscribe in time".to_owned(),
        ),
        Some(Why::ReregistrationTimeout) => {
            let message = "The executor did not come back after the agent was restarted".to_owned();
            (gone(state, framework_id), Reason::ExecutorReregistrationTimeout, message)
        }
        Some(Why::Preempted) => return preempted(state, framework_id),
        Some(Why::UpdateFailed) => {
            let message = "The volumes of the executor's tasks could not be brought into its sandbox".to_owned();
            (TaskState::TaskFailed, Reason::ContainerUpdateFailed, message)
        }
        // Whether they had reached it or not: a task that waits for an executor fails with it.
        _ => {
            let message = status.map_or("The executor ended".to_owned(), api::exit::describe);
            (TaskState::TaskFailed, Reason::ExecutorTerminated, message)
        }
    };
    Update::new(task_state, Source::Agent).because(reason).saying(&message)
}
