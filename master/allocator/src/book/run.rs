//! A run: who is offered what, in two stages as Mesos has them. First roles get what is missing of their guarantees, with
//! what else there is on the same agent; then everybody shares the rest. Nobody gets more than the role's limit, and what
//! is missing of guarantees is held back from all others.
//!
//! Within a stage, agents come in an order that looks like chance; for each, roles and then frameworks come in the order
//! in which they are next when the agent's turn begins.

use super::agents::Agent;
use super::frameworks::Framework;
use super::holdings::Use;
use super::visits::Mode;
use super::{Book, Capabilities};
use crate::amounts::{Amounts, room};
use crate::dice::{Dice, blend};
use crate::ids::{AgentKey, FrameworkKey};
use crate::options::Sorting;
use crate::queue::Line;
use crate::tree::{Lane, NodeId};
use crate::why::WhyNot;
use api::resources::{Resource, Resources, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Which agents a run is about.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All of them. Those that cannot be offered to anybody are not looked at.
    All,
    /// These.
    Only(&'a BTreeSet<AgentKey>),
}

/// What came of a run. It is held by whom it is proposed to until it is taken back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// By framework and role, then agent.
    pub offers: BTreeMap<(FrameworkKey, Arc<str>), Vec<Proposed>>,
    /// Whom to ask for what he holds of which agent, by key.
    pub inverse: Vec<(FrameworkKey, AgentKey)>,
    /// How many agents were looked at.
    pub visited: usize,
}

/// One offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposed {
    /// Of which agent.
    pub agent: AgentKey,
    /// What, with its allocation role.
    pub resources: Resources,
    /// It was the framework's turn so often for it.
    pub turns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Roles with guarantees that are not met.
    Guarantees,
    /// Everybody.
    Shares,
}

/// What there is above all guarantees, as it is used up.
struct Headroom {
    /// What is missing of guarantees.
    needed: Amounts,
    /// What is there for it.
    left: Amounts,
}

/// What is taken of one agent in one visit.
struct Taken {
    framework: FrameworkKey,
    role: NodeId,
    resources: Resources,
    /// The same without allocation role.
    bare: Resources,
    /// What of it uses up quota.
    quota: Amounts,
}

/// What of an agent may go to a role.
struct View {
    available: Resources,
    amounts: Amounts,
}

impl View {
    fn of(left: &Resources, role: &str) -> View {
        let available = left.available_to(role);
        let amounts = Amounts::of_all(&available);
        View { available, amounts }
    }
}

/// What a framework would be offered.
struct Proposal {
    resources: Resources,
    /// What of it uses up quota.
    quota: Amounts,
    /// What of it is missing of the role's guarantees.
    guaranteed: Amounts,
}

/// What of the resources uses up quota: plain amounts that nobody has reserved and that stay.
fn uses_quota(resource: &Resource) -> bool {
    matches!(resource.value, Value::Scalar(_)) && resource.reservations.is_empty() && !resource.revocable
}

impl Book {
    /// Offers what can be offered at `at_ms`, in milliseconds since the epoch. The order of agents follows from `seed`.
    pub fn run(&mut self, at_ms: u64, seed: u64, which: Which<'_>) -> Run {
        self.expire(at_ms);
        if self.paused {
            return Run::default();
        }
        self.tree.refresh();
        let mut visits = self.visits(which);
        let mut headroom = self.headroom();
        let mut run = Run { visited: visits.len(), ..Run::default() };
        let mut offered: Vec<(AgentKey, Taken)> = Vec::new();
        let mut shared: BTreeMap<AgentKey, Resources> = BTreeMap::new();
        for (stage, seed) in [(Stage::Guarantees, seed), (Stage::Shares, !seed)] {
            if stage == Stage::Guarantees && self.tree.is_idle(Lane::Hungry) {
                continue;
            }
            // As many times through as there are stages: otherwise the first of them would use up the same agents.
            visits.sort_unstable_by_key(|(key, _)| (blend(seed, key.0), *key));
            for (key, mode) in &visits {
                let taken = self.visit(stage, *key, mode, seed, &mut headroom, &mut shared);
                for taken in taken {
                    let role = self.tree.node(taken.role).path.clone();
                    let (resources, bare) = (&taken.resources, &taken.bare);
                    self.hold_bare(*key, taken.framework, Some(role), resources, bare, Use::Offer, 1);
                    offered.push((*key, taken));
                }
            }
        }
        let had: BTreeSet<AgentKey> = offered.iter().map(|(key, _)| *key).collect();
        for (key, _) in &visits {
            let is_done = !had.contains(key) || self.agents.get(key).is_none_or(|agent| agent.available.is_empty());
            if is_done {
                self.work.dirty.remove(key)
            } else {
                self.work.dirty.insert(*key)
            };
            self.work.pairs.remove(key);
        }
        if matches!(which, Which::All) {
            self.calm();
        }
        offered.sort_by_key(|(key, taken)| (taken.framework, taken.role, *key));
        for (agent, Taken { framework, role, resources, .. }) in offered {
            let offers = run.offers.entry((framework, self.tree.node(role).path.clone())).or_default();
            match offers.last_mut().filter(|last| last.agent == agent) {
                Some(last) => {
                    last.resources.add(&resources);
                    last.turns += 1;
                }
                None => offers.push(Proposed { agent, resources, turns: 1 }),
            }
        }
        run.inverse = match which {
            Which::All => self.inverse(at_ms, |_| true),
            Which::Only(agents) => self.inverse(at_ms, |key| agents.contains(&key)),
        };
        run
    }

    /// What was proposed was not offered after all, or will be told again by [`hold`](Book::hold).
    pub fn take_back(&mut self, run: &Run) {
        for ((framework, role), offers) in &run.offers {
            for offer in offers {
                self.release(offer.agent, *framework, Some(role), &offer.resources, Use::Offer, offer.turns);
            }
        }
        for (framework, agent) in &run.inverse {
            self.answer_inverse(*agent, *framework, None);
        }
    }

    fn headroom(&self) -> Headroom {
        let mut left = self.tree.headroom();
        left.sub(&self.free_revocable);
        Headroom { needed: self.tree.headroom_needed().clone(), left }
    }

    /// What is taken of an agent in one stage.
    fn visit(
        &mut self,
        stage: Stage,
        key: AgentKey,
        mode: &Mode,
        seed: u64,
        headroom: &mut Headroom,
        shared: &mut BTreeMap<AgentKey, Resources>,
    ) -> Vec<Taken> {
        let mut taken: Vec<Taken> = Vec::new();
        let mut held_back = false;
        let Some(agent) = self.agents.get(&key) else { return taken };
        let mut left = agent.available.clone();
        if let Some(shared) = shared.get(&key) {
            left.saturating_sub(shared);
        }
        let mut dice = Dice::new(blend(seed, key.0));
        let lane = match (stage, mode) {
            (Stage::Guarantees, _) => Lane::Hungry,
            (Stage::Shares, Mode::Fresh) => Lane::Fresh,
            (Stage::Shares, _) => Lane::Active,
        };
        let mut roles = self.roles(lane, mode, &mut dice);
        while !left.is_empty()
            && let Some(id) = roles.next()
        {
            let node = self.tree.node(id);
            let Some(queue) = self.tree.queue(id) else { continue };
            let line = if *mode == Mode::Fresh { Line::Fresh } else { Line::Active };
            if queue.is_idle(line) {
                continue;
            }
            let mut view = View::of(&left, &node.path);
            let mut frameworks = self.frameworks_of(queue, line, id, mode, &mut dice);
            while !view.available.is_empty()
                && let Some(framework) = frameworks.next()
            {
                if stage == Stage::Guarantees && self.unmet(id, &taken).is_zero() {
                    break;
                }
                let Some(of) = self.frameworks.get(&framework) else { continue };
                let proposal = self.propose(stage, agent, framework, of, id, &view, headroom, &taken, &mut held_back);
                let Ok(proposal) = proposal else { continue };
                headroom.needed.sub(&proposal.guaranteed);
                headroom.left.sub(&proposal.quota);
                if left == proposal.resources {
                    left = Resources::default();
                } else {
                    left.saturating_sub(&proposal.resources);
                }
                let again = proposal.resources.shared();
                if !again.is_empty() {
                    shared.entry(key).or_default().add(&again);
                }
                let resources = proposal.resources.allocate_shared(&node.path);
                taken.push(Taken { framework, role: id, resources, bare: proposal.resources, quota: proposal.quota });
                view = View::of(&left, &node.path);
            }
        }
        drop(roles);
        if held_back {
            self.work.held_back.insert(key);
        }
        taken
    }

    /// What counts against a role's quota, with what is taken just now.
    fn consumed(&self, id: NodeId, taken: &[Taken]) -> Amounts {
        let mut sum = self.tree.node(id).consumed();
        for taken in taken.iter().filter(|taken| self.tree.is_at_or_below(taken.role, id)) {
            sum.add(&taken.quota);
        }
        sum
    }

    fn unmet(&self, id: NodeId, taken: &[Taken]) -> Amounts {
        if taken.is_empty() {
            return self.tree.node(id).unmet().clone();
        }
        self.tree.node(id).quota.guarantees.minus(&self.consumed(id, taken))
    }

    /// What a framework would be offered of what may go to the role.
    #[expect(clippy::too_many_arguments, reason = "everything that a proposal depends on, and nothing else")]
    fn propose(
        &self,
        stage: Stage,
        agent: &Agent,
        key: FrameworkKey,
        framework: &Framework,
        id: NodeId,
        view: &View,
        headroom: &Headroom,
        taken: &[Taken],
        held_back: &mut bool,
    ) -> Result<Proposal, WhyNot> {
        let node = self.tree.node(id);
        let profile = &framework.profile;
        if !profile.constraints.is_empty() && !profile.constraints.keeps(&node.path, &agent.profile.subject()) {
            return Err(WhyNot::Constrained);
        }
        if view.available.is_empty() {
            return Err(WhyNot::NothingFree);
        }
        if !self.is_enough(framework, id, &view.amounts) {
            return Err(WhyNot::TooSmall);
        }
        let able = &profile.capabilities;
        if self.options.filter_gpu_resources && agent.has_gpus && !able.gpu_resources {
            return Err(WhyNot::HasGpus);
        }
        if !able.region_aware && self.is_elsewhere(agent) {
            return Err(WhyNot::OtherRegion);
        }
        let asked = view.available.filter(|resource| is_asked_for(able, resource));
        if asked.is_empty() {
            return Err(WhyNot::NotAskedFor);
        }
        let (proposal, shrunk) = self.shrink(stage, id, &asked, headroom, taken)?;
        if shrunk.is_some() {
            *held_back = true;
        }
        // Nothing was cut off: the amounts are those that were enough.
        let is_whole = proposal.resources == view.available;
        if !is_whole && !self.is_enough(framework, id, &Amounts::of_all(&proposal.resources)) {
            return Err(shrunk.unwrap_or(WhyNot::TooSmall));
        }
        if able.multi_role && !agent.profile.multi_role {
            return Err(WhyNot::AgentNotMultiRole);
        }
        if !agent.profile.hierarchical_role && node.path.contains('/') {
            return Err(WhyNot::AgentNotHierarchical);
        }
        match agent.filtered_until(key, id, &proposal.resources) {
            Some(until_ms) => Err(WhyNot::Filtered { until_ms }),
            None => Ok(proposal),
        }
    }

    /// What of the resources neither limits nor guarantees of others forbid; and what took something off, if so.
    fn shrink(
        &self,
        stage: Stage,
        id: NodeId,
        asked: &Resources,
        headroom: &Headroom,
        taken: &[Taken],
    ) -> Result<(Proposal, Option<WhyNot>), WhyNot> {
        let (node, limited) = (self.tree.node(id), self.limited(id));
        if stage == Stage::Shares && limited.is_empty() && headroom.needed.is_zero() {
            let proposal =
                Proposal { quota: quota_of(asked), guaranteed: Amounts::default(), resources: asked.clone() };
            return Ok((proposal, None));
        }
        let plain = asked.filter(uses_quota);
        let mut guaranteed = Resources::default();
        if stage == Stage::Guarantees {
            guaranteed = plain.shrink_to_quantities(&self.unmet(id, taken).to_quantities(), 0);
            if guaranteed.is_empty() {
                return Err(WhyNot::HeldBack);
            }
        }
        let mut more = plain;
        more.saturating_sub(&guaranteed);
        let (before, mut why) = (more.clone(), None);
        let guarantee = Amounts::of_scalars(&guaranteed);
        for above in limited {
            let mut had = self.consumed(above, taken);
            had.add(&guarantee);
            more = more.shrink_to_limits(&room(&self.tree.node(above).quota.limits, &had), 0);
        }
        if more != before {
            why = Some(WhyNot::OverLimit);
        }
        if !headroom.needed.is_zero() && !more.is_empty() {
            let surplus = headroom.left.minus(&headroom.needed);
            let kept = more.shrink_to_quantities(&surplus.to_quantities(), 0);
            if kept != more {
                why = why.or(Some(WhyNot::HeldBack));
                more = kept;
            }
        }
        let mut quota = guarantee.clone();
        quota.add(&Amounts::of_scalars(&more));
        // Reservations of roles above are for the second stage.
        let rest = asked.filter(|resource| {
            !uses_quota(resource)
                && (stage == Stage::Shares
                    || resource.reservation_role() == Some(&node.path)
                    || resource.revocable
                    || !matches!(resource.value, Value::Scalar(_)))
        });
        let resources = rest.plus(&guaranteed).plus(&more);
        Ok((Proposal { resources, quota, guaranteed: guarantee }, why))
    }

    /// The roles whose limits hold for what is offered to this one.
    fn limited(&self, id: NodeId) -> Vec<NodeId> {
        let lineage = self.tree.lineage(id).take(if self.options.limits_hold_below { usize::MAX } else { 1 });
        lineage.filter(|id| self.tree.node(*id).quota.limits.iter().next().is_some()).collect()
    }

    /// Whether it is worth offering.
    fn is_enough(&self, framework: &Framework, role: NodeId, amounts: &Amounts) -> bool {
        if amounts.is_zero() {
            return false;
        }
        let own = if framework.least.is_empty() { None } else { framework.least.get(&role) };
        let least = own.unwrap_or(&self.options.min_allocatable);
        least.is_empty() || least.iter().any(|least| amounts.contains(least))
    }

    fn is_elsewhere(&self, agent: &Agent) -> bool {
        match (&agent.profile.region, &self.options.region) {
            (Some(of_agent), Some(of_masters)) => of_agent != of_masters,
            _ => false,
        }
    }

    /// Whether the agent is on the list of those that are offered.
    pub(super) fn is_listed(&self, agent: &Agent) -> bool {
        self.whitelist.as_ref().is_none_or(|whitelist| whitelist.contains(&agent.profile.hostname))
    }

    /// Why a framework is not offered anything of an agent for a role; None if nothing speaks against it but that somebody
    /// else may be next.
    pub fn why_not(&mut self, key: AgentKey, framework: FrameworkKey, role: &str) -> Option<WhyNot> {
        self.tree.refresh();
        if let Some(why) = self.why_no_offers(framework, role) {
            return Some(why);
        }
        let agent = self.agents.get(&key)?;
        if let Some(why) = &agent.closed {
            return Some(why.clone());
        }
        if !self.is_listed(agent) {
            return Some(WhyNot::AgentNotListed);
        }
        let (of, id) = (self.frameworks.get(&framework)?, self.tree.id(role)?);
        let view = View::of(&agent.available, role);
        let stage = Stage::Shares;
        self.propose(stage, agent, framework, of, id, &view, &self.headroom(), &[], &mut false).err()
    }

    fn roles<'a>(&'a self, lane: Lane, mode: &'a Mode, dice: &mut Dice) -> Box<dyn Iterator<Item = NodeId> + 'a> {
        if let Mode::Pairs(pairs) = mode {
            let roles: BTreeSet<NodeId> = pairs.iter().map(|(_, role)| *role).collect();
            return Box::new(self.tree.in_order(lane, roles).into_iter());
        }
        match self.options.role_sorter {
            Sorting::DominantShare => Box::new(self.tree.order(lane)),
            Sorting::Random => Box::new(self.tree.shuffled(lane, dice).into_iter()),
        }
    }

    fn frameworks_of<'a>(
        &self,
        queue: &'a crate::queue::Queue,
        line: Line,
        role: NodeId,
        mode: &'a Mode,
        dice: &mut Dice,
    ) -> Box<dyn Iterator<Item = FrameworkKey> + 'a> {
        if let Mode::Pairs(pairs) = mode {
            let keys = pairs.iter().filter(|(_, of)| *of == role).map(|(key, _)| *key);
            return Box::new(queue.in_order(keys).into_iter());
        }
        match self.options.framework_sorter {
            Sorting::DominantShare => Box::new(queue.order(line)),
            Sorting::Random => Box::new(queue.shuffled(line, dice).into_iter()),
        }
    }
}

/// Whether a framework can be offered such a resource.
fn is_asked_for(able: &Capabilities, resource: &Resource) -> bool {
    (able.shared_resources || !resource.shared)
        && (able.revocable_resources || !resource.revocable)
        && (able.reservation_refinement || resource.reservations.len() < 2)
}

fn quota_of(resources: &Resources) -> Amounts {
    let mut sum = Amounts::default();
    resources.iter().filter(|resource| uses_quota(resource)).for_each(|resource| sum.count(resource));
    sum
}
