//! Statuses that the masters make themselves: no uuid, neither acknowledged nor sent again.

use crate::decide::Draft;
use crate::effect::Effect;
use crate::ids::FrameworkKey;
use api::limits::{STATUS_BYTES_MAX, STATUS_MESSAGE_BYTES_MAX, cut};
use api::v1;
use api::v1::task_status::{Reason, Source};
use prost::Message;

/// A status from the masters.
pub(crate) fn of_master(
    task_id: &str,
    agent_id: Option<String>,
    state: v1::TaskState,
    reason: Reason,
    message: impl Into<String>,
    at_ms: u64,
) -> v1::TaskStatus {
    v1::TaskStatus {
        task_id: v1::TaskId { value: task_id.to_owned() },
        state: state as i32,
        message: Some(message.into()),
        source: Some(Source::Master as i32),
        reason: Some(reason as i32),
        agent_id: agent_id.map(|value| v1::AgentId { value }),
        timestamp: Some(seconds(at_ms)),
        ..Default::default()
    }
}

/// A status as it is kept: agents cut and refuse what is too large, but older ones have it in their logs. What it says
/// of the task stays; of what explains it, as much as there is room for.
pub(crate) fn bounded(mut status: v1::TaskStatus) -> v1::TaskStatus {
    if let Some(message) = &mut status.message {
        message.truncate(cut(message, STATUS_MESSAGE_BYTES_MAX).len());
    }
    let is_large = |status: &v1::TaskStatus| status.encoded_len() > STATUS_BYTES_MAX;
    if is_large(&status) {
        status.data = None;
    }
    if is_large(&status) {
        status.labels = None;
    }
    if is_large(&status) {
        (status.container_status, status.check_status, status.limitation) = (None, None, None);
    }
    status
}

/// Milliseconds as the wire's seconds.
pub(crate) fn seconds(at_ms: u64) -> f64 {
    at_ms as f64 / 1000.0
}

impl Draft {
    /// Tells a framework a status that may be lost.
    pub(crate) fn tell_status(&mut self, framework: FrameworkKey, status: v1::TaskStatus) {
        self.tell(Effect::SendStatus { framework, status: Box::new(status) });
    }
}
