//! A disk in memory that loses in a crash what a real one may lose: any end of what was not flushed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Batch, Disk, Meta};

#[derive(Clone, Default)]
struct Image {
    entries: BTreeMap<u64, Vec<u8>>,
    meta: BTreeMap<Meta, Vec<u8>>,
}

impl Image {
    fn apply(&mut self, batch: &Batch) {
        if let Some(from) = batch.truncate_from {
            self.entries.split_off(&from);
        }
        if let Some(to) = batch.purge_to {
            self.entries = self.entries.split_off(&(to + 1));
        }
        self.entries.extend(batch.entries.iter().cloned());
        self.meta.extend(batch.meta.iter().cloned());
    }
}

#[derive(Default)]
struct State {
    /// What is written.
    current: Image,
    /// What survives every crash.
    durable: Image,
    /// What leads from durable to current.
    unflushed: Vec<Batch>,
    /// Batches that were ever flushed.
    flushed: usize,
    crashed: bool,
}

/// One life of a disk: until a crash.
#[derive(Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything written so far, for [`Memory::end_flush`].
    pub(crate) fn begin_flush(&self) -> usize {
        let state = self.state();
        state.flushed + state.unflushed.len()
    }

    /// What was written when the flush began is durable; not if the disk crashed meanwhile.
    pub(crate) fn end_flush(&self, mark: usize) -> io::Result<()> {
        let mut state = self.state();
        if state.crashed {
            return Err(io::Error::other("crashed"));
        }
        let count = mark.saturating_sub(state.flushed);
        let batches: Vec<Batch> = state.unflushed.drain(..count).collect();
        batches.iter().for_each(|batch| state.durable.apply(batch));
        state.flushed += count;
        Ok(())
    }

    /// Ends this life. Of the batches that were not flushed, `survive` of them picks how many are there in the next.
    pub(crate) fn crash(&self, survive: impl FnOnce(usize) -> usize) -> Arc<Memory> {
        let mut state = self.state();
        state.crashed = true;
        let mut image = state.durable.clone();
        let survivors = survive(state.unflushed.len());
        state.unflushed[..survivors].iter().for_each(|batch| image.apply(batch));
        Arc::new(Memory { state: Mutex::new(State { current: image.clone(), durable: image, ..State::default() }) })
    }
}

impl Disk for Memory {
    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut state = self.state();
        if state.crashed {
            return Err(io::Error::other("crashed"));
        }
        state.current.apply(&batch);
        state.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.end_flush(self.begin_flush())
    }

    fn meta(&self, key: Meta) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().current.meta.get(&key).cloned())
    }

    fn entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let state = self.state();
        let mut bytes = 0;
        let limited = state.current.entries.range(start..end).take_while(|(_, value)| {
            let room = bytes <= bytes_max;
            bytes += value.len();
            room
        });
        Ok(limited.map(|(index, value)| (*index, value.clone())).collect())
    }

    fn last_index(&self) -> io::Result<Option<u64>> {
        Ok(self.state().current.entries.keys().next_back().copied())
    }
}
