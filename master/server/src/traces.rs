//! Spans of what this master does, for a collector that speaks OTLP over HTTP (`--otlp_endpoint`): calls, as they were
//! submitted here, and on the master that leads their decisions and the records that these led to.
//!
//! A trace has the number that its call has in the log (`request_id` of its cause), so that one leads to the other; the span
//! of the call has the second half of it, so that whichever master decides knows whose child a decision is.
//!
//! Nothing waits for a collector: spans that find no room in the queue are counted and gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api_http::Body;
use api_http::dial::Line;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::identity::random;

/// Spans that wait for the collector.
const QUEUE_MAX: usize = 8192;
/// Spans that are sent together.
const BATCH_MAX: usize = 512;
/// So long a span waits for others.
const PACE: Duration = Duration::from_millis(500);
/// Time for each step of a delivery.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a delivery that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Where spans go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Span>,
    /// The same moment by both clocks.
    base: (Instant, u64),
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// `http://HOST:PORT[/PATH]` of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    address: String,
    path: String,
}

impl Endpoint {
    /// Spans go to `/v1/traces` below it.
    ///
    /// # Errors
    /// One sentence.
    pub fn read(text: &str) -> Result<Endpoint, String> {
        let wrong = |why: &str| format!("--otlp_endpoint={}: {why}", api::limits::quoted(text));
        if text.starts_with("https://") {
            return Err(wrong("a collector is reached by http:// alone: put one on this machine that passes spans on"));
        }
        let rest = text.strip_prefix("http://").ok_or_else(|| wrong("it would be http://HOST:PORT"))?;
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port =
            address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !has_port || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it would be http://HOST:PORT"));
        }
        let path = path.trim_end_matches('/');
        let below = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Endpoint { address: address.to_owned(), path: format!("{below}/v1/traces") })
    }
}

impl Tracer {
    /// Sends spans to `endpoint` from now on. `of` is this master, as host:port.
    pub fn start(endpoint: Endpoint, of: String) -> Tracer {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let base = (Instant::now(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let inner = Arc::new(Inner { queue, base, exported: AtomicU64::new(0), dropped: AtomicU64::new(0) });
        tokio::spawn(export(Arc::downgrade(&inner), spans, endpoint, of));
        Tracer(Some(inner))
    }

    /// When something begins that is to be a span; None if nobody wants it.
    pub(crate) fn now(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    /// A call that was submitted here ended.
    pub(crate) fn call(&self, began: Option<Instant>, request_id: [u8; 16], attributes: Vec<(&'static str, String)>) {
        let [.., a, b, c, d, e, f, g, h] = request_id;
        self.push("call", SERVER, began, (request_id, [a, b, c, d, e, f, g, h], None), attributes);
    }

    /// Something that was done for a call ended.
    pub(crate) fn part(
        &self,
        name: &'static str,
        began: Option<Instant>,
        request_id: [u8; 16],
        attributes: Vec<(&'static str, String)>,
    ) {
        let [.., a, b, c, d, e, f, g, h] = request_id;
        let [own @ .., _, _, _, _, _, _, _, _] = random().to_be_bytes();
        self.push(name, INTERNAL, began, (request_id, own, Some([a, b, c, d, e, f, g, h])), attributes);
    }

    fn push(
        &self,
        name: &'static str,
        kind: i32,
        began: Option<Instant>,
        (trace_id, span_id, parent): ([u8; 16], [u8; 8], Option<[u8; 8]>),
        attributes: Vec<(&'static str, String)>,
    ) {
        let (Some(inner), Some(began)) = (&self.0, began) else { return };
        let (base, base_ns) = inner.base;
        let ns = |at: Instant| {
            let since = u64::try_from(at.saturating_duration_since(base).as_nanos()).unwrap_or(u64::MAX);
            base_ns.saturating_add(since)
        };
        let span = Span {
            trace_id: trace_id.to_vec(),
            span_id: span_id.to_vec(),
            parent_span_id: parent.map(|id| id.to_vec()).unwrap_or_default(),
            name: name.to_owned(),
            kind,
            start_time_unix_nano: ns(began),
            end_time_unix_nano: ns(Instant::now()),
            attributes: attributes.into_iter().map(|(key, value)| KeyValue::text(key, value)).collect(),
        };
        if inner.queue.try_send(span).is_err() {
            inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that a collector took, and that were dropped; None if there is no collector.
    pub(crate) fn counts(&self) -> Option<(u64, u64)> {
        let inner = self.0.as_ref()?;
        Some((inner.exported.load(Ordering::Relaxed), inner.dropped.load(Ordering::Relaxed)))
    }
}

async fn export(inner: std::sync::Weak<Inner>, mut spans: mpsc::Receiver<Span>, endpoint: Endpoint, of: String) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut line: Option<Line> = None;
    let mut is_down = false;
    while spans.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if batch.len() < BATCH_MAX {
            tokio::time::sleep(PACE).await;
            while batch.len() < BATCH_MAX
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
        }
        let count = batch.len() as u64;
        let sent = send(&mut line, &endpoint, request(&of, std::mem::take(&mut batch))).await;
        let Some(inner) = inner.upgrade() else { return };
        match sent {
            Ok(()) => {
                inner.exported.fetch_add(count, Ordering::Relaxed);
                if std::mem::take(&mut is_down) {
                    tracing::info!(address = endpoint.address, "the collector takes spans again");
                }
            }
            Err(why) => {
                line = None;
                inner.dropped.fetch_add(count, Ordering::Relaxed);
                if !std::mem::replace(&mut is_down, true) {
                    tracing::warn!(
                        address = endpoint.address,
                        why,
                        "the collector of --otlp_endpoint takes no spans: they are dropped"
                    );
                }
                drop(inner);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn send(line: &mut Option<Line>, endpoint: &Endpoint, body: Vec<u8>) -> Result<(), String> {
    if line.is_none() {
        let dialed = Line::http1(&endpoint.address, PATIENCE, None).await;
        *line = Some(dialed.map_err(|error| error.to_string())?);
    }
    let Some(open) = line else { return Ok(()) };
    let request = http::Request::post(endpoint.path.as_str()).header(CONTENT_TYPE, api::media::PROTOBUF);
    let request = request.body(Body::full(body)).map_err(|error| error.to_string())?;
    let answered = timeout(PATIENCE, async {
        let response = open.send(None, request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        // Read to its end, so that the connection is good for the next one.
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| error.to_string())?;
        }
        Ok::<StatusCode, String>(status)
    });
    let status = answered.await.map_err(|_| format!("no answer in {} s", PATIENCE.as_secs()))??;
    if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
}

fn request(of: &str, spans: Vec<Span>) -> Vec<u8> {
    let scope = Some(Scope { name: "meseta-master".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() });
    let attributes = vec![
        KeyValue::text("service.name", "meseta-master".to_owned()),
        KeyValue::text("service.instance.id", of.to_owned()),
        KeyValue::text("service.version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let scope_spans = vec![ScopeSpans { scope, spans }];
    let resource_spans = vec![ResourceSpans { resource: Some(Resource { attributes }), scope_spans }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// Kinds of spans, as OTLP has them.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;

// `opentelemetry/proto/collector/trace/v1` as far as it is written here.

#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

impl KeyValue {
    fn text(key: &str, text: String) -> KeyValue {
        KeyValue { key: key.to_owned(), value: Some(AnyValue { string_value: Some(text) }) }
    }
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let read = |text: &str| Endpoint::read(text).map(|it| format!("{} {}", it.address, it.path));
        assert_eq!(read("http://c:4318").unwrap(), "c:4318 /v1/traces");
        assert_eq!(read("http://c:4318/a/b/").unwrap(), "c:4318 /a/b/v1/traces");
        for (wrong, says) in [("https://c:4318", "http:// alone"), ("c:4318", "would be"), ("http://c", "would be")] {
            assert!(read(wrong).unwrap_err().contains(says), "{wrong}");
        }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_nobody_waits() {
        // Nobody takes anything there: the port is closed again.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let tracer = Tracer::start(Endpoint::read(&format!("http://{address}")).unwrap(), "m:1".into());
        for _ in 0..2 * QUEUE_MAX {
            tracer.part("decide", tracer.now(), [7; 16], Vec::new());
        }
        let (exported, dropped) = tracer.counts().unwrap();
        assert_eq!((exported, dropped), (0, QUEUE_MAX as u64));
        assert_eq!((Tracer::default().now(), Tracer::default().counts()), (None, None));
    }
}
