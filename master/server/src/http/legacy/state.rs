//! `/state` and `/state-summary`: the whole cluster in one answer.

use super::about::About;
use super::json::Json;
use super::parts::{self, Groups};
use api::MESOS_VERSION;
use api::v1;
use auth::Sight;
use master_core::ids::{AgentKey, FrameworkKey};
use master_core::state::State;
use master_core::view;
use std::collections::{BTreeMap, BTreeSet};

/// `/state`
pub fn state(state: &State, about: &About, sight: Option<&Sight>) -> Vec<u8> {
    let groups = Groups::new(state);
    let mut json = Json::with_capacity(64 * 1024 + state.tasks.live.len() * 1024);
    json.object(|json| {
        json.string_at("version", MESOS_VERSION);
        build(json, about);
        json.time_at("start_time", about.start_ms);
        if let Some(leader) = &state.leader {
            json.time_at("elected_time", leader.since_ms);
        }
        masters(json, state, about);
        counts(json, state);
        if sight.is_none_or(|sight| sight.flags) {
            if let Some(log_dir) = about.flag("log_dir") {
                json.string_at("log_dir", log_dir);
            }
            json.object_at("flags", |json| flags(json, about));
        }
        json.array_at("slaves", |json| {
            for agent in parts::registered(state) {
                json.object(|json| parts::agent(json, state, agent, sight));
            }
        });
        json.array_at("recovered_slaves", |json| {
            for agent in parts::recovered(state) {
                json.object(|json| parts::recovered_agent(json, state, agent));
            }
        });
        json.array_at("frameworks", |json| {
            for framework in state.frameworks.live.values() {
                json.object(|json| parts::framework(json, &groups, framework, None));
            }
        });
        json.array_at("completed_frameworks", |json| {
            for completed in state.frameworks.completed.values() {
                json.object(|json| parts::completed_framework(json, &groups, completed));
            }
        });
        json.array_at("orphan_tasks", |_| ());
        json.array_at("unregistered_frameworks", |_| ());
    });
    json.into_bytes()
}

/// `/state-summary`
pub fn summary(state: &State, about: &About, sight: Option<&Sight>) -> Vec<u8> {
    let groups = Groups::new(state);
    let mut by_agent: BTreeMap<AgentKey, (Tally, BTreeSet<FrameworkKey>)> = BTreeMap::new();
    let mut by_framework: BTreeMap<FrameworkKey, (Tally, BTreeSet<AgentKey>)> = BTreeMap::new();
    let tasks = state.tasks.live.iter().map(|((framework, _), task)| (*framework, task));
    for (framework, task) in tasks.chain(state.tasks.completed.iter().map(|((framework, _), task)| (*framework, task)))
    {
        // What a removed framework ran is history, not summary.
        if !state.frameworks.live.contains_key(&framework) {
            continue;
        }
        let (tally, frameworks) = by_agent.entry(task.agent).or_default();
        tally.count(task.state);
        frameworks.insert(framework);
        let (tally, agents) = by_framework.entry(framework).or_default();
        tally.count(task.state);
        agents.insert(task.agent);
    }
    let mut json = Json::with_capacity(16 * 1024 + state.agents.live.len() * 1024);
    json.object(|json| {
        let me = about.identity.master_info(state, about.identity.node()).and_then(|me| me.hostname);
        json.string_at("hostname", me.as_deref().unwrap_or(&about.hostname));
        if let Some(cluster) = about.flag("cluster") {
            json.string_at("cluster", cluster);
        }
        json.array_at("slaves", |json| {
            for agent in parts::registered(state) {
                let (tally, frameworks) = by_agent.remove(&agent.key).unwrap_or_default();
                json.object(|json| {
                    parts::agent(json, state, agent, sight);
                    tally.fields(json);
                    json.array_at("framework_ids", |json| {
                        frameworks.iter().for_each(|key| json.string(&view::framework_id(state, *key)));
                    });
                });
            }
        });
        json.array_at("frameworks", |json| {
            for framework in state.frameworks.live.values() {
                let (tally, agents) = by_framework.remove(&framework.key).unwrap_or_default();
                json.object(|json| {
                    parts::framework_head(json, &groups, framework);
                    tally.fields(json);
                    json.array_at("slave_ids", |json| {
                        agents.iter().for_each(|key| json.string(&view::agent_id(state, *key)));
                    });
                });
            }
        });
    });
    json.into_bytes()
}

/// What was built, as `/version` and `/state` tell it.
pub fn build(json: &mut Json, about: &About) {
    json.string_at("git_sha", &about.build.git_sha);
    json.string_at("git_tag", &about.build.git_tag);
    json.string_at("build_date", &about.build.date);
    json.double_at("build_time", about.build.time_s);
    json.string_at("build_user", &about.build.user);
}

/// The flags in force.
pub fn flags(json: &mut Json, about: &About) {
    about.flags.iter().for_each(|(name, value)| json.string_at(name, value));
}

fn masters(json: &mut Json, state: &State, about: &About) {
    // A master that is not in the log yet knows little of itself.
    let me = about.identity.master_info(state, about.identity.node()).unwrap_or_default();
    json.string_at("id", &me.id);
    json.string_at("pid", me.pid.as_deref().unwrap_or(&about.pid()));
    json.string_at("hostname", me.hostname.as_deref().unwrap_or(&about.hostname));
    json.array_at("capabilities", |json| {
        me.capabilities.iter().for_each(|capability| json.string(capability.r#type().as_str_name()));
    });
    if let Some(domain) = &me.domain {
        json.key("domain").message(domain);
    }
    if let Some(cluster) = about.flag("cluster") {
        json.string_at("cluster", cluster);
    }
    let Some(leader) = &state.leader else { return };
    let Some(info) = about.identity.master_info(state, leader.master.node) else { return };
    json.string_at("leader", info.pid());
    json.object_at("leader_info", |json| {
        json.string_at("id", &info.id);
        json.string_at("pid", info.pid());
        json.integer_at("port", i64::from(info.port));
        json.string_at("hostname", info.hostname());
        if let Some(domain) = &info.domain {
            json.key("domain").message(domain);
        }
    });
}

fn counts(json: &mut Json, state: &State) {
    let (mut active, mut inactive, mut unreachable) = (0, 0, 0);
    for agent in state.agents.live.values().filter(|agent| !state.is_recovered(agent)) {
        match (parts::is_registered(agent), parts::is_active(agent)) {
            (false, _) => unreachable += 1,
            (true, true) => active += 1,
            (true, false) => inactive += 1,
        }
    }
    json.double_at("activated_slaves", f64::from(active));
    json.double_at("deactivated_slaves", f64::from(inactive));
    json.double_at("unreachable_slaves", f64::from(unreachable));
}

/// How many tasks are in each of the states that the summary names.
#[derive(Default)]
struct Tally([i64; STATES.len()]);

const STATES: [v1::TaskState; 10] = [
    v1::TaskState::TaskStaging,
    v1::TaskState::TaskStarting,
    v1::TaskState::TaskRunning,
    v1::TaskState::TaskKilling,
    v1::TaskState::TaskFinished,
    v1::TaskState::TaskKilled,
    v1::TaskState::TaskFailed,
    v1::TaskState::TaskLost,
    v1::TaskState::TaskError,
    v1::TaskState::TaskUnreachable,
];

impl Tally {
    fn count(&mut self, state: i32) {
        if let Some(at) = STATES.iter().position(|named| *named as i32 == state) {
            self.0[at] += 1;
        }
    }

    fn fields(&self, json: &mut Json) {
        STATES.iter().zip(self.0).for_each(|(state, count)| json.integer_at(state.as_str_name(), count));
    }
}
