//! Containers: sandboxes, supervisors, and what is heard of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use agent_core::{Command, Executor, Process, Signal};
use api::v1::{CommandInfo, ExecutorInfo, FrameworkInfo, TaskInfo};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Uid, User};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;

use crate::agent::Agent;
use crate::spec::{Claim, Files, Notice, Spec, boot_id, start_ticks};
use crate::sys::{pidfd_open, pidfd_signal, watch};

/// Where programs are looked for, when a task does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Launches under way at once: more would only wait for the same processors.
const LAUNCHES_MAX: usize = 8;

/// The containers of this agent.
#[derive(Debug)]
pub(crate) struct Containers {
    dir: PathBuf,
    pipe: PathBuf,
    boot_id: String,
    slots: Semaphore,
}

impl Containers {
    /// Makes the folder and the pipe that supervisors write to.
    pub(crate) fn open(work_dir: &Path) -> io::Result<(Containers, pipe::Receiver)> {
        let dir = work_dir.join("meta/containers");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let path = work_dir.join("meta/supervisors");
        match nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // For writing too, so that it never ends while no supervisor has it open.
        let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
        let slots = Semaphore::new(LAUNCHES_MAX);
        Ok((Containers { dir, pipe: path, boot_id: boot_id(), slots }, receiver))
    }

    fn files(&self, container_id: &str) -> Files {
        Files::new(&self.dir, container_id)
    }

    /// Nobody needs the files of this container any more.
    pub(crate) fn release(&self, container_id: &str) {
        self.files(container_id).release();
    }

    /// Whether the agent got the claim of a launch, so that nothing runs in the container. An agent that cannot write
    /// claims any more cannot decide what runs: it ends, and does so when it is started again.
    fn give_up(&self, agent: &Agent, container_id: &str) -> bool {
        self.files(container_id).claim(&Claim::Agent).unwrap_or_else(|error| {
            agent.fail(format!("Cannot claim a launch in {}: {error}", self.dir.display()));
            false
        })
    }

    fn is_alive(&self, claim: &Claim) -> Option<u32> {
        match claim {
            Claim::Supervisor(pid, ticks, boot_id) if *boot_id == self.boot_id => {
                (start_ticks(*pid) == Some(*ticks)).then_some(*pid)
            }
            _ => None,
        }
    }
}

/// Hears what supervisors say, until the agent ends.
pub(crate) async fn listen(agent: Arc<Agent>, receiver: pipe::Receiver) {
    let mut lines = BufReader::with_capacity(64 << 10, receiver).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line);
        let Some((container_id, notice)) = line.split_once(' ') else { continue };
        if let Some(notice) = Notice::decode(notice) {
            report(&agent, container_id, notice);
        }
    }
}

fn report(agent: &Agent, container_id: &str, notice: Notice) {
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
pub(crate) async fn launch(agent: Arc<Agent>, container_id: String) {
    let Ok(_slot) = agent.containers.slots.acquire().await else { return };
    let (spawning, id) = (agent.clone(), container_id.clone());
    let spawned = tokio::task::spawn_blocking(move || spawn(&spawning, &id)).await;
    let failed = |message: String| {
        agent.counters.launch_errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Claimed first: whatever was started must not run after its end was told.
        if agent.containers.give_up(&agent, &container_id) {
            let container_id = container_id.clone();
            agent.submit(Command::ReportLaunchFailure { container_id, message });
        }
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

/// The supervisor of a container is no more: what did it leave?
fn gone(agent: &Agent, container_id: &str) {
    let files = agent.containers.files(container_id);
    if let Some(start) = files.start() {
        report(agent, container_id, start);
    }
    if let Some(end) = files.end() {
        return report(agent, container_id, end);
    }
    let container_id = container_id.to_owned();
    match files.claimed() {
        // The agent's own, and told already; or of a container that ended and whose files are gone.
        Some(Claim::Agent) => {}
        Some(Claim::Supervisor(..)) => agent.submit(Command::ReportExit { container_id, status: None }),
        None => {
            let known = agent.state.read().executor_of(&container_id).is_some();
            if known && agent.containers.give_up(agent, &container_id) {
                let message = "the supervisor ended before it could launch".to_owned();
                agent.submit(Command::ReportLaunchFailure { container_id, message });
            }
        }
    }
}

/// Ends what runs in a container. What does not run yet never will: whoever claims the launch first decides.
pub(crate) fn stop(agent: &Arc<Agent>, container_id: &str, signal: Signal) {
    let signal = match signal {
        Signal::Terminate => nix::sys::signal::SIGTERM,
        Signal::Kill => nix::sys::signal::SIGUSR1,
    };
    {
        let state = agent.state.read();
        if state.executor_of(container_id).is_none() && !state.remnants.contains_key(container_id) {
            return;
        }
    }
    let files = agent.containers.files(container_id);
    let claimed = files.claimed().or_else(|| match files.claim(&Claim::Agent) {
        Ok(true) => Some(Claim::Agent),
        Ok(false) => files.claimed(),
        Err(error) => {
            tracing::error!(%error, container_id, "cannot claim a launch");
            None
        }
    });
    match claimed {
        Some(Claim::Agent) => agent.submit(Command::ReportRevocation { container_id: container_id.to_owned() }),
        Some(claim) => match agent.containers.is_alive(&claim) {
            Some(pid) => {
                // The process may have ended since: then the descriptor is of another one, or of none.
                let signalled = pidfd_open(pid).and_then(|pidfd| match agent.containers.is_alive(&claim) {
                    Some(_) => pidfd_signal(&pidfd, signal),
                    None => Ok(()),
                });
                if let Err(error) = signalled {
                    tracing::debug!(%error, container_id, "the supervisor ended before it was signalled");
                }
            }
            None => gone(agent, container_id),
        },
        None => {}
    }
}

/// Finds again what an earlier agent launched: live supervisors, ended ones, and launches that never were.
pub(crate) fn recover(agent: &Arc<Agent>, container_id: &str) {
    let files = agent.containers.files(container_id);
    let claim = match files.claimed() {
        Some(claim) => claim,
        None => match files.claim(&Claim::Agent) {
            Ok(true) => Claim::Agent,
            _ => files.claimed().unwrap_or(Claim::Agent),
        },
    };
    if claim == Claim::Agent {
        return agent.submit(Command::ReportRevocation { container_id: container_id.to_owned() });
    }
    if let Some(start) = files.start() {
        report(agent, container_id, start);
    }
    let watched = agent.containers.is_alive(&claim).and_then(|pid| {
        let pidfd = pidfd_open(pid).ok()?;
        agent.containers.is_alive(&claim)?;
        watch(pidfd).ok()
    });
    let Some(pidfd) = watched else { return gone(agent, container_id) };
    let (agent, container_id) = (agent.clone(), container_id.to_owned());
    tokio::spawn(async move {
        let _ = pidfd.readable().await;
        gone(&agent, &container_id);
    });
}

/// Starts the supervisor. None if the container is wanted no more; the error is a sentence.
fn spawn(agent: &Agent, container_id: &str) -> Result<Option<tokio::process::Child>, String> {
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
    make_sandbox(&sandbox, &user).map_err(|error| format!("cannot make the sandbox: {error}"))?;
    agent.attach(&framework_id, &executor);
    let spec = Spec {
        container_id: container_id.to_owned(),
        containers_dir: agent.containers.dir.display().to_string(),
        pipe: agent.containers.pipe.display().to_string(),
        sandbox: sandbox.display().to_string(),
        user,
        arguments: arguments(&command)?,
        environment: environment(agent, &framework_id, &executor, &info, task.as_ref(), &command, &sandbox),
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
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", agent.config.launcher.display()))?;
    Ok(Some(child))
}

fn make_sandbox(sandbox: &Path, user: &str) -> io::Result<()> {
    fs::create_dir_all(sandbox)?;
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

fn arguments(command: &CommandInfo) -> Result<Vec<String>, String> {
    let value = command.value.clone().unwrap_or_default();
    if command.shell() {
        return Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), value]);
    }
    if value.is_empty() {
        return Err("the command has no value".to_owned());
    }
    // The value is the program; the first argument is the name that it sees.
    let rest = command.arguments.iter().skip(1).cloned();
    Ok(std::iter::once(value).chain(rest).collect())
}

/// Nothing of the agent's own environment: what a task sees must not depend on who started the agent.
fn environment(
    agent: &Agent,
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
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}
