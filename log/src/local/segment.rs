//! The bytes of a segment: a header, then frames.
//!
//! ```text
//! header := magic [8] · generation u64 · first_index u64 · starts_generation u8 · crc32 u32
//! frame  := length u32 · index u64 · synced u64 · crc32 u32 (of these three) · record [length]
//! ```
//!
//! All integers are little endian. `synced` is the last index that was known to be synced when the frame was
//! written: it tells damage apart from a torn tail. After a power cut any part of what was not synced may be missing,
//! also in the middle; but a frame that a later one knows to be synced must be whole.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::codec;
use crate::disk::OpenError;
use crate::record::Record;

pub(super) const HEADER_BYTES: u64 = 29;
pub(super) const FRAME_HEADER_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"evlogseg";
const REMEDY: &str = "restore the folder from a copy, or move it away to start anew without what it holds";

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

pub(super) fn push_frame(bytes: &mut Vec<u8>, index: u64, synced: u64, record: &[u8]) {
    let at = bytes.len();
    let length = u32::try_from(record.len()).expect("records are limited to far less than 4 GiB");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&synced.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes[at..]).to_le_bytes());
    bytes.extend_from_slice(record);
}

/// (length, index, synced), if the header is whole.
fn frame_header(bytes: &[u8]) -> Option<(usize, u64, u64)> {
    let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.get(..FRAME_HEADER_BYTES)?.try_into().ok()?;
    let crc = u32::from_le_bytes(bytes[20..].try_into().expect("four bytes"));
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    let index = u64::from_le_bytes(bytes[4..12].try_into().expect("eight bytes"));
    let synced = u64::from_le_bytes(bytes[12..20].try_into().expect("eight bytes"));
    (crc32fast::hash(&bytes[..20]) == crc && length <= codec::DECODE_BYTES_MAX).then_some((length, index, synced))
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

/// Reads one segment's frames in order.
pub(super) struct Frames {
    file: io::BufReader<File>,
    path: PathBuf,
    /// Of the next frame.
    pub(super) index: u64,
    /// Where the next frame starts, in bytes.
    pub(super) offset: u64,
    /// Whether a damaged end may be what a crash left of a write.
    may_be_torn: bool,
    /// The next frame is known to be synced.
    must_be_whole: bool,
}

/// What comes next in a segment.
pub(super) enum Next {
    Frame(u64, Vec<u8>),
    /// The end, and whether bytes of an unfinished write follow.
    End {
        torn: bool,
    },
}

impl Frames {
    /// `may_be_torn`: it is the last segment of the log.
    pub(super) fn open(segment: Segment, may_be_torn: bool) -> Result<Frames, OpenError> {
        let expected = header(segment.generation, segment.first_index, segment.starts_generation);
        let mut frames = Frames {
            file: io::BufReader::with_capacity(1 << 18, segment.file),
            path: segment.path,
            index: segment.first_index,
            offset: HEADER_BYTES,
            may_be_torn,
            must_be_whole: false,
        };
        let mut found = [0; HEADER_BYTES as usize];
        let got = frames.fill(&mut found)?;
        if found[..got] != expected {
            // Never torn: the header is synced under another name before the segment appears.
            return Err(frames.damaged("the head of the segment is not what it should be"));
        }
        Ok(frames)
    }

    fn damaged(&self, why: impl Into<String>) -> OpenError {
        OpenError::Damaged { index: self.index, path: self.path.clone(), why: why.into(), remedy: REMEDY }
    }

    pub(super) fn next(&mut self) -> Result<Next, OpenError> {
        let mut head = [0; FRAME_HEADER_BYTES];
        let got = self.fill(&mut head)?;
        if got == 0 {
            return Ok(Next::End { torn: false });
        }
        let Some((length, index, _)) = frame_header(&head[..got]) else {
            return self.broken("the head of the record is damaged");
        };
        if index != self.index {
            return Err(self.damaged(format!("a record with index {index} is in its place")));
        }
        // A length may be wrong only by a damage that its checksum does not see: still allocate no more than there is.
        let mut record = Vec::new();
        Read::by_ref(&mut self.file)
            .take(length as u64)
            .read_to_end(&mut record)
            .map_err(OpenError::io("read", &self.path))?;
        if record.len() < length {
            return self.broken("the record is cut off");
        }
        match codec::verify(&record) {
            Ok(()) => {}
            Err(source @ codec::CodecError::NewerFormat { .. }) => return Err(OpenError::Record { index, source }),
            Err(error) => return self.broken(&error.to_string()),
        }
        self.offset += (FRAME_HEADER_BYTES + length) as u64;
        self.index += 1;
        self.must_be_whole = false;
        Ok(Next::Frame(index, record))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, OpenError> {
        let mut got = 0;
        while got < buffer.len() {
            match self.file.read(&mut buffer[got..]) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(OpenError::io("read", &self.path)(error)),
            }
        }
        Ok(got)
    }

    /// The next frame cannot be read: a torn tail, or damage?
    fn broken(&mut self, why: &str) -> Result<Next, OpenError> {
        if !self.may_be_torn || self.must_be_whole {
            return Err(self.damaged(why));
        }
        let mut rest = Vec::new();
        self.file.seek(SeekFrom::Start(self.offset)).map_err(OpenError::io("read", &self.path))?;
        self.file.read_to_end(&mut rest).map_err(OpenError::io("read", &self.path))?;
        let known_synced = (1..rest.len())
            .filter_map(|at| frame_header(&rest[at..]))
            .any(|(_, index, synced)| index > self.index && synced >= self.index);
        if !known_synced {
            return Ok(Next::End { torn: true });
        }
        // Beside a running writer the frame may have been completed since it was read.
        self.must_be_whole = true;
        self.file.seek(SeekFrom::Start(self.offset)).map_err(OpenError::io("read", &self.path))?;
        self.next()
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
                self.current = Some(Frames::open(segment, self.segments.len() == 0)?);
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
