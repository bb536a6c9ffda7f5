//! A plugin that serves this machine: calls by gRPC on a Unix socket, each on a connection of its own, so that a plugin that was started
//! again meanwhile is simply the next one that answers.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::calls::Counters;
use crate::wire;

/// No call waits longer for its answer; it is repeated, as the specification has it.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(60);

/// Why a call was not done.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The call.
    pub(crate) call: &'static str,
    pub(crate) code: Code,
    /// A sentence.
    pub(crate) why: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.call, self.why)
    }
}

impl Failure {
    /// The same call may succeed later, without anybody changing anything.
    pub fn may_pass(&self) -> bool {
        self.is_open() || self.code == Code::ResourceExhausted
    }

    /// It may have been done, or be done still.
    pub fn is_open(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted)
    }
}

/// Where a plugin listens, and how its calls went.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) socket: PathBuf,
    pub(crate) counters: Arc<Counters>,
}

impl Node {
    /// Whether it is ready, and what it calls itself: its name and version.
    pub(crate) async fn probe(&self, patience: Duration) -> Result<(String, String), Failure> {
        let call = "/csi.v1.Identity/Probe";
        let answer: wire::ProbeResponse = self.call(call, wire::ProbeRequest {}, patience).await?;
        if answer.ready == Some(false) {
            return Err(Failure { call: name(call), code: Code::Unavailable, why: "it is not ready".to_owned() });
        }
        let answer: wire::GetPluginInfoResponse =
            self.call("/csi.v1.Identity/GetPluginInfo", wire::GetPluginInfoRequest {}, patience).await?;
        Ok((answer.name, answer.vendor_version))
    }

    /// Whether volumes are staged before they are published.
    pub(crate) async fn stages(&self, patience: Duration) -> Result<bool, Failure> {
        use wire::node_service_capability::{Type, rpc};
        let call = "/csi.v1.Node/NodeGetCapabilities";
        let answer: wire::NodeGetCapabilitiesResponse =
            self.call(call, wire::NodeGetCapabilitiesRequest {}, patience).await?;
        let stages = |one: &wire::NodeServiceCapability| matches!(&one.r#type, Some(Type::Rpc(rpc)) if rpc.r#type() == rpc::Type::StageUnstageVolume);
        Ok(answer.capabilities.iter().any(stages))
    }

    /// What the plugin calls this machine.
    pub(crate) async fn id(&self, patience: Duration) -> Result<String, Failure> {
        let done = self.call("/csi.v1.Node/NodeGetInfo", wire::NodeGetInfoRequest {}, patience).await;
        done.map(|answer: wire::NodeGetInfoResponse| answer.node_id)
    }

    pub(crate) async fn stage(&self, request: wire::NodeStageVolumeRequest, patience: Duration) -> Result<(), Failure> {
        let done = self.call("/csi.v1.Node/NodeStageVolume", request, patience).await;
        done.map(|wire::NodeStageVolumeResponse {}| ())
    }

    pub(crate) async fn publish(
        &self,
        request: wire::NodePublishVolumeRequest,
        patience: Duration,
    ) -> Result<(), Failure> {
        let done = self.call("/csi.v1.Node/NodePublishVolume", request, patience).await;
        done.map(|wire::NodePublishVolumeResponse {}| ())
    }

    pub(crate) async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Failure> {
        let (volume_id, target_path) = (volume_id.to_owned(), target.display().to_string());
        let request = wire::NodeUnpublishVolumeRequest { volume_id, target_path };
        let done = self.call("/csi.v1.Node/NodeUnpublishVolume", request, CALL_MAX).await;
        done.map(|wire::NodeUnpublishVolumeResponse {}| ())
    }

    pub(crate) async fn unstage(&self, volume_id: &str, staging: &Path) -> Result<(), Failure> {
        let (volume_id, staging_target_path) = (volume_id.to_owned(), staging.display().to_string());
        let request = wire::NodeUnstageVolumeRequest { volume_id, staging_target_path };
        let done = self.call("/csi.v1.Node/NodeUnstageVolume", request, CALL_MAX).await;
        done.map(|wire::NodeUnstageVolumeResponse {}| ())
    }

    /// One call, with this long for its answer at most.
    pub(crate) async fn call<Q, A>(&self, path: &'static str, request: Q, patience: Duration) -> Result<A, Failure>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let patience = patience.min(CALL_MAX);
        let failed = |code, why| Failure { call: name(path), code, why };
        let pending = self.counters.begin();
        let called = async {
            let sender = self.connect().await.map_err(|error| {
                failed(Code::Unavailable, format!("cannot reach it at {}: {error}", self.socket.display()))
            })?;
            let mut client = tonic::client::Grpc::with_origin(sender, http::Uri::from_static("http://localhost"));
            let unready = |error| failed(Code::Unavailable, format!("it is not there: {error}"));
            client.ready().await.map_err(unready)?;
            let mut request = tonic::Request::new(request);
            request.set_timeout(patience);
            let path = http::uri::PathAndQuery::from_static(path);
            let answered = client.unary(request, path, ProstCodec::<Q, A>::default()).await;
            answered.map(tonic::Response::into_inner).map_err(|status| match std::error::Error::source(&status) {
                None => failed(status.code(), sentence(&status)),
                // No answer of the plugin: the connection to it ended.
                Some(error) => failed(Code::Unavailable, format!("it went away meanwhile: {error}")),
            })
        };
        let called = tokio::time::timeout(patience, called).await;
        if let Ok(answered) = &called {
            pending.ended(answered.is_ok());
        }
        called.unwrap_or_else(|_| {
            let why = format!("no answer within {}", api::duration::format(patience));
            Err(failed(Code::DeadlineExceeded, why))
        })
    }

    async fn connect(&self) -> io::Result<Sender> {
        let socket = UnixStream::connect(&self.socket).await?;
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
        let (sender, connection) = shaken.map_err(io::Error::other)?;
        // Over when the sender is dropped.
        tokio::spawn(connection);
        Ok(Sender(sender))
    }
}

/// What a call is called by itself.
fn name(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What a plugin says may be long.
fn sentence(status: &Status) -> String {
    const MAX: usize = 1024;
    let mut message = status.message().to_owned();
    if let Some((at, _)) = message.char_indices().nth(MAX) {
        message.truncate(at);
    }
    format!("{:?}: {message}", status.code())
}

/// What requests are sent by.
struct Sender(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<http::Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
