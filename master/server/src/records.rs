//! The queue behind an event stream: any number of small records, a bounded number of bytes. A reader that does not
//! read is dropped rather than waited for; one that reads may get much at once, as an answer to RECONCILE can be.

use api::limits::{STREAM_BYTES_MAX, STREAM_MUCH_BYTES, STREAM_STALLED_BYTES_MAX, STREAMS_BYTES_MAX};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long a client with more than `STREAM_STALLED_BYTES_MAX` before it may read nothing, in milliseconds.
const PATIENCE_MS: u64 = 10_000;
/// What all streams of this process hold now.
static TOTAL_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Beside its bytes, what a queued record costs.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// The writing end. Each record becomes one HTTP chunk.
#[derive(Clone, Debug)]
pub(crate) struct RecordSender {
    records: mpsc::UnboundedSender<Bytes>,
    queue: Arc<Queue>,
}

/// How full a queue is, and since when nothing was taken from it.
#[derive(Debug)]
struct Queue {
    bytes: AtomicUsize,
    began: Instant,
    /// Milliseconds after `began` at which the queue was last empty or read from.
    moved_ms: AtomicU64,
}

/// The stream's body.
#[derive(Debug)]
pub(crate) struct RecordBody {
    records: mpsc::UnboundedReceiver<Bytes>,
    queue: Arc<Queue>,
}

/// The client is gone, or does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// A stream's two ends.
pub(crate) fn channel() -> (RecordSender, RecordBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let queue = Arc::new(Queue { bytes: AtomicUsize::new(0), began: Instant::now(), moved_ms: AtomicU64::new(0) });
    let sender = RecordSender { records: sender, queue: queue.clone() };
    (sender, RecordBody { records: receiver, queue })
}

impl Queue {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a record of so many bytes may still be put in.
    fn put(&self, cost: usize, now_ms: u64) -> Result<(), Gone> {
        let before = self.bytes.fetch_add(cost, Ordering::AcqRel);
        let total = TOTAL_BYTES.fetch_add(cost, Ordering::AcqRel) + cost;
        if before == 0 {
            self.moved_ms.store(now_ms, Ordering::Release);
        }
        let stalled = now_ms.saturating_sub(self.moved_ms.load(Ordering::Acquire)) > PATIENCE_MS;
        let bytes_max = match (total > STREAMS_BYTES_MAX, stalled) {
            (true, _) => STREAM_MUCH_BYTES,
            (false, true) => STREAM_STALLED_BYTES_MAX,
            (false, false) => STREAM_BYTES_MAX,
        };
        if before + cost > bytes_max { Err(Gone) } else { Ok(()) }
    }

    fn took(&self, cost: usize, now_ms: u64) {
        self.bytes.fetch_sub(cost, Ordering::AcqRel);
        TOTAL_BYTES.fetch_sub(cost, Ordering::AcqRel);
        self.moved_ms.store(now_ms, Ordering::Release);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        TOTAL_BYTES.fetch_sub(*self.bytes.get_mut(), Ordering::AcqRel);
    }
}

impl RecordSender {
    /// Queues one record, framing included.
    pub(crate) fn send(&self, record: Bytes) -> Result<(), Gone> {
        self.queue.put(record.len() + RECORD_OVERHEAD_BYTES, self.queue.now_ms())?;
        self.records.send(record).map_err(|_| Gone)
    }

    /// Resolves when the client is gone.
    pub(crate) async fn closed(&self) {
        self.records.closed().await;
    }
}

impl RecordBody {
    fn took(&self, record: &Bytes) {
        self.queue.took(record.len() + RECORD_OVERHEAD_BYTES, self.queue.now_ms());
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
    use std::sync::{Mutex, PoisonError};

    /// What all streams hold together is counted for the whole process.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_reader_that_does_not_read_is_given_up_within_a_bound() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, _body) = channel();
        let record = Bytes::from(vec![b'x'; 1 << 20]);
        let accepted = (0..1000).take_while(|_| sender.send(record.clone()).is_ok()).count();
        assert!((500..=512).contains(&accepted), "{accepted}");
    }

    #[test]
    fn many_readers_that_do_not_read_have_a_bound_together() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let record = Bytes::from(vec![b'x'; 1 << 20]);
        let mut all: Vec<_> = (0..100).map(|_| channel()).collect();
        let mut accepted = 0;
        for (sender, _) in &all {
            accepted += (0..50).take_while(|_| sender.send(record.clone()).is_ok()).count();
        }
        assert!(accepted < 1500, "{accepted} MiB");
        all.drain(..50);
        let again = all.iter().filter(|(sender, _)| sender.send(record.clone()).is_ok()).count();
        assert!(again > 0, "room again when others are gone");
    }

    #[test]
    fn much_at_once_is_no_sign_of_a_reader_that_does_not_read() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, body) = channel();
        let mut now_ms = 100_000;
        assert_eq!(sender.queue.put(STREAM_STALLED_BYTES_MAX * 2, now_ms), Ok(()), "the queue was empty until now");
        for _ in 0..10 {
            now_ms += PATIENCE_MS;
            body.queue.took(1, now_ms);
            assert_eq!(sender.queue.put(1, now_ms + PATIENCE_MS), Ok(()), "it reads");
        }
        assert_eq!(sender.queue.put(1, now_ms + PATIENCE_MS + 1), Err(Gone), "it does not");
    }

    #[test]
    fn a_client_that_left_is_noticed_at_once() {
        let (sender, body) = channel();
        drop(body);
        assert_eq!(sender.send(Bytes::from_static(b"x")), Err(Gone));
    }
}
