//! How long the allocator thinks, by processor time: its book filled by hand, and runs over it. No master is around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use allocator::{
    AgentKey, AgentProfile, Amounts, Book, Capabilities, FrameworkKey, FrameworkProfile, Options, Quota, Run, Use,
    Which,
};
use api::resources::{Limits, Quantities, Resources, parse};

use crate::processes::thread_cpu_time;
use crate::report::{Report, Row};
use crate::{Bench, Fallible};

const AGENT: &str = "cpus:24;mem:4096;disk:4096;ports:[31000-32000]";
/// So many frameworks share a role.
const ROLE: usize = 10;
const AGENTS: [usize; 6] = [1_000, 5_000, 10_000, 20_000, 50_000, 100_000];
const FRAMEWORKS: [usize; 5] = [1, 100, 1_000, 2_000, 6_000];

pub(crate) fn rows(bench: &Bench, report: &mut Report) {
    report.measure(&["alloc_first_ms", "alloc_steady_ms"], "first and steady runs of the allocator", || {
        let (agents, frameworks) =
            if bench.quick { (&AGENTS[..2], &FRAMEWORKS[..3]) } else { (&AGENTS[..], &FRAMEWORKS[..]) };
        grid(agents, frameworks)
    });
    report.measure(&["alloc_decline_ms"], "runs of the allocator while everything is declined", || {
        let (agents, frameworks, rounds) = if bench.quick { (1_000, 100, 20) } else { (10_000, 1_000, 20) };
        decline_storm(agents, frameworks, rounds)
    });
    report.measure(&["alloc_quota_ms"], "a run of the allocator with a quota for every role", || {
        let count = if bench.quick { 1_000 } else { 3_000 };
        quota(count)
    });
    report.measure(&["alloc_event_us"], "changes of the allocator's book", || {
        let agents = if bench.quick { &AGENTS[..2] } else { &AGENTS[..] };
        events(agents)
    });
}

fn resources(text: &str) -> Fallible<Resources> {
    Ok(parse(text, "*").map_err(|why| format!("{text}: {why}"))?.resources)
}

fn role(number: usize, share: usize) -> Arc<str> {
    format!("role-{}", number / share).into()
}

fn framework(role: Arc<str>) -> FrameworkProfile {
    FrameworkProfile {
        roles: BTreeSet::from([role]),
        capabilities: Capabilities { multi_role: true, ..Capabilities::default() },
        ..FrameworkProfile::default()
    }
}

fn book(agents: usize, frameworks: usize, share: usize) -> Fallible<Book> {
    let mut book = Book::new(Options::default());
    for number in 0..frameworks {
        book.add_framework(FrameworkKey(number as u32), framework(role(number, share)), true);
    }
    let total = resources(AGENT)?;
    for number in 0..agents {
        let profile = AgentProfile {
            hostname: format!("host-{number}").into(),
            multi_role: true,
            hierarchical_role: true,
            ..AgentProfile::default()
        };
        book.add_agent(AgentKey(number as u64), profile, total.clone());
    }
    Ok(book)
}

fn timed(book: &mut Book, at_ms: u64, seed: u64) -> Fallible<(Run, f64)> {
    let began = thread_cpu_time()?;
    let run = book.run(at_ms, seed, Which::All);
    Ok((run, (thread_cpu_time()? - began).as_secs_f64() * 1000.0))
}

fn offers(run: &Run) -> usize {
    run.offers.values().map(Vec::len).sum()
}

fn grid(agents: &[usize], frameworks: &[usize]) -> Fallible<Vec<Row>> {
    let mut rows = Vec::new();
    let mut first: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for &agents in agents {
        for &frameworks in frameworks {
            let mut book = book(agents, frameworks, ROLE)?;
            let (run, took) = timed(&mut book, 0, 1)?;
            if offers(&run) != agents {
                return Err(format!("{} offers of {agents} agents", offers(&run)).into());
            }
            let mut steady = Vec::new();
            for seed in 2..13 {
                // By the clock: it is shorter than processor time is counted.
                let began = Instant::now();
                book.run(0, seed, Which::All);
                steady.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            steady.sort_by(f64::total_cmp);
            first.insert((agents, frameworks), took);
            let params = format!("{agents} agents, {frameworks} frameworks, {ROLE} a role");
            rows.push(Row::new("alloc_first_ms", params.clone(), took, "ms"));
            rows.push(Row::new("alloc_steady_ms", params, steady[steady.len() / 2], "ms"));
        }
    }
    let slope = |from: (usize, f64), to: (usize, f64)| (to.1 / from.1).ln() / (to.0 as f64 / from.0 as f64).ln();
    let (few, many) = (agents[0], agents[agents.len() - 1]);
    for &frameworks in frameworks {
        let exponent = slope((few, first[&(few, frameworks)]), (many, first[&(many, frameworks)]));
        let params = format!("exponent from {few} to {many} agents, {frameworks} frameworks");
        rows.push(Row::new("alloc_first_ms", params, exponent, "exponent"));
    }
    let (less, more) = (frameworks[0], frameworks[frameworks.len() - 1]);
    for &agents in agents {
        let exponent = slope((less, first[&(agents, less)]), (more, first[&(agents, more)]));
        let params = format!("exponent from {less} to {more} frameworks, {agents} agents");
        rows.push(Row::new("alloc_first_ms", params, exponent, "exponent"));
    }
    Ok(rows)
}

/// Everything that is offered is declined for an hour, and the next in the order is offered it.
fn decline_storm(agents: usize, frameworks: usize, rounds: u64) -> Fallible<Vec<Row>> {
    let mut book = book(agents, frameworks, ROLE)?;
    let (mut sum, mut last) = (0.0, 0.0);
    for round in 0..rounds {
        let (run, took) = timed(&mut book, round, round)?;
        if offers(&run) != agents {
            return Err(format!("{} offers of {agents} agents in round {round}", offers(&run)).into());
        }
        (sum, last) = (sum + took, took);
        for ((framework, role), offers) in &run.offers {
            for offer in offers {
                book.release(offer.agent, *framework, Some(role), &offer.resources, Use::Offer, 0);
                book.refuse(offer.agent, *framework, role, &offer.resources, 3_600_000);
            }
        }
    }
    let params = format!("{agents} agents, {frameworks} frameworks, all declined for an hour");
    Ok(vec![
        Row::new("alloc_decline_ms", format!("{params}, mean of {rounds} rounds"), sum / rounds as f64, "ms"),
        Row::new("alloc_decline_ms", format!("{params}, round {rounds}"), last, "ms"),
    ])
}

/// Each role is promised a part of an agent and may have no more than two agents.
fn quota(count: usize) -> Fallible<Vec<Row>> {
    let mut book = book(count, count, 1)?;
    let guarantees = Amounts::from(&Quantities::parse("cpus:12;mem:2048")?);
    let limits = Limits::parse("cpus:48;mem:8192")?;
    for number in 0..count {
        book.set_quota(&role(number, 1), Quota { guarantees: guarantees.clone(), limits: limits.clone() });
    }
    let (run, took) = timed(&mut book, 0, 1)?;
    let params = format!("{count} agents, roles and frameworks each, guarantees and limits, {} offers", offers(&run));
    let (_, steady) = timed(&mut book, 0, 2)?;
    Ok(vec![
        Row::new("alloc_quota_ms", params, took, "ms"),
        Row::new(
            "alloc_quota_ms",
            format!("{count} agents, roles and frameworks each, the run after it"),
            steady,
            "ms",
        ),
    ])
}

/// An offer is declined, and the agent offered again.
fn events(agents: &[usize]) -> Fallible<Vec<Row>> {
    const EVENTS: usize = 2_000;
    let mut rows = Vec::new();
    for &agents in agents {
        let mut book = book(agents, 100, ROLE)?;
        let (run, _) = timed(&mut book, 0, 1)?;
        let all: Vec<(FrameworkKey, Arc<str>, AgentKey, Resources)> = run
            .offers
            .into_iter()
            .flat_map(|((framework, role), offers)| {
                offers.into_iter().map(move |offer| (framework, role.clone(), offer.agent, offer.resources))
            })
            .take(EVENTS.min(agents))
            .collect();
        let began = thread_cpu_time()?;
        for (framework, role, agent, resources) in &all {
            book.release(*agent, *framework, Some(role), resources, Use::Offer, 0);
            book.refuse(*agent, *framework, role, resources, 3_600_000);
            book.run(1, agent.0, Which::All);
        }
        let took = (thread_cpu_time()? - began).as_secs_f64() * 1e6 / all.len() as f64;
        rows.push(Row::new(
            "alloc_event_us",
            format!("{agents} agents, 100 frameworks: decline, filter, run"),
            took,
            "us",
        ));
    }
    Ok(rows)
}
