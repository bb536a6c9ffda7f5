//! Operations on resources: what frameworks and operators wanted done, and what became of it. What an operation makes
//! of what is so as soon as it is decided; it is remembered until its agent has said that it did it, and, if it has an
//! id, until its framework has heard of that.

use crate::event::{OperationApplied, OperationBegun};
use crate::ids::{AgentKey, FrameworkKey, OperationKey};
use crate::state::PendingUpdate;
use api::resources::Resources;
use api::v1::OperationState;
use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Operations that are not forgotten yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Operations {
    /// By key, which is by age.
    pub live: OrdMap<OperationKey, Arc<Operation>>,
    /// More about those that are upon what a resource provider has.
    pub of_providers: OrdMap<OperationKey, Arc<OfProvider>>,
    /// The key of the next operation.
    pub next: u64,
    /// Those of each agent. Derived.
    #[serde(skip)]
    pub by_agent: OrdSet<(AgentKey, OperationKey)>,
    /// Those of each framework that have an id. Derived.
    #[serde(skip)]
    pub by_framework: OrdSet<(FrameworkKey, OperationKey)>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its place in State.
    pub key: OperationKey,
    /// Where.
    pub agent: AgentKey,
    /// Who wanted it; None for an operator.
    pub framework: Option<FrameworkKey>,
    /// Named by its framework, if that wants to hear what becomes of it. Not unique.
    pub id: Option<Arc<str>>,
    /// The `v1::offer::Operation` in protobuf, its resources with allocation roles if a framework wanted it.
    pub info: Bytes,
    /// What it took.
    pub consumed: Resources,
    /// What it made of that.
    pub produced: Resources,
    /// Number of `v1::OperationState`.
    pub state: i32,
    /// What its framework has to acknowledge.
    pub update: Option<Arc<PendingUpdate>>,
    /// When it was decided, in milliseconds since the epoch.
    pub applied_ms: u64,
}

/// Of an operation upon what a resource provider has: whose, and what of it is so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfProvider {
    /// Which provider of the agent.
    pub provider: Arc<str>,
    /// Of the provider's resources, as it was ordered.
    pub version: Bytes,
    /// Where what it takes and makes is until it has ended.
    pub standing: Standing,
}

/// What of an operation is so before its resource provider says what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nothing: what it takes is held, with allocation roles, and only the provider knows what it makes.
    Held,
    /// What it makes is in the agent's total.
    Made,
    /// It was, and the provider has said since that it has something else.
    Unmade,
}

impl Operation {
    /// Whether its agent has yet to say what became of it.
    pub fn is_pending(&self) -> bool {
        self.state == OperationState::OperationPending as i32
    }
}

impl Operations {
    /// An operation that is not forgotten.
    pub fn get(&self, key: OperationKey) -> Option<&Operation> {
        self.live.get(&key).map(Arc::as_ref)
    }

    /// The operations on an agent, by age.
    pub fn on(&self, agent: AgentKey) -> impl Iterator<Item = &Arc<Operation>> + '_ {
        let (from, to) = ((agent, OperationKey(0)), (agent, OperationKey(u64::MAX)));
        self.by_agent.range(from..=to).filter_map(|(_, key)| self.live.get(key))
    }

    /// The operations of a framework that have an id, by age.
    pub fn of(&self, framework: FrameworkKey) -> impl Iterator<Item = &Arc<Operation>> + '_ {
        let (from, to) = ((framework, OperationKey(0)), (framework, OperationKey(u64::MAX)));
        self.by_framework.range(from..=to).filter_map(|(_, key)| self.live.get(key))
    }

    /// More about an operation upon what a resource provider has.
    pub fn of_provider(&self, key: OperationKey) -> Option<&OfProvider> {
        self.of_providers.get(&key).map(Arc::as_ref)
    }

    /// What an operation holds that has not ended.
    pub fn held_by(&self, key: OperationKey) -> Option<&Operation> {
        let is_held = self.of_provider(key).is_some_and(|of| of.standing == Standing::Held);
        self.get(key).filter(|operation| is_held && operation.is_pending())
    }

    /// The operations that hold something.
    pub fn holding(&self) -> impl Iterator<Item = &Operation> + '_ {
        self.of_providers.keys().filter_map(|key| self.held_by(*key))
    }

    /// Operations upon what a provider has that are decided and have not ended, by age, with what they take and make.
    pub(crate) fn speculative<'a>(
        &'a self,
        agent: AgentKey,
        provider: &'a str,
    ) -> impl Iterator<Item = (OperationKey, &'a Resources, &'a Resources, &'a OfProvider)> + 'a {
        self.on(agent).filter(|operation| operation.is_pending()).filter_map(move |operation| {
            let of = self.of_provider(operation.key)?;
            let is_it = *of.provider == *provider && of.standing != Standing::Held;
            is_it.then_some((operation.key, &operation.consumed, &operation.produced, of))
        })
    }

    /// It is upon what a resource provider has.
    pub(crate) fn belong(&mut self, key: OperationKey, of: OfProvider) {
        self.of_providers.insert(key, Arc::new(of));
    }

    pub(crate) fn stand(&mut self, key: OperationKey, standing: Standing) {
        Arc::make_mut(self.of_providers.get_mut(&key).expect("the operation is a provider's")).standing = standing;
    }

    pub(crate) fn apply(&mut self, event: &OperationApplied, at_ms: u64) {
        self.insert(Operation {
            key: event.operation,
            agent: event.agent,
            framework: event.framework,
            id: event.id.clone(),
            info: event.info.clone(),
            consumed: event.consumed.clone(),
            produced: event.produced.clone(),
            state: OperationState::OperationPending as i32,
            update: None,
            applied_ms: at_ms,
        });
    }

    pub(crate) fn begin(&mut self, event: &OperationBegun, at_ms: u64) {
        self.insert(Operation {
            key: event.operation,
            agent: event.agent,
            framework: Some(event.framework),
            id: event.id.clone(),
            info: event.info.clone(),
            consumed: event.consumed.clone(),
            produced: Resources::default(),
            state: OperationState::OperationPending as i32,
            update: None,
            applied_ms: at_ms,
        });
    }

    fn insert(&mut self, operation: Operation) {
        self.index(&operation);
        self.next = self.next.max(operation.key.0 + 1);
        self.live.insert(operation.key, Arc::new(operation));
    }

    /// What the agent said: its framework is told, or it is over.
    pub(crate) fn update(&mut self, key: OperationKey, update: PendingUpdate) {
        let operation = Arc::make_mut(self.live.get_mut(&key).expect("the event's operation is known"));
        operation.state = update.state;
        if operation.id.is_none() {
            self.forget(key);
            return;
        }
        operation.update = Some(Arc::new(update));
    }

    pub(crate) fn forget(&mut self, key: OperationKey) {
        let operation = self.live.remove(&key).expect("the event's operation is known");
        self.of_providers.remove(&key);
        self.by_agent.remove(&(operation.agent, key));
        if let Some(framework) = operation.framework {
            self.by_framework.remove(&(framework, key));
        }
    }

    /// The framework is over: nobody waits to hear of its operations.
    pub(crate) fn forget_framework(&mut self, framework: FrameworkKey) {
        let keys: Vec<OperationKey> = self.of(framework).map(|operation| operation.key).collect();
        for key in keys {
            let operation = Arc::make_mut(self.live.get_mut(&key).expect("an indexed operation is known"));
            if operation.is_pending() {
                operation.id = None;
                self.by_framework.remove(&(framework, key));
            } else {
                self.forget(key);
            }
        }
    }

    /// The agent is over, and so is what is on it.
    pub(crate) fn forget_agent(&mut self, agent: AgentKey) {
        let keys: Vec<OperationKey> = self.on(agent).map(|operation| operation.key).collect();
        keys.into_iter().for_each(|key| self.forget(key));
    }

    fn index(&mut self, operation: &Operation) {
        self.by_agent.insert((operation.agent, operation.key));
        if let Some(framework) = operation.framework.filter(|_| operation.id.is_some()) {
            self.by_framework.insert((framework, operation.key));
        }
    }

    /// Makes the derived indexes anew.
    pub(crate) fn rebuild(&mut self) {
        self.by_agent = OrdSet::new();
        self.by_framework = OrdSet::new();
        for operation in self.live.clone().values() {
            self.index(operation);
        }
    }
}
