//! `/maintenance/schedule`, `/maintenance/status`, `/machine/down` and `/machine/up`: the maintenance of machines as
//! version 0 reads and writes it. What is written becomes the call of version 1 that says the same.

use crate::http::operator::Operators;
use api::json::{Error, Fault};
use api::v1;
use api::v1::master::call::{self, Type};
use api_http::{BODY_BYTES_MAX, Request, Response, StatusCode, Visitor};
use master_core::command::Command;
use master_core::state::State;
use master_core::view;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The schedule, as a whole.
    Schedule,
    /// Machines go down.
    Down,
    /// Machines come up.
    Up,
}

/// The schedule.
pub fn schedule(state: &State) -> Vec<u8> {
    sorted(&view::maintenance_schedule(state))
}

/// Which machines drain or are down.
pub fn status(state: &State) -> Vec<u8> {
    sorted(&view::maintenance_status(state))
}

/// Keys by the alphabet, as this version has them.
fn sorted<T: api::wire::Wire>(message: &T) -> Vec<u8> {
    api::json::to_value(message).to_string().into_bytes()
}

/// Has a change decided.
pub async fn change(operators: &Operators, change: Change, request: Request, visitor: &Visitor) -> Response {
    let (parts, body) = request.into_parts();
    let body = match api_http::read_body(&parts.headers, body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    match read(change, &body) {
        Ok(call) => operators.change(Command::OperatorCall { call: Box::new(call) }, visitor).await,
        Err(sentence) => api_http::text(StatusCode::BAD_REQUEST, &sentence),
    }
}

fn read(change: Change, body: &[u8]) -> Result<v1::master::Call, String> {
    let mut call = v1::master::Call::default();
    if change == Change::Schedule {
        let schedule = of_type(body, b'{', body)?;
        call.set_type(Type::UpdateMaintenanceSchedule);
        call.update_maintenance_schedule = Some(call::UpdateMaintenanceSchedule { schedule });
        return Ok(call);
    }
    // A bare list is no message.
    let whole = [br#"{"machines":"#, body, b"}"].concat();
    let call::StartMaintenance { machines } = of_type(body, b'[', &whole)?;
    if change == Change::Down {
        call.set_type(Type::StartMaintenance);
        call.start_maintenance = Some(call::StartMaintenance { machines });
    } else {
        call.set_type(Type::StopMaintenance);
        call.stop_maintenance = Some(call::StopMaintenance { machines });
    }
    Ok(call)
}

/// What `whole` says, if `body` is JSON that begins like this.
fn of_type<T: api::wire::Wire>(body: &[u8], first: u8, whole: &[u8]) -> Result<T, String> {
    if let Err(Error { fault: Fault::Syntax(what), .. }) = api::json::from_slice::<v1::MachineId>(body) {
        return Err(what);
    }
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&first) {
        return Err("Unexpected JSON type parsed".into());
    }
    api::json::from_slice(whole).map_err(|error| match error.fault {
        Fault::Syntax(what) | Fault::Conversion(what) => what,
        Fault::Missing(paths) => format!("Missing required fields: {}", paths.join(", ")),
        Fault::OverBudget(why) => why.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_said_as_known() {
        let said = |change, body: &str| read(change, body.as_bytes()).unwrap_err();
        assert_eq!(said(Change::Schedule, "{}x"), "Parsed JSON included non-whitespace trailing characters: x");
        assert_eq!(said(Change::Schedule, "[]"), "Unexpected JSON type parsed");
        let window = r#"{"windows": [{"machine_ids": [{"hostname": "h"}]}]}"#;
        assert_eq!(said(Change::Schedule, window), "Missing required fields: windows[0].unavailability");
        assert_eq!(said(Change::Down, r#"{"hostname": "h"}"#), "Unexpected JSON type parsed");
        assert_eq!(said(Change::Up, "{x"), "syntax error at line 1 near: x");
    }

    #[test]
    fn what_is_read_is_the_newer_call() {
        let call = read(Change::Up, br#" [{"hostname": "h", "ip": "10.0.0.1"}]"#).unwrap();
        assert_eq!(call.stop_maintenance.unwrap().machines[0].hostname(), "h");
        assert_eq!(read(Change::Schedule, b"{}").unwrap().update_maintenance_schedule, Some(Default::default()));
    }
}
