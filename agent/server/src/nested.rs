//! Calls that launch containers within others, or alone: LAUNCH, WAIT, KILL and REMOVE, each in two spellings.

#![expect(deprecated, reason = "clients use both spellings")]

use std::sync::Arc;

use agent_core::{Command, Process, Refusal, Stage, Told, id_of, path};
use api::limits::{CONTAINER_ID_MAX, CONTAINER_INFO_BYTES_MAX, CONTAINER_PATH_BYTES_MAX};
use api::media::Media;
use api::v1::agent::call::LaunchContainer;
use api::v1::agent::response::{self, WaitContainer, WaitNestedContainer};
use api::v1::agent::{Call, Response as Answer, call};
use api::v1::container_info::Type as ContainerType;
use api::v1::r_limit_info::RLimit;
use api::v1::{self, ContainerId, ContainerInfo, Resource, TaskInfo};
use api_http::{Response, StatusCode, Visitor, empty, text};
use prost::Message;

use crate::agent::Agent;
use crate::waiting::Heard;
use crate::{permit, secrets};

const SIGKILL: i32 = 9;

/// What a call of this kind is about.
struct Subject<'a> {
    /// Name of the call's field.
    field: &'static str,
    id: Option<&'a ContainerId>,
    /// Whether only containers within others are meant.
    nested: bool,
}

fn subject(call: &Call) -> Option<Subject<'_>> {
    use call::Type::*;
    let (field, id, nested) = match call.r#type() {
        LaunchNestedContainer => {
            ("launch_nested_container", call.launch_nested_container.as_ref().map(|one| &one.container_id), true)
        }
        WaitNestedContainer => {
            ("wait_nested_container", call.wait_nested_container.as_ref().map(|one| &one.container_id), true)
        }
        KillNestedContainer => {
            ("kill_nested_container", call.kill_nested_container.as_ref().map(|one| &one.container_id), true)
        }
        RemoveNestedContainer => {
            ("remove_nested_container", call.remove_nested_container.as_ref().map(|one| &one.container_id), true)
        }
        LaunchNestedContainerSession => (
            "launch_nested_container_session",
            call.launch_nested_container_session.as_ref().map(|one| &one.container_id),
            true,
        ),
        LaunchContainer => ("launch_container", call.launch_container.as_ref().map(|one| &one.container_id), false),
        WaitContainer => ("wait_container", call.wait_container.as_ref().map(|one| &one.container_id), false),
        KillContainer => ("kill_container", call.kill_container.as_ref().map(|one| &one.container_id), false),
        RemoveContainer => ("remove_container", call.remove_container.as_ref().map(|one| &one.container_id), false),
        AttachContainerOutput => {
            ("attach_container_output", call.attach_container_output.as_ref().map(|one| &one.container_id), false)
        }
        _ => return None,
    };
    Some(Subject { field, id, nested })
}

/// The container that a call names, if it is about one.
pub(crate) fn named(call: &Call) -> Option<&ContainerId> {
    let input = || call.attach_container_input.as_ref().and_then(|one| one.container_id.as_ref());
    subject(call).and_then(|subject| subject.id).or_else(input)
}

/// Why a call of this kind makes no sense. Others are none of its business.
pub(crate) fn validate(call: &Call) -> Result<(), String> {
    let Some(Subject { field, id, nested }) = subject(call) else { return Ok(()) };
    let id = id.ok_or_else(|| format!("Expecting '{field}' to be present"))?;
    check_id(id).map_err(|why| format!("'{field}.container_id' is invalid: {why}"))?;
    if nested && id.parent.is_none() {
        return Err(format!("Expecting '{field}.container_id.parent' to be present"));
    }
    let bytes = path(id).len();
    if bytes > CONTAINER_PATH_BYTES_MAX {
        return Err(format!(
            "'{field}.container_id' is invalid: it has {bytes} bytes with all that it is within, more than the \
             {CONTAINER_PATH_BYTES_MAX} that are allowed"
        ));
    }
    let command = match call.r#type() {
        call::Type::LaunchNestedContainer => call.launch_nested_container.as_ref().and_then(|one| one.command.as_ref()),
        call::Type::LaunchNestedContainerSession => {
            call.launch_nested_container_session.as_ref().and_then(|one| one.command.as_ref())
        }
        call::Type::LaunchContainer => call.launch_container.as_ref().and_then(|one| one.command.as_ref()),
        _ => None,
    };
    let variables = command.and_then(|command| command.environment.as_ref()).map_or(&[][..], |all| &all.variables);
    let checked = variables.iter().try_for_each(api::secrets::check);
    checked.map_err(|why| format!("'{field}.command' is invalid: {why}"))?;
    if let Some(container) = container_of(call) {
        api::container_info::check(container).map_err(|why| format!("'{field}.container' is invalid: {why}"))?;
    }
    if call.r#type() == call::Type::LaunchContainer {
        let resources = call.launch_container.as_ref().map_or(&[][..], |one| &one.resources);
        check_resources(resources, id.parent.is_none())?;
    }
    Ok(())
}

/// The container that a call describes.
fn container_of(call: &Call) -> Option<&ContainerInfo> {
    match call.r#type() {
        call::Type::LaunchNestedContainer => call.launch_nested_container.as_ref()?.container.as_ref(),
        call::Type::LaunchNestedContainerSession => call.launch_nested_container_session.as_ref()?.container.as_ref(),
        call::Type::LaunchContainer => call.launch_container.as_ref()?.container.as_ref(),
        _ => None,
    }
}

fn check_id(id: &ContainerId) -> Result<(), String> {
    let value = &id.value;
    if value.is_empty() {
        return Err("ID must not be empty".to_owned());
    }
    if value.chars().count() > CONTAINER_ID_MAX {
        return Err(format!("ID must not be greater than {CONTAINER_ID_MAX} characters"));
    }
    if value == "." || value == ".." {
        return Err(format!("'{value}' is disallowed"));
    }
    if value.chars().any(|c| c.is_ascii_control() || c == '/' || c == '\\') {
        return Err(format!("'{value}' contains invalid characters"));
    }
    // Dots stand between the ids of a path.
    if value.contains(['.', ' ']) {
        return Err(format!("'ContainerID.value' '{value}' contains invalid characters"));
    }
    match &id.parent {
        Some(parent) => check_id(parent).map_err(|why| format!("'ContainerID.parent' is invalid: {why}")),
        None => Ok(()),
    }
}

fn check_resources(resources: &[Resource], alone: bool) -> Result<(), String> {
    api::resources::Resources::from_v1(resources)
        .map_err(|error| format!("Invalid 'launch_container.resources': {error}"))?;
    if !alone {
        return Ok(());
    }
    let is_reserved =
        |one: &Resource| !one.reservations.is_empty() || one.role.as_deref().is_some_and(|role| role != "*");
    if resources.iter().any(is_reserved) {
        return Err("'launch_container.resources' must be unreserved".to_owned());
    }
    if resources.iter().any(|one| one.revocable.is_some()) {
        return Err("'launch_container.resources' must not be revocable".to_owned());
    }
    if resources.iter().any(|one| one.disk.as_ref().is_some_and(|disk| disk.persistence.is_some())) {
        return Err("'launch_container.resources' must not contain persistent volumes".to_owned());
    }
    Ok(())
}

/// What is to be launched, in the newer spelling.
pub(crate) fn launched(call: &Call) -> LaunchContainer {
    if let Some(one) = call.launch_nested_container.clone() {
        let (container_id, command, container) = (one.container_id, one.command, one.container);
        return LaunchContainer { container_id, command, container, ..LaunchContainer::default() };
    }
    if let Some(one) = call.launch_nested_container_session.clone() {
        let (container_id, command, container) = (one.container_id, one.command, one.container);
        return LaunchContainer { container_id, command, container, ..LaunchContainer::default() };
    }
    call.launch_container.clone().unwrap_or_default()
}

/// Why this agent cannot launch it.
fn unsupported(info: &LaunchContainer) -> Option<String> {
    let bytes = info.encoded_len();
    if bytes > CONTAINER_INFO_BYTES_MAX {
        return Some(format!("The call has {bytes} bytes, and a launch has {CONTAINER_INFO_BYTES_MAX} at most"));
    }
    let container = info.container.clone().unwrap_or_default();
    if info.container.is_some() && container.r#type != ContainerType::Mesos as i32 {
        return Some("The provided ContainerInfo is not supported".to_owned());
    }
    None
}

/// The streams of a container, if somebody can be connected with them: those of sessions, and terminals.
pub(crate) fn streams(container: Option<&ContainerInfo>, session: bool) -> Option<containers::Streams> {
    let tty = container.and_then(|container| container.tty_info.as_ref());
    let size = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    let terminal = tty.map(|tty| tty.window_size.as_ref().map_or((0, 0), |one| (size(one.rows), size(one.columns))));
    (session || terminal.is_some()).then_some(containers::Streams { terminal, session })
}

pub(crate) fn ending() -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, "Agent is stopping")
}

/// The limits of a container's process, by the names that the system has for them.
pub(crate) fn rlimits(container: Option<&ContainerInfo>) -> Vec<(String, Option<(u64, u64)>)> {
    let limits = container.and_then(|container| container.rlimit_info.as_ref()).map_or(&[][..], |info| &info.rlimits);
    let one = |limit: &RLimit| {
        let name = limit.r#type().as_str_name();
        (name.strip_prefix("RLMT_").unwrap_or(name).to_owned(), limit.soft.zip(limit.hard))
    };
    limits.iter().map(one).collect()
}

/// The process of a container that somebody can be connected with.
pub(crate) fn attachable(agent: &Agent, container_id: &str) -> Result<Process, String> {
    let state = agent.state.read();
    if state.stage(container_id).is_none_or(|stage| matches!(stage, Stage::Ended(_))) {
        return Err(format!("Unknown container {container_id}"));
    }
    let launched = state.launched.all.get(container_id);
    let of_launched = |one: &agent_core::Container| {
        streams(one.info.get::<LaunchContainer>().container.as_ref(), one.session).is_some()
    };
    // A command's terminal is that of its container.
    let command = state.executor_of(container_id).filter(|(_, executor)| executor.is_command);
    let task = command.and_then(|(_, executor)| executor.tasks.values().next()).map(|task| task.info.get::<TaskInfo>());
    let has_streams = launched.is_some_and(of_launched)
        || task.is_some_and(|task| streams(task.container.as_deref(), false).is_some());
    match state.process(container_id).filter(|_| has_streams) {
        Some(process) => Ok(process.clone()),
        None => Err("I/O switchboard server was disabled for this container".to_owned()),
    }
}

/// Launches; the answer comes when it runs, or never will. The error is the answer then.
pub(crate) async fn launch(agent: &Arc<Agent>, mut info: LaunchContainer, session: bool) -> Result<String, Response> {
    if let Some(sentence) = unsupported(&info) {
        return Err(text(StatusCode::BAD_REQUEST, &sentence));
    }
    let container_id = path(&info.container_id);
    let owner = secrets::owner(&agent.state.read(), &container_id);
    if let Err(why) = secrets::sealed(agent.config.secret.as_ref(), &mut info, &owner) {
        return Err(text(StatusCode::BAD_REQUEST, &format!("Failed to launch container: {why}")));
    }
    let told = agent.waiting.wait(&container_id, true);
    let command = Command::LaunchContainer { container_id: container_id.clone(), info: Box::new(info), session };
    match agent.ask(command).await {
        None => return Err(ending()),
        Some(Err(Refusal::ContainerExists)) => return Err(empty(StatusCode::ACCEPTED)),
        Some(Err(refusal)) => return Err(text(StatusCode::BAD_REQUEST, &refusal.to_string())),
        Some(Ok(_)) => {}
    }
    match told.await {
        Ok(Heard { told: Told::Failed(message), .. }) => Err(text(StatusCode::BAD_REQUEST, &message)),
        Ok(_) => Ok(container_id),
        Err(_) => Err(ending()),
    }
}

/// Waits for the end of a container.
async fn wait(agent: &Arc<Agent>, call: &Call, media: Media, id: &ContainerId) -> Response {
    let container_id = path(id);
    let told = agent.waiting.wait(&container_id, false);
    let (stage, limited) = {
        let state = agent.state.read();
        (state.stage(&container_id), state.launched.limited.get(&container_id).cloned())
    };
    let (status, limited) = match stage {
        None => return text(StatusCode::NOT_FOUND, &format!("Container {container_id} cannot be found")),
        Some(Stage::Ended(status)) => {
            // Nothing is said that a crash could undo.
            if agent.ask(Command::Settle).await.is_none() {
                return ending();
            }
            (status, limited)
        }
        Some(_) => match told.await {
            Ok(Heard { told: Told::Ended(status), limited: since }) => (status, limited.or(since)),
            Ok(_) => (None, limited),
            Err(_) => return ending(),
        },
    };
    let state = limited.is_some().then_some(v1::TaskState::TaskFailed as i32);
    let limitation = limited.as_ref().and_then(agent_core::Limited::limitation);
    let (reason, message) = limited.map(|limited| (limited.reason, limited.message)).unzip();
    let kind = response::Type::from_str_name(call.r#type().as_str_name());
    let mut answer = Answer { r#type: kind.map(|kind| kind as i32), ..Answer::default() };
    match call.r#type() {
        call::Type::WaitNestedContainer => {
            answer.wait_nested_container =
                Some(WaitNestedContainer { exit_status: status, state, reason, limitation, message });
        }
        _ => answer.wait_container = Some(WaitContainer { exit_status: status, state, reason, limitation, message }),
    }
    api_http::bytes(StatusCode::OK, media.content_type(), media.encode(&answer))
}

async fn kill(agent: &Arc<Agent>, id: &ContainerId, signal: Option<i32>) -> Response {
    let container_id = path(id);
    let unknown = || {
        let refusal = Refusal::UnknownContainer { container_id: container_id.clone() };
        text(StatusCode::NOT_FOUND, &refusal.to_string())
    };
    let is_launched = agent.state.read().launched.all.contains_key(&container_id);
    let signal = signal.unwrap_or(SIGKILL);
    if signal == SIGKILL && is_launched {
        return match agent.ask(Command::KillContainer { container_id: container_id.clone() }).await {
            None => ending(),
            Some(Err(_)) => unknown(),
            Some(Ok(_)) => empty(StatusCode::OK),
        };
    }
    let Some(process) = agent.state.read().process(&container_id).cloned() else { return unknown() };
    let signalling = agent.clone();
    let id = container_id.clone();
    let sent = tokio::task::spawn_blocking(move || signalling.containers.signal(&id, &process, signal)).await;
    match sent {
        Ok(Ok(true)) => empty(StatusCode::OK),
        Ok(Ok(false)) => unknown(),
        Ok(Err(error)) => {
            let sentence = format!("Failed to send signal {signal} to container {container_id}: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, &sentence)
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error."),
    }
}

/// Answers a call of this kind; none if it is of another.
pub(crate) async fn answer(agent: &Arc<Agent>, call: &Call, media: Media) -> Option<Response> {
    use call::Type::*;
    let id = subject(call)?.id?;
    Some(match call.r#type() {
        LaunchNestedContainer | LaunchContainer => match launch(agent, launched(call), false).await {
            Ok(_) => empty(StatusCode::OK),
            Err(response) => response,
        },
        WaitNestedContainer | WaitContainer => wait(agent, call, media, id).await,
        KillNestedContainer => kill(agent, id, call.kill_nested_container.as_ref()?.signal).await,
        KillContainer => kill(agent, id, call.kill_container.as_ref()?.signal).await,
        RemoveNestedContainer | RemoveContainer => {
            match agent.ask(Command::RemoveContainer { container_id: path(id) }).await {
                None => ending(),
                Some(Err(refusal)) => text(StatusCode::INTERNAL_SERVER_ERROR, &refusal.to_string()),
                Some(Ok(_)) => empty(StatusCode::OK),
            }
        }
        _ => return None,
    })
}

/// Those that were launched by call, as GET_CONTAINERS shows them.
pub(crate) fn show(
    agent: &Agent,
    visitor: &Visitor,
    nested: bool,
    standalone: bool,
) -> Vec<response::get_containers::Container> {
    let state = agent.state.read().clone();
    let is_alone = |id: &str| !state.containers.contains_key(id.split('.').next().unwrap_or_default());
    let shown = state.launched.live().filter(|(id, one)| {
        let wanted = if agent_core::parent_of(id).is_some() { nested } else { standalone };
        one.process.is_some() && wanted && (standalone || !is_alone(id)) && {
            let root = id.split('.').next().unwrap_or_default();
            match is_alone(id) {
                true => visitor.approver.approves(auth::Action::ViewStandaloneContainer, None),
                false => permit::shows_container(&state, &visitor.approver, root),
            }
        }
    });
    // What stands alone last, as clients know it.
    let mut shown: Vec<_> = shown.collect();
    shown.sort_by_key(|(id, _)| agent_core::parent_of(id).is_none());
    let shown = shown.into_iter().map(|(path, one)| {
        let info: LaunchContainer = one.info.get();
        response::get_containers::Container {
            // Without what it is within: that is in the status.
            container_id: ContainerId { value: info.container_id.value.clone(), parent: None },
            container_status: Some(v1::ContainerStatus {
                container_id: Some(id_of(path)),
                executor_pid: one.process.as_ref().map(|process| process.supervisor_pid),
                ..agent.containers.given(path)
            }),
            resource_statistics: Some(crate::reads::statistics_of(agent, &state, path, &info.resources)),
            ..response::get_containers::Container::default()
        }
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str) -> ContainerId {
        id_of(path)
    }

    #[test]
    fn ids_are_paths_and_back() {
        let nested = id("a.b.c");
        assert_eq!(nested.parent.as_ref().unwrap().parent.as_ref().unwrap().value, "a");
        assert_eq!(path(&nested), "a.b.c");
    }

    #[test]
    fn what_names_no_container_is_said() {
        let one = |value: &str| ContainerId { value: value.into(), parent: Some(Box::new(id("p"))) };
        for (value, why) in [
            ("", "ID must not be empty"),
            ("a/b", "'a/b' contains invalid characters"),
            ("a.b", "'ContainerID.value' 'a.b' contains invalid characters"),
            ("..", "'..' is disallowed"),
        ] {
            assert_eq!(check_id(&one(value)).unwrap_err(), why);
        }
        assert_eq!(check_id(&one(&"y".repeat(256))).unwrap_err(), "ID must not be greater than 255 characters");
        let of_parent = ContainerId { value: "a".into(), parent: Some(Box::new(one("a b"))) };
        assert!(check_id(&of_parent).unwrap_err().starts_with("'ContainerID.parent' is invalid: "));
        let wait = call::WaitNestedContainer { container_id: id("n") };
        let call = Call {
            r#type: Some(call::Type::WaitNestedContainer as i32),
            wait_nested_container: Some(wait),
            ..Call::default()
        };
        assert_eq!(validate(&call).unwrap_err(), "Expecting 'wait_nested_container.container_id.parent' to be present");
        let empty = Call { wait_nested_container: None, ..call };
        assert_eq!(validate(&empty).unwrap_err(), "Expecting 'wait_nested_container' to be present");
    }
}
