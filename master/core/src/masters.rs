//! The story of masters: one leads, each lives once per start, and what a dead one held is let go.

use crate::decide::{Draft, Reply};
use crate::event::{ClusterCreated, LeaderElected, MasterLost, MasterStarted};
use crate::ids::{AgentKey, Connection, FrameworkKey, Incarnation};
use crate::level::{self, FeatureLevel};
use crate::lost;
use crate::refusal::{Refusal, RefusalKind};
use crate::subscribe;

/// The least that a framework has to come back when a master with its stream was lost: nobody's tasks die of our fault.
pub(crate) const MASTER_LOST_FAILOVER_MS_MIN: u64 = 600_000;

/// The first record of a leadership. The first of all names the cluster.
pub(crate) fn become_leader(
    draft: &mut Draft,
    leader: Incarnation,
    term: u64,
    cluster_id: &str,
    version: &str,
) -> Reply {
    if draft.state.cluster_id.is_empty() {
        draft.push(event_cluster(cluster_id));
    }
    draft.push(LeaderElected { leader, term, version: version.into() });
    Reply::Empty
}

fn event_cluster(cluster_id: &str) -> ClusterCreated {
    ClusterCreated { cluster_id: cluster_id.into() }
}

/// A master runs. Whatever an earlier life of it held is lost.
pub(crate) fn start(
    draft: &mut Draft,
    master: Incarnation,
    address: &str,
    version: &str,
    reads: FeatureLevel,
) -> Result<Reply, Refusal> {
    level::check(draft, address, reads)?;
    if let Some(known) = draft.state.masters.get(&master.node) {
        let same = known.incarnation == master && *known.address == *address && *known.version == *version;
        if same && known.alive {
            return Ok(Reply::Empty);
        }
    }
    // Shapes of level 1 have no room for it: all masters say it again when the level is raised.
    let reads = if draft.state.feature_level.has_reads() { reads } else { FeatureLevel::FIRST };
    let is_over = |connection: Connection| connection.at.node == master.node && connection.at != master;
    if holds_much(draft, is_over) {
        return Ok(let_some_go(draft, is_over));
    }
    draft.push(MasterStarted { master, address: address.into(), version: version.into(), reads });
    let_go(draft, is_over);
    Ok(Reply::Empty)
}

/// A master stopped, or stopped answering.
pub(crate) fn lose(draft: &mut Draft, master: Incarnation) -> Reply {
    let is_lost = |connection: Connection| connection.at == master;
    if holds_much(draft, is_lost) {
        return let_some_go(draft, is_lost);
    }
    let current = draft.state.masters.get(&master.node);
    if current.is_some_and(|current| current.incarnation == master && current.alive) {
        draft.push(MasterLost { master });
    }
    let_go(draft, is_lost);
    Reply::Empty
}

/// The name of the refusal of a master's loss, or of its new life, that is more than one record takes: some of what it
/// held is let go, and it is to be said again at once.
pub const STILL_HELD: &str = "StillHeld";

fn let_some_go(draft: &mut Draft, is_lost: impl Fn(Connection) -> bool) -> Reply {
    let_go(draft, is_lost);
    let message = "What the master held is being let go: again";
    Reply::Refused(Refusal::new(RefusalKind::Conflict, STILL_HELD, message))
}

/// Whether so many connections are lost that they are let go in several records.
fn holds_much(draft: &Draft, is_lost: impl Fn(Connection) -> bool) -> bool {
    let streams = draft.state.frameworks.live.values().filter_map(|framework| framework.stream.as_ref());
    let agents = draft.state.agents.live.values().filter_map(|agent| agent.connection());
    let held = streams.map(|stream| stream.connection).chain(agents).filter(|connection| is_lost(*connection));
    held.take(draft.options.step_events + 1).count() > draft.options.step_events
}

/// Lets go of as much as one record takes.
fn let_go(draft: &mut Draft, is_lost: impl Fn(Connection) -> bool) {
    if event_log::planted(event_log::Bug::StreamsOfLostMasterKept) {
        return;
    }
    let frameworks: Vec<FrameworkKey> = draft
        .state
        .frameworks
        .live
        .values()
        .filter(|framework| framework.stream.as_ref().is_some_and(|stream| is_lost(stream.connection)))
        .map(|framework| framework.key)
        .take(draft.options.step_events)
        .collect();
    let room = draft.options.step_events - frameworks.len();
    for framework in frameworks {
        subscribe::disconnect(draft, framework, MASTER_LOST_FAILOVER_MS_MIN);
    }
    let agents: Vec<AgentKey> = draft
        .state
        .agents
        .live
        .values()
        .filter(|agent| agent.connection().is_some_and(&is_lost))
        .map(|agent| agent.key)
        .take(room)
        .collect();
    for agent in agents {
        lost::disconnect(draft, agent);
    }
}

#[cfg(test)]
mod tests {
    use crate::state::AgentLiveness;
    use crate::testing::{Cluster, master};

    #[test]
    fn the_first_leader_names_the_cluster_and_no_other_does() {
        let mut cluster = Cluster::empty();
        assert_eq!(cluster.lead(1, 1, "first"), ["cluster-created", "leader-elected"]);
        assert_eq!(cluster.lead(2, 2, "second"), ["leader-elected"]);
        assert_eq!(&*cluster.state.cluster_id, "first");
        assert_eq!(cluster.state.leader.as_ref().unwrap().term, 2);
    }

    #[test]
    fn what_a_lost_master_held_is_let_go() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(1.0));
        let agent = cluster.agent("cpus:1;mem:100");
        cluster.offer();
        let at_ms = cluster.at_ms;
        let names = cluster.lose_master(1);
        assert_eq!(names, ["master-lost", "offers-returned", "framework-disconnected", "agent-disconnected"]);
        assert_eq!(cluster.framework(framework).failover_deadline_ms, Some(at_ms + 600_000));
        let liveness = &cluster.state.agents.get(agent).unwrap().liveness;
        assert_eq!(*liveness, AgentLiveness::Disconnected { since_ms: at_ms, deadline_ms: at_ms + 75_000 });
        assert_eq!(cluster.lose_master(1), [""; 0], "once is enough");
    }

    #[test]
    fn a_new_life_ends_what_the_earlier_one_held() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        assert_eq!(cluster.start_master(master(1, 1)), [""; 0], "the same life again");
        assert_eq!(cluster.start_master(master(1, 2)), ["master-started", "framework-disconnected"]);
        assert!(!cluster.framework(framework).is_connected());
    }

    #[test]
    fn what_a_lost_master_held_is_let_go_in_steps_if_it_was_much() {
        let mut cluster = Cluster::new();
        cluster.chosen.step_events = 2;
        cluster.subscribe();
        for _ in 0..4 {
            cluster.agent("cpus:1;mem:10");
        }
        let lose = |cluster: &mut Cluster| {
            let names = cluster.lose_master(1);
            let is_again =
                matches!(&cluster.reply, crate::decide::Reply::Refused(why) if why.name == super::STILL_HELD);
            (names, is_again)
        };
        assert_eq!(lose(&mut cluster), (vec!["framework-disconnected", "agent-disconnected"], true));
        assert_eq!(lose(&mut cluster), (vec!["agent-disconnected", "agent-disconnected"], true));
        assert_eq!(lose(&mut cluster), (vec!["master-lost", "agent-disconnected"], false));
        assert_eq!(lose(&mut cluster), (vec![], false));
    }
}
