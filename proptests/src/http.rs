//! HTTP/1.1 by hand: what is sent is what the test wrote, and an answer shows its chunks as they were framed.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How long one read may take before the test gives up on the other side.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A request, with nothing added but `Host` and, for a body, `Content-Length`.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path and query, as they stand on the request line.
    pub path: String,
    /// In the order in which they are sent, in this spelling.
    pub headers: Vec<(String, String)>,
    /// Sent with a `Content-Length`, unless `chunks` is set.
    pub body: Vec<u8>,
    /// The body in chunks of these sizes, the rest in a last one, instead of a `Content-Length`.
    pub chunks: Option<Vec<usize>>,
}

/// An `Authorization` by name and secret.
pub fn basic(principal: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{principal}:{secret}")))
}

impl Request {
    /// A GET without headers.
    pub fn get(path: &str) -> Self {
        Self { method: "GET".into(), path: path.into(), ..Self::default() }
    }

    /// A POST of JSON that accepts JSON.
    pub fn post_json(path: &str, body: &str) -> Self {
        Self { method: "POST".into(), path: path.into(), body: body.into(), ..Self::default() }
            .header("Content-Type", "application/json")
            .header("Accept", "application/json")
    }

    /// A POST of protobuf that accepts protobuf.
    pub fn post_protobuf(path: &str, body: Vec<u8>) -> Self {
        Self { method: "POST".into(), path: path.into(), body, ..Self::default() }
            .header("Content-Type", "application/x-protobuf")
            .header("Accept", "application/x-protobuf")
    }

    /// With one header more.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this `Authorization`, if there is one.
    pub fn authorized(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.header("Authorization", value),
            None => self,
        }
    }

    fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            let _ = write!(head, "Host: {address}\r\n");
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if self.chunks.is_some() {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if self.method != "GET" {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        let Some(sizes) = &self.chunks else {
            bytes.extend_from_slice(&self.body);
            return bytes;
        };
        let mut rest = &self.body[..];
        for size in sizes.iter().copied().chain([usize::MAX]) {
            let (chunk, after) = rest.split_at(size.min(rest.len()));
            if !chunk.is_empty() {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            rest = after;
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    /// 200, 202, 307, ...
    pub status: u16,
    /// In order, spelled as received.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the first header of this name, in any letter case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(had, _)| had.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: Head,
    /// Without framing.
    pub body: Vec<u8>,
}

impl Answer {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The body as text, damaged bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in answer {}: {}", self.status(), self.text()))
    }
}

/// An answer whose body is read chunk by chunk while the server writes it.
#[derive(Debug)]
pub struct Streaming {
    /// Status and headers.
    pub head: Head,
    reader: BufReader<TcpStream>,
}

/// Sends `request` and reads the head of the answer.
pub fn open(address: SocketAddr, request: &Request) -> io::Result<Streaming> {
    open_within(address, request, PATIENCE)
}

/// The same for somebody who waits no longer than `patience` for any one read.
pub fn open_within(address: SocketAddr, request: &Request, patience: Duration) -> io::Result<Streaming> {
    let mut socket = TcpStream::connect_timeout(&address, patience.min(Duration::from_secs(5)))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    socket.write_all(&request.bytes(address))?;
    Streaming::read_head(BufReader::new(socket))
}

/// Sends `request` on a connection of its own and reads the whole answer.
pub fn send(address: SocketAddr, request: &Request) -> io::Result<Answer> {
    send_within(address, request, PATIENCE)
}

/// The same for somebody who waits no longer than `patience` for any one read.
pub fn send_within(address: SocketAddr, request: &Request, patience: Duration) -> io::Result<Answer> {
    let head_only = request.method == "HEAD";
    let request = request.clone().header("Connection", "close");
    let answer = open_within(address, &request, patience)?;
    if head_only {
        return Ok(Answer { head: answer.head, body: Vec::new() });
    }
    answer.finish()
}

impl Streaming {
    fn read_head(mut reader: BufReader<TcpStream>) -> io::Result<Self> {
        let status_line = line(&mut reader)?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| invalid(format!("not a status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let header = line(&mut reader)?;
            if header.is_empty() {
                return Ok(Self { head: Head { status, headers }, reader });
            }
            let (name, value) = header.split_once(':').ok_or_else(|| invalid(format!("not a header: {header:?}")))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// The next chunk as the server framed it; `None` at the end of the body. A connection that ends without the
    /// last chunk is an error.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size_line = line(&mut self.reader)?;
        let size = size_line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid(format!("not a chunk size: {size_line:?}")))?;
        let mut chunk = vec![0; size];
        self.reader.read_exact(&mut chunk)?;
        let end = line(&mut self.reader)?;
        if !end.is_empty() {
            return Err(invalid(format!("a chunk is longer than it says: {end:?}")));
        }
        Ok((size > 0).then_some(chunk))
    }

    /// How long the next reads may wait.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(Some(patience))
    }

    /// Reads the rest of the body.
    pub fn finish(mut self) -> io::Result<Answer> {
        let mut body = Vec::new();
        if self.head.chunked() {
            while let Some(chunk) = self.chunk()? {
                body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = self.head.header("content-length") {
            let length = length.parse().map_err(|_| invalid(format!("not a length: {length:?}")))?;
            body.resize(length, 0);
            self.reader.read_exact(&mut body)?;
        } else if self.head.status != 204 && self.head.status != 304 {
            self.reader.read_to_end(&mut body)?;
        }
        Ok(Answer { head: self.head, body })
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| invalid("a line that is not UTF-8".into()))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
