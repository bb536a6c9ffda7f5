//! What is too large for one record: it is begun, and gone on with as if it were due, record by record, by whoever leads.

use crate::event::Removal;
use crate::ids::{AgentKey, FrameworkKey};
use crate::state::Deadline;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

/// What was begun and is not done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Frameworks on their way out: neither stream nor offers, and fewer tasks with each record.
    #[serde(deserialize_with = "super::cautious::map")]
    pub frameworks: OrdMap<FrameworkKey, FrameworkEnd>,
    /// Agents on their way out: no connection, and fewer tasks with each record.
    #[serde(deserialize_with = "super::cautious::map")]
    pub agents: OrdMap<AgentKey, AgentEnd>,
    /// Agents that are back, and not all of their tasks yet: since when, in milliseconds since the epoch.
    #[serde(deserialize_with = "super::cautious::map")]
    pub returns: OrdMap<AgentKey, u64>,
}

/// The end of a framework.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkEnd {
    /// When it began, in milliseconds since the epoch.
    pub since_ms: u64,
    /// Why.
    pub why: Removal,
}

/// The end of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEnd {
    /// When it began, in milliseconds since the epoch.
    pub since_ms: u64,
    /// Why.
    pub why: Parting,
}

/// Why an agent is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parting {
    /// It said so.
    Left,
    /// An operator said so.
    MarkedGone,
    /// Its log lost what it had acknowledged.
    LogLost,
    /// Another agent runs in its place.
    Replaced,
    /// It was unreachable for too long.
    Forgotten,
    /// An operator took its machine down. From level 4 on.
    MachineDown,
}

impl Parting {
    /// The same as a sentence, without its full stop.
    pub fn sentence(self) -> &'static str {
        match self {
            Parting::Left => "Agent has left",
            Parting::MarkedGone => "Agent has been marked gone",
            Parting::LogLost => "Agent has lost part of its log",
            Parting::Replaced => "Agent was replaced by a new one at its address",
            Parting::MachineDown => "Operator initiated 'Machine DOWN'",
            Parting::Forgotten => "Agent was unreachable for too long and is forgotten",
        }
    }
}

impl Unfinished {
    /// When the next step of each is due: at once.
    pub(crate) fn deadlines(&self) -> OrdSet<(u64, Deadline)> {
        let frameworks = self.frameworks.iter().map(|(key, end)| (end.since_ms, Deadline::FrameworkEnd(*key)));
        let agents = self.agents.iter().map(|(key, end)| (end.since_ms, Deadline::AgentEnd(*key)));
        let returns = self.returns.iter().map(|(key, since_ms)| (*since_ms, Deadline::AgentReturn(*key)));
        frameworks.chain(agents).chain(returns).collect()
    }

    /// When the next step of this is due.
    pub(crate) fn due_ms(&self, what: Deadline) -> Option<u64> {
        match what {
            Deadline::FrameworkEnd(key) => self.frameworks.get(&key).map(|end| end.since_ms),
            Deadline::AgentEnd(key) => self.agents.get(&key).map(|end| end.since_ms),
            Deadline::AgentReturn(key) => self.returns.get(&key).copied(),
            Deadline::Framework(_) | Deadline::Agent(_) | Deadline::Offer(_) | Deadline::InverseOffer(_) => None,
        }
    }
}
