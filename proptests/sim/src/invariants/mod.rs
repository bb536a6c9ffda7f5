//! What must hold, one file each. The oracle is told everything that masters apply and answer, and what everybody else
//! sees; it says no as early as it can.

pub mod acknowledged;
pub mod brakes;
pub mod capacity;
pub mod identities;
pub mod leaders;
pub mod linear;
pub mod liveness;
pub mod once;
pub mod providers;
pub mod refusals;
pub mod replicas;
pub mod time;
pub mod updates;

use std::collections::BTreeMap;

use bytes::Bytes;
use event_log::raft::Committed;
use master_core::command::{Caller, Command};
use master_core::{Event, State, decode_record};
use master_server::outcome::Outcome;

use crate::world::World;

/// Who applies: the name of a master, and which of its lives.
pub type Who<'a> = (&'a str, u64);

/// One committed record, as whoever came first applied it.
pub struct Truth {
    /// Position in the log.
    pub index: u64,
    /// Checksum of the entry's term and its record.
    pub hash: u64,
    /// Whether the gate let it in.
    pub takes_effect: bool,
    /// After it.
    pub state: State,
    /// What its events were caused by.
    pub request_ids: Vec<[u8; 16]>,
    /// Its events, if they took effect.
    pub events: Vec<Event>,
}

/// Judges one run.
#[derive(Default)]
pub struct Oracle {
    /// The first violation: which invariant, and what was seen.
    pub violation: Option<(&'static str, String)>,
    /// The log, by what was applied first at each index.
    pub truth: Vec<Truth>,
    replicas: replicas::Replicas,
    leaders: leaders::Leaders,
    /// Acknowledged writes survive.
    pub acknowledged: acknowledged::Acknowledged,
    /// Tasks are launched at most once and end once.
    pub once: once::Once,
    /// Updates reach frameworks in order until acknowledged.
    pub updates: updates::Updates,
    refusals: refusals::Refusals,
    identities: identities::Identities,
    /// What resource providers have is theirs to say.
    pub providers: providers::Providers,
    time: time::Time,
    /// How masters decide.
    pub options: master_core::Options,
    /// Operators' calls are linearizable.
    pub linear: linear::Linear,
    /// Names of events that took effect and of refusals that somebody heard: how often.
    pub reached: BTreeMap<String, u64>,
}

impl Oracle {
    /// The first is kept.
    pub fn violated(&mut self, invariant: &'static str, what: String) {
        self.violation.get_or_insert((invariant, what));
    }

    fn report(&mut self, world: &World, invariant: &'static str, what: String) {
        world.trace(format_args!("VIOLATED {invariant}: {what}"));
        self.violated(invariant, what);
    }

    /// The last index that anybody applied.
    pub fn last_index(&self) -> u64 {
        self.truth.last().map_or(0, |truth| truth.index)
    }

    /// What was applied at an index, if it holds a record.
    pub fn at(&self, index: u64) -> Option<&Truth> {
        let place = self.truth.partition_point(|truth| truth.index < index);
        self.truth.get(place).filter(|truth| truth.index == index)
    }

    /// A master was given a committed entry.
    pub fn applied(&mut self, world: &World, who: Who<'_>, entry: &Committed, takes_effect: bool, state: &State) {
        let hash = replicas::hash(entry);
        match self.replicas.applied(&self.truth, who, entry.index, hash, takes_effect, state) {
            Ok(true) => self.learn(world, entry, hash, takes_effect, state),
            Ok(false) => {}
            Err(what) => self.report(world, "replicas", what),
        }
    }

    /// Somebody applied it first.
    fn learn(&mut self, world: &World, entry: &Committed, hash: u64, takes_effect: bool, state: &State) {
        let before = self.truth.iter().rev().find(|truth| truth.takes_effect).map(|truth| truth.state.clone());
        let request_ids = entry.record.causes.iter().map(|cause| cause.request_id).collect();
        let events = match decode_record(&entry.record) {
            Ok(events) => events,
            Err(error) => return self.report(world, "replicas", format!("index {}: {error}", entry.index)),
        };
        let index = entry.index;
        let kept = if takes_effect { events.clone() } else { Vec::new() };
        self.truth.push(Truth { index, hash, takes_effect, state: state.clone(), request_ids, events: kept });
        if !takes_effect {
            return;
        }
        if let Err(what) = capacity::check(entry.index, before.as_ref(), state) {
            self.report(world, "capacity", what);
        }
        for event in &events {
            *self.reached.entry(event.name().to_owned()).or_default() += 1;
        }
        let header = &entry.record.header;
        let identities = match self.options.agent_identities {
            true => self.identities.committed(entry.index, before.as_ref(), state, &events),
            false => Ok(()),
        };
        let found = [
            ("brakes", brakes::check(entry.index, before.as_ref(), state, &events)),
            ("identities", identities),
            ("time", self.time.committed(world.now_ms(), entry.index, header, before.as_ref())),
            ("acknowledged", self.acknowledged.committed(entry.index, &entry.record, state)),
            ("once", self.once.committed(entry.index, state, &events)),
            ("updates", self.updates.committed(entry.index, state, &events)),
            ("providers", self.providers.committed(entry.index, state, &events)),
        ];
        for (invariant, result) in found {
            if let Err(what) = result {
                self.report(world, invariant, what);
            }
        }
    }

    /// A provider hears that everybody knows the end of an operation.
    pub fn provider_acknowledged(&mut self, operation: &Bytes) {
        let state = self.truth.iter().rev().find(|truth| truth.takes_effect).map(|truth| &truth.state);
        self.providers.acknowledged(operation, state);
    }

    /// A master restored a snapshot.
    pub fn restored(&mut self, world: &World, who: Who<'_>, index: u64, state: &State) {
        if let Err(what) = self.replicas.restored(&self.truth, who, index, state) {
            self.report(world, "replicas", what);
        }
    }

    /// A master leads.
    pub fn leads(&mut self, world: &World, who: Who<'_>, term: u64) {
        if let Err(what) = self.leaders.leads(who, term) {
            self.report(world, "leaders", what);
        }
    }

    /// A command was submitted at a master.
    pub fn asked(&mut self, request_id: [u8; 16], command: &Command, caller: &Caller) {
        let now = self.truth.len();
        self.refusals.asked(request_id, command, caller, now);
    }

    /// Its caller hears the outcome.
    pub fn answered(&mut self, world: &World, request_id: [u8; 16], outcome: &Outcome) {
        if let Outcome::Refused(refused) = outcome {
            *self.reached.entry(refused.name.to_string()).or_default() += 1;
        }
        self.acknowledged.answered(request_id, outcome);
        let took_effect = self.acknowledged.took_effect(&request_id);
        if let Err(what) = self.refusals.answered(&self.truth, request_id, outcome, took_effect, &self.options) {
            self.report(world, "refusals", what);
        }
    }

    /// Takes up what was found where there was no way to say it.
    pub fn look(&mut self) {
        let found = [("once", self.once.twice.clone()), ("updates", self.updates.broken.clone())];
        let found = found.into_iter().chain([
            ("linear", self.linear.broken.clone()),
            ("acknowledged", self.acknowledged.forgotten_early.clone()),
            ("providers", self.providers.broken.clone()),
        ]);
        for (invariant, what) in found {
            if let Some(what) = what {
                self.violated(invariant, what);
            }
        }
    }

    /// What can only be known when everything has converged.
    pub fn finish(&mut self, world: &World) {
        let found = [("acknowledged", self.acknowledged.finish(&self.truth)), ("once", self.once.finish())];
        for (invariant, result) in found {
            if let Err(what) = result {
                self.report(world, invariant, what);
            }
        }
    }
}
