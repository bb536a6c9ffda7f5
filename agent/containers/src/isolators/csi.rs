//! `volume/csi`: volumes of plugins of the Container Storage Interface. They are published before their container has its turn to be
//! launched, and mounted there as other volumes are.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use agent_csi::{Asked, Published, Settings, Volumes};
use api::v1::Volume;
use parking_lot::Mutex;
use supervisor::mounts::{Mount, Place};

use super::filesystem::FilesystemSettings;
use super::linux::is_session;
use super::volume::{is_read_only, place};
use super::{Isolator, Obtaining};
use crate::container::Container;
use crate::containerizer::Creation;
use crate::sandbox::ids;

/// Volumes of a container, and where they are published.
type Obtained = Vec<(Volume, PathBuf)>;

/// `volume/csi`
#[derive(Debug)]
pub struct VolumeCsi {
    settings: FilesystemSettings,
    volumes: Volumes,
    /// What containers have that are not launched yet.
    obtained: Arc<Mutex<BTreeMap<String, Obtained>>>,
}

impl VolumeCsi {
    /// Knows no container yet.
    pub fn new(filesystem: &FilesystemSettings, settings: &Settings) -> VolumeCsi {
        let volumes = Volumes::new(settings.clone());
        VolumeCsi { settings: filesystem.clone(), volumes, obtained: Arc::default() }
    }
}

impl VolumeCsi {
    /// Looks at what is configured. Blocks.
    ///
    /// # Errors
    /// A sentence: it cannot be used.
    pub fn check(settings: &Settings) -> Result<(), String> {
        Volumes::check(settings)
    }
}

/// The volumes that a container asks of plugins, each once. The error is a sentence.
fn asked(container: &Container) -> Result<Vec<(Volume, Asked)>, String> {
    let mut all: Vec<(Volume, Asked)> = Vec::new();
    for volume in container.info.iter().flat_map(|info| &info.volumes) {
        let Some(one) = Asked::read(volume)? else { continue };
        if all.iter().any(|(_, other)| (&other.plugin, &other.volume_id) == (&one.plugin, &one.volume_id)) {
            return Err(format!(
                "Found duplicate CSI volume with plugin '{}' and volume ID '{}'",
                one.plugin, one.volume_id
            ));
        }
        all.push((volume.clone(), one));
    }
    Ok(all)
}

/// A volume that nobody else has is its container's user's. The error is a sentence.
async fn own(published: &Published, user: &str) -> Result<(), String> {
    let (path, user) = (published.path.clone(), user.to_owned());
    let owned = tokio::task::spawn_blocking(move || {
        let (uid, _) = ids(&user, None)?;
        let cannot =
            |why: String| format!("cannot make user '{user}' the owner of the CSI volume at {}: {why}", path.display());
        let found = std::fs::metadata(&path).map_err(|error| cannot(error.to_string()))?;
        if found.uid() == uid {
            return Ok(());
        }
        std::os::unix::fs::chown(&path, Some(uid), None).map_err(|error| cannot(error.to_string()))
    });
    owned.await.map_err(|error| error.to_string())?
}

impl Isolator for VolumeCsi {
    fn name(&self) -> &'static str {
        "volume/csi"
    }

    fn obtain(&self, creation: &Creation) -> Option<Obtaining> {
        let asked = match asked(&creation.container) {
            Ok(asked) if asked.is_empty() || is_session(creation) => return None,
            asked => asked,
        };
        let (volumes, obtained) = (self.volumes.clone(), self.obtained.clone());
        let (id, user) = (creation.container.id.clone(), creation.user.clone());
        Some(Box::pin(async move {
            let mut found = Vec::new();
            for (volume, asked) in asked? {
                let published = volumes.publish(&id, &asked).await?;
                if published.is_first && !asked.read_only && !user.is_empty() && user != "root" {
                    own(&published, &user).await?;
                }
                found.push((volume, published.path));
            }
            obtained.lock().insert(id, found);
            Ok(())
        }))
    }

    fn prepare(&self, creation: &mut Creation) -> Result<(), String> {
        let found = self.obtained.lock().remove(&creation.container.id).unwrap_or_default();
        for (volume, path) in found {
            let at = place(creation, &self.settings, &volume)?;
            let mount = Mount::bind(Place::absolute(path.display().to_string()), at);
            let read_only = is_read_only(&volume);
            creation.world.mounts.push(Mount { read_only, no_devices: true, mapped: true, ..mount });
        }
        Ok(())
    }

    fn numbers(&self, set: &mut dyn FnMut(&str, f64)) {
        for (plugin, calls) in self.volumes.calls() {
            for (how, count) in [
                ("pending", calls.pending),
                ("finished", calls.finished),
                ("failed", calls.failed),
                ("cancelled", calls.cancelled),
            ] {
                set(&format!("csi_plugins/{plugin}/csi_plugin/rpcs_{how}"), count as f64);
            }
        }
    }

    fn sweep(&self, known: &BTreeSet<String>) {
        self.volumes.keep(known);
    }

    fn cleanup(&self, container: &Container) {
        self.obtained.lock().remove(&container.id);
        self.volumes.withdraw(&container.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_of_a_plugin_is_refused() {
        let volume = |text: &str| {
            let text = format!(
                r#"{{"mode": "RW", "container_path": "c", "source": {{"type": "CSI_VOLUME", "csi_volume": {{"plugin_name": "p",
                   "static_provisioning": {{"volume_id": "v", "volume_capability": {{"mount": {{}}, "access_mode": {{"mode": "SINGLE_NODE_WRITER"}}}}{text}}}}}}}}}"#
            );
            api::json::from_slice::<Volume>(text.as_bytes()).unwrap()
        };
        let of = |volumes: Vec<Volume>| {
            let info = api::v1::ContainerInfo { volumes, ..Default::default() };
            asked(&Container { info: Some(Box::new(info)), ..Container::default() })
        };
        let plain = volume("");
        assert_eq!(of(vec![plain.clone()]).unwrap().len(), 1);
        assert!(of(vec![plain.clone(), plain.clone()]).unwrap_err().starts_with("Found duplicate CSI volume"));
        let with = |change: &dyn Fn(&mut api::v1::volume::source::csi_volume::StaticProvisioning)| {
            let mut volume = plain.clone();
            let csi = volume.source.as_mut().unwrap().csi_volume.as_mut().unwrap();
            change(csi.static_provisioning.as_mut().unwrap());
            of(vec![volume]).unwrap_err()
        };
        use api::v1::volume::source::csi_volume::volume_capability::{AccessType, access_mode::Mode};
        let secret = |data: &'static [u8]| {
            let value = Some(api::v1::secret::Value { data: data.into() });
            BTreeMap::from([("key".to_owned(), api::v1::Secret { value, ..Default::default() })])
        };
        for (why, told) in [
            ("1 to 128 bytes", with(&|one| one.volume_id = String::new())),
            ("1 to 128 bytes", with(&|one| one.volume_id = "x".repeat(129))),
            ("a folder's name", with(&|one| one.volume_id = "/".repeat(100))),
            (
                "as a block device, which is not built",
                with(&|one| {
                    one.volume_capability.access_type = Some(AccessType::Block(Default::default()));
                }),
            ),
            ("has no 'mount'", with(&|one| one.volume_capability.access_type = None)),
            (
                "'access_mode' of CSI volume 'v' is unknown",
                with(&|one| {
                    one.volume_capability.access_mode.mode = Mode::Unknown as i32;
                }),
            ),
            (
                "Cannot use the read-only volume 'v' in read-write mode",
                with(&|one| {
                    one.volume_capability.access_mode.mode = Mode::MultiNodeReaderOnly as i32;
                }),
            ),
            ("secret 'key' of CSI volume 'v' is no text", with(&|one| one.node_stage_secrets = secret(b"\xff"))),
            ("needs the --cluster_secret", with(&|one| one.node_publish_secrets = secret(b"meseta-sealed-1:x"))),
        ] {
            assert!(told.contains(why), "{told}");
        }
    }
}
