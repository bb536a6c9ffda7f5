//! The story of agents in operation: deactivated, drained and reactivated. An agent that drains is offered to nobody and
//! ends what it runs; it is drained once the end of its last task was acknowledged, and over then if that is wanted.
//!
//! ```text
//! active ──DEACTIVATE──► deactivated ──DRAIN──► draining ──nothing is left──► drained, or gone
//!    └───────────────DRAIN────────────────────────►┘                            │
//!    ◄──────────REACTIVATE──────────┴──────────────────REACTIVATE───────────────┘
//! ```

use crate::command::Caller;
use crate::decide::{Draft, Reply};
use crate::event::{
    AgentDeactivated, AgentDrainEnded, AgentDrainOrdered, AgentDrainStarted, AgentDrained, AgentReactivated, Event,
    Return,
};
use crate::ids::AgentKey;
use crate::level;
use crate::lost;
use crate::maintenance;
use crate::permit;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::State;
use crate::state::unfinished::Parting;
use crate::view;
use api::v1::master::call;
use auth::Action;

/// DRAIN_AGENT: asked again, the newer wish counts. Of an agent that is unreachable nothing is known but its id: it is
/// told when it returns.
pub(crate) fn drain(draft: &mut Draft, call: &call::DrainAgent, caller: &Caller) -> Result<Reply, Refusal> {
    permit::check_any(draft, caller, Action::DrainAgent)?;
    if call.mark_gone.unwrap_or(false) {
        permit::check_any(draft, caller, Action::MarkAgentGone)?;
    }
    let id = &call.agent_id.value;
    let agent = known(draft, id)?;
    level::check_resource_model(&draft.state, "Draining an agent")?;
    let state = &draft.state;
    let known = state.agents.get(agent).expect("a known agent");
    if !known.is_unreachable() {
        if let Some(machine) = maintenance::scheduled_machine(state, known) {
            let message = format!("Agent {id} is part of a maintenance schedule under Machine {machine}");
            return Err(Refusal::invalid("InMaintenance", message));
        }
        if !known.can_drain() {
            return Err(Refusal::invalid("CannotDrain", format!("Agent {id} is not capable of draining")));
        }
    }
    // As the other side counts it: what is too large goes around.
    let max_grace_ns = call
        .max_grace_period
        .as_ref()
        .map(|most| most.seconds.wrapping_mul(1_000_000_000).wrapping_add(i64::from(most.nanos)));
    let mark_gone = call.mark_gone.unwrap_or(false);
    let is_same = state.drains.get(agent).is_some_and(|drain| {
        drain.is_ordered && !drain.is_drained() && (drain.max_grace_ns, drain.mark_gone) == (max_grace_ns, mark_gone)
    });
    if is_same {
        return Ok(Reply::Empty);
    }
    if known.is_behind() {
        let message = format!("Agent {id} has very many orders that it has not acknowledged: try again later");
        return Err(Refusal::new(RefusalKind::Conflict, "AgentsBehind", message));
    }
    lost::return_offers(draft, agent, Return::AgentDeactivated);
    draft.push(AgentDrainStarted { agent, max_grace_ns, mark_gone });
    Ok(Reply::Empty)
}

/// DEACTIVATE_AGENT: no offers of it are made. What it runs goes on.
pub(crate) fn deactivate(draft: &mut Draft, call: &call::DeactivateAgent, caller: &Caller) -> Result<Reply, Refusal> {
    permit::check_any(draft, caller, Action::DeactivateAgent)?;
    let agent = known(draft, &call.agent_id.value)?;
    if draft.state.agents.get(agent).is_some_and(|agent| !agent.deactivated) {
        lost::return_offers(draft, agent, Return::AgentDeactivated);
        draft.push(AgentDeactivated { agent });
    }
    Ok(Reply::Empty)
}

/// REACTIVATE_AGENT: offers of it are made again, and whatever drained it need not be remembered. A drain that is not over is
/// given up if that is wanted: what its agent kills already ends, and what comes then stays.
pub(crate) fn reactivate(draft: &mut Draft, call: &call::ReactivateAgent, caller: &Caller) -> Result<Reply, Refusal> {
    permit::check_any(draft, caller, Action::ReactivateAgent)?;
    let state = &draft.state;
    let key = view::parse_agent_id(state, &call.agent_id.value);
    let agent = key.and_then(|key| state.agents.get(key)).filter(|agent| agent.deactivated);
    let Some(agent) = agent else { return Err(Refusal::invalid("NotDeactivated", "Agent is not deactivated")) };
    let (agent, is_away) = (agent.key, agent.is_unreachable());
    if state.drains.is_draining(agent) && !call.cancel_drain() {
        return Err(Refusal::invalid("StillDraining", "Agent is still in the DRAINING state"));
    }
    if state.drains.get(agent).is_some() {
        draft.push(AgentDrainEnded { agent });
    }
    draft.push(AgentReactivated { agent });
    if is_away {
        // It is done, and the caller hears that nobody sees it yet.
        let message = "Agent removed while processing the call";
        return Ok(Reply::Refused(Refusal::new(RefusalKind::Conflict, "AgentAway", message)));
    }
    Ok(Reply::Empty)
}

/// An agent that is registered, or unreachable, and not on its way out.
fn known(draft: &Draft, id: &str) -> Result<AgentKey, Refusal> {
    let state = &draft.state;
    let agent = view::parse_agent_id(state, id).filter(|key| state.agents.get(*key).is_some());
    let end = agent.and_then(|key| state.unfinished.agents.get(&key)).map(|end| end.why);
    match (agent, end) {
        (Some(agent), None) => Ok(agent),
        (_, Some(Parting::MarkedGone)) => {
            Err(Refusal::new(RefusalKind::Conflict, "BeingMarkedGone", "Agent is currently being marked gone"))
        }
        _ => Err(Refusal::invalid("UnknownAgent", "Unknown agent")),
    }
}

/// The agent that may have become empty by `event`, which is about to be folded.
pub(crate) fn emptied(state: &State, event: &Event) -> Option<AgentKey> {
    if state.drains.by_agent.is_empty() && !matches!(event, Event::AgentDrainStarted(_)) {
        return None;
    }
    match event {
        Event::AgentDrainStarted(event) => Some(event.agent),
        Event::AgentResumed(event) => Some(event.agent),
        Event::AgentReturned(event) => Some(event.agent),
        Event::TaskDeclared(event) => Some(event.agent),
        Event::UpdateAcknowledged(event) => state.tasks.get(&event.task).map(|task| task.agent),
        Event::OperationUpdated(event) => Some(event.agent),
        Event::OperationEnded(event) => Some(event.agent),
        Event::OperationAcknowledged(event) => Some(event.agent),
        _ => None,
    }
}

/// The last of every decision: agents of which something went are drained, if that was all.
pub(crate) fn settle(draft: &mut Draft) {
    for agent in std::mem::take(&mut draft.emptied) {
        if let Some(drain) = draft.state.drains.get(agent).copied()
            && !drain.is_drained()
            && is_empty(&draft.state, agent)
        {
            match drain.mark_gone {
                true => lost::remove(draft, agent, Parting::MarkedGone),
                false => draft.push(AgentDrained { agent }),
            }
        }
    }
}

/// Whether nothing is left on an agent that is not unreachable: no task, not even one whose end waits to be acknowledged,
/// and no operation.
fn is_empty(state: &State, agent: AgentKey) -> bool {
    let is_here = state.agents.get(agent).is_some_and(|agent| !agent.is_unreachable()) && !state.is_parting(agent);
    let is_early = event_log::planted(event_log::Bug::DrainedTooEarly);
    is_here && (is_early || state.tasks.on(agent).next().is_none()) && state.operations.on(agent).next().is_none()
}

/// An agent that could not drain when it was asked to, or was not known to be able to, is back and can.
pub(crate) fn order_late(draft: &mut Draft, agent: AgentKey) {
    let can = draft.state.agents.get(agent).is_some_and(|agent| agent.can_drain());
    if can && draft.state.drains.get(agent).is_some_and(|drain| !drain.is_ordered) {
        draft.push(AgentDrainOrdered { agent });
    }
}

#[cfg(test)]
mod tests {
    use crate::decide::Reply;
    use crate::effect::Effect;
    use crate::ids::AgentKey;
    use crate::refusal::RefusalKind;
    use crate::testing::Cluster;
    use api::internal;
    use api::v1::TaskState::*;
    use prost::Message;

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster
    }

    fn orders(cluster: &Cluster, agent: AgentKey) -> Vec<internal::order::Order> {
        let orders = cluster.state.agents.get(agent).unwrap().outbox.values();
        orders.filter_map(|order| internal::Order::decode(order.bytes.clone()).unwrap().order).collect()
    }

    #[test]
    fn draining_takes_offers_back_and_is_over_when_the_last_end_was_acknowledged() {
        let mut cluster = cluster();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.offer();
        assert_eq!(cluster.drain(agent).unwrap(), ["offers-returned", "agent-drain-started"]);
        assert!(cluster.effects_text().contains("SendRescind"));
        assert!(cluster.effects.contains(&Effect::OrdersWaiting { agent }));
        let config = api::v1::DrainConfig { max_grace_period: None, mark_gone: Some(false) };
        assert_eq!(orders(&cluster, agent), [internal::order::Order::Drain(internal::Drain { config })]);
        assert!(cluster.offer().is_empty());
        assert_eq!(cluster.reactivate(agent).unwrap_err().message, "Agent is still in the DRAINING state");
        assert_eq!(cluster.deactivate(agent).unwrap(), [""; 0]);

        cluster.update(&task, TaskKilled);
        assert!(cluster.state.drains.is_draining(agent), "its framework has not heard of it");
        assert_eq!(cluster.acknowledge(&task), ["update-acknowledged", "agent-drained"]);
        assert!(cluster.state.drains.get(agent).unwrap().is_drained());
        assert!(cluster.offer().is_empty(), "nor when it is drained");

        assert_eq!(cluster.reactivate(agent).unwrap(), ["agent-drain-ended", "agent-reactivated"]);
        assert_eq!(orders(&cluster, agent).last(), Some(&internal::order::Order::EndDrain(internal::EndDrain {})));
        assert_eq!(cluster.state.drains, Default::default());
        cluster.at_ms += 10_000;
        assert_eq!(cluster.offer().len(), 1);
        let refusal = cluster.reactivate(agent).unwrap_err();
        assert_eq!((refusal.kind, &*refusal.message), (RefusalKind::Invalid, "Agent is not deactivated"));
    }

    #[test]
    fn what_is_asked_again_is_said_again_if_it_is_another_wish() {
        let mut cluster = cluster();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        let mut drain = |seconds: Option<i64>, mark_gone: bool| {
            let names = cluster.drain_with(agent, |call| {
                call.mark_gone = Some(mark_gone);
                if let Some(seconds) = seconds {
                    call.max_grace_period.get_or_insert_default().seconds = seconds;
                }
            });
            (names.unwrap(), cluster.state.drains.get(agent).unwrap().max_grace_ns)
        };
        assert_eq!(drain(Some(4), false), (vec!["agent-drain-started"], Some(4_000_000_000)));
        assert_eq!(drain(Some(4), false), (vec![], Some(4_000_000_000)));
        assert_eq!(drain(Some(1), false), (vec!["agent-drain-started"], Some(1_000_000_000)));
        assert_eq!(drain(Some(-3), true), (vec!["agent-drain-started"], Some(-3_000_000_000)));
        assert_eq!(drain(Some(10_000_000_000_000), true).1, Some(1_864_712_049_423_024_128), "it goes around");
        assert_eq!(drain(None, true), (vec!["agent-drain-started"], None));
    }

    #[test]
    fn an_idle_agent_is_drained_at_once_and_one_that_is_away_when_it_returns() {
        let mut cluster = cluster();
        let (idle, away, lost) = (cluster.agent("cpus:1"), cluster.agent("cpus:1"), cluster.agent("cpus:1"));
        assert_eq!(cluster.drain(idle).unwrap(), ["agent-drain-started", "agent-drained"]);
        assert_eq!(cluster.drain(idle).unwrap(), ["agent-drain-started", "agent-drained"], "once more");
        cluster.agent_unreachable(lost);
        cluster.agent_disconnected(away);
        assert_eq!(cluster.drain(away).unwrap(), ["agent-drain-started", "agent-drained"]);
        assert_eq!(cluster.drain(lost).unwrap(), ["agent-drain-started"]);
        assert_eq!(cluster.resume(lost, &[]).unwrap(), ["agent-resumed", "agent-drained"]);
        assert_eq!(orders(&cluster, lost).len(), 1, "the order waited for it");
        cluster.agent_unreachable(lost);
        let names = cluster.reactivate(lost).unwrap();
        assert_eq!(names, ["agent-drain-ended", "agent-reactivated"], "it happens, and the caller hears of a conflict");
        let Reply::Refused(refusal) = &cluster.reply else { panic!("{:?}", cluster.reply) };
        assert_eq!(refusal.kind, RefusalKind::Conflict);
        cluster.resume(lost, &[]).unwrap();
        assert!(cluster.state.agents.get(lost).unwrap().is_offerable());
    }

    #[test]
    fn an_agent_that_is_to_be_gone_is_when_it_is_empty() {
        let mut cluster = cluster();
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.drain_with(agent, |call| call.mark_gone = Some(true)).unwrap();
        cluster.update(&task, TaskGoneByOperator);
        assert_eq!(cluster.acknowledge(&task), ["update-acknowledged", "agent-removed"]);
        assert!(cluster.state.agents.gone[&agent].by_operator);
        assert_eq!(cluster.state.drains, Default::default());
        assert_eq!(cluster.resume(agent, &[]).unwrap_err().kind, RefusalKind::EndAgent);
        assert_eq!(cluster.drain(agent).unwrap_err().message, "Unknown agent");
    }

    #[test]
    fn a_framework_that_leaves_empties_an_agent() {
        let mut cluster = cluster();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.drain(agent).unwrap();
        assert_eq!(cluster.teardown(framework).last(), Some(&"agent-drained"));
    }

    #[test]
    fn tasks_that_come_back_with_an_unreachable_agent_are_waited_for() {
        let mut cluster = cluster();
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.agent_unreachable(agent);
        cluster.drain(agent).unwrap();
        assert_eq!(cluster.resume(agent, &["t"]).unwrap(), ["agent-resumed", "task-declared"]);
        assert!(cluster.state.drains.is_draining(agent));
        cluster.agent_unreachable(agent);
        assert_eq!(cluster.resume(agent, &[]).unwrap(), ["task-declared", "agent-resumed", "agent-drained"]);
        assert!(cluster.state.tasks.get(&task).is_none());
    }

    #[test]
    fn who_cannot_drain_is_not_told_to_until_it_can() {
        let mut cluster = cluster();
        let agent = cluster.agent("cpus:4;mem:100");
        let as_old = |resume: &mut internal::Resume| resume.capabilities = vec!["MULTI_ROLE".into()];
        cluster.resume_with(agent, as_old).unwrap();
        let refusal = cluster.drain(agent).unwrap_err();
        assert_eq!(refusal.message, "Agent C-S0 is not capable of draining");
        cluster.agent_unreachable(agent);
        assert_eq!(cluster.drain(agent).unwrap(), ["agent-drain-started"]);
        assert_eq!(cluster.resume_with(agent, as_old).unwrap(), ["agent-resumed", "agent-drained"]);
        assert_eq!(orders(&cluster, agent), []);
        cluster.agent_disconnected(agent);
        let as_new = |resume: &mut internal::Resume| resume.capabilities.push("AGENT_DRAINING".into());
        assert_eq!(cluster.resume_with(agent, as_new).unwrap(), ["agent-resumed", "agent-drain-ordered"]);
        assert_eq!(orders(&cluster, agent).len(), 1);
    }

    #[test]
    fn a_drain_that_is_not_over_can_be_given_up() {
        let mut cluster = cluster();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        let gone = |call: &mut api::v1::master::call::DrainAgent| call.mark_gone = Some(true);
        cluster.drain_with(agent, gone).unwrap();
        assert_eq!(cluster.reactivate(agent).unwrap_err().message, "Agent is still in the DRAINING state");
        assert_eq!(cluster.cancel_drain(agent).unwrap(), ["agent-drain-ended", "agent-reactivated"]);
        let orders = orders(&cluster, agent);
        assert!(matches!(orders.last(), Some(internal::order::Order::EndDrain(_))), "{orders:?}");
        assert_eq!(cluster.state.drains, Default::default());
        cluster.update(&task, TaskKilled);
        cluster.acknowledge(&task);
        assert!(cluster.state.agents.get(agent).is_some_and(|agent| agent.is_offerable()), "it is not gone");
        assert_eq!(cluster.cancel_drain(agent).unwrap_err().message, "Agent is not deactivated");
    }

    #[test]
    fn below_level_4_nothing_drains() {
        let mut cluster = Cluster::new();
        let agent = cluster.agent("cpus:4;mem:100");
        let refusal = cluster.drain(agent).unwrap_err();
        assert_eq!(
            refusal.message,
            "Draining an agent is not possible until every master of this cluster has been upgraded"
        );
        assert_eq!(cluster.deactivate(agent).unwrap(), ["agent-deactivated"], "that is older");
    }
}
