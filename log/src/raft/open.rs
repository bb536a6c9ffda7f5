//! Opening a member's folder: claims it, checks it, and gives the machine what is known to be committed.
//!
//! ```text
//! identity · lock · reached · entries/ (the storage engine's) · snapshots/ · archive/
//! ```

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::archive::{self, Archive};
use super::log_store::{Flusher, FlusherThread, LogStore};
use super::machine::{Applier, Machine};
use super::network::rand_u64;
use super::node::{Engine, Options};
use super::snapshots::Snapshots;
use super::types::{REBUILD, Tokio, decode_entry};
use crate::disk::{self, Identity, IdentityFile, OpenError};
use crate::mark::{self, Mark};
use crate::store::Disk;
use crate::store::memory::TaskFlusher;
use crate::store::rocks::Rocks;

const KIND: &str = "quorum-log";
const VERSION: u32 = 1;
pub(crate) const ENTRIES: &str = "entries";
pub(crate) const SNAPSHOTS: &str = "snapshots";
pub(crate) const ARCHIVE: &str = "archive";
const RECOVERY_BYTES: usize = 8 << 20;
const RECOVERY_ENTRIES: usize = 1024;

pub(crate) struct Opened {
    pub(crate) identity: IdentityFile,
    pub(crate) node_id: u64,
    pub(crate) store: LogStore<Tokio>,
    pub(crate) applier: Applier<Tokio>,
    pub(crate) snapshots: Snapshots,
    pub(crate) archive: Arc<Archive>,
}

pub(crate) fn identity() -> Identity {
    Identity::new(KIND, VERSION)
}

/// The member's number, from its identity.
pub(crate) fn node_id(file: &IdentityFile, dir: &Path) -> Result<u64, OpenError> {
    let id = file.field("node").and_then(|id| u64::from_str_radix(id, 16).ok());
    id.ok_or_else(|| OpenError::DamagedFile { path: dir.join("identity"), why: "no node id".into(), remedy: REBUILD })
}

/// What the storage engine says, as an [`OpenError`].
pub(crate) fn storage(dir: &Path) -> impl Fn(io::Error) -> OpenError + '_ {
    move |error| {
        let why = match error.kind() {
            // Of a damaged entry it is said already.
            io::ErrorKind::InvalidData if !error.to_string().contains(REBUILD) => format!("{error}: {REBUILD}"),
            _ => error.to_string(),
        };
        OpenError::Storage { dir: dir.to_owned(), why }
    }
}

/// As [`storage`]; where the damage is, the engine does not say, but up to where something is missed.
fn unopened(dir: &Path, reached: u64) -> impl Fn(io::Error) -> OpenError + '_ {
    move |error| match error.kind() {
        io::ErrorKind::InvalidData => OpenError::Storage {
            dir: dir.to_owned(),
            why: format!("{error} (everything up to index {reached} was committed): {REBUILD}"),
        },
        _ => storage(dir)(error),
    }
}

pub(crate) fn open(options: &Options, machine: Box<dyn Machine>) -> Result<Opened, OpenError> {
    let dir = options.dir.as_path();
    disk::check_surroundings(dir, &self::identity())?;
    let lock = disk::claim(dir)?;
    let entries = dir.join(ENTRIES);
    let identity = match IdentityFile::read(dir)? {
        Some(file) => file,
        None if entries.exists() => {
            let (path, why) = (dir.join("identity"), "it is missing".to_owned());
            return Err(OpenError::DamagedFile { path, why, remedy: REBUILD });
        }
        None => {
            let fields = vec![("node".to_owned(), format!("{:016x}", rand_u64()))];
            let file = IdentityFile { identity: identity(), fields };
            file.write(dir).map_err(OpenError::io("write the identity of", dir))?;
            file
        }
    };
    identity.check(dir, &self::identity())?;
    let node_id = node_id(&identity, dir)?;

    let reached = mark::read(dir).map_err(OpenError::io("read", dir))?;
    // Without it the engine would begin anew, and remove what it does not know.
    let current = entries.join("CURRENT");
    if reached > 0 && !current.exists() {
        let why = format!("it is missing, and the log reached {reached}");
        return Err(OpenError::DamagedFile { path: current, why, remedy: REBUILD });
    }
    let (disk, flusher): (Arc<dyn Disk>, Box<dyn Flusher>) = match &options.engine {
        Engine::Rocks => {
            let mark = Mark::begin(dir, reached).map_err(OpenError::io("write", dir))?;
            let disk: Arc<dyn Disk> = Arc::new(Rocks::open(&entries, lock, mark).map_err(unopened(dir, reached))?);
            let flusher = FlusherThread::start(disk.clone()).map_err(OpenError::io("start the flusher of", dir))?;
            (disk, Box::new(flusher))
        }
        Engine::Memory(memory) => {
            let disk = memory.mount();
            (disk.clone(), Box::new(TaskFlusher::new(disk)))
        }
    };
    let cluster_id = identity.field("cluster");
    let archive_dir = dir.join(ARCHIVE);
    let archive = Archive::open(archive_dir.clone(), options.archive_segment_bytes);
    let archive = Arc::new(archive.map_err(OpenError::io("create", &archive_dir))?);
    archive.belong_to(cluster_id);
    let store = LogStore::open(disk, flusher, Some(archive.clone())).map_err(storage(dir))?;
    let snapshots_dir = dir.join(SNAPSHOTS);
    let snapshots = Snapshots::open(snapshots_dir.clone()).map_err(OpenError::io("create", &snapshots_dir))?;
    snapshots.belong_to(cluster_id.map(str::to_owned));
    let mut applier = Applier::new(machine, snapshots.clone());
    let ends_at = store.last().map_or(0, |last| last.index);
    if reached > ends_at {
        return Err(OpenError::Damaged {
            index: ends_at + 1,
            path: entries,
            why: format!("the log ends at {ends_at}, but everything up to {reached} was committed"),
            remedy: REBUILD,
        });
    }
    recover(dir, &store, &snapshots, &archive, &mut applier)?;
    Ok(Opened { identity, node_id, store, applier, snapshots, archive })
}

/// Brings the machine to the last entry that is known to be committed.
fn recover(
    dir: &Path,
    store: &LogStore<Tokio>,
    snapshots: &Snapshots,
    archive: &Archive,
    applier: &mut Applier<Tokio>,
) -> Result<(), OpenError> {
    let damaged = |index: u64, why: &str| OpenError::Damaged {
        index,
        path: dir.join(ENTRIES),
        why: why.to_owned(),
        remedy: REBUILD,
    };
    let (last, committed) = (store.last(), store.committed());
    let first = store.purged().map_or(0, |purged| purged.index + 1);
    if last.is_some_and(|last| last.index >= first) && store.read(first, first + 1, 0).map_err(storage(dir))?.is_empty()
    {
        return Err(damaged(first, "the first entry is missing"));
    }
    if committed > last {
        // Without these entries its vote could elect a leader that lacks them, too.
        return Err(damaged(
            last.map_or(0, |last| last.index + 1),
            "the log ends before what it knows to be committed",
        ));
    }
    if let Some(file) = snapshots.newest() {
        applier.restore(&file).map_err(OpenError::io("restore", &file.path))?;
    }
    recover_archived(dir, store, archive, applier)?;
    let end = committed.map_or(0, |committed| committed.index + 1);
    let mut next = applier.applied().map_or(0, |applied| applied.index + 1);
    while next < end {
        let entries = store.read(next, end, RECOVERY_BYTES).map_err(storage(dir))?;
        if entries.first().is_none_or(|entry| entry.log_id.index != next) {
            return Err(damaged(next, "the entry is missing"));
        }
        next += entries.len() as u64;
        applier.take(entries);
    }
    // What follows is not known to be committed, but it votes and will be sent to others.
    let end = last.map_or(0, |last| last.index + 1);
    while next < end {
        let entries = store.read(next, end, RECOVERY_BYTES).map_err(storage(dir))?;
        if entries.is_empty() {
            return Err(damaged(next, "the entry is missing"));
        }
        next += entries.len() as u64;
    }
    Ok(())
}

/// Makes up for snapshots that are damaged or gone: what was purged is in the archive.
fn recover_archived(
    dir: &Path,
    store: &LogStore<Tokio>,
    archive: &Archive,
    applier: &mut Applier<Tokio>,
) -> Result<(), OpenError> {
    let Some(purged) = store.purged() else { return Ok(()) };
    let next = applier.applied().map_or(0, |applied| applied.index + 1);
    if next > purged.index {
        return Ok(());
    }
    tracing::warn!(from = next, to = purged.index, "no snapshot leads up to the log: folding the archive");
    let segments = archive.list().map_err(OpenError::io("read", &dir.join(ARCHIVE)))?;
    let mut entries = Vec::new();
    for item in archive::Reader::new(segments, next, purged.index + 1) {
        let (index, bytes) = item.map_err(|error| match error {
            OpenError::NotKept { index } => OpenError::Damaged {
                index,
                path: dir.join(SNAPSHOTS),
                why: "the log begins later, and neither a snapshot nor the archive leads up to it".into(),
                remedy: REBUILD,
            },
            other => other,
        })?;
        entries.push(decode_entry(index, &bytes).map_err(storage(dir))?);
        if entries.len() >= RECOVERY_ENTRIES {
            applier.take(std::mem::take(&mut entries));
        }
    }
    applier.take(entries);
    Ok(())
}
