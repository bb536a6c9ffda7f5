//! Why somebody is not offered something: asked of a plan after it was made, so that making it costs nothing more.

use super::{Ledger, Options, Plan};
use crate::ids::{AgentKey, FrameworkKey};
use crate::state::State;
pub use allocator::WhyNot;
use api::time::{shown, span};
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
    reasons_where(state, at_ms, options, plan, |_| true)
}

/// As [`reasons`], of the roles that are `wanted` alone.
pub fn reasons_where(
    state: &State,
    at_ms: u64,
    options: &Options,
    plan: &Plan,
    wanted: impl Fn(&str) -> bool,
) -> Vec<Reason> {
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
        for role in framework.roles.keys().filter(|role| wanted(role)) {
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

/// A reason for people: half a sentence, to follow "it is not offered". Each framework is named by `name`.
pub fn words(why: &WhyNot, at_ms: u64, name: impl Fn(FrameworkKey) -> String) -> String {
    match why {
        WhyNot::AllPaused => "an operator has paused all offers".to_owned(),
        WhyNot::FrameworkPaused => "an operator has paused its offers".to_owned(),
        WhyNot::RolePaused => "an operator has paused the role's offers".to_owned(),
        WhyNot::Disconnected => "it has no stream".to_owned(),
        WhyNot::Suppressed => "it suppressed the role".to_owned(),
        WhyNot::NoAgents => "there are no agents".to_owned(),
        WhyNot::AgentAway => "the agent is not connected".to_owned(),
        WhyNot::AgentDeactivated => "an operator wants no offers of the agent".to_owned(),
        WhyNot::AgentDraining => "the agent is being drained, or was".to_owned(),
        WhyNot::AgentDown => "the agent's machine is down for maintenance".to_owned(),
        WhyNot::AgentNotListed => "the agent's host is not on the masters' whitelist".to_owned(),
        WhyNot::Constrained => "its offer constraints leave the agent out".to_owned(),
        WhyNot::OtherRegion => "the agent is in another region, and it is not region-aware".to_owned(),
        WhyNot::NotAskedFor => {
            "all that is left is shared, revocable or a refined reservation, which it did not ask for".to_owned()
        }
        WhyNot::OverLimit => "the role has all that its quota allows".to_owned(),
        WhyNot::HeldBack => "what is left is held back for the guarantees of other roles".to_owned(),
        WhyNot::AgentNotMultiRole => "the agent is from before frameworks of several roles".to_owned(),
        WhyNot::AgentNotHierarchical => "the agent is from before roles below roles".to_owned(),
        WhyNot::AgentBehind => "the agent has not taken its earlier orders yet".to_owned(),
        WhyNot::HasGpus => "the agent has GPUs, which it did not ask for".to_owned(),
        WhyNot::NothingFree => "what may go to the role is in use or offered already".to_owned(),
        WhyNot::TooSmall => "what is left is less than the least that is offered".to_owned(),
        WhyNot::Filtered { until_ms } => {
            let left_ms = until_ms.saturating_sub(at_ms);
            format!("it declined as much until {} (for {} more)", shown(*until_ms), span(left_ms))
        }
        WhyNot::OtherFirst { framework, role } => {
            format!("{} in role {role} is next, which has the lesser share", name(*framework))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator::plan;
    use crate::command::{Caller, Command, What};
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
    fn brakes_and_constraints_are_reasons() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe();
        cluster.agent("cpus:2;mem:200");
        let zone = br#"{"role_constraints":{"web":{"groups":[{"attribute_constraints":[{"selector":
            {"attribute_name":"zone"},"predicate":{"exists":{}}}]}]}}}"#;
        cluster.constrain(framework, Some(api::json::from_slice(zone).unwrap())).unwrap();
        assert_eq!(check(&cluster), ["F0 web S0 Constrained"]);
        assert!(cluster.offer().is_empty());
        cluster.constrain(framework, None).unwrap();
        let brake = |what: What, release| Command::Brake { what, release, why: "a try".into() };
        for (what, why) in [(What::Role("web".into()), "RolePaused"), (What::Allocation, "AllPaused")] {
            cluster.run(brake(what.clone(), false), &Caller::default()).unwrap();
            assert_eq!(check(&cluster), [format!("F0 web - {why}")]);
            assert!(cluster.offer().is_empty());
            cluster.run(brake(what, true), &Caller::default()).unwrap();
        }
        assert_eq!(cluster.offer().len(), 1);
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
