//! Oversubscription: what the agent can spare, and who gives way when it is overloaded.

use api::v1::Resource;

use crate::command::Surroundings;
use crate::event::{Blob, Event};
use crate::state::{State, Why};

/// What an end for the sake of others says.
pub(crate) const PREEMPTED: &str = "Container preempted by QoS correction";

/// The masters hear of revocable resources at every welcome: those that could not write them down before may be able to now. Who
/// never spoke of any has none.
pub(crate) fn estimate(state: &State, resources: &[Resource]) -> Vec<Event> {
    let resources: Vec<Blob> = resources.iter().map(Blob::of).collect();
    let is_nothing_new = resources.is_empty() && state.model.spare.as_ref().is_none_or(Vec::is_empty);
    if is_nothing_new || state.registration.agent_id.is_none() {
        Vec::new()
    } else {
        vec![Event::SpareEstimated { resources }]
    }
}

/// These executors end at once, unless they are ending.
pub(crate) fn preempt(state: &State, executors: &[(String, String)], around: &Surroundings<'_>) -> Vec<Event> {
    let stays = |(framework_id, executor_id): &&(String, String)| {
        state.executor(framework_id, executor_id).is_some_and(|executor| executor.stop.is_none())
            && state.frameworks.get(framework_id).is_some_and(|framework| !framework.removed)
    };
    let end = |(framework_id, executor_id): &(String, String)| {
        let (framework_id, executor_id) = (framework_id.clone(), executor_id.clone());
        let requested = Event::StopRequested {
            framework_id: framework_id.clone(),
            executor_id: executor_id.clone(),
            why: Why::Preempted,
            kill_at_ms: around.at_ms,
        };
        [requested, Event::StopForced { framework_id, executor_id }]
    };
    executors.iter().filter(stays).flat_map(end).collect()
}
