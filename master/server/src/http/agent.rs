//! `POST /meseta/agent`: an agent's connection, both bodies endless.
//!
//! ```text
//! hello (register, resume) ──committed──► welcome ──► messages up, orders down ──► silence, a newer connection, or stop
//! ```

mod messages;

use crate::agents::{self, Agents, frame};
use crate::context::Context;
use crate::identity::new_connection;
use crate::outcome::{Outcome, TOO_LARGE};
use crate::records::{self, RecordSender};
use api::internal::{self, FromAgent, from_agent, refused::Remedy, to_agent};
use api_http::{Body, Incoming, Request, Response, StatusCode};
use bytes::Bytes;
use event_log::host;
use futures_util::future::{BoxFuture, OptionFuture};
use master_core::command::{Caller, Command};
use master_core::ids::{Connection, ConnectionId};
use master_core::{RefusalKind, Reply, view};
use messages::{Messages, Waiting};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};

/// An agent that opens a connection says who it is within this time.
const HELLO_PATIENCE: Duration = Duration::from_secs(30);
/// An agent has one identity, and for a while the next one.
const IDENTITIES_MAX: usize = 4;
/// Between two attempts to commit messages while nobody leads.
const PACE: Duration = Duration::from_millis(200);

pub(super) fn answer(context: &Arc<Context>, request: Request, caller: Caller) -> Response {
    if !context.is_ready() {
        return super::not_ready(context);
    }
    if request.version() != http::Version::HTTP_2 {
        return api_http::text(StatusCode::BAD_REQUEST, "Expecting HTTP/2");
    }
    let (records, body) = records::channel();
    host::spawn(session(context.clone(), request.into_body().endless(), records, caller));
    api_http::streaming("application/x-protobuf", Body::custom(body))
}

/// The registry must not keep a connection whose session is over.
struct Registered {
    agents: Arc<Agents>,
    connection: ConnectionId,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.agents.forget(self.connection);
    }
}

async fn session(context: Arc<Context>, body: Incoming, records: RecordSender, who: Caller) {
    let mut messages = Messages::new(body);
    let peer = who.peer.clone().unwrap_or_default();
    let Ok(Ok(Some((first, _)))) = tokio::time::timeout(HELLO_PATIENCE, messages.next()).await else {
        tracing::debug!(%peer, "an agent did not say who it is");
        return;
    };
    let connection = Connection { at: context.identity.incarnation(), id: new_connection() };
    let hello = match first.message {
        Some(from_agent::Message::Register(mut register)) => {
            register.proof = register.proof.map(hashed);
            Command::RegisterAgent { connection, register }
        }
        Some(from_agent::Message::Resume(mut resume)) => {
            resume.proof = resume.proof.map(hashed);
            Command::ResumeAgent { connection, resume }
        }
        _ => return refuse(&records, "Expecting register or resume first", Remedy::Retry),
    };
    let ended = context.agents.expect(connection, records.clone());
    let _registered = Registered { agents: context.agents.clone(), connection: connection.id };
    let agent_id = match context.reader.submit(hello, who.clone()).await {
        Outcome::Done { reply: Reply::Agent { agent }, .. } => view::agent_id(&context.reader.state().0, agent),
        Outcome::Refused(refusal) => {
            tracing::warn!(%peer, refusal.message, "an agent was refused");
            let remedy = match refusal.kind {
                RefusalKind::OtherCluster => Remedy::AskOthers,
                RefusalKind::StopAgent | RefusalKind::EndAgent => Remedy::Stop,
                RefusalKind::RegisterAnew => Remedy::RegisterNew,
                _ => Remedy::Retry,
            };
            let end_all = (refusal.kind == RefusalKind::EndAgent).then_some(true);
            let make_identity = (refusal.name == master_core::IDENTITY_OVER).then_some(true);
            return say_refused(
                &records,
                internal::Refused { message: refusal.message, remedy: remedy as i32, end_all, make_identity },
            );
        }
        Outcome::Done { .. } | Outcome::Crashed => return refuse(&records, "The hello failed", Remedy::Retry),
        Outcome::Unknown | Outcome::Untried => {
            return refuse(&records, &context.reader.no_leader_sentence(), Remedy::Retry);
        }
    };
    tracing::info!(agent_id, %peer, principal = who.principal.as_deref(), "agent connected");
    // Who it is was said once: each of its messages is the agent's.
    let caller = Caller { principal: None, ..who };
    let talk = Talk { context: &context, agent_id: &agent_id, connection, caller, records };
    let why = talk.run(messages, ended).await;
    tracing::info!(agent_id, %peer, why, "agent disconnected");
}

/// What goes beyond this master of what an agent shows: hashes of secrets.
fn hashed(proof: internal::AgentProof) -> internal::AgentProof {
    let token = |text: Bytes| Bytes::copy_from_slice(&api_http::join_token_hash(&text));
    let identity = |secret: Bytes| Bytes::copy_from_slice(&api_http::identity_hash(&secret));
    let identities = proof.identities.into_iter().take(IDENTITIES_MAX).map(identity).collect();
    internal::AgentProof { join_token: proof.join_token.map(token), identities }
}

fn refuse(records: &RecordSender, message: &str, remedy: Remedy) {
    let (message, remedy) = (message.to_owned(), remedy as i32);
    say_refused(records, internal::Refused { message, remedy, end_all: None, make_identity: None });
}

fn say_refused(records: &RecordSender, refused: internal::Refused) {
    // Whoever is gone does not need the reason.
    let _ = records.send(frame(to_agent::Message::Refused(refused)));
}

struct Talk<'a> {
    context: &'a Arc<Context>,
    agent_id: &'a str,
    connection: Connection,
    caller: Caller,
    records: RecordSender,
}

impl Talk<'_> {
    /// Until the connection is over; says why.
    async fn run(&self, mut messages: Messages, mut ended: oneshot::Receiver<()>) -> &'static str {
        let ping = self.context.ping;
        let mut pings = tokio::time::interval_at(Instant::now() + ping.every, ping.every);
        // Counted, not timed: a master that stood still has not asked, and what was answered meanwhile waits to be read.
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unanswered = 0;
        let mut waiting = Waiting::default();
        let mut flight: OptionFuture<BoxFuture<'_, Outcome>> = None.into();
        let mut flying = false;
        loop {
            if !flying && !waiting.is_empty() {
                flight = Some(self.commit(waiting.batch())).into();
                flying = true;
            }
            tokio::select! {
                message = messages.next(), if !waiting.is_full() => {
                    unanswered = 0;
                    match message {
                        Ok(Some((message, length))) => self.take(&mut waiting, message, length),
                        Ok(None) => return "the agent closed it",
                        Err(why) => return why,
                    }
                    while !waiting.is_full() && let Ok(Some((message, length))) = messages.buffered() {
                        self.take(&mut waiting, message, length);
                    }
                }
                Some(outcome) = &mut flight, if flying => {
                    flying = false;
                    match outcome {
                        Outcome::Done { .. } => {}
                        Outcome::Refused(refusal) if refusal.kind == RefusalKind::StaleConnection => {
                            return "a newer connection took its place";
                        }
                        outcome => {
                            tracing::error!(agent_id = self.agent_id, ?outcome, "messages were not taken");
                            return "its messages were not taken";
                        }
                    }
                }
                _ = pings.tick() => {
                    // What it answers is behind what it is not read for.
                    if waiting.is_full() {
                        unanswered = 0;
                    }
                    if unanswered == ping.misses_max {
                        return "it did not answer pings";
                    }
                    unanswered += 1;
                    if self.records.send(frame(to_agent::Message::Ping(internal::Ping {}))).is_err() {
                        return "it does not read";
                    }
                }
                () = self.records.closed() => return "the agent went away",
                _ = &mut ended => return "this master ended it",
            }
        }
    }

    /// What asks for nothing but what this master knows is answered here.
    fn take(&self, waiting: &mut Waiting, message: FromAgent, length: usize) {
        let Some(from_agent::Message::OperationsKept(kept)) = message.message else {
            return waiting.take(message, length);
        };
        let over = agents::over(&self.context.reader.state().0, kept);
        if !over.operations.is_empty() {
            // Whoever does not read is noticed elsewhere.
            let _ = self.records.send(frame(to_agent::Message::OperationsOver(over)));
        }
    }

    /// Commits messages, in order; safe to repeat, since numbered messages are taken once and acknowledgements of
    /// orders are cumulative.
    fn commit(&self, messages: Vec<FromAgent>) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            // What is left of the batch, its beginning last.
            let mut left = vec![messages];
            let mut outcome = Outcome::Unknown;
            while let Some(batch) = left.pop() {
                outcome = self.submit(&batch).await;
                match &outcome {
                    Outcome::Done { .. } => {}
                    Outcome::Crashed => left.extend(self.without_poison(batch, "cannot be decided")),
                    Outcome::Refused(refused) if refused.name == TOO_LARGE => {
                        left.extend(self.without_poison(batch, "leads to more than a record holds"));
                    }
                    Outcome::Refused(_) | Outcome::Unknown | Outcome::Untried => return outcome,
                }
            }
            outcome
        })
    }

    async fn submit(&self, messages: &[FromAgent]) -> Outcome {
        let (agent_id, connection) = (self.agent_id.to_owned(), self.connection);
        let command = Command::AgentMessages { agent_id, connection, messages: messages.to_vec() };
        loop {
            match self.context.reader.submit(command.clone(), self.caller.clone()).await {
                Outcome::Unknown | Outcome::Untried => tokio::time::sleep(PACE).await,
                outcome => return outcome,
            }
        }
    }

    fn without_poison(&self, batch: Vec<FromAgent>, why: &str) -> Vec<Vec<FromAgent>> {
        if let [FromAgent { seq, message: Some(message) }] = &batch[..] {
            tracing::error!(agent_id = self.agent_id, seq, kind = kind(message), why, "a message of an agent is lost");
        }
        without_poison(batch)
    }
}

/// What is to be tried instead of messages that cannot be taken together, the first of them last: their halves; of one
/// alone its number, so that it does not come again for ever and hold up all that is behind it.
fn without_poison(mut batch: Vec<FromAgent>) -> Vec<Vec<FromAgent>> {
    if batch.len() > 1 {
        let rest = batch.split_off(batch.len() / 2);
        return vec![rest, batch];
    }
    let number = batch.pop().filter(|message| message.message.is_some()).and_then(|message| message.seq);
    number.map(|seq| vec![FromAgent { seq: Some(seq), message: None }]).into_iter().collect()
}

fn kind(message: &from_agent::Message) -> &'static str {
    match message {
        from_agent::Message::Register(_) => "register",
        from_agent::Message::Resume(_) => "resume",
        from_agent::Message::OrdersAcknowledged(_) => "orders acknowledged",
        from_agent::Message::StatusUpdate(_) => "status update",
        from_agent::Message::ExecutorMessage(_) => "executor message",
        from_agent::Message::ExecutorExited(_) => "executor exited",
        from_agent::Message::ExecutorLaunched(_) => "executor launched",
        from_agent::Message::Leaving(_) => "leaving",
        from_agent::Message::OperationStatus(_) => "operation status",
        from_agent::Message::Oversubscribed(_) => "oversubscribed",
        from_agent::Message::Providers(_) => "providers",
        from_agent::Message::Pong(_) => "pong",
        from_agent::Message::NextIdentity(_) => "next identity",
        from_agent::Message::OperationsKept(_) => "operations kept",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_that_cannot_be_taken_holds_nobody_up() {
        let leaving = || Some(from_agent::Message::Leaving(internal::Leaving::default()));
        let mut left = vec![(1..=9).map(|seq| FromAgent { seq: Some(seq), message: leaving() }).collect::<Vec<_>>()];
        let mut taken = Vec::new();
        while let Some(batch) = left.pop() {
            let is_poison = batch.iter().any(|message| message.seq() == 5 && message.message.is_some());
            if is_poison {
                left.extend(without_poison(batch));
            } else {
                taken.extend(batch);
            }
        }
        assert_eq!(taken.iter().map(FromAgent::seq).collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
        let empty: Vec<u64> = taken.iter().filter(|it| it.message.is_none()).map(FromAgent::seq).collect();
        assert_eq!(empty, [5]);
        let nothing = FromAgent { seq: Some(5), message: None };
        assert!(without_poison(vec![nothing]).is_empty(), "it ends");
    }
}
