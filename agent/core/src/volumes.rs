//! Persistent volumes: where they are, and where their users find them.

use api::resources::role_problem;
use api::v1::resource::disk_info::source::Type as SourceType;
use api::v1::{self, ExecutorInfo, TaskInfo};

use crate::state::Executor;

/// A persistent volume, as far as its place goes. What it is made of was looked at: none of it leads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// Root of the disk that it is on; none for that of the work_dir. One that is not absolute is below the work_dir.
    pub root: Option<String>,
    /// The root itself is the volume.
    pub is_root: bool,
    /// Who holds it.
    pub role: String,
    /// Its id, which no other volume of the role on this disk has.
    pub id: String,
    /// Several may use it at once.
    pub shared: bool,
}

impl Volume {
    /// The volume that a resource is.
    ///
    /// # Errors
    /// A sentence, if it is none or not one of an agent's own disks.
    pub fn of(resource: &v1::Resource) -> Result<Volume, String> {
        let disk = resource.disk.as_deref();
        let Some(id) = disk.and_then(|disk| disk.persistence.as_ref()).map(|persistence| persistence.id.clone()) else {
            return Err(format!("A resource '{}' without persistence is no volume", resource.name));
        };
        if let Some(problem) = id_problem(&id) {
            return Err(format!("The id '{id}' of a volume {problem}"));
        }
        let parsed = api::resources::Resource::from_v1(resource).map_err(|error| error.to_string())?;
        let role = parsed.reservation_role().unwrap_or("*").to_owned();
        if role == "*" {
            return Err(format!("The volume '{id}' is not reserved for a role"));
        }
        if let Some(problem) = role_problem(&role) {
            return Err(problem);
        }
        let source = disk.and_then(|disk| disk.source.as_ref());
        let root_of = |root: Option<&String>, kind: &str| {
            root.filter(|root| !root.is_empty())
                .cloned()
                .ok_or_else(|| format!("The {kind} disk of volume '{id}' has no root"))
        };
        let (root, is_root) = match source.map(|source| source.r#type()) {
            None => (None, false),
            Some(SourceType::Path) => {
                (Some(root_of(source.and_then(|source| source.path.as_ref()?.root.as_ref()), "PATH")?), false)
            }
            Some(SourceType::Mount) => {
                (Some(root_of(source.and_then(|source| source.mount.as_ref()?.root.as_ref()), "MOUNT")?), true)
            }
            Some(other) => {
                return Err(format!(
                    "Volume '{id}' is on a disk of the kind {}, which no agent here has",
                    other.as_str_name()
                ));
            }
        };
        Ok(Volume { root, is_root, role, id, shared: parsed.shared })
    }
}

fn id_problem(id: &str) -> Option<&'static str> {
    if id.is_empty() || id == "." || id == ".." {
        Some("is no name of a folder")
    } else if id.contains(['/', '\0']) || id.chars().any(char::is_control) {
        Some("has characters that no folder's name has")
    } else if id.len() > api::limits::ID_BYTES_MAX {
        Some("is too long")
    } else {
        None
    }
}

/// A volume and the path in the sandbox at which it is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// Relative, without `..`.
    pub path: String,
    /// What is found there.
    pub volume: Volume,
}

/// The volumes among resources of a task or an executor.
///
/// # Errors
/// A sentence, if one of them cannot be found in a sandbox.
pub fn uses(resources: &[v1::Resource]) -> Result<Vec<Use>, String> {
    let is_volume = |resource: &&v1::Resource| resource.disk.as_ref().is_some_and(|disk| disk.persistence.is_some());
    let mut found: Vec<Use> = Vec::new();
    for resource in resources.iter().filter(is_volume) {
        let volume = Volume::of(resource)?;
        let path = resource.disk.as_ref().and_then(|disk| disk.volume.as_ref()).map(|volume| &volume.container_path);
        let path = path.ok_or_else(|| format!("Volume '{}' has no container_path", volume.id))?;
        if let Some(problem) = path_problem(path) {
            return Err(format!("The container_path '{path}' of volume '{}' {problem}", volume.id));
        }
        let path = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/");
        match found.iter().find(|other| other.path == path) {
            // The same one, twice.
            Some(other) if other.volume == volume => {}
            Some(other) => {
                return Err(format!(
                    "Volumes '{}' and '{}' have the same container_path '{path}'",
                    other.volume.id, volume.id
                ));
            }
            None => found.push(Use { path, volume }),
        }
    }
    let within = |inner: &Use| {
        found.iter().find(|outer| inner.path.strip_prefix(&outer.path).is_some_and(|rest| rest.starts_with('/')))
    };
    match found.iter().find_map(|inner| within(inner).map(|outer| (outer, inner))) {
        Some((outer, inner)) => Err(format!(
            "The container_path '{}' of volume '{}' leads into volume '{}'",
            inner.path, inner.volume.id, outer.volume.id
        )),
        None => Ok(found),
    }
}

/// Volumes are links in the sandbox, so they can only be found below it.
fn path_problem(path: &str) -> Option<&'static str> {
    let parts = || path.split('/').filter(|part| !matches!(*part, "" | "."));
    if path.starts_with('/') {
        Some("is absolute: without a root filesystem of its own a container finds volumes below its sandbox only")
    } else if parts().any(|part| part == "..") {
        Some("leads out of the sandbox")
    } else if parts().next().is_none() {
        Some("is the sandbox itself")
    } else if path.contains('\0') {
        Some("contains a NUL")
    } else if parts().next().is_some_and(|first| matches!(first, "stdout" | "stderr")) {
        Some("is where the output goes")
    } else if parts().next() == Some("containers") {
        Some("is where the sandboxes of containers within it are")
    } else {
        None
    }
}

impl Executor {
    /// The volumes that it and its live tasks use.
    ///
    /// # Errors
    /// A sentence, if one of them is none that an agent of ours can have.
    pub fn volumes(&self) -> Result<Vec<Use>, String> {
        uses(&self.resources())
    }

    /// Its resources and those of its live tasks. What only stands for a command task has none of its own to use.
    pub(crate) fn resources(&self) -> Vec<v1::Resource> {
        let of_tasks = self.live_tasks().flat_map(|(_, task)| task.info.get::<TaskInfo>().resources);
        self.info.get::<ExecutorInfo>().resources.into_iter().chain(of_tasks).collect()
    }

    /// The volumes of its tasks that are over, as far as they could be found.
    pub fn volumes_before(&self) -> Vec<Use> {
        let over = self.tasks.values().filter(|task| task.is_terminal());
        over.flat_map(|task| uses(&task.info.get::<TaskInfo>().resources).unwrap_or_default()).collect()
    }
}
