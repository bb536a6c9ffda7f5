//! `/slaves`, `/frameworks`, `/tasks` and the small answers: `/version`, `/flags`.

use super::about::About;
use super::json::Json;
use super::parts::{self, Groups};
use super::state as whole;
use super::views::StatusTime;
use api::MESOS_VERSION;
use auth::Sight;
use master_core::state::{Agent, AgentLiveness, Framework, State, Task};
use master_core::view;
use prost::Message;
use std::sync::Arc;

/// How many tasks `/tasks` lists unless told otherwise.
const TASK_LIMIT: usize = 100;

/// `/version`
pub fn version(about: &About) -> Vec<u8> {
    let mut json = Json::default();
    json.object(|json| {
        json.string_at("version", MESOS_VERSION);
        whole::build(json, about);
        json.string_at("meseta_version", env!("CARGO_PKG_VERSION"));
    });
    json.into_bytes()
}

/// `/flags`
pub fn flags(about: &About) -> Vec<u8> {
    let mut json = Json::default();
    json.object(|json| json.object_at("flags", |json| whole::flags(json, about)));
    json.into_bytes()
}

/// `/slaves`, or the one with this id.
pub fn agents(state: &State, slave_id: Option<&str>, sight: Option<&Sight>) -> Vec<u8> {
    let mut json = Json::with_capacity(1024 + state.agents.live.len() * 2048);
    let is_wanted = |agent: &&Arc<Agent>| slave_id.is_none_or(|id| id == view::agent_id(state, agent.key));
    json.object(|json| {
        json.array_at("slaves", |json| {
            for agent in parts::registered(state).filter(is_wanted) {
                json.object(|json| {
                    parts::agent(json, state, agent, sight);
                    parts::agent_in_full(json, state, agent, sight);
                });
            }
        });
        json.array_at("recovered_slaves", |json| {
            for agent in parts::recovered(state).filter(is_wanted) {
                json.object(|json| parts::recovered_agent(json, state, agent));
            }
        });
    });
    json.into_bytes()
}

/// `/agents/away`: the agents without a connection, since when, and until when they count as registered. Mesos's
/// lists have no place for it, and none at all for the unreachable ones.
pub fn agents_away(state: &State) -> Vec<u8> {
    let mut json = Json::default();
    json.object(|json| {
        json.array_at("agents", |json| {
            for agent in state.agents.live.values() {
                let (since_ms, unreachable_at_ms) = match agent.liveness {
                    AgentLiveness::Connected { .. } => continue,
                    AgentLiveness::Disconnected { since_ms, deadline_ms } => (since_ms, Some(deadline_ms)),
                    AgentLiveness::Unreachable { since_ms } => (since_ms, None),
                };
                json.object(|json| {
                    json.string_at("id", &view::agent_id(state, agent.key));
                    json.string_at("hostname", &agent.hostname);
                    json.string_at("address", &agent.address);
                    json.bool_at("unreachable", unreachable_at_ms.is_none());
                    json.integer_at("since_ms", since_ms as i64);
                    if let Some(at_ms) = unreachable_at_ms {
                        json.integer_at("unreachable_at_ms", at_ms as i64);
                    }
                    if let Some(drain) = state.drains.get(agent.key) {
                        json.key("drain_info").message(&drain.info());
                    }
                });
            }
        });
    });
    json.into_bytes()
}

/// `/frameworks`, or the one with this id.
pub fn frameworks(state: &State, framework_id: Option<&str>) -> Vec<u8> {
    let groups = Groups::new(state);
    let wanted = |framework: &Framework| framework_id.is_none_or(|id| id == &*framework.id);
    let mut json = Json::with_capacity(64 * 1024);
    json.object(|json| {
        json.array_at("frameworks", |json| {
            for framework in state.frameworks.live.values().filter(|framework| wanted(framework)) {
                json.object(|json| parts::framework(json, &groups, framework, None));
            }
        });
        json.array_at("completed_frameworks", |json| {
            for completed in state.frameworks.completed.values().filter(|completed| wanted(&completed.framework)) {
                json.object(|json| parts::completed_framework(json, &groups, completed));
            }
        });
        json.array_at("unregistered_frameworks", |_| ());
    });
    json.into_bytes()
}

/// What `/tasks` was asked for. What it cannot read it takes for not given.
#[derive(Debug, Default, PartialEq)]
pub struct TaskQuery {
    /// At most so many; none: all.
    pub limit: Option<usize>,
    /// After so many.
    pub offset: usize,
    /// Oldest first.
    pub ascending: bool,
    /// Only those with this id.
    pub task_id: Option<String>,
    /// Only those of this framework.
    pub framework_id: Option<String>,
}

impl TaskQuery {
    /// From the parameters of a request.
    pub fn new(get: impl Fn(&str) -> Option<String>) -> TaskQuery {
        let number = |name: &str| get(name).and_then(|text| text.trim().parse::<i64>().ok());
        TaskQuery {
            // A negative limit is a very large one.
            limit: number("limit").map_or(Some(TASK_LIMIT), |limit| usize::try_from(limit).ok()),
            offset: number("offset").map_or(0, |offset| usize::try_from(offset).unwrap_or(usize::MAX)),
            ascending: get("order").as_deref() == Some("asc"),
            task_id: get("task_id"),
            framework_id: get("framework_id"),
        }
    }
}

/// `/tasks`: live, unreachable and ended ones of all frameworks, by the time of their first status.
pub fn tasks(state: &State, query: &TaskQuery) -> Vec<u8> {
    let live = state.frameworks.live.values();
    let completed = state.frameworks.completed.values().map(|completed| &completed.framework);
    let mut found: Vec<(f64, &Framework, &Arc<Task>)> = Vec::new();
    for framework in live.chain(completed) {
        if query.framework_id.as_ref().is_some_and(|id| **id != *framework.id) {
            continue;
        }
        let tasks = parts::live_tasks(state, framework.key).chain(parts::completed_tasks(state, framework.key));
        let tasks = tasks.filter(|task| query.task_id.as_ref().is_none_or(|id| **id == *task.task_id));
        found.extend(tasks.map(|task| (first_status(task), &**framework, task)));
    }
    found.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    if !query.ascending {
        found.reverse();
    }
    let page = found.into_iter().skip(query.offset).take(query.limit.unwrap_or(usize::MAX));
    let mut json = Json::with_capacity(64 * 1024);
    json.object(|json| {
        json.array_at("tasks", |json| {
            page.for_each(|(_, framework, task)| json.object(|json| parts::task(json, state, task, &framework.id)));
        });
    });
    json.into_bytes()
}

fn first_status(task: &Task) -> f64 {
    task.statuses.first().and_then(|status| StatusTime::decode(&status[..]).ok()).map_or(0.0, |time| time.timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &'static str) -> TaskQuery {
        let pairs: Vec<(&str, &str)> = text.split('&').filter_map(|pair| pair.split_once('=')).collect();
        TaskQuery::new(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn what_cannot_be_read_is_not_given() {
        let usual = TaskQuery { limit: Some(100), ..TaskQuery::default() };
        assert_eq!(query(""), usual);
        assert_eq!(query("limit=bad&offset=x&order=bad"), usual);
        assert_eq!(query("limit=-1").limit, None);
        let page = TaskQuery { limit: Some(1), offset: 1, ascending: true, ..TaskQuery::default() };
        assert_eq!(query("limit=1&offset=1&order=asc"), page);
    }
}
