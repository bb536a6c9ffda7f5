//! What a master says, out of the bytes of its stream.

use agent_core::Unreadable;
use api::internal::{ToAgent, to_agent};
use api::limits::TO_AGENT_BYTES_MAX;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prost::encoding::decode_varint;

use crate::orders::{self, Left};

/// The bytes of a master's stream as they come. The error is a sentence.
pub type Chunks = BoxStream<'static, Result<Bytes, String>>;

/// So much of a message that is too large to be read is looked at, in bytes: enough to find what it is about.
const LOOKED_AT_BYTES: usize = 8 << 20;

/// One message.
#[derive(Debug)]
pub(crate) enum Said {
    Message(Box<to_agent::Message>),
    /// An order that could not be read; what could be.
    Unreadable(Box<Unreadable>),
    /// The number of an order of a kind that this release does not know.
    Unknown(u64),
}

/// Length-delimited messages out of chunks.
pub(crate) struct Reader {
    chunks: Chunks,
    buffer: BytesMut,
    /// A message that is too large: its beginning, its length, and how much of it is still to come.
    skipped: Option<(BytesMut, usize, usize)>,
}

impl Reader {
    pub(crate) fn new(chunks: Chunks) -> Reader {
        Reader { chunks, buffer: BytesMut::new(), skipped: None }
    }

    pub(crate) async fn next(&mut self) -> Result<Said, String> {
        loop {
            if let Some(said) = self.take()? {
                return Ok(said);
            }
            match self.chunks.next().await {
                Some(chunk) => self.buffer.extend_from_slice(&chunk?),
                None => return Err("the master ended the connection".to_owned()),
            }
        }
    }

    fn take(&mut self) -> Result<Option<Said>, String> {
        loop {
            if self.skipped.is_some() {
                return self.skip();
            }
            let mut view = &self.buffer[..];
            let prefix = view.iter().take(10).position(|byte| byte & 0x80 == 0);
            if prefix.is_none() {
                return if view.len() < 10 { Ok(None) } else { Err("a length without end".to_owned()) };
            }
            let length = decode_varint(&mut view).map_err(|error| error.to_string())?;
            let length = usize::try_from(length).map_err(|error| error.to_string())?;
            let start = self.buffer.len() - view.len();
            if length > TO_AGENT_BYTES_MAX {
                let _ = self.buffer.split_to(start);
                self.skipped = Some((BytesMut::new(), length, length));
                continue;
            }
            if view.len() < length {
                return Ok(None);
            }
            let message = self.buffer.split_to(start + length).freeze().slice(start..);
            match api::decode_protobuf::<ToAgent>(message.clone()) {
                Ok(ToAgent { message: Some(message) }) => return Ok(Some(Said::Message(message.into()))),
                // A kind that a newer master knows has no content here.
                Ok(ToAgent { message: None }) => {}
                Err(error) => return unreadable(&message, format!("It cannot be read: {error}")).map(Some),
            }
        }
    }

    fn skip(&mut self) -> Result<Option<Said>, String> {
        let Some((mut beginning, length, left)) = self.skipped.take() else { return Ok(None) };
        let part = self.buffer.split_to(left.min(self.buffer.len()));
        beginning.extend_from_slice(&part[..part.len().min(LOOKED_AT_BYTES.saturating_sub(beginning.len()))]);
        let left = left - part.len();
        if left > 0 {
            self.skipped = Some((beginning, length, left));
            return Ok(None);
        }
        let sentence = format!("It has {length} bytes, and an agent reads {TO_AGENT_BYTES_MAX} at most");
        unreadable(&beginning, sentence).map(Some)
    }
}

fn unreadable(message: &[u8], sentence: String) -> Result<Said, String> {
    match orders::salvage(message, sentence.clone()) {
        Some(Left::Known(order)) => Ok(Said::Unreadable(Box::new(order))),
        Some(Left::Unknown(seq)) => Ok(Said::Unknown(seq)),
        None => Err(format!("a message that is not for this agent: {sentence}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::internal::{self, Order, order};
    use prost::Message;

    fn order(seq: u64, message: &str) -> Vec<u8> {
        let shutdown = internal::ShutdownAgent { message: message.into() };
        let order = Order { seq, order: Some(order::Order::ShutdownAgent(shutdown)) };
        ToAgent { message: Some(to_agent::Message::Order(order)) }.encode_length_delimited_to_vec()
    }

    fn reader(bytes: &[u8], chunk: usize) -> Reader {
        let chunks: Vec<_> = bytes.chunks(chunk).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        Reader::new(futures_util::stream::iter(chunks).boxed())
    }

    #[tokio::test]
    async fn an_order_that_is_too_large_is_passed_over_and_the_next_one_is_read() {
        let large = order(1, &"x".repeat(TO_AGENT_BYTES_MAX + 1));
        let mut reader = reader(&[large, order(2, "y")].concat(), 1 << 20);
        let Said::Unreadable(found) = reader.next().await.unwrap() else { panic!("it was read") };
        assert_eq!(found.seq, 1);
        assert!(found.sentence.contains("67108864 at most"), "{}", found.sentence);
        let Said::Message(next) = reader.next().await.unwrap() else { panic!("it was not read") };
        assert!(matches!(*next, to_agent::Message::Order(Order { seq: 2, .. })));
        assert!(reader.next().await.is_err(), "the end");
    }

    #[tokio::test]
    async fn damaged_orders_are_given_up_and_other_damage_ends_the_connection() {
        // A required field is missing: `message` of ShutdownAgent.
        let damaged = [0x06, 0x1a, 0x04, 0x08, 0x05, 0x42, 0x00];
        let mut first = reader(&damaged, 2);
        let Said::Unreadable(found) = first.next().await.unwrap() else { panic!("it was read") };
        assert_eq!(found.seq, 5);
        assert!(reader(&[0x02, 0x0a, 0x00], 1).next().await.is_err(), "a welcome without content");
    }
}
