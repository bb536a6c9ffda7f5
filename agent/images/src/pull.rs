//! Bringing an image here: its configuration says what its layers are, and each of them that is not here yet is fetched, verified,
//! unpacked beside the others, synced, and then given its name. Whatever ends it leaves no half of anything.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agent_fetcher::tape;
use agent_fetcher::unpack::Packing;
use tokio::task::JoinSet;

use crate::appc;
use crate::archive::{self, Files, Section};
use crate::auth::Credentials;
use crate::digest::{Digest, Through};
use crate::layer::{Bounds, Kind, Refusal, unpack};
use crate::manifest::{CONFIG_BYTES_MAX, Config, Manifest, architecture, for_machine};
use crate::name::Name;
use crate::reference::Reference;
use crate::registry::Repository;
use crate::source::Source;
use crate::store::{Image, Kept, Pins, Staging};

/// Layers of one image that are fetched at once.
const LAYERS_AT_ONCE: usize = 3;
/// Files of one layer.
const ENTRIES_MAX: u64 = 1_000_000;
/// Manifests within each other.
const DEPTH_MAX: usize = 3;

/// Where the bytes of a layer are.
#[derive(Clone)]
pub(crate) enum Blob {
    Web {
        repository: Arc<Repository>,
        digest: Digest,
        size: u64,
    },
    File(Section),
    /// An archive of appc.
    Aci(Section),
}

/// Sets a flag when it goes.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Pulls an image. The error is a sentence.
pub(crate) async fn pull(
    kept: Arc<Kept>,
    name: Name,
    canonical: Name,
    credentials: Credentials,
) -> Result<(Image, Pins), String> {
    let staging = Arc::new(kept.staging().map_err(|error| format!("cannot make a folder for it: {error}"))?);
    let (name, canonical) = match (name, canonical, &kept.settings.source) {
        (_, Name::Appc(name), Source::Discovery(prefix)) => {
            let prefix = prefix.clone();
            return appc::pull(kept, staging, &prefix, name).await;
        }
        (Name::Docker(name), Name::Docker(canonical), _) => (name, canonical),
        _ => return Err("there is none of its kind where images come from".to_owned()),
    };
    let (config, blobs) = match &kept.settings.source {
        Source::Registry(_) => from_registry(&kept, &canonical, &credentials).await?,
        Source::Folder(folder) => {
            let (folder, staged, bytes_max) = (folder.clone(), staging.clone(), kept.settings.bytes_max);
            let find = move || archive::find(&folder, &name, staged.path(), bytes_max);
            of_files(tokio::task::spawn_blocking(find).await.map_err(|error| error.to_string())??)
        }
        Source::Client(prefix) => {
            let from = format!("{prefix}/{name}.tar");
            let (kept, staged) = (kept.clone(), staging.clone());
            let fetch = move || {
                let to = staged.path().join("image.tar");
                kept.settings.client.fetch(&from, &to, kept.settings.patience)?;
                archive::read(&to, &name, staged.path(), kept.settings.bytes_max)
            };
            of_files(tokio::task::spawn_blocking(fetch).await.map_err(|error| error.to_string())??)
        }
        Source::Discovery(_) => return Err("images of Docker are not found so".to_owned()),
    };
    let read = Config::parse(&config)?;
    let layers = read.layers()?;
    if layers.len() != blobs.len() {
        return Err(format!("its configuration has {} layers, and its manifest {}", layers.len(), blobs.len()));
    }
    if !matches!(read.architecture.as_str(), "" | "unknown") && read.architecture != architecture() {
        let theirs = api::limits::quoted(&read.architecture).escape_debug().to_string();
        tracing::warn!(image = %canonical, theirs, ours = architecture(), "an image is of another kind of machine");
    }
    // The same layer twice hides all of its first time.
    let mut wanted: Vec<(Digest, Blob)> = Vec::new();
    for (layer, blob) in layers.into_iter().zip(blobs) {
        wanted.retain(|(digest, _)| *digest != layer);
        wanted.push((layer, blob));
    }
    let order: Vec<Digest> = wanted.iter().map(|(digest, _)| *digest).collect();
    let mut pins = Pins::new(kept.clone());
    let left = Arc::new(AtomicU64::new(kept.settings.bytes_max));
    let mut waiting: VecDeque<_> = wanted.into();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < LAYERS_AT_ONCE
            && let Some((digest, blob)) = waiting.pop_front()
        {
            under_way.spawn(layer(kept.clone(), staging.clone(), digest, blob, left.clone()));
        }
        match under_way.join_next().await {
            None => break,
            Some(done) => pins.extend(done.map_err(|error| error.to_string())??),
        }
    }
    let image = Image { name: Name::Docker(canonical), config: read.config, layers: order };
    keep(kept, image.clone(), config).await?;
    Ok((image, pins))
}

/// Writes down that an image is here. The error is a sentence.
pub(crate) async fn keep(kept: Arc<Kept>, image: Image, config: Vec<u8>) -> Result<(), String> {
    let put = tokio::task::spawn_blocking(move || kept.put(image, &config)).await;
    put.map_err(|error| error.to_string())?.map_err(|error| format!("cannot write down that it is here: {error}"))
}

fn of_files(files: Files) -> (Vec<u8>, Vec<Blob>) {
    (files.config, files.layers.into_iter().map(Blob::File).collect())
}

async fn from_registry(
    kept: &Kept,
    name: &Reference,
    credentials: &Credentials,
) -> Result<(Vec<u8>, Vec<Blob>), String> {
    let base = kept.settings.source.base(name);
    let repository = Arc::new(Repository::new(&base, &name.repository, credentials, kept.settings.patience));
    let (mut version, mut expected) = (name.version(), name.digest);
    for _ in 0..DEPTH_MAX {
        let bytes = repository.manifest(&version, expected).await?;
        match Manifest::parse(&bytes)? {
            Manifest::List(all) => {
                let digest = for_machine(&all)?.digest()?;
                (version, expected) = (digest.to_string(), Some(digest));
            }
            Manifest::One { config, layers } => {
                let bytes = layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add);
                if bytes > kept.settings.bytes_max {
                    let most = kept.settings.bytes_max;
                    return Err(format!("its layers have {bytes} bytes, more than the {most} of --image_size_max"));
                }
                let config = repository.bytes(config.digest()?, CONFIG_BYTES_MAX, "its configuration").await?;
                let blob = |one: &crate::manifest::Descriptor| {
                    Ok(Blob::Web { repository: repository.clone(), digest: one.digest()?, size: one.size })
                };
                return Ok((config, layers.iter().map(blob).collect::<Result<_, String>>()?));
            }
        }
    }
    Err(format!("its manifests are more than {DEPTH_MAX} within each other"))
}

/// One layer, which is here then. Whoever else wants it waits, and finds it.
pub(crate) async fn layer(
    kept: Arc<Kept>,
    staging: Arc<Staging>,
    digest: Digest,
    blob: Blob,
    left: Arc<AtomicU64>,
) -> Result<Pins, String> {
    let _alone = kept.alone(digest).await;
    if let Some(pins) = Pins::of(&kept, digest) {
        return Ok(pins);
    }
    let kind = if matches!(blob, Blob::Aci(_)) { Kind::Aci } else { Kind::Changes };
    let section = match blob {
        Blob::File(section) | Blob::Aci(section) => section,
        Blob::Web { repository, digest, size } => {
            let path = staging.path().join(digest.hex());
            repository.blob(digest, size, &path).await?;
            Section { path, position: 0, size, digest: None }
        }
    };
    let _turn = kept.unpacking.acquire().await.map_err(|error| error.to_string())?;
    let stop = Stop(Arc::default());
    let (stopped, keeping) = (stop.0.clone(), kept.clone());
    let work = move || {
        let kept_in = keeping.settings.dir_flag;
        let folder = staging.path().join(format!("{}.layer", digest.hex()));
        unpack_into(&folder, (&section, kind), digest, (&left, kept_in), &stopped)?;
        if section.path.starts_with(staging.path()) && section.position == 0 {
            // What it was made of: only of use while it was.
            let _ = fs::remove_file(&section.path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            });
        }
        keeping.place(digest, &folder).map_err(|error| format!("cannot keep a layer: {error}"))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())??;
    drop(stop);
    Pins::of(&kept, digest).ok_or_else(|| "a layer was removed as soon as it was there".to_owned())
}

/// Unpacks a layer into a folder of its own, and looks whether it is what it must be. Blocks.
fn unpack_into(
    folder: &PathBuf,
    (section, kind): (&Section, Kind),
    digest: Digest,
    (left, kept_in): (&AtomicU64, &str),
    stop: &AtomicBool,
) -> Result<(), String> {
    let broken = |error: io::Error| format!("cannot read a layer: {error}");
    let rootfs = folder.join(crate::store::ROOTFS);
    let make = |path: &PathBuf, mode| fs::DirBuilder::new().mode(mode).create(path);
    make(folder, 0o700).and_then(|()| make(&rootfs, 0o755)).map_err(|error| format!("cannot make a layer: {error}"))?;
    // The mask of this process is its own.
    rustix::fs::chmod(&rootfs, rustix::fs::Mode::from_raw_mode(0o755)).map_err(|error| broken(error.into()))?;
    let mut probe = File::open(&section.path).map_err(broken)?;
    io::Seek::seek(&mut probe, io::SeekFrom::Start(section.position)).map_err(broken)?;
    let packing = archive::packing(&mut probe).map_err(broken)?;
    let mut packed = Through::new(section.open().map_err(broken)?);
    let content = tape::unpacked(packing, BufReader::with_capacity(256 << 10, &mut packed));
    let mut content = Through::new(content.map_err(|error| error.to_string())?);
    let bytes_max = left.load(Ordering::Relaxed);
    let unpacked = unpack(&mut content, kind, &rootfs, Bounds { bytes_max, entries_max: ENTRIES_MAX }, stop);
    let unpacked = unpacked.map_err(|refusal| match refusal {
        Refusal::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            format!("there is no room for it on the disk of --{kept_in}")
        }
        refusal => agent_sentence(&refusal),
    })?;
    // What is behind the archive's end is in the digest as well.
    let trailing = io::copy(&mut (&mut content).take(bytes_max), &mut io::sink()).map_err(broken)?;
    if trailing >= bytes_max {
        return Err(Refusal::Bytes(bytes_max).to_string());
    }
    left.fetch_sub(content.bytes.min(left.load(Ordering::Relaxed)), Ordering::Relaxed);
    let found = content.digest();
    if packing != Packing::Plain && section.digest.is_some() {
        io::copy(&mut packed, &mut io::sink()).map_err(broken)?;
    }
    let packed = if packing == Packing::Plain { found } else { packed.digest() };
    if let Some(expected) = section.digest.filter(|expected| *expected != packed) {
        return Err(format!("the layer {expected} has the digest {packed}"));
    }
    if found != digest {
        return Err(format!(
            "a layer is not what its configuration says: its content has the digest {found}, and not {digest}"
        ));
    }
    if unpacked.devices > 0 {
        tracing::info!(layer = %digest, devices = unpacked.devices, "devices of a layer were left out");
    }
    Ok(())
}

fn agent_sentence(error: &dyn std::error::Error) -> String {
    error.to_string()
}

/// A program that gets archives from where this one cannot.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Folder with `bin/hadoop`; empty if it is in PATH.
    pub home: String,
    /// Its environment, as far as it is not this process's.
    pub environment: std::collections::BTreeMap<String, String>,
}

impl Client {
    fn fetch(&self, uri: &str, to: &std::path::Path, patience: Option<Duration>) -> Result<(), String> {
        agent_fetcher::hadoop::fetch(&self.home, &self.environment, uri, to, patience)
    }
}
