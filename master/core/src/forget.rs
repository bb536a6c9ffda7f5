//! The story of forgetting: what nobody will ask for again goes, some at a time, whenever the leader looks.

use crate::decide::{Draft, Reply};
use crate::event::{FiltersForgotten, HistoryBounded};
use crate::identities;
use crate::ids::{AgentKey, FrameworkKey};
use crate::lost;
use crate::state::unfinished::Parting;
use crate::state::{AgentLiveness, Framework, History};
use std::collections::BTreeSet;

/// So many agents are forgotten at once.
const AGENTS_AT_ONCE: usize = 100;

/// Looks for what is to be forgotten. If something was, there may be more.
pub(crate) fn forget(draft: &mut Draft) -> Reply {
    if draft.state.feature_level.forgets() {
        bound_history(draft);
        forget_filters(draft);
    }
    identities::forget(draft);
    forget_agents(draft);
    Reply::Empty
}

/// The leader's flags become everybody's bounds.
fn bound_history(draft: &mut Draft) {
    let wanted = draft.options.history;
    let history = History { frameworks: wanted.frameworks.max(1), ..wanted };
    if history != draft.state.history {
        draft.push(HistoryBounded { history });
    }
}

fn forget_filters(draft: &mut Draft) {
    let at_ms = draft.at_ms;
    let more = draft.state.refusals.more.iter();
    let more: BTreeSet<FrameworkKey> = more
        .filter(|(_, filters)| filters.iter().any(|filter| filter.until_ms <= at_ms))
        .map(|((framework, ..), _)| *framework)
        .collect();
    let expired = |framework: &Framework| {
        more.contains(&framework.key)
            || framework.roles.values().flat_map(|role| role.filters.values()).any(|filter| filter.until_ms <= at_ms)
    };
    let frameworks = draft.state.frameworks.live.values().filter(|framework| expired(framework));
    let keys: Vec<FrameworkKey> = frameworks.map(|framework| framework.key).take(draft.options.step_events).collect();
    for framework in keys {
        draft.push(FiltersForgotten { framework });
    }
}

/// Agents that were unreachable for too long, or are too many: the longest first.
fn forget_agents(draft: &mut Draft) {
    if event_log::planted(event_log::Bug::UnreachableKept) {
        return;
    }
    let state = &draft.state;
    let mut unreachable: Vec<(u64, AgentKey)> = Vec::new();
    for agent in state.agents.live.values().filter(|agent| !state.is_parting(agent.key)) {
        if let AgentLiveness::Unreachable { since_ms } = agent.liveness {
            unreachable.push((since_ms, agent.key));
        }
    }
    unreachable.sort_unstable();
    let too_many = unreachable.len().saturating_sub(draft.options.unreachable_max);
    let (at_ms, longest_ms) = (draft.at_ms, draft.options.unreachable_ms_max);
    let due = unreachable
        .into_iter()
        .enumerate()
        .filter(|(place, (since_ms, _))| *place < too_many || at_ms.saturating_sub(*since_ms) >= longest_ms);
    let keys: Vec<AgentKey> = due.map(|(_, (_, agent))| agent).take(AGENTS_AT_ONCE).collect();
    for agent in keys {
        if draft.events() >= draft.options.step_events {
            return;
        }
        lost::remove(draft, agent, Parting::Forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;
    use api::v1::TaskState::*;

    const DAY_MS: u64 = 24 * 3_600_000;

    /// A cluster of the newest level.
    fn newest() -> Cluster {
        let mut cluster = Cluster::new();
        cluster.raise();
        cluster
    }

    #[test]
    fn an_agent_that_is_unreachable_for_two_weeks_is_forgotten_with_its_tasks() {
        let mut cluster = newest();
        let plain = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(plain, "t", "cpus:1;mem:10");
        cluster.acknowledge_orders(agent, 1);
        cluster.agent_unreachable(agent);
        cluster.at_ms += 14 * DAY_MS - 1;
        assert_eq!(cluster.forget(), [""; 0]);
        cluster.at_ms += 1;
        assert_eq!(cluster.forget(), ["task-declared", "agent-removed"]);
        assert_eq!(cluster.statuses().pop().unwrap().state(), TaskLost);
        assert!(cluster.state.tasks.get(&task).is_none());
        let refusal = cluster.resume(agent, &["t"]).unwrap_err();
        assert_eq!(refusal.kind, crate::refusal::RefusalKind::RegisterAnew, "and its tasks end with its id");
    }

    #[test]
    fn of_too_many_unreachable_agents_the_oldest_are_forgotten() {
        let mut cluster = newest();
        cluster.chosen.unreachable_max = 2;
        let agents: Vec<_> = (0..4).map(|_| cluster.agent("cpus:1;mem:10")).collect();
        for agent in &agents {
            cluster.at_ms += 1;
            cluster.agent_unreachable(*agent);
        }
        assert_eq!(cluster.forget(), ["agent-removed", "agent-removed"]);
        assert!(cluster.state.agents.get(agents[1]).is_none() && cluster.state.agents.get(agents[2]).is_some());
    }

    #[test]
    fn what_was_declined_long_ago_is_forgotten() {
        let mut cluster = newest();
        let framework = cluster.subscribe();
        cluster.agent("cpus:1;mem:100");
        let offers = cluster.offer();
        cluster.decline(framework, &offers, Some(60.0));
        assert_eq!(cluster.forget(), [""; 0], "it holds");
        cluster.at_ms += 60_000;
        assert_eq!(cluster.forget(), ["filters-forgotten"]);
        assert!(cluster.framework(framework).roles.values().all(|role| role.filters.is_empty()));
        assert_eq!(cluster.forget(), [""; 0]);
    }

    #[test]
    fn history_is_as_long_as_the_leader_s_flags_say() {
        let mut cluster = newest();
        cluster.chosen.history = History { frameworks: 2, tasks: 3 };
        assert_eq!(cluster.forget(), ["history-bounded"]);
        assert_eq!(cluster.forget(), [""; 0]);
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:1000");
        for number in 0..5 {
            let task = cluster.launch(framework, &format!("t{number}"), "cpus:1;mem:10");
            cluster.update(&task, TaskFinished);
            cluster.acknowledge(&task);
        }
        assert_eq!(cluster.state.tasks.completed_of(framework).count(), 3);
        for _ in 0..4 {
            let framework = cluster.subscribe();
            cluster.teardown(framework);
        }
        assert_eq!(cluster.state.frameworks.completed.len(), 2);
    }

    #[test]
    fn a_task_that_changes_its_state_all_the_time_does_not_grow() {
        let mut cluster = newest();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let task = cluster.launch(framework, "t", "cpus:1;mem:10");
        for _ in 0..200 {
            cluster.update(&task, TaskStarting);
            cluster.acknowledge(&task);
            cluster.update(&task, TaskRunning);
            cluster.acknowledge(&task);
        }
        assert_eq!(cluster.state.tasks.get(&task).unwrap().statuses.len(), crate::state::tasks::STATUSES_MAX);
    }

    /// A year of a cluster that loses some agents each day and gets others, with a task on each and a framework that
    /// declines the rest: 3 agents a day stand for
    /// 1,000.
    #[test]
    fn a_cluster_that_loses_and_gains_agents_every_day_stays_flat() {
        const AGENTS: usize = 3;
        let mut cluster = newest();
        cluster.chosen.history.tasks = 50;
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(1e9));
        let mut sizes = Vec::new();
        let mut alive: Vec<AgentKey> = Vec::new();
        for day in 0..365_u64 {
            for agent in std::mem::take(&mut alive) {
                cluster.agent_disconnected(agent);
            }
            cluster.at_ms += 75_000;
            cluster.deadline_passed();
            for _ in 0..AGENTS {
                alive.push(cluster.agent("cpus:4;mem:100"));
            }
            let offers = cluster.offer();
            for offer in &offers {
                let Some(agent) = cluster.state.offers.get(*offer).map(|offer| offer.agent) else { continue };
                cluster.launch_on(framework, agent, &[*offer], &format!("d{day}-{}", agent.0));
            }
            cluster.at_ms += DAY_MS - 75_000;
            while !cluster.forget().is_empty() {}
            if day == 90 || day == 364 {
                // Agents that are gone have a bound of their own, and are a few bytes each.
                let mut state = cluster.state.clone();
                state.agents.gone = imbl::OrdMap::new();
                let mut bytes = Vec::new();
                state.write_snapshot(&mut bytes).unwrap();
                sizes.push(bytes.len());
            }
        }
        let (tasks, agents) = (cluster.state.tasks.live.len(), cluster.state.agents.live.len());
        assert!(tasks <= 16 * AGENTS && agents <= 16 * AGENTS, "{tasks} tasks, {agents} agents");
        let (spring, winter) = (sizes[0], sizes[1]);
        assert!(winter < spring + spring / 10, "{spring} bytes in spring, {winter} in winter");
    }
}
