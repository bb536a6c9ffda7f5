//! A log's folder: who it belongs to, who has it open, and how small files are replaced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::codec::CodecError;

const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
const MAGIC: &str = "event log";

/// What a log's folder holds, so that no program takes another's for its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whose log it is: a short word without white space.
    pub kind: String,
    /// Format of the folder. A program opens what is as old as its own version or older.
    pub version: u32,
}

impl Identity {
    /// A `kind` is a short word without white space.
    pub fn new(kind: impl Into<String>, version: u32) -> Identity {
        Identity { kind: kind.into(), version }
    }
}

/// Why a log cannot be opened. Nothing was changed on the disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried: a verb.
        doing: &'static str,
        /// File or folder.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// There is no log in the folder.
    #[error("there is no log in {}", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder is to be made anew, and holds something.
    #[error("{} is not empty: give a folder that is, or is not there yet", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// Another process has the log open.
    #[error("the log in {} is in use by another process", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder is another program's, or another cluster's.
    #[error("{} holds a log of kind '{found}', not '{expected}': use a folder of its own", dir.display())]
    OtherKind {
        /// The folder.
        dir: PathBuf,
        /// What its identity says.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// The folder was written by a newer release.
    #[error("the log in {} has format {found}, this release reads formats up to {supported}: use the newer release", dir.display())]
    Newer {
        /// The folder.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that can be opened.
        supported: u32,
    },
    /// Bytes changed, or are gone, in the middle of what was acknowledged.
    #[error("the log is damaged at index {index}, in {} ({why}): {remedy}", path.display())]
    Damaged {
        /// The first record that cannot be read.
        index: u64,
        /// The file that holds it, or should.
        path: PathBuf,
        /// What was found.
        why: String,
        /// What an operator can do.
        remedy: &'static str,
    },
    /// History ends, or begins later: it was removed by its bounds, or a snapshot took its place on this member.
    #[error("the entry at index {index} is not in this history any more")]
    NotKept {
        /// Of the entry.
        index: u64,
    },
    /// A file beside the records changed.
    #[error("{} is damaged ({why}): {remedy}", path.display())]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
        /// What an operator can do.
        remedy: &'static str,
    },
    /// The record is whole but this release cannot read it.
    #[error("the record at index {index} cannot be read")]
    Record {
        /// Of the record.
        index: u64,
        /// The codec's reason.
        #[source]
        source: CodecError,
    },
    /// The storage engine refused.
    #[error("cannot open the log in {}: {why}", dir.display())]
    Storage {
        /// The folder.
        dir: PathBuf,
        /// The engine's reason.
        why: String,
    },
}

impl OpenError {
    pub(crate) fn io<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + 'a {
        move |source| OpenError::Io { doing, path: path.to_owned(), source }
    }
}

/// An exclusive claim on a folder, until dropped.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

/// Whoever was killed a moment ago may still be there: what it had just forked holds its files until it runs its program.
const CLAIM_PATIENCE: Duration = Duration::from_secs(1);
const CLAIM_PACE: Duration = Duration::from_millis(10);

/// Makes the folder if need be and claims it.
pub(crate) fn claim(dir: &Path) -> Result<DirLock, OpenError> {
    fs::create_dir_all(dir).map_err(OpenError::io("create", dir))?;
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(OpenError::io("open", &path))?;
    let patience = Instant::now() + CLAIM_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(DirLock { _file: file }),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < patience => std::thread::sleep(CLAIM_PACE),
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::Locked { dir: dir.to_owned() }),
            Err(fs::TryLockError::Error(error)) => return Err(OpenError::io("lock", &path)(error)),
        }
    }
}

/// Whether some process has claimed the folder. Whoever claims it at this moment has to try again, and does.
#[cfg(feature = "raft")]
pub(crate) fn is_claimed(dir: &Path) -> bool {
    let locked = File::open(dir.join(LOCK)).map(|file| file.try_lock_shared());
    matches!(locked, Ok(Err(fs::TryLockError::WouldBlock)))
}

/// Refuses to begin a log in, above or below the folder of another one: what would mix there could not be told apart.
pub(crate) fn check_surroundings(dir: &Path, expected: &Identity) -> Result<(), OpenError> {
    if dir.join(IDENTITY).exists() {
        return Ok(());
    }
    // A folder that is not there, or that others may not list, has nothing below it.
    let below = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let above = dir.parent().map(Path::to_owned);
    for other in below.filter(|path| path.is_dir()).chain(above.clone()) {
        // What cannot be read as an identity is somebody else's file of that name.
        if let Ok(Some(file)) = IdentityFile::read(&other) {
            let holder = if above.as_ref() == Some(&other) { other } else { dir.to_owned() };
            let (found, expected) = (file.identity.kind, expected.kind.clone());
            return Err(OpenError::OtherKind { dir: holder, found, expected });
        }
    }
    Ok(())
}

/// The identity file: a line of text for the curious, and its fields by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityFile {
    pub(crate) identity: Identity,
    pub(crate) fields: Vec<(String, String)>,
}

impl IdentityFile {
    #[cfg_attr(
        not(feature = "raft"),
        expect(dead_code, reason = "only a member of a quorum has more than kind and version")
    )]
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut text = format!("{MAGIC}\nkind {}\nversion {}\n", self.identity.kind, self.identity.version);
        for (name, value) in &self.fields {
            text += &format!("{name} {value}\n");
        }
        text += &format!("crc32 {:08x}\n", crc32fast::hash(text.as_bytes()));
        replace(&dir.join(IDENTITY), text.as_bytes())
    }

    /// The folder's identity; `None` if it has none yet.
    pub(crate) fn read(dir: &Path) -> Result<Option<IdentityFile>, OpenError> {
        let path = dir.join(IDENTITY);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::io("read", &path)(error)),
        };
        parse(&bytes).map(Some).map_err(|why| OpenError::DamagedFile {
            path,
            why: why.to_owned(),
            remedy: "restore the folder from a copy, or move it away to start anew",
        })
    }

    /// Refuses what `expected` cannot open.
    pub(crate) fn check(&self, dir: &Path, expected: &Identity) -> Result<(), OpenError> {
        if self.identity.kind != expected.kind {
            let (found, expected) = (self.identity.kind.clone(), expected.kind.clone());
            return Err(OpenError::OtherKind { dir: dir.to_owned(), found, expected });
        }
        if self.identity.version > expected.version {
            let (found, supported) = (self.identity.version, expected.version);
            return Err(OpenError::Newer { dir: dir.to_owned(), found, supported });
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<IdentityFile, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text")?;
    let at = text.rfind("crc32 ").ok_or("no checksum")?;
    let crc = u32::from_str_radix(text[at + 6..].trim_end(), 16).map_err(|_| "no checksum")?;
    if crc32fast::hash(&bytes[..at]) != crc {
        return Err("wrong checksum");
    }
    let mut lines = text[..at].lines();
    if lines.next() != Some(MAGIC) {
        return Err("not an identity");
    }
    let mut fields: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(' ')).map(|(name, value)| (name.into(), value.into())).collect();
    let mut take = |name: &str| {
        let at = fields.iter().position(|(field, _)| field == name)?;
        Some(fields.remove(at).1)
    };
    let kind = take("kind").ok_or("no kind")?;
    let version = take("version").and_then(|version| version.parse().ok()).ok_or("no version")?;
    Ok(IdentityFile { identity: Identity { kind, version }, fields })
}

/// Writes a file so that after a crash either the old or the new content is there, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// A large file that is synced in pieces while it is written: the log's own syncs on the same disk would wait for one
/// large sync at the end.
#[derive(Debug)]
pub(crate) struct Paced {
    pub(crate) file: File,
    unsynced_bytes: usize,
}

#[cfg_attr(not(feature = "raft"), expect(dead_code, reason = "only a member of a quorum writes large files"))]
impl Paced {
    const PIECE_BYTES: usize = 4 << 20;

    pub(crate) fn create(path: &Path) -> io::Result<Paced> {
        Ok(Paced { file: File::create(path)?, unsynced_bytes: 0 })
    }
}

impl Write for Paced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced_bytes += written;
        if self.unsynced_bytes >= Paced::PIECE_BYTES {
            self.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes creations, renames and deletions in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
