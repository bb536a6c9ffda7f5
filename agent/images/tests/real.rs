//! A registry that others made: Debian's docker-registry.

mod registry;

use std::io::Write;
use std::net::TcpListener as StdListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use images::{Name, Settings, Source, Store, Wanted};
use registry::{DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Made, digest, gzip, layer};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status and `Location` of an answer.
async fn ask(host: &str, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Option<(StatusCode, String)> {
    let stream = tokio::net::TcpStream::connect(host).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", host).header("content-type", kind);
    let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.ok()?;
    let status = answer.status();
    let location = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
    let _ = answer.into_body().collect().await;
    Some((status, location))
}

async fn push(host: &str, name: &str, blob: &[u8]) -> String {
    let begun = ask(host, Method::POST, &format!("/v2/{name}/blobs/uploads/"), "text/plain", Vec::new()).await.unwrap();
    let to = begun.1.split_once("/v2/").map(|(_, rest)| format!("/v2/{rest}")).unwrap();
    let separator = if to.contains('?') { '&' } else { '?' };
    let to = format!("{to}{separator}digest={}", digest(blob));
    let done = ask(host, Method::PUT, &to, "application/octet-stream", blob.to_vec()).await.unwrap();
    assert_eq!(done.0, StatusCode::CREATED);
    digest(blob)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_docker_registry() {
    let dir = tempfile::tempdir().unwrap();
    let host = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}/registry\nhttp:\n  addr: {host}\n",
        dir.path().display()
    );
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    let started = Command::new("docker-registry")
        .arg("serve")
        .arg(dir.path().join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(started) = started else {
        let _ = writeln!(std::io::stderr(), "NOT TESTED: there is no docker-registry; tools/deps.sh test installs it");
        return;
    };
    let _registry = Killed(started);
    for _ in 0..1000 {
        match ask(&host, Method::GET, "/v2/", "text/plain", Vec::new()).await {
            Some((StatusCode::OK, _)) => break,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    let image = Made::of(vec![layer(&[("a", b"lower")]), layer(&[("a", b"upper")])], r#"{"Cmd": ["run"]}"#);
    let config = push(&host, "eng/app", &image.config).await;
    let mut layers = Vec::new();
    for layer in &image.layers {
        let packed = gzip(layer);
        let digest = push(&host, "eng/app", &packed).await;
        layers.push(serde_json::json!({"mediaType": DOCKER_LAYER, "digest": digest, "size": packed.len()}));
    }
    let config = serde_json::json!({"mediaType": DOCKER_CONFIG, "digest": config, "size": image.config.len()});
    let manifest =
        serde_json::json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers});
    let manifest = manifest.to_string().into_bytes();
    let by_digest = digest(&manifest);
    let done = ask(&host, Method::PUT, "/v2/eng/app/manifests/1", DOCKER_MANIFEST, manifest).await.unwrap();
    assert_eq!(done.0, StatusCode::CREATED);
    let store = Store::open(Settings {
        dir: dir.path().join("store"),
        source: Source::parse(&format!("http://{host}")).unwrap(),
        patience: Some(Duration::from_secs(30)),
        bytes_max: 1 << 20,
        ..Settings::default()
    });
    let store = store.unwrap();
    for name in ["eng/app:1".to_owned(), format!("eng/app@{by_digest}"), format!("{host}/eng/app:1")] {
        let name = Name::docker(&name).unwrap();
        let held = store.get(&Wanted { name, cached: false, credentials: None }).await.unwrap();
        assert_eq!((held.image.config.cmd.join(" "), held.image.layers.len()), ("run".to_owned(), 2));
    }
    let name = Name::docker("eng/app:2").unwrap();
    let error = store.get(&Wanted { name, cached: true, credentials: None }).await.unwrap_err();
    assert!(error.contains("does not have it (status 404: manifest unknown)"), "{error}");
}
