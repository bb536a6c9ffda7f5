//! How often it was each framework's turn to be offered something: between equal shares, whoever had fewer is next.

use crate::ids::FrameworkKey;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Turns by framework and role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Turns {
    /// Of live frameworks; a role that one gave up keeps its count.
    pub counts: OrdMap<(FrameworkKey, Arc<str>), u64>,
}

impl Turns {
    /// Those of a framework, by role.
    pub fn of(&self, framework: FrameworkKey) -> impl Iterator<Item = (&Arc<str>, u64)> {
        let from: (FrameworkKey, Arc<str>) = (framework, "".into());
        let own = self.counts.range(from..).take_while(move |((of, _), _)| *of == framework);
        own.map(|((_, role), turns)| (role, *turns))
    }

    pub(crate) fn add(&mut self, framework: FrameworkKey, role: &Arc<str>, turns: u64) {
        let count = self.counts.entry((framework, role.clone())).or_insert(0);
        *count = count.saturating_add(turns);
    }

    /// The framework is over.
    pub(crate) fn forget(&mut self, framework: FrameworkKey) {
        let roles: Vec<Arc<str>> = self.of(framework).map(|(role, _)| role.clone()).collect();
        for role in roles {
            self.counts.remove(&(framework, role));
        }
    }

    /// It gave up its other roles, and holds nothing for them.
    pub(crate) fn keep(&mut self, framework: FrameworkKey, is_kept: impl Fn(&Arc<str>) -> bool) {
        let roles: Vec<Arc<str>> = self.of(framework).map(|(role, _)| role.clone()).collect();
        for role in roles.into_iter().filter(|role| !is_kept(role)) {
            self.counts.remove(&(framework, role));
        }
    }
}
