//! What the world must be told of each event. Every master computes the same effects; the one that holds a connection
//! carries out what concerns it.

use crate::effect::{Announcement, Effect};
use crate::event::*;
use crate::ids::{AgentKey, FrameworkKey, OfferKey, TaskKey};
use crate::state::State;
use crate::status;
use crate::view;
use api::v1;
use api::v1::task_status::Reason;
use prost::Message;

/// Whether an event gives the leader's allocator a reason to run before its next interval.
pub fn asks_for_offers(event: &Event) -> bool {
    matches!(
        event,
        Event::FrameworkSubscribed(_)
            | Event::FrameworkResubscribed(_)
            | Event::FrameworkUpdated(_)
            | Event::AgentRegistered(_)
            | Event::AgentResumed(_)
            | Event::AgentReturned(_)
            | Event::AgentReactivated(_)
            | Event::AgentOversubscribed(_)
            | Event::AgentProvidersChanged(_)
            | Event::OperationEnded(_)
            | Event::RolesRevived(_)
            | Event::OfferConstraintsSet(_)
            | Event::MaintenanceScheduled(_)
            | Event::BrakeReleased(_)
    )
}

/// The effects of an event. `state` is as it was after the event, or after its whole record.
pub fn react(state: &State, event: &Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    match event {
        Event::ClusterCreated(_)
        | Event::LeaderElected(_)
        | Event::MasterStarted(_)
        | Event::MasterLost(_)
        | Event::FeatureLevelRaised(_)
        | Event::StateDigested(_)
        | Event::HistoryBounded(_)
        | Event::FiltersForgotten(_)
        | Event::AgentReturning(_)
        | Event::AgentReturned(_)
        | Event::AgentReactivated(_)
        | Event::OfferConstraintsSet(_)
        | Event::RolesSuppressed(_)
        | Event::RolesRevived(_)
        | Event::QuotasSet(_)
        | Event::WeightsSet(_)
        | Event::OrdersAcknowledged(_)
        | Event::AgentDeactivated(_) => {}

        Event::FrameworkSubscribed(FrameworkSubscribed { framework, connection, .. }) => {
            effects.push(Effect::OpenStream { framework: *framework, connection: *connection });
            effects.push(Effect::Announce(Announcement::FrameworkAdded { framework: *framework }));
        }
        Event::FrameworkResubscribed(FrameworkResubscribed { framework, connection, replaced, .. }) => {
            if let Some(replaced) = replaced {
                let error = Some("Framework failed over".to_owned());
                effects.push(Effect::CloseStream { framework: *framework, connection: *replaced, error });
            }
            effects.push(Effect::OpenStream { framework: *framework, connection: *connection });
            effects.push(Effect::Announce(Announcement::FrameworkUpdated { framework: *framework }));
        }
        Event::FrameworkDisconnected(FrameworkDisconnected { framework, connection, .. }) => {
            // The stream may still be there: its master was given up, or the client does not read.
            effects.push(Effect::CloseStream { framework: *framework, connection: *connection, error: None });
            effects.push(Effect::Announce(Announcement::FrameworkUpdated { framework: *framework }));
        }
        Event::FrameworkUpdated(FrameworkUpdated { framework, .. }) => {
            effects.push(Effect::Announce(Announcement::FrameworkUpdated { framework: *framework }));
        }
        Event::FrameworkEnding(FrameworkEnding { framework, connection, .. }) => {
            if let Some(connection) = connection {
                effects.push(Effect::CloseStream { framework: *framework, connection: *connection, error: None });
            }
            effects.push(Effect::Announce(Announcement::FrameworkUpdated { framework: *framework }));
        }
        Event::FrameworkRemoved(FrameworkRemoved { framework, connection, .. }) => {
            if let Some(connection) = connection {
                effects.push(Effect::CloseStream { framework: *framework, connection: *connection, error: None });
            }
            let mut completed = state.frameworks.completed.values().rev();
            let info = completed
                .find(|completed| completed.framework.key == *framework)
                .and_then(|completed| v1::FrameworkInfo::decode(completed.framework.info.clone()).ok());
            if let Some(info) = info {
                effects.push(Effect::Announce(Announcement::FrameworkRemoved { info: Box::new(info) }));
            }
        }

        Event::AgentRegistered(AgentRegistered { agent, connection, .. }) => {
            effects.push(Effect::OpenAgent { agent: *agent, connection: *connection });
            effects.push(Effect::Announce(Announcement::AgentAdded { agent: *agent }));
        }
        Event::AgentResumed(event) => {
            let agent = event.agent;
            if let Some(connection) = event.replaced.filter(|replaced| *replaced != event.connection.id) {
                effects.push(Effect::CloseAgent { agent, connection });
            }
            effects.push(Effect::OpenAgent { agent, connection: event.connection });
            // Among the registered ones again. Who kept its connection, or changed it, was there all along.
            let was_away =
                event.replaced.is_none() && state.agents.get(agent).is_some_and(|it| state.may_have_been_recovered(it));
            if event.was_unreachable || was_away {
                effects.push(Effect::Announce(Announcement::AgentAdded { agent }));
            }
        }
        Event::AgentDisconnected(AgentDisconnected { agent, connection, .. }) => {
            effects.push(Effect::CloseAgent { agent: *agent, connection: *connection });
        }
        Event::AgentUnreachable(AgentUnreachable { agent }) => {
            for operation in state.operations.on(*agent) {
                let (Some(framework), Some(id)) = (operation.framework, &operation.id) else { continue };
                let status = v1::OperationStatus {
                    agent_id: Some(v1::AgentId { value: view::agent_id(state, *agent) }),
                    state: v1::OperationState::OperationUnreachable as i32,
                    ..view::operation_error(id, "Agent was marked unreachable")
                };
                tell_operation(state, framework, status, &mut effects);
            }
            fail_everyone(state, *agent, &mut effects);
        }
        Event::AgentRemoved(AgentRemoved { agent, connection, .. }) => {
            if let Some(connection) = connection {
                effects.push(Effect::CloseAgent { agent: *agent, connection: *connection });
            }
            fail_everyone(state, *agent, &mut effects);
            effects.push(Effect::Announce(Announcement::AgentRemoved { agent: *agent }));
        }
        Event::AgentEnding(AgentEnding { agent, connection, .. }) => {
            if let Some(connection) = connection {
                effects.push(Effect::CloseAgent { agent: *agent, connection: *connection });
            }
        }
        Event::AgentMessagesReceived(AgentMessagesReceived { agent, up_to }) => {
            effects.push(Effect::SendReceived { agent: *agent, up_to: *up_to });
        }
        Event::ExecutorExited(event) => {
            let (framework, agent) = (event.framework, event.agent);
            let executor_id = Some(event.executor_id.clone());
            if is_connected(state, framework) {
                effects.push(Effect::SendFailure { framework, agent, executor_id, status: event.status });
            }
        }

        Event::OffersMade(event) => {
            let mut key = event.first.0;
            for group in &event.groups {
                let count = group.offers.0.len() as u64;
                let offers = (key..key + count).map(OfferKey).collect();
                key += count;
                effects.push(Effect::SendOffers { framework: group.framework, offers });
            }
        }
        // Nobody is told: the framework did it itself, and what it gave back waits for the next plan.
        Event::OffersDeclined(_) | Event::OffersAccepted(_) => {}
        Event::OffersReturned(OffersReturned { framework, offers, why }) => {
            if why.is_rescind() {
                let framework = *framework;
                effects.extend(offers.iter().map(|offer| Effect::SendRescind { framework, offer }));
            }
        }

        Event::TaskLaunched(TaskLaunched { task, agent, .. }) => {
            effects.push(Effect::OrdersWaiting { agent: *agent });
            effects.push(task_added(task));
        }
        Event::TaskGroupLaunched(event) => {
            effects.push(Effect::OrdersWaiting { agent: event.agent });
            effects.extend(event.tasks.iter().map(|task| task_added(&(event.framework, task.task_id.clone()))));
        }
        Event::TaskUpdated(event) => {
            effects.push(Effect::SendReceived { agent: event.agent, up_to: event.seq });
            // Only the head of the queue is sent; what is behind it waits for an acknowledgement.
            if head_uuid(state, &event.task).is_none_or(|head| *head == event.uuid) {
                effects.push(update_waiting(&event.task));
            }
            announce(&event.task, event.state, event.brief.as_ref().unwrap_or(&event.status), &mut effects);
        }
        Event::UpdateAcknowledged(UpdateAcknowledged { task, .. }) => {
            if head_uuid(state, task).is_some() {
                effects.push(update_waiting(task));
            }
        }
        Event::TaskDeclared(event) => {
            if is_connected(state, event.task.0)
                && let Ok(status) = v1::TaskStatus::decode(event.status.clone())
            {
                effects.push(Effect::SendStatus { framework: event.task.0, status: Box::new(status) });
            }
            announce(&event.task, event.state, &event.status, &mut effects);
        }

        Event::LaunchRefused(LaunchRefused { task: (framework, task_id), agent_id, state: told, reason, why }) => {
            if is_connected(state, *framework)
                && let (Ok(told), Ok(reason)) = (v1::TaskState::try_from(*told), Reason::try_from(*reason))
            {
                let agent_id = Some(agent_id.to_string());
                let status = status::of_master(task_id, agent_id, told, reason, &**why, state.at_ms);
                effects.push(Effect::SendStatus { framework: *framework, status: Box::new(status) });
            }
        }
        Event::KillOrdered(KillOrdered { agent, .. })
        | Event::ExecutorShutdownOrdered(ExecutorShutdownOrdered { agent, .. })
        | Event::FrameworkShutdownOrdered(FrameworkShutdownOrdered { agent, .. })
        | Event::FrameworkUpdateOrdered(FrameworkUpdateOrdered { agent, .. }) => {
            effects.push(Effect::OrdersWaiting { agent: *agent });
        }

        // Operations on resources.
        Event::OperationApplied(OperationApplied { agent, .. })
        | Event::OperationBegun(OperationBegun { agent, .. }) => {
            effects.push(Effect::OrdersWaiting { agent: *agent });
        }
        Event::OperationUpdated(OperationUpdated { operation, agent, kind, seq, state: end, .. })
        | Event::OperationEnded(OperationEnded { operation, agent, kind, seq, state: end, .. }) => {
            effects.push(Effect::SendReceived { agent: *agent, up_to: *seq });
            let framework = state.operations.get(*operation).and_then(|operation| operation.framework);
            if let Some(framework) = framework {
                effects.push(Effect::OperationWaiting { framework, operation: *operation });
            }
            effects.push(ended(framework, *kind, *end));
        }
        Event::OperationAcknowledged(event) => {
            effects.push(Effect::SendOperationOver { agent: event.agent, operation: event.operation });
        }
        Event::OperationDeclared(event) => {
            let status = v1::OperationStatus {
                agent_id: Some(v1::AgentId { value: view::agent_id(state, event.agent) }),
                state: event.state,
                ..view::operation_error(&event.id, &event.why)
            };
            tell_operation(state, event.framework, status, &mut effects);
            effects.push(ended(Some(event.framework), event.kind, event.state));
        }
        Event::OperationRefused(event) => {
            if let Some(id) = &event.id {
                tell_operation(state, event.framework, view::operation_error(id, &event.why), &mut effects);
            }
            let state = v1::OperationState::OperationError as i32;
            effects.push(ended(Some(event.framework), event.kind, state));
        }

        // Drains, and what agents can spare.
        Event::AgentDrainStarted(AgentDrainStarted { agent, .. })
        | Event::AgentDrainOrdered(AgentDrainOrdered { agent })
        | Event::AgentDrainEnded(AgentDrainEnded { agent }) => {
            effects.push(Effect::OrdersWaiting { agent: *agent });
        }
        Event::AgentDrained(_) => {}
        Event::AgentOversubscribed(AgentOversubscribed { agent, seq, .. }) => {
            effects.push(Effect::SendReceived { agent: *agent, up_to: *seq });
        }

        // Resource providers.
        Event::AgentProvidersChanged(AgentProvidersChanged { agent, seq, .. }) => {
            effects.push(Effect::SendReceived { agent: *agent, up_to: *seq });
        }

        // Maintenance.
        Event::MaintenanceScheduled(_)
        | Event::MachinesDown(_)
        | Event::MachinesUp(_)
        | Event::InverseOffersAnswered(_) => {}
        Event::InverseOffersMade(event) => {
            let mut key = event.first.0;
            for group in &event.groups {
                let count = group.agents.len() as u64;
                let offers = (key..key + count).map(OfferKey).collect();
                key += count;
                effects.push(Effect::SendInverseOffers { framework: group.framework, offers });
            }
        }
        Event::InverseOffersReturned(InverseOffersReturned { framework, offers, why }) => {
            if why.is_rescind() {
                let framework = *framework;
                effects.extend(offers.iter().map(|offer| Effect::SendRescindInverse { framework, offer }));
            }
        }

        // Brakes.
        Event::BrakePulled(_) | Event::BrakeReleased(_) => {}

        // Who agents are.
        Event::AgentJoined(AgentJoined { agent, .. })
        | Event::AgentIdentityMoved(AgentIdentityMoved { agent, .. })
        | Event::AgentIdentityRotated(AgentIdentityRotated { agent, .. })
        | Event::AgentRotationWanted(AgentRotationWanted { agent, .. }) => {
            effects.push(Effect::SendIdentity { agent: *agent });
        }
        // Whoever is connected by a revoked one is disconnected by an event of the same record.
        Event::JoinTokenMinted(_)
        | Event::JoinTokenRevoked(_)
        | Event::JoinTokenForgotten(_)
        | Event::AgentIdentityRevoked(_)
        | Event::AgentBound(_)
        | Event::AgentIdentityForgotten(_) => {}
    }
    effects
}

fn is_connected(state: &State, framework: FrameworkKey) -> bool {
    state.frameworks.get(framework).is_some_and(|framework| framework.is_connected())
}

fn head_uuid<'a>(state: &'a State, task: &TaskKey) -> Option<&'a bytes::Bytes> {
    state.tasks.get(task)?.updates.front().map(|head| &head.uuid)
}

fn update_waiting((framework, task_id): &TaskKey) -> Effect {
    Effect::UpdateWaiting { framework: *framework, task_id: task_id.clone() }
}

fn task_added((framework, task_id): &TaskKey) -> Effect {
    Effect::Announce(Announcement::TaskAdded { framework: *framework, task_id: task_id.clone() })
}

fn announce((framework, task_id): &TaskKey, state: i32, status: &bytes::Bytes, effects: &mut Vec<Effect>) {
    let Ok(state) = v1::TaskState::try_from(state) else { return };
    let Ok(status) = v1::TaskStatus::decode(status.clone()) else { return };
    let (framework, task_id, status) = (*framework, task_id.clone(), Box::new(status));
    effects.push(Effect::Announce(Announcement::TaskUpdated { framework, task_id, state, status }));
}

fn tell_operation(state: &State, framework: FrameworkKey, status: v1::OperationStatus, effects: &mut Vec<Effect>) {
    if is_connected(state, framework) {
        effects.push(Effect::SendOperationStatus { framework, status: Box::new(status) });
    }
}

fn ended(framework: Option<FrameworkKey>, kind: i32, state: i32) -> Effect {
    let kind = v1::offer::operation::Type::try_from(kind).unwrap_or(v1::offer::operation::Type::Unknown);
    let state = v1::OperationState::try_from(state).unwrap_or(v1::OperationState::OperationUnsupported);
    Effect::Announce(Announcement::OperationEnded { framework, kind, state })
}

/// FAILURE of an agent, to every connected framework.
fn fail_everyone(state: &State, agent: AgentKey, effects: &mut Vec<Effect>) {
    for framework in state.frameworks.live.values().filter(|framework| framework.is_connected()) {
        let framework = framework.key;
        effects.push(Effect::SendFailure { framework, agent, executor_id: None, status: None });
    }
}
