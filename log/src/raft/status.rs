//! What a member knows of its quorum.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::watch;
use tokio::time::Instant;

use super::machine::Progress;
use super::network::time_of;
use super::node::{Options, QuorumRaft};
use super::pending::Pending;
use super::types::{Clid, LogId, Member, Tokio, Vote};
use crate::host;

/// What a member does in its quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It appends, and hears from a quorum.
    Leader,
    /// It follows a leader, or waits for one.
    Follower,
    /// It follows without a vote, or its quorum has not formed yet.
    #[default]
    Learner,
    /// It asks for votes.
    Candidate,
    /// It has stopped and takes part no more.
    Stopped,
}

/// What a member knows of its quorum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The newest term that it knows. When it leads: the term of its leadership.
    pub term: u64,
    /// What it does.
    pub role: Role,
    /// Who leads in `term`, if that is known.
    pub leader: Option<Member>,
    /// Index of the last entry in its log.
    pub last_log: u64,
    /// Index of the last entry that it knows to be committed.
    pub committed: u64,
    /// Index of the last entry that its machine was given.
    pub applied: u64,
    /// Everybody in the quorum, itself included. Empty before it formed.
    pub members: Vec<Member>,
    /// A leader: a quorum answered lately. Others: a leader was heard lately.
    pub leader_contact: bool,
    /// Why it stopped: a disk that failed or is full.
    pub failure: Option<String>,
}

pub(crate) struct Watcher {
    pub(crate) raft: QuorumRaft,
    pub(crate) me: u64,
    pub(crate) options: Options,
    pub(crate) pending: Arc<Pending>,
    /// Set while leadership is being handed over.
    pub(crate) handing_over: Arc<AtomicBool>,
    pub(crate) heard: Arc<Mutex<Option<Instant>>>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) stop: watch::Receiver<bool>,
}

impl Watcher {
    pub(crate) fn start(self) -> watch::Receiver<Status> {
        let (sender, receiver) = watch::channel(Status::default());
        host::spawn(self.run(sender));
        receiver
    }

    async fn run(mut self, status: watch::Sender<Status>) {
        let mut metrics = self.raft.metrics();
        let mut applied = self.progress.applied.subscribe();
        let mut ticks = tokio::time::interval(Duration::from_millis(self.options.heartbeat_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let stopped = tokio::select! {
                changed = metrics.changed() => changed.is_err(),
                changed = applied.changed() => changed.is_err(),
                _ = ticks.tick() => false,
                _ = self.stop.wait_for(|stop| *stop) => true,
            };
            let now = metrics.borrow_and_update().clone();
            let mut next = self.derive(&now);
            if stopped {
                next.role = Role::Stopped;
                next.leader_contact = false;
            }
            let before = status.borrow().clone();
            self.act(&before, &next, &now).await;
            if next.role == Role::Leader && self.pending.is_abandoned(next.term) {
                (next.role, next.leader) = (Role::Follower, None);
            }
            status.send_if_modified(|current| {
                let modified = *current != next;
                *current = next.clone();
                modified
            });
            if next.role == Role::Stopped {
                self.pending.close();
                return;
            }
        }
    }

    fn derive(&self, metrics: &RaftMetrics<Tokio>) -> Status {
        let term = metrics.current_term;
        let members = &metrics.membership_config;
        let member = |id: u64| members.get_node(&id).map(|address| Member { node_id: id, address: address.clone() });
        // Who takes a large record answers a little later: that is no reason to give up what is almost done.
        let under_way = self.progress.under_way_bytes.load(Ordering::Relaxed);
        let patience = Duration::from_millis(self.options.election_ms_max * 2) + time_of(under_way as usize);
        let alone = members.voter_ids().count() == 1;
        let acked = metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < patience);
        let leading = metrics.state == ServerState::Leader;
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let leader_contact = if leading {
            alone || acked
        } else {
            metrics.current_leader.is_some_and(|leader| leader != self.me)
                && heard.is_some_and(|at| at.elapsed() < patience)
        };
        let role = match metrics.state {
            // A leadership once given up is not taken up again: only a new term begins anew.
            ServerState::Leader if self.pending.is_abandoned(term) => Role::Follower,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let failure = match &metrics.running_state {
            Ok(()) | Err(openraft::errors::Fatal::Stopped) => None,
            Err(fatal) => Some(fatal.to_string()),
        };
        let leader = metrics.current_leader.filter(|leader| *leader != self.me || role == Role::Leader);
        Status {
            term,
            role: if failure.is_some() { Role::Stopped } else { role },
            leader: leader.and_then(member),
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            applied: *self.progress.applied.borrow(),
            members: members.nodes().map(|(id, node)| Member { node_id: *id, address: node.clone() }).collect(),
            leader_contact,
            failure,
        }
    }

    /// Ends this member's leadership of `term`. The library lets no leader ask for another election; but a leader yields
    /// to a candidate of a later term, and nobody stands behind this one. Its vote there is lost, nothing else: the
    /// quorum elects somebody, perhaps this member, after the usual time.
    async fn step_down(&self, term: u64) {
        const NOBODY: u64 = 0;
        let last_log_id = Some(LogId::new(Clid::new(term), u64::MAX));
        let vote = Vote::new(term + 1, NOBODY);
        let request = openraft::raft::VoteRequest { vote, last_log_id, leadership_transfer: true };
        if let Err(error) = self.raft.vote(request).await {
            tracing::debug!(%error, "stopped meanwhile");
        }
    }

    /// Draws the consequences of what changed.
    async fn act(&self, before: &Status, next: &Status, metrics: &RaftMetrics<Tokio>) {
        let leads = metrics.state == ServerState::Leader;
        if before.role == Role::Leader && !(leads && next.term == before.term) {
            tracing::info!(term = before.term, "lost leadership");
            self.pending.abandon(before.term);
        }
        // A leader hears nothing at first: it counts as cut off only after it was not.
        if next.role == Role::Leader && before.role == Role::Leader && before.leader_contact && !next.leader_contact {
            tracing::warn!(term = next.term, "no quorum answers: leadership given up");
            self.pending.abandon(next.term);
        }
        // Whoever still hears it would believe in a leader that can do nothing, and keep its clients. If they have all that it has
        // they elect another; what they lack is sent to them as before, and their answer ends this leadership below.
        let is_mute = leads && self.pending.is_abandoned(next.term) && !next.leader_contact;
        self.raft.runtime_config().heartbeat(!is_mute);
        // While leadership is being handed over it ends by itself; asking for a later term would take it from the heir.
        let handing_over = self.handing_over.load(Ordering::Acquire);
        if leads && next.role == Role::Follower && next.leader_contact && !handing_over {
            tracing::info!(term = next.term, "a quorum answers: leaving a leadership that was given up");
            self.step_down(next.term).await;
        }
        if let (None, Some(failure)) = (&before.failure, &next.failure) {
            tracing::error!(failure, "the log has stopped");
        }
        let bytes = &self.progress.since_snapshot_bytes;
        if bytes.load(Ordering::Relaxed) >= self.options.snapshot_bytes {
            // The builder sets it back as well; this keeps one from being asked for twice.
            bytes.store(0, Ordering::Relaxed);
            if self.raft.trigger().snapshot().await.is_err() {
                tracing::debug!("stopped meanwhile");
            }
        }
    }
}
