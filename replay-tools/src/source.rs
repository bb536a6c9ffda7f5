//! Where a log is: a work_dir, the folder of the log itself, an archive, or the file of a snapshot. What it holds is read as it is asked for, beside the
//! process that writes it.

use crate::place::Place;
use crate::replay::hex;
use crate::shown::kebab;
use event_log::raft::{Committed, RaftReader, SnapshotInfo, read_archive, read_raft, read_snapshot};
use event_log::sentence;
use event_log::{Record, read_local};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
    /// `a master`, `an agent`.
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Kind::Master => "a master",
            Kind::Agent => "an agent",
        }
    }

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
    /// A file, but not one that a log lies in.
    #[error("{} is a file, but no whole snapshot: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is none, but there are some in its folders.
    #[error("there is no log in {}; did you mean {}?", dir.display(), found.display())]
    Deeper {
        /// The folder.
        dir: PathBuf,
        /// A folder in it with a log.
        found: PathBuf,
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
    /// Its events; or one sentence about the first that cannot be read.
    pub events: Result<Events, String>,
}

/// The events of a record, decoded.
#[derive(Clone, Debug)]
pub(crate) enum Events {
    /// Of a master's log.
    Master(Vec<master_core::Event>),
    /// Of an agent's.
    Agent(Vec<agent_core::Event>),
}

impl Entry {
    fn of_master(Committed { index, term, record }: Committed) -> Entry {
        let events = master_core::decode_record(&record).map(Events::Master).map_err(|error| sentence(&error));
        Entry { index, term, record, events }
    }

    fn of_agent(index: u64, record: Record) -> Entry {
        let events: Result<_, _> = record.events.iter().map(agent_core::Event::from_raw).collect();
        let events = events.map(Events::Agent).map_err(|error| sentence(&error));
        Entry { index, term: record.header.term, record: Arc::new(record), events }
    }

    /// How its events are called.
    ///
    /// # Errors
    /// One sentence about the first that cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<String>, String> {
        match self.events.as_ref().map_err(Clone::clone)? {
            Events::Master(events) => Ok(events.iter().map(|event| event.name().to_owned()).collect()),
            Events::Agent(events) => Ok(events.iter().map(|event| kebab(event.name())).collect()),
        }
    }

    /// About as many bytes as it takes.
    fn weight(&self) -> usize {
        // Once as stored, once decoded.
        self.record.events.iter().map(|event| 2 * event.payload.len() + 100).sum::<usize>() + 100
    }
}

/// A log.
pub(crate) struct Source {
    dir: PathBuf,
    log: Log,
}

enum Log {
    Master(Box<RaftReader>),
    Agent,
}

/// Entries in order. Damage is the last item.
pub(crate) type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, SourceError>> + Send + 'a>;

/// What the identity of a master's log calls itself.
const QUORUM_KIND: &str = "quorum-log";

impl Source {
    /// Finds the log in `dir`, which is a work_dir, the log's own folder, an archive, or the file of a snapshot. Changes and
    /// claims nothing.
    ///
    /// # Errors
    /// There is none, it cannot be read, or it is somebody else's.
    pub(crate) fn open(dir: &Path) -> Result<Source, SourceError> {
        if dir.is_file() {
            let read =
                read_snapshot(dir).map_err(|error| SourceError::File { path: dir.to_owned(), why: sentence(&error) });
            let log = Log::Master(Box::new(read?));
            return Ok(Source { dir: dir.to_owned(), log });
        }
        let inner = dir.join(agent_core::LOG_DIR);
        let found = [dir, &inner].into_iter().find_map(|dir| Some((dir.to_owned(), kind_of(dir)?)));
        // Without an identity it may be an archive; if not, the reader knows best what to say.
        let Some((dir, kind)) = found else {
            if let Ok(reader) = read_archive(dir) {
                return Ok(Source { dir: dir.to_owned(), log: Log::Master(Box::new(reader)) });
            }
            return Err(match read_local(dir) {
                Err(event_log::local::OpenError::Missing { .. }) | Ok(_) => missing(dir),
                Err(error) => error.into(),
            });
        };
        let log = match kind.as_str() {
            QUORUM_KIND => Log::Master(Box::new(read_raft(&dir)?)),
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

    /// What it says of itself, by name: whose it is, which ranges of history are there, and the snapshots.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn facts(&self) -> Result<Vec<(&'static str, Value)>, SourceError> {
        let Log::Master(reader) = &self.log else { return Ok(Vec::new()) };
        let ranges: Vec<Value> = reader.ranges()?.iter().map(|range| json!([range.start(), range.end()])).collect();
        let snapshot = |it: &SnapshotInfo| json!({"index": it.index, "bytes": it.bytes, "digest": hex(&it.digest)});
        let snapshots: Vec<Value> = reader.snapshots()?.iter().map(snapshot).collect();
        Ok(vec![
            ("cluster_id", reader.cluster_id().map_or(Value::Null, Into::into)),
            ("node_id", reader.node_id().map_or(Value::Null, |id| format!("{id:016x}").into())),
            ("history", ranges.into()),
            ("snapshots", snapshots.into()),
        ])
    }

    /// The indexes that are missing between others.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn holes(&self) -> Result<Vec<std::ops::RangeInclusive<u64>>, SourceError> {
        let Log::Master(reader) = &self.log else { return Ok(Vec::new()) };
        let ranges = reader.ranges()?;
        Ok(ranges.windows(2).map(|pair| pair[0].end() + 1..=pair[1].start() - 1).collect())
    }

    /// The records from `index` on that are known to be committed.
    ///
    /// # Errors
    /// The folder cannot be read. Damage further on is an item.
    pub(crate) fn entries(&self, index: u64) -> Result<Entries<'_>, SourceError> {
        match &self.log {
            Log::Master(reader) => Ok(Box::new(reader.entries(index)?.map(|item| Ok(Entry::of_master(item?))))),
            Log::Agent => {
                let before = move |item: &Result<(u64, Record), _>| item.as_ref().is_ok_and(|(at, _)| *at < index);
                let records = read_local(&self.dir)?.skip_while(before).map(|item| {
                    let (index, record) = item?;
                    Ok(Entry::of_agent(index, record))
                });
                Ok(Box::new(records))
            }
        }
    }

    /// Gives `work` the entries from `from` on, as [`Source::entries`] has them, read and decoded ahead of it.
    ///
    /// # Errors
    /// As [`Source::entries`], and what `work` answers.
    pub(crate) fn walk<R, E: From<SourceError>>(
        &self,
        from: u64,
        work: impl FnOnce(&mut dyn Iterator<Item = Result<Entry, SourceError>>) -> Result<R, E>,
    ) -> Result<R, E> {
        ahead_of(self.entries(from)?, work)
    }

    /// Gives `each` the entries from `from` to `to`, up to where the log is damaged, which is the answer.
    ///
    /// # Errors
    /// As [`Source::entries`], and what `each` answers.
    pub(crate) fn walk_to_damage<E: From<SourceError>>(
        &self,
        from: u64,
        to: u64,
        mut each: impl FnMut(Entry) -> Result<(), E>,
    ) -> Result<Option<SourceError>, E> {
        self.walk(from, |entries| {
            for entry in entries {
                match entry {
                    Ok(entry) if entry.index > to => break,
                    Ok(entry) => each(entry)?,
                    Err(damage) => return Ok(Some(damage)),
                }
            }
            Ok(None)
        })
    }

    /// The last index that is known to be committed; 0 if there is none.
    ///
    /// # Errors
    /// As [`Source::entries`], and damage.
    pub(crate) fn last_index(&self) -> Result<u64, SourceError> {
        match &self.log {
            Log::Master(reader) => Ok(reader.committed_index()?.unwrap_or(0)),
            // What comes after damage is no part of it: who reads on hears of that.
            Log::Agent => Ok(read_local(&self.dir)?.map_while(Result::ok).last().map_or(0, |(index, _)| index)),
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

    /// The first index at a place or after it: for a time, after the last record made before it.
    ///
    /// # Errors
    /// As [`Source::last_index`].
    pub(crate) fn first_at(&self, place: Place) -> Result<u64, SourceError> {
        match place {
            Place::Index(index) => Ok(index),
            Place::Time(0) => Ok(0),
            Place::Time(from) => Ok(self.index_of(Place::Time(from - 1))? + 1),
        }
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

    /// The first index from which nothing is missing up to `index`: history may have more than one range.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn begins_before(&self, index: u64) -> Result<u64, SourceError> {
        let begins_at = self.begins_at()?;
        let Log::Master(reader) = &self.log else { return Ok(begins_at) };
        let ranges = reader.ranges()?;
        let holds = |range: &&std::ops::RangeInclusive<u64>| index < begins_at && range.contains(&index);
        Ok(ranges.iter().find(holds).map_or(begins_at, |range| *range.start()))
    }

    /// As [`Source::entries`], as far as nothing is missing up to `index`.
    ///
    /// # Errors
    /// As [`Source::entries`].
    pub(crate) fn entries_before(&self, from: u64, index: u64) -> Result<Entries<'_>, SourceError> {
        let begins_at = self.begins_before(index)?;
        match &self.log {
            Log::Master(reader) if begins_at < self.begins_at()? => {
                let entries = reader.entries_of_range(from.max(begins_at))?;
                Ok(Box::new(entries.map(|item| Ok(Entry::of_master(item?)))))
            }
            _ => self.entries(from),
        }
    }

    /// The snapshots taken at `index` or before it from which the log goes on to `index` without a gap, newest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn snapshots(&self, index: u64) -> Result<Vec<SnapshotInfo>, SourceError> {
        let Log::Master(reader) = &self.log else { return Ok(Vec::new()) };
        let begins_at = self.begins_before(index)?;
        let mut found = reader.snapshots()?;
        found.retain(|snapshot| snapshot.index <= index && begins_at <= snapshot.index + 1);
        found.reverse();
        Ok(found)
    }

    /// The digests of the states in the snapshots that say them, by index.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(crate) fn digests(&self) -> Result<BTreeMap<u64, String>, SourceError> {
        let Log::Master(reader) = &self.log else { return Ok(BTreeMap::new()) };
        let said = reader.snapshots()?.into_iter().filter(|it| !it.digest.is_empty());
        Ok(said.map(|it| (it.index, hex(&it.digest))).collect())
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

/// Gives `work` these entries, read and decoded ahead of it.
pub(crate) fn ahead_of<R>(
    entries: Entries<'_>,
    work: impl FnOnce(&mut dyn Iterator<Item = Result<Entry, SourceError>>) -> R,
) -> R {
    event_log::ahead(entries, |entry| entry.as_ref().map_or(0, Entry::weight), work)
}

fn missing(dir: &Path) -> SourceError {
    deeper(dir).unwrap_or_else(|| event_log::local::OpenError::Missing { dir: dir.to_owned() }.into())
}

/// Who names the folder of a whole cluster means one of its members.
fn deeper(dir: &Path) -> Option<SourceError> {
    let mut inside: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    inside.retain(|path| kind_of(path).or_else(|| kind_of(&path.join(agent_core::LOG_DIR))).is_some());
    // Masters know more than agents do.
    inside.sort_by_key(|path| (kind_of(path).is_none_or(|kind| kind != QUORUM_KIND), path.clone()));
    Some(SourceError::Deeper { dir: dir.to_owned(), found: inside.into_iter().next()? })
}

/// The kind that the identity of a folder names. Whether the identity is whole is for the log's reader to say.
fn kind_of(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join("identity")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("kind ")).map(str::to_owned)
}
