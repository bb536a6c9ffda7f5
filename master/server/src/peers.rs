//! The other masters, over HTTP on the same port that clients use.

use api::limits::PEER_BYTES_MAX;
use bytes::Bytes;
use event_log::raft::{Member, Transport, TransportError};
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a peer did not answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nothing was sent.
    #[error("cannot reach {0}")]
    Unreachable(String),
    /// Sent, perhaps; not answered.
    #[error("no answer from {0}")]
    Silent(String),
}

/// Carries requests between masters in place of HTTP, for simulations.
pub trait Network: Send + Sync {
    /// Posts `body` to `path` of the master at `address`; the status and body of its answer.
    fn post(
        &self,
        address: &str,
        path: &str,
        body: Bytes,
    ) -> BoxFuture<'static, Result<(StatusCode, Bytes), PeerError>>;
}

/// Connections to the other masters. Raft has connections of its own, so that a heartbeat never waits behind a batch
/// of submissions.
pub struct Peers(Carrier);

enum Carrier {
    Http(Box<Clients>),
    Simulated(Arc<dyn Network>),
}

struct Clients {
    /// Where connections are looked after, whoever it is that asks for something on them.
    home: Option<Handle>,
    raft: Client<HttpConnector, Full<Bytes>>,
    calls: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Peers {
    fn default() -> Peers {
        Peers::new()
    }
}

impl Peers {
    /// No connection yet; they are made at need and kept.
    pub fn new() -> Peers {
        let client = |multiplexed: bool| {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
            connector.set_keepalive(Some(api_http::IDLE));
            connector.set_keepalive_interval(Some(api_http::PROBE));
            connector.set_tcp_user_timeout(Some(api_http::VANISHED));
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(60))
                .http2_only(multiplexed)
                .http2_keep_alive_interval(api_http::PING)
                .http2_keep_alive_timeout(api_http::PONG)
                .http2_initial_stream_window_size(1 << 20)
                .http2_initial_connection_window_size(16 << 20)
                .build(connector)
        };
        let home = Handle::try_current().ok();
        Peers(Carrier::Http(Box::new(Clients { home, raft: client(false), calls: client(true) })))
    }

    /// Over a network of the caller's own.
    pub fn over(network: Arc<dyn Network>) -> Peers {
        Peers(Carrier::Simulated(network))
    }

    /// Posts `body` to `path` of the master at `address` (host:port).
    pub(crate) async fn post(
        &self,
        address: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), PeerError> {
        match &self.0 {
            Carrier::Http(clients) => clients.post(&clients.calls, address, path, body, timeout).await,
            Carrier::Simulated(network) => simulated(&**network, address, path, body, timeout).await,
        }
    }

    async fn post_raft(&self, address: &str, body: Bytes, timeout: Duration) -> Result<(StatusCode, Bytes), PeerError> {
        const PATH: &str = "/meseta/raft";
        match &self.0 {
            Carrier::Http(clients) => clients.post(&clients.raft, address, PATH, body, timeout).await,
            Carrier::Simulated(network) => simulated(&**network, address, PATH, body, timeout).await,
        }
    }
}

impl Clients {
    async fn post(
        &self,
        client: &Client<HttpConnector, Full<Bytes>>,
        address: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), PeerError> {
        let (client, to, path) = (client.clone(), address.to_owned(), path.to_owned());
        let asked = async move { post(&client, &to, &path, body, timeout).await };
        let answered = api_http::run_in(self.home.clone(), asked).await;
        answered.unwrap_or_else(|_| Err(PeerError::Silent(address.to_owned())))
    }
}

async fn simulated(
    network: &dyn Network,
    address: &str,
    path: &str,
    body: Bytes,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), PeerError> {
    let exchange = network.post(address, path, body);
    tokio::time::timeout(timeout, exchange).await.map_err(|_| PeerError::Silent(address.to_owned()))?
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    address: &str,
    path: &str,
    body: Bytes,
    timeout: Duration,
) -> Result<(StatusCode, Bytes), PeerError> {
    let unreachable = || PeerError::Unreachable(address.to_owned());
    let silent = || PeerError::Silent(address.to_owned());
    let uri: Uri = format!("http://{address}{path}").parse().map_err(|_| unreachable())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(body))
        .map_err(|_| unreachable())?;
    let exchange = async {
        let response =
            client.request(request).await.map_err(|error| if error.is_connect() { unreachable() } else { silent() })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), PEER_BYTES_MAX).collect().await.map_err(|_| silent())?;
        Ok((status, body.to_bytes()))
    };
    tokio::time::timeout(timeout, exchange).await.map_err(|_| silent())?
}

impl Transport for Peers {
    fn send(&self, to: &Member, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>> {
        let address = to.address.clone();
        Box::pin(async move {
            match self.post_raft(&address, body, timeout).await {
                Ok((StatusCode::OK, body)) => Ok(body),
                Ok((status, _)) => Err(TransportError::Unreachable { address, why: format!("it answered {status}") }),
                Err(PeerError::Unreachable(_)) => {
                    Err(TransportError::Unreachable { address, why: "no connection".into() })
                }
                Err(PeerError::Silent(_)) => Err(TransportError::Timeout { address, timeout }),
            }
        })
    }
}
