//! The bytes of a segment: a header, then frames (see `frames`).
//!
//! ```text
//! header := magic [8] · generation u64 · first_index u64 · starts_generation u8 · crc32 u32
//! ```
//!
//! All integers are little endian.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::codec;
use crate::disk::OpenError;
use crate::frames::{self, Frames, Next};
use crate::record::Record;

pub(super) const HEADER_BYTES: u64 = 29;
const MAGIC: &[u8; 8] = b"evlogseg";
pub(super) const REMEDY: &str = "restore the folder from a copy, or move it away to start anew without what it holds";

/// Name of the segment whose first record has `index`; sorts by generation, then index.
pub(super) fn file_name(generation: u64, index: u64) -> String {
    format!("{generation:08}-{index:020}.segment")
}

fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (generation, index) = name.strip_suffix(".segment")?.split_once('-')?;
    Some((generation.parse().ok()?, index.parse().ok()?))
}

pub(super) fn header(generation: u64, first_index: u64, starts_generation: bool) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&first_index.to_le_bytes());
    bytes.push(u8::from(starts_generation));
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// A segment as found in the folder.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) generation: u64,
    pub(super) first_index: u64,
    pub(super) starts_generation: bool,
    /// Opened when it was listed, so that a reader keeps what a writer deletes.
    file: File,
}

/// The segments of the newest complete generation, in order, and the files that are no longer needed.
///
/// A generation becomes visible by the rename that gives its first segment its name, so the newest is complete.
pub(super) fn list(dir: &Path) -> Result<(Vec<Segment>, Vec<PathBuf>), OpenError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match try_list(dir) {
            // A writer started a new generation meanwhile.
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound && attempts < 100 => {}
            result => return result,
        }
    }
}

fn try_list(dir: &Path) -> Result<(Vec<Segment>, Vec<PathBuf>), OpenError> {
    let mut found = Vec::new();
    let mut obsolete = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(OpenError::io("read", dir))? {
        let path = entry.map_err(OpenError::io("read", dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some((generation, first_index)) = parse_name(name) {
            found.push((generation, first_index, path));
        } else if name.ends_with(".segment.tmp") {
            obsolete.push(path);
        }
    }
    found.sort();
    let newest = found.last().map_or(0, |(generation, ..)| *generation);
    let mut segments: Vec<Segment> = Vec::new();
    for (generation, first_index, path) in found {
        if generation < newest {
            obsolete.push(path);
            continue;
        }
        let file = File::open(&path).map_err(OpenError::io("open", &path))?;
        segments.push(Segment { starts_generation: segments.is_empty(), path, generation, first_index, file });
    }
    Ok((segments, obsolete))
}

impl Segment {
    /// Its frames; `is_last`: nothing follows it in the log.
    fn frames(mut self, is_last: bool) -> Result<Frames, OpenError> {
        let kind = frames::Kind { check: |_, record| codec::verify(record), remedy: REMEDY, may_be_torn: is_last };
        let expected = header(self.generation, self.first_index, self.starts_generation);
        let mut found = [0; HEADER_BYTES as usize];
        let whole = self.file.read_exact(&mut found);
        let frames = Frames::new(self.file, self.path, found.len(), self.first_index, kind);
        // Never torn: the header is synced under another name before the segment appears.
        if whole.is_err() || found[..] != expected {
            return Err(frames.damaged("the head of the segment is not what it should be"));
        }
        Ok(frames)
    }
}

/// The records of a list of segments, in order. Ends after an error.
pub(super) struct Records {
    segments: std::vec::IntoIter<Segment>,
    current: Option<Frames>,
    /// Index of the next record.
    pub(super) index: u64,
    /// Records from here on are not shown.
    pub(super) end: u64,
    /// Where the last whole record of the segment last read ends, in bytes.
    pub(super) offset: u64,
}

impl Records {
    pub(super) fn new(segments: Vec<Segment>, end: u64) -> Records {
        let index = segments.first().map_or(1, |segment| segment.first_index);
        Records { segments: segments.into_iter(), current: None, index, end, offset: 0 }
    }

    /// The next record's bytes. Decoding is left to whoever needs it.
    pub(super) fn next_bytes(&mut self) -> Option<Result<(u64, Vec<u8>), OpenError>> {
        let next = self.try_next();
        if !matches!(next, Ok(Some(_))) {
            self.current = None;
            self.segments = Vec::new().into_iter();
        }
        next.transpose()
    }

    fn try_next(&mut self) -> Result<Option<(u64, Vec<u8>)>, OpenError> {
        while self.index < self.end {
            if self.current.is_none() {
                let Some(segment) = self.segments.next() else { return Ok(None) };
                if segment.first_index != self.index {
                    let why = format!("the next segment starts at {}", segment.first_index);
                    return Err(OpenError::Damaged { index: self.index, path: segment.path, why, remedy: REMEDY });
                }
                let is_last = self.segments.len() == 0;
                self.current = Some(segment.frames(is_last)?);
            }
            let frames = self.current.as_mut().expect("opened above");
            let next = frames.next()?;
            self.offset = frames.offset;
            match next {
                Next::Frame(index, bytes) => {
                    self.index = index + 1;
                    return Ok(Some((index, bytes)));
                }
                Next::End { torn } => {
                    self.current = None;
                    if torn {
                        return Ok(None);
                    }
                }
            }
        }
        Ok(None)
    }

    pub(super) fn next_record(&mut self) -> Option<Result<(u64, Record), OpenError>> {
        let (index, bytes) = match self.next_bytes()? {
            Ok(next) => next,
            Err(error) => return Some(Err(error)),
        };
        Some(Record::decode(&bytes).map(|record| (index, record)).map_err(|source| OpenError::Record { index, source }))
    }
}
