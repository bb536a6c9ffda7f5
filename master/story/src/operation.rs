//! Sentences for agents in operation: drains, maintenance, and what agents can spare.

use super::Sentence;
use super::phrase::{count, span};
use super::story::{Story, plain};
use api::time::shown as time;
use master_core::State;
use master_core::event::{Event, Return};
use master_core::ids::{AgentKey, OfferKey};
use master_core::state::maintenance::{MachineId, Unavailability};

/// One event of an agent in operation. `before` is the state before it.
pub(crate) fn sentence(story: &mut Story, before: &State, event: &Event, at_ms: u64) -> Option<Sentence> {
    Some(match event {
        Event::AgentDrainStarted(event) => {
            let again = if before.drains.is_draining(event.agent) { "still wants" } else { "wants" };
            let most = match event.max_grace_ns {
                Some(most) => {
                    format!("; a task may take at most {} to end", span(u64::try_from(most / 1_000_000).unwrap_or(0)))
                }
                None => String::new(),
            };
            let gone = if event.mark_gone { "; it is over for good then" } else { "" };
            Sentence::new(format!("An operator {again} {} empty{most}{gone}.", story.agent(event.agent)))
        }
        Event::AgentDrainOrdered(event) => {
            Sentence::new(format!("{} can drain since it came back, and was ordered to.", story.agent(event.agent)))
        }
        Event::AgentDrained(event) => {
            let since_ms = before.drains.get(event.agent).map_or(at_ms, |drain| drain.since_ms);
            let took = span(at_ms.saturating_sub(since_ms));
            Sentence::new(format!("{} is drained, {took} after an operator wanted it.", story.agent(event.agent)))
        }
        Event::AgentDrainEnded(event) => {
            Sentence::new(format!("An operator wants {} in use again.", story.agent(event.agent)))
        }
        Event::AgentOversubscribed(event) => {
            let what = if event.resources.is_empty() { "nothing".to_owned() } else { plain(&event.resources) };
            let text = format!("{} can spare {what} for now.", story.agent(event.agent));
            Sentence::routine(text, "changes of what can be spared")
        }
        Event::AgentProvidersChanged(event) => {
            let each = event.providers.iter().map(|provider| match &provider.said {
                Some(said) if said.total.is_empty() => format!("{} with nothing", provider.id),
                Some(said) => format!("{} with {}", provider.id, plain(&said.total)),
                None => provider.id.to_string(),
            });
            let all: Vec<String> = each.collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            Sentence::new(format!("{} told of its resource providers: {all}.", story.agent(event.agent)))
        }
        Event::MaintenanceScheduled(event) => {
            if event.windows.is_empty() {
                return Some(Sentence::new("An operator ended the maintenance schedule."));
            }
            let windows = event
                .windows
                .iter()
                .map(|window| format!("{} from {}", machines(&window.machines), unavailable(window.unavailability)));
            Sentence::new(format!(
                "An operator wants machines unavailable: {}.",
                windows.collect::<Vec<_>>().join("; ")
            ))
        }
        Event::MachinesDown(event) => {
            Sentence::new(format!("An operator took {} down; no agent there is admitted.", machines(&event.machines)))
        }
        Event::MachinesUp(event) => Sentence::new(format!("An operator brought {} up.", machines(&event.machines))),
        Event::InverseOffersMade(event) => {
            let asked = event.groups.iter().map(|group| {
                let agents = group.agents.iter().map(|agent| story.agent(*agent)).collect::<Vec<_>>().join(", ");
                format!("{} to leave {agents}", story.framework(group.framework))
            });
            Sentence::new(format!("Asked {}.", asked.collect::<Vec<_>>().join("; ")))
        }
        Event::InverseOffersReturned(event) => {
            let why = match event.why {
                Return::Disconnected | Return::FailedOver | Return::Removed => "its stream ended",
                Return::Expired => "it did not answer in time",
                Return::MaintenanceChanged => "it is another time now",
                _ => "the agent is no longer in use",
            };
            let from = story.framework(event.framework);
            let agents = agents(story, before, event.offers.iter());
            Sentence::routine(
                format!("{from} need not answer whether it leaves {agents}: {why}."),
                "questions taken back",
            )
        }
        Event::InverseOffersAnswered(event) => {
            let will = if event.is_accepted { "will leave" } else { "does not want to leave" };
            let agents = agents(story, before, event.offers.iter());
            let again = match event.until_ms {
                Some(until_ms) => format!("; it is asked again after {}", time(until_ms)),
                None => String::new(),
            };
            Sentence::new(format!("{} {will} {agents}{again}.", story.framework(event.framework)))
        }
        _ => return None,
    })
}

fn agents(story: &Story, before: &State, offers: impl Iterator<Item = OfferKey>) -> String {
    let offers = offers.filter_map(|key| before.maintenance.inverse_offers.get(&key));
    let agents: Vec<AgentKey> = offers.map(|offer| offer.agent).collect();
    match agents.as_slice() {
        [] => "an agent".to_owned(),
        [agent] => story.agent(*agent),
        agents => count(agents.len(), "agent"),
    }
}

fn machines(machines: &[MachineId]) -> String {
    match machines {
        [machine] => format!("machine {}", machine.named()),
        machines => {
            let named: Vec<_> = machines.iter().map(MachineId::named).collect();
            format!("machines {}", named.join(", "))
        }
    }
}

fn unavailable(time_without: Unavailability) -> String {
    let milliseconds = |ns: i64| u64::try_from(ns / 1_000_000).unwrap_or(0);
    let start = time(milliseconds(time_without.start_ns));
    match time_without.duration_ns {
        Some(duration_ns) => format!("{start} for {}", span(milliseconds(duration_ns))),
        None => format!("{start} on"),
    }
}
