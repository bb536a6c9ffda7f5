//! Who decides what: a table of contents.

use api::internal::order::Order as Wanted;

use api::limits::AGENT_OPERATIONS_MAX;

use crate::command::{Command, Refusal, Surroundings, Unreadable};
use crate::event::{Blob, Event};
use crate::state::{Clock, State, Why};
use crate::{checks, containers, drain, executors, kill, launch, limits, operations, providers, spare};

/// A clock that is less ahead was set right, and nothing more.
const AHEAD_MS_MIN: u64 = 1_000;

/// What happens because of `command`. Pure: looks at nothing but its arguments.
///
/// # Errors
/// A [`Refusal`] if it may not happen.
pub fn decide(state: &State, command: Command, around: &mut Surroundings<'_>) -> Result<Vec<Event>, Refusal> {
    match command {
        Command::ChooseToken { token } => Ok(vec![Event::TokenChosen { token }]),
        Command::AcceptWelcome { agent_id, cluster_id, received_up_to, tells_of_operations, takes_providers } => {
            let mut events = accept_welcome(state, agent_id, cluster_id, (received_up_to, tells_of_operations))?;
            let is_news = takes_providers && !state.providers.told;
            events.extend(is_news.then_some(Event::ProvidersTaken {}));
            Ok(events)
        }
        Command::TakeOrder(order) => take_order(state, *order, around),
        Command::GiveUpOrder(order) => Ok(give_up_order(state, *order, around)),
        Command::CoverMessages { up_to, tells_of_operations } => Ok(cover(state, up_to, tells_of_operations)),
        Command::ForgetOperations { operations } => Ok(operations::forget(state, operations)),
        Command::ReportStart { container_id, process, .. } if state.launched.all.contains_key(&container_id) => {
            Ok(containers::started(state, &container_id, process))
        }
        Command::ReportStart { container_id, process, facts } => {
            Ok(launch::started(state, &container_id, process, &facts, around))
        }
        Command::ReportLaunchFailure { container_id, message } if state.launched.all.contains_key(&container_id) => {
            Ok(containers::failed(state, &container_id, &message, around))
        }
        Command::ReportLaunchFailure { container_id, message } => {
            Ok(launch::failed(state, &container_id, &message, around))
        }
        Command::ReportRevocation { container_id } if state.launched.all.contains_key(&container_id) => {
            Ok(containers::failed(state, &container_id, "Killed before it was launched", around))
        }
        Command::ReportRevocation { container_id } => Ok(launch::revoked(state, &container_id, around)),
        Command::ReportExit { container_id, status } => Ok(containers::exited(state, &container_id, status, around)),
        Command::SubscribeExecutor { framework_id, executor_id, stream, unacknowledged_tasks } => {
            executors::subscribe(state, &framework_id, &executor_id, stream, &unacknowledged_tasks, around)
        }
        Command::LoseExecutor { framework_id, executor_id, stream } => {
            Ok(executors::lose(state, &framework_id, &executor_id, stream))
        }
        Command::UpdateTask { framework_id, executor_id, status } => {
            executors::update(state, &framework_id, &executor_id, *status, around)
        }
        Command::ReportOperation { operation, failure } => {
            Ok(operations::report(state, operation, failure.as_deref(), around))
        }
        Command::SubscribeProvider { provider_id, info, stream } => {
            providers::subscribe(state, provider_id, *info, stream)
        }
        Command::LoseProvider { provider_id, stream } => {
            Ok(providers::lose(state, &provider_id, stream).into_iter().collect())
        }
        Command::StateProvider { provider_id, stream, stated, operations } => {
            providers::state(state, provider_id, stream, stated, &operations, around)
        }
        Command::ReportProviderOperation { provider_id, stream, operation, status } => {
            providers::report(state, (&provider_id, stream), &operation, *status, around)
        }
        Command::ForgetProvider { provider_id } => providers::forget(state, provider_id),
        Command::ReportLimitation { container_id, limitation } => {
            Ok(limits::exceeded(state, container_id, &limitation, around))
        }
        Command::ReportUpdateFailure { container_id } => Ok(kill::update_failed(state, &container_id, around)),
        Command::LaunchContainer { container_id, info, session } => {
            containers::launch(state, container_id, &info, session, around)
        }
        Command::KillContainer { container_id } => containers::kill(state, &container_id),
        Command::RemoveContainer { container_id } => containers::remove(state, &container_id),
        Command::ReportCheck { container_id, seen } => Ok(checks::report(state, &container_id, seen, around)),
        Command::Describe(info) => {
            let info = Blob::of(&*info);
            Ok((state.model.info.as_ref() != Some(&info)).then_some(Event::InfoTaken { info }).into_iter().collect())
        }
        Command::Spare { resources } => Ok(spare::estimate(state, &resources)),
        Command::Preempt { executors } => Ok(spare::preempt(state, &executors, around)),
        Command::PassDeadlines => Ok(kill::pass_deadlines(state, around)),
        Command::Settle => Ok(Vec::new()),
        Command::Restart { boot } => {
            let restarted = restart(state, boot, around);
            let ended = containers::end_sessions(state).chain(providers::lose_all(state));
            Ok(std::iter::once(restarted).chain(ended).collect())
        }
        Command::Leave => Ok(leave(state, around)),
        Command::Forget => Ok(vec![Event::Forgotten {}]),
    }
}

/// Executors get their time from here on, not from the end of the agent before; and if the machine's clock was set
/// meanwhile, what is due is moved with it.
fn restart(state: &State, (boot_id, since_boot_ms): (String, u64), around: &Surroundings<'_>) -> Event {
    let clock = Clock { at_ms: around.at_ms, boot_id, since_boot_ms };
    let ahead_ms = state.clock.as_ref().and_then(|earlier| clock.ahead_of(earlier)).unwrap_or(0);
    Event::Restarted {
        reregister_by_ms: around.at_ms + around.settings.executor_reregistration_timeout_ms,
        register_by_ms: around.at_ms + around.settings.executor_registration_timeout_ms,
        clock,
        ahead_ms: if ahead_ms.unsigned_abs() < AHEAD_MS_MIN { 0 } else { ahead_ms },
    }
}

fn accept_welcome(
    state: &State,
    agent_id: String,
    cluster_id: String,
    (received_up_to, tells_of_operations): (u64, bool),
) -> Result<Vec<Event>, Refusal> {
    let mut events = cover(state, received_up_to, tells_of_operations);
    match (&state.registration.agent_id, &state.registration.cluster_id) {
        (Some(known), Some(cluster)) if *known == agent_id && *cluster == cluster_id => {
            let acknowledged = state.messages.received_up_to;
            if received_up_to < acknowledged {
                // What they forgot, the end of a task perhaps, is not in this log any more either.
                return Err(Refusal::MastersForgot { found: received_up_to, acknowledged });
            }
        }
        (Some(known), _) => {
            return Err(Refusal::OtherIdentity { found: agent_id, expected: known.clone() });
        }
        (None, _) => events.push(Event::Registered { agent_id, cluster_id }),
    }
    Ok(events)
}

fn cover(state: &State, up_to: u64, operations_stay: bool) -> Vec<Event> {
    let all = event_log::planted(event_log::Bug::MessagesForgottenUnsent);
    let up_to = if all { state.messages.up_to } else { up_to.min(state.messages.up_to) };
    let known = state.messages.received_up_to;
    let received = (up_to > known).then_some(Event::MessagesReceived { up_to, operations_stay });
    let kept = if operations_stay { AGENT_OPERATIONS_MAX } else { 0 };
    received.into_iter().chain(operations::forget_oldest(state, known.max(up_to), kept)).collect()
}

fn take_order(
    state: &State,
    order: api::internal::Order,
    around: &mut Surroundings<'_>,
) -> Result<Vec<Event>, Refusal> {
    // Sent again after a Welcome because our acknowledgement was lost.
    if order.seq <= state.orders_up_to && !event_log::planted(event_log::Bug::OutboxReplayed) {
        return Ok(Vec::new());
    }
    let mut events = vec![Event::OrdersTaken { up_to: order.seq }];
    let grace_ms = around.settings.executor_shutdown_grace_ms;
    events.extend(match order.order {
        Some(Wanted::Launch(order)) => launch::task(state, &order.framework_info, order.task, &order.providers, around),
        Some(Wanted::LaunchGroup(order)) => {
            let (tasks, providers) = (order.task_group.tasks, &order.providers);
            launch::group(state, &order.framework_info, &order.executor, tasks, providers, around)
        }
        Some(Wanted::Kill(order)) => {
            kill::task(state, &order.framework_id.value, &order.task_id.value, order.kill_policy, around)
        }
        Some(Wanted::ShutdownFramework(order)) => {
            kill::framework(state, &order.framework_id.value, around.at_ms + grace_ms)
        }
        Some(Wanted::ShutdownExecutor(order)) => {
            let executor = state.executor(&order.framework_id.value, &order.executor_id.value);
            let stop = |executor| kill::stop(&order.framework_id.value, executor, Why::Shutdown, around);
            executor.map(stop).into_iter().collect()
        }
        Some(Wanted::UpdateFramework(order)) => see_framework(state, &order.framework_info),
        Some(Wanted::ShutdownAgent(_)) => leave(state, around),
        Some(Wanted::ApplyOperation(order)) if order.provider.is_some() => providers::take(state, order),
        Some(Wanted::ApplyOperation(order)) => operations::take(state, order, around),
        Some(Wanted::Drain(order)) => drain::begin(state, &order.config, around),
        Some(Wanted::EndDrain(_)) => drain::end(state),
        // A kind of order that a newer master gives. To acknowledge it would be to say that it is so.
        None => return Err(Refusal::UnknownOrder { seq: order.seq }),
    });
    Ok(events)
}

/// Without an answer the masters would give it again for ever, and none of those behind it.
fn give_up_order(state: &State, order: Unreadable, around: &mut Surroundings<'_>) -> Vec<Event> {
    let Unreadable { seq, framework_id, executor_id, task_ids, operation, sentence } = order;
    if seq <= state.orders_up_to {
        return Vec::new();
    }
    let mut events = vec![Event::OrdersTaken { up_to: seq }];
    if let Some(framework_id) = framework_id {
        events.extend(launch::invalid(state, &framework_id, executor_id, &task_ids, &sentence, around));
    }
    if let Some((operation, id)) = operation {
        events.extend(operations::invalid(state, operation, id, &sentence, around));
    }
    events.push(Event::OrderNotUnderstood { seq, sentence });
    events
}

/// Frameworks known here get their description replaced.
fn see_framework(state: &State, info: &api::v1::FrameworkInfo) -> Vec<Event> {
    let framework_id = info.id.clone().unwrap_or_default().value;
    let known = state.frameworks.contains_key(&framework_id);
    if known { vec![Event::FrameworkSeen { framework_id, info: Blob::of(info) }] } else { Vec::new() }
}

fn leave(state: &State, around: &mut Surroundings<'_>) -> Vec<Event> {
    let stops =
        state.executors().map(|(framework_id, executor)| kill::stop(framework_id, executor, Why::Leaving, around));
    let mut events = vec![Event::LeavingBegun {}];
    events.extend(stops);
    events.extend(containers::end_alone(state));
    // Once: whoever leaves again has said it.
    if state.runs_nothing() && !state.leaving {
        events.push(Event::Left {});
    }
    events
}
