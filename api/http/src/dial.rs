//! How masters, agents and the command line reach a master: connections, and the key of the inner endpoints.
//!
//! A [`Pool`] keeps connections to many masters, for short exchanges; a [`Line`] is one connection to one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use blake3::Hash;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::Body;
use crate::secret::{self, CHALLENGE, CHALLENGE_PATH, KEY, PROOF, Random, Secret, Shown};
use crate::socket::{PING, PONG, look_after};
use crate::tls::{Insecure, Link, Member, Tls};

/// Below this path a server asks for the key.
const INNER: &str = "/meseta/";
/// What masters ask of agents; everything else is asked of masters.
const OF_AGENTS: &str = "/meseta/files";
/// The largest answer to an exchange that is not one, in bytes.
const SENTENCE_BYTES_MAX: usize = 64 << 10;
/// Between two warnings of one server.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// An exchange answers so many challenges: one that passed meanwhile, and a new one.
const ATTEMPTS_MAX: usize = 3;
/// A handshake takes several ways there and back, and a little of both processors.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nothing was sent.
    #[error("cannot reach {address}: {why}")]
    Unreachable {
        /// host:port
        address: String,
        /// What was tried.
        why: String,
    },
    /// Sent, perhaps; not answered.
    #[error("no answer from {address}: {why}")]
    Silent {
        /// host:port
        address: String,
        /// What broke.
        why: String,
    },
    /// It does not take our secret: nothing was done.
    #[error("{address} refuses: {sentence}")]
    Refused {
        /// host:port
        address: String,
        /// What it said.
        sentence: String,
    },
    /// It wants to know who we are, beside that we know its secret.
    #[error("{address} does not know who this is")]
    Unknown {
        /// host:port
        address: String,
    },
    /// Whoever answered shows neither that it knows the secret nor a master's certificate: it is none of ours.
    #[error("{0} does not show that it knows the cluster's secret, nor a certificate of a master")]
    Stranger(String),
}

impl DialError {
    fn silent(address: &str, why: &dyn std::error::Error) -> DialError {
        DialError::Silent { address: address.to_owned(), why: innermost(why) }
    }
}

/// What is at the bottom of it: hyper says "connection error" of what a certificate, say, is the reason of.
fn innermost(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => innermost(source),
        None => error.to_string(),
    }
}

/// Shows that this process knows the cluster's secret.
#[derive(Debug)]
pub struct Signer {
    secret: Secret,
    /// Whoever asks for nothing is shown nothing, and believed.
    is_lenient: bool,
    session: Random,
    counter: AtomicU64,
}

/// What one request showed, to be compared with its answer.
struct Signed {
    key: [u8; 32],
    hash: [u8; 32],
}

impl Signer {
    /// Of this process. `is_lenient`: a server that asks for nothing, and so proves nothing, will do.
    pub fn new(secret: Secret, is_lenient: bool) -> Signer {
        Signer { secret, is_lenient, session: secret::random(), counter: AtomicU64::new(1) }
    }

    /// What the server at `address` gave out; None if nothing, which a master by its certificate may.
    fn read_challenge(&self, address: &str, text: &[u8], is_master: bool) -> Result<Option<Random>, DialError> {
        match std::str::from_utf8(text).ok().and_then(secret::unhex) {
            None if self.is_lenient || is_master => Ok(None),
            None => Err(DialError::Stranger(address.to_owned())),
            challenge => Ok(challenge),
        }
    }

    fn sign(
        &self,
        challenge: Random,
        body: Option<Hash>,
        method: &Method,
        path: &str,
        headers: &mut HeaderMap,
    ) -> Signed {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let shown = Shown { challenge, session: self.session, counter, body };
        let key = *self.secret.first();
        let hash = shown.hash(&key, method.as_str(), path);
        headers.insert(KEY, shown.header(hash));
        Signed { key, hash: *hash.as_bytes() }
    }
}

impl Signed {
    /// What the answer says that its body's hash is; None if it is no answer of ours.
    fn proven(&self, status: StatusCode, headers: &HeaderMap) -> Option<Option<Hash>> {
        let (body, hash) = secret::read_proof(headers.get(PROOF)?)?;
        (secret::proof(&self.key, &self.hash, status, body) == hash).then_some(body)
    }
}

/// How a pool's connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// One request at a time on each: none waits behind another.
    Single,
    /// Many at a time on one.
    Shared,
}

/// Connections to the masters, made at need and kept.
pub struct Pool {
    single: Client<Connector, Full<Bytes>>,
    shared: Client<Connector, Full<Bytes>>,
    signer: Option<Signer>,
    /// Whoever answers is believed by its certificate, if not by the secret.
    by_certificate: bool,
    /// The newest of each master.
    challenges: Mutex<BTreeMap<String, Random>>,
    warned: Mutex<BTreeMap<String, Instant>>,
}

/// What is posted to a master.
#[derive(Clone, Debug)]
pub struct Post<'a> {
    /// How.
    pub lane: Lane,
    /// host:port
    pub address: &'a str,
    /// With what is asked behind it.
    pub path: &'a str,
    /// Of the body.
    pub content_type: &'static str,
    /// All of it.
    pub body: Bytes,
    /// A larger answer is none, in bytes.
    pub answer_bytes_max: usize,
}

/// A whole answer.
pub type Answer = (StatusCode, Bytes);

impl Pool {
    /// Without a `signer` nothing is shown, without `tls` all is clear text. A connection that is not there after
    /// `connect_timeout` is none.
    pub fn new(signer: Option<Signer>, tls: Option<Arc<Tls>>, connect_timeout: Duration) -> Pool {
        let by_certificate = tls.as_ref().is_some_and(|tls| tls.names_masters());
        let client = |multiplexed: bool| {
            let connector = Connector { tls: tls.clone(), patience: connect_timeout };
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(60))
                .http2_only(multiplexed)
                .http2_keep_alive_interval(PING)
                .http2_keep_alive_timeout(PONG)
                .http2_initial_stream_window_size(1 << 20)
                .http2_initial_connection_window_size(16 << 20)
                .build(connector)
        };
        let (single, shared) = (client(false), client(true));
        let (challenges, warned) = (Mutex::default(), Mutex::default());
        Pool { single, shared, signer, by_certificate, challenges, warned }
    }

    /// Posts to a master.
    ///
    /// # Errors
    /// If there is no answer, or if whoever answers is none of ours.
    pub async fn post(&self, post: &Post<'_>) -> Result<Answer, DialError> {
        let address = post.address;
        let Some(signer) = self.signer.as_ref() else { return self.unsigned(post).await };
        let sum = blake3::hash(&post.body);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let Some(challenge) = self.challenge(post, signer).await? else { return self.unsigned(post).await };
            let mut headers = HeaderMap::new();
            let signed = signer.sign(challenge, Some(sum), &Method::POST, post.path, &mut headers);
            let (parts, answer) = self.send(post, headers).await?;
            if parts.status == StatusCode::UNAUTHORIZED {
                let next = parts.headers.get(CHALLENGE).and_then(|text| secret::unhex(text.to_str().ok()?));
                match next {
                    Some(next) => self.known().insert(address.to_owned(), next),
                    None => self.known().remove(address),
                };
                // The same again: it is not the challenge that it minds.
                if attempts < ATTEMPTS_MAX && next.is_some_and(|next| next != challenge || attempts == 1) {
                    continue;
                }
                let sentence = String::from_utf8_lossy(&answer).into_owned();
                self.warn(address, &sentence);
                return Err(DialError::Refused { address: address.to_owned(), sentence });
            }
            let is_ours = signed.proven(parts.status, &parts.headers);
            if is_ours.is_none_or(|sum| sum != Some(blake3::hash(&answer))) && !is_member(&parts, post.path) {
                self.known().remove(address);
                self.warn(address, "its answer does not show that it knows the secret");
                return Err(DialError::Stranger(address.to_owned()));
            }
            return Ok((parts.status, answer));
        }
    }

    async fn unsigned(&self, post: &Post<'_>) -> Result<Answer, DialError> {
        let (parts, answer) = self.send(post, HeaderMap::new()).await?;
        let is_believed = match &self.signer {
            Some(signer) => signer.is_lenient,
            None => !self.by_certificate,
        };
        if !is_believed && !is_member(&parts, post.path) {
            let whose = if post.path.starts_with(OF_AGENTS) { "an agent's" } else { "a master's" };
            self.warn(post.address, &format!("its certificate is not {whose}"));
            return Err(DialError::Stranger(post.address.to_owned()));
        }
        Ok((parts.status, answer))
    }

    /// The one to answer; None if nothing needs to be shown there, which is all the same to this process.
    async fn challenge(&self, post: &Post<'_>, signer: &Signer) -> Result<Option<Random>, DialError> {
        if let Some(known) = self.known().get(post.address) {
            return Ok(Some(*known));
        }
        let (path, body, answer_bytes_max) = (CHALLENGE_PATH, Bytes::new(), SENTENCE_BYTES_MAX);
        let question = Post { path, body, answer_bytes_max, ..*post };
        let (parts, text) = self.send(&question, HeaderMap::new()).await?;
        match signer.read_challenge(post.address, &text, is_member(&parts, post.path)) {
            Ok(challenge) => {
                if let Some(challenge) = challenge {
                    self.known().insert(post.address.to_owned(), challenge);
                }
                Ok(challenge)
            }
            Err(error) => {
                self.warn(post.address, "it asks for no secret");
                Err(error)
            }
        }
    }

    async fn send(&self, post: &Post<'_>, headers: HeaderMap) -> Result<(http::response::Parts, Bytes), DialError> {
        let Post { lane, address, path, content_type, body, answer_bytes_max } = post;
        let unreachable = |why: &dyn std::error::Error| match why.source().and_then(|why| why.downcast_ref()) {
            Some(known @ DialError::Unreachable { .. }) => known.clone(),
            _ => DialError::Unreachable { address: (*address).to_owned(), why: innermost(why) },
        };
        let uri: Uri = format!("http://{address}{path}").parse().map_err(|error| unreachable(&error))?;
        let mut request = Request::new(Full::new(body.clone()));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (Method::POST, uri, headers);
        request.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        let client = if *lane == Lane::Shared { &self.shared } else { &self.single };
        let response = client.request(request).await;
        let response = response.map_err(|error| match error.is_connect() {
            true => unreachable(&error),
            false => DialError::silent(address, &error),
        })?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, *answer_bytes_max).collect().await;
        Ok((parts, body.map_err(|error| DialError::silent(address, &*error))?.to_bytes()))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Random>> {
        self.challenges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now and then: it is asked again and again.
    fn warn(&self, address: &str, why: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.get(address).is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            tracing::warn!(address, "no word with another master: {why}");
            warned.insert(address.to_owned(), Instant::now());
        }
    }
}

/// Whether an answer to what was asked at `path` came from one of ours, by its certificate.
fn is_member(parts: &http::response::Parts, path: &str) -> bool {
    let member = parts.extensions.get::<Member>().copied().unwrap_or_default();
    if path.starts_with(OF_AGENTS) { member.agent } else { member.master }
}

/// One connection to a master.
pub struct Line {
    address: String,
    sender: Sender,
    /// Whoever answers is a master by its certificate; None: nobody has to be.
    is_master: Option<bool>,
    /// Ends with the line. Without: ends when the last answer has been read.
    connection: Option<JoinHandle<Result<(), hyper::Error>>>,
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.abort();
        }
    }
}

/// A connection, secured if that is wanted; with downgrade, not secured to whoever speaks no TLS.
async fn connect(address: &str, patience: Duration, tls: Option<&Tls>) -> Result<Link, DialError> {
    let unreachable = |why: String| DialError::Unreachable { address: address.to_owned(), why };
    let socket = tcp(address, patience).await.map_err(unreachable)?;
    let Some(tls) = tls else { return Ok(Link::Plain(socket)) };
    let shaken = timeout(patience.max(HANDSHAKE), tls.connect(address, socket)).await;
    match shaken.unwrap_or_else(|_| Err(Insecure::NoTls("no handshake in time".into()))) {
        Ok(link) => Ok(link),
        Err(Insecure::NoTls(_)) if tls.takes_plain() => {
            tcp(address, patience).await.map(Link::Plain).map_err(unreachable)
        }
        Err(Insecure::NoTls(why)) => Err(unreachable(format!("it does not speak TLS: {why}"))),
        Err(Insecure::Refused(why)) => Err(unreachable(format!("TLS: {why}"))),
    }
}

async fn tcp(address: &str, patience: Duration) -> Result<TcpStream, String> {
    let socket =
        timeout(patience, TcpStream::connect(address)).await.map_err(|_| "no connection in time".to_owned())?;
    let socket = socket.map_err(|error| error.to_string())?;
    look_after(&socket);
    Ok(socket)
}

/// Makes the connections of a pool.
#[derive(Clone)]
struct Connector {
    tls: Option<Arc<Tls>>,
    patience: Duration,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<TokioIo<Link>, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Connector { tls, patience } = self.clone();
        Box::pin(async move {
            let address = to.authority().map_or("", |authority| authority.as_str());
            connect(address, patience, tls.as_deref()).await.map(TokioIo::new)
        })
    }
}

impl Line {
    /// For one request after the other.
    ///
    /// # Errors
    /// [`DialError::Unreachable`]
    pub async fn http1(address: &str, patience: Duration, tls: Option<&Tls>) -> Result<Line, DialError> {
        let socket = connect(address, patience, tls).await?;
        let is_master = tls.filter(|tls| tls.names_masters()).map(|_| socket.served_by().master);
        let (sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(|error| DialError::silent(address, &error))?;
        // Errors of the connection also reach whoever reads the answer.
        tokio::spawn(connection);
        Ok(Line { address: address.to_owned(), sender: Sender::Http1(sender), is_master, connection: None })
    }

    /// For endless bodies both ways, which end with the line.
    ///
    /// # Errors
    /// [`DialError::Unreachable`], or `Silent` if whoever answers speaks no HTTP/2.
    pub async fn http2(address: &str, patience: Duration, tls: Option<&Tls>) -> Result<Line, DialError> {
        let socket = connect(address, patience, tls).await?;
        let is_master = tls.filter(|tls| tls.names_masters()).map(|_| socket.served_by().master);
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .handshake(TokioIo::new(socket));
        let shaken = timeout(patience, handshake).await.map_err(|error| DialError::silent(address, &error))?;
        let (sender, connection) = shaken.map_err(|error| DialError::Silent {
            address: address.to_owned(),
            why: format!("no HTTP/2: {}", innermost(&error)),
        })?;
        let connection = Some(tokio::spawn(connection));
        Ok(Line { address: address.to_owned(), sender: Sender::Http2(sender), is_master, connection })
    }

    /// Sends `request`, whose uri is a path, with the key if that is for the inner endpoints. The body of the answer is
    /// still to be read.
    ///
    /// # Errors
    /// If there is no answer, or if whoever answers is none of ours.
    pub async fn send(
        &mut self,
        signer: Option<&Arc<Signer>>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, DialError> {
        let path = request.uri().path_and_query().map_or_else(String::new, |path| path.as_str().to_owned());
        if !path.starts_with(INNER) {
            return self.pass(request).await;
        }
        let Some(signer) = signer else {
            return match self.is_master {
                Some(false) => Err(DialError::Stranger(self.address.clone())),
                _ => self.pass(request).await,
            };
        };
        let is_master = self.is_master == Some(true);
        let asked = Request::post(CHALLENGE_PATH).body(Body::empty()).expect("a request without surprises");
        let challenge = self.pass(asked).await?.into_body();
        let text = Limited::new(challenge, SENTENCE_BYTES_MAX).collect().await;
        let text = text.map_err(|error| DialError::silent(&self.address, &*error))?.to_bytes();
        let Some(challenge) = signer.read_challenge(&self.address, &text, is_master)? else {
            return self.pass(request).await;
        };
        let (mut parts, body) = request.into_parts();
        let (body, sum) = match body.into_full() {
            Ok(bytes) => {
                let sum = blake3::hash(&bytes);
                (Body::full(bytes), Some(sum))
            }
            Err(stream) => (stream, None),
        };
        let signed = signer.sign(challenge, sum, &parts.method, &path, &mut parts.headers);
        let response = self.pass(Request::from_parts(parts, body)).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && response.headers().contains_key(http::header::WWW_AUTHENTICATE)
        {
            return Err(DialError::Unknown { address: self.address.clone() });
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            let body = Limited::new(response.into_body(), SENTENCE_BYTES_MAX).collect().await;
            let sentence = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
            return Err(DialError::Refused { address: self.address.clone(), sentence });
        }
        match signed.proven(response.status(), response.headers()) {
            Some(_) => Ok(response),
            None if is_master => Ok(response),
            None => Err(DialError::Stranger(self.address.clone())),
        }
    }

    async fn pass(&mut self, mut request: Request<Body>) -> Result<Response<Incoming>, DialError> {
        let silent = |error: hyper::Error| DialError::silent(&self.address, &error);
        match &mut self.sender {
            Sender::Http1(sender) => {
                if let Ok(host) = http::HeaderValue::try_from(self.address.as_str()) {
                    request.headers_mut().insert(HOST, host);
                }
                sender.ready().await.map_err(silent)?;
                sender.send_request(request).await.map_err(silent)
            }
            Sender::Http2(sender) => {
                let path = request.uri().to_string();
                if let Ok(uri) = format!("http://{}{path}", self.address).parse() {
                    *request.uri_mut() = uri;
                }
                sender.send_request(request).await.map_err(silent)
            }
        }
    }
}
