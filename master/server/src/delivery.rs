//! Effects on their way from the fold to the connections held here. One thread makes the messages, in commit order,
//! so that neither folding nor answering waits for them: whoever hands effects over never waits. While many wait, the
//! leader decides nothing more; a master on which far too many wait lets its clients go instead.

use crate::agents::Agents;
use crate::http::watch::recent::{Announced, Announcer};
use crate::identity::Identity;
use crate::remote::Remote;
use crate::streams::Streams;
use crate::vital;
use api::limits::EFFECTS_RECORDS_MAX;
use api::v1::master::event::closing::Reason;
use event_log::host;
use master_core::State;
use master_core::effect::Effect;
use master_core::ids::Connection;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// While effects of so many records wait to be carried out, this master decides nothing more.
const WORK_MUCH: usize = 1024;
const _: () = assert!(WORK_MUCH < EFFECTS_RECORDS_MAX);

/// The sending end; cheap to clone.
#[derive(Clone)]
pub(crate) struct Delivery {
    work: Queue,
}

#[derive(Clone)]
enum Queue {
    Thread(Arc<Senders>),
    /// On a simulated host, which has no threads.
    Task(mpsc::UnboundedSender<Work>),
}

/// A simulated thread is late by up to so many microseconds.
const LATE_US_MAX: u64 = 2_000;

/// All that hand work over; without any of them the thread ends, and lets go of what it holds.
struct Senders(Arc<Backlog>);

impl Drop for Senders {
    fn drop(&mut self) {
        self.0.inner.lock().is_over = true;
        self.0.work.notify_all();
    }
}

/// Work that waits for the thread.
#[derive(Default)]
struct Backlog {
    inner: Mutex<Waiting>,
    work: Condvar,
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    /// What was announced up to this index was left out, and nobody was told that yet.
    left_out: Option<u64>,
    /// Nobody is left to hand more over.
    is_over: bool,
}

impl Backlog {
    fn push(&self, mut work: Work) {
        let mut waiting = self.inner.lock();
        if waiting.work.len() >= EFFECTS_RECORDS_MAX {
            match &work {
                Work::Everywhere { index, state, .. } => {
                    tracing::warn!(index, "more happens than clients can be told: they are let go");
                    waiting.left_out = Some(*index);
                    let (state, reason) = (Some(state.clone()), Reason::CutOff);
                    work = Work::CloseAll { state, reason, why: "more happened than clients could be told" };
                    waiting.work.clear();
                }
                // These may be lost.
                Work::Once { .. } => return,
                // Its own end makes all that waits needless.
                Work::CloseAll { .. } => {}
            }
        } else if let Work::Everywhere { undelivered, .. } = &mut work {
            *undelivered = (*undelivered).max(waiting.left_out.take());
        }
        waiting.work.push_back(work);
        self.work.notify_one();
    }

    /// None when all is done and nothing more can come.
    fn pop(&self) -> Option<Work> {
        let mut waiting = self.inner.lock();
        loop {
            if let Some(work) = waiting.work.pop_front() {
                if waiting.work.len() < WORK_MUCH {
                    self.room.notify_waiters();
                }
                return Some(work);
            }
            if waiting.is_over {
                return None;
            }
            self.work.wait(&mut waiting);
        }
    }

    fn has_room(&self) -> bool {
        self.inner.lock().work.len() < WORK_MUCH
    }
}

enum Work {
    /// Effects that every master computes: carried out if the connection is here.
    Everywhere { index: u64, state: Arc<State>, effects: Vec<Effect>, undelivered: Option<u64> },
    /// Effects that only the leader has: sent to the master that holds the connection.
    Once { state: Arc<State>, effects: Vec<Effect> },
    /// Everything held here is over, and so is what `state` says that is held here.
    CloseAll { state: Option<Arc<State>>, reason: Reason, why: &'static str },
}

/// Who carries effects out.
pub(crate) struct Carriers {
    pub(crate) identity: Arc<Identity>,
    pub(crate) streams: Arc<Streams>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) remote: Arc<Remote>,
    pub(crate) announcer: Announcer,
}

impl Delivery {
    /// Starts the thread.
    pub(crate) fn start(carriers: Carriers) -> std::io::Result<Delivery> {
        if let Some(host) = host::here() {
            let (work, mut jobs) = mpsc::unbounded_channel();
            vital::spawn("delivery", async move {
                while let Some(work) = jobs.recv().await {
                    tokio::time::sleep(Duration::from_micros(host.random() % LATE_US_MAX)).await;
                    carriers.work(work);
                    while let Ok(work) = jobs.try_recv() {
                        carriers.work(work);
                    }
                }
            });
            return Ok(Delivery { work: Queue::Task(work) });
        }
        let backlog = Arc::new(Backlog::default());
        let jobs = backlog.clone();
        vital::thread("delivery", move || {
            while let Some(work) = jobs.pop() {
                carriers.work(work);
            }
        })?;
        Ok(Delivery { work: Queue::Thread(Arc::new(Senders(backlog))) })
    }

    /// One that carries nothing out; the other end waits for work and tells of which index it is, None at the end.
    #[cfg(test)]
    pub(crate) fn told() -> (Delivery, impl FnMut() -> Option<u64> + Send) {
        let (work, mut jobs) = mpsc::unbounded_channel();
        let next = move || match jobs.blocking_recv()? {
            Work::Everywhere { index, .. } => Some(index),
            Work::Once { .. } | Work::CloseAll { .. } => None,
        };
        (Delivery { work: Queue::Task(work) }, next)
    }

    /// Whether more should be decided now.
    pub(crate) fn has_room(&self) -> bool {
        match &self.work {
            Queue::Thread(senders) => senders.0.has_room(),
            Queue::Task(_) => true,
        }
    }

    /// Resolves when it has.
    pub(crate) async fn room(&self) {
        let Queue::Thread(senders) = &self.work else { return };
        let backlog = &senders.0;
        let mut freed = std::pin::pin!(backlog.room.notified());
        loop {
            freed.as_mut().enable();
            if backlog.has_room() {
                return;
            }
            freed.as_mut().await;
            freed.set(backlog.room.notified());
        }
    }

    /// Effects of the record at `index`, after which State was `state`. Those of records up to `undelivered` were left
    /// out, if there is such an index.
    pub(crate) fn committed(&self, index: u64, state: Arc<State>, effects: Vec<Effect>, undelivered: Option<u64>) {
        self.send(Work::Everywhere { index, state, effects, undelivered });
    }

    /// Effects of a decision that left no event behind; the state is the one that was decided on.
    pub(crate) fn ephemeral(&self, state: Arc<State>, effects: Vec<Effect>) {
        self.send(Work::Once { state, effects });
    }

    /// Ends every connection held here, so that clients move on.
    pub(crate) fn close_all(&self, reason: Reason, why: &'static str) {
        self.send(Work::CloseAll { state: None, reason, why });
    }

    /// The same after events were missed, at the end of which State is `state`.
    pub(crate) fn close_all_after(&self, state: Arc<State>, why: &'static str) {
        self.send(Work::CloseAll { state: Some(state), reason: Reason::CutOff, why });
    }

    fn send(&self, work: Work) {
        match &self.work {
            Queue::Thread(senders) => senders.0.push(work),
            Queue::Task(queue) => drop(queue.send(work)),
        }
    }
}

impl Carriers {
    fn work(&self, work: Work) {
        match work {
            Work::Everywhere { index, state, effects, undelivered } => {
                let mut announcements = Vec::new();
                for effect in effects {
                    match effect {
                        Effect::Announce(announcement) => announcements.push(announcement),
                        effect => self.carry_out(&state, effect),
                    }
                }
                self.announcer.tell(Announced { index, state, announcements, gap: undelivered });
            }
            Work::Once { state, effects } => effects.into_iter().for_each(|effect| self.once(&state, effect)),
            Work::CloseAll { state, reason, why } => {
                self.streams.close_all(state.as_deref(), why);
                self.agents.close_all(state.as_deref(), why);
                self.announcer.close_all(reason, why);
            }
        }
    }

    fn carry_out(&self, state: &State, effect: Effect) {
        match effect {
            Effect::OpenAgent { .. }
            | Effect::CloseAgent { .. }
            | Effect::OrdersWaiting { .. }
            | Effect::SendReceived { .. }
            | Effect::SendOperationOver { .. }
            | Effect::SendIdentity { .. }
            | Effect::SendToExecutor { .. } => self.agents.carry_out(state, &effect),
            // Announced by committed records alone, in their order.
            Effect::Announce(_) => {}
            _ => self.streams.carry_out(state, &effect),
        }
    }

    fn once(&self, state: &Arc<State>, effect: Effect) {
        if let Effect::SendAnswers { framework, at_ms, tasks } = effect {
            for status in master_core::answers(state, framework, at_ms, tasks.as_deref()) {
                self.once(state, Effect::SendStatus { framework, status: Box::new(status) });
            }
            return;
        }
        match holder(state, &effect) {
            Some(connection) if connection.at.node != self.identity.node() => {
                self.remote.send(state, connection, &effect);
            }
            _ => self.carry_out(state, effect),
        }
    }
}

/// The connection over which `effect` travels, if it is one of those that may be lost.
fn holder(state: &State, effect: &Effect) -> Option<Connection> {
    match effect {
        Effect::SendToExecutor { agent, .. } => match &state.agents.live.get(agent)?.liveness {
            master_core::state::AgentLiveness::Connected { connection } => Some(*connection),
            _ => None,
        },
        Effect::SendStatus { framework, .. }
        | Effect::SendOperationStatus { framework, .. }
        | Effect::SendMessage { framework, .. }
        | Effect::SendFailure { framework, .. } => {
            Some(state.frameworks.live.get(framework)?.stream.as_ref()?.connection)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64) -> Work {
        Work::Everywhere { index, state: Arc::default(), effects: Vec::new(), undelivered: None }
    }

    /// The threads that fold and decide hand over without end and are never held up.
    #[test]
    fn whoever_hands_over_never_waits_and_what_is_too_much_lets_clients_go() {
        let backlog = Backlog::default();
        for index in 0..=EFFECTS_RECORDS_MAX as u64 {
            backlog.push(record(index));
        }
        assert!(matches!(backlog.pop(), Some(Work::CloseAll { state: Some(_), reason: Reason::CutOff, .. })));
        backlog.push(record(99_999));
        let Some(Work::Everywhere { undelivered, .. }) = backlog.pop() else { panic!("what follows is told") };
        assert_eq!(undelivered, Some(EFFECTS_RECORDS_MAX as u64), "who watches hears that something is missing");
    }

    #[tokio::test]
    async fn while_much_waits_nothing_more_is_decided() {
        let backlog = Arc::new(Backlog::default());
        let delivery = Delivery { work: Queue::Thread(Arc::new(Senders(backlog.clone()))) };
        (0..WORK_MUCH as u64).for_each(|index| backlog.push(record(index)));
        assert!(!delivery.has_room());
        let waits = tokio::spawn(async move { delivery.room().await });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        backlog.pop();
        waits.await.unwrap();
    }

    #[test]
    fn the_thread_ends_when_nobody_is_left_and_all_is_done() {
        let backlog = Arc::new(Backlog::default());
        let delivery = Delivery { work: Queue::Thread(Arc::new(Senders(backlog.clone()))) };
        delivery.committed(1, Arc::default(), Vec::new(), None);
        drop(delivery);
        assert!(backlog.pop().is_some() && backlog.pop().is_none());
    }
}
