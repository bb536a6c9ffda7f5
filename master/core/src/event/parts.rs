//! What events are made of. As much part of the file format as events are: bincode is positional, so a changed field is a new
//! version of every event that holds it.

use crate::ids::{AgentKey, ExecutorId, FrameworkKey, NodeId, OfferKey, OperationKey, TaskId};
use crate::level::FeatureLevel;
use crate::state::frameworks::Capabilities;
use crate::state::roles::{Quota, Weight};
use api::resources::Resources;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::Arc;

/// What a master said that it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterReads {
    /// The master's disk.
    pub node: NodeId,
    /// The highest feature level that it reads.
    pub reads: FeatureLevel,
}

/// What a `FrameworkInfo` and its call say that decisions need.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameworkTerms {
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// How long its tasks outlive its stream, in milliseconds.
    pub failover_timeout_ms: u64,
    /// Its roles, at least one.
    pub roles: Vec<Arc<str>>,
    /// Those it wants no offers for.
    pub suppressed: Vec<Arc<str>>,
}

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentProfile {
    /// The `AgentInfo` with its id, in protobuf.
    pub info: Bytes,
    /// From the info.
    pub hostname: Arc<str>,
    /// host:port of its HTTP endpoint.
    pub address: Arc<str>,
    /// Its version of Meseta.
    pub version: Arc<str>,
    /// By name.
    pub capabilities: Vec<Arc<str>>,
    /// Everything it has.
    pub total: Resources,
}

/// A resource provider as its agent tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToldProvider {
    /// Its id.
    pub id: Arc<str>,
    /// The `ResourceProviderInfo` in protobuf.
    pub info: Bytes,
    /// It is there.
    pub is_subscribed: bool,
    /// What it has, if it said so anew.
    pub said: Option<Said>,
}

/// What a resource provider said that it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// All of it, as of the operations that had ended by then.
    pub total: Resources,
    /// 16 bytes by which operations upon it are told from those upon what it had before.
    pub version: Bytes,
    /// Those that it will go on with, whatever version they are upon.
    pub operations: Vec<OperationKey>,
}

/// Offers made to one role of one framework.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfferGroup {
    /// To whom.
    pub framework: FrameworkKey,
    /// For which of its roles.
    pub role: Arc<str>,
    /// Whose resources.
    pub offers: OfferItems,
}

/// What one framework is asked to give back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InverseGroup {
    /// Who.
    pub framework: FrameworkKey,
    /// Of which agents.
    pub agents: Vec<AgentKey>,
}

/// Agents and what is offered of each, in compact form: stored as differences between the agents' keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OfferItems(pub Vec<(AgentKey, Offered)>);

/// What is offered of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Offered {
    /// Everything on it that is free and may go to that role.
    Whole,
    /// This, with allocation role.
    Part(Resources),
}

/// Offers by key, ascending; stored as differences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferKeys(pub(super) Vec<OfferKey>);

impl OfferKeys {
    /// These, in order of age, each once.
    pub fn new(mut keys: Vec<OfferKey>) -> OfferKeys {
        keys.sort_unstable();
        keys.dedup();
        OfferKeys(keys)
    }

    /// By age.
    pub fn iter(&self) -> impl Iterator<Item = OfferKey> + '_ {
        self.0.iter().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a framework left over of offers that it accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unused {
    /// For which of its roles.
    pub role: Arc<str>,
    /// What.
    pub resources: Resources,
    /// Not to be offered again before, in milliseconds since the epoch.
    pub until_ms: u64,
}

/// A task's executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecutorUse {
    /// Which.
    pub executor_id: ExecutorId,
    /// Set if the launch brought it to its agent.
    pub new: Option<NewExecutor>,
}

/// An executor that comes with a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewExecutor {
    /// The `ExecutorInfo` in protobuf.
    pub info: Bytes,
    /// What it holds.
    pub resources: Resources,
}

/// A task of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupTask {
    /// Named by its framework.
    pub task_id: TaskId,
    /// The `TaskInfo` in protobuf.
    pub info: Bytes,
    /// What it holds.
    pub resources: Resources,
}

/// What a role is entitled to and may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleQuota {
    /// Which.
    pub role: Arc<str>,
    /// From now on.
    pub quota: Quota,
}

/// How much a role counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoleWeight {
    /// Which.
    pub role: Arc<str>,
    /// From now on.
    pub weight: Weight,
}

/// Why a framework was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// By itself or by an operator.
    Teardown,
    /// It did not subscribe again in time.
    FailoverTimeout,
}

/// Why offers were taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Return {
    /// The framework's stream ended.
    Disconnected,
    /// It subscribed again on another stream.
    FailedOver,
    /// It was removed.
    Removed,
    /// The agent is away, or over.
    AgentLost,
    /// An operator deactivated the agent.
    AgentDeactivated,
    /// The agent has other resources now.
    AgentChanged,
    /// The offer's time was up.
    Expired,
    /// The framework left the role.
    RoleLeft,
    /// They were named in a call that had other, invalid ones.
    Invalid,
    /// The agent's machine is to be unavailable at another time. From level 4 on.
    MaintenanceChanged,
    /// A role may have no more than an operator said, or another is entitled to so much. From level 4 on.
    QuotaSet,
    /// Roles count differently now. From level 4 on.
    WeightsSet,
}

impl Return {
    /// Whether the framework hears of it by a RESCIND.
    pub fn is_rescind(self) -> bool {
        match self {
            Return::Disconnected | Return::FailedOver | Return::Removed | Return::Invalid => false,
            Return::AgentLost
            | Return::AgentDeactivated
            | Return::AgentChanged
            | Return::Expired
            | Return::RoleLeft
            | Return::MaintenanceChanged
            | Return::QuotaSet
            | Return::WeightsSet => true,
        }
    }
}

/// What becomes of a task whose state the masters declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// Over: into the history, its resources are free.
    Completed,
    /// Kept aside while its agent is unreachable, its resources are free.
    Unreachable,
    /// Back with its agent, holding its resources again.
    Back,
}

impl Serialize for OfferKeys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut last = 0;
        let differences = self.0.iter().map(|key| {
            let difference = key.0.wrapping_sub(last);
            last = key.0;
            difference
        });
        // A sequence of known length: bincode writes its length first.
        differences.collect::<Vec<u64>>().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for OfferKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut last: u64 = 0;
        let differences = Vec::<u64>::deserialize(deserializer)?;
        let keys = differences.into_iter().map(|difference| {
            last = last.wrapping_add(difference);
            OfferKey(last)
        });
        Ok(OfferKeys(keys.collect()))
    }
}

impl Serialize for OfferItems {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut last = 0;
        let items = self.0.iter().map(|(agent, offered)| {
            let difference = agent.0.wrapping_sub(last) as i64;
            last = agent.0;
            (difference, offered)
        });
        items.collect::<Vec<_>>().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for OfferItems {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut last: u64 = 0;
        let items = Vec::<(i64, Offered)>::deserialize(deserializer)?;
        let items = items.into_iter().map(|(difference, offered)| {
            last = last.wrapping_add(difference as u64);
            (AgentKey(last), offered)
        });
        Ok(OfferItems(items.collect()))
    }
}
