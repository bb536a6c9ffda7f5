//! Every update reaches its framework in the order in which the log has them, none before it is committed, and the next
//! one only after the framework acknowledged the one before.

use std::collections::BTreeMap;

use api::v1::TaskStatus;
use bytes::Bytes;
use master_core::{Event, State};

use crate::world::World;

/// The updates of one task.
#[derive(Default)]
struct Queue {
    uuids: Vec<Bytes>,
    /// How many the framework began to acknowledge.
    acknowledging: usize,
    /// How many acknowledgements are in the log.
    acknowledged: usize,
    /// The highest that the framework received, counted from 1.
    received: usize,
}

/// By (framework's id, task).
#[derive(Default)]
pub struct Updates {
    queues: BTreeMap<(String, String), Queue>,
    pub(super) broken: Option<String>,
    /// How many updates were received.
    pub received: u64,
}

impl Updates {
    /// A stream was opened.
    pub fn stream_opened(&mut self, _framework_id: &str) {}

    /// A record took effect.
    pub fn committed(&mut self, index: u64, state: &State, events: &[Event]) -> Result<(), String> {
        if let Some(what) = &self.broken {
            return Err(what.clone());
        }
        let id_of = |key| state.frameworks.get(key).map(|framework| framework.id.to_string());
        for event in events {
            match event {
                Event::TaskUpdated(updated) => {
                    let Some(id) = id_of(updated.task.0) else { continue };
                    let queue = self.queues.entry((id, updated.task.1.to_string())).or_default();
                    if queue.uuids.contains(&updated.uuid) {
                        return Err(format!("an update of {} is in the log twice, at index {index}", updated.task.1));
                    }
                    queue.uuids.push(updated.uuid.clone());
                }
                Event::UpdateAcknowledged(acknowledged) => {
                    let Some(id) = id_of(acknowledged.task.0) else { continue };
                    let task_id = acknowledged.task.1.to_string();
                    let queue = self.queues.entry((id, task_id)).or_default();
                    queue.acknowledged += 1;
                    if queue.acknowledged > queue.acknowledging {
                        let what = format!(
                            "an update of {} is acknowledged at index {index}, but not by its framework",
                            acknowledged.task.1
                        );
                        return Err(what);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The framework is about to acknowledge.
    pub fn acknowledging(&mut self, framework_id: &str, task_id: &str, uuid: &Bytes) {
        let Some(queue) = self.queues.get_mut(&(framework_id.to_owned(), task_id.to_owned())) else { return };
        if let Some(at) = queue.uuids.iter().position(|known| known == uuid) {
            queue.acknowledging = queue.acknowledging.max(at + 1);
        }
    }

    /// The framework was told an update.
    pub fn received(&mut self, world: &World, framework_id: &str, status: &TaskStatus) {
        self.received += 1;
        let Some(uuid) = status.uuid.as_ref().filter(|uuid| !uuid.is_empty()) else { return };
        let task_id = &status.task_id.value;
        let queue = self.queues.entry((framework_id.to_owned(), task_id.clone())).or_default();
        let what = match queue.uuids.iter().position(|known| known == uuid) {
            None => format!("{task_id} {:?} was delivered, but is not committed", status.state()),
            Some(at) if at > queue.acknowledging => {
                format!("{task_id} {:?} was delivered before the one before it was acknowledged", status.state())
            }
            Some(at) if at + 1 < queue.received => {
                format!("{task_id} {:?} was delivered after a later one", status.state())
            }
            Some(at) => {
                queue.received = queue.received.max(at + 1);
                return;
            }
        };
        world.trace(format_args!("VIOLATED updates: {what}"));
        self.broken.get_or_insert(what);
    }
}
