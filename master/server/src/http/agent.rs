//! `POST /meseta/agent`: an agent's connection, both bodies endless.
//!
//! ```text
//! hello (register, resume) ──committed──► welcome ──► messages up, orders down ──► silence, a newer connection, or stop
//! ```

use crate::agents::{Agents, frame};
use crate::context::Context;
use crate::identity::new_connection;
use crate::outcome::Outcome;
use crate::records::{self, RecordSender};
use api::internal::{self, FromAgent, from_agent, refused::Remedy, to_agent};
use api::limits::{FROM_AGENT_BYTES_MAX, SESSION_BATCH_MAX};
use api_http::{Body, Incoming, Method, Request, Response, StatusCode};
use bytes::{Buf, BytesMut};
use event_log::host;
use futures_util::future::{BoxFuture, OptionFuture};
use http_body_util::BodyExt;
use master_core::command::{Caller, Command};
use master_core::ids::{Connection, ConnectionId};
use master_core::{RefusalKind, Reply, view};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// An agent that opens a connection says who it is within this time.
const HELLO_PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts to commit messages while nobody leads.
const PACE: Duration = Duration::from_millis(200);

pub(super) fn answer(context: &Arc<Context>, request: Request, peer: SocketAddr) -> Response {
    if request.method() != Method::POST {
        return api_http::method_not_allowed(&["POST"], request.method());
    }
    if !context.is_ready() {
        return super::recovering();
    }
    if request.version() != http::Version::HTTP_2 {
        return api_http::text(StatusCode::BAD_REQUEST, "Expecting HTTP/2");
    }
    let (records, body) = records::channel();
    host::spawn(session(context.clone(), request.into_body().endless(), records, peer));
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

async fn session(context: Arc<Context>, body: Incoming, records: RecordSender, peer: SocketAddr) {
    let mut messages = Messages::new(body);
    let caller = Caller { principal: None, peer: Some(peer.to_string()) };
    let Ok(Ok(Some(first))) = tokio::time::timeout(HELLO_PATIENCE, messages.next()).await else {
        tracing::debug!(%peer, "an agent did not say who it is");
        return;
    };
    let connection = Connection { at: context.identity.incarnation(), id: new_connection() };
    let hello = match first.message {
        Some(from_agent::Message::Register(register)) => Command::RegisterAgent { connection, register },
        Some(from_agent::Message::Resume(resume)) => Command::ResumeAgent { connection, resume },
        _ => return refuse(&records, "Expecting register or resume first", Remedy::Retry),
    };
    let ended = context.agents.expect(connection, records.clone());
    let _registered = Registered { agents: context.agents.clone(), connection: connection.id };
    let agent_id = match context.reader.submit(hello, caller.clone()).await {
        Outcome::Done { reply: Reply::Agent { agent }, .. } => view::agent_id(&context.reader.state().0, agent),
        Outcome::Refused(refusal) => {
            tracing::warn!(%peer, refusal.message, "an agent was refused");
            let remedy = match refusal.kind {
                RefusalKind::OtherCluster => Remedy::AskOthers,
                RefusalKind::StopAgent => Remedy::Stop,
                RefusalKind::RegisterAnew => Remedy::RegisterNew,
                _ => Remedy::Retry,
            };
            return refuse(&records, &refusal.message, remedy);
        }
        Outcome::Done { .. } | Outcome::Crashed => return refuse(&records, "The hello failed", Remedy::Retry),
        Outcome::Unknown => return refuse(&records, "No leader elected", Remedy::Retry),
    };
    tracing::info!(agent_id, %peer, "agent connected");
    let talk = Talk { context: &context, agent_id: &agent_id, connection, caller, records };
    let why = talk.run(messages, ended).await;
    tracing::info!(agent_id, %peer, why, "agent disconnected");
}

fn refuse(records: &RecordSender, message: &str, remedy: Remedy) {
    let refused = internal::Refused { message: message.to_owned(), remedy: remedy as i32 };
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
        let mut heard = Instant::now();
        let mut waiting: Vec<FromAgent> = Vec::new();
        let mut flight: OptionFuture<BoxFuture<'_, Outcome>> = None.into();
        let mut flying = false;
        loop {
            if !flying && !waiting.is_empty() {
                let rest = waiting.split_off(waiting.len().min(SESSION_BATCH_MAX));
                let batch = std::mem::replace(&mut waiting, rest);
                flight = Some(self.commit(batch)).into();
                flying = true;
            }
            tokio::select! {
                message = messages.next(), if waiting.len() < SESSION_BATCH_MAX => {
                    heard = Instant::now();
                    match message {
                        Ok(Some(message)) => take(message, &mut waiting),
                        Ok(None) => return "the agent closed it",
                        Err(why) => return why,
                    }
                    while let Ok(Some(message)) = messages.buffered() {
                        take(message, &mut waiting);
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
                    if heard.elapsed() > ping.patience() {
                        return "it did not answer pings";
                    }
                    if self.records.send(frame(to_agent::Message::Ping(internal::Ping {}))).is_err() {
                        return "it does not read";
                    }
                }
                () = self.records.closed() => return "the agent went away",
                _ = &mut ended => return "this master ended it",
            }
        }
    }

    /// Commits messages, in order; safe to repeat, since numbered messages are taken once and acknowledgements of
    /// orders are cumulative.
    fn commit(&self, messages: Vec<FromAgent>) -> BoxFuture<'_, Outcome> {
        let command =
            Command::AgentMessages { agent_id: self.agent_id.to_owned(), connection: self.connection, messages };
        Box::pin(async move {
            loop {
                match self.context.reader.submit(command.clone(), self.caller.clone()).await {
                    Outcome::Unknown => tokio::time::sleep(PACE).await,
                    outcome => return outcome,
                }
            }
        })
    }
}

fn take(message: FromAgent, waiting: &mut Vec<FromAgent>) {
    match &message.message {
        // A sign of life and no more.
        Some(from_agent::Message::Pong(_)) => {}
        // What is unknown may come from a newer agent. It counts if it has a number: without it the next one would
        // not follow, for ever.
        None if message.seq() == 0 => {}
        None => waiting.push(message),
        Some(_) => waiting.push(message),
    }
}

/// Length-delimited messages out of a request's body.
struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    fn new(body: Incoming) -> Messages {
        Messages { body, buffer: BytesMut::new() }
    }

    /// The next message; None at the end. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> Result<Option<FromAgent>, &'static str> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err("the connection broke"),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }

    /// The next message if all of it is here.
    fn buffered(&mut self) -> Result<Option<FromAgent>, &'static str> {
        let mut peek = &self.buffer[..];
        let length = match prost::encoding::decode_varint(&mut peek) {
            Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
            // A varint has at most ten bytes: with fewer, more may come.
            Err(_) if self.buffer.len() < 10 => return Ok(None),
            Err(_) => return Err("it does not speak the protocol"),
        };
        if length > FROM_AGENT_BYTES_MAX {
            return Err("a message is too large");
        }
        let head = self.buffer.len() - peek.len();
        if self.buffer.len() < head + length {
            return Ok(None);
        }
        self.buffer.advance(head);
        let message = self.buffer.split_to(length).freeze();
        api::decode_protobuf(message).map(Some).map_err(|_| "it does not speak the protocol")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_agent_says_counts_even_if_it_is_not_understood() {
        let mut waiting = Vec::new();
        let pong = from_agent::Message::Pong(internal::Pong {});
        for (seq, message) in [(None, Some(pong)), (None, None), (Some(5), None)] {
            take(FromAgent { seq, message }, &mut waiting);
        }
        assert_eq!(waiting.iter().map(FromAgent::seq).collect::<Vec<_>>(), [5]);
    }
}
