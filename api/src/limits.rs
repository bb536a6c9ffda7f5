//! One table of sizes: every bound on what enters and on what is kept, in one place, so that each can be seen beside
//! the others. What one side accepts the other can read; what is written can be read again.
//!
//! ```text
//! a body ≤ BODY            a task, a group ≤ LAUNCH   ─┐
//! a call's launches ≤ LAUNCHES ≤ COMMAND ≤ RECORD      ├─► an order ≤ LAUNCH + FRAMEWORK_INFO ≤ TO_AGENT
//! a status ≤ STATUS ≤ FROM_AGENT                      ─┘
//! ```
//!
//! None of them has a flag. What a log of an earlier release holds may be larger than what enters now: what reads is
//! therefore wider than what writes. The relations are checked when this is compiled, here or where both sides of one
//! are seen. `event-log` knows no Mesos and has its own table, `event_log::limits`.

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

// Bodies and messages between programs.

/// Largest body of a call of a client, in bytes, before and after it is unpacked. What it leads to is in one record at
/// most, and that has to be on every disk before a heartbeat is missed.
pub const BODY_BYTES_MAX: usize = 8 * MIB;
/// Largest body of a call that changes the quorum, in bytes.
pub const MASTERS_BODY_BYTES_MAX: usize = 64 * KIB;
/// Largest message between masters, in bytes: a batch of entries of the log, a chunk of a snapshot, a submission.
pub const PEER_BYTES_MAX: usize = 256 * MIB;
/// Largest message of a master that an agent reads, in bytes.
pub const TO_AGENT_BYTES_MAX: usize = 64 * MIB;
/// Largest message of an agent that a master reads, in bytes.
pub const FROM_AGENT_BYTES_MAX: usize = 64 * MIB;
/// Largest `data` of a message between a framework and its executor, in bytes. It is never logged.
pub const MESSAGE_DATA_BYTES_MAX: usize = 4 * MIB;
/// Most entries of a folder of a sandbox that are listed. Who makes more does not want to see them, but to fill memory.
pub const FILES_LISTED_MAX: usize = 100_000;

// What bodies become in memory. A struct can be hundreds of times as large as the bytes that it is read from.

/// What the body of a call may take once it is decoded, in bytes of memory.
pub const DECODED_BYTES_MAX: usize = 64 * MIB;
/// The same as so many times its own size. Honest calls stay below half of that.
pub const DECODED_RATIO_MAX: usize = 64;
/// What any body may take once it is decoded, however short it is, in bytes of memory.
pub const DECODED_BYTES_ALWAYS: usize = 64 * KIB;
/// What a message between our own processes may take, in bytes of memory: what clients send is passed on in it.
pub const DECODED_MESSAGE_BYTES_MAX: usize = 512 * MIB;
/// Largest body that is small, in bytes. Small bodies have room of their own and never wait behind large ones.
pub const SMALL_BODY_BYTES_MAX: usize = 64 * KIB;
/// What all small bodies in flight take in a process, read and decoded, in bytes of memory.
pub const SMALL_BODIES_BYTES_MAX: usize = 128 * MIB;
/// What all other bodies in flight take, in bytes of memory.
pub const LARGE_BODIES_BYTES_MAX: usize = 256 * MIB;

/// What the body of a call may take once it is decoded, by its length, in bytes of memory.
pub const fn decoded_bytes_max(body_bytes: usize) -> usize {
    match body_bytes.saturating_mul(DECODED_RATIO_MAX) {
        few if few < DECODED_BYTES_ALWAYS => DECODED_BYTES_ALWAYS,
        many if many > DECODED_BYTES_MAX => DECODED_BYTES_MAX,
        between => between,
    }
}

// Names.

/// Longest id of a task, an executor, a framework or an agent, in bytes: each is the name of a folder.
pub const ID_BYTES_MAX: usize = 255;
/// Longest name of a role, in bytes. Every resource of an offer carries it.
pub const ROLE_BYTES_MAX: usize = 256;
/// Most components of the name of a role. The allocator has a node for each.
pub const ROLE_COMPONENTS_MAX: usize = 32;
/// Most roles of one framework. Each is looked at in every allocation.
pub const ROLES_MAX: usize = 1000;
/// Most calls of frameworks that wait for their turn by one of `--rate_limits`, on a master.
pub const THROTTLED_CALLS_MAX: u64 = 10_000;
/// Most roles that one call of an operator names.
pub const CALL_ROLES_MAX: usize = 10_000;
/// Most roles that have quota or a weight. Each is looked at in every allocation.
pub const ROLES_CONFIGURED_MAX: usize = 100_000;
/// Most resources that a quota names.
pub const QUOTA_NAMES_MAX: usize = 1000;
/// Longest name of a resource in a quota, in bytes.
pub const RESOURCE_NAME_BYTES_MAX: usize = 256;
/// The largest weight of a role. What shares are compared by must fit into integers.
pub const WEIGHT_MAX: u64 = 1_000_000_000_000;
/// Longest name of a task, a framework or an executor, in bytes.
pub const NAME_BYTES_MAX: usize = 4 * KIB;
/// Longest name of a user, in bytes.
pub const USER_BYTES_MAX: usize = 255;
/// Longest name of a host, in bytes.
pub const HOSTNAME_BYTES_MAX: usize = 255;
/// Longest principal, in bytes. It is in the cause of every call.
pub const PRINCIPAL_BYTES_MAX: usize = KIB;
/// Most principals that a file of credentials names.
pub const CREDENTIALS_MAX: usize = 100_000;
/// Most public keys of a set that tokens are verified by.
pub const KEY_SET_KEYS_MAX: usize = 100;
/// Largest file of credentials, of keys or of access control lists, in bytes.
pub const AUTH_FILE_BYTES_MAX: u64 = 64 << 20;
/// Largest labels of one thing, in bytes of protobuf.
pub const LABELS_BYTES_MAX: usize = 64 * KIB;
/// Largest file of the log of refusals, in bytes.
pub const AUDIT_FILE_BYTES_MAX: u64 = 4 << 20;
/// The same in lines.
pub const AUDIT_FILE_LINES_MAX: u64 = 20_000;
/// Files of it, with the one that is written.
pub const AUDIT_FILES_MAX: usize = 4;
/// Addresses whose refusals are counted at once.
pub const AUDIT_ADDRESSES_MAX: usize = 4096;
/// Most entries of one answer about who did what and who was refused.
pub const AUDIT_ENTRIES_MAX: usize = 1000;
/// Longest sentence that is logged, in bytes.
pub const SENTENCE_BYTES_MAX: usize = KIB;
/// How much of what somebody wrote is repeated in a sentence about it, in bytes.
pub const QUOTE_BYTES_MAX: usize = 300;

// Frameworks and what they call.

/// Largest `FrameworkInfo`, in bytes of protobuf. It goes with every launch order.
pub const FRAMEWORK_INFO_BYTES_MAX: usize = 256 * KIB;
/// Tokens that agents may join by and that are not over.
pub const JOIN_TOKENS_MAX: usize = 1000;
/// Agents that may join by one token.
pub const JOIN_TOKEN_USES_MAX: u32 = 10_000;
/// Longest life of a token that agents may join by, in milliseconds.
pub const JOIN_TOKEN_LIFE_MS_MAX: u64 = 30 * 24 * 3_600_000;
/// Things that operators have paused.
pub const BRAKES_MAX: usize = 1000;
/// Offer constraints of a framework, in protobuf.
pub const OFFER_CONSTRAINTS_BYTES_MAX: usize = 256 * KIB;
/// Largest launch, in bytes of protobuf: a `TaskInfo`, or all of a group, each with its `ExecutorInfo`.
pub const LAUNCH_BYTES_MAX: usize = 4 * MIB;
/// What one launch weighs at most as an order or an event, in bytes: an executor may be in it twice.
const LAUNCH_ORDER_BYTES_MAX: usize = 2 * LAUNCH_BYTES_MAX + FRAMEWORK_INFO_BYTES_MAX;
/// Most tasks of one group.
pub const GROUP_TASKS_MAX: usize = 1000;
/// Most tasks that one call launches.
pub const CALL_TASKS_MAX: usize = 5000;
/// Most operations of one call.
pub const CALL_OPERATIONS_MAX: usize = 5000;
/// What the launches of one call may weigh, in bytes, as orders (each has the `FrameworkInfo` beside it, a group's its
/// executor once more) or as events (a new executor once more).
pub const CALL_LAUNCHES_BYTES_MAX: usize = 9 * MIB;
/// Largest operation on resources, in bytes of protobuf: a RESERVE, a CREATE and so on.
pub const OPERATION_BYTES_MAX: usize = 128 * KIB;
/// What the operations of one call on resources may weigh, in bytes of protobuf. In events each is there three times.
pub const CALL_OPERATIONS_BYTES_MAX: usize = 512 * KIB;
/// Most operations of one framework whose end it has not acknowledged.
pub const FRAMEWORK_OPERATIONS_MAX: usize = 10_000;
/// Most operations on one agent that it has not ended.
pub const AGENT_OPERATIONS_MAX: usize = 1000;
/// What is reserved dynamically or a volume on one agent, in bytes of protobuf: it goes with every order of an operation.
pub const AGENT_CHECKPOINT_BYTES_MAX: usize = 256 * KIB;
/// Most resource providers of one agent.
pub const AGENT_PROVIDERS_MAX: usize = 64;
/// What the resource providers of one agent have, with what describes them, in bytes of protobuf. It is told as a whole.
pub const AGENT_PROVIDERS_BYTES_MAX: usize = 256 * KIB;
/// Most tasks that one RECONCILE names. One that names none asks for all, however many.
pub const RECONCILE_TASKS_MAX: usize = 100_000;
/// Most operations that one RECONCILE_OPERATIONS names.
pub const RECONCILE_OPERATIONS_MAX: usize = 10_000;
/// Most machines that one schedule or one call names.
pub const MACHINES_MAX: usize = 10_000;

// Statuses.

/// Longest `message` of a status, in bytes. The rest is cut off where the status enters, at the agent: a state is
/// never lost because of its explanation.
pub const STATUS_MESSAGE_BYTES_MAX: usize = 16 * KIB;
/// Largest status, in bytes of protobuf. An executor's that is larger is refused, so that it still has it.
pub const STATUS_BYTES_MAX: usize = 256 * KIB;
/// Updates of one task that wait for its framework; beyond that, only its end is added.
pub const UPDATES_WAITING_MAX: usize = 256;
/// The same in bytes.
pub const UPDATES_WAITING_BYTES_MAX: usize = 4 * MIB;

// Records of the masters' log.

/// What one command may lead to, in bytes of events. A call that leads to more is refused.
pub const COMMAND_BYTES_MAX: usize = 16 * MIB;
/// A record of so many bytes takes no further command: it is to be on its way soon.
pub const RECORD_BYTES_FULL: usize = MIB;
/// Commands that are decided together. Larger batches wait longer than they save.
pub const BATCH_COMMANDS_MAX: usize = 128;
/// What a cause adds to a record beside its principal, in bytes: the call's name, an address, a number.
pub const CAUSE_BYTES_MAX: usize = KIB;
/// Largest record of the masters' log that is written, in bytes.
pub const RECORD_BYTES_MAX: usize =
    COMMAND_BYTES_MAX + RECORD_BYTES_FULL + BATCH_COMMANDS_MAX * (PRINCIPAL_BYTES_MAX + CAUSE_BYTES_MAX) + MIB;

// Agents, at the masters.

/// Largest `AgentInfo`, in bytes of protobuf.
pub const AGENT_INFO_BYTES_MAX: usize = MIB;
/// An agent with so many orders before it that it has not acknowledged is not given what it was ordered before, and is
/// not offered.
pub const ORDERS_WAITING_MAX: usize = 1000;
/// The same in bytes: nothing more is launched on it.
pub const OUTBOX_BYTES_MAX: usize = 64 * MIB;
/// What the `ExecutorInfo`s of the executors on one agent may weigh together, in bytes.
pub const AGENT_EXECUTORS_BYTES_MAX: usize = 64 * MIB;
/// An agent with so many bytes of messages waiting for their commit is not read from.
pub const SESSION_WAITING_BYTES_MAX: usize = 4 * MIB;
/// Messages of an agent in one command, and as many again that wait.
pub const SESSION_BATCH_MAX: usize = 1024;
/// Messages of so many bytes are one command.
pub const SESSION_BATCH_BYTES: usize = MIB;

// What masters hold for their clients.

/// What one stream of events holds for a client that reads nothing for a while, in bytes.
pub const STREAM_STALLED_BYTES_MAX: usize = 64 * MIB;
/// What one stream of events holds in any case, in bytes: an answer to RECONCILE is as long as its framework has tasks.
pub const STREAM_BYTES_MAX: usize = 512 * MIB;
/// What all streams of a process hold together, in bytes; beyond that, those that hold much are dropped.
pub const STREAMS_BYTES_MAX: usize = 1024 * MIB;
/// More than this is much.
pub const STREAM_MUCH_BYTES: usize = 4 * MIB;
/// What waits for streams that another master holds, in bytes; more is dropped, as it may be.
pub const DELIVERIES_BYTES_MAX: usize = 512 * MIB;
/// Deliveries in one message to another master.
pub const DELIVERY_BATCH_MAX: usize = 256;
/// Deliveries of so many bytes are one message.
pub const DELIVERY_BATCH_BYTES: usize = 4 * MIB;

/// What all large answers hold together that wait to be read, in bytes; beyond that no new one is made.
pub const ANSWERS_BYTES_MAX: usize = 512 * MIB;
/// What all operators' streams hold together that wait to be read, in bytes, beside the state that each begins with, which
/// is an answer. Beyond that, those that do not read are let go.
pub const WATCHERS_BYTES_MAX: usize = 64 * MIB;
/// Records whose effects wait to be carried out on one master. Beyond that its clients are let go: they come back, here or
/// elsewhere, and hear what they have missed.
pub const EFFECTS_RECORDS_MAX: usize = 16_384;

// Connections.

/// However many files a process may have open, it takes no more connections than this.
pub const CONNECTIONS_MAX: usize = 32_768;
/// So many files stay free for everything else: a log, sandboxes, pipes.
pub const FILES_FREE_MIN: usize = 256;
/// Of all connections so many at least are for masters and agents alone.
pub const INNER_CONNECTIONS_MIN: usize = 16;
/// And so many at most.
pub const INNER_CONNECTIONS_MAX: usize = 1024;
/// Requests at once on one HTTP/2 connection.
pub const HTTP2_STREAMS_MAX: u32 = 256;
/// What a peer may send on one HTTP/2 stream before it is read, in bytes.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = MIB as u32;
/// The same on all streams of one connection together.
pub const HTTP2_WINDOW_BYTES: u32 = 4 * MIB as u32;
/// What waits on one HTTP/2 stream to be sent, in bytes, beside what one record has.
pub const HTTP2_SEND_BYTES_MAX: usize = 64 * KIB;
/// The head of a request, in bytes, and what is read of a body at once.
pub const HEAD_BYTES_MAX: usize = 64 * KIB;
/// So many bytes of a body come in each ten seconds in which it is waited for.
pub const BODY_PACE_BYTES: usize = 10 * KIB;

/// Bytes of a body that nobody wants which are read all the same, so that a client that sends all of it before it listens hears why.
pub const DISCARDED_BYTES_MAX: usize = 256 * MIB;

// Agents' own logs.

/// Commands that an agent decides together.
pub const AGENT_BATCH_COMMANDS_MAX: usize = 512;
/// A record of an agent of so many bytes takes no further command.
pub const AGENT_RECORD_BYTES_FULL: usize = 4 * MIB;
/// A shortened log of an agent begins with records of so many bytes, and of one part of its state at least.
pub const AGENT_RESTORE_BYTES: usize = MIB;
/// Messages of an agent that wait for the masters; beyond that, executors keep what is not the end of a task.
pub const AGENT_WAITING_MAX: usize = 16_384;
/// The same in bytes.
pub const AGENT_WAITING_BYTES_MAX: u64 = 64 << 20;
/// Messages that an agent has under way and that are not committed: more are sent when some are.
pub const AGENT_WINDOW_MAX: usize = 1024;
/// The same in bytes; at least one message.
pub const AGENT_WINDOW_BYTES: u64 = 4 << 20;
/// Ended tasks that an agent remembers of a live executor.
pub const AGENT_ENDED_TASKS_MAX: usize = 200;
/// The same in bytes.
pub const AGENT_ENDED_TASKS_BYTES_MAX: usize = 8 * MIB;
/// What the ended executors of one framework that an agent remembers may weigh, in bytes; the last one is kept.
pub const AGENT_COMPLETED_BYTES_MAX: usize = 32 * MIB;
/// Frameworks without live executors that an agent remembers.
pub const AGENT_COMPLETED_FRAMEWORKS_MAX: usize = 50;
/// Statuses that an agent remembers of a task.
pub const AGENT_STATUSES_MAX: u32 = 32;
/// What the stream of an executor holds for one that does not read, in bytes; beyond that it must subscribe again.
pub const EXECUTOR_STREAM_BYTES_MAX: usize = 64 * MIB;
/// The same in events.
pub const EXECUTOR_STREAM_EVENTS_MAX: usize = 4096;
/// Containers that were launched by call and are not over.
pub const AGENT_CONTAINERS_MAX: usize = 4096;
/// Ended ones that an agent remembers within one container that lives.
pub const AGENT_ENDED_CONTAINERS_MAX: usize = 256;
/// What is said of a container that exceeded what it may use, in bytes.
pub const LIMITATION_MESSAGE_BYTES_MAX: usize = 4 * KIB;
/// Resources that are named as exceeded at once.
pub const LIMITATION_RESOURCES_MAX: usize = 64;
/// Length of the ids of a container and of all that it is within, with the dots between them, in bytes: files are named by it.
pub const CONTAINER_PATH_BYTES_MAX: usize = 230;
/// A record of what a container's process is to read, in bytes.
pub const FRAMES_BYTES: usize = 4 * MIB;
/// Length of the id of a container, in characters.
pub const CONTAINER_ID_MAX: usize = 255;
/// What the launch of a container may weigh, in bytes.
pub const CONTAINER_INFO_BYTES_MAX: usize = MIB;
/// What a launch adds to its own bytes in an agent's record: the task again with its container, states, names.
pub const AGENT_LAUNCH_COPIES_MAX: usize = 3;

/// What the messages around a content add to it, in bytes: ids, lengths, numbers of fields.
pub const ENVELOPE_BYTES_MAX: usize = 64 * KIB;

// The largest body has room when nothing else is in flight: as it came, unpacked, and decoded. So has the largest of the
// small ones, and many of them at once.
const _: () = assert!(2 * BODY_BYTES_MAX + DECODED_BYTES_MAX <= LARGE_BODIES_BYTES_MAX);
const _: () = assert!(16 * decoded_bytes_max(SMALL_BODY_BYTES_MAX) <= SMALL_BODIES_BYTES_MAX);
// A call that was read is read again by the leader, in whatever it is put.
const _: () = assert!(DECODED_BYTES_MAX + PEER_BYTES_MAX <= DECODED_MESSAGE_BYTES_MAX);
// A launch, with all that is put around it, is read by its agent; and so is what a framework says to its executor.
const _: () = assert!(LAUNCH_ORDER_BYTES_MAX + ENVELOPE_BYTES_MAX <= TO_AGENT_BYTES_MAX);
const _: () = assert!(MESSAGE_DATA_BYTES_MAX + ENVELOPE_BYTES_MAX <= TO_AGENT_BYTES_MAX);
// So is an operation.
const _: () = assert!(OPERATION_BYTES_MAX + AGENT_CHECKPOINT_BYTES_MAX + ENVELOPE_BYTES_MAX <= TO_AGENT_BYTES_MAX);
// What an executor says is read by the masters, and so is the agent's description of itself.
const _: () = assert!(STATUS_BYTES_MAX + ENVELOPE_BYTES_MAX <= FROM_AGENT_BYTES_MAX);
const _: () = assert!(MESSAGE_DATA_BYTES_MAX + ENVELOPE_BYTES_MAX <= FROM_AGENT_BYTES_MAX);
const _: () = assert!(AGENT_INFO_BYTES_MAX + ENVELOPE_BYTES_MAX <= FROM_AGENT_BYTES_MAX);
const _: () = assert!(LAUNCH_BYTES_MAX + ENVELOPE_BYTES_MAX <= FROM_AGENT_BYTES_MAX);
// What an agent's providers have, and which operations, is one message.
const _: () =
    assert!(AGENT_PROVIDERS_BYTES_MAX + AGENT_OPERATIONS_MAX * KIB + ENVELOPE_BYTES_MAX <= FROM_AGENT_BYTES_MAX);
// One launch fits into a call, all launches of a call into a command, a batch of an agent's messages too.
const _: () = assert!(LAUNCH_ORDER_BYTES_MAX <= CALL_LAUNCHES_BYTES_MAX);
const _: () = assert!(LAUNCH_ORDER_BYTES_MAX <= OUTBOX_BYTES_MAX && LAUNCH_BYTES_MAX <= AGENT_EXECUTORS_BYTES_MAX);
const _: () = assert!(LAUNCH_BYTES_MAX + ENVELOPE_BYTES_MAX <= BODY_BYTES_MAX);
const _: () =
    assert!(CALL_LAUNCHES_BYTES_MAX + CALL_TASKS_MAX * KIB + 4 * CALL_OPERATIONS_BYTES_MAX < COMMAND_BYTES_MAX);
const _: () = assert!(SESSION_BATCH_BYTES + SESSION_BATCH_MAX * KIB + STATUS_BYTES_MAX <= COMMAND_BYTES_MAX);
// An agent has room for what one of its executors is handed, and for what it has under way.
const _: () = assert!(LAUNCH_BYTES_MAX + ENVELOPE_BYTES_MAX <= EXECUTOR_STREAM_BYTES_MAX);
const _: () = assert!(AGENT_WINDOW_BYTES + STATUS_BYTES_MAX as u64 <= AGENT_WAITING_BYTES_MAX);
// A call on its way to the leader, a batch of an agent's messages and one of deliveries are messages between masters.
const _: () = assert!(BODY_BYTES_MAX + ENVELOPE_BYTES_MAX <= PEER_BYTES_MAX);
const _: () = assert!(SESSION_BATCH_BYTES + FROM_AGENT_BYTES_MAX + ENVELOPE_BYTES_MAX <= PEER_BYTES_MAX);
const _: () = assert!(DELIVERY_BATCH_BYTES + MESSAGE_DATA_BYTES_MAX + DELIVERY_BATCH_MAX * KIB + MIB <= PEER_BYTES_MAX);
// An update that fits among those that wait is one that an agent may send; a name fits where it is repeated.
const _: () = assert!(STATUS_MESSAGE_BYTES_MAX + LABELS_BYTES_MAX + ENVELOPE_BYTES_MAX <= STATUS_BYTES_MAX);
const _: () = assert!(STATUS_BYTES_MAX < UPDATES_WAITING_BYTES_MAX);
const _: () = assert!(ID_BYTES_MAX < QUOTE_BYTES_MAX && ROLE_BYTES_MAX < QUOTE_BYTES_MAX);
const _: () = assert!(ROLES_MAX * ROLE_BYTES_MAX <= FRAMEWORK_INFO_BYTES_MAX);

/// What is too large about the name of a role, as a sentence.
pub fn role(name: &str) -> Option<String> {
    let role = quoted(name);
    if name.len() > ROLE_BYTES_MAX {
        let length = name.len();
        return Some(format!("Role '{role}' has {length} bytes, more than the {ROLE_BYTES_MAX} that are allowed"));
    }
    let components = name.split('/').count();
    (components > ROLE_COMPONENTS_MAX).then(|| {
        format!("Role '{role}' has {components} components, more than the {ROLE_COMPONENTS_MAX} that are allowed")
    })
}

/// So many refusals of one agent by one framework for one role are in force at once.
pub const FILTERS_PER_AGENT_MAX: usize = 8;

/// A text for a sentence about it: cut where it is longer than anybody reads.
pub fn quoted(text: &str) -> std::borrow::Cow<'_, str> {
    if text.len() <= QUOTE_BYTES_MAX {
        return text.into();
    }
    format!("{}... ({} bytes)", cut(text, QUOTE_BYTES_MAX), text.len()).into()
}

/// The beginning of a text, at most `bytes_max` long, in whole characters.
pub fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(quoted("short"), "short");
        let long = "é".repeat(1000);
        assert_eq!(quoted(&long), format!("{}... (2000 bytes)", "é".repeat(150)));
    }
}
