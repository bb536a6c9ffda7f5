//! What an operator has paused is offered nothing.

use api::resources::is_at_or_below;
use master_core::state::brakes::Brake;
use master_core::{Event, State};

/// The offers of a record, between the State before it and the one after it.
pub fn check(index: u64, before: Option<&State>, state: &State, events: &[Event]) -> Result<(), String> {
    let Some(before) = before else { return Ok(()) };
    let pulled = |brake: &&Brake| before.brakes.pulled.contains_key(*brake);
    let pulled: Vec<&Brake> = state.brakes.pulled.keys().filter(pulled).collect();
    for event in events {
        let Event::OffersMade(made) = event else { continue };
        for group in &made.groups {
            let holds = |brake: &&&Brake| match brake {
                Brake::Allocation => true,
                Brake::Role(role) => is_at_or_below(&group.role, role),
                Brake::Framework(framework) => group.framework == *framework,
                Brake::NewFrameworks => false,
            };
            if let Some(brake) = pulled.iter().find(holds) {
                return Err(format!(
                    "F{} is offered something at index {index}, in spite of {brake:?}",
                    group.framework.0
                ));
            }
        }
    }
    Ok(())
}
