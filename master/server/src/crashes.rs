//! Decisions that failed by a defect of ours. Nothing of them takes effect and the process goes on, so they have to be
//! counted, named and said, for somebody to hear of them; and not thousands of times a minute.

use crate::http::metrics::Counters;
use event_log::host;
use master_core::command::Caller;
use parking_lot::Mutex;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many decisions crashed on this master since it started.
pub const CRASHED: &str = "master/meseta/crashed_decisions";

/// How often something due could not be decided and was set aside, on this master since it started.
pub const SET_ASIDE: &str = "master/meseta/deadlines_set_aside";

/// What every line of the log about a crash begins with.
pub const SENTENCE: &str = "a decision crashed by a defect: nothing of it took effect";

/// Between two lines of the log.
const SAY_EVERY_MS: u64 = 1_000;
/// Between two backtraces.
const TRACE_EVERY: Duration = Duration::from_secs(60);

/// The last crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// The call or the command.
    pub command: String,
    /// Who wanted it.
    pub caller: String,
    /// What panicked.
    pub message: String,
}

/// All of them, and the last.
#[derive(Debug)]
pub struct Crashes {
    counters: Arc<Counters>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    last: Option<Crash>,
    said_ms: Option<u64>,
    unsaid: u64,
}

impl Crashes {
    pub(crate) fn new(counters: Arc<Counters>) -> Crashes {
        Crashes { counters, inner: Mutex::default() }
    }

    /// Where they are counted, among others.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.inner.lock().count
    }

    /// The last one, if there was any.
    pub fn last(&self) -> Option<Crash> {
        self.inner.lock().last.clone()
    }

    /// Takes one in.
    pub(crate) fn note(&self, command: &str, caller: &Caller, message: &str) {
        let name = caller.principal.as_deref().or(caller.peer.as_deref()).unwrap_or("this master");
        let (at_ms, caller) = (host::wall_ms(), name.to_owned());
        let crash = Crash { at_ms, command: command.to_owned(), caller, message: message.to_owned() };
        self.counters.count(CRASHED);
        let mut inner = self.inner.lock();
        inner.count += 1;
        if inner.said_ms.is_some_and(|said_ms| at_ms < said_ms.saturating_add(SAY_EVERY_MS)) {
            inner.unsaid += 1;
        } else {
            let Crash { command, caller, message, .. } = &crash;
            let (crashed, unsaid) = (inner.count, std::mem::take(&mut inner.unsaid));
            tracing::error!(command, caller, panic = message, crashed, unsaid, "{SENTENCE}");
            inner.said_ms = Some(at_ms);
        }
        inner.last = Some(crash);
    }

    /// Something due could not be decided.
    pub(crate) fn note_set_aside(&self) {
        self.counters.count(SET_ASIDE);
    }
}

thread_local! {
    static DECIDING: Cell<bool> = const { Cell::new(false) };
    static NOTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does `work`; if it panics, what it said.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    NOTED.set(None);
    let before = DECIDING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    DECIDING.set(before);
    done.map_err(|payload| NOTED.take().unwrap_or_else(|| said(&*payload)))
}

/// From now on a decision that panics tells where, and does not print a backtrace each time.
pub fn watch_panics() {
    let usual = std::panic::take_hook();
    let traced: Mutex<Option<Instant>> = Mutex::new(None);
    std::panic::set_hook(Box::new(move |info| {
        if DECIDING.get() {
            let place = info.location().map_or_else(String::new, |place| format!(" at {place}"));
            NOTED.set(Some(said(info.payload()) + &place));
            let mut traced = traced.lock();
            if traced.is_some_and(|at| at.elapsed() < TRACE_EVERY) {
                return;
            }
            *traced = Some(Instant::now());
        }
        usual(info);
    }));
}

fn said(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_counted_and_named() {
        let counters = Arc::new(Counters::default());
        let crashes = Crashes::new(counters);
        let message = catch(|| -> u32 { panic!("{} were held", 7) }).unwrap_err();
        assert_eq!(message, "7 were held");
        let caller = Caller { principal: None, peer: Some("10.0.0.7:9".into()) };
        crashes.note("ACCEPT", &caller, &message);
        crashes.note("deadline-passed", &Caller::default(), &message);
        assert_eq!(crashes.count(), 2);
        let last = crashes.last().unwrap();
        assert_eq!((last.command.as_str(), last.caller.as_str()), ("deadline-passed", "this master"));
    }

    #[test]
    fn what_does_not_panic_is_no_crash() {
        assert_eq!(catch(|| 7), Ok(7));
    }
}
