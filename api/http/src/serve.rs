//! The accept loop.

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::limits::{
    HEAD_BYTES_MAX, HTTP2_SEND_BYTES_MAX, HTTP2_STREAM_WINDOW_BYTES, HTTP2_STREAMS_MAX, HTTP2_WINDOW_BYTES,
};
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::timeout;

use crate::Admission;
use crate::connections::{Connections, Place};
use crate::reply::{accepts_gzip, gzip, text};
use crate::socket::{PING, PONG, look_after};
use crate::tls::{ClientName, Member, Tls};
use crate::{Bounds, Request, Response, guard};

/// Time for requests under way to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(2);
/// Between two looks whether a silent connection still belongs to a client with a stream.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What masters and agents ask for all the time.
pub const INNER: &[&str] = &["/meseta/raft", "/meseta/submit", "/meseta/deliver", "/meseta/hello", "/meseta/agent"];

/// How a port is served.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Who may be connected.
    pub connections: Arc<Connections>,
    /// Paths of those for whom the reserve is, once they were answered well: [`INNER`] on masters.
    pub reserved: &'static [&'static str],
    /// Where masters and agents are served, if not where [`serve_with`] itself runs.
    pub inside: Option<Handle>,
    /// The same for everybody else.
    pub outside: Option<Handle>,
    /// What the port speaks, if it is not clear text.
    pub tls: Option<Arc<Tls>>,
    /// Whoever connects from this machine may speak clear text all the same: agents' executors do.
    pub plain_from_here: bool,
    /// Where it is noted who comes without a handshake that counts.
    pub noting: Option<Arc<Admission>>,
}

impl Serving {
    /// Bounds as they follow from what this process may open; everybody is served in one place.
    pub fn new() -> Serving {
        let connections = Connections::new(Bounds::of_this_process());
        Serving {
            connections,
            reserved: INNER,
            inside: None,
            outside: None,
            tls: None,
            plain_from_here: false,
            noting: None,
        }
    }
}

impl Default for Serving {
    fn default() -> Serving {
        Serving::new()
    }
}

/// As [`serve_with`], with bounds that follow from what this process may open.
pub async fn serve<H, F>(listener: TcpListener, handler: H, stop: watch::Receiver<bool>)
where
    H: Fn(Request, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    serve_with(listener, handler, stop, Serving::new()).await;
}

/// Accepts connections and answers requests by `handler(request, peer)` until `stop` is true (or its sender gone);
/// then requests under way have two seconds to end. HTTP/1.1 and HTTP/2 with prior knowledge share the port. Each
/// connection is a task; a panic in a handler ends its connection alone.
pub async fn serve_with<H, F>(listener: TcpListener, handler: H, stop: watch::Receiver<bool>, serving: Serving)
where
    H: Fn(Request, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let handler = Arc::new(handler);
    let begin =
        |(socket, peer): (TcpStream, SocketAddr), connections: &mut JoinSet<()>, stop: &watch::Receiver<bool>| {
            look_after(&socket);
            // Whoever finds no room is hung up on: an answer would need the room.
            let Ok((place, cut)) = serving.connections.admit(peer) else { return };
            let port = Port::new(&handler, peer, place, stop, &serving);
            connections.spawn(port.greet(socket, cut));
        };
    take_all(async move || listener.accept().await, begin, stop).await;
}

/// Begins every connection that comes, until `stop`; those that there are then have a while to end.
async fn take_all<S>(
    accept: impl AsyncFn() -> std::io::Result<S>,
    begin: impl Fn(S, &mut JoinSet<()>, &watch::Receiver<bool>),
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(accepted) => begin(accepted, &mut connections, &stop),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would only spin.
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // Nobody else is let in.
    drop(accept);
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
}

/// The same through a socket of this machine. Whoever comes through it is taken for somebody at 127.0.0.1, who speaks clear text.
pub async fn serve_local<H, F>(listener: UnixListener, handler: H, stop: watch::Receiver<bool>, serving: Serving)
where
    H: Fn(Request, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let handler = Arc::new(handler);
    let begin = |(socket, _), connections: &mut JoinSet<()>, stop: &watch::Receiver<bool>| {
        let Ok((place, cut)) = serving.connections.admit(peer) else { return };
        let port = Port::new(&handler, peer, place, stop, &serving);
        connections.spawn(port.serve(socket, cut));
    };
    take_all(async move || listener.accept().await, begin, stop).await;
}

/// One connection, and where its work is done.
struct Port<H> {
    handler: Arc<H>,
    peer: SocketAddr,
    place: Arc<Place>,
    stop: watch::Receiver<bool>,
    reserved: &'static [&'static str],
    /// Where masters and agents are served, if that is a place of its own.
    inside: Option<Handle>,
    outside: Option<Handle>,
    tls: Option<Arc<Tls>>,
    plain_from_here: bool,
    noting: Option<Arc<Admission>>,
    /// Who it is, if its certificate says so.
    client: Option<ClientName>,
    member: Member,
}

/// The beginning of what masters and agents say.
const FIRST_BYTES: usize = 24;

/// What whoever speaks clear text to a port that speaks TLS gets.
const ONLY_TLS: &str = "This port speaks TLS only: use https://";

impl<H, F> Port<H>
where
    H: Fn(Request, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    fn new(
        handler: &Arc<H>,
        peer: SocketAddr,
        place: Place,
        stop: &watch::Receiver<bool>,
        serving: &Serving,
    ) -> Port<H> {
        Port {
            handler: handler.clone(),
            peer,
            place: Arc::new(place),
            stop: stop.clone(),
            reserved: serving.reserved,
            inside: serving.inside.clone(),
            outside: serving.outside.clone(),
            tls: serving.tls.clone(),
            plain_from_here: serving.plain_from_here,
            noting: serving.noting.clone(),
            client: None,
            member: Member::default(),
        }
    }

    /// Waits for the first bytes, which tell where the connection is served.
    async fn greet(mut self, socket: TcpStream, cut: Arc<Notify>) {
        let mut first = [0; FIRST_BYTES];
        let Some(length) = self.await_first(socket.peek(&mut first), &cut).await else { return };
        match self.tls.clone() {
            Some(tls) if Tls::is_handshake(&first[..length]) => self.greet_secured(&tls, socket, cut).await,
            Some(tls) if !tls.takes_plain() && !self.is_from_here(&socket) => refuse_plain(socket).await,
            _ => {
                let Some(place) = self.place_of(&first[..length]) else { return self.serve(socket, cut).await };
                let Ok(socket) = socket.into_std() else { return };
                let serve = async move {
                    match TcpStream::from_std(socket) {
                        Ok(socket) => self.serve(socket, cut).await,
                        Err(error) => tracing::debug!(%error, "a connection cannot be served"),
                    }
                };
                settle(place, serve).await;
            }
        }
    }

    /// Whether the other end is on this machine, and that is enough.
    fn is_from_here(&self, socket: &TcpStream) -> bool {
        self.plain_from_here && socket.local_addr().is_ok_and(|own| own.ip() == self.peer.ip())
    }

    /// The same behind a handshake.
    async fn greet_secured(mut self, tls: &Tls, socket: TcpStream, cut: Arc<Notify>) {
        let patience = self.place.bounds().first_byte;
        let shaken = tokio::select! {
            shaken = timeout(patience, tls.accept(socket)) => shaken,
            () = cut.notified() => return self.place.cut(),
            _ = self.stop.wait_for(|stop| *stop) => return,
        };
        let mut link = match shaken {
            Ok(Ok(link)) => link,
            Ok(Err(why)) => {
                tracing::debug!(peer = %self.peer, why, "no TLS");
                if let Some(admission) = &self.noting {
                    admission.not_secured(self.peer, &why);
                }
                return;
            }
            Err(_) => return self.place.cut(),
        };
        (self.client, self.member) = tls.client(&link);
        let mut first = [0; FIRST_BYTES];
        let Some(length) = self.await_first(link.read(&mut first), &cut).await else { return };
        let place = self.place_of(&first[..length]);
        let is_elsewhere = place.is_some();
        let serve = async move {
            if is_elsewhere {
                link.settle();
            }
            let begun = std::io::Cursor::new(first).take(length as u64);
            let (reading, writing) = tokio::io::split(link);
            self.serve(tokio::io::join(begun.chain(reading), writing), cut).await;
        };
        match place {
            None => serve.await,
            Some(place) => settle(place, serve).await,
        }
    }

    /// How many bytes came; None if there is nobody to serve. Whoever is silent for too long goes.
    async fn await_first(&mut self, read: impl Future<Output = std::io::Result<usize>>, cut: &Notify) -> Option<usize> {
        tokio::pin!(read);
        let mut patience = self.place.bounds().first_byte;
        loop {
            tokio::select! {
                read = timeout(patience, read.as_mut()) => match read {
                    Ok(Ok(0) | Err(_)) => return None,
                    Ok(Ok(length)) => return Some(length),
                    Err(_) if self.place.may_stay_silent() => patience = LOOK_EVERY,
                    Err(_) => {
                        self.place.cut();
                        return None;
                    }
                },
                () = cut.notified() => {
                    self.place.cut();
                    return None;
                }
                _ = self.stop.wait_for(|stop| *stop) => return None,
            }
        }
    }

    /// Where whoever begins like this is served, if that is elsewhere. HTTP/2 with prior knowledge is what masters and
    /// agents speak to each other; Raft is HTTP/1.1.
    fn place_of(&self, first: &[u8]) -> Option<Handle> {
        let is_inner = first.starts_with(b"PRI *") || first.starts_with(b"POST /meseta/");
        if is_inner { self.inside.clone() } else { self.outside.clone() }
    }

    async fn serve(self, socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, cut: Arc<Notify>) {
        let Port { handler, peer, place, mut stop, reserved, inside, outside, client, member, .. } = self;
        let asked = Arc::new(Notify::new());
        let service = {
            let (place, asked) = (place.clone(), asked.clone());
            service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                asked.notify_one();
                if let Some(client) = &client {
                    request.extensions_mut().insert(client.clone());
                }
                if member != Member::default() {
                    request.extensions_mut().insert(member);
                }
                let (handler, place) = (handler.clone(), place.clone());
                let is_inner = reserved.contains(&request.uri().path());
                let elsewhere = if is_inner { inside.clone() } else { outside.clone() };
                async move {
                    let answer = answer(request.map(Into::into), peer, handler, place, is_inner);
                    let response = match run_in(elsewhere, answer).await {
                        Ok(response) => response,
                        Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
                        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "This process stops"),
                    };
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // It would run while a connection that has spoken is silent, too.
            .header_read_timeout(None)
            .max_buf_size(HEAD_BYTES_MAX)
            .title_case_headers(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES)
            .max_concurrent_streams(HTTP2_STREAMS_MAX)
            .max_send_buf_size(HTTP2_SEND_BYTES_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG);
        let connection = builder.serve_connection(TokioIo::new(socket), service);
        tokio::pin!(connection);
        let first = tokio::time::sleep(place.bounds().first_head);
        tokio::pin!(first);
        let (mut new, mut stopping) = (true, false);
        let ended = loop {
            tokio::select! {
                ended = connection.as_mut() => break ended,
                () = asked.notified(), if new => new = false,
                () = first.as_mut(), if new => return place.cut(),
                () = cut.notified(), if !stopping => {
                    if place.is_new() {
                        return place.cut();
                    }
                    // It was idle and makes room; if it is asked something now, that is answered.
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }
}

/// Does `work` in another place, for as long as it is waited for.
async fn settle(place: Handle, work: impl Future<Output = ()> + Send + 'static) {
    let working = place.spawn(work);
    let _abort = Abort(working.abort_handle());
    let _ = working.await;
}

/// A sentence to whoever took the port for another.
async fn refuse_plain(mut socket: TcpStream) {
    let length = ONLY_TLS.len();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{ONLY_TLS}"
    );
    // What it said has to be read, or the answer may be lost with it.
    let mut said = [0; 4096];
    let _ = timeout(DRAIN, async {
        let _ = socket.read(&mut said).await;
        let _ = socket.write_all(answer.as_bytes()).await;
        let _ = socket.shutdown().await;
    })
    .await;
}

/// Answers one request, if there is room for it.
async fn answer<H, F>(
    request: Request,
    peer: SocketAddr,
    handler: Arc<H>,
    place: Arc<Place>,
    is_inner: bool,
) -> Response
where
    H: Fn(Request, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let Some(working) = place.request(is_inner) else { return crowded() };
    let packed = accepts_gzip(request.headers());
    let is_personal = guard::is_personal(&request);
    let mut response = handler(request, peer).await;
    // Masters and agents among themselves are no browsers.
    if !is_inner {
        guard::guard(&mut response, is_personal);
    }
    if is_inner && !place.inner_answered(response.status().is_success()) {
        return crowded();
    }
    if response.body().is_endless() {
        place.streams();
    }
    drop(working);
    if packed { gzip(response).await } else { response }
}

/// 503 to whoever finds no room; the connection ends with it.
fn crowded() -> Response {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "Too many clients are connected: try again later");
    response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
    response
}

/// Runs `work` in another place, if there is one; what is not waited for any more is dropped there, too.
///
/// # Errors
/// If the work panicked, or that place is no more.
pub async fn run_in<T>(place: Option<Handle>, work: impl Future<Output = T> + Send + 'static) -> Result<T, JoinError>
where
    T: Send + 'static,
{
    let Some(place) = place.filter(|place| place.id() != Handle::current().id()) else { return Ok(work.await) };
    let task = place.spawn(work);
    let _abort = Abort(task.abort_handle());
    task.await
}

struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
