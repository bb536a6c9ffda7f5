//! What changes a container on its way, says what it uses, or that it uses too much: one a file. Coordination is not theirs: the
//! containerizer asks them in one order ([`NAMES`]).

mod asked;
pub mod cgroups;
mod cni;
mod csi;
mod devices;
mod disk;
mod docker_volume;
mod du;
mod filesystem;
pub mod gpu;
mod image;
pub mod linux;
mod needs;
mod netns;
mod port_mapping;
mod ports;
mod posix;
pub mod seccomp;
mod sockets;
mod user;
mod volume;
mod walk;
mod xfs;

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use api::v1::ContainerStatus;
use api::v1::image::Type;
use supervisor::nodes::Node;
use supervisor::users::Users;

use crate::cgroups::Cgroups;
use crate::container::{Container, Limitation, Usage};
use crate::containerizer::Creation;

pub use agent_csi::{Plugins as CsiPlugins, Settings as CsiSettings};
pub use cgroups::{
    CgroupsBlkio, CgroupsCpu, CgroupsDevices, CgroupsMem, CgroupsNetCls, CgroupsPerfEvent, CgroupsPids, CgroupsPlain,
};
pub use cni::{CniSettings, NetworkCni, read_answer as read_network_answer};
pub use csi::VolumeCsi;
pub use devices::LinuxDevices;
pub use disk::Disk;
pub use docker_volume::{DockerVolume, DockerVolumeSettings};
pub use filesystem::{FilesystemLinux, FilesystemSettings};
pub use gpu::{GpuNvidia, GpuSettings};
pub use image::{Runtime, VolumeImage};
pub use linux::{LinuxCapabilities, LinuxNnp, LinuxSettings, NamespacesIpc, NamespacesPid};
pub use needs::check;
pub use port_mapping::{EGRESS_RATE_MIN, PortMapping, PortMappingSettings};
pub use ports::Ports;
pub use posix::{PosixCpu, PosixMem, PosixRlimits};
pub use seccomp::{LinuxSeccomp, SeccompSettings};
pub use user::{NamespacesUser, UserSettings};
pub use volume::{VolumeHostPath, VolumeSandboxPath, VolumeSecret};
pub use xfs::{DiskXfs, Policy, XfsSettings};

/// What others give, when they do.
pub type Obtaining = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// One of `--isolation`. Whatever it is asked, it may be asked of a container that it never prepared: that one was created
/// by an agent with other isolators.
pub trait Isolator: Send + Sync {
    /// As `--isolation` names it.
    fn name(&self) -> &'static str;

    /// Whom users of a container are on the machine, if it is to have some of its own. Asked before its sandbox is made, and as often as
    /// anybody wants to know. The error is a sentence: the container cannot be created. They are [taken back](Isolator::cleanup) in
    /// any case.
    fn users(&self, _container_id: &str) -> Result<Option<Users>, String> {
        Ok(None)
    }

    /// What others are to give first, if anything: they may take their time, and no thread waits for them. The error is a sentence: the
    /// container cannot be created. It is [taken back](Isolator::cleanup) in any case.
    fn obtain(&self, _creation: &Creation) -> Option<Obtaining> {
        None
    }

    /// Changes what is to be created: environment, limits, and the files by which the process joins something between clone and
    /// exec, when the supervisor holds it back. Blocks.
    ///
    /// # Errors
    /// A sentence: the container cannot be created.
    fn prepare(&self, _creation: &mut Creation) -> Result<(), String> {
        Ok(())
    }

    /// Takes up again what was prepared by an agent before this one.
    fn recover(&self, _container: &Container) {}

    /// Takes back what an agent before this one prepared for containers that are not among these. Blocks.
    fn sweep(&self, _known: &BTreeSet<String>) {}

    /// What a container may use is not what it was: its executor has other tasks. Does not block for long.
    fn update(&self, _container: &Container) {}

    /// A container that runs, with this process, is to have these volumes now, and none of those that are `over`: paths in its sandbox,
    /// and where the volumes are. Blocks, for a moment.
    ///
    /// # Errors
    /// A sentence: it does not have them, and will not.
    fn volumes(&self, _container: &Container, _pid: u32, _over: &[(String, PathBuf)]) -> Result<(), String> {
        Ok(())
    }

    /// Adds what a container that runs uses. `processes` are all of the machine.
    fn usage(&self, _container: &Container, _processes: &[supervisor::processes::Process], _usage: &mut Usage) {}

    /// Adds what it has given a container, for whoever asks how that is. Does not block for long.
    fn status(&self, _container_id: &str, _status: &mut ContainerStatus) {}

    /// Numbers of its own, by their names at `/metrics/snapshot`. Does not block.
    fn numbers(&self, _set: &mut dyn FnMut(&str, f64)) {}

    /// Between two looks at what containers use, if it looks: see [`Isolator::watch`].
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Looks at all containers that run, for those that have exceeded what they may use: by their ids, with what they exceeded.
    /// They are ended for it. Blocks for as long as it takes; the next look is an interval later.
    fn watch(&self, _containers: &[Container]) -> Vec<(String, Limitation)> {
        Vec::new()
    }

    /// Whether the process of a container ended because it exceeded something. Asked before its end is told. Does not block for
    /// long.
    fn ended(&self, _container: &Container) -> Option<Limitation> {
        None
    }

    /// Takes back what was prepared: the container is over. Of one that this agent never heard of only the id is known. Blocks.
    fn cleanup(&self, _container: &Container) {}
}

/// All that `--isolation` may name: what is built, and what stands for several of them. In this order they are asked, whatever the
/// flag's is: what makes a container's root first, then what is mounted there, then all that is done to that.
pub const NAMES: &[&str] = &[
    "docker/runtime",
    "appc/runtime",
    "filesystem/posix",
    "filesystem/linux",
    "volume/image",
    "process",
    "posix/cpu",
    "posix/mem",
    "posix/rlimits",
    "cgroups",
    "cgroups/all",
    "cgroups/blkio",
    "cgroups/cpu",
    "cgroups/cpuset",
    "cgroups/devices",
    "cgroups/hugetlb",
    "cgroups/mem",
    "cgroups/net_cls",
    "cgroups/net_prio",
    "cgroups/perf_event",
    "cgroups/pids",
    "linux/capabilities",
    "linux/devices",
    "linux/nnp",
    "linux/seccomp",
    "namespaces/ipc",
    "namespaces/pid",
    "namespaces/user",
    "volume/sandbox_path",
    "volume/host_path",
    "volume/secret",
    "volume/csi",
    "docker/volume",
    "disk/du",
    "posix/disk",
    "disk/xfs",
    "gpu/nvidia",
    "network/cni",
    "network/port_mapping",
    "network/ports",
    "environment_secret",
];

/// Those that `names` stand for, each once, as they are asked.
///
/// # Errors
/// A sentence: they do not go together.
pub fn ordered<'a>(names: impl Iterator<Item = &'a str>, groups: Option<&Cgroups>) -> Result<Vec<&'a str>, String> {
    let mut all: Vec<&str> = names.flat_map(|name| expand(name, groups)).collect();
    let place = |name: &str| NAMES.iter().position(|one| *one == name);
    all.sort_by_key(|name| place(name));
    all.dedup();
    if all.iter().filter(|name| name.starts_with("filesystem/")).count() > 1 {
        return Err("Using multiple filesystem isolators simultaneously is disallowed".to_owned());
    }
    if all.contains(&"gpu/nvidia")
        && let Some(missing) = ["cgroups/devices", "filesystem/linux"].iter().find(|name| !all.contains(name))
    {
        return Err(format!("gpu/nvidia in --isolation needs {missing} there"));
    }
    if all.contains(&"disk/xfs")
        && let Some(name) = all.iter().find(|name| matches!(**name, "disk/du" | "posix/disk"))
    {
        return Err(format!("{name} and disk/xfs in --isolation count the same: give one of them"));
    }
    if all.contains(&"network/cni") && all.contains(&"network/port_mapping") {
        return Err(
            "network/cni and network/port_mapping in --isolation each give containers a network: give one of them"
                .to_owned(),
        );
    }
    let is_mounting = |name: &&&str| {
        name.starts_with("volume/") || matches!(**name, "linux/devices" | "docker/volume" | "namespaces/user")
    };
    if let Some(name) = all.iter().find(is_mounting).filter(|_| !all.contains(&"filesystem/linux")) {
        return Err(format!("{name} in --isolation needs filesystem/linux there"));
    }
    Ok(all)
}

/// How isolators are configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Of `filesystem/linux`, and of volumes.
    pub filesystem: FilesystemSettings,
    /// Of `disk/du`.
    pub disk: DiskSettings,
    /// Of `disk/xfs`.
    pub xfs: XfsSettings,
    /// Of `gpu/nvidia`.
    pub gpus: GpuSettings,
    /// Of `network/ports`.
    pub ports: PortsSettings,
    /// Of `volume/csi`.
    pub csi: CsiSettings,
    /// Of `docker/volume`.
    pub docker_volume: DockerVolumeSettings,
    /// Of `network/cni`.
    pub cni: CniSettings,
    /// Of `network/port_mapping`.
    pub port_mapping: PortMappingSettings,
    /// Of what processes see and may do.
    pub linux: LinuxSettings,
    /// Of `namespaces/user`.
    pub users: UserSettings,
    /// What `linux/seccomp` allows.
    pub seccomp: SeccompSettings,
    /// Of those of control groups.
    pub cgroups: cgroups::Terms,
    /// What `cgroups/devices` allows besides what it always does.
    pub devices: Vec<cgroups::Rule>,
    /// The files of these, which `linux/devices` makes.
    pub nodes: Vec<Node>,
    /// What `cgroups/net_cls` gives.
    pub handles: Option<cgroups::Handles>,
    /// What `cgroups/perf_event` counts.
    pub sampling: cgroups::Sampling,
}

/// How `disk/du` is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskSettings {
    /// Between two looks.
    pub interval: Duration,
    /// Whether a container ends that takes more than it was given.
    pub is_enforced: bool,
}

/// How `network/ports` is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortsSettings {
    /// Between two looks.
    pub interval: Duration,
    /// Whether a container ends that listens where it may not.
    pub is_enforced: bool,
    /// The ports that are looked at, if it is not all of them.
    pub only: Option<Vec<RangeInclusive<u64>>>,
}

/// What a name of `--isolation` stands for, on a machine with these control groups.
pub fn expand<'a>(name: &'a str, groups: Option<&Cgroups>) -> Vec<&'a str> {
    match (name, groups) {
        ("process", _) => vec!["posix/cpu", "posix/mem"],
        ("cgroups", _) => vec!["cgroups/cpu", "cgroups/mem"],
        ("filesystem/linux", _) => vec![name, "volume/sandbox_path", "volume/host_path"],
        ("cgroups/all", Some(groups)) => cgroups::all(groups),
        _ => vec![name],
    }
}

/// Whether it does its work on the control groups of containers, so that they must have some.
pub fn needs_groups(name: &str) -> bool {
    name.starts_with("cgroups/")
        || name.starts_with("namespaces/")
        || matches!(name, "cgroups" | "filesystem/linux" | "gpu/nvidia" | "network/cni" | "network/port_mapping")
}

/// What is built, by name; a name that is not built has none, nor one that needs control groups where there are none.
pub fn built(name: &str, settings: &Settings, groups: Option<&Cgroups>) -> Option<Option<Box<dyn Isolator>>> {
    match name {
        "cgroups/blkio" => Some(Some(Box::new(CgroupsBlkio::new(groups?)))),
        "cgroups/cpuset" => Some(Some(Box::new(CgroupsPlain::new("cgroups/cpuset", groups?)))),
        "cgroups/devices" => Some(Some(Box::new(CgroupsDevices::new(groups?, &settings.devices)))),
        "cgroups/hugetlb" => Some(Some(Box::new(CgroupsPlain::new("cgroups/hugetlb", groups?)))),
        "cgroups/net_cls" => Some(Some(Box::new(CgroupsNetCls::new(groups?, settings.handles.as_ref())))),
        "cgroups/net_prio" => Some(Some(Box::new(CgroupsPlain::new("cgroups/net_prio", groups?)))),
        "cgroups/perf_event" => Some(Some(Box::new(CgroupsPerfEvent::new(groups?, &settings.sampling)))),
        "cgroups/cpu" => Some(Some(Box::new(CgroupsCpu::new(groups?, settings.cgroups)))),
        "cgroups/mem" => Some(Some(Box::new(CgroupsMem::new(groups?, settings.cgroups)))),
        "cgroups/pids" => Some(Some(Box::new(CgroupsPids::new(groups?)))),
        "filesystem/linux" => Some(Some(Box::new(FilesystemLinux::new(&settings.filesystem)))),
        "network/cni" => Some(Some(Box::new(NetworkCni::new(&settings.cni)))),
        "network/port_mapping" => Some(Some(Box::new(PortMapping::new(&settings.port_mapping)))),
        "volume/host_path" => Some(Some(Box::new(VolumeHostPath(settings.filesystem.clone())))),
        "volume/sandbox_path" => Some(Some(Box::new(VolumeSandboxPath::new(&settings.filesystem)))),
        "volume/secret" => Some(Some(Box::new(VolumeSecret(settings.filesystem.clone())))),
        "docker/runtime" => Some(Some(Box::new(Runtime(Type::Docker)))),
        "appc/runtime" => Some(Some(Box::new(Runtime(Type::Appc)))),
        "volume/csi" => Some(Some(Box::new(VolumeCsi::new(&settings.filesystem, &settings.csi)))),
        "docker/volume" => Some(Some(Box::new(DockerVolume::new(&settings.docker_volume, &settings.filesystem)))),
        "volume/image" => Some(Some(Box::new(VolumeImage(settings.filesystem.clone())))),
        "posix/cpu" => Some(Some(Box::new(PosixCpu))),
        "posix/mem" => Some(Some(Box::new(PosixMem))),
        "posix/rlimits" => Some(Some(Box::new(PosixRlimits))),
        "linux/capabilities" => Some(Some(Box::new(LinuxCapabilities(settings.linux)))),
        "linux/devices" => Some(Some(Box::new(LinuxDevices(settings.nodes.clone())))),
        "linux/seccomp" => Some(Some(Box::new(LinuxSeccomp(settings.seccomp.clone())))),
        "linux/nnp" => Some(Some(Box::new(LinuxNnp))),
        "namespaces/ipc" => Some(Some(Box::new(NamespacesIpc(settings.linux)))),
        "namespaces/pid" => Some(Some(Box::new(NamespacesPid(settings.linux)))),
        "namespaces/user" => Some(Some(Box::new(NamespacesUser::new(&settings.users)))),
        "disk/du" => Some(Some(Box::new(Disk::new("disk/du", &settings.disk)))),
        // Its old name.
        "posix/disk" => Some(Some(Box::new(Disk::new("posix/disk", &settings.disk)))),
        "disk/xfs" => Some(Some(Box::new(DiskXfs::new(&settings.xfs)))),
        "gpu/nvidia" => Some(Some(Box::new(GpuNvidia::new(groups?, &settings.devices, &settings.gpus)))),
        "network/ports" => Some(Some(Box::new(Ports::new(&settings.ports)))),
        // Sandboxes are the one; secrets of environments are always opened.
        "filesystem/posix" | "environment_secret" => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_named_is_built() {
        let several = ["process", "cgroups", "cgroups/all"];
        for name in NAMES.iter().filter(|name| !several.contains(name) && !needs_groups(name)) {
            let isolator = built(name, &Settings::default(), None).unwrap_or_else(|| panic!("{name}"));
            assert!(isolator.is_none_or(|isolator| isolator.name() == *name));
        }
        assert!(built("cgroups/none", &Settings::default(), None).is_none());
        let named = ["disk/du", "process", "filesystem/linux", "posix/mem"];
        let volumes = ["volume/sandbox_path", "volume/host_path"];
        let asked = [&["filesystem/linux", "posix/cpu", "posix/mem"][..], &volumes, &["disk/du"]].concat();
        assert_eq!(ordered(named.into_iter(), None), Ok(asked));
        assert!(ordered(["docker/volume"].into_iter(), None).unwrap_err().contains("needs filesystem/linux"));
        assert!(ordered(["namespaces/user"].into_iter(), None).unwrap_err().contains("needs filesystem/linux"));
        assert!(ordered(volumes.into_iter(), None).unwrap_err().contains("needs filesystem/linux"));
        let gpus = ["gpu/nvidia", "cgroups/devices"];
        assert!(ordered(gpus.into_iter(), None).unwrap_err().contains("needs filesystem/linux there"));
        assert!(ordered(["disk/xfs", "posix/disk"].into_iter(), None).unwrap_err().contains("give one of them"));
        let both = ["network/port_mapping", "network/cni"];
        assert!(ordered(both.into_iter(), None).unwrap_err().contains("give one of them"));
        let both = ["filesystem/linux", "filesystem/posix"];
        assert!(ordered(both.into_iter(), None).unwrap_err().contains("multiple filesystem isolators"));
    }
}
