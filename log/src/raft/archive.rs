//! History that left Raft's log: segments, each with the entries of a range of indexes, never changed once they are there.
//!
//! ```text
//! name    := first index - last index .segment
//! segment := head · frames (see `frames`), one for each entry
//! head    := magic [8] · first u64 · last u64 · first at_ms u64 · last at_ms u64 · cluster id [16] · crc32 u32
//! ```
//!
//! What is here is committed. A segment appears whole, and synced, before its entries leave the log. Between two
//! segments entries are missing if a snapshot took their place on this member.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::types::verify_entry;
use crate::disk::{self, OpenError, Paced};
use crate::frames::{self, Frames, Next};

const MAGIC: &[u8; 8] = b"evlogar1";
pub(crate) const HEAD_BYTES: usize = 60;
const ENDING: &str = "segment";
const TEMPORARY: &str = "tmp";
const KIND: frames::Kind = frames::Kind {
    check: |index, bytes| verify_entry(index, bytes).map(drop),
    remedy: LOST_SEGMENT,
    may_be_torn: false,
};

/// What to do about a damaged segment.
const LOST_SEGMENT: &str = "this part of history is lost on this master: if the master starts, move the segment away and keep \
    the rest; if it does not, move the folder away and replace this master by `meseta masters replace`, so that the others \
    rebuild it";

/// A segment, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) bytes: u64,
    pub(crate) path: PathBuf,
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// When the first and the last record were made, in milliseconds since 1970.
    pub(crate) first_at_ms: u64,
    pub(crate) last_at_ms: u64,
    /// The cluster's id; 0 before it had one.
    pub(crate) cluster: u128,
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.first, self.last, self.first_at_ms, self.last_at_ms] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.cluster.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEAD_BYTES]) -> Option<Head> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let cluster = u128::from_le_bytes(bytes[40..56].try_into().expect("sixteen bytes"));
        let (first, last, first_at_ms, last_at_ms) = (number(8), number(16), number(24), number(32));
        let head = Head { first, last, first_at_ms, last_at_ms, cluster };
        (head.encode() == bytes).then_some(head)
    }
}

impl Segment {
    /// What the file says of itself.
    ///
    /// # Errors
    /// It cannot be read, or is not what its name says.
    pub(crate) fn head(&self) -> Result<Head, OpenError> {
        self.open_file().map(|(head, _)| head)
    }

    fn open_file(&self) -> Result<(Head, File), OpenError> {
        let mut file = File::open(&self.path).map_err(OpenError::io("open", &self.path))?;
        let mut bytes = [0; HEAD_BYTES];
        let whole = file.read_exact(&mut bytes);
        let head = whole.ok().and_then(|()| Head::decode(&bytes));
        match head.filter(|head| (head.first, head.last) == (self.first, self.last)) {
            Some(head) => Ok((head, file)),
            None => Err(OpenError::Damaged {
                index: self.first,
                path: self.path.clone(),
                why: "the head of the segment is not what it should be".into(),
                remedy: LOST_SEGMENT,
            }),
        }
    }

    fn frames(&self) -> Result<Frames, OpenError> {
        let (_, file) = self.open_file()?;
        Ok(Frames::new(file, self.path.clone(), HEAD_BYTES, self.first, KIND))
    }
}

/// The segments of a folder, oldest first; none if there is no folder.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some((first, last)) = parse_name(&path) else { continue };
        match fs::metadata(&path) {
            Ok(metadata) => found.push(Segment { first, last, bytes: metadata.len(), path }),
            // Removed meanwhile: the oldest go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|segment| (segment.first, segment.last));
    Ok(found)
}

fn parse_name(path: &Path) -> Option<(u64, u64)> {
    let (first, last) = path.file_name()?.to_str()?.strip_suffix(".segment")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The ranges of indexes that segments hold without a gap, oldest first.
pub(crate) fn ranges(segments: &[Segment]) -> Vec<RangeInclusive<u64>> {
    let mut ranges: Vec<RangeInclusive<u64>> = Vec::new();
    for Segment { first, last, .. } in segments {
        match ranges.last_mut() {
            Some(range) if *first <= *range.end() + 1 => *range = *range.start()..=(*range.end()).max(*last),
            _ => ranges.push(*first..=*last),
        }
    }
    ranges
}

/// Encoded entries of segments, from `next` to before `end`, in order. Ends after an error.
pub(crate) struct Reader {
    segments: std::vec::IntoIter<Segment>,
    /// And the last index that it should have.
    current: Option<(Frames, u64)>,
    next: u64,
    end: u64,
}

impl Reader {
    pub(crate) fn new(segments: Vec<Segment>, next: u64, end: u64) -> Reader {
        Reader { segments: segments.into_iter(), current: None, next, end }
    }

    fn try_next(&mut self) -> Result<(u64, Vec<u8>), OpenError> {
        loop {
            if self.current.is_none() {
                let wanted = self.segments.by_ref().find(|segment| segment.last >= self.next);
                let segment = wanted.filter(|segment| segment.first <= self.next).ok_or_else(|| self.missing())?;
                let mut frames = segment.frames()?;
                frames.skip_to(self.next)?;
                self.current = Some((frames, segment.last));
            }
            let (frames, last) = self.current.as_mut().expect("opened above");
            match frames.next()? {
                Next::Frame(index, bytes) => {
                    self.next = index + 1;
                    return Ok((index, bytes));
                }
                Next::End { .. } if self.next <= *last => return Err(frames.damaged("the segment ends early")),
                // The next segment must go on from here.
                Next::End { .. } => self.current = None,
            }
        }
    }

    fn missing(&self) -> OpenError {
        OpenError::NotKept { index: self.next }
    }
}

impl Iterator for Reader {
    type Item = Result<(u64, Vec<u8>), OpenError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let next = self.try_next();
        if next.is_err() {
            self.end = 0;
        }
        Some(next)
    }
}

/// The folder of segments, as its member writes it.
pub(crate) struct Archive {
    dir: PathBuf,
    /// A new segment is begun when the current one is larger, in bytes.
    segment_bytes: u64,
    /// The cluster's id, of whoever writes.
    writing: Mutex<u128>,
}

impl Archive {
    /// Makes the folder if need be, and removes what a crash left half written.
    pub(crate) fn open(dir: PathBuf, segment_bytes: u64) -> io::Result<Archive> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                fs::remove_file(&path)?;
            }
        }
        Ok(Archive { dir, segment_bytes, writing: Mutex::default() })
    }

    /// Whose history it is, from now on.
    pub(crate) fn belong_to(&self, cluster_id: Option<&str>) {
        let cluster = cluster_id.and_then(|id| uuid::Uuid::try_parse(id).ok()).map_or(0, |id| id.as_u128());
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = cluster;
    }

    pub(crate) fn list(&self) -> io::Result<Vec<Segment>> {
        list(&self.dir)
    }

    /// Begins to add entries; waits until nobody else does.
    pub(crate) fn write(&self) -> io::Result<Writer<'_>> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.list()?.iter().map(|segment| segment.last + 1).max().unwrap_or(0);
        Ok(Writer { archive: self, next, current: None, cluster: writing })
    }
}

/// Adds entries to an archive.
pub(crate) struct Writer<'a> {
    archive: &'a Archive,
    /// Everything before is there, or was never to be.
    pub(crate) next: u64,
    current: Option<Open>,
    cluster: MutexGuard<'a, u128>,
}

/// A segment that is being written, aside.
struct Open {
    file: BufWriter<Paced>,
    path: PathBuf,
    head: Head,
    bytes: u64,
    frame: Vec<u8>,
}

impl Writer<'_> {
    /// Adds the entry at `index`, made at `at_ms` (the same as the last one if it has no time), encoded.
    pub(crate) fn push(&mut self, index: u64, at_ms: Option<u64>, entry: &[u8]) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|open| open.bytes >= self.archive.segment_bytes) {
            self.finish()?;
        }
        if self.current.is_none() {
            self.current = Some(self.begin(index)?);
        }
        let open = self.current.as_mut().expect("begun above");
        if let Some(at_ms) = at_ms {
            if open.head.first_at_ms == 0 {
                open.head.first_at_ms = at_ms;
            }
            open.head.last_at_ms = at_ms;
        }
        open.frame.clear();
        frames::push_frame(&mut open.frame, index, index, entry);
        open.file.write_all(&open.frame)?;
        open.bytes += open.frame.len() as u64;
        open.head.last = index;
        self.next = index + 1;
        Ok(())
    }

    fn begin(&self, index: u64) -> io::Result<Open> {
        let path = self.archive.dir.join(format!("{index:020}.{TEMPORARY}"));
        let head = Head { first: index, last: index, first_at_ms: 0, last_at_ms: 0, cluster: *self.cluster };
        let mut file = BufWriter::with_capacity(1 << 18, Paced::create(&path)?);
        // Written again when all of it is known.
        file.write_all(&head.encode())?;
        Ok(Open { file, path, head, bytes: HEAD_BYTES as u64, frame: Vec::new() })
    }

    /// Makes what was added durable, under its name.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some(open) = self.current.take() else { return Ok(()) };
        let file = open.file.into_inner()?.file;
        file.write_all_at(&open.head.encode(), 0)?;
        file.sync_all()?;
        let Head { first, last, .. } = open.head;
        fs::rename(&open.path, self.archive.dir.join(format!("{first:020}-{last:020}.{ENDING}")))?;
        disk::sync_dir(&self.archive.dir)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.current.take() {
            // Not finished: on a full disk its bytes are missed. If it stays, the next start removes it.
            let _ = fs::remove_file(&open.path);
        }
    }
}
