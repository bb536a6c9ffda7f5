//! The states of tasks, by number.

use crate::state::Framework;
use api::v1::TaskState;

/// Whether a task in this state has ended for good.
pub fn is_terminal(state: i32) -> bool {
    match TaskState::try_from(state) {
        Ok(
            TaskState::TaskFinished
            | TaskState::TaskFailed
            | TaskState::TaskKilled
            | TaskState::TaskError
            | TaskState::TaskLost
            | TaskState::TaskDropped
            | TaskState::TaskGone
            | TaskState::TaskGoneByOperator,
        ) => true,
        Ok(
            TaskState::TaskStaging
            | TaskState::TaskStarting
            | TaskState::TaskRunning
            | TaskState::TaskKilling
            | TaskState::TaskUnreachable
            | TaskState::TaskUnknown,
        )
        | Err(_) => false,
    }
}

/// The finer state for a framework that knows it, TASK_LOST for any other.
pub(crate) fn lost_or(finer: TaskState, framework: &Framework) -> TaskState {
    if framework.capabilities.partition_aware { finer } else { TaskState::TaskLost }
}
