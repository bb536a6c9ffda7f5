//! Since when reservations and volumes are there.

use super::Agent;
use crate::ids::AgentKey;
use api::resources::Resource;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A role's dynamic reservations on an agent, or with a persistence id one of its volumes there.
pub type HeldKey = (AgentKey, Arc<str>, Arc<str>);

/// Since when reservations and volumes are there. What was there before this was written down is not here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldSince {
    /// In milliseconds since the epoch.
    pub since: OrdMap<HeldKey, u64>,
}

impl HeldSince {
    /// An agent's resources are others now.
    pub(crate) fn look(&mut self, agent: &Agent, at_ms: u64) {
        let now: BTreeSet<HeldKey> = agent.total.iter().filter_map(|resource| key(agent.key, resource)).collect();
        let gone: Vec<HeldKey> = self.of(agent.key).filter(|key| !now.contains(*key)).cloned().collect();
        for key in gone {
            self.since.remove(&key);
        }
        for key in now {
            self.since.entry(key).or_insert(at_ms);
        }
    }

    pub(crate) fn forget(&mut self, agent: AgentKey) {
        let gone: Vec<HeldKey> = self.of(agent).cloned().collect();
        for key in gone {
            self.since.remove(&key);
        }
    }

    /// Since when a resource of an agent is what it is.
    pub fn get(&self, agent: AgentKey, resource: &Resource) -> Option<u64> {
        self.since.get(&key(agent, resource)?).copied()
    }

    fn of(&self, agent: AgentKey) -> impl Iterator<Item = &HeldKey> {
        let none: Arc<str> = "".into();
        self.since.range((agent, none.clone(), none)..).map(|(key, _)| key).take_while(move |key| key.0 == agent)
    }
}

/// None for what nobody made: what an agent was started with.
fn key(agent: AgentKey, resource: &Resource) -> Option<HeldKey> {
    let volume = resource.disk.as_ref().and_then(|disk| disk.persistence_id.clone());
    let is_dynamic = resource.reservations.last().is_some_and(|last| last.dynamic);
    let role = resource.reservation_role().unwrap_or("*").into();
    (is_dynamic || volume.is_some()).then(|| (agent, role, volume.unwrap_or_else(|| "".into())))
}
