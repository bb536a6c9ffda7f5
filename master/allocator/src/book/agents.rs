//! Agents: what each has, and what of it nobody holds.

use super::holdings::Holding;
use super::maintenance::Maintenance;
use super::{Book, Expiry};
use crate::amounts::Amounts;
use crate::constraints::Subject;
use crate::ids::{AgentKey, FrameworkKey};
use crate::tree::NodeId;
use crate::why::WhyNot;
use api::resources::{Resources, Unfit};
use api::v1::Attribute;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is said of an agent apart from its resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentProfile {
    /// What whitelists name.
    pub hostname: Arc<str>,
    /// What offer constraints look at.
    pub attributes: Arc<[Attribute]>,
    /// The region that it is in; None: that of the masters.
    pub region: Option<Arc<str>>,
    /// The zone that it is in.
    pub zone: Option<Arc<str>>,
    /// It knows frameworks of several roles.
    pub multi_role: bool,
    /// It knows roles below roles.
    pub hierarchical_role: bool,
}

impl AgentProfile {
    /// What offer constraints see of it.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            hostname: &self.hostname,
            region: self.region.as_deref(),
            zone: self.zone.as_deref(),
            attributes: &self.attributes,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) profile: AgentProfile,
    pub(super) total: Resources,
    /// The scalars of it.
    sum: Amounts,
    shared: Resources,
    pub(super) has_gpus: bool,
    /// All that is held, allocated to nobody.
    taken: Resources,
    /// What nobody holds, and all that is shared.
    pub(super) available: Resources,
    free_revocable: Amounts,
    pub(super) holdings: BTreeMap<(FrameworkKey, Option<Arc<str>>), Holding>,
    pub(super) filters: BTreeMap<(FrameworkKey, NodeId), Vec<Filter>>,
    /// Why nothing of it is offered, if so.
    pub(super) closed: Option<WhyNot>,
    pub(super) maintenance: Option<Maintenance>,
}

/// Something that was declined.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Filter {
    pub(super) number: u64,
    pub(super) until_ms: u64,
    /// Without allocation role.
    pub(super) resources: Resources,
}

impl Agent {
    /// Until when the framework does not want as much of the role as this, in milliseconds since the epoch.
    pub(super) fn filtered_until(&self, framework: FrameworkKey, role: NodeId, resources: &Resources) -> Option<u64> {
        if self.filters.is_empty() {
            return None;
        }
        let filters = self.filters.get(&(framework, role))?;
        let filters = filters.iter().filter(|filter| filter.resources.contains(resources));
        filters.map(|filter| filter.until_ms).max()
    }

    /// Somebody holds this from now on; it has no allocation role, here and below.
    pub(super) fn take(&mut self, bare: &Resources) {
        self.taken.add(bare);
        if self.shared.is_empty() && self.available == *bare {
            self.available = Resources::default();
        } else {
            self.count_available();
        }
    }

    pub(super) fn give_back(&mut self, bare: &Resources) {
        self.taken.saturating_sub(bare);
        self.count_available();
    }

    fn count_available(&mut self) {
        if self.shared.is_empty() {
            self.available = self.total.clone();
            self.available.saturating_sub(&self.taken);
        } else {
            // However often it is held, a shared resource can be offered once more.
            self.available = self.total.non_shared();
            self.available.saturating_sub(&self.taken.non_shared());
            self.available.add(&self.shared);
        }
    }
}

impl Book {
    /// An agent with all that it has. What is held of it is told by [`hold`](Book::hold).
    pub fn add_agent(&mut self, key: AgentKey, profile: AgentProfile, total: Resources) {
        self.remove_agent(key);
        let agent = Agent {
            profile,
            total: Resources::default(),
            sum: Amounts::default(),
            shared: Resources::default(),
            has_gpus: false,
            taken: Resources::default(),
            available: Resources::default(),
            free_revocable: Amounts::default(),
            holdings: BTreeMap::new(),
            filters: BTreeMap::new(),
            closed: None,
            maintenance: None,
        };
        self.agents.insert(key, agent);
        self.set_total(key, total);
        self.look_at(key);
    }

    /// The agent is over, and with it all that is held of it.
    pub fn remove_agent(&mut self, key: AgentKey) {
        if !self.agents.contains_key(&key) {
            return;
        }
        self.forget_filters(key);
        let holdings: Vec<(FrameworkKey, Option<Arc<str>>)> =
            self.agents.get(&key).map(|agent| agent.holdings.keys().cloned().collect()).unwrap_or_default();
        for (framework, role) in holdings {
            self.drop_holding(key, framework, role.as_ref());
        }
        self.set_total(key, Resources::default());
        self.agents.remove(&key);
        self.maintained.remove(&key);
        self.work.dirty.remove(&key);
        self.work.pairs.remove(&key);
        self.work.open.remove(&key);
        self.work.held_back.remove(&key);
    }

    /// Whether an agent is known.
    pub fn has_agent(&self, key: AgentKey) -> bool {
        self.agents.contains_key(&key)
    }

    /// Everything that an agent has.
    pub fn total(&self, key: AgentKey) -> Option<&Resources> {
        self.agents.get(&key).map(|agent| &agent.total)
    }

    /// What of an agent nobody holds, and what of it is shared.
    pub fn available(&self, key: AgentKey) -> Option<&Resources> {
        self.agents.get(&key).map(|agent| &agent.available)
    }

    /// The agent has other resources than before. True if that is so.
    pub fn set_total(&mut self, key: AgentKey, total: Resources) -> bool {
        let Some(agent) = self.agents.get_mut(&key).filter(|agent| agent.total != total) else { return false };
        let before = std::mem::replace(&mut agent.total, total);
        let sum_before = std::mem::replace(&mut agent.sum, Amounts::of_scalars(&agent.total));
        agent.shared = agent.total.shared();
        agent.has_gpus = agent.total.scalar_milli("gpus") > 0;
        agent.count_available();
        let (sum, reserved) = (agent.sum.clone(), agent.total.reserved());
        if sum != sum_before {
            self.tree.sub_total(&sum_before);
            self.tree.add_total(&sum);
        }
        let reserved_before = before.reserved();
        if reserved != reserved_before {
            // The new ones first: a role that has both is not forgotten in between.
            self.tree.reserve(&reserved);
            self.tree.unreserve(&reserved_before);
        }
        self.has_changed(key);
        self.work.loosened = true;
        true
    }

    /// The agent says something else of itself. True if that is so. What was declined of it may be offered again if its
    /// attributes are others.
    pub fn set_profile(&mut self, key: AgentKey, profile: AgentProfile) -> bool {
        let Some(agent) = self.agents.get_mut(&key).filter(|agent| agent.profile != profile) else { return false };
        let others = agent.profile.attributes != profile.attributes;
        agent.profile = profile;
        if others {
            self.forget_filters(key);
        }
        self.look_at(key);
        true
    }

    /// Nothing of the agent is offered as long as there is a reason.
    pub fn set_closed(&mut self, key: AgentKey, why: Option<WhyNot>) {
        let Some(agent) = self.agents.get_mut(&key).filter(|agent| agent.closed != why) else { return };
        agent.closed = why;
        self.look_at(key);
    }

    /// Turns resources that nobody holds into others.
    ///
    /// # Errors
    /// Unless they are there, or the agent is not known.
    pub fn operate(
        &mut self,
        key: AgentKey,
        operation: impl Fn(&Resources) -> Result<Resources, Unfit>,
    ) -> Result<(), Unfit> {
        let none = Resources::default();
        let (total, available) = self.agents.get(&key).map_or((&none, &none), |agent| (&agent.total, &agent.available));
        operation(available)?;
        let total = operation(total)?;
        self.set_total(key, total);
        Ok(())
    }

    /// The next run looks at this agent.
    pub(super) fn look_at(&mut self, key: AgentKey) {
        self.work.dirty.insert(key);
    }

    /// What nobody holds of the agent is more or less than before.
    pub(super) fn has_changed(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        let free = match agent.total.iter().any(|resource| resource.revocable) {
            true => Amounts::of_scalars(&agent.available.revocable()),
            false => Amounts::default(),
        };
        if free != agent.free_revocable {
            self.free_revocable.sub(&agent.free_revocable);
            self.free_revocable.add(&free);
            agent.free_revocable = free;
        }
        if agent.available.is_empty() {
            self.work.open.remove(&key);
        } else {
            self.work.open.insert(key);
        }
        self.look_at(key);
    }

    // Filters.

    /// The framework wants no more than this of an agent for a role until then, in milliseconds since the epoch. Several
    /// such wishes are in force at once.
    pub fn refuse(&mut self, key: AgentKey, framework: FrameworkKey, role: &str, resources: &Resources, until_ms: u64) {
        let Some(of) = self.frameworks.get_mut(&framework) else { return };
        let Some(node) = of.roles.get(role).map(|role| role.node) else { return };
        let Some(agent) = self.agents.get_mut(&key) else { return };
        self.filters_made += 1;
        let number = self.filters_made;
        let filter = Filter { number, until_ms, resources: resources.unallocate() };
        agent.filters.entry((framework, node)).or_default().push(filter);
        of.filters.insert((node, key));
        self.expiries.insert((until_ms, key, framework, node, number));
    }

    /// How many filters of a role are in force.
    pub(super) fn filters_of(&self, role: NodeId) -> usize {
        let of_agent = |agent: &Agent| {
            let filters = agent.filters.iter().filter(|((_, node), _)| *node == role);
            filters.map(|(_, filters)| filters.len()).sum::<usize>()
        };
        self.agents.values().map(of_agent).sum()
    }

    /// What was refused until now or before may be offered again. Each run begins with this.
    pub fn expire(&mut self, at_ms: u64) {
        while let Some(expiry) = self.expiries.first().copied().filter(|(until_ms, ..)| *until_ms <= at_ms) {
            let (_, key, framework, node, _) = expiry;
            self.forget_filter(expiry);
            if !self.work.dirty.contains(&key) {
                self.work.pairs.entry(key).or_default().insert((framework, node));
            }
        }
    }

    fn forget_filter(&mut self, expiry: Expiry) {
        self.expiries.remove(&expiry);
        let (_, key, framework, node, number) = expiry;
        let Some(agent) = self.agents.get_mut(&key) else { return };
        let Some(filters) = agent.filters.get_mut(&(framework, node)) else { return };
        filters.retain(|filter| filter.number != number);
        if filters.is_empty() {
            agent.filters.remove(&(framework, node));
            if let Some(framework) = self.frameworks.get_mut(&framework) {
                framework.filters.remove(&(node, key));
            }
        }
    }

    /// Forgets what everybody refused of an agent.
    pub fn forget_filters(&mut self, key: AgentKey) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        for ((framework, node), filters) in std::mem::take(&mut agent.filters) {
            for filter in filters {
                self.expiries.remove(&(filter.until_ms, key, framework, node, filter.number));
            }
            if let Some(framework) = self.frameworks.get_mut(&framework) {
                framework.filters.remove(&(node, key));
            }
        }
        for framework in self.frameworks.values_mut() {
            framework.inverse_filters.remove(&key);
        }
        self.look_at(key);
    }

    /// Forgets what a framework refused of one agent for a role.
    pub fn forget_filters_on(&mut self, key: AgentKey, framework: FrameworkKey, role: &str) {
        let Some(node) = self.frameworks.get(&framework).and_then(|of| of.roles.get(role)).map(|role| role.node) else {
            return;
        };
        self.forget_filters_at(key, framework, node);
        self.look_at(key);
    }

    pub(super) fn forget_filters_at(&mut self, key: AgentKey, framework: FrameworkKey, node: NodeId) {
        if let Some(of) = self.frameworks.get_mut(&framework) {
            of.filters.remove(&(node, key));
        }
        let Some(agent) = self.agents.get_mut(&key) else { return };
        for filter in agent.filters.remove(&(framework, node)).unwrap_or_default() {
            self.expiries.remove(&(filter.until_ms, key, framework, node, filter.number));
        }
    }
}
