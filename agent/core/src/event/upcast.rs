//! Events as earlier releases wrote them, lifted to what they are now: folding one does what it always did.

use super::{Event, EventError, payload};
use crate::state::Clock;
use event_log::RawEvent;

/// Executors that were kept of each framework, before that was a setting.
const COMPLETED_EXECUTORS: u32 = 150;

/// An event in a version that is written no more.
///
/// # Errors
/// As [`Event::from_raw`].
pub(super) fn lift(raw: &RawEvent) -> Result<Event, EventError> {
    let event = match (raw.number, raw.version) {
        (12, 1) => {
            let (framework_id, executor_id, task_id, task_state, status) = payload(raw, "StatusWritten")?;
            Event::StatusWritten { framework_id, executor_id, task_id, task_state, status, statuses_max: u32::MAX }
        }
        (14, 1) => {
            let (framework_id, executor_id) = payload(raw, "ExecutorSubscribed")?;
            Event::ExecutorSubscribed { framework_id, executor_id, stream: 0 }
        }
        (18, 1) => {
            let (framework_id, executor_id, status, announced) = payload(raw, "ExecutorEnded")?;
            Event::ExecutorEnded { framework_id, executor_id, status, announced, completed_max: COMPLETED_EXECUTORS }
        }
        (19, 1) => {
            let (up_to,) = payload(raw, "MessagesReceived")?;
            Event::MessagesReceived { up_to, operations_stay: false }
        }
        (20, 1) => {
            let (reregister_by_ms,) = payload(raw, "Restarted")?;
            Event::Restarted { reregister_by_ms, register_by_ms: 0, clock: Clock::default(), ahead_ms: 0 }
        }
        (number, version) => return Err(EventError::Unknown { number, version }),
    };
    Ok(event)
}
