//! Which agents frameworks want to be offered.

use serde::{Deserialize, Serialize};

/// Which agents frameworks want to be offered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Constraints {}
