//! Frameworks' event streams held by this master.
//!
//! ```text
//! expected (SUBSCRIBE submitted) ──committed: OpenStream──► open ──CloseStream, or the client left──► over
//! ```
//!
//! What must reach a framework is in State until it was acknowledged; a stream only remembers what it sent last, so
//! that it sends again when nothing comes back.

use crate::events;
use crate::identity::Identity;
use crate::records::{Gone, RecordSender};
use api::Media;
use api::v1::scheduler::Event;
use bytes::Bytes;
use master_core::effect::Effect;
use master_core::ids::{ConnectionId, FrameworkKey, TaskId};
use master_core::{State, view};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// The first pause before an update is sent again; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Frameworks' streams on this master.
pub struct Streams {
    identity: Arc<Identity>,
    inner: Mutex<Inner>,
    lost: mpsc::UnboundedSender<LostStream>,
}

/// A stream that ended from below: the leader must hear that the framework is disconnected.
#[derive(Clone, Debug)]
pub(crate) struct LostStream {
    pub(crate) framework_id: String,
    pub(crate) connection: master_core::ids::Connection,
}

#[derive(Default)]
struct Inner {
    expected: HashMap<ConnectionId, Stream>,
    open: HashMap<FrameworkKey, Stream>,
    by_connection: HashMap<ConnectionId, FrameworkKey>,
    /// When which update is due again.
    retries: BTreeSet<(Instant, FrameworkKey, TaskId)>,
}

/// One stream.
pub(crate) struct Stream {
    connection: master_core::ids::Connection,
    media: Media,
    records: RecordSender,
    sent: HashMap<TaskId, Sent>,
    framework_id: String,
    /// Dropped with the stream: whoever watches the client stops.
    _end: oneshot::Sender<()>,
}

/// The update of a task that was sent last.
struct Sent {
    uuid: Bytes,
    due: Instant,
    pause: Duration,
}

impl Stream {
    fn send(&self, event: &Event) -> Result<(), Gone> {
        self.records.send(self.media.encode_record(event))
    }
}

impl Streams {
    pub(crate) fn new(identity: Arc<Identity>, lost: mpsc::UnboundedSender<LostStream>) -> Streams {
        Streams { identity, inner: Mutex::default(), lost }
    }

    /// A stream whose SUBSCRIBE is about to be submitted; the receiver resolves when the stream is over.
    pub(crate) fn expect(
        &self,
        connection: master_core::ids::Connection,
        media: Media,
        records: RecordSender,
    ) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        let stream =
            Stream { connection, media, records, sent: HashMap::new(), framework_id: String::new(), _end: end };
        self.inner.lock().expected.insert(connection.id, stream);
        ended
    }

    /// The client of this stream is gone, or its SUBSCRIBE came to nothing.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut inner = self.inner.lock();
        inner.expected.remove(&connection);
        if let Some(framework) = inner.by_connection.get(&connection).copied() {
            self.lose(&mut inner, framework);
        }
    }

    /// One record on a stream, from its own clock.
    pub(crate) fn heartbeat(&self, connection: ConnectionId) {
        let mut inner = self.inner.lock();
        if let Some(framework) = inner.by_connection.get(&connection).copied() {
            self.send(&mut inner, framework, &events::heartbeat());
        }
    }

    /// An event for this stream from the leader; dropped if the stream is over.
    pub(crate) fn deliver(&self, connection: ConnectionId, event: &Event) {
        let mut inner = self.inner.lock();
        if let Some(framework) = inner.by_connection.get(&connection).copied() {
            self.send(&mut inner, framework, event);
        }
    }

    /// How many streams are open here.
    pub fn count(&self) -> usize {
        self.inner.lock().open.len()
    }

    /// Ends every stream held here.
    pub(crate) fn close_all(&self, why: &'static str) {
        let mut inner = self.inner.lock();
        let frameworks: Vec<FrameworkKey> = inner.open.keys().copied().collect();
        if !frameworks.is_empty() {
            tracing::warn!(why, streams = frameworks.len(), "closing the event streams held here");
        }
        frameworks.into_iter().for_each(|framework| self.lose(&mut inner, framework));
        inner.expected.clear();
    }

    /// Carries out what concerns a stream held here; the rest is another master's business.
    pub(crate) fn carry_out(&self, state: &State, effect: &Effect) {
        let mut inner = self.inner.lock();
        match effect {
            Effect::OpenStream { framework, connection } if connection.at == self.identity.incarnation() => {
                self.open(&mut inner, state, *framework, *connection);
            }
            Effect::CloseStream { framework, connection, error } => {
                let held = inner.open.get(framework).is_some_and(|stream| stream.connection.id == *connection);
                if held {
                    if let (Some(error), Some(stream)) = (error, inner.open.get(framework)) {
                        // The client may be gone already; the stream is over either way.
                        let _ = stream.send(&events::error(error));
                    }
                    inner.remove(*framework);
                }
            }
            Effect::UpdateWaiting { framework, task_id } => {
                if inner.open.contains_key(framework) {
                    self.send_update(&mut inner, state, *framework, task_id, RETRY_FIRST);
                }
            }
            effect => {
                let concerned = framework_of(effect).is_some_and(|framework| inner.open.contains_key(&framework));
                if concerned && let Some((framework, event)) = events::of(state, effect) {
                    self.send(&mut inner, framework, &event);
                }
            }
        }
    }

    /// Sends again what was not acknowledged in time.
    pub(crate) fn resend(&self, state: &State) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        while inner.retries.first().is_some_and(|(due, ..)| *due <= now) {
            let Some((due, framework, task_id)) = inner.retries.pop_first() else { return };
            let Some(stream) = inner.open.get_mut(&framework) else { continue };
            let Some(sent) = stream.sent.get(&task_id) else { continue };
            if sent.due != due {
                continue;
            }
            let (uuid, pause) = (sent.uuid.clone(), (sent.pause * 2).min(RETRY_MAX));
            stream.sent.remove(&task_id);
            if head_uuid(state, framework, &task_id).is_some_and(|head| head == uuid) {
                self.send_update(&mut inner, state, framework, &task_id, pause);
            }
        }
    }

    fn open(
        &self,
        inner: &mut Inner,
        state: &State,
        framework: FrameworkKey,
        connection: master_core::ids::Connection,
    ) {
        let framework_id = view::framework_id(state, framework);
        let Some(mut stream) = inner.expected.remove(&connection.id) else {
            // Its client did not wait for the commit.
            let _ = self.lost.send(LostStream { framework_id, connection });
            return;
        };
        inner.remove(framework);
        stream.framework_id = framework_id;
        inner.by_connection.insert(connection.id, framework);
        inner.open.insert(framework, stream);
        self.send(inner, framework, &events::subscribed(state, framework, self.identity.node()));
        self.send(inner, framework, &events::heartbeat());
        let from: (FrameworkKey, TaskId) = (framework, "".into());
        let waiting: Vec<TaskId> = state
            .tasks
            .live
            .range(from..)
            .take_while(|((owner, _), _)| *owner == framework)
            .filter(|(_, task)| !task.updates.is_empty())
            .map(|((_, task_id), _)| task_id.clone())
            .collect();
        for task_id in waiting {
            self.send_update(inner, state, framework, &task_id, RETRY_FIRST);
        }
    }

    fn send_update(
        &self,
        inner: &mut Inner,
        state: &State,
        framework: FrameworkKey,
        task_id: &TaskId,
        pause: Duration,
    ) {
        let Some(uuid) = head_uuid(state, framework, task_id) else { return };
        let Some(stream) = inner.open.get_mut(&framework) else { return };
        if stream.sent.get(task_id).is_some_and(|sent| sent.uuid == uuid) {
            return;
        }
        let Some(status) = view::status_of_update(state, framework, task_id) else { return };
        let due = Instant::now() + pause;
        stream.sent.insert(task_id.clone(), Sent { uuid, due, pause });
        inner.retries.insert((due, framework, task_id.clone()));
        self.send(inner, framework, &events::update(status));
    }

    fn send(&self, inner: &mut Inner, framework: FrameworkKey, event: &Event) {
        let failed = inner.open.get(&framework).is_some_and(|stream| stream.send(event).is_err());
        if failed {
            self.lose(inner, framework);
        }
    }

    /// The stream is over without the log knowing it yet.
    fn lose(&self, inner: &mut Inner, framework: FrameworkKey) {
        if let Some(stream) = inner.remove(framework) {
            let Stream { framework_id, connection, .. } = stream;
            let _ = self.lost.send(LostStream { framework_id, connection });
        }
    }
}

impl Inner {
    fn remove(&mut self, framework: FrameworkKey) -> Option<Stream> {
        let stream = self.open.remove(&framework)?;
        self.by_connection.remove(&stream.connection.id);
        Some(stream)
    }
}

/// The uuid of the update at the head of a task's queue.
fn head_uuid(state: &State, framework: FrameworkKey, task_id: &TaskId) -> Option<Bytes> {
    let task = state.tasks.live.get(&(framework, task_id.clone()))?;
    task.updates.front().map(|update| update.uuid.clone())
}

fn framework_of(effect: &Effect) -> Option<FrameworkKey> {
    match effect {
        Effect::SendOffers { framework, .. }
        | Effect::SendRescind { framework, .. }
        | Effect::SendStatus { framework, .. }
        | Effect::SendFailure { framework, .. }
        | Effect::SendMessage { framework, .. } => Some(*framework),
        _ => None,
    }
}
