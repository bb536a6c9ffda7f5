//! `GET /holders` and `GET /preemption?role=NAME`.

use api::resources::{Format, Quantities};
use master_core::holders::{self, Holder};
use master_core::ids::AgentKey;
use master_core::offer_constraints;
use master_core::preemption::{self, Preemption, Victim, Why};
use master_core::{State, view};
use serde_json::{Map, Value, json};

/// Who holds what without using it, and since when.
pub(super) fn holders(state: &State) -> Value {
    let one = |holder: &Holder| {
        let agent = state.agents.get(holder.agent);
        json!({
            "what": holder.what.name(),
            "id": holder.id,
            "framework_id": holder.framework.map(|key| view::framework_id(state, key)),
            "role": &*holder.role,
            "agent_id": view::agent_id(state, holder.agent),
            "hostname": agent.map(|agent| &*agent.hostname),
            "text": holder.resources.to_string(),
            "resources": holder.resources.to_v1(Format::PostRefinement).iter().map(api::json::to_value).collect::<Vec<_>>(),
            "since_ms": holder.since_ms,
        })
    };
    json!({ "holders": holders::holders(state).iter().map(one).collect::<Vec<_>>(), "at_ms": state.at_ms })
}

/// What would have to go so that the role gets its guarantee; nothing is done.
pub(super) fn preemption(state: &State, role: &str) -> Value {
    let Preemption { guarantee, consumed, lacking, free, offers, tasks, still_lacking } =
        preemption::preemption(state, role);
    let offer = |key: &_| {
        let offer = state.offers.get(*key)?;
        Some(json!({
            "id": view::offer_id(state, *key),
            "framework_id": view::framework_id(state, offer.framework),
            "role": &*offer.role,
            "agent_id": view::agent_id(state, offer.agent),
            "text": offer.resources.unallocate().to_string(),
        }))
    };
    let task = |victim: &Victim| {
        let task = state.tasks.live.get(&victim.task)?;
        Some(json!({
            "task_id": &*task.task_id,
            "framework_id": view::framework_id(state, task.framework),
            "role": &*task.role,
            "agent_id": view::agent_id(state, task.agent),
            "text": task.resources.unallocate().to_string(),
            "launched_ms": task.launched_ms,
            "why": match victim.why {
                Why::NoGuarantee => "nothing is guaranteed to its role",
                Why::AboveGuarantee => "its role has more than is guaranteed to it",
            },
        }))
    };
    json!({
        "role": role,
        "guarantee": amounts(&guarantee),
        "consumed": amounts(&consumed),
        "lacking": amounts(&lacking),
        "free": amounts(&free),
        "offers": offers.iter().filter_map(offer).collect::<Vec<_>>(),
        "tasks": tasks.iter().filter_map(task).collect::<Vec<_>>(),
        "still_lacking": amounts(&still_lacking),
    })
}

fn amounts(quantities: &Quantities) -> Value {
    let numbers = quantities.iter().map(|(name, milli)| (name.as_str().to_owned(), json!(milli as f64 / 1000.0)));
    Value::Object(numbers.collect::<Map<_, _>>())
}

/// `/allocator/offer_constraints_debug`, as Mesos has it.
pub(super) fn constraints(state: &State) -> Value {
    let of = |left_out: offer_constraints::Excluded| {
        let ids = |agents: Vec<AgentKey>| -> Vec<String> {
            agents.into_iter().map(|agent| view::agent_id(state, agent)).collect()
        };
        let agents: Map<String, Value> =
            left_out.agents.into_iter().map(|(role, agents)| (role.to_string(), json!(ids(agents)))).collect();
        let suppressed: Vec<&str> = left_out.suppressed.iter().map(|role| &**role).collect();
        let told = json!({"suppressed_roles": suppressed, "excluded_by_attribute_constraints": agents});
        (view::framework_id(state, left_out.framework), told)
    };
    let frameworks: Map<String, Value> = offer_constraints::excluded(state).into_iter().map(of).collect();
    json!({"frameworks": frameworks})
}
