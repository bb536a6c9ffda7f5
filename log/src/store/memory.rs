//! A disk in memory, for simulations. It survives its process, and loses in a crash what a real one may lose: any end
//! of what was not flushed. It can be slow, full or broken, and its bits can flip.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Batch, Disk, Meta};
use crate::host;
use crate::raft::log_store::{Flushed, Flusher};

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

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Writes fail: no space is left.
    Full,
    /// Flushes fail.
    Broken,
}

#[derive(Default)]
struct Platter {
    /// What is written.
    current: Image,
    /// What survives every crash.
    durable: Image,
    /// What leads from durable to current.
    unflushed: Vec<Batch>,
    /// Batches that were ever flushed.
    flushed: usize,
    /// Grows with every crash: whoever wrote before writes no more.
    life: u64,
    fault: Option<DiskFault>,
    flush_us_max: u64,
    slow_flush_us_max: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Platter>>);

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryDisk").finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// An empty disk. A flush takes up to `flush_us_max` microseconds, one in twenty up to `slow_flush_us_max`.
    pub fn new(flush_us_max: u64, slow_flush_us_max: u64) -> MemoryDisk {
        MemoryDisk(Arc::new(Mutex::new(Platter { flush_us_max, slow_flush_us_max, ..Platter::default() })))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the life of whoever writes. Of the writes that were not flushed, `survive` of their number are there for
    /// the next one.
    pub fn crash(&self, survive: impl FnOnce(usize) -> usize) {
        let mut platter = self.platter();
        let survivors = survive(platter.unflushed.len()).min(platter.unflushed.len());
        let batches: Vec<Batch> = platter.unflushed.drain(..).take(survivors).collect();
        batches.iter().for_each(|batch| platter.durable.apply(batch));
        platter.current = platter.durable.clone();
        platter.flushed = 0;
        platter.life += 1;
        platter.fault = None;
    }

    /// How many writes a crash may lose now.
    pub fn unflushed(&self) -> usize {
        self.platter().unflushed.len()
    }

    /// Breaks the disk, or repairs it.
    pub fn set_fault(&self, fault: Option<DiskFault>) {
        self.platter().fault = fault;
    }

    /// Flips one bit of one entry, chosen by `random`; the entry's index, if there is any entry.
    pub fn flip_bit(&self, random: u64) -> Option<u64> {
        let mut platter = self.platter();
        let count = platter.durable.entries.len() as u64;
        let index = *platter.durable.entries.keys().nth(usize::try_from(random % count.max(1)).ok()?)?;
        let platter = &mut *platter;
        for image in [&mut platter.durable, &mut platter.current] {
            if let Some(bytes) = image.entries.get_mut(&index) {
                let bit = (random >> 20) as usize % (bytes.len() * 8).max(1);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Some(index)
    }

    pub(crate) fn mount(&self) -> Arc<Mounted> {
        let life = self.platter().life;
        Arc::new(Mounted { disk: self.clone(), life })
    }
}

/// A disk as one process has it, until a crash.
pub(crate) struct Mounted {
    disk: MemoryDisk,
    life: u64,
}

impl Mounted {
    fn platter(&self) -> io::Result<MutexGuard<'_, Platter>> {
        let platter = self.disk.platter();
        if platter.life == self.life { Ok(platter) } else { Err(io::Error::other("crashed")) }
    }

    /// Everything written so far, for [`Mounted::end_flush`], and how long a flush takes.
    fn begin_flush(&self) -> io::Result<(usize, Duration)> {
        let platter = self.platter()?;
        let random = host::random() as u64;
        let us_max = if random.is_multiple_of(20) { platter.slow_flush_us_max } else { platter.flush_us_max };
        let pause = Duration::from_micros((random >> 8) % us_max.max(1));
        Ok((platter.flushed + platter.unflushed.len(), pause))
    }

    /// What was written when the flush began is durable.
    fn end_flush(&self, mark: usize) -> io::Result<()> {
        let mut platter = self.platter()?;
        if platter.fault == Some(DiskFault::Broken) {
            return Err(io::Error::other("input/output error"));
        }
        let count = mark.saturating_sub(platter.flushed);
        let batches: Vec<Batch> = platter.unflushed.drain(..count).collect();
        batches.iter().for_each(|batch| platter.durable.apply(batch));
        platter.flushed += count;
        Ok(())
    }
}

impl Disk for Mounted {
    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut platter = self.platter()?;
        if platter.fault == Some(DiskFault::Full) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        platter.current.apply(&batch);
        platter.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mark = {
            let platter = self.platter()?;
            platter.flushed + platter.unflushed.len()
        };
        self.end_flush(mark)
    }

    fn meta(&self, key: Meta) -> io::Result<Option<Vec<u8>>> {
        Ok(self.platter()?.current.meta.get(&key).cloned())
    }

    fn entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let platter = self.platter()?;
        let mut bytes = 0;
        let limited = platter.current.entries.range(start..end).take_while(|(_, value)| {
            let room = bytes <= bytes_max;
            bytes += value.len();
            room
        });
        Ok(limited.map(|(index, value)| (*index, value.clone())).collect())
    }

    fn last_index(&self) -> io::Result<Option<u64>> {
        Ok(self.platter()?.current.entries.keys().next_back().copied())
    }
}

/// Flushes late, as long as the disk takes, for everybody who asked meanwhile.
pub(crate) struct TaskFlusher {
    disk: Arc<Mounted>,
    /// Who waits, and whether a task works for them.
    waiting: Arc<Mutex<(Vec<Flushed>, bool)>>,
}

impl TaskFlusher {
    pub(crate) fn new(disk: Arc<Mounted>) -> TaskFlusher {
        TaskFlusher { disk, waiting: Arc::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flusher for TaskFlusher {
    fn request(&self, done: Flushed) {
        let mut waiting = lock(&self.waiting);
        waiting.0.push(done);
        if std::mem::replace(&mut waiting.1, true) {
            return;
        }
        let (disk, queue) = (self.disk.clone(), self.waiting.clone());
        let _detached = host::spawn(async move {
            loop {
                let asked = {
                    let mut waiting = lock(&queue);
                    if waiting.0.is_empty() {
                        waiting.1 = false;
                        return;
                    }
                    std::mem::take(&mut waiting.0)
                };
                let flushed = flush(&disk).await;
                for done in asked {
                    done(flushed.as_ref().map_or_else(|error| Err(io::Error::other(error.to_string())), |()| Ok(())));
                }
            }
        });
    }
}

async fn flush(disk: &Mounted) -> io::Result<()> {
    let (mark, pause) = disk.begin_flush()?;
    tokio::time::sleep(pause).await;
    disk.end_flush(mark)
}
