//! The book: everything that decides who is offered what, changed by named methods as the cluster changes. Each change
//! also notes what a run has to look at again because of it.

mod agents;
mod frameworks;
mod holdings;
mod maintenance;
mod metrics;
mod run;
mod visits;

pub use agents::AgentProfile;
pub use frameworks::{Capabilities, FrameworkProfile};
pub use holdings::Use;
pub use maintenance::Unavailability;
pub use metrics::Figure;
pub use run::{Proposed, Run, Which};

use crate::amounts::Amounts;
use crate::ids::{AgentKey, FrameworkKey};
use crate::options::Options;
use crate::tree::{NodeId, Quota, Tree};
use agents::Agent;
use frameworks::Framework;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that decides who is offered what.
#[derive(Clone, Debug)]
pub struct Book {
    options: Options,
    tree: Tree,
    agents: BTreeMap<AgentKey, Agent>,
    frameworks: BTreeMap<FrameworkKey, Framework>,
    whitelist: Option<BTreeSet<Arc<str>>>,
    /// Revocable resources that nobody holds, of all agents.
    free_revocable: Amounts,
    /// When filters are over.
    expiries: BTreeSet<Expiry>,
    filters_made: u64,
    /// Agents with an unavailability.
    maintained: BTreeSet<AgentKey>,
    paused: bool,
    paused_roles: BTreeSet<Arc<str>>,
    work: Work,
}

/// The end of a filter: when, of which agent, whose, for which role, and its number.
type Expiry = (u64, AgentKey, FrameworkKey, NodeId, u64);

/// What the next run looks at.
#[derive(Clone, Debug, Default)]
struct Work {
    /// Agents of which anybody may be offered something.
    dirty: BTreeSet<AgentKey>,
    /// Agents that are not dirty: frameworks that may be offered something of them.
    pairs: BTreeMap<AgentKey, BTreeSet<(FrameworkKey, NodeId)>>,
    /// Roles with frameworks that may be offered something of any agent.
    fresh: BTreeSet<NodeId>,
    /// Agents with anything that nobody holds.
    open: BTreeSet<AgentKey>,
    /// Agents of which something was not offered for a limit or a guarantee's sake.
    held_back: BTreeSet<AgentKey>,
    /// There may be more room under limits and above guarantees than at the last run.
    loosened: bool,
}

impl Book {
    /// Of an empty cluster.
    pub fn new(options: Options) -> Book {
        let tree = Tree::new(options.excluded.clone());
        Book {
            options,
            tree,
            agents: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            whitelist: None,
            free_revocable: Amounts::default(),
            expiries: BTreeSet::new(),
            filters_made: 0,
            maintained: BTreeSet::new(),
            paused: false,
            paused_roles: BTreeSet::new(),
            work: Work::default(),
        }
    }

    /// The roles and who holds what.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What its operator chose.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// A role's weight among its siblings, in millionths, at least 1.
    pub fn set_weight(&mut self, role: &str, weight_micro: u64) {
        self.tree.set_weight(role, weight_micro);
    }

    /// A role's quota.
    pub fn set_quota(&mut self, role: &str, quota: Quota) {
        self.tree.set_quota(role, quota);
        // Rare: everything is looked at again.
        self.look_at_all();
    }

    /// Only agents of these hosts are offered; None: all.
    pub fn set_whitelist(&mut self, hostnames: Option<BTreeSet<Arc<str>>>) {
        if self.whitelist != hostnames {
            self.whitelist = hostnames;
            self.look_at_all();
        }
    }

    /// No offers at all while true.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// No offers for these roles and those below them.
    pub fn set_paused_roles(&mut self, roles: BTreeSet<Arc<str>>) {
        if self.paused_roles == roles {
            return;
        }
        self.paused_roles = roles;
        let keys: Vec<FrameworkKey> = self.frameworks.keys().copied().collect();
        keys.into_iter().for_each(|key| self.set_lines(key));
    }

    /// The next run looks at every agent and every framework.
    pub fn look_at_all(&mut self) {
        self.work.dirty.extend(self.agents.keys());
    }

    fn is_paused(&self, role: &str) -> bool {
        !self.paused_roles.is_empty()
            && (self.paused_roles.contains(role)
                || api::resources::role_ancestors(role).any(|above| self.paused_roles.contains(above)))
    }
}
