//! Agents that will be away, and asking for what is held of them.

use super::Book;
use crate::ids::{AgentKey, FrameworkKey};
use std::collections::BTreeSet;

/// When an agent will be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailability {
    /// From when on, in nanoseconds since the epoch.
    pub start_ns: i64,
    /// For how long; None: for ever.
    pub duration_ns: Option<i64>,
}

#[derive(Clone, Debug)]
pub(super) struct Maintenance {
    pub(super) unavailability: Unavailability,
    /// Who was asked and has not answered.
    pub(super) outstanding: BTreeSet<FrameworkKey>,
}

impl Book {
    /// When an agent will be away; None: not at all. Frameworks are asked anew.
    pub fn set_unavailability(&mut self, key: AgentKey, unavailability: Option<Unavailability>) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        let maintenance = |unavailability| Maintenance { unavailability, outstanding: BTreeSet::new() };
        agent.maintenance = unavailability.map(maintenance);
        if unavailability.is_some() {
            self.maintained.insert(key)
        } else {
            self.maintained.remove(&key)
        };
        for framework in self.frameworks.values_mut() {
            framework.inverse_filters.remove(&key);
        }
        self.look_at(key);
    }

    /// When an agent will be away.
    pub fn unavailability(&self, key: AgentKey) -> Option<Unavailability> {
        self.agents.get(&key)?.maintenance.as_ref().map(|maintenance| maintenance.unavailability)
    }

    /// The agents that will be away.
    pub fn maintained(&self) -> impl Iterator<Item = AgentKey> + '_ {
        self.maintained.iter().copied()
    }

    /// The framework is not to be asked of the agent before `until_ms`, in milliseconds since the epoch, whatever was
    /// said before; None: at any time.
    pub fn set_inverse_filter(&mut self, key: AgentKey, framework: FrameworkKey, until_ms: Option<u64>) {
        let Some(framework) = self.frameworks.get_mut(&framework) else { return };
        match until_ms {
            Some(until_ms) => framework.inverse_filters.insert(key, until_ms),
            None => framework.inverse_filters.remove(&key),
        };
    }

    /// The framework has answered, or was not asked after all: it can be asked again, but not before `until_ms`, in
    /// milliseconds since the epoch.
    pub fn answer_inverse(&mut self, key: AgentKey, framework: FrameworkKey, until_ms: Option<u64>) {
        let maintenance = self.agents.get_mut(&key).and_then(|agent| agent.maintenance.as_mut());
        maintenance.map(|maintenance| maintenance.outstanding.remove(&framework));
        let framework = self.frameworks.get_mut(&framework);
        if let (Some(framework), Some(until_ms)) = (framework, until_ms) {
            let until = framework.inverse_filters.entry(key).or_insert(until_ms);
            *until = until_ms.max(*until);
        }
    }

    /// The framework was asked, and has not answered.
    pub fn ask_inverse(&mut self, key: AgentKey, framework: FrameworkKey) {
        let maintenance = self.agents.get_mut(&key).and_then(|agent| agent.maintenance.as_mut());
        maintenance.map(|maintenance| maintenance.outstanding.insert(framework));
    }

    /// Whom to ask for what: whoever holds anything of an agent that will be away and could be offered, is connected, and
    /// was not asked yet.
    pub(super) fn inverse(&mut self, at_ms: u64, is_meant: impl Fn(AgentKey) -> bool) -> Vec<(FrameworkKey, AgentKey)> {
        let mut asked = Vec::new();
        for key in self.maintained.iter().filter(|key| is_meant(**key)) {
            let Some(agent) = self.agents.get_mut(key).filter(|agent| agent.closed.is_none()) else { continue };
            let Some(maintenance) = &mut agent.maintenance else { continue };
            for (framework, _) in agent.holdings.keys() {
                let Some(of) = self.frameworks.get(framework).filter(|framework| framework.active) else { continue };
                let is_filtered = of.inverse_filters.get(key).is_some_and(|until_ms| *until_ms > at_ms);
                if !is_filtered && maintenance.outstanding.insert(*framework) {
                    asked.push((*framework, *key));
                }
            }
        }
        asked.sort_unstable();
        asked
    }
}
