//! Agents: what each has, who holds its connection, what it was ordered and has not yet acknowledged.

use super::charged::{Charge, Charged, charge_of};
use crate::event::{AgentProfile, AgentRegistered, AgentResumed, NewExecutor};
use crate::ids::{AgentKey, Connection, ConnectionId, ExecutorId, FrameworkKey};
use crate::resources;
use crate::wire;
use api::limits::{ORDERS_WAITING_MAX, OUTBOX_BYTES_MAX};
use api::resources::Resources;
use bytes::Bytes;
use imbl::{OrdMap, OrdSet, Vector};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Agents by key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Agents {
    /// Registered agents, connected, disconnected and unreachable.
    pub live: OrdMap<AgentKey, Arc<Agent>>,
    /// Registration tokens, so that a token sent twice gets one id.
    pub by_token: OrdMap<u128, AgentKey>,
    /// Agents that left for good, at most `MAX_GONE_AGENTS`: their ids are not admitted again.
    pub gone: OrdMap<AgentKey, GoneAgent>,
    /// The key of the next agent.
    pub next: u64,
    /// Who is at which address. Derived.
    #[serde(skip)]
    pub by_address: OrdSet<(Arc<str>, AgentKey)>,
    /// What the limits of roles count of all agents, while there are limits. Derived.
    #[serde(skip)]
    pub charged: Charged,
}

/// How many agents that left are remembered; the ids of older ones are merely unknown.
pub const MAX_GONE_AGENTS: usize = 102_400;

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
    #[serde(deserialize_with = "super::cautious::vector")]
    pub capabilities: Vector<Arc<str>>,
    /// Everything it has.
    pub total: Resources,
    /// What offers hold of it.
    pub offered: Resources,
    /// What tasks and executors hold of it, allocation roles included.
    pub used: Resources,
    /// Custom executors on it that have not ended.
    #[serde(deserialize_with = "super::cautious::map")]
    pub executors: OrdMap<(FrameworkKey, ExecutorId), Arc<Executor>>,
    /// Whether and where it is connected.
    pub liveness: AgentLiveness,
    /// First registration.
    pub registered_ms: u64,
    /// Last return, if any.
    pub reregistered_ms: Option<u64>,
    /// Orders not yet acknowledged, by number.
    #[serde(deserialize_with = "super::cautious::map")]
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

/// Where an agent is. Times are in milliseconds since the epoch.
#[allow(missing_docs)]
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

impl Agent {
    /// What is neither offered nor used, without allocation roles; and what is shared, however much it is used.
    pub fn free(&self) -> Resources {
        let free = resources::minus(&self.total, &resources::unallocated(&self.used));
        let free = resources::minus(&free, &resources::unallocated(&self.offered));
        let shared = self.total.shared();
        if shared.is_empty() { free } else { free.non_shared().plus(&shared) }
    }

    /// What was made of what it was configured with, and what it keeps: dynamic reservations and volumes. Resource providers
    /// keep what is theirs.
    pub fn checkpointed(&self) -> Resources {
        self.total.filter(|resource| resource.is_converted() && resource.provider_id.is_none())
    }

    /// Whether it says that it can do something, by the name of the capability.
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| **name == *capability)
    }

    /// Its connection, while it has one.
    pub fn connection(&self) -> Option<Connection> {
        match self.liveness {
            AgentLiveness::Connected { connection } => Some(connection),
            AgentLiveness::Disconnected { .. } | AgentLiveness::Unreachable { .. } => None,
        }
    }

    /// Whether this order waits for its acknowledgement already: given twice it would say nothing new.
    pub(crate) fn awaits(&self, order: &wire::OrderParts<'_>) -> bool {
        order.is_among(self.outbox.values().rev().map(|waiting| &waiting.bytes))
    }

    /// What its orders that it has not acknowledged weigh, in bytes.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox.values().map(|order| order.bytes.len()).sum()
    }

    /// Whether so many orders wait for it that it is not given what could as well come later.
    pub fn is_behind(&self) -> bool {
        self.outbox.len() >= ORDERS_WAITING_MAX || self.outbox_bytes() >= OUTBOX_BYTES_MAX
    }

    /// Whether it said that it can do this.
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities.iter().any(|known| **known == *name)
    }

    /// Whether it ends what it runs when it is told to.
    pub fn can_drain(&self) -> bool {
        self.has_capability("AGENT_DRAINING")
    }

    /// Whether offers of it may be made.
    pub fn is_offerable(&self) -> bool {
        let is_wanted = !self.deactivated || event_log::planted(event_log::Bug::OfferedWhileDraining);
        self.connection().is_some() && is_wanted
    }

    /// Whether it was declared unreachable and has not come back.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.liveness, AgentLiveness::Unreachable { .. })
    }

    fn set_profile(&mut self, profile: &AgentProfile) {
        self.info = profile.info.clone();
        self.hostname = profile.hostname.clone();
        self.address = profile.address.clone();
        self.version = profile.version.clone();
        self.capabilities = profile.capabilities.iter().cloned().collect();
        self.total = profile.total.clone();
    }
}

impl Agents {
    /// A registered agent.
    pub fn get(&self, key: AgentKey) -> Option<&Agent> {
        self.live.get(&key).map(Arc::as_ref)
    }

    /// The agents at an address; more than one only until the earlier one is known to be away.
    pub fn at<'a>(&'a self, address: &'a Arc<str>) -> impl Iterator<Item = AgentKey> + 'a {
        let from = (address.clone(), AgentKey(0));
        self.by_address.range(from..).take_while(move |(at, _)| at == address).map(|(_, key)| *key)
    }

    fn change(&mut self, key: AgentKey) -> &mut Agent {
        Arc::make_mut(self.live.get_mut(&key).expect("the event's agent is registered"))
    }

    /// The same for what may count under limits.
    fn change_held<R>(&mut self, key: AgentKey, change: impl FnOnce(&mut Agent) -> R) -> R {
        let agent = Arc::make_mut(self.live.get_mut(&key).expect("the event's agent is registered"));
        if !self.charged.is_kept() {
            return change(agent);
        }
        let before = charge_of(agent);
        let result = change(agent);
        self.charged.replace(before, charge_of(agent));
        result
    }

    /// Whether what counts under limits is kept from now on.
    pub(crate) fn keep_charged(&mut self, wanted: bool) {
        self.charged.keep(wanted, self.live.values());
    }

    pub(crate) fn register(&mut self, event: &AgentRegistered, at_ms: u64) {
        let mut agent = Agent {
            key: event.agent,
            token: event.token,
            info: Bytes::new(),
            hostname: "".into(),
            address: "".into(),
            version: "".into(),
            capabilities: Vector::new(),
            total: Resources::default(),
            offered: Resources::default(),
            used: Resources::default(),
            executors: OrdMap::new(),
            liveness: AgentLiveness::Connected { connection: event.connection },
            registered_ms: at_ms,
            reregistered_ms: None,
            outbox: OrdMap::new(),
            next_order: 1,
            orders_acknowledged: 0,
            messages_received: 0,
            deactivated: false,
        };
        agent.set_profile(&event.profile);
        self.by_token.insert(event.token, event.agent);
        self.by_address.insert((agent.address.clone(), event.agent));
        self.charged.replace(Charge::new(), charge_of(&agent));
        self.live.insert(event.agent, Arc::new(agent));
        self.next = self.next.max(event.agent.0 + 1);
    }

    pub(crate) fn resume(&mut self, event: &AgentResumed, at_ms: u64) {
        if let Some(profile) = &event.profile {
            let before = self.change(event.agent).address.clone();
            self.by_address.remove(&(before, event.agent));
            self.by_address.insert((profile.address.clone(), event.agent));
        }
        self.change_held(event.agent, |agent| {
            agent.liveness = AgentLiveness::Connected { connection: event.connection };
            agent.reregistered_ms = Some(at_ms);
            if event_log::planted(event_log::Bug::DrainForgottenOnReturn) {
                agent.deactivated = false;
            }
            if let Some(profile) = &event.profile {
                agent.set_profile(profile);
            }
            let everything = event_log::planted(event_log::Bug::OutboxDropped);
            if !event_log::planted(event_log::Bug::OutboxReplayed) {
                acknowledge(agent, if everything { agent.next_order - 1 } else { event.orders_up_to });
            }
            if event_log::planted(event_log::Bug::CountedTwiceOnReturn) {
                let used = agent.used.clone();
                resources::add(&mut agent.used, &used);
            }
        });
    }

    pub(crate) fn disconnect(&mut self, key: AgentKey, connection: ConnectionId, deadline_ms: u64, at_ms: u64) {
        let agent = self.change(key);
        debug_assert_eq!(agent.connection().map(|connection| connection.id), Some(connection));
        agent.liveness = AgentLiveness::Disconnected { since_ms: at_ms, deadline_ms };
    }

    pub(crate) fn set_unreachable(&mut self, key: AgentKey, at_ms: u64) {
        self.change_held(key, |agent| agent.liveness = AgentLiveness::Unreachable { since_ms: at_ms });
    }

    pub(crate) fn remove(&mut self, key: AgentKey, by_operator: bool, reason: &Arc<str>, at_ms: u64) {
        let agent = self.live.remove(&key).expect("the event's agent is registered");
        self.charged.replace(charge_of(&agent), Charge::new());
        self.by_token.remove(&agent.token);
        self.by_address.remove(&(agent.address.clone(), key));
        self.gone.insert(key, GoneAgent { at_ms, by_operator, reason: reason.clone() });
        if self.gone.len() > MAX_GONE_AGENTS {
            let oldest = self.gone.get_min().map(|(key, _)| *key);
            oldest.map(|oldest| self.gone.remove(&oldest));
        }
    }

    pub(crate) fn set_deactivated(&mut self, key: AgentKey, deactivated: bool) {
        self.change(key).deactivated = deactivated;
    }

    pub(crate) fn acknowledge_orders(&mut self, key: AgentKey, up_to: u64) {
        let early = u64::from(event_log::planted(event_log::Bug::OrderAcknowledgedEarly));
        let agent = self.change(key);
        acknowledge(agent, (up_to + early).min(agent.next_order - 1));
    }

    pub(crate) fn receive(&mut self, key: AgentKey, up_to: u64) {
        let agent = self.change(key);
        agent.messages_received = agent.messages_received.max(up_to);
    }

    /// Appends an order to the outbox.
    pub(crate) fn order(&mut self, key: AgentKey, order: wire::OrderParts<'_>) {
        let agent = self.change(key);
        let seq = agent.next_order;
        agent.outbox.insert(seq, Arc::new(Order { bytes: order.encode(seq) }));
        agent.next_order += 1;
    }

    /// Turns some of what it has into something else.
    pub(crate) fn convert(&mut self, key: AgentKey, consumed: &Resources, produced: &Resources) {
        self.change_held(key, |agent| {
            resources::subtract(&mut agent.total, consumed);
            resources::add(&mut agent.total, produced);
        });
    }

    /// Its resource providers have this, and nothing else.
    pub(crate) fn provide(&mut self, key: AgentKey, provided: &Resources) {
        self.change_held(key, |agent| agent.total = resources::own(&agent.total).plus(provided));
    }

    pub(crate) fn offer(&mut self, key: AgentKey, offered: &Resources) {
        self.change_held(key, |agent| resources::add(&mut agent.offered, offered));
    }

    pub(crate) fn take_back(&mut self, key: AgentKey, offered: &Resources) {
        self.change_held(key, |agent| resources::subtract(&mut agent.offered, offered));
    }

    pub(crate) fn occupy(&mut self, key: AgentKey, used: &Resources) {
        self.change_held(key, |agent| resources::add(&mut agent.used, used));
    }

    pub(crate) fn release(&mut self, key: AgentKey, used: &Resources) {
        self.change_held(key, |agent| resources::subtract(&mut agent.used, used));
    }

    pub(crate) fn add_executor(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        executor_id: &ExecutorId,
        new: &NewExecutor,
    ) {
        let executor = Executor { info: new.info.clone(), resources: new.resources.clone() };
        self.change_held(key, |agent| {
            resources::add(&mut agent.used, &new.resources);
            agent.executors.insert((framework, executor_id.clone()), Arc::new(executor));
        });
    }

    /// The executor's resources, if it was known.
    pub(crate) fn remove_executor(
        &mut self,
        key: AgentKey,
        framework: FrameworkKey,
        executor_id: &ExecutorId,
    ) -> Option<Resources> {
        self.change_held(key, |agent| {
            let executor = agent.executors.remove(&(framework, executor_id.clone()))?;
            resources::subtract(&mut agent.used, &executor.resources);
            Some(executor.resources.clone())
        })
    }
}

fn acknowledge(agent: &mut Agent, up_to: u64) {
    while let Some(seq) = agent.outbox.get_min().map(|(seq, _)| *seq).filter(|seq| *seq <= up_to) {
        agent.outbox.remove(&seq);
    }
    agent.orders_acknowledged = agent.orders_acknowledged.max(up_to);
}
