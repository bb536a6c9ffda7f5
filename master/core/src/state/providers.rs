//! Resource providers of agents: who brings what an agent has beside its own. What each has is in the agent's total, where
//! it bears the provider's id.

use crate::accept::rules;
use crate::event::ToldProvider;
use crate::ids::{AgentKey, OperationKey};
use crate::resources;
use crate::state::State;
use crate::state::operations::Standing;
use api::resources::Resources;
use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Providers by agent; an agent without any is not there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Providers {
    /// As the agent told them.
    pub by_agent: OrdMap<AgentKey, Vec<Provider>>,
}

/// One provider that is not gone for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Its id, which is in its info and in all that it has.
    pub id: Arc<str>,
    /// The `ResourceProviderInfo` in protobuf.
    pub info: Bytes,
    /// It is there.
    pub is_subscribed: bool,
    /// Which version of its resources is in the agent's total, in 16 bytes; none before it said what it has.
    pub version: Bytes,
}

/// What there is when an agent has told of its providers.
pub(crate) struct After {
    pub(crate) providers: Vec<Provider>,
    /// All that they have.
    pub(crate) resources: Resources,
    /// Of operations that have not ended whether what they make is among these.
    standings: Vec<(OperationKey, Standing)>,
}

impl Providers {
    /// Those of an agent.
    pub fn of(&self, agent: AgentKey) -> &[Provider] {
        self.by_agent.get(&agent).map_or(&[], Vec::as_slice)
    }

    /// One of an agent's.
    pub fn get(&self, agent: AgentKey, id: &str) -> Option<&Provider> {
        self.of(agent).iter().find(|provider| *provider.id == *id)
    }

    /// Whose these are, by id, with the versions of what they have.
    pub(crate) fn versions<'a>(
        &self,
        agent: AgentKey,
        all: impl Iterator<Item = &'a Resources>,
    ) -> Vec<(Arc<str>, Bytes)> {
        let ids: BTreeSet<&Arc<str>> =
            all.flat_map(Resources::iter).filter_map(|resource| resource.provider_id.as_ref()).collect();
        let known = ids.into_iter().filter_map(|id| self.get(agent, id));
        known.map(|provider| (provider.id.clone(), provider.version.clone())).collect()
    }

    /// It is over.
    pub(crate) fn forget(&mut self, agent: AgentKey) {
        self.by_agent.remove(&agent);
    }

    fn set(&mut self, agent: AgentKey, providers: Vec<Provider>) {
        if providers.is_empty() {
            self.by_agent.remove(&agent);
        } else {
            self.by_agent.insert(agent, providers);
        }
    }
}

impl State {
    /// What there is if an agent has these providers. What was made of their resources by operations that have not ended is
    /// made again of what they say, if it will be: if it was wanted of the version that they have, or if they have the
    /// operation.
    pub(crate) fn after_providers(&self, agent: AgentKey, told: &[ToldProvider]) -> After {
        let mut after = After { providers: Vec::new(), resources: Resources::default(), standings: Vec::new() };
        let known = self.agents.get(agent).expect("the event's agent is registered");
        for one in told {
            let before = self.providers.get(agent, &one.id);
            let mut version = before.map(|before| before.version.clone()).unwrap_or_default();
            let has = match &one.said {
                None => resources::of_provider(&known.total, &one.id),
                Some(said) => {
                    version = said.version.clone();
                    let mut has = said.total.clone();
                    for (key, consumed, produced, of) in self.operations.speculative(agent, &one.id) {
                        if event_log::planted(event_log::Bug::NotMadeAgain) {
                            continue;
                        }
                        let goes_on = of.version == said.version || said.operations.contains(&key);
                        let made = if goes_on { has.replace(consumed, produced).ok() } else { None };
                        let made = made.filter(|made| rules::unique_volumes(made).is_ok());
                        let standing = if made.is_some() { Standing::Made } else { Standing::Unmade };
                        after.standings.push((key, standing));
                        has = made.unwrap_or(has);
                    }
                    has
                }
            };
            resources::add(&mut after.resources, &has);
            let (id, info, is_subscribed) = (one.id.clone(), one.info.clone(), one.is_subscribed);
            after.providers.push(Provider { id, info, is_subscribed, version });
        }
        for gone in self.providers.of(agent).iter().filter(|known| !told.iter().any(|one| one.id == known.id)) {
            let unmade = self.operations.speculative(agent, &gone.id).map(|(key, ..)| (key, Standing::Unmade));
            after.standings.extend(unmade);
        }
        after
    }

    /// From now on it is so.
    pub(crate) fn set_providers(&mut self, agent: AgentKey, told: &[ToldProvider]) {
        let After { providers, resources, standings } = self.after_providers(agent, told);
        standings.into_iter().for_each(|(operation, standing)| self.operations.stand(operation, standing));
        self.providers.set(agent, providers);
        self.agents.provide(agent, &resources);
    }
}
