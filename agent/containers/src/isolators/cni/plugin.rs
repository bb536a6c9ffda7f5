//! How plugins are asked: a program each, with what it is told on its standard input, and JSON as its answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value};

use super::config::plugin;
use crate::isolators::asked::{self, Answer};

/// So long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where plugins look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Of which container a plugin is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) container_id: &'a str,
    /// A file that stands for its network; none if there is none any more.
    pub(super) namespace: Option<&'a Path>,
    pub(super) interface: &'a str,
    pub(super) dirs: &'a [PathBuf],
}

/// Joins a network: its plugins one after the other, each with what the one before answered.
pub(super) fn add(told: &[Map<String, Value>], about: About<'_>) -> Result<Value, String> {
    let mut answer = Value::Null;
    for config in told {
        answer = ask("ADD", &with(config, &answer), about)?;
    }
    Ok(answer)
}

/// Leaves it, the other way round.
pub(super) fn delete(told: &[Map<String, Value>], answer: &Value, about: About<'_>) -> Result<(), String> {
    told.iter().rev().try_for_each(|config| ask("DEL", &with(config, answer), about).map(drop))
}

fn with(config: &Map<String, Value>, answer: &Value) -> Map<String, Value> {
    let mut config = config.clone();
    if !answer.is_null() {
        config.insert("prevResult".to_owned(), answer.clone());
    }
    config
}

fn ask(command: &str, config: &Map<String, Value>, about: About<'_>) -> Result<Value, String> {
    let kind = config.get("type").and_then(Value::as_str).unwrap_or_default();
    let path =
        plugin(kind, about.dirs).ok_or_else(|| format!("there is no plugin '{kind}' in --network_cni_plugins_dir"))?;
    let dirs: Vec<String> = about.dirs.iter().map(|dir| dir.display().to_string()).collect();
    let mut program = Command::new(&path);
    program
        .env_clear()
        .env("PATH", PATH)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", about.container_id)
        .env("CNI_NETNS", about.namespace.unwrap_or(Path::new("")))
        .env("CNI_IFNAME", about.interface)
        .env("CNI_PATH", dirs.join(":"));
    let told = serde_json::to_vec(config).map_err(|error| error.to_string())?;
    match asked::ask(&mut program, &told, PATIENCE) {
        Err(error) => Err(format!("cannot run the CNI plugin '{}': {error}", path.display())),
        Ok(Answer { code: Some(0), said, .. }) if said.is_empty() => Ok(Value::Null),
        Ok(Answer { code: Some(0), said, .. }) => serde_json::from_str(&said)
            .map_err(|error| format!("the CNI plugin '{}' answered no JSON: {error}", path.display())),
        Ok(Answer { said: answer, errors, .. }) => {
            let said = serde_json::from_str::<Value>(&answer).ok();
            let said = said.as_ref().and_then(|said| said.get("msg")?.as_str()).unwrap_or(&answer);
            Err(format!("the CNI plugin '{}' failed: {said} {errors}", path.display()).trim_end().to_owned())
        }
    }
}
