//! What befalls the daemons: ends, pauses, cuts of the network, full disks. At most one at a time to each.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::random::Random;
use crate::shared::Shared;
use crate::world::World;

/// Faults at once.
const ACTIVE_MAX: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// `kill -9`; started again at the end.
    Kill,
    /// SIGTERM; started again at the end.
    Stop,
    /// SIGSTOP, SIGCONT.
    Freeze,
    /// Nothing arrives and nothing leaves.
    CutOff,
    /// It hears nothing from the other masters, but they hear it. Clients reach it.
    Deaf,
    /// A part of what should arrive does not.
    Lossy,
    /// No byte is free.
    FullDisk,
}

const OF_MASTERS: [Fault; 12] = [
    Fault::Kill,
    Fault::Kill,
    Fault::Kill,
    Fault::Stop,
    Fault::Freeze,
    Fault::Freeze,
    Fault::CutOff,
    Fault::CutOff,
    Fault::Deaf,
    Fault::Deaf,
    Fault::Lossy,
    Fault::FullDisk,
];
const OF_AGENTS: [Fault; 8] =
    [Fault::Kill, Fault::Kill, Fault::Kill, Fault::Stop, Fault::Freeze, Fault::CutOff, Fault::Lossy, Fault::FullDisk];

struct Active {
    daemon: usize,
    fault: Fault,
    until: Instant,
}

/// Lets faults happen for `duration`, then mends everything. The number of faults, by kind.
pub(crate) fn happen(
    world: &mut World,
    shared: &Shared,
    mut random: Random,
    duration: Duration,
) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = Vec::new();
    let mut active: Vec<Active> = Vec::new();
    let end = Instant::now() + duration;
    let mut next = Instant::now();
    while Instant::now() < end {
        let now = Instant::now();
        let (over, on): (Vec<_>, Vec<_>) = active.into_iter().partition(|active| active.until <= now);
        active = on;
        over.iter().for_each(|active| mend(world, shared, active));
        look_for_crashes(world, shared, &active);
        if now >= next && active.len() < ACTIVE_MAX {
            let daemon = random.below(world.daemons.len() as u64) as usize;
            if active.iter().all(|active| active.daemon != daemon) {
                let kinds = if world.daemons[daemon].is_master { &OF_MASTERS[..] } else { &OF_AGENTS[..] };
                let fault = *random.pick(kinds);
                let until = now + Duration::from_millis(100 + random.below(5000));
                begin(world, &mut random, daemon, fault);
                let key = format!("{fault:?}");
                match counts.iter_mut().find(|(name, _)| *name == key) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((key, 1)),
                }
                active.push(Active { daemon, fault, until });
            }
            next = now + Duration::from_millis(200 + random.below(1800));
        }
        // The clock of faults.
        std::thread::sleep(Duration::from_millis(20));
    }
    active.iter().for_each(|active| mend(world, shared, active));
    counts
}

fn begin(world: &mut World, random: &mut Random, number: usize, fault: Fault) {
    let others = world.other_masters(number);
    let daemon = &mut world.daemons[number];
    println!("  {fault:?} {}", daemon.name);
    match fault {
        Fault::Kill => daemon.kill(),
        Fault::Stop => daemon.signal(Signal::SIGTERM),
        Fault::Freeze => daemon.signal(Signal::SIGSTOP),
        Fault::CutOff => daemon.host.cut_off(),
        Fault::Deaf => daemon.host.deaf_to(&others),
        Fault::Lossy => daemon.host.lossy(5 + random.below(30)),
        Fault::FullDisk => daemon.fill_disk(),
    }
}

fn mend(world: &mut World, shared: &Shared, active: &Active) {
    let daemon = &mut world.daemons[active.daemon];
    match active.fault {
        Fault::Kill => daemon.start(),
        Fault::Stop => {
            if let Some(status) = daemon.stop() {
                shared.wrong(format!("{} ended with {status} after SIGTERM", daemon.name));
            }
            daemon.start();
        }
        Fault::Freeze => daemon.signal(Signal::SIGCONT),
        Fault::CutOff | Fault::Deaf | Fault::Lossy => daemon.host.heal(),
        Fault::FullDisk => {
            daemon.free_disk();
            // A master that could not write has stopped, with a sentence; it may also be about to.
            if let Some(status) = daemon.ended() {
                if status.code() != Some(1) {
                    shared.wrong(format!("{} ended with {status} on a full disk", daemon.name));
                }
                daemon.start();
            }
        }
    }
}

/// Nobody ends by himself, but on a full disk.
fn look_for_crashes(world: &mut World, shared: &Shared, active: &[Active]) {
    for (number, daemon) in world.daemons.iter_mut().enumerate() {
        let excused = active.iter().any(|active| {
            active.daemon == number && matches!(active.fault, Fault::FullDisk | Fault::Stop | Fault::Kill)
        });
        if excused {
            continue;
        }
        if let Some(status) = daemon.ended() {
            if !daemon.was_full {
                shared.wrong(format!("{} ended by itself with {status}", daemon.name));
            }
            daemon.start();
        }
    }
}
