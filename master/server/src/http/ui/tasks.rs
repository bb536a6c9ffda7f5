//! Tasks, and what became of one.

use super::words::{Part, ROWS, facts, is_found, search, table, time};
use super::{Made, Page, agents, frameworks, words};
use api::v1;
use master_core::state::Task;
use master_core::{State, view};
use maud::{Markup, html};
use std::sync::Arc;

fn row(page: &Page<'_>, task: &Task) -> Markup {
    let framework = view::framework_id(page.seen, task.framework);
    let told = view::task(page.seen, task);
    html! { tr {
        th scope="row" { a href=(page.link(&["tasks", &framework, &task.task_id], &[])) { (task.task_id) } }
        td { (told.name) }
        td { (words::state(view::task_state_name(task.state))) }
        td { (frameworks::link(page, task.framework)) }
        td { (agents::link(page, task.agent)) }
        td { (task.resources.unallocate()) }
        td { (time(task.launched_ms)) }
    } }
}

/// A table of some tasks.
pub(super) fn table_of(page: &Page<'_>, caption: &str, tasks: &[&Arc<Task>]) -> Markup {
    let rows: Vec<Markup> = tasks.iter().map(|task| row(page, task)).collect();
    table(caption, &["Task", "Name", "State", "Framework", "Agent", "Resources", "Launched"], &rows)
}

pub(super) fn list(page: &Page<'_>) -> (String, Markup) {
    let part = Part::of(page);
    let with_completed = page.query.get("all") == Some("true");
    let wanted = page.query.get("state").filter(|state| !state.is_empty());
    let searched = page.query.get("q").is_some_and(|text| !text.is_empty());
    let live = page.seen.tasks.live.values();
    let completed = page.seen.tasks.completed.values().filter(|_| with_completed);
    let is_wanted = |task: &&Arc<Task>| {
        wanted.is_none_or(|wanted| view::task_state_name(task.state) == wanted)
            && (!searched
                || is_found(
                    page,
                    &[
                        &task.task_id,
                        &view::framework_id(page.seen, task.framework),
                        &view::agent_id(page.seen, task.agent),
                        &task.role,
                    ],
                ))
    };
    let found: Vec<&Arc<Task>> = live.chain(completed).filter(is_wanted).collect();
    let shown: Vec<&Arc<Task>> = found.iter().skip(part.skip).take(ROWS).copied().collect();
    let content = html! {
        (search(page, "Id, framework, agent or role"))
        p {
            @if let Some(state) = wanted { "Only " (state) ". " a href=(page.link(&["tasks"], &[])) { "All states" } " " }
            @if with_completed { a href=(page.link(&["tasks"], &[])) { "Without completed tasks" } }
            @else { a href=(page.link(&["tasks"], &[("all", "true")])) { "With completed tasks" } }
        }
        (table_of(page, "Tasks", &shown))
        (part.links(page, found.len()))
    };
    ("Tasks".to_owned(), content)
}

/// The task of this framework, the one that goes on or the newest.
pub(super) fn find<'a>(state: &'a State, framework: &str, id: &str) -> Option<&'a Arc<Task>> {
    let key = view::parse_framework_id(state, framework)?;
    let live = state.tasks.of(key).find(|task| *task.task_id == *id);
    live.or_else(|| state.tasks.completed_of(key).filter(|task| *task.task_id == *id).last())
}

pub(super) fn one(page: &Page<'_>, framework: &str, id: &str) -> Made {
    let state = page.seen;
    let task = find(state, framework, id)?;
    let key = task.framework;
    let told = view::task(state, task);
    let statuses: Vec<Markup> = told
        .statuses
        .iter()
        .rev()
        .map(|status| {
            let reason = status.reason.and_then(|reason| v1::task_status::Reason::try_from(reason).ok());
            html! { tr {
                th scope="row" { (words::state(view::task_state_name(status.state))) }
                td { @if let Some(at) = status.timestamp { (time((at * 1000.0) as u64)) } }
                td { (status.message()) }
                td { @if let Some(reason) = reason { (reason.as_str_name()) } }
                td { @if let Some(healthy) = status.healthy { @if healthy { "healthy" } @else { "unhealthy" } } }
            } }
        })
        .collect();
    let executor = task.executor_id.as_deref().map(ToString::to_string);
    let pairs = [
        ("Id", html! { code { (id) } }),
        ("Name", html! { (told.name) }),
        ("State", words::state(view::task_state_name(task.state))),
        ("Framework", frameworks::link(page, key)),
        ("Agent", agents::link(page, task.agent)),
        ("Executor", html! { (executor.unwrap_or_else(|| "the command executor".to_owned())) }),
        ("Role", html! { (task.role) }),
        ("Resources", html! { (task.resources.unallocate()) }),
        ("Launched", time(task.launched_ms)),
    ];
    let heads = ["State", "At", "Message", "Reason", "Health"];
    let content = html! {
        (facts(&pairs))
        (table("What was told of it, the newest first", &heads, &statuses))
        h2 { "More of it" }
        p { "What it wrote: " code { "meseta logs " (id) " -f" } ". Its sandbox: " code { "meseta files " (id) }
            "." }
        p {
            @if page.then.is_none() { a href=(page.link(&["tasks", framework, id, "files"], &[])) { "Its files" } " " }
            a href=(page.link(&["explain", "task", framework, id], &[])) { "Its story" }
        }
    };
    Some((format!("Task {id}"), content))
}
