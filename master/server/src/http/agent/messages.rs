//! What an agent says, on its way from the body of its request to a command: bounded in messages and in bytes.

use api::internal::{FromAgent, from_agent};
use api::limits::{FROM_AGENT_BYTES_MAX, SESSION_BATCH_BYTES, SESSION_BATCH_MAX, SESSION_WAITING_BYTES_MAX};
use api_http::Incoming;
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use std::collections::VecDeque;

/// Messages that wait for their commit, each with its length in bytes.
#[derive(Default)]
pub(super) struct Waiting {
    messages: VecDeque<(FromAgent, usize)>,
    bytes: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether no more is to be read. One more message may be large, so what is held has twice its bound at most beside it.
    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= SESSION_BATCH_MAX || self.bytes >= SESSION_WAITING_BYTES_MAX
    }

    pub(super) fn take(&mut self, message: FromAgent, length: usize) {
        match &message.message {
            // A sign of life and no more.
            Some(from_agent::Message::Pong(_)) => {}
            // What is unknown may come from a newer agent. It counts if it has a number: without it the next one would
            // not follow, for ever.
            None if message.seq() == 0 => {}
            None | Some(_) => {
                self.bytes += length;
                self.messages.push_back((message, length));
            }
        }
    }

    /// The first of them, as many as one command should have; at least one, if there is one.
    pub(super) fn batch(&mut self) -> Vec<FromAgent> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < SESSION_BATCH_MAX
            && bytes < SESSION_BATCH_BYTES
            && let Some((message, length)) = self.messages.pop_front()
        {
            bytes += length;
            batch.push(message);
        }
        self.bytes -= bytes;
        batch
    }
}

/// Length-delimited messages out of a request's body.
pub(super) struct Messages {
    body: Incoming,
    buffer: BytesMut,
}

impl Messages {
    pub(super) fn new(body: Incoming) -> Messages {
        Messages { body, buffer: BytesMut::new() }
    }

    /// The next message with its length in bytes; None at the end. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<(FromAgent, usize)>, &'static str> {
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
    pub(super) fn buffered(&mut self) -> Result<Option<(FromAgent, usize)>, &'static str> {
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
        api::decode_protobuf(message)
            .map(|message| Some((message, length)))
            .map_err(|_| "it does not speak the protocol")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::internal;

    #[test]
    fn what_a_newer_agent_says_counts_even_if_it_is_not_understood() {
        let mut waiting = Waiting::default();
        let pong = from_agent::Message::Pong(internal::Pong {});
        for (seq, message) in [(None, Some(pong)), (None, None), (Some(5), None)] {
            waiting.take(FromAgent { seq, message }, 2);
        }
        assert_eq!(waiting.batch().iter().map(FromAgent::seq).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_goes_in_parts() {
        let mut waiting = Waiting::default();
        let mut taken = 0;
        while !waiting.is_full() {
            taken += 1;
            waiting.take(FromAgent { seq: Some(taken), message: None }, 300 << 10);
        }
        assert_eq!(taken as usize, SESSION_WAITING_BYTES_MAX.div_ceil(300 << 10));
        let mut seqs = Vec::new();
        while !waiting.is_empty() {
            let batch = waiting.batch();
            assert!(batch.len() <= 4, "{} messages of 300 KiB in one command", batch.len());
            seqs.extend(batch.iter().map(FromAgent::seq));
        }
        assert_eq!(seqs, (1..=taken).collect::<Vec<_>>());
        waiting.take(FromAgent { seq: Some(1), message: None }, FROM_AGENT_BYTES_MAX);
        assert_eq!(waiting.batch().len(), 1, "a large one goes alone");
        assert!(!waiting.is_full());
    }
}
