//! Plugins that their agent runs: a container for each of their parts, which stands alone, is found again by an agent that is started
//! again, and is launched again when it ends.
//!
//! ```text
//! WORK_DIR/csi/TYPE/NAME/endpoint-N ─► a folder with csi.sock, which CSI_ENDPOINT names
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::v1::agent::call::{self, LaunchContainer};
use api::v1::agent::{self, Call};
use api::v1::environment::Variable;
use api::v1::volume::source::{self, HostPath};
use api::v1::volume::{self, Mode, Source};
use api::v1::{ContainerId, ContainerInfo, CsiPluginContainerInfo, MountPropagation, ResourceProviderInfo, Volume};

use crate::configs::services;
use crate::host::{Host, Refused};
use crate::plugin::mounts;

/// Of the name of a socket, in bytes: the kernel takes no more.
const SOCKET_MAX: usize = 107;
const SOCKET: &str = "csi.sock";
/// Between the end of a container and the next.
const PAUSE: Duration = Duration::from_secs(1);

/// How containers are made here.
#[derive(Clone, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) work_dir: &'a Path,
    /// Containers have files of their own: what they are to see is mounted for them.
    pub(crate) mounts_apart: bool,
}

/// How the ids of a provider's containers begin.
pub(crate) fn prefix(info: &ResourceProviderInfo) -> String {
    format!("{}-{}--", info.r#type.replace('.', "-"), info.name)
}

/// The containers of a plugin, and the sockets of its services. Blocks.
///
/// # Errors
/// A sentence.
pub(crate) fn wanted(
    info: &ResourceProviderInfo,
    terms: &Terms<'_>,
) -> Result<(Vec<LaunchContainer>, BTreeMap<i32, PathBuf>), String> {
    let plugin = info.storage.as_ref().map(|storage| storage.plugin.clone()).unwrap_or_default();
    let (mut launches, mut sockets) = (Vec::new(), BTreeMap::new());
    for endpoint in &plugin.endpoints {
        sockets.insert(endpoint.csi_service, agent_csi::socket(&endpoint.endpoint)?);
    }
    for (n, one) in plugin.containers.iter().enumerate() {
        let link = terms.work_dir.join("csi").join(&plugin.r#type).join(plugin.name()).join(format!("endpoint-{n}"));
        let folder = endpoint(&link).map_err(|error| format!("cannot make the folder {}: {error}", link.display()))?;
        for service in &one.services {
            sockets.entry(*service).or_insert_with(|| folder.join(SOCKET));
        }
        let mounts = mounts(terms.work_dir, &plugin);
        let id = format!("{}{}-{}--{}", prefix(info), plugin.r#type.replace('.', "-"), plugin.name(), services(one));
        launches.push(launch(one, id, &folder, terms.mounts_apart.then_some(mounts.as_path())));
    }
    Ok((launches, sockets))
}

/// A folder whose socket has a name that is short enough.
fn endpoint(link: &Path) -> io::Result<PathBuf> {
    let around = link.parent().unwrap_or(link);
    fs::DirBuilder::new().recursive(true).mode(0o711).create(around)?;
    if let Ok(folder) = fs::read_link(link)
        && fs::symlink_metadata(&folder)
            .is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw())
    {
        return Ok(folder);
    }
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    if link.join(SOCKET).as_os_str().len() <= SOCKET_MAX {
        make(link)?;
        return Ok(link.to_owned());
    }
    let folder = std::env::temp_dir().join(format!("meseta-csi-{}", uuid::Uuid::new_v4().simple()));
    make(&folder)?;
    match fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(&folder, link)?;
    Ok(folder)
}

fn launch(info: &CsiPluginContainerInfo, id: String, folder: &Path, mounts: Option<&Path>) -> LaunchContainer {
    let mut command = info.command.clone().unwrap_or_default();
    let endpoint = format!("unix://{}", folder.join(SOCKET).display());
    let variable = Variable { name: "CSI_ENDPOINT".to_owned(), value: Some(endpoint), ..Variable::default() };
    command.environment.get_or_insert_default().variables.push(variable);
    let mut container = info.container.clone();
    if let Some(mounts) = mounts {
        let container = container.get_or_insert_with(|| ContainerInfo {
            r#type: api::v1::container_info::Type::Mesos as i32,
            ..ContainerInfo::default()
        });
        container.volumes.push(host_path(folder, false));
        container.volumes.push(host_path(mounts, true));
    }
    LaunchContainer {
        container_id: ContainerId { value: id, parent: None },
        command: Some(command),
        resources: info.resources.clone(),
        container,
        ..LaunchContainer::default()
    }
}

/// A folder of the machine where it is; what is mounted below it is seen from both sides, if `is_shared`.
fn host_path(path: &Path, is_shared: bool) -> Volume {
    let mode = api::v1::mount_propagation::Mode::Bidirectional as i32;
    let host_path = HostPath {
        path: path.display().to_string(),
        mount_propagation: is_shared.then_some(MountPropagation { mode: Some(mode) }),
    };
    let source =
        Source { r#type: Some(source::Type::HostPath as i32), host_path: Some(host_path), ..volume::Source::default() };
    Volume {
        mode: Mode::Rw as i32,
        container_path: path.display().to_string(),
        source: Some(source),
        ..Volume::default()
    }
}

/// Lets what plugins mount below a folder be seen by this machine. Blocks.
///
/// # Errors
/// A sentence.
pub(crate) fn share(folder: &Path) -> Result<(), String> {
    use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
    let cannot = |error: io::Error| format!("cannot share what is mounted below {}: {error}", folder.display());
    fs::DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(cannot)?;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(cannot)?;
    let is_mount = table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(folder));
    if !is_mount {
        mount_bind(folder, folder).map_err(|error| cannot(error.into()))?;
    }
    mount_change(folder, MountPropagationFlags::SHARED).map_err(|error| cannot(error.into()))
}

/// Keeps a container running.
pub(crate) async fn keep(host: Arc<dyn Host>, info: LaunchContainer, socket: PathBuf) {
    let id = info.container_id.value.clone();
    loop {
        // One that runs since before this agent has its socket.
        if !matches!(running(&*host, &id).await, Ok(ids) if ids.contains(&id)) {
            let _ = tokio::fs::remove_file(&socket).await;
        }
        let launch = Call {
            r#type: Some(call::Type::LaunchContainer as i32),
            launch_container: Some(info.clone()),
            ..Call::default()
        };
        match host.ask(launch).await {
            Ok(_) => {
                tracing::info!(container_id = id, "a container of a CSI plugin runs");
                let ended = wait(&*host, &id).await;
                tracing::warn!(container_id = id, ?ended, "a container of a CSI plugin has ended; launching it again");
            }
            Err(refused) => tracing::error!(container_id = id, why = refused.why, "cannot launch a CSI plugin"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Containers that stand alone whose ids begin so.
async fn running(host: &dyn Host, prefix: &str) -> Result<Vec<String>, Refused> {
    let get = call::GetContainers { show_standalone: Some(true), ..call::GetContainers::default() };
    let call = Call { r#type: Some(call::Type::GetContainers as i32), get_containers: Some(get), ..Call::default() };
    let answer: agent::Response = host.ask(call).await?;
    let all = answer.get_containers.unwrap_or_default().containers.into_iter();
    Ok(all.map(|one| one.container_id.value).filter(|id| id.starts_with(prefix)).collect())
}

async fn wait(host: &dyn Host, id: &str) -> Result<Option<i32>, Refused> {
    let wait = call::WaitContainer { container_id: ContainerId { value: id.to_owned(), parent: None } };
    let call = Call { r#type: Some(call::Type::WaitContainer as i32), wait_container: Some(wait), ..Call::default() };
    match host.ask(call).await {
        Ok(answer) => Ok(answer.wait_container.and_then(|ended| ended.exit_status)),
        Err(refused) if refused.status == 404 => Ok(None),
        Err(refused) => Err(refused),
    }
}

/// Ends all containers of a provider. It returns when they are over.
///
/// # Errors
/// A sentence.
pub(crate) async fn end(host: &dyn Host, info: &ResourceProviderInfo) -> Result<(), String> {
    let cannot = |refused: Refused| format!("cannot end the containers of the CSI plugin: {}", refused.why);
    for id in running(host, &prefix(info)).await.map_err(cannot)? {
        let container_id = ContainerId { value: id.clone(), parent: None };
        let kill = call::KillContainer { container_id, ..call::KillContainer::default() };
        let call =
            Call { r#type: Some(call::Type::KillContainer as i32), kill_container: Some(kill), ..Call::default() };
        match host.ask(call).await {
            Err(refused) if refused.status != 404 => return Err(cannot(refused)),
            _ => {}
        }
        wait(host, &id).await.map_err(cannot)?;
    }
    Ok(())
}
