//! What someone wants. Commands come from HTTP, from agents, from timers; none is stored.

use crate::allocator::Plan;
use crate::deadlines::Due;
use crate::ids::{Connection, FrameworkKey, Incarnation, NodeId, SecretHash};
use crate::level::FeatureLevel;
use api::internal;
use api::v1;

/// What someone wants, with everything from the world that deciding it needs. The fields are what each sentence says.
// A command lives for one decision and is moved once: boxing its largest would cost more than it saves.
#[allow(missing_docs, clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum Command {
    /// SUBSCRIBE: a new framework, or a known one on a new stream. `connection` is the stream it will have.
    Subscribe { connection: Connection, subscribe: v1::scheduler::call::Subscribe, framework_id: Option<String> },
    /// Any other call of a framework, with the `Mesos-Stream-Id` of its request.
    FrameworkCall { stream_id: Option<String>, call: Box<v1::scheduler::Call> },
    /// The framework's stream ended: its client left, or `by_master` the master that held it let it go.
    FrameworkDisconnected { framework_id: String, connection: Connection, by_master: bool },

    /// An agent without an id.
    RegisterAgent { connection: Connection, register: internal::Register },
    /// An agent that returns with its log.
    ResumeAgent { connection: Connection, resume: internal::Resume },
    /// Messages of an agent in the order of their numbers.
    AgentMessages { agent_id: String, connection: Connection, messages: Vec<internal::FromAgent> },
    /// The agent's connection ended.
    AgentDisconnected { agent_id: String, connection: Connection },

    /// An operator's call that changes something or may be refused; reads are served from State.
    OperatorCall { call: Box<v1::master::Call> },

    /// This node leads since `term`: the first command of a leadership, its record has n = 0.
    /// `cluster_id` counts only if the log has none yet.
    BecomeLeader { leader: Incarnation, term: u64, cluster_id: String, version: String },
    /// A master runs as this incarnation; every earlier one of the node is over. It reads feature levels up to `reads`.
    StartMaster { master: Incarnation, address: String, version: String, reads: FeatureLevel },
    /// The leader misses this master, or it stops.
    LoseMaster { master: Incarnation },
    /// Every member of the quorum reads `level`, as each has said to the leader.
    RaiseFeatureLevel { level: FeatureLevel, digest_every: u64, masters: Vec<(NodeId, FeatureLevel)> },
    /// What the State of master `by` was at an earlier index.
    LogDigest { index: u64, digest: [u8; 32], by: NodeId },
    /// The time of this has come.
    PassDeadline { due: Due },
    /// Whatever is remembered for too long, or is too much, is to be forgotten.
    Forget,
    /// What the allocator proposes, computed from an older State.
    MakeOffers { plan: Plan },
    /// Pauses something, or `release`s it; `why` is for whoever asks.
    Brake { what: What, release: bool, why: String },
    /// Makes and takes back tokens that agents join by, and their identities.
    Join(Joining),
    /// Ends a framework whatever its state (operator, failover timeout uses PassDeadline).
    RemoveFramework { framework: FrameworkKey },
}

/// What an operator may pause, as it is named to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Allocation for everybody.
    Allocation,
    /// Allocation for a role and those below it.
    Role(String),
    /// Allocation for the framework of this id.
    Framework(String),
    /// Letting in frameworks that are not known yet.
    NewFrameworks,
}

/// What an operator wants of tokens that agents join by, and of their identities.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joining {
    /// A token, for so many agents and so many milliseconds, whose text has this hash.
    Mint { hash: SecretHash, principal: String, agent_id: Option<String>, uses: u32, life_ms: u64, note: String },
    /// A token is good for nobody any more.
    RevokeToken { token: u64 },
    /// The agent is to have another identity.
    Rotate { agent_id: String },
    /// The agent's identity is good for nothing any more.
    Revoke { agent_id: String },
    /// The agent may come as another principal.
    Release { agent_id: String },
}

impl Joining {
    /// Its name, as causes have it.
    pub fn name(&self) -> &'static str {
        match self {
            Joining::Mint { .. } => "MINT_JOIN_TOKEN",
            Joining::RevokeToken { .. } => "REVOKE_JOIN_TOKEN",
            Joining::Rotate { .. } => "ROTATE_IDENTITY",
            Joining::Revoke { .. } => "REVOKE_IDENTITY",
            Joining::Release { .. } => "RELEASE_AGENT",
        }
    }

    /// All of them.
    pub const NAMES: [&'static str; 5] =
        ["MINT_JOIN_TOKEN", "REVOKE_JOIN_TOKEN", "ROTATE_IDENTITY", "REVOKE_IDENTITY", "RELEASE_AGENT"];
}

/// Who is behind a command; part of the record. Frameworks and operators by principal, everyone by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The authenticated principal, if there is one.
    pub principal: Option<String>,
    /// The address of the client.
    pub peer: Option<String>,
}
