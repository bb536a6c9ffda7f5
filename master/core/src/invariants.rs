//! What is true of every State. Read by tests, by the simulator and by `verify`; nothing repairs what they find.

use crate::accept::rules;
use crate::ids::{AgentKey, FrameworkKey};
use crate::resources;
use crate::state::agents::MAX_GONE_AGENTS;
use crate::state::brakes::Brake;
use crate::state::identities::Bound;
use crate::state::maintenance::Mode;
use crate::state::{MAX_COMPLETED_TASKS, State};
use api::resources::{Resource, Resources};
use api::v1;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that should never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, as a short name.
    pub rule: &'static str,
    /// What breaks it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// Everything that is wrong with a State; nothing, if all is well.
pub fn check(state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |rule: &'static str, what: String| found.push(Violation { rule, what });
    check_sums(state, &mut report);
    check_references(state, &mut report);
    check_queues(state, &mut report);
    check_history(state, &mut report);
    check_roles(state, &mut report);
    check_unfinished(state, &mut report);
    check_operation(state, &mut report);
    check_operations(state, &mut report);
    check_wishes(state, &mut report);
    check_identities(state, &mut report);
    check_derived(state, &mut report);
    found
}

type Report<'a> = &'a mut dyn FnMut(&'static str, String);

/// What is offered and used agrees with offers, tasks and executors, and never exceeds an agent.
fn check_sums(state: &State, report: Report<'_>) {
    let mut offered: BTreeMap<AgentKey, Resources> = BTreeMap::new();
    let mut used: BTreeMap<AgentKey, Resources> = BTreeMap::new();
    let mut held: BTreeMap<(FrameworkKey, AgentKey), Resources> = BTreeMap::new();
    for offer in state.offers.live.values() {
        resources::add(offered.entry(offer.agent).or_default(), &offer.resources);
    }
    for task in state.tasks.live.values().filter(|task| !task.released) {
        resources::add(used.entry(task.agent).or_default(), &task.resources);
        resources::add(held.entry((task.framework, task.agent)).or_default(), &task.resources);
    }
    for agent in state.agents.live.values() {
        for ((framework, _), executor) in &agent.executors {
            resources::add(used.entry(agent.key).or_default(), &executor.resources);
            resources::add(held.entry((*framework, agent.key)).or_default(), &executor.resources);
        }
    }
    for operation in state.operations.holding() {
        resources::add(used.entry(operation.agent).or_default(), &operation.consumed);
        // What whoever is over wanted is nobody's until its end.
        if let Some(framework) = operation.framework.filter(|key| state.frameworks.get(*key).is_some()) {
            resources::add(held.entry((framework, operation.agent)).or_default(), &operation.consumed);
        }
    }
    let none = Resources::default();
    for agent in state.agents.live.values() {
        if agent.offered != *offered.get(&agent.key).unwrap_or(&none) {
            report("offered-is-the-sum-of-offers", format!("agent S{}", agent.key.0));
        }
        if agent.used != *used.get(&agent.key).unwrap_or(&none) {
            report("used-is-the-sum-of-tasks-executors-and-operations", format!("agent S{}", agent.key.0));
        }
        let mut taken = resources::unallocated(&agent.offered);
        resources::add(&mut taken, &resources::unallocated(&agent.used));
        // What is revocable, or a provider's, may have become less than what is in use of it.
        let taken = resources::own(&taken.non_revocable());
        let offered = resources::provided(&resources::unallocated(&agent.offered));
        if !resources::fits(&agent.total, &taken) || !resources::fits(&agent.total, &offered) {
            report("offered-and-used-fit-the-agent", format!("agent S{}: {taken} of {}", agent.key.0, agent.total));
        }
    }
    for framework in state.frameworks.live.values() {
        for (agent, used) in &framework.used {
            let sum = held.remove(&(framework.key, *agent)).unwrap_or_default();
            if *used != sum {
                report("a-framework-uses-what-it-holds", format!("framework F{} on S{}", framework.key.0, agent.0));
            }
        }
    }
    for ((framework, agent), sum) in held {
        if !sum.is_empty() {
            report("a-framework-uses-what-it-holds", format!("framework F{} on S{}", framework.0, agent.0));
        }
    }
}

/// What operators said about roles says something, and can be counted with.
fn check_roles(state: &State, report: Report<'_>) {
    for (role, quota) in &state.roles.quotas {
        if quota.is_nothing() {
            report("a-quota-says-something", format!("role {role}"));
        }
    }
    for (role, weight) in &state.roles.weights {
        if crate::state::roles::Weight::new(weight.as_said()) != Some(*weight) {
            report("weights-are-positive", format!("role {role}: {weight}"));
        }
    }
}

/// Nothing names what is not there.
fn check_references(state: &State, report: Report<'_>) {
    for (key, offer) in &state.offers.live {
        if offer.key != *key || key.0 >= state.offers.next {
            report("keys-are-counted", format!("offer O{}", key.0));
        }
        if offer.resources.iter().any(|resource| !resource.may_go_to(&offer.role)) {
            report("what-is-reserved-is-offered-to-its-role", format!("offer O{}", key.0));
        }
        match state.frameworks.get(offer.framework) {
            Some(framework) if framework.is_connected() && framework.roles.contains_key(&offer.role) => {}
            _ => report("offers-are-with-connected-frameworks", format!("offer O{}", key.0)),
        }
        match state.agents.get(offer.agent) {
            Some(agent) if agent.connection().is_some() && !agent.deactivated => {}
            _ => report("offers-are-of-connected-agents", format!("offer O{}", key.0)),
        }
    }
    for (key, task) in &state.tasks.live {
        let name = || format!("task F{}/{}", key.0.0, key.1);
        if task.key() != *key {
            report("keys-are-names", name());
        }
        if state.frameworks.get(key.0).is_none() {
            report("live-tasks-have-live-frameworks", name());
        }
        if !task.is_terminal() && state.agents.get(task.agent).is_none() {
            report("running-tasks-have-agents", name());
        }
        if task.released != (task.is_terminal() || task.unreachable_ms.is_some()) {
            report("only-ended-or-unreachable-tasks-hold-nothing", name());
        }
        if task.is_terminal() && task.updates.is_empty() && task.unreachable_ms.is_none() {
            report("acknowledged-ends-are-history", name());
        }
    }
    for framework in state.frameworks.live.values() {
        let waits = framework.failover_deadline_ms.is_some();
        // One on its way out has neither.
        let may_have_neither = state.is_ending(framework.key) && !waits;
        if framework.is_connected() == waits && !may_have_neither {
            report("only-disconnected-frameworks-have-deadlines", format!("framework F{}", framework.key.0));
        }
        if state.frameworks.by_id.get(&framework.id) != Some(&framework.key) {
            report("frameworks-are-found-by-id", format!("framework F{}", framework.key.0));
        }
        if framework.key.0 >= state.frameworks.next {
            report("keys-are-counted", format!("framework F{}", framework.key.0));
        }
        let connection = framework.stream.as_ref().map(|stream| stream.connection);
        if connection.is_some_and(|connection| state.is_over(connection.at)) {
            report("streams-are-on-live-masters", format!("framework F{}", framework.key.0));
        }
    }
    for agent in state.agents.live.values() {
        if agent.key.0 >= state.agents.next || state.agents.gone.contains_key(&agent.key) {
            report("keys-are-counted", format!("agent S{}", agent.key.0));
        }
        if state.agents.by_token.get(&agent.token) != Some(&agent.key) {
            report("agents-are-found-by-token", format!("agent S{}", agent.key.0));
        }
        if agent.connection().is_some_and(|connection| state.is_over(connection.at)) {
            report("connections-are-on-live-masters", format!("agent S{}", agent.key.0));
        }
    }
}

/// What is over is remembered, but not for ever.
fn check_history(state: &State, report: Report<'_>) {
    let (live, completed) = (state.frameworks.live.len(), state.frameworks.completed.len());
    let ids = state.frameworks.by_id.len();
    if completed > state.history.frameworks as usize || ids != live + completed {
        report("history-is-bounded", format!("{ids} ids of {live} live and {completed} completed frameworks"));
    }
    if state.agents.gone.len() > MAX_GONE_AGENTS || state.agents.by_token.len() != state.agents.live.len() {
        report("history-is-bounded", format!("{} gone agents", state.agents.gone.len()));
    }
    // A bound that was lowered holds for a framework when its next task ends.
    let most = state.history.tasks.max(MAX_COMPLETED_TASKS) as usize;
    if let Some((framework, _)) = state.tasks.completed_counts.iter().find(|(_, count)| **count > most) {
        report("history-is-bounded", format!("completed tasks of framework F{}", framework.0));
    }
}

/// What was begun is about what is there, and holds nothing any more.
fn check_unfinished(state: &State, report: Report<'_>) {
    for key in state.unfinished.frameworks.keys() {
        if state.frameworks.get(*key).is_none_or(|framework| framework.is_connected()) {
            report("what-ends-is-there-and-away", format!("framework F{}", key.0));
        }
    }
    for key in state.unfinished.agents.keys() {
        if state.agents.get(*key).is_none_or(|agent| agent.connection().is_some()) {
            report("what-ends-is-there-and-away", format!("agent S{}", key.0));
        }
    }
    for key in state.unfinished.returns.keys() {
        if state.agents.get(*key).is_none() || state.is_parting(*key) {
            report("what-returns-is-there", format!("agent S{}", key.0));
        }
    }
}

/// Agents that are to be empty are offered to nobody, and are, once they are drained; nobody runs on a machine that is
/// down; whoever is asked to leave is there, and the agent is to be unavailable.
fn check_operation(state: &State, report: Report<'_>) {
    for (key, drain) in &state.drains.by_agent {
        if state.agents.get(*key).is_none_or(|agent| !agent.deactivated) {
            report("what-drains-is-deactivated", format!("agent S{}", key.0));
        }
        if drain.is_drained() && state.tasks.on(*key).next().is_some() {
            report("nothing-runs-on-what-is-drained", format!("agent S{}", key.0));
        }
    }
    let maintenance = &state.maintenance;
    for (key, machine) in &maintenance.machines {
        let is_scheduled = maintenance.unavailable.contains_key(key);
        if is_scheduled != (machine.mode != Mode::Up) {
            report("what-is-scheduled-is-not-up", machine.id.named());
        }
        if machine.mode == Mode::Down && crate::maintenance::agents_on(state, key).next().is_some() {
            report("nobody-is-where-it-is-down", machine.id.named());
        }
    }
    for (key, offer) in &maintenance.inverse_offers {
        let agent = state.agents.get(offer.agent);
        let is_of_use = agent.is_some_and(|agent| agent.is_offerable() && maintenance.unavailability(agent).is_some());
        let is_there = state.frameworks.get(offer.framework).is_some_and(|framework| framework.is_connected());
        if !is_of_use || !is_there || key.0 >= state.offers.next || state.offers.live.contains_key(key) {
            report("whoever-is-asked-to-leave-is-there", format!("inverse offer O{}", key.0));
        }
    }
    for (agent, framework) in maintenance.answers.keys() {
        if state.agents.get(*agent).is_none() || state.frameworks.get(*framework).is_none() {
            report("answers-are-of-those-who-are-there", format!("framework F{} on S{}", framework.0, agent.0));
        }
    }
    for (agent, spare) in &state.oversubscribed.by_agent {
        if state.agents.get(*agent).is_none() || spare.is_empty() || !spare.non_revocable().is_empty() {
            report("what-is-spared-is-revocable", format!("agent S{}", agent.0));
        }
    }
    for agent in state.agents.live.values() {
        let offered = resources::unallocated(&agent.offered.revocable());
        let spare = state.oversubscribed.of(agent.key).cloned().unwrap_or_default();
        if !spare.contains(&offered) {
            report("what-is-offered-can-be-spared", format!("agent S{}: {offered} of {spare}", agent.key.0));
        }
    }
}

/// What must be delivered is complete and in order.
fn check_queues(state: &State, report: Report<'_>) {
    for agent in state.agents.live.values() {
        let expected = agent.orders_acknowledged + 1..agent.next_order;
        if !agent.outbox.keys().copied().eq(expected) {
            report("orders-are-contiguous", format!("agent S{}", agent.key.0));
        }
    }
    for task in state.tasks.live.values() {
        let ends = task.updates.iter().position(|update| crate::task_state::is_terminal(update.state));
        if ends.is_some_and(|at| at + 1 != task.updates.len()) {
            report("nothing-follows-an-end", format!("task F{}/{}", task.framework.0, task.task_id));
        }
    }
}

/// An operation is on an agent that is there, and waits for it, or for a framework that is there.
fn check_operations(state: &State, report: Report<'_>) {
    for (key, operation) in &state.operations.live {
        let mut wrong = |rule| report(rule, format!("operation P{}", key.0));
        if operation.key != *key || key.0 >= state.operations.next {
            wrong("keys-are-counted");
        }
        if state.agents.get(operation.agent).is_none() {
            wrong("operations-have-agents");
        }
        let waiting = operation.framework.filter(|_| operation.id.is_some());
        if waiting.is_some_and(|framework| state.frameworks.get(framework).is_none()) {
            wrong("operations-with-an-id-have-live-frameworks");
        }
        if operation.is_pending() == operation.update.is_some() || (!operation.is_pending() && waiting.is_none()) {
            wrong("ended-operations-wait-for-their-frameworks");
        }
    }
    for agent in state.agents.live.values() {
        // Whatever was made of what: undone, it is what the agent was configured with.
        let info = v1::AgentInfo::decode(agent.info.clone()).unwrap_or_default();
        let configured = Resources::from_v1(&info.resources).unwrap_or_default();
        let total = resources::own(&agent.total);
        if total.as_configured() != configured.as_configured() {
            report("conversions-gain-and-lose-nothing", format!("agent S{}: {total} of {configured}", agent.key.0));
        }
        let providers: BTreeSet<_> = agent.total.iter().map(|resource| resource.provider_id.as_deref()).collect();
        for provider in providers {
            let its = agent.total.filter(|resource| resource.provider_id.as_deref() == provider);
            if let Err(why) = rules::unique_volumes(&its) {
                report("volumes-are-unique", format!("agent S{}: {why}", agent.key.0));
            }
            if provider.is_some_and(|id| state.providers.get(agent.key, id).is_none()) {
                report("what-is-provided-has-a-provider", format!("agent S{}: {its}", agent.key.0));
            }
        }
    }
    for key in state.operations.of_providers.keys().filter(|key| state.operations.get(**key).is_none()) {
        report("what-is-said-of-operations-is-of-what-is-there", format!("operation P{}", key.0));
    }
    for (key, providers) in &state.providers.by_agent {
        let ids: BTreeSet<_> = providers.iter().map(|provider| &provider.id).collect();
        if state.agents.get(*key).is_none() || providers.is_empty() || ids.len() != providers.len() {
            report("providers-are-of-agents", format!("agent S{}", key.0));
        }
    }
}

/// What frameworks want and operators pause goes with its framework; what is held goes with what it is of.
fn check_wishes(state: &State, report: Report<'_>) {
    for framework in state.constraints.said.keys().filter(|key| state.frameworks.get(**key).is_none()) {
        report("constraints-are-of-frameworks", format!("F{}", framework.0));
    }
    for brake in state.brakes.pulled.keys() {
        match brake {
            Brake::Framework(key) if state.frameworks.get(*key).is_none() => {
                report("brakes-are-of-frameworks", format!("F{}", key.0));
            }
            _ => {}
        }
    }
    for offer in state.offers.live.values() {
        let pulled = state.brakes.hold(offer.framework, &offer.role);
        if pulled.is_some_and(|(_, pulled)| pulled.since_ms < offer.at_ms) {
            report("nothing-is-offered-that-is-paused", format!("offer O{}", offer.key.0));
        }
    }
    for (agent, role, volume) in state.held.since.keys() {
        let is_it = |resource: &Resource| state.held.get(*agent, resource).is_some();
        if !state.agents.get(*agent).is_some_and(|agent| agent.total.iter().any(is_it)) {
            report("held-since-is-of-what-is-there", format!("S{} {role} {volume}", agent.0));
        }
    }
}

/// Nobody joins by a token more often than its operator said; whoever is over is known by an identity of its own alone.
fn check_identities(state: &State, report: Report<'_>) {
    for (token, minted) in state.identities.tokens.iter().filter(|(_, token)| token.used > token.uses_max) {
        report("tokens-are-used-as-often-as-said", format!("token {token}: {} of {}", minted.used, minted.uses_max));
    }
    for (agent, bound) in &state.identities.of_agents {
        if state.agents.get(*agent).is_none() && !matches!(bound, Bound::Own { .. }) {
            report("bindings-are-of-agents", format!("S{}", agent.0));
        }
    }
}

/// Derived indexes are what a rebuild would make of them.
fn check_derived(state: &State, report: Report<'_>) {
    let mut rebuilt = state.clone();
    rebuilt.rebuild();
    if state.frameworks.by_role != rebuilt.frameworks.by_role {
        report("derived", "frameworks by role".into());
    }
    if state.offers.by_agent != rebuilt.offers.by_agent || state.offers.by_framework != rebuilt.offers.by_framework {
        report("derived", "offers by agent or framework".into());
    }
    if state.agents.by_address != rebuilt.agents.by_address {
        report("derived", "agents by address".into());
    }
    if state.agents.charged != rebuilt.agents.charged {
        report("derived", "what limits count".into());
    }
    if state.operations.by_agent != rebuilt.operations.by_agent
        || state.operations.by_framework != rebuilt.operations.by_framework
    {
        report("derived", "operations by agent or framework".into());
    }
    if state.tasks.by_agent != rebuilt.tasks.by_agent {
        report("derived", "tasks by agent".into());
    }
    if state.tasks.completed_counts != rebuilt.tasks.completed_counts {
        report("derived", "completed tasks of a framework".into());
    }
    let (maintenance, rebuilt_maintenance) = (&state.maintenance, &rebuilt.maintenance);
    if maintenance.waiting != rebuilt_maintenance.waiting {
        report("derived", "inverse offers by agent and framework".into());
    }
    if maintenance.unavailable != rebuilt_maintenance.unavailable {
        report("derived", "unavailability of machines".into());
    }
    if state.constraints.ready != rebuilt.constraints.ready {
        report("derived", "constraints that are ready to be asked".into());
    }
    if state.identities.by_hash != rebuilt.identities.by_hash {
        report("derived", "whose an identity is".into());
    }
    if state.deadlines != rebuilt.deadlines {
        report("derived", "deadlines".into());
    }
}
