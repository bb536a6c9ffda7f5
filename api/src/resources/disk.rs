//! Disks that are more than space: what makes two of them the same, and how they are written.

use std::cmp::Ordering;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::required::from_field;
use crate::v1::resource::DiskInfo;
use crate::v1::resource::disk_info::Source;
use crate::v1::resource::disk_info::source::Type as SourceType;
use crate::v1::volume::Mode;

/// A disk that is more than space. It is the same as another if its source and its persistence id are: where a task
/// sees it (`volume`) and who made it (`principal`) do not count.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Of a persistent volume.
    pub persistence_id: Option<Arc<str>>,
    /// Whether it can only be had as a whole.
    pub exclusive: bool,
    /// The whole `DiskInfo` in protobuf, its fields in the order of their numbers.
    pub info: Bytes,
}

/// The number of `DiskInfo.source`, the last of its fields.
const SOURCE: u32 = 3;

impl Disk {
    /// What a message says.
    ///
    /// # Errors
    /// A sentence, if there is no such disk.
    pub fn from_v1(info: &DiskInfo) -> Result<Disk, String> {
        let source = info.source.as_ref();
        let kind = match source.map(|source| SourceType::try_from(source.r#type)) {
            None => None,
            Some(Ok(SourceType::Unknown) | Err(_)) => {
                return Err("Unsupported 'DiskInfo.Source.Type' in 'UNKNOWN'".into());
            }
            Some(Ok(kind)) => Some(kind),
        };
        if let Some(kind @ (SourceType::Block | SourceType::Raw)) = kind {
            let has = |what: &str| Err(format!("{what} should not be set for {} disk source", kind.as_str_name()));
            match source {
                Some(source) if source.mount.is_some() => return has("Mount"),
                Some(source) if source.path.is_some() => return has("Path"),
                _ => {}
            }
        }
        let exclusive = match kind {
            Some(SourceType::Mount | SourceType::Block) => true,
            // A RAW disk without an id is space from which disks are made.
            Some(SourceType::Raw) => source.is_some_and(|source| source.id.is_some()),
            _ => false,
        };
        Ok(Disk {
            persistence_id: info.persistence.as_ref().map(|persistence| persistence.id.as_str().into()),
            exclusive,
            info: Bytes::from(info.encode_to_vec()),
        })
    }

    /// The message.
    pub fn to_v1(&self) -> DiskInfo {
        DiskInfo::decode(self.info.clone()).unwrap_or_default()
    }

    /// The disk without its volume; None if nothing but space is left.
    pub(super) fn without_volume(&self) -> Option<Disk> {
        let info = DiskInfo { persistence: None, volume: None, ..self.to_v1() };
        info.source.is_some().then(|| Disk {
            persistence_id: None,
            exclusive: self.exclusive,
            info: Bytes::from(info.encode_to_vec()),
        })
    }

    /// Whether it can only be had as a whole, be it as a device or as a volume.
    pub fn is_whole(&self) -> bool {
        self.exclusive || self.persistence_id.is_some()
    }

    /// What makes it what it is.
    fn identity(&self) -> (&Option<Arc<str>>, bool, &[u8]) {
        (&self.persistence_id, self.exclusive, from_field(&self.info, SOURCE))
    }
}

impl PartialEq for Disk {
    fn eq(&self, other: &Disk) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Disk {}

impl PartialOrd for Disk {
    fn partial_cmp(&self, other: &Disk) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Disk {
    fn cmp(&self, other: &Disk) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl Hash for Disk {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// As it is shown between brackets: `MOUNT:/mnt1,id:path`.
pub(super) fn text(info: &DiskInfo) -> String {
    let mut text = info.source.as_ref().map(source_text).unwrap_or_default();
    if let Some(persistence) = &info.persistence {
        let comma = if text.is_empty() { "" } else { "," };
        text.push_str(comma);
        text.push_str(&persistence.id);
    }
    if let Some(volume) = &info.volume {
        let _ = match &volume.host_path {
            None => write!(text, ":{}", volume.container_path),
            Some(host_path) => {
                let mode = if volume.mode == Mode::Ro as i32 { "ro" } else { "rw" };
                write!(text, ":{host_path}:{}:{mode}", volume.container_path)
            }
        };
    }
    text
}

/// `MOUNT:root`; what a storage plugin made is `MOUNT(vendor,id,profile)`.
fn source_text(source: &Source) -> String {
    let kind = SourceType::try_from(source.r#type).map_or("UNKNOWN", |kind| kind.as_str_name());
    if source.id.is_some() || source.profile.is_some() {
        let [vendor, id, profile] =
            [&source.vendor, &source.id, &source.profile].map(|part| part.as_deref().unwrap_or_default());
        return format!("{kind}({vendor},{id},{profile})");
    }
    let root = source.path.as_ref().and_then(|path| path.root.as_ref());
    let root = root.or(source.mount.as_ref().and_then(|mount| mount.root.as_ref()));
    root.map_or_else(|| kind.to_owned(), |root| format!("{kind}:{root}"))
}
