//! What agents can spare of what is in use.

use serde::{Deserialize, Serialize};

/// What agents can spare of what is in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Oversubscribed {}
