//! The story of offer constraints: a framework says with SUBSCRIBE and UPDATE_FRAMEWORK which agents it wants to be offered.
//! What it says replaces what it said before, and saying nothing takes all back. Standing offers stay.

use crate::decide::Draft;
use crate::event::OfferConstraintsSet;
use crate::ids::{AgentKey, FrameworkKey};
use crate::lengths;
use crate::state::constraints::subject;
use crate::state::{Agent, Framework, State};
use api::v1::AgentInfo;
use api::v1::scheduler::OfferConstraints;
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;

/// Checks constraints of a framework with these roles. Err is the sentence for the framework.
pub(crate) fn check(draft: &Draft, roles: &[Arc<str>], said: Option<&OfferConstraints>) -> Result<Bytes, String> {
    let Some(said) = said.filter(|said| !said.role_constraints.is_empty()) else { return Ok(Bytes::new()) };
    if !draft.state.feature_level.has_resource_model() {
        return Err("Offer constraints are not supported until every master of this cluster has been upgraded".into());
    }
    lengths::offer_constraints(said)?;
    if let Some(other) = said.role_constraints.keys().find(|role| !roles.iter().any(|known| **known == ***role)) {
        return Err(format!("Offer constraints name the role '{other}', which the framework does not have"));
    }
    allocator::OfferConstraints::new(said, draft.options.regex)?;
    Ok(said.encode_to_vec().into())
}

/// Whether a framework says something else than before.
pub(crate) fn is_changed(draft: &Draft, framework: FrameworkKey, said: &Bytes) -> bool {
    draft.state.constraints.said.get(&framework).map_or(!said.is_empty(), |before| before != said)
}

/// Puts checked constraints in the place of those before.
pub(crate) fn replace(draft: &mut Draft, framework: FrameworkKey, said: Bytes) {
    if is_changed(draft, framework, &said) {
        draft.push(OfferConstraintsSet { framework, constraints: said });
    }
}

/// What a framework's offer constraints leave out now, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Excluded {
    /// Whose.
    pub framework: FrameworkKey,
    /// Roles that it has suppressed.
    pub suppressed: Vec<Arc<str>>,
    /// By role, the registered agents that are not offered for it, by key.
    pub agents: Vec<(Arc<str>, Vec<AgentKey>)>,
}

/// What the constraints of every framework leave out, by key.
pub fn excluded(state: &State) -> Vec<Excluded> {
    let registered = state.agents.live.values().filter(|agent| !agent.is_unreachable());
    let decode = |agent: &Arc<Agent>| (agent.key, AgentInfo::decode(agent.info.clone()).unwrap_or_default());
    let infos: Vec<(AgentKey, AgentInfo)> = registered.map(decode).collect();
    let of = |framework: &Arc<Framework>| {
        let constraints = state.constraints.of(framework.key);
        let left_out = |role: &Arc<str>| {
            let agents = constraints.map_or_else(Vec::new, |constraints| {
                let away = infos.iter().filter(|(_, info)| !constraints.keeps(role, &subject(info)));
                away.map(|(key, _)| *key).collect()
            });
            (role.clone(), agents)
        };
        let suppressed = framework.roles.iter().filter(|(_, of)| of.suppressed).map(|(role, _)| role.clone());
        Excluded {
            framework: framework.key,
            suppressed: suppressed.collect(),
            agents: framework.roles.keys().map(left_out).collect(),
        }
    };
    state.frameworks.live.values().map(of).collect()
}

#[cfg(test)]
mod tests {
    use crate::ids::FrameworkKey;
    use crate::state::State;
    use crate::testing::Cluster;
    use api::v1::scheduler::OfferConstraints;

    fn rack(regex: &str) -> OfferConstraints {
        let text = format!(
            r#"{{"role_constraints":{{"web":{{"groups":[{{"attribute_constraints":[{{"selector":
            {{"attribute_name":"rack"}},"predicate":{{"text_matches":{{"regex":"{regex}"}}}}}}]}}]}}}}}}"#
        );
        api::json::from_slice(text.as_bytes()).unwrap()
    }

    fn said(cluster: &Cluster) -> Vec<FrameworkKey> {
        cluster.state.constraints.said.keys().copied().collect()
    }

    #[test]
    fn what_is_said_last_counts_and_saying_nothing_takes_it_back() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe();
        assert_eq!(
            cluster.constrain(framework, Some(rack("r[12]"))).unwrap(),
            ["offer-constraints-set", "framework-updated"]
        );
        assert_eq!(cluster.constrain(framework, Some(rack("r[12]"))).unwrap(), [""; 0], "the same again");
        assert_eq!(cluster.state.constraints.message(framework), rack("r[12]"));

        let mut bytes = Vec::new();
        cluster.state.write_snapshot(&mut bytes).unwrap();
        assert_eq!(State::read_snapshot(&mut bytes.as_slice()).unwrap().constraints, cluster.state.constraints);

        let events = cluster.resubscribe(framework, |_| {}).unwrap();
        assert_eq!(events, ["framework-resubscribed", "offer-constraints-set"]);
        assert_eq!(said(&cluster), []);
    }

    #[test]
    fn who_is_left_out_is_told() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let web = cluster.subscribe();
        let agent = cluster.agent("cpus:1;mem:100");
        let left_out = |cluster: &Cluster| super::excluded(&cluster.state).remove(0);
        let of_web = |agents| [("web".into(), agents)];
        assert_eq!(left_out(&cluster).agents, of_web(vec![]));
        cluster.constrain(web, Some(rack("r"))).unwrap();
        cluster.suppress(web, &["web"]);
        let told = left_out(&cluster);
        assert_eq!((told.framework, told.suppressed), (web, vec!["web".into()]));
        assert_eq!(told.agents, of_web(vec![agent]));
        cluster.agent_unreachable(agent);
        assert_eq!(left_out(&cluster).agents, of_web(vec![]));
    }

    #[test]
    fn they_go_with_their_framework() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe();
        cluster.constrain(framework, Some(rack("r"))).unwrap();
        assert_eq!(said(&cluster), [framework]);
        cluster.teardown(framework);
        assert_eq!(said(&cluster), []);
    }

    #[test]
    fn a_bad_one_is_refused_in_the_words_of_the_peer() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let refused =
            |cluster: &mut Cluster, regex: &str| cluster.constrain(framework, Some(rack(regex))).unwrap_err().message;
        assert!(refused(&mut cluster, "r").ends_with("until every master of this cluster has been upgraded"));
        cluster.raise();
        assert_eq!(
            refused(&mut cluster, "["),
            "'UpdateFramework.offer_constraints' are not valid: A role web has an invalid 'AttributeConstraint': Failed \
             to construct regex from pattern '[': missing ]: ["
        );
        assert!(
            refused(&mut cluster, "(a+){50}").contains("program size of 204 is larger than maximum of 100 allowed")
        );
        let other = OfferConstraints {
            role_constraints: rack("r").role_constraints.into_values().map(|of| ("db".into(), of)).collect(),
        };
        let refusal = cluster.constrain(framework, Some(other)).unwrap_err();
        assert!(refusal.message.contains("Offer constraints name the role 'db'"), "{}", refusal.message);
        cluster.chosen.regex.program_size_max = 204;
        assert!(cluster.constrain(framework, Some(rack("(a+){50}"))).is_ok(), "the leader's flag counts");
    }
}
