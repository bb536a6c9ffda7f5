//! Agents, and one of them.

use super::words::{Part, ROWS, amounts, facts, is_found, search, table, time};
use super::{Made, Page, tasks};
use master_core::ids::AgentKey;
use master_core::state::{Agent, AgentLiveness};
use master_core::view;
use maud::{Markup, html};

/// A link to an agent by its hostname.
pub(super) fn link(page: &Page<'_>, key: AgentKey) -> Markup {
    let id = view::agent_id(page.seen, key);
    match page.seen.agents.get(key) {
        Some(agent) => html! { a href=(page.link(&["agents", &id], &[])) title=(id) { (agent.hostname) } },
        None => html! { span { (id) } },
    }
}

fn standing(page: &Page<'_>, agent: &Agent) -> Markup {
    let drain = page.seen.drains.get(agent.key);
    html! {
        @match agent.liveness {
            AgentLiveness::Connected { .. } => { span class="good" { "connected" } }
            AgentLiveness::Disconnected { since_ms, .. } => { span class="bad" { "away since " (time(since_ms)) } }
            AgentLiveness::Unreachable { since_ms } => { span class="bad" { "unreachable since " (time(since_ms)) } }
        }
        @if let Some(drain) = drain { ", " @if drain.drained_ms.is_some() { "drained" } @else { "draining" } }
        @else if agent.deactivated { ", deactivated" }
    }
}

pub(super) fn list(page: &Page<'_>) -> (String, Markup) {
    let part = Part::of(page);
    let found: Vec<&Agent> = page
        .seen
        .agents
        .live
        .values()
        .map(|agent| &**agent)
        .filter(|agent| is_found(page, &[&agent.hostname, &agent.address, &view::agent_id(page.seen, agent.key)]))
        .collect();
    let rows: Vec<Markup> = found
        .iter()
        .skip(part.skip)
        .take(ROWS)
        .map(|agent| {
            html! { tr {
                th scope="row" { (link(page, agent.key)) }
                td { (agent.address) }
                td { (standing(page, agent)) }
                td { (page.seen.tasks.on(agent.key).count()) }
                td { (amounts(&agent.total)) }
                td { (amounts(&agent.used)) }
            } }
        })
        .collect();
    let content = html! {
        (search(page, "Hostname, address or id"))
        (table("Agents", &["Agent", "Address", "State", "Tasks", "Has", "Used"], &rows))
        (part.links(page, found.len()))
    };
    ("Agents".to_owned(), content)
}

pub(super) fn one(page: &Page<'_>, id: &str) -> Made {
    let agent = page.seen.agents.get(view::parse_agent_id(page.seen, id)?)?;
    let pairs = [
        ("Id", html! { code { (id) } }),
        ("Address", html! { (agent.address) }),
        ("State", standing(page, agent)),
        ("Version", html! { (agent.version) }),
        ("Registered", time(agent.registered_ms)),
        ("Has", html! { (agent.total) }),
        ("Used", html! { (agent.used.unallocate()) }),
        ("Offered", html! { (agent.offered.unallocate()) }),
        ("Orders on their way", html! { (agent.outbox.len()) }),
    ];
    let on: Vec<_> = page.seen.tasks.on(agent.key).take(ROWS).collect();
    let content = html! {
        (facts(&pairs))
        (tasks::table_of(page, "Tasks", &on))
        p { a href=(page.link(&["tasks"], &[("q", id)])) { "All tasks of this agent" } " "
            a href=(page.link(&["explain", "agent", id], &[])) { "Its story" } }
    };
    Some((format!("Agent {}", agent.hostname), content))
}
