//! The newest part of what operators are told, for everybody who watches this master: a bounded ring. A watcher is a
//! place in it. Whoever falls out of it at the old end has not read what happened since, and is let go; what one
//! watcher does costs the others nothing.

use super::position::Position;
use super::told::Told;
use crate::http::metrics::Counters;
use crate::vital;
use api::v1::master::event::closing::Reason;
use event_log::host;
use master_core::effect::Announcement;
use master_core::state::State;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::watch;

/// Events that are kept.
const EVENTS_MAX: usize = 65_536;
/// What they may hold as protobuf, in bytes.
const BYTES_MAX: usize = 32 << 20;
/// Records whose events wait to be made. More are left out, and with them whoever watches: delivery does not wait.
const WAITING_RECORDS_MAX: usize = 8192;

/// What one committed record announces.
#[derive(Debug)]
pub struct Announced {
    /// The record.
    pub index: u64,
    /// State after it.
    pub state: Arc<State>,
    /// In the order of its events.
    pub announcements: Vec<Announcement>,
    /// What the log announced up to this index was not told here.
    pub gap: Option<u64>,
}

/// Takes announcements in, in the order of the log, without ever waiting.
pub struct Announcer {
    /// None on a simulated host, which has no threads.
    records: Option<SyncSender<Announced>>,
    recent: Arc<Recent>,
}

/// The ring.
#[derive(Debug)]
pub struct Recent {
    inner: Mutex<Inner>,
    /// Changes with every record that was taken in.
    news: watch::Sender<u64>,
    /// Changes when everybody is let go: how often, why.
    closing: watch::Sender<(u64, Reason, &'static str)>,
    /// What was announced since this process started.
    pub counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Inner {
    told: VecDeque<Arc<Told>>,
    bytes: usize,
    /// Everything after this is in `told`. None until the first record: then it will be everything from there on.
    floor: Option<Position>,
    /// The last record that was taken in.
    index: u64,
}

/// What follows a position is not in the ring any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lapped;

impl Recent {
    /// An empty ring, and the thread that fills it.
    ///
    /// # Errors
    /// The operating system's, if it has no thread to give.
    pub fn start(counters: Arc<Counters>) -> std::io::Result<(Arc<Recent>, Announcer)> {
        let recent = Arc::new(Recent { counters, ..Recent::new() });
        if host::is_simulated() {
            return Ok((recent.clone(), Announcer { records: None, recent }));
        }
        let (records, inbox) = sync_channel(WAITING_RECORDS_MAX);
        let filled = recent.clone();
        vital::thread("announcements", move || filled.fill(&inbox))?;
        let announcer = Announcer { records: Some(records), recent: recent.clone() };
        Ok((recent, announcer))
    }

    pub(super) fn new() -> Recent {
        Recent {
            inner: Mutex::default(),
            news: watch::Sender::new(0),
            closing: watch::Sender::new((0, Reason::Unknown, "")),
            counters: Arc::default(),
        }
    }

    fn fill(&self, inbox: &Receiver<Announced>) {
        while let Ok(announced) = inbox.recv() {
            self.take(&announced);
        }
    }

    pub(super) fn take(&self, announced: &Announced) {
        announced.announcements.iter().for_each(|announcement| self.counters.count_announcement(announcement));
        let told: Vec<Arc<Told>> =
            Told::of(announced.index, &announced.state, &announced.announcements).map(Arc::new).collect();
        let mut inner = self.inner.lock();
        if let Some(gap) = announced.gap {
            inner.lose(gap);
        }
        inner.index = announced.index;
        let floor = inner.floor;
        for told in told.into_iter().filter(|told| floor.is_none_or(|floor| told.position > floor)) {
            inner.bytes += told.bytes();
            inner.told.push_back(told);
        }
        while inner.told.len() > EVENTS_MAX || inner.bytes > BYTES_MAX {
            let Some(oldest) = inner.told.pop_front() else { break };
            inner.bytes -= oldest.bytes();
            inner.floor = Some(oldest.position);
        }
        drop(inner);
        self.news.send_replace(announced.index);
    }

    /// What was announced up to `index` is not here, and will not be.
    fn lose(&self, index: u64) {
        self.inner.lock().lose(index);
        self.news.send_replace(index);
    }

    /// Changes whenever something may have been added.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Changes when everybody has to go.
    pub fn closing(&self) -> watch::Receiver<(u64, Reason, &'static str)> {
        self.closing.subscribe()
    }

    /// Lets everybody go who watches now.
    pub fn close_all(&self, reason: Reason, why: &'static str) {
        self.closing.send_modify(|closing| *closing = (closing.0 + 1, reason, why));
    }

    /// What follows `position`, oldest first, until it has `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Lapped`] if some of it is not here any more, or never was.
    pub fn after(&self, position: Position, bytes_max: usize) -> Result<Vec<Arc<Told>>, Lapped> {
        let inner = self.inner.lock();
        inner.check(position)?;
        let start = inner.told.partition_point(|told| told.position <= position);
        let mut bytes = 0;
        let next = inner.told.range(start..).take_while(|told| {
            let has_room = bytes < bytes_max;
            bytes += told.bytes();
            has_room
        });
        Ok(next.cloned().collect())
    }

    /// Whether everything that follows `position` is here, or will be.
    pub fn covers(&self, position: Position) -> bool {
        self.inner.lock().check(position).is_ok()
    }

    /// How far whoever was told everything up to `position` is, if nothing followed that is told.
    pub fn reached(&self, position: Position) -> Option<Position> {
        let inner = self.inner.lock();
        let reached = Position::end_of(inner.index);
        let is_last = inner.told.back().is_none_or(|last| last.position <= position);
        (inner.check(position).is_ok() && is_last && reached > position).then_some(reached)
    }
}

impl Inner {
    fn check(&self, position: Position) -> Result<(), Lapped> {
        if self.floor.is_some_and(|floor| position < floor) { Err(Lapped) } else { Ok(()) }
    }

    fn lose(&mut self, index: u64) {
        let floor = Position::end_of(index);
        if self.floor.is_none_or(|now| now < floor) {
            self.floor = Some(floor);
            self.told.retain(|told| told.position > floor);
            self.bytes = self.told.iter().map(|told| told.bytes()).sum();
        }
    }
}

impl Announcer {
    /// Hands over what a record announces. When the thread is too far behind, the record is left out, and whoever watches
    /// has to go on from the log.
    pub fn tell(&self, announced: Announced) {
        let Some(records) = &self.records else { return self.recent.take(&announced) };
        match records.try_send(announced) {
            Ok(()) => {}
            Err(TrySendError::Full(announced)) => {
                tracing::debug!(index = announced.index, "too much happens at once: operators who watch are let go");
                self.recent.lose(announced.index);
            }
            // The thread ends with the process.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Lets everybody go who watches.
    pub fn close_all(&self, reason: Reason, why: &'static str) {
        self.recent.close_all(reason, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scripted;
    use crate::http::watch::testing::announced;
    use master_core::ids::AgentKey;

    fn nothing(index: u64, gap: Option<u64>) -> Announced {
        Announced { index, state: Arc::default(), announcements: Vec::new(), gap }
    }

    fn removal(index: u64, count: u64) -> Announced {
        let announcements = (0..count).map(|agent| Announcement::AgentRemoved { agent: AgentKey(agent) }).collect();
        Announced { announcements, ..nothing(index, None) }
    }

    fn positions(told: &[Arc<Told>]) -> Vec<String> {
        told.iter().map(|told| told.position.to_string()).collect()
    }

    #[test]
    fn whoever_is_in_the_ring_misses_nothing() {
        let recent = Recent::new();
        let read = |after: &str| recent.after(after.parse().unwrap(), usize::MAX).map(|told| positions(&told));
        assert_eq!(read("9"), Ok(vec![]), "nothing is known yet");
        recent.take(&Announced { gap: Some(4), ..removal(6, 3) });
        recent.take(&removal(8, 1));
        assert_eq!(read("3"), Err(Lapped), "what was before it is not here");
        assert_eq!(read("4"), Ok(vec!["6.0".into(), "6.1".into(), "6.2".into(), "8.0".into()]));
        assert_eq!(read("6.1"), Ok(vec!["6.2".into(), "8.0".into()]));
        assert_eq!(read("8"), Ok(vec![]));
        recent.take(&nothing(11, None));
        assert_eq!(recent.reached("8.0".parse().unwrap()), Some(Position::end_of(11)), "a heartbeat may say so");
        assert_eq!(recent.reached("6.2".parse().unwrap()), None, "it was not told everything yet");
        recent.lose(12);
        recent.take(&removal(12, 1));
        recent.take(&removal(13, 1));
        assert_eq!((read("11"), read("12")), (Err(Lapped), Ok(vec!["13.0".into()])));
    }

    #[test]
    fn the_ring_is_bounded() {
        let recent = Recent::new();
        for index in 1..200 {
            recent.take(&removal(index, 1000));
        }
        let inner = recent.inner.lock();
        assert_eq!(inner.told.len(), EVENTS_MAX);
        assert_eq!(inner.bytes, inner.told.iter().map(|told| told.bytes()).sum::<usize>());
        assert!(inner.check(Position::end_of(100)) == Err(Lapped) && inner.check(Position::end_of(150)).is_ok());
    }

    #[test]
    fn a_life_of_a_task_is_told_in_order() {
        let recent = Recent::new();
        announced(&scripted::busy(), 9).iter().for_each(|announced| recent.take(announced));
        let told = recent.after(Position::end_of(0), usize::MAX).unwrap();
        let names: Vec<String> = told.iter().map(|told| told.event().r#type().as_str_name().to_owned()).collect();
        let at = |name: &str| names.iter().position(|told| told == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
        assert!(at("AGENT_ADDED") < at("FRAMEWORK_ADDED"));
        assert!(at("FRAMEWORK_ADDED") < at("TASK_UPDATED"));
        assert!(names.iter().any(|name| name == "FRAMEWORK_REMOVED"));
        assert!(told.windows(2).all(|pair| pair[0].position < pair[1].position));
    }
}
