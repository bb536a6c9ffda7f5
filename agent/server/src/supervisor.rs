//! The process beside a container's process: single-threaded and small. It claims the launch, runs the command in a
//! session of its own, reaps everything that comes of it, and leaves the exit status behind. It does not need the
//! agent, and outlives it.
//!
//! The agent ends a container by signals to this process, which cannot be mistaken for another: SIGTERM is passed on
//! to every process below, SIGUSR1 kills them all.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, User, chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use crate::spec::{Claim, Files, Notice, Spec, boot_id, start_ticks};
use crate::sys;

/// Pause between attempts to write to a disk that is full.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the container that standard input describes; returns the exit code of this process.
pub fn run() -> i32 {
    let mut bytes = Vec::new();
    if io::stdin().read_to_end(&mut bytes).is_err() {
        return 1;
    }
    let Some(spec) = Spec::decode(&bytes) else {
        eprintln!("meseta-executor is started by meseta-agent, which describes the container on standard input");
        return 1;
    };
    drop(bytes);
    match supervise(&spec) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("meseta-executor: container {}: {error}", spec.container_id);
            1
        }
    }
}

fn supervise(spec: &Spec) -> io::Result<()> {
    // A terminal's Ctrl-C to the agent is no message to its containers.
    let _ = setsid();
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGCHLD]);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None)?;
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT] {
        sys::set_action(signal, &ignore)?;
    }
    // What a task leaves behind becomes ours, so that nothing outlives its container.
    prctl::set_child_subreaper(true)?;

    let files = Files::new(&spec.containers_dir, &spec.container_id);
    let own = std::process::id();
    let ticks = start_ticks(own).unwrap_or(0);
    if !files.claim(&Claim::Supervisor(own, ticks, boot_id()))? {
        return Ok(());
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;

    let notice = match start(spec, &null) {
        Err(message) => Notice::Failed(message),
        Ok(child) => {
            let started = Notice::Started(own, ticks, child.as_raw().unsigned_abs());
            // A full disk is no reason to end what runs. An agent that was away then learns of the end alone.
            let _ = files.write_start(&started);
            tell(spec, &started);
            Notice::Exited(reap(child, &signals)?)
        }
    };
    let written = files.write_end(&notice);
    tell(spec, &notice);
    if written.is_err() {
        keep_end(&files, &notice);
        tell(spec, &notice);
    }
    files.sync_end()
}

/// How a process ended is known only here: that stays so until the disk takes it, or an agent has it in its log and
/// released the container.
fn keep_end(files: &Files, notice: &Notice) {
    while files.claimed().is_some() && files.write_end(notice).is_err() {
        std::thread::sleep(RETRY);
    }
}

/// Starts the process. The error is a sentence for the framework.
fn start(spec: &Spec, null: &File) -> Result<Pid, String> {
    let user = match spec.user.as_str() {
        "" => None,
        name => {
            let found = User::from_name(name).map_err(|error| format!("cannot look up user '{name}': {error}"))?;
            Some(found.ok_or_else(|| format!("there is no user '{name}' on this agent"))?)
        }
    };
    let user = user.filter(|user| user.uid != nix::unistd::geteuid());
    let output = |name: &str| -> io::Result<OwnedFd> {
        let path = Path::new(&spec.sandbox).join(name);
        let mut options = File::options();
        options.create(true).append(true).mode(0o644).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(path)?;
        if let Some(user) = &user {
            fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(file.into())
    };
    let output = |name: &str| output(name).map_err(|error| format!("cannot open '{name}' in the sandbox: {error}"));
    let (stdout, stderr) = (output("stdout")?, output("stderr")?);
    let c_strings = |texts: &[String]| -> Result<Vec<CString>, String> {
        texts.iter().map(|text| CString::new(text.as_str()).map_err(|error| error.to_string())).collect()
    };
    let (arguments, environment) = (c_strings(&spec.arguments)?, c_strings(&spec.environment)?);
    let program = arguments.first().cloned().ok_or("the command is empty")?;
    // Closed by a successful exec; otherwise it says what failed.
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    let parent = std::process::id();

    match sys::fork().map_err(|error| format!("cannot fork: {error}"))? {
        ForkResult::Parent { child } => {
            drop(writer);
            let mut failure = String::new();
            let _ = File::from(reader).read_to_string(&mut failure);
            if failure.is_empty() {
                return Ok(child);
            }
            let _ = waitpid(child, None);
            Err(failure)
        }
        ForkResult::Child => {
            let failed = |what: &str, error: Errno| -> ! {
                let _ = File::from(writer.try_clone().expect("a descriptor"))
                    .write_all(format!("cannot {what}: {}", error.desc()).as_bytes());
                sys::exit(127)
            };
            let step = |what: &str, done: nix::Result<()>| match done {
                Ok(()) => {}
                Err(error) => failed(what, error),
            };
            step("start a session", setsid().map(drop));
            step("redirect standard input", dup2_stdin(null.as_fd()));
            step("redirect standard output", dup2_stdout(stdout.as_fd()));
            step("redirect standard error", dup2_stderr(stderr.as_fd()));
            if let Some(user) = &user {
                let name = CString::new(user.name.as_str()).unwrap_or_default();
                step("take the user's groups", nix::unistd::initgroups(&name, user.gid));
                step("take the user's group", nix::unistd::setgid(user.gid));
                step("switch to the user", nix::unistd::setuid(user.uid));
            }
            step("enter the sandbox", chdir(spec.sandbox.as_str()));
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT] {
                step("reset signals", sys::set_action(signal, &default));
            }
            // Nothing may outlive its supervisor: nobody would report its end.
            step("bind to the supervisor", prctl::set_pdeathsig(Signal::SIGKILL));
            if nix::unistd::getppid().as_raw().unsigned_abs() != parent {
                sys::exit(127);
            }
            step("reset signals", sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None));
            let Err(error) = nix::unistd::execvpe(&program, &arguments, &environment);
            failed(&format!("execute '{}'", program.to_string_lossy()), error)
        }
    }
}

/// Waits for `child`, passing signals on, and ends what it left behind. Returns its wait status.
fn reap(child: Pid, signals: &SigSet) -> io::Result<i32> {
    let mut ended = None;
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => ended = Some(code << 8),
                Ok(WaitStatus::Signaled(pid, signal, core)) if pid == child => {
                    ended = Some(signal as i32 | if core { 0x80 } else { 0 });
                }
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) => {}
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(ended.unwrap_or(0)),
                Err(error) => return Err(error.into()),
            }
        }
        if ended.is_some() {
            signal_tree(Signal::SIGKILL);
        }
        match signals.wait()? {
            Signal::SIGTERM => signal_tree(Signal::SIGTERM),
            Signal::SIGUSR1 => signal_tree(Signal::SIGKILL),
            _ => {}
        }
    }
}

/// Signals every process below this one. They are stopped from being missed by asking again while new ones appear.
fn signal_tree(signal: Signal) {
    let mut signalled = BTreeMap::new();
    // A process may fork between our look and our signal; its child is seen the next time round.
    for _ in 0..8 {
        let fresh: Vec<Pid> = descendants().into_iter().filter(|pid| !signalled.contains_key(pid)).collect();
        if fresh.is_empty() {
            return;
        }
        for pid in fresh {
            let _ = kill(pid, signal);
            signalled.insert(pid, ());
        }
    }
}

fn descendants() -> Vec<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let parent = stat.rfind(')').and_then(|end| stat[end + 2..].split(' ').nth(1)?.parse::<i32>().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut pending = vec![Pid::this().as_raw()];
    while let Some(pid) = pending.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        pending.extend(&below);
        found.extend(below);
    }
    found.into_iter().map(Pid::from_raw).collect()
}

/// Tells the agent, if there is one: the file has it already.
fn tell(spec: &Spec, notice: &Notice) {
    // Without a reader this fails at once; with one, a full pipe is waited for.
    let open = File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&spec.pipe);
    let Ok(mut pipe) = open else { return };
    let _ = nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()));
    let _ = pipe.write_all(format!("{} {}\n", spec.container_id, notice.encode()).as_bytes());
}
