//! What became different between two moments, as far as somebody sees both.

use super::words::{self, ROWS, facts, table, time};
use super::{Page, agents};
use master_core::state::roles::Quota;
use master_core::state::{Agent, AgentLiveness, Framework, Task};
use master_core::{State, view};
use maud::{Markup, html};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Two moments, with what is seen of them.
pub(super) struct Pair {
    pub(super) from: u64,
    pub(super) before: State,
    pub(super) to: u64,
    pub(super) after: State,
}

/// A line of a table: what it is, before, after.
struct Change {
    name: Markup,
    before: Option<String>,
    after: Option<String>,
}

pub(super) fn show(page: &Page<'_>, pair: &Pair) -> (String, Markup) {
    let Pair { from, before, to, after } = pair;
    let at = |index: &u64, state: &State| {
        html! { a href=(page.link(&[], &[("at", &index.to_string())])) { "index " (index) } ", " (time(state.at_ms)) }
    };
    let pairs = [("From", at(from, before)), ("To", at(to, after))];
    let (tasks_before, tasks_after) = (&before.tasks.live, &after.tasks.live);
    let keys: BTreeSet<_> = tasks_before.keys().chain(tasks_after.keys()).collect();
    let tasks = keys.into_iter().filter_map(|key| {
        let (old, new) = (tasks_before.get(key), tasks_after.get(key));
        let ended = || after.tasks.completed_of(key.0).filter(|task| task.task_id == key.1).last();
        let new = new.or_else(ended);
        let framework = view::framework_id(if new.is_some() { after } else { before }, key.0);
        let name = html! { a href=(page.link(&["tasks", &framework, &key.1], &[])) { (key.1) } };
        changed(name, old.map(|task| of_task(before, task)), new.map(|task| of_task(after, task)))
    });
    let (agents_before, agents_after) = (&before.agents.live, &after.agents.live);
    let keys: BTreeSet<_> = agents_before.keys().chain(agents_after.keys()).collect();
    let agents = keys.into_iter().filter_map(|key| {
        let (old, new) = (agents_before.get(key), agents_after.get(key));
        changed(
            agents::link(page, *key),
            old.map(|agent| of_agent(before, agent)),
            new.map(|agent| of_agent(after, agent)),
        )
    });
    let (old, new) = (&before.frameworks.live, &after.frameworks.live);
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let frameworks = keys.into_iter().filter_map(|key| {
        let of = |framework: &Arc<Framework>| {
            let roles: Vec<&str> = framework.roles.keys().map(|role| &**role).collect();
            let standing = if framework.is_connected() { "connected" } else { "away" };
            format!("{standing}, roles {}", roles.join(", "))
        };
        let id = old.get(key).or_else(|| new.get(key))?.id.to_string();
        changed(html! { (id) }, old.get(key).map(of), new.get(key).map(of))
    });
    let (old, new) = (&before.roles.quotas, &after.roles.quotas);
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let quotas = keys.into_iter().filter_map(|role| {
        let text = |quota: &Arc<Quota>| format!("guaranteed {}; at most {}", quota.guarantees, quota.limits);
        changed(html! { (role) }, old.get(role).map(text), new.get(role).map(text))
    });
    let content = html! {
        (facts(&pairs))
        (changes("Tasks", tasks.collect()))
        (changes("Agents", agents.collect()))
        (changes("Frameworks", frameworks.collect()))
        (changes("Quota", quotas.collect()))
        p { a href=(page.link(&["history"], &[("until", &to.to_string())])) { "What happened up to index " (to) } }
    };
    ("What became different".to_owned(), content)
}

fn changed(name: Markup, before: Option<String>, after: Option<String>) -> Option<Change> {
    (before != after).then_some(Change { name, before, after })
}

fn of_task(state: &State, task: &Task) -> String {
    format!("{} on {}", view::task_state_name(task.state), view::agent_id(state, task.agent))
}

fn of_agent(state: &State, agent: &Agent) -> String {
    let standing = match agent.liveness {
        AgentLiveness::Connected { .. } => "connected",
        AgentLiveness::Disconnected { .. } => "away",
        AgentLiveness::Unreachable { .. } => "unreachable",
    };
    let drains = match state.drains.get(agent.key) {
        Some(drain) if drain.drained_ms.is_some() => ", drained",
        Some(_) => ", draining",
        None if agent.deactivated => ", deactivated",
        None => "",
    };
    format!("{standing}{drains}; {} in use", words::amounts(&agent.used))
}

fn changes(what: &str, all: Vec<Change>) -> Markup {
    let rows: Vec<Markup> = all
        .iter()
        .take(ROWS)
        .map(|change| {
            html! { tr {
                th scope="row" { (change.name) }
                td { (change.before.as_deref().unwrap_or("not there")) }
                td { (change.after.as_deref().unwrap_or("not there")) }
            } }
        })
        .collect();
    let more = if all.len() > ROWS { format!(", the first {ROWS} of {}", all.len()) } else { String::new() };
    table(&format!("{what}{more}"), &["Which", "Before", "After"], &rows)
}
