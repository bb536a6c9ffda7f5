//! What a container asks of a plugin.

use std::collections::BTreeMap;

use api::v1::Volume;
use api::v1::volume::source::csi_volume::volume_capability::AccessType;
use api::v1::volume::source::csi_volume::volume_capability::access_mode::Mode as Access;
use api::v1::volume::source::csi_volume::{StaticProvisioning, VolumeCapability};
use api::v1::volume::{Mode, source};

use crate::record::folder_name;
use crate::wire;
use crate::wire::volume_capability::{self as capability, AccessMode, BlockVolume, MountVolume};

/// So long the specification lets an id be, in bytes.
const ID_MAX: usize = 128;
/// And so long it may be as the name of a folder.
const NAME_MAX: usize = 240;

/// A volume, and how it is to be had.
#[derive(Clone, PartialEq)]
pub struct Asked {
    /// As volumes name it.
    pub plugin: String,
    /// As the plugin names it.
    pub volume_id: String,
    /// Nobody writes to it.
    pub read_only: bool,
    pub(crate) capability: wire::VolumeCapability,
    pub(crate) context: BTreeMap<String, String>,
    /// Never written down: what is taken back needs none.
    pub(crate) stage_secrets: BTreeMap<String, String>,
    pub(crate) publish_secrets: BTreeMap<String, String>,
}

/// Without its secrets.
impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asked")
            .field("plugin", &self.plugin)
            .field("volume_id", &self.volume_id)
            .finish_non_exhaustive()
    }
}

impl Asked {
    /// Of a volume; none if it is another kind of volume.
    ///
    /// # Errors
    /// A sentence: it cannot be had.
    pub fn read(volume: &Volume) -> Result<Option<Asked>, String> {
        let Some(source) = volume.source.as_ref().filter(|source| source.r#type() == source::Type::CsiVolume) else {
            return Ok(None);
        };
        let csi = source.csi_volume.as_ref().ok_or("'source.csi_volume' is not set for CSI volume")?;
        let provisioning = csi.static_provisioning.as_ref();
        let provisioning = provisioning.ok_or("'source.csi_volume.static_provisioning' is not set for CSI volume")?;
        let (stage_secrets, publish_secrets) = secrets(provisioning)?;
        let read_only = volume.mode() == Mode::Ro;
        let (id, capability) = (&provisioning.volume_id, &provisioning.volume_capability);
        let asked = Asked::of(&csi.plugin_name, id, capability, &provisioning.volume_context, read_only)?;
        Ok(Some(Asked { stage_secrets, publish_secrets, ..asked }))
    }

    /// Without secrets.
    ///
    /// # Errors
    /// A sentence: it cannot be had.
    pub fn of(
        plugin: &str,
        id: &str,
        wanted: &VolumeCapability,
        context: &BTreeMap<String, String>,
        read_only: bool,
    ) -> Result<Asked, String> {
        if id.is_empty() || id.len() > ID_MAX || id.contains('\0') {
            return Err(format!("'volume_id' of a CSI volume must be of 1 to {ID_MAX} bytes, without NUL"));
        }
        if folder_name(id).len() > NAME_MAX {
            return Err(format!(
                "'volume_id' of a CSI volume must be a folder's name of {NAME_MAX} bytes, with %XX for what is no letter or digit"
            ));
        }
        match &wanted.access_type {
            Some(AccessType::Mount(_)) => {}
            Some(AccessType::Block(_)) => {
                return Err(format!(
                    "CSI volume '{id}' is asked for as a block device, which is not built: ask for 'mount'"
                ));
            }
            None => return Err(format!("'volume_capability' of CSI volume '{id}' has no 'mount'")),
        }
        let access = wanted.access_mode.mode();
        if access == Access::Unknown {
            return Err(format!("the 'access_mode' of CSI volume '{id}' is unknown"));
        }
        if matches!(access, Access::SingleNodeReaderOnly | Access::MultiNodeReaderOnly) && !read_only {
            return Err(format!("Cannot use the read-only volume '{id}' in read-write mode"));
        }
        Ok(Asked {
            plugin: plugin.to_owned(),
            volume_id: id.to_owned(),
            read_only,
            capability: to_wire(wanted),
            context: context.clone(),
            stage_secrets: Secrets::new(),
            publish_secrets: Secrets::new(),
        })
    }

    /// Whether who has it as `terms` say has what is asked for here.
    pub(crate) fn goes_with(&self, terms: &Terms) -> bool {
        let Terms { read_only, .. } = *terms;
        let own = self.terms();
        Terms { read_only, ..own } == *terms && (self.read_only || !read_only)
    }

    pub(crate) fn terms(&self) -> Terms {
        let mount = match &self.capability.access_type {
            Some(capability::AccessType::Mount(mount)) => mount.clone(),
            _ => MountVolume::default(),
        };
        Terms {
            read_only: self.read_only,
            access: self.capability.access_mode.unwrap_or_default().mode,
            fs_type: mount.fs_type,
            mount_flags: mount.mount_flags,
            context: self.context.clone(),
        }
    }
}

/// As plugins are told of it.
pub(crate) fn to_wire(wanted: &VolumeCapability) -> wire::VolumeCapability {
    let access_type = wanted.access_type.as_ref().map(|access| match access {
        AccessType::Mount(mount) => capability::AccessType::Mount(MountVolume {
            fs_type: mount.fs_type().to_owned(),
            mount_flags: mount.mount_flags.clone(),
        }),
        AccessType::Block(_) => capability::AccessType::Block(BlockVolume {}),
    });
    let access_mode = Some(AccessMode { mode: wanted.access_mode.mode() as i32 });
    wire::VolumeCapability { access_mode, access_type }
}

/// How a volume is published: for all that have it at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Terms {
    pub(crate) read_only: bool,
    access: i32,
    fs_type: String,
    mount_flags: Vec<String>,
    context: BTreeMap<String, String>,
}

type Secrets = BTreeMap<String, String>;

fn secrets(provisioning: &StaticProvisioning) -> Result<(Secrets, Secrets), String> {
    let id = &provisioning.volume_id;
    let one = |(name, secret): (&String, &api::v1::Secret)| {
        let value =
            secret.value.as_ref().ok_or_else(|| format!("secret '{name}' of CSI volume '{id}' has no value"))?;
        if api::secrets::is_sealed(&value.data) {
            return Err(format!(
                "secret '{name}' of CSI volume '{id}' cannot be opened: this agent needs the --cluster_secret of its masters"
            ));
        }
        let text = String::from_utf8(value.data.to_vec());
        let text = text.map_err(|_| format!("secret '{name}' of CSI volume '{id}' is no text, as plugins want it"))?;
        Ok((name.clone(), text))
    };
    let all =
        |secrets: &BTreeMap<String, api::v1::Secret>| secrets.iter().map(one).collect::<Result<Secrets, String>>();
    Ok((all(&provisioning.node_stage_secrets)?, all(&provisioning.node_publish_secrets)?))
}
