//! Where a log is: a work_dir, or the folder of the log itself. What it holds is read as it is asked for, beside the
//! process that writes it.

use crate::place::Place;
use event_log::raft::{Committed, RaftReader, SnapshotInfo, read_raft};
use event_log::{Record, read_local};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A master's: replicated, committed entries only.
    Master,
    /// An agent's own.
    Agent,
}

impl Kind {
    /// One word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Master => "master",
            Kind::Agent => "agent",
        }
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The folder or what is in it.
    #[error(transparent)]
    Open(#[from] event_log::local::OpenError),
    /// Neither a master's nor an agent's.
    #[error("{} holds a log of kind {kind:?}, which is neither a master's nor an agent's", dir.display())]
    UnknownKind {
        /// The folder.
        dir: PathBuf,
        /// What its identity says.
        kind: String,
    },
}

/// A record in its place.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its place, from 1.
    pub index: u64,
    /// Term of the entry that carried it; 0 in an agent's log.
    pub term: u64,
    /// What happened.
    pub record: Arc<Record>,
}

/// A log.
pub(crate) struct Source {
    dir: PathBuf,
    log: Log,
}

enum Log {
    Master(RaftReader),
    Agent,
}

/// Entries in order. Damage is the last item.
pub(crate) type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, SourceError>> + 'a>;

/// What the identity of a master's log calls itself.
const QUORUM_KIND: &str = "quorum-log";

impl Source {
    /// Finds the log in `dir`, which is a work_dir or the log's own folder. Changes and claims nothing.
    ///
    /// # Errors
    /// There is none, it cannot be read, or it is somebody else's.
    pub(crate) fn open(dir: &Path) -> Result<Source, SourceError> {
        let inner = dir.join(agent_core::LOG_DIR);
        let found = [dir, &inner].into_iter().find_map(|dir| Some((dir.to_owned(), kind_of(dir)?)));
        // Without an identity the reader knows best what to say.
        let Some((dir, kind)) = found else {
            return Err(read_local(dir).err().map_or_else(|| missing(dir), Into::into));
        };
        let log = match kind.as_str() {
            QUORUM_KIND => Log::Master(read_raft(&dir)?),
            agent_core::LOG_KIND => {
                read_local(&dir)?;
                Log::Agent
            }
            _ => return Err(SourceError::UnknownKind { dir, kind }),
        };
        Ok(Source { dir, log })
    }

    /// Whose log it is.
    pub(crate) fn kind(&self) -> Kind {
        match &self.log {
            Log::Master(_) => Kind::Master,
            Log::Agent => Kind::Agent,
        }
    }

    /// Where the log itself is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What its identity says, by name.
    pub(crate) fn facts(&self) -> Vec<(&'static str, Value)> {
        match &self.log {
            Log::Master(reader) => vec![
                ("cluster_id", reader.cluster_id().map_or(Value::Null, Into::into)),
                ("node_id", format!("{:016x}", reader.node_id()).into()),
            ],
            Log::Agent => Vec::new(),
        }
    }

    /// The records from `index` on that are known to be committed.
    ///
    /// # Errors
    /// The folder cannot be read. Damage further on is an item.
    pub(crate) fn entries(&self, index: u64) -> Result<Entries<'_>, SourceError> {
        match &self.log {
            Log::Master(reader) => {
                let entry = |Committed { index, term, record }| Entry { index, term, record };
                Ok(Box::new(reader.entries(index)?.map(move |item| Ok(entry(item?)))))
            }
            Log::Agent => {
                let records = read_local(&self.dir)?.map(|item| {
                    let (index, record) = item?;
                    Ok(Entry { index, term: record.header.term, record: Arc::new(record) })
                });
                let before =
                    move |item: &Result<Entry, SourceError>| item.as_ref().is_ok_and(|entry| entry.index < index);
                Ok(Box::new(records.skip_while(before)))
            }
        }
    }

    /// The last index that is known to be committed; 0 if there is none.
    ///
    /// # Errors
    /// As [`Source::entries`], and damage.
    pub(crate) fn last_index(&self) -> Result<u64, SourceError> {
        match &self.log {
            Log::Master(reader) => Ok(reader.committed_index()?.unwrap_or(0)),
            Log::Agent => self.entries(0)?.try_fold(0, |_, entry| entry.map(|entry| entry.index)),
        }
    }

    /// The index that a place names: for a time that of the last record made until then, 0 if there is none.
    ///
    /// # Errors
    /// As [`Source::last_index`].
    pub(crate) fn index_of(&self, place: Place) -> Result<u64, SourceError> {
        let until = match place {
            Place::Index(index) => return Ok(index),
            Place::Time(until) => until,
        };
        // Times never go back, but for records that lost their leadership: halving finds the place without reading all.
        let (mut low, mut high) = (0, self.last_index()?);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            // Entries without a record have no time: they belong to the record after them.
            match self.entries(middle)?.next().transpose()? {
                Some(entry) if entry.record.header.at_ms <= until => low = entry.index.min(high),
                _ => high = middle - 1,
            }
        }
        Ok(low)
    }

    /// How many entries follow the last that is known to be committed; each is checked.
    ///
    /// # Errors
    /// As [`Source::last_index`].
    pub(crate) fn uncommitted(&self) -> Result<u64, SourceError> {
        let Log::Master(reader) = &self.log else { return Ok(0) };
        let from = reader.committed_index()?.map_or(0, |index| index + 1);
        let tail = reader.all_entries(from)?.try_fold(0, |count, entry| entry.map(|_| count + 1));
        Ok(tail?)
    }

    /// The first index that is there; more than 0 if what came before was replaced by its outcome.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn begins_at(&self) -> Result<u64, SourceError> {
        match &self.log {
            Log::Master(reader) => Ok(reader.first_index()?),
            Log::Agent => {
                let first = self.entries(0)?.next().transpose()?.map_or(0, |first| first.index);
                Ok(if first > 1 { first } else { 0 })
            }
        }
    }

    /// The snapshots taken at `index` or before it from which the log goes on without a gap, newest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn snapshots(&self, index: u64) -> Result<Vec<SnapshotInfo>, SourceError> {
        let Log::Master(reader) = &self.log else { return Ok(Vec::new()) };
        let begins_at = self.begins_at()?;
        // A member that never took one may not have the folder.
        let mut found = reader.snapshots().unwrap_or_default();
        found.retain(|snapshot| snapshot.index <= index && begins_at <= snapshot.index + 1);
        found.reverse();
        Ok(found)
    }

    /// What is in a snapshot.
    ///
    /// # Errors
    /// It is damaged or cannot be read.
    pub(crate) fn open_snapshot(&self, snapshot: &SnapshotInfo) -> Result<Box<dyn Read>, SourceError> {
        match &self.log {
            Log::Master(reader) => Ok(Box::new(reader.open_snapshot(snapshot)?)),
            Log::Agent => Ok(Box::new(std::io::empty())),
        }
    }

    /// Sees what was written since it was opened.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn refresh(&self) -> Result<(), SourceError> {
        match &self.log {
            Log::Master(reader) => Ok(reader.refresh()?),
            // Looked at anew each time.
            Log::Agent => Ok(()),
        }
    }
}

fn missing(dir: &Path) -> SourceError {
    event_log::local::OpenError::Missing { dir: dir.to_owned() }.into()
}

/// The kind that the identity of a folder names. Whether the identity is whole is for the log's reader to say.
fn kind_of(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join("identity")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("kind ")).map(str::to_owned)
}
