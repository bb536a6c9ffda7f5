//! Images of appc, from a folder and from the web.

mod registry;
mod reopened;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use images::{Appc, Backend, Name, Provisioner, Settings, Source, Store, Wanted};
use registry::{gzip, layer};
use reopened::open;
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

fn manifest(name: &str, more: Value) -> Value {
    let mut manifest = json!({"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name});
    manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    manifest
}

/// An archive of an image, and its id.
fn aci(manifest: &Value, files: &[(&str, &[u8])]) -> (Vec<u8>, String) {
    let manifest = manifest.to_string();
    let mut all = vec![("rootfs/", &b""[..])];
    all.extend_from_slice(files);
    all.push(("manifest", manifest.as_bytes()));
    let archive = layer(&all);
    let id: String = Sha512::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
    (archive, format!("sha512-{id}"))
}

fn machine() -> &'static str {
    if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" }
}

fn put(folder: &Path, name: &str, version: &str, archive: &[u8]) -> PathBuf {
    let path = folder.join(format!("{name}-{version}-linux-{}.aci", machine()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, archive).unwrap();
    path
}

fn store(dir: &Path, prefix: &str) -> Store {
    let settings = Settings {
        dir: dir.join("store"),
        dir_flag: "appc_store_dir",
        source: Source::discovery(prefix).unwrap(),
        patience: Some(Duration::from_secs(30)),
        bytes_max: 1 << 20,
        ..Settings::default()
    };
    open(settings)
}

fn wanted(name: &str, version: Option<&str>, id: Option<&str>) -> Wanted {
    let labels = version.map(|version| ("version".to_owned(), version.to_owned()));
    Wanted { name: Name::Appc(Appc::new(name, labels, id).unwrap()), cached: true, credentials: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_lies_above_those_that_it_depends_on() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let (base, base_id) = aci(
        &manifest("example.com/base", json!({"labels": [{"name": "version", "value": "1"}]})),
        &[("rootfs/etc/a", b"base"), ("rootfs/etc/b", b"base"), ("elsewhere", b"no")],
    );
    put(&images, "example.com/base", "1", &gzip(&base));
    let needs =
        json!({"imageName": "example.com/base", "imageID": base_id, "labels": [{"name": "version", "value": "1"}]});
    let app = json!({"exec": ["/run", "-x"], "environment": [{"name": "A", "value": "b"}], "workingDirectory": "/etc"});
    let whole = manifest("example.com/app", json!({"app": app, "dependencies": [needs]}));
    // What hides in other layers is a file here.
    let (archive, id) = aci(&whole, &[("rootfs/etc/a", b"app"), ("rootfs/etc/.wh.b", b"file")]);
    let path = put(&images, "example.com/app", "latest", &archive);
    let provisioner = || {
        let store = store(dir.path(), &format!("{}/", images.display()));
        Provisioner::open(dir.path(), Some(Backend::Copy), vec![store]).unwrap()
    };
    let roots = provisioner();
    let made = roots.provision("a", &wanted("example.com/app", None, None), true, None).await.unwrap();
    let said = |at: &str| fs::read_to_string(made.root.join(at)).unwrap();
    assert_eq!([said("etc/a"), said("etc/b"), said("etc/.wh.b")], ["app", "base", "file"]);
    assert_eq!(fs::read_dir(&made.root).unwrap().count(), 1, "what is beside the files is none of them");
    assert_eq!((made.config.entrypoint.join(" "), made.config.cmd.join(" ")), ("/run".into(), "-x".into()));
    assert_eq!((made.config.env.join(" "), made.config.working_dir.as_str()), ("A=b".into(), "/etc"));
    // By its id; and without its archive, over a restart, as it is kept.
    roots.provision("b", &wanted("example.com/app", None, Some(&id)), true, None).await.unwrap();
    fs::remove_file(path).unwrap();
    drop(roots);
    let roots = provisioner();
    roots.provision("c", &wanted("example.com/app", Some("latest"), None), true, None).await.unwrap();
    let gone = Wanted { cached: false, ..wanted("example.com/app", None, None) };
    assert!(roots.provision("d", &gone, true, None).await.unwrap_err().contains("cannot read '"));
    // Those of the other kind are elsewhere, or nowhere.
    let docker = Wanted { name: Name::docker("app").unwrap(), ..gone };
    assert!(roots.provision("d", &docker, true, None).await.unwrap_err().contains("no images of this kind"));
    roots.sweep(&BTreeSet::new());
    assert_eq!(roots.prune(&[]).unwrap().layers, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_such_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let needs = |name: &str| json!({"dependencies": [{"imageName": name}]});
    for (name, archive) in [
        ("other", aci(&manifest("another", json!({})), &[]).0),
        ("itself", aci(&manifest("itself", needs("second")), &[]).0),
        ("second", aci(&manifest("second", needs("itself")), &[]).0),
        ("lacks", aci(&manifest("lacks", needs("none")), &[]).0),
        ("bare", layer(&[("rootfs/a", b"a")])),
        ("text", b"no archive".repeat(100)),
        ("large", aci(&manifest("large", json!({})), &[("rootfs/a", &[7; 2 << 20])]).0),
        ("bomb", gzip(&aci(&manifest("bomb", json!({})), &[("rootfs/a", &[7; 2 << 20])]).0)),
        ("whole", aci(&manifest("whole", json!({})), &[]).0),
    ] {
        put(&images, name, "latest", &archive);
    }
    let store = store(dir.path(), &format!("{}/", images.display()));
    for (name, why) in [
        ("other", "its manifest is that of 'another'"),
        ("itself", "depends on itself"),
        ("lacks", "'none,arch="),
        ("bare", "its archive has no manifest"),
        ("text", "damaged, or packed in a way that is not known here"),
        ("large", "more than the 1048576 of --image_size_max"),
        ("bomb", "more than the 1048576 bytes of --image_size_max come out of its archive"),
    ] {
        let error = store.get(&wanted(name, None, None)).await.unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
    let id = format!("sha512-{}", "0".repeat(128));
    let error = store.get(&wanted("whole", None, Some(&id))).await.unwrap_err();
    assert!(error.contains("its archive has the id sha512-"), "{error}");
    assert_eq!(store.names(), [] as [&str; 0]);
    assert_eq!(store.pulls().failed, 8);
    // Asked for as nothing more than its name, it is whole.
    store.get(&wanted("whole", None, None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_found_on_the_web() {
    let dir = tempfile::tempdir().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let archive = gzip(&aci(&manifest("example.com/web", json!({})), &[("rootfs/a", b"web")]).0);
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let (mut stream, mut head) = (stream.unwrap(), [0; 4096]);
            let count = stream.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..count]).into_owned();
            let is_it = head.starts_with(&format!("GET /aci/example.com/web-2-linux-{}.aci HTTP/1.1", machine()));
            let (status, body) = if is_it { ("200 OK", &archive[..]) } else { ("404 Not Found", &b""[..]) };
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).unwrap();
        }
    });
    let store = store(dir.path(), &format!("http://{address}/aci/"));
    store.get(&wanted("example.com/web", Some("2"), None)).await.unwrap();
    let error = store.get(&wanted("example.com/web", Some("3"), None)).await.unwrap_err();
    assert!(error.contains(".aci' is answered with status 404"), "{error}");
    assert_eq!(store.names().len(), 1);
}
