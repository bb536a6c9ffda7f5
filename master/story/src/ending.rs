//! How the subject of a story stands in the end, from the state after the last record.

use super::phrase::{count, milli, percent, span, task_state};
use super::story::{Story, plain};
use super::{Topic, roles};
use api::resources::Name;
use api::time::shown as time;
use master_core::allocator::{Options, Reason, WhyNot, plan, reasons, standings, words};
use master_core::ids::FrameworkKey;
use master_core::state::{Agent, AgentLiveness, Framework, Task};
use master_core::view;
use std::collections::BTreeMap;
use std::sync::Arc;

/// So many reasons of a kind are told by agent; of more, how many there are.
const AGENTS_MAX: usize = 5;

/// What the story is about.
pub(crate) fn title(story: &Story) -> String {
    let subject = &story.subject;
    let of = match subject.topic {
        Topic::Task => {
            let frameworks: Vec<_> = story.tasks.iter().map(|(framework, _)| story.framework(*framework)).collect();
            format!(" of {}", frameworks.join(", of "))
        }
        Topic::Agent => agent(story).map_or(String::new(), |agent| format!(" ({})", agent.hostname)),
        Topic::Framework | Topic::Offer | Topic::Role | Topic::Cluster => String::new(),
    };
    format!("The story of {} {}{}", subject.word(), subject.id, if of == " of " { "" } else { &of })
}

/// How it stands.
pub(crate) fn ending(story: &Story) -> Vec<String> {
    let lines = match story.subject.topic {
        Topic::Task => of_task(story),
        Topic::Agent => of_agent(story),
        Topic::Framework => of_framework(story),
        Topic::Offer => of_offer(story),
        Topic::Role => of_role(story, &story.subject.id),
        Topic::Cluster => Vec::new(),
    };
    let mut text = vec![format!("At the end, {}:", time(story.state.at_ms))];
    text.extend(lines.into_iter().map(|line| format!("  {line}")));
    text
}

fn of_task(story: &Story) -> Vec<String> {
    let state = &story.state;
    let mut lines = Vec::new();
    for task in story.live() {
        let agent = story.agent(task.agent);
        let held = if task.released { "holds nothing any more" } else { "holds its resources" };
        let waiting = match task.updates.len() {
            0 => String::new(),
            waiting => format!("; {} of it not acknowledged by its framework yet", count(waiting, "update")),
        };
        let age = span(state.at_ms.saturating_sub(task.launched_ms));
        let kill = if task.kill_requested { ", a kill was ordered" } else { "" };
        lines.push(format!(
            "it is {} on {agent} and {held}{kill}, {age} after its launch{waiting}.",
            task_state(task.state)
        ));
        if let Some(away) = state.agents.get(task.agent).and_then(|agent| away(agent, state.at_ms)) {
            lines.push(format!("{agent} is {away}."));
        }
    }
    let completed = state.tasks.completed.values().filter(|task| story.tasks.contains(&task.key()));
    let over = completed.map(|task: &Arc<Task>| {
        format!(
            "it is over as {}; it was launched at {} on {}.",
            task_state(task.state),
            time(task.launched_ms),
            story.agent(task.agent)
        )
    });
    lines.extend(over);
    if lines.is_empty() {
        lines.push(match &story.refused {
            Some(why) => format!("it never ran: {why}"),
            None => "the masters do not remember it any more.".to_owned(),
        });
    }
    lines
}

fn away(agent: &Agent, at_ms: u64) -> Option<String> {
    match agent.liveness {
        AgentLiveness::Connected { .. } => None,
        AgentLiveness::Disconnected { since_ms, deadline_ms } => {
            let since = span(at_ms.saturating_sub(since_ms));
            Some(format!("away for {since}, and unreachable from {} on", time(deadline_ms)))
        }
        AgentLiveness::Unreachable { since_ms } => {
            Some(format!("unreachable for {}", span(at_ms.saturating_sub(since_ms))))
        }
    }
}

fn agent(story: &Story) -> Option<&Agent> {
    let mut agents = story.state.agents.live.values();
    agents.find(|agent| story.subject.is(&format!("S{}", agent.key.0))).map(Arc::as_ref)
}

fn of_agent(story: &Story) -> Vec<String> {
    let state = &story.state;
    let Some(agent) = agent(story) else {
        let gone = state.agents.gone.iter().find(|(key, _)| story.subject.is(&format!("S{}", key.0)));
        return vec![match gone {
            Some((_, gone)) => format!("it is over for good since {}: {}.", time(gone.at_ms), gone.reason),
            None => "the masters do not know it.".to_owned(),
        }];
    };
    let liveness = away(agent, state.at_ms).unwrap_or_else(|| "connected".to_owned());
    let deactivated = match state.drains.get(agent.key) {
        Some(drain) => match drain.drained_ms {
            Some(at_ms) => format!(", and drained since {}", time(at_ms)),
            None => {
                let left = state.tasks.on(agent.key).count();
                format!(", and is to be empty since {}: {} left", time(drain.since_ms), count(left, "task"))
            }
        },
        None if agent.deactivated => ", and an operator wants no offers of it".to_owned(),
        None => String::new(),
    };
    let tasks = state.tasks.on(agent.key).filter(|task| !task.is_terminal()).count();
    let maintenance = state.maintenance.unavailability(agent).map(|from| {
        let at_ms = u64::try_from(from.start_ns / 1_000_000).unwrap_or(0);
        format!("its machine is to be unavailable from {} on.", time(at_ms))
    });
    let mut lines = vec![
        format!("it is {liveness}{deactivated}."),
        format!(
            "{} on it; {} ordered and not yet in its log.",
            count(tasks, "task"),
            count(agent.outbox.len(), "thing")
        ),
        format!("in use {}; offered {}; free {}.", some(&agent.used), some(&agent.offered), some(&agent.free())),
    ];
    lines.extend(maintenance);
    lines
}

fn some(resources: &api::resources::Resources) -> String {
    if resources.is_empty() { "nothing".to_owned() } else { plain(resources) }
}

fn of_framework(story: &Story) -> Vec<String> {
    let state = &story.state;
    let is = |framework: &&Arc<Framework>| {
        story.subject.is(&framework.id) || story.subject.is(&format!("F{}", framework.key.0))
    };
    let Some(framework) = state.frameworks.live.values().find(is) else {
        return vec!["it is over.".to_owned()];
    };
    let liveness = match (framework.disconnected_ms, framework.failover_deadline_ms) {
        (Some(since_ms), Some(deadline_ms)) => format!(
            "it is away for {}, and is removed at {} unless it returns.",
            span(state.at_ms.saturating_sub(since_ms)),
            time(deadline_ms)
        ),
        _ => "it has a stream.".to_owned(),
    };
    let tasks = state.tasks.of(framework.key).filter(|task| !task.is_terminal()).count();
    let (offers, declined) = (state.offers.to(framework.key).count(), framework.declined_offers);
    let mut lines = vec![
        liveness,
        format!("{}; {} outstanding, {declined} declined so far.", count(tasks, "task"), count(offers, "offer")),
    ];
    lines.extend(not_offered(story, |reason| reason.framework == framework.key));
    lines
}

fn of_offer(story: &Story) -> Vec<String> {
    let mut offers = story.state.offers.live.values();
    match offers.find(|offer| story.subject.is(&format!("O{}", offer.key.0))) {
        Some(offer) => {
            let age = span(story.state.at_ms.saturating_sub(offer.at_ms));
            vec![format!("{} has not answered it for {age}.", story.framework(offer.framework))]
        }
        None => vec![story.answered.as_ref().map_or("it is over.".to_owned(), |answered| format!("{answered}."))],
    }
}

fn of_role(story: &Story, role: &str) -> Vec<String> {
    let state = &story.state;
    let mut lines = Vec::new();
    let options = Options::default();
    let now = standings(state, &options, &Default::default());
    for standing in &now {
        let held = share(standing.dominant.as_ref(), standing.held_milli, standing.total_milli);
        let mark = if *standing.role == *role { "this role" } else { "role" };
        lines.push(format!("{mark} {} holds {held} as its dominant share.", standing.role));
        if *standing.role == *role {
            for framework in &standing.frameworks {
                let held = share(framework.dominant.as_ref(), framework.held_milli, framework.total_milli);
                lines.push(format!("  {} of it holds {held}.", story.framework(framework.framework)));
            }
        }
    }
    let members = state.frameworks.live.values().filter(|framework| framework.roles.contains_key(role)).count();
    if members == 0 {
        lines.push("no framework has this role.".to_owned());
    }
    lines.extend(roles::standing(state, role));
    let outstanding = state.offers.live.values().filter(|offer| *offer.role == *role).count();
    lines.push(format!("{} of it outstanding.", count(outstanding, "offer")));
    lines.extend(not_offered(story, |reason| *reason.role == *role));
    lines
}

fn share(dominant: Option<&Name>, held_milli: u64, total_milli: u64) -> String {
    match dominant {
        Some(name) => {
            format!("{} of {name} ({} of {})", percent(held_milli, total_milli), milli(held_milli), milli(total_milli))
        }
        None => "nothing".to_owned(),
    }
}

/// Whom the allocator offers nothing, for which role, and why.
type Kind = (FrameworkKey, Arc<str>, String);

/// What the allocator would answer now: whom of these it would offer what, and why not more.
fn not_offered(story: &Story, wanted: impl Fn(&Reason) -> bool) -> Vec<String> {
    let state = &story.state;
    let options = Options::default();
    let next = plan(state, state.at_ms, &options);
    let mut lines = Vec::new();
    for group in &next.groups {
        let asked = Reason { framework: group.framework, role: group.role.clone(), agent: None, why: WhyNot::NoAgents };
        if wanted(&asked) {
            let (who, offers) = (story.framework(group.framework), count(group.offers.len(), "offer"));
            lines.push(format!("the allocator's next plan has {offers} for {who} in role {}.", group.role));
        }
    }
    // Reasons of a kind together, in the order in which they come up.
    let mut kinds: Vec<(Kind, Vec<String>)> = Vec::new();
    let mut known: BTreeMap<Kind, usize> = BTreeMap::new();
    for reason in reasons(state, state.at_ms, &options, &next).into_iter().filter(wanted) {
        let kind = (
            reason.framework,
            reason.role.clone(),
            words(&reason.why, state.at_ms, |framework| story.framework(framework)),
        );
        let at = *known.entry(kind.clone()).or_insert_with(|| {
            kinds.push((kind, Vec::new()));
            kinds.len() - 1
        });
        kinds[at].1.extend(reason.agent.map(|agent| view::agent_id(state, agent)));
    }
    for ((framework, role, why), agents) in kinds {
        let of = match agents.len() {
            0 => "anything".to_owned(),
            1..=AGENTS_MAX => agents.join(", "),
            many => format!("{many} agents ({}, ...)", agents[..AGENTS_MAX].join(", ")),
        };
        lines.push(format!("{} is not offered {of} in role {role}: {why}.", story.framework(framework)));
    }
    lines
}
