//! Images of this agent's containers: how they are configured, which of them a container asks for, and when those go that nobody
//! uses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::flags::Values;
use api::v1::{ContainerInfo, Image, image, volume};
use api_http::Secret;
use containers::ImageVolume;
use containers::users::{self, Users, Whose};
use images::{
    Appc, Backend, Client, Credentials, Name, Owners, Process, Provisioned, Provisioner, Source, Store, Wanted,
};
use serde::Deserialize;

use crate::agent::Agent;
use crate::secrets;
use crate::surroundings::Inbox;

/// Kinds of images that there are.
const KINDS: &[&str] = &["docker", "appc"];
/// Flags that are for one of them.
const FLAGS: &[(&str, &[&str])] = &[
    ("docker", &["docker_config", "docker_ignore_runtime", "docker_registry", "docker_store_dir"]),
    ("appc", &["appc_simple_discovery_uri_prefix", "appc_store_dir"]),
];
/// Between two looks whether somebody still waits for an image that is pulled.
const LOOK: Duration = Duration::from_millis(250);

/// How images are configured.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    work_dir: PathBuf,
    /// One for each of the kinds in `--image_providers`.
    stores: Vec<images::Settings>,
    backend: Option<Backend>,
    /// Isolators that there are: for roots of either kind, and for volumes.
    for_roots: Roots,
    for_volumes: bool,
    collection: Option<Collection>,
}

/// Kinds of images that containers may have for roots.
#[derive(Clone, Copy, Debug)]
struct Roots {
    docker: bool,
    appc: bool,
}

impl Roots {
    fn of(self, image: &Image) -> bool {
        if image.r#type == image::Type::Appc as i32 { self.appc } else { self.docker }
    }
}

/// When images go that nobody uses: `--image_gc_config`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Collection {
    /// Part of the disk that is to be free, from 0 to 1.
    #[serde(rename = "image_disk_headroom")]
    headroom: f64,
    #[serde(rename = "image_disk_watch_interval")]
    interval: Nanoseconds,
    #[serde(rename = "excluded_images", default)]
    excluded: serde_json::Value,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Nanoseconds {
    nanoseconds: i64,
}

/// How they are configured, if there are to be any, and what is to be said of it. The error is a sentence.
pub(crate) fn read(values: &Values, work_dir: &Path) -> Result<(Option<Settings>, Vec<String>), String> {
    let isolates = |name: &str| values.text("isolation").unwrap_or_default().split(',').any(|one| one.trim() == name);
    let for_volumes = isolates("volume/image");
    let for_roots = Roots { docker: isolates("docker/runtime"), appc: isolates("appc/runtime") };
    let providers = values.text("image_providers").unwrap_or_default().split(',').map(str::trim);
    let providers: Vec<String> = providers.filter(|one| !one.is_empty()).map(str::to_ascii_lowercase).collect();
    if let Some(other) = providers.iter().find(|one| !KINDS.contains(&one.as_str())) {
        let (other, kinds) = (api::limits::quoted(other), KINDS.join(", "));
        return Err(format!("'{other}' is not supported in '--image_providers'; there is: {kinds}"));
    }
    let provides = |kind: &str| providers.iter().any(|one| one == kind);
    for (isolator, is_there, kinds) in [
        ("docker/runtime", for_roots.docker, &["docker"][..]),
        ("appc/runtime", for_roots.appc, &["appc"]),
        ("volume/image", for_volumes, KINDS),
    ] {
        if is_there && !kinds.iter().any(|kind| provides(kind)) {
            let kinds = kinds.join(" or ");
            return Err(format!("{isolator} in --isolation needs {kinds} in --image_providers"));
        }
    }
    // Passwords are for a Docker Engine, too.
    let has_engine = crate::config::containerizers(values).any(|name| name == "docker");
    let idle = |flags: &[&'static str], kind: &str| -> Vec<String> {
        let given = flags.iter().filter(|name| values.is_given(name) && !(has_engine && **name == "docker_config"));
        given.map(|name| format!("--{name} does nothing without {kind}--image_providers")).collect()
    };
    let mut warnings = Vec::new();
    for (kind, flags) in FLAGS {
        warnings.extend(if provides(kind) { Vec::new() } else { idle(flags, &format!("{kind} in ")) });
    }
    if providers.is_empty() {
        warnings.extend(idle(&["image_gc_config", "image_provisioner_backend", "image_size_max"], ""));
        return Ok((None, warnings));
    }
    if !isolates("filesystem/linux") {
        return Err("--image_providers needs filesystem/linux in --isolation, which makes roots of images".to_owned());
    }
    for (kind, isolator, is_there) in
        [("docker", "docker/runtime", for_roots.docker), ("appc", "appc/runtime", for_roots.appc)]
    {
        if provides(kind) && !is_there {
            warnings.push(format!(
                "{kind} in --image_providers without {isolator} in --isolation: containers have no such images for roots"
            ));
        }
    }
    let named = |name: &'static str| move |why: String| format!("Flag '--{name}': {why}");
    let source = values.text("docker_registry").map_or(Ok(Source::default()), Source::parse);
    let credentials = values.text("docker_config").map_or(Ok(Credentials::default()), Credentials::parse);
    let environment = ["PATH", "HOME", "JAVA_HOME", "HADOOP_HOME", "HADOOP_CONF_DIR"];
    let environment = environment.into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    let of_docker = images::Settings {
        dir: values.path("docker_store_dir").unwrap_or_else(|| work_dir.join("store/docker")),
        dir_flag: "docker_store_dir",
        source: source.map_err(named("docker_registry"))?,
        credentials: credentials.map_err(named("docker_config"))?,
        patience: values.duration("fetcher_stall_timeout").filter(|most| !most.is_zero()),
        bytes_max: values.bytes("image_size_max").unwrap_or(u64::MAX),
        client: Client {
            home: values.text("hadoop_home").unwrap_or_default().to_owned(),
            environment: environment.collect(),
        },
        ignore_runtime: values.bool("docker_ignore_runtime"),
    };
    const PREFIX: &str = "appc_simple_discovery_uri_prefix";
    let discovery = Source::discovery(values.text(PREFIX).unwrap_or("http://"));
    let of_appc = images::Settings {
        dir: values.path("appc_store_dir").unwrap_or_else(|| work_dir.join("store/appc")),
        dir_flag: "appc_store_dir",
        source: discovery.map_err(named(PREFIX))?,
        credentials: Credentials::default(),
        client: Client::default(),
        ignore_runtime: false,
        ..of_docker.clone()
    };
    let stores = [("docker", of_docker), ("appc", of_appc)].into_iter().filter(|(kind, _)| provides(kind));
    let stores = stores.map(|(_, store)| store).collect();
    let settings = Settings {
        work_dir: work_dir.to_owned(),
        stores,
        backend: values.text("image_provisioner_backend").map(Backend::named).transpose()?,
        for_roots,
        for_volumes,
        collection: values.text("image_gc_config").map(collection).transpose()?,
    };
    Ok((Some(settings), warnings))
}

fn collection(text: &str) -> Result<Collection, String> {
    let wrong = |why: &str| {
        format!(
            "Flag '--image_gc_config' must be a JSON object with image_disk_headroom and image_disk_watch_interval: {why}"
        )
    };
    let read: Collection = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    if !(0.0..=1.0).contains(&read.headroom) {
        return Err(wrong("the headroom is a part of the disk, between 0 and 1"));
    }
    if read.interval.nanoseconds <= 0 {
        return Err(wrong("the interval is longer than nothing"));
    }
    read.excluded().map_err(|why| wrong(&why))?;
    Ok(read)
}

impl Collection {
    /// The names of images that stay.
    fn excluded(&self) -> Result<Vec<Name>, String> {
        if self.excluded.is_null() {
            return Ok(Vec::new());
        }
        let all = self.excluded.as_array().ok_or("excluded_images is a list")?;
        let one = |one: &serde_json::Value| -> Result<Name, String> {
            let image: Image = api::json::from_slice(one.to_string().as_bytes()).map_err(|error| error.to_string())?;
            name(&image)
        };
        all.iter().map(one).collect()
    }
}

/// Whose files of images are, with users of a container's own. The error is a sentence.
fn owners(users: Users) -> Result<Owners, String> {
    let made = users::make(Whose::New(users), &[]);
    let made = made.map_err(|error| format!("cannot have users of its own: {error}"))?;
    Ok(Owners::new(users.first, move |folder| users::mapped(folder, &made.users)))
}

/// What an image is called. The error is a sentence.
fn name(image: &Image) -> Result<Name, String> {
    let kind = image::Type::try_from(image.r#type).ok();
    match (kind, &image.docker, &image.appc) {
        (Some(image::Type::Docker), Some(docker), _) => Name::docker(&docker.name),
        (Some(image::Type::Appc), _, Some(appc)) => {
            let labels = appc.labels.iter().flat_map(|labels| &labels.labels);
            let labels = labels.map(|label| (label.key.clone(), label.value().to_owned()));
            Appc::new(&appc.name, labels, appc.id.as_deref()).map(Name::Appc)
        }
        (Some(image::Type::Docker), None, _) => Err("an image of type DOCKER has no 'docker'".to_owned()),
        (Some(image::Type::Appc), _, None) => Err("an image of type APPC has no 'appc'".to_owned()),
        (None, ..) => Err("Unsupported container image type: there is DOCKER, APPC".to_owned()),
    }
}

/// The names of those that a call excludes.
pub(crate) fn names(images: &[Image]) -> Result<Vec<Name>, String> {
    images.iter().map(name).collect()
}

/// Images of an agent's containers.
#[derive(Clone, Debug)]
pub struct Images {
    provisioner: Provisioner,
    settings: Settings,
}

/// The images that a container asks for.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    root: Option<Wanted>,
    volumes: Vec<(ImageVolume, Wanted)>,
}

impl Images {
    /// Opens the store. Blocks. The error is a sentence.
    pub(crate) fn open(settings: Settings) -> Result<Images, String> {
        let stores = settings.stores.iter().cloned().map(Store::open).collect::<Result<_, _>>()?;
        Ok(Images { provisioner: Provisioner::open(&settings.work_dir, settings.backend, stores)?, settings })
    }

    pub(crate) fn provisioner(&self) -> &Provisioner {
        &self.provisioner
    }

    /// What a container asks for, as far as this agent has isolators for it: what it has none for is refused elsewhere. The error is a
    /// sentence.
    pub(crate) fn asked(&self, info: &ContainerInfo, secret: Option<&Secret>, owner: &str) -> Result<Asked, String> {
        let wanted = |image: &Image| -> Result<Wanted, String> {
            let name = name(image)?;
            let docker = image.docker.clone().unwrap_or_default();
            #[expect(deprecated, reason = "who uses it is told")]
            if docker.credential.is_some() {
                return Err(
                    "'Image.docker.credential' is not used: give 'config', a secret with what Docker's config.json has"
                        .to_owned(),
                );
            }
            let config = docker.config.as_ref().map(|config| -> Result<Credentials, String> {
                let text = secrets::opened_value(secret, config, owner)
                    .map_err(|why| format!("'Image.docker.config': {why}"))?;
                let text = String::from_utf8(text).map_err(|_| "'Image.docker.config' is no text".to_owned())?;
                Credentials::parse(&text).map_err(|why| format!("'Image.docker.config': {why}"))
            });
            Ok(Wanted { name, cached: image.cached(), credentials: config.transpose()? })
        };
        let mut asked = Asked::default();
        if let Some(image) =
            info.mesos.as_ref().and_then(|mesos| mesos.image.as_ref()).filter(|one| self.settings.for_roots.of(one))
        {
            asked.root = Some(wanted(image)?);
        }
        for volume in info.volumes.iter().filter(|_| self.settings.for_volumes) {
            let Some(image) = &volume.image else { continue };
            let read_only = volume.mode == volume::Mode::Ro as i32;
            let container_path = volume.container_path.clone();
            let found = ImageVolume { container_path, read_only, root: PathBuf::new(), scratch: None };
            asked.volumes.push((found, wanted(image)?));
        }
        Ok(asked)
    }

    /// Makes what a container asks for, with `users` of its own if it has such: the volumes of it. None if it ended meanwhile; the error is a sentence.
    pub(crate) async fn provide(
        &self,
        agent: &Inbox,
        container_id: &str,
        asked: Asked,
        users: Option<Users>,
    ) -> Result<Option<Vec<ImageVolume>>, String> {
        let asks = asked.root.is_some() || !asked.volumes.is_empty();
        let owners = users.filter(|_| asks).map(owners).transpose()?;
        let making = async {
            if let Some(wanted) = &asked.root {
                self.provisioner.provision(container_id, wanted, true, owners.clone()).await?;
            }
            let mut volumes = Vec::new();
            for (volume, wanted) in &asked.volumes {
                let made = self.provisioner.provision(container_id, wanted, false, owners.clone()).await?;
                let Provisioned { root, scratch, .. } = made;
                volumes.push(ImageVolume { root, scratch, ..volume.clone() });
            }
            Ok(volumes)
        };
        tokio::pin!(making);
        let made = loop {
            tokio::select! {
                made = &mut making => break Some(made),
                () = tokio::time::sleep(LOOK) => if !agent.has_container(container_id) { break None },
            }
        };
        // What was made for one that ended in the meantime, nobody else will remove.
        match made {
            Some(made) if agent.has_container(container_id) => made.map(Some),
            _ => {
                self.destroy(container_id.to_owned());
                Ok(None)
            }
        }
    }

    /// The root of a container, and what its image says of the process in it, as far as that matters.
    pub(crate) fn root(&self, container_id: &str) -> Option<(PathBuf, Process)> {
        let Provisioned { root, config, .. } = self.provisioner.root(container_id)?;
        Some((root, config))
    }

    /// What a container writes to its root, if that is kept apart.
    pub(crate) fn scratch(&self, container_id: &str) -> Option<PathBuf> {
        self.provisioner.root(container_id)?.scratch
    }

    /// A container is over.
    pub(crate) fn destroy(&self, container_id: String) {
        let provisioner = self.provisioner.clone();
        // What cannot be removed now is at the next start, and said.
        tokio::task::spawn_blocking(move || provisioner.destroy(&container_id).map(drop));
    }

    /// Removes what nobody uses, but for these and those that are always kept. Blocks. The error is a sentence.
    pub(crate) fn prune(&self, mut excluded: Vec<Name>) -> Result<(), String> {
        if let Some(collection) = &self.settings.collection {
            excluded.extend(collection.excluded()?);
        }
        let pruned = self.provisioner.prune(&excluded)?;
        tracing::info!(images = pruned.images, layers = pruned.layers, "removed images that nobody uses");
        Ok(())
    }
}

/// Removes images that nobody uses whenever their disk is too full, for as long as the agent lives.
pub(crate) async fn collect(agent: Arc<Agent>) {
    let collected =
        agent.containers.images().and_then(|images| Some((images.clone(), images.settings.collection.clone()?)));
    let Some((images, collection)) = collected else { return std::future::pending().await };
    let interval = Duration::from_nanos(u64::try_from(collection.interval.nanoseconds).unwrap_or(u64::MAX));
    loop {
        tokio::time::sleep(interval).await;
        let (images, headroom) = (images.clone(), collection.headroom);
        let look = move || -> Result<(), String> {
            let used = images.provisioner.stores().iter().map(Store::disk_used).collect::<Result<Vec<f64>, _>>();
            let used = used.map_err(|error| error.to_string())?.into_iter().fold(0.0, f64::max);
            if used + headroom <= 1.0 {
                return Ok(());
            }
            tracing::info!(used, headroom, "the disk of images is too full");
            images.prune(Vec::new())
        };
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!(why, "cannot remove images that nobody uses"),
            Err(error) => tracing::error!(%error, "cannot look at the disk of images"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_images_go() {
        let read = |text: &str| collection(text).and_then(|read| read.excluded());
        let whole = r#"{"image_disk_headroom": 0.1, "image_disk_watch_interval": {"nanoseconds": 3600000000000},
                        "excluded_images": [{"type": "DOCKER", "docker": {"name": "a:b"}}]}"#;
        assert_eq!(read(whole), Ok(vec![Name::docker("a:b").unwrap()]));
        for (text, why) in [
            ("{}", "missing field"),
            (r#"{"image_disk_headroom": 2, "image_disk_watch_interval": {"nanoseconds": 1}}"#, "between 0 and 1"),
            (r#"{"image_disk_headroom": 0, "image_disk_watch_interval": {"nanoseconds": 0}}"#, "longer than nothing"),
            (
                r#"{"image_disk_headroom": 0, "image_disk_watch_interval": {"nanoseconds": 1}, "excluded_images": [{"type": "APPC"}]}"#,
                "has no 'appc'",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
