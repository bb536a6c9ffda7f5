//! What a framework may ask of the built-in default executor.

use api::resources::Resources;
use api::v1::health_check::Type as HealthCheckType;
use api::v1::{ContainerInfo, ExecutorInfo, TaskInfo, container_info};

/// Any other executor of a group: tasks that are together are in a container of an agent, not of an engine.
pub(crate) fn check_container(info: &ExecutorInfo) -> Result<(), String> {
    match &info.container {
        Some(container) if container.r#type == container_info::Type::Docker as i32 => {
            Err("Docker ContainerInfo is not supported on the executor".to_owned())
        }
        _ => Ok(()),
    }
}

/// It is not said what it runs, and it needs a little itself.
pub(crate) fn check(info: &ExecutorInfo) -> Result<(), String> {
    if info.command.is_some() {
        return Err("'ExecutorInfo.command' must not be set for 'DEFAULT' executor".to_owned());
    }
    if info.container.as_ref().is_some_and(|container| container.r#type != container_info::Type::Mesos as i32) {
        return Err("'ExecutorInfo.container.type' must be 'MESOS' for 'DEFAULT' executor".to_owned());
    }
    let mesos = info.container.as_ref().and_then(|container| container.mesos.as_ref());
    if mesos.is_some_and(|mesos| mesos.image.is_some()) {
        return Err("'ExecutorInfo.container.mesos.image' must not be set for 'DEFAULT' executor".to_owned());
    }
    if info.framework_id.is_none() {
        return Err("'ExecutorInfo.framework_id' must be set".to_owned());
    }
    // What is wrong with them otherwise is said elsewhere.
    let Ok(resources) = Resources::from_v1(&info.resources) else { return Ok(()) };
    let id = &info.executor_id.value;
    let shown = |milli: i64, unit: &str| match milli {
        0 => "None".to_owned(),
        milli => format!("{}{unit}", milli as f64 / 1000.0),
    };
    let (cpus, mem) = (resources.scalar_milli("cpus"), resources.scalar_milli("mem"));
    if cpus < CPUS_MILLI_MIN {
        let shown = shown(cpus, "");
        return Err(format!("Executor '{id}' uses less CPUs ({shown}) than the minimum required (0.01)"));
    }
    if mem < MEM_MILLI_MIN {
        let shown = shown(mem, "MB");
        return Err(format!("Executor '{id}' uses less memory ({shown}) than the minimum required (32MB)"));
    }
    if resources.scalar_milli("disk") == 0 {
        return Err(format!("Executor '{id}' uses no disk"));
    }
    Ok(())
}

const CPUS_MILLI_MIN: i64 = 10;
const MEM_MILLI_MIN: i64 = 32_000;

/// Each task runs with others, or in a container within that of the executor.
pub(crate) fn check_task(task: &TaskInfo) -> Result<(), String> {
    let has_network = task.container.as_ref().is_some_and(|container| !container.network_infos.is_empty());
    let looks_there = |kind: i32| kind == HealthCheckType::Http as i32 || kind == HealthCheckType::Tcp as i32;
    if has_network && task.health_check.as_ref().and_then(|check| check.r#type).is_some_and(looks_there) {
        let rule = "HTTP and TCP health checks are not supported for nested containers not joining parent's network";
        return Err(rule.to_owned());
    }
    if task.container.as_ref().is_some_and(|container| container.r#type == container_info::Type::Docker as i32) {
        return Err("Docker ContainerInfo is not supported on the task".to_owned());
    }
    if !task.limits.is_empty() && shares_cgroups(task.container.as_deref()).unwrap_or(true) {
        let rule = "Resource limits may only be set for tasks within a task group when the 'share_cgroups' field is set to 'false'.";
        return Err(rule.to_owned());
    }
    Ok(())
}

/// Whether a container shares the control group of the one that it is in, if it says so.
pub(crate) fn shares_cgroups(container: Option<&ContainerInfo>) -> Option<bool> {
    container?.linux_info.as_ref()?.share_cgroups
}

/// Tasks of one executor are alike in what they share. `before`: those that it has already.
pub(crate) fn check_group(tasks: &[TaskInfo], before: Option<bool>) -> Result<(), String> {
    let said = tasks.iter().map(|task| shares_cgroups(task.container.as_deref()).unwrap_or(true));
    let mut said = before.into_iter().chain(said);
    let first = said.next();
    if said.any(|shares| Some(shares) != first) {
        let rule = "If set, the value of 'share_cgroups' must be the same for all tasks in each task group and under a single executor";
        return Err(rule.to_owned());
    }
    Ok(())
}
