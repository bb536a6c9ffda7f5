//! Containers that another program runs, in its own way: `--containerizers=external`. It is asked by whoever stays beside a container,
//! as `docs/external-containerizer.md` has it; the agent itself asks it what it is, and what it has left.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use api::resources::Resources;
use api::v1::volume::Mode;
use api::v1::{ContainerInfo, ContainerStatus, LinuxInfo, container_info};
use nix::unistd::{User, geteuid};
use serde_json::{Map, Value};
use supervisor::processes;
use supervisor::program::{Failure, How, PROTOCOL, Program};
use supervisor::spec;

use crate::container::{Container, Usage, Volume};
use crate::containerizer::{Containerizer, Creation};
use crate::reports::{Core, Process};
use crate::supervised::Supervised;

/// What a program may say that it supports, and how a container is refused that asks for it of one that does not.
pub(crate) const FEATURES: &[(&str, &str)] = &[
    ("users", "a user of its own"),
    ("rlimits", "limits of processes (rlimit_info)"),
    ("nested", "containers within containers"),
    ("docker", "containers of type DOCKER"),
    ("images", "images"),
    ("volumes", "volumes of its ContainerInfo"),
    ("networks", "networks of its ContainerInfo"),
    ("linux_info", "linux_info"),
    ("signals", "signals"),
    ("usage", "usage"),
];

/// What a program says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    /// Its name.
    pub(crate) name: String,
    /// What it supports, of [`FEATURES`].
    pub(crate) supports: BTreeSet<String>,
}

impl Description {
    /// Asks a program what it is. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn ask(program: &Program) -> Result<Description, String> {
        let answer = program.call("describe", &program.request(), None).map_err(Failure::into_sentence)?;
        Description::read(&answer).map_err(|why| format!("the external containerizer {}: {why}", program.path))
    }

    fn read(answer: &Value) -> Result<Description, String> {
        let wrong = |what: &str| format!("its answer to 'describe' has no {what}");
        let protocol = answer.get("protocol").and_then(Value::as_u64).ok_or_else(|| wrong("'protocol', a number"))?;
        if protocol != PROTOCOL {
            return Err(format!("it speaks version {protocol} of the protocol, and this agent version {PROTOCOL}"));
        }
        let name = answer.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("'name', a string"))?.to_owned();
        let supports = answer.get("supports").and_then(Value::as_array);
        let supports = supports.ok_or_else(|| wrong("'supports', a list of strings"))?;
        let supports: Option<BTreeSet<String>> = supports.iter().map(|one| one.as_str().map(str::to_owned)).collect();
        let supports = supports.ok_or_else(|| wrong("'supports', a list of strings"))?;
        if let Some(unknown) = supports.iter().find(|one| !FEATURES.iter().any(|(known, _)| known == one)) {
            let known: Vec<&str> = FEATURES.iter().map(|(known, _)| *known).collect();
            return Err(format!("it supports '{unknown}', and there is: {}", known.join(", ")));
        }
        Ok(Description { name, supports })
    }
}

/// The containers of one program.
#[derive(Clone, Debug)]
pub struct External {
    beside: Supervised,
    program: Program,
    description: Arc<Description>,
}

impl External {
    /// Makes the program's folder and asks it what it is. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(beside: Supervised, program: Program) -> Result<External, String> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&program.folder);
        made.map_err(|error| format!("Cannot make the folder {}: {error}", program.folder))?;
        let description =
            Description::ask(&program).map_err(|why| format!("Cannot use --containerizer_path: {why}"))?;
        tracing::info!(name = description.name, supports = ?description.supports, "an external containerizer");
        Ok(External { beside, program, description: Arc::new(description) })
    }

    /// Ends what an earlier agent had launched and this one's log does not know. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn sweep(&self, known: &BTreeSet<String>) -> Result<(), String> {
        let program = &self.program;
        let sweep = || -> Result<Vec<String>, Failure> {
            let found = listed(&program.call("list", &program.request(), None)?).map_err(Failure::Broken)?;
            let strays: Vec<String> = found.difference(known).cloned().collect();
            for container_id in &strays {
                program.call("destroy", &program.destruction(container_id, How::AtOnce), None)?;
                program.call("release", &program.about(container_id), None)?;
            }
            Ok(strays)
        };
        let ended =
            sweep().map_err(|why| format!("Cannot end what an earlier agent left running: {}", why.into_sentence()))?;
        if !ended.is_empty() {
            tracing::warn!(
                ?ended,
                "ended containers of the external containerizer that this agent's log does not know"
            );
        }
        Ok(())
    }

    /// What a container asks for that the program does not do.
    fn unsupported(&self, creation: &Creation) -> Option<String> {
        let mesos =
            || Box::new(ContainerInfo { r#type: container_info::Type::Mesos as i32, ..ContainerInfo::default() });
        let info = creation.container.info.clone().unwrap_or_else(mesos);
        let is_shared = info.linux_info.as_ref().is_none_or(|linux| *linux == LinuxInfo::default());
        let asked = [
            ("users", is_other(&creation.user)),
            ("rlimits", !creation.rlimits.is_empty()),
            ("nested", creation.container.is_within()),
            ("docker", info.r#type == container_info::Type::Docker as i32),
            ("images", info.mesos.as_ref().is_some_and(|mesos| mesos.image.is_some())),
            ("volumes", !info.volumes.is_empty()),
            ("networks", !info.network_infos.is_empty()),
            ("linux_info", !is_shared),
        ];
        let supports = &self.description.supports;
        let missing = asked.into_iter().find(|(feature, asked)| *asked && !supports.contains(*feature));
        let what = match missing {
            Some((feature, _)) => FEATURES.iter().find(|(known, _)| *known == feature).map(|(_, text)| *text)?,
            None if api::secrets::in_container(&info).next().is_some() => "secrets of its ContainerInfo",
            None if creation.streams.is_some() => "streams that somebody can be connected with (sessions, tty_info)",
            None if creation.checked => "checks by COMMAND, which would run outside of the container",
            None => return None,
        };
        Some(format!("the external containerizer '{}' does not support {what}", self.description.name))
    }

    /// What it is to launch.
    fn request(&self, creation: &Creation) -> Map<String, Value> {
        let mut request = self.program.about(&creation.container.id);
        let mut set = |name: &str, value: Value| drop(request.insert(name.to_owned(), value));
        if let Some((parent, _)) = creation.container.id.rsplit_once('.') {
            set("parent", parent.into());
        }
        set("sandbox", creation.container.sandbox.display().to_string().into());
        let program = creation.program.as_ref().or(creation.arguments.first()).cloned().unwrap_or_default();
        set("program", program.into());
        set("arguments", creation.arguments.clone().into());
        let mark = format!("{}={}", processes::CONTAINER, self.beside.mark(&creation.container.id));
        let own = format!("{}=", processes::CONTAINER);
        let variables = creation.environment.iter().filter(|variable| !variable.starts_with(&own)).chain([&mark]);
        let variables = variables.filter_map(|variable| variable.split_once('='));
        set(
            "environment",
            variables.map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<_, _>>().into(),
        );
        if is_other(&creation.user) {
            set("user", creation.user.clone().into());
        }
        if !creation.rlimits.is_empty() {
            let limit = |(name, limit): &(String, Option<(u64, u64)>)| {
                (name.clone(), limit.map_or(Value::Null, |(soft, hard)| vec![soft, hard].into()))
            };
            set("rlimits", creation.rlimits.iter().map(limit).collect::<Map<_, _>>().into());
        }
        let promised = Resources::from_v1(&creation.container.resources).unwrap_or_default();
        set("resources", promised.to_state_json());
        let limits = creation.container.limits.iter().map(|(name, most)| (name.clone(), (*most).into()));
        set("limits", limits.collect::<Map<_, _>>().into());
        let volumes = creation.container.volumes.iter().map(volume);
        set("volumes", volumes.collect::<Vec<_>>().into());
        if let Some(info) = &creation.container.info {
            set("container", api::json::to_value(&**info));
        }
        let label = |(key, value): &(String, String)| serde_json::json!({"key": key, "value": value});
        set("labels", creation.labels.iter().map(label).collect::<Vec<_>>().into());
        request
    }
}

/// A persistent volume: where it is, and where it is found in the sandbox.
fn volume(volume: &Volume) -> Value {
    let found = volume.resource.disk.as_ref().and_then(|disk| disk.volume.as_ref());
    serde_json::json!({
        "place": volume.place.display().to_string(),
        "path": found.map(|found| found.container_path.as_str()),
        "read_only": found.is_some_and(|found| found.mode() == Mode::Ro),
    })
}

/// Whether that is somebody else than this process.
fn is_other(user: &str) -> bool {
    // Who cannot be looked up is somebody else: that is told of by who looks him up.
    !user.is_empty() && !matches!(User::from_name(user), Ok(Some(user)) if user.uid == geteuid())
}

/// The containers that a program says it has. The error is a sentence.
pub(crate) fn listed(answer: &Value) -> Result<BTreeSet<String>, String> {
    let ids = answer.get("containers").and_then(Value::as_array);
    let ids: Option<BTreeSet<String>> =
        ids.and_then(|ids| ids.iter().map(|id| id.as_str().map(str::to_owned)).collect());
    ids.ok_or_else(|| "its answer to 'list' has no 'containers', a list of strings".to_owned())
}

/// What a program says that a container uses.
pub(crate) fn usage_of(answer: &Value) -> Usage {
    let seconds = |name: &str| answer.get(name).and_then(Value::as_f64).filter(|seconds| *seconds >= 0.0);
    Usage {
        cpus_user_time_secs: seconds("cpus_user_secs"),
        cpus_system_time_secs: seconds("cpus_system_secs"),
        mem_rss_bytes: answer.get("mem_rss_bytes").and_then(Value::as_u64),
        ..Usage::default()
    }
}

/// What is read of an answer of a program, whatever it was asked: for who looks for what no answer may do.
pub fn read_answer(answer: &[u8]) -> String {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else { return "no JSON".to_owned() };
    format!("{:?} {:?} {:?}", Description::read(&answer), listed(&answer), usage_of(&answer))
}

impl Containerizer for External {
    fn name(&self) -> &'static str {
        "external"
    }

    fn takes(&self, _creation: &Creation) -> bool {
        true
    }

    fn has(&self, container_id: &str) -> bool {
        self.beside.program(container_id).is_some()
    }

    fn create(&self, core: Arc<dyn Core>, creation: Creation) {
        if let Some(sentence) = self.unsupported(&creation) {
            return self.give_up(core, &creation.container.id, sentence);
        }
        let request = Value::Object(self.request(&creation)).to_string();
        let external = spec::External { program: self.program.clone(), request };
        self.beside.create_external(core, creation, external);
    }

    fn give_up(&self, core: Arc<dyn Core>, container_id: &str, message: String) {
        self.beside.give_up(core, container_id, message);
    }

    fn destroy(&self, core: Arc<dyn Core>, container_id: &str, how: How) {
        self.beside.destroy(core, container_id, how);
    }

    fn signal(&self, container_id: &str, process: &Process, signal: i32) -> io::Result<bool> {
        let _ = process;
        if !self.description.supports.contains("signals") {
            let name = &self.description.name;
            return Err(io::Error::other(format!("the external containerizer '{name}' does not support signals")));
        }
        let mut request = self.program.about(container_id);
        request.insert("signal".to_owned(), signal.into());
        match self.program.call("signal", &request, None) {
            Ok(answer) => Ok(answer.get("sent").and_then(Value::as_bool).unwrap_or(true)),
            Err(failure) => Err(failure.into()),
        }
    }

    fn connect(&self, _: &Process) -> io::Result<UnixStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn recover(&self, core: Arc<dyn Core>, container: &Container) {
        self.beside.recover_external(core, &container.id);
    }

    /// A program is told once, when it launches.
    fn update(&self, _: &Container) {}

    fn release(&self, container_id: &str) {
        self.beside.release_external(container_id);
    }

    fn status(&self, container_id: &str) -> ContainerStatus {
        self.beside.status_external(container_id)
    }

    fn usage(&self, container: &Container) -> Usage {
        if !self.description.supports.contains("usage") {
            return self.beside.usage(container);
        }
        let answer = self.program.call("usage", &self.program.about(&container.id), None);
        answer.map(|answer| usage_of(&answer)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_program_describes_itself() {
        let good = json!({"protocol": 1, "name": "vms", "supports": ["users"], "version": "7"});
        let description = Description::read(&good).unwrap();
        assert_eq!(description, Description { name: "vms".into(), supports: ["users".to_owned()].into() });
        for (field, value, why) in [
            ("protocol", json!(2), "it speaks version 2 of the protocol, and this agent version 1"),
            ("protocol", json!("1"), "its answer to 'describe' has no 'protocol', a number"),
            ("name", json!(""), "its answer to 'describe' has no 'name', a string"),
            ("supports", json!([1]), "its answer to 'describe' has no 'supports', a list of strings"),
            (
                "supports",
                json!(["x"]),
                "it supports 'x', and there is: users, rlimits, nested, docker, images, volumes, networks, linux_info, signals, usage",
            ),
        ] {
            let mut other = good.clone();
            other[field] = value;
            assert_eq!(Description::read(&other).unwrap_err(), why);
        }
    }
}
