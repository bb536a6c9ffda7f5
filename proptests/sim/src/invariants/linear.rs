//! Operators' calls are linearizable: a read that begins after a write was answered sees it, on whatever master.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::World;

/// Whether an agent is deactivated, as far as answers tell.
#[derive(Clone, Debug)]
struct Register {
    /// What it may be: the last completed write, and every write since whose fate is not known.
    may_be: BTreeSet<bool>,
    /// Writes under way.
    open: Vec<bool>,
    /// Writes of which nobody knows whether they will be done.
    doubtful: BTreeSet<bool>,
}

impl Default for Register {
    fn default() -> Register {
        Register { may_be: BTreeSet::from([false]), open: Vec::new(), doubtful: BTreeSet::new() }
    }
}

/// What a read that begins now must show.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    gone: BTreeSet<String>,
    frameworks: BTreeSet<String>,
    /// What registers may be; what is written while the read is under way is added to it.
    number: u64,
}

/// What was answered.
#[derive(Default)]
pub struct Linear {
    registers: BTreeMap<String, Register>,
    gone: BTreeSet<String>,
    going: BTreeSet<String>,
    frameworks: BTreeSet<String>,
    /// Per read under way: values that registers had meanwhile.
    reads: BTreeMap<u64, BTreeMap<String, BTreeSet<bool>>>,
    next_read: u64,
    /// Removed, or about to be: no read needs to show it.
    leaving: BTreeSet<String>,
    /// What was seen that must not be.
    pub broken: Option<String>,
}

impl Linear {
    /// A framework was told its id.
    pub fn framework_subscribed(&mut self, id: &str) {
        if !self.leaving.contains(id) {
            self.frameworks.insert(id.to_owned());
        }
    }

    /// Somebody is about to remove it.
    pub fn framework_leaving(&mut self, id: &str) {
        self.leaving.insert(id.to_owned());
        self.frameworks.remove(id);
    }

    /// A write begins.
    pub fn write_begins(&mut self, agent: &str, deactivated: bool) {
        let register = self.registers.entry(agent.to_owned()).or_default();
        for read in self.reads.values_mut() {
            read.entry(agent.to_owned()).or_insert_with(|| register.may_be.clone()).insert(deactivated);
        }
        register.open.push(deactivated);
    }

    /// A write was answered, or not.
    pub fn write_ends(&mut self, agent: &str, deactivated: bool, status: Option<u16>) {
        let register = self.registers.entry(agent.to_owned()).or_default();
        if let Some(at) = register.open.iter().position(|open| *open == deactivated) {
            register.open.remove(at);
        }
        match status {
            // Only one operator writes, so nothing else was under way but what is in doubt.
            Some(200) if register.doubtful.is_empty() => register.may_be = BTreeSet::from([deactivated]),
            Some(200) => {
                register.may_be.insert(deactivated);
            }
            Some(400..500) => {}
            _ => {
                register.may_be.insert(deactivated);
                register.doubtful.insert(deactivated);
            }
        }
    }

    /// Whether it may be.
    pub fn may_be_deactivated(&self, agent: &str) -> bool {
        self.registers.get(agent).is_some_and(|register| register.may_be.contains(&true))
    }

    /// An agent is about to be marked gone.
    pub fn going(&mut self, agent: &str) {
        self.going.insert(agent.to_owned());
    }

    /// An agent was marked gone.
    pub fn gone(&mut self, agent: &str) {
        self.gone.insert(agent.to_owned());
    }

    /// A read begins.
    pub fn begin_read(&mut self) -> Expected {
        let number = self.next_read;
        self.next_read += 1;
        let values = self.registers.iter().map(|(agent, register)| {
            let values = register.may_be.iter().chain(&register.open).copied().collect();
            (agent.clone(), values)
        });
        self.reads.insert(number, values.collect());
        Expected { gone: self.gone.clone(), frameworks: self.frameworks.clone(), number }
    }

    /// What GET_AGENTS showed.
    pub fn agents_read(&mut self, world: &World, who: &str, expected: &Expected, seen: &[(String, bool)]) {
        let values = self.reads.remove(&expected.number).unwrap_or_default();
        for (agent, deactivated) in seen {
            if expected.gone.contains(agent) {
                self.report(world, format!("{who} sees {agent}, which was gone before it asked"));
            }
            let may_be = values.get(agent).cloned().unwrap_or_else(|| BTreeSet::from([false]));
            if !may_be.contains(deactivated) && !self.going.contains(agent) {
                self.report(world, format!("{who} sees {agent} deactivated={deactivated}, it may be {may_be:?}"));
            }
        }
    }

    /// What GET_FRAMEWORKS showed.
    pub fn frameworks_read(&mut self, world: &World, who: &str, expected: &Expected, seen: &[String]) {
        self.reads.remove(&expected.number);
        let missing = expected.frameworks.iter().find(|id| !seen.contains(id) && !self.leaving.contains(*id));
        if let Some(id) = missing.cloned() {
            self.report(world, format!("{who} does not see {id}, which subscribed before it asked"));
        }
    }

    fn report(&mut self, world: &World, what: String) {
        world.trace(format_args!("VIOLATED linear: {what}"));
        self.broken.get_or_insert(what);
    }
}
