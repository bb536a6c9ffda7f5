//! What the world must now be told. Every master computes the same effects from the same events; the server of each
//! carries out those that concern connections it holds, and drops the rest. What must arrive is in State until
//! acknowledged: an effect only wakes whoever sends it.

use crate::ids::{AgentKey, Connection, ConnectionId, ExecutorId, FrameworkKey, OfferKey, OperationKey, TaskId};
use api::v1;
use bytes::Bytes;
use std::sync::Arc;

/// Something to tell somebody. Keys, not messages: the message is made from State by `view`, and only by the master
/// that holds the connection. The fields are what each sentence says.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// The framework's stream is `connection` from now on: tell it SUBSCRIBED, a HEARTBEAT, then what waits for it.
    OpenStream { framework: FrameworkKey, connection: Connection },
    /// This stream of the framework is over: an ERROR with `error` first, if there is one.
    CloseStream { framework: FrameworkKey, connection: ConnectionId, error: Option<String> },
    /// Offers were made to it, all in one OFFERS event.
    SendOffers { framework: FrameworkKey, offers: Vec<OfferKey> },
    /// An offer that it may have is no longer valid.
    SendRescind { framework: FrameworkKey, offer: OfferKey },
    /// It is asked to give back what it has of agents, all in one INVERSE_OFFERS event.
    SendInverseOffers { framework: FrameworkKey, offers: Vec<OfferKey> },
    /// An inverse offer that it may have is no longer valid.
    SendRescindInverse { framework: FrameworkKey, offer: OfferKey },
    /// The head of this task's queue of updates waits to be sent; sent again with Mesos's back-off until it changes.
    UpdateWaiting { framework: FrameworkKey, task_id: TaskId },
    /// A status without uuid, which is neither acknowledged nor sent again (launch refused, reconciliation).
    SendStatus { framework: FrameworkKey, status: Box<v1::TaskStatus> },
    /// Answers to RECONCILE as of `at_ms`, of these tasks, each with its agent if one was named, or of all: what
    /// [`crate::answers`] makes of them.
    SendAnswers { framework: FrameworkKey, at_ms: u64, tasks: Option<Vec<Asked>> },
    /// The status of an operation, without uuid (refused operations, reconciliation).
    SendOperationStatus { framework: FrameworkKey, status: Box<v1::OperationStatus> },
    /// The status of this operation waits to be sent; sent again with Mesos's back-off until it is acknowledged.
    OperationWaiting { framework: FrameworkKey, operation: OperationKey },
    /// An executor or an agent failed: a FAILURE event.
    SendFailure { framework: FrameworkKey, agent: AgentKey, executor_id: Option<ExecutorId>, status: Option<i32> },
    /// A message from an executor; may be lost.
    SendMessage { framework: FrameworkKey, agent: AgentKey, executor_id: ExecutorId, data: Bytes },

    /// The agent's connection is `connection` from now on: tell it Welcome, then its outbox.
    OpenAgent { agent: AgentKey, connection: Connection },
    /// This connection of the agent is over.
    CloseAgent { agent: AgentKey, connection: ConnectionId },
    /// Its outbox has something new.
    OrdersWaiting { agent: AgentKey },
    /// Its messages up to here are committed.
    SendReceived { agent: AgentKey, up_to: u64 },
    /// The agent remembers this operation for its framework, which has acknowledged what became of it; may be lost.
    SendOperationOver { agent: AgentKey, operation: OperationKey },
    /// The agent is to hear of its identity, which is or should be another.
    SendIdentity { agent: AgentKey },
    /// A framework's message to an executor; may be lost.
    SendToExecutor { agent: AgentKey, framework: FrameworkKey, executor_id: ExecutorId, data: Bytes },

    /// Operators who watch hear of it.
    Announce(Announcement),
}

/// A task that a framework asks for, and the agent that it names with it, if it does.
pub type Asked = (TaskId, Option<Arc<str>>);

/// What subscribers of the operator stream are told; the server makes the v1 event from State.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq)]
pub enum Announcement {
    /// TASK_ADDED
    TaskAdded { framework: FrameworkKey, task_id: TaskId },
    /// TASK_UPDATED, with the status that did it.
    TaskUpdated { framework: FrameworkKey, task_id: TaskId, state: v1::TaskState, status: Box<v1::TaskStatus> },
    /// FRAMEWORK_ADDED
    FrameworkAdded { framework: FrameworkKey },
    /// FRAMEWORK_UPDATED
    FrameworkUpdated { framework: FrameworkKey },
    /// FRAMEWORK_REMOVED, with the info it had.
    FrameworkRemoved { info: Box<v1::FrameworkInfo> },
    /// AGENT_ADDED
    AgentAdded { agent: AgentKey },
    /// AGENT_REMOVED
    AgentRemoved { agent: AgentKey },
    /// What became of an operation of this kind. Watchers do not hear of it; it is counted.
    OperationEnded { framework: Option<FrameworkKey>, kind: v1::offer::operation::Type, state: v1::OperationState },
}
