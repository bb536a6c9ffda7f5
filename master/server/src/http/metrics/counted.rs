//! What this process counted since it started, by Mesos's names. Calls and messages are counted by the master that decides
//! them, events on a stream by the master that holds it, and what happened by every master.

use super::{ENDS, Metrics, OPERATIONS, prefix, state_name};
use crate::samples::Samples;
use api::internal::{FromAgent, from_agent};
use api::v1;
use api::v1::offer::operation::Type as OperationType;
use api::v1::scheduler::{Call, call, event};
use master_core::command::Command;
use master_core::effect::Announcement;
use master_core::event::{OffersAccepted, OffersDeclined, OffersReturned};
use master_core::ids::FrameworkKey;
use master_core::{Event, State};
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often this master saw a leadership begin since it started.
pub const LEADERS: &str = "master/meseta/leader_changes";

/// What this process counted since it started.
#[derive(Debug, Default)]
pub struct Counters {
    counts: Mutex<BTreeMap<String, u64>>,
    of_frameworks: Mutex<BTreeMap<FrameworkKey, BTreeMap<Of, u64>>>,
    /// From the decision of a record to its commit, of records of this master.
    commits: Mutex<Samples>,
}

/// What is counted of a framework, by the number that the wire has for its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Call(i32),
    Event(i32),
    Operation(i32),
    Ended(i32),
    OffersSent,
    OffersAccepted,
    OffersDeclined,
    OffersRescinded,
}

impl Counters {
    /// Adds one to `name`.
    pub fn count(&self, name: &str) {
        self.add(name, 1);
    }

    fn add(&self, name: &str, more: u64) {
        let mut counts = self.counts.lock();
        match counts.get_mut(name) {
            Some(count) => *count += more,
            None => {
                counts.insert(name.to_owned(), more);
            }
        }
    }

    fn add_of(&self, framework: FrameworkKey, what: Of, more: u64) {
        *self.of_frameworks.lock().entry(framework).or_default().entry(what).or_default() += more;
    }

    /// A record was committed so long after it was decided.
    pub fn count_commit(&self, took: Duration) {
        self.commits.lock().push(Instant::now(), took);
    }

    /// An event went out on a framework's stream.
    pub(crate) fn count_told(&self, framework: FrameworkKey, event: &v1::scheduler::Event) {
        self.add_of(framework, Of::Event(event.r#type.unwrap_or_default()), 1);
    }

    /// A command was decided on `state`: with these events, or refused.
    pub(crate) fn count_command(&self, state: &State, command: &Command, decided: Option<&[Event]>) {
        match command {
            Command::Subscribe { framework_id, .. } => {
                let is_known = framework_id.as_ref().is_some_and(|id| !id.is_empty());
                self.count(if is_known {
                    "master/messages_reregister_framework"
                } else {
                    "master/messages_register_framework"
                });
                let known = framework_id.as_ref().and_then(|id| state.frameworks.by_id(id)).map(|known| known.key);
                let new = || {
                    decided.iter().copied().flatten().find_map(|event| match event {
                        Event::FrameworkSubscribed(event) => Some(event.framework),
                        _ => None,
                    })
                };
                if let Some(framework) = known.or_else(new) {
                    self.add_of(framework, Of::Call(call::Type::Subscribe as i32), 1);
                }
            }
            Command::FrameworkCall { call, .. } => self.count_call(state, call, decided),
            Command::RegisterAgent { .. } => {
                self.count("master/messages_register_slave");
                self.count_removed(decided, "master/slave_removals/reason_registered");
            }
            Command::ResumeAgent { .. } => {
                self.count("master/messages_reregister_slave");
                if decided.is_some() {
                    self.count("master/slave_reregistrations");
                }
            }
            Command::AgentMessages { messages, .. } => {
                messages.iter().for_each(|message| self.count_message(message, decided.is_some()));
                self.count_removed(decided, "master/slave_removals/reason_unregistered");
            }
            _ => {}
        }
    }

    fn count_removed(&self, decided: Option<&[Event]>, name: &str) {
        let removed = decided.iter().copied().flatten().filter(|event| matches!(event, Event::AgentRemoved(_)));
        removed.for_each(|_| self.count(name));
    }

    fn count_call(&self, state: &State, call: &Call, decided: Option<&[Event]>) {
        use call::Type;
        let is_done = decided.is_some();
        let speaker =
            call.framework_id.as_ref().and_then(|id| state.frameworks.by_id(&id.value)).map(|known| known.key);
        if let Some(framework) = speaker {
            self.add_of(framework, Of::Call(call.r#type.unwrap_or_default()), 1);
        }
        let what = match call.r#type() {
            Type::Accept => {
                let operations = call.accept.iter().flat_map(|accept| &accept.operations);
                let kinds: Vec<OperationType> = operations.map(v1::offer::Operation::r#type).collect();
                if let Some(framework) = speaker.filter(|_| is_done) {
                    kinds.iter().for_each(|kind| self.add_of(framework, Of::Operation(*kind as i32), 1));
                }
                let launches =
                    kinds.iter().any(|kind| matches!(kind, OperationType::Launch | OperationType::LaunchGroup));
                match (launches, kinds.is_empty()) {
                    (true, _) => "launch_tasks",
                    (false, true) => "decline_offers",
                    (false, false) => return,
                }
            }
            Type::Teardown => "unregister_framework",
            Type::Decline => "decline_offers",
            Type::Revive => "revive_offers",
            Type::Suppress => "suppress_offers",
            Type::Kill => "kill_task",
            Type::Acknowledge => {
                self.count_valid(is_done, "status_update_acknowledgements");
                "status_update_acknowledgement"
            }
            Type::AcknowledgeOperationStatus => {
                // What acknowledges nothing is ignored.
                let is_valid = decided.is_some_and(|events| !events.is_empty());
                self.count_valid(is_valid, "operation_status_update_acknowledgements");
                "operation_status_update_acknowledgement"
            }
            Type::Reconcile => "reconcile_tasks",
            Type::ReconcileOperations => "reconcile_operations",
            Type::Message => {
                self.count_valid(is_done, "framework_to_executor_messages");
                "framework_to_executor"
            }
            Type::Request => "resource_request",
            Type::Unknown
            | Type::Subscribe
            | Type::Shutdown
            | Type::AcceptInverseOffers
            | Type::DeclineInverseOffers
            | Type::UpdateFramework => return,
        };
        self.count(&format!("master/messages_{what}"));
    }

    fn count_message(&self, message: &FromAgent, is_done: bool) {
        use from_agent::Message as Said;
        let what = match &message.message {
            Some(Said::StatusUpdate(_)) => {
                self.count_valid(is_done, "status_updates");
                "status_update"
            }
            Some(Said::ExecutorMessage(_)) => {
                self.count_valid(is_done, "executor_to_framework_messages");
                "executor_to_framework"
            }
            Some(Said::ExecutorExited(_)) => "exited_executor",
            Some(Said::Leaving(_)) => "unregister_slave",
            Some(Said::OperationStatus(_)) => {
                self.count_valid(is_done, "operation_status_updates");
                "operation_status_update"
            }
            Some(Said::Oversubscribed(_) | Said::Providers(_)) => "update_slave",
            Some(
                Said::Register(_)
                | Said::Resume(_)
                | Said::OrdersAcknowledged(_)
                | Said::ExecutorLaunched(_)
                | Said::NextIdentity(_)
                | Said::OperationsKept(_)
                | Said::Pong(_),
            )
            | None => return,
        };
        self.count(&format!("master/messages_{what}"));
    }

    fn count_valid(&self, is_valid: bool, what: &str) {
        self.count(&format!("master/{}_{what}", if is_valid { "valid" } else { "invalid" }));
    }

    /// An event was committed; `state` is after it.
    pub(crate) fn count_event(&self, state: &State, event: &Event) {
        match event {
            Event::LeaderElected(_) => self.count(LEADERS),
            Event::AgentRegistered(_) => self.count("master/slave_registrations"),
            Event::AgentUnreachable(event) => {
                for name in ["slave_unreachable_scheduled", "slave_unreachable_completed"] {
                    self.count(&format!("master/{name}"));
                    self.count(&format!("master/{}", name.replace("unreachable", "shutdowns")));
                }
                self.count("master/slave_removals");
                self.count("master/slave_removals/reason_unhealthy");
                let led_since_ms = state.leader.as_ref().map_or(0, |leader| leader.since_ms);
                let agent = state.agents.get(event.agent);
                if agent.is_some_and(|agent| agent.reregistered_ms.unwrap_or(agent.registered_ms) < led_since_ms) {
                    self.count("master/recovery_slave_removals");
                }
            }
            Event::LaunchRefused(event) => {
                let state = v1::TaskState::try_from(event.state).unwrap_or(v1::TaskState::TaskError);
                let source = Some(v1::task_status::Source::Master as i32);
                let status = v1::TaskStatus { source, reason: Some(event.reason), ..Default::default() };
                self.count_ended(state, &status);
            }
            Event::OffersMade(event) => {
                for group in &event.groups {
                    self.add_of(group.framework, Of::OffersSent, group.offers.0.len() as u64);
                }
            }
            Event::OffersAccepted(OffersAccepted { framework, offers, .. }) => {
                self.add_of(*framework, Of::OffersAccepted, offers.iter().count() as u64);
            }
            Event::OffersDeclined(OffersDeclined { framework, offers, .. }) => {
                self.add_of(*framework, Of::OffersDeclined, offers.iter().count() as u64);
            }
            Event::OffersReturned(OffersReturned { framework, offers, why }) if why.is_rescind() => {
                self.add_of(*framework, Of::OffersRescinded, offers.iter().count() as u64);
            }
            _ => {}
        }
    }

    /// Counts what operators are told of.
    pub fn count_announcement(&self, announcement: &Announcement) {
        match announcement {
            Announcement::TaskUpdated { framework, state, status, .. } => {
                if ENDS.contains(state) {
                    self.add_of(*framework, Of::Ended(*state as i32), 1);
                    self.count_ended(*state, status);
                }
            }
            Announcement::AgentRemoved { .. } => self.count("master/slave_removals"),
            Announcement::OperationEnded { kind, state, .. } => self.count_operation(*kind, *state),
            // One that comes back is announced, too.
            Announcement::AgentAdded { .. }
            | Announcement::TaskAdded { .. }
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
        let state = state.as_str_name().trim_start_matches("TASK_").to_ascii_lowercase();
        self.count(&format!("master/tasks_{state}"));
        if status.source.is_some() && status.reason.is_some() {
            // The names are older than the word agent.
            let source = status.source().as_str_name().to_ascii_lowercase().replace("agent", "slave");
            let reason = status.reason().as_str_name().to_ascii_lowercase().replace("agent", "slave");
            self.count(&format!("master/task_{state}/{source}/{reason}"));
        }
    }

    /// Everything but what is of frameworks.
    pub(super) fn tell(&self, metrics: &mut Metrics) {
        metrics.extend(FIRST.iter().map(|name| ((*name).to_owned(), 0.0)));
        metrics.extend(self.counts.lock().iter().map(|(name, count)| (name.clone(), *count as f64)));
        self.commits.lock().tell("registrar/state_store_ms", metrics);
    }

    /// What is of frameworks, of those that are not over.
    pub(super) fn tell_of_frameworks(&self, state: &State, set: &mut impl FnMut(&str, f64)) {
        let mut all = self.of_frameworks.lock();
        all.retain(|framework, _| state.frameworks.get(*framework).is_some());
        for framework in state.frameworks.live.values() {
            let info = v1::FrameworkInfo::decode(&framework.info[..]).unwrap_or_default();
            let prefix = prefix(&info.name, &framework.id);
            let counts = all.get(&framework.key);
            let of = |what: Of| counts.and_then(|counts| counts.get(&what)).copied().unwrap_or(0) as f64;
            let lower = |name: &str| name.to_ascii_lowercase();
            let mut group = |what: &str, kinds: &mut dyn Iterator<Item = (&'static str, Of)>| {
                let mut sum = 0.0;
                for (name, kind) in kinds {
                    sum += of(kind);
                    set(&format!("{prefix}/{what}/{}", lower(name)), of(kind));
                }
                set(&format!("{prefix}/{what}"), sum);
            };
            let calls = (1..64).filter_map(|number| call::Type::try_from(number).ok());
            group("calls", &mut calls.map(|kind| (kind.as_str_name(), Of::Call(kind as i32))));
            let events = (1..64).filter_map(|number| event::Type::try_from(number).ok());
            group("events", &mut events.map(|kind| (kind.as_str_name(), Of::Event(kind as i32))));
            let operations = OPERATIONS.into_iter().chain([OperationType::Launch, OperationType::LaunchGroup]);
            group("operations", &mut operations.map(|kind| (kind.as_str_name(), Of::Operation(kind as i32))));
            for (name, what) in [
                ("sent", Of::OffersSent),
                ("accepted", Of::OffersAccepted),
                ("declined", Of::OffersDeclined),
                ("rescinded", Of::OffersRescinded),
            ] {
                set(&format!("{prefix}/offers/{name}"), of(what));
            }
            for ended in ENDS {
                set(&format!("{prefix}/tasks/terminal/{}", lower(ended.as_str_name())), of(Of::Ended(ended as i32)));
            }
        }
    }
}

/// Counters that are there before anything was counted. What never happens here is told too: monitoring that asks for it
/// finds that out.
const FIRST: &[&str] = &[
    crate::crashes::CRASHED,
    crate::crashes::SET_ASIDE,
    LEADERS,
    "master/dropped_messages",
    "master/event_queue_http_requests",
    "master/event_queue_messages",
    "master/invalid_executor_to_framework_messages",
    "master/invalid_framework_to_executor_messages",
    "master/invalid_operation_status_update_acknowledgements",
    "master/invalid_operation_status_updates",
    "master/invalid_status_update_acknowledgements",
    "master/invalid_status_updates",
    "master/messages_authenticate",
    "master/messages_deactivate_framework",
    "master/messages_decline_offers",
    "master/messages_executor_to_framework",
    "master/messages_exited_executor",
    "master/messages_framework_to_executor",
    "master/messages_kill_task",
    "master/messages_launch_tasks",
    "master/messages_operation_status_update",
    "master/messages_operation_status_update_acknowledgement",
    "master/messages_reconcile_operations",
    "master/messages_reconcile_tasks",
    "master/messages_register_framework",
    "master/messages_register_slave",
    "master/messages_reregister_framework",
    "master/messages_reregister_slave",
    "master/messages_resource_request",
    "master/messages_revive_offers",
    "master/messages_status_update",
    "master/messages_status_update_acknowledgement",
    "master/messages_suppress_offers",
    "master/messages_unregister_framework",
    "master/messages_unregister_slave",
    "master/messages_update_slave",
    "master/recovery_slave_removals",
    "master/slave_registrations",
    "master/slave_removals",
    "master/slave_removals/reason_registered",
    "master/slave_removals/reason_unhealthy",
    "master/slave_removals/reason_unregistered",
    "master/slave_reregistrations",
    "master/slave_shutdowns_canceled",
    "master/slave_shutdowns_completed",
    "master/slave_shutdowns_scheduled",
    "master/slave_unreachable_canceled",
    "master/slave_unreachable_completed",
    "master/slave_unreachable_scheduled",
    "master/tasks_dropped",
    "master/tasks_error",
    "master/tasks_failed",
    "master/tasks_finished",
    "master/tasks_gone",
    "master/tasks_gone_by_operator",
    "master/tasks_killed",
    "master/tasks_lost",
    "master/valid_executor_to_framework_messages",
    "master/valid_framework_to_executor_messages",
    "master/valid_operation_status_update_acknowledgements",
    "master/valid_operation_status_updates",
    "master/valid_status_update_acknowledgements",
    "master/valid_status_updates",
];
