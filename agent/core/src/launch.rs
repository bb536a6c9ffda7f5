//! From an order to a running container.

use api::internal::apply_operation::OfProvider;
use api::limits::AGENT_COMPLETED_FRAMEWORKS_MAX;
use api::v1::task_status::{Reason, Source};
use api::v1::{
    CommandInfo, ContainerInfo, ExecutorInfo, FrameworkInfo, Label, Labels, Resource, TaskInfo, TaskState,
    executor_info,
};

use crate::command::{Facts, Surroundings};
use crate::drain;
use crate::event::{Blob, Event};
use crate::state::{Executor, Process, State, Why};
use crate::status::{self, Update, lost};
use crate::volumes;

/// A task for an executor of its own (a command) or of its framework's.
pub(crate) fn task(
    state: &State,
    info: &FrameworkInfo,
    task: TaskInfo,
    providers: &[OfProvider],
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    match &task.executor {
        Some(executor) => {
            let executor = executor.clone();
            tasks(state, info, &executor, false, Launch { tasks: vec![task], group: None, providers }, around)
        }
        None => {
            let executor = command_executor(info, &task, &around.settings.launcher_dir);
            tasks(state, info, &executor, true, Launch { tasks: vec![task], group: None, providers }, around)
        }
    }
}

/// Tasks that one executor gets together.
pub(crate) fn group(
    state: &State,
    info: &FrameworkInfo,
    executor: &ExecutorInfo,
    mut group: Vec<TaskInfo>,
    providers: &[OfProvider],
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    if event_log::planted(event_log::Bug::GroupTorn) {
        group.truncate(1);
    }
    let first = group.first().map(|task| task.task_id.value.clone());
    tasks(state, info, executor, false, Launch { tasks: group, group: first, providers }, around)
}

/// What one executor is to get.
struct Launch<'a> {
    tasks: Vec<TaskInfo>,
    /// The first task of a group.
    group: Option<String>,
    /// What the masters knew of the resource providers that it has something of.
    providers: &'a [OfProvider],
}

fn tasks(
    state: &State,
    info: &FrameworkInfo,
    executor: &ExecutorInfo,
    is_command: bool,
    Launch { tasks, group, providers }: Launch<'_>,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let framework_id = info.id.clone().unwrap_or_default().value;
    let executor_id = executor.executor_id.value.clone();
    let framework = state.frameworks.get(&framework_id);
    let mut events = Vec::new();
    let info_blob = Blob::of(info);
    // Of a new framework, or of one without live executors, its age begins again.
    if framework.is_none_or(|framework| framework.info != info_blob || framework.executors.is_empty()) {
        events.extend(forgotten(state, &framework_id));
        events.push(Event::FrameworkSeen { framework_id: framework_id.clone(), info: info_blob });
    }
    let live = state.executor(&framework_id, &executor_id);
    let has_stream = live.is_some_and(|executor| executor.stream.is_some());
    let refusal = tasks
        .iter()
        .find_map(|task| unsupported(executor, task, is_command))
        .or_else(|| misplaced(executor, live, &tasks));
    let dropped = lost(info);
    let refused = match (refusal, live) {
        _ if state.model.drain.is_some() => Some((dropped, Reason::AgentDraining, drain::TOO_LATE.to_owned())),
        (Some(sentence), _) => Some((TaskState::TaskFailed, Reason::ContainerLaunchFailed, sentence)),
        _ if !providers.iter().all(|one| state.providers.has(one))
            && !event_log::planted(event_log::Bug::LaunchedOnOutdated) =>
        {
            Some((dropped, Reason::InvalidOffers, "Task assumes outdated resource state".to_owned()))
        }
        _ if state.leaving => Some((dropped, Reason::AgentDisconnected, "The agent is leaving".to_owned())),
        (None, Some(executor)) if is_command || executor.is_command => {
            Some((dropped, Reason::TaskInvalid, format!("Executor '{executor_id}' is still in use")))
        }
        (None, Some(executor)) if executor.stop.is_some() => {
            Some((dropped, Reason::ExecutorTerminated, format!("Executor '{executor_id}' is terminating")))
        }
        _ => None,
    };
    if let Some((task_state, reason, sentence)) = refused {
        for task in &tasks {
            let update = Update::new(task_state, Source::Agent).because(reason).saying(&sentence);
            events.push(update.event(state, &framework_id, None, &task.task_id.value, around));
        }
        // The masters count an executor from its first task on, and wait to hear of its end.
        if !is_command && live.is_none() {
            events.push(status::never_ran(framework_id, executor_id, around));
        }
        return events;
    }
    if live.is_none() {
        let register_by = around.at_ms + around.settings.executor_registration_timeout_ms;
        let mut executor = executor.clone();
        executor.framework_id.get_or_insert_with(|| info.id.clone().unwrap_or_default());
        events.push(Event::ExecutorAdded {
            framework_id: framework_id.clone(),
            executor_id: executor_id.clone(),
            is_command,
            info: Blob::of(&executor),
            container_id: around.random_id(),
            at_ms: around.at_ms,
            register_by_ms: (!is_command).then_some(register_by),
        });
    }
    let task_ids: Vec<String> = tasks.iter().map(|task| task.task_id.value.clone()).collect();
    for task in &tasks {
        let (framework_id, executor_id) = (framework_id.clone(), executor_id.clone());
        let (task_id, info, group) = (task.task_id.value.clone(), Blob::of(task), group.clone());
        events.push(Event::TaskAdded { framework_id, executor_id, task_id, info, group });
    }
    // Its executor takes it at once if it has a stream; otherwise when it subscribes.
    if has_stream {
        events.push(Event::TasksDelivered { framework_id, executor_id, task_ids });
    }
    events
}

/// Tasks whose launch cannot be read, or not be carried out at all.
pub(crate) fn invalid(
    state: &State,
    framework_id: &str,
    executor_id: Option<String>,
    task_ids: &[String],
    sentence: &str,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let update = Update::new(TaskState::TaskError, Source::Agent).because(Reason::TaskInvalid).saying(sentence);
    let mut events = Vec::new();
    for task_id in task_ids {
        events.push(update.event(state, framework_id, None, task_id, around));
    }
    // As above: they counted it.
    let unknown = executor_id.filter(|executor_id| state.executor(framework_id, executor_id).is_none());
    events.extend(unknown.map(|executor_id| status::never_ran(framework_id.to_owned(), executor_id, around)));
    events
}

/// Frameworks without live executors that one more would be too many beside: the oldest.
fn forgotten(state: &State, framework_id: &str) -> Vec<Event> {
    let idle = state.frameworks.iter().filter(|(id, one)| one.executors.is_empty() && *id != framework_id);
    let mut idle: Vec<(u64, &String)> = idle.map(|(id, framework)| (framework.order, id)).collect();
    idle.sort();
    let over = idle.len().saturating_sub(AGENT_COMPLETED_FRAMEWORKS_MAX);
    idle[..over].iter().map(|(_, id)| Event::FrameworkForgotten { framework_id: (*id).clone() }).collect()
}

/// The label that names a containerizer: of a task that the agent itself runs, or of an executor, which takes its tasks along.
const CONTAINERIZER: &str = "meseta.containerizer";

/// Why this agent cannot run a task: better said at once than ignored.
fn unsupported(executor: &ExecutorInfo, task: &TaskInfo, is_command: bool) -> Option<String> {
    // A command, and each task of the built-in default executor, has a container of its own, which may have a terminal.
    let is_own = task.executor.is_none() || executor.r#type == Some(executor_info::Type::Default as i32);
    let is_nested = executor.r#type == Some(executor_info::Type::Default as i32);
    let own = if is_command { &task.container } else { &executor.container };
    // What isolators and other containerizers do, they refuse where it would be done.
    let what = if !is_own && own.iter().chain(&task.container).any(|container| container.tty_info.is_some()) {
        "terminals of executors are"
    } else if is_nested && volumes::uses(&task.resources).is_ok_and(|uses| uses.iter().any(is_among_tasks)) {
        "volumes at 'tasks', where the default executor has the sandboxes of its tasks, are"
    } else if own.iter().chain(&task.container).any(|container| hides(container)) {
        "secrets in images and volumes that are not sealed are"
    } else if task.command.iter().chain(&executor.command).chain(of_checks(task)).any(has_references) {
        "secrets by reference are"
    } else if !is_command
        && containerizer(task.labels.as_ref())
            .is_some_and(|named| Some(named) != containerizer(executor.labels.as_ref()))
    {
        "a label meseta.containerizer of a task that its executor does not have is"
    } else {
        return None;
    };
    Some(format!("Failed to launch container: {what} not supported by this agent"))
}

/// Whether a container brings secrets along as they are, which are not to be written down.
fn hides(container: &ContainerInfo) -> bool {
    let is_open = |secret: &api::v1::Secret| match &secret.value {
        Some(value) => !api::secrets::is_sealed(&value.data),
        None => true,
    };
    api::secrets::in_container(container).any(is_open)
}

/// Commands that are run to look at a task.
fn of_checks(task: &TaskInfo) -> impl Iterator<Item = &CommandInfo> {
    let check = task.check.iter().filter_map(|check| check.command.as_ref()).map(|one| &one.command);
    check.chain(task.health_check.iter().filter_map(|check| check.command.as_ref()))
}

fn is_among_tasks(one: &volumes::Use) -> bool {
    one.path.split('/').next() == Some("tasks")
}

/// Why the volumes of an executor and all its tasks cannot be found in one sandbox.
fn misplaced(executor: &ExecutorInfo, live: Option<&Executor>, tasks: &[TaskInfo]) -> Option<String> {
    let mut resources = live.map_or_else(|| executor.resources.clone(), Executor::resources);
    resources.extend(tasks.iter().flat_map(|task| task.resources.iter().cloned()));
    volumes::uses(&resources).err().map(|sentence| format!("Failed to launch container: {sentence}"))
}

fn containerizer(labels: Option<&Labels>) -> Option<&str> {
    let mut labels = labels.into_iter().flat_map(|all| &all.labels);
    labels.find(|label| label.key == CONTAINERIZER).map(Label::value)
}

fn has_references(command: &CommandInfo) -> bool {
    let variables = command.environment.iter().flat_map(|environment| &environment.variables);
    variables.into_iter().any(|variable| api::secrets::check_reference(variable).is_err())
}

/// What stands for a command task where clients expect an executor.
#[expect(deprecated, reason = "clients still read the source of an executor")]
fn command_executor(info: &FrameworkInfo, task: &TaskInfo, launcher_dir: &str) -> ExecutorInfo {
    let task_id = &task.task_id.value;
    let command = task.command.clone().unwrap_or_default();
    let shown = match (command.shell(), &command.value) {
        (true, Some(value)) if value.chars().count() > 15 => {
            format!("sh -c '{}...'", value.chars().take(12).collect::<String>())
        }
        (true, value) => format!("sh -c '{}'", value.clone().unwrap_or_default()),
        (false, _) => format!("[{}]", command.arguments.join(", ")),
    };
    let allocation_info = task.resources.first().and_then(|resource| resource.allocation_info.clone());
    let scalar = |name: &str, value| Resource {
        name: name.to_owned(),
        r#type: api::v1::value::Type::Scalar as i32,
        scalar: Some(api::v1::value::Scalar { value }),
        allocation_info: allocation_info.clone(),
        ..Resource::default()
    };
    ExecutorInfo {
        executor_id: api::v1::ExecutorId { value: task_id.clone() },
        framework_id: info.id.clone(),
        name: Some(format!("Command Executor (Task: {task_id}) (Command: {shown})")),
        source: Some(task_id.clone()),
        command: Some(CommandInfo {
            shell: Some(false),
            value: Some(format!("{launcher_dir}/meseta-executor")),
            arguments: vec!["meseta-executor".to_owned()],
            ..CommandInfo::default()
        }),
        // Shown, and not charged to the offer, as clients know it.
        resources: vec![scalar("cpus", 0.1), scalar("mem", 32.0)],
        ..ExecutorInfo::default()
    }
}

/// The container's process runs: a command task does, an executor may now subscribe.
pub(crate) fn started(
    state: &State,
    container_id: &str,
    process: Process,
    facts: &Facts,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let Some((framework_id, executor)) = state.executor_of(container_id) else { return Vec::new() };
    if executor.process.is_some() {
        return Vec::new();
    }
    let task = executor.tasks.values().next().filter(|_| executor.is_command);
    let limit = task.and_then(|task| task.info.get::<TaskInfo>().max_completion_time);
    // Nought is no limit.
    let complete_by_ms = limit
        .filter(|limit| limit.nanoseconds > 0)
        .map(|limit| around.at_ms + u64::try_from(limit.nanoseconds / 1_000_000).unwrap_or(0));
    let running = executor::clone_with(executor, &process);
    let mut events = vec![Event::ContainerStarted { container_id: container_id.to_owned(), process, complete_by_ms }];
    let removed = state.frameworks.get(framework_id).is_some_and(|framework| framework.removed);
    if removed {
        return events;
    }
    if executor.is_command {
        for (task_id, _) in executor.live_tasks() {
            for task_state in [TaskState::TaskStarting, TaskState::TaskRunning] {
                let mut update = Update::new(task_state, Source::Executor).checked(executor);
                if task_state == TaskState::TaskRunning {
                    update = update.knowing_of_start(facts);
                }
                events.push(update.event(state, framework_id, Some(&running), task_id, around));
            }
        }
    } else {
        let (framework_id, executor_id) = (framework_id.to_owned(), executor.executor_id.clone());
        events.push(Event::ExecutorAnnounced { framework_id, executor_id });
    }
    events
}

mod executor {
    use crate::state::{Executor, Process};

    /// As it will be once the start is folded, as far as a status shows it.
    pub(super) fn clone_with(executor: &Executor, process: &Process) -> Executor {
        Executor {
            executor_id: executor.executor_id.clone(),
            container_id: executor.container_id.clone(),
            process: Some(process.clone()),
            ..Executor::default()
        }
    }
}

/// It could not be launched and never will be.
pub(crate) fn failed(state: &State, container_id: &str, message: &str, around: &mut Surroundings<'_>) -> Vec<Event> {
    if state.remnants.contains_key(container_id) {
        return vec![Event::RemnantEnded { container_id: container_id.to_owned() }];
    }
    let Some((framework_id, executor)) = state.executor_of(container_id) else { return Vec::new() };
    let message = format!("Failed to launch container: {message}");
    let update = match executor.stop {
        Some(stop) if stop.why == Why::Kill => {
            Update::new(TaskState::TaskKilled, Source::Agent).because(Reason::TaskKilledDuringLaunch)
        }
        _ => Update::new(TaskState::TaskFailed, Source::Agent).because(Reason::ContainerLaunchFailed),
    };
    update.saying(&message).end(state, framework_id, executor, around)
}

/// Nothing ran in the container and nothing will. If nobody wanted that, another one takes its place.
pub(crate) fn revoked(state: &State, container_id: &str, around: &mut Surroundings<'_>) -> Vec<Event> {
    if state.remnants.contains_key(container_id) {
        return vec![Event::RemnantEnded { container_id: container_id.to_owned() }];
    }
    let Some((framework_id, executor)) = state.executor_of(container_id) else { return Vec::new() };
    if executor.process.is_some() {
        return Vec::new();
    }
    if executor.stop.is_none() {
        let replacement_id = around.random_id();
        return vec![Event::ContainerReplaced { container_id: container_id.to_owned(), replacement_id }];
    }
    Update::new(TaskState::TaskKilled, Source::Agent)
        .because(Reason::TaskKilledDuringLaunch)
        .saying("Killed before it was launched")
        .end(state, framework_id, executor, around)
}
