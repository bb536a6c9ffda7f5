//! GET over http and https, for what stands beside an agent's tasks: redirects are followed, and no wait is longer than
//! somebody said. One request, one connection; no proxies.

mod address;
mod tls;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use address::Address;

/// Redirects that are followed.
pub const REDIRECTS_MAX: usize = 20;

/// Whom one believes to be who they say that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those whom the machine's certificate authorities vouch for.
    Machine,
    /// Everybody: it is only asked whether somebody answers.
    Everybody,
}

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address of a page.
    #[error("'{address}' is no address of a page: {why}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Nobody answers there.
    #[error("cannot connect to {place}: {source}")]
    Connect {
        /// Host and port.
        place: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody answers, and not in HTTP, or not to the end.
    #[error("{place} ended the conversation: {source}")]
    Broken {
        /// Host and port.
        place: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// Nothing came for so long.
    #[error("{place} said nothing for {} ms", patience.as_millis())]
    Stalled {
        /// Host and port.
        place: String,
        /// So long.
        patience: Duration,
    },
    /// From one to the next to the next.
    #[error("more than {REDIRECTS_MAX} redirects")]
    Redirects,
    /// The machine's certificate authorities cannot be read.
    #[error("there are no certificate authorities on this machine to tell who answers: {0}")]
    Authorities(String),
}

/// The beginning of an answer, and the way to the rest.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Bytes to come, if that was said.
    pub length: Option<u64>,
    /// All that was said about it.
    pub headers: HeaderMap,
    place: String,
    patience: Duration,
    body: Incoming,
}

impl Answer {
    /// The next bytes; none behind the last.
    ///
    /// # Errors
    /// The answer ends before it is whole, or nothing comes for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = bounded(self.patience, &self.place, self.body.frame()).await?;
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(Error::Broken { place: self.place.clone(), source }),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Asks for a page, and where it has moved to. `patience` is the longest time without any progress; none for ever.
///
/// # Errors
/// There is no answer. An answer of any status is none.
pub async fn get(address: &str, trust: Trust, patience: Option<Duration>) -> Result<Answer, Error> {
    ask(Method::GET, address, trust, patience, HeaderMap::new()).await
}

/// Asks what a page would be like.
///
/// # Errors
/// There is no answer.
pub async fn head(address: &str, trust: Trust, patience: Option<Duration>) -> Result<Answer, Error> {
    ask(Method::HEAD, address, trust, patience, HeaderMap::new()).await
}

/// As good as for ever.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Asks with more to say. `Authorization` is for whoever is asked first: where a page has moved to, it is not shown.
///
/// # Errors
/// There is no answer.
pub async fn ask(
    method: Method,
    address: &str,
    trust: Trust,
    patience: Option<Duration>,
    mut headers: HeaderMap,
) -> Result<Answer, Error> {
    let patience = patience.unwrap_or(FOR_EVER);
    let mut address = Address::parse(address)?;
    let first = (address.is_secure, address.place());
    for _ in 0..=REDIRECTS_MAX {
        if first != (address.is_secure, address.place()) {
            headers.remove(header::AUTHORIZATION);
        }
        let response = one(&method, &address, trust, patience, &headers).await?;
        let location = response.headers().get(header::LOCATION).filter(|_| is_redirect(response.status()));
        if let Some(location) = location {
            address = address.join(&String::from_utf8_lossy(location.as_bytes()))?;
            continue;
        }
        let said = response.headers().get(header::CONTENT_LENGTH);
        let said = said.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let (parts, body) = response.into_parts();
        return Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            length: said.or_else(|| body.size_hint().exact().filter(|_| method == Method::GET)),
            place: address.place(),
            patience,
            body,
        });
    }
    Err(Error::Redirects)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

async fn one(
    method: &Method,
    address: &Address,
    trust: Trust,
    patience: Duration,
    headers: &HeaderMap,
) -> Result<http::Response<Incoming>, Error> {
    let place = address.place();
    let connect = async {
        let failed = |source| Error::Connect { place: place.clone(), source };
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(failed)?;
        let _ = stream.set_nodelay(true);
        if !address.is_secure {
            return Ok::<Box<dyn Stream>, Error>(Box::new(stream));
        }
        let stream = tls::connect(trust, &address.host, stream).await?.map_err(failed)?;
        Ok(Box::new(stream))
    };
    let stream = bounded(patience, &place, connect).await??;
    let broken = |source| Error::Broken { place: place.clone(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request =
        Request::builder().method(method.clone()).uri(&address.path).header(header::HOST, address.named());
    if !headers.contains_key(header::ACCEPT) {
        request = request.header(header::ACCEPT, "*/*");
    }
    if let Some(authorization) = address.authorization.as_ref().filter(|_| !headers.contains_key(header::AUTHORIZATION))
    {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| Error::Address {
        address: place.clone(),
        why: "it has characters in its path that cannot be asked for",
    })?;
    let response = bounded(patience, &place, sender.send_request(request)).await?.map_err(broken)?;
    Ok(response)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn bounded<T>(patience: Duration, place: &str, work: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(patience, work).await.map_err(|_| Error::Stalled { place: place.to_owned(), patience })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers each connection with the next of these; who it is asked by is returned.
    async fn server(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                asked.push(String::from_utf8(request).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (port, serving)
    }

    async fn body(mut answer: Answer) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(bytes) = answer.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn redirects_are_followed_and_the_answer_read() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: /b?x=1\r\nContent-Length: 0\r\n\r\n".to_owned();
        let found = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned();
        let (port, serving) = server(vec![moved, found]).await;
        let address = format!("http://me:pass%21@127.0.0.1:{port}/a");
        let answer = get(&address, Trust::Machine, Some(Duration::from_secs(9))).await.unwrap();
        assert_eq!((answer.status, answer.length), (200, Some(5)));
        assert_eq!(body(answer).await.unwrap(), b"hello");
        let asked = serving.await.unwrap();
        assert!(asked[0].starts_with("GET /a HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[1].starts_with("GET /b?x=1 HTTP/1.1\r\n"), "{asked:?}");
        assert!(asked[0].contains("authorization: Basic bWU6cGFzcyE="), "{asked:?}");
    }

    #[tokio::test]
    async fn half_an_answer_is_none_and_silence_ends() {
        let half = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello".to_owned();
        let (port, _serving) = server(vec![half]).await;
        let answer = get(&format!("http://127.0.0.1:{port}/"), Trust::Machine, None).await.unwrap();
        assert!(matches!(body(answer).await, Err(Error::Broken { .. })));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let error = get(&address, Trust::Machine, Some(Duration::from_millis(50))).await.unwrap_err();
        assert!(error.to_string().ends_with("said nothing for 50 ms"), "{error}");
        let nobody = get("http://127.0.0.1:1/", Trust::Machine, None).await.unwrap_err();
        assert!(nobody.to_string().starts_with("cannot connect to 127.0.0.1:1: "), "{nobody}");
    }

    /// A server whose certificate nobody on this machine vouches for.
    async fn secure_server() -> u16 {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let certificate = CertificateDer::from_pem_slice(include_bytes!("../testdata/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../testdata/server.key")).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn who_is_not_known_is_believed_only_if_it_does_not_matter() {
        let port = secure_server().await;
        let answer = get(&format!("https://127.0.0.1:{port}/"), Trust::Everybody, None).await.unwrap();
        assert_eq!(body(answer).await.unwrap(), b"ok");
        let error = get(&format!("https://localhost:{port}/"), Trust::Machine, None).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. } | Error::Authorities(_)), "{error}");
    }

    #[tokio::test]
    async fn who_is_sent_round_and_round_ends() {
        let moved = "HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".to_owned();
        let (port, _serving) = server(vec![moved; REDIRECTS_MAX + 1]).await;
        let error = get(&format!("http://127.0.0.1:{port}/"), Trust::Machine, None).await.unwrap_err();
        assert!(matches!(error, Error::Redirects));
    }
}
