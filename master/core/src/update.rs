//! The story of updates: an agent says what became of a task, the framework is told until it acknowledges.

use crate::decide::{Draft, Reply};
use crate::effect::Effect;
use crate::event::{AgentMessagesReceived, ExecutorExited, OrdersAcknowledged, TaskUpdated, UpdateAcknowledged};
use crate::identities;
use crate::ids::{AgentKey, Connection, ExecutorId, FrameworkKey};
use crate::lost;
use crate::operations;
use crate::oversubscribed;
use crate::providers;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::Task;
use crate::state::unfinished::Parting;
use crate::status;
use crate::task_state;
use crate::view;
use api::internal;
use api::internal::from_agent::Message;
use api::limits::{UPDATES_WAITING_BYTES_MAX, UPDATES_WAITING_MAX};
use api::v1;
use api::v1::task_status::Source;
use event_log::{Bug, planted};
use prost::Message as _;

/// Messages of an agent, in the order of their numbers. One that the log has is dropped the second time.
pub(crate) fn messages(
    draft: &mut Draft,
    agent_id: &str,
    connection: Connection,
    messages: &[internal::FromAgent],
) -> Result<Reply, Refusal> {
    let stale = |name, message: &str| Err(Refusal::new(RefusalKind::StaleConnection, name, message));
    let agent = view::parse_agent_id(&draft.state, agent_id);
    let current = agent.and_then(|key| draft.state.agents.get(key)).and_then(|agent| agent.connection());
    let (Some(agent), true) = (agent, current.is_some_and(|current| current.id == connection.id)) else {
        return stale("StaleConnection", "This is no longer the agent's connection");
    };
    let mut received = draft.state.agents.get(agent).map_or(0, |agent| agent.messages_received);
    let mut is_again = false;
    for message in messages {
        if message.seq() > 0 {
            if message.seq() <= received && !event_log::planted(event_log::Bug::MessagesTakenTwice) {
                is_again = true;
                continue;
            }
            if message.seq() > received + 1 {
                return stale("MissingMessages", "A message of the agent is missing before this one");
            }
            received = received.max(message.seq());
        }
        if let Some(body) = &message.message {
            one(draft, agent, message.seq(), body);
        }
        // A clean stop is the last word.
        if draft.state.agents.get(agent).is_none() || draft.state.is_parting(agent) {
            return Ok(Reply::Agent { agent });
        }
    }
    let logged = draft.state.agents.get(agent).map_or(received, |agent| agent.messages_received);
    if received > logged {
        draft.push(AgentMessagesReceived { agent, up_to: received });
    } else if is_again {
        // It did not hear of our first answer.
        draft.tell(Effect::SendReceived { agent, up_to: logged });
    }
    Ok(Reply::Agent { agent })
}

fn one(draft: &mut Draft, agent: AgentKey, seq: u64, message: &Message) {
    match message {
        Message::StatusUpdate(update) => status_update(draft, agent, seq, update),
        Message::OrdersAcknowledged(acknowledged) => {
            let known = draft.state.agents.get(agent).expect("the speaker is registered");
            let up_to = acknowledged.up_to.min(known.next_order - 1);
            if up_to > known.orders_acknowledged {
                draft.push(OrdersAcknowledged { agent, up_to });
            }
        }
        Message::ExecutorExited(exited) => {
            let framework = draft.state.frameworks.by_id(&exited.framework_id.value).map(|framework| framework.key);
            let Some(framework) = framework else { return };
            let executor_id: ExecutorId = exited.executor_id.value.as_str().into();
            let known = draft.state.agents.get(agent).expect("the speaker is registered");
            if !known.executors.contains_key(&(framework, executor_id.clone())) {
                return;
            }
            // The agent told the ends of all tasks that the executor had: one that is left is still on its way there,
            // and brings the executor back. It stays counted; how that run ends will be said too.
            let comes_back = draft.state.tasks.on(agent).any(|task| {
                task.framework == framework && task.executor_id.as_ref() == Some(&executor_id) && !task.is_terminal()
            });
            if comes_back {
                let executor_id = Some(executor_id);
                draft.tell(Effect::SendFailure { framework, agent, executor_id, status: exited.status });
            } else {
                draft.push(ExecutorExited { agent, framework, executor_id, status: exited.status });
            }
        }
        Message::ExecutorMessage(message) => {
            let framework = draft.state.frameworks.by_id(&message.framework_id.value).map(|framework| framework.key);
            let Some(framework) = framework else { return };
            let executor_id = message.executor_id.value.as_str().into();
            draft.tell(Effect::SendMessage { framework, agent, executor_id, data: message.data.clone() });
        }
        Message::Leaving(_) => lost::remove(draft, agent, Parting::Left),
        Message::Oversubscribed(message) => oversubscribed::change(draft, agent, seq, message),
        Message::Providers(message) => providers::change(draft, agent, seq, message),
        Message::OperationStatus(status) => operations::status(draft, agent, seq, status),
        Message::NextIdentity(next) => identities::rotate(draft, agent, &next.hash),
        // The launch said it already; the others are the connection's own business.
        Message::ExecutorLaunched(_)
        | Message::Register(_)
        | Message::Resume(_)
        | Message::Pong(_)
        | Message::OperationsKept(_) => {}
    }
}

/// Whether so much waits for the task's framework that only the end of the task is added: a framework that is away for
/// long gets the first of what happened, and the last.
fn is_full(task: &Task) -> bool {
    let bytes: usize = task.updates.iter().map(|update| update.status.len()).sum();
    task.updates.len() >= UPDATES_WAITING_MAX || bytes >= UPDATES_WAITING_BYTES_MAX
}

fn status_update(draft: &mut Draft, agent: AgentKey, seq: u64, update: &internal::StatusUpdate) {
    let status = &update.status;
    let Some(framework) = draft.state.frameworks.by_id(&update.framework_id.value) else { return };
    let key = (framework.key, status.task_id.value.as_str().into());
    // A task that is over, or is somewhere else by now: nobody waits for this.
    let Some(task) = draft.state.tasks.get(&key).filter(|task| task.agent == agent) else { return };
    // An executor speaks of its own tasks: the agent may not have heard yet whose this one is.
    let of_executor = task.executor_id.as_deref().unwrap_or(&task.task_id);
    let is_anothers = status.executor_id.as_ref().is_some_and(|spoke| *spoke.value != *of_executor);
    if is_anothers && status.source() == Source::Executor {
        return;
    }
    let Some(uuid) = status.uuid.clone().filter(|uuid| uuid.len() == 16) else { return };
    let is_again = task.updates.iter().any(|known| known.uuid == uuid)
        || task.delivered.as_ref().is_some_and(|(_, delivered)| *delivered == uuid);
    if (is_again || task.is_terminal() || seq == 0) && !planted(Bug::MessagesTakenTwice) {
        return;
    }
    if is_full(task) && !task_state::is_terminal(status.state) {
        return;
    }
    let mut told = status::bounded(status.clone());
    told.agent_id.get_or_insert_with(|| v1::AgentId { value: view::agent_id(&draft.state, agent) });
    let brief = told.data.is_some().then(|| v1::TaskStatus { data: None, ..told.clone() }.encode_to_vec().into());
    let event =
        TaskUpdated { task: key, agent, seq, state: status.state, uuid, status: told.encode_to_vec().into(), brief };
    draft.push(event);
}

/// ACKNOWLEDGE: the framework has the update that it was sent; any other is silently ignored.
pub(crate) fn acknowledge(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Acknowledge) {
    let key = (framework, call.task_id.value.as_str().into());
    let Some(task) = draft.state.tasks.get(&key) else { return };
    let Some(head) = task.updates.front().filter(|head| head.uuid == call.uuid || planted(Bug::AcknowledgedByAnyUuid))
    else {
        return;
    };
    let state = head.state;
    draft.push(UpdateAcknowledged { task: key, state });
}

#[cfg(test)]
mod tests {
    use crate::effect::Effect;
    use crate::testing::{Cluster, bare_executor, operation, task_info, task_on, zero_executor};
    use api::limits::UPDATES_WAITING_MAX;
    use api::v1::TaskState::*;

    #[test]
    fn a_task_lives_and_ends() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        assert_eq!(cluster.update(&task, TaskStarting), ["task-updated"]);
        assert!(cluster.waiting(&task), "the first is sent at once");
        assert_eq!(cluster.update(&task, TaskRunning), ["task-updated"]);
        assert!(!cluster.waiting(&task), "one at a time");
        assert_eq!(cluster.acknowledge(&task), ["update-acknowledged"]);
        assert!(cluster.waiting(&task), "the next one is sent now");
        cluster.acknowledge(&task);
        cluster.update(&task, TaskFinished);
        assert!(cluster.state.agents.get(agent).unwrap().used.is_empty(), "before it is acknowledged");
        assert_eq!(cluster.update(&task, TaskRunning), ["agent-messages-received"], "nothing follows an end");
        assert_eq!(cluster.acknowledge(&task), ["update-acknowledged"]);
        assert!(cluster.state.tasks.get(&task).is_none());
        let ended = cluster.state.tasks.completed_of(framework).next().unwrap();
        assert_eq!((ended.state, ended.statuses.len()), (TaskFinished as i32, 3));
        assert_eq!(cluster.acknowledge(&task), [""; 0]);
    }

    #[test]
    fn an_executor_does_not_end_the_task_of_another() {
        use api::internal::from_agent::Message;
        use api::v1::{ExecutorId, task_status::Source};
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        let says = |cluster: &mut Cluster, executor_id: &str| {
            let mut message = cluster.status_update(&task, TaskRunning);
            let Some(Message::StatusUpdate(update)) = &mut message.message else { panic!("{message:?}") };
            update.status.source = Some(Source::Executor as i32);
            update.status.executor_id = Some(ExecutorId { value: executor_id.into() });
            message
        };
        let other = says(&mut cluster, "e");
        assert_eq!(cluster.agent_says(agent, vec![other]).unwrap(), ["agent-messages-received"]);
        assert_eq!(cluster.state.tasks.get(&task).unwrap().state, TaskStaging as i32);
        let own = says(&mut cluster, "t");
        assert_eq!(cluster.agent_says(agent, vec![own]).unwrap(), ["task-updated"]);
    }

    /// As an agent of an earlier release may have it in its log.
    #[test]
    fn a_status_without_end_is_kept_in_part() {
        use api::internal::from_agent::Message;
        use api::limits::{STATUS_BYTES_MAX, STATUS_MESSAGE_BYTES_MAX};
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        let mut message = cluster.status_update(&task, TaskFailed);
        let Some(Message::StatusUpdate(update)) = &mut message.message else { panic!("{message:?}") };
        update.status.message = Some("é".repeat(10 << 20));
        update.status.data = Some(vec![0; 30 << 20].into());
        assert_eq!(cluster.agent_says(agent, vec![message]).unwrap(), ["task-updated"]);
        let kept = cluster.state.tasks.get(&task).unwrap();
        let told: api::v1::TaskStatus = prost::Message::decode(kept.updates[0].status.clone()).unwrap();
        assert!(kept.updates[0].status.len() <= STATUS_BYTES_MAX);
        assert_eq!((told.state(), told.message().len()), (TaskFailed, STATUS_MESSAGE_BYTES_MAX));
    }

    #[test]
    fn what_waits_for_a_framework_has_a_bound_and_an_end() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        for _ in 0..UPDATES_WAITING_MAX {
            assert_eq!(cluster.update(&task, TaskRunning), ["task-updated"]);
        }
        assert_eq!(cluster.update(&task, TaskRunning), ["agent-messages-received"], "the agent may forget it");
        assert_eq!(cluster.update(&task, TaskFinished), ["task-updated"]);
        for _ in 0..=UPDATES_WAITING_MAX {
            assert_eq!(cluster.acknowledge(&task), ["update-acknowledged"]);
        }
        assert!(cluster.state.tasks.get(&task).is_none(), "the framework heard of the end");
    }

    #[test]
    fn what_an_agent_says_twice_happened_once() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        let message = cluster.status_update(&task, TaskRunning);
        assert_eq!(cluster.agent_says(agent, vec![message.clone()]).unwrap(), ["task-updated"]);
        assert_eq!(cluster.agent_says(agent, vec![message]).unwrap(), [""; 0]);
        assert_eq!(cluster.effects, [Effect::SendReceived { agent, up_to: 1 }], "but it is told again");
        let mut late = cluster.status_update(&task, TaskFinished);
        late.seq = Some(9);
        assert!(cluster.agent_says(agent, vec![late]).is_err(), "something is missing");
    }

    #[test]
    fn a_message_on_an_old_connection_does_not_count() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.agent_disconnected(agent);
        let message = cluster.status_update(&task, TaskRunning);
        assert!(cluster.agent_says(agent, vec![message]).is_err());
    }

    /// A run of an executor ends while another task for it is on its way to the agent.
    #[test]
    fn an_executor_that_comes_back_stays_counted() {
        use api::internal::{ExecutorExited, FromAgent, from_agent::Message};
        use api::v1;
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let executor = v1::ExecutorInfo {
            r#type: Some(v1::executor_info::Type::Custom as i32),
            executor_id: v1::ExecutorId { value: "e".into() },
            command: Some(v1::CommandInfo { value: Some("run".into()), ..Default::default() }),
            resources: task_info("", "cpus:1;mem:10").resources,
            ..Default::default()
        };
        let task = |id: &str| v1::TaskInfo {
            command: None,
            executor: Some(executor.clone()),
            ..task_info(id, "cpus:1;mem:10")
        };
        let offers = cluster.offer();
        let names = cluster.accept(framework, &offers, vec![operation(vec![task("t1"), task("t2")])]);
        assert_eq!(names, ["offers-accepted", "task-launched", "task-launched"], "{:?}", cluster.effects);
        let (first, second) = ((framework, "t1".into()), (framework, "t2".into()));
        let exited = |cluster: &mut Cluster| {
            let seq = Some(cluster.state.agents.get(agent).unwrap().messages_received + 1);
            let id = cluster.framework(framework).id.to_string();
            let exited = ExecutorExited {
                framework_id: v1::FrameworkId { value: id },
                executor_id: v1::ExecutorId { value: "e".into() },
                status: Some(9),
            };
            let message = FromAgent { seq, message: Some(Message::ExecutorExited(exited)) };
            let names = cluster.agent_says(agent, vec![message]).unwrap();
            assert!(cluster.effects_text().contains("SendFailure"), "{}", cluster.effects_text());
            names
        };
        cluster.update(&first, TaskFailed);
        assert_eq!(exited(&mut cluster), ["agent-messages-received"]);
        assert_eq!(cluster.state.agents.get(agent).unwrap().executors.len(), 1);
        cluster.update(&second, TaskFailed);
        assert_eq!(exited(&mut cluster), ["executor-exited", "agent-messages-received"]);
        assert!(cluster.state.agents.get(agent).unwrap().used.is_empty());
    }

    /// A framework and an agent on which one task of an executor has ended, and the executor has not.
    fn behind_the_last_task(
        executor: &api::v1::ExecutorInfo,
    ) -> (Cluster, crate::ids::FrameworkKey, crate::ids::AgentKey) {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let names = cluster.accept(framework, &offers, vec![operation(vec![task_on(executor, "t", "cpus:1;mem:10")])]);
        assert_eq!(names, ["offers-accepted", "task-launched"], "{:?}", cluster.effects);
        cluster.update(&(framework, "t".into()), TaskFinished);
        (cluster, framework, agent)
    }

    #[test]
    fn an_executor_with_nothing_of_its_own_ends_behind_its_last_task() {
        for executor in [bare_executor("e"), zero_executor("e")] {
            let (mut cluster, framework, agent) = behind_the_last_task(&executor);
            assert_eq!(cluster.executor_exited(agent, framework, "e"), ["executor-exited", "agent-messages-received"]);
            assert!(cluster.state.agents.get(agent).unwrap().executors.is_empty());

            let (mut cluster, framework, _) = behind_the_last_task(&executor);
            let end = ["task-declared", "executor-exited", "framework-shutdown-ordered", "framework-removed"];
            assert_eq!(cluster.teardown(framework), end);

            let (mut cluster, framework, _) = behind_the_last_task(&executor);
            cluster.disconnect(framework);
            assert_eq!(cluster.deadline_passed(), end);

            let (mut cluster, _, agent) = behind_the_last_task(&executor);
            assert_eq!(cluster.mark_gone(agent), ["agent-removed"]);

            let (mut cluster, framework, agent) = behind_the_last_task(&executor);
            cluster.agent_unreachable(agent);
            cluster.resume(agent, &[]).unwrap();
            assert_eq!(cluster.executor_exited(agent, framework, "e"), ["executor-exited", "agent-messages-received"]);
        }
    }

    #[test]
    fn an_executor_with_nothing_of_its_own_serves_several_tasks() {
        let executor = bare_executor("e");
        let (mut cluster, framework, agent) = behind_the_last_task(&executor);
        cluster.at_ms += 10_000;
        let offers = cluster.offer();
        let tasks = vec![task_on(&executor, "u", "cpus:1;mem:10"), task_on(&executor, "v", "cpus:1;mem:10")];
        cluster.accept(framework, &offers, vec![operation(tasks)]);
        cluster.update(&(framework, "u".into()), TaskFailed);
        assert_eq!(cluster.executor_exited(agent, framework, "e"), ["agent-messages-received"], "v brings it back");
        cluster.update(&(framework, "v".into()), TaskFailed);
        assert_eq!(cluster.executor_exited(agent, framework, "e"), ["executor-exited", "agent-messages-received"]);
        assert!(cluster.framework(framework).used.is_empty());
    }
}
