//! Frameworks: who is subscribed, on which stream, with which roles, filters and suppressions.

use crate::ids::{AgentKey, Connection, FrameworkKey};
use api::resources::Resources;
use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Live frameworks by key and id, and the last completed ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frameworks {
    /// Every framework that is not removed, connected or not.
    pub live: OrdMap<FrameworkKey, Arc<Framework>>,
    /// The same by the id on the wire, completed ones included: a removed id never subscribes again.
    pub by_id: OrdMap<Arc<str>, FrameworkKey>,
    /// Removed frameworks, oldest first, at most `MAX_COMPLETED_FRAMEWORKS`.
    pub completed: OrdMap<u64, Arc<CompletedFramework>>,
    /// The number of the next removal.
    pub next_completed: u64,
    /// The key of the next framework, and the number in its id.
    pub next: u32,
}

/// One framework.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Framework {
    /// Its place in State.
    pub key: FrameworkKey,
    /// Its id on the wire.
    pub id: Arc<str>,
    /// The `FrameworkInfo` as subscribed, with its id, in protobuf.
    pub info: Bytes,
    /// Who authenticated as it.
    pub principal: Option<Arc<str>>,
    /// From the info, for decisions.
    pub capabilities: Capabilities,
    /// How long its tasks outlive its stream, in milliseconds.
    pub failover_timeout_ms: u64,
    /// Its roles, each with filters and suppression. Never empty: no role means `*`.
    pub roles: OrdMap<Arc<str>, RoleState>,
    /// Where its events go; None while it is disconnected.
    pub stream: Option<FrameworkStream>,
    /// When it is removed unless it subscribes again; set while it is disconnected.
    pub failover_deadline_ms: Option<u64>,
    /// First subscription.
    pub registered_ms: u64,
    /// Last subscription, if there were several.
    pub reregistered_ms: Option<u64>,
    /// When its stream ended, while it is disconnected.
    pub disconnected_ms: Option<u64>,
    /// The running and pending use, kept with the tasks and executors: what it holds on each agent.
    pub used: OrdMap<AgentKey, Resources>,
    /// How many updates were accepted from it, for explanations.
    pub declined_offers: u64,
}

/// The capabilities of a framework that decisions ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Offers carry the role they are made to.
    pub multi_role: bool,
    /// Finer states than TASK_LOST.
    pub partition_aware: bool,
    /// Resources in stack format.
    pub reservation_refinement: bool,
    /// May be offered revocable resources.
    pub revocable_resources: bool,
    /// May be offered agents with GPUs.
    pub gpu_resources: bool,
    /// May be offered shared volumes.
    pub shared_resources: bool,
    /// May be offered agents of other regions.
    pub region_aware: bool,
    /// Wants TASK_KILLING.
    pub task_killing_state: bool,
}

/// A framework's event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkStream {
    /// Which master holds it, and the `Mesos-Stream-Id`.
    pub connection: Connection,
}

/// What a framework said about one of its roles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleState {
    /// No offers for this role until REVIVE.
    pub suppressed: bool,
    /// What it declined, by agent. An entry is over when `until_ms` has passed; nothing needs to remove it.
    pub filters: OrdMap<AgentKey, RoleFilter>,
}

/// Declined resources that are not offered again for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleFilter {
    /// What was declined: more or different resources pass.
    pub resources: Resources,
    /// In milliseconds since the epoch.
    pub until_ms: u64,
}

/// A framework that was removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletedFramework {
    /// As it was at the end, with no stream.
    pub framework: Arc<Framework>,
    /// When it was removed.
    pub removed_ms: u64,
}
