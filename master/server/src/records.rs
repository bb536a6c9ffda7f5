//! The queue behind an event stream: any number of small records, a bounded number of bytes. A reader that does not
//! read is dropped rather than waited for.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// What one stream may hold for a client that reads slowly, in bytes.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Beside its bytes, what a queued record costs.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// The writing end. Each record becomes one HTTP chunk.
#[derive(Clone, Debug)]
pub(crate) struct RecordSender {
    records: mpsc::UnboundedSender<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The stream's body.
#[derive(Debug)]
pub(crate) struct RecordBody {
    records: mpsc::UnboundedReceiver<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The client is gone, or does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// A stream's two ends.
pub(crate) fn channel() -> (RecordSender, RecordBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let sender = RecordSender { records: sender, queued_bytes: queued_bytes.clone() };
    (sender, RecordBody { records: receiver, queued_bytes })
}

impl RecordSender {
    /// Queues one record, framing included.
    pub(crate) fn send(&self, record: Bytes) -> Result<(), Gone> {
        let cost = record.len() + RECORD_OVERHEAD_BYTES;
        if self.queued_bytes.fetch_add(cost, Ordering::AcqRel) + cost > QUEUE_BYTES_MAX {
            return Err(Gone);
        }
        self.records.send(record).map_err(|_| Gone)
    }

    /// Resolves when the client is gone.
    pub(crate) async fn closed(&self) {
        self.records.closed().await;
    }
}

impl RecordBody {
    fn took(&self, record: &Bytes) {
        self.queued_bytes.fetch_sub(record.len() + RECORD_OVERHEAD_BYTES, Ordering::AcqRel);
    }
}

impl Body for RecordBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.records.poll_recv(context).map(|record| {
            let record = record?;
            self.took(&record);
            Some(Ok(Frame::data(record)))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_read_is_given_up_within_a_bound() {
        let (sender, _body) = channel();
        let record = Bytes::from(vec![b'x'; 1 << 20]);
        let accepted = (0..1000).take_while(|_| sender.send(record.clone()).is_ok()).count();
        assert!((60..=64).contains(&accepted), "{accepted}");
    }

    #[test]
    fn a_client_that_left_is_noticed_at_once() {
        let (sender, body) = channel();
        drop(body);
        assert_eq!(sender.send(Bytes::from_static(b"x")), Err(Gone));
    }
}
