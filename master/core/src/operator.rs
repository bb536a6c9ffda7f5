//! What operators may change.

use crate::by_operator;
use crate::command::Caller;
use crate::decide::{Draft, Reply};
use crate::drain;
use crate::lost;
use crate::maintenance;
use crate::permit;
use crate::quota;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::unfinished::Parting;
use crate::teardown;
use crate::view;
use crate::weights;
use api::v1::master::Call;
use api::v1::master::call::Type;
use auth::Action;

/// An operator's call that changes something.
#[allow(deprecated)] // Older ways to set quota still work.
pub(crate) fn call(draft: &mut Draft, call: &Call, caller: &Caller) -> Result<Reply, Refusal> {
    let absent = |what: &str| {
        Refusal::invalid("InvalidCall", format!("Failed to validate master::Call: Expecting '{what}' to be present"))
    };
    let kind = call.r#type.ok_or_else(|| absent("type"))?;
    match Type::try_from(kind).unwrap_or(Type::Unknown) {
        Type::Teardown => {
            let id = &call.teardown.as_ref().ok_or_else(|| absent("teardown"))?.framework_id.value;
            end_framework(draft, id, caller)
        }
        Type::MarkAgentGone => {
            let id = &call.mark_agent_gone.as_ref().ok_or_else(|| absent("mark_agent_gone"))?.agent_id.value;
            mark_gone(draft, id, caller)
        }
        // Operations on resources.
        kind @ (Type::ReserveResources
        | Type::UnreserveResources
        | Type::CreateVolumes
        | Type::DestroyVolumes
        | Type::GrowVolume
        | Type::ShrinkVolume) => by_operator::call(draft, call, kind, caller),

        // Roles.
        Type::UpdateQuota => {
            quota::update(draft, call.update_quota.as_ref().ok_or_else(|| absent("update_quota"))?, caller)
        }
        Type::SetQuota => {
            let set = call.set_quota.as_ref().ok_or_else(|| absent("set_quota"))?;
            quota::set(draft, &set.quota_request, caller)
        }
        Type::RemoveQuota => {
            quota::remove(draft, &call.remove_quota.as_ref().ok_or_else(|| absent("remove_quota"))?.role, caller)
        }
        Type::UpdateWeights => {
            weights::update(draft, call.update_weights.as_ref().ok_or_else(|| absent("update_weights"))?, caller)
        }

        // Drains, and what agents can spare.
        Type::DrainAgent => {
            drain::drain(draft, call.drain_agent.as_ref().ok_or_else(|| absent("drain_agent"))?, caller)
        }
        Type::DeactivateAgent => {
            drain::deactivate(draft, call.deactivate_agent.as_ref().ok_or_else(|| absent("deactivate_agent"))?, caller)
        }
        Type::ReactivateAgent => {
            drain::reactivate(draft, call.reactivate_agent.as_ref().ok_or_else(|| absent("reactivate_agent"))?, caller)
        }

        // Maintenance.
        Type::UpdateMaintenanceSchedule => {
            let update = call.update_maintenance_schedule.as_ref();
            maintenance::schedule(draft, &update.ok_or_else(|| absent("update_maintenance_schedule"))?.schedule, caller)
        }
        Type::StartMaintenance => {
            let start = call.start_maintenance.as_ref().ok_or_else(|| absent("start_maintenance"))?;
            maintenance::start(draft, &start.machines, caller)
        }
        Type::StopMaintenance => {
            let stop = call.stop_maintenance.as_ref().ok_or_else(|| absent("stop_maintenance"))?;
            maintenance::stop(draft, &stop.machines, caller)
        }
        other => Err(Refusal::new(
            RefusalKind::NotImplemented,
            "NotImplemented",
            format!("{} is not supported by this version", other.as_str_name()),
        )),
    }
}

/// TEARDOWN of a framework.
fn end_framework(draft: &mut Draft, id: &str, caller: &Caller) -> Result<Reply, Refusal> {
    let framework = draft.state.frameworks.by_id(id);
    let framework =
        framework.ok_or_else(|| Refusal::invalid("UnknownFramework", "No framework found with specified ID"))?;
    let (key, principal) = (framework.key, framework.principal.clone());
    permit::check(draft, caller, Action::TeardownFramework, [principal.as_deref().unwrap_or_default()])?;
    teardown::by_key(draft, key)
}

/// MARK_AGENT_GONE: for good. Asking again is welcome.
fn mark_gone(draft: &mut Draft, id: &str, caller: &Caller) -> Result<Reply, Refusal> {
    permit::check_any(draft, caller, Action::MarkAgentGone)?;
    let key = view::parse_agent_id(&draft.state, id);
    let gone = key.and_then(|key| draft.state.agents.gone.get(&key));
    let end = key.and_then(|key| draft.state.unfinished.agents.get(&key)).map(|end| end.why);
    if gone.is_some_and(|gone| gone.by_operator) || end == Some(Parting::MarkedGone) {
        return Ok(Reply::Empty);
    }
    if end.is_some() {
        let message = format!("Agent '{id}' is being transitioned to removed");
        return Err(Refusal::new(RefusalKind::Busy, "BeingRemoved", message));
    }
    let Some(agent) = key.filter(|key| draft.state.agents.get(*key).is_some()) else {
        return Err(Refusal::new(RefusalKind::NotFound, "UnknownAgent", format!("Agent '{id}' not found")));
    };
    lost::remove(draft, agent, Parting::MarkedGone);
    Ok(Reply::Agent { agent })
}

#[cfg(test)]
mod tests {
    use crate::refusal::RefusalKind;
    use crate::testing::Cluster;
    use api::v1;
    use api::v1::master::Call;
    use api::v1::master::call::{self, Type};

    #[test]
    fn what_names_nothing_is_refused_as_known() {
        let mut cluster = Cluster::new();
        let of = |kind: Type| Call { r#type: Some(kind as i32), ..Default::default() };
        let agent_id = v1::AgentId { value: "nosuch".into() };
        let mut refused = |call: Call| {
            let refusal = cluster.operator(call).unwrap_err();
            (refusal.kind, refusal.message)
        };
        assert_eq!(
            refused(Call {
                teardown: Some(call::Teardown { framework_id: v1::FrameworkId { value: "nosuch".into() } }),
                ..of(Type::Teardown)
            }),
            (RefusalKind::Invalid, "No framework found with specified ID".into())
        );
        assert_eq!(
            refused(Call {
                mark_agent_gone: Some(call::MarkAgentGone { agent_id: agent_id.clone() }),
                ..of(Type::MarkAgentGone)
            }),
            (RefusalKind::NotFound, "Agent 'nosuch' not found".into())
        );
        assert_eq!(
            refused(Call { deactivate_agent: Some(call::DeactivateAgent { agent_id }), ..of(Type::DeactivateAgent) }),
            (RefusalKind::Invalid, "Unknown agent".into())
        );
        assert_eq!(
            refused(of(Type::DrainAgent)).1,
            "Failed to validate master::Call: Expecting 'drain_agent' to be present"
        );
    }

    #[test]
    fn a_deactivated_agent_is_not_offered() {
        let mut cluster = Cluster::new();
        cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        cluster.offer();
        let agent_id = v1::AgentId { value: "C-S0".into() };
        let off = Call {
            r#type: Some(Type::DeactivateAgent as i32),
            deactivate_agent: Some(call::DeactivateAgent { agent_id: agent_id.clone() }),
            ..Default::default()
        };
        assert_eq!(cluster.operator(off).unwrap(), ["offers-returned", "agent-deactivated"]);
        assert!(cluster.offer().is_empty());
        let on = Call {
            r#type: Some(Type::ReactivateAgent as i32),
            reactivate_agent: Some(call::ReactivateAgent { agent_id, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(cluster.operator(on.clone()).unwrap(), ["agent-reactivated"]);
        assert!(cluster.operator(on).is_err());
        assert_eq!(cluster.offer().len(), 1);
    }
}
