//! Operators who watch: SUBSCRIBED with everything there is, then each change as it is committed, and a heartbeat on
//! a fixed clock. One task turns announcements into events, once for each encoding however many watch. Whoever does
//! not read is dropped when its queue is full; nobody makes the master hold more.

use super::legacy;
use super::legacy::parts::Groups;
use super::metrics::Counters;
use super::operator::{get, messages};
use crate::context::{Announced, Reader};
use api::media::Media;
use api::v1::master::{Event, event};
use api::{recordio, v1};
use api_http::{Response, StatusCode, StreamSender};
use bytes::Bytes;
use event_log::host;
use master_core::effect::Announcement;
use master_core::state::State;
use master_core::view;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

/// Between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// More watchers than this push out the oldest.
const WATCHERS_MAX: usize = 1000;
/// Events that may wait for one watcher.
const QUEUE_EVENTS_MAX: usize = 4096;

/// The operators who watch this master.
#[derive(Debug, Default)]
pub struct Watch {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    watchers: VecDeque<Watcher>,
    /// The newest State that was announced, with its index.
    newest: Option<(Arc<State>, u64)>,
}

#[derive(Debug)]
struct Watcher {
    media: Media,
    /// What it was told at the beginning contains everything up to here.
    since: u64,
    queue: mpsc::Sender<Bytes>,
    /// Dropped with this: a stream that is stuck in a full socket ends too.
    _alive: oneshot::Sender<()>,
}

impl Watch {
    /// Begins to listen.
    pub fn start(reader: Reader, counters: Arc<Counters>) -> Arc<Watch> {
        let watch = Arc::new(Watch::default());
        let announcements = reader.announcements();
        host::spawn(run(watch.clone(), announcements, counters));
        watch
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.inner.lock().watchers.iter().filter(|watcher| !watcher.queue.is_closed()).count()
    }

    /// The answer to SUBSCRIBE.
    pub async fn subscribe(&self, reader: &Reader, media: Media) -> Response {
        if reader.linearizable().await.is_err() {
            return legacy::no_leader();
        }
        let (state, queue, gone) = self.register(reader.state(), media);
        let (sender, body) = api_http::stream(16);
        host::spawn(async move {
            tokio::select! {
                () = feed(sender, media, state, queue) => (),
                _ = gone => (),
            }
        });
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::OK;
        let content_type = api_http::HeaderValue::from_static(media.content_type());
        response.headers_mut().insert(api_http::header::CONTENT_TYPE, content_type);
        response
    }

    /// From which State a new watcher starts, and the queue of everything after it.
    fn register(
        &self,
        read: (Arc<State>, u64),
        media: Media,
    ) -> (Arc<State>, mpsc::Receiver<Bytes>, oneshot::Receiver<()>) {
        let (sender, queue) = mpsc::channel(QUEUE_EVENTS_MAX);
        let (alive, gone) = oneshot::channel();
        let mut inner = self.inner.lock();
        // What was announced before now will not be announced to this watcher: its State must contain it.
        let (state, since) = match &inner.newest {
            Some((state, index)) if *index > read.1 => (state.clone(), *index),
            _ => read,
        };
        inner.watchers.retain(|watcher| !watcher.queue.is_closed());
        while inner.watchers.len() >= WATCHERS_MAX {
            inner.watchers.pop_front();
        }
        inner.watchers.push_back(Watcher { media, since, queue: sender, _alive: alive });
        (state, queue, gone)
    }

    fn announce(&self, announced: &Announced) {
        let mut inner = self.inner.lock();
        inner.newest = Some((announced.state.clone(), announced.index));
        let mut records = [None, None];
        let mut event = None;
        inner.watchers.retain(|watcher| {
            if announced.index <= watcher.since {
                return true;
            }
            let record = records[watcher.media as usize].get_or_insert_with(|| {
                let event = event.get_or_insert_with(|| event_of(announced));
                event.as_ref().map(|event| watcher.media.encode_record(event))
            });
            match record {
                // A full queue is a watcher that does not read: without its queue, its stream ends.
                Some(record) => watcher.queue.try_send(record.clone()).is_ok(),
                None => true,
            }
        });
    }

    fn drop_all(&self) {
        self.inner.lock().watchers.clear();
    }
}

async fn run(watch: Arc<Watch>, mut announcements: broadcast::Receiver<Announced>, counters: Arc<Counters>) {
    loop {
        match announcements.recv().await {
            Ok(announced) => {
                counters.count_announcement(&announced.announcement);
                watch.announce(&announced);
            }
            // Watchers who would miss something must begin anew.
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "operators who watch are dropped: too much happened at once");
                watch.drop_all();
            }
            Err(RecvError::Closed) => return watch.drop_all(),
        }
    }
}

/// Sends one watcher what there is, then what happens, until it or we end.
async fn feed(sender: StreamSender, media: Media, state: Arc<State>, mut queue: mpsc::Receiver<Bytes>) {
    let snapshot = host::blocking(move || subscribed(&state, media)).await;
    let Ok(snapshot) = snapshot else { return };
    if sender.send(snapshot).await.is_err() {
        return;
    }
    let mut heartbeat = Event::default();
    heartbeat.set_type(event::Type::Heartbeat);
    let heartbeat = media.encode_record(&heartbeat);
    // The first tick is at once.
    let mut clock = tokio::time::interval(HEARTBEAT);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    clock.tick().await;
    let mut record = Some(heartbeat.clone());
    loop {
        if let Some(record) = record.take()
            && sender.send(record).await.is_err()
        {
            return;
        }
        tokio::select! {
            biased;
            () = sender.closed() => return,
            _ = clock.tick() => record = Some(heartbeat.clone()),
            next = queue.recv() => match next {
                Some(next) => record = Some(next),
                None => return,
            },
        }
    }
}

fn subscribed(state: &State, media: Media) -> Bytes {
    let bytes = match media {
        Media::Json => get::subscribed_json(state, HEARTBEAT.as_secs_f64()).into(),
        Media::Protobuf => {
            let mut event = Event::default();
            event.set_type(event::Type::Subscribed);
            event.subscribed = Some(event::Subscribed {
                get_state: Some(get::get_state(&Groups::new(state))),
                heartbeat_interval_seconds: Some(HEARTBEAT.as_secs_f64()),
            });
            media.encode(&event)
        }
    };
    recordio::encode(&bytes)
}

/// What is announced as an event; none if it is over already.
fn event_of(announced: &Announced) -> Option<Event> {
    let state = &*announced.state;
    let mut event = Event::default();
    let kind = match &announced.announcement {
        Announcement::TaskAdded { framework, task_id } => {
            let task = state.tasks.live.get(&(*framework, task_id.clone()))?;
            event.task_added = Some(event::TaskAdded { task: view::task(state, task) });
            event::Type::TaskAdded
        }
        Announcement::TaskUpdated { framework, state: task_state, status, .. } => {
            let framework_id = v1::FrameworkId { value: view::framework_id(state, *framework) };
            let status = v1::TaskStatus::clone(status);
            event.task_updated = Some(event::TaskUpdated { framework_id, status, state: *task_state as i32 });
            event::Type::TaskUpdated
        }
        Announcement::FrameworkAdded { framework } => {
            let framework = messages::framework_alone(state.frameworks.live.get(framework)?, Some(0));
            event.framework_added = Some(event::FrameworkAdded { framework });
            event::Type::FrameworkAdded
        }
        Announcement::FrameworkUpdated { framework } => {
            let framework = messages::framework_alone(state.frameworks.live.get(framework)?, Some(0));
            event.framework_updated = Some(event::FrameworkUpdated { framework });
            event::Type::FrameworkUpdated
        }
        Announcement::FrameworkRemoved { info } => {
            let framework_info = v1::FrameworkInfo::clone(info);
            event.framework_removed = Some(event::FrameworkRemoved { framework_info });
            event::Type::FrameworkRemoved
        }
        Announcement::AgentAdded { agent } => {
            let agent = messages::agent(state, state.agents.live.get(agent)?);
            event.agent_added = Some(event::AgentAdded { agent });
            event::Type::AgentAdded
        }
        Announcement::AgentRemoved { agent } => {
            let agent_id = v1::AgentId { value: view::agent_id(state, *agent) };
            event.agent_removed = Some(event::AgentRemoved { agent_id });
            event::Type::AgentRemoved
        }
    };
    event.set_type(kind);
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scripted::{self, Cluster};
    use master_core::Effect;

    fn announced(cluster: &Cluster, index: u64) -> Vec<Announced> {
        let announcements = cluster.effects.iter().filter_map(|(state, effect)| match effect {
            Effect::Announce(announcement) => {
                Some(Announced { index, state: Arc::new(state.clone()), announcement: announcement.clone() })
            }
            _ => None,
        });
        announcements.collect()
    }

    /// The events in a queue, by name.
    fn events(queue: &mut mpsc::Receiver<Bytes>) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok(record) = queue.try_recv() {
            let (length, payload) = record.split_at(record.iter().position(|byte| *byte == b'\n').unwrap() + 1);
            let length: usize = std::str::from_utf8(length).unwrap().trim().parse().unwrap();
            assert_eq!(length, payload.len(), "one record is one chunk");
            let event: Event = api::json::from_slice(payload).unwrap();
            names.push(event.r#type().as_str_name().to_owned());
        }
        names
    }

    #[test]
    fn nothing_is_missed_and_nothing_told_twice() {
        let watch = Watch::default();
        let empty = Arc::new(State::default());
        let mut cluster = Cluster::new();
        let (_, mut early, _gone) = watch.register((empty.clone(), 1), Media::Json);
        cluster.agent();
        for announced in announced(&cluster, 5) {
            watch.announce(&announced);
        }
        // This master's published State lags behind what was announced: the watcher starts from the later one.
        let (state, mut late, _gone_too) = watch.register((empty, 4), Media::Json);
        assert_eq!(state.agents.live.len(), 1);
        cluster.effects.clear();
        cluster.framework("f", &["web"]);
        for announced in announced(&cluster, 6) {
            watch.announce(&announced);
        }
        assert_eq!(events(&mut early), ["AGENT_ADDED", "FRAMEWORK_ADDED"]);
        assert_eq!(events(&mut late), ["FRAMEWORK_ADDED"]);
    }

    #[test]
    fn a_life_of_a_task_is_told_in_order() {
        let watch = Watch::default();
        let (_, mut queue, _gone) = watch.register((Arc::new(State::default()), 0), Media::Json);
        let cluster = scripted::busy();
        for announced in announced(&cluster, 9) {
            watch.announce(&announced);
        }
        let told = events(&mut queue);
        let at = |name: &str| told.iter().position(|told| told == name).unwrap_or_else(|| panic!("{name}: {told:?}"));
        assert!(at("AGENT_ADDED") < at("FRAMEWORK_ADDED"));
        assert!(at("FRAMEWORK_ADDED") < at("TASK_UPDATED"));
        assert!(told.iter().any(|name| name == "FRAMEWORK_REMOVED"));
    }

    #[test]
    fn who_does_not_read_is_dropped() {
        let watch = Watch::default();
        let (_, _queue, mut gone) = watch.register((Arc::new(State::default()), 0), Media::Protobuf);
        let mut cluster = Cluster::new();
        cluster.agent();
        let one = announced(&cluster, 1).remove(0);
        for _ in 0..QUEUE_EVENTS_MAX {
            watch.announce(&one);
        }
        assert_eq!((watch.watchers(), gone.try_recv()), (1, Err(oneshot::error::TryRecvError::Empty)));
        watch.announce(&one);
        assert_eq!((watch.watchers(), gone.try_recv()), (0, Err(oneshot::error::TryRecvError::Closed)));
    }

    #[test]
    fn the_oldest_makes_room() {
        let watch = Watch::default();
        let state = Arc::new(State::default());
        let all: Vec<_> = (0..=WATCHERS_MAX).map(|_| watch.register((state.clone(), 0), Media::Json)).collect();
        assert_eq!(watch.watchers(), WATCHERS_MAX);
        assert!(all[0].1.is_closed() && !all[1].1.is_closed());
    }
}
