//! `POST /brakes`, with one of
//!
//! ```text
//! {"type": "PAUSE",  "pause":  {"why": "..."}}                              allocation for everybody
//! {"type": "PAUSE",  "pause":  {"role": "...", "why": "..."}}               for a role and those below it
//! {"type": "PAUSE",  "pause":  {"framework_id": "...", "why": "..."}}       for a framework
//! {"type": "PAUSE",  "pause":  {"new_frameworks": true, "why": "..."}}      frameworks that are not known are refused
//! {"type": "RESUME", "resume": {...}}                                       the same; "why" may be left out
//! ```
//!
//! Any master takes it. Answered 200 when it is committed, 400 with one sentence if it is no such call or refused.

use crate::http::operator::Operators;
use api::limits::SMALL_BODY_BYTES_MAX;
use api_http::{Request, Response, StatusCode, Visitor};
use master_core::command::{Command, What};
use master_core::state::brakes::Brake;
use master_core::{State, view};
use serde_json::{Map, Value, json};

pub(super) async fn change(operators: &Operators, request: Request, visitor: &Visitor) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_body(&parts.headers, body, SMALL_BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    match parse(&body) {
        Ok(command) => operators.change(command, visitor).await,
        Err(sentence) => api_http::text(StatusCode::BAD_REQUEST, &sentence),
    }
}

fn parse(body: &[u8]) -> Result<Command, String> {
    let call: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("Not a JSON object: {error}"))?;
    let (release, field) = match call.get("type").and_then(Value::as_str) {
        Some("PAUSE") => (false, "pause"),
        Some("RESUME") => (true, "resume"),
        _ => return Err("'type' is PAUSE or RESUME".into()),
    };
    let known = |names: &[&str], object: &Map<String, Value>| {
        let other = object.keys().find(|name| !names.contains(&name.as_str()));
        other.map_or(Ok(()), |name| Err(format!("There is no field '{}' in it", api::limits::quoted(name))))
    };
    known(&["type", field], &call)?;
    let wanted =
        call.get(field).and_then(Value::as_object).ok_or_else(|| format!("Expecting '{field}' to be present"))?;
    known(&["role", "framework_id", "new_frameworks", "why"], wanted)?;
    let text = |name: &str| match wanted.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        // As v1 calls have it.
        Some(Value::Object(id)) if name == "framework_id" && id["value"].is_string() => {
            Ok(id["value"].as_str().map(str::to_owned))
        }
        Some(_) => Err(format!("'{name}' is a text")),
    };
    let new = wanted.get("new_frameworks").map(|new| new.as_bool().ok_or("'new_frameworks' is true or false"));
    let what = match (text("role")?, text("framework_id")?, new.transpose()?.unwrap_or_default()) {
        (None, None, false) => What::Allocation,
        (Some(role), None, false) => What::Role(role),
        (None, Some(id), false) => What::Framework(id),
        (None, None, true) => What::NewFrameworks,
        _ => return Err("Only one of 'role', 'framework_id' and 'new_frameworks' may be named".into()),
    };
    Ok(Command::Brake { what, release, why: text("why")?.unwrap_or_default() })
}

/// What is paused, with the reasons.
pub(super) fn list(state: &State) -> Value {
    let brakes = state.brakes.pulled.iter().map(|(brake, pulled)| {
        let mut one = match brake {
            Brake::Allocation => json!({ "what": "ALLOCATION" }),
            Brake::Role(role) => json!({ "what": "ROLE", "role": &**role }),
            Brake::Framework(key) => {
                json!({ "what": "FRAMEWORK", "framework_id": view::framework_id(state, *key) })
            }
            Brake::NewFrameworks => json!({ "what": "NEW_FRAMEWORKS" }),
        };
        one["why"] = json!(&*pulled.why);
        one["by"] = json!(pulled.by.as_deref());
        one["since_ms"] = json!(pulled.since_ms);
        one
    });
    json!({ "brakes": brakes.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_names_one_thing() {
        let read = |text: &str| {
            parse(text.as_bytes()).map(|command| match command {
                Command::Brake { what, release, why } => format!("{what:?} {release} {why}"),
                other => format!("{other:?}"),
            })
        };
        assert_eq!(read(r#"{"type":"PAUSE","pause":{"why":"w"}}"#).unwrap(), "Allocation false w");
        assert_eq!(read(r#"{"type":"PAUSE","pause":{"role":"a/b","why":"w"}}"#).unwrap(), r#"Role("a/b") false w"#);
        assert_eq!(read(r#"{"type":"RESUME","resume":{"new_frameworks":true}}"#).unwrap(), "NewFrameworks true ");
        let id = r#"{"type":"RESUME","resume":{"framework_id":{"value":"f"}}}"#;
        assert_eq!(read(id).unwrap(), r#"Framework("f") true "#);
        for (bad, why) in [
            ("[]", "Not a JSON object"),
            (r#"{"type":"STOP"}"#, "'type' is PAUSE or RESUME"),
            (r#"{"type":"PAUSE"}"#, "Expecting 'pause' to be present"),
            (r#"{"type":"PAUSE","pause":{"roles":"a"}}"#, "There is no field 'roles'"),
            (r#"{"type":"PAUSE","pause":{"role":1}}"#, "'role' is a text"),
            (r#"{"type":"PAUSE","pause":{"role":"a","new_frameworks":true}}"#, "Only one of"),
        ] {
            assert!(read(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}
