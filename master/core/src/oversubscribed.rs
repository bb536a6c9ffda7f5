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
    for (framework, offers) in offers {
        draft.push(OffersReturned { framework, offers: OfferKeys::new(offers), why: Return::AgentChanged });
    }
    draft.push(AgentOversubscribed { agent, seq, resources });
}
