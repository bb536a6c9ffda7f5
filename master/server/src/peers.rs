//! The other masters, over HTTP on the same port that clients use.

use api::limits::PEER_BYTES_MAX;
use api_http::dial::{DialError, Lane, Pool, Post, Signer};
use api_http::tls::Tls;
use bytes::Bytes;
use event_log::raft::{Member, Transport, TransportError};
use futures_util::future::BoxFuture;
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const PROTOBUF: &str = "application/x-protobuf";

/// Why a peer did not answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nothing was sent, or nothing of it was done.
    #[error("cannot reach {0}")]
    Unreachable(String),
    /// Sent, perhaps; not answered.
    #[error("no answer from {0}")]
    Silent(String),
    /// Whoever answers there does not show that it knows the secret: it may have done anything, or nothing.
    #[error("{0} does not show that it knows the cluster's secret")]
    Stranger(String),
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
    /// With the place where connections are looked after, whoever it is that asks for something on them.
    Http(Arc<Pool>, Option<Handle>),
    Simulated(Arc<dyn Network>),
}

impl Peers {
    /// No connection yet; they are made at need and kept. Every request shows what `signer` knows, if there is one.
    pub fn new(signer: Option<Signer>, tls: Option<Arc<Tls>>) -> Peers {
        Peers(Carrier::Http(Arc::new(Pool::new(signer, tls, CONNECT_TIMEOUT)), Handle::try_current().ok()))
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
        self.exchange(Lane::Shared, address, path, body, timeout).await
    }

    async fn exchange(
        &self,
        lane: Lane,
        address: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), PeerError> {
        let silent = || PeerError::Silent(address.to_owned());
        match &self.0 {
            Carrier::Http(pool, home) => {
                let (pool, to, path) = (pool.clone(), address.to_owned(), path.to_owned());
                let asked = async move {
                    let (address, path, answer_bytes_max) = (to.as_str(), path.as_str(), PEER_BYTES_MAX);
                    let post = Post { lane, address, path, content_type: PROTOBUF, body, answer_bytes_max };
                    tokio::time::timeout(timeout, pool.post(&post)).await
                };
                let answered = api_http::run_in(home.clone(), asked).await;
                let answer = answered.map_err(|_| silent())?.map_err(|_| silent())?;
                answer.map_err(|error| match error {
                    DialError::Unreachable { .. } | DialError::Refused { .. } | DialError::Unknown { .. } => {
                        PeerError::Unreachable(address.to_owned())
                    }
                    DialError::Silent { .. } => silent(),
                    DialError::Stranger(_) => PeerError::Stranger(address.to_owned()),
                })
            }
            Carrier::Simulated(network) => {
                let exchange = network.post(address, path, body);
                tokio::time::timeout(timeout, exchange).await.map_err(|_| silent())?
            }
        }
    }
}

impl Transport for Peers {
    fn send(&self, to: &Member, body: Bytes, timeout: Duration) -> BoxFuture<'_, Result<Bytes, TransportError>> {
        let address = to.address.clone();
        Box::pin(async move {
            match self.exchange(Lane::Single, &address, "/meseta/raft", body, timeout).await {
                Ok((StatusCode::OK, body)) => Ok(body),
                Ok((status, _)) => Err(TransportError::Unreachable { address, why: format!("it answered {status}") }),
                Err(PeerError::Unreachable(_)) => {
                    Err(TransportError::Unreachable { address, why: "no connection".into() })
                }
                Err(PeerError::Stranger(_)) => Err(TransportError::Unreachable {
                    address,
                    why: "it does not show that it knows the secret".into(),
                }),
                Err(PeerError::Silent(_)) => Err(TransportError::Timeout { address, timeout }),
            }
        })
    }
}
