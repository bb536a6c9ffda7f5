//! When which machines are to be down, and the inverse offers that ask for their resources.

use serde::{Deserialize, Serialize};

/// When which machines are to be down, and the inverse offers that ask for their resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Maintenance {}
