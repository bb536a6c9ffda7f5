//! Names of agents and frameworks: counters in the masters' State, moved by the event that uses them.

use serde::{Deserialize, Serialize};

/// A framework, in the order of first subscription. On the wire `CLUSTER-0000`, unless the framework chose its own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameworkKey(pub u32);

/// An agent, in the order of registration. On the wire `CLUSTER-S0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentKey(pub u64);
