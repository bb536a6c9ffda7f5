//! The story of what agents can spare: an agent says what of the resources in use is idle for now, and that is offered as
//! revocable, until it says something else.

use crate::decide::Draft;
use crate::event::{AgentOversubscribed, OfferKeys, OffersReturned, Return};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use api::internal;
use api::resources::Resources;
use std::collections::BTreeMap;

/// What the agent can spare from now on. What else it says is nothing that can be spared, and is left out.
pub(crate) fn change(draft: &mut Draft, agent: AgentKey, seq: u64, message: &internal::Oversubscribed) {
    if seq == 0 || !draft.state.feature_level.has_resource_model() {
        return;
    }
    let said = Resources::from_v1(&message.resources).unwrap_or_default();
    let resources = said.revocable().unreserved().unallocate();
    let before = draft.state.oversubscribed.of(agent).cloned().unwrap_or_default();
    if before == resources {
        // It is received all the same.
        return;
    }
    // Offers of it may hold what is no longer there; others do not.
    let mut offers: BTreeMap<FrameworkKey, Vec<OfferKey>> = BTreeMap::new();
    for key in draft.state.offers.on(agent) {
        let offer = draft.state.offers.get(key).filter(|offer| !offer.resources.revocable().is_empty());
        if let Some(offer) = offer {
            offers.entry(offer.framework).or_default().push(key);
        }
    }
    if event_log::planted(event_log::Bug::SpareOffersKept) {
        offers.clear();
    }
    for (framework, offers) in offers {
        draft.push(OffersReturned { framework, offers: OfferKeys::new(offers), why: Return::AgentChanged });
    }
    draft.push(AgentOversubscribed { agent, seq, resources });
}

#[cfg(test)]
mod tests {
    use crate::testing::{Cluster, operation, task_info};
    use api::v1;
    use api::v1::framework_info::Capability;
    use api::v1::framework_info::capability::Type;

    #[test]
    fn what_an_agent_can_spare_is_offered_as_revocable_until_it_says_something_else() {
        let mut cluster = Cluster::new();
        cluster.raise();
        let plain = cluster.subscribe();
        let able = cluster.subscribe_with(|info| {
            info.capabilities.push(Capability { r#type: Some(Type::RevocableResources as i32) });
        });
        let agent = cluster.agent("cpus:2;mem:100");
        assert_eq!(cluster.oversubscribe(agent, "cpus:3"), ["agent-oversubscribed"]);
        let again = cluster.oversubscribe(agent, "cpus:3");
        assert_eq!(again, ["agent-messages-received"], "the same is no news");
        cluster.offer();
        let spare = |cluster: &Cluster, framework| {
            let offers = cluster.state.offers.to(framework).filter_map(|key| cluster.state.offers.get(key));
            offers.map(|offer| offer.resources.revocable().scalar_milli("cpus")).sum::<i64>()
        };
        assert_eq!((spare(&cluster, plain), spare(&cluster, able)), (0, 3000));

        // On what is left of the agent's own, and on what it can spare.
        let offers: Vec<_> = cluster.state.offers.to(able).collect();
        let mut task = task_info("t", "cpus:2");
        task.resources.iter_mut().for_each(|one| one.revocable = Some(v1::resource::RevocableInfo {}));
        cluster.accept(able, &offers, vec![operation(vec![task])]);
        assert_eq!(cluster.state.agents.get(agent).unwrap().used.revocable().scalar_milli("cpus"), 2000);
        cluster.at_ms += 10_000;
        cluster.offer();
        assert_eq!(spare(&cluster, able), 1000);
        let names = cluster.oversubscribe(agent, "cpus:1");
        assert_eq!(names, ["offers-returned", "agent-oversubscribed"], "less than is in use: its agent sees to that");
        assert!(cluster.effects_text().contains("SendRescind"));
        cluster.offer();
        assert_eq!(spare(&cluster, able), 0);
    }
}
