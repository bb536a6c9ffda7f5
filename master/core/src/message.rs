//! The story of MESSAGE: carried on if anybody is there, forgotten if not.

use crate::decide::Draft;
use crate::effect::Effect;
use crate::ids::FrameworkKey;
use crate::view;
use api::v1;

/// MESSAGE from a framework to one of its executors.
pub(crate) fn message(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::Message) {
    let Some(agent) = view::parse_agent_id(&draft.state, &call.agent_id.value) else { return };
    let connected = draft.state.agents.get(agent).is_some_and(|agent| agent.connection().is_some());
    if connected {
        let executor_id = call.executor_id.value.as_str().into();
        draft.tell(Effect::SendToExecutor { agent, framework, executor_id, data: call.data.clone() });
    }
}
