//! What visitors of an agent see, and what they may. It is asked here alone, by the users that executors and tasks run as.

#![expect(deprecated, reason = "clients use both spellings of calls of containers")]

use agent_core::{Executor, Framework, State, Task};
use api::v1::agent::{Call, call};
use api::v1::{CommandInfo, ContainerId, ExecutorInfo, FrameworkInfo, TaskInfo};
use api_http::{Reason, Response, StatusCode, Visitor, empty, text};
use auth::{Action, Approver, Need, Sight, needs};
use std::sync::Arc;

use crate::agent::Agent;
use crate::nested;

/// The agent's state as somebody sees it.
pub(crate) fn seen(agent: &Agent, visitor: &Visitor) -> State {
    // It shares what is in it; the agent goes on meanwhile.
    let state = agent.state.read().clone();
    match visitor.approver.sight() {
        None => state,
        Some(sight) => hide(state, &sight),
    }
}

fn hide(mut state: State, sight: &Sight) -> State {
    state.frameworks.retain(|_, framework| sight.frameworks.passes(Some(&framework_user(framework))));
    for framework in state.frameworks.values_mut() {
        let of_framework = framework_user(framework);
        let show = |executor: &Arc<Executor>| -> Option<Arc<Executor>> {
            if !sight.executors.passes(Some(&user_of(executor, &of_framework))) {
                return None;
            }
            let mut shown = Executor::clone(executor);
            shown.tasks.retain(|_, task| sight.tasks.passes(Some(&task_user(task, &of_framework))));
            // One that only stands for its task is there with that alone.
            let is_hidden = shown.is_command && shown.tasks.is_empty() && !executor.tasks.is_empty();
            (!is_hidden).then(|| Arc::new(shown))
        };
        framework.executors =
            framework.executors.iter().filter_map(|(id, executor)| Some((id.clone(), show(executor)?))).collect();
        framework.completed = framework.completed.iter().filter_map(show).collect();
    }
    let is_seen = |resource: &api::resources::Resource| {
        let mut reserved = resource.reservations.iter().map(|reservation| &*reservation.role);
        reserved.all(|role| sight.roles.passes(Some(role)))
    };
    if !sight.roles.passes_all() {
        state.model.operations.retain(|_, operation| {
            let info: api::v1::offer::Operation = operation.info.get();
            resources_of(&info)
                .iter()
                .all(|resource| api::resources::Resource::from_v1(resource).is_ok_and(|resource| is_seen(&resource)))
        });
    }
    state
}

fn resources_of(info: &api::v1::offer::Operation) -> Vec<api::v1::Resource> {
    let mut all = Vec::new();
    all.extend(info.reserve.iter().flat_map(|body| body.resources.iter().chain(&body.source)).cloned());
    all.extend(info.unreserve.iter().flat_map(|body| &body.resources).cloned());
    all.extend(info.create.iter().flat_map(|body| &body.volumes).cloned());
    all.extend(info.destroy.iter().flat_map(|body| &body.volumes).cloned());
    all.extend(info.grow_volume.iter().flat_map(|body| [body.volume.clone(), body.addition.clone()]));
    all.extend(info.shrink_volume.iter().map(|body| body.volume.clone()));
    all.extend(info.create_disk.iter().map(|body| body.source.clone()));
    all.extend(info.destroy_disk.iter().map(|body| body.source.clone()));
    all
}

/// Whom a framework runs as, unless it says otherwise.
fn framework_user(framework: &Framework) -> String {
    framework.info.get::<FrameworkInfo>().user
}

fn command_user(command: Option<&CommandInfo>) -> Option<String> {
    command.and_then(|command| command.user.clone())
}

fn task_user(task: &Task, of_framework: &str) -> String {
    let info: TaskInfo = task.info.get();
    let of_executor = || command_user(info.executor.as_ref().and_then(|executor| executor.command.as_ref()));
    command_user(info.command.as_ref()).or_else(of_executor).unwrap_or_else(|| of_framework.to_owned())
}

/// Whom an executor runs as.
fn user_of(executor: &Executor, of_framework: &str) -> String {
    let own = command_user(executor.info.get::<ExecutorInfo>().command.as_ref());
    // One that only stands for its task runs as that.
    let of_task = || {
        let task = executor.tasks.values().next().filter(|_| executor.is_command);
        task.map(|task| task_user(task, of_framework))
    };
    own.or_else(of_task).unwrap_or_else(|| of_framework.to_owned())
}

/// The user of the executor whose container this is, live or not.
fn user_of_container(state: &State, root: &str) -> Option<String> {
    let all = state.frameworks.values().flat_map(|framework| {
        framework.executors.values().chain(&framework.completed).map(move |executor| (framework, executor))
    });
    let mut of_it = all.filter(|(_, executor)| executor.container_id == root);
    of_it.next().map(|(framework, executor)| user_of(executor, &framework_user(framework)))
}

/// Whether an executor's container is shown.
pub(crate) fn shows_container(state: &State, approver: &Approver, root: &str) -> bool {
    let user = user_of_container(state, root);
    approver.claims_container(root).unwrap_or_else(|| approver.approves(Action::ViewContainer, user.as_deref()))
}

/// Whether a visitor may have a call answered; what it shows is made of what they see.
pub(crate) fn call(agent: &Agent, visitor: &Visitor, call: &Call) -> Result<(), Box<Response>> {
    if !visitor.approver.is_in_force() {
        return match visitor.approver.claims_container("") {
            // Without lists a token is good for calls of its own container, and for what anybody may read.
            Some(_) => of_token(visitor, call),
            None => Ok(()),
        };
    }
    let asked = match needs::agent_call(call.r#type()) {
        Need::Asks(action) => visitor.ask(action, None),
        Need::AsksPath(path) => visitor.ask(Action::GetEndpointWithPath, Some(path)),
        Need::Nothing | Need::Filters(_) | Need::NotBuilt => Ok(()),
        Need::Decides(_) => match call.r#type() {
            call::Type::ListFiles => file(agent, visitor, call.list_files.as_ref().map_or("", |body| &body.path)),
            call::Type::ReadFile => file(agent, visitor, call.read_file.as_ref().map_or("", |body| &body.path)),
            kind => container(agent, visitor, call, kind),
        },
    };
    asked.map_err(|mut refused| {
        if let Some(reason) = refused.extensions_mut().get_mut::<Reason>() {
            reason.call = Some(call.r#type().as_str_name());
        }
        refused
    })
}

/// A token of ours is good for its own container alone, lists or not.
fn of_token(visitor: &Visitor, call: &Call) -> Result<(), Box<Response>> {
    match nested::named(call) {
        Some(id) if visitor.approver.claims_container(&root_of(id).value) == Some(false) => {
            Err(Box::new(text(StatusCode::FORBIDDEN, "403 Forbidden.")))
        }
        _ => Ok(()),
    }
}

fn root_of(id: &ContainerId) -> &ContainerId {
    id.parent.as_deref().map_or(id, root_of)
}

fn container(agent: &Agent, visitor: &Visitor, call: &Call, kind: call::Type) -> Result<(), Box<Response>> {
    use call::Type;
    let refuse = || Err(Box::new(text(StatusCode::FORBIDDEN, "403 Forbidden.")));
    let Some(id) = nested::named(call) else { return refuse() };
    let (root, is_nested) = (&root_of(id).value, id.parent.is_some());
    let action = match kind {
        Type::LaunchNestedContainer => Action::LaunchNestedContainer,
        Type::LaunchNestedContainerSession => Action::LaunchNestedContainerSession,
        Type::LaunchContainer if is_nested => Action::LaunchNestedContainer,
        Type::LaunchContainer => Action::LaunchStandaloneContainer,
        Type::WaitNestedContainer => Action::WaitNestedContainer,
        Type::WaitContainer if is_nested => Action::WaitNestedContainer,
        Type::WaitContainer => Action::WaitStandaloneContainer,
        Type::KillNestedContainer => Action::KillNestedContainer,
        Type::KillContainer if is_nested => Action::KillNestedContainer,
        Type::KillContainer => Action::KillStandaloneContainer,
        Type::RemoveNestedContainer => Action::RemoveNestedContainer,
        Type::RemoveContainer if is_nested => Action::RemoveNestedContainer,
        Type::RemoveContainer => Action::RemoveStandaloneContainer,
        Type::AttachContainerInput => Action::AttachContainerInput,
        Type::AttachContainerOutput => Action::AttachContainerOutput,
        _ => return refuse(),
    };
    let approver = &visitor.approver;
    let user = user_of_container(&agent.state.read(), root);
    let is_allowed = match approver.claims_container(root) {
        // What stands alone is no executor's.
        Some(is_own) => is_own && is_nested,
        None => match action {
            Action::LaunchNestedContainer | Action::LaunchNestedContainerSession => {
                let command = nested::launched(call).command;
                let own = command_user(command.as_ref());
                approver.approves_below(action, own.as_deref(), user.as_deref(), command.is_some())
            }
            _ if is_nested => approver.approves(action, Some(user.as_deref().unwrap_or(&id.value))),
            _ => approver.approves(action, user.as_deref()),
        },
    };
    if !is_allowed {
        return Err(Box::new(visitor.forbidden(action, user.as_deref())));
    }
    // A session shows what it writes, too.
    let output = approver
        .claims_container(root)
        .unwrap_or_else(|| approver.approves(Action::AttachContainerOutput, user.as_deref()));
    if kind == Type::LaunchNestedContainerSession && !output {
        return Err(Box::new(visitor.forbidden(Action::AttachContainerOutput, user.as_deref())));
    }
    Ok(())
}

/// Whether a file may be read: the log is the log, a sandbox is its executor's user's.
pub(crate) fn file(agent: &Agent, visitor: &Visitor, path: &str) -> Result<(), Box<Response>> {
    let (action, user) = if path.trim_start_matches('/').starts_with("slave/log") {
        (Action::AccessMesosLog, None)
    } else {
        (Action::AccessSandbox, sandbox_user(&agent.state.read(), path))
    };
    if visitor.approver.approves(action, user.as_deref()) {
        return Ok(());
    }
    Err(Box::new(visitor.reason(action, user.as_deref()).on(empty(StatusCode::FORBIDDEN))))
}

/// The user of the executor whose sandbox `path` is in: `.../frameworks/ID/executors/ID/...`; None: it is nobody's.
fn sandbox_user(state: &State, path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // The last of them: folders above may be called anything.
    let at = parts.windows(3).rposition(|three| three[0] == "frameworks" && three[2] == "executors")?;
    let framework = state.frameworks.get(parts[at + 1])?;
    let (id, of_framework) = (parts.get(at + 3)?, framework_user(framework));
    let live = framework.executors.get(*id);
    let run = parts.get(at + 5).filter(|run| **run != "latest");
    let ended = || {
        let mut ended = framework.completed.iter().rev().filter(|executor| executor.executor_id == *id);
        ended.find(|executor| run.is_none_or(|run| *run == executor.container_id))
    };
    let executor = live.filter(|live| run.is_none_or(|run| *run == live.container_id)).or_else(ended).or(live);
    executor.map(|executor| user_of(executor, &of_framework))
}

/// Whether whoever holds a token is the executor that it speaks for; the sentence if not. `container_id` is that of the
/// executor, if there is one.
pub(crate) fn executor(
    visitor: &Visitor,
    framework_id: &str,
    executor_id: &str,
    container_id: Option<&str>,
) -> Result<(), String> {
    let Some(principal) = visitor.principal.as_ref().filter(|principal| !principal.claims.is_empty()) else {
        return Ok(());
    };
    let claims = &principal.claims;
    let shown = || serde_json::json!({ "claims": claims });
    let is = |name: &str, value: &str| claims.get(name).is_some_and(|claim| claim == value);
    if !is("fid", framework_id) {
        let id = api::limits::quoted(framework_id);
        return Err(format!(
            "Authenticated principal '{}' does not contain an 'fid' claim with the framework ID {id}, which is set in the call",
            shown()
        ));
    }
    if !is("eid", executor_id) {
        let id = api::limits::quoted(executor_id);
        return Err(format!(
            "Authenticated principal '{}' does not contain an 'eid' claim with the executor ID {id}, which is set in the call",
            shown()
        ));
    }
    if container_id.is_some_and(|id| !is("cid", id)) {
        return Err(format!(
            "Authenticated principal '{}' does not contain a 'cid' claim with the correct active ContainerID",
            shown()
        ));
    }
    Ok(())
}
