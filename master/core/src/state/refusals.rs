//! What frameworks declined while something else of the same agent was declined already: all of it is in force at once. The
//! first of an agent and role is with the framework's role, as it was before there was room for more.

use super::frameworks::RoleFilter;
use super::{Framework, State};
use crate::ids::{AgentKey, FrameworkKey};
use api::limits::FILTERS_PER_AGENT_MAX;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Filters beside the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusals {
    /// By framework, role and agent; none is empty, and none has more than [`FILTERS_PER_AGENT_MAX`] with the first.
    pub more: OrdMap<Key, Vec<RoleFilter>>,
}

impl Refusals {
    fn retain(&mut self, framework: FrameworkKey, mut keep: impl FnMut(&Arc<str>, AgentKey, &RoleFilter) -> bool) {
        let from: Key = (framework, "".into(), AgentKey(0));
        let own: Vec<_> = self.more.range(from..).take_while(|((of, ..), _)| *of == framework).collect();
        let mut changed = Vec::new();
        for (key, filters) in own {
            let kept: Vec<RoleFilter> = filters.iter().filter(|filter| keep(&key.1, key.2, filter)).cloned().collect();
            if kept.len() < filters.len() {
                changed.push((key.clone(), kept));
            }
        }
        for (key, kept) in changed {
            if kept.is_empty() {
                self.more.remove(&key)
            } else {
                self.more.insert(key, kept)
            };
        }
    }
}

impl State {
    /// All that a framework declined of an agent for a role; what is over may still be there for a while.
    pub fn filters_of(
        &self,
        framework: FrameworkKey,
        role: &str,
        agent: AgentKey,
    ) -> impl Iterator<Item = &RoleFilter> {
        let of_role = self.frameworks.get(framework).and_then(|framework| framework.roles.get_key_value(role));
        let first = of_role.and_then(|(_, of)| of.filters.get(&agent));
        let more = match (of_role, self.refusals.more.is_empty()) {
            (Some((role, _)), false) => self.refusals.more.get(&(framework, role.clone(), agent)),
            _ => None,
        };
        first.into_iter().chain(more.into_iter().flatten())
    }

    /// A framework declines this of an agent for a role. What another filter says too is not said twice, and of too many
    /// the one that is over first goes.
    pub(crate) fn refuse(&mut self, framework: FrameworkKey, role: &Arc<str>, agent: AgentKey, filter: RoleFilter) {
        if !self.feature_level.has_resource_model() {
            return self.frameworks.filter(framework, role, agent, filter);
        }
        let says = |one: &RoleFilter, other: &RoleFilter| {
            one.until_ms >= other.until_ms && one.resources.contains(&other.resources)
        };
        let mut filters: Vec<RoleFilter> = self.filters_of(framework, role, agent).cloned().collect();
        if filters.iter().any(|known| says(known, &filter)) {
            return;
        }
        filters.retain(|known| !says(&filter, known));
        filters.push(filter);
        if filters.len() > FILTERS_PER_AGENT_MAX {
            let first = filters.iter().enumerate().min_by_key(|(at, filter)| (filter.until_ms, *at));
            let at = first.map_or(0, |(at, _)| at);
            filters.remove(at);
        }
        let more = filters.split_off(1);
        for filter in filters {
            self.frameworks.filter(framework, role, agent, filter);
        }
        let key = (framework, role.clone(), agent);
        if more.is_empty() {
            self.refusals.more.remove(&key)
        } else {
            self.refusals.more.insert(key, more)
        };
    }

    /// Forgets what is beside a first filter that is not there any more.
    pub(crate) fn tidy_refusals(&mut self, framework: FrameworkKey) {
        if self.refusals.more.is_empty() {
            return;
        }
        let of = self.frameworks.live.get(&framework).cloned();
        let has_first = |role: &Arc<str>, agent: AgentKey| {
            let of_role = of.as_ref().and_then(|of: &Arc<Framework>| of.roles.get(role));
            of_role.is_some_and(|role| role.filters.contains_key(&agent))
        };
        self.refusals.retain(framework, |role, agent, _| has_first(role, agent));
    }

    /// Forgets what was declined of an agent that is over or has changed.
    pub(crate) fn forget_filters_of(&mut self, agent: AgentKey) {
        self.frameworks.forget_agent(agent);
        if !self.refusals.more.is_empty() {
            self.refusals.more = self.refusals.more.iter().filter(|((.., of), _)| *of != agent).map(owned).collect();
        }
    }

    /// Forgets what was declined until now or before.
    pub(crate) fn forget_expired_filters(&mut self, framework: FrameworkKey, at_ms: u64) {
        self.refusals.retain(framework, |_, _, filter| filter.until_ms > at_ms);
        self.frameworks.forget_expired_filters(framework, at_ms);
        // Where the first is over and others are not, one of these is the first.
        let from: Key = (framework, "".into(), AgentKey(0));
        let keys: Vec<_> = self.refusals.more.range(from..).map(|(key, _)| key.clone()).collect();
        for key in keys.into_iter().take_while(|(of, ..)| *of == framework) {
            let (_, role, agent) = &key;
            let of_role = self.frameworks.get(framework).and_then(|of| of.roles.get(role));
            if of_role.is_none_or(|of| of.filters.contains_key(agent)) {
                continue;
            }
            let mut more = self.refusals.more.remove(&key).unwrap_or_default();
            let first = more.remove(0);
            self.frameworks.filter(framework, role, *agent, first);
            if !more.is_empty() {
                self.refusals.more.insert(key, more);
            }
        }
    }
}

type Key = (FrameworkKey, Arc<str>, AgentKey);

fn owned((key, filters): (&Key, &Vec<RoleFilter>)) -> (Key, Vec<RoleFilter>) {
    (key.clone(), filters.clone())
}
