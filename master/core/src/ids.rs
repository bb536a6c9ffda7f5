//! Names of things, dense where the log is long: a framework, an agent or an offer is a counter in State, moved by
//! the event that uses it. On the wire each is prefixed by the cluster's id.

pub use allocator::{AgentKey, FrameworkKey};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// An offer. On the wire `CLUSTER-O0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OfferKey(pub u64);

/// An operation on resources, in the order of decision. Its agent knows it by 16 bytes: [`crate::view::operation_uuid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationKey(pub u64);

/// A token that agents may join by, in the order of their making.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JoinTokenKey(pub u64);

/// The hash of a secret: of a token that agents may join by, or of an agent's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecretHash(pub [u8; 32]);

/// A task's id as its framework named it; unique within that framework.
pub type TaskId = Arc<str>;

/// An executor's id as its framework named it; unique within framework and agent.
pub type ExecutorId = Arc<str>;

/// A master, by the random id of its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// One life of a master process, random. What an incarnation held is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IncarnationId(pub u128);

/// Which master, in which life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// The master's disk.
    pub node: NodeId,
    /// Its life.
    pub id: IncarnationId,
}

/// A framework's event stream or an agent's connection: random, named by the master that holds it. A framework's is
/// its `Mesos-Stream-Id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u128);

/// A connection and the master on which it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Connection {
    /// Who holds it.
    pub at: Incarnation,
    /// Which one.
    pub id: ConnectionId,
}

/// A task: whose, and its name there.
pub type TaskKey = (FrameworkKey, TaskId);

impl fmt::Display for JoinTokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "J{}", self.0)
    }
}

impl fmt::Display for SecretHash {
    /// Its beginning: enough to know it again by.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ConnectionId {
    /// As a lower-case UUID: what `Mesos-Stream-Id` carries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        let (a, b, c, d) = ((n >> 96) as u32, (n >> 80) as u16, (n >> 64) as u16, (n >> 48) as u16);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", n & 0xffff_ffff_ffff)
    }
}

impl ConnectionId {
    /// The reverse of `Display`.
    pub fn parse(text: &str) -> Option<ConnectionId> {
        let sizes = text.split('-').map(str::len);
        if !sizes.eq([8, 4, 4, 4, 12]) {
            return None;
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.bytes().any(|digit| !digit.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(&digits, 16).ok().map(ConnectionId)
    }
}
