//! Offered and used resources never exceed an agent, and everything else that is true of every State; and time goes on.

use master_core::State;
use master_core::state::{Agent, AgentLiveness, Deadline};

use crate::master::{AGENT_AWAY_MS_MAX, FORGETTING};

/// Beside the age and the pause between two looks, in milliseconds: a leader looks when it has led for a while.
const LATE_MS: u64 = 20_000;

/// After the record at `index`.
pub fn check(index: u64, before: Option<&State>, state: &State) -> Result<(), String> {
    if before.is_some_and(|before| state.at_ms < before.at_ms) {
        return Err(format!("time goes back at index {index}"));
    }
    if let Some(agent) = state.agents.live.values().find(|agent| is_remembered_for_too_long(state, agent)) {
        return Err(format!("S{} is unreachable for too long, at index {index}", agent.key.0));
    }
    if let Some((due_ms, what)) = overdue(state) {
        return Err(format!("{what:?} is due since {due_ms}, and is not decided at {}, index {index}", state.at_ms));
    }
    match master_core::invariants::check(state).first() {
        Some(violation) => Err(format!("{violation}, at index {index}")),
        None => Ok(()),
    }
}

/// What should have been decided, if anything.
fn overdue(state: &State) -> Option<(u64, Deadline)> {
    let led_since_ms = state.leader.as_ref()?.since_ms;
    // Whoever was away when a leadership began has its time from then on.
    let late_ms = led_since_ms.saturating_add(AGENT_AWAY_MS_MAX).saturating_add(LATE_MS);
    let (due_ms, what) = state.deadlines.get_min()?;
    (state.at_ms > late_ms.max(due_ms.saturating_add(LATE_MS))).then_some((*due_ms, *what))
}

/// Whether an unreachable agent should have been forgotten.
fn is_remembered_for_too_long(state: &State, agent: &Agent) -> bool {
    let AgentLiveness::Unreachable { since_ms } = agent.liveness else { return false };
    let since_ms = state.leader.as_ref().map_or(since_ms, |leader| leader.since_ms.max(since_ms));
    let most = (FORGETTING.unreachable_age_max + FORGETTING.every).as_millis() as u64 + LATE_MS;
    state.at_ms.saturating_sub(since_ms) > most
}
