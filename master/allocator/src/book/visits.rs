//! What a run looks at: not the cluster, but what has changed in it. An agent of which nobody was offered anything will
//! not be offered until something of it, of a framework, of a filter or of a quota changes.

use super::{Book, Which};
use crate::ids::{AgentKey, FrameworkKey};
use crate::options::Sorting;
use crate::tree::NodeId;
use std::collections::BTreeMap;

/// Who may be offered something of an agent that a run visits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    /// Anybody.
    Full,
    /// Whoever wants something that he did not want in the last run.
    Fresh,
    /// These.
    Pairs(Vec<(FrameworkKey, NodeId)>),
}

impl Book {
    /// The agents that a run visits.
    pub(super) fn visits(&mut self, which: Which<'_>) -> Vec<(AgentKey, Mode)> {
        let mut visits: BTreeMap<AgentKey, Mode> = BTreeMap::new();
        match which {
            Which::Only(agents) => {
                visits.extend(agents.iter().map(|key| (*key, Mode::Full)));
                // They are looked at now; the others wait.
                for key in agents {
                    self.work.pairs.remove(key);
                }
            }
            Which::All => {
                if std::mem::take(&mut self.work.loosened) {
                    let held_back = std::mem::take(&mut self.work.held_back);
                    self.work.dirty.extend(held_back);
                }
                let is_random =
                    self.options.role_sorter == Sorting::Random || self.options.framework_sorter == Sorting::Random;
                let anybody = !self.work.fresh.is_empty();
                // What is drawn depends on all who might be: there are no shortcuts.
                if is_random && anybody {
                    self.work.dirty.extend(&self.work.open);
                }
                for (key, pairs) in std::mem::take(&mut self.work.pairs) {
                    let is_full = anybody || is_random;
                    let mode = if is_full { Mode::Full } else { Mode::Pairs(pairs.into_iter().collect()) };
                    visits.insert(key, mode);
                }
                if anybody {
                    for key in &self.work.open {
                        visits.entry(*key).or_insert(Mode::Fresh);
                    }
                }
                visits.extend(self.work.dirty.iter().map(|key| (*key, Mode::Full)));
            }
        }
        let mut wanted = Vec::with_capacity(visits.len());
        for (key, mode) in visits {
            let is_open = self
                .agents
                .get(&key)
                .is_some_and(|agent| agent.closed.is_none() && self.is_listed(agent) && !agent.available.is_empty());
            if is_open {
                wanted.push((key, mode));
            } else {
                // Whatever opens it makes it dirty again.
                self.work.dirty.remove(&key);
            }
        }
        wanted
    }
}
