//! The story of time: what is due is found here, and decided item by item, so that nothing that cannot be decided keeps
//! the rest waiting.

use crate::decide::{Draft, Reply};
use crate::event::{OfferKeys, OffersReturned, Removal, Return};
use crate::ids::{FrameworkKey, OfferKey};
use crate::lost::{self, Options};
use crate::state::{AgentLiveness, Deadline, State};
use crate::{inverse, register, teardown};
use std::collections::BTreeMap;

/// So many items are named at once: what is behind them waits for the next look.
const DUE_MAX: usize = 64;

/// Offers to one framework that go back by one event.
const OFFERS_MAX: usize = 1000;

/// What is decided together because its time has come: one thing, or offers to one framework.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due(Vec<Deadline>);

impl Due {
    /// What it is.
    pub fn items(&self) -> &[Deadline] {
        &self.0
    }
}

/// Whether something due is decided now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Now, and with others of its kind.
    Together,
    /// Now, and by itself: it could not be decided before.
    Alone,
    /// Later: it could not be decided before.
    Later,
}

/// What is due at `at_ms`, the oldest first, and its `turn` has come; at most some.
pub fn due(state: &State, at_ms: u64, options: &Options, turn: impl Fn(&Deadline) -> Turn) -> Vec<Due> {
    let mut due: Vec<Due> = Vec::new();
    let mut offers: BTreeMap<FrameworkKey, usize> = BTreeMap::new();
    // At most one agent at a time, if there is a pace.
    let mut may_lose = None;
    for (_, what) in state.deadlines.iter().take_while(|(due_ms, _)| *due_ms <= at_ms) {
        if due.len() >= DUE_MAX || is_stuck(state, *what) {
            break;
        }
        if has_grace(state, at_ms, options, *what) {
            continue;
        }
        if matches!(what, Deadline::Agent(_)) {
            let may = *may_lose.get_or_insert_with(|| lost::may_be_unreachable(state, at_ms, options));
            if !may {
                continue;
            }
        }
        let turn = turn(what);
        if turn == Turn::Later {
            continue;
        }
        let to = match what {
            Deadline::Offer(key) if turn == Turn::Together => state.offers.get(*key).map(|offer| offer.framework),
            _ => None,
        };
        let beside = to.and_then(|to| offers.get(&to)).copied().filter(|place| due[*place].0.len() < OFFERS_MAX);
        match beside {
            Some(place) => due[place].0.push(*what),
            None => {
                if matches!(what, Deadline::Agent(_)) && options.removal_pace_ms.is_some() {
                    may_lose = Some(false);
                }
                to.map(|to| offers.insert(to, due.len()));
                due.push(Due(vec![*what]));
            }
        }
    }
    due
}

/// With a defect planted: the end of a framework with tasks never comes to be, and what is due behind it waits.
fn is_stuck(state: &State, what: Deadline) -> bool {
    let Deadline::Framework(key) = what else { return false };
    event_log::planted(event_log::Bug::DeadlinesAllOrNothing) && state.tasks.of(key).next().is_some()
}

/// Decides what is due. Whatever is not, any more, is left alone.
pub(crate) fn pass(draft: &mut Draft, due: &Due) -> Reply {
    let mut expired: BTreeMap<FrameworkKey, Vec<OfferKey>> = BTreeMap::new();
    for what in &due.0 {
        let is_due = due_ms(&draft.state, *what).is_some_and(|due_ms| due_ms <= draft.at_ms);
        if !is_due || has_grace(&draft.state, draft.at_ms, &draft.options, *what) {
            continue;
        }
        match *what {
            Deadline::Offer(key) => {
                if let Some(offer) = draft.state.offers.get(key) {
                    expired.entry(offer.framework).or_default().push(key);
                }
            }
            Deadline::InverseOffer(key) => inverse::expire(draft, key),
            Deadline::Framework(key) => teardown::remove(draft, key, Removal::FailoverTimeout),
            Deadline::Agent(key) if lost::may_be_unreachable(&draft.state, draft.at_ms, &draft.options) => {
                lost::unreachable(draft, key);
            }
            Deadline::Agent(_) => {}
            Deadline::FrameworkEnd(key) => teardown::go_on(draft, key),
            Deadline::AgentEnd(key) => lost::go_on(draft, key),
            Deadline::AgentReturn(key) => register::go_on(draft, key),
        }
    }
    for (framework, offers) in expired {
        draft.push(OffersReturned { framework, offers: OfferKeys::new(offers), why: Return::Expired });
    }
    Reply::Empty
}

/// When it is due, if it still is to be.
fn due_ms(state: &State, what: Deadline) -> Option<u64> {
    match what {
        Deadline::Offer(key) => state.offers.get(key)?.expires_ms,
        Deadline::InverseOffer(key) => state.maintenance.inverse_offers.get(&key)?.expires_ms,
        Deadline::Framework(key) => state.frameworks.get(key)?.failover_deadline_ms,
        Deadline::Agent(key) => match state.agents.get(key)?.liveness {
            AgentLiveness::Disconnected { deadline_ms, .. } => Some(deadline_ms),
            AgentLiveness::Connected { .. } | AgentLiveness::Unreachable { .. } => None,
        },
        Deadline::FrameworkEnd(_) | Deadline::AgentEnd(_) | Deadline::AgentReturn(_) => state.unfinished.due_ms(what),
    }
}

/// Whether its time ran while nobody led, so that it could not have returned.
fn has_grace(state: &State, at_ms: u64, options: &Options, what: Deadline) -> bool {
    let away_since_ms = match what {
        Deadline::Offer(_)
        | Deadline::InverseOffer(_)
        | Deadline::FrameworkEnd(_)
        | Deadline::AgentEnd(_)
        | Deadline::AgentReturn(_) => None,
        Deadline::Framework(key) => state.frameworks.get(key).and_then(|framework| framework.disconnected_ms),
        Deadline::Agent(key) => match state.agents.get(key).map(|agent| &agent.liveness) {
            Some(AgentLiveness::Disconnected { since_ms, .. }) => Some(*since_ms),
            _ => None,
        },
    };
    let grace_ms = match what {
        Deadline::Agent(_) => options.agent_away_ms_max.max(options.reregister_ms_max),
        _ => options.agent_away_ms_max,
    };
    let led_since_ms = state.leader.as_ref().map_or(0, |leader| leader.since_ms);
    away_since_ms.is_some_and(|since_ms| since_ms < led_since_ms) && at_ms < led_since_ms.saturating_add(grace_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Caller, Command};
    use crate::testing::Cluster;

    fn due_now(cluster: &Cluster, turn: impl Fn(&Deadline) -> Turn) -> Vec<Due> {
        due(&cluster.state, cluster.at_ms, &Options::default(), turn)
    }

    #[test]
    fn time_without_a_leader_does_not_count() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(60.0));
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.agent_disconnected(agent);
        cluster.disconnect(framework);
        cluster.at_ms += 3_600_000;
        cluster.lead(2, 2, "C");
        assert_eq!(cluster.deadline_passed(), [""; 0], "nobody could have returned in this hour");
        cluster.at_ms += 74_999;
        assert_eq!(cluster.deadline_passed(), [""; 0]);
        assert_eq!(cluster.resume(agent, &[]).unwrap(), ["agent-resumed"]);
        cluster.at_ms += 1;
        assert_eq!(cluster.deadline_passed(), ["framework-removed"]);
    }

    #[test]
    fn offers_have_their_time() {
        let mut cluster = Cluster::new();
        cluster.subscribe();
        for _ in 0..3 {
            cluster.agent("cpus:4;mem:100");
        }
        cluster.options.offer_timeout_ms = Some(30_000);
        assert_eq!(cluster.offer().len(), 3);
        assert_eq!(cluster.state.next_deadline(), Some(cluster.at_ms + 30_000));
        cluster.at_ms += 30_000;
        assert_eq!(due_now(&cluster, |_| Turn::Alone).len(), 3, "each for itself, where one of them is trouble");
        assert_eq!(cluster.deadline_passed(), ["offers-returned"], "one event for all of them");
        assert!(cluster.effects_text().contains("SendRescind"));
        assert_eq!(cluster.state.next_deadline(), None);
    }

    #[test]
    fn agents_become_unreachable_at_a_pace() {
        let mut cluster = Cluster::new();
        cluster.chosen.removal_pace_ms = Some(600_000);
        let agents: Vec<_> = (0..3).map(|_| cluster.agent("cpus:1;mem:100")).collect();
        for agent in &agents {
            cluster.agent_disconnected(*agent);
        }
        cluster.at_ms = cluster.state.next_deadline().unwrap();
        assert_eq!(cluster.deadline_passed(), ["agent-unreachable"]);
        cluster.at_ms += 599_999;
        assert_eq!(cluster.deadline_passed(), [""; 0]);
        cluster.resume(agents[1], &[]).unwrap();
        cluster.at_ms += 1;
        assert_eq!(cluster.deadline_passed(), ["agent-unreachable"], "and the one that is back meanwhile is not");
        assert!(!cluster.state.agents.get(agents[1]).unwrap().is_unreachable());
    }

    #[test]
    fn a_new_leader_may_wait_longer_for_agents_that_were_away() {
        let mut cluster = Cluster::new();
        cluster.chosen.reregister_ms_max = 600_000;
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.agent_disconnected(agent);
        cluster.at_ms += 1;
        cluster.lead(2, 2, "C");
        cluster.at_ms += 599_999;
        assert_eq!(cluster.deadline_passed(), [""; 0]);
        cluster.at_ms += 1;
        assert_eq!(cluster.deadline_passed(), ["agent-unreachable"]);
    }

    #[test]
    fn what_is_set_aside_does_not_keep_the_rest_waiting() {
        let mut cluster = Cluster::new();
        let (first, second) = (cluster.agent("cpus:1;mem:100"), cluster.agent("cpus:1;mem:100"));
        cluster.agent_disconnected(first);
        cluster.agent_disconnected(second);
        cluster.at_ms = cluster.state.next_deadline().unwrap();
        let turn = |later: bool| {
            move |what: &Deadline| match (*what == Deadline::Agent(first), later) {
                (true, true) => Turn::Later,
                (true, false) => Turn::Alone,
                (false, _) => Turn::Together,
            }
        };
        assert_eq!(due_now(&cluster, turn(true)), [Due(vec![Deadline::Agent(second)])]);
        assert_eq!(due_now(&cluster, turn(false)).len(), 2);
    }

    #[test]
    fn what_is_not_due_any_more_is_left_alone() {
        let mut cluster = Cluster::new();
        let agent = cluster.agent("cpus:1;mem:100");
        cluster.agent_disconnected(agent);
        cluster.at_ms = cluster.state.next_deadline().unwrap();
        let due = due_now(&cluster, |_| Turn::Together).pop().unwrap();
        cluster.resume(agent, &[]).unwrap();
        assert_eq!(cluster.run(Command::PassDeadline { due }, &Caller::default()).unwrap(), [""; 0]);
    }

    #[test]
    fn many_are_named_some_at_a_time() {
        let mut cluster = Cluster::new();
        let agents: Vec<_> = (0..100).map(|_| cluster.agent("cpus:1;mem:100")).collect();
        for agent in &agents {
            cluster.agent_disconnected(*agent);
        }
        cluster.at_ms = cluster.state.next_deadline().unwrap();
        assert_eq!(due_now(&cluster, |_| Turn::Together).len(), DUE_MAX);
        assert_eq!(cluster.deadline_passed(), vec!["agent-unreachable"; 100]);
    }
}
