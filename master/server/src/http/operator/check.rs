//! What a call must be before it is looked at, in the order in which Mesos checks: content type, parse, validate,
//! accept. Clients match on the sentences.

use crate::http::watch::position::{NoPosition, Position};
use api::media::{self, Media, Rejection};
use api::resources::Resource;
use api::v1::master::Call;
use api::v1::master::call::Type;
use api_http::{HeaderMap, Query, Response, StatusCode, header};
use http::request::Parts;

/// How the body is encoded.
///
/// # Errors
/// The answer for the client.
pub fn request_media(headers: &HeaderMap) -> Result<Media, Box<Response>> {
    media::request_media(text(headers, header::CONTENT_TYPE)).map_err(rejected)
}

/// The call that was decoded, and how its answer is to be encoded.
///
/// # Errors
/// The answer for the client.
pub fn call(decoded: Result<Call, Rejection>, headers: &HeaderMap) -> Result<(Call, Media), Box<Response>> {
    let call = decoded.map_err(rejected)?;
    validate(&call).map_err(|sentence| bad(&format!("Failed to validate master::Call: {sentence}")))?;
    let media = media::accept(text(headers, header::ACCEPT)).map_err(rejected)?;
    if call.r#type() == Type::Unknown {
        return Err(Box::new(api_http::text(StatusCode::NOT_IMPLEMENTED, "501 Not Implemented.")));
    }
    Ok((call, media))
}

/// After which position a SUBSCRIBE goes on, if after any: in the call, or for people with curl in `?after=` or in the
/// header `Last-Event-ID`.
///
/// # Errors
/// The answer for the client.
pub fn position(call: &Call, parts: &Parts) -> Result<Option<Position>, Box<Response>> {
    if let Some(after) = call.subscribe.as_ref().and_then(|subscribe| subscribe.after.as_ref()) {
        return Ok(Some(after.into()));
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let header = parts.headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default());
    let Some(text) = query.get("after").or(header) else { return Ok(None) };
    text.parse().map(Some).map_err(|error: NoPosition| bad(&format!("'{text}' is no position: {error}")))
}

// Deprecated calls are checked like any other.
#[allow(deprecated)]
fn validate(call: &Call) -> Result<(), String> {
    let Some(call_type) = call.r#type.and_then(|number| Type::try_from(number).ok()) else {
        return Err("Expecting 'type' to be present".into());
    };
    let (field, present) = match call_type {
        Type::GetMetrics => ("get_metrics", call.get_metrics.is_some()),
        Type::SetLoggingLevel => ("set_logging_level", call.set_logging_level.is_some()),
        Type::ListFiles => ("list_files", call.list_files.is_some()),
        Type::ReadFile => ("read_file", call.read_file.is_some()),
        Type::UpdateWeights => ("update_weights", call.update_weights.is_some()),
        Type::ReserveResources => ("reserve_resources", call.reserve_resources.is_some()),
        Type::UnreserveResources => ("unreserve_resources", call.unreserve_resources.is_some()),
        Type::CreateVolumes => ("create_volumes", call.create_volumes.is_some()),
        Type::DestroyVolumes => ("destroy_volumes", call.destroy_volumes.is_some()),
        Type::GrowVolume => ("grow_volume", call.grow_volume.is_some()),
        Type::ShrinkVolume => ("shrink_volume", call.shrink_volume.is_some()),
        Type::UpdateMaintenanceSchedule => ("update_maintenance_schedule", call.update_maintenance_schedule.is_some()),
        Type::StartMaintenance => ("start_maintenance", call.start_maintenance.is_some()),
        Type::StopMaintenance => ("stop_maintenance", call.stop_maintenance.is_some()),
        Type::DrainAgent => ("drain_agent", call.drain_agent.is_some()),
        Type::DeactivateAgent => ("deactivate_agent", call.deactivate_agent.is_some()),
        Type::ReactivateAgent => ("reactivate_agent", call.reactivate_agent.is_some()),
        Type::UpdateQuota => ("update_quota", call.update_quota.is_some()),
        Type::SetQuota => ("set_quota", call.set_quota.is_some()),
        Type::RemoveQuota => ("remove_quota", call.remove_quota.is_some()),
        Type::Teardown => ("teardown", call.teardown.is_some()),
        Type::MarkAgentGone => ("mark_agent_gone", call.mark_agent_gone.is_some()),
        Type::Unknown
        | Type::GetHealth
        | Type::GetFlags
        | Type::GetVersion
        | Type::GetLoggingLevel
        | Type::GetState
        | Type::GetAgents
        | Type::GetFrameworks
        | Type::GetExecutors
        | Type::GetOperations
        | Type::GetTasks
        | Type::GetRoles
        | Type::GetWeights
        | Type::GetMaster
        | Type::Subscribe
        | Type::GetMaintenanceStatus
        | Type::GetMaintenanceSchedule
        | Type::GetQuota => return Ok(()),
    };
    if !present {
        return Err(format!("Expecting '{field}' to be present"));
    }
    let reserved = call.reserve_resources.iter().filter(|_| call_type == Type::ReserveResources);
    let unreserved = call.unreserve_resources.iter().filter(|_| call_type == Type::UnreserveResources);
    let named = reserved.flat_map(|body| &body.resources).chain(unreserved.flat_map(|body| &body.resources));
    for resource in named {
        Resource::from_v1(resource).map_err(|invalid| invalid.to_string())?;
    }
    Ok(())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn bad(sentence: &str) -> Box<Response> {
    Box::new(api_http::text(StatusCode::BAD_REQUEST, sentence))
}

fn rejected(rejection: Rejection) -> Box<Response> {
    let status = StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::BAD_REQUEST);
    Box::new(api_http::text(status, &rejection.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// The status of the answer, or the call's type and the media of its answer.
    fn checked(body: &'static str, pairs: &[(&'static str, &'static str)]) -> Result<(Type, Media), u16> {
        let headers = headers(pairs);
        let sent = request_media(&headers).map_err(|answer| answer.status().as_u16())?;
        let (call, media) = call(sent.decode(body.into()), &headers).map_err(|answer| answer.status().as_u16())?;
        Ok((call.r#type(), media))
    }

    #[test]
    fn content_type_then_parse_then_validate_then_accept() {
        let json = ("content-type", "application/json");
        assert_eq!(checked("hello", &[("accept", "text/html")]), Err(400), "no content type");
        assert_eq!(checked("hello", &[("content-type", "text/plain"), ("accept", "text/html")]), Err(415));
        assert_eq!(checked("hello", &[json, ("accept", "text/html")]), Err(400), "the body is looked at before Accept");
        assert_eq!(checked("{}", &[json, ("accept", "text/html")]), Err(400), "and validated");
        assert_eq!(checked(r#"{"type":"UNKNOWN"}"#, &[json, ("accept", "text/html")]), Err(406));
        assert_eq!(checked(r#"{"type":"UNKNOWN"}"#, &[json]), Err(501));
        assert_eq!(checked(r#"{"type":"LIST_FILES"}"#, &[json]), Err(400));
        assert_eq!(checked(r#"{"type":"GET_VERSION","nosuch":1}"#, &[json]), Ok((Type::GetVersion, Media::Json)));
        let nothing = r#"{"type":"RESERVE_RESOURCES","reserve_resources":{"agent_id":{"value":"S"},"resources":
            [{"name":"cpus","type":"SCALAR","scalar":{"value":-1}}]}}"#;
        assert_eq!(checked(nothing, &[json]), Err(400), "what is no resource is not reserved on any agent");
        let both = [json, ("accept", "application/x-protobuf")];
        assert_eq!(checked(r#"{"type":"GET_STATE"}"#, &both), Ok((Type::GetState, Media::Protobuf)));
    }
}
