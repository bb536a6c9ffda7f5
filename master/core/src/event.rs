//! What has happened, for good. A file format that happens to be written in Rust: bincode is positional, so any
//! change to an event's fields, or to what folding it does, is a new version beside the old one. Numbers and names are
//! never used again.
//!
//! A kind of event without a note is version 1 of feature level 1. `(2 of level 2, 1 of level 1 as Old)` says that its
//! fields are those of version 2, written from feature level 2 on; below that the shape `Old` of `upcast.rs` is written.

use crate::ids::{
    AgentKey, Connection, ConnectionId, ExecutorId, FrameworkKey, Incarnation, JoinTokenKey, NodeId, OfferKey,
    OperationKey, SecretHash, TaskKey,
};
use crate::level::FeatureLevel;
use crate::state::History;
use crate::state::brakes::Brake;
use crate::state::maintenance::{MachineId, Window};
use crate::state::unfinished::Parting;
use api::resources::Resources;
use bytes::Bytes;
pub use parts::{
    AgentProfile, ExecutorUse, Fate, FrameworkTerms, GroupTask, InverseGroup, MasterReads, NewExecutor, OfferGroup,
    OfferItems, OfferKeys, Offered, Removal, Return, RoleQuota, RoleWeight, Said, ToldProvider, Unused,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Why a stored event cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Written by a newer release.
    #[error("event {number} version {version} is not known to this release")]
    Unknown {
        /// Kind of event.
        number: u16,
        /// Version of its bytes.
        version: u16,
    },
    /// Its record was written for a feature level that this release does not read.
    #[error("it is written for feature level {level}, and this release reads levels up to {reads}")]
    Level {
        /// Of the record.
        level: FeatureLevel,
        /// The highest that is read.
        reads: FeatureLevel,
    },
    /// The bytes are not those of the event.
    #[error("event {name} cannot be read")]
    Malformed {
        /// Name of the event.
        name: &'static str,
        /// The codec's reason.
        #[source]
        source: event_log::CodecError,
    },
}

/// What an event concerns, for `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touches {
    /// Tasks by framework and id.
    pub tasks: Vec<TaskKey>,
    /// Agents.
    pub agents: Vec<AgentKey>,
    /// Frameworks.
    pub frameworks: Vec<FrameworkKey>,
    /// Offers.
    pub offers: Vec<OfferKey>,
    /// Roles, as far as an event is about a role and not about somebody in it.
    pub roles: Vec<Arc<str>>,
    /// Operations.
    pub operations: Vec<OperationKey>,
}

/// A field of an event: how it is shown, and what it names.
trait Field {
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
    fn touch(&self, _touches: &mut Touches) {}
}

/// A kind of event in one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Of the kind.
    pub number: u16,
    /// Of its bytes.
    pub version: u16,
    /// The feature level from which on it is written, until a later version is.
    pub level: FeatureLevel,
    /// Of the kind.
    pub name: &'static str,
}

/// An event as stored: number, version and payload.
pub type Stored = (u16, u16, Vec<u8>);

macro_rules! first {
    ($first:literal $($other:literal)*) => {
        $first
    };
}

macro_rules! events {
    ($(
        $(#[$doc:meta])* $number:literal $name:literal $event:ident
        $(($version:literal of level $level:literal $(, $old:literal of level $old_level:literal as $older:ident)*))?
        { $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? }
    )*) => {
        /// What has happened.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event { $($(#[$doc])* $event($event),)* }

        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            pub struct $event { $($(#[$fdoc])* pub $field: $type,)* }

            impl $event {
                const VERSION: u16 = first!($($version)? 1);
                const LEVEL: FeatureLevel = FeatureLevel(first!($($level)? 1));
            }

            impl From<$event> for Event {
                fn from(event: $event) -> Event { Event::$event(event) }
            }
        )*

        impl Event {
            /// Every kind of event: number, newest version and name.
            pub const KINDS: &'static [(u16, u16, &'static str)] = &[$(($number, $event::VERSION, $name)),*];

            /// Every kind in every version.
            pub const SHAPES: &'static [Shape] = &[$(
                Shape { number: $number, version: $event::VERSION, level: $event::LEVEL, name: $name },
                $($(Shape { number: $number, version: $old, level: FeatureLevel($old_level), name: $name },)*)?
            )*];

            /// Its name, as people see it.
            pub fn name(&self) -> &'static str {
                match self { $(Event::$event(_) => $name,)* }
            }

            /// As it is stored at the newest feature level.
            pub fn encode(&self) -> Stored {
                match self { $(Event::$event(event) => {
                    ($number, $event::VERSION, event_log::encode_payload(event))
                })* }
            }

            /// As it is stored at a feature level; None if that has no shape for what it says.
            pub fn encode_at(&self, level: FeatureLevel) -> Option<Stored> {
                match self { $(Event::$event(event) => {
                    if level >= $event::LEVEL {
                        return Some(($number, $event::VERSION, event_log::encode_payload(event)));
                    }
                    $($(if level >= FeatureLevel($old_level) {
                        let older = <upcast::$older as upcast::Older<$event>>::lower(event)?;
                        return Some(($number, $old, event_log::encode_payload(&older)));
                    })*)?
                    None
                })* }
            }

            /// The event that was stored.
            ///
            /// # Errors
            /// An [`EventError`] if this release does not know it or its bytes are wrong.
            pub fn decode(number: u16, version: u16, payload: &[u8]) -> Result<Event, EventError> {
                match (number, version) {
                    $(
                        ($number, $event::VERSION) => event_log::decode_payload::<$event>(payload)
                            .map(Event::$event)
                            .map_err(|source| EventError::Malformed { name: $name, source }),
                        $($(($number, $old) => event_log::decode_payload::<upcast::$older>(payload)
                            .map(|older| Event::$event(upcast::Older::<$event>::lift(older)))
                            .map_err(|source| EventError::Malformed { name: $name, source }),)*)?
                    )*
                    _ => Err(EventError::Unknown { number, version }),
                }
            }

            /// What it concerns.
            pub fn touches(&self) -> Touches {
                let mut touches = Touches::default();
                match self { $(Event::$event(event) => { $(event.$field.touch(&mut touches);)* })* }
                self.touch_implied(&mut touches);
                touches
            }
        }

        impl fmt::Display for Event {
            /// Its name, then `field=value`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())?;
                match self { $(Event::$event(event) => {
                    $(write!(f, concat!(" ", stringify!($field), "="))?; event.$field.show(f)?;)*
                })* }
                Ok(())
            }
        }
    };
}

events! {
    /// The first leader named the cluster.
    1 "cluster-created" ClusterCreated {
        /// Prefix of every id on the wire.
        cluster_id: Arc<str>,
    }
    /// A leadership began; its record has n = 0.
    2 "leader-elected" LeaderElected {
        /// Who.
        leader: Incarnation,
        /// Its Raft term.
        term: u64,
        /// Its version of Meseta.
        version: Arc<str>,
    }
    /// A master runs.
    3 "master-started" MasterStarted (2 of level 2, 1 of level 1 as MasterStarted1) {
        /// Which, in which life.
        master: Incarnation,
        /// host:port.
        address: Arc<str>,
        /// Its version of Meseta.
        version: Arc<str>,
        /// The highest feature level that it reads; the first if that is not known.
        reads: FeatureLevel,
    }
    /// A master stopped, or stopped answering. What it held is disconnected by events of the same record.
    4 "master-lost" MasterLost {
        /// Which, in which life.
        master: Incarnation,
    }
    /// Every master reads the shapes of this level, and from now on they are written.
    5 "feature-level-raised" FeatureLevelRaised (1 of level 2) {
        /// The level.
        level: FeatureLevel,
        /// From now on State is digested at every multiple of this index; 0 for never.
        digest_every: u64,
        /// What each member of the quorum said of itself.
        masters: Vec<MasterReads>,
    }
    /// What the State of a leader was at an earlier index, to compare with. If it differed from what most masters had,
    /// another master's follows.
    6 "state-digested" StateDigested (1 of level 2) {
        /// A multiple of `State::digest_every`.
        index: u64,
        /// As of [`crate::State::digest`], after everything up to that index.
        digest: [u8; 32],
        /// Whose it was.
        by: NodeId,
    }

    /// The leader's flags say how much of what is over is remembered.
    7 "history-bounded" HistoryBounded (1 of level 3) {
        /// From now on.
        history: History,
    }

    /// A framework subscribed for the first time.
    10 "framework-subscribed" FrameworkSubscribed {
        /// Its key.
        framework: FrameworkKey,
        /// Its id on the wire.
        id: Arc<str>,
        /// The `FrameworkInfo` with its id, in protobuf.
        info: Bytes,
        /// Who authenticated as it.
        principal: Option<Arc<str>>,
        /// From the info.
        terms: FrameworkTerms,
        /// Its stream.
        connection: Connection,
    }
    /// A known framework subscribed again.
    11 "framework-resubscribed" FrameworkResubscribed {
        /// Which.
        framework: FrameworkKey,
        /// The `FrameworkInfo` with its id, in protobuf.
        info: Bytes,
        /// From the info.
        terms: FrameworkTerms,
        /// Its new stream.
        connection: Connection,
        /// The stream that it had until now.
        replaced: Option<ConnectionId>,
    }
    /// A framework's stream ended.
    12 "framework-disconnected" FrameworkDisconnected {
        /// Which.
        framework: FrameworkKey,
        /// The stream.
        connection: ConnectionId,
        /// When it is removed unless it subscribes again, in milliseconds since the epoch.
        deadline_ms: u64,
    }
    /// A framework changed its info or its suppressed roles.
    13 "framework-updated" FrameworkUpdated {
        /// Which.
        framework: FrameworkKey,
        /// The `FrameworkInfo` with its id, in protobuf.
        info: Bytes,
        /// From the info.
        terms: FrameworkTerms,
    }
    /// A framework is over. Its offers and tasks ended by events of the same record.
    14 "framework-removed" FrameworkRemoved {
        /// Which.
        framework: FrameworkKey,
        /// The stream that it had.
        connection: Option<ConnectionId>,
        /// Why.
        why: Removal,
    }

    /// The end of a framework began that is too large for one record: it is out from now on. Its offers ended by events of
    /// the same record, its tasks do by events of this and of later ones, and `framework-removed` is the last.
    15 "framework-ending" FrameworkEnding (1 of level 3) {
        /// Which.
        framework: FrameworkKey,
        /// The stream that it had.
        connection: Option<ConnectionId>,
        /// Why.
        why: Removal,
    }
    /// What a framework declined and may be offered again is no longer remembered.
    16 "filters-forgotten" FiltersForgotten (1 of level 3) {
        /// Whose.
        framework: FrameworkKey,
    }

    /// An agent got an id.
    20 "agent-registered" AgentRegistered {
        /// Its key.
        agent: AgentKey,
        /// What it made up to be recognised by.
        token: u128,
        /// What it is.
        profile: AgentProfile,
        /// Its connection.
        connection: Connection,
    }
    /// A known agent returned with its log.
    21 "agent-resumed" AgentResumed {
        /// Which.
        agent: AgentKey,
        /// What it is, if that changed.
        profile: Option<AgentProfile>,
        /// Its connection.
        connection: Connection,
        /// Orders up to here are in its log.
        orders_up_to: u64,
        /// The connection that it had until now.
        replaced: Option<ConnectionId>,
        /// It had been declared unreachable.
        was_unreachable: bool,
    }
    /// An agent's connection ended.
    22 "agent-disconnected" AgentDisconnected {
        /// Which.
        agent: AgentKey,
        /// The connection.
        connection: ConnectionId,
        /// When it is unreachable unless it resumes, in milliseconds since the epoch.
        deadline_ms: u64,
    }
    /// An agent did not return in time.
    23 "agent-unreachable" AgentUnreachable {
        /// Which.
        agent: AgentKey,
    }
    /// An agent is over: its id is never admitted again. Its tasks ended by events of the same record.
    24 "agent-removed" AgentRemoved {
        /// Which.
        agent: AgentKey,
        /// The connection that it had.
        connection: Option<ConnectionId>,
        /// An operator wanted it.
        by_operator: bool,
        /// A sentence.
        reason: Arc<str>,
    }
    /// An operator wants no offers made of it.
    25 "agent-deactivated" AgentDeactivated {
        /// Which.
        agent: AgentKey,
    }
    /// Offers of it are made again.
    26 "agent-reactivated" AgentReactivated {
        /// Which.
        agent: AgentKey,
    }
    /// Orders are in the agent's log.
    27 "orders-acknowledged" OrdersAcknowledged {
        /// Whose.
        agent: AgentKey,
        /// The last one.
        up_to: u64,
    }
    /// Messages of the agent need not be sent again.
    28 "agent-messages-received" AgentMessagesReceived {
        /// Whose.
        agent: AgentKey,
        /// The last one.
        up_to: u64,
    }
    /// A custom executor ended, or never came to be.
    29 "executor-exited" ExecutorExited {
        /// Where.
        agent: AgentKey,
        /// Whose.
        framework: FrameworkKey,
        /// Which.
        executor_id: ExecutorId,
        /// Its wait status.
        status: Option<i32>,
    }

    /// Offers were made: one plan of the allocator.
    30 "offers-made" OffersMade {
        /// Key of the first; the others follow in order.
        first: OfferKey,
        /// By framework and role.
        groups: Vec<OfferGroup>,
        /// When they are taken back, in milliseconds since the epoch.
        expires_ms: Option<u64>,
    }
    /// A framework declined offers.
    31 "offers-declined" OffersDeclined {
        /// Who.
        framework: FrameworkKey,
        /// Which.
        offers: OfferKeys,
        /// Not to be offered again before, in milliseconds since the epoch.
        until_ms: Option<u64>,
    }
    /// Offers were taken back.
    32 "offers-returned" OffersReturned {
        /// From whom.
        framework: FrameworkKey,
        /// Which.
        offers: OfferKeys,
        /// Why.
        why: Return,
    }
    /// A framework accepted offers: what it launched follows in the same record.
    33 "offers-accepted" OffersAccepted {
        /// Who.
        framework: FrameworkKey,
        /// Which: all of one agent and role.
        offers: OfferKeys,
        /// Whose resources.
        agent: AgentKey,
        /// What it left over and does not want again for a while.
        unused: Option<Unused>,
    }
    /// A framework wants offers for these roles again, whatever it declined.
    34 "roles-revived" RolesRevived {
        /// Who.
        framework: FrameworkKey,
        /// Which of its roles.
        roles: Vec<Arc<str>>,
    }
    /// A framework wants no offers for these roles.
    35 "roles-suppressed" RolesSuppressed {
        /// Who.
        framework: FrameworkKey,
        /// Which of its roles.
        roles: Vec<Arc<str>>,
    }

    /// A task was launched: its agent was ordered to.
    40 "task-launched" TaskLaunched {
        /// Which.
        task: TaskKey,
        /// Where.
        agent: AgentKey,
        /// For which role.
        role: Arc<str>,
        /// The `TaskInfo` in protobuf.
        info: Bytes,
        /// What it holds.
        resources: Resources,
        /// Its custom executor.
        executor: Option<ExecutorUse>,
    }
    /// Tasks were launched together on one custom executor: their agent was ordered to.
    41 "task-group-launched" TaskGroupLaunched {
        /// Whose.
        framework: FrameworkKey,
        /// Where.
        agent: AgentKey,
        /// For which role.
        role: Arc<str>,
        /// Their executor.
        executor: ExecutorUse,
        /// The tasks, at least one.
        tasks: Vec<GroupTask>,
    }
    /// An agent reported an update of a task; it waits for its framework.
    42 "task-updated" TaskUpdated {
        /// Of which task.
        task: TaskKey,
        /// From where.
        agent: AgentKey,
        /// The number of the agent's message.
        seq: u64,
        /// Number of `v1::TaskState`.
        state: i32,
        /// 16 bytes.
        uuid: Bytes,
        /// The `v1::TaskStatus` in protobuf.
        status: Bytes,
        /// The same without `data`, if it has any.
        brief: Option<Bytes>,
    }
    /// A framework has the update that waited longest.
    43 "update-acknowledged" UpdateAcknowledged {
        /// Of which task.
        task: TaskKey,
        /// Number of `v1::TaskState` of that update.
        state: i32,
    }
    /// A framework wants a task killed: its agent was ordered to.
    44 "kill-ordered" KillOrdered {
        /// Which.
        task: TaskKey,
        /// Where.
        agent: AgentKey,
        /// A `v1::KillPolicy` in protobuf.
        policy: Option<Bytes>,
    }
    /// The masters declared a state: the agent cannot, or the framework is over.
    45 "task-declared" TaskDeclared {
        /// Of which task.
        task: TaskKey,
        /// Where it is or was.
        agent: AgentKey,
        /// Number of `v1::TaskState`.
        state: i32,
        /// The `v1::TaskStatus` in protobuf.
        status: Bytes,
        /// What becomes of it.
        fate: Fate,
    }

    /// A framework may not launch a task as it wanted to; there is no such task.
    46 "launch-refused" LaunchRefused {
        /// Which it would have been.
        task: TaskKey,
        /// Where, in the framework's own words.
        agent_id: Arc<str>,
        /// Number of the `v1::TaskState` that the framework is told.
        state: i32,
        /// Number of the `v1::task_status::Reason`.
        reason: i32,
        /// A sentence.
        why: Arc<str>,
    }

    /// A framework wants an executor ended: its agent was ordered to.
    50 "executor-shutdown-ordered" ExecutorShutdownOrdered {
        /// Where.
        agent: AgentKey,
        /// Whose.
        framework: FrameworkKey,
        /// Which.
        executor_id: ExecutorId,
    }
    /// An agent was ordered to end whatever it has of a framework that is over.
    51 "framework-shutdown-ordered" FrameworkShutdownOrdered {
        /// Where.
        agent: AgentKey,
        /// Whose.
        framework: FrameworkKey,
        /// Its id on the wire.
        id: Arc<str>,
    }
    /// The end of an agent began that is too large for one record: it is out from now on. Its offers ended by events of the
    /// same record, its tasks do by events of this and of later ones, and `agent-removed` is the last.
    60 "agent-ending" AgentEnding (1 of level 3) {
        /// Which.
        agent: AgentKey,
        /// The connection that it had.
        connection: Option<ConnectionId>,
        /// Why.
        why: Parting,
    }
    /// An agent is back with more tasks than fit into one record: the rest is back by events of later ones.
    61 "agent-returning" AgentReturning (1 of level 3) {
        /// Which.
        agent: AgentKey,
    }
    /// All tasks of an agent that came back are, or it is away again.
    62 "agent-returned" AgentReturned (1 of level 3) {
        /// Which.
        agent: AgentKey,
    }

    /// An agent was told what a framework says of itself now.
    52 "framework-update-ordered" FrameworkUpdateOrdered {
        /// Where.
        agent: AgentKey,
        /// Whose.
        framework: FrameworkKey,
    }

    // Operations on resources.
    /// Resources of an agent were turned into others: its agent was ordered to make it so. Of what a framework accepted, or
    /// of what nobody holds.
    110 "operation-applied" OperationApplied (1 of level 4) {
        /// Its key.
        operation: OperationKey,
        /// Where.
        agent: AgentKey,
        /// Who wanted it; None for an operator.
        framework: Option<FrameworkKey>,
        /// Named by the framework, if that wants to hear what becomes of it.
        id: Option<Arc<str>>,
        /// The `v1::offer::Operation` in protobuf.
        info: Bytes,
        /// What was there, without allocation roles.
        consumed: Resources,
        /// What is there in its place.
        produced: Resources,
    }
    /// An agent said what became of an operation. If that has an id, it waits for its framework; else it is forgotten.
    111 "operation-updated" OperationUpdated (1 of level 4) {
        /// Which.
        operation: OperationKey,
        /// From where.
        agent: AgentKey,
        /// Number of the `v1::offer::operation::Type`.
        kind: i32,
        /// The number of the agent's message.
        seq: u64,
        /// Number of `v1::OperationState`.
        state: i32,
        /// 16 bytes.
        uuid: Bytes,
        /// The `v1::OperationStatus` in protobuf.
        status: Bytes,
        /// What it made is what it was again: the agent could not do it.
        is_undone: bool,
    }
    /// A framework has heard what became of its operation, which is forgotten.
    112 "operation-acknowledged" OperationAcknowledged (1 of level 4) {
        /// Which.
        operation: OperationKey,
        /// Where.
        agent: AgentKey,
        /// Whose.
        framework: FrameworkKey,
    }
    /// The agent of an operation is over, and with it what the framework might have heard.
    113 "operation-declared" OperationDeclared (1 of level 4) {
        /// Which.
        operation: OperationKey,
        /// Where it was.
        agent: AgentKey,
        /// Whose.
        framework: FrameworkKey,
        /// Number of the `v1::offer::operation::Type`.
        kind: i32,
        /// Named by the framework.
        id: Arc<str>,
        /// Number of `v1::OperationState`.
        state: i32,
        /// A sentence.
        why: Arc<str>,
    }
    /// What a framework wanted done cannot be; there is no such operation.
    114 "operation-refused" OperationRefused (1 of level 4) {
        /// Whose.
        framework: FrameworkKey,
        /// Where, if it was known.
        agent: Option<AgentKey>,
        /// Number of the `v1::offer::operation::Type`.
        kind: i32,
        /// Named by the framework; without one it is not told.
        id: Option<Arc<str>>,
        /// A sentence.
        why: Arc<str>,
    }

    /// A resource provider was ordered to make something of what a framework accepted. Only it knows what that will be: what
    /// it takes is held until then.
    115 "operation-begun" OperationBegun (1 of level 6) {
        /// Its key.
        operation: OperationKey,
        /// Where.
        agent: AgentKey,
        /// Who wanted it.
        framework: FrameworkKey,
        /// Named by the framework, if that wants to hear what becomes of it.
        id: Option<Arc<str>>,
        /// The `v1::offer::Operation` in protobuf.
        info: Bytes,
        /// What it takes, with allocation roles.
        consumed: Resources,
    }
    /// An agent said what became of an operation that held what it takes. If that has an id, it waits for its framework; else
    /// it is forgotten.
    116 "operation-ended" OperationEnded (1 of level 6) {
        /// Which.
        operation: OperationKey,
        /// From where.
        agent: AgentKey,
        /// Number of the `v1::offer::operation::Type`.
        kind: i32,
        /// The number of the agent's message.
        seq: u64,
        /// Number of `v1::OperationState`.
        state: i32,
        /// 16 bytes.
        uuid: Bytes,
        /// The `v1::OperationStatus` in protobuf.
        status: Bytes,
        /// What there is in place of what it took, if that is something else.
        converted: Option<Resources>,
    }

    // Quota and weights of roles.

    /// Operators said what roles are entitled to and what they may have at most.
    120 "quotas-set" QuotasSet (1 of level 4) {
        /// By role, each once: what it has from now on. A quota that says nothing takes the role's away.
        quotas: Vec<RoleQuota>,
    }
    /// Operators said how much roles count among their siblings.
    121 "weights-set" WeightsSet (1 of level 4) {
        /// By role, each once.
        weights: Vec<RoleWeight>,
    }

    // Offer constraints.

    /// A framework said anew which agents it wants to be offered.
    75 "offer-constraints-set" OfferConstraintsSet (1 of level 4) {
        /// Which.
        framework: FrameworkKey,
        /// The `OfferConstraints` in protobuf; empty: every agent will do.
        constraints: Bytes,
    }

    // Drains, and what agents can spare.
    /// An operator wants an agent empty: no offers of it are made, and it ends what it runs. Its offers went back by events
    /// of the same record. Asked again, this is what counts.
    80 "agent-drain-started" AgentDrainStarted (1 of level 4) {
        /// Which.
        agent: AgentKey,
        /// The most that a task may take to end, in nanoseconds.
        max_grace_ns: Option<i64>,
        /// Once it is empty, it is over.
        mark_gone: bool,
    }
    /// An agent that drains can, since it came back as another: it was ordered to.
    81 "agent-drain-ordered" AgentDrainOrdered (1 of level 4) {
        /// Which.
        agent: AgentKey,
    }
    /// Nothing is left on an agent that drained: the end of its last task was acknowledged.
    82 "agent-drained" AgentDrained (1 of level 4) {
        /// Which.
        agent: AgentKey,
    }
    /// An agent need not be empty any more: `agent-reactivated` follows.
    83 "agent-drain-ended" AgentDrainEnded (1 of level 4) {
        /// Which.
        agent: AgentKey,
    }
    /// An agent said what it can spare of what is in use.
    84 "agent-oversubscribed" AgentOversubscribed (1 of level 4) {
        /// Which.
        agent: AgentKey,
        /// The number of the agent's message.
        seq: u64,
        /// In place of what it said before; revocable.
        resources: Resources,
    }

    // Resource providers.
    /// An agent said which resource providers it has, all of them, and what some of them have. Offers of what they had before
    /// went back by events of the same record.
    85 "agent-providers-changed" AgentProvidersChanged (1 of level 6) {
        /// Which.
        agent: AgentKey,
        /// The number of its message.
        seq: u64,
        /// In place of those before; whoever is not among them is gone for good.
        providers: Vec<ToldProvider>,
    }

    // Maintenance.
    /// An operator wrote a schedule, in place of the one before.
    90 "maintenance-scheduled" MaintenanceScheduled (1 of level 4) {
        /// All of it.
        windows: Vec<Window>,
    }
    /// Machines are down: their agents ended by events of the same record, and none is admitted.
    91 "machines-down" MachinesDown (1 of level 4) {
        /// Which.
        machines: Vec<MachineId>,
    }
    /// Machines are up again, and out of the schedule.
    92 "machines-up" MachinesUp (1 of level 4) {
        /// Which.
        machines: Vec<MachineId>,
    }
    /// Frameworks are asked to give back what they have of agents that are to be unavailable.
    93 "inverse-offers-made" InverseOffersMade (1 of level 4) {
        /// Key of the first; the others follow in order.
        first: OfferKey,
        /// By framework.
        groups: Vec<InverseGroup>,
        /// When they are taken back, in milliseconds since the epoch.
        expires_ms: Option<u64>,
    }
    /// Inverse offers were taken back.
    94 "inverse-offers-returned" InverseOffersReturned (1 of level 4) {
        /// From whom.
        framework: FrameworkKey,
        /// Which.
        offers: OfferKeys,
        /// Why.
        why: Return,
    }
    /// A framework answered inverse offers.
    95 "inverse-offers-answered" InverseOffersAnswered (1 of level 4) {
        /// Who.
        framework: FrameworkKey,
        /// Which.
        offers: OfferKeys,
        /// It will leave.
        is_accepted: bool,
        /// Not to be asked again before, in milliseconds since the epoch.
        until_ms: Option<u64>,
    }

    // Brakes.

    /// An operator paused something, or gave another reason for it.
    100 "brake-pulled" BrakePulled (1 of level 4) {
        /// What.
        brake: Brake,
        /// As the operator said.
        why: Arc<str>,
        /// The operator, if known.
        by: Option<Arc<str>>,
    }
    /// An operator released what was paused.
    101 "brake-released" BrakeReleased (1 of level 4) {
        /// What.
        brake: Brake,
        /// As the operator said; may be empty.
        why: Arc<str>,
        /// The operator, if known.
        by: Option<Arc<str>>,
    }

    // Who agents are.

    /// An operator made a token that agents may join by.
    130 "join-token-minted" JoinTokenMinted (1 of level 5) {
        /// Its key.
        token: JoinTokenKey,
        /// Of its text.
        hash: SecretHash,
        /// Whom agents are that join by it.
        principal: Arc<str>,
        /// The only agent that it is for, which comes back by it.
        agent: Option<AgentKey>,
        /// So many agents may join by it.
        uses: u32,
        /// It is good until then, in milliseconds since the epoch.
        until_ms: u64,
        /// As the operator said; may be empty.
        note: Arc<str>,
        /// The operator, if known.
        by: Option<Arc<str>>,
    }
    /// An operator took a token back.
    131 "join-token-revoked" JoinTokenRevoked (1 of level 5) {
        /// Which.
        token: JoinTokenKey,
        /// The operator, if known.
        by: Option<Arc<str>>,
    }
    /// A token that is over is no longer remembered.
    132 "join-token-forgotten" JoinTokenForgotten (1 of level 5) {
        /// Which.
        token: JoinTokenKey,
    }
    /// An agent came by a token, and has an identity of its own from now on.
    133 "agent-joined" AgentJoined (1 of level 5) {
        /// Which.
        agent: AgentKey,
        /// By which token.
        token: JoinTokenKey,
        /// Whom it is.
        principal: Arc<str>,
        /// The hash of its identity.
        identity: SecretHash,
        /// Its identity is good until then, in milliseconds since the epoch.
        until_ms: u64,
    }
    /// An agent that is over came back as another, with the identity that it had.
    134 "agent-identity-moved" AgentIdentityMoved (1 of level 5) {
        /// What it was.
        from: AgentKey,
        /// What it is.
        agent: AgentKey,
    }
    /// An agent has another identity in place of the one before.
    135 "agent-identity-rotated" AgentIdentityRotated (1 of level 5) {
        /// Which.
        agent: AgentKey,
        /// The hash of its identity.
        identity: SecretHash,
        /// Good until then, in milliseconds since the epoch.
        until_ms: u64,
    }
    /// An operator wants an agent to have another identity.
    136 "agent-rotation-wanted" AgentRotationWanted (1 of level 5) {
        /// Which.
        agent: AgentKey,
        /// The operator, if known.
        by: Option<Arc<str>>,
    }
    /// An operator revoked an agent's identity.
    137 "agent-identity-revoked" AgentIdentityRevoked (1 of level 5) {
        /// Whose.
        agent: AgentKey,
        /// The operator, if known.
        by: Option<Arc<str>>,
    }
    /// An agent came as a principal for the first time, and comes back as that one alone.
    138 "agent-bound" AgentBound (1 of level 5) {
        /// Which.
        agent: AgentKey,
        /// To whom.
        principal: Arc<str>,
    }
    /// It is no longer remembered whom an agent is known as.
    139 "agent-identity-forgotten" AgentIdentityForgotten (1 of level 5) {
        /// Which.
        agent: AgentKey,
        /// The operator who wanted it, if one did and is known.
        by: Option<Arc<str>>,
    }
}

impl Event {
    /// What an event concerns without naming it in a field.
    fn touch_implied(&self, touches: &mut Touches) {
        match self {
            Event::OffersMade(event) => {
                let count: usize = event.groups.iter().map(|group| group.offers.0.len()).sum();
                touches.offers.extend((0..count as u64).map(|n| OfferKey(event.first.0 + n)));
            }
            Event::TaskGroupLaunched(event) => {
                touches.tasks.extend(event.tasks.iter().map(|task| (event.framework, task.task_id.clone())));
            }
            Event::InverseOffersMade(event) => {
                let count: usize = event.groups.iter().map(|group| group.agents.len()).sum();
                touches.offers.extend((0..count as u64).map(|n| OfferKey(event.first.0 + n)));
            }
            Event::QuotasSet(event) => touches.roles.extend(event.quotas.iter().map(|quota| quota.role.clone())),
            Event::WeightsSet(event) => touches.roles.extend(event.weights.iter().map(|weight| weight.role.clone())),
            _ => {}
        }
    }
}

/// The events of a stored record.
///
/// # Errors
/// An [`EventError`] for the first that cannot be read.
pub fn decode_record(record: &event_log::Record) -> Result<Vec<Event>, EventError> {
    decode_record_at(record, FeatureLevel::NEWEST)
}

/// The events of a stored record, as a release reads them that knows the levels up to `reads`.
///
/// # Errors
/// As [`decode_record`].
pub fn decode_record_at(record: &event_log::Record, reads: FeatureLevel) -> Result<Vec<Event>, EventError> {
    let level = FeatureLevel(record.header.feature_level);
    if level > reads {
        return Err(EventError::Level { level, reads });
    }
    record.events.iter().map(|event| Event::decode(event.number, event.version, &event.payload)).collect()
}

mod parts;
mod show;
mod upcast;
