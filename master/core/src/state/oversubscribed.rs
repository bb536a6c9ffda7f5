//! What agents can spare of what is promised to others, for as long as those do not use it.

use crate::ids::AgentKey;
use crate::state::{Agent, State};
use api::resources::Resources;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

/// Revocable resources by agent, beside what an agent has of its own; whoever has nothing to spare is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Oversubscribed {
    /// All of them revocable, unreserved and without allocation role.
    pub by_agent: OrdMap<AgentKey, Resources>,
}

impl Oversubscribed {
    /// What this agent can spare.
    pub fn of(&self, agent: AgentKey) -> Option<&Resources> {
        self.by_agent.get(&agent)
    }

    /// It is over.
    pub(crate) fn forget(&mut self, agent: AgentKey) {
        self.by_agent.remove(&agent);
    }

    /// In place of what it said before.
    pub(crate) fn set(&mut self, agent: AgentKey, resources: &Resources) {
        if resources.is_empty() {
            self.by_agent.remove(&agent);
        } else {
            self.by_agent.insert(agent, resources.clone());
        }
    }
}

impl State {
    /// All that an agent has: its own, and what it can spare.
    pub fn everything_of(&self, agent: &Agent) -> Resources {
        let mut everything = agent.total.clone();
        if let Some(spare) = self.oversubscribed.of(agent.key) {
            crate::resources::add(&mut everything, spare);
        }
        everything
    }
}
