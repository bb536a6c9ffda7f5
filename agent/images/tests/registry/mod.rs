//! A registry of a few lines, and images that are made here.
#![allow(dead_code, unreachable_pub, reason = "each test uses its part of it")]

pub mod made;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;

#[allow(unused_imports, reason = "each test uses its part of it")]
pub use made::{Made, digest, gzip, layer};

pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// How a registry asks who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    Nobody,
    Password,
    Token,
}

#[derive(Default)]
struct Has {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// Paths that were asked for, with what was shown.
    asked: Vec<(String, Option<String>)>,
    /// Blobs are found there.
    elsewhere: Option<String>,
}

/// me:secret
pub const BASIC: &str = "Basic bWU6c2VjcmV0";

pub struct Registry {
    /// host:port
    pub address: String,
    asks: Asks,
    has: Arc<Mutex<Has>>,
    /// Blobs are not sent before this is true.
    gate: watch::Sender<bool>,
    pub under_way: Arc<AtomicUsize>,
}

impl Registry {
    pub async fn start(asks: Asks) -> Registry {
        Registry::start_with(asks, None).await
    }

    /// With a certificate and its key, over TLS.
    pub async fn start_with(asks: Asks, tls: Option<tokio_rustls::TlsAcceptor>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Registry {
            address: address.clone(),
            asks,
            has: Arc::default(),
            gate: watch::Sender::new(true),
            under_way: Arc::default(),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let port = address.rsplit(':').next().unwrap().to_owned();
        let realm = if tls.is_some() { format!("localhost:{port}") } else { address };
        let shared = Arc::new(Shared {
            realm: format!("{scheme}://{realm}"),
            asks,
            has: registry.has.clone(),
            gate: registry.gate.subscribe(),
            under_way: registry.under_way.clone(),
        });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, tls) = (shared.clone(), tls.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, Infallible>(shared.answer(request).await) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(server.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        registry
    }

    /// http://host:port
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts an image there, for this machine alone, and returns the digest of its manifest.
    pub fn push(&self, name: &str, tag: &str, image: &Made) -> String {
        self.push_packed(name, tag, image, |layer| (DOCKER_LAYER.to_owned(), gzip(layer)))
    }

    pub fn push_packed(
        &self,
        name: &str,
        tag: &str,
        image: &Made,
        pack: impl Fn(&[u8]) -> (String, Vec<u8>),
    ) -> String {
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (kind, packed) = pack(layer);
            layers.push(serde_json::json!({"mediaType": kind, "digest": self.add(&packed), "size": packed.len()}));
        }
        let config = serde_json::json!({"mediaType": DOCKER_CONFIG, "digest": self.add(&image.config), "size": image.config.len()});
        let manifest =
            serde_json::json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers});
        self.push_manifest(name, tag, DOCKER_MANIFEST, manifest.to_string().as_bytes())
    }

    pub fn push_manifest(&self, name: &str, tag: &str, kind: &str, manifest: &[u8]) -> String {
        let digest = digest(manifest);
        let mut has = self.has.lock();
        for version in [tag, &digest] {
            has.manifests.insert(format!("/v2/{name}/manifests/{version}"), (kind.to_owned(), manifest.to_vec()));
        }
        digest
    }

    /// Adds a blob.
    pub fn add(&self, blob: &[u8]) -> String {
        let digest = digest(blob);
        self.has.lock().blobs.insert(digest.clone(), blob.to_vec());
        digest
    }

    /// A blob has other content than its digest says.
    pub fn damage(&self, digest: &str, blob: &[u8]) {
        self.has.lock().blobs.insert(digest.to_owned(), blob.to_vec());
    }

    /// Blobs wait, or no longer.
    pub fn hold(&self, hold: bool) {
        self.gate.send_replace(!hold);
    }

    /// Blobs are found at another one.
    pub fn send_elsewhere(&self, base: &str) {
        self.has.lock().elsewhere = Some(base.to_owned());
    }

    /// How often a part of a path was asked for.
    pub fn count(&self, part: &str) -> usize {
        self.has.lock().asked.iter().filter(|(path, _)| path.contains(part)).count()
    }

    /// What was shown with such paths.
    pub fn shown(&self, part: &str) -> Vec<Option<String>> {
        self.has.lock().asked.iter().filter(|(path, _)| path.contains(part)).map(|(_, shown)| shown.clone()).collect()
    }
}

struct Shared {
    realm: String,
    asks: Asks,
    has: Arc<Mutex<Has>>,
    gate: watch::Receiver<bool>,
    under_way: Arc<AtomicUsize>,
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let shown = request.headers().get("authorization").map(|shown| shown.to_str().unwrap().to_owned());
        self.has.lock().asked.push((path.clone(), shown.clone()));
        let reply = |status: u16, body: &[u8]| {
            Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(body))).unwrap()
        };
        if path == "/token" {
            let query = request.uri().query().unwrap_or_default();
            let is_it =
                shown.as_deref() == Some(BASIC) && query.contains("service=registry") && query.contains(":pull");
            return if is_it { reply(200, br#"{"token": "a-token"}"#) } else { reply(401, b"") };
        }
        let is_known = match self.asks {
            Asks::Nobody => true,
            Asks::Password => shown.as_deref() == Some(BASIC),
            Asks::Token => shown.as_deref() == Some("Bearer a-token"),
        };
        if !is_known {
            let mut answer = reply(401, br#"{"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}"#);
            let name =
                path.trim_start_matches("/v2/").split("/manifests/").next().unwrap().split("/blobs/").next().unwrap();
            let asked = match self.asks {
                Asks::Password => "Basic realm=\"here\"".to_owned(),
                _ => format!(
                    "Bearer realm=\"{}/token\",service=\"registry\",scope=\"repository:{name}:pull\"",
                    self.realm
                ),
            };
            answer.headers_mut().insert("www-authenticate", asked.parse().unwrap());
            return answer;
        }
        if let Some((kind, manifest)) = self.has.lock().manifests.get(&path) {
            let mut answer = reply(200, manifest);
            answer.headers_mut().insert("content-type", kind.parse().unwrap());
            return answer;
        }
        let Some((_, wanted)) = path.split_once("/blobs/") else {
            return reply(404, br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#);
        };
        if let Some(base) = self.has.lock().elsewhere.clone() {
            let mut answer = reply(307, b"");
            answer.headers_mut().insert("location", format!("{base}{path}").parse().unwrap());
            return answer;
        }
        let Some(blob) = self.has.lock().blobs.get(wanted).cloned() else { return reply(404, b"") };
        let is_config = blob.starts_with(b"{");
        if !is_config {
            self.under_way.fetch_add(1, Ordering::SeqCst);
            let _ = self.gate.clone().wait_for(|open| *open).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        }
        reply(200, &blob)
    }
}
