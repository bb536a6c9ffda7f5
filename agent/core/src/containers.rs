//! Containers as such. An executor has one; others are launched by call: within another container, or standing alone. Their ids
//! are paths: of one within others theirs and its own, from the outermost, with dots between them.
//!
//! ```text
//! added ─► runs ─► (to be killed) ─► ended, kept for who asks ─► removed
//!            └─► its process ended, and what is within it is being ended ─► ended
//! ```

use std::collections::BTreeMap;

use api::limits::{AGENT_CONTAINERS_MAX, AGENT_ENDED_CONTAINERS_MAX};
use api::v1::ContainerId;
use api::v1::agent::call::LaunchContainer;
use serde::Serialize;

use crate::command::{Refusal, Surroundings};
use crate::event::{Blob, Event};
use crate::limits::Limited;
use crate::state::{Process, State};
use crate::status;

/// Containers that were launched by call, and those that wait for what is within them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Containers {
    /// By id.
    pub all: BTreeMap<String, Container>,
    /// Containers of executors and others whose process ended, with its wait status, while what is within them is being ended.
    pub ending: BTreeMap<String, Option<i32>>,
    /// Containers of executors and others that exceeded what they may use, for as long as somebody may ask why they ended.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limited: BTreeMap<String, Limited>,
}

/// One that was launched by call.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Container {
    /// `agent::Call::LaunchContainer`
    pub info: Blob,
    /// User to run as, if it is not the agent's own.
    pub user: String,
    /// Whether it is of a session, and ends with it.
    pub session: bool,
    /// When it was added, in milliseconds since 1970.
    pub added_ms: u64,
    /// Known once it runs.
    pub process: Option<Process>,
    /// It is to end.
    pub killed: bool,
    /// Wait status, once it is over; the inner one is none if nobody saw it end.
    pub end: Option<Option<i32>>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is to run.
    Launching,
    /// Its process runs.
    Running,
    /// It is being ended.
    Ending,
    /// It is over; its wait status if somebody saw it end.
    Ended(Option<i32>),
}

/// The id of a container as the agent writes it: from the outermost, with dots between.
pub fn path(id: &ContainerId) -> String {
    match &id.parent {
        Some(parent) => format!("{}.{}", path(parent), id.value),
        None => id.value.clone(),
    }
}

/// The same the other way round.
pub fn id_of(path: &str) -> ContainerId {
    match path.rsplit_once('.') {
        Some((parent, value)) => ContainerId { value: value.to_owned(), parent: Some(Box::new(id_of(parent))) },
        None => ContainerId { value: path.to_owned(), parent: None },
    }
}

/// The container that this one is within.
pub fn parent_of(container_id: &str) -> Option<&str> {
    container_id.rsplit_once('.').map(|(parent, _)| parent)
}

/// The outermost one.
fn root_of(container_id: &str) -> &str {
    container_id.split('.').next().unwrap_or_default()
}

impl Container {
    fn stage(&self) -> Stage {
        match (self.end, self.killed, &self.process) {
            (Some(status), ..) => Stage::Ended(status),
            (None, true, _) => Stage::Ending,
            (None, false, Some(_)) => Stage::Running,
            (None, false, None) => Stage::Launching,
        }
    }
}

impl Containers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Containers::default()
    }

    /// Those that are not over.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = (&String, &Container)> {
        self.all.iter().filter(|(_, container)| container.end.is_none())
    }

    /// What is within a container, at any depth.
    pub fn within<'a>(&'a self, container_id: &str) -> impl Iterator<Item = (&'a String, &'a Container)> + use<'a> {
        let prefix = format!("{container_id}.");
        self.all.range(prefix.clone()..).take_while(move |(id, _)| id.starts_with(&prefix))
    }

    fn live_within<'a>(&'a self, container_id: &str) -> impl Iterator<Item = &'a String> + use<'a> {
        self.within(container_id).filter(|(_, container)| container.end.is_none()).map(|(id, _)| id)
    }

    /// A container is gone, and what is known of those within it with it.
    pub(crate) fn forget(&mut self, container_id: &str) {
        let within: Vec<String> = self.within(container_id).map(|(id, _)| id.clone()).collect();
        within.iter().for_each(|id| drop(self.all.remove(id)));
        self.all.remove(container_id);
        self.ending.remove(container_id);
        self.limited.retain(|id, _| {
            id.strip_prefix(container_id).is_none_or(|rest| !(rest.is_empty() || rest.starts_with('.')))
        });
    }
}

impl State {
    /// Where a container is in its life: one of an executor, or one that was launched by call.
    pub fn stage(&self, container_id: &str) -> Option<Stage> {
        let stage = match self.executor_of(container_id) {
            // Whoever has subscribed runs, whether or not its start was reported: that may come later, above all after a recovery.
            Some((_, executor)) if executor.process.is_some() || executor.subscribed => Stage::Running,
            Some(_) => Stage::Launching,
            None => self.launched.all.get(container_id)?.stage(),
        };
        let is_ending = self.launched.ending.contains_key(container_id);
        Some(if is_ending { Stage::Ending } else { stage })
    }

    /// The processes of a container that runs.
    pub fn process(&self, container_id: &str) -> Option<&Process> {
        match self.executor_of(container_id) {
            Some((_, executor)) => executor.process.as_ref(),
            None => self.launched.all.get(container_id).filter(|one| one.end.is_none())?.process.as_ref(),
        }
    }

    /// Whether no container is left that is not over.
    pub(crate) fn runs_nothing(&self) -> bool {
        self.containers.is_empty() && self.launched.live().next().is_none()
    }

    /// Whether its end is kept for who asks: one within another that lives.
    fn is_kept(&self, container_id: &str) -> bool {
        let root = root_of(container_id);
        root != container_id && (self.containers.contains_key(root) || self.launched.all.contains_key(root))
    }

    pub(crate) fn end_container(&mut self, container_id: &str, status: Option<i32>, failed: bool) {
        let kept = !failed && self.is_kept(container_id);
        let end = self.launched.all.get(container_id).cloned();
        let limited = self.launched.limited.get(container_id).cloned();
        self.launched.forget(container_id);
        if let Some(container) = end.filter(|_| kept) {
            self.launched
                .all
                .insert(container_id.to_owned(), Container { end: Some(status), process: None, ..container });
            self.launched.limited.extend(limited.map(|limited| (container_id.to_owned(), limited)));
        }
    }
}

/// A container within another, or one that stands alone. `session`: it ends with the call.
pub(crate) fn launch(
    state: &State,
    container_id: String,
    info: &LaunchContainer,
    session: bool,
    around: &Surroundings<'_>,
) -> Result<Vec<Event>, Refusal> {
    let is_there = state.stage(&container_id).is_some() && !event_log::planted(event_log::Bug::LaunchTakenTwice);
    if is_there || state.remnants.contains_key(&container_id) {
        return Err(Refusal::ContainerExists);
    }
    if state.leaving {
        return Err(Refusal::AgentLeaving);
    }
    let mut user = String::new();
    if let Some(parent_id) = parent_of(&container_id) {
        match state.stage(parent_id) {
            Some(Stage::Running) => {}
            Some(Stage::Launching) => return Err(Refusal::ParentNotRunning { parent_id: parent_id.to_owned() }),
            Some(Stage::Ending) => return Err(Refusal::ParentEnding { parent_id: parent_id.to_owned() }),
            Some(Stage::Ended(_)) | None => return Err(Refusal::UnknownParent { parent_id: parent_id.to_owned() }),
        }
        user = user_of(state, parent_id);
    }
    let live = state.launched.live().count();
    if live >= AGENT_CONTAINERS_MAX {
        return Err(Refusal::TooManyContainers { live });
    }
    // Ended ones make room: the oldest of those beside it.
    let root = root_of(&container_id);
    let mut ended: Vec<_> = state.launched.within(root).filter(|(_, one)| one.end.is_some()).collect();
    ended.sort_by_key(|(id, one)| (one.added_ms, *id));
    let over = ended.len().saturating_sub(AGENT_ENDED_CONTAINERS_MAX - 1);
    let mut events: Vec<Event> = ended[..over].iter().map(|(id, _)| removed(id, false)).collect();
    let user = info.command.as_ref().and_then(|command| command.user.clone()).unwrap_or(user);
    events.push(Event::ContainerAdded { container_id, info: Blob::of(info), user, session, at_ms: around.at_ms });
    Ok(events)
}

/// Whom a container runs as.
fn user_of(state: &State, container_id: &str) -> String {
    let Some((framework_id, executor)) = state.executor_of(container_id) else {
        return state.launched.all.get(container_id).map_or(String::new(), |one| one.user.clone());
    };
    let task = executor.tasks.values().next().filter(|_| executor.is_command);
    let command = match task {
        Some(task) => task.info.get::<api::v1::TaskInfo>().command,
        None => executor.info.get::<api::v1::ExecutorInfo>().command,
    };
    let of_framework = || state.frameworks[framework_id].info.get::<api::v1::FrameworkInfo>().user;
    command.and_then(|command| command.user).unwrap_or_else(of_framework)
}

/// It is to end, at once, with all that is within it.
pub(crate) fn kill(state: &State, container_id: &str) -> Result<Vec<Event>, Refusal> {
    match state.launched.all.get(container_id).map(Container::stage) {
        Some(Stage::Launching | Stage::Running) => {
            Ok(vec![Event::ContainerKillRequested { container_id: container_id.to_owned() }])
        }
        Some(Stage::Ending) => Ok(Vec::new()),
        Some(Stage::Ended(_)) | None => Err(Refusal::UnknownContainer { container_id: container_id.to_owned() }),
    }
}

/// Nobody asks for it any more. To remove what is not there is no harm.
pub(crate) fn remove(state: &State, container_id: &str) -> Result<Vec<Event>, Refusal> {
    match state.stage(container_id) {
        None => Ok(Vec::new()),
        Some(Stage::Ended(_)) => Ok(vec![removed(container_id, true)]),
        Some(_) => Err(Refusal::ContainerRuns { nested: parent_of(container_id).is_some() }),
    }
}

fn removed(container_id: &str, with_files: bool) -> Event {
    Event::ContainerRemoved { container_id: container_id.to_owned(), with_files }
}

/// The process of a container that was launched by call runs.
pub(crate) fn started(state: &State, container_id: &str, process: Process) -> Vec<Event> {
    let is_news = state.launched.all.get(container_id).is_some_and(|one| one.end.is_none() && one.process.is_none());
    let started = Event::ContainerStarted { container_id: container_id.to_owned(), process, complete_by_ms: None };
    is_news.then_some(started).into_iter().collect()
}

/// It never ran, and never will. Who only waited for it is over, too.
pub(crate) fn failed(state: &State, container_id: &str, message: &str, around: &mut Surroundings<'_>) -> Vec<Event> {
    if state.launched.all.get(container_id).is_none_or(|one| one.end.is_some()) {
        return Vec::new();
    }
    // Clients see a program that is not there as one that ended.
    let is_missing = message.starts_with("cannot execute");
    match is_missing {
        true => finish(state, container_id, Some(NO_PROGRAM), None, around),
        false => finish(state, container_id, None, Some(message.to_owned()), around),
    }
}

/// Wait status of a container whose program could not be executed, as clients know it.
const NO_PROGRAM: i32 = 1001 << 8;

/// The process of a container ended. What is within it is ended first: a container is over when nothing in it runs.
pub(crate) fn exited(
    state: &State,
    container_id: &str,
    status: Option<i32>,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let is_over = state.launched.all.get(container_id).is_some_and(|one| one.end.is_some());
    let is_ending = state.launched.ending.contains_key(container_id);
    let hurries = is_ending && event_log::planted(event_log::Bug::EndTwiceHurries);
    if is_over || is_ending && !hurries {
        return Vec::new();
    }
    let within: Vec<&String> = state.launched.live_within(container_id).collect();
    if within.is_empty() || hurries || event_log::planted(event_log::Bug::NestedNotEnded) {
        return finish(state, container_id, status, None, around);
    }
    let mut events = vec![Event::ContainerEnding { container_id: container_id.to_owned(), status }];
    let not_yet = within.into_iter().filter(|id| state.launched.all[*id].stage() != Stage::Ending);
    events.extend(not_yet.map(|id| Event::ContainerKillRequested { container_id: id.clone() }));
    events
}

/// A container is over, or could not be launched; and those that only waited for it are over, too.
fn finish(
    state: &State,
    container_id: &str,
    status: Option<i32>,
    mut failure: Option<String>,
    around: &mut Surroundings<'_>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let (mut id, mut status) = (container_id, status);
    let mut over: Vec<&str> = Vec::new();
    loop {
        if state.launched.all.contains_key(id) {
            events.push(Event::ContainerEnded { container_id: id.to_owned(), status, failure: failure.take() });
        } else {
            // An executor's: nothing is above it.
            events.extend(status::exited(state, id, status, around));
            return events;
        }
        over.push(id);
        let Some(parent) = parent_of(id) else { break };
        let lives = |parent: &str| state.launched.live_within(parent).any(|one| !over.contains(&one.as_str()));
        // The nearest above that waits; those between are live, and ended as others are.
        let waiting = std::iter::successors(Some(parent), |one| parent_of(one))
            .find_map(|one| state.launched.ending.get_key_value(one));
        match waiting {
            Some((above, of_above)) if !lives(above) => (id, status) = (above.as_str(), *of_above),
            _ => break,
        }
    }
    let others = state.launched.live().filter(|(id, _)| !over.contains(&id.as_str())).count();
    if state.leaving && state.containers.is_empty() && others == 0 {
        events.push(Event::Left {});
    }
    events
}

/// Sessions end with the agent that had their streams.
pub(crate) fn end_sessions(state: &State) -> impl Iterator<Item = Event> + '_ {
    let sessions = state.launched.live().filter(|(_, one)| one.session && !one.killed);
    sessions.map(|(id, _)| Event::ContainerKillRequested { container_id: id.clone() })
}

/// The agent ends for good: what stands alone ends, too. The rest ends with its executors.
pub(crate) fn end_alone(state: &State) -> impl Iterator<Item = Event> + '_ {
    let alone = state.launched.live().filter(|(id, one)| parent_of(id).is_none() && !one.killed);
    alone.map(|(id, _)| Event::ContainerKillRequested { container_id: id.clone() })
}
