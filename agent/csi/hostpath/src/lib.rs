//! A plugin of the Container Storage Interface, version 1, whose volumes are folders of one folder: to try volumes with, and for tests, which
//! may have it fail or be silent. What it has published is what is mounted; nothing else is kept.

mod controller;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_csi::wire;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// Longer than anything takes on a busy machine; nothing waits for it in vain.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it answers a call, instead of doing what it is asked.
#[derive(Clone, Debug)]
pub enum Instead {
    /// It does not.
    Hang,
    /// With this.
    Fail(Code),
    /// As if it had been done.
    Nothing,
}

/// A call that it got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// Its name: `NodePublishVolume`.
    pub call: String,
    /// The volume.
    pub volume_id: String,
    /// Where it is to be found.
    pub path: String,
    /// Nobody is to write to it.
    pub readonly: bool,
    /// What was said of it, and its secrets.
    pub told: BTreeMap<String, String>,
}

#[derive(Debug)]
struct State {
    root: PathBuf,
    stages: bool,
    /// Bytes of all volumes together that it makes; without it makes none.
    capacity: Option<i64>,
    calls: Mutex<Vec<Called>>,
    instead: Mutex<BTreeMap<&'static str, Instead>>,
    changed: watch::Sender<u64>,
}

/// One that serves, until it is dropped.
#[derive(Debug)]
pub struct Plugin {
    state: Arc<State>,
    serving: AbortHandle,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.serving.abort();
        self.connections.lock().iter().for_each(AbortHandle::abort);
    }
}

impl Plugin {
    /// Serves the folders of `root` at a socket. Within a runtime.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn start(socket: &Path, root: &Path, stages: bool) -> io::Result<Plugin> {
        Plugin::start_with(socket, root, stages, None)
    }

    /// As [`Plugin::start`], with a controller that makes volumes of so many bytes together.
    ///
    /// # Errors
    /// It cannot listen there.
    pub fn start_with(socket: &Path, root: &Path, stages: bool, capacity: Option<i64>) -> io::Result<Plugin> {
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        let (calls, instead) = (Mutex::default(), Mutex::default());
        let changed = watch::Sender::new(0);
        let state = Arc::new(State { root: root.to_owned(), stages, capacity, calls, instead, changed });
        let connections: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (shared, kept) = (state.clone(), connections.clone());
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                let service = service_fn(move |request| answer(state.clone(), request));
                let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                let mut kept = kept.lock();
                kept.retain(|one| !one.is_finished());
                kept.push(tokio::spawn(served).abort_handle());
            }
        });
        Ok(Plugin { state, serving: serving.abort_handle(), connections })
    }

    /// From now on it answers a call in this way; none as it should.
    pub fn answer(&self, call: &'static str, instead: Option<Instead>) {
        let mut all = self.state.instead.lock();
        match instead {
            Some(instead) => all.insert(call, instead),
            None => all.remove(call),
        };
    }

    /// What it was asked so far, but for what it is and whether it is ready.
    pub fn calls(&self) -> Vec<Called> {
        self.state.calls.lock().clone()
    }

    /// The names of these calls.
    pub fn names(&self) -> Vec<String> {
        self.calls().into_iter().map(|called| called.call).collect()
    }

    /// Waits until it was asked something of which this is true.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn wait(&self, condition: impl Fn(&[Called]) -> bool) {
        let mut changed = self.state.changed.subscribe();
        let waiting = async {
            while !condition(&self.state.calls.lock()) {
                // It is there as long as this is.
                let _ = changed.changed().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "it was asked nothing else than {:?}", self.calls());
    }
}

impl State {
    fn folder(&self, volume_id: &str) -> Result<PathBuf, Status> {
        let folder = self.root.join(volume_id);
        let is_plain = !volume_id.is_empty() && !volume_id.starts_with('/') && !volume_id.contains("..");
        match is_plain && folder.is_dir() {
            true => Ok(folder),
            false => Err(Status::not_found(format!("there is no volume '{volume_id}'"))),
        }
    }

    /// Whether it is to be done.
    async fn note(&self, called: Called) -> Result<bool, Status> {
        let instead = self.instead.lock().get(called.call.as_str()).cloned();
        if called.call != "Probe" {
            self.calls.lock().push(called);
        }
        self.changed.send_modify(|count| *count += 1);
        match instead {
            None => Ok(true),
            Some(Instead::Nothing) => Ok(false),
            Some(Instead::Fail(code)) => Err(Status::new(code, "as it was told to")),
            Some(Instead::Hang) => std::future::pending().await,
        }
    }

    async fn stage(&self, request: wire::NodeStageVolumeRequest) -> Result<wire::NodeStageVolumeResponse, Status> {
        let mut told = request.secrets.clone();
        told.extend(request.volume_context.clone());
        if self.note(called("NodeStageVolume", &request.volume_id, &request.staging_target_path, told)).await? {
            bind(&self.folder(&request.volume_id)?, Path::new(&request.staging_target_path), false)?;
        }
        Ok(wire::NodeStageVolumeResponse {})
    }

    async fn publish(
        &self,
        request: wire::NodePublishVolumeRequest,
    ) -> Result<wire::NodePublishVolumeResponse, Status> {
        let mut told = request.secrets.clone();
        told.extend(request.volume_context.clone());
        told.extend(request.publish_context.clone());
        let noted = called("NodePublishVolume", &request.volume_id, &request.target_path, told);
        if self.note(Called { readonly: request.readonly, ..noted }).await? {
            let from = match self.stages {
                true => PathBuf::from(&request.staging_target_path),
                false => self.folder(&request.volume_id)?,
            };
            let target = Path::new(&request.target_path);
            fs::create_dir(target).or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(Status::internal(error.to_string())),
            })?;
            bind(&from, target, request.readonly)?;
        }
        Ok(wire::NodePublishVolumeResponse {})
    }

    async fn unpublish(
        &self,
        request: wire::NodeUnpublishVolumeRequest,
    ) -> Result<wire::NodeUnpublishVolumeResponse, Status> {
        let path = Path::new(&request.target_path);
        let noted = called("NodeUnpublishVolume", &request.volume_id, &request.target_path, BTreeMap::new());
        if self.note(noted).await? {
            unbind(path)?;
            let _ = fs::remove_dir(path);
        }
        Ok(wire::NodeUnpublishVolumeResponse {})
    }

    async fn unstage(
        &self,
        request: wire::NodeUnstageVolumeRequest,
    ) -> Result<wire::NodeUnstageVolumeResponse, Status> {
        let path = &request.staging_target_path;
        if self.note(called("NodeUnstageVolume", &request.volume_id, path, BTreeMap::new())).await? {
            unbind(Path::new(path))?;
        }
        Ok(wire::NodeUnstageVolumeResponse {})
    }

    async fn capabilities(
        &self,
        _: wire::NodeGetCapabilitiesRequest,
    ) -> Result<wire::NodeGetCapabilitiesResponse, Status> {
        use wire::node_service_capability::{Rpc, Type, rpc};
        let rpc = Rpc { r#type: rpc::Type::StageUnstageVolume as i32 };
        let one = wire::NodeServiceCapability { r#type: Some(Type::Rpc(rpc)) };
        Ok(wire::NodeGetCapabilitiesResponse { capabilities: self.stages.then_some(one).into_iter().collect() })
    }
}

fn called(call: &str, volume_id: &str, path: &str, told: BTreeMap<String, String>) -> Called {
    Called { call: call.to_owned(), volume_id: volume_id.to_owned(), path: path.to_owned(), readonly: false, told }
}

/// Whether a folder is mounted on another one already.
fn is_bound(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    // Told twice, it did it once: a folder and what it is bound to are one.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    device(path).is_ok() && table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
}

fn bind(from: &Path, to: &Path, readonly: bool) -> Result<(), Status> {
    let failed = |errno: Errno| Status::internal(format!("cannot mount {}: {errno}", to.display()));
    if is_bound(to) {
        return Ok(());
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(failed)?;
    if readonly {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, to, None::<&str>, flags, None::<&str>).map_err(failed)?;
    }
    Ok(())
}

fn unbind(path: &Path) -> Result<(), Status> {
    match umount2(path, MntFlags::empty()) {
        // It was not.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Status::internal(format!("cannot unmount {}: {errno}", path.display()))),
    }
}

/// What answers one kind of call.
struct Handler<F>(Option<F>);

impl<F, G, Q, A> tower_service::Service<Request<Q>> for Handler<F>
where
    F: FnOnce(Q) -> G,
    G: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        match self.0.take() {
            Some(answer) => {
                let answered = answer(request.into_inner());
                Box::pin(async { answered.await.map(Response::new) })
            }
            None => Box::pin(async { Err(Status::internal("asked twice")) }),
        }
    }
}

async fn unary<Q, A, G>(request: http::Request<Incoming>, answer: impl FnOnce(Q) -> G) -> http::Response<Body>
where
    Q: prost::Message + Default + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
    G: Future<Output = Result<A, Status>> + Send + 'static,
{
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default());
    grpc.unary(Handler(Some(answer)), request).await
}

async fn answer(state: Arc<State>, request: http::Request<Incoming>) -> Result<http::Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    Ok(match path.as_str() {
        "/csi.v1.Identity/Probe" => {
            unary(request, |_: wire::ProbeRequest| async move {
                state.note(called("Probe", "", "", BTreeMap::new())).await?;
                Ok(wire::ProbeResponse { ready: Some(true) })
            })
            .await
        }
        "/csi.v1.Identity/GetPluginInfo" => {
            unary(request, |_: wire::GetPluginInfoRequest| async {
                Ok(wire::GetPluginInfoResponse {
                    name: "hostpath.meseta".to_owned(),
                    vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
                    manifest: BTreeMap::new(),
                })
            })
            .await
        }
        "/csi.v1.Node/NodeGetCapabilities" => {
            unary(request, |asked| async move { state.capabilities(asked).await }).await
        }
        "/csi.v1.Node/NodeStageVolume" => unary(request, |asked| async move { state.stage(asked).await }).await,
        "/csi.v1.Node/NodeUnstageVolume" => unary(request, |asked| async move { state.unstage(asked).await }).await,
        "/csi.v1.Node/NodePublishVolume" => unary(request, |asked| async move { state.publish(asked).await }).await,
        "/csi.v1.Node/NodeUnpublishVolume" => unary(request, |asked| async move { state.unpublish(asked).await }).await,
        _ => return controller::answer(state, request).await,
    })
}
