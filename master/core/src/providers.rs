//! The story of resource providers: an agent tells who brings what it has beside its own, and what they have. That is
//! offered like all else, and what is made of it is theirs to do.
//!
//! ```text
//! the agent tells ──► changed: what they have is in the agent's total; offers of what they had before go back
//! RESERVE ... DESTROY ──► applied, as of the agent's own (operations.rs)
//! CREATE_DISK, DESTROY_DISK ──► begun: what it takes is held ──status──► ended: given back, or converted as the provider says
//! ```

use crate::accept::convert::Conversion;
use crate::accept::rules;
use crate::decide::Draft;
use crate::event::{AgentProvidersChanged, OperationBegun, OperationEnded, Said, ToldProvider};
use crate::ids::{AgentKey, FrameworkKey, OfferKey, OperationKey};
use crate::operations;
use crate::resources;
use crate::state::{Operation, State};
use crate::view;
use api::internal;
use api::limits::{AGENT_PROVIDERS_BYTES_MAX, AGENT_PROVIDERS_MAX, ID_BYTES_MAX, OPERATION_BYTES_MAX};
use api::resources::Resources;
use api::v1;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What an agent must say that it can, for anything to be made of what its providers have.
pub(crate) const CAPABILITY: &str = "RESOURCE_PROVIDER";

/// The agent's providers and what they have, from now on. A list that makes no sense is left out: agents look at what their
/// providers say before they pass it on.
pub(crate) fn change(draft: &mut Draft, agent: AgentKey, seq: u64, message: &internal::Providers) {
    if seq == 0 || !draft.state.feature_level.has_providers() {
        return;
    }
    let Some(providers) = read(&draft.state, message) else { return };
    let after = draft.state.after_providers(agent, &providers);
    let is_news = providers.iter().any(|one| one.said.is_some()) || after.providers != draft.state.providers.of(agent);
    if !is_news {
        // It is received all the same.
        return;
    }
    let before = draft.state.agents.get(agent).map(|agent| resources::provided(&agent.total)).unwrap_or_default();
    if before != after.resources && !event_log::planted(event_log::Bug::ProvidersOffersKept) {
        return_offers(draft, agent);
    }
    draft.push(AgentProvidersChanged { agent, seq, providers });
}

/// Offers that hold something that providers have may hold what is no longer there.
fn return_offers(draft: &mut Draft, agent: AgentKey) {
    let holds = |key: &OfferKey| {
        let offer = draft.state.offers.get(*key);
        offer.is_some_and(|offer| offer.resources.iter().any(|resource| resource.provider_id.is_some()))
    };
    let offers = draft.state.offers.on(agent).filter(holds).collect();
    operations::take_back(draft, offers);
}

fn read(state: &State, message: &internal::Providers) -> Option<Vec<ToldProvider>> {
    if message.providers.len() > AGENT_PROVIDERS_MAX {
        return None;
    }
    let (mut told, mut ids, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
    for one in &message.providers {
        let id =
            one.info.id.as_ref().map(|id| id.value.as_str()).filter(|id| (1..=ID_BYTES_MAX).contains(&id.len()))?;
        if !ids.insert(id) {
            return None;
        }
        let info = one.info.encode_to_vec();
        bytes += info.len();
        let said = match &one.state {
            None => None,
            Some(said) => {
                let said = read_state(state, id, said)?;
                bytes += resources::bytes(&said.total);
                Some(said)
            }
        };
        told.push(ToldProvider { id: id.into(), info: info.into(), is_subscribed: one.is_subscribed, said });
    }
    (bytes <= AGENT_PROVIDERS_BYTES_MAX).then_some(told)
}

fn read_state(state: &State, id: &str, message: &internal::ProviderState) -> Option<Said> {
    let total = of_provider(&message.total_resources, id)?;
    rules::unique_volumes(&total).ok()?;
    let version = message.resource_version.clone();
    let operations = message.operations.iter().filter_map(|uuid| view::parse_operation_uuid(state, uuid)).collect();
    (version.len() == 16).then_some(Said { total, version, operations })
}

/// What a provider says that it has; None if it cannot have that.
fn of_provider(messages: &[v1::Resource], id: &str) -> Option<Resources> {
    let resources = resources::unallocated(&Resources::from_v1(messages).ok()?);
    let is_its = resources.iter().all(|resource| resource.provider_id.as_deref() == Some(id) && !resource.revocable);
    (is_its && rules::any(resources.as_slice()).is_ok()).then_some(resources)
}

/// What it takes is held from now on.
pub(crate) fn begin(
    draft: &mut Draft,
    agent: AgentKey,
    framework: FrameworkKey,
    id: Option<Arc<str>>,
    made: &Conversion,
) {
    let operation = OperationKey(draft.state.operations.next);
    let (info, consumed) = (made.info.encode_to_vec().into(), made.consumed.clone());
    draft.push(OperationBegun { operation, agent, framework, id, info, consumed });
}

/// An operation that held what it takes has ended so.
pub(crate) struct End {
    pub(crate) kind: i32,
    pub(crate) seq: u64,
    pub(crate) state: i32,
    pub(crate) uuid: Bytes,
    pub(crate) status: v1::OperationStatus,
}

/// What it held is given back, or is what its provider made of it.
pub(crate) fn end(draft: &mut Draft, operation: &Operation, end: End) {
    let End { kind, seq, state, uuid, status } = end;
    let (key, agent) = (operation.key, operation.agent);
    let is_finished = state == v1::OperationState::OperationFinished as i32;
    let converted = if is_finished { converted(&draft.state, operation, &status) } else { None };
    let status = status.encode_to_vec().into();
    draft.push(OperationEnded { operation: key, agent, kind, seq, state, uuid, status, converted });
}

/// What a provider made of what it was given, if that is there and is as much. Otherwise it says anew what it has.
fn converted(state: &State, operation: &Operation, status: &v1::OperationStatus) -> Option<Resources> {
    let of = state.operations.of_provider(operation.key)?;
    let consumed = resources::unallocated(&operation.consumed);
    let has = &state.agents.get(operation.agent)?.total;
    let converted = of_provider(&status.converted_resources, &of.provider)?;
    let is_as_much = converted.all_quantities() == consumed.all_quantities();
    let after = has.replace(&consumed, &converted).ok().filter(|_| is_as_much)?;
    let after = resources::of_provider(&after, &of.provider);
    let is_small = resources::bytes(&converted) <= OPERATION_BYTES_MAX;
    (is_small && rules::unique_volumes(&after).is_ok()).then_some(converted)
}

/// Whether a provider's resources would have room for what an operation makes of them.
pub(crate) fn check_room(has: &Resources, id: &str, made: &Conversion) -> Result<(), String> {
    let mut kept = has.clone();
    kept.saturating_sub(&resources::unallocated(&made.consumed));
    kept.add(&resources::unallocated(&made.produced));
    let bytes = resources::bytes(&kept);
    if bytes <= AGENT_PROVIDERS_BYTES_MAX {
        return Ok(());
    }
    let most = AGENT_PROVIDERS_BYTES_MAX;
    Err(format!(
        "With resource provider {id} there would be {bytes} bytes of resources of providers, more than the {most} that are allowed"
    ))
}

#[cfg(test)]
mod tests;
