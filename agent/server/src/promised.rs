//! What a container of this agent is and may use, out of State: as isolators see it.

use std::collections::BTreeMap;
use std::path::Path;

use agent_core::{Executor, State, Volume};
use api::v1::agent::call::LaunchContainer;
use api::v1::{ContainerInfo, ExecutorInfo, Resource, TaskInfo};
use containers::Container;

use crate::place::to_containers;
use crate::{paths, volumes};

/// Describes a container; of one that is not known, or of a past that was forgotten, there is only its id.
pub(crate) fn container(work_dir: &Path, state: &State, container_id: &str) -> Container {
    let remnant = state.remnants.get(container_id).and_then(Option::as_ref);
    let process = state.process(container_id).or(remnant).map(to_containers);
    let mut container = Container { id: container_id.to_owned(), process, ..Container::default() };
    if let Some((_, executor)) = state.executor_of(container_id) {
        container.resources = used(executor);
        container.limits = limits(executor);
        container.info = info(executor);
    } else if let Some(one) = state.launched.all.get(container_id) {
        let info: LaunchContainer = one.info.get();
        container.resources = info.resources;
        container.limits = info.limits.into_iter().map(|(name, most)| (name, most.value)).collect();
        container.info = info.container.map(Box::new);
    } else {
        return container;
    }
    container.sandbox = paths::of_container(work_dir, state, container_id);
    let volume = |resource: &Resource| {
        let place = volumes::path(work_dir, &Volume::of(resource).ok()?);
        Some(containers::Volume { resource: resource.clone(), place })
    };
    container.volumes = container.resources.iter().filter_map(volume).collect();
    container
}

/// What an executor uses: its own resources and those of its live tasks.
pub(crate) fn used(executor: &Executor) -> Vec<Resource> {
    let mut all = executor.info.get::<ExecutorInfo>().resources;
    if executor.is_command && executor.live_tasks().next().is_none() {
        all.clear();
    }
    all.extend(executor.live_tasks().flat_map(|(_, task)| task.info.get::<TaskInfo>().resources));
    all
}

fn info(executor: &Executor) -> Option<Box<ContainerInfo>> {
    let task = executor.tasks.values().next().filter(|_| executor.is_command);
    match task {
        Some(task) => task.info.get::<TaskInfo>().container,
        None => executor.info.get::<ExecutorInfo>().container,
    }
}

/// What its tasks may use at most, if one of them may use more than it was given: the others what they were given.
fn limits(executor: &Executor) -> BTreeMap<String, f64> {
    let tasks: Vec<TaskInfo> = executor.live_tasks().map(|(_, task)| task.info.get()).collect();
    let given = |resources: &[Resource], name: &str| -> f64 {
        let scalars = resources.iter().filter(|one| one.name == name).filter_map(|one| one.scalar.as_ref());
        scalars.map(|scalar| scalar.value).sum()
    };
    let own = executor.info.get::<ExecutorInfo>().resources;
    let names = tasks.iter().flat_map(|task| task.limits.keys());
    let most = |name: &String| {
        let of_tasks = tasks.iter().map(|task| match task.limits.get(name) {
            Some(limit) => limit.value,
            None => given(&task.resources, name),
        });
        (name.clone(), given(&own, name) + of_tasks.sum::<f64>())
    };
    names.map(most).collect()
}
