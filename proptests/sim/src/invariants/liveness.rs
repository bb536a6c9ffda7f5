//! After the faults stop everything converges within a bound: a leader, equal masters, connected agents, frameworks that
//! know the end of every task.

use master_core::{State, view};

use crate::agent::Agent;
use crate::cluster::Cluster;
use crate::provider::Account;

/// Virtual milliseconds that everything may take to converge.
pub const BOUND_MS: u64 = 150_000;

/// What an agent's resource providers have and what the masters believe is the same, and nothing is held by one that is gone.
fn unaccounted(agent: &Agent, state: &State) -> Option<String> {
    let name = &agent.name;
    let (accounts, is_unsettled) = agent.providers();
    if is_unsettled {
        return Some(format!("a resource provider of {name} is to come or to go"));
    }
    let key = agent.id().and_then(|id| view::parse_agent_id(state, &id))?;
    let known = state.agents.get(key)?;
    let has = |id: &str| known.total.filter(|one| one.provider_id.as_deref() == Some(id));
    for Account { id, version, has: its, open } in &accounts {
        if *open > 0 {
            return Some(format!("{open} operations of {id} of {name} wait for their acknowledgement"));
        }
        if has(id) != *its {
            return Some(format!("{id} of {name} has {its}, and the masters believe {}", has(id)));
        }
        let is_there = state.providers.get(key, id).is_some_and(|one| one.is_subscribed && one.version == *version);
        if !is_there {
            return Some(format!("the masters do not know {id} of {name} as it is"));
        }
    }
    let gone = state.providers.of(key).iter().filter(|one| !accounts.iter().any(|account| account.id == *one.id));
    let holds = gone.into_iter().find(|one| one.is_subscribed || !has(&one.id).is_empty());
    holds.map(|one| format!("{} of {name} is gone, and has {}", one.id, has(&one.id)))
}

/// What is still open, if anything.
pub fn unfinished(cluster: &Cluster) -> Option<String> {
    let mut leaders = 0;
    let last = cluster.world.oracle.lock().last_index();
    for master in &cluster.masters {
        let Some(context) = master.context() else {
            return Some(format!("{} does not run", master.name()));
        };
        leaders += usize::from(context.reader.leader().is_some_and(|leader| leader.is_me));
        if !context.is_ready() {
            return Some(format!("{} does not serve", master.name()));
        }
        let (state, index) = context.reader.state();
        if index < last {
            return Some(format!("{} is at index {index} of {last}", master.name()));
        }
        let me = context.identity.incarnation();
        if !state.masters.get(&me.node).is_some_and(|known| known.alive && known.incarnation == me) {
            return Some(format!("{} is given up, and does not begin anew", master.name()));
        }
    }
    if leaders != 1 {
        return Some(format!("{leaders} masters lead"));
    }
    if let Some(what) = cluster.frameworks.iter().find_map(|framework| framework.unfinished()) {
        return Some(what);
    }
    let state = cluster.world.oracle.lock().truth.last().map(|truth| truth.state.clone()).unwrap_or_default();
    if let Some(task) = state.tasks.live.values().find(|task| !task.is_terminal() && task.unreachable_ms.is_none()) {
        return Some(format!("{} has not ended", task.task_id));
    }
    // Asking about a task tells its state, but does not take the place of its updates.
    if let Some(task) = state.tasks.live.values().find(|task| !task.updates.is_empty()) {
        return Some(format!("an update of {} waits for its framework", task.task_id));
    }
    // What was converted is so on the agent, in its log and on its disk.
    for agent in state.agents.live.values().filter(|agent| agent.connection().is_some()) {
        let id = view::agent_id(&state, agent.key);
        let found = cluster.agents.iter().filter_map(Agent::converted).find(|(known, ..)| *known == id);
        if let Some((_, converted, is_so)) = found {
            if converted != agent.checkpointed() {
                return Some(format!("{id} has {converted}, and the masters {}", agent.checkpointed()));
            }
            if !is_so {
                return Some(format!("the disk of {id} does not have the volumes of {converted}"));
            }
        }
    }
    if let Some(what) = cluster.agents.iter().find_map(Agent::left_behind) {
        return Some(what);
    }
    if let Some(what) = cluster.agents.iter().find_map(|agent| unaccounted(agent, &state)) {
        return Some(what);
    }
    // An offer that its framework was not told of is held for ever.
    for offer in state.offers.live.values() {
        let (id, to) = (view::offer_id(&state, offer.key), view::framework_id(&state, offer.framework));
        let framework = cluster.frameworks.iter().find(|framework| framework.book.lock().id.as_ref() == Some(&to));
        if let Some(framework) = framework.filter(|framework| !framework.knows(&id)) {
            return Some(format!("{} does not know that {id} is offered to it", framework.name));
        }
    }
    if let Some(operation) = state.operations.live.values().next() {
        return Some(format!("operation {} waits for its end", operation.key.0));
    }
    // What operators reserved stays; frameworks give everything back.
    for agent in state.agents.live.values() {
        let left = agent.total.filter(|one| one.reservation_role().is_some_and(|role| role.starts_with('f')));
        if !left.is_empty() {
            return Some(format!("S{} has {left} left", agent.key.0));
        }
    }
    let connected = state.agents.live.values().filter(|agent| agent.connection().is_some()).count();
    let expected = cluster.agents.iter().filter(|agent| !agent.is_stopped()).count();
    if connected != expected {
        return Some(format!("{connected} of {expected} agents are connected"));
    }
    None
}
