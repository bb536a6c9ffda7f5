//! What operators make of what nobody uses: RESERVE_RESOURCES and its like. Offers that hold some of it are taken back.

use crate::accept::convert::{No, Wish, check_volumes_stay, missing};
use crate::command::Caller;
use crate::decide::{Draft, Reply};
use crate::operations;
use crate::permit;
use crate::providers;
use crate::quota;
use crate::refusal::{Refusal, RefusalKind};
use crate::resources;
use crate::view;
use api::v1;
use api::v1::master::Call;
use api::v1::master::call;
use api::v1::offer::Operation;
use api::v1::offer::operation::{self, Type};

/// A call that is an operation on the resources of one agent.
pub(crate) fn call(draft: &mut Draft, call: &Call, kind: call::Type, caller: &Caller) -> Result<Reply, Refusal> {
    let (agent_id, kind, operation) = operation_of(call, kind)?;
    convert(draft, &agent_id, kind, &operation, caller)
}

/// The operation that an operator's call is.
fn operation_of(call: &Call, kind: call::Type) -> Result<(v1::AgentId, Type, Operation), Refusal> {
    let absent = |field: &str| {
        let why = format!("Failed to validate master::Call: Expecting '{field}' to be present");
        Refusal::invalid("InvalidCall", why)
    };
    let default_only = "Failed to validate master::Call: Expecting 'agent_id' to be present; only agent default resources \
                        are supported right now";
    let named = |id: &Option<v1::AgentId>| id.clone().ok_or_else(|| Refusal::invalid("InvalidCall", default_only));
    let mut operation = Operation::default();
    let (agent_id, kind) = match kind {
        call::Type::ReserveResources => {
            let body = call.reserve_resources.as_ref().ok_or_else(|| absent("reserve_resources"))?;
            let (source, resources) = (body.source.clone(), body.resources.clone());
            operation.reserve = Some(operation::Reserve { source, resources });
            (body.agent_id.clone(), Type::Reserve)
        }
        call::Type::UnreserveResources => {
            let body = call.unreserve_resources.as_ref().ok_or_else(|| absent("unreserve_resources"))?;
            operation.unreserve = Some(operation::Unreserve { resources: body.resources.clone() });
            (body.agent_id.clone(), Type::Unreserve)
        }
        call::Type::CreateVolumes => {
            let body = call.create_volumes.as_ref().ok_or_else(|| absent("create_volumes"))?;
            operation.create = Some(operation::Create { volumes: body.volumes.clone() });
            (body.agent_id.clone(), Type::Create)
        }
        call::Type::DestroyVolumes => {
            let body = call.destroy_volumes.as_ref().ok_or_else(|| absent("destroy_volumes"))?;
            operation.destroy = Some(operation::Destroy { volumes: body.volumes.clone() });
            (body.agent_id.clone(), Type::Destroy)
        }
        call::Type::GrowVolume => {
            let body = call.grow_volume.as_ref().ok_or_else(|| absent("grow_volume"))?;
            let (volume, addition) = (body.volume.clone(), body.addition.clone());
            operation.grow_volume = Some(Box::new(operation::GrowVolume { volume, addition }));
            (named(&body.agent_id)?, Type::GrowVolume)
        }
        call::Type::ShrinkVolume => {
            let body = call.shrink_volume.as_ref().ok_or_else(|| absent("shrink_volume"))?;
            let (volume, subtract) = (body.volume.clone(), body.subtract);
            operation.shrink_volume = Some(Box::new(operation::ShrinkVolume { volume, subtract }));
            (named(&body.agent_id)?, Type::ShrinkVolume)
        }
        _ => return Err(absent("type")),
    };
    Ok((agent_id, kind, operation))
}

fn convert(
    draft: &mut Draft,
    agent_id: &v1::AgentId,
    kind: Type,
    operation: &Operation,
    caller: &Caller,
) -> Result<Reply, Refusal> {
    let not_yet = |why| Refusal::new(RefusalKind::NotImplemented, "NotBuilt", why);
    operations::check_level(&draft.state, kind).map_err(not_yet)?;
    let key = view::parse_agent_id(&draft.state, &agent_id.value).filter(|key| !draft.state.is_parting(*key));
    let agent = key.and_then(|key| draft.state.agents.get(key)).filter(|agent| !agent.is_unreachable());
    let unknown = || Refusal::invalid("UnknownAgent", "No agent found with specified ID");
    let agent = agent.ok_or_else(unknown)?;
    let wish = Wish { agent, framework: None, principal: caller.principal.as_deref() };
    let name = kind.as_str_name();
    let made = wish.judge(kind, operation).map_err(|no| match no {
        No::Malformed(why) => Refusal::invalid("InvalidResources", why),
        No::Invalid(why) => {
            // Whether the agent is named depends on nothing but the kind: clients know it so.
            let place = match kind {
                Type::Unreserve | Type::Destroy => String::new(),
                _ => format!(" on agent {}", operations::described(&draft.state, agent)),
            };
            Refusal::invalid("InvalidOperation", format!("Invalid {name} operation{place}: {why}"))
        }
    })?;
    permit::by_operator(draft, caller, &made)?;
    let is_provided = resources::provider_of(&made.consumed).is_some();
    let feedback = if is_provided { providers::CAPABILITY } else { operations::FEEDBACK };
    if !agent.can(feedback) {
        let why = format!("Agent {} applies no operations: it lacks the capability {feedback}", agent_id.value);
        return Err(Refusal::new(RefusalKind::Conflict, "InvalidOperation", why));
    }
    operations::check_room(&draft.state, agent, &made)
        .map_err(|why| Refusal::new(RefusalKind::Conflict, "InvalidOperation", why))?;
    let key = agent.key;
    if !operations::free_up(draft, key, &made.consumed) {
        let mut held = draft.state.agents.get(key).expect("just found").free();
        for offer in draft.state.offers.on(key).filter_map(|offer| draft.state.offers.get(offer)) {
            held.add(&resources::unallocated(&offer.resources).non_shared());
        }
        let why = missing(&held, &made).unwrap_or_default();
        return Err(Refusal::new(RefusalKind::Conflict, "NotFree", why));
    }
    check_volumes_stay(&made).map_err(|why| {
        let agent = draft.state.agents.get(key).expect("just found");
        let place = operations::described(&draft.state, agent);
        Refusal::invalid("InvalidOperation", format!("Invalid {name} operation on agent {place}: {why}"))
    })?;
    // Behind what went back for it: what was offered to the role is not counted twice.
    quota::check_reservation(&draft.state, &made.consumed, &made.produced)?;
    if kind == Type::Destroy {
        operations::return_offers_of(draft, key, &made.consumed);
    }
    operations::apply(draft, key, None, None, &made);
    Ok(Reply::Empty)
}
