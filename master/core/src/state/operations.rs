//! Operations on resources: what frameworks and operators wanted done, and what became of it.

use serde::{Deserialize, Serialize};

/// Operations on resources: what frameworks and operators wanted done, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Operations {
    /// The key of the next operation.
    pub next: u64,
}
