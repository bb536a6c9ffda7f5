//! One table of sizes of the log itself. What is written can be read again, by this process and by the others: the
//! relations are checked when this is compiled, and those with what a program puts into records where that program is.

const MIB: usize = 1 << 20;

/// Largest record or payload that is read, in bytes: a damaged or hostile length must not allocate more.
pub const DECODE_BYTES_MAX: usize = 256 * MIB;
/// Largest record that is written to a log of one process, in bytes.
pub const RECORD_BYTES_MAX: usize = DECODE_BYTES_MAX;
/// Largest record that is proposed to a quorum, in bytes. A larger one could be written and never be sent.
pub const PROPOSAL_BYTES_MAX: usize = 160 * MIB;
/// What an entry adds to its record, and a message to its entries, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = MIB;
/// Entries of so many bytes are one message to a follower; a larger one goes alone or last. A heartbeat waits where a
/// message is taken.
pub const REPLICATION_BYTES: usize = MIB;
/// A message or write of so many bytes is made, read and written on a thread of its own: those that heartbeats, timers and
/// clients run on are not held up by it.
pub const LARGE_BYTES: usize = MIB / 4;
/// Records of so many bytes are under way at once; a larger one goes alone.
pub const UNDER_WAY_BYTES: usize = 4 * MIB;
/// How fast a large message must get on at least, in bytes a second: it has as much more time as that takes.
pub const LARGE_BYTES_PER_SECOND: usize = 8 * MIB;
/// Largest message of one member to another, in bytes. Whoever carries messages must take so many.
pub const APPEND_BYTES_MAX: usize = REPLICATION_BYTES + PROPOSAL_BYTES_MAX + ENVELOPE_BYTES_MAX;
/// Entries kept in memory for replication and apply, and their bytes; at least one entry.
pub const TAIL_ENTRIES_MAX: usize = 16_384;
/// The bytes of [`TAIL_ENTRIES_MAX`].
pub const TAIL_BYTES_MAX: usize = 64 * MIB;

const _: () = assert!(PROPOSAL_BYTES_MAX + ENVELOPE_BYTES_MAX <= RECORD_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX <= DECODE_BYTES_MAX, "a message is decoded as a payload");
