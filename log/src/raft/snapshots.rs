//! Snapshot files: written aside, synced, then given their name. They speed up recovery; the log stays whole.
//!
//! ```text
//! magic [8] · length of head u32 · crc32 of head u32 · head · content · crc32 of content u32
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::types::{LogId, Place, Roll, StoredMembers, from_place, to_place};
use crate::codec;
use crate::disk;

const MAGIC: &[u8; 8] = b"evlogsn1";
/// The newest are kept: `state at N` starts from the nearest.
const KEPT: usize = 4;

/// What a snapshot covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Last entry that is in it.
    pub(crate) last: Place,
    members_at: Option<Place>,
    members: Roll,
}

impl Head {
    pub(crate) fn new(last: LogId, members: &StoredMembers) -> Head {
        let members_at = members.log_id().as_ref().map(to_place);
        Head { last: to_place(&last), members_at, members: Roll::new(members.membership()) }
    }

    pub(crate) fn members(&self) -> io::Result<StoredMembers> {
        Ok(StoredMembers::new(self.members_at.map(from_place), self.members.clone().into_members()?))
    }
}

/// A snapshot on the disk.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) head: Head,
    pub(crate) path: PathBuf,
}

/// The folder of snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Snapshots {
    dir: PathBuf,
}

struct Summing<W> {
    inner: W,
    hasher: crc32fast::Hasher,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot is damaged ({why})"))
}

impl Snapshots {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Snapshots> {
        fs::create_dir_all(&dir)?;
        Ok(Snapshots { dir })
    }

    /// Without making the folder.
    pub(crate) fn existing(dir: PathBuf) -> Snapshots {
        Snapshots { dir }
    }

    /// Writes a snapshot with what `content` writes.
    pub(crate) fn create(
        &self,
        head: Head,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<SnapshotFile> {
        let temporary = self.dir.join(format!("{}-{}.tmp", head.last.1, head.last.0));
        let mut file = BufWriter::with_capacity(1 << 18, File::create(&temporary)?);
        let bytes = codec::encode_payload(&head);
        file.write_all(MAGIC)?;
        file.write_all(&(bytes.len() as u32).to_le_bytes())?;
        file.write_all(&crc32fast::hash(&bytes).to_le_bytes())?;
        file.write_all(&bytes)?;
        let mut summing = Summing { inner: file, hasher: crc32fast::Hasher::new() };
        content(&mut summing)?;
        let crc = summing.hasher.finalize();
        let mut file = summing.inner;
        file.write_all(&crc.to_le_bytes())?;
        file.into_inner()?.sync_all()?;
        self.publish(&temporary, head)
    }

    /// Takes over a file that was received.
    pub(crate) fn adopt(&self, temporary: &Path) -> io::Result<SnapshotFile> {
        let head = verify(temporary)?;
        File::open(temporary)?.sync_all()?;
        self.publish(temporary, head)
    }

    fn publish(&self, temporary: &Path, head: Head) -> io::Result<SnapshotFile> {
        let path = self.dir.join(format!("{:020}-{:020}.snapshot", head.last.1, head.last.0));
        fs::rename(temporary, &path)?;
        disk::sync_dir(&self.dir)?;
        let files = self.list()?;
        for old in &files[..files.len().saturating_sub(KEPT)] {
            fs::remove_file(old)?;
        }
        Ok(SnapshotFile { head, path })
    }

    /// A name for a file that is being received.
    pub(crate) fn incoming(&self, transfer: u64) -> PathBuf {
        self.dir.join(format!("incoming-{transfer:016x}.tmp"))
    }

    /// Paths, oldest first.
    pub(crate) fn list(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "snapshot") {
                paths.push(path);
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// The newest that is whole. A damaged one is not worth a refusal: the log has it all.
    pub(crate) fn newest(&self) -> io::Result<Option<SnapshotFile>> {
        for path in self.list()?.into_iter().rev() {
            match verify(&path) {
                Ok(head) => return Ok(Some(SnapshotFile { head, path })),
                Err(error) => tracing::warn!(path = %path.display(), %error, "left a snapshot aside"),
            }
        }
        Ok(None)
    }
}

/// Reads all of a snapshot; its head, if all is as it was written.
pub(crate) fn verify(path: &Path) -> io::Result<Head> {
    let (head, mut content) = content(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let got = content.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
    }
    let mut crc = [0; 4];
    content.into_inner().read_exact(&mut crc)?;
    if hasher.finalize() != u32::from_le_bytes(crc) {
        return Err(invalid("wrong checksum"));
    }
    Ok(head)
}

/// The head and a reader of the content. Whoever did not write the file verifies it first.
pub(crate) fn content(path: &Path) -> io::Result<(Head, io::Take<BufReader<File>>)> {
    let mut file = BufReader::with_capacity(1 << 18, File::open(path)?);
    let length = file.get_ref().metadata()?.len();
    let mut fixed = [0; 16];
    file.read_exact(&mut fixed)?;
    if &fixed[..8] != MAGIC {
        return Err(invalid("not a snapshot of this release"));
    }
    let head_bytes = u32::from_le_bytes(fixed[8..12].try_into().expect("four bytes"));
    let content_bytes = length.checked_sub(20 + u64::from(head_bytes)).ok_or_else(|| invalid("cut off"))?;
    let mut head = vec![0; head_bytes as usize];
    file.read_exact(&mut head)?;
    if crc32fast::hash(&head) != u32::from_le_bytes(fixed[12..].try_into().expect("four bytes")) {
        return Err(invalid("wrong checksum of the head"));
    }
    let head = codec::decode_payload(&head).map_err(|error| invalid(&error.to_string()))?;
    Ok((head, file.take(content_bytes)))
}

/// The whole file in chunks, to be sent: (offset, bytes, whether it is the last).
pub(crate) fn chunk(path: &Path, offset: u64, bytes_max: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    let last = offset + bytes.len() as u64 >= length;
    Ok((bytes, last))
}
