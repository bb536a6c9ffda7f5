//! What may be asked of a container that only some agents do: one table, by the isolator that does it. What no isolator of this
//! agent does is refused by that name, whoever asks and by whichever call.

use api::v1::container_info::Type;
use api::v1::linux_info::IpcMode;
use api::v1::{ContainerInfo, Image, LinuxInfo, Volume, image, volume};

use crate::container::Container;

/// One thing that may be asked.
struct Need {
    /// The isolators that do it; one is enough.
    isolators: &'static [&'static str],
    /// The beginning of a sentence.
    what: &'static str,
    is_asked: fn(&ContainerInfo) -> bool,
}

const fn need(isolators: &'static [&'static str], what: &'static str, is_asked: fn(&ContainerInfo) -> bool) -> Need {
    Need { isolators, what, is_asked }
}

const NEEDS: &[Need] = &[
    need(&["docker/runtime"], "images of containers need", |info| {
        image_of(info).is_some_and(|image| image.r#type != image::Type::Appc as i32)
    }),
    need(&["appc/runtime"], "images of appc need", |info| {
        image_of(info).is_some_and(|image| image.r#type == image::Type::Appc as i32)
    }),
    need(&["volume/host_path"], "volumes that are folders of the machine need", |info| {
        info.volumes.iter().any(|one| is_of(one, volume::source::Type::HostPath) || host_path(one, true))
    }),
    need(&["volume/sandbox_path"], "volumes of sandboxes need", |info| {
        info.volumes.iter().any(|one| is_of(one, volume::source::Type::SandboxPath) || host_path(one, false))
    }),
    need(&["volume/image"], "volumes of images need", |info| info.volumes.iter().any(|one| one.image.is_some())),
    need(&["volume/secret"], "volumes of secrets need", |info| {
        info.volumes.iter().any(|one| is_of(one, volume::source::Type::Secret))
    }),
    need(&["docker/volume"], "volumes of Docker's plugins need", |info| {
        info.volumes.iter().any(|one| is_of(one, volume::source::Type::DockerVolume))
    }),
    need(&["volume/csi"], "volumes of CSI's plugins need", |info| {
        info.volumes.iter().any(|one| is_of(one, volume::source::Type::CsiVolume))
    }),
    need(&["network/cni"], "networks of containers need", |info| !info.network_infos.is_empty()),
    need(&["network/cni"], "names of containers in a network need", |info| info.hostname.is_some()),
    need(&["linux/seccomp"], "profiles of system calls need", |info| linux(info).seccomp.is_some()),
    need(&["linux/capabilities"], "capabilities of containers need", |info| {
        let info = linux(info);
        #[expect(deprecated, reason = "clients may ask by it")]
        let older = info.capability_info.is_some();
        older || info.effective_capabilities.is_some() || info.bounding_capabilities.is_some()
    }),
    need(&["namespaces/ipc"], "shared memory of a container's own needs", |info| {
        let info = linux(info);
        info.shm_size.is_some() || info.ipc_mode == Some(IpcMode::Private as i32)
    }),
    need(&["namespaces/pid"], "processes of a container's own need", |info| {
        linux(info).share_pid_namespace == Some(false)
    }),
];

/// Limits beyond what a container was given, and who keeps them.
const LIMITS: &[(&str, &str)] = &[("cpus", "cgroups/cpu"), ("mem", "cgroups/mem")];

fn image_of(info: &ContainerInfo) -> Option<&Image> {
    info.mesos.as_ref()?.image.as_ref()
}

fn linux(info: &ContainerInfo) -> LinuxInfo {
    info.linux_info.clone().unwrap_or_default()
}

fn is_of(volume: &Volume, kind: volume::source::Type) -> bool {
    volume.source.as_ref().is_some_and(|source| source.r#type == Some(kind as i32))
}

/// As volumes of sandboxes and of the machine were asked for before they had sources.
fn host_path(volume: &Volume, is_absolute: bool) -> bool {
    volume.host_path.as_ref().is_some_and(|path| path.starts_with('/') == is_absolute)
}

/// Whether all that is asked of a container is done by one of those that this agent `has`. The error is a sentence.
pub fn check(container: &Container, has: impl Fn(&str) -> bool) -> Result<(), String> {
    for (name, isolator) in LIMITS {
        if container.limits.contains_key(*name) && !has(isolator) {
            return Err(format!("limits of {name} need {isolator} in this agent's --isolation"));
        }
    }
    let Some(info) = &container.info else { return Ok(()) };
    if info.r#type == Type::Docker as i32 {
        return Err("containers of type DOCKER need docker in this agent's --containerizers".to_owned());
    }
    if let Some(volume) = info.volumes.iter().find(|one| is_of(one, volume::source::Type::Unknown)) {
        return Err(format!("the volume at '{}' is of no kind that this release knows", volume.container_path));
    }
    let missing = NEEDS.iter().find(|need| (need.is_asked)(info) && !need.isolators.iter().any(|name| has(name)));
    match missing {
        Some(Need { isolators, what, .. }) => {
            Err(format!("{what} {} in this agent's --isolation", isolators.join(" or ")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_isolator_does_is_refused_by_its_name() {
        let of = |text: &str| {
            let info: ContainerInfo = api::json::from_slice(text.as_bytes()).unwrap();
            Container { info: Some(Box::new(info)), ..Container::default() }
        };
        for (asked, isolator) in [
            (r#""linux_info": {"shm_size": 3}"#, "namespaces/ipc"),
            (r#""linux_info": {"seccomp": {"unconfined": true}}"#, "linux/seccomp"),
            (r#""linux_info": {"share_pid_namespace": false}"#, "namespaces/pid"),
            (r#""linux_info": {"effective_capabilities": {"capabilities": []}}"#, "linux/capabilities"),
            (r#""mesos": {"image": {"type": "DOCKER", "docker": {"name": "i"}}}"#, "docker/runtime"),
            (r#""mesos": {"image": {"type": "APPC", "appc": {"name": "i"}}}"#, "appc/runtime"),
            (r#""network_infos": [{"name": "n"}]"#, "network/cni"),
            (r#""hostname": "h""#, "network/cni"),
            (r#""volumes": [{"mode": "RW", "container_path": "c", "host_path": "/h"}]"#, "volume/host_path"),
            (r#""volumes": [{"mode": "RW", "container_path": "/c", "host_path": "h"}]"#, "volume/sandbox_path"),
            (
                r#""volumes": [{"mode": "RW", "container_path": "c", "source": {"type": "SANDBOX_PATH",
                   "sandbox_path": {"type": "PARENT", "path": "p"}}}]"#,
                "volume/sandbox_path",
            ),
            (
                r#""volumes": [{"mode": "RW", "container_path": "c", "image": {"type": "DOCKER", "docker": {"name": "i"}}}]"#,
                "volume/image",
            ),
            (
                r#""volumes": [{"mode": "RW", "container_path": "c", "source": {"type": "DOCKER_VOLUME",
                   "docker_volume": {"name": "v"}}}]"#,
                "docker/volume",
            ),
            (
                r#""volumes": [{"mode": "RW", "container_path": "c", "source": {"type": "CSI_VOLUME",
                   "csi_volume": {"plugin_name": "p"}}}]"#,
                "volume/csi",
            ),
        ] {
            let container = of(&format!(r#"{{"type": "MESOS", {asked}}}"#));
            let why = check(&container, |_| false).unwrap_err();
            assert!(why.ends_with(&format!(" {isolator} in this agent's --isolation")), "{asked}: {why}");
            assert_eq!(check(&container, |name| isolator.split(" or ").any(|one| one == name)), Ok(()));
        }
        for (name, isolator) in LIMITS {
            let limited = Container { limits: [((*name).to_owned(), 2.0)].into(), ..Container::default() };
            let why = check(&limited, |one| one != *isolator).unwrap_err();
            assert_eq!(why, format!("limits of {name} need {isolator} in this agent's --isolation"));
            assert_eq!(check(&limited, |one| one == *isolator), Ok(()));
        }
        assert!(check(&of(r#"{"type": "DOCKER"}"#), |_| true).unwrap_err().contains("--containerizers"));
        assert_eq!(check(&Container::default(), |_| false), Ok(()));
    }
}
