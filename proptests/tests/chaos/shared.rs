//! What the clients share: where the masters are, how far the run is, and what went wrong.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Faults happen; clients begin new things.
    Faults,
    /// No fault any more: what was begun comes to its end.
    Quiet,
    /// Clients stop.
    Over,
}

pub(crate) struct Shared {
    pub(crate) masters: Vec<SocketAddr>,
    /// Each task adds its id as a line when it runs.
    pub(crate) ran: PathBuf,
    phase: AtomicU8,
    wrong: Mutex<Vec<String>>,
    registers: Mutex<Vec<&'static Register>>,
    pub(crate) counts: Counts,
}

/// How much was done, for the report.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) writes: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) streams: AtomicU64,
}

/// A number that one client writes, as a label of its framework. At most one write of it, the last, has an unknown end.
#[derive(Debug)]
pub(crate) struct Register {
    pub(crate) framework_id: String,
    /// The last write that was answered with success.
    pub(crate) acknowledged: AtomicU64,
    /// The last write that was sent.
    pub(crate) attempted: AtomicU64,
}

impl Shared {
    pub(crate) fn new(masters: Vec<SocketAddr>, ran: PathBuf) -> Shared {
        Shared {
            masters,
            ran,
            phase: AtomicU8::new(Phase::Faults as u8),
            wrong: Mutex::default(),
            registers: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Faults,
            1 => Phase::Quiet,
            _ => Phase::Over,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Takes note of a promise that was broken.
    pub(crate) fn wrong(&self, what: String) {
        eprintln!("WRONG: {what}");
        lock(&self.wrong).push(what);
    }

    pub(crate) fn all_wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    pub(crate) fn register(&self, framework_id: String) -> &'static Register {
        let register = Register { framework_id, acknowledged: AtomicU64::new(0), attempted: AtomicU64::new(0) };
        // As many as there are unknown ends in a run: a few hundred small things.
        let register: &'static Register = Box::leak(Box::new(register));
        lock(&self.registers).push(register);
        register
    }

    pub(crate) fn registers(&self) -> Vec<&'static Register> {
        lock(&self.registers).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
