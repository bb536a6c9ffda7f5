//! How calls of a plugin went.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pending: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
}

/// So many calls of a plugin, since this process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// That have no answer yet.
    pub pending: u64,
    /// That were done.
    pub finished: u64,
    /// That were not.
    pub failed: u64,
    /// Whose answer nobody waits for any more.
    pub cancelled: u64,
}

impl Counters {
    pub(crate) fn read(&self) -> Calls {
        Calls {
            pending: self.pending.load(Relaxed),
            finished: self.finished.load(Relaxed),
            failed: self.failed.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
        }
    }

    pub(crate) fn begin(&self) -> Pending<'_> {
        self.pending.fetch_add(1, Relaxed);
        Pending { counters: self, end: &self.cancelled }
    }
}

/// A call that is under way: cancelled, unless it is said how it ended.
pub(crate) struct Pending<'a> {
    counters: &'a Counters,
    end: &'a AtomicU64,
}

impl Pending<'_> {
    pub(crate) fn ended(mut self, is_done: bool) {
        self.end = if is_done { &self.counters.finished } else { &self.counters.failed };
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.counters.pending.fetch_sub(1, Relaxed);
        self.end.fetch_add(1, Relaxed);
    }
}
