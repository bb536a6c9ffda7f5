//! The engine's HTTP interface, on its socket: one request, one connection. Paths without a version are those of the engine's
//! own version; only what every version has alike since 1.24 is used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// An answer that is JSON has so many bytes at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Of what the engine says that is wrong, so much is told.
const MESSAGE_CHARS_MAX: usize = 1000;
/// The longest wait for an answer that does not wait for something else. The engine holds a container while it starts or ends it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Error {
    /// Nobody is there, or ended the conversation.
    Gone(String),
    /// The engine says no: with this status, in its words.
    Said(u16, String),
    /// That is no answer of an engine.
    Odd(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Gone(why) => write!(f, "the Docker Engine cannot be asked: {why}"),
            Error::Said(_, message) => write!(f, "Docker Engine: {message}"),
            Error::Odd(why) => write!(f, "the Docker Engine's answer cannot be read: {why}"),
        }
    }
}

impl Error {
    /// Whether what was asked about is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Error::Said(404, _))
    }

    /// Whether what was to be ended does not run.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Error::Said(409, _))
    }
}

/// One engine.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
}

impl Engine {
    pub(crate) fn new(socket: &str) -> Engine {
        Engine { socket: Path::new(socket.strip_prefix("unix://").unwrap_or(socket)).to_owned() }
    }

    /// Asks, and gives what the answer begins with. A status that says no is an error.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<http::Response<Incoming>, Error> {
        let gone = |error: &dyn fmt::Display| Error::Gone(format!("{}: {error}", self.socket.display()));
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| gone(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
        tokio::spawn(connection.with_upgrades());
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "docker")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(bytes))
            .map_err(|error| Error::Odd(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| gone(&error))?;
        let status = response.status().as_u16();
        if status < 400 {
            return Ok(response);
        }
        let text = collect(response.into_body()).await.unwrap_or_default();
        let said = serde_json::from_slice::<Value>(&text).ok();
        let said = said.as_ref().and_then(|said| said.get("message")).and_then(Value::as_str).map(str::to_owned);
        let said = said.unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
        Err(Error::Said(status, said.trim().chars().take(MESSAGE_CHARS_MAX).collect()))
    }

    /// Asks for JSON. It is waited for as long as anything takes at an engine that is well.
    pub(crate) async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        self.json_within(PATIENCE, method, path, body).await
    }

    /// The same, with a time of its own.
    pub(crate) async fn json_within(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let asked = async {
            let text = collect(self.open(method, path, body).await?.into_body()).await?;
            if text.iter().all(u8::is_ascii_whitespace) {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&text).map_err(|error| Error::Odd(error.to_string()))
        };
        let late = || Error::Gone(format!("{} said nothing for {} s", self.socket.display(), patience.as_secs()));
        tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err(late()))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Error> {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        self.json(Method::POST, path, body).await
    }

    /// What the engine knows of a container.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Value, Error> {
        let found = self.get(&format!("/containers/{name}/json")).await?;
        match found.get("State").is_some_and(Value::is_object) {
            true => Ok(found),
            false => Err(Error::Odd("it has no State".to_owned())),
        }
    }

    /// Takes a container away, with what runs in it. One that is not there is no failure.
    pub(crate) async fn remove(&self, name: &str, force: bool) -> Result<(), Error> {
        match self.json(Method::DELETE, &format!("/containers/{name}?v=1&force={force}"), None).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }
}

async fn collect(body: Incoming) -> Result<Bytes, Error> {
    let whole = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    whole.map(http_body_util::Collected::to_bytes).map_err(|error| Error::Odd(error.to_string()))
}

/// Something within something, by its names.
pub(crate) fn at<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().try_fold(value, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What is made of an answer, whatever that is.
    async fn inspected(answer: &[u8]) -> Result<Value, Error> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let engine = Engine::new(&format!("unix://{}", socket.display()));
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(answer).await;
        };
        tokio::join!(engine.inspect("c"), answering).0
    }

    #[tokio::test]
    async fn odd_answers_are_told_of_and_bounded() {
        let with = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes();
        assert!(inspected(&with("{\"State\": {}}")).await.is_ok());
        for body in ["", "[]", "{}", "{\"State\": 7}", "null", "{\"State\":", "\u{0}"] {
            assert!(matches!(inspected(&with(body)).await, Err(Error::Odd(_))), "{body:?}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(matches!(inspected(&with(&deep)).await, Err(Error::Odd(_))));
        let huge = format!("{{\"State\": {{\"a\": \"{}\"}}}}", "x".repeat(ANSWER_BYTES_MAX));
        assert!(matches!(inspected(&with(&huge)).await, Err(Error::Odd(_))));
        assert!(matches!(inspected(b"not HTTP at all\r\n\r\n").await, Err(Error::Gone(_))));
        assert!(matches!(inspected(b"").await, Err(Error::Gone(_))));
        let no = "HTTP/1.1 500 No\r\ncontent-length: 18\r\n\r\n{\"message\": \"why\"}";
        assert_eq!(inspected(no.as_bytes()).await.unwrap_err().to_string(), "Docker Engine: why");
        let long = format!("HTTP/1.1 404 No\r\ncontent-length: {}\r\n\r\n{}", 1 << 16, "x".repeat(1 << 16));
        let error = inspected(long.as_bytes()).await.unwrap_err();
        assert!(error.is_missing() && error.to_string().len() < 2000);
        assert!(matches!(Engine::new("/nowhere").inspect("c").await, Err(Error::Gone(_))));
    }
}
