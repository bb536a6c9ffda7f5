//! Where things are below an agent's work_dir.

use std::path::{Path, PathBuf};

use agent_core::{Executor, State, parent_of};

/// Folder of an executor's runs.
pub(crate) fn runs(work_dir: &Path, agent_id: &str, framework_id: &str, executor_id: &str) -> PathBuf {
    work_dir.join(format!("slaves/{agent_id}/frameworks/{framework_id}/executors/{executor_id}/runs"))
}

/// Folder that an executor's process runs in.
pub(crate) fn sandbox(work_dir: &Path, agent_id: &str, framework_id: &str, executor: &Executor) -> PathBuf {
    runs(work_dir, agent_id, framework_id, &executor.executor_id).join(&executor.container_id)
}

/// Folder of a container: an executor's, or one that was launched by call, whether it is there still or not. A session's is that
/// of what it is within.
pub(crate) fn of_container(work_dir: &Path, state: &State, container_id: &str) -> PathBuf {
    if let Some((framework_id, executor)) = state.executor_of(container_id) {
        let agent_id = state.registration.agent_id.as_deref().unwrap_or_default();
        return sandbox(work_dir, agent_id, framework_id, executor);
    }
    let Some(parent_id) = parent_of(container_id) else { return work_dir.join("containers").join(container_id) };
    let parent = of_container(work_dir, state, parent_id);
    let is_session = state.launched.all.get(container_id).is_some_and(|one| one.session);
    match container_id.rsplit_once('.') {
        Some((_, value)) if !is_session => parent.join("containers").join(value),
        _ => parent,
    }
}
