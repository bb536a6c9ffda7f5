//! What is wrong with a call, whatever State is: pure checks in the order in which clients know them, with the texts
//! that they match on.

use crate::event::FrameworkTerms;
use crate::lengths;
use crate::lost::Options;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::frameworks::Capabilities;
use api::limits::{ID_BYTES_MAX, ROLES_MAX, quoted};
use api::v1;
use api::v1::framework_info::capability::Type as Capability;
use api::v1::scheduler::call::Type;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How far in seconds a duration of 64 bits of nanoseconds reaches.
const DURATION_SECONDS_MAX: f64 = 9_223_372_036.0;

fn refuse(message: impl AsRef<str>) -> Refusal {
    Refusal::invalid("InvalidCall", format!("Failed to validate scheduler::Call: {}", message.as_ref()))
}

/// Checks a scheduler's call as far as that needs no State. `principal` is who authenticated.
///
/// # Errors
/// A [`Refusal`] with the sentence for the caller.
pub fn call(call: &v1::scheduler::Call, principal: Option<&str>) -> Result<Type, Refusal> {
    let present =
        |name: &str, is: bool| if is { Ok(()) } else { Err(refuse(format!("Expecting '{name}' to be present"))) };
    present("type", call.r#type.is_some())?;
    let kind = call.r#type.and_then(|number| Type::try_from(number).ok()).unwrap_or(Type::Unknown);
    if kind == Type::Subscribe {
        present("subscribe", call.subscribe.is_some())?;
        if let Some(body) = &call.subscribe {
            subscribe(&body.framework_info, call.framework_id.as_ref().map(|id| id.value.as_str()), principal)?;
        }
        return Ok(kind);
    }
    present("framework_id", call.framework_id.is_some())?;
    match kind {
        Type::Unknown => return Err(Refusal::new(RefusalKind::NotImplemented, "UnknownCall", "")),
        Type::Subscribe | Type::Teardown | Type::Revive | Type::Suppress => {}
        Type::Accept => present("accept", call.accept.is_some())?,
        Type::Decline => present("decline", call.decline.is_some())?,
        Type::AcceptInverseOffers => present("accept_inverse_offers", call.accept_inverse_offers.is_some())?,
        Type::DeclineInverseOffers => present("decline_inverse_offers", call.decline_inverse_offers.is_some())?,
        Type::Kill => present("kill", call.kill.is_some())?,
        Type::Shutdown => present("shutdown", call.shutdown.is_some())?,
        Type::Acknowledge => {
            present("acknowledge", call.acknowledge.is_some())?;
            uuid(call.acknowledge.as_ref().map(|body| body.uuid.len()))?;
        }
        Type::AcknowledgeOperationStatus => {
            present("acknowledge_operation_status", call.acknowledge_operation_status.is_some())?;
            uuid(call.acknowledge_operation_status.as_ref().map(|body| body.uuid.len()))?;
            let is_nil =
                |body: &v1::scheduler::call::AcknowledgeOperationStatus| body.uuid.iter().all(|byte| *byte == 0);
            if call.acknowledge_operation_status.as_ref().is_some_and(is_nil) {
                return Err(refuse("Not a valid UUID"));
            }
            let agent = call.acknowledge_operation_status.as_ref().and_then(|body| body.agent_id.as_ref());
            present("agent_id", agent.is_some())?;
        }
        Type::Reconcile => present("reconcile", call.reconcile.is_some())?,
        Type::ReconcileOperations => present("reconcile_operations", call.reconcile_operations.is_some())?,
        Type::Message => present("message", call.message.is_some())?,
        Type::Request => present("request", call.request.is_some())?,
        Type::UpdateFramework => {
            present("update_framework", call.update_framework.is_some())?;
            let inner = call.update_framework.as_ref().and_then(|body| body.framework_info.id.as_ref());
            if call.framework_id.as_ref() != inner {
                return Err(refuse("'framework_id' differs from 'update_framework.framework_info.id'"));
            }
        }
    }
    lengths::call(call).map_err(|why| Refusal::invalid("TooLarge", why))?;
    Ok(kind)
}

fn uuid(length: Option<usize>) -> Result<(), Refusal> {
    if length == Some(16) { Ok(()) } else { Err(refuse("Not a valid UUID")) }
}

/// The part of [`call`] that concerns SUBSCRIBE.
///
/// # Errors
/// A [`Refusal`] with the sentence for the caller.
pub fn subscribe(info: &v1::FrameworkInfo, framework_id: Option<&str>, principal: Option<&str>) -> Result<(), Refusal> {
    if info.id.as_ref().map(|id| id.value.as_str()) != framework_id {
        return Err(refuse("'framework_id' differs from 'subscribe.framework_info.id'"));
    }
    match (principal, info.principal.as_deref()) {
        (Some(authenticated), Some(claimed)) if authenticated != claimed => Err(refuse(format!(
            "Authenticated principal '{authenticated}' does not match principal '{claimed}' set in 'FrameworkInfo'"
        ))),
        _ => Ok(()),
    }
}

/// What a framework's info says, or what is wrong with it.
pub(crate) fn framework(info: &v1::FrameworkInfo, suppressed: &[String]) -> Result<FrameworkTerms, String> {
    lengths::framework(info)?;
    let capabilities = capabilities(info);
    let roles = framework_roles(info, capabilities.multi_role)?;
    if let Some(id) = info.id.as_ref().filter(|id| !id.value.is_empty()) {
        self::id(&id.value).map_err(|why| format!("'FrameworkInfo.id' is invalid: {why}"))?;
    }
    let timeout = info.failover_timeout.unwrap_or(0.0);
    if timeout.is_nan() || timeout.abs() > DURATION_SECONDS_MAX {
        return Err("'FrameworkInfo.failover_timeout' is invalid: Argument out of the range that a Duration can \
                    represent due to int64_t's size limit"
            .to_owned());
    }
    for role in suppressed {
        if !roles.iter().any(|known| **known == **role) {
            let role = quoted(role);
            return Err(format!("Suppressed role '{role}' is not contained in the list of roles"));
        }
    }
    offer_filters(info)?;
    let suppressed: BTreeSet<&String> = suppressed.iter().collect();
    Ok(FrameworkTerms {
        capabilities,
        failover_timeout_ms: (timeout.max(0.0) * 1000.0).round() as u64,
        roles,
        suppressed: suppressed.into_iter().map(|role| role.as_str().into()).collect(),
    })
}

/// The least that a framework wants to be offered.
fn offer_filters(info: &v1::FrameworkInfo) -> Result<(), String> {
    let least = info.offer_filters.values().filter_map(|filters| filters.min_allocatable_resources.as_ref());
    for quantities in least.flat_map(|least| &least.quantities) {
        if quantities.quantities.is_empty() {
            return Err("Resource quantities must contain at least one quantity".to_owned());
        }
        for (name, quantity) in &quantities.quantities {
            let value = quantity.value;
            let what = match () {
                () if value.is_infinite() => "Infinite values",
                () if value.is_nan() => "NaN",
                () if value.is_subnormal() => "Subnormal values",
                () if value < 0.0 => "Negative values",
                () => continue,
            };
            return Err(format!("Invalid resource quantity for '{}': {what} not supported", quoted(name)));
        }
    }
    Ok(())
}

/// The same, if all of its roles are on the whitelist.
pub(crate) fn listed(terms: FrameworkTerms, options: &Options) -> Result<FrameworkTerms, String> {
    let unlisted: Vec<&str> = terms.roles.iter().map(|role| &**role).filter(|role| !options.lists(role)).collect();
    if unlisted.is_empty() {
        return Ok(terms);
    }
    Err(format!("Roles {{ {} }} are not present in the master's --roles", quoted(&unlisted.join(", "))))
}

/// The sentence for a principal that may not change: whose it is remains their secret.
pub(crate) const OTHER_PRINCIPAL: &str = "Changing framework's principal is not allowed.";

/// The sentence for a field that may not change.
pub(crate) fn changed(field: &str, from: &str, to: &str) -> String {
    format!("Updating 'FrameworkInfo.{field}' is unsupported; attempted to update from '{from}' to '{to}'")
}

fn capabilities(info: &v1::FrameworkInfo) -> Capabilities {
    let mut known = Capabilities::default();
    for capability in &info.capabilities {
        match capability.r#type.and_then(|number| Capability::try_from(number).ok()) {
            None | Some(Capability::Unknown) => {}
            Some(Capability::RevocableResources) => known.revocable_resources = true,
            Some(Capability::TaskKillingState) => known.task_killing_state = true,
            Some(Capability::GpuResources) => known.gpu_resources = true,
            Some(Capability::SharedResources) => known.shared_resources = true,
            Some(Capability::PartitionAware) => known.partition_aware = true,
            Some(Capability::MultiRole) => known.multi_role = true,
            Some(Capability::ReservationRefinement) => known.reservation_refinement = true,
            Some(Capability::RegionAware) => known.region_aware = true,
        }
    }
    known
}

/// The framework's roles in the order in which it names them. One with MULTI_ROLE may have none as yet.
#[allow(deprecated)] // Frameworks without MULTI_ROLE name their role so.
fn framework_roles(info: &v1::FrameworkInfo, multi_role: bool) -> Result<Vec<Arc<str>>, String> {
    if multi_role && info.role.is_some() {
        return Err("'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable".to_owned());
    }
    if !multi_role && !info.roles.is_empty() {
        return Err("'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable".to_owned());
    }
    lengths::count("roles", info.roles.len(), ROLES_MAX)?;
    info.roles.iter().chain(&info.role).try_for_each(|name| lengths::role(name))?;
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&str> =
        info.roles.iter().filter(|role| !seen.insert(role.as_str())).map(String::as_str).collect();
    if !twice.is_empty() {
        let twice: Vec<&str> = twice.into_iter().collect();
        return Err(format!("'FrameworkInfo.roles' contains duplicate items: {{ {} }}", twice.join(", ")));
    }
    for name in &info.roles {
        role(name).map_err(|why| format!("'FrameworkInfo.roles' contains invalid role: {why}"))?;
    }
    if let Some(name) = &info.role {
        role(name).map_err(|why| format!("'FrameworkInfo.role' is not a valid role: {why}"))?;
    }
    if !multi_role {
        return Ok(vec![info.role.as_deref().unwrap_or("*").into()]);
    }
    Ok(info.roles.iter().map(|role| role.as_str().into()).collect())
}

/// What is wrong with the name of a role.
pub(crate) fn role(name: &str) -> Result<(), String> {
    // Long names are not repeated.
    lengths::role(name)?;
    api::resources::role_problem(name).map_or(Ok(()), Err)
}

/// What is wrong with the id of a task, an executor or a framework.
pub(crate) fn id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("ID must not be empty".to_owned());
    }
    if id.len() > ID_BYTES_MAX {
        return Err(format!("ID must not be greater than {ID_BYTES_MAX} characters"));
    }
    if id == "." || id == ".." {
        return Err(format!("'{id}' is disallowed"));
    }
    if id.bytes().any(|byte| byte.is_ascii_control() || byte == b'/' || byte == b'\\') {
        return Err(format!("'{id}' contains invalid characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::scheduler::Call;

    fn refused(call: Call) -> String {
        super::call(&call, None).unwrap_err().message
    }

    #[test]
    fn calls_are_checked_in_the_known_order() {
        let framework_id = Some(v1::FrameworkId { value: "f".into() });
        let of = |kind: Type| Call { r#type: Some(kind as i32), ..Default::default() };
        let prefix = "Failed to validate scheduler::Call: ";
        assert_eq!(refused(Call::default()), format!("{prefix}Expecting 'type' to be present"));
        assert_eq!(refused(of(Type::Subscribe)), format!("{prefix}Expecting 'subscribe' to be present"));
        assert_eq!(refused(of(Type::Revive)), format!("{prefix}Expecting 'framework_id' to be present"));
        let accept = Call { framework_id: framework_id.clone(), ..of(Type::Accept) };
        assert_eq!(refused(accept), format!("{prefix}Expecting 'accept' to be present"));
        let acknowledge = v1::scheduler::call::Acknowledge { uuid: vec![0, 0, 0].into(), ..Default::default() };
        let acknowledge = Call { framework_id, acknowledge: Some(acknowledge), ..of(Type::Acknowledge) };
        assert_eq!(refused(acknowledge), format!("{prefix}Not a valid UUID"));
    }

    #[test]
    fn the_principal_must_be_the_one_who_authenticated() {
        let info = v1::FrameworkInfo { principal: Some("someone".into()), ..Default::default() };
        assert_eq!(
            subscribe(&info, None, Some("ops")).unwrap_err().message,
            "Failed to validate scheduler::Call: Authenticated principal 'ops' does not match principal 'someone' \
             set in 'FrameworkInfo'"
        );
        assert!(
            subscribe(&info, Some("b"), None)
                .unwrap_err()
                .message
                .ends_with("'framework_id' differs from 'subscribe.framework_info.id'")
        );
    }
}
