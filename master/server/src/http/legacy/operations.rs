//! `/reserve`, `/unreserve`, `/create-volumes` and `/destroy-volumes`: forms with an agent and a JSON array of resources.

use crate::http::operator::Operators;
use api::v1;
use api::v1::master::call::{CreateVolumes, DestroyVolumes, ReserveResources, Type, UnreserveResources};
use api_http::{BODY_BYTES_MAX, Query, Request, Response, StatusCode, Visitor};
use master_core::command::Command;

/// Does what the form says.
pub(super) async fn answer(operators: &Operators, kind: Type, request: Request, visitor: &Visitor) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_body(&parts.headers, body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let form = Query::decode(&String::from_utf8_lossy(&body));
    match form.and_then(|form| call(kind, &form)) {
        Ok(call) => operators.change(Command::OperatorCall { call: Box::new(call) }, visitor).await,
        Err(why) => api_http::text(StatusCode::BAD_REQUEST, &why),
    }
}

fn call(kind: Type, form: &Query) -> Result<v1::master::Call, String> {
    let agent_id = form.get("slaveId").ok_or_else(|| missing("slaveId"))?;
    let agent_id = v1::AgentId { value: agent_id.to_owned() };
    let mut call = v1::master::Call::default();
    call.set_type(kind);
    match kind {
        Type::UnreserveResources => {
            let resources = resources(form, "resources", ERROR_IN)?;
            call.unreserve_resources = Some(UnreserveResources { agent_id, resources });
        }
        Type::CreateVolumes => {
            let volumes = resources(form, "volumes", ERROR_IN)?;
            call.create_volumes = Some(CreateVolumes { agent_id, volumes });
        }
        Type::DestroyVolumes => {
            let volumes = resources(form, "volumes", ERROR_IN)?;
            call.destroy_volumes = Some(DestroyVolumes { agent_id, volumes });
        }
        _ => {
            let list = resources(form, "resources", ERROR)?;
            let source = form.get("source").map_or(Ok(Vec::new()), |_| resources(form, "source", ERROR))?;
            call.reserve_resources = Some(ReserveResources { agent_id, source, resources: list });
        }
    }
    Ok(call)
}

fn missing(field: &str) -> String {
    format!("Missing '{field}' query parameter in the request body")
}

/// How the sentence about what cannot be read begins: for `/reserve`, and for the others. Clients know both.
const ERROR: &str = "Error parsing";
const ERROR_IN: &str = "Error in parsing";

fn resources(form: &Query, field: &str, error: &str) -> Result<Vec<v1::Resource>, String> {
    let text = form.get(field).ok_or_else(|| missing(field))?;
    let wrong = |why: String| format!("{error} '{field}' query parameter in the request body: {why}");
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| wrong(syntax(text, &error)))?;
    let serde_json::Value::Array(items) = value else { return Err(wrong("Unexpected JSON type parsed".to_owned())) };
    let plain = |error: api::json::Error| {
        let why = error.to_string();
        why.strip_prefix("Failed to convert JSON into Resource protobuf: ").unwrap_or(&why).to_owned()
    };
    items.iter().map(|item| api::json::from_value(item).map_err(|error| wrong(plain(error)))).collect()
}

/// Where it is no JSON.
fn syntax(text: &str, error: &serde_json::Error) -> String {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let near = line.get(error.column().saturating_sub(1)..).unwrap_or_default();
    format!("syntax error at line {} near: {}", error.line(), api::limits::quoted(near))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(form: &str) -> String {
        call(Type::ReserveResources, &Query::parse(form)).unwrap_err()
    }

    #[test]
    fn forms_are_read_as_known() {
        assert_eq!(refused(""), "Missing 'slaveId' query parameter in the request body");
        assert_eq!(refused("slaveId=S"), "Missing 'resources' query parameter in the request body");
        let wrong = "Error parsing 'resources' query parameter in the request body: ";
        assert_eq!(refused("slaveId=S&resources=%7Bx"), format!("{wrong}syntax error at line 1 near: x"));
        assert_eq!(refused("slaveId=S&resources=%7B%7D"), format!("{wrong}Unexpected JSON type parsed"));
        let typeless = "%5B%7B%22name%22:%22cpus%22%7D%5D";
        assert_eq!(
            refused(&format!("slaveId=S&resources={typeless}")),
            format!("{wrong}Missing required fields: type")
        );
        let wrong = "Error in parsing 'volumes' query parameter in the request body: Unexpected JSON type parsed";
        for kind in [Type::CreateVolumes, Type::DestroyVolumes] {
            assert_eq!(call(kind, &Query::parse("slaveId=S&volumes=%7B%7D")).unwrap_err(), wrong);
        }
        let call = call(Type::CreateVolumes, &Query::parse("slaveId=S&volumes=%5B%5D")).unwrap();
        assert_eq!(call.create_volumes.unwrap().agent_id.value, "S");
    }
}
