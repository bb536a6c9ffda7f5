//! What the world must now be told. Effects only start things: what must happen follows from State, and [`resume`]
//! starts it again after the agent was.

use std::collections::BTreeSet;

use crate::checks;
use crate::event::Event;
use crate::limits::Limited;
use crate::model::Operation;
use crate::state::{Executor, State, Task, Why};

/// What the world must now be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Launch the container of an executor.
    Launch {
        /// The container.
        container_id: String,
    },
    /// End what runs in a container; what does not run yet must never run.
    Stop {
        /// The container.
        container_id: String,
        /// How.
        signal: Signal,
    },
    /// Nobody needs the container's files of launch and exit any more.
    Release {
        /// The container.
        container_id: String,
    },
    /// A container that was launched by call runs, or is over: whoever waits for it hears that.
    Tell {
        /// The container.
        container_id: String,
        /// What became of it.
        told: Told,
    },
    /// Nobody needs the files of a container that was launched by call any more.
    Remove {
        /// The container.
        container_id: String,
    },
    /// Say something to a custom executor, on this stream and no other.
    Deliver {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Number of the stream.
        stream: u64,
        /// What.
        delivery: Delivery,
    },
    /// Another stream took the place of an executor's, or it ended: nothing more is said there.
    HangUp {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Number of the stream.
        stream: u64,
    },
    /// Nobody finds the files of an executor any more, or of a whole framework.
    ForgetFiles {
        /// The framework.
        framework_id: String,
        /// The executor and its container, if it is not all of them.
        executor: Option<(String, String)>,
    },
    /// Make an operation so on the disk. What comes of it is reported; what is done behind this effect sees it done.
    Apply {
        /// Names it.
        operation: Vec<u8>,
    },
    /// An operation is over, for good: nothing of it needs to be kept on the disk to know how far it got.
    Settle {
        /// Names it.
        operation: Vec<u8>,
    },
    /// Say something to a provider, on this stream and no other.
    Provide {
        /// The provider.
        provider_id: String,
        /// Number of the stream.
        stream: u64,
        /// What.
        said: Said,
    },
    /// A provider said what it has: who waited for it can go on.
    Ready,
    /// Other streams took the place of a provider's, or they ended: nothing more is said there.
    LetGo {
        /// The provider.
        provider_id: String,
        /// Those with smaller numbers; all if there is none.
        below: Option<u64>,
    },
    /// What a container that runs may use is not what it was.
    Update {
        /// The container.
        container_id: String,
    },
    /// The volumes of an executor in whose sandbox there are others are not what they were.
    Link {
        /// Its container.
        container_id: String,
    },
    /// Look at the task of a container for as long as it runs, as its checks say.
    Check {
        /// The container.
        container_id: String,
    },
    /// There are messages for the masters.
    SendMessages,
    /// Orders are in the log.
    AcknowledgeOrders,
    /// Everything has ended, the masters may hear that the agent is gone.
    ReportLeft,
}

/// How to end a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: it may clean up.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// What is heard of a container that was launched by call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It runs.
    Runs,
    /// It exceeded what it may use, and will end.
    Limited(Limited),
    /// It is over; its wait status if somebody saw it end.
    Ended(Option<i32>),
    /// It never ran, for a reason in a sentence.
    Failed(String),
}

/// What is said to a provider of resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Make an operation so.
    Apply {
        /// Names it.
        operation: Vec<u8>,
    },
    /// What it said of an operation has been heard, by everybody.
    Acknowledge {
        /// Names the operation.
        operation: Vec<u8>,
        /// Names what it said.
        status: Vec<u8>,
    },
    /// It is not wanted any more.
    Teardown,
}

/// What is said to a custom executor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Run these tasks; `together` if they are one group.
    Launch {
        /// The tasks.
        task_ids: Vec<String>,
        /// They are a group.
        together: bool,
    },
    /// End a task.
    Kill {
        /// The task.
        task_id: String,
    },
    /// An update is in the log.
    Acknowledge {
        /// Of this task.
        task_id: String,
        /// Of the update.
        uuid: Vec<u8>,
    },
    /// End.
    Shutdown,
}

/// What follows from an event that is in the log, of what State knows no longer once it is folded.
pub fn part(state: &State, event: &Event) -> Vec<Effect> {
    let is_over: Box<dyn Fn(&Operation) -> bool> = match event {
        Event::MessagesReceived { up_to, operations_stay } => Box::new(|one| one.is_covered(*up_to, *operations_stay)),
        Event::OperationsForgotten { operations } => {
            Box::new(|one| one.ended != 0 && operations.contains(&one.operation))
        }
        Event::ProviderGone { provider_id } => {
            let stream = state.providers.get(provider_id).and_then(|provider| provider.stream);
            let teardown = stream.map(|stream| provide(provider_id.clone(), stream, Said::Teardown));
            return teardown.into_iter().collect();
        }
        _ => return Vec::new(),
    };
    let provided = state.model.operations.values().filter(|one| one.provided.is_some() && is_over(one));
    let acknowledge = provided.filter_map(|one| {
        let (provider_id, operation, status) = state.acknowledgement(one)?;
        let stream = state.providers.get(&provider_id)?.stream?;
        Some(provide(provider_id, stream, Said::Acknowledge { operation, status }))
    });
    acknowledge.collect()
}

fn provide(provider_id: String, stream: u64, said: Said) -> Effect {
    Effect::Provide { provider_id, stream, said }
}

/// What follows from an event that is in the log; `state` has it folded.
pub fn react(state: &State, event: &Event) -> Vec<Effect> {
    match event {
        Event::OrdersTaken { .. } => vec![Effect::AcknowledgeOrders],
        Event::ExecutorAdded { container_id, .. } => vec![Effect::Launch { container_id: container_id.clone() }],
        Event::ContainerReplaced { container_id, replacement_id } => vec![
            Effect::Release { container_id: container_id.clone() },
            Effect::Launch { container_id: replacement_id.clone() },
        ],
        Event::ContainerStarted { container_id, .. } => match state.executor_of(container_id) {
            // The order to end came while it was being launched.
            Some((_, executor)) if executor.stop.is_some() => vec![stop(executor)],
            Some((_, executor)) if checks::is_checked(executor) => vec![check(executor)],
            Some(_) => Vec::new(),
            None => {
                let killed = state.launched.all.get(container_id).is_some_and(|one| one.killed);
                let tell = Effect::Tell { container_id: container_id.clone(), told: Told::Runs };
                std::iter::once(tell).chain(killed.then(|| kill(container_id))).collect()
            }
        },
        Event::ContainerAdded { container_id, .. } => vec![Effect::Launch { container_id: container_id.clone() }],
        Event::ContainerKillRequested { container_id } => vec![kill(container_id)],
        Event::ContainerEnded { container_id, status, failure } => {
            let told = failure.clone().map_or(Told::Ended(*status), Told::Failed);
            let tell = Effect::Tell { container_id: container_id.clone(), told };
            let left = (state.leaving && state.runs_nothing()).then_some(Effect::ReportLeft);
            let release = Effect::Release { container_id: container_id.clone() };
            let release = (!event_log::planted(event_log::Bug::ReleaseForgotten)).then_some(release);
            release.into_iter().chain([tell]).chain(left).collect()
        }
        Event::ContainerLimited { container_id, reason, message, resources } => {
            let limited = Limited { reason: *reason, message: message.clone(), resources: resources.clone() };
            vec![Effect::Tell { container_id: container_id.clone(), told: Told::Limited(limited) }]
        }
        Event::ContainerRemoved { container_id, with_files: true } => {
            vec![Effect::Remove { container_id: container_id.clone() }]
        }
        Event::TasksDelivered { framework_id, executor_id, task_ids } => {
            state.executor(framework_id, executor_id).map_or(Vec::new(), |executor| {
                let tasks = task_ids.iter().filter_map(|task_id| executor.tasks.get(task_id));
                let link = tasks.filter(|task| has_volumes(task)).map(|_| link(executor)).take(1);
                let launches = launches(executor, task_ids);
                let before = std::iter::once(update(executor)).chain(link);
                before.chain(launches.filter_map(|delivery| deliver(framework_id, executor, delivery))).collect()
            })
        }
        Event::ExecutorDisconnected { framework_id, executor_id, stream } => vec![Effect::HangUp {
            framework_id: framework_id.clone(),
            executor_id: executor_id.clone(),
            stream: *stream,
        }],
        Event::StatusWritten { framework_id, executor_id, task_id, status, .. } => {
            let mut effects = vec![Effect::SendMessages];
            let status: api::v1::TaskStatus = status.get();
            let by_executor = status.source == Some(api::v1::task_status::Source::Executor as i32);
            if let (Some(executor_id), Some(uuid), true) = (executor_id, status.uuid, by_executor) {
                let delivery = Delivery::Acknowledge { task_id: task_id.clone(), uuid: uuid.to_vec() };
                let executor = state.executor(framework_id, executor_id);
                effects.extend(executor.and_then(|executor| deliver(framework_id, executor, delivery)));
            }
            let executor = executor_id.as_ref().and_then(|id| state.executor(framework_id, id));
            // With a command's task its container is over.
            let over = executor.filter(|executor| !executor.is_command);
            let over = over.filter(|executor| executor.tasks.get(task_id).is_some_and(|task| task.is_terminal()));
            effects.extend(over.map(update));
            effects.extend(over.filter(|executor| has_volumes(&executor.tasks[task_id])).map(link));
            effects
        }
        Event::StopRequested { framework_id, executor_id, .. } | Event::StopForced { framework_id, executor_id } => {
            state.executor(framework_id, executor_id).map_or(Vec::new(), |executor| stops(framework_id, executor))
        }
        Event::TaskKillRequested { framework_id, executor_id, task_id, .. } => {
            let kill = Delivery::Kill { task_id: task_id.clone() };
            let executor = state.executor(framework_id, executor_id);
            executor.and_then(|executor| deliver(framework_id, executor, kill)).into_iter().collect()
        }
        Event::ExecutorEnded { framework_id, .. } => {
            let completed = state.frameworks.get(framework_id).and_then(|framework| framework.completed.back());
            let release = completed.map(|executor| Effect::Release { container_id: executor.container_id.clone() });
            let tell = completed.map(|executor| Effect::Tell {
                container_id: executor.container_id.clone(),
                told: Told::Ended(executor.status),
            });
            let left = (state.leaving && state.runs_nothing()).then_some(Effect::ReportLeft);
            release.into_iter().chain([Effect::SendMessages]).chain(left).chain(tell).collect()
        }
        Event::LeavingBegun {} if state.runs_nothing() => vec![Effect::ReportLeft],
        Event::Forgotten {} => {
            let remnants = state.remnants.keys().map(|container_id| kill(container_id));
            let providers = state.providers.known.keys().cloned();
            remnants.chain(providers.map(|provider_id| Effect::LetGo { provider_id, below: None })).collect()
        }
        Event::ExecutorForgotten { framework_id, executor_id, container_id } => vec![Effect::ForgetFiles {
            framework_id: framework_id.clone(),
            executor: Some((executor_id.clone(), container_id.clone())),
        }],
        Event::FrameworkForgotten { framework_id } => {
            vec![Effect::ForgetFiles { framework_id: framework_id.clone(), executor: None }]
        }
        Event::RemnantEnded { container_id } => vec![Effect::Release { container_id: container_id.clone() }],
        Event::OperationTaken { operation, on_disk: true, .. } => {
            vec![Effect::Apply { operation: operation.clone() }]
        }
        Event::ProviderOperationTaken { operation, provider_id, .. } => {
            let stream = state.providers.get(provider_id).and_then(|provider| provider.stream);
            let apply = |stream| provide(provider_id.clone(), stream, Said::Apply { operation: operation.clone() });
            stream.map(apply).into_iter().collect()
        }
        Event::ProviderSubscribed { provider_id, stream, .. } => {
            vec![Effect::LetGo { provider_id: provider_id.clone(), below: Some(*stream) }, Effect::SendMessages]
        }
        Event::ProviderDisconnected { provider_id, stream } => {
            let below = Some(stream.saturating_add(1));
            vec![Effect::LetGo { provider_id: provider_id.clone(), below }, Effect::SendMessages]
        }
        Event::ProviderGone { provider_id } => {
            vec![Effect::LetGo { provider_id: provider_id.clone(), below: None }, Effect::SendMessages]
        }
        Event::ProviderStated { .. } => vec![Effect::SendMessages, Effect::Ready],
        Event::ProvidersTaken {} => vec![Effect::SendMessages],
        Event::OperationEnded { operation, .. } => {
            vec![Effect::Settle { operation: operation.clone() }, Effect::SendMessages]
        }
        Event::ExecutorAnnounced { .. } | Event::Left {} | Event::SpareEstimated { .. } => vec![Effect::SendMessages],
        Event::Restored { .. }
        | Event::TokenChosen { .. }
        | Event::Registered { .. }
        | Event::FrameworkSeen { .. }
        | Event::FrameworkRemoved { .. }
        | Event::TaskAdded { .. }
        | Event::ExecutorSubscribed { .. }
        | Event::MessagesReceived { .. }
        | Event::Restarted { .. }
        | Event::LeavingBegun {}
        | Event::TasksForgotten { .. }
        | Event::OrderNotUnderstood { .. }
        | Event::RestoreBegun { .. }
        | Event::MessageRestored { .. }
        | Event::FrameworkRestored { .. }
        | Event::ExecutorRestored { .. }
        | Event::TaskRestored { .. }
        | Event::OperationTaken { on_disk: false, .. }
        | Event::DrainBegun { .. }
        | Event::DrainEnded {}
        | Event::InfoTaken { .. }
        | Event::ModelRestored { .. }
        | Event::OperationRestored { .. }
        | Event::OperationsForgotten { .. }
        | Event::ContainerEnding { .. }
        | Event::HealthSeen { .. }
        | Event::ContainerRemoved { with_files: false, .. }
        | Event::ProviderRestored { .. }
        | Event::ProviderOperationRestored { .. }
        | Event::ContainerRestored { .. } => Vec::new(),
    }
}

/// Takes away what effects of one decision make useless: a container that is to end at once is not asked to end before. Effects have no
/// order among each other, and who is asked may have been told of a time that it then does not get.
pub fn without_useless(mut effects: Vec<Effect>) -> Vec<Effect> {
    let forced = effects.iter().filter_map(|effect| match effect {
        Effect::Stop { container_id, signal: Signal::Kill } => Some(container_id.clone()),
        _ => None,
    });
    let forced: BTreeSet<String> = forced.collect();
    if !forced.is_empty() {
        let is_useless = |effect: &Effect| matches!(effect, Effect::Stop { container_id, signal: Signal::Terminate } if forced.contains(container_id));
        effects.retain(|effect| !is_useless(effect));
    }
    effects
}

fn check(executor: &Executor) -> Effect {
    Effect::Check { container_id: executor.container_id.clone() }
}

/// What a started agent must take up again. Launches and exits of containers are found by looking at them.
pub fn resume(state: &State) -> Vec<Effect> {
    let stopping = state.executors().filter(|(_, executor)| executor.stop.is_some());
    let remnants = state.remnants.keys().map(|container_id| kill(container_id));
    let left = state.leaving && state.runs_nothing() && state.messages.waiting.is_empty();
    // In the order in which they came: the first that begins may have been done already, and says so.
    let is_forgotten = event_log::planted(event_log::Bug::OperationsUnfinishedAtStart);
    let open = state.model.operations.values().filter(|one| one.on_disk && one.status.is_none() && !is_forgotten);
    let operations = open.map(|one| Effect::Apply { operation: one.operation.clone() });
    let stopping = operations.chain(stopping.map(|(_, executor)| stop(executor)));
    let killed = state.launched.live().filter(|(_, one)| one.killed).map(|(id, _)| kill(id));
    let checked = state.executors().filter(|(_, executor)| executor.process.is_some() && checks::is_checked(executor));
    let checked = checked.map(|(_, executor)| check(executor));
    stopping.chain(killed).chain(checked).chain(remnants).chain(left.then_some(Effect::ReportLeft)).collect()
}

/// Tasks as they are handed over: a group at once, others one by one.
fn launches<'a>(executor: &'a Executor, task_ids: &'a [String]) -> impl Iterator<Item = Delivery> + 'a {
    let group = |task_id: &String| executor.tasks.get(task_id).and_then(|task| task.group.as_ref());
    let same = move |a: &String, b: &String| group(a).is_some() && group(a) == group(b);
    task_ids
        .chunk_by(same)
        .map(move |tasks| Delivery::Launch { task_ids: tasks.to_vec(), together: group(&tasks[0]).is_some() })
}

fn stops(framework_id: &str, executor: &Executor) -> Vec<Effect> {
    let gently = executor.stop.is_some_and(|stop| !stop.forced)
        && !executor.is_command
        && executor.subscribed
        && executor.stop.is_some_and(|stop| {
            matches!(stop.why, Why::Shutdown | Why::FrameworkRemoved | Why::Leaving | Why::Kill | Why::MaxCompletion)
        });
    // A custom executor is asked; only when its time is up it is ended. One without a stream is asked when it returns.
    if gently {
        deliver(framework_id, executor, Delivery::Shutdown).into_iter().collect()
    } else {
        vec![stop(executor)]
    }
}

fn has_volumes(task: &Task) -> bool {
    let resources = task.info.get::<api::v1::TaskInfo>().resources;
    resources.iter().any(|resource| resource.disk.as_ref().is_some_and(|disk| disk.persistence.is_some()))
}

fn update(executor: &Executor) -> Effect {
    Effect::Update { container_id: executor.container_id.clone() }
}

fn link(executor: &Executor) -> Effect {
    Effect::Link { container_id: executor.container_id.clone() }
}

fn stop(executor: &Executor) -> Effect {
    let forced = executor.stop.is_some_and(|stop| stop.forced);
    let signal = if forced { Signal::Kill } else { Signal::Terminate };
    Effect::Stop { container_id: executor.container_id.clone(), signal }
}

fn kill(container_id: &str) -> Effect {
    Effect::Stop { container_id: container_id.to_owned(), signal: Signal::Kill }
}

fn deliver(framework_id: &str, executor: &Executor, delivery: Delivery) -> Option<Effect> {
    let stream = executor.stream?;
    let (framework_id, executor_id) = (framework_id.to_owned(), executor.executor_id.clone());
    Some(Effect::Deliver { framework_id, executor_id, stream, delivery })
}
