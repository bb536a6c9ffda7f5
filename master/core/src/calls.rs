//! Calls of a subscribed framework: who it is, whether it may speak, and which story its call begins.

use crate::command::Caller;
use crate::decide::{Draft, Reply};
use crate::ids::FrameworkKey;
use crate::refusal::{Refusal, RefusalKind};
use crate::*;
use api::v1::scheduler::Call;
use api::v1::scheduler::call::Type;

/// Any call but SUBSCRIBE.
pub(crate) fn call(draft: &mut Draft, stream_id: Option<&str>, call: &Call, caller: &Caller) -> Result<Reply, Refusal> {
    let kind = validate::call(call, caller.principal.as_deref())?;
    if kind == Type::Subscribe {
        return Err(Refusal::invalid("NotASubscription", "A SUBSCRIBE needs a stream of its own"));
    }
    let framework = speaker(draft, stream_id, call, caller)?;
    let missing = || Refusal::invalid("InvalidCall", "The call lacks its content");
    match kind {
        Type::Unknown | Type::Subscribe => {}
        Type::Teardown => teardown::by_key(draft, framework).map(|_| ())?,
        Type::Accept => {
            let body = call.accept.as_ref().ok_or_else(missing)?;
            accept::check_level(draft, body)?;
            accept::accept(draft, framework, body);
        }
        Type::Decline => decline::decline(draft, framework, call.decline.as_ref().ok_or_else(missing)?),
        Type::Revive => {
            let roles = call.revive.as_ref().map_or(&[][..], |revive| &revive.roles);
            revive::revive(draft, framework, roles);
        }
        Type::Suppress => {
            let roles = call.suppress.as_ref().map_or(&[][..], |suppress| &suppress.roles);
            revive::suppress(draft, framework, roles);
        }
        Type::Kill => kill::kill(draft, framework, call.kill.as_ref().ok_or_else(missing)?),
        Type::Shutdown => shutdown::shutdown(draft, framework, call.shutdown.as_ref().ok_or_else(missing)?),
        Type::Acknowledge => {
            update::acknowledge(draft, framework, call.acknowledge.as_ref().ok_or_else(missing)?);
        }
        Type::Reconcile => reconcile::reconcile(draft, framework, call.reconcile.as_ref().ok_or_else(missing)?),
        Type::ReconcileOperations => {
            let body = call.reconcile_operations.as_ref().ok_or_else(missing)?;
            operations::reconcile(draft, framework, body);
        }
        Type::Message => message::message(draft, framework, call.message.as_ref().ok_or_else(missing)?),
        Type::UpdateFramework => {
            let body = call.update_framework.as_ref().ok_or_else(missing)?;
            update_framework::update_framework(draft, framework, body)?;
        }
        Type::AcceptInverseOffers => {
            let body = call.accept_inverse_offers.as_ref().ok_or_else(missing)?;
            inverse::answer(draft, framework, &body.inverse_offer_ids, body.filters.as_ref(), true);
        }
        Type::DeclineInverseOffers => {
            let body = call.decline_inverse_offers.as_ref().ok_or_else(missing)?;
            inverse::answer(draft, framework, &body.inverse_offer_ids, body.filters.as_ref(), false);
        }
        Type::AcknowledgeOperationStatus => {
            let body = call.acknowledge_operation_status.as_ref().ok_or_else(missing)?;
            operations::acknowledge(draft, framework, body);
        }
        // No allocator here listens to requests: silently ignored.
        Type::Request => {}
    }
    Ok(Reply::Empty)
}

/// Who speaks, if they may.
fn speaker(draft: &Draft, stream_id: Option<&str>, call: &Call, caller: &Caller) -> Result<FrameworkKey, Refusal> {
    let id = call.framework_id.as_ref().map_or("", |id| id.value.as_str());
    let framework = draft
        .state
        .frameworks
        .by_id(id)
        .ok_or_else(|| Refusal::invalid("UnknownFramework", "Framework cannot be found"))?;
    if let (Some(authenticated), Some(own)) = (&caller.principal, &framework.principal)
        && **authenticated != **own
    {
        let message = format!(
            "Authenticated principal '{authenticated}' does not match principal '{own}' set in 'FrameworkInfo'"
        );
        return Err(Refusal::invalid("OtherPrincipal", message));
    }
    let Some(stream) = &framework.stream else {
        return Err(Refusal::new(RefusalKind::Forbidden, "NotSubscribed", "Framework is not subscribed"));
    };
    let Some(stream_id) = stream_id else {
        let message = "All non-subscribe calls should include the 'Mesos-Stream-Id' header";
        return Err(Refusal::invalid("NoStreamId", message));
    };
    if ids::ConnectionId::parse(stream_id) != Some(stream.connection.id) {
        let message = format!(
            "The stream ID '{stream_id}' included in this request didn't match the stream ID currently associated \
             with framework ID {id}"
        );
        return Err(Refusal::invalid("OtherStream", message));
    }
    Ok(framework.key)
}

#[cfg(test)]
mod tests {
    use crate::command::Caller;
    use crate::refusal::RefusalKind;
    use crate::testing::Cluster;
    use api::v1::scheduler::Call;
    use api::v1::scheduler::call::Type;

    #[test]
    fn only_the_current_stream_may_speak() {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe_with(|info| info.failover_timeout = Some(9.0));
        let call = cluster.call_of(framework, Type::Revive);
        let stream = cluster.stream_id(framework);
        let mut refused = |call: &Call, stream: Option<&str>| {
            let refusal = cluster.try_call(call, stream, &Caller::default()).unwrap_err();
            (refusal.kind, refusal.message)
        };
        let unknown = Call { framework_id: Some(api::v1::FrameworkId { value: "nosuch".into() }), ..call.clone() };
        assert_eq!(refused(&unknown, None), (RefusalKind::Invalid, "Framework cannot be found".into()));
        assert_eq!(refused(&call, None).1, "All non-subscribe calls should include the 'Mesos-Stream-Id' header");
        assert_eq!(
            refused(&call, Some("00000000-0000-0000-0000-000000000000")).1,
            "The stream ID '00000000-0000-0000-0000-000000000000' included in this request didn't match the stream ID \
             currently associated with framework ID C-0000"
        );
        assert!(cluster.try_call(&call, Some(&stream.to_uppercase()), &Caller::default()).is_ok());
        cluster.disconnect(framework);
        let refusal = cluster.try_call(&call, Some(&stream), &Caller::default()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Forbidden);
    }
}
