//! The story of losing touch: an agent's connection ends, it does not return in time, it returns after all, or it is
//! over.

use crate::decide::{Draft, Reply};
use crate::event::{
    AgentDisconnected, AgentEnding, AgentRemoved, AgentUnreachable, Fate, OfferKeys, OffersReturned, Return,
    TaskDeclared,
};
use crate::ids::{AgentKey, Connection, ConnectionId, FrameworkKey, OfferKey};
use crate::inverse;
use crate::operations;
use crate::reconcile::time_info;
use crate::state::unfinished::Parting;
use crate::state::{Agent, AgentLiveness, History, State, Task};
use crate::status;
use crate::task_state::lost_or;
use crate::view;
use allocator::constraints::Limits;
use api::v1;
use api::v1::TaskState;
use api::v1::task_status::Reason;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What an operator may choose about losing touch and forgetting. It enters events as deadlines and bounds: each is what
/// the leader had when the event was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long an agent whose connection ended has to return, here or at another master, in milliseconds. Whoever was
    /// away when a leadership began has at least so long from then on: while nobody led, nobody could return.
    pub agent_away_ms_max: u64,
    /// Whoever was away when a leadership began has at least so long from then on, if that is longer, in milliseconds:
    /// `--agent_reregister_timeout`.
    pub reregister_ms_max: u64,
    /// Agents become unreachable one at a time, so far apart, in milliseconds: `--agent_removal_rate_limit`. None: as they
    /// are due.
    pub removal_pace_ms: Option<u64>,
    /// No agent becomes unreachable of those that were away when a leadership began and did not return in time, if they are
    /// more than so many thousandths of a percent of all: `--recovery_agent_removal_limit`.
    pub recovery_limit_millipercent: u32,
    /// What is large is done so many events at a time, each time in a record of its own.
    pub step_events: usize,
    /// An agent that is unreachable for longer is forgotten, in milliseconds.
    pub unreachable_ms_max: u64,
    /// So many unreachable agents are remembered.
    pub unreachable_max: usize,
    /// The shortest refusal of an offer that is not none, in milliseconds: the time between two plans.
    pub refuse_ms_min: u64,
    /// The masters say where they are: only then may agents.
    pub has_domain: bool,
    /// Agents must say where they are.
    pub require_agent_domain: bool,
    /// How much of what is over is remembered.
    pub history: History,
    /// What a regular expression of offer constraints may cost.
    pub regex: Limits,
    /// The only roles that frameworks may have and operators may name, beside `*`; None if any will do.
    pub whitelist: Option<Arc<BTreeSet<Arc<str>>>>,
    /// Who may do what: `--acls`.
    pub authorizer: auth::Authorizer,
    /// Agents have identities, or are bound to principals: `--agent_identities`.
    pub agent_identities: bool,
    /// So long an identity is good, in milliseconds: `--agent_identity_life`.
    pub identity_life_ms: u64,
}

impl Options {
    /// Whether frameworks may have this role and operators may name it.
    pub fn lists(&self, role: &str) -> bool {
        role == "*" || self.whitelist.as_ref().is_none_or(|whitelist| whitelist.contains(role))
    }
}

impl Default for Options {
    /// Five pings of 15 seconds, and what the flags say by default.
    fn default() -> Options {
        Options {
            agent_away_ms_max: 75_000,
            reregister_ms_max: 0,
            removal_pace_ms: None,
            recovery_limit_millipercent: 100_000,
            step_events: 1000,
            unreachable_ms_max: 14 * 24 * 3_600_000,
            unreachable_max: 102_400,
            refuse_ms_min: 1000,
            has_domain: false,
            require_agent_domain: false,
            history: History::default(),
            regex: Limits::default(),
            whitelist: None,
            authorizer: auth::Authorizer::default(),
            agent_identities: false,
            identity_life_ms: 30 * 24 * 3_600_000,
        }
    }
}

/// Whether another agent may become unreachable: the last one did long enough ago. One that is back by then is not counted.
pub(crate) fn may_be_unreachable(state: &State, at_ms: u64, options: &Options) -> bool {
    if too_few_returned(state, at_ms, options).is_some() {
        return false;
    }
    let Some(pace_ms) = options.removal_pace_ms else { return true };
    let since = state.agents.live.values().filter_map(|agent| match agent.liveness {
        AgentLiveness::Unreachable { since_ms } => Some(since_ms),
        AgentLiveness::Connected { .. } | AgentLiveness::Disconnected { .. } => None,
    });
    since.max().is_none_or(|last_ms| last_ms.saturating_add(pace_ms) <= at_ms)
}

/// Why no agent is given up, if so many have not returned since the election that an operator has to look first.
pub fn too_few_returned(state: &State, at_ms: u64, options: &Options) -> Option<String> {
    let limit = u64::from(options.recovery_limit_millipercent);
    let led_since_ms = state.leader.as_ref().map_or(0, |leader| leader.since_ms);
    let patience_ms = options.agent_away_ms_max.max(options.reregister_ms_max);
    if limit >= 100_000 || at_ms < led_since_ms.saturating_add(patience_ms) {
        return None;
    }
    let known = || state.agents.live.values().filter(|agent| !agent.is_unreachable());
    let of = known().filter(|agent| agent.registered_ms < led_since_ms).count() as u64;
    // Who leaves later than the election's turmoil was there when it was over.
    let is_missed = |agent: &&Arc<Agent>| match agent.liveness {
        AgentLiveness::Disconnected { since_ms, deadline_ms } => {
            state.is_recovered(agent)
                && since_ms <= led_since_ms.saturating_add(options.agent_away_ms_max)
                && deadline_ms <= at_ms
        }
        AgentLiveness::Connected { .. } | AgentLiveness::Unreachable { .. } => false,
    };
    let missed: Vec<AgentKey> = known().filter(is_missed).map(|agent| agent.key).collect();
    let missing = missed.len() as u64;
    if missing * 100_000 <= of * limit {
        return None;
    }
    let some: Vec<String> = missed.iter().take(10).map(|agent| view::agent_id(state, *agent)).collect();
    let more = if missed.len() > some.len() { ", ..." } else { "" };
    let percent =
        |thousandths: u64| format!("{}%", api::resources::Milli(i64::try_from(thousandths).unwrap_or(i64::MAX)));
    Some(format!(
        "{missing} of {of} agents ({}) have not returned {} after the election: {}{more}. That is more than the \
         --recovery_agent_removal_limit of {}, so none of them is given up, and this master ends: see where they are, or \
         raise the limit",
        percent(missing * 100_000 / of.max(1)),
        api::time::span(at_ms - led_since_ms),
        some.join(", "),
        percent(limit),
    ))
}

/// The agent's connection ended, if it still was its connection.
pub(crate) fn connection_ended(draft: &mut Draft, agent_id: &str, connection: Connection) -> Reply {
    let agent = view::parse_agent_id(&draft.state, agent_id).and_then(|key| draft.state.agents.get(key));
    let current = agent.filter(|agent| agent.connection().is_some_and(|current| current.id == connection.id));
    if let Some(key) = current.map(|agent| agent.key) {
        disconnect(draft, key);
    }
    Reply::Empty
}

/// The agent is away: its offers are taken back, its tasks go on. Unless another registered at its address since, while
/// it still seemed to be there: then it will not return.
pub(crate) fn disconnect(draft: &mut Draft, key: AgentKey) {
    if is_replaced(draft, key) {
        return remove(draft, key, Parting::Replaced);
    }
    if !event_log::planted(event_log::Bug::OffersKeptOnAgentLost) {
        return_offers(draft, key, Return::AgentLost);
    }
    let connection = draft.state.agents.get(key).and_then(|agent| agent.connection());
    if let Some(connection) = connection {
        let deadline_ms = draft.at_ms.saturating_add(draft.options.agent_away_ms_max);
        draft.push(AgentDisconnected { agent: key, connection: connection.id, deadline_ms });
    }
}

/// Two processes cannot listen on one address: whoever came later is the one that does.
fn is_replaced(draft: &Draft, key: AgentKey) -> bool {
    let agents = &draft.state.agents;
    agents.get(key).is_some_and(|agent| agents.at(&agent.address).any(|other| other > key))
}

/// All offers of an agent go back, one event for each framework.
pub(crate) fn return_offers(draft: &mut Draft, agent: AgentKey, why: Return) {
    let mut offers: BTreeMap<FrameworkKey, Vec<OfferKey>> = BTreeMap::new();
    for key in draft.state.offers.on(agent) {
        if let Some(offer) = draft.state.offers.get(key) {
            offers.entry(offer.framework).or_default().push(key);
        }
    }
    for (framework, offers) in offers {
        draft.push(OffersReturned { framework, offers: OfferKeys::new(offers), why });
    }
    inverse::return_on(draft, agent, why);
}

/// The agent did not return in time. It may still, with its tasks. One with very many is given up some tasks at a time:
/// it stays due until none is left.
pub(crate) fn unreachable(draft: &mut Draft, key: AgentKey) {
    let agent = draft.state.agents.get(key).expect("a deadline's agent is registered");
    let message = format!("Agent {} is unreachable", agent.hostname);
    let (tasks, is_all) = some(running(&draft.state, key), draft.options.step_events);
    for task in tasks {
        let framework = draft.state.frameworks.get(task.framework).expect("a live task's framework is live");
        let state = lost_or(TaskState::TaskUnreachable, framework);
        let agent_id = Some(view::agent_id(&draft.state, key));
        let mut status =
            status::of_master(&task.task_id, agent_id, state, Reason::AgentRemoved, message.clone(), draft.at_ms);
        // Whatever the framework knows the state as.
        status.unreachable_time = Some(time_info(draft.at_ms));
        declare(draft, &task, state as i32, status, Fate::Unreachable);
    }
    if is_all {
        draft.push(AgentUnreachable { agent: key });
    }
}

/// The agent is over, and so are its tasks. Ends that their frameworks have not acknowledged stay until they do. One
/// with very many tasks is out at once, and its tasks go with one record after the other.
pub(crate) fn remove(draft: &mut Draft, key: AgentKey, why: Parting) {
    if draft.state.is_parting(key) {
        return;
    }
    return_offers(draft, key, Return::AgentLost);
    operations::agent_is_over(draft, key, why);
    let connection = draft.state.agents.get(key).and_then(|agent| agent.connection()).map(|connection| connection.id);
    let step = draft.options.step_events;
    if draft.state.feature_level.has_steps() && not_over(&draft.state, key).nth(step).is_some() {
        draft.push(AgentEnding { agent: key, connection, why });
        return go_on(draft, key);
    }
    end_some(draft, key, why, usize::MAX);
    draft.push(removed(key, connection, why));
}

fn removed(agent: AgentKey, connection: Option<ConnectionId>, why: Parting) -> AgentRemoved {
    AgentRemoved { agent, connection, by_operator: why == Parting::MarkedGone, reason: why.sentence().into() }
}

/// The next step of an agent's end.
pub(crate) fn go_on(draft: &mut Draft, key: AgentKey) {
    let Some(end) = draft.state.unfinished.agents.get(&key).copied() else { return };
    if end_some(draft, key, end.why, draft.options.step_events) {
        // Its connection was closed when its end began.
        draft.push(removed(key, None, end.why));
    }
}

/// Ends some more of its tasks. True if none is left.
fn end_some(draft: &mut Draft, key: AgentKey, why: Parting, max: usize) -> bool {
    let (tasks, is_all) = some(not_over(&draft.state, key), max);
    let sentence = match (why, draft.state.agents.get(key)) {
        (Parting::MachineDown, Some(agent)) => format!("Agent {} removed: {}", agent.hostname, why.sentence()),
        _ => why.sentence().to_owned(),
    };
    for task in tasks {
        let framework = draft.state.frameworks.get(task.framework).expect("a live task's framework is live");
        let (finer, reason) = match why {
            Parting::MarkedGone => (TaskState::TaskGoneByOperator, Reason::AgentRemovedByOperator),
            Parting::Forgotten => (TaskState::TaskGone, Reason::AgentRemoved),
            Parting::Left | Parting::LogLost | Parting::Replaced | Parting::MachineDown => {
                (TaskState::TaskLost, Reason::AgentRemoved)
            }
        };
        let state = lost_or(finer, framework);
        let reason = if state == finer { reason } else { Reason::AgentRemoved };
        let agent_id = Some(view::agent_id(&draft.state, key));
        let status = status::of_master(&task.task_id, agent_id, state, reason, sentence.as_str(), draft.at_ms);
        declare(draft, &task, state as i32, status, Fate::Completed);
    }
    is_all
}

/// The agent's tasks that have not ended, as far as the log knows, and are not set aside.
fn running(state: &State, agent: AgentKey) -> impl Iterator<Item = &Arc<Task>> {
    state.tasks.on(agent).filter(|task| !task.is_terminal() && task.unreachable_ms.is_none())
}

/// The agent's tasks that have not ended, and those that are set aside.
fn not_over(state: &State, agent: AgentKey) -> impl Iterator<Item = &Arc<Task>> {
    state.tasks.on(agent).filter(|task| !task.is_terminal() || task.unreachable_ms.is_some())
}

/// Some tasks, and whether these are all of them.
pub(crate) fn some<'a>(mut tasks: impl Iterator<Item = &'a Arc<Task>>, max: usize) -> (Vec<Arc<Task>>, bool) {
    let some = tasks.by_ref().take(max).cloned().collect();
    (some, tasks.next().is_none())
}

/// The masters say what became of a task.
pub(crate) fn declare(draft: &mut Draft, task: &Task, state: i32, mut status: v1::TaskStatus, fate: Fate) {
    status.executor_id = task.executor_id.as_ref().map(|id| v1::ExecutorId { value: id.to_string() });
    let status = status.encode_to_vec().into();
    draft.push(TaskDeclared { task: task.key(), agent: task.agent, state, status, fate });
}

#[cfg(test)]
mod tests {
    use super::{Options, too_few_returned};
    use crate::testing::Cluster;
    use api::v1::TaskState::*;
    use api::v1::task_status::Reason;

    #[test]
    fn an_agent_that_is_away_takes_its_offers_and_returns() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.offer();
        assert_eq!(cluster.agent_disconnected(agent), ["offers-returned", "agent-disconnected"]);
        assert!(cluster.effects_text().contains("SendRescind"));
        assert!(cluster.offer().is_empty());
        assert_eq!(cluster.resume(agent, &["t"]).unwrap(), ["agent-resumed"]);
        assert_eq!(cluster.state.next_deadline(), None);
        cluster.at_ms += 5_000;
        assert_eq!(cluster.offer().len(), 1);
    }

    #[test]
    fn an_agent_whose_place_was_taken_while_it_seemed_to_be_there_does_not_wait_for_its_return() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent_at("10.0.0.1:5051", "cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        // Its disk is lost and it is back at once; the master with the old connection has not noticed yet.
        let new = cluster.agent_at("10.0.0.1:5051", "cpus:4;mem:100");
        assert!(cluster.state.agents.get(agent).is_some() && cluster.state.tasks.get(&task).is_some());
        assert_eq!(cluster.agent_disconnected(agent), ["task-declared", "agent-removed"]);
        assert_eq!(cluster.statuses().pop().unwrap().state(), TaskLost);
        assert!(cluster.state.agents.get(agent).is_none() && cluster.state.agents.get(new).is_some());
    }

    #[test]
    fn too_many_agents_that_do_not_return_after_an_election_are_not_given_up() {
        let mut cluster = Cluster::new();
        let agents = [0, 1, 2, 3].map(|_| cluster.agent("cpus:4;mem:100"));
        cluster.at_ms += 10;
        cluster.lead(1, 2, "C");
        agents[..3].iter().for_each(|agent| drop(cluster.agent_disconnected(*agent)));
        cluster.at_ms += 10;
        cluster.resume(agents[0], &[]).unwrap();
        cluster.at_ms += cluster.chosen.agent_away_ms_max;
        let why = |cluster: &Cluster, limit: u32| {
            let options = Options { recovery_limit_millipercent: limit, ..cluster.chosen.clone() };
            too_few_returned(&cluster.state, cluster.at_ms, &options)
        };
        assert_eq!((why(&cluster, 100_000), why(&cluster, 50_000)), (None, None), "half of them are as many as may go");
        let sentence = why(&cluster, 49_900).unwrap();
        assert!(
            sentence.starts_with("2 of 4 agents (50%) have not returned") && sentence.contains("C-S1, C-S2"),
            "{sentence}"
        );
        cluster.chosen.recovery_limit_millipercent = 49_900;
        assert_eq!(cluster.deadline_passed(), [""; 0]);
        cluster.agent_disconnected(agents[3]);
        assert!(why(&cluster, 50_000).is_none(), "whoever leaves later was there");
        cluster.chosen.recovery_limit_millipercent = 100_000;
        assert_eq!(cluster.deadline_passed(), ["agent-unreachable"; 2]);
    }

    #[test]
    fn an_unreachable_agent_may_come_back_with_its_tasks() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.update(&task, TaskRunning);
        cluster.acknowledge(&task);
        assert_eq!(cluster.agent_unreachable(agent), ["task-declared", "agent-unreachable"]);
        let status = cluster.statuses().pop().unwrap();
        assert_eq!((status.state(), status.reason()), (TaskUnreachable, Reason::AgentRemoved));
        assert!(status.unreachable_time.is_some() && status.uuid.is_none());
        assert!(cluster.effects_text().contains("SendFailure"));
        assert_eq!(cluster.resume(agent, &["t"]).unwrap(), ["agent-resumed", "task-declared"]);
        let status = cluster.statuses().pop().unwrap();
        assert_eq!((status.state(), status.reason()), (TaskRunning, Reason::AgentReregistered));
        assert_eq!(cluster.state.agents.get(agent).unwrap().used.scalar_milli("cpus"), 1000);
    }

    #[test]
    fn a_task_that_did_not_come_back_is_over() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.agent_unreachable(agent);
        assert_eq!(cluster.state.tasks.get(&task).unwrap().state, TaskLost as i32);
        let status = cluster.statuses().pop().unwrap();
        assert!(status.unreachable_time.is_some(), "who does not tell losses apart hears since when, too");
        cluster.resume(agent, &[]).unwrap();
        assert!(cluster.state.tasks.get(&task).is_none());
    }

    #[test]
    fn a_gone_agent_is_never_admitted_again() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.offer();
        assert_eq!(cluster.mark_gone(agent), ["offers-returned", "task-declared", "agent-removed"]);
        let status = cluster.statuses().pop().unwrap();
        assert_eq!((status.state(), status.reason()), (TaskLost, Reason::AgentRemoved));
        assert_eq!(status.message(), "Agent has been marked gone");
        assert!(cluster.resume(agent, &[]).is_err());
        assert_eq!(cluster.mark_gone(agent), [""; 0], "once is enough");
    }

    #[test]
    fn an_agent_that_was_given_up_before_it_knew_its_id_has_its_tasks_when_it_comes() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent_with_token(7, "cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.agent_unreachable(agent);
        assert!(cluster.state.tasks.get(&task).unwrap().released);
        assert_eq!(cluster.agent_with_token(7, "cpus:4;mem:100"), agent);
        let known = cluster.state.agents.get(agent).unwrap();
        assert_eq!(known.outbox.len(), 1, "the launch still waits for it");
        assert_eq!(known.used.scalar_milli("cpus"), 1000, "and so it holds what it is about to use");
        assert_eq!(cluster.state.tasks.get(&task).unwrap().unreachable_ms, None);
    }

    /// An agent with five tasks, in a cluster that does two events a step.
    fn many() -> (Cluster, crate::ids::FrameworkKey, crate::ids::AgentKey) {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster.chosen.step_events = 2;
        let framework = cluster.subscribe_as_partition_aware();
        let agent = cluster.agent("cpus:8;mem:100");
        for id in ["a", "b", "c", "d", "e"] {
            cluster.launch(framework, id, "cpus:1;mem:10");
        }
        cluster.acknowledge_orders(agent, 5);
        (cluster, framework, agent)
    }

    #[test]
    fn an_agent_with_very_many_tasks_becomes_unreachable_in_steps_and_returns_in_steps() {
        let (mut cluster, framework, agent) = many();
        let names = cluster.agent_unreachable(agent);
        assert_eq!(names.iter().filter(|name| **name == "task-declared").count(), 5);
        assert_eq!(names.last(), Some(&"agent-unreachable"));
        assert!(cluster.state.agents.get(agent).unwrap().used.is_empty());

        let names = cluster.resume(agent, &["a", "b", "c", "d", "e"]).unwrap();
        assert_eq!(names, ["agent-resumed", "task-declared", "task-declared", "agent-returning"]);
        cluster.reconcile(framework, &[("e", None)]);
        assert_eq!(cluster.statuses().pop().unwrap().state(), TaskUnreachable, "not yet");
        assert_eq!(cluster.deadline_passed().last(), Some(&"agent-returned"));
        assert_eq!(cluster.state.agents.get(agent).unwrap().used.scalar_milli("cpus"), 5000);
        assert_eq!(cluster.state.unfinished, Default::default());
    }

    #[test]
    fn an_agent_that_goes_away_before_all_of_it_is_back_returns_another_time() {
        let (mut cluster, _, agent) = many();
        cluster.agent_unreachable(agent);
        cluster.resume(agent, &["a", "b", "c", "d", "e"]).unwrap();
        cluster.agent_disconnected(agent);
        assert_eq!(cluster.deadline_passed(), ["agent-returned"]);
        cluster.resume(agent, &["a", "b", "c", "d", "e"]).unwrap();
        cluster.deadline_passed();
        assert_eq!(cluster.state.agents.get(agent).unwrap().used.scalar_milli("cpus"), 5000);
    }

    #[test]
    fn an_agent_that_lost_very_many_tasks_is_asked_to_come_again() {
        let (mut cluster, _, agent) = many();
        cluster.agent_disconnected(agent);
        let mut asked = 0;
        while let Ok(names) = cluster.resume(agent, &[]) {
            let crate::decide::Reply::Refused(refusal) = &cluster.reply else {
                assert_eq!(names, ["task-declared", "agent-resumed"]);
                break;
            };
            assert_eq!((refusal.name, names), (crate::STILL_SETTLING, vec!["task-declared", "task-declared"]));
            asked += 1;
        }
        assert_eq!(asked, 2);
        assert!(cluster.state.tasks.live.is_empty());
    }

    #[test]
    fn an_agent_with_very_many_tasks_is_gone_at_once_and_its_tasks_follow() {
        let (mut cluster, framework, agent) = many();
        assert_eq!(cluster.mark_gone(agent), ["agent-ending", "task-declared", "task-declared"]);
        assert!(cluster.effects_text().contains("CloseAgent"));
        assert_eq!(cluster.mark_gone(agent), [""; 0], "once is enough");
        let refusal = cluster.resume(agent, &["e"]).unwrap_err();
        assert_eq!(refusal.kind, crate::refusal::RefusalKind::EndAgent);
        assert!(cluster.offer().is_empty());
        // Its framework leaves in the middle of it.
        cluster.teardown(framework);
        assert_eq!(cluster.deadline_passed().last(), Some(&"agent-removed"));
        assert!(cluster.state.agents.live.is_empty() && cluster.state.agents.gone.contains_key(&agent));
        assert!(cluster.state.tasks.live.is_empty());
        assert_eq!(cluster.state.next_deadline(), None);
    }

    #[test]
    fn a_token_waits_for_the_end_of_its_agent() {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster.chosen.step_events = 1;
        let framework = cluster.subscribe();
        let agent = cluster.agent_with_token(7, "cpus:8;mem:100");
        cluster.launch(framework, "a", "cpus:1;mem:10");
        cluster.launch(framework, "b", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.agent_disconnected(agent);
        let refusal = cluster.try_agent_with_token(7, "cpus:8;mem:100").unwrap_err();
        assert_eq!(refusal.name, crate::STILL_SETTLING);
        assert_eq!(cluster.try_agent_with_token(7, "cpus:8;mem:100").unwrap_err().name, crate::STILL_SETTLING);
        cluster.deadline_passed();
        assert_ne!(cluster.try_agent_with_token(7, "cpus:8;mem:100").unwrap(), agent);
    }
}
