//! Agents, frameworks, executors and roles as v1 messages, made from State.

use crate::http::legacy::parts::{self, Groups};
use crate::offers;
use api::MESOS_VERSION;
use api::resources::{Format, Resource};
use api::v1;
use api::v1::master::response::{get_agents, get_executors, get_frameworks};
use auth::Sight;
use master_core::ids::AgentKey;
use master_core::state::{Agent, Executor, Framework, Provider, State};
use master_core::view;
use prost::Message;

/// Milliseconds since the epoch, as the schema has it.
pub fn time(at_ms: u64) -> v1::TimeInfo {
    let nanoseconds = i64::try_from(u128::from(at_ms) * 1_000_000).unwrap_or(i64::MAX);
    v1::TimeInfo { nanoseconds }
}

/// An agent that is registered.
pub fn agent(state: &State, agent: &Agent, sight: Option<&Sight>) -> get_agents::Agent {
    let mut whole = whole_agent(state, agent);
    if let Some(sight) = sight.filter(|sight| !sight.roles.passes_all()) {
        hide(&mut whole, sight);
    }
    whole
}

/// Leaves out what the agent has for roles that are not seen.
pub fn hide(agent: &mut get_agents::Agent, sight: &Sight) {
    let lists = [&mut agent.total_resources, &mut agent.allocated_resources, &mut agent.offered_resources];
    let provided = agent.resource_providers.iter_mut().map(|provider| &mut provider.total_resources);
    let lists = lists.into_iter().chain([&mut agent.agent_info.resources]).chain(provided);
    lists.for_each(|list| list.retain(|it| is_seen(it, sight)));
}

/// An agent of which nothing is known but its info.
pub fn recovered_agent(state: &State, agent: &Agent, sight: Option<&Sight>) -> v1::AgentInfo {
    let mut info = agent_info(state, agent);
    if let Some(sight) = sight {
        info.resources.retain(|resource| is_seen(resource, sight));
    }
    info
}

fn agent_info(state: &State, agent: &Agent) -> v1::AgentInfo {
    let mut info = v1::AgentInfo::decode(&agent.info[..]).unwrap_or_default();
    info.id = Some(v1::AgentId { value: view::agent_id(state, agent.key) });
    info
}

fn is_seen(resource: &v1::Resource, sight: &Sight) -> bool {
    Resource::from_v1(resource).is_ok_and(|resource| master_core::seen::sees(&sight.roles, &resource))
}

fn whole_agent(state: &State, agent: &Agent) -> get_agents::Agent {
    let capabilities = agent.capabilities.iter().map(|name| v1::agent_info::Capability {
        r#type: v1::agent_info::capability::Type::from_str_name(name).map(|known| known as i32),
    });
    get_agents::Agent {
        agent_info: agent_info(state, agent),
        active: parts::is_active(agent),
        deactivated: Some(agent.deactivated),
        // As of the masters: clients choose by it. The agent's own is in `/slaves`.
        version: MESOS_VERSION.to_owned(),
        pid: Some(parts::agent_pid(agent)),
        registered_time: Some(time(agent.registered_ms)),
        reregistered_time: agent.reregistered_ms.map(time),
        total_resources: state.everything_of(agent).to_v1(Format::Endpoint),
        resource_providers: providers(state, agent),
        allocated_resources: agent.used.to_v1(Format::Endpoint),
        offered_resources: agent.offered.to_v1(Format::Endpoint),
        capabilities: capabilities.collect(),
        drain_info: state.drains.get(agent.key).map(|drain| drain.info()),
        // In whole seconds, as clients know it.
        estimated_drain_start_time: state.drains.get(agent.key).map(|drain| time(drain.since_ms / 1000 * 1000)),
    }
}

/// Who brings what an agent has beside its own, with it.
fn providers(state: &State, agent: &Agent) -> Vec<get_agents::agent::ResourceProvider> {
    let of = |provider: &Provider| get_agents::agent::ResourceProvider {
        resource_provider_info: v1::ResourceProviderInfo::decode(&provider.info[..]).unwrap_or_default(),
        total_resources: agent
            .total
            .filter(|resource| resource.provider_id.as_ref() == Some(&provider.id))
            .to_v1(Format::PostRefinement),
    };
    state.providers.of(agent.key).iter().map(of).collect()
}

/// A framework, live or (with `removed_ms`) completed.
pub fn framework(groups: &Groups<'_>, framework: &Framework, removed_ms: Option<u64>) -> get_frameworks::Framework {
    // Operators see offers in one form, whatever their framework understands.
    let offers = groups.offers(framework.key).iter().rev().filter_map(|offer| {
        Some(v1::Offer {
            resources: offer.resources.to_v1(Format::PostRefinement),
            allocation_info: Some(v1::resource::AllocationInfo { role: Some(offer.role.to_string()) }),
            ..offers::offer(groups.state, offer.key)?
        })
    });
    let asked = groups.state.maintenance.waiting_for(framework.key);
    get_frameworks::Framework {
        offers: offers.collect(),
        inverse_offers: asked.filter_map(|(key, _)| offers::inverse_offer(groups.state, key)).collect(),
        allocated_resources: parts::used(framework).to_v1(Format::Endpoint),
        offered_resources: groups.offered(framework.key).to_v1(Format::Endpoint),
        offer_constraints: Some(groups.state.constraints.message(framework.key)),
        ..framework_alone(groups.state, framework, removed_ms)
    }
}

/// A framework without what it holds, as watchers hear of it.
pub fn framework_alone(state: &State, framework: &Framework, removed_ms: Option<u64>) -> get_frameworks::Framework {
    get_frameworks::Framework {
        framework_info: framework_info(framework),
        active: framework.stream.is_some(),
        connected: framework.stream.is_some(),
        recovered: state.is_recovered_framework(framework),
        registered_time: Some(time(framework.registered_ms)),
        reregistered_time: Some(time(framework.reregistered_ms.unwrap_or(framework.registered_ms))),
        unregistered_time: removed_ms.map(time),
        ..Default::default()
    }
}

/// The framework's info, with its id.
pub fn framework_info(framework: &Framework) -> v1::FrameworkInfo {
    let mut info = v1::FrameworkInfo::decode(&framework.info[..]).unwrap_or_default();
    info.id = Some(v1::FrameworkId { value: framework.id.to_string() });
    info
}

/// A custom executor.
pub fn executor(state: &State, agent: AgentKey, executor: &Executor) -> get_executors::Executor {
    get_executors::Executor {
        executor_info: v1::ExecutorInfo::decode(&executor.info[..]).unwrap_or_default(),
        agent_id: v1::AgentId { value: view::agent_id(state, agent) },
    }
}
