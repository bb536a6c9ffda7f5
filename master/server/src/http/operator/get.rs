//! The big reads of v1: tasks, executors, frameworks and agents, one by one or all together. In JSON each item is
//! written as it is made; only protobuf, which needs lengths first, is put together as a message.

use super::messages;
use crate::http::legacy::json::Json;
use crate::http::legacy::parts::{self, Groups};
use api::v1::master::{Response, response};
use auth::Sight;
use master_core::state::{State, Task};
use master_core::view;
use std::sync::Arc;

/// Which of the reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Read {
    /// GET_STATE
    State,
    /// GET_TASKS
    Tasks,
    /// GET_EXECUTORS
    Executors,
    /// GET_FRAMEWORKS
    Frameworks,
    /// GET_AGENTS
    Agents,
    /// GET_OPERATIONS
    Operations,
}

/// The whole answer in JSON. Lists are there even when they are empty, as clients of Mesos expect of these calls.
pub fn json(state: &State, read: Read, sight: Option<&Sight>) -> Vec<u8> {
    let groups = Groups::new(state);
    let mut json = Json::with_capacity(64 * 1024);
    json.object(|json| {
        let (name, field) = names(read);
        json.string_at("type", name);
        json.object_at(field, |json| fields(json, &groups, read, sight));
    });
    json.into_bytes()
}

/// SUBSCRIBED, the first event that a watcher gets, in JSON; `index` is that of the State in the log.
pub fn subscribed_json(state: &State, heartbeat_s: f64, index: u64, sight: Option<&Sight>) -> Vec<u8> {
    let groups = Groups::new(state);
    let mut json = Json::with_capacity(64 * 1024);
    json.object(|json| {
        json.string_at("type", "SUBSCRIBED");
        json.object_at("subscribed", |json| {
            json.object_at("get_state", |json| fields(json, &groups, Read::State, sight));
            json.double_at("heartbeat_interval_seconds", heartbeat_s);
        });
        json.object_at("log_position", |json| json.integer_at("index", index as i64));
    });
    json.into_bytes()
}

/// The whole answer as a message.
pub fn message(state: &State, read: Read, sight: Option<&Sight>) -> Response {
    let groups = Groups::new(state);
    let mut answer = Response::default();
    let kind = match read {
        Read::State => {
            answer.get_state = Some(get_state(&groups, sight));
            response::Type::GetState
        }
        Read::Tasks => {
            answer.get_tasks = Some(get_tasks(state));
            response::Type::GetTasks
        }
        Read::Executors => {
            answer.get_executors = Some(get_executors(state));
            response::Type::GetExecutors
        }
        Read::Frameworks => {
            answer.get_frameworks = Some(get_frameworks(&groups));
            response::Type::GetFrameworks
        }
        Read::Agents => {
            answer.get_agents = Some(get_agents(state, sight));
            response::Type::GetAgents
        }
        Read::Operations => {
            let operations = view::operations(state).collect();
            answer.get_operations = Some(response::GetOperations { operations });
            response::Type::GetOperations
        }
    };
    answer.set_type(kind);
    answer
}

/// Everything, as a message.
pub fn get_state(groups: &Groups<'_>, sight: Option<&Sight>) -> response::GetState {
    response::GetState {
        get_tasks: Some(get_tasks(groups.state)),
        get_executors: Some(get_executors(groups.state)),
        get_frameworks: Some(get_frameworks(groups)),
        get_agents: Some(get_agents(groups.state, sight)),
    }
}

fn get_tasks(state: &State) -> response::GetTasks {
    let mut tasks = response::GetTasks::default();
    for task in state.tasks.live.values() {
        let list = if task.unreachable_ms.is_none() { &mut tasks.tasks } else { &mut tasks.unreachable_tasks };
        list.push(view::task(state, task));
    }
    tasks.completed_tasks = state.tasks.completed.values().map(|task| view::task(state, task)).collect();
    tasks
}

fn get_executors(state: &State) -> response::GetExecutors {
    let agents = state.agents.live.values().filter(|agent| parts::is_registered(agent));
    let executors = agents
        .flat_map(|agent| agent.executors.values().map(|executor| messages::executor(state, agent.key, executor)));
    response::GetExecutors { executors: executors.collect(), ..Default::default() }
}

fn get_frameworks(groups: &Groups<'_>) -> response::GetFrameworks {
    let live = groups.state.frameworks.live.values();
    let completed = groups.state.frameworks.completed.values();
    response::GetFrameworks {
        frameworks: live.map(|framework| messages::framework(groups, framework, None)).collect(),
        completed_frameworks: completed
            .map(|completed| messages::framework(groups, &completed.framework, Some(completed.removed_ms)))
            .collect(),
        ..Default::default()
    }
}

fn get_agents(state: &State, sight: Option<&Sight>) -> response::GetAgents {
    response::GetAgents {
        agents: parts::registered(state).map(|agent| messages::agent(state, agent, sight)).collect(),
        recovered_agents: parts::recovered(state).map(|it| messages::recovered_agent(state, it, sight)).collect(),
    }
}

fn names(read: Read) -> (&'static str, &'static str) {
    match read {
        Read::State => ("GET_STATE", "get_state"),
        Read::Tasks => ("GET_TASKS", "get_tasks"),
        Read::Executors => ("GET_EXECUTORS", "get_executors"),
        Read::Frameworks => ("GET_FRAMEWORKS", "get_frameworks"),
        Read::Agents => ("GET_AGENTS", "get_agents"),
        Read::Operations => ("GET_OPERATIONS", "get_operations"),
    }
}

fn fields(json: &mut Json, groups: &Groups<'_>, read: Read, sight: Option<&Sight>) {
    match read {
        Read::State => {
            for part in [Read::Tasks, Read::Executors, Read::Frameworks, Read::Agents] {
                json.object_at(names(part).1, |json| fields(json, groups, part, sight));
            }
        }
        Read::Tasks => tasks(json, groups.state),
        Read::Executors => json.array_at("executors", |json| {
            for agent in groups.state.agents.live.values().filter(|agent| parts::is_registered(agent)) {
                for executor in agent.executors.values() {
                    json.message(&messages::executor(groups.state, agent.key, executor));
                }
            }
        }),
        Read::Frameworks => {
            json.array_at("frameworks", |json| {
                for framework in groups.state.frameworks.live.values() {
                    json.message(&messages::framework(groups, framework, None));
                }
            });
            json.array_at("completed_frameworks", |json| {
                for completed in groups.state.frameworks.completed.values() {
                    json.message(&messages::framework(groups, &completed.framework, Some(completed.removed_ms)));
                }
            });
        }
        Read::Agents => {
            json.array_at("agents", |json| {
                for agent in parts::registered(groups.state) {
                    json.message(&messages::agent(groups.state, agent, sight));
                }
            });
            json.array_at("recovered_agents", |json| {
                for agent in parts::recovered(groups.state) {
                    json.message(&messages::recovered_agent(groups.state, agent, sight));
                }
            });
        }
        // Mesos leaves an empty list out here.
        Read::Operations => {
            let mut operations = view::operations(groups.state).peekable();
            if operations.peek().is_some() {
                json.array_at("operations", |json| operations.for_each(|operation| json.message(&operation)));
            }
        }
    }
}

fn tasks(json: &mut Json, state: &State) {
    let mut list = |name: &str, tasks: &mut dyn Iterator<Item = &Arc<Task>>| {
        json.array_at(name, |json| tasks.for_each(|task| json.message(&view::task(state, task))));
    };
    let live = &state.tasks.live;
    list("tasks", &mut live.values().filter(|task| task.unreachable_ms.is_none()));
    list("unreachable_tasks", &mut live.values().filter(|task| task.unreachable_ms.is_some()));
    list("completed_tasks", &mut state.tasks.completed.values());
}
