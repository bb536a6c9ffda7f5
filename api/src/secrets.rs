//! Secrets in environments of commands, and of containers. Their values are written nowhere: whoever takes one in seals it (see [`SEALED`]), and it
//! is opened by the agent that runs what it is for.

use crate::v1::environment::{Variable, variable};
use crate::v1::{CommandInfo, ContainerInfo, ExecutorInfo, Image, Secret, TaskInfo, offer, scheduler, secret};

/// What a value that is sealed begins with. Who can open it does not take a stranger's for one.
pub const SEALED: &[u8] = b"meseta-sealed-1:";

/// A variable has what its type says, and nothing else.
///
/// # Errors
/// A sentence, which never repeats a secret.
pub fn check(variable: &Variable) -> Result<(), String> {
    let name = crate::limits::quoted(&variable.name);
    let is_secret = match variable.r#type() {
        variable::Type::Value => false,
        variable::Type::Secret => true,
        variable::Type::Unknown => return Err("Environment variable of type 'UNKNOWN' is not allowed".to_owned()),
    };
    let (kind, wanted, other) = if is_secret { ("SECRET", "secret", "value") } else { ("VALUE", "value", "secret") };
    let (has_secret, has_value) = (variable.secret.is_some(), variable.value.is_some());
    let (has_wanted, has_other) = if is_secret { (has_secret, has_value) } else { (has_value, has_secret) };
    if !has_wanted {
        return Err(format!("Environment variable '{name}' of type '{kind}' must have a {wanted} set"));
    }
    if has_other {
        return Err(format!("Environment variable '{name}' of type '{kind}' must not have a {other} set"));
    }
    let Some(secret) = &variable.secret else { return Ok(()) };
    check_secret(secret).map_err(|why| format!("Environment variable '{name}' specifies an invalid secret: {why}"))?;
    if secret.value.as_ref().is_some_and(|value| !is_sealed(&value.data) && value.data.contains(&0)) {
        return Err(format!(
            "Environment variable '{name}' specifies a secret containing null bytes, which is not allowed in the \
             environment"
        ));
    }
    Ok(())
}

/// A secret of a container makes sense, and none need be asked for.
///
/// # Errors
/// A sentence, which never repeats a secret.
pub fn check_in_container(secret: &Secret) -> Result<(), String> {
    check_secret(secret)?;
    match &secret.reference {
        None => Ok(()),
        Some(reference) => Err(format!(
            "secret '{}' is a reference, and there is no --secret_resolver to ask for it",
            crate::limits::quoted(&reference.name)
        )),
    }
}

fn check_secret(secret: &Secret) -> Result<(), String> {
    match (secret.r#type(), &secret.reference, &secret.value) {
        (secret::Type::Reference, None, _) => {
            Err("Secret of type REFERENCE must have the 'reference' field set".to_owned())
        }
        (secret::Type::Reference, Some(reference), Some(_)) => {
            let name = crate::limits::quoted(&reference.name);
            Err(format!("Secret '{name}' of type REFERENCE must not have the 'value' field set"))
        }
        (secret::Type::Value, _, None) => Err("Secret of type VALUE must have the 'value' field set".to_owned()),
        (secret::Type::Value, Some(_), Some(_)) => {
            Err("Secret of type VALUE must not have the 'reference' field set".to_owned())
        }
        _ => Ok(()),
    }
}

/// Why a secret of a well-formed variable is not taken, if it is one that somebody else would have to be asked for.
///
/// # Errors
/// A sentence with the name of the reference.
pub fn check_reference(variable: &Variable) -> Result<(), String> {
    match variable.secret.as_ref().and_then(|secret| secret.reference.as_ref()) {
        None => Ok(()),
        Some(reference) => Err(format!(
            "Environment variable '{}' refers to secret '{}', and there is no --secret_resolver to ask for it",
            crate::limits::quoted(&variable.name),
            crate::limits::quoted(&reference.name)
        )),
    }
}

/// Whether these bytes are a value that was sealed.
pub fn is_sealed(data: &[u8]) -> bool {
    data.starts_with(SEALED)
}

/// The value of a variable as a process sees it; none of a secret that is sealed, by reference, or no text.
pub fn value(variable: &Variable) -> Option<String> {
    match &variable.secret {
        None => Some(variable.value.clone().unwrap_or_default()),
        Some(secret) => {
            let data = &secret.value.as_ref()?.data;
            (!is_sealed(data)).then(|| String::from_utf8(data.to_vec()).ok())?
        }
    }
}

/// Changes the values of all secrets of a command.
pub fn of_command(command: &mut CommandInfo, change: &mut impl FnMut(&mut secret::Value)) {
    let variables = command.environment.iter_mut().flat_map(|environment| &mut environment.variables);
    variables.filter_map(|variable| variable.secret.as_mut()?.value.as_mut()).for_each(change);
}

/// The secrets of a container: its volumes', and those that its images are had with.
pub fn in_container(container: &ContainerInfo) -> impl Iterator<Item = &Secret> {
    let images = container.mesos.iter().map(|mesos| &mesos.image).chain(container.volumes.iter().map(|one| &one.image));
    let of_images = images.filter_map(|image| image.as_ref()?.docker.as_ref()?.config.as_ref());
    let sources = container.volumes.iter().filter_map(|volume| volume.source.as_ref());
    let of_plugins = sources.clone().filter_map(|source| source.csi_volume.as_ref()?.static_provisioning.as_ref());
    let of_plugins =
        of_plugins.flat_map(|one| one.node_stage_secrets.values().chain(one.node_publish_secrets.values()));
    of_images.chain(sources.filter_map(|source| source.secret.as_ref())).chain(of_plugins)
}

/// Changes the values of all secrets of a container.
pub fn of_container(container: &mut ContainerInfo, change: &mut impl FnMut(&mut secret::Value)) {
    let of_image = |image: &mut Option<Image>, change: &mut dyn FnMut(&mut secret::Value)| {
        let config = image.as_mut().and_then(|image| image.docker.as_mut()?.config.as_mut()?.value.as_mut());
        config.into_iter().for_each(change);
    };
    container.mesos.iter_mut().for_each(|mesos| of_image(&mut mesos.image, change));
    for volume in &mut container.volumes {
        of_image(&mut volume.image, change);
        let Some(source) = &mut volume.source else { continue };
        let secret = source.secret.as_mut().and_then(|secret| secret.value.as_mut());
        secret.into_iter().for_each(&mut *change);
        let csi = source.csi_volume.as_mut().and_then(|csi| csi.static_provisioning.as_mut());
        let of_plugin = csi.map(|one| one.node_stage_secrets.values_mut().chain(one.node_publish_secrets.values_mut()));
        of_plugin.into_iter().flatten().filter_map(|secret| secret.value.as_mut()).for_each(&mut *change);
    }
}

/// The same of an executor.
fn of_executor(executor: &mut ExecutorInfo, change: &mut impl FnMut(&mut secret::Value)) {
    executor.command.iter_mut().for_each(|command| of_command(command, change));
    executor.container.iter_mut().for_each(|container| of_container(container, change));
}

/// The same of a task: of its command, of its checks' commands, of its container, of its executor's.
pub fn of_task(task: &mut TaskInfo, change: &mut impl FnMut(&mut secret::Value)) {
    task.executor.iter_mut().for_each(|executor| of_executor(executor, change));
    task.container.iter_mut().for_each(|container| of_container(container, change));
    let check = task.check.as_mut().and_then(|check| check.command.as_mut()).map(|check| &mut check.command);
    let health = task.health_check.as_mut().and_then(|check| check.command.as_mut());
    for command in [task.command.as_mut(), check, health].into_iter().flatten() {
        of_command(command, change);
    }
}

/// The same of all that a call of a framework launches.
pub fn of_call(call: &mut scheduler::Call, change: &mut impl FnMut(&mut secret::Value)) {
    let operations = call.accept.iter_mut().flat_map(|accept| &mut accept.operations);
    operations.for_each(|operation: &mut offer::Operation| {
        operation.launch.iter_mut().flat_map(|launch| &mut launch.task_infos).for_each(|task| of_task(task, change));
        if let Some(group) = &mut operation.launch_group {
            of_executor(&mut group.executor, change);
            group.task_group.tasks.iter_mut().for_each(|task| of_task(task, change));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Environment, HealthCheck};

    fn secret(data: &'static [u8]) -> Variable {
        let value = secret::Value { data: data.into() };
        let secret = Secret { r#type: Some(secret::Type::Value as i32), value: Some(value), ..Secret::default() };
        let r#type = Some(variable::Type::Secret as i32);
        Variable { name: "V".into(), r#type, secret: Some(secret), ..Variable::default() }
    }

    #[test]
    fn every_secret_of_a_call_is_found() {
        let command = || CommandInfo {
            environment: Some(Environment { variables: vec![secret(b"a"), Variable::default()] }),
            ..CommandInfo::default()
        };
        let hidden = secret(b"a").secret;
        let docker = crate::v1::image::Docker { config: hidden.clone(), ..Default::default() };
        let image = Image { docker: Some(docker), ..Image::default() };
        let map = || std::collections::BTreeMap::from([("k".to_owned(), hidden.clone().unwrap())]);
        let provisioning = crate::v1::volume::source::csi_volume::StaticProvisioning {
            node_stage_secrets: map(),
            node_publish_secrets: map(),
            ..Default::default()
        };
        let csi =
            crate::v1::volume::source::CsiVolume { static_provisioning: Some(provisioning), ..Default::default() };
        let source = crate::v1::volume::Source { secret: hidden, csi_volume: Some(csi), ..Default::default() };
        let volumes = vec![
            crate::v1::Volume { source: Some(source), ..Default::default() },
            crate::v1::Volume { image: Some(image.clone()), ..Default::default() },
        ];
        let mesos = Some(crate::v1::container_info::MesosInfo { image: Some(image) });
        let container = ContainerInfo { mesos, volumes, ..ContainerInfo::default() };
        assert_eq!(in_container(&container).count(), 5);
        let container = || Some(Box::new(container.clone()));
        let executor = || ExecutorInfo { command: Some(command()), container: container(), ..ExecutorInfo::default() };
        let health = HealthCheck { command: Some(command()), ..HealthCheck::default() };
        let check = crate::v1::CheckInfo {
            command: Some(crate::v1::check_info::Command { command: command() }),
            ..Default::default()
        };
        let task = || TaskInfo {
            command: Some(command()),
            container: container(),
            executor: Some(executor()),
            health_check: Some(Box::new(health.clone())),
            check: Some(Box::new(check.clone())),
            ..TaskInfo::default()
        };
        let launch = offer::operation::Launch { task_infos: vec![task(), task()] };
        let group = offer::operation::LaunchGroup {
            executor: executor(),
            task_group: crate::v1::TaskGroupInfo { tasks: vec![task()] },
        };
        let operation = |launch, launch_group| offer::Operation { launch, launch_group, ..Default::default() };
        let operations = vec![operation(Some(launch), None), operation(None, Some(Box::new(group)))];
        let accept = Some(scheduler::call::Accept { operations, ..Default::default() });
        let mut call = scheduler::Call { accept, ..Default::default() };
        let mut count = 0;
        of_call(&mut call, &mut |_| count += 1);
        assert_eq!(count, 3 * (4 + 10) + 1 + 5);
    }

    #[test]
    fn who_cannot_know_a_value_is_told_none() {
        let plain = Variable { name: "V".into(), value: Some("1".into()), ..Variable::default() };
        assert_eq!(value(&plain), Some("1".into()));
        assert_eq!(value(&secret(b"hunter2")), Some("hunter2".into()));
        assert_eq!((value(&secret(b"meseta-sealed-1:x")), value(&secret(b"\xff"))), (None, None));
        let reference = secret::Reference { name: "R".into(), key: None };
        let reference = Secret { r#type: None, reference: Some(reference), value: None };
        let referring = Variable { secret: Some(reference), ..plain };
        assert_eq!(value(&referring), None);
        let why = check_reference(&referring).unwrap_err();
        assert!(why.contains("'V' refers to secret 'R'"), "{why}");
    }

    #[test]
    fn a_variable_has_what_its_type_says_and_no_secret_is_repeated() {
        let text = |text: &str| Some(text.to_owned());
        let plain = Variable { name: "V".into(), value: text("v"), ..Variable::default() };
        let value = Secret {
            r#type: Some(secret::Type::Value as i32),
            value: Some(secret::Value { data: b"hunter2"[..].into() }),
            ..Secret::default()
        };
        let kind = Some(variable::Type::Secret as i32);
        let hidden = Variable { value: None, r#type: kind, secret: Some(value.clone()), ..plain.clone() };
        assert_eq!((check(&plain), check(&hidden)), (Ok(()), Ok(())));
        let with = |secret: Secret| Variable { secret: Some(secret), ..hidden.clone() };
        let reference = secret::Reference { name: "R".into(), key: None };
        let by_reference = Some(secret::Type::Reference as i32);
        let null = secret::Value { data: b"hunter2\0"[..].into() };
        for (variable, why) in [
            (Variable { value: None, ..plain.clone() }, "'V' of type 'VALUE' must have a value set"),
            (
                Variable { secret: Some(value.clone()), ..plain.clone() },
                "'V' of type 'VALUE' must not have a secret set",
            ),
            (Variable { secret: None, ..hidden.clone() }, "'V' of type 'SECRET' must have a secret set"),
            (Variable { value: text("v"), ..hidden.clone() }, "'V' of type 'SECRET' must not have a value set"),
            (
                with(Secret { value: None, ..value.clone() }),
                "'V' specifies an invalid secret: Secret of type VALUE must have the 'value' field set",
            ),
            (
                with(Secret { reference: Some(reference.clone()), ..value.clone() }),
                "'V' specifies an invalid secret: Secret of type VALUE must not have the 'reference' field set",
            ),
            (
                with(Secret { r#type: by_reference, ..value.clone() }),
                "'V' specifies an invalid secret: Secret of type REFERENCE must have the 'reference' field set",
            ),
            (
                with(Secret { r#type: by_reference, reference: Some(reference.clone()), ..value.clone() }),
                "'V' specifies an invalid secret: Secret 'R' of type REFERENCE must not have the 'value' field set",
            ),
            (
                with(Secret { value: Some(null), ..value.clone() }),
                "'V' specifies a secret containing null bytes, which is not allowed in the environment",
            ),
            (
                Variable { r#type: Some(variable::Type::Unknown as i32), ..plain.clone() },
                "of type 'UNKNOWN' is not allowed",
            ),
        ] {
            assert_eq!(check(&variable).unwrap_err(), format!("Environment variable {why}"));
        }
    }
}
