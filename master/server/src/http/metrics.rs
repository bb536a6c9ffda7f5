//! What is counted and measured, by Mesos's names: `/metrics/snapshot` and GET_METRICS. Gauges come from State, so
//! every master tells the same; counters count what this process saw since it started. What they mean is in the table of
//! `api_http::metrics`.

mod counted;
mod disk;

pub use counted::{Counters, LEADERS};

use crate::http::legacy::amounts::{self, Quantities};
use crate::http::legacy::json::Json;
use crate::http::legacy::parts;
use api::v1;
use api::v1::OperationState;
use api::v1::offer::operation::Type as OperationType;
use auth::Sight;
use master_core::ids::FrameworkKey;
use master_core::state::{AgentLiveness, Operation, State};
use master_core::view;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Names with their values, in the order of names.
pub type Metrics = BTreeMap<String, f64>;

/// What a snapshot needs beside State and counters.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// This master leads.
    pub elected: bool,
    /// Since the process started.
    pub uptime: Duration,
    /// Operators who watch.
    pub watchers: usize,
    /// Answers that shared the rendering of another.
    pub shared: u64,
    /// Whether there are figures of single frameworks.
    pub of_frameworks: bool,
    /// Where this master's disk is, if it has one.
    pub work_dir: Option<&'a Path>,
    /// The newest term that this master knows.
    pub term: u64,
    /// How long reading its log took.
    pub opened: Duration,
    /// Commands that wait to be decided.
    pub waiting: usize,
    /// Frameworks' event streams held here.
    pub streams: usize,
    /// Agents' connections held here.
    pub agents: usize,
    /// Who is connected, and who was turned away.
    pub connections: &'a api_http::Connections,
}

/// One flat object of numbers.
pub fn json(metrics: &Metrics) -> Vec<u8> {
    let mut json = Json::with_capacity(metrics.len() * 48);
    json.object(|json| metrics.iter().for_each(|(name, value)| json.double_at(name, *value)));
    json.into_bytes()
}

/// Every metric that we have.
pub fn snapshot(state: &State, counters: &Counters, moment: Moment<'_>) -> Metrics {
    let mut metrics = Metrics::new();
    counters.tell(&mut metrics);
    if let Some(work_dir) = moment.work_dir {
        disk::tell(work_dir, &mut metrics);
    }
    operations(state, &mut metrics);
    let mut set = |name: &str, value: f64| {
        metrics.insert(name.to_owned(), value);
    };
    set("master/http_cache_hits", moment.shared as f64);
    let turned = &moment.connections.turned;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    set("master/meseta/connections/open", moment.connections.count() as f64);
    set("master/meseta/connections/refused", count(&turned.refused));
    set("master/meseta/connections/refused_per_address", count(&turned.refused_address));
    set("master/meseta/connections/cut_silent", count(&turned.silent));
    set("master/meseta/connections/cut_idle", count(&turned.idle));
    set("master/meseta/connections/requests_refused", count(&turned.requests));
    set("master/meseta/term", moment.term as f64);
    set("master/meseta/streams_held", moment.streams as f64);
    set("master/meseta/agents_held", moment.agents as f64);
    set("master/event_queue_dispatches", moment.waiting as f64);
    set("registrar/queued_operations", moment.waiting as f64);
    set("registrar/state_fetch_ms", moment.opened.as_secs_f64() * 1000.0);
    let answering = state.masters.values().filter(|master| master.alive).count();
    set("master/meseta/members_answering", answering as f64);
    set("master/elected", f64::from(u8::from(moment.elected)));
    set("master/uptime_secs", moment.uptime.as_secs_f64());
    set("master/operator_event_stream_subscribers", moment.watchers as f64);
    set("master/outstanding_offers", state.offers.live.len() as f64);
    set("registrar/log/ensemble_size", state.masters.len() as f64);
    set("registrar/log/recovered", f64::from(u8::from(state.leader.is_some())));
    agents(state, &mut set);
    resources(state, &mut set);
    tasks(state, &mut set);
    frameworks(state, moment.of_frameworks, &mut set);
    if moment.of_frameworks {
        counters.tell_of_frameworks(state, &mut set);
    }
    api_http::Host::read().metrics(&mut set);
    metrics
}

fn agents(state: &State, set: &mut impl FnMut(&str, f64)) {
    let (mut active, mut connected, mut disconnected, mut unreachable) = (0, 0, 0, 0);
    for agent in state.agents.live.values().filter(|agent| !state.is_recovered(agent)) {
        match agent.liveness {
            AgentLiveness::Connected { .. } => connected += 1,
            AgentLiveness::Disconnected { .. } => disconnected += 1,
            AgentLiveness::Unreachable { .. } => unreachable += 1,
        }
        active += i32::from(parts::is_active(agent));
    }
    set("master/meseta/agents_recovered", parts::recovered(state).count() as f64);
    set("master/slaves_active", f64::from(active));
    set("master/slaves_inactive", f64::from(connected + disconnected - active));
    set("master/slaves_connected", f64::from(connected));
    set("master/slaves_disconnected", f64::from(disconnected));
    set("master/slaves_unreachable", f64::from(unreachable));
}

fn resources(state: &State, set: &mut impl FnMut(&str, f64)) {
    let (mut total, mut used) = (Quantities::default(), Quantities::default());
    let (mut total_revocable, mut used_revocable) = (Quantities::default(), Quantities::default());
    for agent in parts::registered(state) {
        amounts::tally(&mut total, &agent.total, amounts::is_firm);
        amounts::tally(&mut used, &agent.used, amounts::is_firm);
        let everything = state.everything_of(agent);
        amounts::tally(&mut total_revocable, &everything, |resource| !amounts::is_firm(resource));
        amounts::tally(&mut used_revocable, &agent.used, |resource| !amounts::is_firm(resource));
    }
    let of = |quantities: &Quantities, name: &str| quantities.get(name).copied().unwrap_or(0);
    let share = |used: i64, total: i64| if total == 0 { 0.0 } else { used as f64 / total as f64 };
    for name in ["cpus", "gpus", "mem", "disk"] {
        for (kind, total, used) in [("", &total, &used), ("_revocable", &total_revocable, &used_revocable)] {
            let (total, used) = (of(total, name), of(used, name));
            set(&format!("master/{name}{kind}_total"), amounts::units(total));
            set(&format!("master/{name}{kind}_used"), amounts::units(used));
            set(&format!("master/{name}{kind}_percent"), share(used, total));
        }
    }
}

/// By kind and state, and all kinds together. What has ended was counted; the rest is in State, and so is what nobody can
/// acknowledge for now.
fn operations(state: &State, metrics: &mut Metrics) {
    let mut now: BTreeMap<(OperationType, v1::OperationState), u64> = BTreeMap::new();
    let is_away = |operation: &Operation| state.agents.get(operation.agent).is_some_and(|agent| agent.is_unreachable());
    for operation in state.operations.live.values() {
        let here = match state.agents.get(operation.agent) {
            _ if !operation.is_pending() && !is_away(operation) => continue,
            Some(agent) if agent.is_unreachable() => OperationState::OperationUnreachable,
            Some(agent) if state.is_recovered(agent) => OperationState::OperationRecovering,
            _ => OperationState::OperationPending,
        };
        *now.entry((view::kind_of(operation), here)).or_default() += 1;
    }
    let mut add = |name: String, count: f64| *metrics.entry(name).or_insert(0.0) += count;
    add("master/operations/total".to_owned(), 0.0);
    for kind in OPERATIONS {
        let path = format!("master/operations/{}", kind.as_str_name().to_ascii_lowercase());
        for state in OPERATION_STATES {
            let (name, count) = (state_name(state), now.get(&(kind, state)).copied().unwrap_or(0) as f64);
            add(format!("master/operations/{name}"), count);
            add(format!("{path}/{name}"), count);
        }
    }
    for kind in OPERATIONS {
        let path = format!("master/operations/{}", kind.as_str_name().to_ascii_lowercase());
        let of = |state| metrics.get(&format!("{path}/{}", state_name(state))).copied().unwrap_or(0.0);
        let total: f64 = OPERATION_STATES.into_iter().map(of).sum();
        metrics.insert(format!("{path}/total"), total);
        *metrics.entry("master/operations/total".to_owned()).or_insert(0.0) += total;
    }
}

/// `OPERATION_FINISHED` as metrics have it.
fn state_name(state: v1::OperationState) -> String {
    state.as_str_name().trim_start_matches("OPERATION_").to_ascii_lowercase()
}

fn tasks(state: &State, set: &mut impl FnMut(&str, f64)) {
    let mut counts = [0_u64; ACTIVE.len()];
    for task in state.tasks.live.values() {
        if let Some(at) = ACTIVE.iter().position(|(state, _)| *state as i32 == task.state) {
            counts[at] += 1;
        }
    }
    ACTIVE.iter().zip(counts).for_each(|((_, name), count)| set(&format!("master/tasks_{name}"), count as f64));
}

fn frameworks(state: &State, each: bool, set: &mut impl FnMut(&str, f64)) {
    let connected = state.frameworks.live.values().filter(|framework| framework.stream.is_some()).count();
    let disconnected = state.frameworks.live.len() - connected;
    for (name, count) in
        [("active", connected), ("connected", connected), ("disconnected", disconnected), ("inactive", disconnected)]
    {
        set(&format!("master/frameworks_{name}"), count as f64);
    }
    for framework in state.frameworks.live.values().filter(|_| each) {
        let info = v1::FrameworkInfo::decode(&framework.info[..]).unwrap_or_default();
        let prefix = prefix(&info.name, &framework.id);
        set(&format!("{prefix}/subscribed"), f64::from(u8::from(framework.stream.is_some())));
        for (role, of_role) in &framework.roles {
            set(&format!("{prefix}/roles/{role}/suppressed"), f64::from(u8::from(of_role.suppressed)));
        }
        let mut counts = [0_u64; ACTIVE.len()];
        for task in parts::live_tasks(state, framework.key) {
            if let Some(at) = ACTIVE.iter().position(|(state, _)| *state as i32 == task.state) {
                counts[at] += 1;
            }
        }
        for ((_, name), count) in ACTIVE.iter().zip(counts) {
            set(&format!("{prefix}/tasks/active/task_{name}"), count as f64);
        }
    }
}

/// What the figures of a framework begin with.
fn prefix(name: &str, id: &str) -> String {
    format!("master/frameworks/{}/{id}", encoded(name))
}

/// A framework's name as a part of a path.
fn encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Kinds of operations that metrics know.
const OPERATIONS: [OperationType; 8] = [
    OperationType::Create,
    OperationType::CreateDisk,
    OperationType::Destroy,
    OperationType::DestroyDisk,
    OperationType::GrowVolume,
    OperationType::Reserve,
    OperationType::ShrinkVolume,
    OperationType::Unreserve,
];

/// States of operations that metrics know.
const OPERATION_STATES: [v1::OperationState; 8] = [
    v1::OperationState::OperationDropped,
    v1::OperationState::OperationError,
    v1::OperationState::OperationFailed,
    v1::OperationState::OperationFinished,
    v1::OperationState::OperationGoneByOperator,
    v1::OperationState::OperationPending,
    v1::OperationState::OperationRecovering,
    v1::OperationState::OperationUnreachable,
];

/// States that are an end, counted when they are reached.
const ENDS: [v1::TaskState; 8] = [
    v1::TaskState::TaskFinished,
    v1::TaskState::TaskFailed,
    v1::TaskState::TaskKilled,
    v1::TaskState::TaskLost,
    v1::TaskState::TaskError,
    v1::TaskState::TaskDropped,
    v1::TaskState::TaskGone,
    v1::TaskState::TaskGoneByOperator,
];

/// States that a task can be in, with the names that metrics have for them.
const ACTIVE: [(v1::TaskState, &str); 5] = [
    (v1::TaskState::TaskStaging, "staging"),
    (v1::TaskState::TaskStarting, "starting"),
    (v1::TaskState::TaskRunning, "running"),
    (v1::TaskState::TaskKilling, "killing"),
    (v1::TaskState::TaskUnreachable, "unreachable"),
];

/// Leaves out what names a framework, a principal or a role that is not seen.
pub fn hide(metrics: &mut Metrics, state: &State, sight: &Sight) {
    let seen = master_core::seen::seen(state, sight);
    let is_seen = |key: &FrameworkKey| seen.frameworks.live.contains_key(key);
    let hidden = state.frameworks.live.iter().filter(|(key, _)| !is_seen(key));
    let ids: Vec<String> = hidden.map(|(_, framework)| format!("/{}/", framework.id)).collect();
    let principals: BTreeSet<&str> =
        seen.frameworks.live.values().filter_map(|framework| framework.principal.as_deref()).collect();
    let roles = master_core::roles::known(state, None);
    let roles = roles.keys().filter(|role| !sight.roles.passes(Some(role)));
    let roles: Vec<String> = roles.map(|role| format!("/roles/{role}/")).collect();
    metrics.retain(|name, _| {
        let principal = name.strip_prefix("frameworks/").and_then(|rest| rest.rsplit_once('/'));
        principal.is_none_or(|(principal, _)| principals.contains(principal))
            && !ids.iter().any(|id| name.contains(id.as_str()))
            && !roles.iter().any(|role| name.contains(role.as_str()))
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_says_what_there_is() {
        expect_test::expect_file!["../../../../docs/metrics.md"].assert_eq(&api_http::metrics::page());
    }
}
