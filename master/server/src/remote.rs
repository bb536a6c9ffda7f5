//! What may be lost, on its way to a connection that another master holds: executor messages, reconciliation answers.

use crate::identity::Identity;
use crate::peers::Peers;
use crate::{events, wire};
use api::limits::{DELIVERIES_BYTES_MAX, DELIVERY_BATCH_BYTES, DELIVERY_BATCH_MAX};
use api::{internal, v1};
use bytes::Bytes;
use event_log::host::Tasks;
use event_log::raft::Node;
use master_core::effect::Effect;
use master_core::ids::{Connection, NodeId};
use master_core::{State, view};
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_secs(5);

/// One queue to each other master, in order.
pub(crate) struct Remote {
    node: Node,
    identity: Arc<Identity>,
    peers: Arc<Peers>,
    tasks: Tasks,
    queues: Mutex<BTreeMap<NodeId, Queue>>,
}

/// Deliveries on their way to one master, each with its length.
struct Queue {
    waiting: mpsc::UnboundedSender<(usize, internal::Delivery)>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    /// Whether there was room.
    fn push(&self, delivery: internal::Delivery) -> bool {
        let length = delivery.encoded_len();
        if self.bytes.fetch_add(length, Ordering::AcqRel) + length > DELIVERIES_BYTES_MAX {
            self.bytes.fetch_sub(length, Ordering::AcqRel);
            return false;
        }
        self.waiting.send((length, delivery)).is_ok()
    }
}

impl Remote {
    /// No queue yet; each is made at need.
    pub(crate) fn new(node: Node, identity: Arc<Identity>, peers: Arc<Peers>, tasks: Tasks) -> Remote {
        Remote { node, identity, peers, tasks, queues: Mutex::default() }
    }

    /// Sends `effect` towards `connection`.
    pub(crate) fn send(&self, state: &State, connection: Connection, effect: &Effect) {
        let Some(what) = what(state, effect) else { return };
        let delivery = internal::Delivery { connection: wire::id_bytes(connection.id.0), what: Some(what) };
        let mut queues = self.queues.lock();
        let queue = queues.entry(connection.at.node).or_insert_with(|| self.start(connection.at.node));
        if !queue.push(delivery) {
            tracing::debug!(node = connection.at.node.0, "a delivery that may be lost was dropped");
        }
    }

    fn start(&self, to: NodeId) -> Queue {
        let (sender, mut waiting) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let queue = Queue { waiting: sender, bytes: bytes.clone() };
        let (node, peers) = (self.node.clone(), self.peers.clone());
        debug_assert!(to != self.identity.node(), "what is held here is not sent away");
        self.tasks.spawn(async move {
            let mut deliveries = Vec::new();
            while let Some(first) = waiting.recv().await {
                let mut batch_bytes = first.0;
                deliveries.push(first);
                while deliveries.len() < DELIVERY_BATCH_MAX
                    && batch_bytes < DELIVERY_BATCH_BYTES
                    && let Ok(next) = waiting.try_recv()
                {
                    batch_bytes += next.0;
                    deliveries.push(next);
                }
                let address = {
                    let status = node.status();
                    let status = status.borrow();
                    status.members.iter().find(|member| member.node_id == to.0).map(|member| member.address.clone())
                };
                bytes.fetch_sub(deliveries.iter().map(|(length, _)| length).sum(), Ordering::AcqRel);
                let deliver = internal::Deliver {
                    cluster_id: node.cluster_id().unwrap_or_default(),
                    deliveries: deliveries.drain(..).map(|(_, delivery)| delivery).collect(),
                };
                let Some(address) = address else { continue };
                let body: Bytes = deliver.encode_to_vec().into();
                if let Err(error) = peers.post(&address, "/meseta/deliver", body, TIMEOUT).await {
                    tracing::debug!(address, %error, "deliveries that may be lost were lost");
                }
            }
        });
        queue
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_is_not_cut_off() {
        let (waiting, _receiver) = mpsc::unbounded_channel();
        let queue = Queue { waiting, bytes: Arc::default() };
        let status = v1::TaskStatus { message: Some("x".repeat(100)), ..Default::default() };
        let delivery = internal::Delivery {
            connection: wire::id_bytes(1),
            what: Some(internal::delivery::What::Event(events::update(status))),
        };
        assert!((0..400_000).all(|_| queue.push(delivery.clone())));
        queue.bytes.store(DELIVERIES_BYTES_MAX, Ordering::Release);
        assert!(!queue.push(delivery), "but there is a bound");
    }
}
