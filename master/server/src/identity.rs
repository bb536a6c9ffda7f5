//! Who this process is: its disk, its life, and how others reach it.

use api::v1;
use event_log::host;
use master_core::ids::{ConnectionId, Incarnation, IncarnationId, NodeId};
use master_core::{State, view};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How others reach this master.
#[derive(Clone, Debug)]
pub struct Address {
    /// The name that is told to clients; often the ip itself.
    pub hostname: String,
    /// Whether an operator chose that name: then clients are told it instead of the address.
    pub is_named: bool,
    /// The address that is told to clients.
    pub ip: IpAddr,
    /// The port that is told to clients.
    pub port: u16,
    /// host:port by which the other masters know this one, as listed in `--masters`.
    pub member: String,
}

/// What an operator said of a master, beside its address.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// The name that clients are told for it.
    pub name: Option<String>,
    /// Where it is.
    pub domain: Option<v1::DomainInfo>,
}

/// This master, in its current life.
#[derive(Debug)]
pub struct Identity {
    node: NodeId,
    life: RwLock<IncarnationId>,
    said: Said,
    /// What other masters said of themselves.
    others: RwLock<BTreeMap<NodeId, (IncarnationId, Said)>>,
}

impl Identity {
    /// A new life on the disk `node`.
    pub fn new(node: NodeId) -> Identity {
        Identity { node, life: RwLock::new(IncarnationId(random())), said: Said::default(), others: RwLock::default() }
    }

    /// The same, with what clients are told of this master.
    pub fn saying(self, said: Said) -> Identity {
        Identity { said, ..self }
    }

    /// What is known of what an operator said of a master.
    pub fn said(&self, node: NodeId) -> Said {
        if node == self.node {
            return self.said.clone();
        }
        self.others.read().get(&node).map(|(_, said)| said.clone()).unwrap_or_default()
    }

    /// The name that clients are told for a master, if its operator chose one.
    pub fn name_of(&self, node: NodeId) -> Option<String> {
        self.said(node).name
    }

    /// Whether this life of another master has said who it is.
    pub(crate) fn has_heard(&self, master: Incarnation) -> bool {
        self.others.read().get(&master.node).is_some_and(|(life, _)| *life == master.id)
    }

    /// A life of another master says who it is.
    pub(crate) fn hear(&self, master: Incarnation, said: Said) {
        self.others.write().insert(master.node, (master.id, said));
    }

    /// A master as its clients see it; None if it never started.
    pub fn master_info(&self, state: &State, node: NodeId) -> Option<v1::MasterInfo> {
        let mut info = view::master_info(state, node)?;
        let Said { name, domain } = self.said(node);
        info.domain = domain;
        if let Some(name) = name {
            info.address.get_or_insert_default().hostname = Some(name.clone());
            info.hostname = Some(name);
        }
        Some(info)
    }

    /// What clients are told for host:port by which masters know each other.
    pub(crate) fn told(&self, state: &State, address: &str) -> String {
        let node = state.masters.iter().find(|(_, master)| *master.address == *address).map(|(node, _)| *node);
        match (node.and_then(|node| self.name_of(node)), address.rsplit_once(':')) {
            (Some(name), Some((_, port))) => format!("{name}:{port}"),
            _ => address.to_owned(),
        }
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
