//! Control groups, as what holds the processes of a container together: nobody leaves one by forking, by a session of its own, by
//! an empty environment or by the death of its parent. In the kernel's first version of them a group of the freezer's tree is
//! meant, in the second any group.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

/// Looks at whether a group has come to a halt; one that has not is killed anyway, and looked at again.
const FREEZE_LOOKS: usize = 50;
const FREEZE_PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Nothing, where there is no such group: whoever removed it needs nothing of it.
fn unless_gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        done => done.map(Some),
    }
}

/// Writes to a file of a group, which is there or not: none can be made.
///
/// # Errors
/// Those of the kernel.
pub fn set(path: &Path, text: &str) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// The group and all below it, whoever made them: those further below come later.
///
/// # Errors
/// They cannot be listed.
pub fn tree(group: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![group.to_owned()];
    let mut at = 0;
    while let Some(group) = found.get(at).cloned() {
        for entry in unless_gone(fs::read_dir(&group))?.into_iter().flatten() {
            let Some(entry) = unless_gone(entry)? else { continue };
            if unless_gone(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
        at += 1;
    }
    Ok(found)
}

/// The processes in a group and in all below it.
///
/// # Errors
/// It cannot be told.
pub fn processes(group: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for group in tree(group)? {
        let text = match unless_gone(fs::read_to_string(group.join("cgroup.procs"))) {
            // Its threads are in groups of their own; their process is in one above.
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => continue,
            read => read?.unwrap_or_default(),
        };
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    Ok(found)
}

/// Kills what runs in a group and below it. While that is done nobody in it can fork.
///
/// # Errors
/// Something could not be killed, or not be found.
pub fn kill(group: &Path) -> io::Result<()> {
    // At once, in the kernel.
    match set(&group.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return unless_gone(done).map(drop),
    }
    let _halted = Halted::new(group);
    let own = std::process::id();
    for pid in processes(group)?.into_iter().filter(|pid| *pid != own) {
        // None of another world, which would be 0 here: the caller's own processes.
        let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { continue };
        match send(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Kills until nothing runs in a group or below it; whether anything did. Blocks for no longer than `patience`.
///
/// # Errors
/// Something lives on, or could not be looked at.
pub fn end(group: &Path, patience: Duration) -> io::Result<bool> {
    let (begun, mut pause, mut ended) = (Instant::now(), FREEZE_PAUSE, false);
    loop {
        let alive = processes(group)?;
        if alive.is_empty() {
            return Ok(ended);
        }
        if ended && begun.elapsed() > patience {
            let pids: Vec<String> = alive.iter().map(u32::to_string).collect();
            let why = format!("still alive in {}: {}", group.display(), pids.join(", "));
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        kill(group)?;
        ended = true;
        std::thread::sleep(pause);
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// A group that has come to a halt, for as long as this lives. Its processes end when they go on.
struct Halted<'a> {
    group: &'a Path,
}

impl Halted<'_> {
    fn new(group: &Path) -> Halted<'_> {
        let is_frozen = |state: &str| state.trim() == "FROZEN";
        let _ = set(&group.join("cgroup.freeze"), "1");
        for _ in 0..FREEZE_LOOKS {
            // Said again: somebody who was about to fork may have kept the group from it.
            if set(&group.join("freezer.state"), "FROZEN").is_err()
                || fs::read_to_string(group.join("freezer.state")).is_ok_and(|state| is_frozen(&state))
            {
                break;
            }
            std::thread::sleep(FREEZE_PAUSE);
        }
        Halted { group }
    }
}

impl Drop for Halted<'_> {
    fn drop(&mut self) {
        let _ = set(&self.group.join("freezer.state"), "THAWED");
        let _ = set(&self.group.join("cgroup.freeze"), "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A group of each kind that can be made here, for one test.
    fn groups(what: &str) -> Vec<PathBuf> {
        let made = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|tree| {
            let group = Path::new(tree).join(format!("meseta-unit-{what}-{}", std::process::id()));
            let is_group = |group: &Path| group.join("cgroup.procs").exists();
            (is_group(Path::new(tree)) && fs::create_dir(&group).is_ok()).then_some(group)
        });
        let made: Vec<PathBuf> = made.into_iter().flatten().collect();
        if made.is_empty() {
            // To who reads the output, not to libtest.
            let _ = writeln!(io::stderr(), "NOT TESTED ({what}): no control groups can be made here");
        }
        made
    }

    /// Who forks all the time, in sessions of its own, in groups of its own.
    #[test]
    fn nobody_leaves_a_group() {
        for group in groups("leave") {
            let script = format!(
                "echo $$ > {0}/cgroup.procs; mkdir {0}/inner; sh -c 'echo $$ > {0}/inner/cgroup.procs; exec sleep 1000' & \
                 env -i setsid sh -c 'while :; do sleep 1000 & sleep 0.001; done' & wait",
                group.display()
            );
            let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
            while processes(&group).unwrap().len() < 5 || processes(&group.join("inner")).unwrap().is_empty() {
                std::thread::yield_now();
            }
            assert!(end(&group, Duration::from_secs(30)).unwrap());
            assert!(processes(&group).unwrap().is_empty());
            child.wait().unwrap();
            assert!(!end(&group, Duration::ZERO).unwrap());
            for group in tree(&group).unwrap().iter().rev() {
                fs::remove_dir(group).unwrap();
            }
            assert!(processes(&group).unwrap().is_empty(), "of one that is gone");
            kill(&group).unwrap();
        }
    }
}
