//! What operators have paused.

use serde::{Deserialize, Serialize};

/// What operators have paused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Brakes {}
