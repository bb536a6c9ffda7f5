//! Acknowledged writes survive: what was answered as done is in the log for good and took effect; what was refused is
//! not in it. Nothing is done twice. What an agent was told to forget is committed, and what the masters forget of their
//! orders is on the agent's disk.

use std::collections::{BTreeMap, BTreeSet};

use event_log::Record;
use master_core::{STILL_HELD, STILL_SETTLING, State, view};
use master_server::outcome::Outcome;

use super::Truth;
use crate::world::World;

/// What callers heard.
#[derive(Default)]
pub struct Acknowledged {
    done: BTreeMap<[u8; 16], u64>,
    refused: BTreeSet<[u8; 16]>,
    /// Calls that took effect, and where.
    effective: BTreeMap<[u8; 16], u64>,
    /// By agent's id on the wire: the last order that is on its disk.
    orders_taken: BTreeMap<String, u64>,
    /// By agent's id on the wire: messages received up to.
    received: BTreeMap<String, u64>,
    pub(super) forgotten_early: Option<String>,
    /// How many answers were given.
    pub answers: u64,
}

impl Acknowledged {
    /// A caller hears an outcome.
    pub fn answered(&mut self, request_id: [u8; 16], outcome: &Outcome) {
        self.answers += 1;
        match outcome {
            Outcome::Done { index, .. } => {
                self.done.insert(request_id, *index);
            }
            // These refusals say what was committed: the agent is over, or some of its tasks, or of what a master held; or it is
            // active again, and nobody sees it yet.
            Outcome::Refused(refused)
                if ["LogLost", STILL_SETTLING, STILL_HELD, "AgentAway"].contains(&&*refused.name) => {}
            Outcome::Refused(_) => {
                self.refused.insert(request_id);
            }
            Outcome::Unknown | Outcome::Untried | Outcome::Crashed => {}
        }
    }

    /// An agent has orders up to a number on its disk.
    pub fn orders_taken(&mut self, agent_id: &str, up_to: u64) {
        match self.orders_taken.get_mut(agent_id) {
            Some(known) => *known = up_to.max(*known),
            None => drop(self.orders_taken.insert(agent_id.to_owned(), up_to)),
        }
    }

    /// Whether a call has taken effect.
    pub fn took_effect(&self, request_id: &[u8; 16]) -> bool {
        self.effective.contains_key(request_id)
    }

    /// The record at `index` took effect.
    pub fn committed(&mut self, index: u64, record: &Record, state: &State) -> Result<(), String> {
        for agent in state.agents.live.values() {
            let agent_id = view::agent_id(state, agent.key);
            let taken = self.orders_taken.get(&agent_id).copied().unwrap_or(0);
            if agent.orders_acknowledged > taken {
                let forgotten = agent.orders_acknowledged;
                return Err(format!("order {forgotten} for {agent_id} is forgotten, it has {taken} on its disk"));
            }
            self.received.insert(agent_id, agent.messages_received);
        }
        for cause in record.causes.iter().filter(|cause| cause.request_id != [0; 16]) {
            if let Some(before) = self.effective.insert(cause.request_id, index) {
                return Err(format!("{} was done at index {before}, and again at {index}", cause.call));
            }
        }
        match record.causes.iter().find(|cause| self.refused.contains(&cause.request_id)) {
            Some(cause) => Err(format!("{} was refused, and is committed", cause.call)),
            None => Ok(()),
        }
    }

    /// An agent may forget its messages up to a number.
    pub fn messages_forgotten(&mut self, world: &World, agent_id: &str, up_to: u64) {
        let committed = self.received.get(agent_id).copied().unwrap_or(0);
        if up_to > committed {
            world.trace(format_args!("{agent_id} forgets messages up to {up_to}, committed are {committed}"));
            self.forgotten_early.get_or_insert(format!("{agent_id} may forget {up_to}, committed is {committed}"));
        }
    }

    /// Everything is committed that ever will be.
    pub fn finish(&self, truth: &[Truth]) -> Result<(), String> {
        if let Some(what) = &self.forgotten_early {
            return Err(what.clone());
        }
        let mut effective = BTreeSet::new();
        let mut skipped = BTreeSet::new();
        for truth in truth {
            let ids = if truth.takes_effect { &mut effective } else { &mut skipped };
            ids.extend(truth.request_ids.iter().copied());
        }
        let last = truth.last().map_or(0, |truth| truth.index);
        for (request_id, index) in &self.done {
            if skipped.contains(request_id) && !effective.contains(request_id) {
                return Err(format!("a call was answered as done at index {index}, but its record took no effect"));
            }
            if *index > last + 64 {
                return Err(format!("a call was answered as done at index {index}, but the log ends at {last}"));
            }
        }
        if let Some(id) = self.refused.iter().find(|id| effective.contains(*id)) {
            return Err(format!("a call was refused, and is committed: {id:02x?}"));
        }
        Ok(())
    }
}
