//! What operators said about roles, in sentences.

use super::Sentence;
use super::story::Story;
use api::resources::is_at_or_below;
use master_core::State;
use master_core::event::Event;
use master_core::state::roles::Quota;
use std::fmt::Display;

/// What became different for whom; of a story about a role only what concerns it.
pub(crate) fn sentence(story: &Story, before: &State, event: &Event) -> Option<Sentence> {
    let role_of_story = (story.subject.topic == super::Topic::Role).then_some(&*story.subject.id);
    let concerns = |role: &str| role_of_story.is_none_or(|subject| is_at_or_below(subject, role));
    let told: Vec<String> = match event {
        Event::QuotasSet(event) => {
            let changes = event.quotas.iter().filter(|change| concerns(&change.role));
            let changes = changes.map(|change| {
                let was = before.roles.quota(&change.role);
                let was = was.map_or(String::new(), |was| format!("; before, {}", quota(was)));
                match change.quota.is_nothing() {
                    true => format!("role {} has no quota any more{was}", change.role),
                    false => format!("role {} {}{was}", change.role, quota(&change.quota)),
                }
            });
            changes.collect()
        }
        Event::WeightsSet(event) => {
            let changes = event.weights.iter().filter(|change| concerns(&change.role));
            let changes = changes.map(|change| {
                let was = before.roles.weight(&change.role);
                format!("role {} counts {} among its siblings; before, {was}", change.role, change.weight)
            });
            changes.collect()
        }
        _ => return None,
    };
    Some(Sentence::new(format!("An operator said: {}.", told.join(", and "))))
}

/// Whether it is about a role above this one, which counts for it, too.
pub(crate) fn is_over(event: &Event, subject: &str) -> bool {
    let is_over = |role: &str| role != subject && is_at_or_below(subject, role);
    match event {
        Event::QuotasSet(event) => event.quotas.iter().any(|change| is_over(&change.role)),
        _ => false,
    }
}

/// Whether operators said anything about the role.
pub(crate) fn knows(state: &State, role: &str) -> bool {
    state.roles.quota(role).is_some() || state.roles.weights.contains_key(role)
}

/// How the role stands.
pub(crate) fn standing(state: &State, role: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(weight) = state.roles.weights.get(role) {
        lines.push(format!("it counts {weight} among its siblings."));
    }
    for (of, known) in state.roles.quotas_over(role) {
        let consumed = or_nothing(&master_core::roles::consumed(state, of));
        let whose = if of == role { "it".to_owned() } else { format!("role {of} above it") };
        lines.push(format!("{whose} {}; it consumes {consumed}.", quota(known)));
    }
    lines
}

fn quota(quota: &Quota) -> String {
    let limits =
        if quota.limits.is_empty() { "has no limits".to_owned() } else { format!("may have at most {}", quota.limits) };
    if quota.guarantees.is_empty() { limits } else { format!("is guaranteed {} and {limits}", quota.guarantees) }
}

fn or_nothing(amounts: &impl Display) -> String {
    Some(amounts.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(|| "nothing".into())
}
