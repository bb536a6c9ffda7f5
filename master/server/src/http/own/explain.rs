//! `GET /explain?role=NAME`: why the role is not offered what it is not offered, now. For each of its frameworks and each
//! agent the first reason that the allocator has.

use api::resources::is_at_or_below;
use master_core::allocator::{self, Options, Reason};
use master_core::{State, view};
use serde_json::{Value, json};

/// The reasons, by framework and agent; of those agents that would be offered with the next plan, what. Frameworks that
/// are not among those `seen` are left out.
pub(in super::super) fn role(state: &State, seen: &State, at_ms: u64, options: &Options, role: &str) -> Value {
    let plan = allocator::plan(state, at_ms, options);
    let of_role = |of: &str| is_at_or_below(of, role);
    let is_seen = |key| seen.frameworks.get(key).is_some();
    let framework = |key| view::framework_id(state, key);
    let next = plan.groups.iter().filter(|group| of_role(&group.role) && is_seen(group.framework)).flat_map(|group| {
        group.offers.iter().map(move |(agent, resources)| {
            json!({
                "framework_id": framework(group.framework),
                "role": &*group.role,
                "agent_id": view::agent_id(state, *agent),
                "text": resources.unallocate().to_string(),
            })
        })
    });
    let reason = |reason: &Reason| {
        let agent = reason.agent.and_then(|key| state.agents.get(key));
        json!({
            "framework_id": framework(reason.framework),
            "role": &*reason.role,
            "agent_id": reason.agent.map(|key| view::agent_id(state, key)),
            "hostname": agent.map(|agent| &*agent.hostname),
            "why": allocator::words(&reason.why, at_ms, |key| format!("framework {}", framework(key))),
            "brake": state.brakes.hold(reason.framework, &reason.role).map(|(_, pulled)| &*pulled.why),
        })
    };
    let reasons = allocator::reasons_where(state, at_ms, options, &plan, of_role);
    json!({
        "role": role,
        "at_ms": at_ms,
        "known": seen.frameworks.live.values().any(|framework| framework.roles.keys().any(|of| of_role(of))),
        "outstanding": seen.offers.live.values().filter(|offer| of_role(&offer.role)).count(),
        "next": next.collect::<Vec<_>>(),
        "reasons": reasons.iter().filter(|reason| is_seen(reason.framework)).map(reason).collect::<Vec<_>>(),
    })
}
