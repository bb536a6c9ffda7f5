//! Why somebody is not offered something: asked of a plan after it was made, so that making it costs nothing more.

use super::{Options, Plan, why_not};
use crate::ids::{AgentKey, FrameworkKey};
use crate::resources;
use crate::state::{Agent, Framework, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why a framework is not offered something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Who.
    pub framework: FrameworkKey,
    /// For which of its roles.
    pub role: Arc<str>,
    /// Of which agent; None: of any.
    pub agent: Option<AgentKey>,
    /// Why.
    pub why: WhyNot,
}

/// The reasons not to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It has no stream.
    Disconnected,
    /// It suppressed the role.
    Suppressed,
    /// There is no agent at all.
    NoAgents,
    /// The agent is not connected.
    AgentAway,
    /// An operator wants no offers of the agent.
    AgentDeactivated,
    /// The agent has not taken its earlier orders yet.
    AgentBehind,
    /// It did not ask for GPUs, which the agent has.
    HasGpus,
    /// What may go to the role is in use or offered already.
    NothingFree,
    /// What is left for the role is less than the least that is offered.
    TooSmall,
    /// It declined as much of the agent not long ago.
    Filtered {
        /// The filter is over then, in milliseconds since the epoch.
        until_ms: u64,
    },
    /// It would do, but this one is next by the allocator's policy.
    OtherFirst {
        /// Who.
        framework: FrameworkKey,
        /// For which of its roles.
        role: Arc<str>,
    },
}

/// Why each framework is not offered what `plan`, made of the same State with the same options, leaves out for it.
/// Frameworks by key, then roles by name, then agents by key.
pub fn reasons(state: &State, at_ms: u64, options: &Options, plan: &Plan) -> Vec<Reason> {
    let mut served: BTreeSet<(FrameworkKey, &Arc<str>, AgentKey)> = BTreeSet::new();
    let mut first: BTreeMap<AgentKey, (FrameworkKey, &Arc<str>)> = BTreeMap::new();
    for group in &plan.groups {
        for (agent, _) in &group.offers {
            served.insert((group.framework, &group.role, *agent));
            first.entry(*agent).or_insert((group.framework, &group.role));
        }
    }
    let mut reasons = Vec::new();
    for framework in state.frameworks.live.values() {
        for (role, said) in &framework.roles {
            let mut because = |agent: Option<AgentKey>, why| {
                reasons.push(Reason { framework: framework.key, role: role.clone(), agent, why });
            };
            if !framework.is_connected() {
                because(None, WhyNot::Disconnected);
                continue;
            }
            if said.suppressed {
                because(None, WhyNot::Suppressed);
                continue;
            }
            if state.agents.live.is_empty() {
                because(None, WhyNot::NoAgents);
            }
            for agent in state.agents.live.values() {
                if served.contains(&(framework.key, role, agent.key)) {
                    continue;
                }
                let winner = first.get(&agent.key).map(|(framework, role)| (*framework, *role));
                if let Some(why) = of_agent(agent, framework, role, at_ms, options, winner) {
                    because(Some(agent.key), why);
                }
            }
        }
    }
    reasons
}

/// None if nothing speaks against it.
fn of_agent(
    agent: &Agent,
    framework: &Framework,
    role: &Arc<str>,
    at_ms: u64,
    options: &Options,
    winner: Option<(FrameworkKey, &Arc<str>)>,
) -> Option<WhyNot> {
    if agent.connection().is_none() {
        return Some(WhyNot::AgentAway);
    }
    if agent.deactivated {
        return Some(WhyNot::AgentDeactivated);
    }
    if agent.is_behind() {
        return Some(WhyNot::AgentBehind);
    }
    let offered = resources::offerable(&agent.free(), role);
    if offered.is_empty() {
        return Some(WhyNot::NothingFree);
    }
    why_not(agent, framework, role, &offered, at_ms, options).or_else(|| {
        let (framework, role) = winner?;
        Some(WhyNot::OtherFirst { framework, role: role.clone() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::plan;
    use crate::testing::Cluster;

    /// Why each (framework, agent) is not offered, in words.
    fn check(cluster: &Cluster) -> Vec<String> {
        let options = Options::default();
        let plan = plan(&cluster.state, cluster.at_ms, &options);
        let told = reasons(&cluster.state, cluster.at_ms, &options, &plan).into_iter().map(|reason| {
            let agent = reason.agent.map_or("-".to_owned(), |agent| format!("S{}", agent.0));
            format!("F{} {} {agent} {:?}", reason.framework.0, reason.role, reason.why)
        });
        told.collect()
    }

    #[test]
    fn each_reason_is_told() {
        let mut cluster = Cluster::new();
        let first = cluster.subscribe();
        assert_eq!(check(&cluster), ["F0 web - NoAgents"]);
        let away = cluster.agent("cpus:1;mem:100");
        cluster.agent_disconnected(away);
        cluster.agent("cpus:1;mem:100;gpus:1");
        cluster.agent("cpus:0.001");
        assert_eq!(check(&cluster), ["F0 web S0 AgentAway", "F0 web S1 HasGpus", "F0 web S2 TooSmall"]);

        cluster.agent("cpus:2;mem:200");
        let offers = cluster.offer();
        assert_eq!(check(&cluster)[3], "F0 web S3 NothingFree");
        cluster.decline(first, &offers, Some(5.0));
        let until_ms = cluster.at_ms + 5000;
        assert_eq!(check(&cluster)[3], format!("F0 web S3 Filtered {{ until_ms: {until_ms} }}"));

        cluster.at_ms += 10_000;
        cluster.subscribe();
        let told = check(&cluster);
        assert_eq!(told.len(), 7, "{told:?}");
        assert!(
            told.contains(&"F1 web S3 OtherFirst { framework: FrameworkKey(0), role: \"web\" }".to_owned()),
            "{told:?}"
        );
    }
}
