//! The fold of all events so far: ordered persistent maps, so that a clone costs nothing and iteration is the same
//! on every master. What decisions need is in compact domain types; the rest of a message stays in its protobuf
//! encoding and is passed on unharmed.
//!
//! Every field changes by a named transition in these files, called by `fold` alone.

pub mod agents;
pub mod brakes;
mod cautious;
pub mod charged;
pub mod constraints;
pub mod drains;
pub mod frameworks;
pub mod held;
pub mod identities;
pub mod maintenance;
pub mod offers;
pub mod operations;
pub mod oversubscribed;
pub mod providers;
pub mod refusals;
pub mod roles;
pub mod snapshot;
pub mod tasks;
pub mod turns;
pub mod unfinished;

pub use agents::{Agent, AgentLiveness, Agents, Executor, GoneAgent, Order};
pub use brakes::Brakes;
pub use constraints::Constraints;
pub use drains::Drains;
pub use frameworks::{CompletedFramework, Framework, FrameworkStream, Frameworks, RoleFilter, RoleState};
pub use held::HeldSince;
pub use identities::Identities;
pub use maintenance::Maintenance;
pub use offers::{Offer, Offers};
pub use operations::{Operation, Operations};
pub use oversubscribed::Oversubscribed;
pub use providers::{Provider, Providers};
pub use refusals::Refusals;
pub use roles::Roles;
pub use snapshot::{Digests, SectionDigest, Sections, SnapshotError};
pub use tasks::{PendingUpdate, Task, Tasks};
pub use turns::Turns;
pub use unfinished::Unfinished;

use crate::ids::{AgentKey, FrameworkKey, Incarnation, NodeId, OfferKey};
use crate::level::FeatureLevel;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What the cluster is, at one index of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Prefix of every id on the wire; empty before the first leader.
    pub cluster_id: Arc<str>,
    /// The time of the last record, in milliseconds since the epoch. Never goes back.
    pub at_ms: u64,
    /// Who leads, since which term.
    pub leader: Option<Leader>,
    /// Which shapes of events and of State are written.
    pub feature_level: FeatureLevel,
    /// State is digested at every multiple of this index; 0 for never.
    pub digest_every: u64,
    /// The last digest that was logged.
    pub last_digest: Option<LoggedDigest>,
    /// The masters by disk, each with its current life.
    pub masters: OrdMap<NodeId, Arc<Master>>,
    /// Live and completed frameworks.
    pub frameworks: Frameworks,
    /// Registered, unreachable and gone agents.
    pub agents: Agents,
    /// Outstanding offers.
    pub offers: Offers,
    /// Live and completed tasks, and their updates not yet acknowledged.
    pub tasks: Tasks,
    /// What takes several records.
    pub unfinished: Unfinished,
    /// How much of what is over is remembered.
    pub history: History,
    /// Operations on resources that are not forgotten yet.
    pub operations: Operations,
    /// Quota and weights.
    pub roles: Roles,
    /// Agents that are to be empty.
    pub drains: Drains,
    /// Machines that are to be down, and inverse offers.
    pub maintenance: Maintenance,
    /// What agents can spare.
    pub oversubscribed: Oversubscribed,
    /// Resource providers of agents.
    pub providers: Providers,
    /// Offer constraints of frameworks.
    pub constraints: Constraints,
    /// What is paused.
    pub brakes: Brakes,
    /// Since when reservations and volumes are there.
    pub held: HeldSince,
    /// What was declined beside what frameworks' roles have.
    pub refusals: Refusals,
    /// Tokens that agents may join by, and whom agents are known as.
    pub identities: Identities,
    /// How often it was whose turn.
    pub turns: Turns,
    /// What happens when nothing else does, by time. Derived.
    #[serde(skip)]
    pub deadlines: OrdSet<(u64, Deadline)>,
}

/// What is over when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deadline {
    /// A disconnected framework's failover timeout.
    Framework(FrameworkKey),
    /// A disconnected agent's time to resume.
    Agent(AgentKey),
    /// An offer's timeout.
    Offer(OfferKey),
    /// An inverse offer's timeout.
    InverseOffer(OfferKey),
    /// The next step of a framework's end.
    FrameworkEnd(FrameworkKey),
    /// The next step of an agent's end.
    AgentEnd(AgentKey),
    /// The next tasks of an agent that is back.
    AgentReturn(AgentKey),
}

/// How much of what is over is remembered. Logged when the leader's flags say something else: every master must forget
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Removed frameworks, at least 1: `--max_completed_frameworks`.
    pub frameworks: u32,
    /// Ended tasks of each framework: `--max_completed_tasks_per_framework`.
    pub tasks: u32,
}

impl Default for History {
    fn default() -> History {
        History { frameworks: MAX_COMPLETED_FRAMEWORKS, tasks: MAX_COMPLETED_TASKS }
    }
}

/// Who is found to be away within so many milliseconds of an election was lost with the leadership before: a master
/// that is missed is given up sooner, with all that it held. Who leaves later was there when it was over.
const AFTERMATH_MS: u64 = 75_000;

/// So long after an election agents come back whom watchers know as recovered only, in milliseconds: those who take longer
/// are unreachable meanwhile, unless flags say something else.
const GATHERING_MS: u64 = 600_000;

/// How many removed frameworks are remembered, with their tasks, unless flags say something else.
pub const MAX_COMPLETED_FRAMEWORKS: u32 = 50;

/// How many ended tasks of a framework are remembered, unless flags say something else.
pub const MAX_COMPLETED_TASKS: u32 = 1000;

impl State {
    /// Whether an agent is known from before the leadership in force, is away since, and has not come back. What it knows
    /// will be told when it has, or when it is given up.
    pub fn is_recovered(&self, agent: &Agent) -> bool {
        let AgentLiveness::Disconnected { since_ms, .. } = agent.liveness else { return false };
        self.is_from_before(agent.reregistered_ms.unwrap_or(agent.registered_ms), since_ms)
    }

    /// The same of a framework: it was subscribed before this leadership, and has not subscribed again.
    pub fn is_recovered_framework(&self, framework: &Framework) -> bool {
        let last_ms = framework.reregistered_ms.unwrap_or(framework.registered_ms);
        let is_live = self.frameworks.live.contains_key(&framework.key);
        is_live && framework.disconnected_ms.is_some_and(|since_ms| self.is_from_before(last_ms, since_ms))
    }

    /// Whether who came last at `last_ms` and is away since `away_ms` went with an earlier leadership.
    fn is_from_before(&self, last_ms: u64, away_ms: u64) -> bool {
        let led_since_ms = self.leader.as_ref().map_or(0, |leader| leader.since_ms);
        last_ms < led_since_ms && away_ms <= led_since_ms.saturating_add(AFTERMATH_MS)
    }

    /// Whether an agent that has just come back from being away may have been among the recovered ones, as far as State
    /// still shows.
    pub(crate) fn may_have_been_recovered(&self, agent: &Agent) -> bool {
        let led_since_ms = self.leader.as_ref().map_or(0, |leader| leader.since_ms);
        agent.registered_ms < led_since_ms && self.at_ms < led_since_ms.saturating_add(GATHERING_MS)
    }

    /// When something is due, in milliseconds since the epoch.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.get_min().map(|(at_ms, _)| *at_ms)
    }

    /// Whether a framework is on its way out: it was removed, and some of its tasks are still to follow.
    pub fn is_ending(&self, framework: FrameworkKey) -> bool {
        self.unfinished.frameworks.contains_key(&framework)
    }

    /// Whether an agent is on its way out: it is over, and some of its tasks are still to follow.
    pub fn is_parting(&self, agent: AgentKey) -> bool {
        self.unfinished.agents.contains_key(&agent)
    }

    /// Whether this incarnation is known and its node has not started another, nor was it missed.
    pub fn is_over(&self, incarnation: Incarnation) -> bool {
        self.masters.get(&incarnation.node).is_some_and(|master| master.incarnation != incarnation || !master.alive)
    }
}

/// The leadership in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leader {
    /// Its Raft term.
    pub term: u64,
    /// Which master, in which life.
    pub master: Incarnation,
    /// When it began, in milliseconds since the epoch.
    pub since_ms: u64,
}

/// A master as the log knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Master {
    /// Its current life.
    pub incarnation: Incarnation,
    /// host:port for clients, agents and peers.
    pub address: Arc<str>,
    /// Its version of Meseta.
    pub version: Arc<str>,
    /// When this life began.
    pub started_ms: u64,
    /// False once the leader has missed it, or it said goodbye.
    pub alive: bool,
    /// The highest feature level that it reads; the first, as long as the cluster's level has no room for it.
    pub reads: FeatureLevel,
}

/// A digest in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedDigest {
    /// After everything up to this index.
    pub index: u64,
    /// As of [`State::digest`].
    pub digest: [u8; 32],
    /// Whose State it was.
    pub by: NodeId,
}
