//! Operators who watch: SUBSCRIBED with everything there is, or with nothing for those who go on after a position; then
//! each change as it is committed, and a heartbeat on a fixed clock.
//!
//! ```text
//! SUBSCRIBE ──► SUBSCRIBED, the whole state ────────────────────► live, from the ring ──► Closing ──► over
//!     └─ after ─► SUBSCRIBED, no state ──► past, from the log ──►──┘ (slow, crowded, stopping, cut off)
//! ```
//!
//! Every event says where it is in the log, which is the same on all masters. A watcher holds nothing of its own but a
//! place in what happened: whoever does not read is let go when the ring has moved on, and nobody makes the master hold
//! more.

pub mod past;
pub mod position;
pub mod recent;
pub mod told;

use super::legacy::parts::Groups;
use super::operator::get;
use super::render::{Kind, NoPage, Rendering, Renderings, shown};
use crate::context::Reader;
use api::limits::WATCHERS_BYTES_MAX;
use api::media::Media;
use api::recordio;
use api::v1::master::event::closing::Reason;
use api::v1::master::{Event, event};
use api_http::{Response, StatusCode, StreamSender};
use auth::Sight;
use bytes::Bytes;
use event_log::host;
use master_core::state::State;
use parking_lot::Mutex;
use past::{Past, PastError};
use position::Position;
use recent::Recent;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use told::Told;

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// More watchers than this push out the oldest.
const WATCHERS_MAX: usize = 1000;
/// Read from the ring at once, in bytes.
const BATCH_BYTES: usize = 256 << 10;
/// Folds of the past at once: each holds a State of its own.
const PASTS_MAX: usize = 2;
/// How long a subscription waits for its turn to be told the past.
const PAST_PATIENCE: Duration = Duration::from_secs(8);
/// Whoever is told the past and reads nothing for this long holds up others.
const PAST_READ_PATIENCE: Duration = Duration::from_secs(30);
/// How long the last word waits for a client to read it.
const CLOSING_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether a watcher that does not read has been left behind.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The operators who watch this master.
#[derive(Debug)]
pub struct Watch {
    recent: Arc<Recent>,
    /// Oldest first. Told when it has to make room; the other end is dropped when its stream is over.
    watchers: Mutex<VecDeque<oneshot::Sender<()>>>,
    pasts: Arc<Semaphore>,
    waiting: Arc<Waiting>,
}

/// What waits for all watchers together to be read, in bytes, beside the state that each begins with.
#[derive(Debug, Default)]
struct Waiting(AtomicUsize);

/// A record until it is on its way.
struct Counted {
    record: Bytes,
    waiting: Arc<Waiting>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.record
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.waiting.0.fetch_sub(self.record.len(), Ordering::AcqRel);
    }
}

impl Waiting {
    fn count(self: &Arc<Self>, record: Bytes) -> Bytes {
        self.0.fetch_add(record.len(), Ordering::AcqRel);
        Bytes::from_owner(Counted { record, waiting: self.clone() })
    }

    fn is_much(&self) -> bool {
        self.0.load(Ordering::Acquire) > WATCHERS_BYTES_MAX
    }
}

/// Why a stream ends.
enum End {
    /// The client is gone.
    Left,
    /// This master ends it.
    Closed(Reason, String),
}

/// One stream.
struct Watcher {
    recent: Arc<Recent>,
    reader: Reader,
    media: Media,
    /// What of everything the client is told; None: all.
    sight: Option<Arc<Sight>>,
    sender: StreamSender,
    /// Everything up to here was sent.
    position: Position,
    clock: Interval,
    signals: Signals,
    waiting: Arc<Waiting>,
}

/// What ends a stream from above.
struct Signals {
    crowded: oneshot::Receiver<()>,
    closings: tokio::sync::watch::Receiver<(u64, Reason, &'static str)>,
}

impl Watch {
    /// Nobody watches yet.
    pub fn new(recent: Arc<Recent>) -> Watch {
        let (watchers, waiting) = (Mutex::default(), Arc::default());
        Watch { recent, watchers, pasts: Arc::new(Semaphore::new(PASTS_MAX)), waiting }
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.watchers.lock().iter().filter(|watcher| !watcher.is_closed()).count()
    }

    /// The answer to SUBSCRIBE: from now on, or what follows `after`.
    pub async fn subscribe(
        &self,
        (reader, renderings): (&Reader, &Renderings),
        media: Media,
        after: Option<Position>,
        sight: Option<Arc<Sight>>,
    ) -> Response {
        // Before the State is read: what ends all streams meanwhile ends this one.
        let closings = self.recent.closing();
        let Ok((state, index)) = reader.linearizable().await else { return reader.no_leader() };
        if let Some(after) = after.filter(|after| after.index > index) {
            let sentence = format!("Position {after} is in the future: the log was committed up to index {index}");
            return api_http::text(StatusCode::BAD_REQUEST, &sentence);
        }
        let (position, first) = match after {
            Some(after) => (after, subscribed(None, after, media, None)),
            None => match self.first(renderings, state, index, media, sight.clone()).await {
                Ok(first) => first,
                Err(none) => return none.response(),
            },
        };
        let past = if self.recent.covers(position) || after.is_none() {
            None
        } else {
            match self.past(reader, position).await {
                Ok(past) => Some(past),
                Err(response) => return *response,
            }
        };
        let (sender, body) = api_http::stream(16);
        let mut clock = tokio::time::interval(HEARTBEAT);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let signals = Signals { crowded: self.register(), closings };
        let (recent, reader, waiting) = (self.recent.clone(), reader.clone(), self.waiting.clone());
        let watcher = Watcher { recent, reader, media, sight, sender, position, clock, signals, waiting };
        host::spawn(watcher.run(first, past));
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::OK;
        let content_type = api_http::HeaderValue::from_static(media.content_type());
        response.headers_mut().insert(api_http::header::CONTENT_TYPE, content_type);
        response
    }

    /// The first event, and where it is: however many begin to watch, they share it. When too much waits for those who do
    /// not read, an older one will do, if everything that followed is still known.
    async fn first(
        &self,
        renderings: &Renderings,
        state: Arc<State>,
        index: u64,
        media: Media,
        sight: Option<Arc<Sight>>,
    ) -> Result<(Position, Bytes), NoPage> {
        let kind = Kind::Subscribed(media == Media::Json);
        let seeing = sight.clone();
        let wanted = Rendering { kind: kind.clone(), packed: false, index, sight: sight.clone() };
        let render = move || {
            let sight = seeing.as_deref();
            subscribed(Some(&shown(state, sight)), Position::end_of(index), media, sight).into()
        };
        let made = match renderings.page(wanted, render).await {
            Err(NoPage::Full) => {
                let covered = |index| self.recent.covers(Position::end_of(index));
                renderings.known(kind, sight).filter(|made| covered(made.index())).ok_or(NoPage::Full)?
            }
            made => made?,
        };
        Ok((Position::end_of(made.index()), made.bytes()))
    }

    fn register(&self) -> oneshot::Receiver<()> {
        let (sender, crowded) = oneshot::channel();
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| !watcher.is_closed());
        while watchers.len() >= WATCHERS_MAX {
            let oldest = watchers.pop_front().map(|oldest| oldest.send(()));
            debug_assert!(oldest.is_some());
        }
        watchers.push_back(sender);
        crowded
    }

    /// A fold that begins before `after`.
    async fn past(&self, reader: &Reader, after: Position) -> Result<(Past, OwnedSemaphorePermit), Box<Response>> {
        let answer = |status, sentence: &str| Box::new(api_http::text(status, sentence));
        let turn = tokio::time::timeout(PAST_PATIENCE, self.pasts.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = turn else {
            let sentence = "Others are being told what happened before: try again";
            return Err(answer(StatusCode::SERVICE_UNAVAILABLE, sentence));
        };
        let node = reader.node.clone();
        let opened = host::blocking(move || Past::open(node, after)).await;
        match opened.unwrap_or_else(|panic| Err(PastError::Unreadable(panic.to_string()))) {
            Ok(past) => Ok((past, permit)),
            Err(error @ PastError::Gone { .. }) => Err(answer(StatusCode::GONE, &error.to_string())),
            Err(error) => {
                tracing::error!(%error, %after, "the past cannot be told");
                Err(answer(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
            }
        }
    }
}

impl Watcher {
    /// Tells what there is, then what happens, until it or we end.
    async fn run(mut self, first: Bytes, past: Option<(Past, OwnedSemaphorePermit)>) {
        let Err(end) = self.tell(first, past).await;
        let End::Closed(reason, message) = end else { return };
        tracing::info!(said = %message, position = %self.position, "an operator's stream is ended");
        let mut event = Event { log_position: Some(self.position.to_wire()), ..Event::default() };
        event.set_type(event::Type::Unknown);
        event.closing = Some(event::Closing { reason: reason as i32, message });
        // Whoever does not read does not read this either.
        let _ = tokio::time::timeout(CLOSING_PATIENCE, self.sender.send(self.media.encode_record(&event))).await;
    }

    async fn tell(
        &mut self,
        first: Bytes,
        past: Option<(Past, OwnedSemaphorePermit)>,
    ) -> Result<std::convert::Infallible, End> {
        self.send(first).await?;
        // The first tick is at once.
        self.clock.tick().await;
        self.heartbeat().await?;
        if let Some((past, _permit)) = past {
            self.tell_past(past).await?;
        }
        let mut news = self.recent.news();
        loop {
            news.mark_unchanged();
            let Ok(batch) = self.recent.after(self.position, BATCH_BYTES) else { return Err(slow()) };
            if batch.is_empty() {
                self.beside(async { drop(news.changed().await) }).await?;
            }
            for told in batch {
                self.tell_one(&told).await?;
            }
        }
    }

    /// What the ring does not have any more. The client sets the pace: one part is folded when the one before was read.
    async fn tell_past(&mut self, mut past: Past) -> Result<(), End> {
        loop {
            let last = self.reader.state().1;
            let folding = host::blocking(move || past.page(last).map(|page| (past, page)));
            let page = self.beside(folding).await?;
            let (folded, page) = match page {
                Ok(Ok(folded)) => folded,
                Ok(Err(error)) => return Err(End::Closed(Reason::TooOld, error.to_string())),
                Err(panic) => return Err(End::Closed(Reason::Unknown, panic.to_string())),
            };
            past = folded;
            for told in page {
                match tokio::time::timeout(PAST_READ_PATIENCE, self.tell_one(&told)).await {
                    Ok(told) => told?,
                    Err(_) => return Err(slow()),
                }
            }
            self.position = past.reached();
            if self.position.index >= last && self.recent.covers(self.position) {
                return Ok(());
            }
        }
    }

    async fn tell_one(&mut self, told: &Told) -> Result<(), End> {
        if let Some(record) = told.record_for(self.media, self.sight.as_deref()) {
            self.send(self.waiting.count(record)).await?;
        }
        self.position = told.position;
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<(), End> {
        let reached = self.recent.reached(self.position);
        let mut heartbeat = Event { log_position: reached.map(Position::to_wire), ..Event::default() };
        heartbeat.set_type(event::Type::Heartbeat);
        self.send(self.waiting.count(self.media.encode_record(&heartbeat))).await?;
        self.position = self.position.max(reached.unwrap_or(self.position));
        Ok(())
    }

    /// Sends one record, however long the client takes, unless the ring leaves it behind.
    async fn send(&mut self, record: Bytes) -> Result<(), End> {
        let sender = self.sender.clone();
        tokio::select! {
            biased;
            sent = sender.send(record) => sent.map_err(|_| End::Left),
            end = self.ended() => Err(end),
        }
    }

    /// Does something else, with heartbeats meanwhile.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(work);
        let sender = self.sender.clone();
        loop {
            let beats = tokio::select! {
                biased;
                () = sender.closed() => return Err(End::Left),
                done = &mut work => return Ok(done),
                _ = self.clock.tick() => true,
                end = self.signals.given() => return Err(end),
            };
            if beats {
                self.heartbeat().await?;
            }
        }
    }

    /// Resolves when this master ends the stream of a client that does not read, or any stream.
    async fn ended(&mut self) -> End {
        let was_covered = self.recent.covers(self.position);
        let mut look = tokio::time::interval_at(Instant::now() + LOOK_EVERY, LOOK_EVERY);
        loop {
            tokio::select! {
                end = self.signals.given() => return end,
                // While the past is told, the ring does not matter.
                _ = look.tick() => if self.waiting.is_much() || was_covered && !self.recent.covers(self.position) {
                    return slow();
                },
            }
        }
    }
}

impl Signals {
    /// Resolves when this master ends the stream, whoever reads it.
    async fn given(&mut self) -> End {
        tokio::select! {
            crowded = &mut self.crowded => match crowded {
                Ok(()) => End::Closed(Reason::Crowded, format!("More than {WATCHERS_MAX} watch this master")),
                Err(_) => End::Closed(Reason::Stopping, "This master stops".to_owned()),
            },
            Ok(()) = self.closings.changed() => {
                let (_, reason, why) = *self.closings.borrow();
                End::Closed(reason, why.to_owned())
            }
            else => std::future::pending().await,
        }
    }
}

fn slow() -> End {
    End::Closed(Reason::Slow, "The client does not read as fast as things happen".to_owned())
}

/// The first event: with the whole state, or for whoever goes on after a position, without any.
fn subscribed(state: Option<&State>, position: Position, media: Media, sight: Option<&Sight>) -> Bytes {
    let seconds = HEARTBEAT.as_secs_f64();
    let bytes = match (media, state) {
        (Media::Json, Some(state)) => get::subscribed_json(state, seconds, position.index, sight).into(),
        (media, state) => {
            let mut event = Event { log_position: Some(position.to_wire()), ..Event::default() };
            event.set_type(event::Type::Subscribed);
            event.subscribed = Some(event::Subscribed {
                get_state: state.map(|state| get::get_state(&Groups::new(state), sight)),
                heartbeat_interval_seconds: Some(seconds),
            });
            media.encode(&event)
        }
    };
    recordio::encode(&bytes)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::recent::Announced;
    use crate::http::scripted::Cluster;
    use master_core::Effect;
    use std::sync::Arc;

    /// What a scripted cluster announced, one record each, at `index` and after.
    pub(crate) fn announced(cluster: &Cluster, index: u64) -> Vec<Announced> {
        let announcements = cluster.effects.iter().filter_map(|(state, effect)| match effect {
            Effect::Announce(announcement) => Some((state.clone(), announcement.clone())),
            _ => None,
        });
        let announced = announcements.zip(index..).map(|((state, announcement), index)| Announced {
            index,
            state: Arc::new(state),
            announcements: vec![announcement],
            gap: None,
        });
        announced.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let watch = Watch::new(Arc::new(Recent::new()));
        let mut all: Vec<_> = (0..=WATCHERS_MAX).map(|_| watch.register()).collect();
        assert_eq!(watch.watchers(), WATCHERS_MAX);
        assert!(all[0].try_recv().is_ok() && all[1].try_recv().is_err());
        all.truncate(10);
        assert_eq!(watch.watchers(), 9, "who left does not count");
    }

    #[test]
    fn what_waits_for_all_who_watch_is_counted_until_it_is_on_its_way() {
        let waiting = Arc::new(Waiting::default());
        let record = Bytes::from(vec![b'x'; WATCHERS_BYTES_MAX / 2]);
        let queued = [waiting.count(record.clone()), waiting.count(record.clone())];
        assert!(!waiting.is_much());
        let more = waiting.count(Bytes::from_static(b"x"));
        assert!(waiting.is_much());
        drop((queued, more));
        assert_eq!(waiting.0.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn those_who_begin_to_watch_share_the_state() {
        let recent = Arc::new(Recent::new());
        let (watch, renderings) = (Watch::new(recent), Renderings::default());
        let state = Arc::new(State::default());
        let mut read = Vec::new();
        for index in [7, 7, 6] {
            let (position, first) = watch.first(&renderings, state.clone(), index, Media::Json, None).await.unwrap();
            assert_eq!(position, Position::end_of(7));
            read.push(first);
        }
        assert_eq!(renderings.held(), read[0].len(), "there is one of it");
    }

    #[test]
    fn a_stream_that_goes_on_begins_without_the_state() {
        let state = State::default();
        for (media, whole) in
            [Media::Json, Media::Protobuf].into_iter().flat_map(|media| [(media, true), (media, false)])
        {
            let record = subscribed(whole.then_some(&state), Position::at(7, 2), media, None);
            let payload = record.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let event: Event = media.decode(record.slice(payload..)).unwrap();
            assert_eq!(event.subscribed.as_ref().unwrap().get_state.is_some(), whole);
            assert_eq!(event.log_position.unwrap().index, 7);
        }
    }
}
