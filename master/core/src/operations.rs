//! The story of operations on resources: a framework wants what it was offered turned into something else, its agent makes
//! it so and says what became of it, and the framework is told until it acknowledges.
//!
//! ```text
//! ACCEPT ──► applied: the resources are what they shall be, the agent is ordered ──status──► updated ──acknowledged──► over
//!    └─────► refused                                       └──the agent is over──► declared, over     (without an id: over)
//! ```

use crate::accept::convert::{Conversion, No, Wish, check_volumes_stay, is_open, missing};
use crate::decide::Draft;
use crate::effect::Effect;
use crate::event::{
    OfferKeys, OffersReturned, OperationAcknowledged, OperationApplied, OperationDeclared, OperationRefused,
    OperationUpdated, Return,
};
use crate::ids::{AgentKey, FrameworkKey, OfferKey, OperationKey};
use crate::launch::Launch;
use crate::permit;
use crate::providers;
use crate::resources;
use crate::state::operations::Standing;
use crate::state::unfinished::Parting;
use crate::state::{Agent, AgentLiveness, Operation, State};
use crate::view;
use api::internal;
use api::limits::{
    AGENT_CHECKPOINT_BYTES_MAX, AGENT_OPERATIONS_MAX, CALL_OPERATIONS_BYTES_MAX, FRAMEWORK_OPERATIONS_MAX,
    OPERATION_BYTES_MAX, OUTBOX_BYTES_MAX, SENTENCE_BYTES_MAX, STATUS_MESSAGE_BYTES_MAX, cut,
};
use api::resources::Resources;
use api::v1;
use api::v1::OperationState;
use api::v1::offer::operation::Type;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether an operation turns resources of an agent into others.
pub(crate) fn is_conversion(kind: Type) -> bool {
    match kind {
        Type::Reserve | Type::Unreserve | Type::Create | Type::Destroy | Type::GrowVolume | Type::ShrinkVolume => true,
        Type::CreateDisk | Type::DestroyDisk => true,
        Type::Unknown | Type::Launch | Type::LaunchGroup => false,
    }
}

/// Whether this cluster can log such a thing yet.
pub(crate) fn check_level(state: &State, kind: Type) -> Result<(), String> {
    let level = state.feature_level;
    if if is_open(kind) { level.has_providers() } else { level.has_resource_model() } {
        return Ok(());
    }
    let kind = kind.as_str_name();
    Err(format!("{kind} is not supported until every master of this cluster has been upgraded"))
}

/// An operation of an ACCEPT, upon what remains of it.
pub(crate) fn of_framework(draft: &mut Draft, launch: &mut Launch, kind: Type, operation: &v1::offer::Operation) {
    if let Err(why) = try_of_framework(draft, launch, kind, operation) {
        draft.refuse_operation(launch.framework, Some(launch.agent), operation, &why);
    }
}

fn try_of_framework(
    draft: &mut Draft,
    launch: &mut Launch,
    kind: Type,
    operation: &v1::offer::Operation,
) -> Result<(), String> {
    let agent = draft.state.agents.get(launch.agent).expect("the agent of an offer is registered");
    let framework = draft.state.frameworks.get(launch.framework).expect("the speaker is live");
    // Who is not authenticated has the principal that it gives itself.
    let info = v1::FrameworkInfo::decode(framework.info.clone()).unwrap_or_default();
    let principal = framework.principal.as_deref().or(info.principal.as_deref());
    let wish = Wish { agent, framework: Some((framework, &launch.role)), principal };
    if is_open(kind) && !agent.can(providers::CAPABILITY) {
        let agent = described(&draft.state, agent);
        return Err(format!("Not supported on agent {agent} because it does not have RESOURCE_PROVIDER capability"));
    }
    let judged = wish.judge(kind, operation);
    let made = judged.map_err(|no| match no {
        No::Malformed(why) => format!("Operation attempted with invalid resources: {why}"),
        No::Invalid(why) => format!("{why}; on agent {}", described(&draft.state, agent)),
    })?;
    permit::operation(draft, principal, &made)?;
    let provider = resources::provider_of(&made.consumed);
    if provider.is_some() && !agent.can(providers::CAPABILITY) {
        let id = view::agent_id(&draft.state, agent.key);
        return Err(format!(
            "Operation requested feedback, but agent {id} does not have the required RESOURCE_PROVIDER capability"
        ));
    }
    if provider.is_none() && !agent.can(FEEDBACK) {
        let id = view::agent_id(&draft.state, agent.key);
        return Err(match operation.id {
            Some(_) => format!(
                "Operation on agent default resources requested feedback, but agent {id} does not have the required \
                 {FEEDBACK} capability"
            ),
            None => format!("Agent {id} applies no operations: it does not have the required {FEEDBACK} capability"),
        });
    }
    if let Some(why) = missing(&launch.remaining, &made) {
        let name = kind.as_str_name();
        return Err(match kind {
            Type::GrowVolume | Type::ShrinkVolume => format!("Invalid {name} operation: {why}"),
            Type::CreateDisk | Type::DestroyDisk => format!("Invalid {name} Operation: {why}"),
            _ => why,
        });
    }
    let stay = check_volumes_stay(&made);
    stay.map_err(|why| format!("{why}; on agent {}", described(&draft.state, agent)))?;
    let waiting = draft.state.operations.of(launch.framework).take(FRAMEWORK_OPERATIONS_MAX + 1).count();
    if operation.id.is_some() && waiting >= FRAMEWORK_OPERATIONS_MAX {
        return Err(format!(
            "The framework has {waiting} operations whose end it has not acknowledged, and may have no more than \
             {FRAMEWORK_OPERATIONS_MAX}"
        ));
    }
    let bytes = made.info.encoded_len();
    if launch.operations_bytes + bytes > CALL_OPERATIONS_BYTES_MAX {
        return Err(format!(
            "The operations of this call have more than the {CALL_OPERATIONS_BYTES_MAX} bytes that are allowed: do less \
             with one call"
        ));
    }
    check_room(&draft.state, agent, &made)?;
    launch.operations_bytes += bytes;
    if kind == Type::Destroy {
        return_offers_of(draft, launch.agent, &resources::unallocated(&made.consumed));
    }
    launch.remaining = resources::minus(&launch.remaining, &made.consumed);
    // A volume with another size can be had from the next offer on.
    if !matches!(kind, Type::GrowVolume | Type::ShrinkVolume) {
        resources::add(&mut launch.remaining, &made.produced);
        resources::add(&mut launch.converted, &made.produced);
    }
    let id = operation.id.as_ref().map(|id| id.value.as_str().into());
    if is_open(kind) {
        providers::begin(draft, launch.agent, launch.framework, id, &made);
    } else {
        apply(draft, launch.agent, Some(launch.framework), id, &made);
    }
    launch.weigh_operation(newest_order_bytes(&draft.state, launch.agent));
    Ok(())
}

/// What an agent must say that it can, to be given operations.
pub(crate) const FEEDBACK: &str = "AGENT_OPERATION_FEEDBACK";

/// An agent as sentences name it.
pub(crate) fn described(state: &State, agent: &Agent) -> String {
    format!("{} at slave(1)@{} ({})", view::agent_id(state, agent.key), agent.address, agent.hostname)
}

/// Whether an agent has room for what an operation makes, and for the order.
pub(crate) fn check_room(state: &State, agent: &Agent, made: &Conversion) -> Result<(), String> {
    let kind = made.kind.as_str_name();
    let bytes = made.info.encoded_len();
    if bytes > OPERATION_BYTES_MAX {
        return Err(format!("{kind} has {bytes} bytes, more than the {OPERATION_BYTES_MAX} that are allowed"));
    }
    let id = view::agent_id(state, agent.key);
    let waiting = state.operations.on(agent.key).filter(|operation| operation.is_pending());
    let waiting = waiting.take(AGENT_OPERATIONS_MAX + 1).count();
    if waiting >= AGENT_OPERATIONS_MAX {
        return Err(format!(
            "Agent {id} has {waiting} operations before it, and may have no more than {AGENT_OPERATIONS_MAX}: try again \
             later"
        ));
    }
    let mut kept = agent.checkpointed();
    if let Some(provider) = resources::provider_of(&made.consumed) {
        providers::check_room(&resources::provided(&agent.total), provider, made)?;
    } else {
        kept.saturating_sub(&resources::unallocated(&made.consumed));
        kept.add(&resources::unallocated(&made.produced).filter(|resource| resource.is_converted()));
    }
    let kept = resources::bytes(&kept);
    if kept > AGENT_CHECKPOINT_BYTES_MAX {
        return Err(format!(
            "Agent {id} would have {kept} bytes of reservations and volumes, more than the {AGENT_CHECKPOINT_BYTES_MAX} \
             that are allowed"
        ));
    }
    if agent.outbox_bytes() + bytes + kept > OUTBOX_BYTES_MAX {
        return Err(format!(
            "Agent {id} has not taken its earlier orders yet, and there is no room for more than {OUTBOX_BYTES_MAX} \
             bytes of them: try again later"
        ));
    }
    Ok(())
}

/// What the newest order of an agent weighs, in bytes.
fn newest_order_bytes(state: &State, agent: AgentKey) -> usize {
    let newest = state.agents.get(agent).and_then(|agent| agent.outbox.get_max().map(|(_, order)| order.bytes.len()));
    newest.unwrap_or_default()
}

/// It is so from now on.
pub(crate) fn apply(
    draft: &mut Draft,
    agent: AgentKey,
    framework: Option<FrameworkKey>,
    id: Option<Arc<str>>,
    made: &Conversion,
) {
    let operation = OperationKey(draft.state.operations.next);
    let (consumed, produced) = (resources::unallocated(&made.consumed), resources::unallocated(&made.produced));
    let info = made.info.encode_to_vec().into();
    draft.push(OperationApplied { operation, agent, framework, id, info, consumed, produced });
}

/// Offers that hold any of these volumes go back: they are to be no more.
pub(crate) fn return_offers_of(draft: &mut Draft, agent: AgentKey, volumes: &Resources) {
    let holding = |offer: &OfferKey| {
        let offer = draft.state.offers.get(*offer).map(|offer| resources::unallocated(&offer.resources));
        offer.is_some_and(|offer| volumes.iter().any(|volume| offer.count(volume) > 0))
    };
    let offers: Vec<OfferKey> = draft.state.offers.on(agent).filter(holding).collect();
    take_back(draft, offers);
}

/// Takes back offers of an agent until `wanted` is free, the oldest first, and of these only such as hold some of it. False
/// if it never would be; then nothing happens.
pub(crate) fn free_up(draft: &mut Draft, agent: AgentKey, wanted: &Resources) -> bool {
    let known = draft.state.agents.get(agent).expect("an agent that is registered");
    let (mut free, mut offers) = (known.free(), Vec::new());
    for key in draft.state.offers.on(agent) {
        if free.contains(wanted) {
            break;
        }
        let offer = draft.state.offers.get(key).expect("an indexed offer is outstanding");
        let held = resources::unallocated(&offer.resources).non_shared();
        if !held.intersection(&resources::minus(wanted, &free)).is_empty() {
            resources::add(&mut free, &held);
            offers.push(key);
        }
    }
    let is_enough = free.contains(wanted);
    if is_enough {
        take_back(draft, offers);
    }
    is_enough
}

/// One event for each framework.
pub(crate) fn take_back(draft: &mut Draft, offers: Vec<OfferKey>) {
    let mut of: BTreeMap<FrameworkKey, Vec<OfferKey>> = BTreeMap::new();
    for key in offers {
        if let Some(offer) = draft.state.offers.get(key) {
            of.entry(offer.framework).or_default().push(key);
        }
    }
    for (framework, offers) in of {
        draft.push(OffersReturned { framework, offers: OfferKeys::new(offers), why: Return::AgentChanged });
    }
}

/// What an agent says of an operation. Once is enough, and only an end is news.
pub(crate) fn status(draft: &mut Draft, agent: AgentKey, seq: u64, message: &internal::OperationStatus) {
    let key = view::parse_operation_uuid(&draft.state, &message.operation);
    let operation = key.and_then(|key| draft.state.operations.get(key));
    let Some(operation) = operation.filter(|operation| operation.agent == agent && operation.is_pending()) else {
        return;
    };
    let is_end = match OperationState::try_from(message.status.state) {
        Ok(
            OperationState::OperationFinished
            | OperationState::OperationFailed
            | OperationState::OperationError
            | OperationState::OperationDropped,
        ) => true,
        // An operator said so of a resource provider.
        Ok(OperationState::OperationGoneByOperator) => draft.state.operations.of_provider(operation.key).is_some(),
        Ok(
            OperationState::OperationUnsupported
            | OperationState::OperationPending
            | OperationState::OperationUnreachable
            | OperationState::OperationRecovering
            | OperationState::OperationUnknown,
        )
        | Err(_) => false,
    };
    if !is_end || seq == 0 {
        return;
    }
    let (key, kind, state) = (operation.key, view::kind_of(operation) as i32, message.status.state);
    let own = message.status.uuid.as_ref().map(|uuid| uuid.value.clone()).filter(|uuid| uuid.len() == 16);
    let uuid = own.unwrap_or_else(|| message.operation.clone());
    let mut why = message.status.message.clone();
    if let Some(why) = &mut why {
        why.truncate(cut(why, STATUS_MESSAGE_BYTES_MAX).len());
    }
    let status = v1::OperationStatus {
        operation_id: operation.id.as_ref().map(|id| v1::OperationId { value: id.to_string() }),
        state,
        message: why,
        uuid: Some(v1::Uuid { value: uuid.clone() }),
        agent_id: Some(v1::AgentId { value: view::agent_id(&draft.state, agent) }),
        resource_provider_id: view::provider_of(&draft.state, key),
        ..Default::default()
    };
    let standing = draft.state.operations.of_provider(key).map(|of| of.standing);
    if standing == Some(Standing::Held) {
        let operation = operation.clone();
        let told = &message.status.converted_resources;
        let is_small = told.iter().map(Message::encoded_len).sum::<usize>() <= OPERATION_BYTES_MAX;
        let converted_resources = if is_small { told.clone() } else { Vec::new() };
        let status = v1::OperationStatus { converted_resources, ..status };
        return providers::end(draft, &operation, providers::End { kind, seq, state, uuid, status });
    }
    let produced = operation.produced.clone();
    // What a provider has said since is what there is.
    let is_so = standing != Some(Standing::Unmade);
    let is_undone =
        is_so && state != OperationState::OperationFinished as i32 && can_be_undone(draft, agent, &produced);
    let status = status.encode_to_vec().into();
    draft.push(OperationUpdated { operation: key, agent, kind, seq, state, uuid, status, is_undone });
}

/// Whether what an operation made is there and nobody's: what was offered of it is taken back. What a task holds, or
/// another operation has made something of, stays.
fn can_be_undone(draft: &mut Draft, agent: AgentKey, produced: &Resources) -> bool {
    let known = draft.state.agents.get(agent).expect("the speaker is registered");
    let used = resources::unallocated(&known.used);
    if produced.shared().iter().any(|shared| used.count(shared) > 0) {
        return false;
    }
    if !free_up(draft, agent, produced) {
        return false;
    }
    return_offers_of(draft, agent, &produced.persistent_volumes());
    true
}

/// ACKNOWLEDGE_OPERATION_STATUS: the framework has heard it; any other is silently ignored.
pub(crate) fn acknowledge(
    draft: &mut Draft,
    framework: FrameworkKey,
    call: &v1::scheduler::call::AcknowledgeOperationStatus,
) {
    let agent = call.agent_id.as_ref().and_then(|id| view::parse_agent_id(&draft.state, &id.value));
    let is_meant = |operation: &&Arc<Operation>| {
        Some(operation.agent) == agent
            && operation.id.as_deref() == Some(&call.operation_id.value)
            && operation.update.as_ref().is_some_and(|update| update.uuid == call.uuid)
    };
    let Some(operation) = draft.state.operations.of(framework).find(is_meant) else { return };
    let (operation, agent) = (operation.key, operation.agent);
    draft.push(OperationAcknowledged { operation, agent, framework });
}

/// The agent is over: whoever waits to hear of an operation on it hears that.
pub(crate) fn agent_is_over(draft: &mut Draft, key: AgentKey, why: Parting) {
    let waiting: Vec<Arc<Operation>> =
        draft.state.operations.on(key).filter(|operation| operation.id.is_some()).cloned().collect();
    for operation in waiting {
        let (Some(framework), Some(id)) = (operation.framework, operation.id.clone()) else { continue };
        let state = match why {
            Parting::MarkedGone => OperationState::OperationGoneByOperator,
            _ if operation.is_pending() => OperationState::OperationDropped,
            // It was done, and nobody knows what of it is left.
            Parting::Left | Parting::LogLost | Parting::Replaced | Parting::Forgotten | Parting::MachineDown => {
                OperationState::OperationUnknown
            }
        };
        let (kind, why) = (view::kind_of(&operation) as i32, why.sentence().into());
        let (operation, state) = (operation.key, state as i32);
        draft.push(OperationDeclared { operation, agent: key, framework, kind, id, state, why });
    }
}

/// RECONCILE_OPERATIONS: the operations named, or all. Nothing happens, so nothing is logged.
pub(crate) fn reconcile(draft: &mut Draft, framework: FrameworkKey, call: &v1::scheduler::call::ReconcileOperations) {
    let state = &draft.state;
    let mut answers: Vec<v1::OperationStatus> = Vec::new();
    if call.operations.is_empty() {
        let known = state.operations.of(framework).filter(|operation| is_told(state, operation));
        answers.extend(
            known.map(|operation| v1::OperationStatus { uuid: None, ..view::operation_status(state, operation) }),
        );
    }
    let mut newest: BTreeMap<&str, &Operation> = BTreeMap::new();
    if !call.operations.is_empty() {
        let known = state.operations.of(framework).filter(|operation| is_told(state, operation));
        newest.extend(known.filter_map(|operation| Some((operation.id.as_deref()?, operation.as_ref()))));
    }
    for asked in &call.operations {
        answers.push(match newest.get(asked.operation_id.value.as_str()) {
            Some(operation) => v1::OperationStatus { uuid: None, ..view::operation_status(state, operation) },
            None => unknown(state, framework, asked),
        });
    }
    for status in answers {
        draft.tell(Effect::SendOperationStatus { framework, status: Box::new(status) });
    }
}

/// What is on an agent that is away for long is not known as long.
fn is_told(state: &State, operation: &Operation) -> bool {
    state.agents.get(operation.agent).is_some_and(|agent| !agent.is_unreachable())
}

/// Of what is not told: it is not known, or where it is is away for long.
fn unknown(
    state: &State,
    framework: FrameworkKey,
    asked: &v1::scheduler::call::reconcile_operations::Operation,
) -> v1::OperationStatus {
    let is_meant = |operation: &&Arc<Operation>| operation.id.as_deref() == Some(&asked.operation_id.value);
    let known = state.operations.of(framework).filter(is_meant).last().map(|operation| operation.agent);
    let agent = asked.agent_id.as_ref();
    let key = agent.map_or(known, |id| view::parse_agent_id(state, &id.value));
    let there = key.and_then(|key| state.agents.get(key));
    let is_gone = key.is_some_and(|key| state.agents.gone.get(&key).is_some_and(|gone| gone.by_operator));
    let provider = asked.resource_provider_id.as_ref().zip(key);
    let provider = provider.and_then(|(id, key)| state.providers.get(key, &id.value));
    let is_away = provider.is_some_and(|provider| !provider.is_subscribed);
    let (answer, message) = match there.map(|agent| &agent.liveness) {
        Some(AgentLiveness::Unreachable { .. }) => {
            (OperationState::OperationUnreachable, "Reconciliation: Agent is unreachable")
        }
        Some(_) if there.is_some_and(|agent| state.is_recovered(agent)) => {
            (OperationState::OperationRecovering, "Reconciliation: Agent is recovered but has not re-registered")
        }
        Some(_) if is_away => {
            (OperationState::OperationRecovering, "Reconciliation: Resource provider is not subscribed")
        }
        Some(AgentLiveness::Connected { .. } | AgentLiveness::Disconnected { .. }) => {
            (OperationState::OperationUnknown, "Reconciliation: Operation is unknown")
        }
        None if is_gone => (OperationState::OperationGoneByOperator, "Reconciliation: Agent marked gone by operator"),
        None if agent.is_some() => {
            (OperationState::OperationUnknown, "Reconciliation: Both operation and agent are unknown")
        }
        None => {
            (OperationState::OperationUnknown, "Reconciliation: Operation is unknown and no 'agent_id' was provided")
        }
    };
    v1::OperationStatus {
        operation_id: Some(asked.operation_id.clone()),
        state: answer as i32,
        message: Some(message.to_owned()),
        agent_id: agent.cloned(),
        resource_provider_id: asked.resource_provider_id.clone(),
        ..Default::default()
    }
}

impl Draft {
    /// What a framework wanted done cannot be. It is told if it gave it an id: without one nobody could tell which.
    pub(crate) fn refuse_operation(
        &mut self,
        framework: FrameworkKey,
        agent: Option<AgentKey>,
        operation: &v1::offer::Operation,
        why: &str,
    ) {
        let id = operation.id.as_ref();
        if self.state.feature_level.has_resource_model() {
            let why = cut(why, SENTENCE_BYTES_MAX).into();
            let (kind, id) = (operation.r#type.unwrap_or_default(), id.map(|id| id.value.as_str().into()));
            self.push(OperationRefused { framework, agent, kind, id, why });
        } else if let Some(id) = id {
            let status = Box::new(view::operation_error(&id.value, why));
            self.tell(Effect::SendOperationStatus { framework, status });
        }
    }
}

#[cfg(test)]
mod tests;
