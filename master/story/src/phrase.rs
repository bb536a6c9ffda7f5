//! Words and numbers of stories.

use api::v1;
use event_log::Cause;
use prost::Message;

pub use api::time::span;

/// `1 offer`, `2 offers`.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// Thousandths as people write them: `1500` is `1.5`.
pub fn milli(milli: u64) -> String {
    let (whole, rest) = (milli / 1000, milli % 1000);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{}", format!("{rest:03}").trim_end_matches('0')) }
}

/// A part of a whole: `37.5 %`.
pub fn percent(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000 + u128::from(whole.max(1)) / 2) / u128::from(whole.max(1));
    if tenths % 10 == 0 { format!("{} %", tenths / 10) } else { format!("{}.{} %", tenths / 10, tenths % 10) }
}

/// `TASK_RUNNING`, by its number.
pub fn task_state(number: i32) -> String {
    v1::TaskState::try_from(number).map_or_else(|_| format!("state {number}"), |state| state.as_str_name().to_owned())
}

/// `REASON_TASK_INVALID`, by its number.
pub fn reason(number: i32) -> String {
    let known = v1::task_status::Reason::try_from(number);
    known.map_or_else(|_| format!("reason {number}"), |reason| reason.as_str_name().to_owned())
}

/// What a status says beside its state, after the state: `TASK_FAILED (REASON_...): Command exited with status 1`.
pub fn status(state: i32, status: &[u8], at_ms: u64) -> String {
    let mut text = task_state(state);
    let Ok(status) = v1::TaskStatus::decode(status) else { return text };
    if let Some(number) = status.reason {
        text += &format!(" ({})", reason(number));
    }
    if let Some(message) = status.message.as_deref().filter(|message| !message.is_empty()) {
        text += &format!(": {message}");
    }
    // Floats of the wire stay at this edge.
    let made_ms = status.timestamp.map_or(at_ms, |seconds| (seconds.max(0.0) * 1000.0) as u64);
    let late_ms = at_ms.saturating_sub(made_ms);
    if late_ms >= LATE_MS {
        text += &format!(" (it was so since {}, {} earlier)", api::time::shown(made_ms), span(late_ms));
    }
    text
}

/// An update that took longer than this from its task to the log is late.
const LATE_MS: u64 = 1000;

/// Who did it: `ACCEPT from 127.0.0.1:40000 as alice`.
pub fn by(cause: &Cause) -> String {
    let mut text = cause.call.clone();
    if let Some(peer) = &cause.peer {
        text += &format!(" from {peer}");
    }
    if let Some(principal) = &cause.principal {
        text += &format!(" as {principal}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_say_them() {
        assert_eq!([0, 500, 1250, 3000].map(milli), ["0", "0.5", "1.25", "3"]);
        assert_eq!((percent(3, 8), percent(1, 3), percent(1, 2)), ("37.5 %".into(), "33.3 %".into(), "50 %".into()));
        assert_eq!((count(1, "offer"), count(0, "offer")), ("1 offer".into(), "0 offers".into()));
        assert_eq!((task_state(1), task_state(99)), ("TASK_RUNNING".into(), "state 99".into()));
    }
}
