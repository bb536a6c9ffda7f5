//! Who holds what of which agent: offers that are out, and what tasks and executors use.

use super::Book;
use crate::ids::{AgentKey, FrameworkKey};
use crate::tally::{Charge, Way};
use api::resources::{Resources, Unfit};
use std::sync::Arc;

/// What something is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// An offer that is not answered yet.
    Offer,
    /// Tasks and executors.
    Work,
}

/// What a framework holds of an agent for a role, with allocation role.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    offered: Resources,
    used: Resources,
    /// It is counted for the role and the framework: not so if the framework came later than what it holds.
    tracked: bool,
}

impl Holding {
    fn is_empty(&self) -> bool {
        self.offered.is_empty() && self.used.is_empty()
    }

    /// All of it.
    pub(super) fn all(&self) -> Resources {
        self.offered.plus(&self.used)
    }

    fn of(&mut self, usage: Use) -> &mut Resources {
        match usage {
            Use::Offer => &mut self.offered,
            Use::Work => &mut self.used,
        }
    }
}

impl Book {
    /// A framework holds this of an agent from now on. `turns` is how often it was its turn for it. What has no role
    /// counts for the agent alone, and so does what a framework holds that is not known yet.
    pub fn hold(
        &mut self,
        agent: AgentKey,
        framework: FrameworkKey,
        role: Option<&str>,
        resources: &Resources,
        usage: Use,
        turns: u64,
    ) {
        if resources.is_empty() {
            return;
        }
        let role: Option<Arc<str>> = role.map(|role| self.tree.name(role));
        self.hold_bare(agent, framework, role, resources, &resources.unallocate(), usage, turns);
    }

    /// The same where `bare` is known, which is what is held without allocation role.
    #[expect(clippy::too_many_arguments, reason = "those of `hold`, and what it would compute of them")]
    pub(super) fn hold_bare(
        &mut self,
        agent: AgentKey,
        framework: FrameworkKey,
        role: Option<Arc<str>>,
        resources: &Resources,
        bare: &Resources,
        usage: Use,
        turns: u64,
    ) {
        let Some(on) = self.agents.get_mut(&agent) else { return };
        let is_known = self.frameworks.contains_key(&framework);
        on.take(bare);
        let holding = on.holdings.entry((framework, role.clone())).or_default();
        holding.of(usage).add(resources);
        let track = is_known && (holding.tracked || holding.all() == *resources);
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            framework.holds.insert((agent, role.clone()));
        }
        if let Some(role) = role.filter(|_| track) {
            self.track(agent, framework, &role, resources, usage, turns);
        }
        self.has_changed(agent);
    }

    /// What a framework holds of an agent is counted for it and its role too: it held it before it was known.
    pub fn acknowledge(&mut self, agent: AgentKey, framework: FrameworkKey, role: &str) {
        if !self.frameworks.contains_key(&framework) {
            return;
        }
        let role = self.tree.name(role);
        let place = (framework, Some(role.clone()));
        let holding = self.agents.get(&agent).and_then(|agent| agent.holdings.get(&place));
        let Some(holding) = holding.filter(|holding| !holding.tracked).cloned() else { return };
        if let Some(framework) = self.frameworks.get_mut(&framework) {
            framework.holds.insert((agent, Some(role.clone())));
        }
        for (resources, usage) in [(&holding.offered, Use::Offer), (&holding.used, Use::Work)] {
            if !resources.is_empty() {
                self.track(agent, framework, &role, resources, usage, 1);
            }
        }
        self.look_at(agent);
    }

    fn track(
        &mut self,
        agent: AgentKey,
        framework: FrameworkKey,
        role: &Arc<str>,
        resources: &Resources,
        usage: Use,
        turns: u64,
    ) {
        let node = self.tree.enter(role);
        let holding = self.agents.get_mut(&agent).and_then(|on| on.holdings.get_mut(&(framework, Some(role.clone()))));
        let first = holding.is_some_and(|holding| !std::mem::replace(&mut holding.tracked, true));
        self.tree.with_queue(node, |queue| {
            let member = queue.enter(framework);
            member.holdings += usize::from(first);
        });
        let charge = Charge::of(resources);
        self.tree.charge_at(node, Some(framework), agent, &charge, turns, Way::More);
        if usage == Use::Work {
            self.tree.use_at(node, agent, &charge, Way::More);
        }
    }

    /// A framework does not hold this any more. `turns` is how often it was not its turn after all.
    pub fn release(
        &mut self,
        agent: AgentKey,
        framework: FrameworkKey,
        role: Option<&str>,
        resources: &Resources,
        usage: Use,
        turns: u64,
    ) {
        if resources.is_empty() {
            return;
        }
        let role: Option<Arc<str>> = role.map(|role| self.tree.name(role));
        let Some(on) = self.agents.get_mut(&agent) else { return };
        let place = (framework, role.clone());
        let Some(holding) = on.holdings.get_mut(&place) else { return };
        holding.of(usage).saturating_sub(resources);
        let (tracked, is_over) = (holding.tracked, holding.is_empty());
        if is_over {
            on.holdings.remove(&place);
        }
        on.give_back(&resources.unallocate());
        if let Some(of) = self.frameworks.get_mut(&framework).filter(|_| is_over) {
            of.holds.remove(&(agent, role.clone()));
        }
        let node = role.as_deref().and_then(|role| self.tree.id(role));
        if let Some(node) = node.filter(|_| tracked) {
            let charge = Charge::of(resources);
            self.tree.charge_at(node, Some(framework), agent, &charge, turns, Way::Less);
            if usage == Use::Work {
                self.tree.use_at(node, agent, &charge, Way::Less);
            }
            if is_over {
                self.tree.with_queue(node, |queue| {
                    queue.change(framework, |member| member.holdings = member.holdings.saturating_sub(1));
                });
                self.tidy(framework, node);
            }
        }
        self.has_changed(agent);
        self.work.loosened = true;
    }

    /// What a framework holds of an agent for a role: offered, and in use.
    pub fn holding(&self, agent: AgentKey, framework: FrameworkKey, role: &str) -> (Resources, Resources) {
        let place = (framework, Some(role.into()));
        let holding = self.agents.get(&agent).and_then(|agent| agent.holdings.get(&place));
        holding.map(|holding| (holding.offered.clone(), holding.used.clone())).unwrap_or_default()
    }

    pub(super) fn drop_holding(&mut self, agent: AgentKey, framework: FrameworkKey, role: Option<&Arc<str>>) {
        let place = (framework, role.cloned());
        let holding = self.agents.get(&agent).and_then(|agent| agent.holdings.get(&place)).cloned();
        let Some(holding) = holding else { return };
        let role = role.map(|role| &**role);
        self.release(agent, framework, role, &holding.offered, Use::Offer, 0);
        self.release(agent, framework, role, &holding.used, Use::Work, 0);
    }

    /// Turns resources that a framework was offered into others, on the agent too; none of them has an allocation role.
    /// What takes the place of nothing is one more use of something shared, and the agent has no more for it.
    ///
    /// # Errors
    /// Unless they are there.
    pub fn convert(
        &mut self,
        agent: AgentKey,
        framework: FrameworkKey,
        role: &str,
        consumed: &Resources,
        produced: &Resources,
    ) -> Result<(), Unfit> {
        let (offered, used) = self.holding(agent, framework, role);
        let (before, after) = (consumed.allocate(role), produced.allocate(role));
        let (usage, held) = if offered.contains(&before) { (Use::Offer, offered) } else { (Use::Work, used) };
        held.replace(&before, &after)?;
        let total = self.total(agent).cloned().unwrap_or_default();
        let total = if consumed.is_empty() { total } else { total.replace(consumed, produced)? };
        // What it becomes first, so that nobody is forgotten in between.
        let role = self.tree.name(role);
        self.hold(agent, framework, Some(&role), &after, usage, 0);
        self.release(agent, framework, Some(&role), &before, usage, 0);
        self.set_total(agent, total);
        Ok(())
    }
}
