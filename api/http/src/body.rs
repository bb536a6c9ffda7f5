//! Bodies. Of answers: all at once, or a stream of which each item is one HTTP chunk. Of requests: from the network, or
//! from this process.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use api::limits::{BODY_PACE_BYTES, DISCARDED_BYTES_MAX};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

/// How long a client is waited for until it is looked at how much came.
const PACE_EVERY: Duration = Duration::from_secs(10);

/// A look that comes so late says nothing about the client.
const LATE: Duration = Duration::from_secs(2);

/// How long the rest of a body that nobody wants is read.
const DISCARD_PATIENCE: Duration = Duration::from_secs(15);

/// Body of a [`crate::Request`].
#[derive(Debug)]
pub enum Incoming {
    /// From a client. It has a pace to keep.
    Network(Paced),
    /// From this process itself: tests and simulations ask handlers without a network between.
    Local(Mutex<Body>),
}

/// A body from the network.
#[derive(Debug)]
pub struct Paced {
    /// None once it goes another way.
    body: Option<hyper::body::Incoming>,
    /// None if it may take for ever.
    pace: Option<Pace>,
}

/// Whoever answers before the whole body is there lets go of the rest. The client may still be sending it, and on a
/// connection that is closed under its hands it would never see the answer: so the rest is read, to a bound, and forgotten.
impl Drop for Paced {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| self.pace.is_some() && !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(DISCARD_PATIENCE, discard(body)));
        }
    }
}

async fn discard(mut body: hyper::body::Incoming) {
    let mut bytes = 0;
    while bytes < DISCARDED_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}

#[derive(Debug, Default)]
struct Pace {
    /// When it is looked at next, once something was waited for.
    look: Option<Pin<Box<Sleep>>>,
    /// What came since the last look, in bytes.
    bytes: usize,
}

/// A client sends a body too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "fewer than {BODY_PACE_BYTES} bytes came in {} seconds", PACE_EVERY.as_secs())
    }
}

impl std::error::Error for TooSlow {}

impl Pace {
    /// Resolves when the client is too slow.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<TooSlow> {
        loop {
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(PACE_EVERY)));
            if look.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Whoever waits looks in time. Who looks late was busy with something else, and the client had to wait.
            let late = look.deadline().elapsed() > LATE;
            if self.bytes < BODY_PACE_BYTES && !late {
                return Poll::Ready(TooSlow);
            }
            self.bytes = 0;
            look.as_mut().reset(Instant::now() + PACE_EVERY);
        }
    }
}

impl Incoming {
    /// The same body, which may take for ever.
    #[must_use]
    pub fn endless(self) -> Incoming {
        match self {
            Incoming::Network(mut paced) => Incoming::Network(Paced { body: paced.body.take(), pace: None }),
            local @ Incoming::Local(_) => local,
        }
    }
}

/// Why the rest of a request's body does not come.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Incoming {
        Incoming::Network(Paced { body: Some(body), pace: Some(Pace::default()) })
    }
}

impl From<Body> for Incoming {
    fn from(body: Body) -> Incoming {
        Incoming::Local(Mutex::new(body))
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Incoming::Network(paced) => {
                let Paced { body: Some(body), pace } = paced else { return Poll::Ready(None) };
                match (Pin::new(body).poll_frame(cx), pace) {
                    (Poll::Pending, Some(pace)) => pace.poll(cx).map(|slow| Some(Err(slow.into()))),
                    (Poll::Ready(Some(Ok(frame))), Some(pace)) => {
                        pace.bytes += frame.data_ref().map_or(0, Bytes::len);
                        Poll::Ready(Some(Ok(frame)))
                    }
                    (polled, _) => polled.map_err(Into::into),
                }
            }
            Incoming::Local(body) => {
                let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
                Pin::new(body).poll_frame(cx).map_err(|never| match never {})
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Incoming::Network(paced) => paced.body.as_ref().is_none_or(HttpBody::is_end_stream),
            Incoming::Local(body) => body.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Incoming::Network(paced) => paced.body.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint),
            Incoming::Local(body) => body.lock().unwrap_or_else(PoisonError::into_inner).size_hint(),
        }
    }
}

/// Body of a [`crate::Response`].
#[derive(Debug)]
pub struct Body(Inner);

enum Inner {
    Full(Option<Bytes>),
    Stream { items: mpsc::Receiver<Bytes>, left: Option<u64> },
    Custom(Pin<Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Send>>),
}

impl fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inner::Full(bytes) => formatter.debug_tuple("Full").field(bytes).finish(),
            Inner::Stream { left, .. } => formatter.debug_struct("Stream").field("left", left).finish_non_exhaustive(),
            Inner::Custom(_) => formatter.write_str("Custom"),
        }
    }
}

impl Body {
    /// Nothing.
    pub fn empty() -> Body {
        Body(Inner::Full(None))
    }

    /// All of it, with a Content-Length.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        Body(Inner::Full((!bytes.is_empty()).then_some(bytes)))
    }

    /// A body of the caller's own making. Each frame is one HTTP/1.1 chunk.
    pub fn custom(body: impl HttpBody<Data = Bytes, Error = Infallible> + Send + 'static) -> Body {
        Body(Inner::Custom(Box::pin(body)))
    }

    /// Whether it is written while it is sent, for as long as the client listens.
    pub(crate) fn is_endless(&self) -> bool {
        matches!(self.0, Inner::Stream { left: None, .. } | Inner::Custom(_))
    }

    /// The bytes, if they are all here.
    pub(crate) fn as_full(&self) -> Option<&Bytes> {
        match &self.0 {
            Inner::Full(bytes) => bytes.as_ref(),
            Inner::Stream { .. } | Inner::Custom(_) => None,
        }
    }

    /// Takes the bytes out if they are all here; a stream stays as it is.
    pub(crate) fn into_full(self) -> Result<Bytes, Body> {
        match self.0 {
            Inner::Full(bytes) => Ok(bytes.unwrap_or_default()),
            Inner::Stream { .. } | Inner::Custom(_) => Err(self),
        }
    }

    /// A stream of which the length in bytes is known beforehand.
    pub(crate) fn sized(self, bytes: u64) -> Body {
        match self.0 {
            Inner::Full(_) | Inner::Custom(_) => self,
            Inner::Stream { items, .. } => Body(Inner::Stream { items, left: Some(bytes) }),
        }
    }
}

/// The writing end of a [`stream`]. The stream ends when the last of its clones is dropped.
#[derive(Clone, Debug)]
pub struct StreamSender(mpsc::Sender<Bytes>);

/// Why an item was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The client reads too slowly: as many items as the stream holds are waiting.
    Full,
    /// The client is gone.
    Closed,
}

/// A body that is written while it is sent. Holds `capacity` items; each is exactly one HTTP/1.1 chunk, which some
/// clients take for exactly one record.
pub fn stream(capacity: usize) -> (StreamSender, Body) {
    let (sender, items) = mpsc::channel(capacity);
    (StreamSender(sender), Body(Inner::Stream { items, left: None }))
}

impl StreamSender {
    /// Sends one item, waiting for room.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the client is gone.
    pub async fn send(&self, item: Bytes) -> Result<(), SendError> {
        // An empty chunk would end an HTTP/1.1 body.
        if item.is_empty() {
            return Ok(());
        }
        self.0.send(item).await.map_err(|_| SendError::Closed)
    }

    /// Sends one item if there is room.
    ///
    /// # Errors
    /// Says whether the stream is full or its client gone.
    pub fn try_send(&self, item: Bytes) -> Result<(), SendError> {
        if item.is_empty() {
            return Ok(());
        }
        self.0.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }

    /// Waits until the client is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    /// Whether the client is gone.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Inner::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Stream { items, left } => items.poll_recv(cx).map(|item| {
                let item = item?;
                if let Some(left) = left {
                    *left = left.saturating_sub(item.len() as u64);
                }
                Some(Ok(Frame::data(item)))
            }),
            Inner::Custom(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(bytes) => bytes.is_none(),
            Inner::Stream { left, .. } => *left == Some(0),
            Inner::Custom(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            Inner::Stream { left: None, .. } => SizeHint::default(),
            Inner::Custom(body) => body.size_hint(),
        }
    }
}
