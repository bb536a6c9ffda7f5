//! Why somebody is not offered something: asked of a plan after it was made, so that making it costs nothing more.

use super::{Ledger, Options, Plan};
use crate::ids::{AgentKey, FrameworkKey};
use crate::state::State;
pub use allocator::WhyNot;
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

/// Why each framework is not offered what `plan`, made of the same State with the same options, leaves out for it.
/// Frameworks by key, then roles by name, then agents by key.
pub fn reasons(state: &State, at_ms: u64, options: &Options, plan: &Plan) -> Vec<Reason> {
    let mut ledger = Ledger::of(state, options);
    ledger.book.expire(at_ms);
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
        for role in framework.roles.keys() {
            let mut because = |agent: Option<AgentKey>, why| {
                reasons.push(Reason { framework: framework.key, role: role.clone(), agent, why });
            };
            if let Some(why) = ledger.book.why_no_offers(framework.key, role) {
                because(None, why);
                continue;
            }
            if state.agents.live.is_empty() {
                because(None, WhyNot::NoAgents);
            }
            for agent in state.agents.live.keys() {
                if served.contains(&(framework.key, role, *agent)) {
                    continue;
                }
                let why = ledger.book.why_not(*agent, framework.key, role).or_else(|| {
                    let (framework, role) = first.get(agent)?;
                    Some(WhyNot::OtherFirst { framework: *framework, role: (*role).clone() })
                });
                if let Some(why) = why {
                    because(Some(*agent), why);
                }
            }
        }
    }
    reasons
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
