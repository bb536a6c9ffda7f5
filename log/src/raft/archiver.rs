//! Moves history from Raft's log to the archive, in the background.
//!
//! ```text
//! a snapshot is on the disk ─► entries up to an earlier one are archived, synced ─► purged ─► old segments removed
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::archive::{Archive, Segment};
use super::log_store::LogStore;
use super::node::QuorumRaft;
use super::retention::{self, ArchiveBounds};
use super::snapshots::Snapshots;
use super::types::Tokio;
use crate::host;

/// How long the log may take to let go of what was archived: a replication that reads it comes first.
const PURGE_PATIENCE: Duration = Duration::from_secs(5);
const PURGE_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(crate) struct Archiver {
    pub(crate) raft: QuorumRaft,
    pub(crate) store: LogStore<Tokio>,
    pub(crate) snapshots: Snapshots,
    pub(crate) archive: Arc<Archive>,
    pub(crate) bounds: ArchiveBounds,
    /// So many of the newest applied entries stay in the log, for followers that are a little behind.
    pub(crate) tail_entries: u64,
}

impl Archiver {
    /// Works after each snapshot, and once at the start: a crash may have left something to do.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut made = self.snapshots.made();
        loop {
            made.mark_unchanged();
            if let Err(error) = self.pass().await {
                // The log keeps what could not be archived; it is tried again after the next snapshot.
                tracing::error!(%error, "history could not be archived");
            }
            tokio::select! {
                changed = made.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn pass(&self) -> io::Result<()> {
        let it = self.clone();
        let target = host::blocking(move || it.archive()).await.map_err(io::Error::other)??;
        if let Some(target) = target {
            if self.raft.trigger().purge_log(target).await.is_err() {
                tracing::debug!("stopped meanwhile");
                return Ok(());
            }
            let purged = || self.store.purged().is_some_and(|purged| purged.index >= target);
            let waited = async {
                while !purged() {
                    tokio::time::sleep(PURGE_PAUSE).await;
                }
            };
            if tokio::time::timeout(PURGE_PATIENCE, waited).await.is_err() {
                tracing::debug!(up_to = target, "archived entries are still in use");
            }
        }
        let it = self.clone();
        host::blocking(move || it.tidy()).await.map_err(io::Error::other)?
    }

    /// Archives what the log need not keep; the index up to which it can be purged, if there is anything.
    fn archive(&self) -> io::Result<Option<u64>> {
        let Some(newest) = self.snapshots.newest() else { return Ok(None) };
        let purged = self.store.purged().map_or(0, |purged| purged.index);
        let newest_index = newest.head.last.1;
        let committed = self.store.committed().map_or(0, |committed| committed.index);
        let covered = committed.saturating_sub(self.tail_entries);
        // One before the newest, so that a damaged newest one costs nothing.
        let target = self
            .snapshots
            .list()?
            .iter()
            .map(|(index, _)| *index)
            .rfind(|index| *index < newest_index && *index <= covered);
        let Some(target) = target.filter(|target| *target > purged) else { return Ok(None) };
        // From the disk, as it will be read when it is needed.
        self.snapshots.check(&newest)?;
        self.store.archive(target)?;
        Ok(Some(target))
    }

    /// Removes history that is beyond the bounds, and gives the room of what was purged back.
    fn tidy(&self) -> io::Result<()> {
        self.store.reclaim()?;
        let mut segments: Vec<(Segment, u64)> = Vec::new();
        let mut now_ms = 0;
        for segment in self.archive.list()? {
            // What cannot be read is as old as what is before it.
            let last_at_ms = segment.head().map_or(now_ms, |head| head.last_at_ms);
            now_ms = now_ms.max(last_at_ms);
            segments.push((segment, last_at_ms));
        }
        let now_ms = now_ms.max(self.store.newest_at_ms()?);
        let snapshots = self.snapshots.list()?;
        let indexes: Vec<u64> = snapshots.iter().map(|(index, _)| *index).collect();
        let log_first = self.store.purged().map_or(0, |purged| purged.index + 1);
        let gone = retention::superfluous(&segments, &indexes, log_first, now_ms, self.bounds);
        // Snapshots that begin history go after the history before them: what is left can always be folded.
        for (segment, _) in &segments[..gone.segments] {
            tracing::info!(first = segment.first, last = segment.last, "history beyond the bounds is removed");
            std::fs::remove_file(&segment.path)?;
        }
        for at in gone.snapshots {
            std::fs::remove_file(&snapshots[at].1)?;
        }
        Ok(())
    }
}
