//! A State that may be given away: what frameworks told their programs is taken out of it, and what would let somebody
//! speak for them. It is good for questions, not for a cluster: nothing of it can be launched again.

use crate::ids::{Connection, ConnectionId};
use crate::state::{Agent, AgentLiveness, CompletedFramework, Executor, Framework, Order, PendingUpdate, State, Task};
use api::json::{from_value, to_value};
use api::wire::Wire;
use api::{internal, redact, v1};
use bytes::Bytes;
use imbl::OrdMap;
use prost::Message;
use std::sync::Arc;

/// What stands in a redacted snapshot where others have the digest of their state, so that no release restores it.
pub const DIGEST: &[u8] = b"redacted";

/// The same state without environments, commands, labels, secrets and data, and without the numbers by which connections
/// and agents are known.
pub fn redacted(state: &State) -> State {
    let mut bare = state.clone();
    for (key, framework) in &state.frameworks.live {
        bare.frameworks.live.insert(*key, Arc::new(of_framework(framework)));
    }
    for (at, completed) in &state.frameworks.completed {
        let framework = Arc::new(of_framework(&completed.framework));
        let bare_one = CompletedFramework { framework, removed_ms: completed.removed_ms };
        bare.frameworks.completed.insert(*at, Arc::new(bare_one));
    }
    for (key, task) in &state.tasks.live {
        bare.tasks.live.insert(key.clone(), Arc::new(of_task(task)));
    }
    for (at, task) in &state.tasks.completed {
        bare.tasks.completed.insert(*at, Arc::new(of_task(task)));
    }
    bare.agents.by_token = OrdMap::new();
    for (key, agent) in &state.agents.live {
        let agent = of_agent(agent);
        bare.agents.by_token.insert(agent.token, *key);
        bare.agents.live.insert(*key, Arc::new(agent));
    }
    bare
}

/// A message without what is not to be shown; nothing, if it cannot be read.
fn message<M: Message + Wire + Default>(bytes: &Bytes) -> Bytes {
    let Ok(message) = M::decode(bytes.clone()) else { return Bytes::new() };
    let mut value = to_value(&message);
    redact::message(&mut value);
    from_value::<M>(&value).map_or_else(|_| Bytes::new(), |message| message.encode_to_vec().into())
}

fn of_framework(framework: &Framework) -> Framework {
    let mut bare = framework.clone();
    bare.info = message::<v1::FrameworkInfo>(&framework.info);
    if let Some(stream) = &mut bare.stream {
        stream.connection = unnamed(stream.connection, u128::from(framework.key.0));
    }
    bare
}

/// Whoever knows the number of a stream may speak on it.
fn unnamed(connection: Connection, id: u128) -> Connection {
    Connection { id: ConnectionId(id), ..connection }
}

fn of_task(task: &Task) -> Task {
    let update = |update: &Arc<PendingUpdate>| {
        Arc::new(PendingUpdate { status: message::<v1::TaskStatus>(&update.status), ..PendingUpdate::clone(update) })
    };
    Task {
        info: message::<v1::TaskInfo>(&task.info),
        statuses: task.statuses.iter().map(message::<v1::TaskStatus>).collect(),
        updates: task.updates.iter().map(update).collect(),
        ..task.clone()
    }
}

fn of_agent(agent: &Agent) -> Agent {
    let executor = |executor: &Arc<Executor>| {
        Arc::new(Executor { info: message::<v1::ExecutorInfo>(&executor.info), ..Executor::clone(executor) })
    };
    let order = |order: &Arc<Order>| Arc::new(Order { bytes: message::<internal::Order>(&order.bytes) });
    let liveness = match agent.liveness.clone() {
        AgentLiveness::Connected { connection } => {
            AgentLiveness::Connected { connection: unnamed(connection, u128::from(agent.key.0)) }
        }
        other @ (AgentLiveness::Disconnected { .. } | AgentLiveness::Unreachable { .. }) => other,
    };
    Agent {
        token: u128::from(agent.key.0),
        executors: agent.executors.iter().map(|(key, one)| (key.clone(), executor(one))).collect(),
        outbox: agent.outbox.iter().map(|(seq, one)| (*seq, order(one))).collect(),
        liveness,
        ..agent.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, operation, task_info};

    #[test]
    fn what_frameworks_said_is_gone_and_the_rest_is_the_same() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe_with(|info| {
            info.labels =
                Some(v1::Labels { labels: vec![v1::Label { key: "team".into(), value: Some("hunter2".into()) }] });
        });
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let mut task = task_info("t1", "cpus:1;mem:10");
        let command = task.command.as_mut().unwrap();
        command.value = Some("run hunter2".into());
        command.environment = Some(v1::Environment {
            variables: vec![v1::environment::Variable {
                name: "PASSWORD".into(),
                value: Some("hunter2".into()),
                ..Default::default()
            }],
        });
        cluster.accept(framework, &offers, vec![operation(vec![task])]);
        let bytes = |state: &State| {
            let mut bytes = Vec::new();
            state.write_snapshot(&mut bytes).unwrap();
            bytes
        };
        let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let whole = bytes(&cluster.state);
        let bare = redacted(&cluster.state);
        assert!(has(&whole, "hunter2") && !has(&bytes(&bare), "hunter2"));
        assert!(has(&bytes(&bare), "PASSWORD") && has(&bytes(&bare), "team"));
        assert_eq!(bare.tasks.live.len(), 1);
        assert_eq!(crate::invariants::check(&bare), []);
        let read = State::read_snapshot(&mut bytes(&bare).as_slice()).unwrap();
        assert_eq!(read.digest(), bare.digest());
        assert_ne!(read.digest(), cluster.state.digest());
    }
}
