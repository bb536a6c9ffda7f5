//! What the schema has and this release does not do: refused by its name before anything is logged, so that nobody
//! believes in what does not happen, and no secret is written down.

use api::v1;

const BY_THIS_VERSION: &str = "not supported by this version";

/// The first of these that is there, as a sentence.
fn first<'a>(fields: impl IntoIterator<Item = (&'a str, bool)>) -> Result<(), String> {
    match fields.into_iter().find(|(_, is)| *is) {
        Some((field, _)) => Err(format!("'{field}' is {BY_THIS_VERSION}")),
        None => Ok(()),
    }
}

/// A task, whatever runs it; one in a container of its own may have a terminal.
pub(crate) fn task(task: &v1::TaskInfo, nested: bool) -> Result<(), String> {
    let of_check = task.check.as_ref().and_then(|check| Some(&check.command.as_ref()?.command));
    let of_health = task.health_check.as_ref().and_then(|check| check.command.as_ref());
    command("Task uses invalid check: Check", of_check)?;
    command("Task uses invalid health check: Health check", of_health)?;
    command("Task", task.command.as_ref())?;
    container("Task", task.container.as_deref(), nested)
}

/// An executor.
pub(crate) fn executor(info: &v1::ExecutorInfo) -> Result<(), String> {
    command("Executor", info.command.as_ref())?;
    container("Executor", info.container.as_deref(), false)
}

fn command(whose: &str, command: Option<&v1::CommandInfo>) -> Result<(), String> {
    let Some(command) = command else { return Ok(()) };
    let variables = command.environment.iter().flat_map(|environment| &environment.variables);
    for variable in variables {
        api::secrets::check(variable).map_err(|why| format!("{whose}'s `CommandInfo` is invalid: {why}"))?;
        api::secrets::check_reference(variable)?;
        let value = variable.secret.as_ref().and_then(|secret| secret.value.as_ref());
        if value.is_some_and(|value| !api::secrets::is_sealed(&value.data)) {
            let name = api::limits::quoted(&variable.name);
            return Err(format!(
                "Environment variable '{name}' of type 'SECRET' is not written down as it is: masters and agents need \
                 --cluster_secret to seal its value"
            ));
        }
    }
    Ok(())
}

/// What a container asks for is its agent's to do, or to refuse: agents differ.
fn container(whose: &str, container: Option<&v1::ContainerInfo>, may_have_terminal: bool) -> Result<(), String> {
    let Some(container) = container else { return Ok(()) };
    api::container_info::check(container).map_err(|why| format!("{whose}'s `ContainerInfo` is invalid: {why}"))?;
    let is_open =
        |secret: &v1::Secret| secret.value.as_ref().is_some_and(|value| !api::secrets::is_sealed(&value.data));
    if api::secrets::in_container(container).any(is_open) {
        return Err(
            "Secrets of containers are not written down as they are: masters and agents need --cluster_secret to seal their values"
                .to_owned(),
        );
    }
    first([("ContainerInfo.tty_info", container.tty_info.is_some() && !may_have_terminal)])?;
    container.rlimit_info.as_ref().map_or(Ok(()), rlimits)
}

/// Limits of processes make sense: both of a kind, or none, which is no limit.
fn rlimits(info: &v1::RLimitInfo) -> Result<(), String> {
    use v1::r_limit_info::r_limit::Type;
    for limit in &info.rlimits {
        let kind = limit.r#type.and_then(|number| Type::try_from(number).ok()).filter(|kind| *kind != Type::Unknown);
        let Some(kind) = kind else { return Err("Invalid rlimit: its type is not known".to_owned()) };
        match (limit.soft, limit.hard) {
            (None, None) => {}
            (Some(soft), Some(hard)) if soft <= hard => {}
            (Some(_), Some(_)) => {
                return Err(format!("Invalid rlimit {}: 'soft' is more than 'hard'", kind.as_str_name()));
            }
            _ => return Err(format!("Invalid rlimit {}: 'soft' and 'hard' are set together", kind.as_str_name())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::testing::{Cluster, executor, operation, task_info};
    use api::v1;
    use std::default::Default;

    /// What a framework hears that launches this, after which nothing of it is in the log.
    fn refused(task: v1::TaskInfo) -> String {
        let mut cluster = Cluster::new();
        let framework = cluster.subscribe();
        cluster.agent("cpus:4;mem:100");
        let offers = cluster.offer();
        let names = cluster.accept(framework, &offers, vec![operation(vec![task])]);
        assert_eq!(names, ["offers-accepted", "launch-refused"]);
        let status = cluster.statuses().pop().unwrap();
        assert_eq!(status.state(), v1::TaskState::TaskError);
        let log: Vec<u8> = cluster.log.iter().flat_map(event_log::Record::encode).collect();
        assert!(!log.windows(7).any(|bytes| bytes == b"hunter2"), "a secret is not written down");
        status.message().to_owned()
    }

    fn in_container(change: impl FnOnce(&mut v1::ContainerInfo)) -> String {
        let mut container = v1::ContainerInfo { r#type: v1::container_info::Type::Mesos as i32, ..Default::default() };
        change(&mut container);
        refused(v1::TaskInfo { container: Some(Box::new(container)), ..task_info("t", "cpus:1;mem:10") })
    }

    #[test]
    fn a_container_that_makes_no_sense_is_refused() {
        let why = in_container(|it| it.volumes = vec![Default::default()]);
        assert!(why.starts_with("Task's `ContainerInfo` is invalid: Invalid volume: Only one of them should"), "{why}");
        let why = in_container(|it| it.r#type = v1::container_info::Type::Docker as i32);
        let sentence = "DockerInfo 'docker' is not set for DOCKER typed ContainerInfo";
        assert_eq!(why, format!("Task's `ContainerInfo` is invalid: {sentence}"));
        let why = in_container(|it| it.rlimit_info = Some(v1::RLimitInfo { rlimits: vec![Default::default()] }));
        assert_eq!(why, "Invalid rlimit: its type is not known");
    }

    #[test]
    fn a_secret_never_reaches_the_log() {
        let secret = v1::Secret {
            r#type: Some(v1::secret::Type::Value as i32),
            value: Some(v1::secret::Value { data: b"hunter2"[..].into() }),
            ..Default::default()
        };
        let variable = v1::environment::Variable {
            name: "S".into(),
            r#type: Some(v1::environment::variable::Type::Secret as i32),
            secret: Some(secret.clone()),
            ..Default::default()
        };
        let mut task = task_info("t", "cpus:1;mem:10");
        let environment = v1::Environment { variables: vec![variable.clone()] };
        task.command.as_mut().unwrap().environment = Some(environment.clone());
        let sentence = "Environment variable 'S' of type 'SECRET' is not written down as it is: masters and agents need \
                        --cluster_secret to seal its value";
        assert_eq!(refused(task), sentence);
        let mut own = executor("e");
        own.command.as_mut().unwrap().environment = Some(environment);
        let task = v1::TaskInfo { command: None, executor: Some(own), ..task_info("t", "cpus:1;mem:10") };
        assert_eq!(refused(task), sentence);
        let kind = Some(v1::volume::source::Type::Secret as i32);
        let source = v1::volume::Source { r#type: kind, secret: Some(secret), ..Default::default() };
        let volume = v1::Volume { source: Some(source), container_path: "c".into(), ..Default::default() };
        assert!(in_container(|it| it.volumes = vec![volume]).starts_with("Secrets of containers are not written down"));
    }
}
