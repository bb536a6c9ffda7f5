//! Records on their way to an executor: so many and so many bytes, and no more, whatever it reads.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use api::limits::{EXECUTOR_STREAM_BYTES_MAX, EXECUTOR_STREAM_EVENTS_MAX};
use api_http::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;

/// The writing end. The stream ends when the last of its clones is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    queue: mpsc::Sender<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
}

struct Reading {
    queue: mpsc::Receiver<Bytes>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// A stream and its body, of which each record is one chunk.
pub(crate) fn records() -> (Records, Body) {
    let (sender, receiver) = mpsc::channel(EXECUTOR_STREAM_EVENTS_MAX);
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let reading = Reading { queue: receiver, waiting_bytes: waiting_bytes.clone() };
    (Records { queue: sender, waiting_bytes }, Body::custom(reading))
}

impl Records {
    /// Whether there was room for one more record, and somebody to read it.
    pub(crate) fn send(&self, record: Bytes) -> bool {
        let bytes = record.len();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // One always fits, whatever it weighs.
        let fits = before == 0 || before + bytes <= EXECUTOR_STREAM_BYTES_MAX;
        let sent = fits && self.queue.try_send(record).is_ok();
        if !sent {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Waits until the executor is gone.
    pub(crate) async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl HttpBody for Reading {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.queue.poll_recv(context).map(|record| {
            let record = record?;
            self.waiting_bytes.fetch_sub(record.len(), Ordering::Relaxed);
            Some(Ok(Frame::data(record)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn who_does_not_read_gets_so_much_and_no_more() {
        let (records, mut body) = records();
        let large = Bytes::from(vec![0; EXECUTOR_STREAM_BYTES_MAX]);
        assert!(records.send(large.clone()));
        assert!(!records.send(Bytes::from_static(b"x")));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), large.len());
        for _ in 0..EXECUTOR_STREAM_EVENTS_MAX {
            assert!(records.send(Bytes::from_static(b"x")));
        }
        assert!(!records.send(Bytes::from_static(b"x")));
        drop(body);
        records.closed().await;
        assert!(!records.send(Bytes::from_static(b"x")));
    }
}
