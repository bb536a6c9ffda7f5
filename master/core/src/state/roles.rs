//! What operators set for roles: quota and weights.

use serde::{Deserialize, Serialize};

/// What operators set for roles: quota and weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Roles {}
