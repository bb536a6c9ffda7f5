//! The story of KILL: an order to the agent, or the answer that there is nothing to kill.

use crate::decide::Draft;
use crate::event::KillOrdered;
use crate::ids::FrameworkKey;
use crate::reconcile;
use crate::view;
use crate::wire::OrderParts;
use api::v1;
use bytes::Bytes;
use prost::Message;

/// KILL. The order waits in the outbox while the agent is away.
pub(crate) fn kill(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Kill) {
    let key = (framework, call.task_id.value.as_str().into());
    let Some(task) = draft.state.tasks.get(&key) else {
        let agent_id = call.agent_id.as_ref().map(|id| id.value.as_str());
        reconcile::explicit(draft, framework, &call.task_id.value, agent_id);
        return;
    };
    let agent = task.agent;
    if call.agent_id.as_ref().is_some_and(|id| id.value != view::agent_id(&draft.state, agent)) {
        return;
    }
    // It is killed when its agent is back, and its framework hears that this may take a while.
    let is_out_of_reach = task.unreachable_ms.is_some();
    // Nothing is left to kill; its last update is on its way, and a lost agent's tasks are not its own any more.
    let Some(agent_state) = draft.state.agents.get(agent) else { return };
    if task.is_terminal() && task.unreachable_ms.is_none() {
        return;
    }
    let policy: Option<Bytes> = call.kill_policy.as_ref().map(|policy| policy.encode_to_vec().into());
    if task.kill_requested {
        // One order is enough while it waits, however often the framework asks; and an agent that acknowledges nothing is
        // not buried under changes of mind.
        let framework_id = &draft.state.frameworks.get(framework).expect("the speaker is live").id;
        let order = OrderParts::Kill { framework_id, task_id: &call.task_id.value, policy: policy.as_ref() };
        let is_away = agent_state.connection().is_none() && policy.is_none();
        if is_away || agent_state.is_behind() || agent_state.awaits(&order) {
            if is_out_of_reach {
                reconcile::explicit(draft, framework, &call.task_id.value, None);
            }
            return;
        }
    }
    draft.push(KillOrdered { task: key, agent, policy });
    if is_out_of_reach {
        reconcile::explicit(draft, framework, &call.task_id.value, None);
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Cluster;
    use api::v1;

    #[test]
    fn a_kill_is_an_order_that_waits_for_its_agent() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        assert_eq!(cluster.kill(framework, "t"), ["kill-ordered"]);
        cluster.agent_disconnected(agent);
        assert_eq!(cluster.kill(framework, "t"), [""; 0], "the order waits already");
        assert_eq!(cluster.state.agents.get(agent).unwrap().outbox.len(), 2);
        cluster.resume(agent, &["t"]).unwrap();
        assert_eq!(cluster.kill(framework, "t"), [""; 0], "and after it came back");
        cluster.acknowledge_orders(agent, 2);
        assert_eq!(cluster.kill(framework, "t"), ["kill-ordered"], "what was done may be asked for again");
        assert!(cluster.state.tasks.get(&task).unwrap().kill_requested);
    }

    #[test]
    fn killing_the_unknown_is_asking_for_it() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        assert_eq!(cluster.kill(framework, "nosuch"), [""; 0]);
        let status = cluster.statuses().pop().unwrap();
        assert_eq!(status.state(), v1::TaskState::TaskLost);
        assert_eq!(status.message(), "Reconciliation: Task is unknown");
        assert_eq!(status.reason(), v1::task_status::Reason::Reconciliation);
        assert_eq!(status.agent_id, None);
    }

    #[test]
    fn who_kills_what_is_out_of_reach_hears_that_it_is() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.agent_unreachable(agent);
        for names in [&["kill-ordered"][..], &[]] {
            assert_eq!(cluster.kill(framework, "t"), names);
            let status = cluster.statuses().pop().unwrap();
            assert_eq!(status.state(), v1::TaskState::TaskUnreachable);
            assert!(status.unreachable_time.is_some());
        }
    }

    #[test]
    fn an_ended_task_is_not_killed() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.update(&task, v1::TaskState::TaskFinished);
        assert_eq!(cluster.kill(framework, "t"), [""; 0]);
    }
}
