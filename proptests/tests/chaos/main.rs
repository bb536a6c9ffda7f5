//! Three masters and three agents, each on a network host and a small disk of its own, under load, while they are
//! killed, stopped, frozen, cut off and left without a free byte. Afterwards: nothing acknowledged was lost, no task ran
//! twice, everything ended, and the logs are equal.
//!
//! `CHAOS_SECONDS` of faults (30 if not given), from `CHAOS_SEED`: `make chaos`. Which fault comes when follows from the
//! seed; what the processes make of it does not.

mod faults;
mod network;
mod random;
mod registers;
mod scheduler;
mod shared;
mod verdict;
mod world;

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use proptests::wait;
use random::Random;
use shared::{Phase, Shared};
use std::sync::atomic::Ordering;
use world::World;

/// How long after the last fault everything must have come to its end.
const REST: Duration = Duration::from_secs(120);

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn nothing_is_lost_and_nothing_is_done_twice() {
    if let Err(error) = network::enter() {
        eprintln!("left out: only root may make networks ({error})");
        return;
    }
    let seconds = number("CHAOS_SECONDS", 30);
    let seed = number("CHAOS_SEED", u64::from(std::process::id()));
    println!("chaos: {seconds} s of faults, CHAOS_SEED={seed}");
    let mut world = World::start();
    let shared = Shared::new(world.masters(), world.dir().join("ran"));
    let tasks = thread::scope(|scope| {
        let shared = &shared;
        let random = |stream: u64| Random::new(seed.wrapping_mul(1000) + stream);
        let schedulers: Vec<_> = (0..3)
            .map(|number| scope.spawn(move || scheduler::run(shared, random(number), &format!("s{number}"))))
            .collect();
        for number in 10..12 {
            scope.spawn(move || registers::write(shared, random(number)));
        }
        scope.spawn(move || registers::read(shared, random(20)));
        let counts = faults::happen(&mut world, shared, random(30), Duration::from_secs(seconds));
        println!(
            "faults: {}",
            counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
        );
        shared.enter(Phase::Quiet);
        let quiet = Instant::now();
        while schedulers.iter().any(|scheduler| !scheduler.is_finished()) && quiet.elapsed() < REST {
            thread::sleep(Duration::from_millis(50));
        }
        println!("at rest after {} s", quiet.elapsed().as_secs());
        shared.enter(Phase::Over);
        schedulers.into_iter().flat_map(|scheduler| scheduler.join().expect("a scheduler")).collect::<Vec<_>>()
    });
    world.wait_ready();
    for master in world.masters() {
        wait::until("a last read", REST, || registers::check(&shared, master).then_some(()));
    }
    let agents_were_full = world.daemons.iter().any(|daemon| !daemon.is_master && daemon.was_full);
    let ends = verdict::of_tasks(&shared, &tasks, agents_were_full);
    for daemon in world.daemons.iter_mut().rev() {
        if let Some(status) = daemon.stop() {
            shared.wrong(format!("{} ended with {status} at last", daemon.name));
        }
    }
    let last = verdict::of_logs(&world, &shared);
    let counts = &shared.counts;
    println!(
        "{} tasks ({ends:?}), {} writes acknowledged, {} unknown, {} reads, {} streams, {last} entries",
        tasks.len(),
        counts.writes.load(Ordering::Relaxed),
        counts.unknown.load(Ordering::Relaxed),
        counts.reads.load(Ordering::Relaxed),
        counts.streams.load(Ordering::Relaxed),
    );
    let wrong = shared.all_wrong();
    assert!(wrong.is_empty(), "CHAOS_SEED={seed}: {} promises broken:\n{}", wrong.len(), wrong.join("\n"));
}
