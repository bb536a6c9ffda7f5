//! Descriptions of containers that make sense, whoever runs them.

use crate::v1::container_info::Type;
use crate::v1::volume::source;
use crate::v1::{ContainerInfo, Volume};

/// A container is described in one way.
///
/// # Errors
/// A sentence.
pub fn check(container: &ContainerInfo) -> Result<(), String> {
    container.volumes.iter().try_for_each(volume).map_err(|why| format!("Invalid volume: {why}"))?;
    if container.r#type == Type::Docker as i32 {
        let Some(docker) = &container.docker else {
            return Err("DockerInfo 'docker' is not set for DOCKER typed ContainerInfo".to_owned());
        };
        if docker.parameters.iter().any(|parameter| parameter.key == "name") {
            return Err("Parameter in DockerInfo must not be 'name'".to_owned());
        }
    }
    for secret in crate::secrets::in_container(container) {
        crate::secrets::check_in_container(secret).map_err(|why| format!("Invalid secret of a container: {why}"))?;
    }
    Ok(())
}

/// A volume comes from one place, which is named.
fn volume(volume: &Volume) -> Result<(), String> {
    let from = [volume.host_path.is_some(), volume.image.is_some(), volume.source.is_some()];
    if from.into_iter().filter(|is| *is).count() != 1 {
        return Err("Only one of them should be set: 'host_path', 'image' and 'source'".to_owned());
    }
    if volume.container_path.is_empty() {
        return Err("'container_path' is empty".to_owned());
    }
    let Some(source) = &volume.source else { return Ok(()) };
    let (is_set, field, kind) = match source.r#type() {
        source::Type::DockerVolume => (source.docker_volume.is_some(), "docker_volume", "DOCKER_VOLUME"),
        source::Type::HostPath => (source.host_path.is_some(), "host_path", "HOST_PATH"),
        source::Type::SandboxPath => (source.sandbox_path.is_some(), "sandbox_path", "SANDBOX_PATH"),
        source::Type::Secret => (source.secret.is_some(), "secret", "SECRET"),
        source::Type::CsiVolume => (source.csi_volume.is_some(), "csi_volume", "CSI"),
        source::Type::Unknown => return Err("'source.type' is unknown".to_owned()),
    };
    if !is_set {
        return Err(format!("'source.{field}' is not set for {kind} volume"));
    }
    if source.csi_volume.as_ref().is_some_and(|csi| csi.static_provisioning.is_none()) {
        return Err("'source.csi_volume.static_provisioning' is not set for CSI volume".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_comes_from_one_place() {
        let check = |text: &str| {
            let text = format!(r#"{{"type": "MESOS", "volumes": [{{"mode": "RW", "container_path": "c"{text}}}]}}"#);
            check(&crate::json::from_slice(text.as_bytes()).unwrap())
        };
        let path = r#", "host_path": "/h""#;
        assert_eq!(check(path), Ok(()));
        assert!(check("").unwrap_err().starts_with("Invalid volume: Only one of them should be set"));
        let both = format!(r#"{path}, "source": {{"type": "SANDBOX_PATH", "sandbox_path": {{"path": "p"}}}}"#);
        assert!(check(&both).unwrap_err().contains("Only one of them"));
        let none = check(r#", "source": {"type": "HOST_PATH"}"#).unwrap_err();
        assert_eq!(none, "Invalid volume: 'source.host_path' is not set for HOST_PATH volume");
        assert!(check(r#", "source": {}"#).unwrap_err().contains("'source.type' is unknown"));
        let reference =
            r#", "source": {"type": "SECRET", "secret": {"type": "REFERENCE", "reference": {"name": "R"}}}"#;
        assert!(check(reference).unwrap_err().contains("secret 'R' is a reference"));
        let docker = ContainerInfo { r#type: Type::Docker as i32, ..ContainerInfo::default() };
        assert!(super::check(&docker).unwrap_err().contains("'docker' is not set"));
    }
}
