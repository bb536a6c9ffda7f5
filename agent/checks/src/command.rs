//! The process beside the command of a check: small, the task's user, and gone with all that the command started as soon as
//! its time is over or nobody waits for it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{
    Gid, Uid, User, chdir, dup2_stderr, dup2_stdout, geteuid, getgrouplist, initgroups, setgid, setgroups, setsid,
    setuid,
};
use serde::{Deserialize, Serialize};
use supervisor::processes;
use supervisor::sys::pidfd_open;

use crate::checker::Outcome;

/// The word behind `meseta-executor` by which it becomes this.
pub const WORD: &str = "check";

/// What is to be run: the first line on the standard input of who runs it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Order {
    /// What is executed.
    pub program: String,
    /// As the command sees them.
    pub arguments: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// What the command says goes to `stderr` in this folder.
    pub sandbox: PathBuf,
    /// User to run as; empty for that of who runs it.
    pub user: String,
    /// Permissions that new files do not get.
    pub umask: Option<u32>,
    /// A file that stands for the network that it is run in; none for that of who runs it.
    #[serde(default)]
    pub network: Option<PathBuf>,
    /// So long it may take.
    pub timeout_ms: Option<u64>,
    /// A process whose mounts the command sees: its sandbox is as that sees it.
    #[serde(default)]
    pub beside: Option<u32>,
}

impl Order {
    /// One line.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// How long what a command left behind may resist.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What the process beside the command says.
pub(crate) fn read(said: &str) -> Outcome {
    match said.split_once(' ') {
        Some(("exited", code)) => code.trim().parse().map_or_else(|_| nothing(), Outcome::Exited),
        Some(("failed", why)) => Outcome::Failed(why.to_owned()),
        _ => nothing(),
    }
}

fn nothing() -> Outcome {
    Outcome::Failed("what runs the command ended without a word".to_owned())
}

/// Runs the command that standard input describes, for as long as standard input is open. Returns the exit code of this process;
/// how the command ended is on standard output.
pub fn run() -> i32 {
    let mut line = String::new();
    let order: Option<Order> =
        io::stdin().lock().read_line(&mut line).ok().and_then(|_| serde_json::from_str(&line).ok());
    let Some(order) = order else { return 1 };
    let said = match execute(&order) {
        Ok(code) => format!("exited {code}"),
        Err(why) => format!("failed {why}"),
    };
    end_all();
    i32::from(io::stdout().write_all(said.as_bytes()).is_err())
}

fn execute(order: &Order) -> Result<i32, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    if let Some(mask) = order.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    let _ = setsid();
    prctl::set_child_subreaper(true).map_err(|error| failed("look after what the command starts", &error))?;
    if let Some(network) = &order.network {
        let network = File::open(network).map_err(|error| failed("enter the network of the container", &error))?;
        setns(network, CloneFlags::CLONE_NEWNET)
            .map_err(|error| failed("enter the network of the container", &error))?;
    }
    let mut arguments = order.arguments.iter();
    let mut command = Command::new(&order.program);
    match order.beside {
        None => {
            become_user(&order.user)?;
            chdir(&order.sandbox).map_err(|error| failed("enter the sandbox", &error))?;
            let output = File::options()
                .append(true)
                .create(true)
                .mode(0o644)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open("stderr");
            let output = output.map_err(|error| failed("open 'stderr' in the sandbox", &error))?;
            let also = output.try_clone().map_err(|error| failed("open 'stderr' in the sandbox", &error))?;
            command.stdout(also).stderr(output);
        }
        Some(pid) => enter_beside(&mut command, order, pid)?,
    }
    if let Some(first) = arguments.next() {
        command.arg0(first);
    }
    let variables = order.environment.iter().filter_map(|variable| variable.split_once('='));
    let child = command
        .args(arguments)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| failed(&format!("execute '{}'", order.program), &error))?;
    let own = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let ended = pidfd_open(child.id()).map_err(|error| failed("hold the command", &error))?;
    let deadline = order.timeout_ms.map(|most| (most, Instant::now() + Duration::from_millis(most)));
    let stdin = io::stdin();
    loop {
        // What it leaves behind becomes ours, and is reaped here.
        match waitpid(own, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                let status = std::process::ExitStatus::from_raw(signal as i32);
                return Err(format!("the command ended by {status}"));
            }
            _ => {}
        }
        let left = match deadline {
            None => PollTimeout::NONE,
            Some((most, deadline)) => match deadline.checked_duration_since(Instant::now()) {
                None => return Err(format!("it took longer than {most} ms")),
                Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            },
        };
        let mut waited = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(failed("wait", &error)),
        }
        if waited[0].revents().is_some_and(|events| !events.is_empty()) {
            return Err("nobody waits for it".to_owned());
        }
    }
}

/// The command sees the mounts of another process. It alone enters them: this process looks after what it starts, and sees the
/// machine's processes for that.
fn enter_beside(command: &mut Command, order: &Order, pid: u32) -> Result<(), String> {
    let mounts =
        File::open(format!("/proc/{pid}/ns/mnt")).map_err(|error| format!("cannot enter its mounts: {error}"))?;
    let user = other_user(&order.user)?;
    let groups = match &user {
        None => Vec::new(),
        Some((name, user)) => getgrouplist(name, user.gid)
            .map_err(|error| format!("cannot look up groups of '{}': {error}", order.user))?,
    };
    // It is whom it may be there.
    let users = supervisor::users::of_process(pid).and_then(|path| path.map(File::open).transpose());
    let users = users.map_err(|error| format!("cannot enter its users: {error}"))?;
    let sandbox = CString::new(order.sandbox.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let enter = move || {
        setns(&mounts, CloneFlags::CLONE_NEWNS)?;
        if let Some(users) = &users {
            setns(users, CloneFlags::CLONE_NEWUSER)?;
            setgroups(&[])?;
            setgid(Gid::from_raw(0))?;
            setuid(Uid::from_raw(0))?;
        }
        if let Some((_, user)) = &user {
            setgroups(&groups)?;
            setgid(user.gid)?;
            setuid(user.uid)?;
        }
        chdir(sandbox.as_c_str())?;
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let output = open(c"stderr", flags, Mode::from_bits_truncate(0o644))?;
        dup2_stdout(&output)?;
        dup2_stderr(&output)?;
        Ok(())
    };
    // SAFETY: between fork and exec it only makes system calls, with what was made before.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// A user, unless it is this process's own.
fn other_user(name: &str) -> Result<Option<(CString, User)>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = User::from_name(name).map_err(|error| format!("cannot look up user '{name}': {error}"))?;
    let user = found.ok_or_else(|| format!("there is no user '{name}' on this agent"))?;
    let c_name = CString::new(name).map_err(|error| error.to_string())?;
    Ok(Some((c_name, user)).filter(|(_, user)| user.uid != geteuid()))
}

fn become_user(name: &str) -> Result<(), String> {
    let Some((c_name, user)) = other_user(name)? else { return Ok(()) };
    initgroups(&c_name, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .map_err(|error| format!("cannot become user '{name}': {error}"))
}

/// Nothing that the command started outlives the look.
fn end_all() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let own = BTreeSet::from([std::process::id()]);
    let _ = processes::end(END_PATIENCE, |all| Ok(processes::below(all, &own)));
}
