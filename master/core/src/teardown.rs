//! The story of a framework's end: its offers go back, its tasks are killed, its agents end what they have of it. A large
//! one ends in steps, agent by agent: it is out at once, and what is left of it goes with one record after the other.

use crate::budget::Budget;
use crate::decide::{Draft, Reply};
use crate::event::{
    ExecutorExited, Fate, FrameworkEnding, FrameworkRemoved, FrameworkShutdownOrdered, Removal, Return, TaskDeclared,
};
use crate::ids::{AgentKey, ExecutorId, FrameworkKey};
use crate::refusal::{Refusal, RefusalKind};
use crate::state::{State, Task};
use crate::status;
use crate::subscribe;
use crate::view;
use crate::wire::OrderParts;
use api::v1;
use api::v1::task_status::Reason;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

/// TEARDOWN, by the framework itself or by an operator.
pub(crate) fn by_key(draft: &mut Draft, framework: FrameworkKey) -> Result<Reply, Refusal> {
    if draft.state.frameworks.get(framework).is_none() {
        return Err(Refusal::new(RefusalKind::NotFound, "UnknownFramework", "No framework found with specified ID"));
    }
    remove(draft, framework, Removal::Teardown);
    Ok(Reply::Framework { framework })
}

/// Ends a live framework. One that is ending already goes on to.
pub(crate) fn remove(draft: &mut Draft, key: FrameworkKey, why: Removal) {
    if draft.state.is_ending(key) {
        return;
    }
    subscribe::return_all(draft, key, Return::Removed);
    let framework = draft.state.frameworks.get(key).expect("a live framework");
    let connection = framework.stream.as_ref().map(|stream| stream.connection.id);
    let step = draft.options.step_events;
    if draft.state.feature_level.has_steps() && is_large(&draft.state, key, step) {
        draft.push(FrameworkEnding { framework: key, connection, why });
        go_on(draft, key);
    } else {
        end_some(draft, key, Budget::unlimited());
        draft.push(FrameworkRemoved { framework: key, connection, why });
    }
}

/// The next step of a framework's end.
pub(crate) fn go_on(draft: &mut Draft, key: FrameworkKey) {
    let Some(end) = draft.state.unfinished.frameworks.get(&key).copied() else { return };
    if end_some(draft, key, Budget::of(draft.options.step_events)) {
        // Its stream was closed when its end began.
        draft.push(FrameworkRemoved { framework: key, connection: None, why: end.why });
    }
}

/// Whether it takes more than one step.
fn is_large(state: &State, key: FrameworkKey, step_events: usize) -> bool {
    let mut budget = Budget::of(step_events);
    let of_task = |task: &Arc<Task>| task.statuses.last().map_or(0, Bytes::len);
    let executors = state.agents.live.values().flat_map(|agent| agent.executors.keys()).filter(|(of, _)| *of == key);
    !(state.tasks.of(key).all(|task| budget.take(of_task(task))) && executors.into_iter().all(|_| budget.take(0)))
}

/// Ends some more of what it has. True if nothing is left.
fn end_some(draft: &mut Draft, key: FrameworkKey, mut budget: Budget) -> bool {
    loop {
        let agent = draft.state.tasks.of(key).next().map(|task| task.agent);
        let Some(agent) = agent else { break };
        if !end_on(draft, key, agent, &mut budget) {
            return false;
        }
    }
    let has_executor = |agent: AgentKey, state: &State| {
        state.agents.get(agent).is_some_and(|agent| agent.executors.keys().any(|(of, _)| *of == key))
    };
    let agents: Vec<AgentKey> = draft.state.agents.live.keys().copied().collect();
    agents.into_iter().all(|agent| !has_executor(agent, &draft.state) || end_on(draft, key, agent, &mut budget))
}

/// Ends what it has on one agent. True if nothing is left there.
fn end_on(draft: &mut Draft, key: FrameworkKey, agent: AgentKey, budget: &mut Budget) -> bool {
    let id = draft.state.frameworks.get(key).expect("a live framework").id.clone();
    let tasks: Vec<Arc<Task>> =
        draft.state.tasks.of_on(key, agent).take(budget.events().saturating_add(1)).cloned().collect();
    let (mut is_concerned, mut is_done) = (false, true);
    for task in tasks {
        let (state, status) = last_status(draft, &task, &id);
        if !budget.take(status.len()) {
            is_done = false;
            break;
        }
        is_concerned |= !task.is_terminal() || task.unreachable_ms.is_some();
        draft.push(TaskDeclared { task: task.key(), agent, state, status, fate: Fate::Completed });
    }
    if is_done {
        let executors: Vec<ExecutorId> = draft.state.agents.get(agent).map_or(Vec::new(), |agent| {
            agent.executors.keys().filter(|of| of.0 == key).map(|of| of.1.clone()).collect()
        });
        for executor_id in executors {
            if !budget.take(executor_id.len()) {
                is_done = false;
                break;
            }
            is_concerned = true;
            draft.push(ExecutorExited { agent, framework: key, executor_id, status: None });
        }
    }
    let order = OrderParts::ShutdownFramework { framework_id: &id };
    let is_told = draft.state.agents.get(agent).is_none_or(|agent| agent.awaits(&order));
    if is_concerned && !is_told {
        draft.push(FrameworkShutdownOrdered { agent, framework: key, id });
    }
    is_done
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
    use crate::ids::{AgentKey, FrameworkKey};
    use crate::testing::{Cluster, executor, operation, task_on};
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
    fn the_tasks_of_a_framework_are_forgotten_with_it() {
        let mut cluster = Cluster::new();
        cluster.agent("cpus:4;mem:100");
        for _ in 0..60 {
            cluster.at_ms += 10_000;
            let framework = cluster.subscribe();
            let task = cluster.launch(framework, "t", "cpus:1;mem:10");
            cluster.update(&task, TaskFinished);
            cluster.acknowledge(&task);
            cluster.teardown(framework);
        }
        assert_eq!(cluster.state.tasks.completed.len(), 50);
    }

    #[test]
    fn executors_without_tasks_end_in_steps_too() {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster.chosen.step_events = 2;
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(60.0));
        let agent = cluster.agent("cpus:20;mem:1000");
        let offers = cluster.offer();
        let ids = ["a", "b", "c", "d", "e"];
        let tasks = ids.map(|id| task_on(&executor(id), id, "cpus:1;mem:1"));
        cluster.accept(framework, &offers, vec![operation(tasks.to_vec())]);
        for id in ids {
            let task = cluster.state.tasks.live.keys().find(|key| &*key.1 == id).unwrap().clone();
            cluster.update(&task, TaskFinished);
            cluster.acknowledge(&task);
        }
        assert_eq!(cluster.state.agents.get(agent).unwrap().executors.len(), 5);
        let first = cluster.teardown(framework);
        assert!(!first.contains(&"framework-removed"), "{first:?}");
        let rest = cluster.deadline_passed();
        let exited = |names: &[&str]| names.iter().filter(|name| **name == "executor-exited").count();
        assert_eq!(exited(&first) + exited(&rest), 5);
        assert_eq!(rest.last(), Some(&"framework-removed"));
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

    /// Three frameworks' worth of tasks on two agents, and a bound of a few events a step.
    fn large(step_events: usize) -> (Cluster, FrameworkKey, Vec<AgentKey>) {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster.chosen.step_events = step_events;
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(60.0));
        let agents = vec![cluster.agent("cpus:20;mem:1000"), cluster.agent("cpus:20;mem:1000")];
        for round in 0..4 {
            cluster.at_ms += 10_000;
            for offer in cluster.offer() {
                let agent = cluster.state.offers.get(offer).unwrap().agent;
                cluster.launch_on(framework, agent, &[offer], &format!("t{round}-{}", agent.0));
            }
        }
        assert_eq!(cluster.state.tasks.live.len(), 8);
        (cluster, framework, agents)
    }

    #[test]
    fn a_large_framework_is_out_at_once_and_ends_in_steps() {
        let (mut cluster, framework, agents) = large(3);
        let first =
            ["framework-ending", "task-declared", "task-declared", "task-declared", "framework-shutdown-ordered"];
        assert_eq!(cluster.teardown(framework), first);
        assert!(cluster.effects_text().contains("CloseStream"));
        let again = cluster.resubscribe(framework, |_| {}).unwrap_err();
        assert_eq!(again.message, "Framework has been removed", "although it is still there");
        assert!(cluster.offer().is_empty());

        // Another leader goes on, without any grace.
        cluster.lead(1, 9, "C");
        let names = cluster.deadline_passed();
        assert_eq!(names.iter().filter(|name| **name == "task-declared").count(), 5);
        assert_eq!(names.last(), Some(&"framework-removed"));
        assert!(cluster.state.frameworks.live.is_empty() && cluster.state.unfinished == Default::default());
        for agent in agents {
            let agent = cluster.state.agents.get(agent).unwrap();
            assert_eq!((agent.outbox.len(), agent.used.is_empty()), (5, true), "four launches, and one order to end");
        }
        assert_eq!(cluster.state.next_deadline(), None);
    }

    #[test]
    fn a_framework_that_ends_twice_ends_once() {
        let (mut cluster, framework, _) = large(2);
        cluster.disconnect(framework);
        cluster.at_ms = cluster.state.next_deadline().unwrap();
        let due =
            crate::deadlines::due(&cluster.state, cluster.at_ms, &cluster.chosen, |_| crate::deadlines::Turn::Alone);
        let due = due.into_iter().next().unwrap();
        cluster.run(crate::command::Command::PassDeadline { due }, &Default::default()).unwrap();
        let teardown = crate::command::Command::RemoveFramework { framework };
        assert_eq!(cluster.run(teardown, &Default::default()).unwrap(), [""; 0], "it is under way");
        assert_eq!(cluster.deadline_passed().last(), Some(&"framework-removed"));
    }

    #[test]
    fn what_ends_meanwhile_keeps_its_end() {
        let (mut cluster, framework, _) = large(3);
        cluster.teardown(framework);
        let task = cluster.state.tasks.of(framework).next().unwrap().key();
        cluster.update(&task, TaskFailed);
        cluster.deadline_passed();
        let ended = cluster.state.tasks.completed_of(framework).find(|ended| ended.task_id == task.1).unwrap();
        assert_eq!(ended.state, TaskFailed as i32);
    }

    #[test]
    fn an_agent_that_goes_away_meanwhile_is_no_obstacle() {
        let (mut cluster, framework, agents) = large(1);
        cluster.teardown(framework);
        cluster.agent_disconnected(agents[0]);
        cluster.mark_gone(agents[1]);
        cluster.at_ms += 75_000;
        cluster.deadline_passed();
        assert!(cluster.state.frameworks.live.is_empty() && cluster.state.tasks.live.is_empty());
        assert!(cluster.state.agents.get(agents[1]).is_none());
    }

    #[test]
    fn large_statuses_go_one_in_a_step() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe();
        cluster.agent("cpus:20;mem:1000");
        for id in ["a", "b", "c"] {
            let task = cluster.launch(framework, id, "cpus:1;mem:1");
            let mut message = cluster.status_update(&task, TaskFailed);
            if let Some(api::internal::from_agent::Message::StatusUpdate(update)) = &mut message.message {
                update.status.message = Some("x".repeat(2 << 20));
            }
            let agent = cluster.state.tasks.get(&task).unwrap().agent;
            cluster.agent_says(agent, vec![message]).unwrap();
        }
        let weight = |cluster: &Cluster| cluster.events.iter().map(|event| event.encode().2.len()).sum::<usize>();
        cluster.teardown(framework);
        assert!(weight(&cluster) < 3 << 20);
        while let Some(due) =
            crate::deadlines::due(&cluster.state, cluster.at_ms, &cluster.chosen, |_| crate::deadlines::Turn::Alone)
                .pop()
        {
            cluster.run(crate::command::Command::PassDeadline { due }, &Default::default()).unwrap();
            assert!(weight(&cluster) < 3 << 20);
        }
        assert!(cluster.state.frameworks.live.is_empty());
    }

    #[test]
    fn as_long_as_an_older_release_may_read_it_everything_is_in_one_record() {
        let mut cluster = Cluster::new();
        cluster.chosen.step_events = 1;
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "a", "cpus:1;mem:10");
        cluster.launch(framework, "b", "cpus:1;mem:10");
        assert_eq!(cluster.teardown(framework).last(), Some(&"framework-removed"));
    }
}
