//! The cluster at a glance, its masters, and what is to be unavailable.

use super::words::{amounts, facts, table, time};
use super::{Page, words};
use api::resources::Quantities;
use master_core::view;
use maud::{Markup, html};
use std::collections::BTreeMap;

pub(super) fn cluster(page: &Page<'_>) -> (String, Markup) {
    let state = page.seen;
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for task in state.tasks.live.values() {
        *states.entry(view::task_state_name(task.state)).or_default() += 1;
    }
    let agents = &state.agents.live;
    let connected = agents.values().filter(|agent| agent.connection().is_some()).count();
    let unreachable = agents.values().filter(|agent| agent.is_unreachable()).count();
    let frameworks = &state.frameworks.live;
    let active = frameworks.values().filter(|framework| framework.is_connected()).count();
    let (mut total, mut used, mut offered) = (Quantities::default(), Quantities::default(), Quantities::default());
    for agent in agents.values().filter(|agent| !agent.is_unreachable()) {
        total.add(&amounts(&agent.total));
        used.add(&amounts(&agent.used));
        offered.add(&amounts(&agent.offered));
    }
    let leader = state.leader.as_ref().map(|leader| {
        let address = state.masters.get(&leader.master.node).map(|master| master.address.to_string());
        html! { (address.unwrap_or_default()) " in term " (leader.term) ", since " (time(leader.since_ms)) }
    });
    let pairs = [
        ("Cluster", html! { (state.cluster_id) }),
        ("Leader", leader.unwrap_or_else(|| html! { "nobody" })),
        ("Agents", html! { (connected) " connected of " (agents.len()) ", " (unreachable) " unreachable" }),
        ("Frameworks", html! { (active) " connected of " (frameworks.len()) }),
        ("Tasks", html! { (state.tasks.live.len()) }),
        ("Offers", html! { (state.offers.live.len()) " unanswered" }),
        ("This master", html! { "meseta-master " (env!("CARGO_PKG_VERSION")) }),
    ];
    let of = |quantities: &Quantities, name: &str| {
        quantities.iter().find(|(of, _)| of.as_str() == name).map_or(0, |(_, milli)| milli)
    };
    let rows: Vec<Markup> = total
        .iter()
        .map(|(name, all)| {
            let (name, amount) = (name.as_str(), |milli: _| milli as f64 / 1000.0);
            let part = |milli| if all == 0 { 0.0 } else { milli as f64 / all as f64 };
            let taken = of(&used, name);
            html! {
                tr {
                    th scope="row" { (name) }
                    td { (amount(all)) }
                    td { (amount(taken)) " " meter aria-label={ "Used " (name) } value=(part(taken)) {} }
                    td { (amount(of(&offered, name))) }
                }
            }
        })
        .collect();
    let states: Vec<Markup> = states
        .iter()
        .map(|(name, count)| {
            html! { tr {
                th scope="row" { a href=(page.link(&["tasks"], &[("state", name)])) { (words::state(name)) } }
                td { (count) }
            } }
        })
        .collect();
    let content = html! {
        (facts(&pairs))
        (table("Resources of agents that are reachable", &["Resource", "Total", "Used", "Offered"], &rows))
        (table("Tasks by state", &["State", "Tasks"], &states))
    };
    ("Cluster".to_owned(), content)
}

pub(super) fn masters(page: &Page<'_>) -> (String, Markup) {
    let state = page.seen;
    let leads = state.leader.as_ref().map(|leader| leader.master.node);
    let rows: Vec<Markup> = state
        .masters
        .iter()
        .map(|(node, master)| {
            let role = match (leads == Some(*node), master.alive) {
                (true, _) => "leads",
                (false, true) => "follows",
                (false, false) => "gone",
            };
            html! { tr {
                th scope="row" { (master.address) }
                td { (role) }
                td { (master.version) }
                td { (time(master.started_ms)) }
                td { "up to " (master.reads.0) }
            } }
        })
        .collect();
    let pairs = [
        ("Term", html! { (state.leader.as_ref().map_or(0, |leader| leader.term)) }),
        ("Feature level", html! { (state.feature_level.0) }),
        ("This page", html! { "as of index " (page.index) }),
    ];
    let heads = ["Master", "Role", "Version", "Started", "Reads feature levels"];
    let content = html! {
        (facts(&pairs))
        (table("Masters", &heads, &rows))
        p { "Lag, quorum and members that do not answer: " code { "meseta masters list" } "; metrics at "
            a href={ (page.up) "../metrics/prometheus" } { "/metrics/prometheus" } "." }
    };
    ("Masters".to_owned(), content)
}

pub(super) fn maintenance(page: &Page<'_>) -> (String, Markup) {
    let state = page.seen;
    let drains: Vec<Markup> = state
        .drains
        .by_agent
        .iter()
        .map(|(key, drain)| {
            let left = state.tasks.on(*key).count();
            html! { tr {
                th scope="row" { (super::agents::link(page, *key)) }
                td { @if drain.drained_ms.is_some() { "drained" } @else { "draining, " (left) " tasks left" } }
                td { (time(drain.since_ms)) }
                td { @if drain.mark_gone { "is marked gone then" } }
            } }
        })
        .collect();
    let windows: Vec<Markup> = state
        .maintenance
        .windows
        .iter()
        .map(|window| {
            let machines = window.machines.iter().map(|machine| {
                let name = machine.hostname.as_deref().or(machine.ip.as_deref()).unwrap_or_default();
                name.to_owned()
            });
            let start_ms = u64::try_from(window.unavailability.start_ns / 1_000_000).unwrap_or_default();
            html! { tr {
                th scope="row" { (machines.collect::<Vec<_>>().join(", ")) }
                td { (time(start_ms)) }
                td { @match window.unavailability.duration_ns {
                    Some(ns) => { (ns / 1_000_000_000) " s" }
                    None => { "for good" }
                } }
            } }
        })
        .collect();
    let content = html! {
        (table("Agents that drain", &["Agent", "State", "Since", "Afterwards"], &drains))
        (table("Machines to be unavailable", &["Machines", "From", "For"], &windows))
    };
    ("Maintenance".to_owned(), content)
}
