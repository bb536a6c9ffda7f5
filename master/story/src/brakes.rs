//! Sentences for what operators pause, and for what frameworks want to be offered.

use super::Sentence;
use super::story::Story;
use master_core::State;
use master_core::event::Event;
use master_core::state::brakes::Brake;
use std::sync::Arc;

/// One event of it. `before` is the state before it.
pub(crate) fn sentence(story: &Story, before: &State, event: &Event) -> Option<Sentence> {
    Some(Sentence::new(match event {
        Event::OfferConstraintsSet(event) => {
            let who = story.framework(event.framework);
            if event.constraints.is_empty() {
                format!("{who} takes offers of every agent again.")
            } else {
                let message = story.state.constraints.message(event.framework);
                let roles: Vec<String> = message.role_constraints.keys().cloned().collect();
                format!("{who} said which agents it wants offers of, for {}.", roles.join(", "))
            }
        }
        Event::BrakePulled(event) => {
            let again = if before.brakes.pulled.contains_key(&event.brake) { ", for another reason now" } else { "" };
            let (who, what) = (operator(event.by.as_ref()), what(story, &event.brake));
            format!("{who} paused {what}{again}: {}.", event.why)
        }
        Event::BrakeReleased(event) => {
            let why = if event.why.is_empty() { String::new() } else { format!(": {}", event.why) };
            format!("{} released {}{why}.", operator(event.by.as_ref()), what(story, &event.brake))
        }
        _ => return None,
    }))
}

fn operator(by: Option<&Arc<str>>) -> String {
    by.map_or_else(|| "An operator".to_owned(), |by| by.to_string())
}

fn what(story: &Story, brake: &Brake) -> String {
    match brake {
        Brake::Allocation => "the allocation of everything".to_owned(),
        Brake::Role(role) => format!("the allocation to role {role}"),
        Brake::Framework(framework) => format!("the allocation to {}", story.framework(*framework)),
        Brake::NewFrameworks => "the admission of new frameworks".to_owned(),
    }
}
