//! The story of UPDATE_FRAMEWORK: a subscribed framework says anew what it is.

use crate::decide::Draft;
use crate::event::{FrameworkUpdateOrdered, FrameworkUpdated, OfferKeys, OffersReturned, Return};
use crate::ids::{AgentKey, FrameworkKey};
use crate::offer_constraints;
use crate::permit;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::Agent;
use crate::subscribe;
use crate::validate;
use api::v1;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;

/// UPDATE_FRAMEWORK: done, or refused, at once.
pub(crate) fn update_framework(
    draft: &mut Draft,
    key: FrameworkKey,
    call: &v1::scheduler::call::UpdateFramework,
) -> Result<(), Refusal> {
    let invalid = |message: String| Refusal::invalid("InvalidFramework", message);
    let info = &call.framework_info;
    let terms = validate::framework(info, &call.suppressed_roles)
        .and_then(|terms| validate::listed(terms, &draft.options))
        .map_err(|why| invalid(format!("Supplied FrameworkInfo is not valid: {why}")))?;
    let framework = draft.state.frameworks.get(key).expect("the speaker is live");
    let before = v1::FrameworkInfo::decode(framework.info.clone()).unwrap_or_default();
    let not_valid = |why: &str| Err(invalid(format!("FrameworkInfo update is not valid: {why}")));
    let change = |field: &str, from: &str, to: &str| match from == to {
        true => Ok(()),
        false => not_valid(&validate::changed(field, from, to)),
    };
    if before.principal != info.principal {
        return not_valid(validate::OTHER_PRINCIPAL);
    }
    change("user", &before.user, &info.user)?;
    change("checkpoint", &before.checkpoint().to_string(), &info.checkpoint().to_string())?;
    permit::update_framework(draft, key, &terms.roles)?;
    let constraints = offer_constraints::check(draft, &terms.roles, call.offer_constraints.as_ref())
        .map_err(|why| invalid(format!("'UpdateFramework.offer_constraints' are not valid: {why}")))?;
    let is_same_constraints = !offer_constraints::is_changed(draft, key, &constraints);

    let bytes = subscribe::with_id(info, &framework.id);
    let is_same_info = bytes == framework.info;
    let suppressed: Vec<_> = framework.roles.iter().filter(|(_, role)| role.suppressed).map(|(name, _)| name).collect();
    if is_same_info && is_same_constraints && suppressed.iter().copied().eq(&terms.suppressed) {
        return Ok(());
    }
    let left = draft
        .state
        .offers
        .to(key)
        .filter(|offer| draft.state.offers.get(*offer).is_some_and(|offer| !terms.roles.contains(&offer.role)));
    let left = OfferKeys::new(left.collect());
    // An executor may hold nothing, and hears of it all the same.
    let has_executor = |agent: &&Arc<Agent>| agent.executors.keys().any(|(of, _)| *of == key);
    let with_executors = draft.state.agents.live.values().filter(has_executor).map(|agent| agent.key);
    let agents: BTreeSet<AgentKey> = framework.used.keys().copied().chain(with_executors).collect();
    let is_buried = |agent: &AgentKey| draft.state.agents.get(*agent).is_some_and(|agent| agent.is_behind());
    // Each update is an order for each of them, and the last one must not be left out.
    if !is_same_info && agents.iter().any(is_buried) {
        let message = "An agent of the framework has not taken earlier updates yet: try again later";
        return Err(Refusal::new(RefusalKind::Conflict, "AgentsBehind", message));
    }
    if !left.is_empty() {
        draft.push(OffersReturned { framework: key, offers: left, why: Return::RoleLeft });
    }
    offer_constraints::replace(draft, key, constraints);
    draft.push(FrameworkUpdated { framework: key, info: bytes, terms });
    if !is_same_info {
        for agent in agents {
            draft.push(FrameworkUpdateOrdered { agent, framework: key });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::Cluster;

    #[test]
    fn offers_of_a_role_that_is_left_are_taken_back() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.offer();
        let names = cluster.update_framework(framework, |info| info.roles = vec!["db".into()]).unwrap();
        assert_eq!(names, ["offers-returned", "framework-updated", "framework-update-ordered"]);
        assert!(cluster.effects_text().contains("SendRescind"));
        assert_eq!(cluster.update_framework(framework, |info| info.roles = vec!["db".into()]).unwrap(), [""; 0]);
    }

    #[test]
    fn an_agent_that_is_away_is_not_buried_under_updates() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:1;mem:10");
        cluster.agent_disconnected(agent);
        let mut update =
            |number: usize| cluster.update_framework(framework, |info| info.name = format!("f{number}")).map(drop);
        let accepted = (0..2000).take_while(|number| update(*number).is_ok()).count();
        assert_eq!(accepted, 999, "beside the launch");
        assert_eq!(update(5000).unwrap_err().name, "AgentsBehind");
        cluster.resume(agent, &["t"]).unwrap();
        cluster.acknowledge_orders(agent, 1000);
        assert!(cluster.update_framework(framework, |info| info.name = "new".into()).is_ok());
    }

    #[test]
    fn a_framework_may_have_no_role_for_a_while() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.roles.clear());
        cluster.agent("cpus:4;mem:100");
        assert!(cluster.offer().is_empty());
        cluster.suppress(framework, &[]);
        cluster.revive(framework, &[]);
        cluster.update_framework(framework, |info| info.roles = vec!["db".into()]).unwrap();
        assert_eq!(cluster.offer().len(), 1);
        let names = cluster.update_framework(framework, |info| info.roles.clear()).unwrap();
        assert_eq!(names, ["offers-returned", "framework-updated"]);
        assert!(cluster.offer().is_empty());
    }

    #[test]
    fn the_user_is_for_ever() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        let refusal = cluster.update_framework(framework, |info| info.user = "other".into()).unwrap_err();
        assert_eq!(
            refusal.message,
            "FrameworkInfo update is not valid: Updating 'FrameworkInfo.user' is unsupported; attempted to update \
             from 'root' to 'other'"
        );
    }
}
