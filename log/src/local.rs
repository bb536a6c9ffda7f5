//! A log of one process: checksummed segments in a folder, one writer thread, batched fdatasync.
//!
//! ```text
//! append ─► queue ─► writer: write everything queued ─► fdatasync ─► every ticket of the batch resolves
//! ```
//!
//! A log does not grow for ever: [`LocalLog::rotate`] replaces all that was appended so far by a few records from
//! which the same state follows, in one step.

mod segment;
mod writer;

use std::fmt;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::codec::CodecError;
pub use crate::disk::OpenError;
use crate::disk::{self, Identity, IdentityFile};
use crate::mark::{self, Mark};
use crate::record::Record;
use segment::Records;
use writer::{Job, Writer};

/// Why a record was not appended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The disk is full. Nothing more can be appended until the log is opened again.
    #[error("the disk of the log is full")]
    DiskFull,
    /// The disk failed. Nothing more can be appended until the log is opened again.
    #[error("the disk of the log failed")]
    Io(#[source] Arc<io::Error>),
    /// The record is larger than what can be read again. Nothing of it was written.
    #[error("the record is too large")]
    TooLarge(#[source] CodecError),
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> AppendError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                AppendError::DiskFull
            }
            _ => AppendError::Io(Arc::new(error)),
        }
    }
}

/// Resolves once the record is on the disk for good, to its index. Dropping it does not undo the append.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<u64, AppendError>>);

impl Ticket {
    fn refused(error: AppendError) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(Err(error));
        Ticket(receiver)
    }

    /// Waits on the calling thread.
    ///
    /// # Errors
    /// As the ticket's future.
    ///
    /// # Panics
    /// When called from an async task: await the ticket there.
    pub fn wait(self) -> Result<u64, AppendError> {
        self.0.blocking_recv().unwrap_or(Err(AppendError::Closed))
    }
}

impl Future for Ticket {
    type Output = Result<u64, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(AppendError::Closed)))
    }
}

/// How a log is written.
#[derive(Clone, Copy, Debug)]
pub struct LocalOptions {
    /// A new segment is begun when the current one is larger, in bytes.
    pub segment_bytes: u64,
}

impl Default for LocalOptions {
    fn default() -> LocalOptions {
        LocalOptions { segment_bytes: 64 << 20 }
    }
}

/// A log of this process. Clones share it; the last one dropped finishes what is queued and closes it.
#[derive(Clone)]
pub struct LocalLog {
    writer: Arc<Writer>,
}

impl fmt::Debug for LocalLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LocalLog").field("last_index", &self.last_index()).finish_non_exhaustive()
    }
}

impl LocalLog {
    /// Opens the log in `dir`, or begins one there, and claims the folder. What was recovered is read as it is asked
    /// for. An unfinished write at the very end, which nobody was told about, is cut off.
    ///
    /// # Errors
    /// An [`OpenError`], with nothing changed on the disk: the folder is in use, cannot be read, is another program's
    /// or a newer release's, or its records are damaged.
    pub fn open(dir: &Path, identity: &Identity) -> Result<(LocalLog, Recovered), OpenError> {
        Self::open_with(dir, identity, LocalOptions::default())
    }

    /// As [`LocalLog::open`].
    ///
    /// # Errors
    /// As [`LocalLog::open`].
    pub fn open_with(
        dir: &Path,
        identity: &Identity,
        options: LocalOptions,
    ) -> Result<(LocalLog, Recovered), OpenError> {
        disk::check_surroundings(dir, identity)?;
        let lock = disk::claim(dir)?;
        let found = IdentityFile::read(dir)?;
        if let Some(found) = &found {
            found.check(dir, identity)?;
        }
        let (mut segments, obsolete) = segment::list(dir)?;
        if found.is_none() {
            if !segments.is_empty() {
                let remedy = "restore the folder from a copy, or move it away to start anew";
                let (path, why) = (dir.join("identity"), "it is missing".to_owned());
                return Err(OpenError::DamagedFile { path, why, remedy });
            }
            let file = IdentityFile { identity: identity.clone(), fields: Vec::new() };
            file.write(dir).map_err(OpenError::io("write the identity of", dir))?;
        }
        if segments.is_empty() {
            writer::create_segment(dir, 1, 1, true, &[]).map_err(OpenError::io("begin a log in", dir))?;
            segments = segment::list(dir)?.0;
        }
        let Some(generation) = segments.first().map(|segment| segment.generation) else {
            let (path, why) = (dir.to_owned(), "the segment that was begun here is gone".to_owned());
            return Err(OpenError::DamagedFile { path, why, remedy: segment::REMEDY });
        };
        let paths: Vec<PathBuf> = segments.iter().map(|segment| segment.path.clone()).collect();

        // Everything is verified before anything is changed or served.
        let mut scan = Records::new(segments, u64::MAX);
        while let Some(record) = scan.next_bytes() {
            record?;
        }
        let (next, length) = (scan.index, scan.offset);
        let path = paths.last().expect("there is at least one");
        let reached = mark::read(dir).map_err(OpenError::io("read", dir))?;
        if reached >= next {
            let why = format!("the log reached {reached} and now ends before");
            return Err(OpenError::Damaged { index: next, path: path.clone(), why, remedy: segment::REMEDY });
        }
        let file = OpenOptions::new().append(true).open(path).map_err(OpenError::io("open", path))?;
        let torn_bytes = file.metadata().map_err(OpenError::io("read", path))?.len().saturating_sub(length);
        if torn_bytes > 0 {
            tracing::warn!(path = %path.display(), torn_bytes, next_index = next, "cut off an unfinished write");
            file.set_len(length).map_err(OpenError::io("write", path))?;
        }
        // What was read may have been written but not synced by a process that was killed.
        file.sync_all().map_err(OpenError::io("sync", path))?;
        for path in obsolete {
            match fs::remove_file(&path) {
                // Beginning the log took it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(OpenError::io("remove", &path))?,
            }
        }
        let records = Records::new(segment::list(dir)?.0, next);
        let recovered = Recovered { records, last_index: next - 1, torn_bytes };
        let mark = Mark::begin(dir, next - 1).map_err(OpenError::io("write", dir))?;
        let writer = Writer::start(lock, mark, dir.to_owned(), options, file, generation, paths, next, length)
            .map_err(OpenError::io("start the writer of", dir))?;
        Ok((LocalLog { writer: Arc::new(writer) }, recovered))
    }

    /// Queues a record and returns at once. Records are written in the order of these calls; those queued while
    /// another is being written share one sync. After one failure of the disk every later append fails.
    pub fn append(&self, record: Record) -> Ticket {
        match record.try_encode() {
            Ok(bytes) => self.submit(Job::Append(bytes)),
            Err(error) => Ticket::refused(AppendError::TooLarge(error)),
        }
    }

    /// As [`LocalLog::append`] for several records; the ticket resolves to the index of the last.
    ///
    /// # Panics
    /// If there are none.
    pub fn append_all(&self, records: Vec<Record>) -> Ticket {
        assert!(!records.is_empty(), "nothing to append");
        let mut tickets: Vec<Ticket> = records.into_iter().map(|record| self.append(record)).collect();
        // In order: when the last is on the disk, all are.
        tickets.pop().expect("not empty")
    }

    /// Replaces everything appended before this call by `snapshot`, in one step: after a crash either all of the old
    /// records are there or all of the new ones. Appends after this call follow. Indexes go on counting; the
    /// ticket resolves to the index of the snapshot's last record.
    pub fn rotate(&self, snapshot: Vec<Record>) -> Ticket {
        match snapshot.iter().map(Record::try_encode).collect() {
            Ok(records) => self.submit(Job::Rotate(records)),
            Err(error) => Ticket::refused(AppendError::TooLarge(error)),
        }
    }

    /// Index of the last record queued; 0 if there never was one.
    pub fn last_index(&self) -> u64 {
        self.writer.last_index()
    }

    /// Bytes on the disk since the last rotation: when it is time for another.
    pub fn size_bytes(&self) -> u64 {
        self.writer.size_bytes()
    }

    fn submit(&self, job: Job) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        self.writer.submit(job, sender);
        Ticket(receiver)
    }
}

/// What a log held when it was opened: (index, record) in order, read from the disk as it is asked for.
pub struct Recovered {
    records: Records,
    last_index: u64,
    torn_bytes: u64,
}

impl Recovered {
    /// Index of the last record; 0 if there never was one.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Bytes of an unfinished write that were cut off.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }
}

impl fmt::Debug for Recovered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Recovered").field("last_index", &self.last_index).finish_non_exhaustive()
    }
}

impl Iterator for Recovered {
    type Item = Result<(u64, Record), OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next_record()
    }
}

/// A log as it is now, also while its process writes it: (index, record) in order. An unfinished write ends it.
pub struct LocalReader {
    identity: Identity,
    records: Records,
}

/// Reads the log in `dir` without changing or claiming anything.
///
/// # Errors
/// An [`OpenError`] if there is none or it cannot be read. Damage shows as the iterator's last item.
pub fn read_local(dir: &Path) -> Result<LocalReader, OpenError> {
    let Some(file) = IdentityFile::read(dir)? else { return Err(OpenError::Missing { dir: dir.to_owned() }) };
    let records = Records::new(segment::list(dir)?.0, u64::MAX);
    Ok(LocalReader { identity: file.identity, records })
}

impl LocalReader {
    /// Whose log it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl fmt::Debug for LocalReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LocalReader").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Iterator for LocalReader {
    type Item = Result<(u64, Record), OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next_record()
    }
}
