//! Agents: what each has, who holds its connection, what it was ordered and has not yet acknowledged.

use crate::ids::{AgentKey, Connection, ExecutorId, FrameworkKey};
use api::resources::Resources;
use bytes::Bytes;
use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Agents by key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agents {
    /// Registered agents, connected, disconnected and unreachable.
    pub live: OrdMap<AgentKey, Arc<Agent>>,
    /// Registration tokens, so that a token sent twice gets one id.
    pub by_token: OrdMap<u128, AgentKey>,
    /// Agents that left for good: their ids are never admitted again.
    pub gone: OrdMap<AgentKey, GoneAgent>,
    /// The key of the next agent.
    pub next: u64,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Its place in State and the number in its id.
    pub key: AgentKey,
    /// The token it registered with.
    pub token: u128,
    /// The `AgentInfo` with its id, in protobuf.
    pub info: Bytes,
    /// Its hostname, from the info.
    pub hostname: Arc<str>,
    /// host:port of its HTTP endpoint.
    pub address: Arc<str>,
    /// Its version, and what it can do, by name.
    pub version: Arc<str>,
    /// Capabilities by name, as it said.
    pub capabilities: Vector<Arc<str>>,
    /// Everything it has.
    pub total: Resources,
    /// What offers hold of it.
    pub offered: Resources,
    /// What tasks and executors hold of it, allocation roles included.
    pub used: Resources,
    /// Custom executors on it that have not ended.
    pub executors: OrdMap<(FrameworkKey, ExecutorId), Arc<Executor>>,
    /// Whether and where it is connected.
    pub liveness: AgentLiveness,
    /// First registration.
    pub registered_ms: u64,
    /// Last return, if any.
    pub reregistered_ms: Option<u64>,
    /// Orders not yet acknowledged, by number.
    pub outbox: OrdMap<u64, Arc<Order>>,
    /// The number of the next order, from 1.
    pub next_order: u64,
    /// Orders up to here are in the agent's log.
    pub orders_acknowledged: u64,
    /// Messages of the agent up to here are in our log.
    pub messages_received: u64,
    /// No offers while true (operator).
    pub deactivated: bool,
}

/// Where an agent is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AgentLiveness {
    /// On this connection.
    Connected { connection: Connection },
    /// Its connection ended; unreachable at the deadline unless it resumes.
    Disconnected { since_ms: u64, deadline_ms: u64 },
    /// Declared unreachable: its tasks are lost or unreachable, until it resumes.
    Unreachable { since_ms: u64 },
}

/// A custom executor. Command tasks have none in State.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Executor {
    /// The `ExecutorInfo` in protobuf.
    pub info: Bytes,
    /// What it holds, beside its tasks.
    pub resources: Resources,
}

/// Something that an agent must do. Kept until it has it in its log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// An `internal::Order` in protobuf, with its number.
    pub bytes: Bytes,
}

/// An agent that left, was removed or was replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoneAgent {
    /// When.
    pub at_ms: u64,
    /// Marked by an operator (TASK_GONE_BY_OPERATOR), not by itself.
    pub by_operator: bool,
    /// Why, as a sentence.
    pub reason: Arc<str>,
}
