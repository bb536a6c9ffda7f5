//! Effects on their way from the fold to the connections held here. One thread makes the messages, in commit order,
//! so that neither folding nor answering waits for them.

use crate::agents::Agents;
use crate::http::watch::recent::{Announced, Announcer};
use crate::identity::Identity;
use crate::remote::Remote;
use crate::streams::Streams;
use crate::vital;
use api::v1::master::event::closing::Reason;
use event_log::host;
use master_core::State;
use master_core::effect::Effect;
use master_core::ids::Connection;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// Records whose effects wait to be carried out. When so many wait, folding waits too.
const WORK_MAX: usize = 1024;

/// The sending end; cheap to clone.
#[derive(Clone)]
pub(crate) struct Delivery {
    work: Queue,
}

#[derive(Clone)]
enum Queue {
    Thread(SyncSender<Work>),
    /// On a simulated host, which has no threads.
    Task(mpsc::UnboundedSender<Work>),
}

/// A simulated thread is late by up to so many microseconds.
const LATE_US_MAX: u64 = 2_000;

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
    /// Wakes the allocator.
    pub(crate) allocate: Arc<Notify>,
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
        let (work, jobs) = sync_channel(WORK_MAX);
        vital::thread("delivery", move || carriers.run(&jobs))?;
        Ok(Delivery { work: Queue::Thread(work) })
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
        // The thread ends with the process: then nobody is left to be told anything.
        match &self.work {
            Queue::Thread(queue) => drop(queue.send(work)),
            Queue::Task(queue) => drop(queue.send(work)),
        }
    }
}

impl Carriers {
    fn run(&self, jobs: &Receiver<Work>) {
        while let Ok(work) = jobs.recv() {
            self.work(work);
        }
    }

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
            | Effect::SendToExecutor { .. } => self.agents.carry_out(state, &effect),
            // Announced by committed records alone, in their order.
            Effect::Announce(_) => {}
            Effect::Allocate => self.allocate.notify_one(),
            _ => self.streams.carry_out(state, &effect),
        }
    }

    fn once(&self, state: &Arc<State>, effect: Effect) {
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
