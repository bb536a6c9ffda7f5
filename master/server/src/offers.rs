//! Offers as clients see them: with the scheme of their agents, which speak what this master's port speaks.

use api::v1;
use master_core::ids::OfferKey;
use master_core::{State, view};
use std::sync::OnceLock;

/// What processes of this cluster speak. It is this process's for its life.
static SCHEME: OnceLock<&str> = OnceLock::new();

/// From now on agents are told to be reached by TLS.
pub(crate) fn speak_tls() {
    // Once said it stays.
    let _ = SCHEME.set("https");
}

fn with_scheme(url: Option<v1::Url>) -> Option<v1::Url> {
    url.map(|url| v1::Url { scheme: SCHEME.get().map_or(url.scheme, |scheme| (*scheme).to_owned()), ..url })
}

/// An outstanding offer as its framework sees it.
pub(crate) fn offer(state: &State, key: OfferKey) -> Option<v1::Offer> {
    let offer = view::offer(state, key)?;
    Some(v1::Offer { url: with_scheme(offer.url), ..offer })
}

/// An outstanding inverse offer as its framework sees it.
pub(crate) fn inverse_offer(state: &State, key: OfferKey) -> Option<v1::InverseOffer> {
    let offer = view::inverse_offer(state, key)?;
    Some(v1::InverseOffer { url: with_scheme(offer.url), ..offer })
}
