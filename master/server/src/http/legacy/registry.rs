//! `/registrar(1)/registry`: what Mesos's masters write down for whoever takes over. Here it is a view of State.

use crate::identity::Identity;
use api::json::to_value;
use api::resources::{Format, Resource};
use api::v1;
use auth::Sight;
use master_core::state::maintenance::Mode;
use master_core::state::{Agent, AgentLiveness, State};
use master_core::view;
use prost::Message;
use serde_json::{Map, Value, json};

/// As somebody sees it: without the quota, weights and reservations of roles that they do not. What is empty is not there.
pub(super) fn registry(state: &State, identity: &Identity, sight: Option<&Sight>) -> Value {
    let sees = |role: &str| sight.is_none_or(|sight| sight.roles.passes(Some(role)));
    let mut registry = Map::new();
    let mut list = |outer: &str, inner: &str, rows: Vec<Value>| {
        if !rows.is_empty() {
            registry.insert(outer.to_owned(), if inner.is_empty() { rows.into() } else { json!({ inner: rows }) });
        }
    };
    let agents = state.agents.live.values();
    let (unreachable, admitted): (Vec<_>, Vec<_>) = agents.partition(|agent| agent.is_unreachable());
    list("slaves", "slaves", admitted.into_iter().map(|known| agent(state, known, sight)).collect());
    let away = unreachable.into_iter().map(|agent| {
        let since_ms = match agent.liveness {
            AgentLiveness::Unreachable { since_ms, .. } => since_ms,
            _ => 0,
        };
        since(&view::agent_id(state, agent.key), since_ms)
    });
    list("unreachable", "slaves", away.collect());
    let gone = state.agents.gone.iter().filter(|(_, gone)| gone.by_operator);
    list("gone", "slaves", gone.map(|(key, gone)| since(&view::agent_id(state, *key), gone.at_ms)).collect());

    let machines = state.maintenance.machines.iter().filter(|(_, machine)| machine.mode != Mode::Up);
    let machines = machines.map(|(key, machine)| {
        let mode = if machine.mode == Mode::Down { v1::machine_info::Mode::Down } else { v1::machine_info::Mode::Draining };
        let unavailability = state.maintenance.unavailable.get(key).map(|when| when.to_v1());
        json!({ "info": to_value(&v1::MachineInfo { id: machine.id.to_v1(), mode: Some(mode as i32), unavailability }) })
    });
    list("machines", "machines", machines.collect());
    if !state.maintenance.windows.is_empty() {
        list("schedules", "", vec![to_value(&view::maintenance_schedule(state))]);
    }
    let quotas = super::super::roles::quota_status(state).configs;
    list("quota_configs", "", quotas.iter().filter(|quota| sees(&quota.role)).map(to_value).collect());
    let weights = super::super::roles::weights(state);
    let weights = weights.iter().filter(|info| sees(info.role()));
    list("weights", "", weights.map(|info| json!({ "info": to_value(info) })).collect());
    let drains = (!state.drains.by_agent.is_empty()).then_some("AGENT_DRAINING");
    let limits = (!state.roles.quotas.is_empty()).then_some("QUOTA_V2");
    let needed = drains.into_iter().chain(limits);
    list("minimum_capabilities", "", needed.map(|capability| json!({ "capability": capability })).collect());
    let leader = state.leader.as_ref().and_then(|leader| identity.master_info(state, leader.master.node));
    if let Some(info) = leader {
        registry.insert("master".to_owned(), json!({ "info": to_value(&info) }));
    }
    Value::Object(registry)
}

fn agent(state: &State, agent: &Agent, sight: Option<&Sight>) -> Value {
    let info = v1::AgentInfo::decode(&agent.info[..]).unwrap_or_default();
    let seen = |resource: &Resource| sight.is_none_or(|sight| master_core::seen::sees(&sight.roles, resource));
    let resources = info.resources.iter().filter_map(|resource| Resource::from_v1(resource).ok()).filter(seen);
    let resources = resources.map(|resource| resource.to_v1(Format::PreRefinement)).collect();
    let id = Some(v1::AgentId { value: view::agent_id(state, agent.key) });
    let mut info = to_value(&v1::AgentInfo { resources, id, ..info });
    if let Value::Object(info) = &mut info {
        // Agents always write down what they do.
        info.insert("checkpoint".to_owned(), true.into());
    }
    let mut value = json!({ "deactivated": agent.deactivated, "info": info });
    if let Some(drain) = state.drains.get(agent.key) {
        value["drain_info"] = to_value(&drain.info());
    }
    value
}

fn since(id: &str, at_ms: u64) -> Value {
    json!({ "id": { "value": id }, "timestamp": { "nanoseconds": at_ms.saturating_mul(1_000_000) } })
}
