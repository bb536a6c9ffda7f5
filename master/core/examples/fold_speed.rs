//! How many events of a task's life are folded in a second on one core, from decoded events:
//! `cargo run --release -p master-core --example fold_speed [TASKS]`.

use api::resources::{Format, parse};
use api::v1;
use master_core::event::*;
use master_core::ids::*;
use master_core::state::frameworks::Capabilities;
use master_core::{Event, State, fold};
use prost::Message;

const AGENTS: u64 = 1_000;

#[allow(clippy::disallowed_methods)] // A stopwatch beside the core, not in it.
fn main() {
    let tasks: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let at = Incarnation { node: NodeId(1), id: IncarnationId(1) };
    let connection = Connection { at, id: ConnectionId(1) };
    let total = parse("cpus:8;mem:16384;disk:100000;ports:[31000-32000]", "*").expect("resources").resources;
    let share = parse("cpus:0.1;mem:32", "*").expect("resources").resources.allocate("web");
    let mut state = State::default();
    let framework = FrameworkKey(0);
    let mut begin: Vec<Event> = vec![
        FrameworkSubscribed {
            framework,
            id: "C-0000".into(),
            info: vec![0; 100].into(),
            principal: None,
            terms: FrameworkTerms {
                capabilities: Capabilities::default(),
                failover_timeout_ms: 0,
                roles: vec!["web".into()],
                suppressed: Vec::new(),
            },
            connection,
        }
        .into(),
    ];
    for number in 0..AGENTS {
        let profile = AgentProfile {
            info: vec![0; 200].into(),
            hostname: "host".into(),
            address: format!("host:{number}").into(),
            version: "1".into(),
            capabilities: Vec::new(),
            total: total.clone(),
        };
        begin.push(AgentRegistered { agent: AgentKey(number), token: u128::from(number), profile, connection }.into());
    }
    begin.iter().for_each(|event| fold(&mut state, event, 1));

    let mut events: Vec<Event> = Vec::new();
    for number in 0..tasks {
        let agent = AgentKey(number % AGENTS);
        let task: TaskKey = (framework, format!("task-{number}").into());
        let offers = OfferItems(vec![(agent, Offered::Whole)]);
        let groups = vec![OfferGroup { framework, role: "web".into(), offers }];
        events.push(OffersMade { first: OfferKey(number), groups, expires_ms: None }.into());
        let offers = OfferKeys::new(vec![OfferKey(number)]);
        events.push(OffersAccepted { framework, offers, agent, unused: None }.into());
        let info = v1::TaskInfo {
            name: "t".repeat(150),
            resources: share.to_v1(Format::PostRefinement),
            ..Default::default()
        };
        events.push(
            TaskLaunched {
                task: task.clone(),
                agent,
                role: "web".into(),
                info: info.encode_to_vec().into(),
                resources: share.clone(),
                executor: None,
            }
            .into(),
        );
        events.push(OrdersAcknowledged { agent, up_to: number / AGENTS + 1 }.into());
        for (step, state) in [0, 1, 2].into_iter().enumerate() {
            events.push(
                TaskUpdated {
                    task: task.clone(),
                    agent,
                    seq: number / AGENTS * 3 + step as u64 + 1,
                    state,
                    uuid: vec![step as u8; 16].into(),
                    status: vec![0; 120].into(),
                    brief: None,
                }
                .into(),
            );
            events.push(UpdateAcknowledged { task: task.clone(), state }.into());
        }
    }
    // From bytes, so that nothing is shared that a log would not share.
    let events: Vec<Event> = events
        .into_iter()
        .map(|event| {
            let (number, version, payload) = event.encode();
            Event::decode(number, version, &payload).expect("what was written can be read")
        })
        .collect();
    let start = std::time::Instant::now();
    events.iter().for_each(|event| fold(&mut state, event, 2));
    let took = start.elapsed();
    println!(
        "{} events in {:?}: {} events/s",
        events.len(),
        took,
        (events.len() as u128 * 1_000_000) / took.as_micros().max(1)
    );
}
