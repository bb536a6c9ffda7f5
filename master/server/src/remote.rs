//! What may be lost, on its way to a connection that another master holds: executor messages, reconciliation answers.

use crate::identity::Identity;
use crate::peers::Peers;
use crate::{events, wire};
use api::{internal, v1};
use bytes::Bytes;
use event_log::raft::Node;
use master_core::effect::Effect;
use master_core::ids::{Connection, NodeId};
use master_core::{State, view};
use parking_lot::Mutex;
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Deliveries that wait for one master; more are dropped, as they may be.
const WAITING_MAX: usize = 65_536;
/// Deliveries in one request.
const BATCH_MAX: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(5);

/// One queue to each other master, in order.
pub(crate) struct Remote {
    node: Node,
    identity: Arc<Identity>,
    peers: Arc<Peers>,
    runtime: Handle,
    queues: Mutex<HashMap<NodeId, mpsc::Sender<internal::Delivery>>>,
}

impl Remote {
    /// No queue yet; each is made at need.
    pub(crate) fn new(node: Node, identity: Arc<Identity>, peers: Arc<Peers>, runtime: Handle) -> Remote {
        Remote { node, identity, peers, runtime, queues: Mutex::default() }
    }

    /// Sends `effect` towards `connection`.
    pub(crate) fn send(&self, state: &State, connection: Connection, effect: &Effect) {
        let Some(what) = what(state, effect) else { return };
        let delivery = internal::Delivery { connection: wire::id_bytes(connection.id.0), what: Some(what) };
        let mut queues = self.queues.lock();
        let queue = queues.entry(connection.at.node).or_insert_with(|| self.start(connection.at.node));
        if queue.try_send(delivery).is_err() {
            tracing::debug!(node = connection.at.node.0, "a delivery that may be lost was dropped");
        }
    }

    fn start(&self, to: NodeId) -> mpsc::Sender<internal::Delivery> {
        let (sender, mut waiting) = mpsc::channel(WAITING_MAX);
        let (node, peers) = (self.node.clone(), self.peers.clone());
        debug_assert!(to != self.identity.node(), "what is held here is not sent away");
        self.runtime.spawn(async move {
            let mut deliveries = Vec::new();
            while waiting.recv_many(&mut deliveries, BATCH_MAX).await > 0 {
                let address = {
                    let status = node.status();
                    let status = status.borrow();
                    status.members.iter().find(|member| member.node_id == to.0).map(|member| member.address.clone())
                };
                let deliver = internal::Deliver {
                    cluster_id: node.cluster_id().unwrap_or_default(),
                    deliveries: std::mem::take(&mut deliveries),
                };
                let Some(address) = address else { continue };
                let body: Bytes = deliver.encode_to_vec().into();
                if let Err(error) = peers.post(&address, "/meseta/deliver", body, TIMEOUT).await {
                    tracing::debug!(address, %error, "deliveries that may be lost were lost");
                }
            }
        });
        sender
    }
}

fn what(state: &State, effect: &Effect) -> Option<internal::delivery::What> {
    if let Effect::SendToExecutor { framework, executor_id, data, .. } = effect {
        return Some(internal::delivery::What::FrameworkMessage(internal::FrameworkMessage {
            framework_id: v1::FrameworkId { value: view::framework_id(state, *framework) },
            executor_id: v1::ExecutorId { value: executor_id.to_string() },
            data: data.clone(),
        }));
    }
    let (_, event) = events::of(state, effect)?;
    Some(internal::delivery::What::Event(event))
}
