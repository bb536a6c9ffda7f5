//! Sentences for tokens that agents join by, and for whom agents are.

use super::Sentence;
use super::story::Story;
use api::time::shown as time;
use master_core::State;
use master_core::event::Event;
use std::sync::Arc;

/// One event of it. `before` is the state before it.
pub(crate) fn sentence(story: &Story, before: &State, event: &Event) -> Option<Sentence> {
    Some(Sentence::new(match event {
        Event::JoinTokenMinted(event) => {
            let who = operator(event.by.as_ref());
            let whom = match event.agent {
                Some(agent) => format!("{} to come back by", story.agent(agent)),
                None if event.uses == 1 => format!("one agent of principal {} to join by", event.principal),
                None => format!("{} agents of principal {} to join by", event.uses, event.principal),
            };
            let note = if event.note.is_empty() { String::new() } else { format!(" ({})", event.note) };
            format!("{who} made token {} for {whom} until {}{note}.", event.token, time(event.until_ms))
        }
        Event::JoinTokenRevoked(event) => format!("{} took token {} back.", operator(event.by.as_ref()), event.token),
        Event::JoinTokenForgotten(event) => format!("Token {} is over and forgotten.", event.token),
        Event::AgentJoined(event) => {
            let minted = before.identities.tokens.get(&event.token);
            let by =
                minted.and_then(|token| token.by.as_ref()).map_or(String::new(), |by| format!(", which {by} made"));
            let note = minted.map(|token| &token.note).filter(|note| !note.is_empty());
            let note = note.map_or(String::new(), |note| format!(" ({note})"));
            format!(
                "{} joined as {} by token {}{by}{note}; its identity {} is good until {}.",
                story.agent(event.agent),
                event.principal,
                event.token,
                event.identity,
                time(event.until_ms)
            )
        }
        Event::AgentIdentityMoved(event) => {
            format!("{} has the identity that it had as {}.", story.agent(event.agent), story.agent(event.from))
        }
        Event::AgentIdentityRotated(event) => format!(
            "{} changed its identity: {} is good until {}.",
            story.agent(event.agent),
            event.identity,
            time(event.until_ms)
        ),
        Event::AgentRotationWanted(event) => {
            format!("{} wants {} to change its identity.", operator(event.by.as_ref()), story.agent(event.agent))
        }
        Event::AgentIdentityRevoked(event) => {
            format!("{} revoked the identity of {}.", operator(event.by.as_ref()), story.agent(event.agent))
        }
        Event::AgentBound(event) => {
            format!("{} came as principal {} and is bound to it.", story.agent(event.agent), event.principal)
        }
        Event::AgentIdentityForgotten(event) => match &event.by {
            Some(by) => format!("{by} let {} come as another principal.", story.agent(event.agent)),
            None => format!("Whom {} was known as is forgotten.", story.agent(event.agent)),
        },
        _ => return None,
    }))
}

fn operator(by: Option<&Arc<str>>) -> String {
    by.map_or_else(|| "An operator".to_owned(), |by| by.to_string())
}
