//! Offers: resources of one agent, held for one role of one framework until it answers.

use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use api::resources::Resources;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Outstanding offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Offers {
    /// By key, which is by age.
    pub live: OrdMap<OfferKey, Arc<Offer>>,
    /// The next key. Counted in State, so a replayed log mints the same ids.
    pub next: u64,
    /// How many plans were made: what the next one's order of agents depends on.
    pub plans: u64,
    /// What each agent is offered for. Derived.
    #[serde(skip)]
    pub by_agent: OrdSet<(AgentKey, OfferKey)>,
    /// What each framework was offered. Derived.
    #[serde(skip)]
    pub by_framework: OrdSet<(FrameworkKey, OfferKey)>,
}

/// One offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// Its place in State and the number in its id.
    pub key: OfferKey,
    /// To whom.
    pub framework: FrameworkKey,
    /// For which of its roles.
    pub role: Arc<str>,
    /// Whose resources.
    pub agent: AgentKey,
    /// Which, with their allocation role.
    pub resources: Resources,
    /// When it was made.
    pub at_ms: u64,
    /// When it is taken back, if ever.
    pub expires_ms: Option<u64>,
}

impl Offers {
    /// An outstanding offer.
    pub fn get(&self, key: OfferKey) -> Option<&Offer> {
        self.live.get(&key).map(Arc::as_ref)
    }

    /// The offers of an agent, by age.
    pub fn on(&self, agent: AgentKey) -> impl Iterator<Item = OfferKey> + '_ {
        self.by_agent.range((agent, OfferKey(0))..=(agent, OfferKey(u64::MAX))).map(|(_, offer)| *offer)
    }

    /// The offers to a framework, by age.
    pub fn to(&self, framework: FrameworkKey) -> impl Iterator<Item = OfferKey> + '_ {
        self.by_framework.range((framework, OfferKey(0))..=(framework, OfferKey(u64::MAX))).map(|(_, offer)| *offer)
    }

    pub(crate) fn insert(&mut self, offer: Offer) {
        self.index(&offer);
        self.next = self.next.max(offer.key.0 + 1);
        self.live.insert(offer.key, Arc::new(offer));
    }

    pub(crate) fn remove(&mut self, key: OfferKey) -> Arc<Offer> {
        let offer = self.live.remove(&key).expect("the event's offer is outstanding");
        self.by_agent.remove(&(offer.agent, key));
        self.by_framework.remove(&(offer.framework, key));
        offer
    }

    pub(crate) fn index(&mut self, offer: &Offer) {
        self.by_agent.insert((offer.agent, offer.key));
        self.by_framework.insert((offer.framework, offer.key));
    }
}
