//! The process beside a container's process: single-threaded and small. It claims the launch, runs the command in a
//! session of its own, reaps everything that comes of it, and leaves the exit status behind. It does not need the
//! agent, and outlives it.
//!
//! The agent ends a container by signals to this process, which cannot be mistaken for another: SIGTERM is passed on
//! to every process below that there is at that moment, SIGUSR1 kills them all until there is none. An agent that is
//! away for too long has given its command up: then it is ended as the agent would have. What has a control group is
//! over when nothing runs in that either.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, User, chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use crate::external::{Beside, Outcome};
use crate::rotate;
use crate::spec::{Claim, Files, Notice, Spec, boot_id, look};
use crate::streams::{STDERR, STDOUT, Streams, socket_name};
use crate::users::As;
use crate::world::{self, World};
use crate::{cgroup, processes, sys};

/// Pause between attempts to write to a disk that is full.
const RETRY: Duration = Duration::from_secs(1);
/// So long an agent has to write down an end that it was told.
const HEARD: Duration = Duration::from_millis(40);
/// Between two looks for what is still to be killed: the first, and the longest.
const KILL_PAUSE: Duration = Duration::from_millis(1);
const KILL_PAUSE_MAX: Duration = Duration::from_millis(100);
/// Attempts to look at the processes of a machine that is short of something.
const LOOKS_MAX: usize = 50;
/// Between two looks for the agent: a twentieth of the time that it may be away, within these.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Runs the container that standard input describes; returns the exit code of this process.
pub fn run() -> i32 {
    // Most descriptions are read at once.
    let mut bytes = Vec::with_capacity(8 << 10);
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
    // Executed by a descriptor it is called by its number, and so is the first process of a world of its own.
    let _ = rustix::thread::set_name(c"meseta-executor");
    // A terminal's Ctrl-C to the agent is no message to its containers.
    let _ = setsid();
    let oom_score_adj = protect();
    if let Some(mask) = spec.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGCHLD]);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&signals), None)?;
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT] {
        sys::set_action(signal, &ignore)?;
    }
    // What a task leaves behind becomes ours, so that nothing outlives its container.
    prctl::set_child_subreaper(true)?;

    let files = Files::of(spec);
    let own = std::process::id();
    // Who cannot say who it is claims nothing: nobody could tell later whether it lives.
    let ticks = look(own)?.ok_or_else(|| io::Error::other("this process is not in /proc"))?;
    if !files.claim(&Claim::Supervisor(own, ticks, boot_id()?))? {
        return Ok(());
    }
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(null.as_fd())?;

    let mut absence = Absence::of(spec);
    let prepared = prepare(spec, &signals, &mut absence);
    let mut streams = match &spec.sockets {
        Some(dir) => Some(Streams::open(dir, &socket_name(own, ticks), &signals)?),
        None => None,
    };
    let announce = |pid: u32| {
        let started = Notice::Started(own, ticks, pid);
        // A full disk is no reason to end what runs. An agent that was away then learns of the end alone.
        let _ = files.write(&started);
        tell(spec, &started);
    };
    if let (Some(external), Ok(())) = (&spec.external, &prepared) {
        let mut beside = match Beside::new(spec, external, &signals, &mut absence, oom_score_adj) {
            Ok(beside) => beside,
            Err(message) => return leave(spec, &files, &Notice::Failed(message)),
        };
        return match beside.run(&files, |pid| announce(pid.unwrap_or(own)))? {
            Outcome::Failed(message) => {
                let left = leave(spec, &files, &Notice::Failed(message));
                left.and_then(|()| beside.release())
            }
            Outcome::Ended(status) => {
                let left = leave(spec, &files, &Notice::Exited(status));
                left.and_then(|()| beside.release())
            }
            // Who finds no end says that nobody saw it.
            Outcome::Lost => Ok(()),
        };
    }
    let mut logger = None;
    let started = prepared.and_then(|()| start(spec, &null, oom_score_adj, streams.as_mut(), &mut logger));
    let notice = match started {
        Err(message) => Notice::Failed(message),
        Ok(Child { pid, shown, status }) => {
            announce(shown.as_raw().unsigned_abs());
            let (own, was_told) = reap(Some(spec), pid, &signals, &mut absence, streams.as_mut(), logger)?;
            streams.into_iter().for_each(|streams| streams.finish(was_told));
            // Nothing came back of one that was killed with all of its world.
            Notice::Exited(status.and_then(|mut status| world::read_status(&mut status)).unwrap_or(own))
        }
    };
    leave(spec, &files, &notice)
}

/// Writes down how it ended, and tells.
fn leave(spec: &Spec, files: &Files, notice: &Notice) -> io::Result<()> {
    let written = files.write(notice);
    tell(spec, notice);
    if written.is_err() {
        keep_end(files, notice);
        tell(spec, notice);
    }
    // An agent that has heard of it has it in its log in a moment, and needs no other disk write: it has removed the file then.
    std::thread::sleep(HEARD);
    files.sync_end()
}

/// A machine without memory must not choose this process to end: its task would go on unseen. What a task inherits
/// instead, which is never less than what anybody has.
fn protect() -> i32 {
    let path = "/proc/self/oom_score_adj";
    let before = processes::read_small(path)
        .ok()
        .and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok())
        .unwrap_or(0);
    // Only for those who may.
    let _ = fs::write(path, "-1000");
    i32::max(before, 0)
}

/// How a process ended is known only here: that stays so until the disk takes it, or an agent has it in its log and
/// released the container.
fn keep_end(files: &Files, notice: &Notice) {
    while !matches!(files.claimed(), Ok(None)) && files.write(notice).is_err() {
        std::thread::sleep(RETRY);
    }
}

/// Whom the process becomes, unless it is whom it was.
pub(crate) fn user(spec: &Spec) -> Result<Option<User>, String> {
    let user = match spec.user.as_str() {
        "" => None,
        name => {
            let found = User::from_name(name).map_err(|error| format!("cannot look up user '{name}': {error}"))?;
            Some(found.ok_or_else(|| format!("there is no user '{name}' on this agent"))?)
        }
    };
    Ok(user.filter(|user| user.uid != nix::unistd::geteuid()))
}

/// The groups of a user, as this machine has them.
fn groups(user: &User) -> Result<Vec<Gid>, String> {
    let name = CString::new(user.name.as_str()).map_err(|error| error.to_string())?;
    nix::unistd::getgrouplist(&name, user.gid)
        .map_err(|error| format!("cannot look up the groups of user '{}': {}", user.name, error.desc()))
}

/// Who on the machine is whom the process becomes, if it has users of its own.
fn owner(spec: &Spec, user: Option<&User>) -> Result<Option<(Uid, Gid)>, String> {
    let Some(users) = spec.world.users else { return Ok(None) };
    let (uid, gid) = user.map_or((0, 0), |user| (user.uid.as_raw(), user.gid.as_raw()));
    let one = |id: u32| users.outside(id).ok_or_else(|| beyond(spec, id, users.count));
    Ok(Some((Uid::from_raw(one(uid)?), Gid::from_raw(one(gid)?))))
}

fn beyond(spec: &Spec, id: u32, count: u32) -> String {
    format!(
        "user '{}' is, or is in the group, {id} on this agent, and its containers have {count} users and groups \
         (--container_user_count)",
        spec.user
    )
}

/// `stdout` and `stderr` in the sandbox.
pub(crate) fn outputs(spec: &Spec, user: Option<&User>) -> Result<(OwnedFd, OwnedFd), String> {
    let owner = owner(spec, user)?;
    let _as = owner.map(As::owner);
    let output = |name: &str| -> io::Result<OwnedFd> {
        let path = Path::new(&spec.sandbox).join(name);
        let mut options = File::options();
        options.create(true).append(true).mode(0o644).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(path)?;
        if let Some(user) = user.filter(|_| owner.is_none()) {
            fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        Ok(file.into())
    };
    let output = |name: &str| output(name).map_err(|error| format!("cannot open '{name}' in the sandbox: {error}"));
    Ok((output("stdout")?, output("stderr")?))
}

/// What processes of the container bear.
pub(crate) fn mark_of(spec: &Spec) -> Option<&str> {
    let mut variables = spec.environment.iter().filter_map(|variable| variable.split_once('='));
    variables.find(|(name, _)| *name == processes::CONTAINER).map(|(_, mark)| mark)
}

/// Runs what is to be run first, to its end. Signals end it, and then the process is not started.
fn prepare(spec: &Spec, signals: &SigSet, absence: &mut Absence) -> Result<(), String> {
    let Some(first) = &spec.first else { return Ok(()) };
    let (stdout, stderr) = outputs(spec, user(spec)?.as_ref())?;
    let input = || -> io::Result<File> {
        let mut file = File::from(memfd_create("first", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(first.input.as_bytes())?;
        file.rewind()?;
        Ok(file)
    };
    let child = input().and_then(|input| {
        Command::new(&first.program)
            .current_dir(&spec.sandbox)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            // By which it is found, should this process be killed.
            .envs(mark_of(spec).map(|mark| (processes::CONTAINER, mark)))
            .stdin(input)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
    });
    let child = child.map_err(|error| format!("{}: cannot start {}: {error}", first.failure, first.program))?;
    let child = Pid::from_raw(child.id().cast_signed());
    let (status, told) =
        reap(None, child, signals, absence, None, None).map_err(|error| format!("{}: {error}", first.failure))?;
    match (status, told) {
        (0, false) => Ok(()),
        (_, true) => Err(format!("{}: it was told to end", first.failure)),
        (status, _) if status & 0x7f == 0 => Err(format!("{}: exited with status {}", first.failure, status >> 8)),
        (status, _) => Err(format!("{}: terminated with signal {}", first.failure, status & 0x7f)),
    }
}

/// A container's process.
struct Child {
    /// The child of this process: the process itself, or the first of its world.
    pid: Pid,
    shown: Pid,
    /// Where its status comes from, if it is not the child.
    status: Option<File>,
}

/// Starts the process. The error is a sentence for the framework.
fn start(
    spec: &Spec,
    null: &File,
    oom_score_adj: i32,
    streams: Option<&mut Streams>,
    logger: &mut Option<Pid>,
) -> Result<Child, String> {
    let user = user(spec)?;
    let owner = owner(spec, user.as_ref())?;
    let ends = match streams {
        None => {
            let (mut stdout, mut stderr) = outputs(spec, user.as_ref())?;
            if let Some(rotation) = &spec.rotation {
                let rotated = rotate::start(rotation, Path::new(&spec.sandbox), user.as_ref(), owner)?;
                (stdout, stderr, *logger) = (rotated.stdout, rotated.stderr, Some(rotated.logger));
            }
            Ends { stdin: None, stdout, stderr, terminal: None }
        }
        Some(streams) => {
            let log = if spec.session { None } else { Some(outputs(spec, user.as_ref())?.0.into()) };
            let ends = connect(spec, streams, log).map_err(|error| format!("cannot make its streams: {error}"))?;
            let uid = owner.map(|(uid, _)| uid).or(user.as_ref().map(|user| user.uid));
            if let (Some(terminal), Some(uid)) = (&ends.terminal, uid) {
                fchown(terminal, Some(uid.as_raw()), None)
                    .map_err(|error| format!("cannot give it its terminal: {error}"))?;
            }
            ends
        }
    };
    let Ends { stdin, stdout, stderr, terminal } = ends;
    let c_strings = |texts: &[String]| -> Result<Vec<CString>, String> {
        texts.iter().map(|text| CString::new(text.as_str()).map_err(|error| error.to_string())).collect()
    };
    let (arguments, environment) = (c_strings(&spec.arguments)?, c_strings(&spec.environment)?);
    let program = spec.program.as_ref().or(spec.arguments.first()).ok_or("the command is empty")?;
    let candidates = c_strings(&candidates(program, &spec.environment))?;
    // Whom another process moves waits until none on the machine forks or ends, for milliseconds. A thread that moves itself, and has
    // no others, does not; only version 1 of control groups lets it.
    let tasks = |path: &&String| Some(Path::new(path).with_file_name("tasks")).filter(|tasks| tasks.exists());
    let moves: Vec<PathBuf> = spec.joins.iter().filter_map(|path| tasks(&path)).collect();
    let join = |child: Pid| -> Result<(), String> {
        spec.joins.iter().filter(|path| tasks(path).is_none()).try_for_each(|path| {
            fs::write(path, child.to_string()).map_err(|error| format!("cannot join {path}: {error}"))
        })
    };
    let rlimits = limits(&spec.rlimits)?;
    // The child waits here until it has joined what it is to join; without a word it ends.
    let (gate, release) = pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    // Closed by a successful exec; otherwise it says what failed.
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|error| error.to_string())?;
    let parent = std::process::id();
    // Looked up here: what a root of its own says of users is nothing to go by.
    let groups = user.as_ref().map(groups).transpose()?;
    if let Some(users) = spec.world.users {
        let all = groups.iter().flatten().map(|group| group.as_raw());
        all.into_iter()
            .find(|id| users.outside(*id).is_none())
            .map_or(Ok(()), |id| Err(beyond(spec, id, users.count)))?;
    }
    // The last child of this process, perhaps: those of another world are not its to make.
    let world = World::prepare(&spec.world)?;

    match sys::fork().map_err(|error| format!("cannot fork: {error}"))? {
        ForkResult::Parent { child } => {
            drop((writer, gate, stdin, stdout, stderr, terminal));
            let status = world.status();
            let mut release = File::from(release);
            if let Err(message) = join(child)
                .and_then(|()| release.write_all(b"1").map_err(|error| format!("cannot release the process: {error}")))
            {
                drop(release);
                let _ = waitpid(child, None);
                return Err(message);
            }
            let mut failure = String::new();
            let _ = File::from(reader).read_to_string(&mut failure);
            if failure.is_empty() {
                let shown = status.as_ref().and_then(|_| world::second_of(child)).unwrap_or(child);
                return Ok(Child { pid: child, shown, status });
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
            drop(release);
            let mut gate = File::from(gate);
            if !matches!(gate.read(&mut [0]), Ok(1)) {
                sys::exit(127);
            }
            for tasks in &moves {
                if let Err(error) = fs::write(tasks, "0") {
                    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                    failed(&format!("join {}", tasks.display()), errno);
                }
            }
            step("start a session", setsid().map(drop));
            if let Err((what, error)) = world.enter(&spec.world, &spec.containers_dir) {
                failed(&what, error);
            }
            if spec.world.users.is_some() {
                // What nobody among its own may do: with users of its own it is root there alone.
                let _ = fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string());
                for (resource, soft, hard) in &rlimits {
                    let raised =
                        |(_, most): (u64, u64)| if most < *hard { setrlimit(*resource, *soft, *hard) } else { Ok(()) };
                    step("limit the process", getrlimit(*resource).and_then(raised));
                }
                if let Err((what, error)) = world.become_own() {
                    failed(&what, error);
                }
            }
            // Nothing may outlive its supervisor: nobody would report its end.
            let bind = |gate: &mut File| {
                step("bind to the supervisor", prctl::set_pdeathsig(Signal::SIGKILL));
                // In a world of its own its parent has no number. As long as that lives, it holds the gate.
                let is_bound = match nix::unistd::getppid().as_raw().unsigned_abs() {
                    0 => sys::set_nonblocking(gate).is_ok() && gate.read(&mut [0]).is_err(),
                    found => found == parent,
                };
                if !is_bound {
                    sys::exit(127);
                }
            };
            if world.is_root {
                bind(&mut gate);
                if let Err((what, error)) = world.become_second() {
                    failed(&what, error);
                }
                step("start a session", setsid().map(drop));
            }
            // Before the user is switched to, who may not write there. Raising it is always allowed, and the limit too.
            let _ = fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string());
            if let (Some(files), Ok((_, hard))) = (spec.files, getrlimit(Resource::RLIMIT_NOFILE)) {
                step("limit open files", setrlimit(Resource::RLIMIT_NOFILE, files.min(hard), hard));
            }
            if let Some(terminal) = &terminal
                && let Err(error) = sys::take_terminal(terminal)
            {
                failed("take its terminal", Errno::from_raw(error.raw_os_error().unwrap_or(0)));
            }
            let input = stdin.as_ref().map_or(null.as_fd(), |stdin| stdin.as_fd());
            // Before the user is switched to, who may not raise one.
            for (resource, soft, hard) in &rlimits {
                step("limit the process", setrlimit(*resource, *soft, *hard));
            }
            step("redirect standard input", dup2_stdin(input));
            step("redirect standard output", dup2_stdout(stdout.as_fd()));
            step("redirect standard error", dup2_stderr(stderr.as_fd()));
            let system = |what: &str, done: io::Result<()>| {
                step(what, done.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0))));
            };
            if spec.group.is_some() {
                system("have keys of its own", sys::own_keys());
            }
            if let Some(bounding) = spec.world.bounding {
                system("bound its capabilities", sys::bound_capabilities(bounding));
            }
            // Who may get no new privileges may apply a filter to itself, and otherwise only who could do worse.
            let filters = !spec.world.filter.is_empty() && !spec.world.no_new_privileges;
            if spec.world.effective.is_some() || filters && user.is_some() {
                system("keep its capabilities", sys::keep_capabilities());
            }
            if let (Some(user), Some(groups)) = (&user, &groups) {
                step("take the user's groups", nix::unistd::setgroups(groups));
                step("take the user's group", nix::unistd::setgid(user.gid));
                step("switch to the user", nix::unistd::setuid(user.uid));
            }
            match &spec.world.directory {
                None => step("enter the sandbox", chdir(spec.sandbox.as_str())),
                Some(directory) => step("enter its working directory", chdir(directory.as_str())),
            }
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGINT] {
                step("reset signals", sys::set_action(signal, &default));
            }
            let more = if filters { sys::SYS_ADMIN } else { 0 };
            match spec.world.effective {
                Some(effective) => system("set its capabilities", sys::set_capabilities(effective, more)),
                // Somebody else loses it with exec.
                None if filters && user.is_some() => system("keep a capability", sys::have_capabilities(more, 0)),
                None => {}
            }
            if spec.world.no_new_privileges {
                step("give up new privileges", prctl::set_no_new_privs());
            }
            // Whoever becomes somebody else is bound no more. The first process of a world takes the others along.
            if !world.is_root {
                bind(&mut gate);
            }
            step("reset signals", sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None));
            sys::close_on_exec();
            // Last: whatever it does not allow is not needed any more, but for exec.
            if !spec.world.filter.is_empty() {
                system("limit its system calls", sys::filter_calls(&spec.world.filter));
            }
            let error = execute(&candidates, &arguments, &environment);
            failed(&format!("execute '{program}'"), error)
        }
    }
}

/// Limits as the system knows them.
fn limits(named: &[(String, Option<(u64, u64)>)]) -> Result<Vec<(Resource, u64, u64)>, String> {
    let one = |(name, limit): &(String, Option<(u64, u64)>)| {
        let resource = match name.as_str() {
            "AS" => Resource::RLIMIT_AS,
            "CORE" => Resource::RLIMIT_CORE,
            "CPU" => Resource::RLIMIT_CPU,
            "DATA" => Resource::RLIMIT_DATA,
            "FSIZE" => Resource::RLIMIT_FSIZE,
            "LOCKS" => Resource::RLIMIT_LOCKS,
            "MEMLOCK" => Resource::RLIMIT_MEMLOCK,
            "MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
            "NICE" => Resource::RLIMIT_NICE,
            "NOFILE" => Resource::RLIMIT_NOFILE,
            "NPROC" => Resource::RLIMIT_NPROC,
            "RSS" => Resource::RLIMIT_RSS,
            "RTPRIO" => Resource::RLIMIT_RTPRIO,
            "RTTIME" => Resource::RLIMIT_RTTIME,
            "SIGPENDING" => Resource::RLIMIT_SIGPENDING,
            "STACK" => Resource::RLIMIT_STACK,
            _ => return Err(format!("there is no limit of processes called '{name}'")),
        };
        let (soft, hard) = limit.unwrap_or((RLIM_INFINITY, RLIM_INFINITY));
        Ok((resource, soft, hard))
    };
    named.iter().map(one).collect()
}

/// The process's side of its streams.
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    terminal: Option<OwnedFd>,
}

/// Makes a terminal, or pipes, between a process and its streams.
fn connect(spec: &Spec, streams: &mut Streams, log: Option<File>) -> io::Result<Ends> {
    if let Some((rows, columns)) = spec.terminal {
        let size = nix::pty::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&size), None)?;
        for end in [&pty.master, &pty.slave] {
            nix::fcntl::fcntl(end, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
        }
        streams.join(pty.master.try_clone()?, vec![(STDOUT, pty.master)], true, log);
        let (stdin, stdout, stderr) = (pty.slave.try_clone()?, pty.slave.try_clone()?, pty.slave.try_clone()?);
        return Ok(Ends { stdin: Some(stdin), stdout, stderr, terminal: Some(pty.slave) });
    }
    let pipe = || pipe2(OFlag::O_CLOEXEC);
    let ((stdin, into), (out, stdout), (err, stderr)) = (pipe()?, pipe()?, pipe()?);
    streams.join(into, vec![(STDOUT, out), (STDERR, err)], false, log);
    Ok(Ends { stdin: Some(stdin), stdout, stderr, terminal: None })
}

/// Where a program may be: a name without a slash is looked for in the PATH that the program itself will see.
fn candidates(program: &str, environment: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin");
    path.split(':').map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir })).collect()
}

/// Becomes the first of the candidates that can be executed. Why none could.
fn execute(candidates: &[CString], arguments: &[CString], environment: &[CString]) -> Errno {
    let mut why = Errno::ENOENT;
    for program in candidates {
        let Err(mut error) = nix::unistd::execve(program, arguments, environment);
        if error == Errno::ENOEXEC {
            // A script that does not name its interpreter.
            let mut script = vec![c"/bin/sh".to_owned(), program.clone()];
            script.extend(arguments.iter().skip(1).cloned());
            let Err(of_shell) = nix::unistd::execve(c"/bin/sh", &script, environment);
            error = of_shell;
        }
        match error {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => why = error,
            _ => return error,
        }
    }
    why
}

/// Waits for `child`, passing signals on, and ends what it left behind. Returns its wait status, and whether it was told to
/// end. `spec` if it is the container's process, which has the control group.
fn reap(
    spec: Option<&Spec>,
    child: Pid,
    signals: &SigSet,
    absence: &mut Absence,
    mut streams: Option<&mut Streams>,
    logger: Option<Pid>,
) -> io::Result<(i32, bool)> {
    let group = spec.and_then(|spec| spec.group.as_ref()).map(Path::new);
    let (mut ended, mut killing, mut told, mut pause) = (None, false, false, KILL_PAUSE);
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
                Err(Errno::ECHILD) => {
                    group.into_iter().for_each(end_group);
                    return Ok((ended.unwrap_or(0), told));
                }
                Err(error) => return Err(error.into()),
            }
        }
        killing |= ended.is_some();
        let patience = if killing {
            // Whoever forks between our look and our signal is found by the next look, until there is nobody. In a control
            // group nobody forks meanwhile.
            group.into_iter().for_each(|group| drop(cgroup::kill(group)));
            signal_all(Signal::SIGKILL, logger);
            pause = (2 * pause).min(KILL_PAUSE_MAX);
            pause
        } else {
            absence.patience()
        };
        let signal = match &mut streams {
            Some(streams) => streams.wait(patience)?,
            None => sys::wait_signal(signals, patience)?,
        };
        match signal {
            Some(Signal::SIGTERM) => {
                told = true;
                signal_all(Signal::SIGTERM, logger);
            }
            Some(Signal::SIGUSR1) => (told, killing) = (true, true),
            _ => {}
        }
        match absence.look() {
            Some(Signal::SIGKILL) => (told, killing) = (true, true),
            Some(signal) => {
                told = true;
                signal_all(signal, logger);
            }
            None => {}
        }
    }
}

/// Who is not below this process and still of the container, because what was between them is gone or never was: ended before
/// the end is told.
fn end_group(group: &Path) {
    while cgroup::end(group, KILL_PAUSE_MAX).is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {}
}

/// Signals every process that there is below this one, each once. What a handler of theirs then starts, to clean up
/// perhaps, is not meant. Who writes their outputs to files ends when they have ended.
pub(crate) fn signal_all(signal: Signal, logger: Option<Pid>) {
    let logger = logger.map(|logger| logger.as_raw().unsigned_abs());
    let below = || {
        let all = processes::all()?;
        let below = processes::below(&all, &BTreeSet::from([std::process::id()]));
        Ok::<_, io::Error>(
            all.into_iter()
                .filter(move |process| below.contains(&process.pid) && !process.is_dead && Some(process.pid) != logger),
        )
    };
    for _ in 0..LOOKS_MAX {
        match below() {
            Ok(below) => return below.for_each(|process| drop(processes::signal(&process, signal))),
            // A machine that is short of something at the moment.
            Err(_) => std::thread::sleep(KILL_PAUSE_MAX),
        }
    }
}

/// How long the agent has been away, as far as that matters.
pub(crate) struct Absence {
    pipe: PathBuf,
    /// So long it may be.
    away_max: Option<Duration>,
    grace: Duration,
    looked: Instant,
    since: Option<Instant>,
    /// When its command was told to end.
    given_up: Option<Instant>,
}

impl Absence {
    fn of(spec: &Spec) -> Absence {
        let duration = |millis: Option<u64>| millis.map(Duration::from_millis);
        Absence {
            pipe: PathBuf::from(&spec.pipe),
            away_max: duration(spec.away_ms_max),
            grace: duration(spec.grace_ms).unwrap_or_default(),
            looked: Instant::now(),
            since: None,
            given_up: None,
        }
    }

    /// Between two looks.
    pub(crate) fn patience(&self) -> Duration {
        let of = |whole: Duration| (whole / 20).clamp(LOOK_PAUSE_MIN, LOOK_PAUSE_MAX);
        let pause = self.away_max.map_or(Duration::from_secs(3600), of);
        if self.given_up.is_some() { pause.min(of(self.grace)) } else { pause }
    }

    /// Looks for the agent now and then; the signal that its command is to get now.
    pub(crate) fn look(&mut self) -> Option<Signal> {
        let away_max = self.away_max?;
        if self.looked.elapsed() < self.patience() {
            return None;
        }
        self.looked = Instant::now();
        // An agent has its pipe open for as long as it lives.
        match File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&self.pipe) {
            Ok(_) => self.since = None,
            Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                Errno::ENXIO | Errno::ENOENT | Errno::ENOTDIR => drop(self.since.get_or_insert(self.looked)),
                // That is no answer.
                _ => {}
            },
        }
        match self.given_up {
            Some(at) => (at.elapsed() >= self.grace).then_some(Signal::SIGKILL),
            None if self.since.is_some_and(|since| since.elapsed() >= away_max) => {
                self.given_up = Some(self.looked);
                Some(Signal::SIGTERM)
            }
            None => None,
        }
    }
}

/// Tells the agent, if there is one: the file has it already.
fn tell(spec: &Spec, notice: &Notice) {
    // Without a reader this fails at once; with one, a full pipe is waited for.
    let open = File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&spec.pipe);
    let Ok(mut pipe) = open else { return };
    let _ = nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()));
    let _ = pipe.write_all(format!("{} {}\n", spec.container_id, notice.encode()).as_bytes());
}
