//! Containers that are supervised processes of this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use api::v1::task_status::Reason;
use api::v1::value::Scalar;
use api::v1::{ContainerInfo, ContainerStatus, NetworkInfo, Resource, container_info};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use parking_lot::Mutex;
use supervisor::processes;
use supervisor::program::{Program, end_of};
use supervisor::spec::{Claim, External, Files, Namespace, Notice, Spec, World, boot_id, containers_in, look};
use supervisor::streams::{short_path, socket_name};
use supervisor::sys::{pidfd_open, pidfd_probe, pidfd_signal};
use supervisor::users::{self, Users};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cgroups::Cgroups;
use crate::container::{Container, Limitation, Usage};
use crate::containerizer::{Containerizer, Creation, How};
use crate::isolators::{self, Isolator, PosixRlimits};
use crate::reports::{Core, Facts, Process, Report};
use crate::sandbox::is_own_user;
use crate::sealed::Sealed;

/// Where supervisors look for programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Launches under way at once: more would only wait for the same processors.
const LAUNCHES_MAX: usize = 8;
/// Files that are kept for containers to come.
const SPARES_MAX: usize = 256;
/// Pauses before something is tried again, the first and the longest.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// So old may be what is told of processes.
const SEEN_MAX: Duration = Duration::from_millis(100);
/// How long killing may take before it is said that it does, and tried again.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// The same at the start, which then fails.
const SWEEP_PATIENCE: Duration = Duration::from_secs(30);

struct Containers {
    dir: PathBuf,
    /// Folder of the sockets of those that somebody can be connected with.
    sockets: PathBuf,
    pipe: PathBuf,
    boot_id: String,
    work_dir: PathBuf,
    launcher: PathBuf,
    /// The same as nobody can change it, once there was a container with a root of its own.
    sealed: OnceLock<Sealed>,
    isolators: Vec<Box<dyn Isolator>>,
    /// What isolators look at: containers from their creation, or from being found again, until they are released.
    watched: Mutex<BTreeMap<String, Box<Container>>>,
    /// Control groups of containers, if they have any.
    groups: Option<Cgroups>,
    /// The processes of the machine, when they were looked at last for what they use.
    seen: Mutex<Option<(Instant, Arc<Vec<processes::Process>>)>>,
    slots: Semaphore,
    spares: Spares,
}

/// Files of containers that are over, for those to come: see [`Files::release_to`]. At most [`SPARES_MAX`].
struct Spares {
    dir: PathBuf,
    named: AtomicU64,
    free: Mutex<Vec<PathBuf>>,
}

impl Spares {
    /// Empty: those that an agent before this one kept are gone. A supervisor that was to have one makes another.
    fn open(dir: PathBuf) -> io::Result<Spares> {
        if let Err(error) = fs::remove_dir_all(&dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Spares { dir, named: AtomicU64::new(0), free: Mutex::default() })
    }

    fn take(&self) -> Option<String> {
        self.free.lock().pop().map(|path| path.display().to_string())
    }

    fn release(&self, files: &Files) {
        let is_full = self.free.lock().len() >= SPARES_MAX;
        let spare = self.dir.join(self.named.fetch_add(1, Ordering::Relaxed).to_string());
        if is_full {
            files.release();
        } else if files.release_to(&spare) {
            self.free.lock().push(spare);
        }
    }
}

/// The containers of one work_dir.
#[derive(Clone)]
pub struct Supervised(Arc<Containers>);

impl std::fmt::Debug for Supervised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Supervised").field(&self.0.work_dir).finish()
    }
}

impl Supervised {
    /// Makes the folder of what is known of containers, and the pipe that supervisors write to: what comes of it is for
    /// [`Supervised::listen`]. `private` are folders below `work_dir` that nobody else may look into. With `groups`, each container
    /// has a control group, and nothing that was started in it outlives it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(
        work_dir: &Path,
        launcher: &Path,
        isolators: Vec<Box<dyn Isolator>>,
        groups: Option<Cgroups>,
        private: &[&str],
    ) -> io::Result<(Supervised, pipe::Receiver)> {
        let dir = work_dir.join("meta/containers");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let sockets = work_dir.join("meta/sockets");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&sockets)?;
        // Made by an older release, perhaps: commands and their environments are in there.
        for name in private {
            fs::set_permissions(work_dir.join(name), fs::Permissions::from_mode(0o700))?;
        }
        let path = work_dir.join("meta/supervisors");
        match nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // For writing too, so that it never ends while no supervisor has it open.
        let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
        let containers = Containers {
            dir,
            sockets,
            pipe: path,
            boot_id: boot_id()?,
            work_dir: work_dir.to_owned(),
            launcher: launcher.to_owned(),
            sealed: OnceLock::new(),
            isolators,
            watched: Mutex::default(),
            groups,
            seen: Mutex::default(),
            slots: Semaphore::new(LAUNCHES_MAX),
            spares: Spares::open(work_dir.join("meta/spares"))?,
        };
        Ok((Supervised(Arc::new(containers)), receiver))
    }

    /// Names this start of the machine.
    pub fn boot_id(&self) -> &str {
        &self.0.boot_id
    }

    fn here(&self, core: Arc<dyn Core>) -> Here {
        Here { core, containers: self.0.clone() }
    }

    /// All processes of the machine, as of a moment ago: whoever asks for all containers looks once.
    fn processes(&self) -> Arc<Vec<processes::Process>> {
        let mut seen = self.0.seen.lock();
        match &*seen {
            Some((at, all)) if at.elapsed() < SEEN_MAX => all.clone(),
            _ => {
                let all = Arc::new(processes::all().unwrap_or_default());
                *seen = Some((Instant::now(), all.clone()));
                all
            }
        }
    }

    /// What processes of a container bear in their environment.
    pub(crate) fn mark(&self, container_id: &str) -> String {
        self.0.mark(container_id)
    }

    /// The program that runs a container, if one does.
    pub(crate) fn program(&self, container_id: &str) -> Option<Program> {
        self.0.files(container_id).program().ok().flatten()
    }

    /// What the program that runs a container told of its networks.
    pub(crate) fn status_external(&self, container_id: &str) -> ContainerStatus {
        let told = self.0.files(container_id).told();
        ContainerStatus { network_infos: told.map(|told| networks(&told)).unwrap_or_default(), ..Default::default() }
    }

    /// What the program that runs a container told of its start.
    pub(crate) fn facts(&self, container_id: &str) -> Facts {
        self.0.files(container_id).told().map(|told| facts(&told)).unwrap_or_default()
    }

    /// Creates a container that a program runs. Isolators know nothing of it.
    pub(crate) fn create_external(&self, core: Arc<dyn Core>, creation: Creation, external: External) {
        tokio::spawn(launch(self.here(core), creation, Some(external)));
    }

    /// Finds one again.
    pub(crate) fn recover_external(&self, core: Arc<dyn Core>, container_id: &str) {
        at_once(&self.here(core), container_id, "find a container again", try_to_recover);
    }

    /// Nobody needs what is kept of one any more.
    pub(crate) fn release_external(&self, container_id: &str) {
        let (containers, container_id) = (self.0.clone(), container_id.to_owned());
        tokio::task::spawn_blocking(move || containers.files(&container_id).release());
    }

    /// Hears what supervisors say, until the agent ends.
    pub async fn listen(self, core: Arc<dyn Core>, receiver: pipe::Receiver) {
        let here = self.here(core);
        let mut lines = BufReader::with_capacity(64 << 10, receiver).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = String::from_utf8_lossy(&line);
            let Some((container_id, notice)) = line.split_once(' ') else { continue };
            if let Some(notice) = Notice::decode(notice) {
                here.say(container_id, notice);
            }
        }
    }

    /// Looks what containers use, as often as isolators want to, for as long as the agent lives.
    pub async fn watch(self, core: Arc<dyn Core>) {
        let all = self.0.isolators.iter().enumerate();
        let looks = all.filter_map(|(n, isolator)| Some(look_again(self.here(core.clone()), n, isolator.interval()?)));
        let mut looks: JoinSet<()> = looks.collect();
        while looks.join_next().await.is_some() {}
        std::future::pending().await
    }

    /// Ends what an earlier agent of this work_dir launched and this one's log does not know: its resources are about to
    /// be offered. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub fn sweep(&self, known: &BTreeSet<String>) -> Result<(), String> {
        sweep(&self.0, known)?;
        self.0.isolators.iter().for_each(|isolator| isolator.sweep(known));
        Ok(())
    }
}

impl Containers {
    /// What processes of a container bear in their environment.
    fn mark(&self, container_id: &str) -> String {
        format!("{container_id}@{}", self.work_dir.display())
    }

    fn files(&self, container_id: &str) -> Files {
        Files::new(&self.dir, container_id)
    }

    /// Ends what is in the control group of a container, if it has one: all that is left of it.
    fn end_group(&self, container_id: &str) -> io::Result<()> {
        self.groups.as_ref().map_or(Ok(()), |groups| groups.end(container_id).map(drop))
    }

    /// The same, and the group goes. What cannot be removed now is at the next start.
    fn remove_group(&self, container_id: &str) {
        let removed = self.groups.as_ref().map_or(Ok(()), |groups| groups.remove(container_id));
        if let Err(error) = removed {
            tracing::warn!(container_id, %error, "cannot remove the control group of a container");
        }
    }

    /// What is executed to run a container.
    fn program(&self, has_root: bool) -> io::Result<PathBuf> {
        match self.sealed.get() {
            _ if !has_root => Ok(self.launcher.clone()),
            Some(sealed) => Ok(sealed.path()),
            None => {
                let sealed = Sealed::of(&self.launcher)?;
                Ok(self.sealed.get_or_init(|| sealed).path())
            }
        }
    }

    /// The process behind a claim, if it lives.
    fn alive(&self, claim: &Claim) -> io::Result<Option<u32>> {
        match claim {
            Claim::Supervisor(pid, ticks, boot_id) if *boot_id == self.boot_id => {
                Ok((look(*pid)? == Some(*ticks)).then_some(*pid))
            }
            _ => Ok(None),
        }
    }

    /// The same, held by a descriptor, which cannot come to stand for another process.
    fn hold(&self, claim: &Claim) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = self.alive(claim)? else { return Ok(None) };
        match pidfd_open(pid) {
            // The process may have ended since: then the descriptor is of another one.
            Ok(pidfd) => Ok(self.alive(claim)?.map(|_| pidfd)),
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The containers, and who hears of them.
#[derive(Clone)]
struct Here {
    core: Arc<dyn Core>,
    containers: Arc<Containers>,
}

impl Here {
    fn say(&self, container_id: &str, notice: Notice) {
        match &notice {
            Notice::Exited(_) => self.say_why(container_id),
            Notice::Started(supervisor_pid, start_ticks, pid) => {
                if let Some(container) = self.containers.watched.lock().get_mut(container_id) {
                    let (boot_id, ticks) = (self.containers.boot_id.clone(), *start_ticks);
                    container.process =
                        Some(Process { supervisor_pid: *supervisor_pid, start_ticks: ticks, boot_id, pid: *pid });
                }
            }
            Notice::Failed(_) => {}
        }
        let container_id = container_id.to_owned();
        self.core.report(match notice {
            Notice::Started(supervisor_pid, start_ticks, pid) => {
                let process = Process { supervisor_pid, start_ticks, boot_id: self.containers.boot_id.clone(), pid };
                let is_programs = self.is_programs(&container_id);
                let facts = is_programs.then(|| Supervised(self.containers.clone()).facts(&container_id));
                let facts = facts.unwrap_or_default();
                Report::Started { container_id, process, facts }
            }
            Notice::Exited(status) => Report::Ended { container_id, status: Some(status) },
            Notice::Failed(message) => Report::Failed { container_id, message },
        });
    }

    /// Whether it is one that a program may run: there are files that this tells of it.
    fn is_programs(&self, container_id: &str) -> bool {
        !self.containers.watched.lock().contains_key(container_id)
    }

    /// A container's process ended: perhaps because it exceeded something.
    fn say_why(&self, container_id: &str) {
        let files = self.containers.files(container_id);
        if let Some(exceeded) = self.is_programs(container_id).then(|| files.exceeded()).flatten() {
            return exceeded_by(&exceeded).into_iter().for_each(|limitation| self.limit(container_id, limitation));
        }
        let Some(container) = self.containers.watched.lock().get(container_id).cloned() else { return };
        let limitation = self.containers.isolators.iter().find_map(|isolator| isolator.ended(&container));
        limitation.into_iter().for_each(|limitation| self.limit(container_id, limitation));
    }

    fn limit(&self, container_id: &str, limitation: Limitation) {
        tracing::info!(container_id, why = limitation.message, "a container exceeded what it may use");
        self.core.report(Report::Limited { container_id: container_id.to_owned(), limitation });
    }

    /// Containers that run, for isolators to look at.
    fn running(&self) -> Vec<Container> {
        let watched = self.containers.watched.lock();
        watched.values().filter(|container| container.process.is_some()).map(|one| Container::clone(one)).collect()
    }
}

/// What a program told of a start.
fn facts(told: &str) -> Facts {
    let told: serde_json::Value = serde_json::from_str(told).unwrap_or_default();
    Facts { data: told.get("data").and_then(|data| data.as_str()).map(str::to_owned) }
}

/// Networks in it.
fn networks(told: &str) -> Vec<NetworkInfo> {
    let told: serde_json::Value = serde_json::from_str(told).unwrap_or_default();
    let all = told.get("network_infos").and_then(|all| all.as_array()).into_iter().flatten();
    all.filter_map(|one| api::json::from_slice(one.to_string().as_bytes()).ok()).collect()
}

/// What a program told of an end.
fn exceeded_by(told: &str) -> Option<Limitation> {
    let told: serde_json::Value = serde_json::from_str(told).ok()?;
    let name = told.get("resource")?.as_str()?;
    let reason = match name {
        "mem" => Reason::ContainerLimitationMemory,
        "disk" => Reason::ContainerLimitationDisk,
        _ => Reason::ContainerLimitation,
    };
    let scalar = told.get("used").and_then(serde_json::Value::as_f64).map(|value| Scalar { value });
    let resource = |scalar| Resource {
        name: name.to_owned(),
        r#type: api::v1::value::Type::Scalar as i32,
        scalar: Some(scalar),
        ..Resource::default()
    };
    let message = told.get("message")?.as_str()?.to_owned();
    Some(Limitation { reason, message, resources: scalar.map(resource).into_iter().collect() })
}

impl Containerizer for Supervised {
    fn name(&self) -> &'static str {
        "mesos"
    }

    fn takes(&self, creation: &Creation) -> bool {
        let is_docker = |info: &ContainerInfo| info.r#type == container_info::Type::Docker as i32;
        !creation.container.info.as_deref().is_some_and(is_docker)
    }

    fn has(&self, container_id: &str) -> bool {
        !matches!(self.0.files(container_id).claimed(), Ok(None)) && self.program(container_id).is_none()
    }

    fn users(&self, container_id: &str) -> Result<Option<Users>, String> {
        let mut all = self.0.isolators.iter().map(|isolator| isolator.users(container_id));
        all.find(|users| !matches!(users, Ok(None))).unwrap_or(Ok(None))
    }

    fn create(&self, core: Arc<dyn Core>, creation: Creation) {
        tokio::spawn(launch(self.here(core), creation, None));
    }

    fn give_up(&self, core: Arc<dyn Core>, container_id: &str, message: String) {
        core.count_failure();
        fail(&self.here(core), container_id, message);
    }

    fn destroy(&self, core: Arc<dyn Core>, container_id: &str, how: How) {
        let (here, container_id) = (self.here(core), container_id.to_owned());
        tokio::task::spawn_blocking(move || {
            at_once(&here, &container_id, "signal a container", move |here, container_id| {
                try_to_stop(here, container_id, how)
            });
        });
    }

    fn signal(&self, _: &str, process: &Process, signal: i32) -> io::Result<bool> {
        let signal = Signal::try_from(signal)?;
        // Its child, and no other process that got the number: those are held by the descriptor, and looked at behind it.
        let pidfd = match pidfd_open(process.pid) {
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => return Ok(false),
            opened => opened?,
        };
        // The first process of a world of its own stands between the supervisor and the container's.
        let is_child = |one: &processes::Process| -> io::Result<bool> {
            let supervisor = process.supervisor_pid;
            Ok(one.parent == supervisor || processes::find(one.parent)?.is_some_and(|above| above.parent == supervisor))
        };
        let found = processes::find(process.pid)?.filter(|one| !one.is_dead);
        let is_it = process.boot_id == self.0.boot_id
            && look(process.supervisor_pid)? == Some(process.start_ticks)
            && found.as_ref().map(is_child).transpose()? == Some(true);
        match is_it.then(|| pidfd_signal(&pidfd, signal)) {
            None => Ok(false),
            Some(Err(error)) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(false),
            Some(sent) => sent.map(|()| true),
        }
    }

    fn connect(&self, process: &Process) -> io::Result<UnixStream> {
        let folder = fs::File::open(&self.0.sockets)?;
        UnixStream::connect(short_path(&folder, &socket_name(process.supervisor_pid, process.start_ticks)))
    }

    fn recover(&self, core: Arc<dyn Core>, container: &Container) {
        // Of those that a program runs isolators know nothing, also if the agent has that program no more.
        if self.program(&container.id).is_none() {
            self.0.watched.lock().insert(container.id.clone(), Box::new(container.clone()));
            self.0.isolators.iter().for_each(|isolator| isolator.recover(container));
        }
        at_once(&self.here(core), &container.id, "find a container again", try_to_recover);
    }

    fn update(&self, container: &Container) {
        match self.0.watched.lock().get_mut(&container.id) {
            // Its start may be known here, and not yet told.
            Some(watched) => {
                let process = watched.process.take().or_else(|| container.process.clone());
                **watched = Container { process, ..container.clone() };
            }
            // It is over, or not created yet: then it will be as it is now.
            None => return,
        }
        self.0.isolators.iter().for_each(|isolator| isolator.update(container));
    }

    fn release(&self, container_id: &str) {
        let (containers, container_id) = (self.0.clone(), container_id.to_owned());
        tokio::task::spawn_blocking(move || {
            containers.spares.release(&containers.files(&container_id));
            containers.remove_group(&container_id);
            let watched = containers.watched.lock().remove(&container_id);
            let container = watched.unwrap_or_else(|| Box::new(Container { id: container_id, ..Container::default() }));
            containers.isolators.iter().rev().for_each(|isolator| isolator.cleanup(&container));
        });
    }

    fn find_volumes(&self, container: &Container, over: &[(String, PathBuf)]) -> Result<(), String> {
        let start = self.0.files(&container.id).start();
        let start = start.map_err(|error| format!("cannot find the container that runs: {error}"))?;
        // What is to run is created with its volumes, and what ends needs none.
        let Some(Notice::Started(supervisor, ticks, pid)) = start else { return Ok(()) };
        if look(supervisor).ok().flatten() != Some(ticks) {
            return Ok(());
        }
        self.0.isolators.iter().try_for_each(|isolator| isolator.volumes(container, pid, over))
    }

    fn status(&self, container_id: &str) -> ContainerStatus {
        let mut status = ContainerStatus::default();
        self.0.isolators.iter().for_each(|isolator| isolator.status(container_id, &mut status));
        status
    }

    fn numbers(&self, set: &mut dyn FnMut(&str, f64)) {
        self.0.isolators.iter().for_each(|isolator| isolator.numbers(set));
    }

    fn usage(&self, container: &Container) -> Usage {
        let (all, mut usage) = (self.processes(), Usage::default());
        self.0.isolators.iter().for_each(|isolator| isolator.usage(container, &all, &mut usage));
        usage
    }
}

/// Whether this machine can do what containers need.
///
/// # Errors
/// A sentence.
pub fn check_machine() -> Result<(), String> {
    let own = std::process::id();
    look(own)
        .and_then(|found| found.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(|error| format!("Cannot find this process in /proc, which tells whether tasks run: {error}"))?;
    let linux = "Linux 5.3, and a seccomp filter that allows it, are needed";
    pidfd_open(own)
        .and_then(|pidfd| pidfd_probe(&pidfd))
        .map_err(|error| format!("Cannot hold processes by descriptors (pidfd_open): {error}; {linux}"))?;
    memfd_create("probe", MFdFlags::MFD_CLOEXEC)
        .map(drop)
        .map_err(|error| format!("Cannot make files in memory (memfd_create): {error}"))
}

/// Does `step` for a container, and if it cannot be done now, again and again: what could not be looked at is neither
/// alive nor dead, and who is to be killed is killed as soon as that is possible.
fn insist(
    here: &Here,
    container_id: &str,
    what: &'static str,
    step: impl Fn(&Here, &str) -> io::Result<()> + Send + Sync + 'static,
) {
    let (here, container_id, step) = (here.clone(), container_id.to_owned(), Arc::new(step));
    tokio::spawn(async move {
        let mut pause = RETRY_MIN;
        loop {
            let (doing, id, again) = (here.clone(), container_id.clone(), step.clone());
            match tokio::task::spawn_blocking(move || again(&doing, &id)).await {
                Ok(Ok(())) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(%error, container_id, "cannot {what}; trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(RETRY_MAX);
        }
    });
}

/// The same, at once if it can be: what follows happens after it.
fn at_once(
    here: &Here,
    container_id: &str,
    what: &'static str,
    step: impl Fn(&Here, &str) -> io::Result<()> + Send + Sync + 'static,
) {
    if let Err(error) = step(here, container_id) {
        tracing::warn!(%error, container_id, "cannot {what}; trying again");
        insist(here, container_id, what, step);
    }
}

/// One isolator's looks.
async fn look_again(here: Here, n: usize, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let running = here.running();
        if running.is_empty() {
            continue;
        }
        let containers = here.containers.clone();
        let looked = tokio::task::spawn_blocking(move || containers.isolators[n].watch(&running)).await;
        match looked {
            Ok(exceeded) => exceeded.into_iter().for_each(|(id, limitation)| here.limit(&id, limitation)),
            Err(error) => {
                tracing::error!(%error, isolator = here.containers.isolators[n].name(), "cannot look at containers");
            }
        }
    }
}

/// What isolators have of others. The error is a sentence.
async fn obtain(here: &Here, creation: &Creation) -> Result<(), String> {
    let containers = &here.containers;
    let all = containers.isolators.iter();
    let obtaining: Vec<_> = all.filter_map(|one| Some((one, one.obtain(creation)?))).collect();
    for (isolator, obtaining) in obtaining {
        let obtained = obtaining.await;
        if !here.core.awaits(&creation.container.id) {
            // It was released meanwhile: nobody else takes that back.
            isolator.cleanup(&creation.container);
            return Ok(());
        }
        obtained?;
    }
    Ok(())
}

async fn launch(here: Here, mut creation: Creation, external: Option<External>) {
    if external.is_none()
        && let Err(message) = obtain(&here, &creation).await
    {
        here.core.count_failure();
        return fail(&here, &creation.container.id, message);
    }
    let Ok(_slot) = here.containers.slots.acquire().await else { return };
    let container_id = creation.container.id.clone();
    let (spawning, core) = (here.containers.clone(), here.core.clone());
    let spawned = tokio::task::spawn_blocking(move || {
        // Ended meanwhile.
        if !core.awaits(&creation.container.id) {
            return Ok(None);
        }
        if let Some(external) = &external {
            begin_again(&spawning, &creation.container.id)
                .map_err(|error| format!("cannot claim a launch: {error}"))?;
            let files = spawning.files(&creation.container.id);
            files
                .write_program(&external.program)
                .map_err(|error| format!("cannot write down who runs it: {error}"))?;
            return spawn(&spawning, creation, Some(external.clone())).map(Some);
        }
        let has = |name: &str| spawning.isolators.iter().any(|isolator| isolator.name() == name);
        isolators::check(&creation.container, has)?;
        spawning.watched.lock().insert(creation.container.id.clone(), Box::new(creation.container.clone()));
        // What was released before that is not to stay.
        if !core.awaits(&creation.container.id) {
            spawning.watched.lock().remove(&creation.container.id);
            return Ok(None);
        }
        begin_again(&spawning, &creation.container.id).map_err(|error| format!("cannot claim a launch: {error}"))?;
        let limits = spawning.isolators.iter().any(|isolator| isolator.name() == PosixRlimits.name());
        if !creation.rlimits.is_empty() && !limits {
            return Err("limits of processes need posix/rlimits in this agent's --isolation".to_owned());
        }
        if let Some(groups) = &spawning.groups {
            let joined = groups.make(None, &creation.container.id);
            creation.joins.push(joined.map_err(|error| format!("cannot make its control group: {error}"))?);
        }
        spawning.isolators.iter().try_for_each(|isolator| isolator.prepare(&mut creation))?;
        if creation.world.root.is_some() && !has("filesystem/linux") {
            return Err("a root of its own needs filesystem/linux in this agent's --isolation".to_owned());
        }
        if let (Some(groups), Some(_)) = (&spawning.groups, &creation.world.root) {
            creation.world.mounts.extend(groups.mounts(&creation.container.id));
        }
        spawn(&spawning, creation, None).map(Some)
    });
    let failed = |message: String| {
        here.core.count_failure();
        fail(&here, &container_id, message);
    };
    match spawned.await {
        Err(error) => failed(error.to_string()),
        Ok(Err(message)) => failed(message),
        Ok(Ok(None)) => {}
        Ok(Ok(Some(mut supervisor))) => {
            let here = here.clone();
            tokio::spawn(async move {
                let _ = supervisor.wait().await;
                if here.core.awaits(&container_id) {
                    gone(&here, &container_id);
                }
            });
        }
    }
}

/// An id that is used again, after a launch that was given up: a supervisor that was late then must not come now.
fn begin_again(containers: &Containers, container_id: &str) -> io::Result<()> {
    let files = containers.files(container_id);
    if files.claimed()? == Some(Claim::Agent) {
        processes::end(END_PATIENCE, |all| {
            processes::of_containers(all, &containers.work_dir, |_, found, _| found == container_id)
        })?;
        containers.end_group(container_id)?;
        files.forget();
    }
    Ok(())
}

/// The files that stand for what a container enters of the one that it is within. The error is a sentence.
fn entered(
    containers: &Containers,
    container_id: &str,
    enters: &[Namespace],
) -> Result<Vec<(Namespace, String)>, String> {
    if enters.is_empty() {
        return Ok(Vec::new());
    }
    let pid = around(containers, container_id)?.ok_or("what it is to be within runs no more")?;
    Ok(enters.iter().map(|one| (*one, format!("/proc/{pid}/ns/{}", one.name()))).collect())
}

/// The process of the container that one is within, if it runs. The error is a sentence.
fn around(containers: &Containers, container_id: &str) -> Result<Option<u32>, String> {
    let parent = container_id.rsplit_once('.').map_or("", |(parent, _)| parent);
    let start =
        containers.files(parent).start().map_err(|error| format!("cannot find what it is to be within: {error}"))?;
    Ok(match start {
        // As long as its supervisor lives its number is nobody else's.
        Some(Notice::Started(supervisor, ticks, pid)) if look(supervisor).ok().flatten() == Some(ticks) => Some(pid),
        _ => None,
    })
}

/// What is within a container with users of its own has these, whatever isolators there are by now: as somebody else it would run what
/// they made. The error is a sentence.
fn enter_users(containers: &Containers, container_id: &str, world: &mut World) -> Result<(), String> {
    let Some(pid) = around(containers, container_id)? else {
        // Then there is nothing to enter.
        return if world.users.is_some() { Err("what it is to be within runs no more".to_owned()) } else { Ok(()) };
    };
    let cannot = |error: io::Error| format!("cannot tell the users of what it is to be within: {error}");
    world.users = None;
    if let Some(path) = users::of_process(pid).map_err(cannot)? {
        world.users = Some(users::map_of(pid).map_err(cannot)?);
        world.enters.push((Namespace::User, path));
    }
    Ok(())
}

/// Starts the supervisor. The error is a sentence.
fn spawn(
    containers: &Containers,
    creation: Creation,
    external: Option<External>,
) -> Result<tokio::process::Child, String> {
    let mark = containers.mark(&creation.container.id);
    let groups = containers.groups.as_ref().filter(|_| external.is_none());
    let group = groups.map(|groups| groups.group(&creation.container.id).display().to_string());
    let mut world = creation.world;
    world.enters.extend(entered(containers, &creation.container.id, &creation.enters)?);
    if creation.container.is_within() && external.is_none() {
        enter_users(containers, &creation.container.id, &mut world)?;
    }
    if world.users.is_some() && world.mounts.iter().any(|mount| mount.propagates) {
        return Err(
            "mount_propagation BIDIRECTIONAL is for the machine's root, and users of containers are others (namespaces/user)"
                .to_owned(),
        );
    }
    if let Some(shm_of) = &mut world.shm_of {
        let mounts = entered(containers, &creation.container.id, &[Namespace::Mount])?;
        *shm_of = mounts.into_iter().map(|(_, path)| path).collect();
    }
    let mut environment = creation.environment;
    // Last: what comes of the container is known by it, should its supervisor be killed.
    environment.retain(|variable| !variable.starts_with(&format!("{}=", processes::CONTAINER)));
    environment.push(format!("{}={mark}", processes::CONTAINER));
    let spec = Spec {
        container_id: creation.container.id,
        containers_dir: containers.dir.display().to_string(),
        pipe: containers.pipe.display().to_string(),
        lines: true,
        spare: containers.spares.take(),
        sandbox: creation.container.sandbox.display().to_string(),
        // Who stays who it is need not look that up.
        user: if is_own_user(&creation.user) { String::new() } else { creation.user },
        arguments: creation.arguments,
        environment,
        program: creation.program,
        files: creation.files,
        umask: creation.umask,
        away_ms_max: creation.away_ms_max,
        grace_ms: creation.grace_ms,
        joins: creation.joins.iter().map(|path| path.display().to_string()).collect(),
        group,
        world,
        first: creation.first,
        rotation: creation.rotation,
        rlimits: creation.rlimits,
        sockets: creation.streams.map(|_| containers.sockets.display().to_string()),
        terminal: creation.streams.and_then(|streams| streams.terminal),
        session: creation.streams.is_some_and(|streams| streams.session),
        external,
    };
    let has_root = spec.world.root.is_some();
    let bytes = spec.encode()?;
    let memory =
        memfd_create("spec", MFdFlags::MFD_CLOEXEC).map_err(|error| format!("cannot make a memfd: {error}"))?;
    let mut file = fs::File::from(memory);
    let written = file.write_all(&bytes).and_then(|()| io::Seek::rewind(&mut file));
    written.map_err(|error| format!("cannot write to a memfd: {error}"))?;
    let cannot = |error| format!("cannot start {}: {error}", containers.launcher.display());
    tokio::process::Command::new(containers.program(has_root).map_err(cannot)?)
        .arg0(&containers.launcher)
        .stdin(Stdio::from(file))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_clear()
        .env("PATH", PATH)
        .env(processes::SUPERVISOR, mark)
        .spawn()
        .map_err(cannot)
}

/// A launch has failed. Claimed first: whatever was started must not run after its end was told.
fn fail(here: &Here, container_id: &str, message: String) {
    insist(here, container_id, "claim a launch", move |here, container_id| {
        let claimed = here.containers.files(container_id).claim(&Claim::Agent);
        if matches!(&claimed, Err(error) if !is_shortage(error)) {
            // Without claims nobody decides what runs: that agent ends, and does so when it is started again.
            let error = claimed.err().map(|error| error.to_string()).unwrap_or_default();
            here.core.fail(format!("Cannot claim a launch in {}: {error}", here.containers.dir.display()));
            return Ok(());
        }
        if claimed? {
            let (container_id, message) = (container_id.to_owned(), message.clone());
            here.core.report(Report::Failed { container_id, message });
        }
        Ok(())
    });
}

/// Whether the machine is short of something that it may have again in a moment.
fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR)
}

/// The supervisor of a container is no more: what did it leave?
fn gone(here: &Here, container_id: &str) {
    insist(here, container_id, "find what a container left", settle);
}

fn settle(here: &Here, container_id: &str) -> io::Result<()> {
    // It was told meanwhile, and its files are gone or going.
    if !here.core.awaits(container_id) {
        return Ok(());
    }
    let files = here.containers.files(container_id);
    if let Some(start) = files.start()? {
        here.say(container_id, start);
    }
    if let Some(end) = files.end()? {
        here.say(container_id, end);
        return Ok(());
    }
    // Or just now.
    if !here.core.awaits(container_id) {
        return Ok(());
    }
    match files.claimed()? {
        // The agent's own, and told already.
        Some(Claim::Agent) => {}
        Some(Claim::Supervisor(_, _, boot_id)) => {
            let program = files.program()?;
            let status = program.as_ref().map(|program| end_external(here, program, container_id)).transpose()?;
            // It was killed, and with it went only its child: the rest must not go on unseen. A restart of the machine
            // leaves nothing.
            if boot_id == here.containers.boot_id {
                let work_dir = &here.containers.work_dir;
                let ended = processes::end(END_PATIENCE, |all| {
                    processes::of_containers(all, work_dir, |_, found, _| found == container_id)
                })?;
                here.containers.end_group(container_id)?;
                tracing::warn!(container_id, ?ended, "a supervisor was killed; ended what it left");
            }
            if let Some(program) = &program {
                // What a launch that was cut off began meanwhile; then there is nobody who could begin anything.
                end_external(here, program, container_id)?;
                let request = program.about(container_id);
                let released = program.call("release", &request, Some(&here.containers.mark(container_id)));
                let _ = released.inspect_err(|why| tracing::warn!(container_id, ?why, "a program may not forget"));
            }
            here.say_why(container_id);
            here.core.report(Report::Ended { container_id: container_id.to_owned(), status: status.flatten() });
        }
        None => fail(here, container_id, "the supervisor ended before it could launch".to_owned()),
    }
    Ok(())
}

/// Has a program end a container whose supervisor is no more; its wait status, if the program knows it.
fn end_external(here: &Here, program: &Program, container_id: &str) -> io::Result<Option<i32>> {
    let mark = here.containers.mark(container_id);
    program.call("destroy", &program.destruction(container_id, How::AtOnce), Some(&mark))?;
    // It is over: what it answers is the end, or that it knows of none.
    Ok(program.call("wait", &program.about(container_id), Some(&mark)).ok().as_ref().and_then(end_of).flatten())
}

/// Ends what runs in a container. What does not run yet never will: whoever claims the launch first decides.
fn try_to_stop(here: &Here, container_id: &str, how: How) -> io::Result<()> {
    if !here.core.awaits(container_id) {
        return Ok(());
    }
    match claim(&here.containers.files(container_id))? {
        Claim::Agent => here.core.report(Report::Revoked { container_id: container_id.to_owned() }),
        claim => match here.containers.hold(&claim)? {
            Some(pidfd) => signal_supervisor(&pidfd, how)?,
            None => gone(here, container_id),
        },
    }
    Ok(())
}

fn signal_supervisor(pidfd: &OwnedFd, how: How) -> io::Result<()> {
    let sent = match how {
        How::Gently => pidfd_signal(pidfd, Signal::SIGTERM),
        // Somebody may have stopped it.
        How::AtOnce => pidfd_signal(pidfd, Signal::SIGUSR1).and_then(|()| pidfd_signal(pidfd, Signal::SIGCONT)),
    };
    match sent {
        // Whoever waits for its end tells of it.
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
        sent => sent,
    }
}

/// Whose the launch is: ours, if it was nobody's.
fn claim(files: &Files) -> io::Result<Claim> {
    loop {
        match files.claimed()? {
            Some(claim) => return Ok(claim),
            None if files.claim(&Claim::Agent)? => return Ok(Claim::Agent),
            None => {}
        }
    }
}

/// Finds again what an earlier agent launched: live supervisors, ended ones, and launches that never were.
fn try_to_recover(here: &Here, container_id: &str) -> io::Result<()> {
    let files = here.containers.files(container_id);
    let claim = claim(&files)?;
    if claim == Claim::Agent {
        here.core.report(Report::Revoked { container_id: container_id.to_owned() });
        return Ok(());
    }
    if let Some(start) = files.start()? {
        here.say(container_id, start);
    }
    let Some(pidfd) = here.containers.hold(&claim)? else {
        if files.end()?.is_none() && files.program()?.is_some() {
            // Asking a program takes its time.
            gone(here, container_id);
            return Ok(());
        }
        return settle(here, container_id);
    };
    let pidfd = crate::watch::watch(pidfd)?;
    let (here, container_id) = (here.clone(), container_id.to_owned());
    tokio::spawn(async move {
        let _ = pidfd.readable().await;
        gone(&here, &container_id);
    });
    Ok(())
}

/// Groups of containers that nobody knows: what is in them is ended, and they go.
fn sweep_groups(containers: &Containers, known: &BTreeSet<String>) -> Result<(), String> {
    let Some(groups) = &containers.groups else { return Ok(()) };
    let found = groups.containers().map_err(|error| format!("Cannot list control groups: {error}"))?;
    for container_id in found.iter().filter(|container_id| !known.contains(*container_id)) {
        let ended = groups.end(container_id).and_then(|ended| groups.remove(container_id).map(|()| ended));
        let cannot =
            |error| format!("Cannot end what an earlier agent left in the control group of {container_id}: {error}");
        if ended.map_err(cannot)? {
            tracing::warn!(container_id, "ended what was left in a control group, unknown to this agent's log");
        }
    }
    Ok(())
}

fn sweep(containers: &Containers, known: &BTreeSet<String>) -> Result<(), String> {
    let own_world = fs::read_link("/proc/self/ns/mnt").ok();
    let strays = |all: &[processes::Process]| -> io::Result<BTreeSet<u32>> {
        let mut supervisors = BTreeSet::new();
        for container_id in containers_in(&containers.dir)?.difference(known) {
            if let Some(claim) = containers.files(container_id).claimed()? {
                supervisors.extend(containers.alive(&claim)?);
            }
        }
        // A path means something in one mount namespace only: elsewhere another agent may have the same.
        let is_here = |pid: u32| own_world.is_some() && fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == own_world;
        let marked = processes::of_containers(all, &containers.work_dir, |process, container_id, _| {
            !known.contains(container_id) && is_here(process.pid)
        })?;
        let below = processes::below(all, &supervisors);
        Ok(supervisors.into_iter().chain(below).chain(marked).collect())
    };
    let ended = processes::end(SWEEP_PATIENCE, strays).map_err(|error| {
        format!("Cannot end what an earlier agent of {} left running: {error}", containers.work_dir.display())
    })?;
    if !ended.is_empty() {
        tracing::warn!(?ended, "ended what an earlier agent of this work_dir left running, unknown to this one's log");
    }
    sweep_groups(containers, known)?;
    for container_id in containers_in(&containers.dir).unwrap_or_default().difference(known) {
        containers.files(container_id).sweep();
    }
    // Those of supervisors that were killed.
    for socket in fs::read_dir(&containers.sockets).into_iter().flatten().flatten() {
        let name = socket.file_name().to_string_lossy().into_owned();
        let of = |pid: &str| Some(socket_name(pid.parse().ok()?, look(pid.parse().ok()?).ok()??));
        if name.split_once('.').and_then(|(pid, _)| of(pid)).as_deref() != Some(name.as_str()) {
            let _ = fs::remove_file(socket.path());
        }
    }
    Ok(())
}
