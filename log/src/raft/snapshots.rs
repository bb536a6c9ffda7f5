//! A member's folder of snapshots: written aside, synced, then given their names.
//!
//! A snapshot that is not as it was written is set aside under another name: it is neither loaded nor sent.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::machine::{CheckSnapshot, WriteSnapshot};
use super::snapshot_file::{self, Head, SnapshotFile};
use crate::disk;

const ENDING: &str = "snapshot";
/// Of a snapshot that is damaged: kept for whoever wants to know why.
const DAMAGED: &str = "damaged";
const TEMPORARY: &str = "tmp";

/// What became of the snapshots that were to be made since the member started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Made {
    /// Index of the newest that is on the disk.
    pub(crate) newest: Option<u64>,
    /// How many could not be written.
    pub(crate) failures: u64,
    /// Why the last of those could not.
    pub(crate) why: String,
}

struct Inner {
    dir: PathBuf,
    cluster_id: Mutex<Option<String>>,
    /// The newest, which was found whole or written by this process.
    newest: Mutex<Option<SnapshotFile>>,
    made: watch::Sender<Made>,
}

/// The folder of snapshots. Clones are the same folder.
#[derive(Clone)]
pub(crate) struct Snapshots {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Snapshots").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// Makes the folder if need be, removes what a crash left half written, and finds the newest that is whole.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Snapshots> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == TEMPORARY) {
                fs::remove_file(&path)?;
            }
        }
        let snapshots = Snapshots {
            inner: Arc::new(Inner {
                dir,
                cluster_id: Mutex::default(),
                newest: Mutex::default(),
                made: watch::Sender::default(),
            }),
        };
        let newest = snapshots.find_newest()?;
        snapshots.inner.made.send_modify(|made| made.newest = newest.as_ref().map(|file| file.head.last.1));
        *lock(&snapshots.inner.newest) = newest;
        Ok(snapshots)
    }

    /// Whose snapshots they are, from now on.
    pub(crate) fn belong_to(&self, cluster_id: Option<String>) {
        *lock(&self.inner.cluster_id) = cluster_id;
    }

    pub(crate) fn made(&self) -> watch::Receiver<Made> {
        self.inner.made.subscribe()
    }

    /// Notes that a snapshot could not be written. The log has everything: the member goes on.
    pub(crate) fn failed(&self, error: &io::Error) {
        tracing::error!(dir = %self.inner.dir.display(), %error, "a snapshot could not be written");
        self.inner.made.send_modify(|made| {
            made.failures += 1;
            made.why = error.to_string();
        });
    }

    /// Writes a snapshot. It counts only once it was read again.
    pub(crate) fn create(&self, head: Head, content: WriteSnapshot, check: CheckSnapshot) -> io::Result<SnapshotFile> {
        let temporary = self.inner.dir.join(format!("{}-{}.{TEMPORARY}", head.last.1, head.last.0));
        let cluster_id = lock(&self.inner.cluster_id).clone();
        let written = snapshot_file::write(&temporary, &head, cluster_id.as_deref(), content).and_then(|()| {
            let (_, mut content) = snapshot_file::open(&temporary)?;
            check(&mut content).map_err(|why| io::Error::other(format!("it could not be read again: {why}")))
        });
        match written {
            Ok(()) => self.publish(&temporary),
            Err(error) => {
                // On a full disk its bytes are missed; whatever stays is removed at the next start.
                let _ = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }

    /// Takes over a file that was received, if it is whole and of this cluster.
    pub(crate) fn adopt(&self, temporary: &Path) -> io::Result<SnapshotFile> {
        let received = snapshot_file::verify(temporary)?;
        let mine = lock(&self.inner.cluster_id).clone();
        if received.cluster_id.is_some() && received.cluster_id != mine {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the snapshot belongs to another cluster"));
        }
        File::open(temporary)?.sync_all()?;
        self.publish(temporary)
    }

    fn publish(&self, temporary: &Path) -> io::Result<SnapshotFile> {
        let mut file = snapshot_file::open(temporary)?.0;
        let (term, index) = file.head.last;
        file.path = self.inner.dir.join(format!("{index:020}-{term:020}.{ENDING}"));
        fs::rename(temporary, &file.path)?;
        disk::sync_dir(&self.inner.dir)?;
        let mut newest = lock(&self.inner.newest);
        if newest.as_ref().is_none_or(|newest| newest.head.last.1 <= index) {
            *newest = Some(file.clone());
        }
        drop(newest);
        self.inner.made.send_modify(|made| made.newest = made.newest.max(Some(index)));
        Ok(file)
    }

    /// A name for a file that is being received.
    pub(crate) fn incoming(&self, transfer: u64) -> PathBuf {
        self.inner.dir.join(format!("incoming-{transfer:016x}.{TEMPORARY}"))
    }

    /// Index and path of each, oldest first.
    pub(crate) fn list(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        list(&self.inner.dir)
    }

    /// The newest. Does not look at the disk: the fold waits for it.
    pub(crate) fn newest(&self) -> Option<SnapshotFile> {
        lock(&self.inner.newest).clone()
    }

    /// The newest before `index` that is whole.
    fn find_newest(&self) -> io::Result<Option<SnapshotFile>> {
        for (_, path) in self.list()?.into_iter().rev() {
            match snapshot_file::verify(&path) {
                Ok(file) => return Ok(Some(file)),
                Err(error) => set_aside(&path, &error),
            }
        }
        Ok(None)
    }

    /// Whether the file is as it was written. If not, it is set aside, and the newest of the others counts.
    pub(crate) fn check(&self, file: &SnapshotFile) -> io::Result<()> {
        let Err(error) = snapshot_file::verify(&file.path) else { return Ok(()) };
        set_aside(&file.path, &error);
        let next = self.find_newest()?;
        let mut newest = lock(&self.inner.newest);
        if newest.as_ref().is_some_and(|newest| newest.path == file.path) {
            *newest = next;
        }
        Err(error)
    }
}

/// Index and path of each snapshot in a folder, oldest first.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == ENDING)
            && let Some((index, _)) = parse_name(&path)
        {
            found.push((index, path));
        }
    }
    found.sort();
    Ok(found)
}

/// (index, term) by the name of a snapshot's file.
pub(crate) fn parse_name(path: &Path) -> Option<(u64, u64)> {
    let (index, term) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((index.parse().ok()?, term.parse().ok()?))
}

fn set_aside(path: &Path, error: &io::Error) {
    let aside = path.with_extension(DAMAGED);
    let moved = fs::rename(path, &aside).is_ok();
    tracing::error!(path = %path.display(), %error, moved, "left a damaged snapshot aside");
}
