//! Images that are here.
//!
//! ```text
//! DIR/lock               held by the agent that uses it
//! DIR/storedImages       which images there are, and of which layers: JSON, replaced as a whole
//! DIR/configs/HEX        what an image says of itself
//! DIR/layers/HEX/rootfs.overlay
//!                        a layer, as the kernel's overlay wants it, by the digest of what it is unpacked
//! DIR/staging/X/         what is being pulled; nothing in it counts
//! DIR/gc/X               what is being removed
//! ```
//!
//! A layer stays while an image that is here has it, a container uses it, or somebody has it in hand ([`Held`]). No user of the
//! machine but its owner can look in: programs in it may make others of users.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, Semaphore, watch};
use tokio::task::AbortHandle;

use crate::auth::Credentials;
use crate::digest::Digest;
use crate::manifest::{Config, Process};
use crate::name::Name;
use crate::pull::{Client, pull};
use crate::source::Source;
use crate::tree;

/// Name of a layer's content, in its folder.
pub(crate) const ROOTFS: &str = "rootfs.overlay";
/// Layers that are unpacked at once, of all images.
const UNPACKING_MAX: usize = 2;

/// How a store is configured.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Its folder.
    pub dir: PathBuf,
    /// The flag that says so.
    pub dir_flag: &'static str,
    /// Where images come from that name no registry.
    pub source: Source,
    /// Passwords of registries, for who brings none.
    pub credentials: Credentials,
    /// The longest time without any progress.
    pub patience: Option<Duration>,
    /// What an image may be, packed and unpacked, in bytes.
    pub bytes_max: u64,
    /// What gets archives from hdfs.
    pub client: Client,
    /// What its images say of the process that runs in them does not matter.
    pub ignore_runtime: bool,
}

/// Which image somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name, as it was written.
    pub name: Name,
    /// One that is here will do.
    pub cached: bool,
    /// Passwords of registries, instead of the store's own.
    pub credentials: Option<Credentials>,
}

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name, in the one way that it is written here.
    pub name: Name,
    /// What it says of the process that runs in it.
    pub config: Process,
    /// Its layers, the lowest first.
    pub layers: Vec<Digest>,
}

/// An image in somebody's hand: its layers stay.
#[derive(Debug)]
pub struct Held {
    /// The image.
    pub image: Image,
    _pins: Pins,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images.
    pub images: usize,
    /// Layers.
    pub layers: usize,
}

/// How long the pulls took that succeeded, and how many did not.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pulls {
    /// Those that succeeded.
    pub count: u64,
    /// The last of them, in milliseconds.
    pub last_ms: f64,
    /// Those that failed.
    pub failed: u64,
}

/// A store of images. Clones are the same one.
#[derive(Clone)]
pub struct Store(Arc<Kept>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.0.settings.dir).finish()
    }
}

/// What is behind a store.
pub(crate) struct Kept {
    pub(crate) settings: Settings,
    /// Turns of those who unpack.
    pub(crate) unpacking: Semaphore,
    index: Mutex<Index>,
    /// Images that are being pulled, by what they would be found as.
    flights: Mutex<BTreeMap<(String, String), Weak<Flight>>>,
    /// Whoever has a layer's is the one who fetches it.
    layers: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    pulls: Mutex<Pulls>,
    _lock: File,
}

#[derive(Default)]
struct Index {
    images: BTreeMap<Name, Image>,
    /// The configurations of images.
    configs: BTreeMap<Name, Digest>,
    layers: BTreeSet<Digest>,
    /// How many have a layer in hand.
    pins: BTreeMap<Digest, usize>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    images: Vec<StoredImage>,
}

#[derive(Serialize, Deserialize)]
struct StoredImage {
    name: String,
    config: String,
    layers: Vec<String>,
}

/// A pull that is under way. It ends when nobody waits for it.
struct Flight {
    done: watch::Receiver<Option<Result<Arc<Held>, String>>>,
    task: AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A folder of what is being pulled, which goes with it. Until it is gone nobody else can open the store.
pub(crate) struct Staging(Option<(tempfile::TempDir, Arc<Kept>)>);

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), |(dir, _)| dir.path())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Perhaps much is in there, and whoever drops this has no time. The folder goes before the store.
        let held = self.0.take();
        std::thread::spawn(move || drop(held));
    }
}

/// Layers in somebody's hand.
pub(crate) struct Pins {
    kept: Arc<Kept>,
    layers: Vec<Digest>,
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(&self.layers).finish()
    }
}

impl Pins {
    pub(crate) fn new(kept: Arc<Kept>) -> Pins {
        Pins { kept, layers: Vec::new() }
    }

    /// A layer that is here.
    pub(crate) fn of(kept: &Arc<Kept>, layer: Digest) -> Option<Pins> {
        let mut index = kept.index.lock();
        index.layers.contains(&layer).then(|| index.pin(kept, &[layer]))
    }

    pub(crate) fn extend(&mut self, mut more: Pins) {
        self.layers.append(&mut more.layers);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut index = self.kept.index.lock();
        for layer in &self.layers {
            if let Some(count) = index.pins.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    index.pins.remove(layer);
                }
            }
        }
    }
}

impl Index {
    fn pin(&mut self, kept: &Arc<Kept>, layers: &[Digest]) -> Pins {
        for layer in layers {
            *self.pins.entry(*layer).or_default() += 1;
        }
        Pins { kept: kept.clone(), layers: layers.to_vec() }
    }
}

impl Store {
    /// Opens a store, and removes what was begun in it. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(mut settings: Settings) -> Result<Store, String> {
        crate::layer::check_kernel()?;
        let shown = settings.dir.display().to_string();
        let broken = |error: io::Error| format!("Cannot use the store of images in {shown}: {error}");
        DirBuilder::new().recursive(true).mode(0o700).create(&settings.dir).map_err(broken)?;
        settings.dir = fs::canonicalize(&settings.dir).map_err(broken)?;
        fs::set_permissions(&settings.dir, fs::Permissions::from_mode(0o700)).map_err(broken)?;
        let dir = settings.dir.clone();
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(dir.join("lock"));
        let lock = lock.map_err(broken)?;
        if let Err(error) = lock.try_lock() {
            return Err(match error {
                fs::TryLockError::WouldBlock => {
                    let flag = settings.dir_flag;
                    format!("Another agent uses the store of images in {shown}: give each its own --{flag}")
                }
                fs::TryLockError::Error(error) => broken(error),
            });
        }
        for name in ["staging", "layers", "configs", "gc"] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir.join(name)).map_err(broken)?;
        }
        let is_appc = settings.source.is_appc();
        let kept = Kept {
            settings,
            unpacking: Semaphore::new(UNPACKING_MAX),
            index: Mutex::new(read(&dir, is_appc).map_err(broken)?),
            flights: Mutex::default(),
            layers: Mutex::default(),
            pulls: Mutex::default(),
            _lock: lock,
        };
        // What an agent before was pulling or removing.
        for name in fs::read_dir(dir.join("staging")).map_err(broken)? {
            kept.bury(&name.map_err(broken)?.path()).map_err(broken)?;
        }
        let gc = dir.join("gc");
        std::thread::spawn(move || empty(&gc));
        Ok(Store(Arc::new(kept)))
    }

    /// An image: one that is here, or what is pulled now, once for all who ask for the same.
    ///
    /// # Errors
    /// A sentence.
    pub async fn get(&self, wanted: &Wanted) -> Result<Arc<Held>, String> {
        let kept = &self.0;
        let name = wanted.name.clone();
        let canonical = name.clone().canonical(kept.settings.source.default_registry());
        if wanted.cached
            && let Some(held) = kept.find(&canonical)
        {
            return Ok(Arc::new(held));
        }
        let credentials = wanted.credentials.clone().unwrap_or_else(|| kept.settings.credentials.clone());
        let flight = self.join(name, canonical, credentials);
        let mut done = flight.done.clone();
        let done = done.wait_for(Option::is_some).await.map(|done| done.clone());
        let ended = || "it was ended".to_owned();
        let done = done.unwrap_or_else(|_| Some(Err(ended()))).unwrap_or_else(|| Err(ended()));
        let shown = wanted.name.to_string();
        done.map_err(|why| format!("Failed to pull the image '{shown}': {why}"))
    }

    fn join(&self, name: Name, canonical: Name, credentials: Credentials) -> Arc<Flight> {
        let kept = &self.0;
        let key = (canonical.to_string(), credentials.key());
        let mut flights = kept.flights.lock();
        let under_way = flights.get(&key).and_then(Weak::upgrade);
        if let Some(flight) = under_way.filter(|flight| flight.done.borrow().is_none()) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let (tell, done) = watch::channel(None);
        let keeping = kept.clone();
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            tracing::info!(image = %canonical, "pulling an image");
            let pulled = pull(keeping.clone(), name, canonical.clone(), credentials).await;
            let took_ms = begun.elapsed().as_secs_f64() * 1000.0;
            match &pulled {
                Ok(_) => {
                    let mut pulls = keeping.pulls.lock();
                    (pulls.count, pulls.last_ms) = (pulls.count + 1, took_ms);
                    tracing::info!(image = %canonical, took_ms, "pulled an image");
                }
                Err(why) => {
                    keeping.pulls.lock().failed += 1;
                    tracing::warn!(image = %canonical, why, "cannot pull an image");
                }
            }
            drop(keeping);
            let _ = tell.send(Some(pulled.map(|(image, pins)| Arc::new(Held { image, _pins: pins }))));
        });
        let flight = Arc::new(Flight { done, task: task.abort_handle() });
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }

    /// Forgets the images that are not named here, and removes the layers that then nobody has: no image, no container, nobody in
    /// hand. An image all of whose layers are used stays. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn prune(&self, excluded: &[Name], used: &BTreeSet<Digest>) -> Result<Pruned, String> {
        let kept = &self.0;
        let canonical = |name: &Name| name.clone().canonical(kept.settings.source.default_registry());
        let excluded: BTreeSet<Name> = excluded.iter().map(canonical).collect();
        let broken = |error: io::Error| format!("Cannot remove images: {error}");
        let mut pruned = Pruned::default();
        {
            let mut index = kept.index.lock();
            let is_used = |layer: &Digest, index: &Index| used.contains(layer) || index.pins.contains_key(layer);
            let forgotten: Vec<Name> = index
                .images
                .values()
                .filter(|image| !excluded.contains(&image.name))
                .filter(|image| !image.layers.iter().all(|layer| is_used(layer, &index)))
                .map(|image| image.name.clone())
                .collect();
            for name in &forgotten {
                index.images.remove(name);
                index.configs.remove(name);
            }
            pruned.images = forgotten.len();
            // First, so that no image is written down whose layers are gone.
            kept.write(&index).map_err(broken)?;
            let needed: BTreeSet<Digest> =
                index.images.values().flat_map(|image| image.layers.iter().copied()).collect();
            let removed: Vec<Digest> = index
                .layers
                .iter()
                .filter(|layer| !needed.contains(layer) && !is_used(layer, &index))
                .copied()
                .collect();
            for layer in removed {
                kept.bury(&kept.layer(layer)).map_err(broken)?;
                index.layers.remove(&layer);
                pruned.layers += 1;
            }
            let configs: BTreeSet<String> = index.configs.values().map(Digest::hex).collect();
            for config in fs::read_dir(kept.settings.dir.join("configs")).map_err(broken)?.flatten() {
                if !configs.contains(&*config.file_name().to_string_lossy()) {
                    let _ = fs::remove_file(config.path());
                }
            }
        }
        empty(&kept.settings.dir.join("gc"));
        Ok(pruned)
    }

    /// What part of its disk is used, between 0 and 1.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn disk_used(&self) -> io::Result<f64> {
        let found = rustix::fs::statvfs(&self.0.settings.dir)?;
        let (all, free) = (found.f_blocks as f64, found.f_bavail as f64);
        Ok(if all > 0.0 { 1.0 - free / all } else { 0.0 })
    }

    /// Where the content of a layer is.
    pub(crate) fn rootfs(&self, layer: Digest) -> PathBuf {
        self.0.layer(layer).join(ROOTFS)
    }

    /// What an image says of the process that runs in it, as far as that matters.
    pub(crate) fn process(&self, image: &Image) -> Process {
        if self.0.settings.ignore_runtime { Process::default() } else { image.config.clone() }
    }

    /// Whether an image of this name could be here.
    pub(crate) fn keeps(&self, name: &Name) -> bool {
        self.is_appc() == matches!(name, Name::Appc(_))
    }

    /// Whether its images are appc's.
    pub(crate) fn is_appc(&self) -> bool {
        self.0.settings.source.is_appc()
    }

    /// The names of the images that are here.
    pub fn names(&self) -> Vec<String> {
        self.0.index.lock().images.keys().map(ToString::to_string).collect()
    }

    /// What was pulled since it was opened.
    pub fn pulls(&self) -> Pulls {
        *self.0.pulls.lock()
    }
}

impl Kept {
    fn layer(&self, layer: Digest) -> PathBuf {
        self.settings.dir.join("layers").join(layer.hex())
    }

    fn find(self: &Arc<Kept>, name: &Name) -> Option<Held> {
        let mut index = self.index.lock();
        let image = index.images.get(name)?.clone();
        let pins = index.pin(self, &image.layers);
        Some(Held { image, _pins: pins })
    }

    /// A folder for what is being pulled.
    pub(crate) fn staging(self: &Arc<Kept>) -> io::Result<Staging> {
        tempfile::Builder::new()
            .prefix("pull-")
            .tempdir_in(self.settings.dir.join("staging"))
            .map(|dir| Staging(Some((dir, self.clone()))))
    }

    /// Waits until nobody else fetches this layer.
    pub(crate) async fn alone(&self, layer: Digest) -> OwnedMutexGuard<()> {
        let turn = {
            let mut layers = self.layers.lock();
            match layers.get(&layer).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    layers.retain(|_, turn| turn.strong_count() > 0);
                    let turn = Arc::default();
                    layers.insert(layer, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// A layer that is whole gets its name. Blocks.
    pub(crate) fn place(&self, layer: Digest, folder: &Path) -> io::Result<()> {
        // All of it, before it can be found.
        rustix::fs::syncfs(File::open(folder)?)?;
        match fs::rename(folder, self.layer(layer)) {
            // Left by an agent that did not write down that it has it.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {}
            done => done?,
        }
        File::open(self.settings.dir.join("layers"))?.sync_all()?;
        self.index.lock().layers.insert(layer);
        Ok(())
    }

    /// Writes down that an image is here. Blocks.
    pub(crate) fn put(&self, image: Image, config: &[u8]) -> io::Result<()> {
        let digest = Digest::of(config);
        replace(&self.settings.dir.join("configs").join(digest.hex()), config)?;
        let mut index = self.index.lock();
        index.configs.insert(image.name.clone(), digest);
        index.images.insert(image.name.clone(), image);
        self.write(&index)
    }

    fn write(&self, index: &Index) -> io::Result<()> {
        let one = |image: &Image| {
            Some(StoredImage {
                name: image.name.to_string(),
                config: index.configs.get(&image.name)?.to_string(),
                layers: image.layers.iter().map(ToString::to_string).collect(),
            })
        };
        let stored = Stored { images: index.images.values().filter_map(one).collect() };
        let text = serde_json::to_vec_pretty(&stored)?;
        replace(&self.settings.dir.join("storedImages"), &text)
    }

    /// What has this name is to be removed, and has it no more.
    fn bury(&self, path: &Path) -> io::Result<()> {
        fs::rename(path, self.settings.dir.join("gc").join(uuid::Uuid::new_v4().to_string()))
    }
}

fn empty(gc: &Path) {
    for found in fs::read_dir(gc).into_iter().flatten().flatten() {
        if let Err(error) = tree::remove_path(&found.path()) {
            tracing::warn!(path = %found.path().display(), %error, "cannot remove what is left of an image");
        }
    }
}

/// Writes a file as a whole: it is there after a crash, as it was or as it is.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// What is in a store. What is missing something is not there.
fn read(dir: &Path, is_appc: bool) -> io::Result<Index> {
    let mut index = Index::default();
    for layer in fs::read_dir(dir.join("layers"))? {
        let layer = layer?;
        let digest = Digest::of_hex(&layer.file_name().to_string_lossy());
        index.layers.extend(digest.filter(|_| layer.path().join(ROOTFS).is_dir()));
    }
    let text = match fs::read(dir.join("storedImages")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(index),
        text => text?,
    };
    let stored: Stored = serde_json::from_slice(&text).map_err(|error| {
        io::Error::other(format!("storedImages cannot be read: {error}; remove it, and images are pulled again"))
    })?;
    for one in stored.images {
        let image = || -> Option<(Image, Digest)> {
            let name = Name::parse(&one.name, is_appc).ok()?;
            let digest = Digest::parse(&one.config).ok()?;
            let layers = one.layers.iter().map(|layer| Digest::parse(layer).ok()).collect::<Option<Vec<_>>>()?;
            let config = fs::read(dir.join("configs").join(digest.hex())).ok()?;
            let config = Config::parse(&config).ok().filter(|_| Digest::of(&config) == digest)?.config;
            layers.iter().all(|layer| index.layers.contains(layer)).then_some((Image { name, config, layers }, digest))
        };
        match image() {
            Some((image, digest)) => {
                index.configs.insert(image.name.clone(), digest);
                index.images.insert(image.name.clone(), image);
            }
            None => {
                tracing::warn!(image = one.name, "not all of an image is there: it is pulled again when it is needed")
            }
        }
    }
    Ok(index)
}
