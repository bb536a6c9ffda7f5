//! Where things are below an agent's work_dir.

use std::path::{Path, PathBuf};

use agent_core::Executor;

/// Folder of an executor's runs.
pub(crate) fn runs(work_dir: &Path, agent_id: &str, framework_id: &str, executor_id: &str) -> PathBuf {
    work_dir.join(format!("slaves/{agent_id}/frameworks/{framework_id}/executors/{executor_id}/runs"))
}

/// Folder that an executor's process runs in.
pub(crate) fn sandbox(work_dir: &Path, agent_id: &str, framework_id: &str, executor: &Executor) -> PathBuf {
    runs(work_dir, agent_id, framework_id, &executor.executor_id).join(&executor.container_id)
}
