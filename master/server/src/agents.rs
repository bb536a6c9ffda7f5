//! Agents' connections held by this master. Orders are in State until acknowledged; a connection only remembers how
//! far it has sent them.

use crate::context::Ping;
use crate::identity::Identity;
use crate::records::{Gone, RecordSender};
use crate::wire;
use api::internal::{self, ToAgent, to_agent};
use api::limits::{ENVELOPE_BYTES_MAX, TO_AGENT_BYTES_MAX};
use api::v1;
use bytes::{BufMut, Bytes, BytesMut};
use event_log::host;
use master_core::effect::Effect;
use master_core::ids::{AgentKey, Connection, ConnectionId};
use master_core::state::agents::Order;
use master_core::{State, view};
use parking_lot::Mutex;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Agents' connections on this master.
pub struct Agents {
    identity: Arc<Identity>,
    ping: Ping,
    inner: Mutex<Inner>,
    lost: mpsc::UnboundedSender<LostAgent>,
}

/// An agent's connection that ended from below: the leader must hear of it.
#[derive(Clone, Debug)]
pub(crate) struct LostAgent {
    pub(crate) agent_id: String,
    pub(crate) connection: Connection,
}

#[derive(Default)]
struct Inner {
    expected: BTreeMap<ConnectionId, Held>,
    open: BTreeMap<AgentKey, Held>,
    by_connection: BTreeMap<ConnectionId, AgentKey>,
    /// host:port of every master, as agents were told last.
    masters: Vec<String>,
    /// They were asked to move: those that go are on their way, and the end of this master tells of the others.
    leaving: bool,
}

/// One connection.
struct Held {
    connection: Connection,
    records: RecordSender,
    /// Orders up to here were sent.
    sent_up_to: u64,
    agent_id: String,
    /// Dropped with the connection: whoever reads from the agent stops.
    _end: oneshot::Sender<()>,
}

/// The largest order that an agent reads.
const ORDER_BYTES_MAX: usize = TO_AGENT_BYTES_MAX - ENVELOPE_BYTES_MAX;

/// A message to an agent, with its length before it.
pub(crate) fn frame(message: to_agent::Message) -> Bytes {
    ToAgent { message: Some(message) }.encode_length_delimited_to_vec().into()
}

/// An order from State is already in protobuf: only the envelope is put around it.
fn frame_order(order: &[u8]) -> Bytes {
    const ORDER_FIELD: u32 = 3;
    let field_len = 1 + encoded_len_varint(order.len() as u64) + order.len();
    let mut framed = BytesMut::with_capacity(field_len + 5);
    encode_varint(field_len as u64, &mut framed);
    encode_key(ORDER_FIELD, WireType::LengthDelimited, &mut framed);
    encode_varint(order.len() as u64, &mut framed);
    framed.put_slice(order);
    framed.freeze()
}

/// What an agent is told in the place of an order that it could not read, which only an older log has: its number must
/// come, or nothing behind it would ever be heard. A kill of what it would have launched makes the agent say that there
/// is no such task.
fn in_its_place(order: &Order) -> Bytes {
    let decoded = internal::Order::decode(order.bytes.clone()).unwrap_or_default();
    let task = match decoded.order {
        Some(internal::order::Order::Launch(launch)) => Some((launch.framework_info, launch.task.task_id)),
        Some(internal::order::Order::LaunchGroup(launch)) => {
            launch.task_group.tasks.into_iter().next().map(|task| (launch.framework_info, task.task_id))
        }
        _ => None,
    };
    tracing::error!(order = decoded.seq, bytes = order.bytes.len(), "an order is too large for its agent");
    let (framework_info, task_id) = task.unwrap_or_default();
    let framework_id = framework_info.id.unwrap_or_default();
    let kill = internal::Kill { framework_id, task_id, kill_policy: None };
    let kill = internal::Order { seq: decoded.seq, order: Some(internal::order::Order::Kill(kill)) };
    frame(to_agent::Message::Order(kill))
}

/// What an agent is told of its identity, if it has one.
fn identity(state: &State, agent: AgentKey) -> Option<internal::Identity> {
    let (hash, rotate_in_ms) = master_core::told_of_identity(state, agent, host::wall_ms().max(state.at_ms))?;
    Some(internal::Identity { hash: Bytes::copy_from_slice(&hash.0), rotate_in_ms })
}

/// Those of the operations that an agent keeps which no master knows any more.
pub(crate) fn over(state: &State, kept: internal::OperationsKept) -> internal::OperationsOver {
    let is_known = |operation: &Bytes| {
        let key = view::parse_operation_uuid(state, operation);
        key.is_some_and(|key| state.operations.get(key).is_some())
    };
    let mut operations = kept.operations;
    operations.retain(|operation| !is_known(operation));
    internal::OperationsOver { operations }
}

impl Agents {
    pub(crate) fn new(identity: Arc<Identity>, ping: Ping, lost: mpsc::UnboundedSender<LostAgent>) -> Agents {
        Agents { identity, ping, inner: Mutex::default(), lost }
    }

    /// A connection whose agent is about to be submitted; the receiver resolves when the connection is over.
    pub(crate) fn expect(&self, connection: Connection, records: RecordSender) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        let held = Held { connection, records, sent_up_to: 0, agent_id: String::new(), _end: end };
        self.inner.lock().expected.insert(connection.id, held);
        ended
    }

    /// The agent went away, or was refused.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut inner = self.inner.lock();
        inner.expected.remove(&connection);
        if let Some(agent) = inner.by_connection.get(&connection).copied() {
            self.lose(&mut inner, agent);
        }
    }

    /// A framework's message from the leader; dropped if the connection is over.
    pub(crate) fn deliver(&self, connection: ConnectionId, message: internal::FrameworkMessage) {
        let mut inner = self.inner.lock();
        if let Some(agent) = inner.by_connection.get(&connection).copied() {
            self.send(&mut inner, agent, frame(to_agent::Message::FrameworkMessage(message)));
        }
    }

    /// How many agents are connected here.
    pub fn count(&self) -> usize {
        self.inner.lock().open.len()
    }

    /// Asks every agent held here to connect to another master: this one is about to stop.
    pub(crate) fn move_all(&self, masters: &[String]) {
        let mut inner = self.inner.lock();
        inner.leaving = true;
        for held in inner.open.values() {
            let message = to_agent::Message::Move(internal::Move { masters: masters.to_vec() });
            // Whoever is gone already needs no advice.
            let _ = held.records.send(frame(message));
        }
    }

    /// Tells every agent held here, and those to come, who the masters are.
    pub(crate) fn set_masters(&self, masters: Vec<String>) {
        let mut inner = self.inner.lock();
        if inner.masters == masters {
            return;
        }
        let message = frame(to_agent::Message::Masters(internal::Masters { masters: masters.clone() }));
        inner.masters = masters;
        let agents: Vec<AgentKey> = inner.open.keys().copied().collect();
        agents.into_iter().for_each(|agent| self.send(&mut inner, agent, message.clone()));
    }

    /// Ends every connection held here. A connection of this master in `state` that is not here was never opened: the
    /// record that would have opened it was not seen.
    pub(crate) fn close_all(&self, state: Option<&State>, why: &'static str) {
        let mut inner = self.inner.lock();
        let agents: Vec<AgentKey> = inner.open.keys().copied().collect();
        if !agents.is_empty() {
            tracing::warn!(why, agents = agents.len(), "closing the connections of agents held here");
        }
        let me = self.identity.incarnation();
        for agent in state.into_iter().flat_map(|state| state.agents.live.values()) {
            let Some(connection) = agent.connection().filter(|connection| connection.at == me) else { continue };
            if let (Some(state), false) = (state, inner.by_connection.contains_key(&connection.id)) {
                let _ = self.lost.send(LostAgent { agent_id: view::agent_id(state, agent.key), connection });
            }
        }
        agents.into_iter().for_each(|agent| self.lose(&mut inner, agent));
        inner.expected.clear();
    }

    /// Carries out what concerns a connection held here; the rest is another master's business.
    pub(crate) fn carry_out(&self, state: &State, effect: &Effect) {
        let mut inner = self.inner.lock();
        match effect {
            Effect::OpenAgent { agent, connection } if connection.at == self.identity.incarnation() => {
                self.open(&mut inner, state, *agent, *connection);
            }
            Effect::CloseAgent { agent, connection }
                if inner.open.get(agent).is_some_and(|held| held.connection.id == *connection) =>
            {
                inner.remove(*agent);
            }
            Effect::OrdersWaiting { agent } => self.send_orders(&mut inner, state, *agent),
            Effect::SendReceived { agent, up_to } if inner.open.contains_key(agent) => {
                let received = to_agent::Message::Received(internal::Received { up_to: *up_to });
                self.send(&mut inner, *agent, frame(received));
            }
            Effect::SendOperationOver { agent, operation } if inner.open.contains_key(agent) => {
                let operations = vec![Bytes::copy_from_slice(&view::operation_uuid(state, *operation))];
                let over = internal::OperationsOver { operations };
                self.send(&mut inner, *agent, frame(to_agent::Message::OperationsOver(over)));
            }
            Effect::SendIdentity { agent } if inner.open.contains_key(agent) => {
                if let Some(identity) = identity(state, *agent) {
                    self.send(&mut inner, *agent, frame(to_agent::Message::Identity(identity)));
                }
            }
            Effect::SendToExecutor { agent, framework, executor_id, data } if inner.open.contains_key(agent) => {
                let message = to_agent::Message::FrameworkMessage(internal::FrameworkMessage {
                    framework_id: v1::FrameworkId { value: view::framework_id(state, *framework) },
                    executor_id: v1::ExecutorId { value: executor_id.to_string() },
                    data: data.clone(),
                });
                self.send(&mut inner, *agent, frame(message));
            }
            _ => {}
        }
    }

    fn open(&self, inner: &mut Inner, state: &State, agent: AgentKey, connection: Connection) {
        let agent_id = view::agent_id(state, agent);
        let known = state.agents.live.get(&agent);
        let (Some(mut held), Some(known)) = (inner.expected.remove(&connection.id), known) else {
            // The agent did not wait for the commit.
            let _ = self.lost.send(LostAgent { agent_id, connection });
            return;
        };
        inner.remove(agent);
        held.agent_id.clone_from(&agent_id);
        let welcome = to_agent::Message::Welcome(internal::Welcome {
            agent_id: v1::AgentId { value: agent_id },
            cluster_id: state.cluster_id.to_string(),
            messages_up_to: known.messages_received,
            ping_timeout_ms: u64::try_from(self.ping.patience().as_millis()).unwrap_or(u64::MAX),
            masters: inner.masters.clone(),
            identity: identity(state, agent),
            tells_of_operations: Some(true),
            takes_providers: Some(state.feature_level.has_providers()),
        });
        inner.by_connection.insert(connection.id, agent);
        inner.open.insert(agent, held);
        self.send(inner, agent, frame(welcome));
        self.send_orders(inner, state, agent);
    }

    fn send_orders(&self, inner: &mut Inner, state: &State, agent: AgentKey) {
        let Some(known) = state.agents.live.get(&agent) else { return };
        let Some(held) = inner.open.get_mut(&agent) else { return };
        let mut gone = false;
        for (seq, order) in known.outbox.range(held.sent_up_to + 1..) {
            let record =
                if order.bytes.len() <= ORDER_BYTES_MAX { frame_order(&order.bytes) } else { in_its_place(order) };
            gone |= held.records.send(record).is_err();
            held.sent_up_to = *seq;
        }
        if gone {
            self.lose(inner, agent);
        }
    }

    fn send(&self, inner: &mut Inner, agent: AgentKey, record: Bytes) {
        let failed = inner.open.get(&agent).is_some_and(|held| held.records.send(record) == Err(Gone));
        if failed {
            self.lose(inner, agent);
        }
    }

    fn lose(&self, inner: &mut Inner, agent: AgentKey) {
        if let Some(Held { agent_id, connection, .. }) = inner.remove(agent).filter(|_| !inner.leaving) {
            let _ = self.lost.send(LostAgent { agent_id, connection });
        }
    }
}

impl Inner {
    fn remove(&mut self, agent: AgentKey) -> Option<Held> {
        let held = self.open.remove(&agent)?;
        self.by_connection.remove(&held.connection.id);
        Some(held)
    }
}

/// The connection that a message between masters names.
pub(crate) fn connection_id(bytes: &[u8]) -> Option<ConnectionId> {
    wire::id_of(bytes).map(ConnectionId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_could_not_read_is_told_in_short() {
        let task = v1::TaskInfo {
            task_id: v1::TaskId { value: "t".into() },
            data: Some(vec![0; TO_AGENT_BYTES_MAX].into()),
            ..Default::default()
        };
        let info = v1::FrameworkInfo { id: Some(v1::FrameworkId { value: "f".into() }), ..Default::default() };
        let launch =
            internal::order::Order::Launch(internal::Launch { framework_info: info, task, providers: Vec::new() });
        let order = internal::Order { seq: 7, order: Some(launch) };
        let told = in_its_place(&Order { bytes: order.encode_to_vec().into() });
        let told = ToAgent::decode_length_delimited(told).unwrap().message;
        let Some(to_agent::Message::Order(internal::Order { seq: 7, order })) = told else { panic!("{told:?}") };
        let Some(internal::order::Order::Kill(kill)) = order else { panic!("{order:?}") };
        assert_eq!((kill.framework_id.value.as_str(), kill.task_id.value.as_str()), ("f", "t"));
    }

    #[test]
    fn an_order_in_its_envelope_is_what_the_schema_says() {
        let kill = internal::Kill {
            framework_id: v1::FrameworkId { value: "f".into() },
            task_id: v1::TaskId { value: "t".repeat(300) },
            kill_policy: None,
        };
        let order = internal::Order { seq: 300, order: Some(internal::order::Order::Kill(kill)) };
        assert_eq!(frame_order(&order.encode_to_vec()), frame(to_agent::Message::Order(order)));
    }
}
