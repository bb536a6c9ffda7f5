//! The one thread that writes a local log.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use super::segment::{self, HEADER_BYTES};
use super::{AppendError, LocalOptions};
use crate::disk::{self, DirLock};
use crate::frames;
use crate::mark::Mark;

/// Encoded records to be written.
pub(super) enum Job {
    Append(Vec<u8>),
    Rotate(Vec<Vec<u8>>),
}

type Answer = oneshot::Sender<Result<u64, AppendError>>;

struct Queue {
    jobs: VecDeque<(Job, Answer)>,
    last_index: u64,
    closed: bool,
    failed: Option<AppendError>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    size_bytes: AtomicU64,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whoever panicked left the queue whole: no lock is held across a call that can panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queue's end and the thread that empties it.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "what recovery found, handed over once")]
    pub(super) fn start(
        lock: DirLock,
        mark: Mark,
        dir: PathBuf,
        options: LocalOptions,
        file: File,
        generation: u64,
        paths: Vec<PathBuf>,
        next_index: u64,
        length: u64,
    ) -> io::Result<Writer> {
        let before =
            paths[..paths.len() - 1].iter().map(|path| Ok(fs::metadata(path)?.len())).sum::<io::Result<u64>>()?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: VecDeque::new(), last_index: next_index - 1, closed: false, failed: None }),
            wake: Condvar::new(),
            size_bytes: AtomicU64::new(before + length),
        });
        let worker = Worker {
            shared: shared.clone(),
            dir,
            options,
            file,
            generation,
            paths,
            length,
            written: next_index - 1,
            synced: next_index - 1,
            buffer: Vec::new(),
            answers: Vec::new(),
            mark,
            _lock: lock,
        };
        let thread = thread::Builder::new().name("local-log".into()).spawn(move || worker.run())?;
        Ok(Writer { shared, thread: Some(thread) })
    }

    pub(super) fn submit(&self, job: Job, answer: Answer) {
        let mut queue = self.shared.queue();
        if let Some(error) = &queue.failed {
            // Whoever does not wait for the answer does not care.
            let _ = answer.send(Err(error.clone()));
            return;
        }
        queue.last_index += match &job {
            Job::Append(_) => 1,
            Job::Rotate(records) => records.len() as u64,
        };
        queue.jobs.push_back((job, answer));
        drop(queue);
        self.shared.wake.notify_one();
    }

    pub(super) fn last_index(&self) -> u64 {
        self.shared.queue().last_index
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.shared.size_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    shared: Arc<Shared>,
    dir: PathBuf,
    options: LocalOptions,
    file: File,
    generation: u64,
    /// Segments of this generation; the last is `file`.
    paths: Vec<PathBuf>,
    /// Of `file`, in bytes: whole records that are written.
    length: u64,
    written: u64,
    synced: u64,
    /// Frames that are not written yet, and who waits for them.
    buffer: Vec<u8>,
    answers: Vec<(u64, Answer)>,
    mark: Mark,
    _lock: DirLock,
}

impl Worker {
    fn run(mut self) {
        while let Some(jobs) = self.take() {
            let mut jobs = jobs.into_iter();
            if let Err(error) = self.write_all(&mut jobs) {
                tracing::error!(dir = %self.dir.display(), error = %error, "the log cannot be written any more");
                let error = AppendError::from(error);
                // Best effort: recovery cuts off an unfinished write as well.
                let _ = self.file.set_len(self.length);
                let mut queue = self.shared.queue();
                queue.failed = Some(error.clone());
                let later = std::mem::take(&mut queue.jobs);
                drop(queue);
                let waiting = self.answers.drain(..).map(|(_, answer)| answer);
                for answer in waiting.chain(jobs.map(|job| job.1)).chain(later.into_iter().map(|job| job.1)) {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Everything queued; `None` when the log was closed and nothing is left.
    fn take(&self) -> Option<VecDeque<(Job, Answer)>> {
        let mut queue = self.shared.queue();
        loop {
            if !queue.jobs.is_empty() {
                return Some(std::mem::take(&mut queue.jobs));
            }
            if queue.closed {
                return None;
            }
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write_all(&mut self, jobs: &mut impl Iterator<Item = (Job, Answer)>) -> io::Result<()> {
        for (job, answer) in jobs {
            match job {
                Job::Append(record) => {
                    self.written += 1;
                    frames::push_frame(&mut self.buffer, self.written, self.synced, &record);
                    self.answers.push((self.written, answer));
                }
                Job::Rotate(records) => {
                    self.flush()?;
                    self.answers.push((self.written + records.len() as u64, answer));
                    self.rotate(&records)?;
                }
            }
        }
        self.flush()?;
        if self.length > self.options.segment_bytes {
            self.begin_segment(self.generation, &[])?;
        }
        Ok(())
    }

    /// Writes and syncs the buffer; then whoever waits for it may know.
    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_all(&self.buffer)?;
            self.file.sync_data()?;
            self.length += self.buffer.len() as u64;
            self.shared.size_bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
            self.buffer.clear();
        }
        self.resolve()
    }

    fn resolve(&mut self) -> io::Result<()> {
        self.synced = self.written;
        // Before anybody hears of it: what was acknowledged must be there.
        self.mark.reach(self.synced)?;
        for (index, answer) in self.answers.drain(..) {
            let _ = answer.send(Ok(index));
        }
        Ok(())
    }

    fn rotate(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        let old = std::mem::take(&mut self.paths);
        self.begin_segment(self.generation + 1, records)?;
        self.generation += 1;
        self.written += records.len() as u64;
        self.shared.size_bytes.store(self.length, Ordering::Relaxed);
        self.resolve()?;
        for path in old {
            // The new generation hides it; if it stays, the next open removes it.
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a segment that is no longer needed");
            }
        }
        Ok(())
    }

    fn begin_segment(&mut self, generation: u64, records: &[Vec<u8>]) -> io::Result<()> {
        let starts = generation != self.generation;
        let (file, path, length) = create_segment(&self.dir, generation, self.written + 1, starts, records)?;
        self.shared.size_bytes.fetch_add(length, Ordering::Relaxed);
        (self.file, self.length) = (file, length);
        self.paths.push(path);
        Ok(())
    }
}

/// Makes a segment that appears whole or not at all.
pub(super) fn create_segment(
    dir: &Path,
    generation: u64,
    first_index: u64,
    starts_generation: bool,
    records: &[Vec<u8>],
) -> io::Result<(File, PathBuf, u64)> {
    let path = dir.join(segment::file_name(generation, first_index));
    let temporary = path.with_extension("segment.tmp");
    let mut bytes = segment::header(generation, first_index, starts_generation);
    debug_assert_eq!(bytes.len() as u64, HEADER_BYTES);
    let last = first_index + records.len() as u64 - 1;
    for (index, record) in (first_index..).zip(records) {
        // The segment appears only when all of it is synced.
        frames::push_frame(&mut bytes, index, last, record);
    }
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().append(true).create_new(true).open(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    disk::sync_dir(dir)?;
    Ok((file, path, bytes.len() as u64))
}
