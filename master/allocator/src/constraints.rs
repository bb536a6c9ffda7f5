//! Offer constraints: which agents a framework wants offers of, by their attributes.

use api::v1::Attribute;

/// The constraints of one framework, by role. None: every agent will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfferConstraints {}

impl OfferConstraints {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Whether an agent with these attributes may be offered for `role`.
    pub fn keeps(&self, _role: &str, _attributes: &[Attribute]) -> bool {
        true
    }
}
