//! Frameworks' event streams held by this master.
//!
//! ```text
//! expected (SUBSCRIBE submitted) ──committed: OpenStream──► open ──CloseStream, or the client left──► over
//! ```
//!
//! What must reach a framework is in State until it was acknowledged; a stream only remembers what it sent last, so
//! that it sends again when nothing comes back.

use crate::events;
use crate::http::metrics::Counters;
use crate::identity::Identity;
use crate::records::{Gone, RecordSender};
use api::Media;
use api::v1::scheduler::Event;
use bytes::Bytes;
use event_log::{Bug, planted};
use master_core::effect::Effect;
use master_core::ids::{ConnectionId, FrameworkKey, OperationKey, TaskId};
use master_core::{State, view};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The first pause before an update is sent again; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(10);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// Frameworks' streams on this master.
pub struct Streams {
    counters: Arc<Counters>,
    identity: Arc<Identity>,
    inner: Mutex<Inner>,
    lost: mpsc::UnboundedSender<LostStream>,
}

/// A stream that ended from below: the leader must hear that the framework is disconnected.
#[derive(Clone, Debug)]
pub(crate) struct LostStream {
    pub(crate) framework_id: String,
    pub(crate) connection: master_core::ids::Connection,
    /// The client did not leave: we let it go.
    pub(crate) by_master: bool,
}

#[derive(Default)]
struct Inner {
    expected: BTreeMap<ConnectionId, Stream>,
    open: BTreeMap<FrameworkKey, Stream>,
    by_connection: BTreeMap<ConnectionId, FrameworkKey>,
    /// When which update is due again.
    retries: BTreeSet<(Instant, FrameworkKey, Item)>,
}

/// One stream.
pub(crate) struct Stream {
    connection: master_core::ids::Connection,
    media: Media,
    records: RecordSender,
    sent: BTreeMap<Item, Sent>,
    framework_id: String,
    /// Dropped with the stream: whoever watches the client stops.
    _end: oneshot::Sender<()>,
}

/// What has updates that must be acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Task(TaskId),
    Operation(OperationKey),
}

/// The update that was sent last.
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
    pub(crate) fn new(
        identity: Arc<Identity>,
        counters: Arc<Counters>,
        lost: mpsc::UnboundedSender<LostStream>,
    ) -> Streams {
        Streams { identity, counters, inner: Mutex::default(), lost }
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
            Stream { connection, media, records, sent: BTreeMap::new(), framework_id: String::new(), _end: end };
        self.inner.lock().expected.insert(connection.id, stream);
        ended
    }

    /// The client of this stream is gone, or its SUBSCRIBE came to nothing.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut inner = self.inner.lock();
        inner.expected.remove(&connection);
        if let Some(framework) = inner.by_connection.get(&connection).copied() {
            self.lose(&mut inner, framework, false);
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

    /// An event for this framework, if its stream is held here.
    pub(crate) fn tell(&self, framework: FrameworkKey, event: &Event) {
        let mut inner = self.inner.lock();
        if inner.open.contains_key(&framework) {
            self.send(&mut inner, framework, event);
        }
    }

    /// How many streams are open here.
    pub fn count(&self) -> usize {
        self.inner.lock().open.len()
    }

    /// Ends every stream held here. A stream of this master in `state` that is not here was never opened: the record
    /// that would have opened it was not seen.
    pub(crate) fn close_all(&self, state: Option<&State>, why: &'static str) {
        let mut inner = self.inner.lock();
        let frameworks: Vec<FrameworkKey> = inner.open.keys().copied().collect();
        if !frameworks.is_empty() {
            tracing::warn!(why, streams = frameworks.len(), "closing the event streams held here");
        }
        let me = self.identity.incarnation();
        let unopened = state.into_iter().flat_map(|state| state.frameworks.live.values()).filter_map(|framework| {
            let connection = framework.stream.as_ref().map(|stream| stream.connection)?;
            let is_missing = connection.at == me && !inner.by_connection.contains_key(&connection.id);
            is_missing.then(|| LostStream { framework_id: framework.id.to_string(), connection, by_master: true })
        });
        for lost in unopened {
            let _ = self.lost.send(lost);
        }
        frameworks.into_iter().for_each(|framework| self.lose(&mut inner, framework, true));
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
                    self.send_update(&mut inner, state, *framework, &Item::Task(task_id.clone()), RETRY_FIRST);
                }
            }
            Effect::OperationWaiting { framework, operation } => {
                if inner.open.contains_key(framework) {
                    self.send_update(&mut inner, state, *framework, &Item::Operation(*operation), RETRY_FIRST);
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
            let Some((due, framework, item)) = inner.retries.pop_first() else { return };
            let Some(stream) = inner.open.get_mut(&framework) else { continue };
            let Some(sent) = stream.sent.get(&item) else { continue };
            let is_told_once = match &item {
                Item::Task(_) => planted(Bug::UpdatesNotSentAgain),
                Item::Operation(_) => planted(Bug::OperationsNotSentAgain),
            };
            if sent.due != due || is_told_once {
                continue;
            }
            let (uuid, pause) = (sent.uuid.clone(), (sent.pause * 2).min(RETRY_MAX));
            stream.sent.remove(&item);
            if head_uuid(state, framework, &item).is_some_and(|head| head == uuid) {
                self.send_update(&mut inner, state, framework, &item, pause);
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
            // Its client did not wait for the commit, or waited until we told it that the outcome is unknown. Who came
            // back has tasks to lose by that; a new one does not know its id yet.
            let by_master = state.frameworks.get(framework).is_some_and(|known| known.reregistered_ms.is_some());
            let _ = self.lost.send(LostStream { framework_id, connection, by_master });
            return;
        };
        inner.remove(framework);
        stream.framework_id = framework_id;
        inner.by_connection.insert(connection.id, framework);
        inner.open.insert(framework, stream);
        self.send(inner, framework, &events::subscribed(state, framework, &self.identity));
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
        for task_id in waiting.into_iter().filter(|_| !planted(Bug::UpdatesForgottenOnResubscribe)) {
            self.send_update(inner, state, framework, &Item::Task(task_id), RETRY_FIRST);
        }
        let told = state.operations.of(framework).filter(|operation| operation.update.is_some());
        for operation in told {
            self.send_update(inner, state, framework, &Item::Operation(operation.key), RETRY_FIRST);
        }
    }

    fn send_update(&self, inner: &mut Inner, state: &State, framework: FrameworkKey, item: &Item, pause: Duration) {
        let Some(uuid) = head_uuid(state, framework, item) else { return };
        let Some(stream) = inner.open.get_mut(&framework) else { return };
        if stream.sent.get(item).is_some_and(|sent| sent.uuid == uuid) {
            return;
        }
        let event = match item {
            Item::Task(task_id) => view::status_of_update(state, framework, task_id).map(events::update),
            Item::Operation(key) => {
                let operation = state.operations.get(*key);
                operation.map(|operation| events::operation_update(view::operation_status(state, operation)))
            }
        };
        let Some(event) = event else { return };
        let due = Instant::now() + pause;
        stream.sent.insert(item.clone(), Sent { uuid, due, pause });
        inner.retries.insert((due, framework, item.clone()));
        self.send(inner, framework, &event);
    }

    fn send(&self, inner: &mut Inner, framework: FrameworkKey, event: &Event) {
        self.counters.count_told(framework, event);
        let failed = inner.open.get(&framework).is_some_and(|stream| stream.send(event).is_err());
        if failed {
            self.lose(inner, framework, false);
        }
    }

    /// The stream is over without the log knowing it yet.
    fn lose(&self, inner: &mut Inner, framework: FrameworkKey, by_master: bool) {
        if let Some(stream) = inner.remove(framework) {
            let Stream { framework_id, connection, .. } = stream;
            let _ = self.lost.send(LostStream { framework_id, connection, by_master });
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

/// The uuid of the update that waits: of a task, that at the head of its queue.
fn head_uuid(state: &State, framework: FrameworkKey, item: &Item) -> Option<Bytes> {
    let task_id = match item {
        Item::Task(task_id) => task_id,
        Item::Operation(key) => {
            let operation = state.operations.get(*key).filter(|operation| operation.framework == Some(framework));
            return operation?.update.as_ref().map(|update| update.uuid.clone());
        }
    };
    let task = state.tasks.live.get(&(framework, task_id.clone()))?;
    let next = if planted(Bug::NewestUpdateFirst) { task.updates.back() } else { task.updates.front() };
    next.map(|update| update.uuid.clone())
}

fn framework_of(effect: &Effect) -> Option<FrameworkKey> {
    match effect {
        Effect::SendOffers { framework, .. }
        | Effect::SendRescind { framework, .. }
        | Effect::SendInverseOffers { framework, .. }
        | Effect::SendRescindInverse { framework, .. }
        | Effect::SendStatus { framework, .. }
        | Effect::SendOperationStatus { framework, .. }
        | Effect::SendFailure { framework, .. }
        | Effect::SendMessage { framework, .. } => Some(*framework),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scripted::Cluster;
    use crate::records;
    use api::v1;
    use http_body_util::BodyExt;
    use master_core::command::Command;
    use master_core::ids::{Connection, NodeId};

    struct Here {
        cluster: Cluster,
        streams: Streams,
        lost: mpsc::UnboundedReceiver<LostStream>,
    }

    impl Here {
        fn new() -> Here {
            let mut cluster = Cluster::new();
            let identity = Arc::new(Identity::new(NodeId(1)));
            cluster.me = identity.incarnation();
            let address = "127.0.0.1:5050".to_owned();
            let (master, version, reads) = (cluster.me, "0.1.0".into(), master_core::FeatureLevel::NEWEST);
            cluster.run(Command::StartMaster { master, address, version, reads });
            let (lost, losses) = mpsc::unbounded_channel();
            Here { cluster, streams: Streams::new(identity, Arc::default(), lost), lost: losses }
        }

        fn expected(&mut self) -> (Connection, records::RecordBody) {
            let (_, connection) = self.cluster.framework("f", &["web"]);
            let (sender, body) = records::channel();
            self.streams.expect(connection, Media::Protobuf, sender);
            (connection, body)
        }

        fn deliver(&mut self) {
            self.cluster.effects.drain(..).for_each(|(state, effect)| self.streams.carry_out(&state, &effect));
        }
    }

    #[test]
    fn whose_fault_the_end_of_a_stream_is() {
        let mut here = Here::new();
        let (left, _body) = here.expected();
        let (kept, _other_body) = here.expected();
        here.deliver();
        here.streams.forget(left.id);
        let lost = here.lost.try_recv().unwrap();
        assert_eq!((lost.connection, lost.by_master), (left, false), "the client left");
        here.streams.close_all(None, "a test");
        let lost = here.lost.try_recv().unwrap();
        assert_eq!((lost.connection, lost.by_master), (kept, true), "we let it go");
        assert!(here.lost.try_recv().is_err());
    }

    #[test]
    fn a_stream_whose_beginning_was_missed_is_given_up() {
        let mut here = Here::new();
        let (connection, _body) = here.expected();
        // A snapshot took the place of the record that opens it.
        here.streams.close_all(Some(&here.cluster.state), "a test");
        let lost = here.lost.try_recv().unwrap();
        assert_eq!((lost.connection, lost.by_master), (connection, true));
    }

    #[tokio::test]
    async fn the_status_of_an_operation_is_an_event() {
        let mut here = Here::new();
        let (_, mut body) = here.expected();
        here.deliver();
        let framework = *here.cluster.state.frameworks.live.keys().next().unwrap();
        let status = v1::OperationStatus { message: Some("no".into()), ..Default::default() };
        let effect = Effect::SendOperationStatus { framework, status: Box::new(status.clone()) };
        here.streams.carry_out(&here.cluster.state, &effect);
        let mut told = Vec::new();
        for _ in 0..3 {
            let record = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let payload = record.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            told.push(api::decode_protobuf::<Event>(record.slice(payload..)).unwrap());
        }
        assert_eq!(told[2].update_operation_status.as_ref().unwrap().status, status);
    }
}
