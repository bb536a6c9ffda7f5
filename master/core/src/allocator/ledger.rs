//! The allocator's book, kept like State: what has changed between two states is found by comparing their maps, which
//! share what is the same, and is told to the book.

use super::profile;
use super::{Options, Plan, PlanGroup};
use crate::ids::{AgentKey, FrameworkKey};
use crate::maintenance;
use crate::resources;
use crate::state::brakes::Brake;
use crate::state::frameworks::RoleFilter;
use crate::state::{Agent, Framework, Offer, Operation, State};
use allocator::book::Figure;
use allocator::{Book, Quota, Run, Unavailability, Use, WEIGHT_MICRO, Which, WhyNot};
use api::resources::Resources;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A book and the state that it is of.
#[derive(Clone, Debug)]
pub struct Ledger {
    options: Options,
    state: State,
    pub(super) book: Book,
}

impl Ledger {
    /// Of an empty cluster.
    pub fn new(options: &Options) -> Ledger {
        let mut book = Book::new(options.for_book());
        book.set_whitelist(options.whitelist.clone());
        Ledger { options: options.clone(), state: State::default(), book }
    }

    /// Of a state.
    pub fn of(state: &State, options: &Options) -> Ledger {
        let mut ledger = Ledger::new(options);
        ledger.follow(state);
        ledger
    }

    /// Only agents of these hosts are offered from now on; None: all.
    pub fn set_whitelist(&mut self, hostnames: Option<BTreeSet<Arc<str>>>) {
        self.book.set_whitelist(hostnames.clone());
        self.options.whitelist = hostnames;
    }

    /// The state that it is of.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Proposes offers at `at_ms`, in milliseconds since the epoch; nothing is held for them.
    pub fn plan(&mut self, at_ms: u64) -> Plan {
        let run = self.book.run(at_ms, self.state.offers.plans, Which::All);
        self.book.take_back(&run);
        let Run { offers, inverse, .. } = run;
        let group = |((framework, role), offers): ((FrameworkKey, Arc<str>), Vec<allocator::Proposed>)| PlanGroup {
            framework,
            role,
            offers: offers.into_iter().map(|offer| (offer.agent, offer.resources)).collect(),
        };
        let offer_timeout_ms = self.options.offer_timeout_ms;
        Plan { groups: offers.into_iter().map(group).collect(), inverse, offer_timeout_ms }
    }

    /// What is told of the book, under the names that Mesos gives it.
    pub fn metrics(&self) -> BTreeMap<String, Figure> {
        self.book.metrics()
    }

    /// Takes in what has changed since the state before.
    pub fn follow(&mut self, state: &State) {
        let before = std::mem::replace(&mut self.state, state.clone());
        self.follow_roles(&before, state);
        self.follow_frameworks(&before, state);
        self.follow_agents(&before, state);
        self.follow_holdings(&before, state);
        self.follow_filters(&before, state);
        self.follow_turns(&before, state);
        self.follow_maintenance(&before, state);
        self.follow_brakes(&before, state);
    }

    fn follow_brakes(&mut self, before: &State, state: &State) {
        let changed = changes(&before.brakes.pulled, &state.brakes.pulled);
        if changed.is_empty() || event_log::planted(event_log::Bug::BrakesIgnored) {
            return;
        }
        let mut roles: BTreeSet<Arc<str>> = BTreeSet::new();
        for brake in state.brakes.pulled.keys() {
            if let Brake::Role(role) = brake {
                roles.insert(role.clone());
            }
        }
        self.book.set_paused(state.brakes.pulled.contains_key(&Brake::Allocation));
        self.book.set_paused_roles(roles);
        for (brake, pulled) in changed {
            if let Brake::Framework(framework) = brake {
                self.book.set_framework_paused(framework, pulled.is_some());
            }
        }
    }

    /// Which agents will be away, and who was asked to leave them or does not want to be.
    fn follow_maintenance(&mut self, before: &State, state: &State) {
        let (old, new) = (&before.maintenance, &state.maintenance);
        let mut agents: BTreeSet<AgentKey> = BTreeSet::new();
        let machines = changes(&old.unavailable, &new.unavailable);
        if !machines.is_empty() {
            agents.extend(self.book.maintained());
        }
        for (machine, _) in machines {
            agents.extend(maintenance::agents_on(state, &machine).map(|agent| agent.key));
        }
        if !new.unavailable.is_empty() {
            // They may have come back, or run elsewhere.
            agents.extend(before.agents.live.diff(&state.agents.live).filter_map(|item| match item {
                DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } => Some(*key),
                DiffItem::Remove(..) => None,
            }));
        }
        for key in agents {
            let away = state.agents.get(key).and_then(|agent| new.unavailability(agent));
            let away = away.map(|away| Unavailability { start_ns: away.start_ns, duration_ns: away.duration_ns });
            if self.book.unavailability(key) != away {
                self.book.set_unavailability(key, away);
                new.waiting_on(key).for_each(|(framework, _)| self.book.ask_inverse(key, framework));
                for (framework, answer) in new.answers_of(key) {
                    self.book.set_inverse_filter(key, framework, answer.filtered_until_ms);
                }
            }
        }
        for ((agent, framework), answer) in changes(&old.answers, &new.answers) {
            self.book.set_inverse_filter(agent, framework, answer.and_then(|answer| answer.filtered_until_ms));
        }
        for ((agent, framework), waiting) in changes(&old.waiting, &new.waiting) {
            match waiting {
                Some(_) => self.book.ask_inverse(agent, framework),
                None => self.book.answer_inverse(agent, framework, None),
            }
        }
    }

    fn follow_roles(&mut self, before: &State, state: &State) {
        for (role, quota) in changes(&before.roles.quotas, &state.roles.quotas) {
            let quota =
                quota.map(|quota| Quota { guarantees: (&quota.guarantees).into(), limits: quota.limits.clone() });
            self.book.set_quota(&role, quota.unwrap_or_default());
        }
        let chosen = &self.options.weights_micro;
        for (role, weight) in changes(&before.roles.weights, &state.roles.weights) {
            if !chosen.contains_key(&role) {
                self.book.set_weight(&role, weight.map_or(WEIGHT_MICRO, |weight| weight.micro()));
            }
        }
        for (role, weight_micro) in chosen {
            self.book.set_weight(role, *weight_micro);
        }
    }

    fn follow_frameworks(&mut self, before: &State, state: &State) {
        let mut said: BTreeSet<FrameworkKey> = BTreeSet::new();
        let constraints = changes(&before.constraints.ready, &state.constraints.ready);
        said.extend(constraints.into_iter().map(|(key, _)| key));
        for item in before.frameworks.live.diff(&state.frameworks.live) {
            match item {
                DiffItem::Add(key, framework) => {
                    let profile = profile::of_framework(framework, state);
                    self.book.add_framework(*key, profile, framework.is_connected());
                    self.suppress(framework, None);
                    said.remove(key);
                }
                DiffItem::Remove(key, _) => self.book.remove_framework(*key),
                DiffItem::Update { old: (_, old), new: (key, new) } => {
                    if said.remove(key) || profile::differs(old, new) {
                        self.book.update_framework(*key, profile::of_framework(new, state));
                    }
                    self.book.set_active(*key, new.is_connected());
                    if old.roles != new.roles {
                        self.suppress(new, Some(old));
                    }
                }
            }
        }
        for key in said {
            if let Some(framework) = state.frameworks.get(key) {
                self.book.update_framework(key, profile::of_framework(framework, state));
            }
        }
    }

    fn suppress(&mut self, framework: &Framework, before: Option<&Framework>) {
        for (role, state) in &framework.roles {
            let was = before.and_then(|before| before.roles.get(role)).is_some_and(|role| role.suppressed);
            match (was, state.suppressed) {
                (false, true) => self.book.suppress(framework.key, role),
                (true, false) => self.book.unsuppress(framework.key, role),
                _ => {}
            }
        }
    }

    fn follow_agents(&mut self, before: &State, state: &State) {
        // What else decides whether and with what an agent is offered is in rooms of its own.
        let mut others: BTreeSet<AgentKey> = BTreeSet::new();
        others.extend(changes(&before.drains.by_agent, &state.drains.by_agent).into_iter().map(|(key, _)| key));
        let spare = changes(&before.oversubscribed.by_agent, &state.oversubscribed.by_agent);
        others.extend(spare.into_iter().map(|(key, _)| key));
        // What whoever is over wanted is held by nobody whom the book knows.
        others.extend(orphans(state).map(|operation| operation.agent));
        for item in before.agents.live.diff(&state.agents.live) {
            match item {
                DiffItem::Add(key, agent) => {
                    self.book.add_agent(*key, profile::of_agent(agent), total(agent, state));
                    self.book.set_closed(*key, closed(agent, state));
                    others.remove(key);
                }
                DiffItem::Remove(key, _) => {
                    self.book.remove_agent(*key);
                    others.remove(key);
                }
                DiffItem::Update { old: (_, old), new: (key, new) } => {
                    if old.info != new.info || old.capabilities != new.capabilities || old.hostname != new.hostname {
                        self.book.set_profile(*key, profile::of_agent(new));
                    }
                    others.insert(*key);
                }
            }
        }
        for key in others {
            if let Some(agent) = state.agents.get(key) {
                self.book.set_total(key, total(agent, state));
                self.book.set_closed(key, closed(agent, state));
            }
        }
    }

    fn follow_holdings(&mut self, before: &State, state: &State) {
        let none = OrdMap::new();
        let mut changes: Vec<Change> = Vec::new();
        for item in before.frameworks.live.diff(&state.frameworks.live) {
            let (key, old, new) = match item {
                DiffItem::Add(key, framework) => (*key, &none, &framework.used),
                DiffItem::Update { old: (key, old), new: (_, new) } => (*key, &old.used, &new.used),
                DiffItem::Remove(..) => continue,
            };
            for item in old.diff(new) {
                let nothing = Resources::default();
                let (agent, old, new) = match item {
                    DiffItem::Add(agent, used) => (*agent, &nothing, used),
                    DiffItem::Remove(agent, used) => (*agent, used, &nothing),
                    DiffItem::Update { old: (agent, old), new: (_, new) } => (*agent, old, new),
                };
                Change::of_use(agent, key, old, new, &mut changes);
            }
        }
        for item in before.offers.live.diff(&state.offers.live) {
            let (gone, made) = match item {
                DiffItem::Add(_, offer) => (None, Some(offer)),
                DiffItem::Remove(_, offer) => (Some(offer), None),
                DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
            };
            changes.extend(gone.map(|offer| Change::of_offer(offer, false)));
            changes.extend(made.map(|offer| Change::of_offer(offer, true)));
        }
        // What goes first: the same port may be on its way from an offer to a task, and there is only one of it.
        for Change { agent, framework, role, resources, usage, .. } in changes.iter().filter(|change| !change.is_new) {
            self.book.release(*agent, *framework, Some(role), resources, *usage, 0);
        }
        for Change { agent, framework, role, resources, usage, .. } in changes.iter().filter(|change| change.is_new) {
            self.book.hold(*agent, *framework, Some(role), resources, *usage, 0);
        }
    }

    fn follow_filters(&mut self, before: &State, state: &State) {
        let mut others: BTreeSet<(FrameworkKey, Arc<str>, AgentKey)> = BTreeSet::new();
        let more = changes(&before.refusals.more, &state.refusals.more);
        others.extend(more.into_iter().map(|(key, _)| key));
        let none = OrdMap::new();
        for item in before.frameworks.live.diff(&state.frameworks.live) {
            let (key, old, new) = match item {
                DiffItem::Add(key, framework) => (*key, None, framework),
                DiffItem::Update { old: (key, old), new: (_, new) } => (*key, Some(old), new),
                DiffItem::Remove(..) => continue,
            };
            for (role, of) in &new.roles {
                let old = old.and_then(|old| old.roles.get(role)).map_or(&none, |role| &role.filters);
                let filters = changes(old, &of.filters).into_iter();
                others.extend(filters.map(|(agent, _)| (key, role.clone(), agent)));
            }
        }
        for (framework, role, agent) in others {
            self.book.forget_filters_on(agent, framework, &role);
            for RoleFilter { resources, until_ms } in state.filters_of(framework, &role, agent) {
                self.book.refuse(agent, framework, &role, resources, *until_ms);
            }
        }
    }

    fn follow_turns(&mut self, before: &State, state: &State) {
        for ((framework, role), turns) in changes(&before.turns.counts, &state.turns.counts) {
            self.book.set_turns(framework, &role, turns.unwrap_or_default());
        }
        // Whoever is back in a role has the turns that it had.
        for item in before.frameworks.live.diff(&state.frameworks.live) {
            if let DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } = item {
                for (role, turns) in state.turns.of(*key) {
                    self.book.set_turns(*key, role, turns);
                }
            }
        }
    }
}

/// Something that is held from now on, or not any more.
struct Change {
    agent: AgentKey,
    framework: FrameworkKey,
    role: Arc<str>,
    resources: Resources,
    usage: Use,
    is_new: bool,
}

impl Change {
    fn of_offer(offer: &Offer, is_new: bool) -> Change {
        let Offer { agent, framework, role, resources, .. } = offer.clone();
        Change { agent, framework, role, resources, usage: Use::Offer, is_new }
    }

    fn of_use(agent: AgentKey, framework: FrameworkKey, old: &Resources, new: &Resources, changes: &mut Vec<Change>) {
        let (old, new) = (old.allocations(), new.allocations());
        for (these, others, is_new) in [(&old, &new, false), (&new, &old, true)] {
            for (role, used) in these {
                let resources = others.get(role).map_or_else(|| used.clone(), |other| resources::minus(used, other));
                let role = (*role).into();
                changes.push(Change { agent, framework, role, resources, usage: Use::Work, is_new });
            }
        }
    }
}

/// What differs, with what there is now.
fn changes<K: Ord + Clone, V: Clone + PartialEq>(before: &OrdMap<K, V>, now: &OrdMap<K, V>) -> Vec<(K, Option<V>)> {
    let differing = before.diff(now).map(|item| match item {
        DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => (key.clone(), Some(value.clone())),
        DiffItem::Remove(key, _) => (key.clone(), None),
    });
    differing.collect()
}

/// What an agent has, and what it can spare of what others have; nothing while it is unreachable.
fn total(agent: &Agent, state: &State) -> Resources {
    if agent.is_unreachable() {
        return Resources::default();
    }
    let mut total = match state.oversubscribed.of(agent.key) {
        Some(spare) => agent.total.plus(spare),
        None => agent.total.clone(),
    };
    for operation in orphans(state).filter(|operation| operation.agent == agent.key) {
        total.saturating_sub(&resources::unallocated(&operation.consumed));
    }
    total
}

/// Operations that hold something for a framework that is over.
fn orphans(state: &State) -> impl Iterator<Item = &Operation> {
    let is_over = |key: FrameworkKey| state.frameworks.get(key).is_none();
    state.operations.holding().filter(move |operation| operation.framework.is_none_or(is_over))
}

/// Why nothing of an agent is offered, if so.
fn closed(agent: &Agent, state: &State) -> Option<WhyNot> {
    if agent.connection().is_none() {
        return Some(WhyNot::AgentAway);
    }
    if state.drains.get(agent.key).is_some() && !event_log::planted(event_log::Bug::OfferedWhileDraining) {
        return Some(WhyNot::AgentDraining);
    }
    if agent.deactivated && !event_log::planted(event_log::Bug::OfferedWhileDraining) {
        return Some(WhyNot::AgentDeactivated);
    }
    agent.is_behind().then_some(WhyNot::AgentBehind)
}
