//! Frameworks: their roles, what they can do, and whether they want offers.

use super::Book;
use crate::amounts::Amounts;
use crate::constraints::OfferConstraints;
use crate::ids::{AgentKey, FrameworkKey};
use crate::queue::Line;
use crate::tree::NodeId;
use crate::why::WhyNot;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is said of a framework.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameworkProfile {
    /// Its roles.
    pub roles: BTreeSet<Arc<str>>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The least that it wants to be offered for a role: one of these; none: anything. Other roles follow the operator.
    pub min_allocatable: BTreeMap<Arc<str>, Vec<Amounts>>,
    /// Which agents it wants.
    pub constraints: OfferConstraints,
}

/// What of a framework's capabilities counts here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// It may have several roles.
    pub multi_role: bool,
    /// It knows reservations of reserved resources.
    pub reservation_refinement: bool,
    /// It may be offered revocable resources.
    pub revocable_resources: bool,
    /// It may be offered agents with GPUs.
    pub gpu_resources: bool,
    /// It may be offered shared volumes.
    pub shared_resources: bool,
    /// It may be offered agents of other regions.
    pub region_aware: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Framework {
    pub(super) profile: FrameworkProfile,
    pub(super) roles: BTreeMap<Arc<str>, RoleOf>,
    /// The least that is offered, where it says so, by role.
    pub(super) least: BTreeMap<NodeId, Vec<Amounts>>,
    /// It has a stream.
    pub(super) active: bool,
    /// An operator has paused its offers.
    paused: bool,
    /// What it has refused, by role and agent.
    pub(super) filters: BTreeSet<(NodeId, AgentKey)>,
    /// Until when it does not want inverse offers of an agent, in milliseconds since the epoch.
    pub(super) inverse_filters: BTreeMap<AgentKey, u64>,
    /// Where it holds something, for which role.
    pub(super) holds: BTreeSet<(AgentKey, Option<Arc<str>>)>,
}

/// What is said of one of its roles.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoleOf {
    pub(super) node: NodeId,
    suppressed: bool,
}

impl Book {
    /// A framework; no role is suppressed.
    pub fn add_framework(&mut self, key: FrameworkKey, profile: FrameworkProfile, active: bool) {
        self.remove_framework(key);
        let framework = Framework {
            profile: FrameworkProfile::default(),
            roles: BTreeMap::new(),
            least: BTreeMap::new(),
            active,
            paused: false,
            filters: BTreeSet::new(),
            inverse_filters: BTreeMap::new(),
            holds: BTreeSet::new(),
        };
        self.frameworks.insert(key, framework);
        self.update_framework(key, profile);
    }

    /// Whether a framework is known.
    pub fn has_framework(&self, key: FrameworkKey) -> bool {
        self.frameworks.contains_key(&key)
    }

    /// What is said of a framework.
    pub fn framework_profile(&self, key: FrameworkKey) -> Option<&FrameworkProfile> {
        self.frameworks.get(&key).map(|framework| &framework.profile)
    }

    /// A framework's roles.
    pub fn roles_of(&self, key: FrameworkKey) -> Vec<Arc<str>> {
        self.frameworks.get(&key).map(|framework| framework.roles.keys().cloned().collect()).unwrap_or_default()
    }

    /// The framework says something else of itself. New roles are not suppressed; roles that it gave up lose what it
    /// refused for them, and are counted for as long as it holds something.
    pub fn update_framework(&mut self, key: FrameworkKey, profile: FrameworkProfile) {
        let Some(framework) = self.frameworks.get(&key) else { return };
        let before: BTreeSet<Arc<str>> = framework.roles.keys().cloned().collect();
        for role in before.difference(&profile.roles) {
            self.clear_filters(key, role);
            let Some(of) = self.frameworks.get_mut(&key).and_then(|framework| framework.roles.remove(role)) else {
                continue;
            };
            self.tree.with_queue(of.node, |queue| {
                queue.set_active(key, false);
                queue.change(key, |member| member.subscribed = false);
            });
            self.tidy(key, of.node);
        }
        for role in profile.roles.difference(&before) {
            let node = self.tree.enter(role);
            self.tree.with_queue(node, |queue| queue.enter(key).subscribed = true);
            if let Some(framework) = self.frameworks.get_mut(&key) {
                framework.roles.insert(role.clone(), RoleOf { node, suppressed: false });
            }
        }
        if let Some(framework) = self.frameworks.get_mut(&key) {
            framework.least = framework
                .roles
                .iter()
                .filter_map(|(role, of)| Some((of.node, profile.min_allocatable.get(role)?.clone())))
                .collect();
            framework.profile = profile;
        }
        self.set_lines(key);
        self.freshen(key, None);
    }

    /// The framework is over, and holds nothing any more.
    pub fn remove_framework(&mut self, key: FrameworkKey) {
        let Some(framework) = self.frameworks.get(&key) else { return };
        for (agent, role) in framework.holds.clone() {
            self.drop_holding(agent, key, role.as_ref());
        }
        self.update_framework(key, FrameworkProfile::default());
        self.frameworks.remove(&key);
        for agent in &self.maintained {
            let maintenance = self.agents.get_mut(agent).and_then(|agent| agent.maintenance.as_mut());
            maintenance.map(|maintenance| maintenance.outstanding.remove(&key));
        }
    }

    /// Whether the framework has a stream. What it has refused is forgotten when it has none.
    pub fn set_active(&mut self, key: FrameworkKey, active: bool) {
        let Some(framework) = self.frameworks.get_mut(&key).filter(|framework| framework.active != active) else {
            return;
        };
        framework.active = active;
        if !active {
            framework.inverse_filters.clear();
            let roles: Vec<Arc<str>> = framework.roles.keys().cloned().collect();
            roles.iter().for_each(|role| self.clear_filters(key, role));
        }
        self.set_lines(key);
        if active {
            self.freshen(key, None);
        }
    }

    /// No offers for the framework while true.
    pub fn set_framework_paused(&mut self, key: FrameworkKey, paused: bool) {
        let Some(framework) = self.frameworks.get_mut(&key).filter(|framework| framework.paused != paused) else {
            return;
        };
        framework.paused = paused;
        self.set_lines(key);
        if !paused {
            self.freshen(key, None);
        }
    }

    /// No offers for this role of the framework until it is revived.
    pub fn suppress(&mut self, key: FrameworkKey, role: &str) {
        self.set_suppressed(key, role, true);
        self.set_lines(key);
    }

    /// The role of the framework wants offers again; what it refused stays refused.
    pub fn unsuppress(&mut self, key: FrameworkKey, role: &str) {
        self.set_suppressed(key, role, false);
        self.set_lines(key);
        self.freshen(key, Some(role));
    }

    /// The role of the framework wants offers; what it refused may be offered again.
    pub fn revive(&mut self, key: FrameworkKey, role: &str) {
        self.clear_filters(key, role);
        if let Some(framework) = self.frameworks.get_mut(&key) {
            framework.inverse_filters.clear();
        }
        self.set_suppressed(key, role, false);
        self.set_lines(key);
        self.freshen(key, Some(role));
    }

    fn set_suppressed(&mut self, key: FrameworkKey, role: &str, suppressed: bool) {
        let of = self.frameworks.get_mut(&key).and_then(|framework| framework.roles.get_mut(role));
        if let Some(of) = of {
            of.suppressed = suppressed;
        }
    }

    /// Forgets what the framework refused for a role.
    pub fn clear_filters(&mut self, key: FrameworkKey, role: &str) {
        let Some(framework) = self.frameworks.get(&key) else { return };
        let Some(node) = framework.roles.get(role).map(|of| of.node) else { return };
        let agents: Vec<AgentKey> = framework
            .filters
            .range((node, AgentKey(0))..=(node, AgentKey(u64::MAX)))
            .map(|(_, agent)| *agent)
            .collect();
        for agent in agents {
            self.forget_filters_at(agent, key, node);
        }
        self.freshen(key, Some(role));
    }

    /// It was the framework's turn so often for a role.
    pub fn set_turns(&mut self, key: FrameworkKey, role: &str, turns: u64) {
        let Some(node) = self.tree.id(role) else { return };
        let Some(before) = self.tree.queue(node).and_then(|queue| queue.get(key)).map(|member| member.turns) else {
            return;
        };
        if before != turns {
            self.tree.turn_at(node, key, turns.saturating_sub(before), before.saturating_sub(turns));
        }
    }

    /// Puts a framework into the lines where it belongs.
    pub(super) fn set_lines(&mut self, key: FrameworkKey) {
        let Some(framework) = self.frameworks.get(&key) else { return };
        let wants = framework.active && !framework.paused;
        let lines: Vec<(NodeId, bool)> = framework
            .roles
            .iter()
            .map(|(role, of)| (of.node, wants && !of.suppressed && !self.is_paused(role)))
            .collect();
        for (node, active) in lines {
            let was = self.tree.with_queue(node, |queue| queue.set_active(key, active));
            if active && was == Some(false) {
                self.tree.with_queue(node, |queue| queue.set_fresh(key, true));
                self.work.fresh.insert(node);
            }
        }
    }

    /// What the framework was not offered before may be offered to it now, for one role or for all.
    pub(super) fn freshen(&mut self, key: FrameworkKey, role: Option<&str>) {
        let Some(framework) = self.frameworks.get(&key) else { return };
        let roles = framework.roles.iter().filter(|(name, _)| role.is_none_or(|role| role == &***name));
        let nodes: Vec<NodeId> = roles.map(|(_, of)| of.node).collect();
        for node in nodes {
            self.tree.with_queue(node, |queue| queue.set_fresh(key, true));
            self.work.fresh.insert(node);
        }
    }

    /// Nobody is fresh any more.
    pub(super) fn calm(&mut self) {
        for node in std::mem::take(&mut self.work.fresh) {
            if self.tree.queue(node).is_some_and(|queue| !queue.is_empty()) {
                self.tree.with_queue(node, |queue| queue.calm());
            }
        }
    }

    /// Forgets a framework that has given up a role, once it holds nothing for it; and the role with its last framework.
    pub(super) fn tidy(&mut self, key: FrameworkKey, node: NodeId) {
        let Some(queue) = self.tree.queue(node) else { return };
        let Some(member) = queue.get(key) else { return };
        if member.subscribed || member.holdings > 0 {
            return;
        }
        // Its turns go with it.
        let turns = member.turns;
        self.tree.turn_at(node, key, 0, turns);
        self.tree.with_queue(node, |queue| queue.leave(key));
        if self.tree.queue(node).is_some_and(|queue| queue.is_empty()) {
            self.work.fresh.remove(&node);
            self.tree.leave(node);
        }
    }

    /// Why a framework is offered nothing at all for a role, if so.
    pub fn why_no_offers(&self, key: FrameworkKey, role: &str) -> Option<WhyNot> {
        let framework = self.frameworks.get(&key)?;
        let of = framework.roles.get(role)?;
        if self.paused {
            return Some(WhyNot::AllPaused);
        }
        if framework.paused {
            return Some(WhyNot::FrameworkPaused);
        }
        if self.is_paused(role) {
            return Some(WhyNot::RolePaused);
        }
        if !framework.active {
            return Some(WhyNot::Disconnected);
        }
        of.suppressed.then_some(WhyNot::Suppressed)
    }

    /// The frameworks that want offers for a role, the next one first.
    pub fn frameworks_in_order(&mut self, role: &str) -> Vec<FrameworkKey> {
        self.tree.refresh();
        let queue = self.tree.id(role).and_then(|id| self.tree.queue(id));
        queue.map(|queue| queue.order(Line::Active).collect()).unwrap_or_default()
    }

    /// Roles of frameworks, and those above them, with the frameworks that want offers: parents before their children,
    /// siblings and frameworks in the order in which they are next.
    pub fn roles_in_order(&mut self) -> Vec<(Arc<str>, Vec<FrameworkKey>)> {
        self.tree.refresh();
        let all = self.tree.all_in_order().into_iter();
        let row = |(role, id): (Arc<str>, NodeId)| {
            let queue = self.tree.queue(id);
            (role, queue.map(|queue| queue.order(Line::Active).collect()).unwrap_or_default())
        };
        all.map(row).collect()
    }

    /// What a framework holds for a role, by name.
    pub fn held_by(&self, key: FrameworkKey, role: &str) -> Option<&Amounts> {
        self.tree.id(role).and_then(|id| self.tree.queue(id)).and_then(|queue| queue.held(key))
    }
}
