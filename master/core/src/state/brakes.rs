//! What operators have paused.

use crate::ids::FrameworkKey;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What operators have paused, until they release it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Brakes {
    /// Each with its reason.
    pub pulled: OrdMap<Brake, Pulled>,
}

/// What can be paused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Brake {
    /// Nobody is offered anything.
    Allocation,
    /// Nothing is offered for the role and those below it.
    Role(Arc<str>),
    /// The framework is offered nothing.
    Framework(FrameworkKey),
    /// Frameworks that are not known yet are refused.
    NewFrameworks,
}

/// Why something is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// What the operator said.
    pub why: Arc<str>,
    /// Who the operator was, if that is known.
    pub by: Option<Arc<str>>,
    /// Since when, in milliseconds since the epoch.
    pub since_ms: u64,
}

impl Brakes {
    pub(crate) fn pull(&mut self, brake: &Brake, why: &Arc<str>, by: Option<&Arc<str>>, at_ms: u64) {
        // Another reason for what is paused already does not begin it anew.
        let since_ms = self.pulled.get(brake).map_or(at_ms, |pulled| pulled.since_ms);
        self.pulled.insert(brake.clone(), Pulled { why: why.clone(), by: by.cloned(), since_ms });
    }

    pub(crate) fn release(&mut self, brake: &Brake) {
        self.pulled.remove(brake);
    }

    /// Why a framework is offered nothing for one of its roles, if it is paused: the widest brake that holds it.
    pub fn hold(&self, framework: FrameworkKey, role: &str) -> Option<(&Brake, &Pulled)> {
        if self.pulled.is_empty() || event_log::planted(event_log::Bug::BrakesIgnored) {
            return None;
        }
        let entry = |brake: &Brake| self.pulled.get_key_value(brake);
        let of_role = || {
            let mut above = self.pulled.iter().filter(|(brake, _)| match brake {
                Brake::Role(paused) => api::resources::is_at_or_below(role, paused),
                _ => false,
            });
            above.next()
        };
        entry(&Brake::Allocation).or_else(of_role).or_else(|| entry(&Brake::Framework(framework)))
    }

    /// Why frameworks that are not known yet are refused, if they are.
    pub fn new_frameworks(&self) -> Option<&Pulled> {
        self.pulled.get(&Brake::NewFrameworks)
    }
}
