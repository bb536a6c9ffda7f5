//! HTTP to masters: any of a list will do, and a 307 is followed.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::Error;

/// How long an answer's head may take. Masters hold requests for a moment while they elect.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);
/// For what takes as long as it takes: a new master learns everything first.
pub(crate) const LONG: Duration = Duration::from_secs(600);
const CONNECT: Duration = Duration::from_secs(5);
/// How long a follower may name a leader that is gone: an election takes less than a second.
const ELECTION: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(100);

/// A request, ready to be sent to any master.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// JSON, posted; a GET without.
    pub(crate) body: Option<String>,
    pub(crate) stream_id: Option<String>,
}

/// An answer whose body is still to be read, and who gave it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) address: String,
    pub(crate) inner: http::Response<Incoming>,
}

/// Splits `--master=H:P,H:P`.
pub(crate) fn addresses(text: &str) -> Result<Vec<String>, Error> {
    let list: Vec<String> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(with_port).collect();
    if list.is_empty() || list.iter().any(|word| word.contains("//") || word.contains('/')) {
        return Err(Error::Usage(format!("--master={text}: give HOST:PORT, or several with commas")));
    }
    Ok(list)
}

fn with_port(address: &str) -> String {
    if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        address.to_owned()
    } else {
        format!("{address}:5050")
    }
}

/// Asks each master in turn until one answers; follows redirects, and waits out an election.
pub(crate) async fn send(masters: &[String], request: &Request) -> Result<Answer, Error> {
    send_within(masters, request, ANSWER).await
}

/// [`send`], with a limit of its own on the time until an answer begins.
pub(crate) async fn send_within(masters: &[String], request: &Request, limit: Duration) -> Result<Answer, Error> {
    let start = tokio::time::Instant::now();
    loop {
        let mut reason = String::new();
        let mut electing = false;
        for master in masters {
            match follow(master, request, limit).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::LeaderGone(error)) => {
                    electing = true;
                    reason = format!("the leader that it named does not answer: {error}");
                }
                Err(Trouble::Other(error)) => reason = error,
            }
        }
        if !electing || start.elapsed() > ELECTION {
            return Err(Error::Unreachable { masters: masters.join(", "), reason });
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Why there is no answer.
enum Trouble {
    /// A master answered, but the leader that it named could not be reached: nothing was sent to it.
    LeaderGone(String),
    Other(String),
}

async fn follow(master: &str, request: &Request, limit: Duration) -> Result<Answer, Trouble> {
    let mut address = master.to_owned();
    for hop in 0..5 {
        let socket = connect(&address).await.map_err(|error| match hop {
            0 => Trouble::Other(error),
            _ => Trouble::LeaderGone(error),
        })?;
        let answer = timeout(limit, send_to(socket, &address, request)).await;
        let answer = answer.map_err(|_| Trouble::Other("it takes too long".to_owned()))?.map_err(Trouble::Other)?;
        if answer.inner.status() != http::StatusCode::TEMPORARY_REDIRECT {
            return Ok(answer);
        }
        let location = answer.inner.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| Trouble::Other("a redirect without a location".into()))?;
        let after = location.split_once("//").map_or(location, |(_, after)| after);
        address = after.split('/').next().unwrap_or_default().to_owned();
    }
    Err(Trouble::Other("redirected in circles".into()))
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    let socket = timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_| "no connection in time".to_owned())?;
    socket.map_err(|error| error.to_string())
}

async fn send_to(socket: TcpStream, address: &str, request: &Request) -> Result<Answer, String> {
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
    // Errors of the connection also reach whoever reads the answer.
    tokio::spawn(connection);
    let mut builder = http::Request::builder()
        .uri(&request.path)
        .header(http::header::HOST, address)
        .header(http::header::ACCEPT, "application/json");
    if let Some(stream_id) = &request.stream_id {
        builder = builder.header("Mesos-Stream-Id", stream_id);
    }
    let message = match &request.body {
        Some(body) => builder
            .method(http::Method::POST)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.clone()))),
        None => builder.body(Full::default()),
    };
    let message = message.map_err(|error| error.to_string())?;
    let inner = sender.send_request(message).await.map_err(|error| error.to_string())?;
    Ok(Answer { address: address.to_owned(), inner })
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    /// The whole body as text; an error unless the status is one of success.
    pub(crate) async fn text(self) -> Result<String, Error> {
        let (status, address) = (self.inner.status(), self.address);
        let body = self.inner.into_body().collect().await;
        let body = body.map_err(|error| Error::Failed(format!("{address} broke off its answer: {error}")))?.to_bytes();
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        if status.is_success() {
            return Ok(text);
        }
        let message = if text.is_empty() { status.canonical_reason().unwrap_or("no reason").to_owned() } else { text };
        Err(Error::Refused { address, status: status.as_u16(), message })
    }
}

/// A GET of JSON.
pub(crate) async fn get_json(masters: &[String], path: &str) -> Result<Value, Error> {
    let request = Request { path: path.to_owned(), body: None, stream_id: None };
    let answer = send(masters, &request).await?;
    let address = answer.address.clone();
    let text = answer.text().await?;
    serde_json::from_str(&text).map_err(|error| Error::Failed(format!("{address} did not answer with JSON: {error}")))
}
