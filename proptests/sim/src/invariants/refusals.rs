//! A refusal was true of some committed state between its call and its answer; and so was an answer of a call that
//! changed nothing. The decision is made again, by the real core, on every state that was current meanwhile.

use std::collections::BTreeMap;

use master_core::command::{Caller, Command};
use master_core::{Options, Refusal, Reply, State, decide_with, fold};
use master_server::outcome::Outcome;

use super::Truth;
/// A call under way.
struct Open {
    command: Command,
    caller: Caller,
    /// How much of the log was applied by anybody when it began.
    since: usize,
}

/// Calls under way.
#[derive(Default)]
pub struct Refusals {
    open: BTreeMap<[u8; 16], Open>,
}

impl Refusals {
    /// A call begins.
    pub fn asked(&mut self, request_id: [u8; 16], command: &Command, caller: &Caller, now: usize) {
        if matches!(command, Command::MakeOffers { .. }) {
            return;
        }
        self.open.insert(request_id, Open { command: command.clone(), caller: caller.clone(), since: now });
    }

    /// Its caller hears the outcome.
    pub fn answered(
        &mut self,
        truth: &[Truth],
        request_id: [u8; 16],
        outcome: &Outcome,
        took_effect: bool,
        options: &Options,
    ) -> Result<(), String> {
        let Some(open) = self.open.remove(&request_id) else { return Ok(()) };
        let said = match outcome {
            Outcome::Refused(refused) => Said::Refused(refused.name.to_string()),
            Outcome::Done { .. } if !took_effect => Said::Nothing,
            _ => return Ok(()),
        };
        let mut others = Vec::new();
        let mut before: Option<&State> = None;
        let mut effective = truth[open.since.saturating_sub(1)..].iter().filter(|truth| truth.takes_effect).peekable();
        while let Some(truth) = effective.next() {
            let state = &truth.state;
            // A call may have been decided in the middle of a record, after the calls before it.
            let mut within = before.cloned();
            let steps = truth.events.iter().filter_map(|event| {
                let within = within.as_mut()?;
                fold(within, event, state.at_ms);
                Some(open.again(within, within.at_ms, options))
            });
            // Or any time later, before the next record: what is good for a while may not have been any more.
            let until_ms = effective.peek().map_or(state.at_ms + LATE_MS, |next| next.state.at_ms);
            let after = [state.at_ms, until_ms].map(|at_ms| open.again(state, at_ms, options));
            for again in steps.chain(after) {
                if again == said {
                    return Ok(());
                }
                others.push(again);
            }
            before = Some(state);
        }
        if others.is_empty() {
            return Ok(());
        }
        others.dedup();
        Err(format!("a call was answered as {said:?}, which was never true, but {others:?}: {:?}", open.command))
    }
}

/// A call is decided at most so long after the last record, in milliseconds.
const LATE_MS: u64 = 60_000;

/// What is said of a call.
#[derive(Debug, PartialEq)]
enum Said {
    /// It changes something.
    Something,
    /// There is nothing to be changed.
    Nothing,
    /// It is refused, with the refusal's name.
    Refused(String),
}

impl Open {
    /// What is to be said if it were decided on this state.
    fn again(&self, state: &State, at_ms: u64, options: &Options) -> Said {
        let refused = |refusal: Refusal| Said::Refused(refusal.name.to_owned());
        match decide_with(state, &self.command, &self.caller, at_ms, options.clone()) {
            Err(refusal) => refused(refusal),
            Ok(decision) => match decision.reply {
                Reply::Refused(refusal) => refused(refusal),
                _ if decision.events.is_empty() => Said::Nothing,
                _ => Said::Something,
            },
        }
    }
}
