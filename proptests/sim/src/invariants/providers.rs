//! What resource providers have is theirs to say: the masters believe as much as was said and no more, nothing of one that is away,
//! an operation is given to its provider once and ends as it was done, and no task is launched on what its provider had before.

use std::collections::{BTreeMap, BTreeSet};

use api::resources::{Quantities, Resources};
use api::v1;
use bytes::Bytes;
use master_core::{Event, State, view};

/// Providers by id, with the versions of what they have.
pub type Versions = Vec<(String, Bytes)>;

/// What providers and masters said.
#[derive(Default)]
pub struct Providers {
    /// How much a provider said that it has, by version.
    said: BTreeMap<(String, Bytes), Quantities>,
    /// Operations that their providers were given.
    given: BTreeSet<Bytes>,
    /// How operations ended where they were done, and in the log.
    done: BTreeMap<Bytes, i32>,
    ended: BTreeMap<Bytes, i32>,
    /// What tasks were launched on: framework and task.
    launched: BTreeMap<(String, String), Versions>,
    pub(super) broken: Option<String>,
}

/// Of a provider that has said nothing yet, or is away.
fn is_nothing(version: &Bytes) -> bool {
    version.iter().all(|byte| *byte == 0)
}

impl Providers {
    fn broken(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// A provider is about to say what it has.
    pub fn stated(&mut self, provider_id: &str, version: Bytes, amounts: Quantities) {
        let before = self.said.insert((provider_id.to_owned(), version), amounts.clone());
        if before.is_some_and(|before| before != amounts) {
            self.broken(format!("{provider_id} says that it has something else, under the same version"));
        }
    }

    /// A provider was given an operation.
    pub fn given(&mut self, operation: &Bytes) {
        if !self.given.insert(operation.clone()) {
            self.broken(format!("operation {} is given to its provider a second time", shown(operation)));
        }
    }

    /// It did an operation, or could not.
    pub fn done(&mut self, operation: &Bytes, state: i32) {
        self.done.insert(operation.clone(), state);
        self.compare(operation);
    }

    fn compare(&mut self, operation: &Bytes) {
        let gone = v1::OperationState::OperationGoneByOperator as i32;
        if let (Some(done), Some(ended)) = (self.done.get(operation), self.ended.get(operation))
            && done != ended
            && *ended != gone
        {
            let what = format!("operation {} ended with {done}, and the log says {ended}", shown(operation));
            self.broken(what);
        }
    }

    /// A provider hears that everybody knows the end of an operation. That of an agent which is over nobody is told.
    pub fn acknowledged(&mut self, operation: &Bytes, state: Option<&State>) {
        let Some(state) = state else { return };
        let key = view::parse_operation_uuid(state, operation);
        if key.and_then(|key| state.operations.get(key)).is_some_and(|operation| operation.is_pending()) {
            self.broken(format!("the end of operation {} is acknowledged, and no master has it", shown(operation)));
        }
    }

    /// A record took effect.
    pub fn committed(&mut self, index: u64, state: &State, events: &[Event]) -> Result<(), String> {
        for event in events {
            let (operation, end) = match event {
                Event::OperationUpdated(updated) => (updated.operation, updated.state),
                Event::OperationEnded(ended) => (ended.operation, ended.state),
                _ => continue,
            };
            let uuid = Bytes::copy_from_slice(&view::operation_uuid(state, operation));
            if let Some(before) = self.ended.insert(uuid.clone(), end) {
                return Err(format!("operation P{} ends with {end} at {index}, and ended with {before}", operation.0));
            }
            self.compare(&uuid);
        }
        self.learn_launches(state, events);
        for (key, providers) in &state.providers.by_agent {
            let Some(agent) = state.agents.get(*key) else { continue };
            for provider in providers {
                let has = agent.total.filter(|one| one.provider_id.as_deref() == Some(&*provider.id));
                let said = self.said.get(&(provider.id.to_string(), provider.version.clone()));
                let is_right = match said {
                    _ if is_nothing(&provider.version) => has.is_empty(),
                    Some(said) => has.all_quantities() == *said,
                    None => false,
                };
                if !is_right {
                    let id = &provider.id;
                    return Err(format!("the masters believe that {id} of S{} has {has}, at index {index}", key.0));
                }
                if !provider.is_subscribed && !has.is_empty() {
                    return Err(format!("{} of S{} is away and has {has}, at index {index}", provider.id, key.0));
                }
            }
        }
        match &self.broken {
            Some(what) => Err(what.clone()),
            None => Ok(()),
        }
    }

    /// Which versions tasks are launched on. Where these change in the same record, nothing is known of it.
    fn learn_launches(&mut self, state: &State, events: &[Event]) {
        if events.iter().any(|event| matches!(event, Event::AgentProvidersChanged(_))) {
            return;
        }
        for event in events {
            let (framework, agent, tasks): (_, _, Vec<(&str, &Resources)>) = match event {
                Event::TaskLaunched(one) => (one.task.0, one.agent, vec![(&*one.task.1, &one.resources)]),
                Event::TaskGroupLaunched(group) => {
                    let tasks = group.tasks.iter().map(|task| (&*task.task_id, &task.resources));
                    (group.framework, group.agent, tasks.collect())
                }
                _ => continue,
            };
            let Some(framework) = state.frameworks.get(framework) else { continue };
            for (task_id, resources) in tasks {
                let ids: BTreeSet<&str> = resources.iter().filter_map(|one| one.provider_id.as_deref()).collect();
                let known = ids.into_iter().filter_map(|id| state.providers.get(agent, id));
                let versions: Versions = known.map(|one| (one.id.to_string(), one.version.clone())).collect();
                if !versions.is_empty() {
                    self.launched.insert((framework.id.to_string(), task_id.to_owned()), versions);
                }
            }
        }
    }

    /// An agent takes a task, of whose providers it knows these versions.
    pub fn taken(&mut self, framework_id: &str, task_id: &str, version_of: impl Fn(&str) -> Option<Vec<u8>>) {
        let key = (framework_id.to_owned(), task_id.to_owned());
        let other = self
            .launched
            .get(&key)
            .and_then(|versions| versions.iter().find(|(id, version)| version_of(id).as_deref() != Some(&version[..])));
        if let Some((id, _)) = other {
            let what = format!("{task_id} is taken by its agent, and {id} does not have what it was launched on");
            self.broken(what);
        }
    }
}

fn shown(operation: &[u8]) -> String {
    let number = operation.iter().rev().take(8).rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    format!("P{number}")
}
