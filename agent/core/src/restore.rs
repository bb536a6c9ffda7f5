//! State as the events that a shortened log begins with: part by part, each in a version of its own, so that neither a
//! large state makes a large record nor a new field an old log unreadable.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::containers::{Container, Containers};
use crate::event::Event;
use crate::model::{Drain, Model, Operation};
use crate::providers::{Provided, Provider, Providers};
use crate::state::{Executor, Framework, Messages, Registration, State, Task};

/// The events from which this state follows, whatever was before.
pub fn restoring(state: &State) -> impl Iterator<Item = Event> + '_ {
    let Registration { token, agent_id, cluster_id } = state.registration.clone();
    let begun = Event::RestoreBegun {
        token,
        agent_id,
        cluster_id,
        orders_up_to: state.orders_up_to,
        messages_up_to: state.messages.up_to,
        received_up_to: state.messages.received_up_to,
        leaving: state.leaving,
        frameworks_seen: state.frameworks_seen,
        clock: state.clock.clone(),
        remnants: state.remnants.iter().map(|(id, process)| (id.clone(), process.clone())).collect(),
    };
    let messages = state.messages.waiting.iter();
    let messages = messages.map(|(seq, message)| Event::MessageRestored { seq: *seq, message: message.clone() });
    let frameworks = state.frameworks.iter().flat_map(|(id, framework)| of_framework(id, framework));
    let containers = of_containers(&state.launched);
    let model = of_model(&state.model).chain(of_providers(&state.providers));
    std::iter::once(begun).chain(messages).chain(model).chain(frameworks).chain(containers)
}

fn of_model(model: &Model) -> impl Iterator<Item = Event> + '_ {
    let itself = (!model.is_empty()).then(|| Event::ModelRestored {
        checkpointed: model.checkpointed.clone(),
        operations_taken: model.operations_taken,
        drain: model.drain.clone().map(|Drain { config, at_ms }| (config, at_ms)),
        info: model.info.clone(),
        spare: model.spare.clone(),
    });
    let operation = |(place, one): (&u64, &Operation)| Event::OperationRestored {
        place: *place,
        operation: one.operation.clone(),
        framework_id: one.framework_id.clone(),
        info: one.info.clone(),
        on_disk: one.on_disk,
        status: one.status.clone(),
        ended: one.ended,
        forgotten: one.forgotten,
    };
    let provided = |one: &Operation| {
        let Provided { provider_id, version, sent } = one.provided.clone()?;
        Some(Event::ProviderOperationRestored { operation: one.operation.clone(), provider_id, version, sent })
    };
    let operations = model.operations.iter();
    let operations = operations.flat_map(move |one| std::iter::once(operation(one)).chain(provided(one.1)));
    itself.into_iter().chain(operations)
}

fn of_providers(providers: &Providers) -> impl Iterator<Item = Event> + '_ {
    let known = providers.known.iter().map(|(id, one)| Event::ProviderRestored {
        provider_id: id.clone(),
        info: one.info.clone(),
        stream: one.stream,
        stated: one.stated.clone(),
    });
    // Before those that are known: nothing is told again.
    providers.told.then_some(Event::ProvidersTaken {}).into_iter().chain(known)
}

fn of_containers(launched: &Containers) -> impl Iterator<Item = Event> + '_ {
    let all = launched.all.iter().map(|(id, one)| Event::ContainerRestored {
        container_id: id.clone(),
        info: one.info.clone(),
        user: one.user.clone(),
        session: one.session,
        added_ms: one.added_ms,
        process: one.process.clone(),
        killed: one.killed,
        end: one.end,
    });
    let ending = launched.ending.iter();
    let ending = ending.map(|(id, status)| Event::ContainerEnding { container_id: id.clone(), status: *status });
    let limited = launched.limited.iter().map(|(id, limited)| limited.event(id));
    all.chain(ending).chain(limited)
}

fn of_framework<'a>(framework_id: &'a str, framework: &'a Framework) -> impl Iterator<Item = Event> + 'a {
    let itself = Event::FrameworkRestored {
        framework_id: framework_id.to_owned(),
        info: framework.info.clone(),
        order: framework.order,
        removed: framework.removed,
    };
    let completed = framework.completed.iter().map(|executor| (executor, true));
    let live = framework.executors.values().map(|executor| (executor, false));
    let executors = completed.chain(live).flat_map(|(executor, over)| of_executor(framework_id, executor, over));
    std::iter::once(itself).chain(executors)
}

fn of_executor<'a>(framework_id: &'a str, executor: &'a Executor, completed: bool) -> impl Iterator<Item = Event> + 'a {
    let itself = Event::ExecutorRestored {
        framework_id: framework_id.to_owned(),
        executor_id: executor.executor_id.clone(),
        completed,
        is_command: executor.is_command,
        info: executor.info.clone(),
        container_id: executor.container_id.clone(),
        added_ms: executor.added_ms,
        process: executor.process.clone(),
        register_by_ms: executor.register_by_ms,
        subscribed: executor.subscribed,
        stream: executor.stream,
        complete_by_ms: executor.complete_by_ms,
        stop: executor.stop,
        status: executor.status,
    };
    let tasks = executor.tasks.iter().map(|(task_id, task)| Event::TaskRestored {
        framework_id: framework_id.to_owned(),
        container_id: executor.container_id.clone(),
        task_id: task_id.clone(),
        info: task.info.clone(),
        task_state: task.state,
        group: task.group.clone(),
        delivered: task.delivered,
        kill: task.kill.clone(),
        statuses: task.statuses.clone(),
        uuids: task.uuids.iter().cloned().collect(),
        ended: task.ended,
    });
    let unhealthy = (executor.unhealthy > 0)
        .then(|| Event::HealthSeen { container_id: executor.container_id.clone(), failures: executor.unhealthy });
    std::iter::once(itself).chain(tasks).chain(unhealthy)
}

/// Applies one of these events; others are none of its business.
pub(crate) fn fold(state: &mut State, event: &Event) {
    match event.clone() {
        Event::RestoreBegun {
            token,
            agent_id,
            cluster_id,
            orders_up_to,
            messages_up_to,
            received_up_to,
            leaving,
            frameworks_seen,
            clock,
            remnants,
        } => {
            *state = State {
                registration: Registration { token, agent_id, cluster_id },
                orders_up_to,
                messages: Messages { up_to: messages_up_to, received_up_to, ..Messages::default() },
                leaving,
                frameworks_seen,
                clock,
                remnants: remnants.into_iter().collect(),
                ..State::default()
            };
        }
        Event::MessageRestored { seq, message } => state.messages.wait(seq, message),
        Event::FrameworkRestored { framework_id, info, order, removed } => {
            state.frameworks.insert(framework_id, Framework { info, order, removed, ..Framework::default() });
        }
        Event::ExecutorRestored {
            framework_id,
            executor_id,
            completed,
            is_command,
            info,
            container_id,
            added_ms,
            process,
            register_by_ms,
            subscribed,
            stream,
            complete_by_ms,
            stop,
            status,
        } => {
            let executor = Executor {
                executor_id,
                is_command,
                info,
                container_id,
                added_ms,
                process,
                register_by_ms,
                subscribed,
                stream,
                complete_by_ms,
                stop,
                status,
                ..Executor::default()
            };
            if completed {
                let framework = state.frameworks.entry(framework_id).or_default();
                framework.completed.push_back(Arc::new(executor));
            } else {
                state.add_executor(&framework_id, executor);
            }
        }
        Event::TaskRestored {
            framework_id,
            container_id,
            task_id,
            info,
            task_state,
            group,
            delivered,
            kill,
            statuses,
            uuids,
            ended,
        } => {
            let uuids = VecDeque::from(uuids);
            let task = Task { info, state: task_state, group, delivered, kill, statuses, uuids, ended };
            let live = state.containers.get(&container_id).map(|(_, executor_id)| executor_id.clone());
            let Some(framework) = state.frameworks.get_mut(&framework_id) else { return };
            let executor = match live {
                Some(executor_id) => framework.executors.get_mut(&executor_id),
                // The one that was told last.
                None => framework.completed.back_mut().filter(|executor| executor.container_id == container_id),
            };
            if let Some(executor) = executor {
                Arc::make_mut(executor).tasks.insert(task_id, Box::new(task));
            }
        }
        Event::ModelRestored { checkpointed, operations_taken, drain, info, spare } => {
            let drain = drain.map(|(config, at_ms)| Drain { config, at_ms });
            state.model = Model { checkpointed, operations_taken, drain, info, spare, ..Model::default() };
        }
        Event::OperationRestored { place, operation, framework_id, info, on_disk, status, ended, forgotten } => {
            let provided = None;
            let one = Operation { operation, framework_id, info, on_disk, status, ended, forgotten, provided };
            state.model.operations.insert(place, one);
        }
        Event::ProviderOperationRestored { operation, provider_id, version, sent } => {
            if let Some((place, _)) = state.model.find(&operation)
                && let Some(one) = state.model.operations.get_mut(&place)
            {
                one.provided = Some(Provided { provider_id, version, sent });
            }
        }
        Event::ProviderRestored { provider_id, info, stream, stated } => {
            state.providers.known.insert(provider_id, Provider { info, stream, stated });
        }
        Event::ContainerRestored { container_id, info, user, session, added_ms, process, killed, end } => {
            let container = Container { info, user, session, added_ms, process, killed, end };
            state.launched.all.insert(container_id, container);
        }
        _ => {}
    }
}
