//! The story of inverse offers: a framework that has something of an agent whose machine is to be unavailable is asked to
//! leave it. What it answers is remembered and shown; nothing is taken from it.

use crate::allocator::Plan;
use crate::decide::Draft;
use crate::decline::refused_until;
use crate::event::{InverseGroup, InverseOffersAnswered, InverseOffersMade, InverseOffersReturned, OfferKeys, Return};
use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use crate::state::{Agent, State};
use crate::view;
use api::v1;
use std::collections::BTreeMap;

/// Asks whom a plan wants asked, if that is still to be done. After the plan's offers were made: who was offered something
/// is asked too.
pub(crate) fn make(draft: &mut Draft, plan: &Plan) {
    let state = &draft.state;
    if plan.inverse.is_empty() || !state.feature_level.has_resource_model() {
        return;
    }
    let mut asked: BTreeMap<FrameworkKey, Vec<AgentKey>> = BTreeMap::new();
    for (framework, agent) in &plan.inverse {
        if is_due(state, *framework, *agent, draft.at_ms) {
            asked.entry(*framework).or_default().push(*agent);
        }
    }
    let groups = asked.into_iter().map(|(framework, agents)| InverseGroup { framework, agents });
    let groups: Vec<InverseGroup> = groups.collect();
    if !groups.is_empty() {
        let first = OfferKey(state.offers.next);
        let expires_ms = plan.offer_timeout_ms.map(|timeout_ms| draft.at_ms.saturating_add(timeout_ms));
        draft.push(InverseOffersMade { first, groups, expires_ms });
    }
}

/// Whether it is still so that whoever is to be asked is there, has something of the agent or is offered it, and was not
/// asked meanwhile.
fn is_due(state: &State, framework: FrameworkKey, agent: AgentKey, at_ms: u64) -> bool {
    let is_away = |agent: &&Agent| agent.is_offerable() && state.maintenance.unavailability(agent).is_some();
    let Some(speaker) = state.frameworks.get(framework).filter(|speaker| speaker.is_connected()) else { return false };
    let mut offers = state.offers.on(agent).filter_map(|key| state.offers.get(key));
    state.agents.get(agent).filter(is_away).is_some()
        && (speaker.used.contains_key(&agent) || offers.any(|offer| offer.framework == framework))
        && !state.maintenance.is_asked(agent, framework, at_ms)
}

/// ACCEPT_INVERSE_OFFERS and DECLINE_INVERSE_OFFERS: what is not outstanding, or not the framework's own, is no longer its
/// business.
pub(crate) fn answer(
    draft: &mut Draft,
    framework: FrameworkKey,
    ids: &[v1::OfferId],
    filters: Option<&v1::Filters>,
    is_accepted: bool,
) {
    let own = |key: &OfferKey| {
        draft.state.maintenance.inverse_offers.get(key).is_some_and(|offer| offer.framework == framework)
    };
    let keys = ids.iter().filter_map(|id| view::parse_offer_id(&draft.state, &id.value)).filter(own);
    let offers = OfferKeys::new(keys.collect());
    if !offers.is_empty() {
        let until_ms = refused_until(draft, filters);
        draft.push(InverseOffersAnswered { framework, offers, is_accepted, until_ms });
    }
}

/// All inverse offers of an agent are taken back, one event for each framework.
pub(crate) fn return_on(draft: &mut Draft, agent: AgentKey, why: Return) {
    return_on_all(draft, &[agent], why);
}

/// The same of several agents.
pub(crate) fn return_on_all(draft: &mut Draft, agents: &[AgentKey], why: Return) {
    if why == Return::MaintenanceChanged && event_log::planted(event_log::Bug::InverseOffersKept) {
        return;
    }
    let mut offers: BTreeMap<FrameworkKey, Vec<OfferKey>> = BTreeMap::new();
    for (framework, key) in agents.iter().flat_map(|agent| draft.state.maintenance.waiting_on(*agent)) {
        offers.entry(framework).or_default().push(key);
    }
    for (framework, offers) in offers {
        draft.push(InverseOffersReturned { framework, offers: OfferKeys::new(offers), why });
    }
}

/// All inverse offers of a framework go back.
pub(crate) fn return_all(draft: &mut Draft, framework: FrameworkKey, why: Return) {
    let offers = OfferKeys::new(draft.state.maintenance.waiting_for(framework).map(|(key, _)| key).collect());
    if !offers.is_empty() {
        draft.push(InverseOffersReturned { framework, offers, why });
    }
}

/// An inverse offer's time is up: it may be made again.
pub(crate) fn expire(draft: &mut Draft, key: OfferKey) {
    let offer = draft.state.maintenance.inverse_offers.get(&key);
    if let Some(framework) = offer.map(|offer| offer.framework) {
        draft.push(InverseOffersReturned { framework, offers: OfferKeys::new(vec![key]), why: Return::Expired });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocator;
    use crate::effect::Effect;
    use crate::testing::Cluster;

    const HERE: (&str, &str) = ("host", "10.0.0.0");

    /// A framework with a task on an agent whose machine is scheduled.
    fn scheduled() -> (Cluster, FrameworkKey, AgentKey) {
        let mut cluster = Cluster::new();
        cluster.raise();
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(100.0));
        let agent = cluster.agent("cpus:4;mem:100");
        cluster.launch(framework, "t", "cpus:4;mem:100");
        cluster.schedule(&[HERE], 19).unwrap();
        (cluster, framework, agent)
    }

    fn waiting(cluster: &Cluster) -> Vec<OfferKey> {
        cluster.state.maintenance.inverse_offers.keys().copied().collect()
    }

    fn status(cluster: &Cluster) -> String {
        api::json::to_string(&view::maintenance_status(&cluster.state).draining_machines[0])
    }

    #[test]
    fn whoever_has_something_of_the_agent_is_asked_once() {
        let (mut cluster, framework, agent) = scheduled();
        cluster.subscribe();
        let first = OfferKey(cluster.state.offers.next);
        let plan = allocator::plan(&cluster.state, cluster.at_ms, &cluster.options);
        assert_eq!(plan.inverse, [(framework, agent)]);
        cluster.offer();
        assert_eq!(cluster.effects, [Effect::SendInverseOffers { framework, offers: vec![first] }]);
        let shown = view::inverse_offer(&cluster.state, first).unwrap();
        assert_eq!(shown.agent_id.unwrap().value, view::agent_id(&cluster.state, agent));
        assert_eq!((shown.unavailability.start.nanoseconds, shown.resources.len()), (19, 0));
        assert!(allocator::plan(&cluster.state, cluster.at_ms, &cluster.options).is_empty());
        cluster.offer();
        assert_eq!(waiting(&cluster), [first]);
    }

    #[test]
    fn an_answer_is_remembered_and_asked_for_again_after_a_while() {
        let (mut cluster, framework, _) = scheduled();
        cluster.offer();
        assert_eq!(cluster.answer_inverse(framework, &[OfferKey(99)], true, None), [""; 0], "not its business");
        let first = waiting(&cluster);
        assert_eq!(cluster.answer_inverse(framework, &first, false, Some(10.0)), ["inverse-offers-answered"]);
        assert!(status(&cluster).contains(r#""status":"DECLINE""#), "{}", status(&cluster));
        cluster.at_ms += 9_999;
        cluster.offer();
        assert!(waiting(&cluster).is_empty());
        cluster.at_ms += 1;
        cluster.offer();
        let second = waiting(&cluster);
        assert_eq!(second.len(), 1);
        cluster.answer_inverse(framework, &second, true, None);
        assert!(status(&cluster).contains(r#""status":"ACCEPT""#), "{}", status(&cluster));
        cluster.revive(framework, &[]);
        cluster.offer();
        assert_eq!(waiting(&cluster).len(), 1, "whoever revives is asked at once");
        assert!(status(&cluster).contains(r#""status":"ACCEPT""#), "and what it said last still stands");
        cluster.schedule(&[HERE], 20).unwrap();
        assert!(!status(&cluster).contains("ACCEPT"), "but not of another time");
    }

    #[test]
    fn a_plan_that_came_late_asks_nobody_who_need_not_leave() {
        let (mut cluster, framework, agent) = scheduled();
        let idle = cluster.subscribe();
        let plan = |who| Plan { groups: Vec::new(), inverse: vec![(who, agent)], offer_timeout_ms: None };
        cluster.make_offers(plan(idle));
        assert_eq!(waiting(&cluster), [], "who has nothing there");
        cluster.schedule(&[], 0).unwrap();
        cluster.make_offers(plan(framework));
        assert_eq!(waiting(&cluster), [], "the schedule is another");
        cluster.schedule(&[HERE], 19).unwrap();
        cluster.make_offers(plan(framework));
        assert_eq!(waiting(&cluster).len(), 1);
        cluster.make_offers(plan(framework));
        assert_eq!(waiting(&cluster).len(), 1, "once");
        // What it answers is forgotten with it.
        let offer = waiting(&cluster)[0];
        cluster.answer_inverse(framework, &[offer], true, None);
        assert_eq!(cluster.state.maintenance.answers.len(), 1);
        cluster.teardown(framework);
        assert_eq!(cluster.state.maintenance.answers.len(), 0);
    }

    #[test]
    fn an_inverse_offer_is_taken_back_with_its_reason() {
        let (mut cluster, framework, agent) = scheduled();
        cluster.offer();
        let rescind = |offer| Effect::SendRescindInverse { framework, offer };
        let asked = waiting(&cluster);
        assert_eq!(cluster.schedule(&[HERE], 20).unwrap(), ["inverse-offers-returned", "maintenance-scheduled"]);
        assert!(cluster.effects.contains(&rescind(asked[0])));
        cluster.offer();
        let asked = waiting(&cluster);
        assert_eq!(cluster.deactivate(agent).unwrap(), ["inverse-offers-returned", "agent-deactivated"]);
        assert!(cluster.effects.contains(&rescind(asked[0])));
        cluster.offer();
        assert!(waiting(&cluster).is_empty(), "nobody is asked of a deactivated agent");
        cluster.reactivate(agent).unwrap();
        cluster.options.offer_timeout_ms = Some(30_000);
        cluster.offer();
        let asked = waiting(&cluster);
        cluster.at_ms += 30_000;
        assert_eq!(cluster.deadline_passed(), ["inverse-offers-returned"]);
        assert_eq!(cluster.effects, [rescind(asked[0])]);
        cluster.offer();
        assert_eq!(cluster.disconnect(framework), ["inverse-offers-returned", "framework-disconnected"]);
        assert!(!cluster.effects_text().contains("SendRescindInverse"), "it does not hear of it");
        assert!(waiting(&cluster).is_empty());
    }
}
