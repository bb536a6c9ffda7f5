//! Agents that are to be empty, or are: written down until an operator reactivates them, or they are over.

use crate::event::AgentDrainStarted;
use crate::ids::AgentKey;
use crate::state::State;
use crate::wire::OrderParts;
use api::v1;
use bytes::Bytes;
use imbl::OrdMap;
use prost::Message;
use serde::{Deserialize, Serialize};

/// Agents that drain, and those that have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drains {
    /// By agent; each of them is registered and deactivated.
    pub by_agent: OrdMap<AgentKey, Drain>,
}

/// What an operator wants of an agent that is to be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The most that a task on it may take to end, in nanoseconds as the operator said it; None: as long as its own kill
    /// policy says.
    pub max_grace_ns: Option<i64>,
    /// Once it is empty, it is over.
    pub mark_gone: bool,
    /// Since when, in milliseconds since the epoch.
    pub since_ms: u64,
    /// When nothing was left on it, in milliseconds since the epoch: it is drained.
    pub drained_ms: Option<u64>,
    /// Whether the order is in its outbox, or was: not to an agent that could not drain when it was asked.
    pub is_ordered: bool,
}

impl Drain {
    /// Whether nothing is left.
    pub fn is_drained(&self) -> bool {
        self.drained_ms.is_some()
    }

    /// As the wire has it.
    pub fn config(&self) -> v1::DrainConfig {
        let max_grace_period = self.max_grace_ns.map(|nanoseconds| v1::DurationInfo { nanoseconds });
        v1::DrainConfig { max_grace_period, mark_gone: Some(self.mark_gone) }
    }

    /// As the wire has it.
    pub fn info(&self) -> v1::DrainInfo {
        let state = if self.is_drained() { v1::DrainState::Drained } else { v1::DrainState::Draining };
        v1::DrainInfo { state: state as i32, config: self.config() }
    }
}

impl Drains {
    /// What an operator wants of this agent, if it is to be empty.
    pub fn get(&self, agent: AgentKey) -> Option<&Drain> {
        self.by_agent.get(&agent)
    }

    /// Whether it is to be empty and is not yet.
    pub fn is_draining(&self, agent: AgentKey) -> bool {
        self.get(agent).is_some_and(|drain| !drain.is_drained())
    }

    pub(crate) fn start(&mut self, agent: AgentKey, drain: Drain) {
        self.by_agent.insert(agent, drain);
    }

    pub(crate) fn set_ordered(&mut self, agent: AgentKey) {
        self.change(agent).is_ordered = true;
    }

    pub(crate) fn finish(&mut self, agent: AgentKey, at_ms: u64) {
        self.change(agent).drained_ms = Some(at_ms);
    }

    /// It is reactivated, or over.
    pub(crate) fn end(&mut self, agent: AgentKey) -> Option<Drain> {
        self.by_agent.remove(&agent)
    }

    fn change(&mut self, agent: AgentKey) -> &mut Drain {
        self.by_agent.get_mut(&agent).expect("the event's agent is to be empty")
    }
}

impl State {
    pub(crate) fn start_drain(&mut self, event: &AgentDrainStarted, at_ms: u64) {
        let AgentDrainStarted { agent, max_grace_ns, mark_gone } = *event;
        self.drains
            .start(agent, Drain { max_grace_ns, mark_gone, since_ms: at_ms, drained_ms: None, is_ordered: false });
        self.agents.set_deactivated(agent, true);
        if self.agents.get(agent).is_some_and(|agent| agent.can_drain()) {
            self.order_drain(agent);
        }
    }

    pub(crate) fn order_drain(&mut self, agent: AgentKey) {
        self.drains.set_ordered(agent);
        let config = self.drains.get(agent).map(Drain::config).unwrap_or_default();
        let config = Bytes::from(config.encode_to_vec());
        self.agents.order(agent, OrderParts::Drain { config: &config });
    }

    pub(crate) fn end_drain(&mut self, agent: AgentKey) {
        if self.drains.end(agent).is_some_and(|drain| drain.is_ordered) {
            self.agents.order(agent, OrderParts::EndDrain);
        }
    }
}
