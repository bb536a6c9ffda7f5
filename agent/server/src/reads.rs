//! Reads of the agent's state, in the shapes that operators' tools know.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use agent_core::{Executor, Framework, State, Task};
use api::json::to_value;
use api::resources::Resources;
use api::v1::{
    ContainerId, ContainerStatus, DrainConfig, ExecutorInfo, FrameworkInfo, Resource, TaskInfo, TaskState, TaskStatus,
};
use api_http::{Build, Query, Visitor};
use auth::Action;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::oversubscription::split;
use crate::permit;
use crate::promised::used;

pub(crate) fn version() -> Value {
    let build = Build::of_this_program();
    json!({
        "version": api::MESOS_VERSION, "meseta_version": env!("CARGO_PKG_VERSION"),
        "build_date": build.date, "build_time": build.time_s, "build_user": build.user,
    })
}

pub(crate) fn flags(agent: &Agent) -> BTreeMap<&'static str, String> {
    let values = &agent.config.values;
    let told = values.iter().filter(|(name, _)| api_http::tls::is_told(values, name));
    let mut flags: BTreeMap<_, _> = told.map(|(name, value)| (name, value.to_owned())).collect();
    let launcher_dir = &agent.config.settings.launcher_dir;
    // Passwords are repeated to nobody.
    flags.entry("docker_config").and_modify(|value| "{...}".clone_into(value));
    flags.entry("launcher_dir").or_insert_with(|| launcher_dir.clone());
    flags.entry("launcher").or_insert_with(|| if agent.config.groups.is_some() { "linux" } else { "posix" }.to_owned());
    flags
}

fn flat(resources: &[Resource]) -> Value {
    Resources::from_v1(resources).unwrap_or_default().to_state_json()
}

fn role(resources: &[Resource]) -> Value {
    resources
        .iter()
        .find_map(|resource| resource.allocation_info.as_ref()?.role.clone())
        .map_or(Value::Null, Value::from)
}

fn strip_null(mut value: Value) -> Value {
    if let Value::Object(object) = &mut value {
        object.retain(|_, value| !value.is_null());
    }
    value
}

fn legacy_status(status: &TaskStatus) -> Value {
    let state = status.state().as_str_name();
    let container = status
        .container_status
        .as_ref()
        .map(|container| to_value(&ContainerStatus { executor_pid: None, ..container.clone() }));
    strip_null(json!({
        "state": state, "timestamp": status.timestamp(), "healthy": status.healthy,
        "labels": status.labels.as_ref().map(to_value), "container_status": container,
    }))
}

fn legacy_task(state: &State, framework_id: &str, executor: &Executor, task: &Task) -> Value {
    let info: TaskInfo = task.info.get();
    let statuses: Vec<Value> = task.statuses.iter().map(|status| legacy_status(&status.get())).collect();
    strip_null(json!({
        "id": info.task_id.value, "name": info.name, "framework_id": framework_id,
        "executor_id": if executor.is_command { "" } else { &executor.executor_id },
        "slave_id": state.registration.agent_id,
        "state": TaskState::try_from(task.state).unwrap_or(TaskState::TaskStaging).as_str_name(),
        "resources": flat(&info.resources), "role": role(&info.resources), "statuses": statuses,
        "labels": info.labels.as_ref().map(|labels| to_value(labels)["labels"].clone()),
        "discovery": info.discovery.as_deref().map(to_value), "container": info.container.as_deref().map(to_value),
    }))
}

fn legacy_executor(agent: &Agent, state: &State, framework_id: &str, executor: &Executor, completed: bool) -> Value {
    let info: ExecutorInfo = executor.info.get();
    let tasks = |wanted: fn(&Task) -> bool| -> Vec<Value> {
        let tasks = executor.tasks.values().filter(|task| wanted(task));
        tasks.map(|task| legacy_task(state, framework_id, executor, task)).collect()
    };
    let queued: Vec<Value> = executor
        .live_tasks()
        .filter(|(_, task)| !executor.is_command && !task.delivered)
        .map(|(_, task)| {
            let info: TaskInfo = task.info.get();
            json!({ "id": info.task_id.value, "name": info.name, "framework_id": framework_id,
                    "executor_id": executor.executor_id, "slave_id": state.registration.agent_id,
                    "resources": flat(&info.resources) })
        })
        .collect();
    let live = if executor.is_command {
        tasks(|task| !task.is_terminal())
    } else {
        tasks(|task| !task.is_terminal() && task.delivered)
    };
    let of_tasks = executor.tasks.values().flat_map(|task| task.info.get::<TaskInfo>().resources);
    let all: Vec<Resource> = info.resources.iter().cloned().chain(of_tasks).collect();
    let resources = if completed { info.resources.clone() } else { used(executor) };
    strip_null(json!({
        "id": executor.executor_id, "name": info.name(), "source": info.source(),
        "container": executor.container_id,
        "directory": agent.sandbox(framework_id, executor).display().to_string(),
        "resources": flat(&resources), "role": role(&all), "labels": info.labels.as_ref().map(to_value),
        "tasks": live, "queued_tasks": queued, "completed_tasks": tasks(Task::is_terminal),
    }))
}

fn legacy_framework(agent: &Agent, state: &State, framework_id: &str, framework: &Framework) -> Value {
    let info: FrameworkInfo = framework.info.get();
    let executors: Vec<Value> = framework
        .executors
        .values()
        .map(|executor| legacy_executor(agent, state, framework_id, executor, false))
        .collect();
    let completed: Vec<Value> = framework
        .completed
        .iter()
        .map(|executor| legacy_executor(agent, state, framework_id, executor, true))
        .collect();
    let mut value = json!({
        "id": framework_id, "name": info.name, "user": info.user, "failover_timeout": info.failover_timeout(),
        "checkpoint": info.checkpoint(), "hostname": info.hostname(),
        "executors": executors, "completed_executors": completed,
    });
    let many = info
        .capabilities
        .iter()
        .any(|have| have.r#type == Some(api::v1::framework_info::capability::Type::MultiRole as i32));
    if many {
        value["roles"] = json!(info.roles)
    } else {
        #[expect(deprecated, reason = "of frameworks that have one role")]
        let role = info.role.clone();
        value["role"] = json!(role.unwrap_or_else(|| info.roles.first().cloned().unwrap_or("*".to_owned())));
    }
    value
}

/// Whether a framework has work here now.
pub(crate) fn is_active(framework: &Framework) -> bool {
    !framework.executors.is_empty()
}

pub(crate) fn allocated(state: &State) -> Vec<Resource> {
    state.executors().flat_map(|(_, executor)| used(executor)).collect()
}

/// What there is: what was configured, and what the masters made of it.
pub(crate) fn total(agent: &Agent, state: &State) -> Resources {
    let configured = Resources::from_v1(&agent.config.resources).unwrap_or_default();
    // Was looked at when the agent was started. What came since, the masters know to fit.
    let own = agent_core::total(&configured, &state.model.checkpointed()).unwrap_or(configured);
    let provided = state.providers.known.values().flat_map(|provider| provider.resources());
    // Each was looked at when it was said.
    provided.filter_map(|resource| api::resources::Resource::from_v1(&resource).ok()).fold(own, |mut all, one| {
        all.add_one(one);
        all
    })
}

/// The order to be empty and when it came, as long as the agent is not.
pub(crate) fn draining(state: &State) -> Option<(DrainConfig, u64)> {
    let drain = state.draining()?;
    let mut config: DrainConfig = drain.config.get();
    config.mark_gone.get_or_insert(false);
    Some((config, drain.at_ms / 1000))
}

/// `/state`
pub(crate) fn state(agent: &Agent, visitor: &Visitor) -> String {
    let (state, sight) = (permit::seen(agent, visitor), visitor.approver.sight());
    let sees = |role: &str| sight.as_ref().is_none_or(|sight| sight.roles.passes(Some(role)));
    let total = total(agent, &state);
    let full = |resources: &Resources| -> Vec<Value> {
        resources.to_v1(api::resources::Format::Endpoint).iter().map(to_value).collect()
    };
    let roles: Vec<String> =
        total.reservation_roles().into_iter().filter(|role| sees(role)).map(str::to_owned).collect();
    let by_role = |show: &dyn Fn(&Resources) -> Value| -> serde_json::Map<String, Value> {
        roles.iter().map(|role| (role.clone(), show(&total.reserved_by(role)))).collect()
    };
    let allocated = Resources::from_v1(&allocated(&state)).unwrap_or_default();
    let reserved: serde_json::Map<String, Value> = allocated
        .reservation_roles()
        .into_iter()
        .filter(|role| sees(role))
        .map(|role| (role.to_owned(), allocated.reserved_by(role).to_state_json()))
        .collect();
    let frameworks = |active: bool| -> Vec<Value> {
        let wanted = state.frameworks.iter().filter(|(_, framework)| is_active(framework) == active);
        wanted.map(|(id, framework)| legacy_framework(agent, &state, id, framework)).collect()
    };
    let is_seen = visitor.approver.approves(Action::ViewResourceProvider, None);
    let providers: Vec<Value> = crate::providers::show(&state).iter().filter(|_| is_seen).map(to_value).collect();
    let mut value = version();
    let own = json!({
        "start_time": agent.started_ms as f64 / 1000.0,
        "id": state.registration.agent_id.clone().unwrap_or_default(),
        "pid": format!("slave(1)@{}", agent.address), "hostname": agent.config.hostname,
        "capabilities": agent.config.capabilities,
        "resources": total.to_state_json(),
        "reserved_resources": by_role(&Resources::to_state_json),
        "unreserved_resources": total.unreserved().to_state_json(),
        "reserved_resources_full": by_role(&|resources| full(resources).into()),
        "unreserved_resources_full": full(&total.unreserved()),
        "reserved_resources_allocated": reserved,
        "unreserved_resources_allocated": allocated.unreserved().to_state_json(),
        "resource_providers": providers, "attributes": api::attributes::to_state_json(&agent.config.attributes),
        "frameworks": frameworks(true), "completed_frameworks": frameworks(false),
    });
    if let (Value::Object(value), Value::Object(own)) = (&mut value, own) {
        value.extend(own);
        if sight.as_ref().is_none_or(|sight| sight.flags) {
            value.insert("flags".to_owned(), json!(flags(agent)));
        }
        if let Some(domain) = &agent.config.domain {
            value.insert("domain".to_owned(), to_value(domain));
        }
        if let Some((config, seconds)) = draining(&state) {
            value.insert("drain_config".to_owned(), to_value(&config));
            value.insert("estimated_drain_start_time_seconds".to_owned(), seconds.into());
        }
        if let Some(master) = agent.master.read().as_ref().and_then(|master| master.rsplit_once(':')) {
            value.insert("master_hostname".to_owned(), master.0.into());
        }
    }
    value.to_string()
}

/// Statistics of a container: limits by what was promised, usage as the machine says.
pub(crate) fn usage(agent: &Agent, state: &State, executor: &Executor) -> api::v1::ResourceStatistics {
    statistics_of(agent, state, &executor.container_id, &used(executor))
}

/// The same of any container, for which this was promised.
pub(crate) fn statistics_of(
    agent: &Agent,
    state: &State,
    container_id: &str,
    promised: &[Resource],
) -> api::v1::ResourceStatistics {
    let promised = Resources::from_v1(promised).unwrap_or_default();
    let (cpus_milli, mem_milli) = (promised.scalar_milli("cpus"), promised.scalar_milli("mem"));
    let runs = state.process(container_id).is_some();
    let usage = if runs { agent.containers.usage(state, container_id) } else { Default::default() };
    let is_promised = !promised.is_empty();
    let mem_bytes = is_promised.then_some(u64::try_from(mem_milli).unwrap_or(0) * 1024 * 1024 / 1000);
    api::v1::ResourceStatistics {
        timestamp: event_log::host::wall_ms() as f64 / 1000.0,
        cpus_soft_limit: usage.cpus_soft_limit.or(is_promised.then_some(cpus_milli as f64 / 1000.0)),
        mem_limit_bytes: usage.mem_limit_bytes.or(mem_bytes),
        mem_soft_limit_bytes: usage.mem_soft_limit_bytes.or(mem_bytes),
        ..usage
    }
}

fn executor_usage(agent: &Agent, state: &State, framework_id: &str, executor: &Executor) -> Value {
    let info: ExecutorInfo = executor.info.get();
    json!({
        "executor_id": executor.executor_id, "executor_name": info.name(), "framework_id": framework_id,
        "source": info.source(), "statistics": to_value(&usage(agent, state, executor)),
    })
}

/// `/monitor/statistics`
pub(crate) fn statistics(agent: &Agent) -> Value {
    let state = agent.state.read().clone();
    let running = state.executors().filter(|(_, executor)| executor.process.is_some());
    running.map(|(framework_id, executor)| executor_usage(agent, &state, framework_id, executor)).collect()
}

/// `/containers`
pub(crate) fn containers(agent: &Agent, query: &Query, visitor: &Visitor) -> Value {
    let state = agent.state.read().clone();
    let fits = |name: &str, value: &str| query.get(name).is_none_or(|wanted| wanted == value);
    let running = state.executors().filter(|(framework_id, executor)| {
        executor.process.is_some()
            && fits("framework_id", framework_id)
            && fits("executor_id", &executor.executor_id)
            && fits("container_id", &executor.container_id)
            && permit::shows_container(&state, &visitor.approver, &executor.container_id)
    });
    running
        .map(|(framework_id, executor)| {
            let mut value = executor_usage(agent, &state, framework_id, executor);
            value["container_id"] = executor.container_id.clone().into();
            value["status"] = to_value(&ContainerStatus {
                container_id: Some(ContainerId { value: executor.container_id.clone(), parent: None }),
                executor_pid: executor.process.as_ref().map(|process| process.supervisor_pid),
                ..agent.containers.given(&executor.container_id)
            });
            value
        })
        .collect()
}

/// Counted by agents that know roots that are mounted upon others.
const NEVER: [&str; 3] = [
    "containerizer/mesos/container_destroy_errors",
    "containerizer/mesos/provisioner/bind/remove_rootfs_errors",
    "slave/recovery_errors",
];

/// `/metrics/snapshot`: the documented names that this agent has a number for.
pub(crate) fn metrics(agent: &Agent) -> BTreeMap<String, Value> {
    let state = agent.state.read().clone();
    let mut metrics = BTreeMap::new();
    let mut set = |name: &str, value: f64| drop(metrics.insert(name.to_owned(), json!(value)));
    let (used, used_revocable) = split(&allocated(&state));
    let spare: Vec<Resource> = state.model.spare.iter().flatten().map(agent_core::Blob::get).collect();
    let (_, spare) = split(&spare);
    for (kind, total, used) in [("", total(agent, &state), used), ("_revocable", spare, used_revocable)] {
        for name in ["cpus", "mem", "disk", "gpus"] {
            let (total, used) = (total.scalar_milli(name) as f64 / 1000.0, used.scalar_milli(name) as f64 / 1000.0);
            set(&format!("slave/{name}{kind}_total"), total);
            set(&format!("slave/{name}{kind}_used"), used);
            set(&format!("slave/{name}{kind}_percent"), if total > 0.0 { used / total } else { 0.0 });
        }
    }
    let count = |wanted: TaskState| {
        let tasks = state.executors().flat_map(|(_, executor)| executor.tasks.values());
        tasks.filter(|task| task.state == wanted as i32).count() as f64
    };
    set("slave/tasks_staging", count(TaskState::TaskStaging));
    set("slave/tasks_starting", count(TaskState::TaskStarting));
    set("slave/tasks_running", count(TaskState::TaskRunning));
    set("slave/tasks_killing", count(TaskState::TaskKilling));
    let executors = |wanted: fn(&Executor) -> bool| state.executors().filter(|(_, one)| wanted(one)).count() as f64;
    set("slave/executors_terminating", executors(|one| one.stop.is_some()));
    set("slave/executors_registering", executors(|one| one.stop.is_none() && !one.is_command && !one.subscribed));
    set("slave/executors_running", executors(|one| one.stop.is_none() && (one.is_command || one.subscribed)));
    set("slave/frameworks_active", state.frameworks.values().filter(|framework| is_active(framework)).count() as f64);
    let counters = &agent.counters;
    for (name, counter) in [
        ("slave/executors_preempted", &counters.executors_preempted),
        ("slave/tasks_finished", &counters.finished),
        ("slave/tasks_failed", &counters.failed),
        ("slave/tasks_killed", &counters.killed),
        ("slave/tasks_lost", &counters.lost),
        ("slave/tasks_gone", &counters.gone),
        ("slave/valid_status_updates", &counters.updates),
        ("slave/invalid_status_updates", &counters.invalid_updates),
        ("slave/valid_framework_messages", &counters.framework_messages),
        ("slave/invalid_framework_messages", &counters.invalid_framework_messages),
        ("slave/orders_given_up", &counters.orders_given_up),
        ("slave/orders_refused", &counters.orders_refused),
        ("slave/operations", &counters.operations),
        ("slave/operations_failed", &counters.operations_failed),
        ("slave/container_launch_errors", &counters.launch_errors),
        ("slave/executors_terminated", &counters.executors_terminated),
        ("containerizer/fetcher/task_fetches_failed", &counters.fetches_failed),
        ("containerizer/fetcher/task_fetches_succeeded", &counters.fetches),
        ("gc/path_removals_failed", &counters.sandboxes_stuck),
        ("gc/path_removals_pending", &counters.sandboxes_pending),
        ("gc/path_removals_succeeded", &counters.sandboxes_deleted),
        ("slave/executor_directory_max_allowed_age_secs", &counters.sandbox_age_max_secs),
    ] {
        set(name, counter.load(Ordering::Relaxed) as f64);
    }
    // What this agent does not do happens never; monitoring that asks for it should find that out.
    for (what, count) in agent.providers.numbers() {
        set(&format!("resource_provider_manager/{what}"), count);
    }
    for name in NEVER {
        set(name, 0.0);
    }
    let provisioner = agent.containers.images().map(|images| images.provisioner());
    let (roots, stuck) = provisioner.map_or((0, 0), |made| (made.count(), made.errors()));
    set("containerizer/mesos/filesystem/containers_new_rootfs", roots as f64);
    set("containerizer/mesos/provisioner/remove_container_errors", stuck as f64);
    if let Some(pulls) = provisioner.map(|made| made.docker_pulls()).filter(|pulls| pulls.count > 0) {
        set("containerizer/mesos/provisioner/docker_store/image_pull_ms", pulls.last_ms);
        set("containerizer/mesos/provisioner/docker_store/image_pull_ms/count", pulls.count as f64);
    }
    let cache_bytes_max = agent.config.values.bytes("fetcher_cache_size").unwrap_or(0);
    set("containerizer/fetcher/cache_size_total_bytes", cache_bytes_max as f64);
    set("containerizer/fetcher/cache_size_used_bytes", agent_fetcher::kept_bytes(&agent.config.fetcher_cache()) as f64);
    set("slave/recovery_time_secs", agent.recovered_ms.load(Ordering::Relaxed) as f64 / 1000.0);
    set("slave/meseta/requests_not_let_in", agent.config.admission.refused() as f64);
    set("slave/meseta/requests_forbidden", agent.config.admission.forbidden() as f64);
    set("slave/meseta/refusals_not_noted", agent.config.admission.audit().left_out() as f64);
    set("slave/registered", f64::from(u8::from(agent.master.read().is_some())));
    set("slave/uptime_secs", agent.started.elapsed().as_secs_f64());
    agent.containers.numbers(&mut set);
    if let Some(local) = agent.local.get() {
        local.numbers(&mut set);
    }
    api_http::Host::read().metrics(&mut set);
    metrics
}
