//! A provider's plugin: where its services are, what they can do, and its volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_csi::{Abilities, Asked, Controller, Failure, Found, Plugin as Configured, Plugins, Volumes};
use api::v1::csi_plugin_container_info::Service;
use api::v1::{CsiPluginInfo, ResourceProviderInfo};

use crate::kept::Volume;
use crate::pools::Seen;
use crate::profiles::Profile;

/// Pauses before a plugin is asked again, the first and the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(20);
/// As whom a provider has volumes: none is taken back while tasks may have it.
const USER: &str = "resource-provider";

/// It.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    kind: String,
    pub(crate) volumes: Volumes,
    controller: Controller,
    node: Controller,
    pub(crate) abilities: Abilities,
    work_dir: PathBuf,
    /// Where its volumes are published.
    mounts: PathBuf,
}

/// Where its volumes are published: apart from those that containers ask for themselves.
pub(crate) fn mounts(work_dir: &Path, info: &CsiPluginInfo) -> PathBuf {
    let own = || work_dir.join("csi").join(&info.r#type).join(info.name()).join("disks");
    info.target_path_root.as_ref().map_or_else(own, PathBuf::from)
}

impl Plugin {
    /// At these sockets. What an earlier agent published stays so. Within a runtime; blocks.
    pub(crate) fn new(
        work_dir: &Path,
        folder: &Path,
        info: &CsiPluginInfo,
        sockets: &BTreeMap<i32, PathBuf>,
        patience: Duration,
    ) -> Plugin {
        let socket = |service: Service| sockets.get(&(service as i32)).cloned().unwrap_or_default();
        let mounts = mounts(work_dir, info);
        let configured = Configured {
            kind: info.r#type.clone(),
            name: info.name().to_owned(),
            socket: socket(Service::NodeService),
            root: Some(mounts.clone()),
            target_exists: info.target_path_exists(),
            controller: Some(socket(Service::ControllerService)),
        };
        let volumes = Volumes::new(agent_csi::Settings {
            plugins: Plugins::One(Box::new(configured)),
            records: folder.join("volumes"),
            mounts: mounts.clone(),
            patience,
        });
        volumes.keep(&BTreeSet::from([USER.to_owned()]));
        Plugin {
            kind: info.r#type.clone(),
            controller: volumes.controller(&info.r#type, socket(Service::ControllerService)),
            node: volumes.controller(&info.r#type, socket(Service::NodeService)),
            volumes,
            abilities: Abilities::default(),
            work_dir: work_dir.to_owned(),
            mounts,
        }
    }

    /// Waits until both services answer, however long that takes.
    pub(crate) async fn ready(&mut self, provider: &ResourceProviderInfo) {
        let mut pause = RETRY_MIN;
        loop {
            match self.look().await {
                Ok(abilities) => {
                    tracing::info!(name = provider.name, ?abilities, "a CSI plugin of a resource provider is ready");
                    self.abilities = abilities;
                    return;
                }
                Err(failure) => {
                    tracing::warn!(name = provider.name, why = %failure, "a CSI plugin of a resource provider is not ready");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    }

    async fn look(&self) -> Result<Abilities, Failure> {
        self.node.probe().await?;
        self.controller.probe().await?;
        self.controller.abilities().await
    }

    /// Where a disk is found: below the agent's `work_dir`, if it is there.
    pub(crate) fn root(&self, volume_id: &str) -> String {
        let path = agent_csi::target(&self.mounts, volume_id);
        path.strip_prefix(&self.work_dir).map_or(path.display().to_string(), |path| path.display().to_string())
    }

    /// All that it tells of.
    pub(crate) async fn see(self, profiles: BTreeMap<String, Profile>) -> Result<Seen, String> {
        let sentence = |failure: Failure| failure.to_string();
        let volumes = match self.abilities.lists {
            true => Some(self.controller.list().await.map_err(sentence)?),
            false => None,
        };
        let mut pools = BTreeMap::new();
        for (name, profile) in profiles {
            let bytes = match self.abilities.measures {
                true => self.controller.capacity(&profile.capability, &profile.parameters).await.map_err(sentence)?,
                false => 0,
            };
            pools.insert(name, bytes);
        }
        Ok(Seen { volumes, pools: Some(pools) })
    }

    /// Makes a volume, once for one name.
    pub(crate) async fn create(self, name: String, bytes: u64, profile: Profile) -> Result<(String, Volume), String> {
        if !self.abilities.creates {
            return Err(format!("the CSI plugin '{}' does not create volumes", self.kind));
        }
        let create = || self.controller.create(&name, bytes, &profile.capability, &profile.parameters);
        let Found { id, context, .. } = insist(create).await?;
        // One that could never be had is not made.
        if let Err(why) = self.asked(&id, &profile, &context) {
            let _ = insist(|| self.controller.delete(&id)).await;
            return Err(why);
        }
        Ok((id, Volume { profile, context }))
    }

    /// Takes over a volume that others made.
    pub(crate) async fn take(self, found: Found, profile: Profile) -> Result<(String, Volume), String> {
        self.asked(&found.id, &profile, &found.context)?;
        let validate = || self.controller.validate(&found, &profile.capability, &profile.parameters);
        match insist(validate).await? {
            None => Ok((found.id, Volume { profile, context: found.context })),
            Some(why) => Err(format!("Validation failed for volume '{}': {why}", found.id)),
        }
    }

    /// Deletes a volume; false if the plugin does not do that: then nothing is left of what was on it.
    pub(crate) async fn delete(self, id: String, volume: Option<Volume>) -> Result<bool, String> {
        if let (Some(volume), false) = (&volume, self.abilities.creates) {
            self.empty(&id, volume).await?;
        }
        self.volumes.give_back(USER, &self.kind, &id).await?;
        if self.abilities.creates {
            insist(|| self.controller.delete(&id)).await?;
        }
        Ok(self.abilities.creates)
    }

    fn asked(&self, id: &str, profile: &Profile, context: &BTreeMap<String, String>) -> Result<Asked, String> {
        Asked::of(&self.kind, id, &profile.capability, context, false)
    }

    /// Publishes a volume, unless it is so already. Where it is found.
    pub(crate) async fn publish(&self, id: &str, volume: &Volume) -> Result<PathBuf, String> {
        let asked = self.asked(id, &volume.profile, &volume.context)?;
        self.volumes.publish(USER, &asked).await.map(|published| published.path)
    }

    /// Deletes what is on a volume.
    pub(crate) async fn empty(&self, id: &str, volume: &Volume) -> Result<(), String> {
        // One that is not mounted, after a restart of the machine, has data all the same.
        let path = self.publish(id, volume).await?;
        let emptied = tokio::task::spawn_blocking(move || {
            crate::emptied::empty(&path)
                .map_err(|error| format!("cannot delete what is on the disk at {}: {error}", path.display()))
        });
        emptied.await.map_err(|error| error.to_string())?
    }
}

/// Asks again for as long as nobody knows whether it was done. The error is a sentence: it was not.
async fn insist<T, F: Future<Output = Result<T, Failure>>>(ask: impl Fn() -> F) -> Result<T, String> {
    let mut pause = RETRY_MIN;
    loop {
        match ask().await {
            Ok(done) => return Ok(done),
            Err(failure) if !failure.is_open() => return Err(failure.to_string()),
            Err(failure) => tracing::warn!(why = %failure, "a CSI plugin is asked again"),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(RETRY_MAX);
    }
}
