//! The engine's log files, as far as they are looked at before the engine reads them.
//!
//! A record of the kind that only reused files have makes the engine (RocksDB 11.8) read the same header for ever, or
//! believe that the file ends there: it looks at the kind before the checksum. Files are never reused here, so such a
//! kind is a flipped bit.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Records do not cross blocks; their parts do.
const BLOCK_BYTES: usize = 32 << 10;
/// Checksum, length in two bytes, kind.
const HEAD_BYTES: usize = 7;
/// Kinds of records in reused files.
const REUSED: [RangeInclusive<u8>; 3] = [5..=8, 11..=11, 131..=131];

/// Where a file cannot be what the engine wrote.
#[derive(Debug)]
pub(crate) struct Flaw {
    pub(crate) path: PathBuf,
    /// In bytes; what is before it is whole, or the engine says so itself.
    pub(crate) offset: u64,
}

impl Flaw {
    pub(crate) fn error(&self) -> io::Error {
        let why = format!("{}: no record begins at byte {}", self.path.display(), self.offset);
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

/// The log files of a store, oldest first.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "log")).collect();
    // Their numbers have leading zeros.
    files.sort();
    Ok(files)
}

/// The first flaw that would keep the engine busy for ever.
pub(crate) fn flaw(dir: &Path) -> io::Result<Option<Flaw>> {
    for path in files(dir)? {
        let found = File::open(&path).and_then(flaw_in);
        match found {
            Ok(Some(offset)) => return Ok(Some(Flaw { path, offset })),
            Ok(None) => {}
            // The writer removes files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn flaw_in(mut file: File) -> io::Result<Option<u64>> {
    let (mut block, mut begin) = (Vec::with_capacity(BLOCK_BYTES), 0);
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        if let Some(at) = flaw_in_block(&block) {
            return Ok(Some(begin + at as u64));
        }
        if block.len() < BLOCK_BYTES {
            return Ok(None);
        }
        begin += block.len() as u64;
    }
}

fn flaw_in_block(block: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(head) = block.get(at..at + HEAD_BYTES) {
        let (length, kind) = (usize::from(u16::from_le_bytes([head[4], head[5]])), head[6]);
        if REUSED.iter().any(|kinds| kinds.contains(&kind)) {
            return Some(at);
        }
        // Zeros are what a file system gave beforehand: the rest of the block is not read.
        if kind == 0 && length == 0 {
            return None;
        }
        at += HEAD_BYTES + length;
    }
    None
}

/// A copy of the store in `to` that ends before the flaw: of links, the flawed file aside.
pub(crate) fn before(flaw: &Flaw, dir: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let later: Vec<PathBuf> = files(dir)?.into_iter().filter(|path| *path > flaw.path).collect();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let place = to.join(path.file_name().unwrap_or_default());
        if path == flaw.path {
            io::copy(&mut File::open(&path)?.take(flaw.offset), &mut File::create(&place)?)?;
        } else if !later.contains(&path) && path.is_file() {
            std::os::unix::fs::symlink(fs::canonicalize(&path)?, &place)?;
        }
    }
    Ok(())
}
