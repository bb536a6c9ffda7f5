//! Images from where they come, and what is kept of them.

mod registry;
mod reopened;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use images::{Backend, Credentials, Digest, Name, Provisioner, Settings, Source, Store, Wanted};
use registry::{Asks, BASIC, DOCKER_LIST, Made, Registry, gzip, layer};
use reopened::open;

const PATIENCE: Duration = Duration::from_secs(30);

fn settings(dir: &Path, source: &str) -> Settings {
    Settings {
        dir: dir.join("store"),
        source: Source::parse(source).unwrap(),
        patience: Some(PATIENCE),
        bytes_max: 16 << 20,
        ..Settings::default()
    }
}

fn wanted(name: &str) -> Wanted {
    Wanted { name: Name::docker(name).unwrap(), cached: true, credentials: None }
}

fn password(host: &str) -> Credentials {
    Credentials::parse(&format!(r#"{{"auths": {{"{host}": {{"username": "me", "password": "secret"}}}}}}"#)).unwrap()
}

/// The files of a folder and what is in them, by their paths; of what is not a file, a letter for its kind.
fn tree(folder: &Path) -> Vec<String> {
    use std::os::unix::fs::FileTypeExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (kind, name) = (entry.file_type().unwrap(), entry.file_name().into_string().unwrap());
        if kind.is_dir() {
            found.extend(tree(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}")));
        } else if kind.is_file() {
            found.push(format!("{name}={}", fs::read_to_string(entry.path()).unwrap()));
        } else {
            found.push(format!("{name}:{}", if kind.is_char_device() { 'c' } else { 'l' }));
        }
    }
    found.sort();
    found
}

fn rootfs(dir: &Path, layer: Digest) -> PathBuf {
    dir.join("store/layers").join(layer.hex()).join("rootfs.overlay")
}

fn two_layers() -> Made {
    let lower = layer(&[("etc/a", b"lower"), ("etc/gone", b"lower"), ("bin/", b"")]);
    let upper = layer(&[("etc/a", b"upper"), ("etc/.wh.gone", b""), ("link", b"-> /etc/a")]);
    Made::of(vec![lower, upper], r#"{"Cmd": ["run"], "Env": ["A=b"]}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_registry() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(Asks::Nobody).await);
    let digest = registry.push("eng/app", "latest", &two_layers());
    let store = open(settings(dir.path(), &registry.base()));
    let held = store.get(&wanted("eng/app")).await.unwrap();
    assert_eq!((held.image.config.cmd.join(" "), held.image.config.env.join(" ")), ("run".into(), "A=b".into()));
    let layers: Vec<_> = held.image.layers.iter().map(|layer| tree(&rootfs(dir.path(), *layer))).collect();
    assert_eq!(layers, [vec!["etc/a=lower", "etc/gone=lower"], vec!["etc/a=upper", "etc/gone:c", "link:l"]]);
    // Whatever the name is written as, and also after a restart, it is here.
    let again = store.get(&wanted(&format!("{}/eng/app:latest", registry.address))).await.unwrap();
    assert_eq!((&again.image, registry.count("manifests")), (&held.image, 1));
    drop((store, held, again));
    let store = open(settings(dir.path(), &registry.base()));
    store.get(&wanted("eng/app")).await.unwrap();
    assert_eq!(registry.count("manifests"), 1);
    // By its digest it is another name for the same layers; and who wants no kept one asks.
    store.get(&wanted(&format!("eng/app@{digest}"))).await.unwrap();
    store.get(&Wanted { cached: false, ..wanted("eng/app") }).await.unwrap();
    let blobs = registry.count("blobs");
    // A layer is fetched once; a configuration with each manifest.
    assert_eq!((registry.count("manifests"), blobs), (3, 2 + 3));
    let other = fs::metadata(dir.path().join("store")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&other.permissions()) & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_packing_and_every_kind_of_manifest() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(Asks::Nobody).await);
    let store = open(settings(dir.path(), &registry.base()));
    let made = |text: &str| Made::of(vec![layer(&[("a", text.as_bytes())])], "null");
    let zstd = |layer: &[u8]| {
        let mut child = std::process::Command::new("zstd")
            .args(["-c", "-q"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("zstd");
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), layer).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    registry.push_packed("plain", "latest", &made("plain"), |layer| {
        ("application/vnd.oci.image.layer.v1.tar".into(), layer.to_vec())
    });
    registry.push_packed("zstd", "latest", &made("zstd"), |layer| {
        ("application/vnd.oci.image.layer.v1.tar+zstd".into(), zstd(layer))
    });
    let one = registry.push("of-list", "one", &made("list"));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let list = format!(
        r#"{{"schemaVersion": 2, "manifests": [
            {{"digest": "sha256:{}", "size": 1, "platform": {{"os": "linux", "architecture": "s390x"}}}},
            {{"digest": "{one}", "size": 1, "platform": {{"os": "linux", "architecture": "{architecture}"}}}}]}}"#,
        "0".repeat(64)
    );
    registry.push_manifest("of-list", "latest", DOCKER_LIST, list.as_bytes());
    for name in ["plain", "zstd", "of-list"] {
        let held = store.get(&wanted(name)).await.unwrap();
        assert_eq!(tree(&rootfs(dir.path(), held.image.layers[0])), [format!("a={}", name.trim_start_matches("of-"))]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_say_who_it_is_does() {
    for asks in [Asks::Password, Asks::Token] {
        let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(asks).await);
        let blobs = Registry::start(Asks::Nobody).await;
        let image = two_layers();
        registry.push("app", "latest", &image);
        blobs.push("app", "latest", &image);
        registry.send_elsewhere(&blobs.base());
        let store = open(settings(dir.path(), &registry.base()));
        let error = store.get(&wanted("app")).await.unwrap_err();
        let why = match asks {
            Asks::Password => "there is no password for it in --docker_config nor with the image",
            _ => "gave out no token, but status 401; there is no password for it",
        };
        assert!(error.starts_with("Failed to pull the image 'app': ") && error.contains(why), "{error}");
        let brings = Wanted { credentials: Some(password(&registry.address)), ..wanted("app") };
        store.get(&brings).await.unwrap();
        // Where the bytes are, no password was shown.
        assert!(blobs.shown("blobs").iter().all(Option::is_none), "{asks:?}");
        assert!(blobs.count("blobs") >= 3);
        if asks == Asks::Token {
            assert!(
                registry.shown("/v2/").iter().all(|shown| shown.as_deref() != Some(BASIC)),
                "to who gives out tokens only"
            );
        }
        drop(store);
        // Those of the agent.
        let other = tempfile::tempdir().unwrap();
        let settings = Settings { credentials: password(&registry.base()), ..settings(other.path(), &registry.base()) };
        open(settings).get(&wanted("app")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_it_must_be_is_not_kept() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(Asks::Nobody).await);
    let store = open(settings(dir.path(), &registry.base()));
    let image = |text: &str| Made::of(vec![layer(&[("a", text.as_bytes())])], "null");
    let packed = |image: &Made| registry::digest(&gzip(&image.layers[0]));
    registry.push("cut", "latest", &image("cut"));
    registry.damage(&packed(&image("cut")), &gzip(&image("cut").layers[0])[..20]);
    registry.push("other", "latest", &image("other"));
    let same_size = gzip(&image("rehto").layers[0]);
    registry.damage(&packed(&image("other")), &same_size);
    let mut lies = image("lies");
    lies.layers = image("liar").layers;
    registry.push("lies", "latest", &lies);
    registry.push("large", "latest", &Made::of(vec![layer(&[("a", &vec![0; 17 << 20])])], "null"));
    registry.push("up", "latest", &Made::of(vec![hostile()], "null"));
    registry.push_manifest(
        "old",
        "latest",
        "application/vnd.docker.distribution.manifest.v1+json",
        br#"{"schemaVersion": 1}"#,
    );
    registry.push_manifest("wrong", "latest", registry::DOCKER_MANIFEST, br#"{"schemaVersion": 2}"#);
    for (name, why) in [
        ("cut", "has 20 bytes, and its manifest says"),
        ("lies", "a layer is not what its configuration says: its content has the digest"),
        ("large", "more than the 16777216 bytes of --image_size_max come out of its layers"),
        ("up", "'../up' in the layer leads out of it by '..'"),
        ("old", "its manifest is of schema 1"),
        ("wrong", "names neither layers nor other manifests"),
        ("none", "does not have it (status 404: manifest unknown)"),
        ("localhost:1/x", "cannot connect to localhost:1"),
        (&format!("wrong@sha256:{}", "0".repeat(64)), "status 404"),
    ] {
        let error = store.get(&wanted(name)).await.unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
    let error = store.get(&wanted("other")).await.unwrap_err();
    assert!(error.contains("came with the digest") || error.contains("its manifest says"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 0);
    for _ in 0..100 {
        if fs::read_dir(dir.path().join("store/staging")).unwrap().count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("something stays behind in staging");
}

fn hostile() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.as_old_mut().name[..5].copy_from_slice(b"../up");
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend([0; 1024]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_it_is_fetched_once_and_not_at_all_if_nobody_waits() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(Asks::Nobody).await);
    let base = two_layers();
    registry.push("base", "latest", &base);
    registry.push("more", "latest", &base.and(&[("more", b"more")], "null"));
    let store = open(settings(dir.path(), &registry.base()));
    registry.hold(true);
    let ask = |name: &'static str| {
        let store = store.clone();
        tokio::spawn(async move { store.get(&wanted(name)).await.map(|held| held.image.layers.len()) })
    };
    let asking: Vec<_> = (0..20).map(|n| ask(if n % 2 == 0 { "base" } else { "more" })).collect();
    until("layers are under way", || registry.under_way.load(Ordering::SeqCst) == 3).await;
    registry.hold(false);
    for (n, one) in asking.into_iter().enumerate() {
        assert_eq!(one.await.unwrap(), Ok(if n % 2 == 0 { 2 } else { 3 }));
    }
    // Three layers, two configurations.
    assert_eq!((registry.count("blobs"), registry.count("manifests")), (3 + 2, 2));
    // Whoever gives up takes it with them.
    registry.push("alone", "latest", &Made::of(vec![layer(&[("alone", b"x")])], "null"));
    registry.hold(true);
    let alone = ask("alone");
    until("it is under way", || registry.under_way.load(Ordering::SeqCst) == 1).await;
    alone.abort();
    let _ = alone.await;
    until("nothing stays", || fs::read_dir(dir.path().join("store/staging")).unwrap().count() == 0).await;
    registry.hold(false);
    assert_eq!(ask("alone").await.unwrap(), Ok(1));
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_and_layouts_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("images");
    fs::create_dir_all(folder.join("eng")).unwrap();
    let image = two_layers();
    fs::write(folder.join("eng/app:1.tar"), image.saved(&["eng/app:1"])).unwrap();
    fs::write(folder.join("busybox.tar"), gzip(&image.saved(&["docker.io/library/busybox:latest"]))).unwrap();
    fs::write(folder.join("other.tar"), image.saved(&["something:else"])).unwrap();
    fs::write(folder.join("none.tar"), layer(&[("a", b"b")])).unwrap();
    image.lay_out(&folder.join("laid/out"), "v1");
    image.lay_out(&folder.join("broken"), "latest");
    let blob = registry::digest(&image.config).replace("sha256:", "");
    fs::write(folder.join("broken/blobs/sha256").join(blob), "{}").unwrap();
    let store = open(settings(dir.path(), folder.to_str().unwrap()));
    for name in ["eng/app:1", "busybox", "busybox:latest", "laid/out:v1"] {
        let held = store.get(&wanted(name)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(tree(&rootfs(dir.path(), held.image.layers[0])), ["etc/a=lower", "etc/gone=lower"], "{name}");
    }
    for (name, why) in [
        ("eng/app", "Failed to find archive for image 'eng/app' at"),
        ("busybox:2", "Failed to find archive for image 'busybox:2' at"),
        ("other", "its archive has other images: something:else"),
        ("none", "has neither manifest.json nor index.json"),
        ("laid/out:v2", "its layout has no 'v2'"),
        ("broken", "a blob of its layout has the digest"),
    ] {
        let error = store.get(&wanted(name)).await.unwrap_err();
        assert!(error.contains(why), "{name}: {error}");
    }
}

/// Hadoop's client, as far as this needs one.
#[tokio::test(flavor = "multi_thread")]
async fn archives_that_a_client_gets() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("hadoop");
    fs::create_dir_all(home.join("bin")).unwrap();
    fs::write(dir.path().join("saved.tar"), two_layers().saved(&["eng/app:1"])).unwrap();
    let program = format!(
        "#!/bin/sh\n[ \"$*\" = \"fs -copyToLocal hdfs://n:8020/i/eng/app:1.tar $4\" ] && cp {}/saved.tar \"$4\"\n",
        dir.path().display()
    );
    fs::write(home.join("bin/hadoop"), program).unwrap();
    fs::set_permissions(home.join("bin/hadoop"), fs::Permissions::from_mode(0o755)).unwrap();
    let client = images::Client { home: home.display().to_string(), ..Default::default() };
    let store = open(Settings { client, ..settings(dir.path(), "hdfs://n:8020/i") });
    assert_eq!(store.get(&wanted("eng/app:1")).await.unwrap().image.layers.len(), 2);
    let error = store.get(&wanted("eng/app:2")).await.unwrap_err();
    assert!(error.contains("fs -copyToLocal' failed"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_is_pruned() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(Asks::Nobody).await);
    let base = two_layers();
    registry.push("base", "latest", &base);
    registry.push("more", "latest", &base.and(&[("more", b"more")], "null"));
    registry.push("kept", "latest", &Made::of(vec![layer(&[("kept", b"x")])], "null"));
    let store = open(settings(dir.path(), &registry.base()));
    let layers = || fs::read_dir(dir.path().join("store/layers")).unwrap().count();
    for name in ["base", "more", "kept"] {
        store.get(&wanted(name)).await.unwrap();
    }
    assert_eq!(layers(), 4);
    // In somebody's hand; used by somebody; and named.
    let held = store.get(&wanted("base")).await.unwrap();
    // Who pulled one may not have let go of it yet.
    let mut gone = (0, 0);
    let kept = [Name::docker("kept").unwrap()];
    let prune = |excluded: &[Name], gone: &mut (usize, usize)| {
        let pruned = store.prune(excluded, &BTreeSet::new()).unwrap();
        *gone = (gone.0 + pruned.images, gone.1 + pruned.layers);
        layers()
    };
    until("one goes", || prune(&kept, &mut gone) == 3).await;
    assert_eq!(gone, (1, 1));
    let used: BTreeSet<Digest> = held.image.layers.iter().copied().collect();
    drop(held);
    assert_eq!(store.prune(&kept, &used).unwrap(), images::Pruned::default());
    let names = store.names();
    assert!(names.iter().any(|name| name.ends_with("/base:latest")) && names.len() == 2, "{names:?}");
    assert!(Name::docker("NO").unwrap_err().contains("is no name of an image"));
    gone = (0, 0);
    until("all go", || prune(&[], &mut gone) == 0).await;
    assert_eq!(gone, (2, 3));
    for folder in ["gc", "configs"] {
        assert_eq!(fs::read_dir(dir.path().join("store").join(folder)).unwrap().count(), 0, "{folder}");
    }
    assert!(store.disk_used().unwrap() > 0.0);
    // Pulled again, and not found by a next agent before.
    let blobs = registry.count("blobs");
    store.get(&wanted("base")).await.unwrap();
    assert!(registry.count("blobs") > blobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_nothing_and_one_agent_has_a_store() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(Asks::Nobody).await);
    registry.push("app", "latest", &two_layers());
    let store = open(settings(dir.path(), &registry.base()));
    let error = Store::open(settings(dir.path(), &registry.base())).unwrap_err();
    assert!(error.starts_with("Another agent uses the store of images in"), "{error}");
    let layers = store.get(&wanted("app")).await.unwrap().image.layers.clone();
    drop(store);
    let at = |name: &str| dir.path().join("store").join(name);
    fs::create_dir_all(at("staging/pull-x/half.layer/rootfs.overlay/etc")).unwrap();
    fs::create_dir_all(at("gc/x/y")).unwrap();
    // As if it had been removed by hand.
    fs::remove_dir_all(at("layers").join(layers[1].hex())).unwrap();
    let store = open(settings(dir.path(), &registry.base()));
    assert_eq!((fs::read_dir(at("staging")).unwrap().count(), store.names().len()), (0, 0));
    until("what was left goes", || fs::read_dir(at("gc")).unwrap().count() == 0).await;
    let manifests = registry.count("manifests");
    assert_eq!(store.get(&wanted("app")).await.unwrap().image.layers, layers);
    assert_eq!(registry.count("manifests"), manifests + 1);
}

/// Of a test that failed: nothing stays mounted.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below =
            mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(&self.0));
        for at in below {
            let _ = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_of_containers_are_made_found_again_and_removed() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::start(Asks::Nobody).await);
    let _unmount = Unmount(dir.path().to_owned());
    registry.push("app", "latest", &two_layers());
    let begin = |backend| {
        let store = open(settings(dir.path(), &registry.base()));
        Provisioner::open(dir.path(), backend, vec![store]).unwrap()
    };
    let containers = dir.path().join("provisioner/containers");
    let known = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<String>>();
    for backend in [Backend::Overlay, Backend::Copy] {
        let provisioner = begin(Some(backend));
        let root = provisioner.provision("a", &wanted("app"), true, None).await.unwrap();
        assert_eq!(root.config.cmd, ["run"]);
        assert_eq!(tree(&root.root), ["etc/a=upper", "link:l"], "{backend:?}");
        fs::write(root.root.join("etc/a"), "mine").unwrap();
        let second = provisioner.provision("a", &wanted("app"), false, None).await.unwrap();
        let inner = provisioner.provision("a.b.c", &wanted("app"), true, None).await.unwrap();
        assert_eq!(tree(&second.root), tree(&inner.root));
        assert!(root.root.starts_with(containers.join("a/backends").join(backend.name()).join("rootfses")));
        assert!(inner.root.starts_with(containers.join("a/containers/b/containers/c/backends")));
        assert_eq!((provisioner.count(), provisioner.prune(&[]).unwrap().layers), (2, 0));
        // Another agent: what runs stays as it is, what is not known goes.
        drop(provisioner);
        let provisioner = begin(None);
        provisioner.sweep(&known(&["a.b.c"]));
        assert_eq!((provisioner.root("a"), provisioner.root("a.b")), (Some(root.clone()), None));
        assert_eq!(fs::read_to_string(root.root.join("etc/a")).unwrap(), "mine");
        assert_eq!((provisioner.count(), provisioner.prune(&[]).unwrap().layers), (2, 0));
        assert!(provisioner.destroy("a.b.c").unwrap());
        assert!(!containers.join("a/containers").exists() && root.root.exists());
        assert!(!provisioner.destroy("a.b.c").unwrap() && !provisioner.destroy("x").unwrap());
        let _inner = provisioner.provision("a.b.c", &wanted("app"), true, None).await.unwrap();
        provisioner.sweep(&known(&["x"]));
        assert_eq!((fs::read_dir(&containers).unwrap().count(), provisioner.count(), provisioner.errors()), (0, 0, 0));
        assert!(provisioner.prune(&[]).unwrap().layers > 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
        let error = provisioner.provision("e", &wanted("none"), true, None).await.unwrap_err();
        assert!(error.contains("status 404"), "{error}");
        assert_eq!(fs::read_dir(&containers).unwrap().count(), 0);
    }
}
