//! Containers of a Docker Engine: `--containerizers=docker`. What launches, waits for and ends one is `meseta-docker`, asked by the
//! supervisor beside it as another's program is ([`crate::External`]); what it is made of is said here ([`options`]). How
//! its parts divide the work: `agent_docker`.

mod options;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agent_docker::Settings;
use api::v1::{ContainerStatus, container_info};
use parking_lot::Mutex;
use serde_json::{Value, json};
use supervisor::program::{Failure, How, Program};
use supervisor::spec;

use crate::container::{Container, Usage};
use crate::containerizer::{Containerizer, Creation, Inside};
use crate::dns::DockerDns;
use crate::external::usage_of;
use crate::reports::{Core, Process};
use crate::supervised::Supervised;

/// The longest pause between two looks for containers to take away, and the shortest.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(60);
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(500);
/// One that was made and never started is somebody's who is about to start it, for so long.
const START_MAX: Duration = Duration::from_secs(3600);
/// Who asks what containers use waits for so long at most, and an engine that does not tell is not asked for a while: there are
/// many containers, and they are asked for often.
const USAGE_MAX: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(10);
/// The engine may have been started with the agent: so often it is looked for.
const LOOKS_MAX: usize = 3;

/// How the engine is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DockerTerms {
    /// How it is reached.
    pub engine: Settings,
    /// Where containers find their sandbox.
    pub sandbox_directory: String,
    /// Whether they are bound by the processors that they were given.
    pub enable_cfs: bool,
    /// Whether containers of no agent that there is are ended at the start.
    pub kill_orphans: bool,
    /// How long containers stay when they are over.
    pub remove_delay: Duration,
    /// Where they look for names, if they do not say it.
    pub dns: DockerDns,
}

/// The containers of one engine.
#[derive(Clone, Debug)]
pub struct Docker {
    beside: Supervised,
    program: Program,
    terms: Arc<DockerTerms>,
    /// When it was last not told what a container uses.
    silent: Arc<Mutex<Option<Instant>>>,
}

/// A container as the engine lists it.
struct Listed {
    id: String,
    /// Launched by this agent.
    is_own: bool,
    /// Launched by no agent of this kind.
    is_nobodys: bool,
    state: String,
    since: u64,
}

impl Docker {
    /// Makes the program's folder, and looks for the engine. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(beside: Supervised, program: Program, terms: DockerTerms) -> Result<Docker, String> {
        let cannot = |error: io::Error| format!("Cannot use the folder {}: {error}", program.folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&program.folder).map_err(cannot)?;
        terms.engine.write(Path::new(&program.folder)).map_err(cannot)?;
        let docker = Docker { beside, program, terms: Arc::new(terms), silent: Arc::default() };
        let mut found = docker.call("version", &docker.program.request());
        for _ in 1..LOOKS_MAX {
            if found.is_err() {
                std::thread::sleep(LOOK_PAUSE_MIN);
                found = docker.call("version", &docker.program.request());
            }
        }
        let found = found.map_err(|why| format!("Cannot use --containerizers=docker: {}", why.into_sentence()))?;
        tracing::info!(version = ?found.get("version"), socket = docker.terms.engine.socket, "a Docker Engine");
        Ok(docker)
    }

    fn call(&self, command: &'static str, request: &serde_json::Map<String, Value>) -> Result<Value, Failure> {
        self.program.call(command, request, None)
    }

    fn listed(&self) -> Result<Vec<Listed>, Failure> {
        let answer = self.call("list", &self.program.request())?;
        let containers = answer.get("containers").and_then(Value::as_array).into_iter().flatten();
        let text = |one: &Value, name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let read = |one: &Value| Listed {
            id: text(one, "container_id"),
            is_own: text(one, "owner") == "own",
            is_nobodys: text(one, "owner") == "none",
            state: text(one, "state"),
            since: one.get("since").and_then(Value::as_u64).unwrap_or(0),
        };
        Ok(containers.map(read).collect())
    }

    fn remove(&self, ids: &[String]) -> Result<(), Failure> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut request = self.program.request();
        request.insert("names".to_owned(), ids.into());
        self.call("remove", &request).map(drop)
    }

    /// Ends what an earlier agent had launched and this one's log does not know; and, with `--docker_kill_orphans`, what bears the
    /// name of an agent's container and is no agent's of this kind. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn sweep(&self, known: &BTreeSet<String>) -> Result<(), String> {
        let sweep = || -> Result<Vec<String>, Failure> {
            let is_over = |one: &Listed| matches!(one.state.as_str(), "exited" | "dead");
            let is_stray = |one: &Listed| {
                !known.contains(&one.id) && !is_over(one) && (one.is_own || self.terms.kill_orphans && one.is_nobodys)
            };
            let strays: Vec<String> = self.listed()?.into_iter().filter(is_stray).map(|one| one.id).collect();
            self.remove(&strays)?;
            Ok(strays)
        };
        let ended = sweep().map_err(|why| format!("Cannot end what was left running: {}", why.into_sentence()))?;
        if !ended.is_empty() {
            tracing::warn!(?ended, "ended containers of the Docker Engine that this agent's log does not know");
        }
        Ok(())
    }

    /// Takes containers away that have been over for long enough, for as long as the agent lives.
    pub async fn tidy(self, core: Arc<dyn Core>) {
        let pause = (self.terms.remove_delay / 4).clamp(LOOK_PAUSE_MIN, LOOK_PAUSE_MAX);
        loop {
            let (docker, core) = (self.clone(), core.clone());
            let removed = tokio::task::spawn_blocking(move || docker.remove_old(&*core)).await;
            if let Ok(Err(why)) = removed {
                tracing::warn!(why = why.into_sentence(), "cannot remove containers that are over; trying again");
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn remove_old(&self, core: &dyn Core) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_old = |one: &Listed| {
            let age = now.saturating_sub(Duration::from_secs(one.since));
            match one.state.as_str() {
                "exited" | "dead" => age >= self.terms.remove_delay,
                "created" => age >= self.terms.remove_delay.max(START_MAX),
                _ => false,
            }
        };
        let listed = self.listed()?;
        // Asked behind the list: what was found there is known by now, and waited for until its end is in the log.
        let old = listed.into_iter().filter(|one| one.is_own && is_old(one) && !core.awaits(&one.id));
        self.remove(&old.map(|one| one.id).collect::<Vec<_>>())
    }
}

impl Containerizer for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn takes(&self, creation: &Creation) -> bool {
        creation.container.info.as_ref().is_some_and(|info| info.r#type == container_info::Type::Docker as i32)
    }

    fn has(&self, container_id: &str) -> bool {
        self.beside.program(container_id).is_some_and(|program| program.folder == self.program.folder)
    }

    fn create(&self, core: Arc<dyn Core>, creation: Creation) {
        let create = match options::of(&creation, &self.terms, &self.program.folder) {
            Ok(create) => create,
            Err(sentence) => return self.give_up(core, &creation.container.id, sentence),
        };
        let mut request = self.program.about(&creation.container.id);
        request.insert("sandbox".to_owned(), creation.container.sandbox.display().to_string().into());
        request.insert("create".to_owned(), create);
        let request = Value::Object(request).to_string();
        self.beside.create_external(core, creation, spec::External { program: self.program.clone(), request });
    }

    fn give_up(&self, core: Arc<dyn Core>, container_id: &str, message: String) {
        self.beside.give_up(core, container_id, message);
    }

    fn destroy(&self, core: Arc<dyn Core>, container_id: &str, how: How) {
        self.beside.destroy(core, container_id, how);
    }

    fn signal(&self, container_id: &str, _: &Process, signal: i32) -> io::Result<bool> {
        let mut request = self.program.about(container_id);
        request.insert("signal".to_owned(), signal.into());
        let answer = self.call("signal", &request)?;
        Ok(answer.get("sent").and_then(Value::as_bool).unwrap_or(false))
    }

    fn connect(&self, _: &Process) -> io::Result<UnixStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn recover(&self, core: Arc<dyn Core>, container: &Container) {
        self.beside.recover_external(core, &container.id);
    }

    fn update(&self, container: &Container) {
        let mut request = self.program.about(&container.id);
        request.insert("update".to_owned(), options::resources(container, &self.terms));
        let docker = self.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(why) = docker.call("update", &request) {
                tracing::warn!(why = why.into_sentence(), "a container keeps the resources that it had");
            }
        });
    }

    fn find_volumes(&self, container: &Container, _: &[(String, PathBuf)]) -> Result<(), String> {
        // What runs is described; what is to run gets all that it is to have.
        let Some(data) = self.beside.facts(&container.id).data else { return Ok(()) };
        let described: Value = serde_json::from_str(&data).unwrap_or_default();
        let mounts = described.pointer("/0/Mounts").and_then(Value::as_array).into_iter().flatten();
        let sources: Vec<&str> = mounts.filter_map(|mount| mount.get("Source")?.as_str()).collect();
        let is_missing = |place: &str| !sources.contains(&place);
        match container.volumes.iter().map(|one| one.place.display().to_string()).find(|place| is_missing(place)) {
            Some(place) => Err(format!("a container of type DOCKER that runs gets no volumes: {place}")),
            None => Ok(()),
        }
    }

    fn release(&self, container_id: &str) {
        self.beside.release_external(container_id);
    }

    fn status(&self, container_id: &str) -> ContainerStatus {
        self.beside.status_external(container_id)
    }

    fn usage(&self, container: &Container) -> Usage {
        let is_silent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < SILENCE);
        if is_silent(*self.silent.lock()) {
            return Usage::default();
        }
        let begun = Instant::now();
        let found = self.program.call_within("usage", &self.program.about(&container.id), None, USAGE_MAX);
        // One that has just ended is no silence.
        *self.silent.lock() = (found.is_err() && begun.elapsed() >= USAGE_MAX).then(Instant::now);
        let found = found.unwrap_or_else(|_| json!({}));
        let count = |name: &str| found.get(name).and_then(Value::as_u64);
        let small = |name: &str| count(name).and_then(|count| u32::try_from(count).ok());
        Usage {
            processes: small("processes"),
            cpus_nr_periods: small("cpus_nr_periods"),
            cpus_nr_throttled: small("cpus_nr_throttled"),
            cpus_throttled_time_secs: found.get("cpus_throttled_time_secs").and_then(Value::as_f64),
            mem_total_bytes: count("mem_total_bytes"),
            mem_cache_bytes: count("mem_cache_bytes"),
            mem_mapped_file_bytes: count("mem_mapped_file_bytes"),
            net_rx_packets: count("net_rx_packets"),
            net_rx_bytes: count("net_rx_bytes"),
            net_rx_errors: count("net_rx_errors"),
            net_rx_dropped: count("net_rx_dropped"),
            net_tx_packets: count("net_tx_packets"),
            net_tx_bytes: count("net_tx_bytes"),
            net_tx_errors: count("net_tx_errors"),
            net_tx_dropped: count("net_tx_dropped"),
            ..usage_of(&found)
        }
    }

    fn inside(&self, container_id: &str, process: Option<&Process>) -> Option<Inside> {
        let words = [agent_docker::CHECK, &self.terms.engine.socket, container_id];
        let network = process.map(|process| format!("/proc/{}/ns/net", process.pid).into());
        let helper = (self.program.path.clone().into(), words.map(str::to_owned).to_vec());
        Some(Inside { helper, network })
    }
}
