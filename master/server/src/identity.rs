//! Who this process is: its disk, its life, and how others reach it.

use event_log::host;
use master_core::ids::{ConnectionId, Incarnation, IncarnationId, NodeId};
use parking_lot::RwLock;
use std::net::IpAddr;

/// How others reach this master.
#[derive(Clone, Debug)]
pub struct Address {
    /// The name that is told to clients; often the ip itself.
    pub hostname: String,
    /// The address that is told to clients.
    pub ip: IpAddr,
    /// The port that is told to clients.
    pub port: u16,
    /// host:port by which the other masters know this one, as listed in `--masters`.
    pub member: String,
}

/// This master, in its current life.
#[derive(Debug)]
pub struct Identity {
    node: NodeId,
    life: RwLock<IncarnationId>,
}

impl Identity {
    /// A new life on the disk `node`.
    pub fn new(node: NodeId) -> Identity {
        Identity { node, life: RwLock::new(IncarnationId(random())) }
    }

    /// The disk's id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The current life.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation { node: self.node, id: *self.life.read() }
    }

    /// Begins another life if `lost` is the current one: the cluster gave up what it held.
    pub fn begin_anew(&self, lost: IncarnationId) -> bool {
        let mut life = self.life.write();
        if *life != lost {
            return false;
        }
        *life = IncarnationId(random());
        true
    }
}

/// A new random connection id.
pub(crate) fn new_connection() -> ConnectionId {
    ConnectionId(random())
}

/// The text of a connection id: a framework's is its `Mesos-Stream-Id`.
pub(crate) fn connection_text(id: ConnectionId) -> String {
    uuid::Uuid::from_u128(id.0).hyphenated().to_string()
}

/// The id that `text` names, if it is one.
pub(crate) fn parse_connection(text: &str) -> Option<ConnectionId> {
    uuid::Uuid::try_parse(text).ok().map(|uuid| ConnectionId(uuid.as_u128()))
}

pub(crate) fn random() -> u128 {
    host::random()
}
