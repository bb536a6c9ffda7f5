//! Offered and used resources never exceed an agent, and everything else that is true of every State; and time goes on.

use master_core::State;

/// After the record at `index`.
pub fn check(index: u64, before: Option<&State>, state: &State) -> Result<(), String> {
    if before.is_some_and(|before| state.at_ms < before.at_ms) {
        return Err(format!("time goes back at index {index}"));
    }
    match master_core::invariants::check(state).first() {
        Some(violation) => Err(format!("{violation}, at index {index}")),
        None => Ok(()),
    }
}
