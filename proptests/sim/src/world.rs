//! What everybody in one run shares: the seed, the trace, the network, and the oracle that judges.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::invariants::Oracle;
use crate::random::Random;

/// Milliseconds since 1970 at which every run begins.
pub const EPOCH_MS: u64 = 1_700_000_000_000;

/// One run.
pub struct World {
    /// Everything follows from it.
    pub seed: u64,
    /// When virtual time began.
    pub began: Instant,
    /// Judges what happens.
    pub oracle: Mutex<Oracle>,
    trace: Mutex<Trace>,
    /// Faults are over: everybody behaves, and everything must converge.
    quiet: AtomicBool,
    lives: AtomicU64,
}

struct Trace {
    /// FNV-1a over all lines.
    hash: u64,
    lines: u64,
    print: bool,
    buffer: String,
}

impl World {
    /// A run of `seed`; its trace is printed if `print`.
    pub fn new(seed: u64, print: bool) -> Arc<World> {
        let trace = Trace { hash: 0xcbf2_9ce4_8422_2325, lines: 0, print, buffer: String::new() };
        Arc::new(World {
            seed,
            began: Instant::now(),
            oracle: Mutex::new(Oracle::default()),
            trace: Mutex::new(trace),
            quiet: AtomicBool::new(false),
            lives: AtomicU64::new(0),
        })
    }

    /// Virtual milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A stream of random numbers of its own for everybody.
    pub fn random(&self, name: &str) -> Random {
        Random::new(self.seed, name)
    }

    /// A number that no other life of a process has.
    pub fn next_life(&self) -> u64 {
        self.lives.fetch_add(1, Ordering::Relaxed)
    }

    /// One line of the trace.
    pub fn trace(&self, line: std::fmt::Arguments<'_>) {
        let mut trace = self.trace.lock();
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut buffer = std::mem::take(&mut trace.buffer);
        buffer.clear();
        // Writing to a string does not fail.
        let _ = write!(buffer, "{:>12.3} {line}", at_us as f64 / 1000.0);
        for byte in buffer.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        trace.lines += 1;
        if trace.print {
            println!("{buffer}");
        }
        trace.buffer = buffer;
    }

    /// What names the trace so far: its hash and how many lines it has.
    pub fn trace_hash(&self) -> (u64, u64) {
        let trace = self.trace.lock();
        (trace.hash, trace.lines)
    }

    /// Ends the faults.
    pub fn calm_down(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// Whether faults are over.
    pub fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Something that must not be.
    pub fn violated(&self, invariant: &'static str, what: String) {
        self.trace(format_args!("VIOLATED {invariant}: {what}"));
        self.oracle.lock().violated(invariant, what);
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("World").field("seed", &self.seed).finish_non_exhaustive()
    }
}
