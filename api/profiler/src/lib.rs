//! What a process does with its processor's time: begun and ended by an operator, told as a profile that pprof reads.
//!
//! A timer interrupts whichever thread is running, 99 times a second of processor's time. What it interrupts within libc,
//! the unwinder or the kernel's page is passed over: there the stack cannot be walked safely. One profile at a time, of at
//! most ten minutes: one that nobody ends ends by itself, and its beginning stays to be fetched.

mod answers;
mod encode;

pub use answers::{Act, answer};

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pprof::{ProfilerGuard, ProfilerGuardBuilder};

/// Samples a second of processor's time: no multiple of what programs do by the clock.
const FREQUENCY: i32 = 99;
/// No profile is longer.
const LONGEST: Duration = Duration::from_secs(600);
/// Where stacks are not walked.
const PASSED_OVER: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];
/// As which file it is told.
pub const FILE: &str = "profile.pb";

/// Environments in which there is a profiler, as libprocess has it.
const SWITCHES: [&str; 2] = ["MESETA_ENABLE_PROFILER", "LIBPROCESS_ENABLE_PROFILER"];

static CURRENT: Mutex<Option<Profile>> = Mutex::new(None);

enum Profile {
    Running {
        guard: ProfilerGuard<'static>,
        began: Instant,
        at: SystemTime,
    },
    /// Nobody ended it in time.
    Ended(Vec<u8>),
}

/// Why there is no profile. One sentence, as libprocess says it where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not for now: 400.
    Not(&'static str),
    /// It failed: 500.
    Failed(String),
}

/// Whether this process lets itself be profiled: a profile costs time, and an operator says that it may.
fn is_enabled() -> bool {
    SWITCHES.iter().any(|name| std::env::var_os(name).is_some_and(|value| value == "1" || value == "true"))
}

fn current() -> MutexGuard<'static, Option<Profile>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a profile. Blocks for a moment.
///
/// # Errors
/// A [`Refusal`]: it is not enabled, or runs already.
pub fn start() -> Result<(), Refusal> {
    if !is_enabled() {
        return Err(Refusal::Not(
            "The profiler is not enabled. To enable the profiler, start this program with MESETA_ENABLE_PROFILER=1 (or \
             LIBPROCESS_ENABLE_PROFILER=1) in the environment.\n",
        ));
    }
    let mut now = current();
    if matches!(*now, Some(Profile::Running { .. })) {
        return Err(Refusal::Not("Profiler already started.\n"));
    }
    let began = begin()?;
    *now = Some(began);
    drop(now);
    std::thread::spawn(end_in_time);
    Ok(())
}

fn begin() -> Result<Profile, Refusal> {
    let guard = ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&PASSED_OVER).build();
    let guard = guard.map_err(|error| Refusal::Failed(format!("Failed to start profiler: {error}\n")))?;
    Ok(Profile::Running { guard, began: Instant::now(), at: SystemTime::now() })
}

/// Ends the profile that was running when this began, if it still is when its time is over.
fn end_in_time() {
    let of = |profile: &Option<Profile>| match profile {
        Some(Profile::Running { began, .. }) => Some(*began),
        _ => None,
    };
    let Some(began) = of(&current()) else { return };
    std::thread::sleep(LONGEST);
    let mut now = current();
    if of(&now) == Some(began) {
        *now = now.take().and_then(|profile| told(profile).ok()).map(Profile::Ended);
    }
}

/// Ends the profile, and tells it: a `Profile` of pprof in protobuf. Blocks: names of functions are looked for.
///
/// # Errors
/// A [`Refusal`]: none runs.
pub fn stop() -> Result<Vec<u8>, Refusal> {
    let profile = current().take().ok_or(Refusal::Not("Profiler not running.\n"))?;
    told(profile)
}

fn told(profile: Profile) -> Result<Vec<u8>, Refusal> {
    let (guard, began, at) = match profile {
        Profile::Ended(bytes) => return Ok(bytes),
        Profile::Running { guard, began, at } => (guard, began, at),
    };
    let lasted = began.elapsed();
    let report = guard.report().build();
    drop(guard);
    let report = report.map_err(|error| Refusal::Failed(format!("Failed to tell the profile: {error}\n")))?;
    let began_ns = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let period_ns = 1_000_000_000 / i64::from(FREQUENCY);
    let mut encoder = encode::Encoder::default();
    let stacks: HashMap<_, _> = report.data;
    for (frames, count) in &stacks {
        // A frame may be several functions, one within the other.
        let symbols = frames.frames.iter().flatten();
        let lines = symbols.map(|symbol| encode::Line {
            function: symbol.name(),
            file: symbol.filename().into_owned(),
            line: i64::from(symbol.lineno()),
        });
        encoder.sample(lines.collect(), i64::try_from(*count).unwrap_or(i64::MAX), period_ns, &frames.thread_name);
    }
    Ok(encoder.finish(
        i64::try_from(began_ns).unwrap_or(i64::MAX),
        i64::try_from(lasted.as_nanos()).unwrap_or(i64::MAX),
        period_ns,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn burn_the_processor(until: Instant) -> u64 {
        let mut sum = 0_u64;
        while Instant::now() < until {
            for n in 0..10_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(n));
            }
        }
        sum
    }

    #[test]
    fn what_burns_the_processor_is_in_the_profile() {
        // The one test of this program: nobody else reads the environment meanwhile.
        assert!(matches!(start(), Err(Refusal::Not(why)) if why.contains("MESETA_ENABLE_PROFILER=1")));
        // SAFETY: no other thread of this program reads or writes the environment now.
        unsafe { std::env::set_var("MESETA_ENABLE_PROFILER", "1") };
        assert_eq!(stop(), Err(Refusal::Not("Profiler not running.\n")));
        start().unwrap();
        assert_eq!(start(), Err(Refusal::Not("Profiler already started.\n")));
        let mut told = Vec::new();
        // A busy machine gives this thread no time: until there is a sample of it.
        for _ in 0..50 {
            burn_the_processor(Instant::now() + Duration::from_millis(300));
            told = stop().unwrap();
            if String::from_utf8_lossy(&told).contains("burn_the_processor") {
                break;
            }
            start().unwrap();
        }
        let (samples, functions) = encode::read(&told);
        assert!(samples > 0 && functions.iter().any(|name| name.contains("burn_the_processor")), "{functions:?}");
    }
}
