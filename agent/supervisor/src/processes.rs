//! The processes of this machine, as `/proc` tells of them: who is whose child, who bears a container's mark, and how
//! all of some are ended.
//!
//! Three answers to "is it there": yes, no, and "cannot tell" (an error). Nothing is taken for dead because it could
//! not be looked at.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::sys::{pidfd_open, pidfd_signal};

/// Marks the processes of a container: `CONTAINER_ID@WORK_DIR`.
pub const CONTAINER: &str = "MESETA_CONTAINER";
/// Marks the supervisor of a container in the same way.
pub const SUPERVISOR: &str = "MESETA_SUPERVISOR";

/// Looks that must find nothing before there is nothing: one look could miss what is forked meanwhile.
const QUIET_LOOKS: usize = 2;
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// That of who leads its session.
    pub session: u32,
    /// Ended, and waited for by nobody yet.
    pub is_dead: bool,
    /// In clock ticks since the machine started. With the pid it names a process for good.
    pub start_ticks: u64,
    /// Time on processors, in clock ticks.
    pub user_ticks: u64,
    /// The same, in the kernel.
    pub system_ticks: u64,
    /// Resident memory, in pages.
    pub rss_pages: u64,
}

/// Nothing, where there is no such process: it may end between any two steps.
fn unless_gone<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file of which the kernel does not say how large it is: asked for at once, where reading it otherwise begins with 32 bytes.
pub(crate) fn read_small(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes).map(|_| bytes)
}

fn read(pid: u32, what: &str) -> io::Result<Option<Vec<u8>>> {
    unless_gone(read_small(format!("/proc/{pid}/{what}")))
}

/// A process; none if there is none of that number.
pub fn find(pid: u32) -> io::Result<Option<Process>> {
    let Some(bytes) = read(pid, "stat")? else { return Ok(None) };
    let found = parse(pid, &String::from_utf8_lossy(&bytes));
    found.ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood")))
}

/// What the kernel tells of a process; None if it makes no sense.
fn parse(pid: u32, stat: &str) -> Option<Option<Process>> {
    // The name in parentheses may contain anything, parentheses too.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split_whitespace().collect();
    // While the kernel lets go of one that has ended, it belongs to no session and is nobody's any more.
    if *fields.get(3)? == "-1" {
        return Some(None);
    }
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let id = |at: usize| u32::try_from(number(at)?).ok();
    Some(Some(Process {
        pid,
        parent: id(1)?,
        session: id(3)?,
        is_dead: matches!(*fields.first()?, "Z" | "X"),
        start_ticks: number(19)?,
        user_ticks: number(11)?,
        system_ticks: number(12)?,
        rss_pages: number(21)?,
    }))
}

/// All processes.
pub fn all() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            match find(pid) {
                // On some machines users see their own processes alone, and ours are among these.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                looked => found.extend(looked?),
            }
        }
    }
    Ok(found)
}

/// What is below the roots, without these.
pub fn below(all: &[Process], roots: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mut children: std::collections::BTreeMap<u32, Vec<u32>> = std::collections::BTreeMap::new();
    all.iter().for_each(|process| children.entry(process.parent).or_default().push(process.pid));
    let mut found = BTreeSet::new();
    let mut pending: Vec<u32> = roots.iter().copied().collect();
    while let Some(pid) = pending.pop() {
        let fresh = children.remove(&pid).unwrap_or_default();
        pending.extend(&fresh);
        found.extend(fresh);
    }
    found
}

/// What a process bears of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was started in the container, or by what was.
    Inside,
    /// It writes to an output of the container.
    Output,
    /// It is its supervisor.
    Supervisor,
}

/// Which container of this work_dir a process is of. What others may not read is not of ours.
pub fn mark(pid: u32, work_dir: &Path) -> io::Result<Option<(String, Mark)>> {
    let dir = work_dir.to_string_lossy();
    let of = |variable: &str, name: &str| {
        let (container_id, of) = variable.strip_prefix(name)?.strip_prefix('=')?.split_once('@')?;
        (of == dir).then(|| container_id.to_owned())
    };
    let environment = match read(pid, "environ") {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        other => other?.unwrap_or_default(),
    };
    // The first of a name is what programs see.
    for variable in environment.split(|byte| *byte == 0) {
        let variable = String::from_utf8_lossy(variable);
        if let Some(container_id) = of(&variable, CONTAINER) {
            return Ok(Some((container_id, Mark::Inside)));
        }
        if let Some(container_id) = of(&variable, SUPERVISOR) {
            return Ok(Some((container_id, Mark::Supervisor)));
        }
    }
    // Whoever dropped its environment may still write to the sandbox's files.
    for output in [1, 2] {
        let link = match unless_gone(fs::read_link(format!("/proc/{pid}/fd/{output}"))) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            other => other?.unwrap_or_default(),
        };
        let is_output = ["stdout", "stderr"].iter().any(|name| link.file_name().is_some_and(|file| file == *name));
        let container_id = link.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        if let Some(container_id) = container_id.filter(|_| is_output && link.starts_with(work_dir.join("slaves"))) {
            return Ok(Some((container_id.to_owned(), Mark::Output)));
        }
    }
    Ok(None)
}

/// Those whose mark is wanted, everything below them, and everything that shares a session with what was started in a
/// container: a session begins there with the first process, so no stranger is in it.
pub fn of_containers(
    all: &[Process],
    work_dir: &Path,
    wanted: impl Fn(&Process, &str, Mark) -> bool,
) -> io::Result<BTreeSet<u32>> {
    let (mut roots, mut sessions) = (BTreeSet::new(), BTreeSet::new());
    for process in all.iter().filter(|process| !process.is_dead) {
        if let Some((container_id, mark)) = mark(process.pid, work_dir)?
            && wanted(process, &container_id, mark)
        {
            roots.insert(process.pid);
            if mark == Mark::Inside {
                sessions.insert(process.session);
            }
        }
    }
    // Of a session that somebody else leads, no more than what bears the mark is the container's.
    let lives = |pid: u32| all.iter().any(|process| process.pid == pid && !process.is_dead);
    sessions.retain(|leader| roots.contains(leader) || !lives(*leader));
    loop {
        let found = below(all, &roots);
        let shared = all.iter().filter(|process| sessions.contains(&process.session)).map(|process| process.pid);
        let before = roots.len();
        roots = roots.iter().copied().chain(found).chain(shared).collect();
        if roots.len() == before {
            return Ok(roots);
        }
    }
}

/// Kills what `find` finds until it finds nothing more; who that was. Blocks for no longer than `patience`.
///
/// # Errors
/// Something could not be looked at, or lives on; then nothing is known of the others.
pub fn end(patience: Duration, find: impl Fn(&[Process]) -> io::Result<BTreeSet<u32>>) -> io::Result<BTreeSet<u32>> {
    let (begun, own) = (Instant::now(), std::process::id());
    let (mut ended, mut quiet, mut pause) = (BTreeSet::new(), 0, Duration::from_millis(1));
    while quiet < QUIET_LOOKS {
        let all = all()?;
        let mut doomed = find(&all)?;
        doomed.remove(&own);
        doomed.remove(&1);
        let mut alive = BTreeSet::new();
        for process in all.iter().filter(|process| doomed.contains(&process.pid) && !process.is_dead) {
            signal(process, Signal::SIGKILL)?;
            alive.insert(process.pid);
        }
        quiet = if alive.is_empty() { quiet + 1 } else { 0 };
        if !alive.is_empty() {
            if begun.elapsed() > patience {
                let pids: Vec<String> = alive.iter().map(u32::to_string).collect();
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("still alive: {}", pids.join(", "))));
            }
            ended.extend(alive);
            std::thread::sleep(pause);
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }
    Ok(ended)
}

/// Signals this process, and no other that got its number meanwhile.
pub fn signal(process: &Process, signal: Signal) -> io::Result<()> {
    let Some(pidfd) = unless_gone(pidfd_open(process.pid))? else { return Ok(()) };
    let same = find(process.pid)?.is_some_and(|now| now.start_ticks == process.start_ticks);
    let killed = if same { pidfd_signal(&pidfd, signal) } else { Ok(()) };
    unless_gone(killed).map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("process {} may not be signalled by this agent", process.pid))
        }
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    /// Seen between the end of a process and its last trace.
    #[test]
    fn who_is_being_let_go_by_the_kernel_is_gone() {
        let rest = "0 -1 4228100 0 0 0 0 3 5 0 0 20 0 1 0 900 0 7 0 0";
        let found = parse(7, &format!("7 (a) b) S 1 7 7 {rest}")).unwrap().unwrap();
        assert_eq!((found.parent, found.session, found.start_ticks, found.rss_pages), (1, 7, 900, 7));
        assert_eq!((found.user_ticks, found.system_ticks, found.is_dead), (3, 5, false));
        assert_eq!(parse(7, &format!("7 (a) b) X 0 -1 -1 {rest}")), Some(None));
        assert_eq!(parse(7, "7 (a"), None);
    }

    #[test]
    fn every_process_is_found_with_its_parent() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let all = all().unwrap();
        let found = all.iter().find(|process| process.pid == child.id()).unwrap();
        assert_eq!((found.parent, found.is_dead), (own, false));
        assert!(below(&all, &BTreeSet::from([own])).contains(&child.id()));
        child.kill().unwrap();
        // A zombie until it is waited for.
        while !find(child.id()).unwrap().unwrap().is_dead {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(find(child.id()).unwrap().is_none());
    }

    /// By its mark, by its session, by its parent, by its output: each alone is enough.
    #[test]
    fn what_a_container_left_is_ended_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = dir.path().join("slaves/s/runs/c1");
        fs::create_dir_all(&sandbox).unwrap();
        let output = File::create(sandbox.join("stdout")).unwrap();
        let pids = dir.path().join("pids");
        let script = format!(
            "sleep 1001 & echo $! >> {0}; env -i sleep 1002 & echo $! >> {0}; setsid sleep 1003 & echo $! >> {0}; \
             env -i setsid sleep 1004 & echo $! >> {0}; wait",
            pids.display()
        );
        let start = |mark: String| {
            let mut command = Command::new("setsid");
            command.args(["sh", "-c", &script]).env(CONTAINER, mark).process_group(0);
            command.stdout(Stdio::from(output.try_clone().unwrap()));
            command.spawn().unwrap()
        };
        let mut parent = start(format!("c1@{}", dir.path().display()));
        let mut other = Command::new("sleep").arg("1005").env(CONTAINER, "c1@/elsewhere").spawn().unwrap();
        let pids: Vec<u32> = loop {
            let text = fs::read_to_string(&pids).unwrap_or_default();
            let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            if pids.len() == 4 {
                break pids;
            }
            std::thread::yield_now();
        };
        parent.kill().unwrap();
        parent.wait().unwrap();
        let wanted = |all: &[Process]| of_containers(all, dir.path(), |_, id, _| id == "c1");
        let ended = end(Duration::from_secs(30), wanted).unwrap();
        for pid in pids {
            assert!(ended.contains(&pid), "{pid} of {ended:?}");
            assert!(find(pid).unwrap().is_none_or(|process| process.is_dead));
        }
        assert!(other.try_wait().unwrap().is_none(), "of another work_dir");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
