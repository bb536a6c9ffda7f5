//! What a process runs on: tasks, work that blocks, random numbers, the wall clock.
//!
//! Usually that is the machine, and this module only passes calls on. A simulation puts a [`Host`] in its place for every
//! process that it runs on its one thread: tasks that a hosted task spawns belong to the same host, so that all of a
//! process can be paused and killed at any await, and its random numbers follow from a seed.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tokio::time::Instant;

thread_local! {
    /// The host of the task that is being polled on this thread.
    static HERE: RefCell<Option<Host>> = const { RefCell::new(None) };
}

/// Work that blocks takes a simulated host up to so many microseconds.
const BLOCKING_US_MAX: u64 = 5_000;
/// Ended tasks are forgotten when so many more were spawned.
const TASKS_BEFORE_SWEEP: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Runs,
    Paused,
    Dead,
}

struct State {
    mode: Mode,
    /// Tasks that wait for the end of a pause.
    waiting: Vec<Waker>,
    tasks: Vec<AbortHandle>,
    random: u64,
    /// Milliseconds since 1970 at `began`, and how much faster or slower than time the clock goes, in millionths.
    wall_ms: i64,
    drift_ppm: i64,
    began: Instant,
}

/// One simulated process. Clones are the same process; a process that starts again is another one.
#[derive(Clone)]
pub struct Host(Arc<Mutex<State>>);

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Host").field("mode", &self.state().mode).finish_non_exhaustive()
    }
}

impl Host {
    /// A process whose random numbers follow from `seed` and whose clock shows `wall_ms` (since 1970) and is
    /// `drift_ppm` millionths fast.
    pub fn new(seed: u64, wall_ms: u64, drift_ppm: i64) -> Host {
        let wall_ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
        Host(Arc::new(Mutex::new(State {
            mode: Mode::Runs,
            waiting: Vec::new(),
            tasks: Vec::new(),
            random: seed,
            wall_ms,
            drift_ppm,
            began: Instant::now(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `future` in this process.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let task = tokio::spawn(Hosted { host: self.clone(), future: Some(Box::pin(future)) });
        let mut state = self.state();
        if state.tasks.len() >= TASKS_BEFORE_SWEEP && state.tasks.len().is_multiple_of(TASKS_BEFORE_SWEEP) {
            state.tasks.retain(|task| !task.is_finished());
        }
        if state.mode == Mode::Dead {
            task.abort();
        }
        state.tasks.push(task.abort_handle());
        task
    }

    /// Nothing of this process runs until [`Host::resume`]; time goes on.
    pub fn pause(&self) {
        let mut state = self.state();
        if state.mode == Mode::Runs {
            state.mode = Mode::Paused;
        }
    }

    /// Ends a pause. Tasks go on in any order, as on the threads of a real process.
    pub fn resume(&self) {
        let mut state = self.state();
        if state.mode == Mode::Paused {
            state.mode = Mode::Runs;
        }
        let mut waiting = std::mem::take(&mut state.waiting);
        for place in (1..waiting.len()).rev() {
            let other = splitmix(&mut state.random) % (place as u64 + 1);
            waiting.swap(place, other as usize);
        }
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends this process between two steps of its tasks: none of them does anything more.
    pub fn kill(&self) {
        let mut state = self.state();
        state.mode = Mode::Dead;
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.state().mode == Mode::Paused
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.state().mode == Mode::Dead
    }

    /// Sets the process's wall clock forward or back.
    pub fn jump_clock(&self, by_ms: i64) {
        let mut state = self.state();
        state.wall_ms = state.wall_ms.saturating_add(by_ms);
    }

    /// Milliseconds since 1970 on this process's clock.
    pub fn wall_ms(&self) -> u64 {
        let state = self.state();
        let passed_us = i64::try_from(state.began.elapsed().as_micros()).unwrap_or(i64::MAX / 4_000_000);
        let passed_ms = passed_us.saturating_add(passed_us / 1_000 * state.drift_ppm / 1_000) / 1_000;
        u64::try_from(state.wall_ms.saturating_add(passed_ms)).unwrap_or(0)
    }

    /// The next random number of this process.
    pub fn random(&self) -> u64 {
        let mut state = self.state();
        splitmix(&mut state.random)
    }

    fn enter(&self) -> Entered {
        Entered(HERE.with(|here| here.replace(Some(self.clone()))))
    }
}

/// The next number of a seeded stream (splitmix64).
pub fn splitmix(stream: &mut u64) -> u64 {
    *stream = stream.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *stream;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// While it lives, this thread works for a host; then for the one before.
struct Entered(Option<Host>);

impl Drop for Entered {
    fn drop(&mut self) {
        HERE.with(|here| here.replace(self.0.take()));
    }
}

/// A task of a host.
struct Hosted<F> {
    host: Host,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Hosted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        {
            let mut state = self.host.state();
            match state.mode {
                Mode::Runs => {}
                Mode::Paused => {
                    state.waiting.push(context.waker().clone());
                    return Poll::Pending;
                }
                Mode::Dead => return Poll::Pending,
            }
        }
        let _entered = self.host.enter();
        match self.future.as_mut() {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Hosted<F> {
    fn drop(&mut self) {
        // What is dropped with the task may want random numbers and tasks, too.
        let _entered = self.host.enter();
        self.future = None;
    }
}

/// The simulated host that this thread works for now, if there is one.
pub fn here() -> Option<Host> {
    HERE.with(|here| here.borrow().clone())
}

/// Whether this thread works for a simulated host.
pub fn is_simulated() -> bool {
    HERE.with(|here| here.borrow().is_some())
}

/// As `tokio::spawn`, in the process that asks.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match here() {
        Some(host) => host.spawn(future),
        None => tokio::spawn(future),
    }
}

/// Where tasks go that are begun outside of any: by a thread of this process.
#[derive(Clone, Debug)]
pub enum Tasks {
    /// The runtime that the process has.
    Runtime(tokio::runtime::Handle),
    /// A simulated process.
    Host(Host),
}

impl Tasks {
    /// Of the process that asks.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn current() -> Tasks {
        here().map_or_else(|| Tasks::Runtime(tokio::runtime::Handle::current()), Tasks::Host)
    }

    /// Runs `future`.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        match self {
            Tasks::Runtime(runtime) => drop(runtime.spawn(future)),
            Tasks::Host(host) => drop(host.spawn(future)),
        }
    }
}

/// Ends the process at once, with a code. A simulated process ends by a panic that its simulation hears of.
///
/// # Panics
/// On a simulated host.
pub fn exit(code: i32) -> ! {
    match here() {
        Some(host) => {
            host.kill();
            panic!("the process ends with code {code}")
        }
        None => crate::exit::now(code),
    }
}

/// As `tokio::task::spawn_blocking`. On a simulated host the work is done a little later, without a thread.
///
/// # Errors
/// If the work panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match here() {
        Some(host) => {
            tokio::time::sleep(Duration::from_micros(host.random() % BLOCKING_US_MAX)).await;
            Ok(work())
        }
        None => tokio::task::spawn_blocking(work).await,
    }
}

/// Random bits: nobody else has the same.
pub fn random() -> u128 {
    match here() {
        Some(host) => u128::from(host.random()) << 64 | u128::from(host.random()),
        None => uuid::Uuid::new_v4().as_u128(),
    }
}

/// Milliseconds since 1970 on the wall clock.
pub fn wall_ms() -> u64 {
    match here() {
        Some(host) => host.wall_ms(),
        None => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }
    }
}

/// How long the machine has been running, time asleep included. Nobody can set it, and it goes on when a process ends.
pub fn since_boot() -> Duration {
    /// When the machine of all simulated processes was started.
    static BOOTED: OnceLock<Instant> = OnceLock::new();
    match is_simulated() {
        true => Instant::now().saturating_duration_since(*BOOTED.get_or_init(Instant::now)),
        false => crate::boot::since_boot(),
    }
}

/// Names this start of the machine: [`since_boot`] began with it. Empty if it cannot be told.
pub fn boot_id() -> String {
    if is_simulated() { "simulated".to_owned() } else { crate::boot::id() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn counting(host: &Host) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        let (counted, nested) = (count.clone(), count.clone());
        host.spawn(async move {
            spawn(async move {
                loop {
                    tokio::task::yield_now().await;
                    nested.fetch_add(1, Ordering::Relaxed);
                }
            });
            counted.fetch_add(1, Ordering::Relaxed);
        });
        count
    }

    async fn a_while() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_paused_process_stands_still_and_a_killed_one_is_gone_with_all_its_tasks() {
        let host = Host::new(1, 0, 0);
        let count = counting(&host);
        a_while().await;
        host.pause();
        let paused = count.load(Ordering::Relaxed);
        assert!(paused > 1, "the task that was spawned inside runs, too");
        a_while().await;
        assert_eq!(count.load(Ordering::Relaxed), paused);
        host.resume();
        a_while().await;
        let resumed = count.load(Ordering::Relaxed);
        assert!(resumed > paused);
        host.kill();
        a_while().await;
        assert_eq!(count.load(Ordering::Relaxed), resumed);
        assert_eq!(Arc::strong_count(&count), 1, "what its tasks held is free");
    }

    #[tokio::test]
    async fn a_clock_jumps_and_random_numbers_follow_from_the_seed() {
        let (one, other) = (Host::new(7, 5_000, 0), Host::new(7, 5_000, 0));
        assert_eq!(one.random(), other.random());
        one.jump_clock(-4_000);
        assert!((1_000..4_000).contains(&one.wall_ms()));
        assert!(!is_simulated(), "a test is no host");
    }
}
