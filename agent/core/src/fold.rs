//! What follows from each event. Cannot fail, knows no clock: every event was decided, so it fits.

use std::sync::Arc;

use crate::containers::Container;
use crate::event::{Blob, Event, first};
use crate::limits::Limited;
use crate::model::{Drain, Operation};
use crate::providers::{Provided, Stated};
use crate::restore;
use crate::state::{Executor, Message, State, Stop, Task, UUIDS_MAX};
use api::v1::{TaskState, TaskStatus};

/// Frameworks without live executors that folding keeps, whatever was decided. It is part of what events mean.
const IDLE_FRAMEWORKS_MAX: usize = 50;

/// Applies one event.
pub fn fold(state: &mut State, event: &Event) {
    match event {
        // Reading the event has looked at it.
        Event::Restored { state: encoded } => *state = first::decode(encoded).unwrap_or_default(),
        Event::TokenChosen { token } => state.registration.token = Some(*token),
        Event::Registered { agent_id, cluster_id } => {
            state.registration.agent_id = Some(agent_id.clone());
            state.registration.cluster_id = Some(cluster_id.clone());
        }
        Event::OrdersTaken { .. } if event_log::planted(event_log::Bug::OrdersAcknowledgedUnsynced) => {}
        Event::OrdersTaken { up_to } => state.orders_up_to = *up_to,
        Event::FrameworkSeen { framework_id, info } => state.see_framework(framework_id, info),
        Event::FrameworkRemoved { framework_id } => {
            if let Some(framework) = state.frameworks.get_mut(framework_id) {
                framework.removed = true;
            }
        }
        Event::ExecutorAdded { framework_id, executor_id, is_command, info, container_id, at_ms, register_by_ms } => {
            let executor = Executor {
                executor_id: executor_id.clone(),
                is_command: *is_command,
                info: info.clone(),
                container_id: container_id.clone(),
                added_ms: *at_ms,
                register_by_ms: *register_by_ms,
                ..Executor::default()
            };
            state.add_executor(framework_id, executor);
        }
        Event::TaskAdded { framework_id, executor_id, task_id, info, group } => {
            let task_state = TaskState::TaskStaging as i32;
            let task =
                Box::new(Task { info: info.clone(), state: task_state, group: group.clone(), ..Task::default() });
            state.change(framework_id, executor_id, |executor| executor.tasks.insert(task_id.clone(), task));
        }
        Event::TasksDelivered { framework_id, executor_id, task_ids } => {
            state.change(framework_id, executor_id, |executor| {
                for task_id in task_ids {
                    executor.tasks.entry(task_id.clone()).and_modify(|task| task.delivered = true);
                }
            });
        }
        Event::ContainerStarted { container_id, process, complete_by_ms } => {
            if let Some(container) = state.launched.all.get_mut(container_id) {
                container.process = Some(process.clone());
            }
            if let Some((framework_id, executor_id)) = state.containers.get(container_id).cloned() {
                state.change(&framework_id, &executor_id, |executor| {
                    executor.process = Some(process.clone());
                    executor.complete_by_ms = *complete_by_ms;
                });
            }
        }
        Event::ContainerReplaced { container_id, replacement_id } => {
            if let Some((framework_id, executor_id)) = state.containers.remove(container_id) {
                let replacement_id = replacement_id.clone();
                state.change(&framework_id, &executor_id, |executor| executor.container_id.clone_from(&replacement_id));
                state.containers.insert(replacement_id, (framework_id, executor_id));
            }
        }
        Event::StatusWritten { framework_id, executor_id, task_id, task_state, status, statuses_max } => {
            let number = state.number(Message::Status { framework_id: framework_id.clone(), status: status.clone() });
            if let Some(executor_id) = executor_id {
                state.change(framework_id, executor_id, |executor| {
                    executor.write(task_id, *task_state, status, *statuses_max as usize, number);
                });
            }
        }
        Event::ExecutorAnnounced { framework_id, executor_id } => {
            if let Some(executor) = state.executor(framework_id, executor_id) {
                let info = executor.info.clone();
                state.number(Message::ExecutorLaunched { framework_id: framework_id.clone(), info });
            }
        }
        Event::ExecutorSubscribed { framework_id, executor_id, stream } => {
            state.change(framework_id, executor_id, |executor| {
                executor.subscribed = true;
                executor.register_by_ms = None;
                // The first releases did not write down which stream it was.
                executor.stream = (*stream > 0).then_some(*stream);
            });
        }
        Event::ExecutorDisconnected { framework_id, executor_id, stream } => {
            state.change(framework_id, executor_id, |executor| {
                executor.stream = executor.stream.filter(|current| current != stream);
            });
        }
        Event::StopRequested { framework_id, executor_id, why, kill_at_ms } => {
            state.change(framework_id, executor_id, |executor| match &mut executor.stop {
                Some(stop) => stop.kill_at_ms = stop.kill_at_ms.min(*kill_at_ms),
                none => *none = Some(Stop { why: *why, kill_at_ms: *kill_at_ms, forced: false }),
            });
        }
        Event::StopForced { framework_id, executor_id } => {
            state.change(framework_id, executor_id, |executor| {
                executor.stop.iter_mut().for_each(|stop| stop.forced = true);
            });
        }
        Event::TaskKillRequested { framework_id, executor_id, task_id, policy } => {
            state.change(framework_id, executor_id, |executor| {
                executor.tasks.entry(task_id.clone()).and_modify(|task| task.kill = Some(policy.clone()));
            });
        }
        Event::ExecutorEnded { framework_id, executor_id, status, announced, completed_max } => {
            state.end_executor(framework_id, executor_id, *status, *completed_max as usize);
            if *announced {
                let (framework_id, executor_id) = (framework_id.clone(), executor_id.clone());
                state.number(Message::ExecutorExited { framework_id, executor_id, status: *status });
            }
        }
        Event::MessagesReceived { up_to, operations_stay } => {
            state.messages.cover(*up_to);
            state.model.cover(*up_to, *operations_stay);
        }
        Event::OperationsForgotten { operations } => state.model.forget_operations(operations),
        Event::Restarted { reregister_by_ms, register_by_ms, clock, ahead_ms } => {
            state.clock = (!clock.boot_id.is_empty()).then(|| clock.clone());
            let executors = state.frameworks.values_mut().flat_map(|framework| framework.executors.values_mut());
            for executor in executors.map(Arc::make_mut) {
                executor.restart(*reregister_by_ms, *register_by_ms, *ahead_ms);
            }
        }
        Event::LeavingBegun {} => state.leaving = true,
        Event::Left {} => {
            state.number(Message::Leaving);
        }
        Event::Forgotten {} => {
            let mut remnants = std::mem::take(&mut state.remnants);
            remnants.extend(
                state.executors().map(|(_, executor)| (executor.container_id.clone(), executor.process.clone())),
            );
            remnants.extend(state.launched.live().map(|(id, one)| (id.clone(), one.process.clone())));
            let model = std::mem::take(&mut state.model).forget();
            let providers = std::mem::take(&mut state.providers).forget();
            *state = State { remnants, clock: state.clock.take(), model, providers, ..State::default() };
        }
        Event::RemnantEnded { container_id } => {
            state.remnants.remove(container_id);
        }
        Event::TasksForgotten { framework_id, executor_id, task_ids } => {
            state.change(framework_id, executor_id, |executor| {
                executor.tasks.retain(|task_id, task| !task.is_terminal() || !task_ids.contains(task_id));
            });
        }
        Event::ExecutorForgotten { framework_id, container_id, .. } => {
            if let Some(framework) = state.frameworks.get_mut(framework_id) {
                framework.completed.retain(|executor| executor.container_id != *container_id);
            }
        }
        Event::FrameworkForgotten { framework_id } => {
            if state.frameworks.get(framework_id).is_some_and(|framework| framework.executors.is_empty()) {
                state.frameworks.remove(framework_id);
            }
        }
        Event::OperationTaken { operation, framework_id, info, on_disk, checkpointed } => {
            state.model.checkpointed.clone_from(checkpointed);
            state.model.operations_taken += 1;
            let one = Operation {
                operation: operation.clone(),
                framework_id: framework_id.clone(),
                info: info.clone(),
                on_disk: *on_disk,
                status: None,
                ended: 0,
                forgotten: false,
                provided: None,
            };
            state.model.operations.insert(state.model.operations_taken, one);
        }
        Event::ProviderOperationTaken { operation, framework_id, info, provider_id, version } => {
            state.model.operations_taken += 1;
            let one = Operation {
                operation: operation.clone(),
                framework_id: framework_id.clone(),
                info: info.clone(),
                on_disk: false,
                status: None,
                ended: 0,
                forgotten: false,
                provided: Some(Provided { provider_id: provider_id.clone(), version: version.clone(), sent: true }),
            };
            state.model.operations.insert(state.model.operations_taken, one);
        }
        Event::ProviderSubscribed { provider_id, info, stream } => {
            state.providers.known.entry(provider_id.clone()).or_default().info = info.clone();
            state.change_stream(provider_id, Some(*stream));
        }
        Event::ProviderStated { provider_id, version, resources, operations } => {
            let stated = Stated { version: version.clone(), resources: resources.clone() };
            state.state_provider(provider_id, stated, operations);
        }
        Event::ProviderDisconnected { provider_id, .. } => state.change_stream(provider_id, None),
        Event::ProviderGone { provider_id } => {
            state.providers.known.remove(provider_id);
            state.tell_providers(|_| false);
        }
        Event::ProvidersTaken {} => {
            state.providers.told = true;
            if !state.providers.known.is_empty() {
                state.tell_providers(|_| true);
            }
        }
        Event::OperationEnded { operation, status, told } => state.end_operation(operation, status, *told),
        Event::DrainBegun { config, at_ms } => {
            state.model.drain = Some(Drain { config: config.clone(), at_ms: *at_ms });
        }
        Event::DrainEnded {} => state.model.drain = None,
        Event::InfoTaken { info } => state.model.info = Some(info.clone()),
        Event::SpareEstimated { resources } => {
            state.model.spare = Some(resources.clone());
            state.number(Message::Spare { resources: resources.clone() });
        }
        Event::ContainerAdded { container_id, info, user, session, at_ms } => {
            let (info, user, session, added_ms) = (info.clone(), user.clone(), *session, *at_ms);
            let container = Container { info, user, session, added_ms, ..Container::default() };
            state.launched.all.insert(container_id.clone(), container);
        }
        Event::ContainerKillRequested { container_id } => {
            if let Some(container) = state.launched.all.get_mut(container_id) {
                container.killed = true;
            }
        }
        Event::ContainerEnding { container_id, status } => {
            state.launched.ending.insert(container_id.clone(), *status);
        }
        Event::ContainerEnded { container_id, status, failure } => {
            state.end_container(container_id, *status, failure.is_some());
        }
        Event::ContainerRemoved { container_id, .. } => state.launched.forget(container_id),
        Event::ContainerLimited { container_id, reason, message, resources } => {
            let limited = Limited { reason: *reason, message: message.clone(), resources: resources.clone() };
            state.launched.limited.insert(container_id.clone(), limited);
        }
        Event::HealthSeen { container_id, failures } => {
            if let Some((framework_id, executor_id)) = state.containers.get(container_id).cloned() {
                state.change(&framework_id, &executor_id, |executor| executor.unhealthy = *failures);
            }
        }
        // For those who read the log.
        Event::OrderNotUnderstood { .. } => {}
        Event::RestoreBegun { .. }
        | Event::MessageRestored { .. }
        | Event::FrameworkRestored { .. }
        | Event::ExecutorRestored { .. }
        | Event::TaskRestored { .. }
        | Event::ModelRestored { .. }
        | Event::OperationRestored { .. }
        | Event::ProviderRestored { .. }
        | Event::ProviderOperationRestored { .. }
        | Event::ContainerRestored { .. } => restore::fold(state, event),
    }
}

impl State {
    fn change<T>(&mut self, framework_id: &str, executor_id: &str, change: impl FnOnce(&mut Executor) -> T) {
        let framework = self.frameworks.get_mut(framework_id);
        framework.and_then(|framework| framework.executors.get_mut(executor_id)).map(Arc::make_mut).map(change);
    }

    pub(crate) fn number(&mut self, message: Message) -> u64 {
        self.messages.up_to += 1;
        self.messages.wait(self.messages.up_to, message);
        self.messages.up_to
    }

    fn end_operation(&mut self, operation: &[u8], status: &Blob, told: bool) {
        let Some((place, _)) = self.model.find(operation) else { return };
        if !told {
            self.model.operations.remove(&place);
            return;
        }
        let number = self.number(Message::Operation { operation: operation.to_vec(), status: status.clone() });
        if let Some(one) = self.model.operations.get_mut(&place) {
            (one.status, one.ended) = (Some(status.clone()), number);
        }
    }

    fn see_framework(&mut self, framework_id: &str, info: &Blob) {
        self.frameworks_seen += 1;
        let order = self.frameworks_seen;
        let framework = self.frameworks.entry(framework_id.to_owned()).or_default();
        framework.info = info.clone();
        framework.order = order;
        let idle = |state: &State| {
            let completed = state.frameworks.iter().filter(|(_, framework)| framework.executors.is_empty());
            let mut completed: Vec<_> = completed.map(|(id, framework)| (framework.order, id.clone())).collect();
            completed.sort();
            completed
        };
        // The one just seen is the youngest, so it stays.
        let idle = idle(self);
        for (_, id) in idle.iter().take(idle.len().saturating_sub(IDLE_FRAMEWORKS_MAX + 1)) {
            self.frameworks.remove(id);
        }
    }

    pub(crate) fn add_executor(&mut self, framework_id: &str, executor: Executor) {
        let names = (framework_id.to_owned(), executor.executor_id.clone());
        self.containers.insert(executor.container_id.clone(), names);
        let framework = self.frameworks.entry(framework_id.to_owned()).or_default();
        framework.executors.insert(executor.executor_id.clone(), Arc::new(executor));
    }

    fn end_executor(&mut self, framework_id: &str, executor_id: &str, status: Option<i32>, completed_max: usize) {
        let Some(framework) = self.frameworks.get_mut(framework_id) else { return };
        let Some(mut executor) = framework.executors.remove(executor_id) else { return };
        self.containers.remove(&executor.container_id);
        self.launched.forget(&executor.container_id);
        let ended = Arc::make_mut(&mut executor);
        (ended.status, ended.stop, ended.stream, ended.unhealthy) = (status, None, None, 0);
        framework.completed.push_back(executor);
        while framework.completed.len() > completed_max {
            framework.completed.pop_front();
        }
    }
}

impl Executor {
    /// `number` is that of the message.
    fn write(&mut self, task_id: &str, task_state: i32, status: &Blob, statuses_max: usize, number: u64) {
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        let mut decoded: TaskStatus = status.get();
        if let Some(uuid) = &decoded.uuid {
            task.uuids.push_back(uuid.to_vec());
            while task.uuids.len() > UUIDS_MAX {
                task.uuids.pop_front();
            }
        }
        if task.state == task_state && !task.statuses.is_empty() {
            task.statuses.pop();
        }
        decoded.data = None;
        task.statuses.push(Blob::of(&decoded));
        let over = task.statuses.len().saturating_sub(statuses_max);
        task.statuses.drain(..over);
        task.state = task_state;
        if task.is_terminal() {
            task.ended = number;
        }
        // Its deadline was its task's.
        if self.is_command && task.is_terminal() {
            self.complete_by_ms = None;
        }
    }

    fn restart(&mut self, reregister_by_ms: u64, register_by_ms: u64, ahead_ms: i64) {
        self.stream = None;
        let moved = |due_ms: u64| due_ms.saturating_add_signed(ahead_ms);
        self.complete_by_ms = self.complete_by_ms.map(moved);
        self.stop = self.stop.map(|stop| Stop { kill_at_ms: moved(stop.kill_at_ms), ..stop });
        self.register_by_ms = match self.register_by_ms.map(moved) {
            _ if self.subscribed && event_log::planted(event_log::Bug::ReturnNotAwaited) => None,
            _ if self.subscribed => Some(reregister_by_ms),
            due_ms => due_ms.map(|due_ms| due_ms.max(register_by_ms)),
        };
    }
}
