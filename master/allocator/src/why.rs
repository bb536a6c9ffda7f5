//! Why somebody is not offered something. Each stage of a run has a reason of its own.

use crate::ids::FrameworkKey;
use std::sync::Arc;

/// The reasons not to offer, in the order in which they are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// An operator has paused all offers.
    AllPaused,
    /// An operator has paused the framework's offers.
    FrameworkPaused,
    /// An operator has paused the role's offers.
    RolePaused,
    /// It has no stream.
    Disconnected,
    /// It suppressed the role.
    Suppressed,
    /// There is no agent at all.
    NoAgents,
    /// The agent is not connected.
    AgentAway,
    /// An operator wants no offers of the agent.
    AgentDeactivated,
    /// The agent is being drained, or was.
    AgentDraining,
    /// The agent's machine is down for maintenance.
    AgentDown,
    /// The agent has not taken its earlier orders yet.
    AgentBehind,
    /// The agent is not on the list of those that are offered.
    AgentNotListed,
    /// The framework's offer constraints leave the agent out.
    Constrained,
    /// What may go to the role is in use or offered already.
    NothingFree,
    /// What is left for the role is less than the least that is offered.
    TooSmall,
    /// It did not ask for GPUs, which the agent has.
    HasGpus,
    /// The agent is in another region than the masters, and it did not ask for other regions.
    OtherRegion,
    /// All that is left is shared, revocable or reserved by refinement, and it did not ask for such.
    NotAskedFor,
    /// The role has all that its quota allows.
    OverLimit,
    /// What is left is held back for guarantees of other roles.
    HeldBack,
    /// It has several roles, and the agent knows only one.
    AgentNotMultiRole,
    /// The role is below another one, and the agent knows no such roles.
    AgentNotHierarchical,
    /// It declined as much of the agent not long ago.
    Filtered {
        /// The filter is over then, in milliseconds since the epoch.
        until_ms: u64,
    },
    /// It would do, but this one is next by the allocator's policy.
    OtherFirst {
        /// Who.
        framework: FrameworkKey,
        /// For which of its roles.
        role: Arc<str>,
    },
}
