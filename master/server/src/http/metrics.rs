//! What is counted and measured, by Mesos's names: `/metrics/snapshot` and GET_METRICS. Gauges come from State, so
//! every master tells the same; counters count what this process saw since it started. A name for which we have no
//! honest value is left out.

use crate::http::legacy::amounts::{self, Quantities};
use crate::http::legacy::json::Json;
use crate::http::legacy::parts;
use api::v1;
use api::v1::OperationState;
use api::v1::offer::operation::Type as OperationType;
use auth::Sight;
use master_core::effect::Announcement;
use master_core::ids::FrameworkKey;
use master_core::state::{AgentLiveness, State};
use master_core::view;
use parking_lot::Mutex;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Names with their values, in the order of names.
pub type Metrics = BTreeMap<String, f64>;

/// What this process counted since it started.
#[derive(Debug, Default)]
pub struct Counters {
    counts: Mutex<BTreeMap<String, u64>>,
    /// Operations of the ACCEPT calls that came to this master, by the framework's id and their type.
    accepted: Mutex<BTreeMap<String, BTreeMap<OperationType, u64>>>,
}

impl Counters {
    /// Adds one to `name`.
    pub fn count(&self, name: &str) {
        let mut counts = self.counts.lock();
        match counts.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                counts.insert(name.to_owned(), 1);
            }
        }
    }

    /// Counts the operations of an ACCEPT call that was taken.
    pub fn count_accepted(&self, framework_id: &str, operations: &[OperationType]) {
        if operations.is_empty() {
            return;
        }
        let mut accepted = self.accepted.lock();
        let counts = accepted.entry(framework_id.to_owned()).or_default();
        operations.iter().for_each(|operation| *counts.entry(*operation).or_default() += 1);
    }

    /// Operations by framework, of those that are not over.
    fn of_frameworks(&self, state: &State, set: &mut impl FnMut(&str, f64)) {
        let mut accepted = self.accepted.lock();
        accepted.retain(|id, _| state.frameworks.by_id(id).is_some());
        for framework in state.frameworks.live.values() {
            let info = v1::FrameworkInfo::decode(&framework.info[..]).unwrap_or_default();
            let prefix = format!("{}/operations", prefix(&info.name, &framework.id));
            let counts = accepted.get(&*framework.id);
            let of = |kind| counts.and_then(|counts| counts.get(&kind)).copied().unwrap_or(0);
            set(&prefix, counts.map_or(0, |counts| counts.values().sum()) as f64);
            for kind in OPERATIONS.into_iter().chain([OperationType::Launch, OperationType::LaunchGroup]) {
                set(&format!("{prefix}/{}", kind.as_str_name().to_ascii_lowercase()), of(kind) as f64);
            }
        }
    }

    /// Counts what operators are told of.
    pub fn count_announcement(&self, announcement: &Announcement) {
        match announcement {
            Announcement::TaskUpdated { state, status, .. } => self.count_ended(*state, status),
            Announcement::AgentAdded { .. } => self.count("master/slave_registrations"),
            Announcement::AgentRemoved { .. } => self.count("master/slave_removals"),
            Announcement::OperationEnded { kind, state, .. } => self.count_operation(*kind, *state),
            Announcement::TaskAdded { .. }
            | Announcement::FrameworkAdded { .. }
            | Announcement::FrameworkUpdated { .. }
            | Announcement::FrameworkRemoved { .. } => (),
        }
    }

    fn count_operation(&self, kind: OperationType, state: v1::OperationState) {
        let state = state_name(state);
        self.count(&format!("master/operations/{state}"));
        self.count(&format!("master/operations/{}/{state}", kind.as_str_name().to_ascii_lowercase()));
    }

    fn count_ended(&self, state: v1::TaskState, status: &v1::TaskStatus) {
        if !ENDS.contains(&state) {
            return;
        }
        let state = state.as_str_name().trim_start_matches("TASK_").to_ascii_lowercase();
        self.count(&format!("master/tasks_{state}"));
        if status.source.is_some() && status.reason.is_some() {
            // The names are older than the word agent.
            let source = status.source().as_str_name().to_ascii_lowercase().replace("agent", "slave");
            let reason = status.reason().as_str_name().to_ascii_lowercase().replace("agent", "slave");
            self.count(&format!("master/task_{state}/{source}/{reason}"));
        }
    }
}

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
    for name in COUNTERS {
        metrics.insert((*name).into(), 0.0);
    }
    for (name, count) in &*counters.counts.lock() {
        metrics.insert(name.clone(), *count as f64);
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
        counters.of_frameworks(state, &mut set);
    }
    api_http::Host::read().metrics(&mut set);
    metrics
}

fn agents(state: &State, set: &mut impl FnMut(&str, f64)) {
    let (mut active, mut connected, mut disconnected, mut unreachable) = (0, 0, 0, 0);
    for agent in state.agents.live.values() {
        match agent.liveness {
            AgentLiveness::Connected { .. } => connected += 1,
            AgentLiveness::Disconnected { .. } => disconnected += 1,
            AgentLiveness::Unreachable { .. } => unreachable += 1,
        }
        active += i32::from(parts::is_active(agent));
    }
    set("master/slaves_active", f64::from(active));
    set("master/slaves_inactive", f64::from(connected + disconnected - active));
    set("master/slaves_connected", f64::from(connected));
    set("master/slaves_disconnected", f64::from(disconnected));
    set("master/slaves_unreachable", f64::from(unreachable));
}

fn resources(state: &State, set: &mut impl FnMut(&str, f64)) {
    let (mut total, mut used) = (Quantities::default(), Quantities::default());
    let (mut total_revocable, mut used_revocable) = (Quantities::default(), Quantities::default());
    for agent in state.agents.live.values().filter(|agent| parts::is_registered(agent)) {
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

/// By kind and state, and all kinds together. What has ended was counted; the rest is in State.
fn operations(state: &State, metrics: &mut Metrics) {
    let mut now: BTreeMap<(OperationType, v1::OperationState), u64> = BTreeMap::new();
    for operation in state.operations.live.values().filter(|operation| operation.is_pending()) {
        let here = match state.agents.get(operation.agent) {
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

/// Counters that are there before anything was counted.
const COUNTERS: &[&str] = &[
    crate::crashes::CRASHED,
    crate::crashes::SET_ASIDE,
    "master/slave_registrations",
    "master/slave_removals",
    "master/tasks_dropped",
    "master/tasks_error",
    "master/tasks_failed",
    "master/tasks_finished",
    "master/tasks_gone",
    "master/tasks_gone_by_operator",
    "master/tasks_killed",
    "master/tasks_lost",
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
