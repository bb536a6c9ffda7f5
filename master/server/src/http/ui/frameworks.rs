//! Frameworks, and one of them.

use super::words::{Part, ROWS, amounts, facts, is_found, search, table, time};
use super::{Made, Page, tasks};
use api::resources::Resources;
use api::v1;
use master_core::ids::FrameworkKey;
use master_core::state::Framework;
use maud::{Markup, html};
use prost::Message as _;

fn info(framework: &Framework) -> v1::FrameworkInfo {
    v1::FrameworkInfo::decode(framework.info.clone()).unwrap_or_default()
}

/// A link to a framework by its name.
pub(super) fn link(page: &Page<'_>, key: FrameworkKey) -> Markup {
    match page.seen.frameworks.get(key) {
        Some(framework) => {
            let name = info(framework).name;
            let name = if name.is_empty() { framework.id.to_string() } else { name };
            html! { a href=(page.link(&["frameworks", &framework.id], &[])) title=(framework.id) { (name) } }
        }
        None => html! { "completed" },
    }
}

fn used(framework: &Framework) -> Resources {
    framework.used.values().fold(Resources::default(), |sum, used| sum.plus(&used.unallocate()))
}

pub(super) fn list(page: &Page<'_>) -> (String, Markup) {
    let part = Part::of(page);
    let all = page.seen.frameworks.live.values().map(|framework| (info(framework), framework));
    let found: Vec<_> =
        all.filter(|(info, framework)| is_found(page, &[&info.name, &framework.id, &info.user])).collect();
    let rows: Vec<Markup> = found
        .iter()
        .skip(part.skip)
        .take(ROWS)
        .map(|(info, framework)| {
            let roles: Vec<&str> = framework.roles.keys().map(|role| &**role).collect();
            html! { tr {
                th scope="row" { (link(page, framework.key)) }
                td { (framework.id) }
                td { (info.user) }
                td { (roles.join(", ")) }
                td { @if framework.is_connected() { span class="good" { "connected" } } @else { span class="bad" { "away" } } }
                td { (page.seen.tasks.of(framework.key).count()) }
                td { (amounts(&used(framework))) }
            } }
        })
        .collect();
    let completed: Vec<Markup> = page
        .seen
        .frameworks
        .completed
        .values()
        .rev()
        .take(ROWS)
        .map(|completed| {
            html! { tr {
                th scope="row" { (info(&completed.framework).name) }
                td { (completed.framework.id) }
                td { (time(completed.removed_ms)) }
            } }
        })
        .collect();
    let heads = ["Framework", "Id", "User", "Roles", "State", "Tasks", "Uses"];
    let content = html! {
        (search(page, "Name, id or user"))
        (table("Frameworks", &heads, &rows))
        (part.links(page, found.len()))
        (table("Completed, the newest first", &["Framework", "Id", "Completed"], &completed))
    };
    ("Frameworks".to_owned(), content)
}

pub(super) fn one(page: &Page<'_>, id: &str) -> Made {
    let framework = page.seen.frameworks.by_id(id)?;
    let info = info(framework);
    let roles = framework
        .roles
        .iter()
        .map(|(role, state)| format!("{role}{}", if state.suppressed { " (suppressed)" } else { "" }));
    let pairs = [
        ("Id", html! { code { (id) } }),
        ("User", html! { (info.user) }),
        ("Principal", html! { (framework.principal.as_deref().unwrap_or("-")) }),
        ("Roles", html! { (roles.collect::<Vec<_>>().join(", ")) }),
        ("State", html! { @if framework.is_connected() { "connected" } @else { "away" } }),
        ("Registered", time(framework.registered_ms)),
        ("Uses", html! { (used(framework)) }),
        ("Offers declined", html! { (framework.declined_offers) }),
    ];
    let live: Vec<_> = page.seen.tasks.of(framework.key).take(ROWS).collect();
    let mut completed: Vec<_> = page.seen.tasks.completed_of(framework.key).collect();
    completed.reverse();
    completed.truncate(ROWS);
    let content = html! {
        (facts(&pairs))
        (tasks::table_of(page, "Tasks", &live))
        p { a href=(page.link(&["tasks"], &[("q", id)])) { "All tasks of this framework" } " "
            a href=(page.link(&["explain", "framework", id], &[])) { "Its story" } }
        (tasks::table_of(page, "Completed tasks, the newest first", &completed))
    };
    Some((format!("Framework {}", info.name), content))
}
