//! What a member of the quorum has on its disk: the log of its engine, segments of its archive, snapshots.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use event_log::raft::{RaftReader, read_archive as open_archive, read_raft, read_snapshot as open_snapshot};
use tempfile::TempDir;

const SEGMENT: &str = "00000000000000000000-00000000000000000041.segment";
const ENGINE_LOG: &str = "entries/000004.log";
/// Of a segment, before its first frame.
const SEGMENT_HEAD_BYTES: usize = 60;
const FRAME_HEAD_BYTES: usize = 24;
/// The checksum of an entry, at its beginning.
const CRC_BYTES: usize = 4;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn whole(name: &str) -> Vec<Vec<u8>> {
    vec![fs::read(testdata(name)).expect("a file of a member")]
}

/// A whole snapshot.
pub fn snapshot() -> Vec<Vec<u8>> {
    whole("whole.snapshot")
}

/// A whole segment.
pub fn archive() -> Vec<Vec<u8>> {
    whole(SEGMENT)
}

/// The engine's log of a few entries.
pub fn log() -> Vec<Vec<u8>> {
    whole(&format!("member/{ENGINE_LOG}"))
}

/// A folder of this thread for what is called so, made once, and an input in it.
fn with_file(
    name: &'static str,
    input: &[u8],
    make: impl FnOnce() -> (TempDir, PathBuf),
    read: impl FnOnce(&Path, &Path) -> String,
) -> String {
    thread_local! {
        static PLACES: RefCell<BTreeMap<&'static str, (TempDir, PathBuf)>> = const { RefCell::new(BTreeMap::new()) };
    }
    PLACES.with(|places| {
        let mut places = places.borrow_mut();
        let (dir, file) = places.entry(name).or_insert_with(make);
        fs::write(&*file, input).expect("a file");
        read(dir.path(), file).replace(&dir.path().display().to_string(), "")
    })
}

fn alone(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join(name);
    (dir, file)
}

/// Reads a snapshot file as a master and an operator do.
pub fn read_snapshot(input: &[u8]) -> String {
    with_file(
        "snapshot",
        input,
        || alone("s.snapshot"),
        |_, file| match open_snapshot(file) {
            Ok(reader) => {
                let found = reader.snapshots().expect("the file is there");
                let mut content = reader.open_snapshot(&found[0]).expect("it was found whole");
                match std::io::copy(&mut content, &mut std::io::sink()) {
                    Ok(_) => "read".to_owned(),
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => event_log::sentence(&error),
        },
    )
}

/// Reads a segment alone.
pub fn read_archive(input: &[u8]) -> String {
    with_file(
        "archive",
        input,
        || alone(SEGMENT),
        |dir, _| match open_archive(dir) {
            Ok(reader) => entries(&reader),
            Err(error) => event_log::sentence(&error),
        },
    )
}

/// Reads the folder of a member whose engine's log is the input.
pub fn read_log(input: &[u8]) -> String {
    let member = || {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("entries")).expect("a folder");
        for name in ["identity", "reached", "entries/CURRENT", "entries/IDENTITY", "entries/MANIFEST-000005"] {
            fs::copy(testdata("member").join(name), dir.path().join(name)).expect("a file of a member");
        }
        let file = dir.path().join(ENGINE_LOG);
        (dir, file)
    };
    with_file("log", input, member, |dir, _| match read_raft(dir) {
        Ok(reader) => entries(&reader),
        Err(error) => event_log::sentence(&error),
    })
}

/// What came of reading everything, up to the first error.
fn entries(reader: &RaftReader) -> String {
    let all = match reader.all_entries(0) {
        Ok(all) => all,
        Err(error) => return event_log::sentence(&error),
    };
    let mut next = None;
    for entry in all {
        match entry {
            Ok(entry) => {
                assert!(next.is_none_or(|next| next == entry.index), "entries come in order");
                next = Some(entry.index + 1);
            }
            Err(error) => return event_log::sentence(&error),
        }
    }
    "read".to_owned()
}

fn number(input: &[u8], at: usize) -> usize {
    u32::from_le_bytes(input[at..at + 4].try_into().expect("four bytes")) as usize
}

fn put(input: &mut [u8], at: usize, crc: u32) {
    input[at..at + CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// The checksums of the head and of the content, where they are.
pub fn mend_snapshot(input: &mut [u8]) {
    let length = input.len();
    if length < 20 {
        return;
    }
    let begin = 16_usize.saturating_add(number(input, 8));
    if begin + CRC_BYTES <= length {
        put(input, 12, crc32fast::hash(&input[16..begin]));
        put(input, length - CRC_BYTES, crc32fast::hash(&input[begin..length - CRC_BYTES]));
    }
}

/// The checksums of the head, of each frame and of each entry.
pub fn mend_archive(input: &mut [u8]) {
    if input.len() < SEGMENT_HEAD_BYTES {
        return;
    }
    put(input, SEGMENT_HEAD_BYTES - CRC_BYTES, crc32fast::hash(&input[..SEGMENT_HEAD_BYTES - CRC_BYTES]));
    let mut at = SEGMENT_HEAD_BYTES;
    while at + FRAME_HEAD_BYTES <= input.len() {
        put(input, at + 20, crc32fast::hash(&input[at..at + 20]));
        let index = input[at + 4..at + 12].to_vec();
        let begin = at + FRAME_HEAD_BYTES;
        let end = begin.saturating_add(number(input, at));
        if end > input.len() || end < begin + CRC_BYTES {
            return;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&index);
        hasher.update(&input[begin + CRC_BYTES..end]);
        put(input, begin, hasher.finalize());
        at = end;
    }
}

/// The engine's own checksum of each of its records: `crc u32 · length u16 · kind u8 · content`.
pub fn mend_log(input: &mut [u8]) {
    let mut at = 0;
    while at + 7 <= input.len() {
        let end = at + 7 + usize::from(u16::from_le_bytes([input[at + 4], input[at + 5]]));
        if end > input.len() {
            return;
        }
        let crc = castagnoli(&input[at + 6..end]);
        put(input, at, crc.rotate_right(15).wrapping_add(0xa282_ead8));
        at = end;
    }
}

/// CRC-32C, bit by bit.
fn castagnoli(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_whole_is_read_and_mending_changes_nothing() {
        type Of = (fn() -> Vec<Vec<u8>>, fn(&[u8]) -> String, fn(&mut [u8]));
        let all: [Of; 3] = [
            (snapshot, read_snapshot, mend_snapshot),
            (archive, read_archive, mend_archive),
            (log, read_log, mend_log),
        ];
        for (seeds, read, mend) in all {
            for seed in seeds() {
                let mut mended = seed.clone();
                mend(&mut mended);
                assert!(mended == seed, "the checksums are where they are thought to be");
                std::thread::scope(|scope| {
                    let outcome = scope.spawn(|| read(&seed)).join().unwrap();
                    assert_eq!(outcome, "read");
                });
            }
        }
    }
}
