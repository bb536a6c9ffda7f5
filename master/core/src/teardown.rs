//! The story of a framework's end: its offers go back, its tasks are killed, its agents end what they have of it.

use crate::decide::{Draft, Reply};
use crate::event::{ExecutorExited, Fate, FrameworkRemoved, FrameworkShutdownOrdered, Removal, Return, TaskDeclared};
use crate::ids::{AgentKey, ExecutorId, FrameworkKey};
use crate::refusal::{Refusal, RefusalKind};
use crate::state::Task;
use crate::status;
use crate::subscribe;
use crate::view;
use api::v1;
use api::v1::task_status::Reason;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;

/// TEARDOWN, by the framework itself or by an operator.
pub(crate) fn by_key(draft: &mut Draft, framework: FrameworkKey) -> Result<Reply, Refusal> {
    if draft.state.frameworks.get(framework).is_none() {
        return Err(Refusal::new(RefusalKind::NotFound, "UnknownFramework", "No framework found with specified ID"));
    }
    remove(draft, framework, Removal::Teardown);
    Ok(Reply::Framework { framework })
}

/// Ends a live framework.
pub(crate) fn remove(draft: &mut Draft, key: FrameworkKey, why: Removal) {
    subscribe::return_all(draft, key, Return::Removed);
    let framework = draft.state.frameworks.get(key).expect("a live framework");
    let (id, connection) = (framework.id.clone(), framework.stream.as_ref().map(|stream| stream.connection.id));
    let mut agents: BTreeSet<AgentKey> = BTreeSet::new();
    let tasks: Vec<Arc<Task>> = draft.state.tasks.of(key).cloned().collect();
    for task in tasks {
        if !task.is_terminal() || task.unreachable_ms.is_some() {
            agents.insert(task.agent);
        }
        let (state, status) = last_status(draft, &task, &id);
        draft.push(TaskDeclared { task: task.key(), agent: task.agent, state, status, fate: Fate::Completed });
    }
    let executors: Vec<(AgentKey, ExecutorId)> = draft
        .state
        .agents
        .live
        .values()
        .flat_map(|agent| agent.executors.keys().filter(|of| of.0 == key).map(|of| (agent.key, of.1.clone())))
        .collect();
    for (agent, executor_id) in executors {
        agents.insert(agent);
        draft.push(ExecutorExited { agent, framework: key, executor_id, status: None });
    }
    for agent in agents {
        if draft.state.agents.get(agent).is_some() {
            draft.push(FrameworkShutdownOrdered { agent, framework: key, id: id.clone() });
        }
    }
    draft.push(FrameworkRemoved { framework: key, connection, why });
}

/// A task that has ended keeps its end; any other is killed with its framework.
fn last_status(draft: &Draft, task: &Task, framework_id: &str) -> (i32, Bytes) {
    if task.is_terminal() && task.unreachable_ms.is_none() {
        return (task.state, task.statuses.last().cloned().unwrap_or_default());
    }
    let state = v1::TaskState::TaskKilled;
    let status = status::of_master(
        &task.task_id,
        Some(view::agent_id(&draft.state, task.agent)),
        state,
        Reason::FrameworkRemoved,
        format!("Framework {framework_id} removed"),
        draft.at_ms,
    );
    (state as i32, status.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use crate::testing::Cluster;
    use api::v1::TaskState::*;

    #[test]
    fn the_history_of_frameworks_is_bounded() {
        let mut cluster = Cluster::new();
        for _ in 0..60 {
            let framework = cluster.subscribe();
            cluster.teardown(framework);
        }
        assert_eq!(cluster.state.frameworks.completed.len(), 50);
        assert_eq!(cluster.state.frameworks.by_id.len(), 50, "nor are their ids kept for ever");
        let framework = cluster.subscribe();
        assert_eq!(&*cluster.framework(framework).id, "C-0060");
    }

    #[test]
    fn a_framework_takes_its_tasks_with_it() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "running", "cpus:1;mem:10");
        let ended = cluster.launch(framework, "ended", "cpus:1;mem:10");
        cluster.update(&ended, TaskFinished);
        cluster.offer();
        let names = cluster.teardown(framework);
        assert_eq!(
            names,
            ["offers-returned", "task-declared", "task-declared", "framework-shutdown-ordered", "framework-removed"]
        );
        let agent = cluster.state.agents.get(agent).unwrap();
        assert!(agent.used.is_empty() && agent.offered.is_empty());
        let mut states: Vec<i32> = cluster.state.tasks.completed_of(framework).map(|task| task.state).collect();
        states.sort_unstable();
        assert_eq!(states, [TaskFinished as i32, TaskKilled as i32]);
        assert!(cluster.effects_text().contains("CloseStream"));
        assert_eq!(cluster.state.frameworks.completed.len(), 1);
    }
}
