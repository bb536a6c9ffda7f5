//! Secrets of tasks on this agent. Masters seal their values; they are opened in memory only, for who runs: the environment of a process,
//! and an executor that gets a task. What comes by call is sealed before it is written down.

use agent_core::State;
use api::secrets::{check_reference, is_sealed, of_command, of_container, of_task};
use api::v1::agent::call::LaunchContainer;
use api::v1::environment::Variable;
use api::v1::{ContainerInfo, TaskInfo, secret};
use api_http::Secret;

/// Whose the secrets of a container are: a framework's, by its id, or nobody's.
pub(crate) fn owner(state: &State, container_id: &str) -> String {
    let root = container_id.split('.').next().unwrap_or_default();
    state.executor_of(root).map_or(String::new(), |(framework_id, _)| framework_id.to_owned())
}

/// The value of a variable, as its process sees it. The error is a sentence.
pub(crate) fn value(secret: Option<&Secret>, variable: &Variable, owner: &str) -> Result<String, String> {
    check_reference(variable)?;
    let mut opened = variable.clone();
    if let Some(value) = opened.secret.as_mut().and_then(|one| one.value.as_mut()) {
        open(secret, value, owner);
    }
    api::secrets::value(&opened).ok_or_else(|| {
        let name = api::limits::quoted(&variable.name);
        match opened.secret.and_then(|one| one.value) {
            Some(value) if is_sealed(&value.data) => format!(
                "the secret of environment variable '{name}' cannot be opened: this agent needs the --cluster_secret of its masters"
            ),
            _ => format!("the secret of environment variable '{name}' is no text"),
        }
    })
}

/// The value of a secret that is no variable. The error is a sentence.
pub(crate) fn opened_value(secret: Option<&Secret>, one: &api::v1::Secret, owner: &str) -> Result<Vec<u8>, String> {
    let mut value = one.value.clone().ok_or("a secret of type VALUE is needed")?;
    open(secret, &mut value, owner);
    if is_sealed(&value.data) {
        return Err("it cannot be opened: this agent needs the --cluster_secret of its masters".to_owned());
    }
    Ok(value.data.to_vec())
}

/// What cannot be opened stays as it is.
fn open(secret: Option<&Secret>, value: &mut secret::Value, owner: &str) {
    if let Some(opened) = secret.and_then(|secret| secret.open_sealed(&value.data, owner)) {
        value.data = opened.into();
    }
}

/// A task as its executor gets it, or as this agent looks at it.
pub(crate) fn opened(secret: Option<&Secret>, mut task: TaskInfo, owner: &str) -> TaskInfo {
    of_task(&mut task, &mut |value| open(secret, value, owner));
    task
}

/// What a container is to have, as those see it who give it that.
pub(crate) fn opened_container(secret: Option<&Secret>, container: &mut ContainerInfo, owner: &str) {
    of_container(container, &mut |value| open(secret, value, owner));
}

/// A container that is launched by call, as it may be written down. The error is a sentence.
pub(crate) fn sealed(secret: Option<&Secret>, info: &mut LaunchContainer, owner: &str) -> Result<(), String> {
    let environments = info.command.iter().filter_map(|command| command.environment.as_ref());
    environments.flat_map(|environment| &environment.variables).try_for_each(check_reference)?;
    let mut is_open = false;
    let mut seal = |value: &mut secret::Value| match secret {
        // Sealed by the masters, for the same.
        Some(secret) if secret.open_sealed(&value.data, owner).is_some() => {}
        Some(secret) => value.data = secret.seal(&value.data, owner).into(),
        None => is_open = true,
    };
    info.command.iter_mut().for_each(|command| of_command(command, &mut seal));
    info.container.iter_mut().for_each(|container| of_container(container, &mut seal));
    if is_open {
        return Err("secrets need --cluster_secret on this agent, which seals what it writes down".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v1::environment::variable;
    use api::v1::{CommandInfo, Environment};

    #[test]
    fn what_comes_by_call_is_sealed_once_and_opened_for_its_owner() {
        let secret = Secret::parse("a secret of sufficient length").unwrap();
        let value_of = |data: &[u8]| secret::Value { data: data.to_vec().into() };
        let of_type = secret::Type::Value as i32;
        let with = |data: &[u8]| {
            let one = api::v1::Secret { r#type: Some(of_type), reference: None, value: Some(value_of(data)) };
            let r#type = Some(variable::Type::Secret as i32);
            Variable { name: "V".into(), r#type, value: None, secret: Some(one) }
        };
        let launch = |variable: Variable| {
            let environment = Some(Environment { variables: vec![variable] });
            let command = Some(CommandInfo { environment, ..CommandInfo::default() });
            LaunchContainer { command, ..LaunchContainer::default() }
        };
        let variable = |info: &LaunchContainer| info.command.clone().unwrap().environment.unwrap().variables[0].clone();
        let mut info = launch(with(b"hunter2"));
        assert!(sealed(None, &mut info, "F").unwrap_err().contains("--cluster_secret"));
        sealed(Some(&secret), &mut info, "F").unwrap();
        let once = variable(&info);
        sealed(Some(&secret), &mut info, "F").unwrap();
        assert_eq!(variable(&info), once);
        assert_eq!(value(Some(&secret), &once, "F"), Ok("hunter2".into()));
        for (key, owner) in [(Some(&secret), "G"), (None, "F")] {
            let why = value(key, &once, owner).unwrap_err();
            assert!(why.contains("'V' cannot be opened") && !why.contains("hunter2"), "{why}");
        }
        assert!(value(Some(&secret), &with(b"\xff"), "F").unwrap_err().contains("is no text"));
    }
}
