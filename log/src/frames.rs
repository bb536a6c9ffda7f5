//! Frames: what a log's files hold behind their heads, one after the other.
//!
//! ```text
//! frame := length u32 · index u64 · synced u64 · crc32 u32 (of these three) · content [length]
//! ```
//!
//! All integers are little endian; the content has a checksum of its own. `synced` is the last index that was known to
//! be synced when the frame was written: it tells damage apart from a torn tail. After a power cut any part of what was
//! not synced may be missing, also in the middle; but a frame that a later one knows to be synced must be whole.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::codec::CodecError;
use crate::disk::OpenError;
use crate::limits::DECODE_BYTES_MAX;

pub(crate) const FRAME_HEADER_BYTES: usize = 24;

pub(crate) fn push_frame(bytes: &mut Vec<u8>, index: u64, synced: u64, content: &[u8]) {
    let at = bytes.len();
    let length = u32::try_from(content.len()).expect("records are limited to far less than 4 GiB");
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&synced.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes[at..]).to_le_bytes());
    bytes.extend_from_slice(content);
}

/// (length, index, synced), if the header is whole.
fn frame_header(bytes: &[u8]) -> Option<(usize, u64, u64)> {
    let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.get(..FRAME_HEADER_BYTES)?.try_into().ok()?;
    let crc = u32::from_le_bytes(bytes[20..].try_into().expect("four bytes"));
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    let index = u64::from_le_bytes(bytes[4..12].try_into().expect("eight bytes"));
    let synced = u64::from_le_bytes(bytes[12..20].try_into().expect("eight bytes"));
    (crc32fast::hash(&bytes[..20]) == crc && length <= DECODE_BYTES_MAX).then_some((length, index, synced))
}

/// What a kind of file is like.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Whether the content at an index is as it was written.
    pub(crate) check: fn(u64, &[u8]) -> Result<(), CodecError>,
    /// What an operator can do about damage.
    pub(crate) remedy: &'static str,
    /// Whether a damaged end may be what a crash left of a write.
    pub(crate) may_be_torn: bool,
}

/// Reads one file's frames in order.
pub(crate) struct Frames {
    file: io::BufReader<File>,
    path: PathBuf,
    kind: Kind,
    /// Of the next frame.
    pub(crate) index: u64,
    /// Where the next frame starts, in bytes.
    pub(crate) offset: u64,
    /// The next frame is known to be synced.
    must_be_whole: bool,
}

/// What comes next in a file.
pub(crate) enum Next {
    Frame(u64, Vec<u8>),
    /// The end, and whether bytes of an unfinished write follow.
    End {
        torn: bool,
    },
}

impl Frames {
    /// The frames of a file that stands behind its head; the first has `index`.
    pub(crate) fn new(file: File, path: PathBuf, head_bytes: usize, index: u64, kind: Kind) -> Frames {
        let file = io::BufReader::with_capacity(1 << 18, file);
        Frames { file, path, kind, index, offset: head_bytes as u64, must_be_whole: false }
    }

    pub(crate) fn damaged(&self, why: impl Into<String>) -> OpenError {
        let (path, remedy) = (self.path.clone(), self.kind.remedy);
        OpenError::Damaged { index: self.index, path, why: why.into(), remedy }
    }

    pub(crate) fn next(&mut self) -> Result<Next, OpenError> {
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
        let mut content = Vec::new();
        Read::by_ref(&mut self.file)
            .take(length as u64)
            .read_to_end(&mut content)
            .map_err(OpenError::io("read", &self.path))?;
        if content.len() < length {
            return self.broken("the record is cut off");
        }
        match (self.kind.check)(index, &content) {
            Ok(()) => {}
            Err(source @ CodecError::NewerFormat { .. }) => return Err(OpenError::Record { index, source }),
            Err(error) => return self.broken(&error.to_string()),
        }
        self.advance(length);
        Ok(Next::Frame(index, content))
    }

    fn advance(&mut self, length: usize) {
        self.offset += (FRAME_HEADER_BYTES + length) as u64;
        self.index += 1;
        self.must_be_whole = false;
    }

    /// Steps over the frames before `index`, by their heads alone.
    #[cfg_attr(not(feature = "raft"), expect(dead_code, reason = "an archive is entered in the middle"))]
    pub(crate) fn skip_to(&mut self, index: u64) -> Result<(), OpenError> {
        while self.index < index {
            let mut head = [0; FRAME_HEADER_BYTES];
            let got = self.fill(&mut head)?;
            match frame_header(&head[..got]) {
                Some((length, found, _)) if found == self.index => {
                    self.file.seek_relative(length as i64).map_err(OpenError::io("read", &self.path))?;
                    self.advance(length);
                }
                _ => return Err(self.damaged("the head of the record is damaged")),
            }
        }
        Ok(())
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
        if !self.kind.may_be_torn || self.must_be_whole {
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
