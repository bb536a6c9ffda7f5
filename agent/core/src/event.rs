//! What has happened on an agent. This is a file format: numbers and names are never reused, and any change to the
//! bytes of an event, or to what folding it does, is a new version of it.

use event_log::{CodecError, RawEvent, Record, decode_payload, encode_payload};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::providers::Stated;
use crate::state::{Clock, Message, Process, Stop, Why};

pub mod first;
mod upcast;

/// A message of the wire in its protobuf encoding, kept and passed on unharmed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Blob {
    /// The encoding of a message.
    pub fn of(message: &impl prost::Message) -> Blob {
        Blob(message.encode_to_vec())
    }

    /// The message. Blobs are only made from messages; what is damaged nevertheless reads as an empty one.
    pub fn get<T: prost::Message + Default>(&self) -> T {
        T::decode(self.0.as_slice()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

/// The feature level of the records that this release writes, and the highest that it reads. An agent's log is its own: an
/// agent writes what it can as soon as it is upgraded. Records of the first releases have none, which is 0.
///
/// Level 2: ended tasks, executors and frameworks are forgotten by events, a shortened log begins with the parts of State,
/// and streams of executors are in State.
///
/// Level 3: operations, drains, what the agent can spare, and how it described itself.
///
/// Level 4: containers that are launched by call, and tasks that end because they are not healthy.
///
/// Level 5: containers that end because they exceeded what they may use.
///
/// Level 6: how often in a row a command was not healthy. From here on the files of containers are lines of one file each: a release of
/// before, which could not read them, refuses the log first.
///
/// Level 7: operations that are over are remembered until their frameworks have acknowledged it.
///
/// Level 8: providers of resources, and operations on what they have.
pub const FEATURE_LEVEL: u32 = 8;

/// The events of a stored record.
///
/// # Errors
/// An [`EventError`] for the first that cannot be read.
pub fn decode_record(record: &Record) -> Result<Vec<Event>, EventError> {
    let level = record.header.feature_level;
    if level > FEATURE_LEVEL {
        return Err(EventError::Level { level });
    }
    record.events.iter().map(Event::from_raw).collect()
}

/// Why a stored event cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Written by a newer release.
    #[error("event {number} in version {version} is not known to this release")]
    Unknown {
        /// Its number.
        number: u16,
        /// Its version.
        version: u16,
    },
    /// Its record was written for a feature level that this release does not read.
    #[error("it is written for feature level {level}, and this release reads levels up to {FEATURE_LEVEL}")]
    Level {
        /// Of the record.
        level: u32,
    },
    /// Its bytes are not what they should be.
    #[error("event {name} cannot be read")]
    Payload {
        /// Name of the kind.
        name: &'static str,
        /// What is wrong.
        #[source]
        source: CodecError,
    },
}

/// A kind's version, which is 1 unless it says otherwise.
macro_rules! version {
    () => {
        1
    };
    ($version:literal) => {
        $version
    };
}

macro_rules! events {
    ($($(#[$doc:meta])* $number:literal $(@ $version:literal)? $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)?
    })*) => {
        /// What has happened, for good.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: $type),* },)*
        }

        impl Event {
            /// Every kind of event that is written: number, version and name.
            pub const KINDS: &'static [(u16, u16, &'static str)] =
                &[$(($number, version!($($version)?), stringify!($name))),*];

            /// The name of its kind.
            pub fn name(&self) -> &'static str {
                match self { $(Event::$name { .. } => stringify!($name),)* }
            }

            /// As it is stored. `cause` is an index into the causes of its record.
            pub fn to_raw(&self, cause: u32) -> RawEvent {
                let (number, version, payload) = match self {
                    $(Event::$name { $($field),* } => {
                        ($number, version!($($version)?), encode_payload(&($($field,)*)))
                    })*
                };
                RawEvent { number, version, cause, payload }
            }

            fn decode(raw: &RawEvent) -> Result<Event, EventError> {
                match (raw.number, raw.version) {
                    $(($number, version!($($version)?)) => {
                        let ($($field,)*) = payload::<($($type,)*)>(raw, stringify!($name))?;
                        Ok(Event::$name { $($field),* })
                    })*
                    _ => upcast::lift(raw),
                }
            }
        }
    };
}

impl Event {
    /// The event that was stored.
    ///
    /// # Errors
    /// An [`EventError`] if a newer release wrote it, or its bytes are damaged.
    pub fn from_raw(raw: &RawEvent) -> Result<Event, EventError> {
        let event = Event::decode(raw)?;
        if let Event::Restored { state } = &event {
            // Here, where it can be refused: folding cannot fail.
            first::decode(state).map_err(|source| EventError::Payload { name: event.name(), source })?;
        }
        Ok(event)
    }
}

fn payload<T: serde::de::DeserializeOwned>(raw: &RawEvent, name: &'static str) -> Result<T, EventError> {
    decode_payload(&raw.payload).map_err(|source| EventError::Payload { name, source })
}

events! {
    /// The log was shortened, by the first releases: this is the state that all earlier events led to.
    1 Restored {
        /// As those releases encoded it: see [`first`].
        state: Blob,
    }
    /// The agent will register under this token.
    2 TokenChosen {
        /// Random.
        token: [u8; 16],
    }
    /// The masters know the agent.
    3 Registered {
        /// As they call it.
        agent_id: String,
        /// The cluster that minted the id.
        cluster_id: String,
    }
    /// Orders up to here are in this log; their consequences follow in the same record.
    4 OrdersTaken {
        /// Number of the last one.
        up_to: u64,
    }
    /// A framework has work here, or changed its description.
    5 FrameworkSeen {
        /// The framework.
        framework_id: String,
        /// `FrameworkInfo`
        info: Blob,
    }
    /// The framework is gone: what it has here is ended, nobody wants to hear of it.
    6 FrameworkRemoved {
        /// The framework.
        framework_id: String,
    }
    /// An executor is to be launched.
    7 ExecutorAdded {
        /// Its framework.
        framework_id: String,
        /// Its id; for a command task the id of the task.
        executor_id: String,
        /// Whether it only stands for one command task.
        is_command: bool,
        /// `ExecutorInfo`
        info: Blob,
        /// The container made for it.
        container_id: String,
        /// Milliseconds since 1970.
        at_ms: u64,
        /// When it must have subscribed, if it is to subscribe at all.
        register_by_ms: Option<u64>,
    }
    /// A task was given to an executor.
    8 TaskAdded {
        /// Its framework.
        framework_id: String,
        /// Its executor.
        executor_id: String,
        /// The task.
        task_id: String,
        /// `TaskInfo`
        info: Blob,
        /// First task of the group that it was launched with, if any.
        group: Option<String>,
    }
    /// Tasks are being handed to their executor.
    9 TasksDelivered {
        /// Their framework.
        framework_id: String,
        /// Their executor.
        executor_id: String,
        /// The tasks.
        task_ids: Vec<String>,
    }
    /// The container's process runs.
    10 ContainerStarted {
        /// The container.
        container_id: String,
        /// Supervisor and process.
        process: Process,
        /// When its task must be complete, if it must.
        complete_by_ms: Option<u64>,
    }
    /// The container never ran, and never will: another one takes its place.
    11 ContainerReplaced {
        /// The container.
        container_id: String,
        /// The other one.
        replacement_id: String,
    }
    /// A task has a new state, which the masters must hear of. Takes the next message number.
    12 @ 2 StatusWritten {
        /// Its framework.
        framework_id: String,
        /// Its executor; none if the launch was refused at once.
        executor_id: Option<String>,
        /// The task.
        task_id: String,
        /// Number of the `TaskState`.
        task_state: i32,
        /// `TaskStatus`
        status: Blob,
        /// So many statuses of the task are kept.
        statuses_max: u32,
    }
    /// The masters must hear of a custom executor. Takes the next message number.
    13 ExecutorAnnounced {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
    }
    /// An executor subscribed: from here on it has a stream, and what is said to it is said there.
    14 @ 2 ExecutorSubscribed {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Number of the stream, counted since the agent was started.
        stream: u64,
    }
    /// An executor is to end.
    15 StopRequested {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// For which reason.
        why: Why,
        /// When patience ends, in milliseconds since 1970.
        kill_at_ms: u64,
    }
    /// Patience ended.
    16 StopForced {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
    }
    /// A custom executor is to end one of its tasks.
    17 TaskKillRequested {
        /// Its framework.
        framework_id: String,
        /// Its executor.
        executor_id: String,
        /// The task.
        task_id: String,
        /// `KillPolicy`, if one was given.
        policy: Option<Blob>,
    }
    /// An executor is over, and so is its container.
    18 @ 2 ExecutorEnded {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Wait status, if it is known.
        status: Option<i32>,
        /// Whether the masters must hear of it; takes the next message number then.
        announced: bool,
        /// So many ended executors of the framework are kept.
        completed_max: u32,
    }
    /// The masters have committed what the agent sent.
    19 @ 2 MessagesReceived {
        /// Number of the last message.
        up_to: u64,
        /// Operations of frameworks stay until the masters say that they are over.
        operations_stay: bool,
    }
    /// The agent was started, and can be reached: no executor has a stream yet.
    20 @ 2 Restarted {
        /// When executors must be back that had subscribed, in milliseconds since 1970.
        reregister_by_ms: u64,
        /// When executors may be expected that had not, in milliseconds since 1970.
        register_by_ms: u64,
        /// The agent's time from now on.
        clock: Clock,
        /// Milliseconds by which this time is ahead of that of the life before: what is due is due so much later.
        ahead_ms: i64,
    }
    /// The agent will end, for good.
    21 LeavingBegun {}
    /// Nothing runs any more; the masters must hear that the agent is gone. Takes the next message number.
    22 Left {}
    /// The masters do not want this agent's past: it begins anew, what still runs is ended.
    23 Forgotten {}
    /// What was left of an agent that was forgotten has ended.
    24 RemnantEnded {
        /// The container.
        container_id: String,
    }
    /// Ended tasks of a live executor are remembered no longer.
    25 TasksForgotten {
        /// Their framework.
        framework_id: String,
        /// Their executor.
        executor_id: String,
        /// The tasks.
        task_ids: Vec<String>,
    }
    /// An ended executor is remembered no longer, nor where its files are.
    26 ExecutorForgotten {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Its container.
        container_id: String,
    }
    /// A framework without live executors is remembered no longer, nor where its files are.
    27 FrameworkForgotten {
        /// The framework.
        framework_id: String,
    }
    /// A stream of an executor ended.
    28 ExecutorDisconnected {
        /// Its framework.
        framework_id: String,
        /// The executor.
        executor_id: String,
        /// Number of the stream.
        stream: u64,
    }
    /// An order could not be carried out, because it could not be read or is of a kind that this release does not know.
    29 OrderNotUnderstood {
        /// Number of the order.
        seq: u64,
        /// Why, in a sentence.
        sentence: String,
    }
    /// The log was shortened. What all earlier events led to follows, part by part, until an event of another kind.
    30 RestoreBegun {
        /// Chosen before the agent registered for the first time.
        token: Option<[u8; 16]>,
        /// Given by the masters.
        agent_id: Option<String>,
        /// The cluster that gave the id.
        cluster_id: Option<String>,
        /// The last order taken.
        orders_up_to: u64,
        /// Number of the last message.
        messages_up_to: u64,
        /// Messages committed by the masters.
        received_up_to: u64,
        /// Whether the agent ends for good.
        leaving: bool,
        /// Counts frameworks as they come.
        frameworks_seen: u64,
        /// The agent's time.
        clock: Option<Clock>,
        /// Containers of a past that was forgotten.
        remnants: Vec<(String, Option<Process>)>,
    }
    /// A message that is not known to be committed.
    31 MessageRestored {
        /// Its number.
        seq: u64,
        /// The message.
        message: Message,
    }
    /// A framework.
    32 FrameworkRestored {
        /// Its id.
        framework_id: String,
        /// `FrameworkInfo`
        info: Blob,
        /// In which order frameworks came.
        order: u64,
        /// The masters removed it.
        removed: bool,
    }
    /// An executor of the last framework, without its tasks.
    33 ExecutorRestored {
        /// Its framework.
        framework_id: String,
        /// Its id.
        executor_id: String,
        /// Whether it is over; those are told oldest first.
        completed: bool,
        /// Whether it only stands for one command task.
        is_command: bool,
        /// `ExecutorInfo`
        info: Blob,
        /// Its container.
        container_id: String,
        /// When it was added, in milliseconds since 1970.
        added_ms: u64,
        /// Known once it ran.
        process: Option<Process>,
        /// When it must have subscribed, in milliseconds since 1970.
        register_by_ms: Option<u64>,
        /// Whether it ever subscribed.
        subscribed: bool,
        /// Number of its stream.
        stream: Option<u64>,
        /// When its task must be complete, in milliseconds since 1970.
        complete_by_ms: Option<u64>,
        /// It is to end.
        stop: Option<Stop>,
        /// Wait status, of a completed one.
        status: Option<i32>,
    }
    /// A task of an executor.
    34 TaskRestored {
        /// Its framework.
        framework_id: String,
        /// Its executor's container.
        container_id: String,
        /// The task.
        task_id: String,
        /// `TaskInfo`
        info: Blob,
        /// Number of its `TaskState`.
        task_state: i32,
        /// First task of the group that it was launched with.
        group: Option<String>,
        /// It was handed to its executor.
        delivered: bool,
        /// It is to end; with the `KillPolicy` if one was given.
        kill: Option<Option<Blob>>,
        /// `TaskStatus`es, oldest first.
        statuses: Vec<Blob>,
        /// Of its latest updates.
        uuids: Vec<Vec<u8>>,
        /// Number of the message that told its end.
        ended: u64,
    }
    /// The masters decided an operation (1 of level 3).
    35 OperationTaken {
        /// Names it.
        operation: Vec<u8>,
        /// Who wanted it; none if an operator did.
        framework_id: Option<String>,
        /// `Offer.Operation`
        info: Blob,
        /// Whether the disk is to be changed for it.
        on_disk: bool,
        /// All that is reserved dynamically or is a volume from now on: a `Resource` each.
        checkpointed: Vec<Blob>,
    }
    /// An operation is over. If it is told, takes the next message number (2 of level 3).
    36 OperationEnded {
        /// Names it.
        operation: Vec<u8>,
        /// `OperationStatus`
        status: Blob,
        /// Whether the masters that wanted it know the agent still.
        told: bool,
    }
    /// The masters want the agent empty (3 of level 3).
    37 DrainBegun {
        /// `DrainConfig`
        config: Blob,
        /// Milliseconds since 1970.
        at_ms: u64,
    }
    /// They want it in use again (4 of level 3).
    38 DrainEnded {}
    /// The agent describes itself so from now on (5 of level 3).
    39 InfoTaken {
        /// `AgentInfo`
        info: Blob,
    }
    /// The agent can spare this, and what it said before counts no longer. Takes the next message number (6 of level 3).
    40 SpareEstimated {
        /// A `Resource` each.
        resources: Vec<Blob>,
    }
    /// The resource model's part of a shortened log, without operations (7 of level 3).
    41 ModelRestored {
        /// All that is reserved dynamically or is a volume.
        checkpointed: Vec<Blob>,
        /// Counts operations as they come.
        operations_taken: u64,
        /// The order to be empty: `DrainConfig`, and when it came.
        drain: Option<(Blob, u64)>,
        /// `AgentInfo`
        info: Option<Blob>,
        /// What the agent said last that it can spare.
        spare: Option<Vec<Blob>>,
    }
    /// An operation that is not over for the masters (8 of level 3).
    42 OperationRestored {
        /// Its place among all.
        place: u64,
        /// Names it.
        operation: Vec<u8>,
        /// Who wanted it.
        framework_id: Option<String>,
        /// `Offer.Operation`
        info: Blob,
        /// Whether the disk is to be changed for it.
        on_disk: bool,
        /// `OperationStatus`, once it is over.
        status: Option<Blob>,
        /// Number of the message that told its end.
        ended: u64,
        /// Nobody is told.
        forgotten: bool,
    }
    /// A container was launched by call (1 of level 4).
    43 ContainerAdded {
        /// The container: a path.
        container_id: String,
        /// `agent::Call::LaunchContainer`
        info: Blob,
        /// User to run as, if it is not the agent's own.
        user: String,
        /// Whether it is of a session, and ends with it.
        session: bool,
        /// Milliseconds since 1970.
        at_ms: u64,
    }
    /// A container that was launched by call is to end, at once (2 of level 4).
    44 ContainerKillRequested {
        /// The container.
        container_id: String,
    }
    /// The process of a container ended, and what is within it is being ended (3 of level 4).
    45 ContainerEnding {
        /// The container; it may be an executor's.
        container_id: String,
        /// Wait status, if it is known.
        status: Option<i32>,
    }
    /// A container that was launched by call is over (4 of level 4).
    46 ContainerEnded {
        /// The container.
        container_id: String,
        /// Wait status, if it is known.
        status: Option<i32>,
        /// Why it never ran; then nothing of it is kept.
        failure: Option<String>,
    }
    /// The end of a container is asked for no more (5 of level 4).
    47 ContainerRemoved {
        /// The container.
        container_id: String,
        /// Whether nobody needs its files either.
        with_files: bool,
    }
    /// A container that was launched by call, of a shortened log (6 of level 4).
    48 ContainerRestored {
        /// The container.
        container_id: String,
        /// `agent::Call::LaunchContainer`
        info: Blob,
        /// User to run as, if it is not the agent's own.
        user: String,
        /// Whether it is of a session.
        session: bool,
        /// When it was added, in milliseconds since 1970.
        added_ms: u64,
        /// Known once it runs.
        process: Option<Process>,
        /// It is to end.
        killed: bool,
        /// Wait status, once it is over; the inner one is none if nobody saw it end.
        end: Option<Option<i32>>,
    }
    /// A container exceeded what it may use, and ends for that (1 of level 5).
    49 ContainerLimited {
        /// The container; it may be an executor's.
        container_id: String,
        /// Number of the `TaskStatus.Reason`.
        reason: i32,
        /// What exceeded what, in a sentence.
        message: String,
        /// What was exceeded: a `Resource` each.
        resources: Vec<Blob>,
    }
    /// A command was looked at by its health check (1 of level 6).
    50 HealthSeen {
        /// Its container.
        container_id: String,
        /// So often in a row it was not healthy, until now.
        failures: u32,
    }
    /// Operations are over for good: their frameworks have acknowledged what became of them, or nobody will (1 of level 7).
    51 OperationsForgotten {
        /// Names of them.
        operations: Vec<Vec<u8>>,
    }
    /// A provider of resources subscribed, for the first time or again: from here on it has a stream. Takes the next message number, as
    /// all that follows does, if the masters hear of providers (1 of level 8).
    52 ProviderSubscribed {
        /// The provider, by the id that it was given here.
        provider_id: String,
        /// `ResourceProviderInfo`, with the id.
        info: Blob,
        /// Number of the stream, counted since the agent was started.
        stream: u64,
    }
    /// A provider has these resources, and what it said before counts no longer (2 of level 8).
    53 ProviderStated {
        /// The provider.
        provider_id: String,
        /// Names what it has.
        version: Vec<u8>,
        /// A `Resource` each.
        resources: Vec<Blob>,
        /// Operations that were said on an earlier stream, and that it knows.
        operations: Vec<Vec<u8>>,
    }
    /// A stream of a provider ended: what it had is not there for now (3 of level 8).
    54 ProviderDisconnected {
        /// The provider.
        provider_id: String,
        /// Number of the stream.
        stream: u64,
    }
    /// A provider does not come back, as an operator says (4 of level 8).
    55 ProviderGone {
        /// The provider.
        provider_id: String,
    }
    /// The masters decided an operation on what a provider has (5 of level 8).
    56 ProviderOperationTaken {
        /// Names it.
        operation: Vec<u8>,
        /// Who wanted it; none if an operator did.
        framework_id: Option<String>,
        /// `Offer.Operation`
        info: Blob,
        /// The provider.
        provider_id: String,
        /// Names what it had, as the masters knew it.
        version: Vec<u8>,
    }
    /// A provider, of a shortened log (6 of level 8).
    57 ProviderRestored {
        /// Its id.
        provider_id: String,
        /// `ResourceProviderInfo`, with the id.
        info: Blob,
        /// Number of its stream.
        stream: Option<u64>,
        /// What it has, as it said last.
        stated: Option<Stated>,
    }
    /// Of a shortened log: the operation restored last is one of these (7 of level 8).
    58 ProviderOperationRestored {
        /// Names it.
        operation: Vec<u8>,
        /// The provider.
        provider_id: String,
        /// Names what it had, as the masters knew it.
        version: Vec<u8>,
        /// The provider has heard of it on its stream.
        sent: bool,
    }
    /// The masters hear of providers from here on: first of all that are known, if there are any (8 of level 8).
    59 ProvidersTaken {}
}
