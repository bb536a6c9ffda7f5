//! Sentences for offers and for what frameworks say of their roles.

use super::phrase::{count, span};
use super::story::{Story, plain};
use super::{Sentence, Topic};
use api::time::shown as time;
use master_core::event::{Event, OfferKeys, OffersMade, Return};
use master_core::ids::OfferKey;
use master_core::state::Offer;
use master_core::{State, view};
use std::sync::Arc;

/// One event of the life of offers. `before` is the state before it.
pub(crate) fn sentence(story: &mut Story, before: &State, event: &Event, at_ms: u64) -> Option<Sentence> {
    Some(match event {
        Event::OffersMade(event) => made(story, event),
        Event::OffersDeclined(event) => {
            let again = match event.until_ms.map(|until_ms| (until_ms, until_ms.saturating_sub(at_ms))) {
                Some((until_ms, left_ms)) => {
                    format!(
                        "; as much of the same agents is not offered again before {} (in {})",
                        time(until_ms),
                        span(left_ms)
                    )
                }
                None => String::new(),
            };
            let who = story.framework(event.framework);
            let what = answered(story, before, &event.offers, at_ms);
            story.answered = Some(format!("{who} declined it"));
            Sentence::routine(format!("{who} declined {what}{again}."), "declines")
        }
        Event::OffersReturned(event) => {
            let why = match event.why {
                Return::Disconnected => "its framework's stream ended",
                Return::FailedOver => "its framework subscribed again on another stream",
                Return::Removed => "its framework was removed",
                Return::AgentLost => "the agent is away or over",
                Return::AgentDeactivated => "an operator deactivated the agent",
                Return::AgentChanged => "the agent has other resources now",
                Return::Expired => "its time was up",
                Return::MaintenanceChanged => "the agent's machine is to be unavailable at another time",
                Return::RoleLeft => "its framework left the role",
                Return::Invalid => "it was named in a call with other, invalid ones",
                Return::QuotaSet => "quota changed, and it was in the way",
                Return::WeightsSet => "weights changed",
            };
            let what = answered(story, before, &event.offers, at_ms);
            story.answered = Some(format!("it was taken back: {why}"));
            let from = story.framework(event.framework);
            Sentence::routine(format!("Taken back from {from}: {what}; {why}."), "offers taken back")
        }
        Event::OffersAccepted(event) => {
            let who = story.framework(event.framework);
            let what = answered(story, before, &event.offers, at_ms);
            let left = event.unused.as_ref().map_or(String::new(), |unused| {
                let left_ms = unused.until_ms.saturating_sub(at_ms);
                format!(
                    "; what is left of it, {}, is not offered again for {}",
                    plain(&unused.resources),
                    span(left_ms)
                )
            });
            story.answered = Some(format!("{who} accepted it"));
            Sentence::new(format!("{who} accepted {what}{left}."))
        }
        Event::RolesRevived(event) => {
            let who = story.framework(event.framework);
            Sentence::new(format!("{who} wants offers for {} again, whatever it declined.", roles(&event.roles)))
        }
        Event::RolesSuppressed(event) => {
            let who = story.framework(event.framework);
            Sentence::new(format!("{who} wants no offers for {}.", roles(&event.roles)))
        }
        _ => return None,
    })
}

/// Of one plan, what concerns the subject.
fn made(story: &Story, event: &OffersMade) -> Sentence {
    let all: usize = event.groups.iter().map(|group| group.offers.0.len()).sum();
    let keys = (event.first.0..).take(all).map(OfferKey);
    let offers: Vec<&Arc<Offer>> = keys.filter_map(|key| story.state.offers.live.get(&key)).collect();
    let own: Vec<&Arc<Offer>> = offers.into_iter().filter(|offer| is_own(story, offer)).collect();
    let beside =
        if own.len() < all { format!(" (one plan made {} in all)", count(all, "offer")) } else { String::new() };
    match own.as_slice() {
        [] => Sentence::routine(format!("{} were made.", count(all, "offer")), "plans of offers"),
        [offer] => {
            let until = offer.expires_ms.map_or(String::new(), |at_ms| format!(", until {}", time(at_ms)));
            Sentence::routine(
                format!(
                    "The allocator offered {} as {} of {} to {} for role {}{until}{beside}.",
                    plain(&offer.resources),
                    view::offer_id(&story.state, offer.key),
                    story.agent(offer.agent),
                    story.framework(offer.framework),
                    offer.role
                ),
                "plans of offers",
            )
        }
        [first, .., last] => {
            let mut sum = api::resources::Resources::default();
            own.iter().for_each(|offer| sum.add(&offer.resources.unallocate()));
            let quantities = sum.quantities();
            let sum: Vec<_> = quantities
                .iter()
                .map(|(name, milli)| format!("{name}:{}", super::phrase::milli(milli.unsigned_abs())))
                .collect();
            let (first, last) = (view::offer_id(&story.state, first.key), last.key.0);
            let sum = sum.join("; ");
            let text =
                format!("The allocator made {} ({first} to O{last}), {sum} in all{beside}.", count(own.len(), "offer"));
            Sentence::routine(text, "plans of offers")
        }
    }
}

fn is_own(story: &Story, offer: &Offer) -> bool {
    let subject = &story.subject;
    match subject.topic {
        Topic::Task => false,
        Topic::Agent => subject.is(&format!("S{}", offer.agent.0)),
        Topic::Framework => {
            subject.is(&view::framework_id(&story.state, offer.framework))
                || subject.is(&format!("F{}", offer.framework.0))
        }
        Topic::Offer => subject.is(&format!("O{}", offer.key.0)),
        Topic::Role => subject.is(&offer.role),
        Topic::Cluster => true,
    }
}

/// The offers that are answered, and how long they stood.
fn answered(story: &Story, before: &State, keys: &OfferKeys, at_ms: u64) -> String {
    let offers: Vec<&Offer> = keys.iter().filter_map(|key| before.offers.get(key)).collect();
    let stood = |offer: &Offer| span(at_ms.saturating_sub(offer.at_ms));
    match offers.as_slice() {
        [] => count(keys.len(), "offer"),
        [offer] => format!(
            "offer {} of {} for role {} after {}",
            view::offer_id(before, offer.key),
            story.agent(offer.agent),
            offer.role,
            stood(offer)
        ),
        [first, ..] => {
            let named: Vec<_> = offers.iter().take(3).map(|offer| view::offer_id(before, offer.key)).collect();
            let more = if offers.len() > 3 { ", ..." } else { "" };
            format!("{} ({}{more}) after {}", count(offers.len(), "offer"), named.join(", "), stood(first))
        }
    }
}

fn roles(roles: &[Arc<str>]) -> String {
    let named: Vec<_> = roles.iter().map(ToString::to_string).collect();
    format!("role{} {}", if roles.len() == 1 { "" } else { "s" }, named.join(", "))
}
