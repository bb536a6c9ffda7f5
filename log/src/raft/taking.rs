//! A snapshot for whoever asks: of everything that this member has applied by then.

use std::time::Duration;

use super::SnapshotInfo;
use super::node::Node;
use crate::host;

/// How long one may take to be written: a large state on a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Its disk, or what was written there.
    #[error("a snapshot cannot be taken: {0}")]
    Disk(String),
    /// It stopped, or takes too long.
    #[error("a snapshot was not taken in time")]
    Late,
}

impl Node {
    /// Takes a snapshot of everything that was applied here before this call, or finds that there is one; it is on the
    /// disk, and was read back whole.
    ///
    /// # Errors
    /// A [`SnapshotError`]; the member goes on as before.
    pub async fn snapshot(&self) -> Result<SnapshotInfo, SnapshotError> {
        tokio::time::timeout(PATIENCE, self.take_snapshot()).await.unwrap_or(Err(SnapshotError::Late))
    }

    async fn take_snapshot(&self) -> Result<SnapshotInfo, SnapshotError> {
        let wanted = self.applied();
        let snapshots = &self.inner.snapshots;
        let mut made = snapshots.made();
        let failures = made.borrow().failures;
        loop {
            made.mark_unchanged();
            if let Some(file) = snapshots.newest().filter(|file| file.head.last.1 >= wanted) {
                let (of, info) = (snapshots.clone(), SnapshotInfo::of(file.path.clone()));
                let checked = host::blocking(move || of.check(&file)).await;
                match checked
                    .map_err(|error| error.to_string())
                    .and_then(|checked| checked.map_err(|it| it.to_string()))
                {
                    Ok(()) => return info.ok_or(SnapshotError::Late),
                    Err(why) => return Err(SnapshotError::Disk(why)),
                }
            }
            if made.borrow().failures > failures {
                return Err(SnapshotError::Disk(made.borrow().why.clone()));
            }
            // If one is being taken already, it may be too old: then there is another round.
            self.inner.raft.trigger().snapshot().await.map_err(|_| SnapshotError::Late)?;
            let _ = tokio::time::timeout(Duration::from_secs(1), made.changed()).await;
        }
    }
}
