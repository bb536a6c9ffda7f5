//! `GET /identities`: the tokens that agents may join by, and whom agents are known as. `POST /identities`, with one of
//!
//! ```text
//! {"type": "MINT_JOIN_TOKEN",   "mint_join_token":   {"principal": "...", "life_secs": 3600, "uses": 1, "note": "..."}}
//! {"type": "MINT_JOIN_TOKEN",   "mint_join_token":   {"agent_id": "...", ...}}      for one agent, which comes back by it
//! {"type": "REVOKE_JOIN_TOKEN", "revoke_join_token": {"token": 3}}
//! {"type": "ROTATE_IDENTITY",   "rotate_identity":   {"agent_id": "..."}}
//! {"type": "REVOKE_IDENTITY",   "revoke_identity":   {"agent_id": "..."}}
//! {"type": "RELEASE_AGENT",     "release_agent":     {"agent_id": "..."}}           it may come as another principal
//! ```
//!
//! Any master takes it. Answered 200 when it is committed, a token's text with it, which is told once and kept nowhere.

use crate::http::operator::Operators;
use crate::outcome::Outcome;
use api::limits::SMALL_BODY_BYTES_MAX;
use api_http::{Request, Response, StatusCode, Visitor};
use master_core::command::{Command, Joining};
use master_core::ids::SecretHash;
use master_core::state::identities::Bound;
use master_core::{State, view};
use serde_json::{Map, Value, json};

/// Whom agents are that join by a token that says nothing else.
const PRINCIPAL: &str = "agents";
/// How long a token is good unless it says something else.
const LIFE_S: u64 = 3600;

pub(super) async fn change(operators: &Operators, request: Request, visitor: &Visitor) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_body(&parts.headers, body, SMALL_BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let token = api_http::new_join_token(event_log::host::random);
    let wanted = match parse(&body, SecretHash(api_http::join_token_hash(token.as_bytes()))) {
        Ok(wanted) => wanted,
        Err(sentence) => return api_http::text(StatusCode::BAD_REQUEST, &sentence),
    };
    let minted = match &wanted {
        Joining::Mint { hash, .. } => Some(*hash),
        _ => None,
    };
    let caller = crate::http::caller(visitor);
    let outcome = operators.context.reader.submit(Command::Join(wanted), caller).await;
    match (minted, &outcome) {
        (Some(hash), Outcome::Done { .. }) => {
            let state = operators.context.reader.state().0;
            let number = state.identities.token(&hash).map(|(key, _)| key.0);
            api_http::json(&json!({ "join_token": token, "token": number }))
        }
        _ => operators.told_of(outcome, StatusCode::OK),
    }
}

fn parse(body: &[u8], hash: SecretHash) -> Result<Joining, String> {
    let call: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("Not a JSON object: {error}"))?;
    let name = call.get("type").and_then(Value::as_str).filter(|name| Joining::NAMES.contains(name));
    let name = name.ok_or_else(|| format!("'type' is one of {}", Joining::NAMES.join(", ")))?;
    let field = name.to_ascii_lowercase();
    let known = |names: &[&str], object: &Map<String, Value>| {
        let other = object.keys().find(|name| !names.contains(&name.as_str()));
        other.map_or(Ok(()), |name| Err(format!("There is no field '{}' in it", api::limits::quoted(name))))
    };
    known(&["type", &field], &call)?;
    let wanted =
        call.get(&field).and_then(Value::as_object).ok_or_else(|| format!("Expecting '{field}' to be present"))?;
    let text = |name: &str| match wanted.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        // As v1 calls have it.
        Some(Value::Object(id)) if name == "agent_id" && id["value"].is_string() => {
            Ok(id["value"].as_str().map(str::to_owned))
        }
        Some(_) => Err(format!("'{name}' is a text")),
    };
    let number = |name: &str, default: Option<u64>| match wanted.get(name) {
        None => default.ok_or_else(|| format!("Expecting '{name}' to be present")),
        Some(value) => value.as_u64().ok_or_else(|| format!("'{name}' is a number from 0")),
    };
    let agent_id = || text("agent_id")?.ok_or_else(|| "Expecting 'agent_id' to be present".to_owned());
    if name == "MINT_JOIN_TOKEN" {
        known(&["principal", "agent_id", "uses", "life_secs", "note"], wanted)?;
        return Ok(Joining::Mint {
            hash,
            principal: text("principal")?.unwrap_or_else(|| PRINCIPAL.to_owned()),
            agent_id: text("agent_id")?,
            uses: u32::try_from(number("uses", Some(1))?).unwrap_or(u32::MAX),
            life_ms: number("life_secs", Some(LIFE_S))?.saturating_mul(1000),
            note: text("note")?.unwrap_or_default(),
        });
    }
    if name == "REVOKE_JOIN_TOKEN" {
        known(&["token"], wanted)?;
        return Ok(Joining::RevokeToken { token: number("token", None)? });
    }
    known(&["agent_id"], wanted)?;
    let agent_id = agent_id()?;
    Ok(match name {
        "ROTATE_IDENTITY" => Joining::Rotate { agent_id },
        "REVOKE_IDENTITY" => Joining::Revoke { agent_id },
        _ => Joining::Release { agent_id },
    })
}

/// The tokens that are not over, and whom agents are known as.
pub(super) fn list(state: &State) -> Value {
    let agent_id = |key| view::agent_id(state, key);
    let tokens = state.identities.tokens.iter().map(|(key, token)| {
        json!({
            "token": key.0,
            "principal": &*token.principal,
            "agent_id": token.agent.map(agent_id),
            "uses": token.uses_max,
            "used": token.used,
            "until_ms": token.until_ms,
            "minted_ms": token.minted_ms,
            "by": token.by.as_deref(),
            "note": &*token.note,
        })
    });
    let identities = state.identities.of_agents.iter().map(|(key, bound)| {
        let is_known = state.agents.get(*key).is_some();
        let mut one = match bound {
            Bound::Own { hash, principal, token, joined_ms, since_ms, until_ms, rotate } => json!({
                "is": "OWN",
                "principal": &**principal,
                "join_token": token.0,
                "joined_ms": joined_ms,
                "since_ms": since_ms,
                "until_ms": until_ms,
                "rotation_wanted": rotate,
                "identity": hash.to_string(),
            }),
            Bound::Revoked { by, since_ms, hash } => {
                json!({ "is": "REVOKED", "by": by.as_deref(), "since_ms": since_ms, "identity": hash.to_string() })
            }
            Bound::Principal { principal, since_ms } => {
                json!({ "is": "PRINCIPAL", "principal": &**principal, "since_ms": since_ms })
            }
        };
        one["agent_id"] = agent_id(*key).into();
        one["registered"] = is_known.into();
        one
    });
    json!({ "join_tokens": tokens.collect::<Vec<_>>(), "identities": identities.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_what_is_wanted_and_nothing_else() {
        let read = |text: &str| parse(text.as_bytes(), SecretHash([7; 32]));
        let mint =
            r#"{"type":"MINT_JOIN_TOKEN","mint_join_token":{"principal":"rack1","uses":3,"life_secs":60,"note":"n"}}"#;
        let minted = Joining::Mint {
            hash: SecretHash([7; 32]),
            principal: "rack1".into(),
            agent_id: None,
            uses: 3,
            life_ms: 60_000,
            note: "n".into(),
        };
        assert_eq!(read(mint).unwrap(), minted);
        let plain = read(r#"{"type":"MINT_JOIN_TOKEN","mint_join_token":{}}"#).unwrap();
        assert!(matches!(plain, Joining::Mint { uses: 1, life_ms: 3_600_000, .. }), "{plain:?}");
        let revoke = r#"{"type":"REVOKE_IDENTITY","revoke_identity":{"agent_id":{"value":"C-S0"}}}"#;
        assert_eq!(read(revoke).unwrap(), Joining::Revoke { agent_id: "C-S0".into() });
        for (wrong, says) in [
            ("[]", "Not a JSON object"),
            (r#"{"type":"MINT"}"#, "'type' is one of"),
            (r#"{"type":"MINT_JOIN_TOKEN"}"#, "Expecting 'mint_join_token'"),
            (r#"{"type":"MINT_JOIN_TOKEN","mint_join_token":{"use":1}}"#, "no field 'use'"),
            (r#"{"type":"MINT_JOIN_TOKEN","mint_join_token":{"uses":-1}}"#, "'uses' is a number"),
            (r#"{"type":"REVOKE_JOIN_TOKEN","revoke_join_token":{}}"#, "Expecting 'token'"),
            (r#"{"type":"ROTATE_IDENTITY","rotate_identity":{}}"#, "Expecting 'agent_id'"),
        ] {
            assert!(read(wrong).unwrap_err().contains(says), "{wrong}: {:?}", read(wrong));
        }
    }
}
