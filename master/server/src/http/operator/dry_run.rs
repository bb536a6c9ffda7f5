//! `POST /api/v1?dry_run=true`: what a call would do, as of an index. It is decided like any other, on a copy of the
//! state that nobody keeps, with the flags of the master that is asked.

use super::Operators;
use crate::http::{caller, legacy};
use crate::outcome::Refused;
use api::v1::master::Call;
use api_http::{Query, Response, StatusCode, Visitor};
use event_log::host;
use master_core::command::Command;
use master_core::{Decision, Event, Refusal, Reply, State, decide_with};
use serde_json::{Value, json};

/// Whether a call is only to be tried.
///
/// # Errors
/// The answer for a client that said neither true nor false: it must not be done by mistake.
pub fn is_wanted(query: &Query) -> Result<bool, Box<Response>> {
    match query.get("dry_run") {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Box::new(api_http::text(StatusCode::BAD_REQUEST, "'dry_run' is true or false"))),
    }
}

/// Answers with what `call` would do.
pub async fn answer(operators: &Operators, call: Box<Call>, stale: bool, visitor: &Visitor) -> Response {
    let context = &operators.context;
    let Ok(reading) = context.reader.read(stale).await else { return legacy::no_leader(context) };
    let (state, index, at_ms) = (reading.state.clone(), reading.index, context.clock.now_ms());
    let options = context.options();
    let caller = caller(visitor);
    let told = host::blocking(move || {
        let call_type = call.r#type().as_str_name();
        let decided = decide_with(&state, &Command::OperatorCall { call }, &caller, at_ms, options);
        told(call_type, index, &state, decided)
    });
    let response = match told.await {
        Ok(told) => api_http::json(&told),
        Err(_) => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The call could not be decided"),
    };
    crate::http::render::as_of(&reading, response)
}

fn told(call_type: &str, index: u64, state: &State, decided: Result<Decision, Refusal>) -> Value {
    let (events, after, refusal) = match decided {
        Ok(Decision { events, state, reply: Reply::Refused(refusal), .. }) => (events, Some(state), Some(refusal)),
        Ok(Decision { events, state, .. }) => (events, Some(state), None),
        Err(refusal) => (vec![], None, Some(refusal)),
    };
    let refusal = refusal
        .map(Refused::from)
        .map(|refused| json!({ "status": refused.status(), "name": refused.name, "message": refused.message }));
    // What is too large for one record would go on by itself.
    let goes_on = after.is_some_and(|after| after.unfinished != state.unfinished);
    json!({
        "dry_run": call_type,
        "index": index,
        "refusal": refusal,
        "events": events.iter().map(Event::to_string).collect::<Vec<_>>(),
        "goes_on": goes_on,
    })
}
