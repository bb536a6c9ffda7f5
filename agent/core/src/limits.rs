//! Containers that exceed what they may use: they end at once, and their tasks fail with what it was.

use api::limits::{LIMITATION_MESSAGE_BYTES_MAX, LIMITATION_RESOURCES_MAX, cut};
use api::v1::task_status::{Reason, Source};
use api::v1::{TaskResourceLimitation, TaskState};
use serde::Serialize;

use crate::command::{Limitation, Surroundings};
use crate::event::{Blob, Event};
use crate::state::{State, Why};
use crate::status::Update;

/// What a container exceeded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limited {
    /// Number of the `TaskStatus.Reason`.
    pub reason: i32,
    /// What exceeded what, in a sentence.
    pub message: String,
    /// What was exceeded: a `Resource` each.
    pub resources: Vec<Blob>,
}

impl Limited {
    /// As statuses have it; none if nothing was named.
    pub fn limitation(&self) -> Option<TaskResourceLimitation> {
        let resources: Vec<_> = self.resources.iter().map(Blob::get).collect();
        (!resources.is_empty()).then_some(TaskResourceLimitation { resources })
    }

    pub(crate) fn event(&self, container_id: &str) -> Event {
        let Limited { reason, message, resources } = self.clone();
        Event::ContainerLimited { container_id: container_id.to_owned(), reason, message, resources }
    }

    /// The end of a task whose container it was.
    pub(crate) fn update(&self) -> Update {
        let update = Update::new(TaskState::TaskFailed, Source::Agent).saying(&self.message);
        let reason = Reason::try_from(self.reason).unwrap_or(Reason::ContainerLimitation);
        update.because(reason).limited(self.limitation())
    }
}

/// A container is to end, at once: what is being ended so already, or for this, is not ended twice.
pub(crate) fn exceeded(
    state: &State,
    container_id: String,
    limitation: &Limitation,
    around: &Surroundings<'_>,
) -> Vec<Event> {
    if state.launched.limited.contains_key(&container_id) || state.launched.ending.contains_key(&container_id) {
        return Vec::new();
    }
    let limited = Limited {
        reason: limitation.reason as i32,
        message: cut(&limitation.message, LIMITATION_MESSAGE_BYTES_MAX).to_owned(),
        resources: limitation.resources.iter().take(LIMITATION_RESOURCES_MAX).map(Blob::of).collect(),
    };
    let limited = limited.event(&container_id);
    if let Some((framework_id, executor)) = state.executor_of(&container_id) {
        if executor.stop.is_some_and(|stop| stop.forced) {
            return Vec::new();
        }
        let (framework_id, executor_id) = (framework_id.to_owned(), executor.executor_id.clone());
        let requested = Event::StopRequested {
            framework_id: framework_id.clone(),
            executor_id: executor_id.clone(),
            why: Why::Limited,
            kill_at_ms: around.at_ms,
        };
        return vec![limited, requested, Event::StopForced { framework_id, executor_id }];
    }
    match state.launched.all.get(&container_id) {
        Some(one) if one.end.is_none() && !one.killed => {
            vec![limited, Event::ContainerKillRequested { container_id }]
        }
        _ => Vec::new(),
    }
}
