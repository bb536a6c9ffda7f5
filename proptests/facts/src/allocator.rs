//! Facts about the allocator.

use serde_json::Value;

use crate::Outcome;

/// Asks one fact.
pub(crate) fn judge(_fact: &Value) -> Outcome {
    Outcome::Cannot("the allocator is not built as a package of their own yet".to_owned())
}
