//! Containers: sandboxes, supervisors, and what is heard of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use agent_core::{Command, Executor, Process, Signal};
use api::v1::{CommandInfo, ExecutorInfo, FrameworkInfo, TaskInfo};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Uid, User};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;

use crate::agent::Agent;
use crate::spec::{Claim, Files, Notice, Spec, boot_id, containers_in, look};
use crate::surroundings::{Containerizer, Inbox};
use crate::sys::{pidfd_open, pidfd_probe, pidfd_signal, watch};
use crate::{processes, volumes};

/// Where programs are looked for, when a task does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Launches under way at once: more would only wait for the same processors.
const LAUNCHES_MAX: usize = 8;
/// Attempts more to make the folders of a sandbox.
const FOLDER_RETRIES: usize = 3;
/// Pauses before something is tried again, the first and the longest.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long killing may take before it is said that it does, and tried again.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// The same at the start, which then fails.
const SWEEP_PATIENCE: Duration = Duration::from_secs(30);

/// The containers of this agent.
#[derive(Debug)]
pub(crate) struct Containers {
    dir: PathBuf,
    pipe: PathBuf,
    boot_id: String,
    work_dir: String,
    slots: Semaphore,
}

impl Containers {
    /// Makes the folder and the pipe that supervisors write to.
    pub(crate) fn open(work_dir: &Path) -> io::Result<(Containers, pipe::Receiver)> {
        let dir = work_dir.join("meta/containers");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        // Made by an older release, perhaps: commands and their environments are in there.
        for name in ["meta", agent_core::LOG_DIR] {
            fs::set_permissions(work_dir.join(name), fs::Permissions::from_mode(0o700))?;
        }
        let path = work_dir.join("meta/supervisors");
        match nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // For writing too, so that it never ends while no supervisor has it open.
        let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
        let slots = Semaphore::new(LAUNCHES_MAX);
        let work_dir = work_dir.display().to_string();
        Ok((Containers { dir, pipe: path, boot_id: boot_id()?, work_dir, slots }, receiver))
    }

    /// What processes of a container bear in their environment.
    fn mark(&self, container_id: &str) -> String {
        format!("{container_id}@{}", self.work_dir)
    }

    fn files(&self, container_id: &str) -> Files {
        Files::new(&self.dir, container_id)
    }

    /// Names this start of the machine.
    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Nobody needs the files of this container any more.
    pub(crate) fn release(&self, container_id: &str) {
        self.files(container_id).release();
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

/// The agent as its containers see it, and what they have on the disk.
#[derive(Clone)]
pub(crate) struct Here {
    agent: Inbox,
    containers: Arc<Containers>,
}

impl std::ops::Deref for Here {
    type Target = Agent;

    fn deref(&self) -> &Agent {
        &self.agent.0
    }
}

/// Containers that are supervised processes of this machine.
pub(crate) struct Supervised(pub(crate) Arc<Containers>);

impl Supervised {
    pub(crate) fn here(&self, agent: &Inbox) -> Here {
        Here { agent: agent.clone(), containers: self.0.clone() }
    }
}

impl Containerizer for Supervised {
    fn launch(&self, agent: &Inbox, container_id: String) {
        tokio::spawn(launch(self.here(agent), container_id));
    }

    fn stop(&self, agent: &Inbox, container_id: String, signal: Signal) {
        let here = self.here(agent);
        tokio::task::spawn_blocking(move || stop(&here, &container_id, signal));
    }

    fn release(&self, container_id: String) {
        let containers = self.0.clone();
        tokio::task::spawn_blocking(move || containers.release(&container_id));
    }

    fn recover(&self, agent: &Inbox, container_id: &str) {
        recover(&self.here(agent), container_id);
    }

    fn named(&self, agent_id: &str) {
        let agents = Path::new(&self.0.work_dir).join("slaves");
        let latest = agents.join("latest");
        let _ = fs::create_dir_all(&agents);
        let _ = fs::remove_file(&latest);
        let _ = symlink(agent_id, latest);
    }

    fn link(&self, agent: &Inbox, container_id: &str) -> Result<(), String> {
        let here = self.here(agent);
        let state = here.state.read().clone();
        let Some((framework_id, executor)) = state.executor_of(container_id) else { return Ok(()) };
        let sandbox = here.sandbox(framework_id, executor);
        volumes::link(&here.config.work_dir, &sandbox, executor, &state)
    }
}

/// Whether this machine can do what containers need. The error is a sentence.
pub(crate) fn check_machine() -> Result<(), String> {
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
    agent: &Here,
    container_id: &str,
    what: &'static str,
    step: impl Fn(&Here, &str) -> io::Result<()> + Send + Sync + 'static,
) {
    let (agent, container_id, step) = (agent.clone(), container_id.to_owned(), Arc::new(step));
    tokio::spawn(async move {
        let mut pause = RETRY_MIN;
        loop {
            let (doing, id, again) = (agent.clone(), container_id.clone(), step.clone());
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
    agent: &Here,
    container_id: &str,
    what: &'static str,
    step: impl Fn(&Here, &str) -> io::Result<()> + Send + Sync + 'static,
) {
    if let Err(error) = step(agent, container_id) {
        tracing::warn!(%error, container_id, "cannot {what}; trying again");
        insist(agent, container_id, what, step);
    }
}

/// Hears what supervisors say, until the agent ends.
pub(crate) async fn listen(agent: Here, receiver: pipe::Receiver) {
    let mut lines = BufReader::with_capacity(64 << 10, receiver).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        let Some((container_id, notice)) = line.split_once(' ') else { continue };
        if let Some(notice) = Notice::decode(notice) {
            report(&agent, container_id, notice);
        }
    }
}

fn report(agent: &Here, container_id: &str, notice: Notice) {
    let container_id = container_id.to_owned();
    agent.submit(match notice {
        Notice::Started(supervisor_pid, start_ticks, pid) => {
            let process = Process { supervisor_pid, start_ticks, boot_id: agent.containers.boot_id.clone(), pid };
            Command::ReportStart { container_id, process }
        }
        Notice::Exited(status) => Command::ReportExit { container_id, status: Some(status) },
        Notice::Failed(message) => Command::ReportLaunchFailure { container_id, message },
    });
}

/// Launches the container of a live executor.
pub(crate) async fn launch(agent: Here, container_id: String) {
    let Ok(_slot) = agent.containers.slots.acquire().await else { return };
    let (spawning, id) = (agent.clone(), container_id.clone());
    let spawned = tokio::task::spawn_blocking(move || spawn(&spawning, &id)).await;
    let failed = |message: String| {
        agent.counters.launch_errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        fail(&agent, &container_id, message);
    };
    match spawned {
        Err(error) => failed(error.to_string()),
        Ok(Err(message)) => failed(message),
        // Ended meanwhile.
        Ok(Ok(None)) => {}
        Ok(Ok(Some(mut supervisor))) => {
            let agent = agent.clone();
            tokio::spawn(async move {
                let _ = supervisor.wait().await;
                gone(&agent, &container_id);
            });
        }
    }
}

/// A launch has failed. Claimed first: whatever was started must not run after its end was told.
fn fail(agent: &Here, container_id: &str, message: String) {
    insist(agent, container_id, "claim a launch", move |agent, container_id| {
        let claimed = agent.containers.files(container_id).claim(&Claim::Agent);
        if matches!(&claimed, Err(error) if !is_shortage(error)) {
            // Without claims nobody decides what runs: that agent ends, and does so when it is started again.
            let error = claimed.err().map(|error| error.to_string()).unwrap_or_default();
            agent.fail(format!("Cannot claim a launch in {}: {error}", agent.containers.dir.display()));
            return Ok(());
        }
        if claimed? {
            let (container_id, message) = (container_id.to_owned(), message.clone());
            agent.submit(Command::ReportLaunchFailure { container_id, message });
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
fn gone(agent: &Here, container_id: &str) {
    insist(agent, container_id, "find what a container left", settle);
}

fn settle(agent: &Here, container_id: &str) -> io::Result<()> {
    let files = agent.containers.files(container_id);
    if let Some(start) = files.start()? {
        report(agent, container_id, start);
    }
    if let Some(end) = files.end()? {
        report(agent, container_id, end);
        return Ok(());
    }
    {
        let state = agent.state.read();
        // It was told meanwhile, and its files are gone or going.
        if state.executor_of(container_id).is_none() && !state.remnants.contains_key(container_id) {
            return Ok(());
        }
    }
    match files.claimed()? {
        // The agent's own, and told already.
        Some(Claim::Agent) => {}
        Some(Claim::Supervisor(_, _, boot_id)) => {
            // It was killed, and with it went only its child: the rest must not go on unseen. A restart of the machine
            // leaves nothing.
            if boot_id == agent.containers.boot_id {
                let work_dir = &agent.config.work_dir;
                let ended = processes::end(END_PATIENCE, |all| {
                    processes::of_containers(all, work_dir, |_, found, _| found == container_id)
                })?;
                tracing::warn!(container_id, ?ended, "a supervisor was killed; ended what it left");
            }
            agent.submit(Command::ReportExit { container_id: container_id.to_owned(), status: None });
        }
        None => fail(agent, container_id, "the supervisor ended before it could launch".to_owned()),
    }
    Ok(())
}

/// Ends what runs in a container. What does not run yet never will: whoever claims the launch first decides.
pub(crate) fn stop(agent: &Here, container_id: &str, signal: Signal) {
    at_once(agent, container_id, "signal a container", move |agent, container_id| {
        try_to_stop(agent, container_id, signal)
    });
}

fn try_to_stop(agent: &Here, container_id: &str, signal: Signal) -> io::Result<()> {
    {
        let state = agent.state.read();
        if state.executor_of(container_id).is_none() && !state.remnants.contains_key(container_id) {
            return Ok(());
        }
    }
    match claim(&agent.containers.files(container_id))? {
        Claim::Agent => agent.submit(Command::ReportRevocation { container_id: container_id.to_owned() }),
        claim => match agent.containers.hold(&claim)? {
            Some(pidfd) => signal_supervisor(&pidfd, signal)?,
            None => gone(agent, container_id),
        },
    }
    Ok(())
}

fn signal_supervisor(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    let sent = match signal {
        Signal::Terminate => pidfd_signal(pidfd, nix::sys::signal::SIGTERM),
        // Somebody may have stopped it.
        Signal::Kill => {
            pidfd_signal(pidfd, nix::sys::signal::SIGUSR1).and_then(|()| pidfd_signal(pidfd, nix::sys::signal::SIGCONT))
        }
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
pub(crate) fn recover(agent: &Here, container_id: &str) {
    at_once(agent, container_id, "find a container again", try_to_recover);
}

fn try_to_recover(agent: &Here, container_id: &str) -> io::Result<()> {
    let files = agent.containers.files(container_id);
    let claim = claim(&files)?;
    if claim == Claim::Agent {
        agent.submit(Command::ReportRevocation { container_id: container_id.to_owned() });
        return Ok(());
    }
    if let Some(start) = files.start()? {
        report(agent, container_id, start);
    }
    let Some(pidfd) = agent.containers.hold(&claim)? else { return settle(agent, container_id) };
    let pidfd = watch(pidfd)?;
    let (agent, container_id) = (agent.clone(), container_id.to_owned());
    tokio::spawn(async move {
        let _ = pidfd.readable().await;
        gone(&agent, &container_id);
    });
    Ok(())
}

/// Ends what an earlier agent of this work_dir launched and this one's log knows nothing of: its resources are about to
/// be offered. Blocks. The error is a sentence.
pub(crate) fn sweep(agent: &Here) -> Result<(), String> {
    let containers = &agent.containers;
    let known: BTreeSet<String> = {
        let state = agent.state.read();
        state.containers.keys().chain(state.remnants.keys()).cloned().collect()
    };
    let own_world = fs::read_link("/proc/self/ns/mnt").ok();
    let strays = |all: &[processes::Process]| -> io::Result<BTreeSet<u32>> {
        let mut supervisors = BTreeSet::new();
        for container_id in containers_in(&containers.dir)?.difference(&known) {
            if let Some(claim) = containers.files(container_id).claimed()? {
                supervisors.extend(containers.alive(&claim)?);
            }
        }
        // A path means something in one mount namespace only: elsewhere another agent may have the same.
        let is_here = |pid: u32| own_world.is_some() && fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() == own_world;
        let marked = processes::of_containers(all, &agent.config.work_dir, |process, container_id, _| {
            !known.contains(container_id) && is_here(process.pid)
        })?;
        let below = processes::below(all, &supervisors);
        Ok(supervisors.into_iter().chain(below).chain(marked).collect())
    };
    let ended = processes::end(SWEEP_PATIENCE, strays).map_err(|error| {
        format!("Cannot end what an earlier agent of {} left running: {error}", agent.config.work_dir.display())
    })?;
    if !ended.is_empty() {
        tracing::warn!(?ended, "ended what an earlier agent of this work_dir left running, unknown to this one's log");
    }
    for container_id in containers_in(&containers.dir).unwrap_or_default().difference(&known) {
        containers.files(container_id).sweep();
    }
    Ok(())
}

/// Starts the supervisor. None if the container is wanted no more; the error is a sentence.
fn spawn(agent: &Here, container_id: &str) -> Result<Option<tokio::process::Child>, String> {
    let (framework_id, framework, executor) = {
        let state = agent.state.read();
        let Some((framework_id, executor)) = state.executor_of(container_id) else { return Ok(None) };
        let framework: FrameworkInfo = state.frameworks[framework_id].info.get();
        (framework_id.to_owned(), framework, executor.clone())
    };
    let info: ExecutorInfo = executor.info.get();
    let task: Option<TaskInfo> =
        executor.tasks.values().next().filter(|_| executor.is_command).map(|task| task.info.get());
    let command = task.as_ref().map_or(&info.command, |task| &task.command).clone().unwrap_or_default();
    let user = match (&command.user, agent.config.values.bool("switch_user")) {
        (_, false) => String::new(),
        (Some(user), true) => user.clone(),
        (None, true) => framework.user.clone(),
    };
    let sandbox = agent.sandbox(&framework_id, &executor);
    make_sandbox(&agent.config.work_dir, &sandbox, &user)
        .map_err(|error| format!("cannot make the sandbox: {error}"))?;
    let state = agent.state.read().clone();
    volumes::link(&agent.config.work_dir, &sandbox, &executor, &state)?;
    drop(state);
    agent.attach(&framework_id, &executor);
    let (program, arguments) = arguments(&command)?;
    let spec = Spec {
        container_id: container_id.to_owned(),
        containers_dir: agent.containers.dir.display().to_string(),
        pipe: agent.containers.pipe.display().to_string(),
        sandbox: sandbox.display().to_string(),
        user,
        arguments,
        environment: environment(agent, &framework_id, &executor, &info, task.as_ref(), &command, &sandbox),
        program,
        files: agent.config.task_files,
        umask: agent.config.task_umask,
        // Executors of frameworks know themselves how long to wait.
        away_ms_max: executor.is_command.then_some(agent.config.recovery_timeout_ms),
        grace_ms: Some(agent.config.settings.executor_shutdown_grace_ms),
    };
    let bytes = spec.encode()?;
    let memory =
        memfd_create("spec", MFdFlags::MFD_CLOEXEC).map_err(|error| format!("cannot make a memfd: {error}"))?;
    let mut file = fs::File::from(memory);
    let written = file.write_all(&bytes).and_then(|()| io::Seek::rewind(&mut file));
    written.map_err(|error| format!("cannot write to a memfd: {error}"))?;
    let child = tokio::process::Command::new(&agent.config.launcher)
        .stdin(Stdio::from(file))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_clear()
        .env("PATH", PATH)
        .env(processes::SUPERVISOR, agent.containers.mark(container_id))
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", agent.config.launcher.display()))?;
    Ok(Some(child))
}

fn make_sandbox(work_dir: &Path, sandbox: &Path, user: &str) -> io::Result<()> {
    // Empty folders above old sandboxes are deleted, perhaps in this moment.
    let missing = |made: &io::Result<()>| matches!(made, Err(error) if error.kind() == io::ErrorKind::NotFound);
    let mut made = make_folders(work_dir, sandbox);
    for _ in 0..FOLDER_RETRIES {
        if missing(&made) {
            made = make_folders(work_dir, sandbox);
        }
    }
    made?;
    let latest = sandbox.with_file_name("latest");
    // Replaced at once: somebody may be looking through it.
    let draft = sandbox.with_extension("latest");
    let _ = fs::remove_file(&draft);
    symlink(sandbox, &draft)?;
    fs::rename(&draft, &latest)?;
    if !user.is_empty() && Uid::effective().is_root() {
        // A user that there is not is told of by the supervisor.
        if let Ok(Some(User { uid, gid, .. })) = User::from_name(user) {
            let (uid, gid): (Uid, Gid) = (uid, gid);
            if !uid.is_root() {
                chown(sandbox, Some(uid.as_raw()), Some(gid.as_raw()))?;
            }
        }
    }
    Ok(())
}

/// The sandbox is for its user alone. The folders above can be passed through by every user, not listed.
fn make_folders(work_dir: &Path, sandbox: &Path) -> io::Result<()> {
    let mut path = work_dir.to_owned();
    for part in sandbox.strip_prefix(work_dir).map_err(io::Error::other)? {
        path.push(part);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // The mask of this process leaves nothing to others.
        let mode = if path == sandbox { 0o750 } else { 0o711 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// The program, unless it is the first argument, and the arguments as it sees them.
fn arguments(command: &CommandInfo) -> Result<(Option<String>, Vec<String>), String> {
    let value = command.value.clone().unwrap_or_default();
    if command.shell() {
        return Ok((None, vec!["/bin/sh".to_owned(), "-c".to_owned(), value]));
    }
    match (value.is_empty(), command.arguments.is_empty()) {
        (true, _) => Err("the command has no value".to_owned()),
        (false, true) => Ok((None, vec![value])),
        (false, false) => Ok((Some(value), command.arguments.clone())),
    }
}

/// Nothing of the agent's own environment: what a task sees must not depend on who started the agent.
fn environment(
    agent: &Here,
    framework_id: &str,
    executor: &Executor,
    info: &ExecutorInfo,
    task: Option<&TaskInfo>,
    command: &CommandInfo,
    sandbox: &Path,
) -> Vec<String> {
    let mut variables: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
    set("PATH", PATH.to_owned());
    for (name, value) in &agent.config.executor_environment {
        set(name, value.clone());
    }
    let grace = info.shutdown_grace_period.as_ref().map_or_else(
        || std::time::Duration::from_millis(agent.config.settings.executor_shutdown_grace_ms),
        |grace| std::time::Duration::from_nanos(u64::try_from(grace.nanoseconds).unwrap_or(0)),
    );
    let agent_id = agent.state.read().registration.agent_id.clone().unwrap_or_default();
    set("LIBPROCESS_IP", agent.config.settings.ip.clone());
    set("LIBPROCESS_PORT", "0".to_owned());
    set("MESOS_AGENT_ENDPOINT", agent.address.clone());
    // Tasks survive a restart of the agent whether their framework asked for it or not.
    set("MESOS_CHECKPOINT", "1".to_owned());
    set("MESOS_DIRECTORY", sandbox.display().to_string());
    set("MESOS_EXECUTOR_ID", executor.executor_id.clone());
    set("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", api::duration::format(grace));
    set("MESOS_FRAMEWORK_ID", framework_id.to_owned());
    set("MESOS_HTTP_COMMAND_EXECUTOR", "0".to_owned());
    let recovery = agent.config.values.text("recovery_timeout").unwrap_or("15mins");
    set("MESOS_RECOVERY_TIMEOUT", recovery.to_owned());
    set("MESOS_SANDBOX", sandbox.display().to_string());
    set("MESOS_SLAVE_ID", agent_id);
    set("MESOS_SLAVE_PID", format!("slave(1)@{}", agent.address));
    set("MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs".to_owned());
    if let Some(task) = task {
        set("MESOS_TASK_ID", task.task_id.value.clone());
    }
    let resources = task.map_or(&info.resources, |task| &task.resources);
    if let Some(allocation) = resources.first().and_then(|resource| resource.allocation_info.as_ref()) {
        set("MESOS_ALLOCATION_ROLE", allocation.role().to_owned());
    }
    for variable in command.environment.iter().flat_map(|environment| &environment.variables) {
        set(&variable.name, variable.value.clone().unwrap_or_default());
    }
    // Last: what comes of the container is known by it, should its supervisor be killed.
    set(processes::CONTAINER, agent.containers.mark(&executor.container_id));
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}
