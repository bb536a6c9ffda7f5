//! Offers: resources of one agent, held for one role of one framework until it answers.

use crate::ids::{AgentKey, FrameworkKey, OfferKey};
use api::resources::Resources;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Outstanding offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Offers {
    /// By key, which is by age.
    pub live: OrdMap<OfferKey, Arc<Offer>>,
    /// The next key. Counted in State, so a replayed log mints the same ids.
    pub next: u64,
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
}
