//! Roots of containers, made of images.
//!
//! ```text
//! DIR/containers/ID/layers                                  what it uses of the store: JSON, there before it is used
//! DIR/containers/ID/root                                    which of its roots is its own, and what the image says: JSON
//! DIR/containers/ID/backends/BACKEND/rootfses/UUID          a root
//! DIR/containers/ID/backends/BACKEND/scratch/UUID           what the backend keeps beside it
//! DIR/containers/ID/containers/INNER/...                    of one within it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Folder, Owners, Place};
use crate::digest::Digest;
use crate::manifest::Process;
use crate::name::Name;
use crate::store::{Held, Pruned, Pulls, Store, Wanted};

/// A root of a container.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Provisioned {
    /// The folder that is the container's root.
    pub root: PathBuf,
    /// What the image says of the process that runs in it, as far as that mattered when the root was made.
    pub config: Process,
    /// What is written there, if that is kept apart from what the image has.
    #[serde(default)]
    pub scratch: Option<PathBuf>,
}

struct Roots {
    dir: PathBuf,
    backend: Backend,
    /// One for each way in which images are called.
    stores: Vec<Store>,
    /// What containers use of them.
    used: Mutex<BTreeMap<String, BTreeSet<Digest>>>,
    /// Roots that are a container's own, and no volume of it.
    own: Mutex<BTreeMap<String, Provisioned>>,
    errors: AtomicU64,
}

/// Makes roots of containers. Clones are the same one.
#[derive(Clone)]
pub struct Provisioner(Arc<Roots>);

impl std::fmt::Debug for Provisioner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Provisioner").field(&self.0.dir).field(&self.0.backend).finish()
    }
}

/// Somebody waits for a root: it says so when it goes.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Serialize, Deserialize)]
struct Used {
    layers: Vec<String>,
}

impl Provisioner {
    /// Below a `work_dir`, in `provisioner`. Without a backend, overlay if that works there, or else copy. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(work_dir: &Path, backend: Option<Backend>, stores: Vec<Store>) -> Result<Provisioner, String> {
        let dir = work_dir.join("provisioner");
        let broken = |error: io::Error| format!("Cannot use {}: {error}", dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(dir.join("containers")).map_err(broken)?;
        // Programs of images may make others of users: nobody else comes here.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(broken)?;
        let backend = match backend {
            Some(backend) => backend
                .check(&dir)
                .map(|()| backend)
                .map_err(|why| format!("Cannot make roots of containers: {why}"))?,
            None => match Backend::Overlay.check(&dir) {
                Ok(()) => Backend::Overlay,
                Err(why) => {
                    tracing::warn!(why, "layers of images are copied for each container");
                    Backend::Copy
                }
            },
        };
        let (mut used, mut own) = (BTreeMap::new(), BTreeMap::new());
        for container_id in containers_in(&dir.join("containers"), "").map_err(broken)? {
            let file = container(&dir, &container_id).join("layers");
            let layers: Option<Used> = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
            let layers = layers.iter().flat_map(|used| &used.layers).filter_map(|layer| Digest::parse(layer).ok());
            let root = fs::read(file.with_file_name("root")).ok().and_then(|text| serde_json::from_slice(&text).ok());
            own.extend(root.map(|root: Provisioned| (container_id.clone(), root)));
            used.insert(container_id, layers.collect());
        }
        let (used, own) = (Mutex::new(used), Mutex::new(own));
        Ok(Provisioner(Arc::new(Roots { dir, backend, stores, used, own, errors: AtomicU64::new(0) })))
    }

    /// A root for a container, of an image that is pulled if it is not here: its own, or that of a volume. Dropped before it is done,
    /// what was begun is removed with the container. Of layers that are shown as one its files have these owners, if any are given; a
    /// copy has those of the image.
    ///
    /// # Errors
    /// A sentence.
    pub async fn provision(
        &self,
        container_id: &str,
        wanted: &Wanted,
        is_own: bool,
        owners: Option<Owners>,
    ) -> Result<Provisioned, String> {
        let keeps = |store: &&Store| store.keeps(&wanted.name);
        let store = self.0.stores.iter().find(keeps).cloned();
        let store = store.ok_or("this agent has no images of this kind: see its --image_providers")?;
        let held = store.get(wanted).await?;
        let (roots, container_id) = (self.0.clone(), container_id.to_owned());
        let waits = Waits(Arc::default());
        let is_left = waits.0.clone();
        let made = tokio::task::spawn_blocking(move || {
            let made = roots.make(&container_id, &store, &held, owners.as_ref())?;
            // What is made for nobody, whoever gave up may have looked for in vain.
            if is_left.load(Ordering::SeqCst) {
                let _ = roots.destroy(&container_id);
                return Err("nobody waits for it any more".to_owned());
            }
            if is_own {
                roots
                    .keep(&container_id, &made)
                    .map_err(|error| format!("Cannot write down the root of a container: {error}"))?;
            }
            Ok(made)
        });
        let made = made.await.map_err(|error| error.to_string())?;
        drop(waits);
        made
    }

    /// The root that is a container's own, if it was given one.
    pub fn root(&self, container_id: &str) -> Option<Provisioned> {
        self.0.own.lock().get(container_id).cloned()
    }

    /// The folder that takes what a container writes to its roots, those of volumes too, where these are layers that others have as
    /// well. There is none before it has a root, and none of copies.
    pub fn written(&self, container_id: &str) -> PathBuf {
        container(&self.0.dir, container_id).join("backends").join(Backend::Overlay.name()).join("scratch")
    }

    /// A container is over, and all within it: its roots go. Whether it had any. Blocks.
    ///
    /// # Errors
    /// Something of it cannot be removed now; it is tried again by the next [`Provisioner::sweep`].
    pub fn destroy(&self, container_id: &str) -> io::Result<bool> {
        let roots = &self.0;
        let removed = roots.destroy(container_id);
        if let Err(error) = &removed {
            roots.errors.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(container_id, %error, "cannot remove the root of a container");
        }
        removed
    }

    /// Removes the roots of all containers that are not among these. Blocks.
    pub fn sweep(&self, known: &BTreeSet<String>) {
        let is_above = |container_id: &str| {
            known.iter().any(|one| {
                one == container_id || one.strip_prefix(container_id).is_some_and(|rest| rest.starts_with('.'))
            })
        };
        let all: Vec<String> = self.0.used.lock().keys().cloned().collect();
        for container_id in all.iter().filter(|container_id| !is_above(container_id)) {
            if matches!(self.destroy(container_id), Ok(true)) {
                tracing::warn!(container_id, "removed the root of a container, unknown to this agent's log");
            }
        }
    }

    /// Removes images that no container uses, but for these. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn prune(&self, excluded: &[Name]) -> Result<Pruned, String> {
        let used = self.0.used.lock().values().flatten().copied().collect();
        let mut all = Pruned::default();
        for store in &self.0.stores {
            let Pruned { images, layers } = store.prune(excluded, &used)?;
            (all.images, all.layers) = (all.images + images, all.layers + layers);
        }
        Ok(all)
    }

    /// Containers that have roots.
    pub fn count(&self) -> usize {
        self.0.used.lock().values().filter(|layers| !layers.is_empty()).count()
    }

    /// Roots that could not be removed.
    pub fn errors(&self) -> u64 {
        self.0.errors.load(Ordering::Relaxed)
    }

    /// What was pulled of Docker's images.
    pub fn docker_pulls(&self) -> Pulls {
        self.0.stores.iter().find(|store| !store.is_appc()).map(Store::pulls).unwrap_or_default()
    }

    /// Its images.
    pub fn stores(&self) -> &[Store] {
        &self.0.stores
    }
}

impl Roots {
    fn make(
        &self,
        container_id: &str,
        store: &Store,
        held: &Held,
        owners: Option<&Owners>,
    ) -> Result<Provisioned, String> {
        let image = &held.image;
        let broken = |error: io::Error| {
            format!(
                "Cannot make the root of a container from the image '{}' with the backend '{}': {error}",
                image.name,
                self.backend.name()
            )
        };
        let folder = container(&self.dir, container_id);
        {
            let mut used = self.used.lock();
            let layers = used.entry(container_id.to_owned()).or_default();
            layers.extend(&image.layers);
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(broken)?;
            let written = Used { layers: layers.iter().map(ToString::to_string).collect() };
            write(&folder.join("layers"), &serde_json::to_vec(&written).map_err(|error| error.to_string())?)
                .map_err(broken)?;
        }
        let backends = folder.join("backends").join(self.backend.name());
        let id = uuid::Uuid::new_v4().to_string();
        let place = Place { root: backends.join("rootfses").join(&id), scratch: backends.join("scratch").join(&id) };
        let layers: Vec<Folder> = image
            .layers
            .iter()
            .map(|layer| Folder::open(&store.rootfs(*layer)))
            .collect::<Result<_, _>>()
            .map_err(broken)?;
        let made = self.backend.make(&layers, &place, owners);
        made.inspect_err(|_| drop(self.backend.unmake(&place))).map_err(broken)?;
        let scratch = (self.backend == Backend::Overlay).then_some(place.scratch);
        Ok(Provisioned { root: place.root, config: store.process(image), scratch })
    }

    fn keep(&self, container_id: &str, root: &Provisioned) -> io::Result<()> {
        write(&container(&self.dir, container_id).join("root"), &serde_json::to_vec(root)?)?;
        self.own.lock().insert(container_id.to_owned(), root.clone());
        Ok(())
    }

    fn destroy(&self, container_id: &str) -> io::Result<bool> {
        let folder = container(&self.dir, container_id);
        if !folder.is_dir() {
            self.used.lock().remove(container_id);
            return Ok(false);
        }
        // Those within it first.
        for inner in containers_in(&folder.join("containers"), container_id)?.into_iter().rev() {
            self.remove(&inner)?;
        }
        self.remove(container_id)?;
        Ok(true)
    }

    fn remove(&self, container_id: &str) -> io::Result<()> {
        let folder = container(&self.dir, container_id);
        for backend in [Backend::Overlay, Backend::Copy, Backend::Bind] {
            let backends = folder.join("backends").join(backend.name());
            let names = ["rootfses", "scratch"].map(|kind| fs::read_dir(backends.join(kind)));
            for id in names.into_iter().flatten().flatten().flatten().map(|entry| entry.file_name()) {
                let place =
                    Place { root: backends.join("rootfses").join(&id), scratch: backends.join("scratch").join(&id) };
                backend.unmake(&place)?;
            }
        }
        // Together with those who make folders within it.
        let mut used = self.used.lock();
        crate::tree::remove_path(&folder.join("backends"))?;
        for name in ["layers", "layers.draft", "root", "root.draft"] {
            crate::tree::remove_path(&folder.join(name))?;
        }
        used.remove(container_id);
        self.own.lock().remove(container_id);
        // Of those that it is within, what was only there for it.
        let mut folder = folder;
        while folder.parent() != Some(&self.dir) {
            match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => break,
                _ => {}
            }
            folder.pop();
        }
        Ok(())
    }
}

fn container(dir: &Path, container_id: &str) -> PathBuf {
    container_id.split('.').fold(dir.to_owned(), |above, one| above.join("containers").join(one))
}

/// Those below a folder, with all within them, the outer ones first.
fn containers_in(folder: &Path, above: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let container_id = if above.is_empty() { name } else { format!("{above}.{name}") };
        found.push(container_id.clone());
        found.extend(containers_in(&entry.path().join("containers"), &container_id)?);
    }
    Ok(found)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    File::create(&draft)?.write_all(bytes)?;
    fs::rename(draft, path)
}
