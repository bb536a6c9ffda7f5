//! The story of RECONCILE: what the masters know, said again. Nothing happens, so nothing is logged.

use crate::decide::Draft;
use crate::effect::{Asked, Effect};
use crate::ids::FrameworkKey;
use crate::state::{AgentLiveness, State, Task};
use crate::status;
use crate::task_state::lost_or;
use crate::view;
use api::v1;
use api::v1::task_status::Reason;
use prost::Message;

/// RECONCILE: the tasks named, or all. The answers are made one by one where they are sent.
pub(crate) fn reconcile(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Reconcile) {
    let named = call.tasks.iter().map(|task| {
        let agent_id = task.agent_id.as_ref().map(|id| id.value.as_str().into());
        (task.task_id.value.as_str().into(), agent_id)
    });
    let tasks = (!call.tasks.is_empty()).then(|| named.collect());
    draft.tell(Effect::SendAnswers { framework, at_ms: draft.at_ms, tasks });
}

/// What [`Effect::SendAnswers`] says, one status after the other: of `tasks`, or of all that the framework has.
pub fn answers<'a>(
    state: &'a State,
    framework: FrameworkKey,
    at_ms: u64,
    tasks: Option<&'a [Asked]>,
) -> impl Iterator<Item = v1::TaskStatus> + 'a {
    let all = tasks.is_none().then(|| state.tasks.of(framework)).into_iter().flatten();
    let known = all.filter(|task| task.unreachable_ms.is_none()).map(move |task| latest(state, task, at_ms));
    let named = tasks.into_iter().flatten();
    let asked = named.filter_map(move |(task, agent)| answer(state, framework, task, agent.as_deref(), at_ms));
    known.chain(asked)
}

/// The answer for one task.
pub(crate) fn explicit(draft: &mut Draft, framework: FrameworkKey, task_id: &str, agent_id: Option<&str>) {
    if let Some(status) = answer(&draft.state, framework, task_id, agent_id, draft.at_ms) {
        draft.tell_status(framework, status);
    }
}

/// The first that matches. None if the framework is gone meanwhile, and while an agent that may know the task is still to
/// come back after an election: it is asked about again then.
fn answer(
    state: &State,
    framework: FrameworkKey,
    task_id: &str,
    agent_id: Option<&str>,
    at_ms: u64,
) -> Option<v1::TaskStatus> {
    let speaker = state.frameworks.get(framework)?;
    let task = state.tasks.live.get(&(framework, task_id.into()));
    if let Some(task) = task.filter(|task| task.unreachable_ms.is_none()) {
        return Some(latest(state, task, at_ms));
    }
    let named = agent_id.and_then(|id| view::parse_agent_id(state, id));
    let agent = task.map(|task| task.agent).or(named);
    let is_awaited = match agent_id.is_some() || task.is_some() {
        true => agent.and_then(|agent| state.agents.get(agent)).is_some_and(|agent| state.is_recovered(agent)),
        false => state.agents.live.values().any(|agent| state.is_recovered(agent)),
    };
    if is_awaited {
        return None;
    }
    let mut unreachable_ms = task.and_then(|task| task.unreachable_ms);
    let (finer, message) = match agent.and_then(|agent| state.agents.get(agent)).map(|agent| &agent.liveness) {
        // Some of its tasks are set aside already, or not back yet.
        Some(AgentLiveness::Connected { .. } | AgentLiveness::Disconnected { .. }) if unreachable_ms.is_some() => {
            (v1::TaskState::TaskUnreachable, "Reconciliation: Task is unreachable")
        }
        Some(AgentLiveness::Unreachable { since_ms }) => {
            unreachable_ms = unreachable_ms.or(Some(*since_ms));
            (v1::TaskState::TaskUnreachable, "Reconciliation: Task is unreachable")
        }
        Some(_) => (v1::TaskState::TaskGone, "Reconciliation: Task is unknown to the agent"),
        None if agent.is_some_and(|agent| state.agents.gone.get(&agent).is_some_and(|gone| gone.by_operator)) => {
            (v1::TaskState::TaskGoneByOperator, "Reconciliation: Task is gone")
        }
        None => (v1::TaskState::TaskUnknown, "Reconciliation: Task is unknown"),
    };
    let declared = lost_or(finer, speaker);
    let agent_id = agent_id.map(str::to_owned).or_else(|| task.map(|task| view::agent_id(state, task.agent)));
    let mut answer = status::of_master(task_id, agent_id, declared, Reason::Reconciliation, message, at_ms);
    if finer == v1::TaskState::TaskUnreachable {
        answer.unreachable_time = unreachable_ms.map(time_info);
    }
    Some(answer)
}

/// Milliseconds since the epoch as the wire has them.
pub(crate) fn time_info(at_ms: u64) -> v1::TimeInfo {
    v1::TimeInfo { nanoseconds: i64::try_from(at_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000) }
}

/// The state that the framework was told last, or the current one.
fn latest(state: &State, task: &Task, at_ms: u64) -> v1::TaskStatus {
    let told = task.delivered.as_ref().map_or(task.state, |(state, _)| *state);
    let told = v1::TaskState::try_from(told).unwrap_or(v1::TaskState::TaskStaging);
    let agent_id = view::agent_id(state, task.agent);
    let message = "Reconciliation: Latest task state";
    let mut answer = status::of_master(&task.task_id, Some(agent_id), told, Reason::Reconciliation, message, at_ms);
    answer.executor_id = task.executor_id.as_ref().map(|id| v1::ExecutorId { value: id.to_string() });
    let newest = task.statuses.last().and_then(|status| v1::TaskStatus::decode(status.clone()).ok());
    if let Some(newest) = newest {
        answer.healthy = newest.healthy;
        answer.check_status = newest.check_status;
        answer.labels = newest.labels;
        answer.container_status = newest.container_status;
    }
    answer
}

#[cfg(test)]
mod tests {
    use crate::testing::Cluster;
    use api::v1;
    use v1::TaskState::*;

    fn answers(cluster: &mut Cluster, tasks: &[(&str, Option<&str>)]) -> Vec<(v1::TaskState, String)> {
        let framework = *cluster.state.frameworks.live.keys().next().unwrap();
        assert_eq!(cluster.reconcile(framework, tasks), [""; 0], "nothing happens");
        cluster.statuses().iter().map(|status| (status.state(), status.message().to_owned())).collect()
    }

    fn one(cluster: &mut Cluster, task: &str, agent: Option<&str>) -> (v1::TaskState, String) {
        answers(cluster, &[(task, agent)]).pop().unwrap()
    }

    #[test]
    fn the_first_match_wins() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        assert_eq!(one(&mut cluster, "t", None), (TaskStaging, "Reconciliation: Latest task state".into()));
        cluster.update(&task, TaskStarting);
        cluster.update(&task, TaskRunning);
        assert_eq!(one(&mut cluster, "t", None).0, TaskStarting, "what the framework was told, not what the log knows");
        assert_eq!(answers(&mut cluster, &[]).len(), 1);
        let unknown = "Reconciliation: Task is unknown";
        assert_eq!(one(&mut cluster, "x", Some("C-S0")), (TaskGone, format!("{unknown} to the agent")));
        assert_eq!(one(&mut cluster, "x", Some("C-S7")), (TaskUnknown, unknown.into()));
        assert_eq!(one(&mut cluster, "x", None), (TaskUnknown, unknown.into()));
        cluster.agent_unreachable(agent);
        assert_eq!(one(&mut cluster, "t", None), (TaskUnreachable, "Reconciliation: Task is unreachable".into()));
        assert_eq!(one(&mut cluster, "x", Some("C-S0")).0, TaskUnreachable);
        assert_eq!(answers(&mut cluster, &[]), [], "unreachable tasks are not among all");
        cluster.mark_gone(agent);
        assert_eq!(one(&mut cluster, "t", Some("C-S0")), (TaskGoneByOperator, "Reconciliation: Task is gone".into()));
    }
    /// Before the agents are back after an election, nobody knows what they know.
    #[test]
    fn an_agent_that_is_to_come_back_after_an_election_is_waited_for() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.agent_disconnected(agent);
        let gone = (TaskGone, "Reconciliation: Task is unknown to the agent".to_owned());
        assert_eq!(one(&mut cluster, "x", Some("C-S0")), gone, "the leader saw it leave");
        cluster.at_ms += 10;
        cluster.lead(1, 2, "C");
        assert_eq!(one(&mut cluster, "t", None).0, TaskStaging, "what is known is told");
        for agent in [Some("C-S0"), None] {
            assert_eq!(answers(&mut cluster, &[("x", agent)]), [], "{agent:?}");
        }
        assert_eq!(one(&mut cluster, "x", Some("C-S7")).0, TaskUnknown, "that one is not waited for");
        cluster.at_ms += 10;
        cluster.resume(agent, &["t"]).unwrap();
        assert_eq!(one(&mut cluster, "x", Some("C-S0")), gone);
        assert_eq!(one(&mut cluster, "x", None).0, TaskUnknown);
        cluster.agent_disconnected(agent);
        assert_eq!(one(&mut cluster, "x", Some("C-S0")), gone, "this leader knew it");
        cluster.resume(agent, &["t"]).unwrap();
        cluster.at_ms += 10;
        cluster.lead(2, 3, "C");
        cluster.at_ms += 100_000;
        cluster.agent_disconnected(agent);
        assert_eq!(one(&mut cluster, "x", Some("C-S0")), gone, "it was connected all along");
    }

    /// Every state of an agent, for those who tell losses apart and for those who do not.
    #[test]
    fn frameworks_that_do_not_tell_losses_apart_hear_of_lost_tasks() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        for agent in [Some("C-S0"), Some("C-S7"), None] {
            assert_eq!(one(&mut cluster, "x", agent).0, TaskLost, "{agent:?}");
        }
        cluster.agent_unreachable(agent);
        for (task, agent) in [("t", None), ("t", Some("C-S0")), ("x", Some("C-S0"))] {
            assert_eq!(one(&mut cluster, task, agent).0, TaskLost, "{task} {agent:?}");
            assert!(cluster.statuses().pop().unwrap().unreachable_time.is_some(), "{task} {agent:?}");
        }
        cluster.mark_gone(agent);
        assert_eq!(one(&mut cluster, "t", Some("C-S0")).0, TaskLost);
    }
}
