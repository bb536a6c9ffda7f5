//! Agents, frameworks, tasks, offers and executors as the version 0 endpoints show them. Keys and types are those of
//! Mesos; which key appears when follows what it was recorded to answer.

use super::amounts;
use super::json::Json;
use super::views::{StatusView, TaskView};
use api::MESOS_VERSION;
use api::resources::Resources;
use api::v1;
use auth::Sight;
use master_core::ids::{AgentKey, FrameworkKey};
use master_core::state::{Agent, AgentLiveness, CompletedFramework, Executor, Framework, Offer, State, Task};
use master_core::view;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is grouped once for a whole answer, so that no list is searched again for each framework.
pub struct Groups<'a> {
    /// What is shown.
    pub state: &'a State,
    offers: BTreeMap<FrameworkKey, Vec<&'a Arc<Offer>>>,
    executors: BTreeMap<FrameworkKey, Vec<(AgentKey, &'a Arc<Executor>)>>,
}

impl<'a> Groups<'a> {
    /// Goes over offers and executors once.
    pub fn new(state: &'a State) -> Groups<'a> {
        let mut offers: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for offer in state.offers.live.values() {
            offers.entry(offer.framework).or_default().push(offer);
        }
        let mut executors: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for agent in state.agents.live.values() {
            for ((framework, _), executor) in &agent.executors {
                executors.entry(*framework).or_default().push((agent.key, executor));
            }
        }
        Groups { state, offers, executors }
    }

    /// The offers that a framework holds.
    pub fn offers(&self, framework: FrameworkKey) -> &[&'a Arc<Offer>] {
        self.offers.get(&framework).map_or(&[], Vec::as_slice)
    }

    fn executors(&self, framework: FrameworkKey) -> &[(AgentKey, &'a Arc<Executor>)] {
        self.executors.get(&framework).map_or(&[], Vec::as_slice)
    }

    /// What the offers hold that a framework has.
    pub fn offered(&self, framework: FrameworkKey) -> Resources {
        let mut sum = Resources::default();
        for offer in self.offers(framework) {
            sum.add(&offer.resources);
        }
        sum
    }
}

/// What a framework's tasks and executors hold, on all agents.
pub fn used(framework: &Framework) -> Resources {
    let mut sum = Resources::default();
    for resources in framework.used.values() {
        sum.add(resources);
    }
    sum
}

/// The tasks of a framework that have not ended for its scheduler.
pub fn live_tasks(state: &State, framework: FrameworkKey) -> impl Iterator<Item = &Arc<Task>> {
    let first = (framework, Arc::from(""));
    state.tasks.live.range(first..).take_while(move |((key, _), _)| *key == framework).map(|(_, task)| task)
}

/// The ended tasks of a framework, oldest first.
pub fn completed_tasks(state: &State, framework: FrameworkKey) -> impl Iterator<Item = &Arc<Task>> {
    state.tasks.completed.range((framework, 0)..=(framework, u64::MAX)).map(|(_, task)| task)
}

/// Whether an agent may be offered: connected, and not deactivated by an operator.
pub fn is_active(agent: &Agent) -> bool {
    matches!(agent.liveness, AgentLiveness::Connected { .. }) && !agent.deactivated
}

/// Whether what an agent runs counts: that of an unreachable one does not.
pub fn is_registered(agent: &Agent) -> bool {
    !matches!(agent.liveness, AgentLiveness::Unreachable { .. })
}

/// Agents that are registered with the leader, connected or not.
pub fn registered(state: &State) -> impl Iterator<Item = &Arc<Agent>> {
    state.agents.live.values().filter(|agent| is_registered(agent) && !state.is_recovered(agent))
}

/// Agents that were registered before there was this leader, and have not come back.
pub fn recovered(state: &State) -> impl Iterator<Item = &Arc<Agent>> {
    state.agents.live.values().filter(|agent| state.is_recovered(agent))
}

/// The fields of a recovered agent, with which those of a registered one begin.
pub fn recovered_agent(json: &mut Json, state: &State, agent: &Agent) {
    let info = v1::AgentInfo::decode(&agent.info[..]).unwrap_or_default();
    json.string_at("id", &view::agent_id(state, agent.key));
    json.string_at("hostname", &agent.hostname);
    json.integer_at("port", i64::from(info.port()));
    json.object_at("attributes", |json| attributes(json, &info.attributes));
    if let Some(domain) = &info.domain {
        json.key("domain").message(domain);
    }
}

/// `slave(1)@ip:port`
pub fn agent_pid(agent: &Agent) -> String {
    format!("slave(1)@{}", agent.address)
}

/// The fields of an agent that all lists have.
pub fn agent(json: &mut Json, state: &State, agent: &Agent, sight: Option<&Sight>) {
    recovered_agent(json, state, agent);
    json.string_at("pid", &agent_pid(agent));
    json.time_at("registered_time", agent.registered_ms);
    if let Some(at_ms) = agent.reregistered_ms {
        json.time_at("reregistered_time", at_ms);
    }
    let everything = state.everything_of(agent);
    amounts::field(json, "resources", &everything);
    amounts::field(json, "used_resources", &agent.used);
    amounts::field(json, "offered_resources", &agent.offered);
    json.object_at("reserved_resources", |json| {
        for (role, resources) in amounts::reserved(&agent.total) {
            if sight.is_some_and(|sight| !sight.roles.passes(Some(&role))) {
                continue;
            }
            amounts::field(json, &role, &resources);
        }
    });
    amounts::field(json, "unreserved_resources", &everything.unreserved());
    json.bool_at("active", is_active(agent));
    json.bool_at("deactivated", agent.deactivated);
    // Clients parse the first as a version of Mesos and choose by it; the second is the agent's own.
    json.string_at("version", MESOS_VERSION);
    json.string_at("meseta_version", &agent.version);
    json.array_at("capabilities", |json| agent.capabilities.iter().for_each(|name| json.string(name)));
    if let Some(drain) = state.drains.get(agent.key) {
        json.key("drain_info").message(&drain.info());
        json.time_at("estimated_drain_start_time_seconds", drain.since_ms);
    }
}

/// The resources of an agent in full, after the fields of [`agent`].
pub fn agent_in_full(json: &mut Json, state: &State, agent: &Agent, sight: Option<&Sight>) {
    let full = |json: &mut Json, name: &str, resources: &Resources| amounts::full(json, name, &seen(resources, sight));
    json.object_at("reserved_resources_full", |json| {
        for (role, resources) in amounts::reserved(&agent.total) {
            if sight.is_some_and(|sight| !sight.roles.passes(Some(&role))) {
                continue;
            }
            full(json, &role, &resources);
        }
    });
    full(json, "unreserved_resources_full", &state.everything_of(agent).unreserved());
    full(json, "used_resources_full", &agent.used);
    full(json, "offered_resources_full", &agent.offered);
}

/// What of resources is seen.
fn seen(resources: &Resources, sight: Option<&Sight>) -> Resources {
    match sight {
        None => resources.clone(),
        Some(sight) => resources.filter(|resource| master_core::seen::sees(&sight.roles, resource)),
    }
}

fn attributes(json: &mut Json, attributes: &[v1::Attribute]) {
    for attribute in attributes {
        match attribute.r#type() {
            v1::value::Type::Scalar => {
                json.double_at(&attribute.name, attribute.scalar.as_ref().map_or(0.0, |scalar| scalar.value));
            }
            v1::value::Type::Ranges => {
                let ranges = attribute.ranges.iter().flat_map(|ranges| &ranges.range);
                let ranges: Vec<_> = ranges.map(|range| format!("{}-{}", range.begin, range.end)).collect();
                json.string_at(&attribute.name, &format!("[{}]", ranges.join(", ")));
            }
            v1::value::Type::Set => {
                let items: Vec<_> = attribute.set.iter().flat_map(|set| &set.item).map(String::as_str).collect();
                json.string_at(&attribute.name, &format!("{{{}}}", items.join(", ")));
            }
            v1::value::Type::Text => {
                json.string_at(&attribute.name, attribute.text.as_ref().map_or("", |text| &text.value));
            }
        }
    }
}

/// The fields of a framework that the summary has too. Returns its info for those that follow.
pub fn framework_head(json: &mut Json, groups: &Groups<'_>, framework: &Framework) -> v1::FrameworkInfo {
    let info = v1::FrameworkInfo::decode(&framework.info[..]).unwrap_or_default();
    json.string_at("id", &framework.id);
    json.string_at("name", &info.name);
    amounts::field(json, "used_resources", &used(framework));
    amounts::field(json, "offered_resources", &groups.offered(framework.key));
    json.array_at("capabilities", |json| {
        info.capabilities.iter().for_each(|capability| json.string(capability.r#type().as_str_name()));
    });
    json.string_at("hostname", info.hostname());
    json.string_at("webui_url", info.webui_url());
    json.bool_at("active", framework.stream.is_some());
    json.bool_at("connected", framework.stream.is_some());
    json.bool_at("recovered", groups.state.is_recovered_framework(framework));
    info
}

/// A framework in full, with its tasks. `removed_ms` is set for a completed one.
pub fn framework(json: &mut Json, groups: &Groups<'_>, framework: &Framework, removed_ms: Option<u64>) {
    let state = groups.state;
    let info = framework_head(json, groups, framework);
    json.string_at("user", &info.user);
    json.double_at("failover_timeout", info.failover_timeout());
    json.bool_at("checkpoint", info.checkpoint());
    json.time_at("registered_time", framework.registered_ms);
    json.time_at("unregistered_time", removed_ms.unwrap_or(0));
    if let Some(principal) = &info.principal {
        json.string_at("principal", principal);
    }
    let mut resources = used(framework);
    resources.add(&groups.offered(framework.key));
    amounts::field(json, "resources", &resources);
    if let Some(at_ms) = framework.reregistered_ms {
        json.time_at("reregistered_time", at_ms);
    }
    if framework.capabilities.multi_role {
        json.array_at("roles", |json| info.roles.iter().for_each(|role| json.string(role)));
    } else {
        json.string_at("role", info.role());
    }
    json.array_at("tasks", |json| {
        let tasks = live_tasks(state, framework.key).filter(|task| task.unreachable_ms.is_none());
        tasks.for_each(|one| json.object(|json| task(json, state, one, &framework.id)));
    });
    json.array_at("unreachable_tasks", |json| {
        let tasks = live_tasks(state, framework.key).filter(|task| task.unreachable_ms.is_some());
        tasks.for_each(|one| json.object(|json| task(json, state, one, &framework.id)));
    });
    json.array_at("completed_tasks", |json| {
        let tasks = completed_tasks(state, framework.key);
        tasks.for_each(|one| json.object(|json| task(json, state, one, &framework.id)));
    });
    json.array_at("offers", |json| {
        for one in groups.offers(framework.key).iter().rev() {
            json.object(|json| offer(json, state, one, &framework.id));
        }
    });
    json.array_at("executors", |json| {
        for (agent, one) in groups.executors(framework.key) {
            json.object(|json| executor(json, state, *agent, one, &framework.id));
        }
    });
    if let Some(list) = &info.labels {
        labels(json, list);
    }
    json.key("offer_constraints").raw(&api::json::to_vec(&state.constraints.message(framework.key)));
}

/// A removed framework.
pub fn completed_framework(json: &mut Json, groups: &Groups<'_>, completed: &CompletedFramework) {
    framework(json, groups, &completed.framework, Some(completed.removed_ms));
}

/// A task. Its framework's id is given, because many tasks share it.
pub fn task(json: &mut Json, state: &State, task: &Task, framework_id: &str) {
    let info = TaskView::decode(&task.info[..]).unwrap_or_default();
    json.string_at("id", &task.task_id);
    json.string_at("name", &info.name);
    json.string_at("framework_id", framework_id);
    json.string_at("executor_id", task.executor_id.as_deref().unwrap_or(""));
    json.string_at("slave_id", &view::agent_id(state, task.agent));
    json.string_at("state", state_name(task.state));
    amounts::field(json, "resources", &task.resources);
    if !info.limits.is_empty() {
        json.object_at("limits", |json| {
            for (name, limit) in &info.limits {
                match limit.value.is_finite() {
                    true => json.double_at(name, limit.value),
                    false => json.string_at(name, "Infinity"),
                }
            }
        });
    }
    json.string_at("role", &task.role);
    json.array_at("statuses", |json| {
        for bytes in &task.statuses {
            let view = StatusView::decode(&bytes[..]).unwrap_or_default();
            json.object(|json| status(json, &view));
        }
    });
    if let Some(user) = info.command.as_ref().and_then(|command| command.user.as_ref()) {
        json.string_at("user", user);
    }
    if let Some(list) = &info.labels {
        labels(json, list);
    }
    if let Some(discovery) = &info.discovery {
        json.key("discovery").message(discovery);
    }
    if let Some(container) = &info.container {
        json.key("container").message(container);
    }
    if let Some(health_check) = &info.health_check {
        json.key("health_check").message(health_check);
    }
}

fn status(json: &mut Json, status: &StatusView) {
    json.string_at("state", state_name(status.state));
    json.double_at("timestamp", status.timestamp);
    if let Some(list) = &status.labels {
        labels(json, list);
    }
    if let Some(container) = &status.container {
        json.object_at("container_status", |json| container_status(json, container));
    }
    if let Some(healthy) = status.healthy {
        json.bool_at("healthy", healthy);
    }
}

fn container_status(json: &mut Json, container: &v1::ContainerStatus) {
    if let Some(id) = &container.container_id {
        json.key("container_id").message(id);
    }
    if !container.network_infos.is_empty() {
        json.array_at("network_infos", |json| {
            container.network_infos.iter().for_each(|info| json.message(info));
        });
    }
    if let Some(cgroup) = &container.cgroup_info {
        json.key("cgroup_info").message(cgroup);
    }
}

fn offer(json: &mut Json, state: &State, offer: &Offer, framework_id: &str) {
    json.string_at("id", &view::offer_id(state, offer.key));
    json.string_at("framework_id", framework_id);
    json.object_at("allocation_info", |json| json.string_at("role", &offer.role));
    json.string_at("slave_id", &view::agent_id(state, offer.agent));
    amounts::field(json, "resources", &offer.resources);
}

fn executor(json: &mut Json, state: &State, agent: AgentKey, executor: &Executor, framework_id: &str) {
    let info = v1::ExecutorInfo::decode(&executor.info[..]).unwrap_or_default();
    json.string_at("executor_id", &info.executor_id.value);
    json.string_at("name", info.name());
    json.string_at("framework_id", framework_id);
    json.object_at("command", |json| {
        if let Some(command) = &info.command {
            command_fields(json, command);
        }
    });
    amounts::field(json, "resources", &executor.resources);
    if let Some(role) = amounts::role(&executor.resources) {
        json.string_at("role", &role);
    }
    if let Some(list) = &info.labels {
        labels(json, list);
    }
    if info.r#type() != v1::executor_info::Type::Unknown {
        json.string_at("type", info.r#type().as_str_name());
    }
    json.string_at("slave_id", &view::agent_id(state, agent));
}

fn command_fields(json: &mut Json, command: &v1::CommandInfo) {
    json.bool_at("shell", command.shell());
    if let Some(value) = &command.value {
        json.string_at("value", value);
    }
    json.array_at("argv", |json| command.arguments.iter().for_each(|argument| json.string(argument)));
    if let Some(environment) = &command.environment {
        json.key("environment").message(environment);
    }
    json.array_at("uris", |json| command.uris.iter().for_each(|uri| json.message(uri)));
}

fn labels(json: &mut Json, labels: &v1::Labels) {
    json.array_at("labels", |json| labels.labels.iter().for_each(|label| json.message(label)));
}

/// `TASK_RUNNING`, from its number.
pub fn state_name(state: i32) -> &'static str {
    v1::TaskState::try_from(state).unwrap_or(v1::TaskState::TaskUnknown).as_str_name()
}
