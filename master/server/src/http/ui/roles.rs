//! Roles with their quota and weight, why one is not offered more, and what is held without being used.

use super::words::{Part, ROWS, amounts, facts, table, time};
use super::{Made, Page, agents, frameworks};
use api::resources::Quantities;
use auth::Action;
use master_core::{holders, view};
use maud::{Markup, html};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn used(page: &Page<'_>) -> BTreeMap<String, Quantities> {
    let mut used: BTreeMap<String, Quantities> = BTreeMap::new();
    for framework in page.seen.frameworks.live.values() {
        for (role, resources) in framework.used.values().flat_map(|resources| resources.allocations()) {
            used.entry(role.to_owned()).or_default().add(&amounts(&resources));
        }
    }
    used
}

fn weight(page: &Page<'_>, role: &str) -> f64 {
    page.seen.roles.weights.get(role).map_or(1.0, |weight| weight.micro() as f64 / 1e6)
}

pub(super) fn list(page: &Page<'_>) -> (String, Markup) {
    let state = page.seen;
    let mut names: BTreeSet<Arc<str>> = state.frameworks.by_role.iter().map(|(role, _)| role.clone()).collect();
    names.extend(state.roles.quotas.keys().cloned());
    names.extend(state.roles.weights.keys().cloned());
    let used = used(page);
    let rows: Vec<Markup> = names
        .iter()
        .take(10 * ROWS)
        .map(|role| {
            let quota = state.roles.quotas.get(role);
            html! { tr {
                th scope="row" { a href=(page.link(&["roles", role], &[])) { (role) } }
                td { (weight(page, role)) }
                td { (state.frameworks.with(role).count()) }
                td { @if let Some(used) = used.get(&**role) { (used) } }
                td { @if let Some(quota) = quota { (quota.guarantees) } }
                td { @if let Some(quota) = quota { (quota.limits) } }
            } }
        })
        .collect();
    let heads = ["Role", "Weight", "Frameworks", "Uses", "Guaranteed", "At most"];
    ("Roles".to_owned(), table("Roles that are in use or have a quota or weight", &heads, &rows))
}

pub(super) fn one(page: &Page<'_>, role: &str) -> Made {
    if role.is_empty() || !page.approver.approves(Action::ViewRole, Some(role)) {
        return None;
    }
    let state = page.seen;
    let quota = state.roles.quotas.get(role);
    let members: Vec<Markup> = state
        .frameworks
        .with(role)
        .map(|framework| {
            let suppressed = framework.roles.get(role).is_some_and(|role| role.suppressed);
            html! { tr {
                th scope="row" { (frameworks::link(page, framework.key)) }
                td { @if framework.is_connected() { "connected" } @else { "away" } @if suppressed { ", suppressed" } }
            } }
        })
        .collect();
    let at_ms = match page.then {
        Some(_) => page.whole.at_ms,
        None => page.context.clock.now_ms().max(page.whole.at_ms),
    };
    let why = super::super::own::explain_role(page.whole, state, at_ms, &page.context.allocator, role);
    let pairs = [
        ("Weight", html! { (weight(page, role)) }),
        ("Guaranteed", html! { @if let Some(quota) = quota { (quota.guarantees) } @else { "nothing" } }),
        ("At most", html! { @if let Some(quota) = quota { (quota.limits) } @else { "no limit" } }),
        ("Uses", html! { @if let Some(used) = used(page).get(role) { (used) } @else { "nothing" } }),
    ];
    let content = html! {
        (facts(&pairs))
        (table("Frameworks in this role", &["Framework", "State"], &members))
        p { a href=(page.link(&["explain", "role", role], &[])) { "Its story" } }
        h2 { "What it would be offered " @if page.then.is_some() { "then" } @else { "now" } ", and why not more" }
        (reasons(page, &why))
    };
    Some((format!("Role {role}"), content))
}

/// What `GET /explain` tells, as tables.
fn reasons(page: &Page<'_>, why: &Value) -> Markup {
    let list = |name: &str| why[name].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let framework = |one: &Value| match page.seen.frameworks.by_id(one["framework_id"].as_str().unwrap_or_default()) {
        Some(framework) => frameworks::link(page, framework.key),
        None => html! {},
    };
    let agent = |one: &Value| match view::parse_agent_id(page.seen, one["agent_id"].as_str().unwrap_or_default()) {
        Some(key) => agents::link(page, key),
        None => html! { "every agent" },
    };
    let next = list("next").iter().take(ROWS);
    let next: Vec<Markup> = next
        .map(|one| html! { tr { th scope="row" { (framework(one)) } td { (agent(one)) } td { (text(&one["text"])) } } })
        .collect();
    let not = list("reasons").iter().take(ROWS);
    let not: Vec<Markup> = not
        .map(|one| {
            html! { tr {
                th scope="row" { (framework(one)) }
                td { (text(&one["role"])) }
                td { (agent(one)) }
                td { (text(&one["why"])) @if let Some(brake) = one["brake"].as_str() { ": " (brake) } }
            } }
        })
        .collect();
    let more = list("reasons").len().saturating_sub(ROWS);
    html! {
        (table("Would be offered", &["Framework", "Agent", "Resources"], &next))
        (table("Would not, by the allocator's first reason", &["Framework", "Role", "Agent", "Why not"], &not))
        @if more > 0 { p { (more) " more: " code { "meseta explain role" } } }
    }
}

pub(super) fn offers(page: &Page<'_>) -> (String, Markup) {
    let part = Part::of(page);
    let held = holders::holders(page.seen);
    let rows: Vec<Markup> = held
        .iter()
        .skip(part.skip)
        .take(ROWS)
        .map(|holder| {
            html! { tr {
                th scope="row" { (holder.what.name()) }
                td { (holder.id) }
                td { @if let Some(key) = holder.framework { (frameworks::link(page, key)) } }
                td { (holder.role) }
                td { (agents::link(page, holder.agent)) }
                td { (holder.resources) }
                td { @if let Some(since) = Into::<Option<u64>>::into(holder.since_ms) { (time(since)) } }
            } }
        })
        .collect();
    let heads = ["What", "Id", "Framework", "Role", "Agent", "Resources", "Since"];
    let content = html! {
        p { "Offers that nobody answered yet, reservations and volumes, and executors without tasks." }
        (table("Held without being used", &heads, &rows))
        (part.links(page, held.len()))
    };
    ("Offers and holders".to_owned(), content)
}
