//! The least HTTP/1.1 that a load generator needs: whole requests prepared as bytes, answers read with one buffer a
//! connection. It costs the machine little, so that what is measured is the server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use api_tls::Anybody;
use base64::Engine as _;
use bytes::Bytes;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What bytes go over: TCP, or TLS over that.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Wire for T {}

/// A principal with its secret, which are shown by TLS alone.
#[derive(Clone)]
pub(crate) struct Login {
    /// A line of a head.
    pub(crate) header: String,
    pub(crate) principal: String,
    tls: TlsConnector,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login of {}", self.principal)
    }
}

impl Login {
    /// Whoever answers is believed: what is measured is its work.
    pub(crate) fn new(principal: &str, secret: &str) -> Result<Login, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)));
        let tls = TlsConnector::from(Arc::new(config.with_no_client_auth()));
        let shown = base64::engine::general_purpose::STANDARD.encode(format!("{principal}:{secret}"));
        let header = format!("Authorization: Basic {shown}\r\n");
        Ok(Login { header, principal: principal.to_owned(), tls })
    }
}

/// A connection that is kept alive.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Box<dyn Wire>,
    /// Read and not yet consumed: `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    /// Body of the last answer, without framing.
    body: Vec<u8>,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// 200, 202, 503, ...
    pub(crate) status: u16,
    /// Value of `Mesos-Stream-Id`.
    pub(crate) stream_id: Option<String>,
    /// Value of `Location`.
    pub(crate) location: Option<String>,
    length: Length,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Known(usize),
    Chunked,
}

impl Connection {
    /// Connects without delay of small segments.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self::over(Box::new(socket)))
    }

    /// The same, by TLS if somebody is to log in.
    pub(crate) async fn open_as(address: SocketAddr, login: Option<&Login>) -> io::Result<Self> {
        let Some(login) = login else { return Self::open(address).await };
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::IpAddress(address.ip().into());
        Ok(Self::over(Box::new(login.tls.connect(name, socket).await?)))
    }

    fn over(socket: Box<dyn Wire>) -> Self {
        Self { socket, buffer: Vec::with_capacity(16 << 10), start: 0, body: Vec::new() }
    }

    /// Sends a whole request and reads the whole answer; its body is in [`Self::body`]. Returns the status.
    pub(crate) async fn call(&mut self, request: &[u8]) -> io::Result<u16> {
        let head = self.open_answer(request).await?;
        self.body.clear();
        match head.length {
            Length::Known(length) => {
                while self.ready() < length {
                    self.fill().await?;
                }
                self.body.extend_from_slice(&self.buffer[self.start..self.start + length]);
                self.start += length;
            }
            Length::Chunked => while self.chunk().await? {},
        }
        Ok(head.status)
    }

    /// Sends a whole request and reads the head of the answer.
    pub(crate) async fn open_answer(&mut self, request: &[u8]) -> io::Result<Head> {
        self.socket.write_all(request).await?;
        let end = loop {
            if let Some(end) = find(&self.buffer[self.start..], b"\r\n\r\n") {
                break self.start + end + 4;
            }
            self.fill().await?;
        };
        let head = parse_head(&self.buffer[self.start..end])?;
        self.start = end;
        Ok(head)
    }

    /// The body of the last answer.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Appends the next chunk to the body; false after the last one.
    async fn chunk(&mut self) -> io::Result<bool> {
        let line_end = loop {
            if let Some(end) = find(&self.buffer[self.start..], b"\r\n") {
                break self.start + end;
            }
            self.fill().await?;
        };
        let size = std::str::from_utf8(&self.buffer[self.start..line_end]).ok();
        let size = size.and_then(|text| usize::from_str_radix(text.split(';').next()?.trim(), 16).ok());
        let size = size.ok_or_else(|| invalid("not a chunk size"))?;
        self.start = line_end + 2;
        while self.ready() < size + 2 {
            self.fill().await?;
        }
        self.body.extend_from_slice(&self.buffer[self.start..self.start + size]);
        self.start += size + 2;
        Ok(size > 0)
    }

    /// The next record of a RecordIO body; `None` when the body ended. Do not mix with [`Self::call`].
    pub(crate) async fn record(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(end) = find(&self.body, b"\n") {
                let length = std::str::from_utf8(&self.body[..end]).ok().and_then(|text| text.parse::<usize>().ok());
                let length = length.ok_or_else(|| invalid("not a record's length"))?;
                if self.body.len() > end + length {
                    let record = Bytes::copy_from_slice(&self.body[end + 1..=end + length]);
                    self.body.drain(..=end + length);
                    return Ok(Some(record));
                }
            }
            if !self.chunk().await? {
                return Ok(None);
            }
        }
    }

    fn ready(&self) -> usize {
        self.buffer.len() - self.start
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > 64 << 10 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        match self.socket.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended")),
            _ => Ok(()),
        }
    }
}

/// A POST of JSON as it goes over the wire, with more headers (each `Name: value\r\n`).
pub(crate) fn post_json(address: SocketAddr, path: &str, headers: &str, body: &str) -> Bytes {
    Bytes::from(format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
         {headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// A GET as it goes over the wire.
pub(crate) fn get(address: SocketAddr, path: &str) -> Bytes {
    Bytes::from(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: application/json\r\n\r\n"))
}

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let head = std::str::from_utf8(head).map_err(|_| invalid("a head that is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| invalid("not a status line"))?;
    let (mut length, mut stream_id, mut location) = (Length::Known(0), None, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Length::Known(value.parse().map_err(|_| invalid("not a length"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            length = Length::Chunked;
        } else if name.eq_ignore_ascii_case("mesos-stream-id") {
            stream_id = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("location") {
            location = Some(value.to_owned());
        }
    }
    Ok(Head { status, stream_id, location, length })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
