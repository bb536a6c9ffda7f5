//! The v1 operator API of an agent: `POST /api/v1`.

use std::sync::Arc;

use agent_core::{Executor, State, Task};
use api::media::{Body, Media, accept, request_body};
use api::v1::agent::response::{self, get_containers, get_executors, get_frameworks};
use api::v1::agent::{Call, Response as Answer, call};
use api::v1::{self, ExecutorInfo, TaskInfo};
use api_http::{FilesError, HeaderMap, Received, Response, StatusCode, Visitor, header, text};
use auth::Action;

use crate::agent::Agent;
use crate::{attach, local, masters, nested, permit, providers, reads};

/// Answers one call.
pub(crate) async fn answer(
    agent: &Arc<Agent>,
    headers: &HeaderMap,
    body: &mut Received,
    visitor: &Visitor,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let rejected = |rejection: api::media::Rejection| {
        text(StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST), &rejection.message)
    };
    let media = match request_body(header(header::CONTENT_TYPE.as_str()), header("message-content-type")) {
        Ok(Body::Single(media)) => media,
        // Read while it comes: see `attach::input`.
        Ok(Body::Streaming(_)) => return text(StatusCode::BAD_REQUEST, "A stream of calls was expected"),
        Err(rejection) => return rejected(rejection),
    };
    let call: Call = match body.decode(media).await {
        Ok(call) => call,
        Err(rejection) => return rejected(rejection),
    };
    let valid = validate(&call).map_err(str::to_owned).and_then(|()| nested::validate(&call));
    if let Err(sentence) = valid {
        return text(StatusCode::BAD_REQUEST, &format!("Failed to validate agent::Call: {sentence}"));
    }
    if call.r#type() == call::Type::AttachContainerInput {
        let sentence = "Expecting 'Content-Type' to be application/recordio for ATTACH_CONTAINER_INPUT call";
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence);
    }
    if let Err(refused) = permit::call(agent, visitor, &call) {
        return *refused;
    }
    match call.r#type() {
        call::Type::LaunchNestedContainerSession => return attach::session(agent, headers, &call).await,
        call::Type::AttachContainerOutput => return attach::output(agent, headers, &call).await,
        _ => {}
    }
    let media = match accept(header(header::ACCEPT.as_str())) {
        Ok(media) => media,
        Err(rejection) => return rejected(rejection),
    };
    if let Some(wanted) = call.set_logging_level.filter(|_| call.r#type() == call::Type::SetLoggingLevel) {
        let duration = u64::try_from(wanted.duration.nanoseconds).unwrap_or(0);
        api_http::set_log_level(wanted.level, std::time::Duration::from_nanos(duration));
        return api_http::empty(StatusCode::OK);
    }
    if let Some(gone) =
        call.mark_resource_provider_gone.as_ref().filter(|_| call.r#type() == call::Type::MarkResourceProviderGone)
    {
        return providers::mark_gone(agent, &gone.resource_provider_id).await;
    }
    if let Some(response) = local::configure(agent, &call).await {
        return response;
    }
    if let Some(response) = nested::answer(agent, &call, media).await {
        return response;
    }
    let (agent, visitor) = (agent.clone(), visitor.clone());
    let answered = event_log::host::blocking(move || handle(&agent, &visitor, &call, media));
    answered.await.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error."))
}

fn not_built(call: call::Type) -> Response {
    text(StatusCode::NOT_IMPLEMENTED, &format!("{} is not supported by this agent", call.as_str_name()))
}

fn validate(call: &Call) -> Result<(), &'static str> {
    if call.r#type.is_none() {
        return Err("Expecting 'type' to be present");
    }
    match call.r#type() {
        call::Type::GetMetrics if call.get_metrics.is_none() => Err("Expecting 'get_metrics' to be present"),
        call::Type::ListFiles if call.list_files.is_none() => Err("Expecting 'list_files' to be present"),
        call::Type::ReadFile if call.read_file.is_none() => Err("Expecting 'read_file' to be present"),
        call::Type::SetLoggingLevel if call.set_logging_level.is_none() => {
            Err("Expecting 'set_logging_level' to be present")
        }
        call::Type::MarkResourceProviderGone if call.mark_resource_provider_gone.is_none() => {
            Err("Expecting 'mark_resource_provider_gone' to be present")
        }
        call::Type::AddResourceProviderConfig => match &call.add_resource_provider_config {
            None => Err("Expecting 'add_resource_provider_config' to be present"),
            Some(add) if add.info.id.is_some() => Err("Expecting 'add_resource_provider_config.info.id' to be unset"),
            Some(_) => Ok(()),
        },
        call::Type::UpdateResourceProviderConfig => match &call.update_resource_provider_config {
            None => Err("Expecting 'update_resource_provider_config' to be present"),
            Some(update) if update.info.id.is_some() => {
                Err("Expecting 'update_resource_provider_config.info.id' to be unset")
            }
            Some(_) => Ok(()),
        },
        call::Type::RemoveResourceProviderConfig if call.remove_resource_provider_config.is_none() => {
            Err("Expecting 'remove_resource_provider_config' to be present")
        }
        _ => Ok(()),
    }
}

fn handle(agent: &Agent, visitor: &Visitor, call: &Call, media: Media) -> Response {
    // The same names, but not the same numbers.
    let kind = response::Type::from_str_name(call.r#type().as_str_name());
    let mut answer = Answer { r#type: kind.map(|kind| kind as i32), ..Answer::default() };
    let state = || permit::seen(agent, visitor);
    match call.r#type() {
        call::Type::GetHealth => answer.get_health = Some(response::GetHealth { healthy: true }),
        call::Type::GetFlags => {
            let flags = reads::flags(agent).into_iter();
            let flags = flags.map(|(name, value)| v1::Flag { name: name.to_owned(), value: Some(value) }).collect();
            answer.get_flags = Some(response::GetFlags { flags });
        }
        call::Type::GetVersion => {
            let version_info = api_http::Build::of_this_program().version_info();
            answer.get_version = Some(response::GetVersion { version_info });
        }
        call::Type::GetMetrics => {
            let metrics = reads::metrics(agent).into_iter();
            let metrics = metrics.map(|(name, value)| v1::Metric { name, value: value.as_f64() }).collect();
            answer.get_metrics = Some(response::GetMetrics { metrics });
        }
        call::Type::GetLoggingLevel => {
            answer.get_logging_level = Some(response::GetLoggingLevel { level: api_http::log_level() })
        }
        call::Type::ListFiles => {
            let path = call.list_files.as_ref().map_or("", |call| call.path.as_str());
            match agent.files.list(path) {
                Ok(entries) => {
                    let file_infos = entries.into_iter().map(|entry| v1::FileInfo {
                        path: entry.path,
                        nlink: i32::try_from(entry.nlink).ok(),
                        size: Some(entry.size),
                        mtime: Some(v1::TimeInfo { nanoseconds: entry.mtime_secs * 1_000_000_000 }),
                        mode: Some(entry.mode),
                        uid: Some(entry.user),
                        gid: Some(entry.group),
                    });
                    answer.list_files = Some(response::ListFiles { file_infos: file_infos.collect() });
                }
                Err(error) => return error.response(),
            }
        }
        call::Type::ReadFile => match read_file(agent, call) {
            Ok(read) => answer.read_file = Some(read),
            Err(error) => return error.response(),
        },
        call::Type::GetState => {
            let state = state();
            answer.get_state = Some(response::GetState {
                get_tasks: Some(tasks(&state)),
                get_executors: Some(executors(&state)),
                get_frameworks: Some(frameworks(&state)),
            });
        }
        call::Type::GetContainers => {
            let wanted = call.get_containers.unwrap_or_default();
            let mut shown = containers(agent, visitor);
            shown.containers.extend(nested::show(agent, visitor, wanted.show_nested(), wanted.show_standalone()));
            answer.get_containers = Some(shown);
        }
        call::Type::GetFrameworks => answer.get_frameworks = Some(frameworks(&state())),
        call::Type::GetExecutors => answer.get_executors = Some(executors(&state())),
        call::Type::GetTasks => answer.get_tasks = Some(tasks(&state())),
        call::Type::GetOperations => {
            let state = state();
            let operations = state.model.operations.values().map(|one| operation(&state, one)).collect();
            answer.get_operations = Some(response::GetOperations { operations });
        }
        call::Type::GetResourceProviders => {
            let is_seen = visitor.approver.approves(Action::ViewResourceProvider, None);
            let resource_providers = if is_seen { providers::show(&state()) } else { Vec::new() };
            answer.get_resource_providers = Some(response::GetResourceProviders { resource_providers });
        }
        call::Type::GetAgent => {
            let state = state();
            let agent_info = Some(masters::agent_info(agent, state.registration.agent_id.clone()));
            let (drain_config, since) = reads::draining(&state).unzip();
            let estimated_drain_start_time = since.map(|seconds| v1::TimeInfo {
                nanoseconds: i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000),
            });
            answer.get_agent = Some(response::GetAgent { agent_info, drain_config, estimated_drain_start_time });
        }
        call::Type::PruneImages => {
            let excluded = call.prune_images.as_ref().map_or(&[][..], |call| &call.excluded_images);
            // Where there are none nothing is left of them when it answers.
            let Some(images) = agent.containers.images() else { return api_http::empty(StatusCode::OK) };
            let names = match crate::images::names(excluded) {
                Ok(names) => names,
                Err(why) => return text(StatusCode::BAD_REQUEST, &format!("Failed to prune images: {why}")),
            };
            return match images.prune(names) {
                Ok(()) => api_http::empty(StatusCode::OK),
                Err(why) => text(StatusCode::INTERNAL_SERVER_ERROR, &why),
            };
        }
        call::Type::Unknown => return text(StatusCode::NOT_IMPLEMENTED, "501 Not Implemented."),
        other => return not_built(other),
    }
    api_http::bytes(StatusCode::OK, media.content_type(), media.encode(&answer))
}

fn operation(state: &State, one: &agent_core::Operation) -> v1::Operation {
    let info: v1::offer::Operation = one.info.get();
    let agent_id = state.registration.agent_id.clone().map(|value| v1::AgentId { value });
    let status: Option<v1::OperationStatus> = one.status.as_ref().map(agent_core::Blob::get);
    let pending = || v1::OperationStatus {
        operation_id: info.id.clone(),
        state: v1::OperationState::OperationPending as i32,
        agent_id: agent_id.clone(),
        resource_provider_id: one.provided.clone().map(|of| v1::ResourceProviderId { value: of.provider_id }),
        ..v1::OperationStatus::default()
    };
    v1::Operation {
        framework_id: one.framework_id.clone().map(|value| v1::FrameworkId { value }),
        agent_id: agent_id.clone(),
        latest_status: status.clone().unwrap_or_else(pending),
        statuses: status.into_iter().collect(),
        uuid: v1::Uuid { value: one.operation.clone().into() },
        info,
    }
}

fn read_file(agent: &Agent, call: &Call) -> Result<response::ReadFile, FilesError> {
    let call = call.read_file.clone().unwrap_or_default();
    let length = call.length.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let (data, size) = agent.files.read(&call.path, call.offset, length)?;
    Ok(response::ReadFile { size, data: data.into() })
}

fn frameworks(state: &State) -> response::GetFrameworks {
    let list = |active: bool| {
        let wanted = state.frameworks.values().filter(|framework| reads::is_active(framework) == active);
        wanted.map(|framework| get_frameworks::Framework { framework_info: framework.info.get() }).collect()
    };
    response::GetFrameworks { frameworks: list(true), completed_frameworks: list(false) }
}

fn executors(state: &State) -> response::GetExecutors {
    let show = |executor: &Executor| get_executors::Executor { executor_info: executor.info.get() };
    let completed = state.frameworks.values().flat_map(|framework| &framework.completed);
    response::GetExecutors {
        executors: state.executors().map(|(_, executor)| show(executor)).collect(),
        completed_executors: completed.map(|executor| show(executor)).collect(),
    }
}

fn tasks(state: &State) -> response::GetTasks {
    let mut answer = response::GetTasks::default();
    for (framework_id, framework) in &state.frameworks {
        for executor in framework.executors.values() {
            for task in executor.tasks.values() {
                let list = match (task.is_terminal(), executor.is_command || task.delivered) {
                    (true, _) => &mut answer.terminated_tasks,
                    (false, true) => &mut answer.launched_tasks,
                    (false, false) => &mut answer.queued_tasks,
                };
                list.push(show(state, framework_id, executor, task));
            }
        }
        for executor in &framework.completed {
            let tasks = executor.tasks.values();
            answer.completed_tasks.extend(tasks.map(|task| show(state, framework_id, executor, task)));
        }
    }
    answer
}

fn show(state: &State, framework_id: &str, executor: &Executor, task: &Task) -> v1::Task {
    let info: TaskInfo = task.info.get();
    let statuses: Vec<v1::TaskStatus> = task.statuses.iter().map(|status| status.get()).collect();
    v1::Task {
        name: info.name,
        task_id: info.task_id,
        framework_id: v1::FrameworkId { value: framework_id.to_owned() },
        executor_id: (!executor.is_command).then(|| v1::ExecutorId { value: executor.executor_id.clone() }),
        agent_id: v1::AgentId { value: state.registration.agent_id.clone().unwrap_or_default() },
        state: task.state,
        resources: info.resources,
        status_update_state: statuses.last().map(|status| status.state),
        status_update_uuid: statuses.last().and_then(|status| status.uuid.clone()),
        statuses,
        labels: info.labels,
        discovery: info.discovery,
        container: info.container,
        ..v1::Task::default()
    }
}

fn containers(agent: &Agent, visitor: &Visitor) -> response::GetContainers {
    let state = agent.state.read().clone();
    let running = state.executors().filter(|(_, executor)| {
        executor.process.is_some() && permit::shows_container(&state, &visitor.approver, &executor.container_id)
    });
    let containers = running.map(|(framework_id, executor)| {
        let container_id = v1::ContainerId { value: executor.container_id.clone(), parent: None };
        get_containers::Container {
            framework_id: Some(v1::FrameworkId { value: framework_id.to_owned() }),
            executor_id: Some(v1::ExecutorId { value: executor.executor_id.clone() }),
            // Always there, as clients know it.
            executor_name: Some(executor.info.get::<ExecutorInfo>().name.unwrap_or_default()),
            container_id: container_id.clone(),
            container_status: Some(v1::ContainerStatus {
                container_id: Some(container_id),
                executor_pid: executor.process.as_ref().map(|process| process.supervisor_pid),
                ..agent.containers.given(&executor.container_id)
            }),
            resource_statistics: Some(reads::usage(agent, &state, executor)),
        }
    });
    response::GetContainers { containers: containers.collect() }
}
