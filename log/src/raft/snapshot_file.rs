//! The bytes of a snapshot file.
//!
//! ```text
//! file   := magic [8] · length of head u32 · crc32 of head u32 · head · content · digest · length of digest u8 · crc32 u32
//! head   := last place · members · cluster id?
//! ```
//!
//! Integers are little endian. The last checksum is that of content, digest and its length. The digest is what the
//! machine says of the state that the content holds; whoever folds the log to the same index must find the same. The
//! first version of the format (`evlogsn1`) had neither digest nor cluster id; it is still read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::types::{LogId, Place, Roll, StoredMembers, from_place, to_place};
use crate::codec;
use crate::disk::Paced;

const MAGIC: &[u8; 8] = b"evlogsn2";
const MAGIC_1: &[u8; 8] = b"evlogsn1";
const FIXED_BYTES: u64 = 16;
/// Larger heads are damage: a head names masters, of which there are few.
const HEAD_BYTES_MAX: u32 = 16 << 20;
const BUFFER_BYTES: usize = 1 << 18;

/// What a snapshot covers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotFile {
    pub(crate) head: Head,
    pub(crate) cluster_id: Option<String>,
    /// Empty if the file is as old as the first format.
    pub(crate) digest: Vec<u8>,
    pub(crate) path: PathBuf,
    /// Behind the content, before the last checksum.
    tail_bytes: u64,
}

/// Passes bytes on and sums them up.
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

/// Writes a file with what `content` writes, whose answer is the digest; synced when this returns.
pub(crate) fn write(
    path: &Path,
    head: &Head,
    cluster_id: Option<&str>,
    content: impl FnOnce(&mut dyn Write) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, Paced::create(path)?);
    let bytes = codec::encode_payload(&(head, cluster_id));
    file.write_all(MAGIC)?;
    file.write_all(&(bytes.len() as u32).to_le_bytes())?;
    file.write_all(&crc32fast::hash(&bytes).to_le_bytes())?;
    file.write_all(&bytes)?;
    let mut summing = Summing { inner: file, hasher: crc32fast::Hasher::new() };
    let digest = content(&mut summing)?;
    let length = u8::try_from(digest.len()).map_err(|_| io::Error::other("a digest has at most 255 bytes"))?;
    summing.write_all(&digest)?;
    summing.write_all(&[length])?;
    let crc = summing.hasher.finalize();
    let mut file = summing.inner;
    file.write_all(&crc.to_le_bytes())?;
    file.into_inner()?.file.sync_all()
}

/// The content of a snapshot.
pub(crate) type Content = io::Take<BufReader<File>>;

/// What a file says of itself, and a reader of its content. Whoever did not write the file verifies it first.
pub(crate) fn open(path: &Path) -> io::Result<(SnapshotFile, Content)> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(path)?);
    let length = file.get_ref().metadata()?.len();
    let mut fixed = [0; FIXED_BYTES as usize];
    file.read_exact(&mut fixed).map_err(cut_off)?;
    let first_format = &fixed[..8] == MAGIC_1;
    if !first_format && &fixed[..8] != MAGIC {
        return Err(invalid("not a snapshot that this release can read"));
    }
    let head_bytes = u32::from_le_bytes(fixed[8..12].try_into().expect("four bytes"));
    if head_bytes > HEAD_BYTES_MAX {
        return Err(invalid("wrong length of the head"));
    }
    // No room is made for what the file does not have.
    if FIXED_BYTES + u64::from(head_bytes) > length {
        return Err(invalid("cut off"));
    }
    let mut bytes = vec![0; head_bytes as usize];
    file.read_exact(&mut bytes).map_err(cut_off)?;
    if crc32fast::hash(&bytes) != u32::from_le_bytes(fixed[12..].try_into().expect("four bytes")) {
        return Err(invalid("wrong checksum of the head"));
    }
    let begin = FIXED_BYTES + u64::from(head_bytes);
    let decoded = |error: codec::CodecError| invalid(&error.to_string());
    let (head, cluster_id, digest) = if first_format {
        (codec::decode_payload(&bytes).map_err(decoded)?, None, Vec::new())
    } else {
        let (head, cluster_id) = codec::decode_payload(&bytes).map_err(decoded)?;
        (head, cluster_id, read_digest(&mut file, begin, length)?)
    };
    let tail_bytes = if first_format { 0 } else { 1 + digest.len() as u64 };
    let content_bytes = length.checked_sub(begin + tail_bytes + 4).ok_or_else(|| invalid("cut off"))?;
    file.seek(SeekFrom::Start(begin))?;
    let snapshot = SnapshotFile { head, cluster_id, digest, path: path.to_owned(), tail_bytes };
    Ok((snapshot, file.take(content_bytes)))
}

fn cut_off(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { invalid("cut off") } else { error }
}

/// The digest at the end of a file.
fn read_digest(file: &mut BufReader<File>, begin: u64, length: u64) -> io::Result<Vec<u8>> {
    let at = length.checked_sub(5).filter(|at| *at >= begin).ok_or_else(|| invalid("cut off"))?;
    file.seek(SeekFrom::Start(at))?;
    let mut digest_bytes = [0];
    file.read_exact(&mut digest_bytes)?;
    let digest_bytes = usize::from(digest_bytes[0]);
    let at = at.checked_sub(digest_bytes as u64).filter(|at| *at >= begin).ok_or_else(|| invalid("cut off"))?;
    file.seek(SeekFrom::Start(at))?;
    let mut digest = vec![0; digest_bytes];
    file.read_exact(&mut digest)?;
    Ok(digest)
}

/// Reads all of a file; what it says of itself, if all is as it was written.
pub(crate) fn verify(path: &Path) -> io::Result<SnapshotFile> {
    let (snapshot, content) = open(path)?;
    let summed = content.limit() + snapshot.tail_bytes;
    let mut rest = content.into_inner();
    let mut hasher = crc32fast::Hasher::new();
    let mut summing = Read::by_ref(&mut rest).take(summed);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut got_bytes = 0;
    loop {
        let got = summing.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        got_bytes += got as u64;
        hasher.update(&buffer[..got]);
    }
    let mut crc = [0; 4];
    rest.read_exact(&mut crc).map_err(cut_off)?;
    if got_bytes != summed || hasher.finalize() != u32::from_le_bytes(crc) {
        return Err(invalid("wrong checksum"));
    }
    Ok(snapshot)
}
