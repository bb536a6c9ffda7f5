//! Where agents have identities, nobody is connected without one that counts; a token lets in as many as its operator
//! said, while it is good; and what the masters know an agent by is on its disk, at every moment.

use std::collections::BTreeMap;

use master_core::ids::{AgentKey, JoinTokenKey};
use master_core::state::identities::Bound;
use master_core::{Event, State};

/// How often agents joined by each token.
#[derive(Default)]
pub struct Identities {
    joined: BTreeMap<JoinTokenKey, u32>,
}

impl Identities {
    /// A record was committed; `before` is the state before it.
    pub fn committed(
        &mut self,
        index: u64,
        before: Option<&State>,
        state: &State,
        events: &[Event],
    ) -> Result<(), String> {
        let is_in = |agent: &AgentKey| matches!(state.identities.of_agents.get(agent), Some(Bound::Own { .. }));
        let connected = state.agents.live.values().filter(|agent| agent.connection().is_some());
        if let Some(agent) = connected.map(|agent| agent.key).find(|key| !is_in(key)) {
            let bound = state.identities.of_agents.get(&agent);
            return Err(format!("index {index}: S{} is connected, and its identity is {bound:?}", agent.0));
        }
        for event in events {
            let Event::AgentJoined(joined) = event else { continue };
            let count = self.joined.entry(joined.token).or_default();
            *count += 1;
            // One that was minted in the same record is not known before it.
            let token = before.and_then(|before| before.identities.tokens.get(&joined.token));
            let token = token.or_else(|| state.identities.tokens.get(&joined.token));
            let Some(token) = token else {
                return Err(format!("index {index}: S{} joins by a token that is over", joined.agent.0));
            };
            if *count > token.uses_max || state.at_ms >= token.until_ms {
                let what = format!("token {} for {} uses is used {count} times", joined.token.0, token.uses_max);
                return Err(format!("index {index}: {what}, at {} of {}", state.at_ms, token.until_ms));
            }
        }
        Ok(())
    }
}
