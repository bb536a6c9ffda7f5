//! Agents that operators want empty.

use serde::{Deserialize, Serialize};

/// Agents that operators want empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drains {}
