//! Calls to the agent: HTTP/2, many at a time on one connection.

use std::time::Duration;

use api::media::Media;
use api::recordio::Decoder;
use api::v1::{agent, executor};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;

use crate::surroundings::Surroundings;

/// An answer is not longer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// An event is not longer, in bytes.
const EVENT_BYTES_MAX: usize = 64 << 20;
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// So often an agent is asked whether it is there, while an answer is waited for.
const PING: Duration = Duration::from_secs(20);

type Sender = http2::SendRequest<Full<Bytes>>;

async fn timely<S>(connecting: impl Future<Output = std::io::Result<S>>) -> Result<S, String> {
    let connected = tokio::time::timeout(CONNECT, connecting).await.map_err(|error| error.to_string())?;
    connected.map_err(|error| error.to_string())
}

/// Begins to speak.
async fn greet(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Sender, String> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Why records do not come, or no more.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The agent said so; otherwise it may not be there.
    pub(crate) is_refused: bool,
    /// A sentence.
    pub(crate) why: String,
}

impl From<String> for Broken {
    fn from(why: String) -> Broken {
        Broken { is_refused: false, why }
    }
}

/// A connection that is made at need.
#[derive(Debug)]
pub(crate) struct Line {
    address: String,
    /// A socket of this machine that leads to it, too.
    socket: Option<String>,
    /// What this executor shows its agent, if that asks.
    token: Option<String>,
    open: Mutex<Option<Sender>>,
}

impl Line {
    pub(crate) fn new(around: &Surroundings) -> Line {
        let token = std::env::var("MESOS_EXECUTOR_AUTHENTICATION_TOKEN").ok().filter(|token| !token.is_empty());
        Line { address: around.agent.clone(), socket: around.socket.clone(), token, open: Mutex::new(None) }
    }

    async fn sender(&self) -> Result<Sender, String> {
        let mut open = self.open.lock().await;
        if let Some(sender) = open.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let through = match &self.socket {
            Some(path) => timely(UnixStream::connect(path)).await.ok(),
            None => None,
        };
        let sender = match through {
            Some(socket) => greet(socket).await?,
            // There is none, or no more: an agent may have been started again without it.
            None => {
                let socket = timely(TcpStream::connect(&self.address)).await?;
                let _ = socket.set_nodelay(true);
                greet(socket).await?
            }
        };
        Ok(open.insert(sender).clone())
    }

    async fn send(&self, path: &str, body: Bytes) -> Result<http::Response<hyper::body::Incoming>, String> {
        let mut sender = self.sender().await?;
        let kind = Media::Protobuf.content_type();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", kind)
            .header("accept", kind);
        let request = match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        sender.send_request(request).await.map_err(|error| error.to_string())
    }

    async fn exchange(&self, path: &str, body: Bytes) -> Result<(u16, Bytes), String> {
        let response = self.send(path, body).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }

    /// A call of the agent's own API: status and body of the answer.
    pub(crate) async fn call(&self, call: &agent::Call) -> Result<(u16, Bytes), String> {
        self.exchange("/api/v1", call.encode_to_vec().into()).await
    }

    /// A call of the executor's API that is answered at once.
    pub(crate) async fn say(&self, call: &executor::Call) -> Result<(u16, Bytes), String> {
        self.exchange("/api/v1/executor", call.encode_to_vec().into()).await
    }

    /// Subscribes: what comes goes to `heard`, until the stream ends. Why it did.
    pub(crate) async fn subscribe(&self, call: &executor::Call, heard: impl Fn(executor::Event)) -> String {
        let streamed = self.stream("/api/v1/executor", call.encode_to_vec().into(), heard).await;
        streamed.err().map_or_else(|| "the agent ended the stream".to_owned(), |broken| broken.why)
    }

    /// A session: what its process writes goes to `heard`, until it has ended. Dropped before that, the agent ends it.
    pub(crate) async fn session(&self, call: &agent::Call, heard: impl Fn(agent::ProcessIo)) -> Result<(), Broken> {
        self.stream("/api/v1", call.encode_to_vec().into(), heard).await
    }

    /// A call that is answered by records, until their end.
    async fn stream<T: api::wire::Wire>(&self, path: &str, body: Bytes, heard: impl Fn(T)) -> Result<(), Broken> {
        let mut response = self.send(path, body).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
            return Err(Broken { is_refused: status.is_client_error(), why: format!("{status}: {text}") });
        }
        let mut records = Decoder::new(EVENT_BYTES_MAX);
        loop {
            match response.body_mut().frame().await {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.to_string().into()),
                Some(Ok(frame)) => records.push(&frame.into_data().unwrap_or_default()),
            }
            while let Some(record) = records.next() {
                let record = record.map_err(|error| error.to_string())?;
                heard(api::decode_protobuf::<T>(record).map_err(|error| error.to_string())?);
            }
        }
    }
}
