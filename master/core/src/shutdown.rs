//! The story of SHUTDOWN: an executor is ordered to end.

use crate::decide::Draft;
use crate::event::ExecutorShutdownOrdered;
use crate::ids::FrameworkKey;
use crate::view;
use crate::wire::OrderParts;
use api::v1;

/// SHUTDOWN. Of an unknown agent it is silently ignored, as is one that names nothing that runs there.
pub(crate) fn shutdown(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Shutdown) {
    let Some(agent) = view::parse_agent_id(&draft.state, &call.agent_id.value) else { return };
    if draft.state.agents.get(agent).is_none() {
        return;
    }
    let id = call.executor_id.value.as_str();
    // A command task's executor has the task's id.
    let key = (framework, id.into());
    let is_command_task = draft
        .state
        .tasks
        .get(&key)
        .is_some_and(|task| task.agent == agent && task.executor_id.is_none() && !task.is_terminal());
    let is_executor = draft.state.agents.get(agent).is_some_and(|agent| agent.executors.contains_key(&key));
    let framework_id = &draft.state.frameworks.get(framework).expect("the speaker is live").id;
    let order = OrderParts::ShutdownExecutor { framework_id, executor_id: id };
    let is_ordered = draft.state.agents.get(agent).is_some_and(|agent| agent.awaits(&order));
    if (is_executor || is_command_task) && !is_ordered {
        draft.push(ExecutorShutdownOrdered { agent, framework, executor_id: id.into() });
    }
}
