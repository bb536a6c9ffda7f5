//! From a command to its outcome, wherever the leader is.

use crate::cause;
use crate::context::Leader;
use crate::identity::{Identity, random};
use crate::outcome::{Outcome, Refused};
use crate::peers::{PeerError, Peers};
use crate::traces::Tracer;
use crate::wire;
use crate::witness::Witness;
use api::internal;
use event_log::raft::{Node, Role, Status};
use master_core::command::{Caller, Command};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// How long a command waits for a leader: an election takes less, and a client that is told 503 at once comes back
/// at once.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a forwarded command may take at the leader, which itself may wait for its quorum.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a call waits for the answer of a leader when another one leads already.
const SUCCESSION_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks for a leader.
const PACE: Duration = Duration::from_millis(50);

/// A command with who is behind it, on its way to be decided.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) command: Command,
    pub(crate) caller: Caller,
    pub(crate) request_id: [u8; 16],
}

/// What the sequencer says about an attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It ended.
    Ended(Outcome),
    /// It certainly had no effect and never will: try again, here or elsewhere.
    NotTried(Box<Attempt>),
}

/// An attempt in the sequencer's inbox.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) attempt: Attempt,
    pub(crate) reply: oneshot::Sender<Verdict>,
}

/// Brings commands to the leader. Cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    inbox: mpsc::Sender<Request>,
    status: watch::Receiver<Status>,
    node: Node,
    identity: Arc<Identity>,
    peers: Arc<Peers>,
    witness: Option<Arc<dyn Witness>>,
    tracer: Tracer,
}

impl Submitter {
    pub(crate) fn new(
        inbox: mpsc::Sender<Request>,
        node: Node,
        identity: Arc<Identity>,
        peers: Arc<Peers>,
        witness: Option<Arc<dyn Witness>>,
        tracer: Tracer,
    ) -> Submitter {
        Submitter { inbox, status: node.status(), node, identity, peers, witness, tracer }
    }

    /// Commands that wait to be decided here.
    pub(crate) fn waiting(&self) -> usize {
        self.inbox.max_capacity() - self.inbox.capacity()
    }

    /// The other masters.
    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Who leads, if anybody is known to.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let status = self.status.borrow();
        let leader = status.leader.as_ref()?;
        let is_me = leader.node_id == self.identity.node().0;
        // A node that was the leader a moment ago may still name itself.
        (!is_me || status.role == Role::Leader).then(|| Leader { address: leader.address.clone(), is_me })
    }

    /// Decides `command` on the leader and answers after the commit.
    pub(crate) async fn submit(&self, command: Command, caller: Caller) -> Outcome {
        let request_id = random().to_be_bytes();
        if let Some(witness) = &self.witness {
            witness.asked(request_id, &command, &caller);
        }
        let began = self.tracer.now();
        let traced = began.map(|_| (cause::name(&command), caller.clone()));
        let outcome = self.submit_as(request_id, command, caller).await;
        if let Some((call, caller)) = traced {
            let mut attributes = vec![("call", call.to_owned()), ("outcome", outcome.word().to_owned())];
            attributes.extend(caller.principal.map(|principal| ("principal", principal)));
            attributes.extend(caller.peer.map(|peer| ("peer", peer)));
            self.tracer.call(began, request_id, attributes);
        }
        if let Some(witness) = &self.witness {
            witness.answered(request_id, &outcome);
        }
        outcome
    }

    async fn submit_as(&self, request_id: [u8; 16], command: Command, caller: Caller) -> Outcome {
        let mut attempt = Attempt { command, caller, request_id };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let verdict = match self.leader() {
                Some(leader) if leader.is_me => self.here(attempt).await,
                Some(leader) => self.forward(&leader, attempt).await,
                None => Verdict::NotTried(Box::new(attempt)),
            };
            match verdict {
                Verdict::Ended(outcome) => return outcome,
                Verdict::NotTried(_) if Instant::now() >= deadline => return Outcome::Untried,
                Verdict::NotTried(back) => attempt = *back,
            }
            let mut status = self.status.clone();
            status.mark_unchanged();
            let _ = tokio::time::timeout(PACE, status.changed()).await;
        }
    }

    /// Decides an attempt if this master leads; never forwards it any further.
    pub(crate) async fn here(&self, attempt: Attempt) -> Verdict {
        let (reply, verdict) = oneshot::channel();
        if let Err(refused) = self.inbox.send(Request { attempt, reply }).await {
            return Verdict::NotTried(Box::new(refused.0.attempt));
        }
        verdict.await.unwrap_or(Verdict::Ended(Outcome::Unknown))
    }

    /// Resolves some time after another master than `leader` leads.
    async fn succeeded(&self, leader: &Leader) {
        let mut status = self.status.clone();
        let is_another = |status: &Status| status.leader.as_ref().is_some_and(|now| now.address != leader.address);
        match status.wait_for(is_another).await.map(drop) {
            Ok(()) => tokio::time::sleep(SUCCESSION_PATIENCE).await,
            Err(_) => std::future::pending().await,
        }
    }

    async fn forward(&self, leader: &Leader, attempt: Attempt) -> Verdict {
        let origin = self.identity.incarnation();
        let cluster_id = self.node.cluster_id().unwrap_or_default();
        let Attempt { command, caller, request_id } = &attempt;
        let Some(submission) = wire::submission(&cluster_id, origin, command, caller, *request_id) else {
            return Verdict::Ended(Outcome::Unknown);
        };
        let body = submission.encode_to_vec().into();
        let answer = tokio::select! {
            biased;
            answer = self.peers.post(&leader.address, "/meseta/submit", body, FORWARD_TIMEOUT) => answer,
            // Its answer may never come: what it was doing is not known, but who asked may ask the next one.
            () = self.succeeded(leader) => Err(PeerError::Silent(leader.address.clone())),
        };
        match answer {
            Ok((http::StatusCode::OK, body)) => match internal::Answer::decode(body) {
                Ok(answer) => Verdict::Ended(wire::outcome(answer)),
                Err(_) => Verdict::Ended(Outcome::Unknown),
            },
            Ok((http::StatusCode::MISDIRECTED_REQUEST, _)) | Err(PeerError::Unreachable(_)) => {
                Verdict::NotTried(Box::new(attempt))
            }
            // Sent again it would be as large.
            Ok((http::StatusCode::PAYLOAD_TOO_LARGE, body)) => {
                Verdict::Ended(Outcome::Refused(Refused::too_large(String::from_utf8_lossy(&body))))
            }
            Ok((status, _)) => {
                tracing::warn!(leader = leader.address, %status, "the leader did not take a submission");
                Verdict::Ended(Outcome::Unknown)
            }
            Err(error) => {
                tracing::debug!(leader = leader.address, %error, "a submission has no answer");
                if event_log::planted(event_log::Bug::ForwardedTwice) {
                    return Verdict::NotTried(Box::new(attempt));
                }
                Verdict::Ended(Outcome::Unknown)
            }
        }
    }
}
